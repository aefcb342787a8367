// Compaction of a mounted pool: data is put where it lies better, in the background class.
//
// Scattered windows  A MiB of a file that small writes have scattered over many places is written anew in
//                    one piece once nobody has written to it for a while. Writers tell of windows that
//                    become so; a sweep finds those of earlier mounts.
// Packing            Under erasure coding small writes go to chunks of copies. When nobody has written to them for a
//                    while they are written anew as rows of parity groups, those of several files together, so that a
//                    small file wastes no row. Writers tell of such windows, too.
// Re-encoding        What lies otherwise than its file's policy asks, because that is another now, is written anew as it
//                    asks, in use or not. The superblock says that there may be such data (Pool::reencoding), until a
//                    sweep has found nothing of the kind. Blocks that files share become their own.
// Sparse chunks      When few slots are free, what the sparsest chunks still hold is moved to others, so
//                    that large writes and metadata find whole slots (extent/allocator.hpp says which).
//                    Whose the blocks are is found by a sweep through all maps (fs/file_walk.hpp).
//
// Method   Moving is writing what is there: read and verified, new blocks, one record. It is published only
//          if the mapping is still what was read, all of it data; otherwise somebody has changed it, and
//          nothing is moved. So INV-2, INV-3 and INV-6 hold as for any write, a crash leaves the old place
//          or the new, and data is never put behind the end of a file.
// Copies   While a disk is away nothing is moved, but to make room for what it had (make_room()), and never to fewer
//          copies than there were, unless the policy asks for fewer.
// Pace     One piece of at most a window at a time; the disks' queues do the rest.
// Threads  Every method may be called from any thread.
// Locks    mutex_ is a leaf, never held across a suspension.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/mutex.hpp"
#include "extent/extent_map.hpp"
#include "extent/store.hpp"
#include "fs/background_task.hpp"
#include "fs/file_walk.hpp"
#include "fs/filesystem.hpp"
#include "fs/inode_table.hpp"

namespace dynamicfs::fs {

class Compaction {
 public:
  // `parts` outlives this, and waits for its tasks before it goes.
  explicit Compaction(Filesystem::Impl& parts);

  // Windows of these blocks have become scattered (extent::Freed::scattered), or were written in copies that
  // should be under parity.
  void note(InodeId inode, FileBlock first, std::uint64_t blocks);
  // The policy of a file, or of the pool, is about to change, or has: with policy_mutex held, and Pool::reencoding().
  // `known`: it was before.
  void note_policy(bool known);
  // The same for files that are to be kept on one disk, and are not: that waits for the next sweep if one is to come.
  void note_scattered(bool known);
  ReencodeReport report() const;
  // What was on a lost disk has no room on the others: the next sweep empties sparse chunks however many slots are free,
  // also while disks are away, if the others are enough for new data.
  void make_room() { making_room_.store(true); }
  // Starts what is due, if anything. Called every commit interval, inside a DriverScope.
  void tend();
  // Everything that can be done now, due or not; completes when it has ended. kBusy: one is under way, or
  // the pool cannot be written to as it should.
  Task<Result<void>> compact();

 private:
  // Consecutive blocks of a file that are all data.
  struct Run {
    FileBlock first;
    std::uint64_t count = 0;
    std::size_t places = 0;  // where a reader has to go
    bool must_go = false;    // some of it is in a sparse chunk
    bool in_copies = false;  // some of it should be in a parity group, and is not
    bool misfit = false;     // some of it is not as its policy asks, or not on the disk of its file
    // It is moved in any case.
    bool at_once() const { return must_go || misfit; }
  };
  struct Moving {
    InodeRef inode;
    Run run;
    extent::MappingSet seen;
  };
  // What is written together.
  struct Batch {
    journal::Policy policy;
    std::vector<Moving> parts;
    std::uint64_t blocks = 0;
  };
  // What a sweep is for.
  struct Purpose {
    std::vector<ChunkId> sparse;
    bool for_room = false;  // and nothing else
    bool restripe = false;
    bool reencode = false;
    bool any() const { return !sparse.empty() || restripe || reencode; }
    // There is nothing more to do when the sparse chunks are empty.
    bool only_sparse() const { return !sparse.empty() && !restripe && !reencode; }
  };
  // Of a file that is kept whole, in a sweep to encode anew.
  struct Gathering {
    InodeRef inode;              // its home is in memory as long as this is
    std::optional<DiskId> home;  // nothing: there is no disk that has room for it
    std::optional<DiskId> most;  // what is there can stay
    bool unseen = false;         // its map cannot be read
  };
  struct Window {
    InodeId inode;
    WindowId window;
    bool operator==(const Window&) const = default;
  };
  struct WindowHash {
    std::size_t operator()(const Window& at) const;
  };

