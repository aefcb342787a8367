// The POSIX tree: every operation, in our words. No fuse type crosses this line, so the same code
// runs under the kernel and in the simulation.
//
// Durability  Every operation is one journal record: after a crash it is there completely or not at
//             all, and if it is there so is every earlier one (INV-6). It is durable when fsync(),
//             sync() or the commit interval has passed (INV-5).
// Permissions Checked by the kernel (default_permissions) before we are called; only what the
//             kernel cannot know is checked here.
// Names       Any bytes but '/' and NUL, 1 to 255 long; "." and ".." are answered by lookup() only.
// Times       Nanoseconds since 1970; with a writeback cache the kernel owns mtime and ctime of files.
// Threads     Every method may be called from any thread.
// Locks       ChangeGate, then inodes by ascending number, then extent locks, then leaves. None is
//             held across a suspension (INV-1).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.hpp"
#include "base/byte_budget.hpp"
#include "base/executor.hpp"
#include "base/result.hpp"
#include "extent/store.hpp"
#include "fs/salvage.hpp"
#include "fs/tree_check.hpp"
#include "fs/tree_repair.hpp"
#include "journal/journal.hpp"
#include "journal/pool.hpp"
#include "journal/scrub_counts.hpp"

namespace dynamicfs::journal {
class RunSet;
}

