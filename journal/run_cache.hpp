// Blocks of runs that were looked at lately, verified, and whoever is reading one now.
//
// Threads  Every method from any thread.
// Locks    One leaf mutex per shard, never held across I/O.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>

#include "base/hash.hpp"
#include "base/mutex.hpp"
#include "base/waiters.hpp"
#include "journal/run_stream.hpp"

namespace dynamicfs::journal {

// The least recently used block goes first. A run's blocks never change, so nothing is ever stale.
class RunCache {
 public:
  struct Key {
    std::uint64_t run_id;
    std::uint64_t block;
    bool operator==(const Key&) const = default;
  };
  // One read for all who ask meanwhile.
  struct Flight {
    explicit Flight(Executor& executor) : done(executor) {}
    Result<RunBlock> result = Code::kShutdown;  // once `done` is set
    AsyncEvent done;
  };
  // Either the block, or a flight: one's own, to be read and then given to settle(), or somebody
  // else's to wait for.
  struct Claim {
    std::optional<RunBlock> block;
    std::shared_ptr<Flight> flight;
    bool mine = false;
  };

  // `bytes` of blocks at most; but those that somebody still looks at stay in memory for them.
  RunCache(Executor& executor, std::uint64_t bytes)
      : executor_(executor), shard_blocks_(ceil_div(bytes, kShards * kRunBlockBytes)) {}

  Claim claim(Key key);
  // The block is there now, or could not be read: the next who asks tries again.
  void settle(Key key, const std::shared_ptr<Flight>& flight, Result<RunBlock> result);
  // Nobody will ask for this run again.
  void forget(std::uint64_t run_id);
  std::uint64_t memory_bytes() const;

 private:
  static constexpr std::size_t kShards = 8;

  struct Hash {
    std::size_t operator()(const Key& key) const { return mix(mix(key.run_id) + key.block); }
  };
  struct Cached {
    Key key;
    RunBlock block;
  };
  struct Shard {
    mutable Mutex mutex;
    std::list<Cached> by_use DFS_GUARDED_BY(mutex);  // the one used last is in front
    std::unordered_map<Key, std::list<Cached>::iterator, Hash> by_key DFS_GUARDED_BY(mutex);
    std::unordered_map<Key, std::shared_ptr<Flight>, Hash> flights DFS_GUARDED_BY(mutex);
  };
  Shard& shard(Key key) { return shards_[Hash{}(key) % kShards]; }

  Executor& executor_;
  const std::size_t shard_blocks_;
  std::array<Shard, kShards> shards_;
};

}  // namespace dynamicfs::journal
