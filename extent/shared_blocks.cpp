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

SharedBlocks::SharedBlocks(std::span<const SharedRun> runs) : runs_(runs.begin(), runs.end()) {
  for (const SharedRun& run : runs_) {
    blocks_ += run.count;
    saved_ += std::uint64_t{run.count} * (run.references - 1);
  }
}

std::size_t SharedBlocks::first_behind(std::uint32_t block) const {
  const auto at = std::ranges::upper_bound(
      runs_, block, {}, [](const SharedRun& run) { return run.block + std::uint32_t{run.count}; });
  return static_cast<std::size_t>(at - runs_.begin());
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
  const std::uint32_t end = block + count;
  // The runs that the range touches, those that only border on it included, become these.
  const std::size_t first = block == 0 ? 0 : first_behind(block - 1);
  std::size_t last = first;
  while (last < runs_.size() && runs_[last].block <= end) ++last;
  std::vector<SharedRun> fresh;
  for (std::size_t i = first; i < last && runs_[i].block < block; ++i) {
    const SharedRun& run = runs_[i];
    append(fresh, run.block, std::min<std::uint32_t>(run.count, block - run.block), run.references);
  }
  for_each(block, count, [&](std::uint32_t at, std::uint32_t blocks, std::uint32_t references) {
    const std::uint32_t now = references + static_cast<std::uint32_t>(by);
    append(fresh, at, blocks, now);
    if (references > 1) saved_ -= std::uint64_t{blocks} * (references - 1);
    if (now > 1) saved_ += std::uint64_t{blocks} * (now - 1);
    if (references > 1 && now < 2) blocks_ -= blocks;
    if (references < 2 && now > 1) blocks_ += blocks;
  });
  for (std::size_t i = first; i < last; ++i) {
    const SharedRun& run = runs_[i];
    const std::uint32_t run_end = run.block + std::uint32_t{run.count};
    if (run_end <= end) continue;
    const std::uint32_t from = std::max<std::uint32_t>(run.block, end);
    append(fresh, from, run_end - from, run.references);
  }
  if (fresh.size() == last - first) {
    std::ranges::copy(fresh, runs_.begin() + static_cast<std::ptrdiff_t>(first));
    return;
  }
  std::vector<SharedRun> runs;
  runs.reserve(runs_.size() - (last - first) + fresh.size());
  const auto at = [&](std::size_t i) { return runs_.begin() + static_cast<std::ptrdiff_t>(i); };
  runs.insert(runs.end(), at(0), at(first));
  runs.insert(runs.end(), fresh.begin(), fresh.end());
  runs.insert(runs.end(), at(last), runs_.end());
  runs_ = std::move(runs);
}

}  // namespace dynamicfs::extent
