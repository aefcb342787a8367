#include "extent/erasure_codec.hpp"

#include <isa-l/erasure_code.h>

#include "base/assert.hpp"

namespace dynamicfs::extent {
namespace {

// Of each coefficient ISA-L keeps the products with all low and all high halves of a byte.
constexpr std::size_t kTableBytes = 32;

// ISA-L takes no pointers to const.
std::vector<unsigned char*> as_isal(std::span<std::byte* const> columns,
                                    std::span<const std::size_t> which) {
  std::vector<unsigned char*> pointers;
  for (const std::size_t column : which)
    pointers.push_back(reinterpret_cast<unsigned char*>(columns[column]));
  return pointers;
}

}  // namespace

ErasureCodec::ErasureCodec(journal::Policy policy)
    : data_(policy.copies_or_data),
      parity_(policy.parity),
      matrix_((data_ + parity_) * data_),
      tables_(kTableBytes * data_ * parity_) {
  DFS_ASSERT(policy.kind == journal::Policy::Kind::kErasure);
  gf_gen_cauchy1_matrix(matrix_.data(), static_cast<int>(data_ + parity_), static_cast<int>(data_));
  ec_init_tables(static_cast<int>(data_), static_cast<int>(parity_), &matrix_[data_ * data_],
                 tables_.data());
}

void ErasureCodec::encode(std::size_t column_bytes, std::span<std::byte* const> columns) const {
  DFS_ASSERT(columns.size() == data_ + parity_);
  std::vector<unsigned char*> pointers;
  for (std::byte* const column : columns)
    pointers.push_back(reinterpret_cast<unsigned char*>(column));
  ec_encode_data(static_cast<int>(column_bytes), static_cast<int>(data_), static_cast<int>(parity_),
                 const_cast<unsigned char*>(tables_.data()), pointers.data(),
                 pointers.data() + data_);
}

void ErasureCodec::reconstruct(std::size_t column_bytes, std::span<const std::size_t> given,
                               std::span<const std::size_t> wanted,
                               std::span<std::byte* const> columns) const {
  DFS_ASSERT(given.size() == data_ && !wanted.empty());
  // What is given is `rows` times the data, so the data is the inverse times what is given.
  std::vector<std::uint8_t> rows;
  for (const std::size_t column : given) {
    const auto row = matrix_.begin() + static_cast<std::ptrdiff_t>(column * data_);
    rows.insert(rows.end(), row, row + static_cast<std::ptrdiff_t>(data_));
  }
  std::vector<std::uint8_t> inverse(data_ * data_);
  DFS_ASSERT(gf_invert_matrix(rows.data(), inverse.data(), static_cast<int>(data_)) == 0);
  std::vector<std::uint8_t> coefficients;
  for (const std::size_t column : wanted) {
    for (std::size_t i = 0; i < data_; ++i) {
      std::uint8_t sum = 0;
      for (std::size_t j = 0; j < data_; ++j)
        sum ^= gf_mul(matrix_[column * data_ + j], inverse[j * data_ + i]);
      coefficients.push_back(sum);
    }
  }
  std::vector<std::uint8_t> tables(kTableBytes * data_ * wanted.size());
  ec_init_tables(static_cast<int>(data_), static_cast<int>(wanted.size()), coefficients.data(),
                 tables.data());
  std::vector<unsigned char*> from = as_isal(columns, given);
  std::vector<unsigned char*> to = as_isal(columns, wanted);
  ec_encode_data(static_cast<int>(column_bytes), static_cast<int>(data_),
                 static_cast<int>(wanted.size()), tables.data(), from.data(), to.data());
}

}  // namespace dynamicfs::extent
