#include "extent/block_bitmap.hpp"

#include <algorithm>
#include <bit>

#include "base/assert.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::uint64_t kAllOfWord = ~std::uint64_t{0};

bool is_all(const BlockWords& words, std::uint64_t word) {
  return std::ranges::all_of(words, [word](std::uint64_t one) { return one == word; });
}

constexpr BlockWords filled(std::uint64_t word) {
  BlockWords words{};
  words.fill(word);
  return words;
}

}  // namespace

constinit const BlockBitmap::Words BlockBitmap::kNone = filled(0);
constinit const BlockBitmap::Words BlockBitmap::kAll = filled(kAllOfWord);

const BlockBitmap::Words* BlockBitmap::stored(const Words& words) {
  if (is_all(words, 0)) return &kNone;
  if (is_all(words, kAllOfWord)) return &kAll;
  return new Words(words);
}

std::uint32_t BlockBitmap::count() const {
  std::uint32_t total = 0;
  for (const std::uint64_t word : words()) total += static_cast<std::uint32_t>(std::popcount(word));
  return total;
}

// Calls each(word, mask) for the words of the range; afterwards all may be `alike`.
template <class F>
void BlockBitmap::change(std::uint32_t first, std::uint32_t count, const Words& alike, F each) {
  DFS_ASSERT(first + count <= kSlotBlocks);
  if (count == 0) return;
  if (is_shared(words_)) words_ = new Words(*words_);
  // Ours alone, and made as one that may be changed.
  Words& words = const_cast<Words&>(*words_);
  for (std::uint32_t left = count; left > 0;) {
    const std::uint32_t offset = first % 64;
    const std::uint32_t bits = std::min(left, 64 - offset);
    const std::uint64_t mask = (kAllOfWord >> (64 - bits)) << offset;
    each(words[first / 64], mask);
    first += bits;
    left -= bits;
  }
  if (words[(first - 1) / 64] == alike[0] && words == alike) {
    delete words_;
    words_ = &alike;
  }
}

void BlockBitmap::set(std::uint32_t first, std::uint32_t count) {
  change(first, count, kAll, [](std::uint64_t& word, std::uint64_t mask) {
    DFS_ASSERT((word & mask) == 0);
    word |= mask;
  });
}

void BlockBitmap::clear(std::uint32_t first, std::uint32_t count) {
  change(first, count, kNone, [](std::uint64_t& word, std::uint64_t mask) {
    DFS_ASSERT((word & mask) == mask);
    word &= ~mask;
  });
}

}  // namespace dynamicfs::extent
