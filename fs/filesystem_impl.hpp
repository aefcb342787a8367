// What the parts of Filesystem share: filesystem.cpp (life), names.cpp, attributes in
// filesystem.cpp, file.cpp (data) and checkpoint.cpp. Private to them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/waiters.hpp"
#include "extent/hot_windows.hpp"
#include "fs/change_format.hpp"
#include "fs/filesystem.hpp"
#include "fs/inode_table.hpp"
#include "fs/scrub.hpp"
#include "journal/change_gate.hpp"

namespace dynamicfs::fs {

// Entries of one inode as they go into a run: key and value, sized, one after the other.
using RunImage = Bytes;

// Detached work, so that unmount can wait for it.
class TaskTracker {
 public:
  void enter() { running_.fetch_add(1, std::memory_order_acq_rel); }
  void leave() { running_.fetch_sub(1, std::memory_order_acq_rel); }
  bool idle() const { return running_.load(std::memory_order_acquire) == 0; }

 private:
  std::atomic<std::int64_t> running_{0};
};

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
  };
  std::vector<Edge> edges;
  FileBlock clear_first;
  std::uint64_t clear_count = 0;  // 0: nothing; ~0: to the end
  FileBlock reserve_first;
  std::uint64_t reserve_count = 0;
  std::uint64_t promised_blocks = 0;
  // The size this was planned for; another size at publishing means planning again.
  std::uint64_t size_seen = 0;
  std::optional<std::uint64_t> new_size;
  bool touch_mtime = true;
};

struct Filesystem::Impl {
  Impl(Executor& the_executor, std::unique_ptr<journal::Pool> the_pool,
       FilesystemOptions the_options)
      : executor(the_executor),
        pool(std::move(the_pool)),
        options(the_options),
        store(std::make_unique<extent::Store>(executor, *pool, gate)),
        read_memory(executor, options.read_memory_bytes),
        checkpoint_mutex(executor),
        scrub(std::make_unique<Scrub>(*this)) {}

  // Life (filesystem.cpp).
  Task<Result<void>> load();
  Task<Result<void>> make_root();
  Task<Result<void>> unmount();
  Task<Result<void>> write_everything();
  Task<void> quiesce();
  Task<Result<std::size_t>> count_whole(std::vector<journal::TailRecord> tail);
  Result<void> apply_record(Lsn lsn, std::span<const std::byte> record);
  Result<void> apply_change(Lsn lsn, std::uint8_t type, std::span<const std::byte> body);
  Result<void> apply_run_entry(std::span<const std::byte> key, std::span<const std::byte> value);
  Result<InodeRef> put_inode(const InodeImage& image);
  Result<void> note_all_live();
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
  Task<void> check_disks();
  Task<void> check_disk(DiskId id, std::uint64_t bit);
  Task<void> give_up(DiskId id);
  bool can_lose(DiskId id) const;

  // Helpers.
  std::int64_t now_ns() const { return executor.wall_now().count(); }
  Result<void> writable() const;
  // As writable(), and kNoSpace while metadata has outgrown what is kept for it: for operations
  // that add to it. Removing works all the same.
  Result<void> growable() const;
  Result<InodeRef> find(InodeId id) const;
  static Result<void> check_name(std::string_view name);
  // A number never used before, even by an operation lost in a crash.
  Task<Result<InodeId>> new_inode_id();
  // Removes an inode without name and kernel reference, with its data.
  Task<void> reap(InodeId id);
  void reap_soon(InodeId id);
  // Inside a ChangeScope with the mutex held, nlink and lookups 0. The record gets the removal.
  void remove_locked(RecordWriter& record, Inode& inode) DFS_REQUIRES(inode.mutex);
  // Frees the data of a removed inode. No mutex held.
  void release_data(Inode& inode, Lsn lsn);
  Lsn append(journal::Credit& credit, const RecordWriter& record,
             std::initializer_list<Inode*> concerned);
  static void kill_suid_sgid(Inode& inode) DFS_REQUIRES(inode.mutex);
  std::string path_of(InodeId id) const;

  // Names (names.cpp).
  Task<Result<Attributes>> make(InodeId parent, std::string name, std::uint32_t mode,
                                std::uint32_t rdev, std::string target, Caller caller);
  Task<Result<void>> remove_name(InodeId parent, std::string name, bool directory);
  Task<Result<void>> rename(InodeId from_parent, std::string from_name, InodeId to_parent,
                            std::string to_name, RenameMode mode);
  // True if `directory` is `ancestor` or below it. rename_mutex held.
  bool is_below(InodeId directory, InodeId ancestor) const;

