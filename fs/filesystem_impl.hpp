// What the parts of Filesystem share: filesystem.cpp (life), replay.cpp (recovery), residency.cpp
// (what is in memory), names.cpp, attributes.cpp, file.cpp (data), clone.cpp, checkpoint.cpp,
// tree_repair.cpp and the scrub. Private to them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/waiters.hpp"
#include "extent/hot_windows.hpp"
#include "fs/background_task.hpp"
#include "fs/change_format.hpp"
#include "fs/compaction.hpp"
#include "fs/filesystem.hpp"
#include "fs/inode_table.hpp"
#include "fs/rebuild.hpp"
#include "fs/resync.hpp"
#include "fs/scrub.hpp"
#include "journal/change_gate.hpp"
#include "journal/run_cursor.hpp"
#include "journal/run_merge.hpp"
#include "journal/run_mixer.hpp"
#include "journal/run_set.hpp"

namespace dynamicfs::fs {

// Entries of one inode as they go into a run, one after the other: kind, key, value, the last two
// sized.
using RunImage = Bytes;

// Lets a periodic loop outlive the file system it served: it looks here after every sleep.
struct HousekeepingLink {
  void join(Filesystem::Impl* served) {
    LockGuard lock(mutex);
    impl = served;
  }
  void cut() { join(nullptr); }

  Mutex mutex;
  Filesystem::Impl* impl DFS_GUARDED_BY(mutex) = nullptr;
};

// A change of data that may rewrite the partly covered blocks at its ends: truncate and fallocate.
struct Edit {
  struct Edge {
    FileBlock block;
    std::size_t zero_from = 0;  // bytes of the block that become zeros
    std::size_t zero_to = 0;
    bool mapped = false;  // there was data to rewrite
    extent::MappingSet seen;
    extent::Written written;
    std::optional<DiskId> home;  // that it was written for, if the file is kept whole
  };
  std::vector<Edge> edges;
  journal::Policy policy;  // that they were written under
  FileBlock clear_first;
  std::uint64_t clear_count = 0;  // 0: nothing; ~0: to the end
  FileBlock reserve_first;
  std::uint64_t reserve_count = 0;
  std::uint64_t promised_blocks = 0;
  // The size this was planned for; another size at publishing means planning again.
  std::uint64_t size_seen = 0;
  std::optional<std::uint64_t> new_size;
  bool touch_mtime = true;
  std::uint32_t refused_by = 0;  // flags of the file
};

// Of what metadata may take in memory, one in so many bytes keeps blocks of the runs.
inline constexpr std::uint64_t kRunCacheShare = 8;

struct Filesystem::Impl {
  Impl(Executor& the_executor, std::unique_ptr<journal::Pool> the_pool,
       FilesystemOptions the_options)
      : executor(the_executor),
        pool(std::move(the_pool)),
        options(the_options),
        store(std::make_unique<extent::Store>(executor, *pool, gate, eras)),
        runs(executor, *pool, options.metadata_memory_bytes / kRunCacheShare),
        read_memory(executor, options.read_memory_bytes),
        checkpoint_mutex(executor),
        policy_mutex(executor),
        scrub(std::make_unique<Scrub>(*this)),
        compaction(std::make_unique<Compaction>(*this)),
        rebuild(std::make_unique<Rebuild>(*this)),
        resync(std::make_unique<Resync>(*this)) {}

  // Life (filesystem.cpp).
  Task<Result<void>> load();
  Task<Result<void>> make_root();
  Task<Result<void>> unmount();
  Task<Result<void>> write_everything();
  Task<void> quiesce();
  void on_progress();
  void checkpoint_if_due();
  bool checkpoint_is_due() const;
  bool log_is_filling() const;
  Task<void> reclaim_once();
  static Task<void> every(Duration interval, std::shared_ptr<HousekeepingLink> link,
                          Executor& executor, Task<void> (Impl::*what)());
  void begin_housekeeping();
  Task<void> tend();
  Task<void> watch_disks();
  Task<void> close_failed();
  Task<void> check_disks();
  Task<void> check_disk(DiskId id, std::uint64_t bit);
  Task<void> give_up(DiskId id, const scheduler::Disk* disk);
  bool can_lose(DiskId id) const;

