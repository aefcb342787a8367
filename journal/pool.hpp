// The disks of one pool, opened together: which are here, which count, and every change of that.
//
// Every mount for writing begins a new epoch, and so does every change of membership (a disk that
// fails while running, a member that is replaced): its number, a random tag and who takes part are
// durable on every disk that is left before anything else happens (INV-5), in two rounds, announced
// and then confirmed: superblock.hpp says why. Superblocks are written by this class alone.
//
// Epoch and commit  changes() moves when a disk has failed, before anybody can find it gone, and
//                   when a new epoch is announced, before the journal is asked which batch comes
//                   next. The journal notes changes() before it flushes, and compares it in the
//                   same critical section in which it answers that question. So a batch either
//                   counts as written before all that, with every disk flushed, or is written again
//                   in the new epoch; never is one acknowledged whose data a disk may have lost
//                   unnoticed, or that the history assigns to another epoch.
//
// Threads  Every method may be called from any thread.
// Locks    An AsyncMutex serialises superblock writes; a leaf Mutex guards the fields.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/executor.hpp"
#include "base/mutex.hpp"
#include "base/result.hpp"
#include "base/waiters.hpp"
#include "journal/scrub_counts.hpp"
#include "journal/superblock.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::journal {

struct FormatOptions {
  Policy policy;
  std::string label;
};

enum class DiskHealth : std::uint8_t {
  kHealthy,
  kMissing,  // not found at mount
  kFailed,   // a write or flush failed, or it vanished, since the mount
  kOffline,  // the user has taken it offline, since the mount
  kStale,    // here again after it was away: reads verify, what it missed has one copy less
};
const char* disk_health_name(DiskHealth health);

struct DiskStatus {
  DiskRecord record;
  DiskHealth health = DiskHealth::kHealthy;
  bool member = false;
  std::string reason;  // for kFailed: what happened, in words
};

// What one disk's superblocks said, for mount, `create` and `dump`: the newer good one. Reads both
// copies; nothing is changed. kFormatMagic: neither is ours. kChecksum: ours, and neither is whole.
// kFormatVersion as decode(), if either says so. Otherwise as the disk.
Task<Result<Superblock>> read_superblock(scheduler::Disk& disk);

// Where the log ends now: for the epoch that begins here.
struct LogEnd {
  Lsn last;            // the last durable record
  BatchSequence next;  // the batch after it
};

// What recovery found, for Pool::begin.
struct LogFound {
  LogEnd end;
  Lsn certain;    // what these records and those before name was on every disk that was here
  Lsn lsn_floor;  // see Superblock
  std::vector<DiskId> members;  // have the whole log now: the members to be
};

// Who takes a batch of the log, and under which epoch: one consistent, immutable view.
struct LogSet {
  struct Member {
    DiskId id;
    scheduler::Disk* disk;
  };
  EpochRecord epoch;
  std::vector<Member> members;
  bool has(DiskId id) const { return std::ranges::find(members, id, &Member::id) != members.end(); }
};

class Pool {
 public:
  // Writes zeros over the journal regions and the first superblocks of a new pool with these disks
  // (ids 0, 1, ... in order) and flushes. Errors: kPoolExists (detail: index) if a disk has a
  // superblock already; kTooFewDisks; kInvalid (detail: index) for a volume below kVolumeBytesMin.
  static Task<Result<Uuid>> format(Executor& executor, std::vector<scheduler::Disk*> disks,
                                   FormatOptions options);

  struct Opening {
    // Takes the disks; which is which is read from their superblocks, order does not matter.
    std::vector<std::unique_ptr<scheduler::Disk>> disks;
    bool read_only = false;
    // For who only wants to have what is left: read-only, and neither disks that are missing, nor that no
    // member of the newest epoch is here, nor that a disk has become shorter stands in the way.
    bool salvage = false;
  };
  // What stands in the way of opening, in words for the user; filled when open() fails.
  struct Problem {
    std::string text;  // names the disks by path, says what to do
    std::vector<DiskRecord> missing;
  };
  // Decides who is current, stale or missing. Changes nothing on disk: begin() does. Errors, each
  // with `problem` filled: kFormatMagic, kFormatVersion, kNotInPool (disks of different pools),
  // kSplitBrain, kDiskMissing (more disks are missing than the policy tolerates, or no member of
  // the newest epoch is here), kChecksum.
  static Task<Result<std::unique_ptr<Pool>>> open(Executor& executor, Opening opening,
                                                  Problem* problem);
  ~Pool();