namespace dynamicfs::fs {

inline constexpr std::size_t kNameBytesMax = 255;
inline constexpr std::size_t kSymlinkBytesMax = 4095;
inline constexpr std::size_t kXattrValueBytesMax = 64 * kKiB;
inline constexpr std::size_t kXattrListBytesMax = 64 * kKiB;
inline constexpr std::uint32_t kLinksMax = 1'000'000;
// What loff_t can say.
inline constexpr std::uint64_t kFileBytesMax = (std::uint64_t{1} << 63) - 1;

// Of a regular file or directory, with the numbers that chattr(1) and statx(2) have for them
// (FS_IMMUTABLE_FL ...). There are no others.
inline constexpr std::uint32_t kFlagImmutable = 0x10;
inline constexpr std::uint32_t kFlagAppendOnly = 0x20;  // what is there stays; more may come
inline constexpr std::uint32_t kFlagNoDump = 0x40;      // for backup programs: kept, no more
inline constexpr std::uint32_t kFlagNoAtime = 0x80;
inline constexpr std::uint32_t kFlagsAll =
    kFlagImmutable | kFlagAppendOnly | kFlagNoDump | kFlagNoAtime;

struct Attributes {
  InodeId inode;
  std::uint32_t mode = 0;  // type and permission bits as in stat(2)
  std::uint32_t nlink = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t rdev = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t blocks_512 = 0;
  std::int64_t atime_ns = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  std::int64_t btime_ns = 0;
  std::uint32_t flags = 0;
};

// Who makes a file: becomes its owner (the group of a setgid directory wins).
struct Caller {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t umask = 0;  // taken out of the mode unless the directory has a default ACL
};

// What setattr changes; absent fields stay.
struct AttributeChange {
  std::optional<std::uint32_t> mode;
  std::optional<std::uint32_t> uid;
  std::optional<std::uint32_t> gid;
  std::optional<std::uint64_t> size_bytes;
  std::optional<std::int64_t> atime_ns;
  std::optional<std::int64_t> mtime_ns;
  std::optional<std::int64_t> ctime_ns;
  bool atime_now = false;
  bool mtime_now = false;
  bool kill_suid_sgid = false;  // the kernel asks us to clear them with this change
};

struct WriteOptions {
  // The kernel has a writeback cache: it stamps every write itself, whichever way that reaches us,
  // and sends the times when it writes the inode back. A stamp of ours would stay if it came last.
  bool kernel_keeps_times = false;
  bool kill_suid_sgid = false;
};

// Bytes [begin, begin + size) of `buffer` are the answer; size may be short at the end of the file.
struct ReadReply {
  ByteBudget::Share memory;  // what the buffer takes of FilesystemOptions::read_memory_bytes
  Buffer buffer;
  std::size_t begin = 0;
  std::size_t size_bytes = 0;
};

struct DirectoryEntry {
  std::string_view name;  // valid during the callback
  InodeId inode;
  std::uint32_t type_bits = 0;    // S_IFMT part of the mode
  std::uint64_t next_cookie = 0;  // continue behind this entry; stable while the entry exists
  const Attributes* attributes = nullptr;  // readdirplus only; null for "." and ".."
};
// False: the buffer is full; the entry was not taken. Called with the directory locked: copies
// memory and nothing else.
using DirectorySink = std::function<bool(const DirectoryEntry&)>;

enum class RenameMode { kReplace, kNoReplace, kExchange };
enum class FallocateMode { kAllocate, kKeepSize, kPunchHole, kZeroRange, kZeroRangeKeepSize };
enum class SeekKind { kData, kHole };
enum class XattrMode { kEither, kCreate, kReplace };

struct StatFs {
  std::uint64_t total_bytes = 0;  // usable under the pool's policy
  std::uint64_t free_bytes = 0;
  std::uint64_t available_bytes = 0;  // free less what is kept back
  std::uint64_t files = 0;
};

// When reading sets the time of access: never, when it is not newer than the other two or is a day old, always.
enum class AtimeRule : std::uint8_t { kNever, kRelative, kAlways };
struct AtimeRules {
  AtimeRule files = AtimeRule::kRelative;
  AtimeRule directories = AtimeRule::kRelative;
};

struct FilesystemOptions {
  // Data and metadata written without fsync are durable after this.
  Duration commit_interval{std::chrono::seconds{5}};
  journal::CommitOptions group_commit;
  // With read_only or repair: blocks that two files claim, or that lie nowhere, do not stop the mount; they are
  // for check_tree() to tell.
  bool tolerant = false;
  // With both: metadata that cannot be read does not stop the mount either, nor damage of the log; what is
  // uncertain for that is told by salvage_doubt(). For pools opened with Pool::Opening::salvage, and
  // who looks at every doubt: what may be lost looks like a hole, or like a name that is not there.
  bool salvage = false;
  // Everything is read and what can be derived is derived anew (fs/tree_repair.hpp), durably before the
  // mount completes; with read_only in memory alone. Nothing else runs: an unmount is to follow.
  bool repair = false;
  // A checkpoint starts when the log is this full (percent): what bounds replay is its size.
  unsigned checkpoint_log_percent = 50;
  // What metadata may take in memory. Held on average: what is not in the runs yet stays, and
  // filters and indexes of runs, 6 bytes per file or so, are always there.
  std::uint64_t metadata_memory_bytes = 256 * kMiB;
  // Runs up to this size are written anew by the next checkpoint, so that a small pool has one; larger
  // ones wait to be merged.
  std::uint64_t small_run_bytes = kSlotBytes;
  // Answers of reads that are being fetched or sent; a read beyond that waits.
  std::uint64_t read_memory_bytes = 256 * kMiB;
  bool read_only = false;
  AtimeRules atime;
  // Whose the root directory is, if this is the first mount for writing.
  Caller maker;
  // The kernel checks permissions by the ACLs of files, and leaves it to us to let new ones inherit.
  // Without it no ACL can be set; those there are stay, and follow chmod.
  bool acl = false;
  // After this a disk that is away is lost: what it had is made anew on the others. 0: never.
  Duration scrub_every{0};  // everything is scrubbed by itself; 0: never
  Duration rebuild_after{std::chrono::minutes{10}};
};

struct FilesystemMetrics {
  Counter lookups, creates, unlinks, renames, reads, writes, fsyncs, readdirs, setattrs;
  Counter hot_reads;  // of windows that are read often, in class hot read
  Counter read_bytes, written_bytes;
  Counter bytes_copied;  // user-space copies on the write path (unaligned edges)
  Counter merges;        // unaligned writes that had to read a block first
  Counter merge_redos;   // ... again, because the block had changed meanwhile
  Counter clones;        // copies that shared blocks
  Counter cloned_bytes;  // that they shared
  Counter inodes_loaded, inodes_evicted;
  Counter checkpoints;
  Counter checkpoint_inodes;  // that they found modified
  Counter run_merges;         // in the background
  Counter run_merge_bytes;    // they wrote, copies not counted
  Histogram run_merge_ms;
  Counter compaction_windows;  // scattered, written anew since writers told of them
  Counter compaction_sweeps;
  Counter compaction_bytes;  // moved
  Counter reencoded_bytes;   // of these: because their policy is another
  Counter spilled_bytes;     // of files that are kept on one disk: written to another
  Counter scrubs_started, scrubs_finished;
  // As journal::ScrubCounts, of all scrubs; lost: with those that could not be read.
  Counter scrub_bytes, scrub_read_bytes;
  Counter scrub_copies_bad, scrub_copies_outdated, scrub_copies_repaired, scrub_copies_skipped;
  Counter scrub_blocks_lost;
  Counter resynced_bytes;   // written to disks that had missed them, by the resync
  Counter disks_suspected;  // times a disk became suspect
  Counter disks_hung;       // given up because they no longer answered
  Histogram checkpoint_ms;
  Histogram fsync_latency_us;
};

// Of a regular file: how what it has is protected, or to be protected. Of a directory: what is made in it gets the same.
// A policy as Policy::parse() takes it.
inline constexpr std::string_view kPolicyXattr = "user.dynamicfs.policy";

struct PolicyReport {
  journal::Policy policy;
  bool own = false;  // not the pool's
  // Of a regular file: how its blocks are protected now, in bytes; what is shared counts for each file.
  std::vector<std::pair<journal::Policy, std::uint64_t>> layouts;
  // If it is to be kept on one disk: the disks that it lies on, likewise; where most of it is first.
  std::vector<std::pair<DiskId, std::uint64_t>> disks;
};

// What is encoded anew because its policy has changed.
struct ReencodeReport {
  bool pending = false;  // some of the data may lie otherwise than its policy asks
  bool running = false;  // right now
  double progress = 0;   // of the look at all files that is under way, or was the last, 0..1
  std::uint64_t moved_bytes = 0;  // since the mount
  std::uint64_t stuck_bytes = 0;  // of the last look: could not be moved
  std::uint64_t cut_bytes =
      0;  // of these: of files that no disk has room for, beside where most of them is
};

// What the last mount found, for the log and `status`.
struct MountReport {
  journal::RecoveryReport journal;
  std::uint64_t inodes = 0;
  std::uint64_t orphans_removed = 0;  // unlinked but open when the power went
  std::uint64_t runs = 0;
  std::uint64_t run_bytes = 0;
  Duration took{0};
};

enum class ScrubScope {
  kAll,
  kMetadata,  // superblocks and runs, no data
};
enum class ScrubState { kIdle, kRunning, kPaused, kFinished, kCancelled };

// The scrub that runs, or the last one since the mount.
struct ScrubReport {
  ScrubState state = ScrubState::kIdle;
  journal::ScrubCounts counts;    // so far
  std::uint64_t total_bytes = 0;  // what counts.bytes will be; 0 while it is being found out
  std::uint64_t errors = 0;       // pieces that could not be judged; the log says why
  std::int64_t started_ns = 0;    // since 1970; 0: never
  std::int64_t ended_ns = 0;      // 0: not yet
  Duration active{0};             // without pauses
  bool read_only = false;         // nothing is repaired
  std::uint64_t last_unix_s = 0;  // when one had seen everything, in this mount or before; 0: never
  std::uint64_t due_unix_s = 0;   // when the next begins by itself; 0: never
};

// Disks that were away get what they have missed (fs/resync.hpp).
struct ResyncReport {
  bool running = false;
  double progress = 0;                // of the files, while it runs, 0..1
  std::uint64_t rewritten_bytes = 0;  // since the mount
};

// Chunks on their way to where they should be (fs/rebuild.hpp).
struct RebuildReport {
  bool due = false;      // there is something to do
  bool running = false;  // now, or it waits for something to change
  bool paused = false;
  bool rebalancing = false;
  std::uint64_t left_bytes = 0;    // of places that are to be made; at most
  std::uint64_t moved_bytes = 0;   // since it began
  Duration took{0};                // since it began; 0: nothing is to be done
  std::uint64_t stuck_chunks = 0;  // of the last look: could not be moved
  Error obstacle;                  // why one of them could not
};

class Filesystem {
 public:
  // Recovers: run, then journal, then orphans; starts housekeeping. A pool without any record gets
  // its root directory (mode 0755, of options.maker). The disks are those of `pool`.
  static Task<Result<std::unique_ptr<Filesystem>>> mount(Executor& executor,
                                                         std::unique_ptr<journal::Pool> pool,
                                                         FilesystemOptions options);
  // Everything durable, a checkpoint written, the pool marked clean; housekeeping has ended. No
  // operation may be outstanding or follow. Without it the destructor abandons RAM, like a crash.
  Task<Result<void>> unmount();
  ~Filesystem();