  // Helpers.
  std::int64_t now_ns() const { return executor.wall_now().count(); }
  Result<void> writable() const;
  // As writable(), and kNoSpace while metadata has outgrown what is kept for it: for operations
  // that add to it. Removing works all the same.
  Result<void> growable() const;
  static Result<void> check_name(std::string_view name);
  // A number never used before, even by an operation lost in a crash.
  Task<Result<InodeId>> new_inode_id();
  // Removes an inode without name and kernel reference, with its data.
  Task<void> reap(InodeId id);
  void reap_soon(InodeId id);
  // Inside a ChangeScope with the mutex held, nlink and lookups 0, all windows in memory. The record
  // gets the removal.
  void remove_locked(RecordWriter& record, Inode& inode) DFS_REQUIRES(inode.mutex);
  // Behind it, in the same scope: frees the data. `lsn` is the removal's.
  void release_data(Inode& inode, Lsn lsn) DFS_REQUIRES(inode.mutex);
  // Its last name has gone while it is in use, or is there again.
  void note_orphan(const Inode& inode) DFS_REQUIRES(inode.mutex);
  Lsn append(journal::Credit& credit, const RecordWriter& record,
             std::initializer_list<Inode*> concerned);
  static void kill_suid_sgid(Inode& inode) DFS_REQUIRES(inode.mutex);
  void free_data(const extent::Freed& freed, Lsn lsn);
  extent::ExtentLocks::Guard lock_all_windows(Inode& inode) DFS_REQUIRES(inode.mutex);
  Task<std::optional<std::pair<InodeId, std::string>>> name_of(InodeId id);
  Task<std::string> path_of(InodeId id);
  // Of those that have a name.
  Task<std::vector<std::string>> paths_of(std::vector<InodeId> ids);
  // nullptr: it has none of that name. Valid until its attributes change.
  static const std::string* find_xattr(const Inode& inode, std::string_view name)
      DFS_REQUIRES(inode.mutex);
  void chmod_acl(Inode& inode, const std::string& value, RecordWriter& record)
      DFS_REQUIRES(inode.mutex);
  // `value` is the default list of the directory in which it is being made. False: it is none.
  bool inherit_acl(Inode& inode, const std::string& value) DFS_REQUIRES(inode.mutex);
  void put_xattr(Inode& inode, std::string name, std::string value) DFS_REQUIRES(inode.mutex);
  void remove_xattr(Inode& inode, const std::string& name) DFS_REQUIRES(inode.mutex);
  DirectoryContext directory_context() { return {eras, metadata_memory}; }

  // Names (names.cpp).
  Task<Result<Attributes>> make(InodeId parent, std::string name, std::uint32_t mode,
                                std::uint32_t rdev, std::string target, Caller caller);
  // Of an inode that is new: what it has from its maker and from the directory it is made in.
  void set_up(Inode& inode, const Inode& directory, std::uint32_t mode, const Caller& caller,
              const std::string* acl) DFS_REQUIRES(inode.mutex, directory.mutex);
  // Somebody has read it: relatime, in memory; it goes to disk with the inode's next record or the next
  // checkpoint.
  void note_read(Inode& inode) DFS_EXCLUDES(inode.mutex);
  Task<Result<void>> remove_name(InodeId parent, std::string name, bool directory);
  Task<Result<void>> rename(InodeId from_parent, std::string from_name, InodeId to_parent,
                            std::string to_name, RenameMode mode, std::optional<Caller> whiteout);
  // True if `directory` is `ancestor` or below it; nothing if one of those above it is not in memory.
  // rename_mutex held.
  std::optional<bool> is_below(InodeId directory, InodeId ancestor) const;
  // All directories above this one, which stay in memory while they are referred to.
  Task<Result<std::vector<InodeRef>>> ancestors(InodeId directory);
  Task<Result<void>> load_if_last(Inode& inode);
  Result<void> missing(Inode& directory, std::string_view name, InodeId inode);

  // Recovery (replay.cpp).
  Task<Result<void>> load_pool_state();
  struct Wanted;
  Task<void> load_ahead(std::vector<journal::TailRecord> records);
  Task<Result<void>> load_wanted(Wanted what);
  Task<Result<void>> apply_record(Lsn lsn, std::span<const std::byte> record);
  Task<Result<void>> apply_change(Lsn lsn, std::uint8_t type, std::span<const std::byte> body);
  Task<Result<void>> put_inode(InodeImage image);
  Task<Result<void>> remove_inode(InodeId id);
  Task<Result<void>> put_extents(Lsn lsn, extent::ExtentPut change, bool shares);
  Task<Result<void>> clear_extents(extent::ExtentClear change);
  Task<Result<void>> reserve_extents(Lsn lsn, extent::ExtentReserve change);
  Result<void> settle(const extent::Freed& freed);
  static void take_image(Inode& inode, const InodeImage& image) DFS_REQUIRES(inode.mutex);
  // Found, with what is to be changed of it in memory, and marked modified.
  Task<Result<InodeRef>> inode_to_change(InodeId id);
  Task<Result<InodeRef>> directory_to_change(InodeId id, std::uint64_t cookie);
  Task<Result<InodeRef>> file_to_change(InodeId id, FileBlock first, std::uint64_t count);
  Task<Result<std::size_t>> count_whole(std::vector<journal::TailRecord> tail);

