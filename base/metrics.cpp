#include "base/metrics.hpp"

namespace dynamicfs {

unsigned thread_shard() {
  static std::atomic<unsigned> next{0};
  thread_local const unsigned shard = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return shard;
}

}  // namespace dynamicfs
