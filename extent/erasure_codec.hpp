// Reed-Solomon over GF(2^8) with a Cauchy matrix: of `data` + `parity` columns of equal length any
// `data` are enough to compute the others.
//
// Source   J. Bloemer et al., "An XOR-Based Erasure-Resilient Coding Scheme", ICSI TR-95-048, 1995: every square part of a
//          Cauchy matrix can be inverted. The arithmetic is that of ISA-L.
// Format   The matrix is part of it (man/format.md, "Parity").
// Threads  Immutable once made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "journal/superblock.hpp"

namespace dynamicfs::extent {

class ErasureCodec {
 public:
  explicit ErasureCodec(journal::Policy policy);  // ec:K+M

  // Fills the parity columns; `columns` are those of the data in order, then those of the parity, of
  // `column_bytes` each.
  void encode(std::size_t column_bytes, std::span<std::byte* const> columns) const;

  // Computes the columns `wanted` from as many columns `given` as there are data columns, all numbered
  // from the first data column. `columns` has every given and every wanted one at its number; the
  // others may be null.
  void reconstruct(std::size_t column_bytes, std::span<const std::size_t> given,
                   std::span<const std::size_t> wanted, std::span<std::byte* const> columns) const;

 private:
  std::size_t data_;
  std::size_t parity_;
  std::vector<std::uint8_t> matrix_;  // data_ + parity_ rows of data_ coefficients
  std::vector<std::uint8_t> tables_;  // ISA-L's, of the rows for parity
};

}  // namespace dynamicfs::extent