  // Salvage (salvage.cpp).
  using LostKeys = journal::MergedEntries::Lost;
  void note_doubt(InodeId inode, const std::function<void(SalvageDoubt&)>& note);
  void note_failed_change(std::uint8_t type, std::span<const std::byte> body);
  // Of the windows in [begin, end) those that `lost` may have had are looked up one by one, so that the
  // filters of the runs tell most of them from holes; what remains is in doubt, and looks like a hole.
  Task<Result<void>> salvage_windows(Inode& inode, std::vector<LostKeys> lost, std::uint64_t begin,
                                     std::uint64_t end);
  Task<Result<void>> salvage_window(Inode& inode, WindowId window);
  // While a run is lost. `sure`: no newer record of the inode can be lost. The inode is not in the table
  // yet.
  Task<Result<void>> salvage_whole(Inode& inode, StoredInode stored, bool sure);
  Task<Result<void>> salvage_map(Inode& inode, StoredInode stored, bool sure);
  Task<Result<void>> salvage_names(Inode& inode, StoredInode stored, bool sure);
  void note_lost_head(InodeId inode, const std::vector<LostKeys>& lost, bool sure,
                      bool xattrs_sure);
  // The log has an inode that no run that is left knows of.
  void note_unknown(const InodeImage& image);
  // The log says how long a file is: what there was behind that is none of it any more.
  void salvage_end(Inode& inode, std::uint64_t size_before, std::uint64_t size_bytes);
  // Repair (tree_repair.cpp), behind the replay and before the store starts.
  Task<Result<void>> repair_tree();

  // Residency (residency.cpp): what is in memory, and what is read from the runs when it is needed.
  // What has been loaded stays while the InodeRef does.

  // kStale: there is no such inode.
  MaybeTask<Result<InodeRef>> find(InodeId id);
  Task<Result<InodeRef>> load_inode(InodeId id);
  Task<Result<InodeRef>> read_inode(InodeId id);
  // What the directory has in memory decides about this name afterwards, and about the places it
  // may take.
  MaybeTask<Result<void>> load_name(Inode& directory, std::string_view name,
                                    bool for_a_new_one = false);
  Task<Result<void>> read_name(Inode& directory, std::uint64_t first);
  // All entries with cookies in [from, result) are in memory, and there is one at least, or the end is
  // reached: then the result is ~0.
  Task<Result<std::uint64_t>> load_entries(Inode& directory, std::uint64_t from);
  Task<Result<void>> load_cookies(Inode& directory, std::uint64_t from, std::uint64_t end);
  // Some of the windows from this one on are in memory: all that there are in front of the result;
  // ~0: the end is reached.
  Task<Result<std::uint64_t>> load_some_windows(
      Inode& inode, std::uint64_t window,
      scheduler::IoClass io_class = scheduler::IoClass::kCritical);
  // Calls `look` for what is data of the file, until it says no.
  Task<Result<void>> walk_data(InodeId inode, scheduler::IoClass io_class,
                               std::function<bool(const extent::Mapping&)> look);
  // For fsync(), when so many disks have gone: kDiskGone if what is not durable of the file cannot be read any more.
  Task<Result<void>> check_unsynced(InodeId inode, std::uint32_t losses);
  // All windows that these blocks touch are in memory; `count` ~0: to the end.
  MaybeTask<Result<void>> load_windows(Inode& inode, FileBlock first, std::uint64_t count);
  Task<Result<void>> read_windows(Inode& inode, FileBlock first, std::uint64_t count);
  // Which keys the runs have of an inode.
  struct StoredKeys {
    bool head = false;
    bool windows = false;
    bool entries = false;
    bool others = false;

