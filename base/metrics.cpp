#include "base/metrics.hpp"

namespace dynamicfs::detail {

constinit thread_local unsigned shard_of_this_thread = kNoShard;

unsigned choose_shard() {
  static std::atomic<unsigned> next{0};
  shard_of_this_thread = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return shard_of_this_thread;
}

}  // namespace dynamicfs::detail
