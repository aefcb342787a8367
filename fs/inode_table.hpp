// The inodes that are in memory, by number. The others are in the runs: see residency.cpp.
//
// Lifetime  An inode lives while it has a name (nlink), a kernel reference (lookups) or an orphan's
//           record; it leaves the table when it is removed, or when nobody uses it and the runs have
//           all of it. Its memory, and every part of it that has been loaded, lives while an
//           InodeRef does: nothing is taken out of an inode that somebody refers to.
// Locks     A shard of the table is a leaf, held for a map operation. An inode's mutex guards what
//           it says; several are taken by ascending number (InodeLockSet).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "extent/extent_map.hpp"
#include "fs/directory.hpp"
#include "fs/filesystem.hpp"
#include "fs/kernel_references.hpp"

namespace dynamicfs::fs {

using XattrMap = std::map<std::string, std::string, std::less<>>;

struct Inode {
  Inode(InodeId inode_id) : id(inode_id) {}  // NOLINT: implicit
  ~Inode() {
    if (memory != nullptr) memory->add(~xattrs_bytes + 1);
  }
  Inode(const Inode&) = delete;
  Inode& operator=(const Inode&) = delete;

  const InodeId id;
  std::atomic<std::uint32_t> references{0};  // InodeRefs and the table's own
  std::atomic<bool> used{true};              // since eviction last came by
  // Of the last modification (journal/era.hpp). Written under the mutex.
  std::atomic<std::uint64_t> era{0};
  // The newest era whose checkpoint has what it needs of this inode.
  std::atomic<std::uint64_t> captured{0};
  // A checkpoint has written it, or tried to: the runs may name it.
  std::atomic<bool> stored{false};
  // The newest record that concerns this inode: what fsync waits for.
  std::atomic<std::uint64_t> last_lsn{0};
  // So many disks had gone (Pool::losses()) when fsync() last saw that nothing of it went with them.
  std::atomic<std::uint32_t> losses_seen{0};
  // Written under the mutex; read without it to decide whether a write needs the mutex at all.
  std::atomic<std::uint64_t> size_bytes{0};
  std::atomic<std::int64_t> atime_ns{0};
  std::atomic<std::int64_t> mtime_ns{0};
  std::atomic<std::int64_t> ctime_ns{0};
  std::atomic<std::uint32_t> flags{0};  // likewise: kFlagImmutable ...
  std::atomic<bool> has_xattrs{false};
  std::atomic<std::uint32_t> own_policy{0};  // of kPolicyXattr: journal::Policy::packed(); 0: none
  // If its policy keeps it on one disk: which, and 1; 0: nobody has asked since it came into memory (whole_files.cpp).
  std::atomic<std::uint32_t> home{0};
  // A write was refused for its flags: the kernel has stamped it all the same, and will say so.
  std::atomic<bool> stamp_refused{false};
  // Attributes were answered since the last cached write: the kernel may hold a number of blocks
  // that is outdated now.
  mutable std::atomic<bool> attributes_answered{false};

  std::atomic<bool> removed{false};  // no longer in the table; set under the mutex

  Mutex mutex;
  std::uint32_t mode DFS_GUARDED_BY(mutex) = 0;
  std::uint32_t nlink DFS_GUARDED_BY(mutex) = 0;
  std::uint32_t uid DFS_GUARDED_BY(mutex) = 0;
  std::uint32_t gid DFS_GUARDED_BY(mutex) = 0;
  std::uint32_t rdev DFS_GUARDED_BY(mutex) = 0;
  std::int64_t btime_ns DFS_GUARDED_BY(mutex) = 0;
  InodeId parent DFS_GUARDED_BY(mutex);  // directories only
  std::uint64_t lookups DFS_GUARDED_BY(mutex) = 0;
  std::unique_ptr<Directory> directory DFS_GUARDED_BY(mutex);
  std::unique_ptr<std::string> symlink DFS_GUARDED_BY(mutex);
  std::unique_ptr<XattrMap> xattrs DFS_GUARDED_BY(mutex);
  std::uint64_t xattrs_era DFS_GUARDED_BY(mutex) = 0;
  std::uint64_t xattrs_bytes DFS_GUARDED_BY(mutex) = 0;  // as counted in `memory`
  Counter* memory DFS_GUARDED_BY(mutex) = nullptr;
  // Regular files; set before the inode is in the table, constant after. Guarded by extent locks.
  std::unique_ptr<extent::FileMap> map;

  bool is_directory() const { return (mode & kTypeMask) == kTypeDirectory; }
  bool is_regular() const { return map != nullptr; }
  bool has_flag(std::uint32_t any) const {
    return (flags.load(std::memory_order_acquire) & any) != 0;
  }
  Attributes attributes() const DFS_REQUIRES(mutex);
  void touch(Lsn lsn);
  // They are others now: what follows from them, and what they take, counted in `total`, which outlives this.
  void note_xattrs(Counter& total) DFS_REQUIRES(mutex);

