#include "extent/block_bitmap.hpp"

#include <algorithm>
#include <bit>

#include "base/assert.hpp"

namespace dynamicfs::extent {

std::uint32_t BlockBitmap::count() const {
  std::uint32_t total = 0;
  for (const std::uint64_t word : words_) total += static_cast<std::uint32_t>(std::popcount(word));
  return total;
}

template <class F>
void BlockBitmap::each_word(std::uint32_t first, std::uint32_t count, F change) {
  DFS_ASSERT(first + count <= kSlotBlocks);
  while (count > 0) {
    const std::uint32_t offset = first % 64;
    const std::uint32_t bits = std::min(count, 64 - offset);
    const std::uint64_t mask = (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1)
                               << offset;
    change(words_[first / 64], mask);
    first += bits;
    count -= bits;
  }
}

void BlockBitmap::set(std::uint32_t first, std::uint32_t count) {
  each_word(first, count, [](std::uint64_t& word, std::uint64_t mask) {
    DFS_ASSERT((word & mask) == 0);
    word |= mask;
  });
}

void BlockBitmap::clear(std::uint32_t first, std::uint32_t count) {
  each_word(first, count, [](std::uint64_t& word, std::uint64_t mask) {
    DFS_ASSERT((word & mask) == mask);
    word &= ~mask;
  });
}

// The first set bit of the words after inverting.
std::uint32_t BlockBitmap::next(std::uint32_t from, std::uint64_t invert) const {
  if (from >= kSlotBlocks) return kSlotBlocks;
  std::size_t index = from / 64;
  std::uint64_t word = (words_[index] ^ invert) & (~std::uint64_t{0} << from % 64);
  while (word == 0) {
    if (++index == words_.size()) return kSlotBlocks;
    word = words_[index] ^ invert;
  }
  return static_cast<std::uint32_t>(index * 64) +
         static_cast<std::uint32_t>(std::countr_zero(word));
}

std::optional<std::uint32_t> BlockBitmap::find_clear_run(std::uint32_t from, std::uint32_t to,
                                                         std::uint32_t count) const {
  while (from + count <= to) {
    const std::uint32_t start = next_clear(from);
    if (start + count > to) return std::nullopt;
    const std::uint32_t end = next_set(start);
    if (end - start >= count) return start;
    from = end;
  }
  return std::nullopt;
}

}  // namespace dynamicfs::extent
