#include "extent/block_bitmap.hpp"

#include <algorithm>
#include <bit>

#include "base/assert.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::uint64_t kAllOfWord = ~std::uint64_t{0};

// The first set bit of the words after inverting.
std::uint32_t next(const BlockWords& words, std::uint32_t from, std::uint64_t invert) {
  if (from >= kSlotBlocks) return kSlotBlocks;
  std::size_t index = from / 64;
  std::uint64_t word = (words[index] ^ invert) & (kAllOfWord << from % 64);
  while (word == 0) {
    if (++index == words.size()) return kSlotBlocks;
    word = words[index] ^ invert;
  }
  return static_cast<std::uint32_t>(index * 64) +
         static_cast<std::uint32_t>(std::countr_zero(word));
}

bool is_all(const BlockWords& words, std::uint64_t word) {
  return std::ranges::all_of(words, [word](std::uint64_t one) { return one == word; });
}

constexpr BlockWords filled(std::uint64_t word) {
  BlockWords words{};
  words.fill(word);
  return words;
}

}  // namespace

std::uint32_t next_clear(const BlockWords& words, std::uint32_t from) {
  return next(words, from, kAllOfWord);
}

std::uint32_t next_set(const BlockWords& words, std::uint32_t from) { return next(words, from, 0); }

std::optional<std::uint32_t> find_clear_run(const BlockWords& words, std::uint32_t from,
                                            std::uint32_t to, std::uint32_t count) {
  while (from + count <= to) {
    const std::uint32_t start = next_clear(words, from);
    if (start + count > to) return std::nullopt;
    const std::uint32_t end = next_set(words, start);
    if (end - start >= count) return start;
    from = end;
  }
  return std::nullopt;
}

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
