// The inside of Pool, shared by opening (pool_open.cpp) and running (pool.cpp).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.hpp"
#include "base/executor.hpp"
#include "base/mutex.hpp"
#include "base/waiters.hpp"
#include "journal/pool.hpp"
#include "journal/superblock_io.hpp"

namespace dynamicfs::journal {

// One disk that the superblock knows, here or not.
struct Seat {
  // Fixed when the pool opens.
  DiskId id;
  std::uint64_t first_slot_offset = 0;
  std::uint32_t slots = 0;
  std::unique_ptr<scheduler::Disk> disk;  // null: missing
  // The last epoch it knew when it was found, as index into the history; nothing: the newest.
  std::optional<std::size_t> old_epoch;

  // `disk`, until it fails.
  std::atomic<scheduler::Disk*> usable{nullptr};

  // Guarded by Impl::writing.
  unsigned next_copy = 0;           // superblock copy to overwrite: never the newest whole one
  bool failure_recorded = false;    // a durable epoch leaves it out
  std::atomic<bool> closed{false};  // Disk::close(); set with Impl::closing held
  // What is written to this disk, and to no other: a disk that has failed may still read from it, and
  // must not find the superblock of another there.
  Buffer superblock_memory;

  // Guarded by Impl::mutex.
  DiskHealth health = DiskHealth::kHealthy;
  std::string reason;
  Lsn failed_after;  // durable, with all data on this disk, when it failed

  bool here() const { return usable.load(std::memory_order_acquire) != nullptr; }
};

// A disk that becomes part of a pool (pool_open.cpp).

DiskRecord new_record(Executor& executor, DiskId id, const scheduler::Disk& disk);
// kInvalid: too small. kPoolExists: it has a superblock.
Task<Result<void>> check_new_disk(scheduler::Disk* disk);
// Its journal is empty, durably.
Task<Result<void>> zero_journal(scheduler::Disk* disk, DiskRecord record);
// Both copies, durably.
Task<Result<void>> write_superblock(scheduler::Disk* disk, Bytes bytes);

struct Pool::Impl {
  Impl(Executor& executor_in, Superblock superblock_in, bool read_only_in);

  // Fixed when the pool opens.
  Executor& executor;
  const bool opened_read_only;
  const std::vector<DiskId> members_found;

  // Own synchronisation.
  AsyncMutex writing;  // serialises whoever writes superblocks
  AsyncMutex closing;  // one closes failed disks
  std::atomic<std::uint64_t> changes{0};
  std::atomic<std::uint32_t> losses{0};  // Pool::losses()
  std::atomic<bool> read_only{false};
  std::atomic<std::uint32_t> policy;  // as the superblock has it: Policy::packed()
  // By id, also of disks that have been removed: they stay as long as the pool is open.
  std::vector<std::atomic<Seat*>> seat_by_id{kDiskIdsMax};

  mutable Mutex mutex;
  std::vector<std::unique_ptr<Seat>> seats
      DFS_GUARDED_BY(mutex);  // in the order of superblock.disks
  std::vector<std::unique_ptr<Seat>> removed DFS_GUARDED_BY(mutex);
  Superblock superblock DFS_GUARDED_BY(mutex);  // this_disk is meaningless here
  bool begun DFS_GUARDED_BY(mutex) = false;
  DiskId going DFS_GUARDED_BY(mutex){kDiskIdsMax};  // let_log_go(); a number that no disk has: none
  LogEnd log_end DFS_GUARDED_BY(mutex);  // as of begin(); used while there is no source
  std::function<LogEnd()> log_source DFS_GUARDED_BY(mutex);
  std::shared_ptr<const std::vector<DiskId>> healthy DFS_GUARDED_BY(mutex);
  std::shared_ptr<const std::vector<DiskId>> staying DFS_GUARDED_BY(mutex);
  std::shared_ptr<const LogSet> log_set DFS_GUARDED_BY(mutex);
  std::vector<std::function<void()>> listeners DFS_GUARDED_BY(mutex);

  Seat* seat(DiskId id) const {
    return id.raw < kDiskIdsMax ? seat_by_id[id.raw].load(std::memory_order_acquire) : nullptr;
  }
  // As they are now.
  std::vector<Seat*> all_seats() const;
  // Those and the ones before them, of disks that have left or come back.
  std::vector<Seat*> all_seats_ever() const;
  void take_seats(std::vector<std::unique_ptr<Seat>> taken);
  void take_seat(std::unique_ptr<Seat> seat) DFS_REQUIRES(mutex);
  void enter_seat(Seat& seat);  // whoever asks for the disk finds it there
  // Takes the disk out of the superblock, and nobody is told of it any more.
  void drop_seat(Seat& seat) DFS_REQUIRES(mutex);
  // Pool::members_to_be().
  std::vector<DiskId> members_to_be(std::span<const scheduler::Disk* const> without) const
      DFS_REQUIRES(mutex);
  // Derives `healthy` and `read_only` after a seat has changed.
  void update() DFS_REQUIRES(mutex);
  Task<Result<void>> mark(std::function<Result<bool>(Superblock&)> change);
  Task<Result<void>> take_disk(std::unique_ptr<scheduler::Disk>* disk, DiskRecord* record);
  Task<Result<void>> take_back(std::unique_ptr<scheduler::Disk>* disk,
                               const FoundSuperblock* found);
  Task<void> let_go_of(std::unique_ptr<scheduler::Disk>* disk);
  // Why the disk with this superblock cannot take its seat again, if it cannot.
  Result<void> may_return(const scheduler::Disk& disk, const FoundSuperblock& found)
      DFS_REQUIRES(mutex);
  // Writes down the failures that no epoch tells of yet. With `writing` held.
  Task<void> record_failures();
  // Leaves the disk out from now on; false if it had failed before.
  bool note_failed(Seat& seat, Error cause);
  // Takes disks that have failed out of the superblock; true if there were any, so that a new epoch
  // is due.
  bool fold_failures() DFS_REQUIRES(mutex);
  LogEnd ask_log_end();
  void announce_epoch();
  // Writes the superblock to every disk that is left; disks that fail meanwhile are left out under
  // yet another epoch. kBoth: into either copy, so that damage to the newer one later does not
  // bring back what the log and the slots no longer support. A new epoch always takes both. With
  // `writing` held.
  enum class Copies : std::uint8_t { kOne, kBoth };
  Task<Result<void>> store(Copies copies);
  // One superblock to each of these disks; false if any failed, which is noted. An error: it cannot
  // be encoded.
  Task<Result<bool>> write_copies();
  // Which copies on this disk are bad, a bit each; kDiskGone. While they are being written that may
  // be wrong: certain only with `writing` held.
  Task<Result<unsigned>> bad_copies(Seat& seat, scheduler::IoClass io_class) const;
  void publish_log_set();
  void tell_listeners();
};

}  // namespace dynamicfs::journal