  // After recovery, before the first record: starts a new epoch, makes all superblocks agree, durably,
  // and marks the pool not clean and of the present
  // format version. Sets `stale_since` of disks that are away to the last LSN recovered, unless set
  // already; a disk that comes back and has missed no record is healthy again. Members that have
  // failed meanwhile are left out. Errors: kReadOnly. Nothing happens in a read-only pool.
  Task<Result<void>> begin(LogFound found);

  Executor& executor() const;
  Superblock superblock() const;  // a copy of the current state
  Uuid uuid() const;
  Policy policy() const;  // takes no lock
  // So many disks may be lost with the metadata still there.
  unsigned tolerance() const;
  unsigned data_tolerance() const;
  EpochRecord epoch() const;
  // The disk, or nullptr when missing or failed. Valid until the pool is destroyed.
  scheduler::Disk* disk(DiskId id) const;
  // Ids of disks that can be written now, ascending; a snapshot, immutable, cheap to take.
  std::shared_ptr<const std::vector<DiskId>> healthy() const;
  // Of these those that are not leaving.
  std::shared_ptr<const std::vector<DiskId>> staying() const;
  std::vector<DiskId> members() const;
  // Members of the superblock as it was found, before begin(): where the old log is. Some may be
  // missing now.
  std::vector<DiskId> members_found() const;
  // Who should be members now, at most kMembersMax: old members first, then others by id, of these those that are
  // leaving last, and behind all the one of let_log_go(). None of `without` that is not a member.
  std::vector<DiskId> members_to_be(std::span<const scheduler::Disk* const> without = {}) const;
  // This disk is about to leave, so if there is another one for it, that is to keep the log instead: the next commit
  // sees to that, or Journal::settle_members(). Until another disk is named, or it is to stay (set_leaving()).
  void let_log_go(DiskId id);
  std::vector<DiskStatus> status() const;
  bool degraded() const;  // any disk missing, failed or stale
  // How many disks have gone, for whatever reason, since the pool was opened: grows when one does.
  std::uint32_t losses() const;
  // Of a disk that has gone since the pool was opened, and is not back: what was durable when it went, with all data on
  // it. What is newer may not be there even if it comes back.
  std::optional<Lsn> durable_at_loss(DiskId id) const;
  // As far as the tolerance and the members tell, everything can still be read and written without it.
  bool can_lose(DiskId id) const;
  // More disks lost than the metadata tolerates, or no member left: nothing may be written any more.
  bool read_only() const;
  // A place of a chunk: offset of a slot on a disk's volume.
  std::uint64_t slot_offset(DiskId id, SlotId slot) const;
  std::uint32_t slot_count(DiskId id) const;

  // A write or flush on this disk failed, or a read said it is gone. It is failed for good
  // (Disk::fail()), leaves the members, and a new epoch without it is durable on the others when
  // this completes; every caller that reports the same disk waits for that. `stale_since` becomes
  // the last durable LSN. Errors: kReadOnly if too much is lost now. Before begin() the disk is
  // only left out: begin() makes that durable.
  // `from`: what answered so, if the caller knows: of a disk that has come back since, nothing is noted.
  Task<Result<void>> report_failure(DiskId id, Error cause, const scheduler::Disk* from = nullptr);
  // Called after each membership change, on some thread, with no lock held.
  void on_change(std::function<void()> listener);

  // For the journal. Asked where the log ends when a disk fails; called with no lock of ours held.
  void set_log_source(std::function<LogEnd()> source);
  // Failures noted, epochs announced, and disks told to go or to stay so far.
  std::uint64_t changes() const;
  // Completes when every failure noted before the call is part of a durable epoch, or the pool is
  // read-only.
  Task<void> settled();
  // This disk keeps the log from the next batch on: in a new epoch, durable when it completes. The
  // caller has copied all that is still needed of the log to it, durably, and commits nothing
  // meanwhile. In the place of that of let_log_go() if there are enough. kBusy, and nothing happens, if it has failed,
  // `copied_to` is not this disk any more, or there are enough otherwise. kReadOnly.
  Task<Result<void>> adopt_member(DiskId id, const scheduler::Disk* copied_to);
  // The newest durable epoch.
  std::shared_ptr<const LogSet> log_set() const;

