// When to tell the kernel that the attributes it keeps of a file are out of date.
//
// With a writeback cache it takes size and times of a file from itself, but the number of blocks
// from our last answer, for as long as that is valid. To be told costs it a GETATTR and, before the
// next write, a GETXATTR, which for a file that is written and synced all the time doubles the
// requests: so each file is told at once the first time in a period, and then once per period.
//
// Threads  Every method may be called from any thread.
// Locks    One leaf per shard.
#pragma once

#include <array>
#include <unordered_set>
#include <vector>

#include "base/ids.hpp"
#include "base/mutex.hpp"

namespace dynamicfs::fs {

class StaleAttributes {
 public:
  // A write has made the kernel's attributes of this file stale. True: tell it now. False: it was
  // told in this period already; next_period() will name the file.
  bool note(InodeId inode);
  // Begins a period. Returns the files that were put off, to be told now.
  std::vector<InodeId> next_period();

 private:
  struct alignas(64) Shard {
    Mutex mutex;
    std::unordered_set<InodeId> told DFS_GUARDED_BY(mutex);
    std::unordered_set<InodeId> put_off DFS_GUARDED_BY(mutex);
  };
  std::array<Shard, 16> shards_;
};

}  // namespace dynamicfs::fs
