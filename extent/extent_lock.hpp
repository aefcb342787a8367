// The 256 extent locks: shard = (mix(inode) + window) & 255. Taken to change the mapping of a
// window, never to read it, and never across device I/O, a journal wait or a reply (INV-1).
//
// Order  Several shards are taken in ascending index; behind inode mutexes, before the allocator.
#pragma once

#include <array>
#include <cstdint>

#include "base/ids.hpp"
#include "base/metrics.hpp"
#include "base/mutex.hpp"

namespace dynamicfs::extent {

inline constexpr std::size_t kLockShards = 256;

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

  // Locks the windows that contain blocks [first, first + count); count ~0 means to the end (then,
  // and for 256 windows and more, every shard is taken).
  Guard lock(InodeId inode, FileBlock first, std::uint64_t count);
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
