// Puts the chunks of a mounted pool where they should be, in the background class: off disks that are leaving it or are
// lost, to as many disks as there should be, and, if somebody wants that, from fuller disks to emptier ones.
//
// Method   Store::move_chunk(), a few chunks at a time, none that is in its place. What is left to do is found by looking
//          at the chunks, and that a disk is leaving is in the superblock: so all of it goes on by itself after a
//          crash. When nothing lies on a disk that is leaving, and a checkpoint says so, it is taken out of the
//          pool.
// Lost     A disk that has been away for `rebuild_after` is lost: it is as if it were leaving, until it is found again
//          at a mount. Not if nothing of it can be made anew: then it is waited for, and no spare takes its place unless
//          too few disks are left to write to.
// Alone    What no disk that is here has, nor has parity of, is in nobody's way: it stays where it is, and with it the
//          disk in the pool, until the files are removed or the disk is back.
// Trust    What is copied is not verified (extent/move_chunk.cpp): a scrub follows when something was made anew.
// Threads  Every method may be called from any thread.
// Locks    mutex_ is a leaf, never held across a suspension.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "fs/background_task.hpp"
#include "fs/filesystem.hpp"

namespace dynamicfs::fs {

class Rebuild {
 public:
  // `parts` outlives this, and waits for its tasks before it goes.
  explicit Rebuild(Filesystem::Impl& parts);

  // Starts what is due, if anything. Called every commit interval, inside a DriverScope.
  void tend();
  // Inside a DriverScope or a coroutine, both.
  void pause(bool on);
  void begin_soon();
  RebuildReport report() const;

 private:
  struct Step {
    ChunkId chunk;
    std::optional<DiskId> off;  // to balance
  };
  // A disk that has more than the mean. Not each chunk can go to an emptier disk, which may have a copy of it: then the
  // next is tried.
  struct Giver {
    DiskId disk;
    std::uint64_t to_give = 0;  // chunks, without those that somebody is at
    std::vector<ChunkId> chunks;
    std::size_t next = 0;
  };
  // Of one pass: misplaced chunks, or if there are none what is to balance.
  struct Plan {
    std::vector<ChunkId> misplaced;
    std::size_t next = 0;
    std::vector<Giver> givers;
  };
  bool begin();
  void end();
  bool go_on() const;
  bool is_due() const;
  void give_up_lost();
  void verify_if_due();
  Task<void> mark_lost(DiskId disk);
  Task<void> use_spare(DiskId instead_of);
  void tell_in_vain(DiskId disk, std::uint64_t bytes);
  bool may_be_made_anew(DiskId disk) const;
  Task<void> run();
  std::size_t worker_count(const Plan& plan) const;
  Task<Result<void>> work();
  Plan make_plan() const;
  std::optional<Step> next_step() DFS_REQUIRES(mutex_);
  // Chunks of files that are kept whole go to other disks, not all to the same perhaps: a sweep looks for such files.
  Task<Result<void>> note_cut_files(std::span<const ChunkId> chunks);
  Task<void> let_go();

  Filesystem::Impl& fs_;
  SoleTask task_;
  std::atomic<bool> paused_{false};
  // Disks that were leaving when files that are cut were last noted. Of the task that is active.
  std::optional<std::vector<DiskId>> noted_cut_for_;
  std::atomic<bool> forget_cut_{false};  // none was leaving meanwhile
  std::atomic<bool> asked_{false};       // to begin, since the last look
  std::atomic<TimePoint> again_at_{TimePoint{}};
  std::atomic<std::uint64_t> changes_seen_{0};  // of the pool, when nothing could be done

  mutable Mutex mutex_;
  std::map<DiskId, TimePoint> away_since_ DFS_GUARDED_BY(mutex_);
  std::set<DiskId> told_ DFS_GUARDED_BY(mutex_);  // that are lost, and cannot be made anew
  Plan plan_ DFS_GUARDED_BY(mutex_);
  std::uint64_t moved_ DFS_GUARDED_BY(mutex_) = 0;  // of this pass
  std::uint64_t waits_ DFS_GUARDED_BY(mutex_) = 0;  // of this pass: somebody else was at it
  std::uint64_t stuck_ DFS_GUARDED_BY(mutex_) = 0;  // of the last pass: could not be moved
  Error obstacle_ DFS_GUARDED_BY(mutex_);           // of one of them
  std::uint64_t made_anew_before_ DFS_GUARDED_BY(mutex_) = 0;  // in bytes, when a scrub was due
  // Since it began.
  TimePoint since_ DFS_GUARDED_BY(mutex_){};
  std::uint64_t bytes_before_ DFS_GUARDED_BY(mutex_) = 0;
};

}  // namespace dynamicfs::fs
