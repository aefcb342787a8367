// One bit per block of a slot.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/ids.hpp"

namespace dynamicfs::extent {

class BlockBitmap {
 public:
  static constexpr std::size_t kWords = kSlotBlocks / 64;
  using Words = std::array<std::uint64_t, kWords>;  // block b is bit b % 64 of word b / 64

  BlockBitmap() = default;
  explicit BlockBitmap(const Words& words) : words_(words) {}
  const Words& words() const { return words_; }
  bool operator==(const BlockBitmap&) const = default;

  bool test(std::uint32_t block) const { return (words_[block / 64] >> block % 64 & 1) != 0; }
  std::uint32_t count() const;
  // Whether [first, first + count) are all clear, respectively set.
  bool is_clear(std::uint32_t first, std::uint32_t count) const {
    return next_set(first) >= first + count;
  }
  bool is_set(std::uint32_t first, std::uint32_t count) const {
    return next_clear(first) >= first + count;
  }
  // All of [first, first + count) must be clear, respectively set.
  void set(std::uint32_t first, std::uint32_t count);
  void clear(std::uint32_t first, std::uint32_t count);
  // The first clear bit at or behind `from`; kSlotBlocks if there is none. The same for a set one.
  std::uint32_t next_clear(std::uint32_t from) const { return next(from, ~std::uint64_t{0}); }
  std::uint32_t next_set(std::uint32_t from) const { return next(from, 0); }
  // The start of the first run of `count` clear bits within [from, to).
  std::optional<std::uint32_t> find_clear_run(std::uint32_t from, std::uint32_t to,
                                              std::uint32_t count) const;

 private:
  std::uint32_t next(std::uint32_t from, std::uint64_t invert) const;
  template <class F>
  void each_word(std::uint32_t first, std::uint32_t count, F change);
  Words words_{};
};

}  // namespace dynamicfs::extent
