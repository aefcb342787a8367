// Every inode of the pool, by number, in memory.
//
// Lifetime  An inode lives while it has a name (nlink), a kernel reference (lookups) or an orphan's
//           record; it leaves the table when it is removed. Its memory lives while an InodeRef
//           does.
// Locks     A shard of the table is a leaf, held for a map operation. An inode's mutex guards what
//           it says; several are taken by ascending number (InodeLockSet).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
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

namespace dynamicfs::fs {

struct Inode {
  Inode(InodeId inode_id) : id(inode_id) {}  // NOLINT: implicit

  const InodeId id;
  std::atomic<std::uint32_t> references{0};  // InodeRefs and the table's own
  // The checkpoint that has this inode's state already (captured, or not part of it).
  std::atomic<std::uint64_t> captured{0};
  // The newest record that concerns this inode: what fsync waits for.
  std::atomic<std::uint64_t> last_lsn{0};
  // Written under the mutex; read without it to decide whether a write needs the mutex at all.
  std::atomic<std::uint64_t> size_bytes{0};
  std::atomic<std::int64_t> atime_ns{0};
  std::atomic<std::int64_t> mtime_ns{0};
  std::atomic<std::int64_t> ctime_ns{0};
  std::atomic<bool> has_xattrs{false};
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
  std::unique_ptr<std::map<std::string, std::string>> xattrs DFS_GUARDED_BY(mutex);
  // Regular files; set before the inode is in the table, constant after. Guarded by extent locks.
  std::unique_ptr<extent::FileMap> map;

  bool is_directory() const { return (mode & kTypeMask) == kTypeDirectory; }
  bool is_regular() const { return map != nullptr; }
  Attributes attributes() const DFS_REQUIRES(mutex);
  void touch(Lsn lsn);

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

  InodeRef find(InodeId id) const;
  void insert(InodeRef inode);
  void remove(InodeId id);
  std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  // All numbers, in no order; inodes that come and go meanwhile may be missing.
  std::vector<InodeId> ids() const;

 private:
  static constexpr std::size_t kTableShards = 64;
  struct alignas(64) Shard {
    mutable Mutex mutex;
    std::unordered_map<std::uint64_t, InodeRef> inodes DFS_GUARDED_BY(mutex);
  };
  Shard& shard(InodeId id) { return shards_[id.raw % kTableShards]; }
  const Shard& shard(InodeId id) const { return shards_[id.raw % kTableShards]; }

  std::array<Shard, kTableShards> shards_;
  std::atomic<std::uint64_t> size_{0};
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
