// The metadata journal: records, committed in batches to a ring on every member disk.
//
// A change to the namespace or to an extent map has happened when its record is durable here; the
// maps in memory are a cache of checkpoint + journal.
//
// Commit  "Commit while busy": the first waiter starts a batch at once; whoever arrives while it is
//         in flight shares the next, which waits a moment for those that it woke (settle.hpp). One
//         batch in flight: every published record is taken from the RAM ring in LSN order, then goes
//         out as one durable write to every member, beside a flush of each disk with unflushed
//         writes (all of them completed before their records were appended). One device trip; above
//         kBesideFlushBytesMax two, data before log.
//         Header: pool uuid, epoch number and tag, sequence, CRC of the previous header, first and
//         last LSN, watermark, length, CRC-32C of header and payload.
// Invariants  LSNs grow by one per record; after recovery they skip ahead by more than could have
//             been in flight, so no LSN is ever used for two records.
//             A batch n+1 is never on disk anywhere before batch n was durable on all members.
//             covered() is what INV-3 asks for: everything up to it is durable, and so is a later
//             header that says so.
// Failure     A member that fails a write or flush is ejected (Pool::report_failure). If another disk
//             can take its place it is given what is needed of the log first; then the batch is
//             rewritten from RAM under the new epoch. When the pool has become read-only the journal
//             stops: every later sync() fails with kJournalStopped.
// Recovery    From the manifest's log position: per sequence number any valid copy of the members
//             found; stops at the first sequence no member can supply. The header of a later batch
//             within kBatchBytesMax behind that point tells rot from a torn tail: then kCorrupt.
//             Members that lack a batch get it (or, new ones, all of them) before open() returns.
//             Of the last batch, if it was written beside the flush of its data, only the records
//             before the first whose data is not there. Idempotent. See recovery.hpp.
// Threads     Every method may be called from any thread.
// Locks       append() takes none; committing holds one of its own, a leaf.
// Format      man/format.md, "Journal".
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/executor.hpp"
#include "base/ids.hpp"
#include "base/metrics.hpp"
#include "base/result.hpp"
#include "base/task.hpp"
#include "journal/pool.hpp"
#include "journal/record_format.hpp"
#include "journal/settle.hpp"

namespace dynamicfs::journal {

// Records that can wait in RAM for their commit.
inline constexpr std::uint64_t kRingRecords = 16 * kKiB;
// What a crash can lose: a full ring and as many records in the batch in flight. Twice that.
inline constexpr std::uint64_t kLsnSkip = 4 * kRingRecords;
inline constexpr std::uint64_t kRingBytesMax = 32 * kMiB;

struct JournalMetrics {
  Counter appends;
  Counter group_commits;         // batches made durable
  Counter group_commit_ops;      // records in them
  Counter group_commit_waiters;  // sync() calls they satisfied
  // ... and how often they were one, 2 to 3, 4 to 7, and so on; the last: 64 and more.
  std::array<Counter, 7> commits_by_waiters;
  Counter batch_bytes;       // payload and header, before copies
  Counter flushes;           // of data disks, for commits
  Counter reserve_waits;     // reserve() had to wait
  Counter log_space_waits;   // a commit had to wait for a checkpoint
  Counter members_replaced;  // a disk took the place of a member that had failed, or was to leave
  Counter settle_waits;      // a commit waited for company
  Histogram commit_latency_us;
  Histogram batch_records;
};

// What recovery did, for the log and `status`.
struct RecoveryReport {
  std::uint64_t records_replayed = 0;
  std::uint64_t batches_replayed = 0;
  std::uint64_t batches_lacking = 0;   // not whole on every member
  std::uint64_t batches_repaired = 0;  // of those: copied to a member that lacked them
  bool torn_tail = false;
  std::uint64_t records_checked = 0;  // whose data had to be looked at
  std::uint64_t records_dropped = 0;  // from the first on whose data was not there
  // With Replay::salvage: the batch in front of which the log ends although there was more, or may have
  // been; 0: the log is whole. And how many records could not be applied.
  BatchSequence damaged{0};
  std::uint64_t records_failed = 0;
  Lsn last;  // the last LSN there is
  Duration took{0};
};

class Journal;

struct TailRecord {
  Lsn lsn;
  std::span<const std::byte> payload;
};

// What recovery does with the records behind the manifest's LSN.
struct Replay {
  // Called for every surviving record, oldest first; `payload` is there until it completes.
  std::function<Task<Result<void>>(Lsn, std::span<const std::byte> payload)> apply;
  // Called with records, some thousands of them as a rule, before apply() has the first of them: what
  // that will read can be read now, all at once. `payload` is there until it completes. May be
  // unset.
  std::function<Task<void>(std::vector<TailRecord>)> prepare;
  // How many of these, the last ones of the log, survive: those before the first that names data
  // which is not on any disk that should have it. Called at most once, when apply() has had all
  // records before and none of these. Not set: all do.
  std::function<Task<Result<std::size_t>>(std::vector<TailRecord>)> count_whole;
  // In a read-only pool: every disk that is here is asked for the log, damage ends it instead of being
  // kCorrupt, and a record that apply() refuses is counted and left out.
  bool salvage = false;
};

// Whether a record may reach the disks before the data that it names.
enum class RecordOrder : std::uint8_t { kBesideData, kBehindData };

// Room for records, taken before any lock so that append() never waits. Gives back what is unused.
class Credit {
 public:
  Credit() = default;
  Credit(Credit&& other) noexcept;
  Credit& operator=(Credit&& other) noexcept;
  ~Credit();