  // Switches to a new checkpoint, durable on all healthy disks when it completes. The caller has
  // flushed what the manifest names. kFormatInvalid: too large for a superblock, or too many runs;
  // nothing has changed; kReadOnly.
  Task<Result<void>> commit_manifest(Manifest manifest);
  // What may lack something and is here.
  std::vector<const scheduler::Disk*> stale_disks() const;
  // These lack nothing any more: kStale becomes kHealthy, durably. The caller has verified every copy on them that is
  // older than stale_disks() was asked, and flushed what it rewrote. One that has failed since, and come back, stays stale.
  Task<Result<void>> mark_whole(std::vector<const scheduler::Disk*> verified);
  // A disk that belongs to nobody is part of the pool from now on, in a new epoch, durably, and empty. A spare takes nothing
  // before another disk is lost, and is not missed when it is away. It belongs to
  // the pool if this fails behind its first superblock. Errors: kPoolExists: it is, or was, a pool's; kInvalid: too small, or the pool
  // has as many disks as it can; kReadOnly; as the disk, kDiskGone if it does not answer.
  Task<Result<DiskId>> add_disk(std::unique_ptr<scheduler::Disk> disk, bool spare = false);
  // Leaves the disk out from now on, as report_failure() does, and lets go of what the user named. The caller has seen
  // that it can be done without. kNotInPool; kDiskGone: it is not here; kReadOnly; kBusy: it is offline, but the device has
  // requests that it does not answer, so it stays open.
  Task<Result<void>> take_offline(DiskId id);
  // Closes disks that have failed, as far as their devices have answered, so that they can be unplugged, unmounted or
  // opened anew. Completes in a thread of none.
  Task<void> close_failed();
  bool has_failed_open() const;  // there are some
  // A disk of this pool that is away, whatever the reason, is here again and may lack what was written meanwhile: kStale,
  // in a new epoch, durably. What was to be made anew because it was away stays on it. Errors, with everything as it was: kBusy (detail: its
  // id): that disk is here already; kDiskHung (its id): the device has requests from before, which it may still carry out;
  // kNotInPool: it is no disk of this pool, or was removed; kSplitBrain: it was mounted without the others meanwhile;
  // kDiskRange: it has become smaller; kReadOnly; else as the disk and read_superblock().
  Task<Result<DiskId>> return_disk(std::unique_ptr<scheduler::Disk> disk);
  // Durably: what is on this disk is to go elsewhere, or not; either way it is no spare any more. kWhileAway: only until it is found again at a
  // mount. kNotInPool; kTooFewDisks: no disk would stay; kReadOnly.
  enum class Leaving : std::uint8_t { kNo, kYes, kWhileAway };
  Task<Result<void>> set_leaving(DiskId id, Leaving leaving);
  // Durably: fuller disks give to emptier ones.
  Task<Result<void>> set_rebalancing(bool on);
  bool rebalancing() const;
  // Durably: data is protected like this from now on where no file or directory says otherwise, and what there is is to
  // be encoded anew. kTooFewDisks (detail: how many it takes); kDiskMissing: more are away than it tolerates; kReadOnly.
  Task<Result<void>> set_policy(Policy policy);
  // Durably: some data may lie otherwise than its policy asks, or none does. kReadOnly.
  Task<Result<void>> set_reencoding(bool on);
  // Durably: the metadata is to survive as many lost disks at least, or as many as there are journals for: the caller sees
  // to it (Filesystem writes its runs anew). kReadOnly.
  Task<Result<void>> raise_tolerance(unsigned tolerance);
  // Some files are kept whole on one disk from now on: the rest is to be reached without it. kReadOnly.
  Task<Result<void>> note_whole_files();
  bool reencoding() const;
  // Durably: where the scrub of everything is. kReadOnly.
  Task<Result<void>> set_scrub(ScrubMark mark);
  // Likewise, if one is under way.
  Task<Result<void>> note_scrub(InodeId next);
  bool is_leaving(DiskId id) const;
  // The disk, which may be away, is no part of the pool any more, in a new epoch, durably; its superblocks are overwritten if it is here. The caller
  // has seen that no chunk has a place there, as of the checkpoint too. Errors, with everything as it was: kNotInPool;
  // kTooFewDisks: nobody else keeps the journal; kBusy: a run has a copy there, or somebody else could keep the journal
  // in its place and has yet to be given it, as by let_log_go(); kReadOnly.
  Task<Result<void>> remove_disk(DiskId id);
  // The last thing of an orderly shutdown, after a checkpoint.
  Task<Result<void>> mark_clean();
  // Reads both copies of the superblock of every disk, in the background class. If one is bad, all
  // are written anew, durably, unless the pool is read-only. A block here is the superblock of one
  // disk. Nothing waits for the reading; the writing takes its turn among superblock writes.
  Task<ScrubCounts> scrub_superblocks();
  // Disks that would keep the destructor waiting. If there are any, lets go of the locks of all
  // others: the caller is about to end the process without it.
  std::vector<std::string> kept_disks();  // their paths
  // Remembers where disks are found now; written with the next superblock.
  void set_path(DiskId id, std::string path);

 private:
  struct Impl;
  explicit Pool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dynamicfs::journal
