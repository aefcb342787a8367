// One bit per block of a slot. As long as all bits are alike, as in a chunk that is full, it takes no
// memory but the pointer.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/heap_bytes.hpp"
#include "base/ids.hpp"

namespace dynamicfs::extent {

// Block b is bit b % 64 of word b / 64.
using BlockWords = std::array<std::uint64_t, kSlotBlocks / 64>;

// The bits of two bitmaps together, without a copy of either.
struct EitherWords {
  const BlockWords& a;
  const BlockWords& b;
  std::uint64_t operator[](std::size_t i) const { return a[i] | b[i]; }
};

// The first set bit, respectively clear one, in [from, to); `to` if there is none. Looks at no word
// behind that. Words is BlockWords or EitherWords.
template <bool kClear, class Words>
std::uint32_t next_bit(const Words& words, std::uint32_t from, std::uint32_t to) {
  constexpr std::uint64_t kInvert = kClear ? ~std::uint64_t{0} : 0;
  for (std::uint64_t mask = ~std::uint64_t{0} << from % 64; from < to; mask = ~std::uint64_t{0}) {
    const std::uint64_t word = (words[from / 64] ^ kInvert) & mask;
    from = static_cast<std::uint32_t>(align_down(from, 64));
    if (word != 0) return std::min(to, from + static_cast<std::uint32_t>(std::countr_zero(word)));
    from += 64;
  }
  return to;
}
template <class Words>
std::uint32_t next_clear(const Words& words, std::uint32_t from, std::uint32_t to = kSlotBlocks) {
  return next_bit<true>(words, from, to);
}
template <class Words>
std::uint32_t next_set(const Words& words, std::uint32_t from, std::uint32_t to = kSlotBlocks) {
  return next_bit<false>(words, from, to);
}

// The start of the first run of `count` clear bits within [from, to).
template <class Words>
std::optional<std::uint32_t> find_clear_run(const Words& words, std::uint32_t from,
                                            std::uint32_t to, std::uint32_t count) {
  while (from + count <= to) {
    const std::uint32_t start = next_clear(words, from, to);
    if (start + count > to) return std::nullopt;
    const std::uint32_t end = next_set(words, start, start + count);
    if (end == start + count) return start;
    from = end;
  }
  return std::nullopt;
}

class BlockBitmap {
 public:
  using Words = BlockWords;

  BlockBitmap() = default;
  explicit BlockBitmap(const Words& words) : words_(stored(words)) {}
  BlockBitmap(const BlockBitmap& other) : words_(stored(other.words())) {}
  BlockBitmap(BlockBitmap&& other) noexcept : words_(std::exchange(other.words_, &kNone)) {}
  BlockBitmap& operator=(BlockBitmap other) noexcept {
    std::swap(words_, other.words_);
    return *this;
  }
  ~BlockBitmap() { release(words_); }

  const Words& words() const { return *words_; }
  bool operator==(const BlockBitmap& other) const { return words() == other.words(); }
  // What it takes beside itself.
  std::size_t memory_bytes() const { return is_shared(words_) ? 0 : heap_bytes(sizeof(Words)); }

  bool test(std::uint32_t block) const { return (words()[block / 64] >> block % 64 & 1) != 0; }
  std::uint32_t count() const;
  // Whether [first, first + count) are all clear, respectively set.
  bool is_clear(std::uint32_t first, std::uint32_t count) const {
    return next_set(words(), first, first + count) == first + count;
  }
  bool is_set(std::uint32_t first, std::uint32_t count) const {
    return next_clear(words(), first, first + count) == first + count;
  }
  // All of [first, first + count) must be clear, respectively set.
  void set(std::uint32_t first, std::uint32_t count);
  void clear(std::uint32_t first, std::uint32_t count);

 private:
  static const Words kNone, kAll;
  static bool is_shared(const Words* words) { return words == &kNone || words == &kAll; }
  static const Words* stored(const Words& words);
  static void release(const Words* words) {
    if (!is_shared(words)) delete words;
  }
  template <class F>
  void change(std::uint32_t first, std::uint32_t count, const Words& alike, F each);

  const Words* words_ = &kNone;  // kNone, kAll, or its own, which are neither
};

}  // namespace dynamicfs::extent
