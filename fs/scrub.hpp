// The scrub of a mounted pool: every copy of all data and metadata is read and verified in the
// background class, and bad copies are rewritten from good ones.
//
// What      The superblocks; every block of the runs there are when it comes to them, in every copy; the
//           data of all inodes that exist when it starts, by ascending number, up to their end at that
//           time or later. The log is not: what it holds is in memory, and the next checkpoint replaces
//           it.
// Pace      A few pieces of one window (1 MiB per copy) at a time; the disks' queues let background
//           requests have a quarter of the device at most.
// Schedule  What was under way when the pool was unmounted, or the power failed, goes on at the next mount with the inode it
//           had come to, some minutes before at most; and everything is scrubbed when it has not been for `scrub_every`.
// State     idle -> running <-> paused -> finished or cancelled, and running again. Unmounting cancels.
//
// Threads   Every method may be called from any thread; start() and cancel() inside a DriverScope or a
//           coroutine.
// Locks     mutex_ is a leaf, never held across a suspension.
#pragma once

#include <atomic>
#include <memory>
#include <set>
#include <vector>

#include "base/mutex.hpp"
#include "base/waiters.hpp"
#include "fs/file_walk.hpp"
#include "fs/filesystem.hpp"

namespace dynamicfs::fs {

class Scrub {
 public:
  // `parts` outlives this, and waits for its tasks before it goes.
  explicit Scrub(Filesystem::Impl& parts);

  // As Filesystem says.
  Result<void> start(ScrubScope scope);
  Result<void> pause();
  Result<void> resume();
  Task<Result<void>> cancel();
  ScrubReport report() const;
  bool is_active() const;  // running or paused
  // Files with blocks that could not be read because disks are away, ascending.
  std::vector<InodeId> cut_off() const;
  // Starts what is due; notes how far it is. Called every commit interval, inside a DriverScope.
  void tend();

  // The pool is closing (Impl::closing is set): a scrub under way ends at its next piece.
  void close();

 private:
  Result<void> start(ScrubScope scope, InodeId from);
  Task<void> run();
  Task<void> note_position(InodeId at);
  InodeId position() const;
  std::uint64_t due_unix_s() const;
  // False: it is to end. Waits while it is paused.
  Task<bool> go_on();
  void survey();
  Task<void> check_runs();
  Task<bool> check_data();
  Task<void> check_doubtful();
  void count(const journal::ScrubCounts& found);
  void fail(InodeId inode, Error failure);
  void note_cut_off(InodeId inode);
  void wake() DFS_EXCLUDES(mutex_);

  Filesystem::Impl& fs_;

  mutable Mutex mutex_;
  ScrubReport report_ DFS_GUARDED_BY(mutex_);
  std::set<InodeId> cut_off_ DFS_GUARDED_BY(mutex_);
  bool active_ DFS_GUARDED_BY(mutex_) = false;  // run() has not ended
  ScrubScope scope_ DFS_GUARDED_BY(mutex_) = ScrubScope::kAll;
  InodeId from_ DFS_GUARDED_BY(mutex_);  // of this scrub
  // What was given out before this had been is verified by the time that the next is noted.
  InodeId position_before_ DFS_GUARDED_BY(mutex_);
  TimePoint note_at_ DFS_GUARDED_BY(mutex_){};
  bool stopping_ DFS_GUARDED_BY(mutex_) = false;                // it is to end before it is done
  TimePoint running_since_ DFS_GUARDED_BY(mutex_);              // not paused
  std::shared_ptr<AsyncEvent> resumed_ DFS_GUARDED_BY(mutex_);  // while paused
  std::shared_ptr<AsyncEvent> ended_ DFS_GUARDED_BY(mutex_);

  std::atomic<std::uint64_t> first_walk_to_{0};  // 0: it goes on
  FileWalk walk_;                                // shared by the workers
};

}  // namespace dynamicfs::fs