  bool begin();
  void end();
  bool go_on() const;
  bool is_making_room() const;
  Task<void> run(Purpose purpose);
  Task<void> tend_noted();
  Task<void> sweep(Purpose purpose, Generation quiet);
  struct Changes {
    std::uint64_t policies = 0;
    std::uint64_t scattered = 0;
    bool operator==(const Changes&) const = default;
  };
  Changes changes() const { return {policy_changes_.load(), scattered_changes_.load()}; }
  // A sweep of all files has ended: whether everything is as its policy asks, if nothing has changed since it began.
  Task<void> note_reencoded(Changes before);
  // ... and when to look again, if something could not be put where it should be.
  Duration next_look(std::uint64_t left, std::uint64_t stuck);
  Task<Gathering> gather(InodeRef inode);
  // What to move of a range: what is in chunks that are sparse, what is not as the policy asks, and, if nothing of
  // it is newer than `quiet`, all of what is scattered. `gathering`: of its file, if what is elsewhere is to move as well.
  std::vector<Run> plan(const extent::MappingSet& set, journal::Policy policy,
                        const Purpose& purpose, Generation quiet,
                        const Gathering* gathering = nullptr);
  // Whether blocks in that chunk, which are as their policy asks, are to go to the disk of their file. Counts them if they
  // cannot yet.
  bool is_astray(const extent::Mapping& mapping, const Gathering& gathering);
  void note_cut(std::uint64_t blocks);
  // Whether the policy asks for parity groups, and there is enough for one.
  bool striping(journal::Policy policy) const;
  // Puts a run into the batch, and moves that when it is full. True: something lies elsewhere now.
  Task<bool> add(InodeRef inode, Run run);
  Task<bool> move_batch(Batch batch);
  Task<bool> move_batches();
  // They cannot be moved now.
  void leave(std::span<const Moving> parts);
  Task<bool> read(Moving* moving, std::span<std::byte> into);
  bool publish(const Moving& moving, const extent::WriteHint& hint, const extent::Written& written,
               journal::Credit& credit);
  Generation quiet_since();

  Filesystem::Impl& fs_;
  SoleTask task_;
  std::atomic<bool> making_room_{false};      // asked for
  std::atomic<bool> sweeps_for_room_{false};  // under way
  // Of the task that is active.
  std::atomic<TimePoint> sweep_again_at_{TimePoint{}};
  std::atomic<TimePoint> restripe_at_{TimePoint{}};
  std::atomic<TimePoint> reencode_at_{TimePoint{}};
  std::atomic<std::uint64_t> policy_changes_{0};
  std::atomic<std::uint64_t> scattered_changes_{0};
  std::atomic<bool> reencoding_{false};
  std::atomic<std::uint64_t> misfit_blocks_{0};  // of this sweep: not moved
  std::atomic<std::uint64_t> stuck_blocks_{0};   // of these: for want of room, or of disks
  std::atomic<std::uint64_t> cut_blocks_{
      0};  // of these: of files for all of which no disk has room
  std::atomic<std::uint64_t> stuck_before_{0};  // of the last one
  std::atomic<std::uint64_t> cut_before_{0};
  std::atomic<std::uint64_t> unseen_{0};  // files of this sweep that could not be looked at
  bool waiting_ = false;  // some of this sweep goes with the chunks of a disk that is leaving
  // From the last look to the next while nothing but cut files is left; 0: there is more, or nothing.
  Duration cut_wait_{0};
  std::vector<DiskId> staying_before_;  // then
  std::atomic<TimePoint> reencode_not_before_{TimePoint{}};
  std::uint64_t moved_blocks_ = 0;
  std::uint64_t copied_before_ = 0;  // blocks, after the last look for some that should be in rows
  bool no_rows_ = false;             // no parity group has room
  std::vector<Window> stuck_;        // could not be moved
  std::vector<Batch> batches_;       // one for each policy that was met
  FileWalk walk_;

  Mutex mutex_;
  // Since when nobody is known to have written to it.
  std::unordered_map<Window, TimePoint, WindowHash> noted_ DFS_GUARDED_BY(mutex_);
  // What was newest then, and some time before that.
  TimePoint sampled_at_ DFS_GUARDED_BY(mutex_){};
  Generation sample_ DFS_GUARDED_BY(mutex_);
  Generation sample_before_ DFS_GUARDED_BY(mutex_);
};

}  // namespace dynamicfs::fs