    void note(KeyTag tag) {
      (tag == KeyTag::kInode    ? head
       : tag == KeyTag::kWindow ? windows
       : tag == KeyTag::kEntry  ? entries
                                : others) = true;
    }
    bool none() const { return !head && !windows && !entries && !others; }
  };
  // Everything, of all inodes, ascending: for check_tree(). It stays while they are referred to. What
  // does not go together is in `stored_problems`.
  Task<Result<std::vector<InodeRef>>> load_everything();
  void note_stored(InodeId id, const StoredKeys& keys, const Inode* inode);
  std::uint64_t metadata_bytes() const;
  std::uint64_t metadata_bytes_max() const;
  // Evicts if there is too much in memory.
  void look_at_memory();
  Task<void> evict();
  struct Evicted {
    std::size_t inodes = 0;
    bool dirty_left = false;  // a checkpoint would let more go
  };
  // A shard of the table at a time, from where it stopped the last time, as long as there are more
  // than `goal_bytes` in memory.
  Evicted evict_once(bool recently_used_too, std::uint64_t goal_bytes);

  // Data (file.cpp).
  Task<Result<void>> write(InodeId id, std::uint64_t offset_bytes, std::span<std::byte> data,
                           std::size_t spare_bytes, WriteOptions options_in);
  // Of a write to an append-only file: how much of it, from the beginning, is not behind the end; `*same`
  // says whether that is there already as it is.
  Task<Result<std::size_t>> already_there(InodeRef inode, std::uint64_t offset_bytes,
                                          std::span<const std::byte> data, bool* same);
  Task<Result<void>> read_block(Inode& inode, FileBlock block, Buffer& into);
  Task<Result<void>> truncate(InodeRef inode, std::uint64_t size_bytes, AttributeChange change);
  Task<Result<void>> prepare_edges(Inode& inode, Edit* plan);
  void discard_edges(const Edit& plan);
  Task<Result<void>> edit(InodeRef inode, Edit plan, AttributeChange change, bool* again);
  Task<Result<void>> fallocate(InodeId id, FallocateMode mode, std::uint64_t offset_bytes,
                               std::uint64_t size_bytes, bool kernel_keeps_times);

  // What a write up to `end_bytes` does to size, times and mode; true if it changes any. The inode's
  // windows there are locked.
  bool note_written(Inode& inode, std::uint64_t end_bytes, std::int64_t now,
                    WriteOptions write_options) DFS_REQUIRES(inode.mutex);
  std::int64_t write_time_ns() const;
  // How many blocks a write to this range gives back: those that are mapped and that no other mapping
  // names.
  std::uint64_t replaced_blocks(const Inode& inode, FileBlock first, std::uint64_t blocks) const;

  // Policies (policy.cpp).
  journal::Policy policy_of(const Inode& inode) const {
    const std::uint32_t own = inode.own_policy.load(std::memory_order_acquire);
    return own != 0 ? journal::Policy::unpacked(own) : pool->policy();
  }
  // Before the inode gets it (nothing: it loses its own), with policy_mutex held until it has: the pool is ready for it, and
  // knows that there may be something to encode anew. kTooFewDisks, kReadOnly.
  Task<Result<void>> prepare_for_policy(const Inode& inode, std::optional<journal::Policy> own);
  // Behind that: it has got it.
  Task<Result<void>> note_policy_set(const Inode& inode);

  // Files that are kept whole on one disk (whole_files.cpp).

  // Where what is written of it goes. kNoSpace: there is no disk.
  Task<Result<DiskId>> home_of(Inode& inode);
  // Where what is moved of it goes. Nothing: nowhere now, for the rest of it would not be there.
  Task<Result<std::optional<DiskId>>> home_to_move(Inode& inode);
  // Its home becomes `to` if it is `from`, or, if that is nothing, if the file has no data. What has been written for
  // another is not published any more.
  bool pin_home(Inode& inode, std::optional<std::uint32_t> from, DiskId to);
  void leave_if_cramped(Inode& inode, DiskId home, std::uint64_t blocks);
  static bool is_promised(const Inode& inode, FileBlock first, std::uint64_t blocks);
  // Before what was written so is published, if it lies elsewhere: the file goes on there, and the superblock knows
  // that it is to be put together. An error, of a superblock, gives back what was written.
  Task<Result<void>> note_spill(Inode& inode, const extent::WriteHint& hint,
                                const extent::Written& written);
  // When it is published: that is still where the file lies. Else it is to be written again.
  static bool is_at_home(const Inode& inode, std::optional<DiskId> home,
                         const extent::Written& written);
  // Some are cut, or about to be; this one gets another home, if it has `from`.
  Task<Result<void>> note_scattered_files(Inode* inode = nullptr, std::uint32_t from = 0,
                                          DiskId to = {});
  struct Spread {
    std::vector<std::pair<DiskId, std::uint64_t>> blocks;  // in chunks of whole files; most first
    std::uint64_t all = 0;                                 // in any
    Result<void> outcome;  // an error: the map behind that cannot be read
  };
  // Of the first `windows_max` windows that have data.
  Task<Spread> where_it_lies(Inode& inode, std::uint64_t windows_max);
  struct Fit {
    std::optional<DiskId> home;  // nothing: no disk that stays has room for all of it
    std::optional<DiskId> most;  // has most of what is in chunks of whole files
  };
  // The disk on which a file is put together that lies on several, or otherwise: its home from now on.
  Task<Result<Fit>> where_it_fits(InodeRef inode);

