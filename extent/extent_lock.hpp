// The 256 extent locks: shard = (mix(inode) + window) modulo 256. Taken to change the mapping of a
// window, never to read it, and never across device I/O, a journal wait or a reply (INV-1). A build
// with -Dlock_shards=N has fewer: tools/bench/contention shows what that costs.
//
// Order  Several shards are taken in ascending index; behind inode mutexes, before the allocator.
#pragma once

#include <array>
#include <bit>
#include <bitset>
#include <cstdint>
#include <utility>

#include "base/ids.hpp"
#include "base/metrics.hpp"
#include "base/mutex.hpp"

namespace dynamicfs::extent {

#ifdef DYNAMICFS_LOCK_SHARDS
inline constexpr std::size_t kLockShards = DYNAMICFS_LOCK_SHARDS;
#else
inline constexpr std::size_t kLockShards = 256;
#endif
// The sum in shard_of() wraps around at 2^64: only a power of two keeps neighbours apart there, too.
static_assert(std::has_single_bit(kLockShards) && kLockShards <= 256);

struct LockMetrics {
  Counter acquisitions;
  Counter contentions;
  Histogram wait_ns;  // contended acquisitions only
};

class ExtentLocks {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard(Guard&& other) noexcept;
    Guard& operator=(Guard&&) = delete;
    ~Guard();

   private:
    friend class ExtentLocks;
    Guard() = default;
    ExtentLocks* locks_ = nullptr;
    std::uint16_t first_ = 0;  // shards first_, first_ + 1, ... modulo kLockShards
    std::uint16_t count_ = 0;
  };

  // Of the windows of two ranges.
  class [[nodiscard]] GuardOfTwo {
   public:
    GuardOfTwo(GuardOfTwo&& other) noexcept
        : locks_(std::exchange(other.locks_, nullptr)), held_(other.held_) {}
    GuardOfTwo& operator=(GuardOfTwo&&) = delete;
    ~GuardOfTwo();

   private:
    friend class ExtentLocks;
    GuardOfTwo() = default;
    ExtentLocks* locks_ = nullptr;
    std::bitset<kLockShards> held_;
  };
  struct Range {
    InodeId inode;
    FileBlock first;
    std::uint64_t count = 0;  // at least 1
  };

  // Locks the windows that contain blocks [first, first + count); count ~0 means to the end (then,
  // and for kLockShards windows and more, every shard is taken).
  Guard lock(InodeId inode, FileBlock first, std::uint64_t count);
  // The same for two ranges together, of one file or of two.
  GuardOfTwo lock(Range a, Range b);
  static std::size_t shard_of(InodeId inode, WindowId window);
  const LockMetrics& metrics() const { return metrics_; }

 private:
  void lock_shard(std::size_t shard);
  struct alignas(64) Shard {
    Mutex mutex;
  };
  std::array<Shard, kLockShards> shards_;
  LockMetrics metrics_;
};

}  // namespace dynamicfs::extent