  // Names.

  // A success of lookup, mknod, mkdir, symlink, tmpfile and link adds one kernel reference, which
  // forget() gives back; so does every readdirplus entry the sink took, but "." and "..".
  Task<Result<Attributes>> lookup(InodeId parent, std::string name);
  void forget(InodeId inode, std::uint64_t references);
  // Regular files, FIFOs, sockets, device nodes; create() is mknod of a regular file.
  Task<Result<Attributes>> mknod(InodeId parent, std::string name, std::uint32_t mode,
                                 std::uint32_t rdev, Caller caller);
  Task<Result<Attributes>> mkdir(InodeId parent, std::string name, std::uint32_t mode,
                                 Caller caller);
  Task<Result<Attributes>> symlink(InodeId parent, std::string name, std::string target,
                                   Caller caller);
  // A regular file without a name, which goes with its last reference unless link() gives it one. It is
  // made as if in `directory`, which may have lost its own.
  Task<Result<Attributes>> tmpfile(InodeId directory, std::uint32_t mode, Caller caller);
  // Also of what has no name any more: the kernel knows which of those may get one again.
  Task<Result<Attributes>> link(InodeId inode, InodeId parent, std::string name);
  Task<Result<void>> unlink(InodeId parent, std::string name);
  Task<Result<void>> rmdir(InodeId parent, std::string name);
  // `whiteout`: a character device 0:0 of this owner takes the old name, in the same record; not with
  // kExchange (kInvalid).
  Task<Result<void>> rename(InodeId from_parent, std::string from_name, InodeId to_parent,
                            std::string to_name, RenameMode mode,
                            std::optional<Caller> whiteout = {});
  Task<Result<std::string>> readlink(InodeId inode);
  // From behind `cookie` (0: from the start, which begins with "." and "..").
  Task<Result<void>> readdir(InodeId directory, std::uint64_t cookie, bool plus, DirectorySink sink,
                             bool sets_atime = true);

