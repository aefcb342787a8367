// One bit per block of a slot. As long as all bits are alike, as in a chunk that is full, it takes no
// memory but the pointer.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/heap_bytes.hpp"
#include "base/ids.hpp"

namespace dynamicfs::extent {

// Block b is bit b % 64 of word b / 64.
using BlockWords = std::array<std::uint64_t, kSlotBlocks / 64>;

// The first clear bit at or behind `from`; kSlotBlocks if there is none. The same for a set one.
std::uint32_t next_clear(const BlockWords& words, std::uint32_t from);
std::uint32_t next_set(const BlockWords& words, std::uint32_t from);
// The start of the first run of `count` clear bits within [from, to).
std::optional<std::uint32_t> find_clear_run(const BlockWords& words, std::uint32_t from,
                                            std::uint32_t to, std::uint32_t count);

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
    return next_set(words(), first) >= first + count;
  }
  bool is_set(std::uint32_t first, std::uint32_t count) const {
    return next_clear(words(), first) >= first + count;
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
