// The blocks of a chunk that more than one mapping names, and how often: runs of neighbours with the
// same count. A block that is live and not here has one reference. Most chunks share nothing, so the
// allocator has one of these for those alone that do.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/heap_bytes.hpp"
#include "base/ids.hpp"

namespace dynamicfs::extent {

// Blocks [block, block + count) of a chunk have so many references each.
struct SharedRun {
  std::uint16_t block = 0;
  std::uint16_t count = 0;
  std::uint32_t references = 0;
  bool operator==(const SharedRun&) const = default;
};
static_assert(sizeof(SharedRun) == 8, "as in a run: man/format.md, \"Chunk in a run\"");

inline constexpr std::uint32_t kReferencesMax = std::numeric_limits<std::uint32_t>::max();

class SharedBlocks {
 public:
  SharedBlocks() = default;
  // False: not what the others would have made of it (ascending, disjoint, neighbours of one count in
  // one run, every count two or more, within a slot).
  static bool is_proper(std::span<const SharedRun> runs);
  // Proper ones.
  explicit SharedBlocks(std::span<const SharedRun> runs);

  bool empty() const { return runs_.empty(); }
  std::span<const SharedRun> runs() const { return runs_; }
  bool operator==(const SharedBlocks&) const = default;
  std::size_t memory_bytes() const { return heap_bytes(runs_.capacity() * sizeof(SharedRun)); }

  // How many blocks there are, and how many more it would take if each reference had its own.
  std::uint64_t blocks() const { return blocks_; }
  std::uint64_t saved() const { return saved_; }
  bool any(std::uint32_t block, std::uint32_t count) const;
  // How many of these have one reference.
  std::uint32_t single(std::uint32_t block, std::uint32_t count) const;
  bool can_add(std::uint32_t block, std::uint32_t count) const;

  // One reference more for each of these blocks, which are live and can_add().
  void add(std::uint32_t block, std::uint32_t count);
  // One less; calls last(block, count) for those that had but one.
  template <class F>
  void remove(std::uint32_t block, std::uint32_t count, F last) {
    for_each(block, count,
             [&](std::uint32_t first, std::uint32_t blocks, std::uint32_t references) {
               if (references == 1) last(first, blocks);
             });
    change(block, count, -1);
  }

 private:
  // Calls each(block, count, references) for the range, cut where the count changes.
  template <class F>
  void for_each(std::uint32_t block, std::uint32_t count, F each) const {
    const std::uint32_t end = block + count;
    for (std::size_t i = first_behind(block); i < runs_.size() && runs_[i].block < end; ++i) {
      const SharedRun& run = runs_[i];
      if (run.block > block) {
        each(block, run.block - block, std::uint32_t{1});
        block = run.block;
      }
      const std::uint32_t run_end = run.block + std::uint32_t{run.count};
      const std::uint32_t to = run_end < end ? run_end : end;
      each(block, to - block, run.references);
      block = to;
    }
    if (block < end) each(block, end - block, std::uint32_t{1});
  }
  // Index of the first run that ends behind `block`.
  std::size_t first_behind(std::uint32_t block) const;
  void change(std::uint32_t block, std::uint32_t count, std::int32_t by);

  std::vector<SharedRun> runs_;  // of exactly its size
  std::uint64_t blocks_ = 0;
  std::uint64_t saved_ = 0;
};

}  // namespace dynamicfs::extent