  static constexpr std::uint32_t kTypeMask = 0170000;
  static constexpr std::uint32_t kTypeDirectory = 0040000;
  static constexpr std::uint32_t kTypeRegular = 0100000;
  static constexpr std::uint32_t kTypeSymlink = 0120000;
};

// Keeps the memory of an inode; says nothing about whether it still has a name.
class InodeRef {
 public:
  InodeRef() = default;
  explicit InodeRef(Inode* inode) : inode_(inode) {
    if (inode_ != nullptr) inode_->references.fetch_add(1, std::memory_order_relaxed);
  }
  InodeRef(const InodeRef& other) : InodeRef(other.inode_) {}
  InodeRef(InodeRef&& other) noexcept : inode_(std::exchange(other.inode_, nullptr)) {}
  InodeRef& operator=(InodeRef other) noexcept {
    std::swap(inode_, other.inode_);
    return *this;
  }
  ~InodeRef() {
    if (inode_ != nullptr && inode_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      delete inode_;
    }
  }
  Inode* operator->() const { return inode_; }
  Inode& operator*() const { return *inode_; }
  Inode* get() const { return inode_; }
  explicit operator bool() const { return inode_ != nullptr; }

 private:
  Inode* inode_ = nullptr;
};

class InodeTable {
 public:
  InodeTable() = default;
  InodeTable(const InodeTable&) = delete;
  InodeTable& operator=(const InodeTable&) = delete;

  static constexpr std::size_t kTableShards = 64;

  // In memory; marks it used.
  InodeRef find(InodeId id) const;
  // A new one, or one that was loaded: that takes over the kernel's references that were kept for it.
  void insert(InodeRef inode);
  // Its number is not used again. `stored`: the runs may name it, so the next checkpoint has to say
  // that it is gone, and until then loading it is refused.
  void remove(InodeId id, std::uint64_t era, bool stored);
  std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  // All numbers, in no order; inodes that come and go meanwhile may be missing.
  std::vector<InodeId> ids() const;

  // Modified for the first time in this era.
  void note_dirty(InodeId id);
  // Those noted since the last call, and all that are removed and not yet known to the runs to be.
  struct Dirty {
    std::vector<InodeId> modified;
    std::vector<InodeId> removed;
  };
  Dirty take_dirty();
  bool is_removed(InodeId id) const;
  // The runs know of what was removed in an era before this one.
  void forget_removed(std::uint64_t installed);

  // Takes out of one shard what `cold` says may go: called with the shard locked, for inodes that
  // only the table refers to. Keeps the kernel's references to them.
  std::size_t evict(std::size_t shard, const std::function<bool(Inode&)>& cold);
  // Gives back references of the kernel to an inode that is not in memory. False: it is, or has none.
  bool forget_evicted(InodeId id, std::uint64_t references);
  bool is_evicted(InodeId id) const;
  // Of what is kept of inodes that are not in memory and that the kernel refers to.
  std::uint64_t reference_bytes() const {
    return reference_pages_.load(std::memory_order_relaxed) * KernelReferences::kPageBytes;
  }

 private:
  struct alignas(64) Shard {
    mutable Mutex mutex;
    std::unordered_map<std::uint64_t, InodeRef> inodes DFS_GUARDED_BY(mutex);
    KernelReferences kernel_references DFS_GUARDED_BY(mutex);  // by id / kTableShards
    std::unordered_map<std::uint64_t, std::uint64_t> removed DFS_GUARDED_BY(mutex);  // era
    std::vector<InodeId> dirty DFS_GUARDED_BY(mutex);
  };
  Shard& shard(InodeId id) { return shards_[id.raw % kTableShards]; }
  const Shard& shard(InodeId id) const { return shards_[id.raw % kTableShards]; }
  void set_references(Shard& shard, InodeId id, std::uint64_t count) DFS_REQUIRES(shard.mutex);

  std::array<Shard, kTableShards> shards_;
  std::atomic<std::uint64_t> size_{0};
  std::atomic<std::uint64_t> reference_pages_{0};
};

// Locks up to five inodes in ascending order of their numbers; the same inode twice counts once.
class InodeLockSet {
 public:
  InodeLockSet(std::initializer_list<Inode*> inodes);
  ~InodeLockSet();
  InodeLockSet(const InodeLockSet&) = delete;
  InodeLockSet& operator=(const InodeLockSet&) = delete;

 private:
  static constexpr std::size_t kMax = 5;
  std::array<Inode*, kMax> inodes_{};
  std::size_t count_ = 0;
};

}  // namespace dynamicfs::fs
