#include "extent/shared_blocks.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace dynamicfs::extent {
namespace {

// Joins neighbours of one count. What has one reference is not written down.
void append(std::vector<SharedRun>& runs, std::uint32_t block, std::uint32_t count,
            std::uint32_t references) {
  if (count == 0 || references < 2) return;
  if (!runs.empty()) {
    SharedRun& before = runs.back();
    if (before.references == references && before.block + before.count == static_cast<int>(block)) {
      before.count = static_cast<std::uint16_t>(before.count + count);
      return;
    }
  }
  runs.push_back({.block = static_cast<std::uint16_t>(block),
                  .count = static_cast<std::uint16_t>(count),
                  .references = references});
}

}  // namespace

bool SharedBlocks::is_proper(std::span<const SharedRun> runs) {
  std::vector<SharedRun> joined;
  std::uint32_t end = 0;
  for (const SharedRun& run : runs) {
    if (run.count == 0 || run.references < 2 || run.block < end) return false;
    end = run.block + std::uint32_t{run.count};
    if (end > kSlotBlocks) return false;
    append(joined, run.block, run.count, run.references);
  }
  return std::ranges::equal(joined, runs);
}

std::uint64_t SharedBlocks::blocks() const {
  std::uint64_t blocks = 0;
  for (const SharedRun& run : runs_) blocks += run.count;
  return blocks;
}

std::uint64_t SharedBlocks::saved() const {
  std::uint64_t blocks = 0;
  for (const SharedRun& run : runs_) blocks += std::uint64_t{run.count} * (run.references - 1);
  return blocks;
}

bool SharedBlocks::any(std::uint32_t block, std::uint32_t count) const {
  return single(block, count) != count;
}

std::uint32_t SharedBlocks::single(std::uint32_t block, std::uint32_t count) const {
  std::uint32_t single = 0;
  for_each(block, count, [&](std::uint32_t, std::uint32_t blocks, std::uint32_t references) {
    if (references == 1) single += blocks;
  });
  return single;
}

bool SharedBlocks::can_add(std::uint32_t block, std::uint32_t count) const {
  bool can = true;
  for_each(block, count, [&](std::uint32_t, std::uint32_t, std::uint32_t references) {
    can &= references < kReferencesMax;
  });
  return can;
}

void SharedBlocks::add(std::uint32_t block, std::uint32_t count) { change(block, count, 1); }

void SharedBlocks::change(std::uint32_t block, std::uint32_t count, std::int32_t by) {
  DFS_ASSERT(block + count <= kSlotBlocks);
  std::vector<SharedRun> runs;
  runs.reserve(runs_.size() + 2);
  const std::uint32_t end = block + count;
  for (const SharedRun& run : runs_) {
    if (run.block >= block) break;
    append(runs, run.block, std::min<std::uint32_t>(run.count, block - run.block), run.references);
  }
  for_each(block, count, [&](std::uint32_t first, std::uint32_t blocks, std::uint32_t references) {
    append(runs, first, blocks, references + static_cast<std::uint32_t>(by));
  });
  for (const SharedRun& run : runs_) {
    const std::uint32_t run_end = run.block + std::uint32_t{run.count};
    if (run_end <= end) continue;
    const std::uint32_t first = std::max<std::uint32_t>(run.block, end);
    append(runs, first, run_end - first, run.references);
  }
  runs_ = std::vector<SharedRun>(runs.begin(), runs.end());
}

}  // namespace dynamicfs::extent