  // Data (file.cpp).
  Task<Result<void>> write(InodeId id, std::uint64_t offset_bytes, std::span<std::byte> data,
                           std::size_t spare_bytes, WriteOptions options_in);
  Task<Result<void>> read_block(Inode& inode, FileBlock block, Buffer& into);
  Task<Result<void>> truncate(InodeRef inode, std::uint64_t size_bytes, AttributeChange change);
  Task<Result<void>> prepare_edges(Inode& inode, Edit* plan);
  void discard_edges(const Edit& plan);
  Task<Result<void>> edit(InodeRef inode, Edit plan, AttributeChange change, bool* again);
  Task<Result<void>> fallocate(InodeId id, FallocateMode mode, std::uint64_t offset_bytes,
                               std::uint64_t size_bytes);

  // Checkpoint (checkpoint.cpp).

  // Before the first modification of an inode since the running checkpoint's instant, inside a
  // ChangeScope. The first wants the mutex held, the second takes it if need be.
  void capture_locked(Inode& inode) DFS_REQUIRES(inode.mutex);
  void capture(Inode& inode) DFS_EXCLUDES(inode.mutex);
  static void serialise(const Inode& inode, RunImage& out) DFS_REQUIRES(inode.mutex);
  Task<Result<void>> checkpoint();
  Task<Result<void>> checkpoint_once();
  Task<Result<void>> switch_run(std::uint64_t number, std::uint64_t limit, Lsn lsn,
                                std::vector<extent::ChunkPut> chunks, journal::Manifest old);
  Task<Result<journal::Manifest>> write_run(std::uint64_t number, std::uint64_t limit,
                                            std::vector<extent::ChunkPut> chunks,
                                            std::uint64_t run_id);
  Task<void> checkpoint_in_background();
  // Everything written so far is on stable storage, on the disks that are left. A disk that fails is
  // reported; kReadOnly when that is one too many.
  Task<Result<void>> flush_disks();
  std::size_t run_copies() const;
  // A disk with a copy of the run is away, and another could take one.
  std::size_t run_copies_here() const;
  bool run_is_thin() const;

  // Fixed at construction.
  Executor& executor;
  std::unique_ptr<journal::Pool> pool;
  FilesystemOptions options;
  journal::ChangeGate gate;
  std::unique_ptr<extent::Store> store;
  std::unique_ptr<journal::Journal> journal;  // set by load()

  // Own synchronisation.
  ByteBudget read_memory;
  InodeTable inodes;
  FilesystemMetrics metrics;
  extent::HotWindows hot_windows;
  MountReport report;
  std::vector<std::string> load_problems;  // with options.tolerant; written by load()
  TaskTracker tasks;
  std::shared_ptr<HousekeepingLink> link = std::make_shared<HousekeepingLink>();
  // Apart, because an unmount ends the others first and may then wait for the disk that is watched.
  std::shared_ptr<HousekeepingLink> watch_link = std::make_shared<HousekeepingLink>();
  std::atomic<std::uint64_t> next_inode{kRootInode.raw + 1};
  std::atomic<std::uint64_t> inode_limit_logged{0};  // numbers below may be handed out ...
  std::atomic<std::uint64_t> inode_limit_lsn{0};     // ... once this record is durable
  std::atomic<std::uint64_t> inode_limit_durable{0};
  std::atomic<std::uint64_t> being_checked{0};  // a bit per disk
  std::atomic<bool> reclaiming{false};
  std::atomic<bool> checkpointing{false};
  std::atomic<bool> closing{false};
  std::atomic<bool> run_thin{false};
  std::atomic<bool> metadata_full{false};  // the last checkpoint did not find room
  AsyncMutex checkpoint_mutex;
  std::atomic<std::uint64_t> checkpoint_number{0};
  std::unique_ptr<Scrub> scrub;

  // Held over a rename of a directory to another parent, so that "is below" stays true.
  // Order: gate, rename_mutex, inodes.
  Mutex rename_mutex;
  Mutex images_mutex;  // leaf
  std::unordered_map<std::uint64_t, RunImage> images DFS_GUARDED_BY(images_mutex);
  mutable Mutex damaged_mutex;  // leaf
  std::vector<InodeId> damaged DFS_GUARDED_BY(damaged_mutex);
};

// Numbers are granted to the allocator of inode numbers in steps of this many, half a step ahead.
inline constexpr std::uint64_t kInodeStep = 64 * 1024;
// More than the fixed part of any record of one operation on names (five inodes, two names).
inline constexpr std::uint64_t kNameRecordBytes = 2048;

}  // namespace dynamicfs::fs
