#include "fs/stale_attributes.hpp"

namespace dynamicfs::fs {

bool StaleAttributes::note(InodeId inode) {
  Shard& shard = shards_[inode.raw % shards_.size()];
  LockGuard lock(shard.mutex);
  if (shard.told.insert(inode).second) return true;
  shard.put_off.insert(inode);
  return false;
}

std::vector<InodeId> StaleAttributes::next_period() {
  std::vector<InodeId> due;
  for (Shard& shard : shards_) {
    LockGuard lock(shard.mutex);
    due.insert(due.end(), shard.put_off.begin(), shard.put_off.end());
    // Those told now count for the new period.
    shard.told.swap(shard.put_off);
    shard.put_off.clear();
  }
  return due;
}

}  // namespace dynamicfs::fs
