// Compaction of a mounted pool: data is put where it lies better, in the background class.
//
// Fragmented windows  A MiB of a file that small writes have scattered over kFragments places or more is
//                     written anew in one piece once nobody has written to it for a while. Writers tell
//                     of windows that become so; a sweep finds those of earlier mounts.
// Sparse chunks       When few slots are free, what the sparsest chunks still hold is moved to others, so
//                     that large writes and metadata find whole slots (extent/allocator.hpp says which).
//                     Whose the blocks are is found by a sweep through all maps (fs/file_walk.hpp).
//
// Method   Moving is writing what is there: read and verified, new blocks, one record. It is published only
//          if the mapping is still what was read; otherwise somebody has written, and nothing is moved.
//          So INV-2, INV-3 and INV-6 hold as for any write, and a crash leaves the old place or the new.
// Pace     One piece of at most a window at a time; the disks' queues do the rest.
// Threads  Every method may be called from any thread.
// Locks    mutex_ is a leaf, never held across a suspension.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/mutex.hpp"
#include "extent/extent_map.hpp"
#include "fs/file_walk.hpp"
#include "fs/filesystem.hpp"

namespace dynamicfs::fs {

class Compaction {
 public:
  // `parts` outlives this, and waits for its tasks before it goes.
  explicit Compaction(Filesystem::Impl& parts);

  // After a write. One of a few blocks costs a look at its window, others nothing.
  void look_at(const Inode& inode, FileBlock first, std::uint64_t blocks);
  // Starts what is due, if anything. Called every commit interval, inside a DriverScope.
  void tend();
  // Everything that can be done now, due or not; completes when it has ended. kBusy: one is under way;
  // kShutdown: unmounting.
  Task<Result<void>> compact();

 private:
  // A window that has become fragmented, and since when nobody is known to have written to it.
  struct Noted {
    InodeId inode;
    FileBlock first;
    Generation newest;
    TimePoint since;
  };
  // Consecutive blocks of a file that are all data.
  struct Run {
    FileBlock first;
    std::uint64_t count = 0;
    std::size_t places = 0;  // where a reader has to go
    bool must_go = false;    // some of it is in a sparse chunk
  };

  bool begin();
  void end();
  Task<void> run(std::vector<ChunkId> sparse);
  Task<void> tend_noted();
  Task<void> sweep(std::vector<ChunkId> sparse);
  bool go_on() const;
  // What to move of a range: from chunks that are `sparse`, and all of it if it is fragmented.
  static std::vector<Run> plan(const extent::MappingSet& set, const std::vector<ChunkId>& sparse);
  Task<void> move(InodeRef inode, Run run);

  Filesystem::Impl& fs_;
  std::atomic<bool> active_{false};
  // Of the task that is active.
  std::atomic<TimePoint> sweep_again_at_{TimePoint{}};
  std::uint64_t moved_blocks_ = 0;
  bool obstructed_ = false;  // something could not be read or found no room
  FileWalk walk_;

  Mutex mutex_;
  std::vector<Noted> noted_ DFS_GUARDED_BY(mutex_);
};

}  // namespace dynamicfs::fs