  // Attributes.
  Task<Result<Attributes>> getattr(InodeId inode);
  Task<Result<Attributes>> setattr(InodeId inode, AttributeChange change);
  // Who may do that the kernel has checked. From then on what is immutable, or append-only, answers
  // changes with kPermission. kNotSupported: a flag that there is not, or neither file nor directory.
  Task<Result<void>> set_flags(InodeId inode, std::uint32_t flags);
  Task<Result<std::string>> getxattr(InodeId inode, std::string name);
  // `kill_sgid`: of the new access ACL, whose setter is not of the file's group.
  Task<Result<void>> setxattr(InodeId inode, std::string name, std::string value, XattrMode mode,
                              bool kill_sgid = false);
  Task<Result<void>> removexattr(InodeId inode, std::string name);
  // Names, each followed by NUL.
  Task<Result<std::string>> listxattr(InodeId inode);
  // FilesystemOptions::acl.
  bool keeps_acls() const;
  // From now on.
  void set_atime_rules(AtimeRules rules);
  // Never suspends, takes one lock at most: the kernel asks for security.capability often. True also
  // when that takes reading the inode.
  bool has_xattrs(InodeId inode);

  // Data.
  Task<Result<ReadReply>> read(InodeId inode, std::uint64_t offset_bytes, std::size_t size_bytes,
                               bool sets_atime = true);
  // All of `data` or an error. No copy is made when offset, size and address of the data are
  // multiples of 4 KiB (the end of the file may be in the last block if the memory behind it, to
  // the block's end, may be overwritten with zeros: `data` then has `spare` bytes behind it).
  // `data` stays valid until completion.
  Task<Result<void>> write(InodeId inode, std::uint64_t offset_bytes, std::span<std::byte> data,
                           std::size_t spare_bytes, WriteOptions options);
  // Makes bytes of one file those of another, or of another part of the same, by sharing blocks
  // (fs/clone.cpp); behind the end of the source there are zeros. Returns how many bytes it has done: at
  // most 1 GiB at a time, and fewer when an error came in between. It is done in steps, each an
  // operation of its own. kNotSupported: the offsets differ by no whole number of blocks, so there is
  // nothing to share; kInvalid: the ranges overlap.
  Task<Result<std::uint64_t>> copy_range(InodeId source, std::uint64_t source_bytes, InodeId target,
                                         std::uint64_t target_bytes, std::uint64_t size_bytes,
                                         WriteOptions options);
  // After a cached write: true if attributes were answered since this was last asked, so that a
  // kernel that keeps them shows a number of blocks that is not right any more.
  bool attributes_outdated(InodeId inode);
  Task<Result<void>> fallocate(InodeId inode, FallocateMode mode, std::uint64_t offset_bytes,
                               std::uint64_t size_bytes, bool kernel_keeps_times = false);
  Task<Result<std::uint64_t>> seek(InodeId inode, std::uint64_t offset_bytes, SeekKind kind);
  // File or directory: everything done to it before is durable.
  Task<Result<void>> fsync(InodeId inode);
  // Everything done before is durable.
  Task<Result<void>> sync();

  StatFs statfs();

  // Operation.

  // Writes what has changed since the last one as a run and trims the log.
  Task<Result<void>> checkpoint();

  // Takes out of memory what the runs have and nobody uses, as is done when there is too much of it.
  // Returns how many inodes went.
  std::size_t evict();