  // Clones (clone.cpp).
  Counter clone_steps;  // grows with each: what a scrub has passed may name what it has not
  struct CloneStep;
  Task<void> load_source(InodeRef source, FileBlock first, std::uint64_t blocks);
  Task<Result<std::uint64_t>> clone_step(CloneStep step);
  Task<Result<void>> copy_bytes(InodeRef source, std::uint64_t source_bytes, InodeRef target,
                                std::uint64_t target_bytes, std::size_t size,
                                WriteOptions write_options);
  Task<Result<std::uint64_t>> clone(InodeRef source, std::uint64_t source_bytes, InodeRef target,
                                    std::uint64_t target_bytes, std::uint64_t size_bytes,
                                    WriteOptions write_options);

  // Checkpoint (checkpoint.cpp).

  // Before a modification of an inode, inside a ChangeScope: the running checkpoint gets its state of
  // the instant, and the next one will look at it. The first wants the mutex held, the second takes
  // it if need be.
  void modify_locked(Inode& inode) DFS_REQUIRES(inode.mutex);
  void modify(Inode& inode) DFS_EXCLUDES(inode.mutex);
  // The same for one that is new, before it is in the table.
  void modify_new(Inode& inode) DFS_REQUIRES(inode.mutex);
  // What is dirty of it, as entries of a run.
  void serialise(Inode& inode, RunImage& out) DFS_REQUIRES(inode.mutex);
  void serialise_xattrs(const Inode& inode, ByteWriter& out) DFS_REQUIRES(inode.mutex);
  struct Instant;
  Task<Result<void>> checkpoint();
  // `replaced` are written anew with what has changed.
  Task<Result<void>> checkpoint_once(journal::RunSet::Runs replaced);
  Task<Result<void>> switch_run(const Instant& instant, journal::RunSet::Runs replaced);
  bool note_if_full(const Result<void>& result);
  static bool note_if_unreadable(const Error& why, const journal::RunSet::Runs& inputs);
  Task<Result<void>> write_changes(const Instant& instant, journal::RunMixer& out);
  Task<Result<journal::RunRef>> write_run(const Instant& instant, journal::RunSet::Runs inputs,
                                          bool to_bottom);
  Task<Result<void>> commit_runs(journal::Manifest manifest, journal::RunRef fresh,
                                 journal::RunSet::Runs replaced);
  Result<std::vector<DiskId>> disks_for_run() const;
  // The runs that are newer than any that cannot be read, newest first: what may be written anew.
  journal::RunSet::Runs readable_runs() const;
  journal::RunSet::Runs runs_to_replace() const;
  void drop_run(const journal::RunRef& run);
  void merge_if_due();
  std::optional<journal::RunSet::Runs> next_merge() const;
  Task<void> merge_in_background();
  Task<Result<void>> merge(journal::RunSet::Runs inputs);
  Task<void> checkpoint_in_background();
  // Everything written so far is on stable storage, on the disks that are left. A disk that fails is
  // reported; kReadOnly when that is one too many.
  Task<Result<void>> flush_disks();
  std::size_t run_copies() const;
  std::size_t copies_here(const journal::RunRef& run) const;
  // A disk with a copy of the run is away, and another could take one.
  std::size_t run_copies_here() const;
  bool run_is_thin() const;

  // Fixed at construction.
  Executor& executor;
  std::unique_ptr<journal::Pool> pool;
  FilesystemOptions options;
  journal::ChangeGate gate;
  journal::Eras eras;
  std::unique_ptr<extent::Store> store;
  journal::RunSet runs;
  std::unique_ptr<journal::Journal> journal;  // set by load()

