#include "extent/extent_lock.hpp"

#include <utility>

#include "base/assert.hpp"
#include "base/hash.hpp"

namespace dynamicfs::extent {

// The window is added, not mixed in: any kLockShards consecutive windows of a file have
// different locks.
std::size_t ExtentLocks::shard_of(InodeId inode, WindowId window) {
  return (mix(inode.raw) + window.raw) % kLockShards;
}

void ExtentLocks::lock_shard(std::size_t shard) DFS_NO_THREAD_SAFETY_ANALYSIS {
  const std::uint64_t waited_ns = shards_[shard].mutex.lock();
  metrics_.acquisitions.add();
  if (waited_ns != 0) [[unlikely]] {
    metrics_.contentions.add();
    metrics_.wait_ns.record(waited_ns);
  }
}

ExtentLocks::Guard ExtentLocks::lock(InodeId inode, FileBlock first, std::uint64_t count) {
  DFS_ASSERT(count > 0);
  // The last block, saturating: count ~0 means to the end.
  const std::uint64_t last =
      first.raw + (count - 1) < first.raw ? ~std::uint64_t{0} : first.raw + (count - 1);
  const std::uint64_t window = first.raw / kWindowBlocks;
  const std::uint64_t windows = last / kWindowBlocks - window + 1;
  Guard guard;
  guard.locks_ = this;
  const std::size_t start = shard_of(inode, WindowId{window});
  if (windows == 1) {
    guard.first_ = static_cast<std::uint16_t>(start);
    guard.count_ = 1;
    lock_shard(start);
    return guard;
  }
  // Consecutive windows have consecutive shards, modulo their number: what is held is one arc of the circle.
  guard.first_ = static_cast<std::uint16_t>(start);
  guard.count_ = static_cast<std::uint16_t>(windows < kLockShards ? windows : kLockShards);
  const std::size_t end = start + guard.count_;
  for (std::size_t shard = kLockShards; shard < end; ++shard) lock_shard(shard - kLockShards);
  for (std::size_t shard = start; shard < end && shard < kLockShards; ++shard) lock_shard(shard);
  return guard;
}

ExtentLocks::GuardOfTwo ExtentLocks::lock(Range a, Range b) {
  GuardOfTwo guard;
  guard.locks_ = this;
  for (const Range& range : {a, b}) {
    DFS_ASSERT(range.count > 0 && range.first.raw + range.count > range.first.raw);
    const std::uint64_t last = (range.first.raw + range.count - 1) / kWindowBlocks;
    std::uint64_t window = range.first.raw / kWindowBlocks;
    if (last - window >= kLockShards) window = last - kLockShards + 1;
    for (; window <= last; ++window) guard.held_.set(shard_of(range.inode, WindowId{window}));
  }
  for (std::size_t shard = 0; shard < kLockShards; ++shard) {
    if (guard.held_.test(shard)) lock_shard(shard);
  }
  return guard;
}

ExtentLocks::GuardOfTwo::~GuardOfTwo() DFS_NO_THREAD_SAFETY_ANALYSIS {
  if (locks_ == nullptr) return;
  for (std::size_t shard = 0; shard < kLockShards; ++shard) {
    if (held_.test(shard)) locks_->shards_[shard].mutex.unlock();
  }
}

ExtentLocks::Guard::Guard(Guard&& other) noexcept
    : locks_(std::exchange(other.locks_, nullptr)), first_(other.first_), count_(other.count_) {}

ExtentLocks::Guard::~Guard() DFS_NO_THREAD_SAFETY_ANALYSIS {
  if (locks_ == nullptr) return;
  for (std::size_t i = 0; i < count_; ++i) {
    locks_->shards_[(first_ + i) % kLockShards].mutex.unlock();
  }
}

}  // namespace dynamicfs::extent
