#include "fs/inode_table.hpp"

#include <algorithm>

#include "base/assert.hpp"

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
  out.flags = flags.load(std::memory_order_relaxed);
  return out;
}

void Inode::note_xattrs(Counter& total) {
  has_xattrs.store(!xattrs->empty(), std::memory_order_release);
  const auto found = xattrs->find(kPolicyXattr);
  std::optional<journal::Policy> policy;
  if (found != xattrs->end()) policy = journal::Policy::parse(found->second);
  own_policy.store(policy ? policy->packed() : 0, std::memory_order_release);
  constexpr std::uint64_t kNodeBytes = 112;
  std::uint64_t bytes = 0;
  for (const auto& [name, value] : *xattrs) bytes += kNodeBytes + name.size() + value.size();
  memory = &total;
  total.add(bytes - xattrs_bytes);
  xattrs_bytes = bytes;
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
  if (it == in.inodes.end()) return {};
  std::atomic<bool>& used = it->second->used;
  if (!used.load(std::memory_order_relaxed)) used.store(true, std::memory_order_relaxed);
  return it->second;
}

void InodeTable::insert(InodeRef inode) DFS_NO_THREAD_SAFETY_ANALYSIS {
  Shard& into = shard(inode->id);
  const std::uint64_t id = inode->id.raw;
  LockGuard lock(into.mutex);
  const std::uint64_t kept = into.kernel_references.count(id / kTableShards);
  if (kept != 0) {
    inode->lookups += kept;  // nobody else knows this inode yet
    set_references(into, inode->id, 0);
  }
  const bool fresh = into.inodes.emplace(id, std::move(inode)).second;
  DFS_ASSERT(fresh);
  size_.fetch_add(1, std::memory_order_relaxed);
}

void InodeTable::remove(InodeId id, std::uint64_t era, bool stored) {
  Shard& from = shard(id);
  InodeRef last;  // destroyed behind the lock
  LockGuard lock(from.mutex);
  if (stored) from.removed.emplace(id.raw, era);
  const auto it = from.inodes.find(id.raw);
  if (it == from.inodes.end()) return;
  last = std::move(it->second);
  from.inodes.erase(it);
  size_.fetch_sub(1, std::memory_order_relaxed);
}

void InodeTable::note_dirty(InodeId id) {
  Shard& in = shard(id);
  LockGuard lock(in.mutex);
  in.dirty.push_back(id);
}

InodeTable::Dirty InodeTable::take_dirty() {
  Dirty out;
  for (Shard& from : shards_) {
    LockGuard lock(from.mutex);
    out.modified.insert(out.modified.end(), from.dirty.begin(), from.dirty.end());
    from.dirty.clear();
    for (const auto& [id, era] : from.removed) out.removed.emplace_back(id);
  }
  return out;
}

bool InodeTable::is_removed(InodeId id) const {
  const Shard& in = shard(id);
  LockGuard lock(in.mutex);
  return in.removed.contains(id.raw);
}

void InodeTable::forget_removed(std::uint64_t installed) {
  for (Shard& in : shards_) {
    LockGuard lock(in.mutex);
    std::erase_if(in.removed, [&](const auto& entry) { return entry.second < installed; });
  }
}

std::size_t InodeTable::evict(std::size_t index, const std::function<bool(Inode&)>& cold)
    DFS_NO_THREAD_SAFETY_ANALYSIS {
  std::vector<InodeRef> evicted;  // destroyed behind the lock
  Shard& from = shards_[index];
  LockGuard lock(from.mutex);
  for (auto it = from.inodes.begin(); it != from.inodes.end();) {
    Inode& inode = *it->second;
    // References come from the table alone while it is locked, so one that has none gets none.
    if (inode.references.load(std::memory_order_acquire) != 1 || !cold(inode)) {
      ++it;
      continue;
    }
    if (inode.lookups != 0) set_references(from, inode.id, inode.lookups);
    evicted.push_back(std::move(it->second));
    it = from.inodes.erase(it);
  }
  size_.fetch_sub(evicted.size(), std::memory_order_relaxed);
  return evicted.size();
}

bool InodeTable::forget_evicted(InodeId id, std::uint64_t references) {
  Shard& in = shard(id);
  LockGuard lock(in.mutex);
  const std::uint64_t kept = in.kernel_references.count(id.raw / kTableShards);
  if (kept == 0) return false;
  set_references(in, id, kept - std::min(kept, references));
  return true;
}

bool InodeTable::is_evicted(InodeId id) const {
  const Shard& in = shard(id);
  LockGuard lock(in.mutex);
  return in.kernel_references.count(id.raw / kTableShards) != 0;
}

void InodeTable::set_references(Shard& shard, InodeId id, std::uint64_t count) {
  const std::size_t before = shard.kernel_references.pages();
  shard.kernel_references.set(id.raw / kTableShards, count);
  // One more, one less, or as before.
  reference_pages_.fetch_add(shard.kernel_references.pages() - before, std::memory_order_relaxed);
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