  // The scrub (fs/scrub.hpp). One at a time; unmount() cancels it. A start runs a part of it on the
  // caller's thread, which is inside a DriverScope.
  // kBusy: one is running or paused; kShutdown: unmounting
  Result<void> start_scrub(ScrubScope scope = ScrubScope::kAll);
  Result<void> pause_scrub();   // kInvalid: none is running. What is in flight is finished
  Result<void> resume_scrub();  // kInvalid: none is paused
  // Completes when it has ended. kInvalid: none is running or paused.
  Task<Result<void>> cancel_scrub();
  ScrubReport scrub_report() const;
  // Disks that were away get what they have missed by themselves.
  ResyncReport resync_report() const;

  // Disks (fs/rebuild.hpp).

  // Pool::add_disk(). What is new goes there too; what is old only if rebalance() is asked for.
  Task<Result<DiskId>> add_disk(std::unique_ptr<scheduler::Disk> disk, bool spare = false);
  // Pool::take_offline(), when everything done before is durable. kTooFewDisks: what is on it cannot be done without.
  Task<Result<void>> take_offline(DiskId disk);
  // Pool::return_disk(). It gets what it has missed in the background.
  Task<Result<DiskId>> return_disk(std::unique_ptr<scheduler::Disk> disk);
  // What is on the disk, or was if it is away, goes to others in the background; then it is out of the pool. With
  // kNoSpace `*missing_bytes` says how much more there would have to be on the others. Errors, nothing has changed: kNotInPool, kTooFewDisks
  // (detail: how many the policy asks for), kNoSpace, kReadOnly.
  Task<Result<void>> remove_disk(DiskId disk, std::uint64_t* missing_bytes);
  // It stays after all. What has gone elsewhere stays there.
  Task<Result<void>> keep_disk(DiskId disk);
  // Fuller disks give to emptier ones, in the background; or not any more.
  Task<Result<void>> rebalance(bool on);
  // All of that.
  void pause_rebuild(bool on);
  RebuildReport rebuild_report() const;

  // Policies (fs/policy.cpp). A file or directory has its own as kPolicyXattr; setxattr() refuses one that the pool
  // has not enough disks for (kTooFewDisks).

  // As Pool::set_policy(): of all files and directories without their own. What there is is encoded anew in the background.
  Task<Result<void>> set_policy(journal::Policy policy);
  Task<Result<PolicyReport>> policy_report(InodeId id);
  // Whether the map of a file has less data than the file says: what lacks reads as zeros.
  Task<Result<bool>> lacks_data(InodeId id);
  ReencodeReport reencode_report() const;

  // Compaction (fs/compaction.hpp) happens by itself; this does all of it now that there is to do, due
  // or not. kBusy: one is under way, or the pool is unmounting, degraded, full or read-only.
  Task<Result<void>> compact();

  // With FilesystemOptions::repair.
  const RepairReport& repair_report() const;

  // Reads all metadata into memory and looks at it. Nothing else may be running but reads. An error:
  // it could not be read.
  Task<Result<TreeReport>> check_tree();

  // With FilesystemOptions::salvage (fs/salvage.hpp).
  SalvageDoubt salvage_doubt(InodeId inode) const;
  SalvageReport salvage_report() const;
  // Some of the inodes with a larger number, ascending, those next to it; none: there are no more.
  Task<Result<std::vector<InodeId>>> inodes_behind(InodeId from);

  journal::Pool& pool();
  journal::Journal& journal();
  extent::Store& store();
  const FilesystemMetrics& metrics() const;
  // Copies of the last checkpoint on the disks that are here; 0: there was none yet.
  std::size_t metadata_copies() const;
  // Everything has a copy on another disk that is here.
  bool can_lose(DiskId id) const;
  // How many windows are hot now; looks at a table of 16384.
  std::size_t hot_windows() const;
  const MountReport& mount_report() const;
  std::uint64_t inode_count() const;
  std::uint64_t inodes_in_memory() const;
  std::uint64_t metadata_memory_bytes() const;  // estimate
  // Of which a block was met, since the mount, that no disk here has a good copy of.
  std::size_t unreadable_runs() const;
  const journal::RunSet& runs() const;
  const ByteBudget& read_memory() const;
  // Files with blocks that no copy could supply, as paths (newest first, at most 64).
  Task<std::vector<std::string>> damaged_files();
  // Files with blocks that the last scrub could not read because disks are away, as paths; at most 100,000.
  Task<std::vector<std::string>> cut_off_files();

  struct Impl;  // filesystem_impl.hpp; of no use elsewhere

 private:
  explicit Filesystem(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dynamicfs::fs