  // Own synchronisation.
  ByteBudget read_memory;
  Counter metadata_memory;  // of names and attributes; windows and runs count for themselves
  InodeTable inodes;
  FilesystemMetrics metrics;
  extent::HotWindows hot_windows;
  MountReport report;
  std::vector<std::string> load_problems;  // with options.tolerant; written by load()
  RepairReport repairs;                    // with options.repair; likewise
  // What the runs have of inodes that cannot be so; written by load_everything().
  std::vector<std::string> stored_problems;
  TaskTracker tasks;
  std::shared_ptr<HousekeepingLink> link = std::make_shared<HousekeepingLink>();
  // Apart, because an unmount ends the others first and may then wait for the disk that is watched.
  std::shared_ptr<HousekeepingLink> watch_link = std::make_shared<HousekeepingLink>();
  std::atomic<std::uint64_t> next_inode{kRootInode.raw + 1};
  std::atomic<std::uint64_t> inode_limit_logged{0};  // numbers below may be handed out ...
  std::atomic<std::uint64_t> inode_limit_lsn{0};     // ... once this record is durable
  std::atomic<std::uint64_t> inode_limit_durable{0};
  std::atomic<std::uint64_t> being_checked{0};  // a bit per disk
  std::atomic<AtimeRules> atime_rules{options.atime};
  std::atomic<bool> reclaiming{false};
  std::atomic<bool> checkpointing{false};
  std::atomic<bool> closing{false};
  std::atomic<bool> run_thin{false};
  std::uint64_t members_settled_at = 0;    // Pool::changes(); tend() alone
  std::atomic<bool> metadata_full{false};  // the last checkpoint did not find room
  std::atomic<bool> merging{false};
  std::atomic<TimePoint> merge_again_at{TimePoint{}};
  std::atomic<std::uint64_t> merging_from{0};  // the newest run that is being merged; 0: none
  std::atomic<bool> may_evict{false};          // recovery has ended
  std::atomic<bool> evicting{false};
  std::atomic<std::size_t> evict_next{0};  // shard of the table, modulo their number
  std::atomic<TimePoint> evict_again_at{TimePoint{}};
  std::atomic<std::uint64_t> inode_count{0};
  std::atomic<std::uint64_t> reserved_blocks{0};  // of all files
  std::atomic<std::uint64_t> next_run{1};
  AsyncMutex checkpoint_mutex;
  AsyncMutex
      policy_mutex;  // taken before that, and before journal space: whoever changes a policy, or says that all is encoded
  std::unique_ptr<Scrub> scrub;
  std::unique_ptr<Compaction> compaction;
  // When so many disks had gone everything could be read, or not everything.
  std::atomic<std::uint32_t> harmless_losses{0};
  std::atomic<std::uint32_t> harmful_losses{0};
  std::unique_ptr<Rebuild> rebuild;
  std::unique_ptr<Resync> resync;

  // Held over a rename of a directory to another parent, so that "is below" stays true.
  // Order: gate, rename_mutex, inodes.
  Mutex rename_mutex;
  Mutex images_mutex;  // leaf
  std::unordered_map<std::uint64_t, RunImage> images DFS_GUARDED_BY(images_mutex);
  Mutex orphans_mutex;  // leaf
  std::set<std::uint64_t> orphans DFS_GUARDED_BY(orphans_mutex);
  Mutex loading_mutex;  // leaf
  std::unordered_map<std::uint64_t, std::shared_ptr<AsyncEvent>> loading
      DFS_GUARDED_BY(loading_mutex);
  std::vector<InodeId> unwritten;  // checkpoint_mutex: modified, of checkpoints that failed
  mutable Mutex damaged_mutex;     // leaf
  std::vector<InodeId> damaged DFS_GUARDED_BY(damaged_mutex);
  SalvageReport salvage;       // what load() has found
  InodeId being_made;          // by the record that is applied; 0: none. Of recovery alone
  mutable Mutex doubts_mutex;  // leaf
  std::unordered_map<std::uint64_t, SalvageDoubt> doubts DFS_GUARDED_BY(doubts_mutex);
};

// Numbers are granted to the allocator of inode numbers in steps of this many, half a step ahead.
inline constexpr std::uint64_t kInodeStep = 64 * 1024;
// What an ExtentPut adds to a record per piece and per block, with room to spare.
inline constexpr std::uint64_t kPutFixedBytes = 512;
inline constexpr std::uint64_t kPutBytesPerBlock = 4 + 8;
// More than the fixed part of any record of one operation on names (five inodes, two names).
inline constexpr std::uint64_t kNameRecordBytes = 2048;

}  // namespace dynamicfs::fs
