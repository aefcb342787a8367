#include "extent/epoch.hpp"

#include <cstdlib>

#include "base/assert.hpp"

namespace dynamicfs::extent {

EpochTracker::~EpochTracker() {
  for (const Cell& cell : cells_) {
    for (const auto& pins : cell.pins) DFS_ASSERT(pins.load(std::memory_order_acquire) == 0);
  }
  for (Retired& shard : retired_) {
    for (void* const item : shard.gathering.items) std::free(item);
    for (const Batch& batch : shard.waiting) {
      for (void* const item : batch.items) std::free(item);
    }
  }
}

void EpochTracker::retire(void* memory, std::size_t bytes) {
  Retired& shard = retired_[thread_shard()];
  std::vector<void*> free_now;
  {
    LockGuard lock(shard.mutex);
    shard.gathering.items.push_back(memory);
    shard.gathering.bytes += bytes;
    shard.bytes += bytes;
    if (shard.gathering.bytes < kBatchBytes && shard.gathering.items.size() < kBatchItems) return;
    // One stamp for the batch: later than each of its items needs, so safe for all.
    shard.gathering.epoch = current();
    shard.waiting.push_back(std::exchange(shard.gathering, Batch{}));
    const std::uint64_t released = try_advance();
    while (!shard.waiting.empty() && shard.waiting.front().epoch <= released) {
      Batch& batch = shard.waiting.front();
      shard.bytes -= batch.bytes;
      if (free_now.empty()) {
        free_now = std::move(batch.items);
      } else {
        free_now.insert(free_now.end(), batch.items.begin(), batch.items.end());
      }
      shard.waiting.pop_front();
    }
  }
  for (void* const item : free_now) std::free(item);
}

std::uint64_t EpochTracker::garbage_bytes() const {
  std::uint64_t total = 0;
  for (const Retired& shard : retired_) {
    LockGuard lock(shard.mutex);
    total += shard.bytes;
  }
  return total;
}

}  // namespace dynamicfs::extent
