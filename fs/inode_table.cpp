#include "fs/inode_table.hpp"

#include <algorithm>

namespace dynamicfs::fs {

Attributes Inode::attributes() const {
  Attributes out;
  attributes_answered.store(true, std::memory_order_seq_cst);  // before the blocks are counted
  out.inode = id;
  out.mode = mode;
  out.nlink = nlink;
  out.uid = uid;
  out.gid = gid;
  out.rdev = rdev;
  out.size_bytes = size_bytes.load(std::memory_order_relaxed);
  if (map) {
    out.blocks_512 = (map->data_blocks() + map->reserved_blocks()) * (kBlockBytes / 512);
  }
  if (symlink) out.size_bytes = symlink->size();
  out.atime_ns = atime_ns.load(std::memory_order_relaxed);
  out.mtime_ns = mtime_ns.load(std::memory_order_relaxed);
  out.ctime_ns = ctime_ns.load(std::memory_order_relaxed);
  out.btime_ns = btime_ns;
  return out;
}

void Inode::touch(Lsn lsn) {
  std::uint64_t seen = last_lsn.load(std::memory_order_relaxed);
  while (seen < lsn.raw &&
         !last_lsn.compare_exchange_weak(seen, lsn.raw, std::memory_order_release)) {
  }
}

InodeRef InodeTable::find(InodeId id) const {
  const Shard& in = shard(id);
  LockGuard lock(in.mutex);
  const auto it = in.inodes.find(id.raw);
  return it == in.inodes.end() ? InodeRef{} : it->second;
}

void InodeTable::insert(InodeRef inode) {
  Shard& into = shard(inode->id);
  const std::uint64_t id = inode->id.raw;
  LockGuard lock(into.mutex);
  if (into.inodes.emplace(id, std::move(inode)).second)
    size_.fetch_add(1, std::memory_order_relaxed);
}

void InodeTable::remove(InodeId id) {
  Shard& from = shard(id);
  InodeRef last;  // destroyed behind the lock
  LockGuard lock(from.mutex);
  const auto it = from.inodes.find(id.raw);
  if (it == from.inodes.end()) return;
  last = std::move(it->second);
  from.inodes.erase(it);
  size_.fetch_sub(1, std::memory_order_relaxed);
}

std::vector<InodeId> InodeTable::ids() const {
  std::vector<InodeId> out;
  out.reserve(size());
  for (const Shard& from : shards_) {
    LockGuard lock(from.mutex);
    for (const auto& [id, inode] : from.inodes) out.emplace_back(id);
  }
  return out;
}

InodeLockSet::InodeLockSet(std::initializer_list<Inode*> inodes) DFS_NO_THREAD_SAFETY_ANALYSIS {
  for (Inode* inode : inodes) {
    if (inode == nullptr) continue;
    DFS_ASSERT(count_ < kMax);
    inodes_[count_++] = inode;
  }
  const auto begin = inodes_.begin();
  std::sort(begin, begin + static_cast<std::ptrdiff_t>(count_),
            [](const Inode* a, const Inode* b) { return a->id < b->id; });
  count_ = static_cast<std::size_t>(
      std::unique(begin, begin + static_cast<std::ptrdiff_t>(count_)) - begin);
  for (std::size_t i = 0; i < count_; ++i) inodes_[i]->mutex.lock();
}

InodeLockSet::~InodeLockSet() DFS_NO_THREAD_SAFETY_ANALYSIS {
  for (std::size_t i = count_; i > 0; --i) inodes_[i - 1]->mutex.unlock();
}

}  // namespace dynamicfs::fs
