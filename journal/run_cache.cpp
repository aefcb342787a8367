#include "journal/run_cache.hpp"

namespace dynamicfs::journal {

RunCache::Claim RunCache::claim(Key key) {
  Shard& shard = this->shard(key);
  LockGuard lock(shard.mutex);
  const auto cached = shard.by_key.find(key);
  if (cached != shard.by_key.end()) {
    shard.by_use.splice(shard.by_use.begin(), shard.by_use, cached->second);
    return {.block = cached->second->block, .flight = nullptr};
  }
  std::shared_ptr<Flight>& flight = shard.flights[key];
  const bool mine = flight == nullptr;
  if (mine) flight = std::make_shared<Flight>(executor_);
  return {.block = std::nullopt, .flight = flight, .mine = mine};
}

void RunCache::settle(Key key, const std::shared_ptr<Flight>& flight, Result<RunBlock> result) {
  Shard& shard = this->shard(key);
  // Blocks are freed without the lock.
  std::list<Cached> dropped;
  {
    LockGuard lock(shard.mutex);
    shard.flights.erase(key);
    if (result.has_value()) {
      shard.by_use.push_front({key, *result});
      shard.by_key[key] = shard.by_use.begin();
      if (shard.by_use.size() > shard_blocks_) {
        shard.by_key.erase(shard.by_use.back().key);
        dropped.splice(dropped.begin(), shard.by_use, std::prev(shard.by_use.end()));
      }
    }
  }
  flight->result = std::move(result);
  flight->done.set();
}

void RunCache::forget(std::uint64_t run_id) {
  for (Shard& shard : shards_) {
    std::list<Cached> dropped;
    LockGuard lock(shard.mutex);
    for (auto it = shard.by_use.begin(); it != shard.by_use.end();) {
      const auto cached = it++;
      if (cached->key.run_id != run_id) continue;
      shard.by_key.erase(cached->key);
      dropped.splice(dropped.begin(), shard.by_use, cached);
    }
  }
}

std::uint64_t RunCache::memory_bytes() const {
  std::uint64_t blocks = 0;
  for (const Shard& shard : shards_) {
    LockGuard lock(shard.mutex);
    blocks += shard.by_use.size();
  }
  return blocks * kRunBlockBytes;
}

}  // namespace dynamicfs::journal