 private:
  friend class Journal;
  Journal* journal_ = nullptr;
  std::uint32_t records_ = 0;
  std::uint64_t bytes_ = 0;
};

class Journal {
 public:
  // Recovers (see above), then calls pool.begin(). With a read-only pool nothing is written.
  // `pool` outlives the journal.
  static Task<Result<std::unique_ptr<Journal>>> open(Executor& executor, Pool& pool, Replay replay,
                                                     CommitOptions options = {});
  // No call may be outstanding, and close() has completed since the last append() or reserve(). A
  // sync() or drain() does as well, if nobody else called meanwhile.
  ~Journal();
  // Completes when no commit is in flight; commits nothing by itself.
  Task<void> close();

  // Waits until `records` records with together `bytes` payload fit in RAM, starting a commit if
  // that is what makes room. At most kRingRecords and kRingBytesMax. Never fails: a stopped journal
  // grants too (append() then forgets the record), and sync() reports. Do not wait for more while
  // holding a credit: two who do that could wait for each other.
  Task<Credit> reserve(std::uint32_t records, std::uint64_t bytes);

  // Adds one record within `credit`: lock-free, never waits, never fails. The record is complete in
  // RAM on return and durable after sync(). payload.size() is 1 to kRecordBytesMax.
  // kBesideData: Replay::count_whole can tell whether the data that it names is there.
  Lsn append(Credit& credit, std::span<const std::byte> payload,
             RecordOrder order = RecordOrder::kBesideData);

  // Completes once every record up to `upto` is durable on all current members, and with it all
  // data written before those records were appended. kJournalStopped: the outcome is unknown and
  // the journal accepts nothing more.
  Task<Result<void>> sync(Lsn upto);
  // sync(appended()), then a header that covers it: afterwards covered() == durable() if nothing
  // new came. Two device trips; one if there was nothing to commit; none if already covered.
  Task<Result<void>> drain();
  // Disks that should keep the log (Pool::members_to_be()) do when it completes, as far as they can be given it.
  // Every commit sees to that; this is for when there is nothing to commit. kJournalStopped.
  Task<Result<void>> settle_members();

  Lsn appended() const;  // the newest record handed in
  Lsn durable() const;
  Lsn covered() const;  // see Invariants
  bool stopped() const;
  // Stops: sync() fails from now on. For a failure found elsewhere.
  void stop();

  // Called after durable() or covered() has grown, by the committing thread, no lock held.
  void on_progress(std::function<void()> listener);

  // Bytes of the log in use and its size; a checkpoint should start well before they meet.
  std::uint64_t log_used_bytes() const;
  std::uint64_t log_capacity_bytes() const;
  // Where recovery must start if everything up to `lsn` is in a checkpoint: the first batch with a
  // later record, or the place of the next batch to come.
  LogPosition position_after(Lsn lsn) const;
  // The space before `position` is free: the manifest that names it is durable.
  void trim(LogPosition position);

  const JournalMetrics& metrics() const;
  const RecoveryReport& recovery() const;

 private:
  friend class Credit;
  struct Impl;
  explicit Journal(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dynamicfs::journal
