#include "base/buffer.hpp"

#include <array>
#include <bit>
#include <cstdlib>
#include <new>
#include <vector>

#include "base/assert.hpp"
#include "base/mutex.hpp"

namespace dynamicfs {
namespace {

constexpr std::size_t kClasses = 40;
// A guess: what 64 requests of the largest size hold.
constexpr std::uint64_t kPooledBytesMax = 64 * kMiB;

struct Pool {
  Mutex mutex;
  std::array<std::vector<std::byte*>, kClasses> free DFS_GUARDED_BY(mutex);
  std::uint64_t pooled_bytes DFS_GUARDED_BY(mutex) = 0;
  std::atomic<std::uint64_t> in_use_bytes{0};

  // Whether one more of `size_class` fits, after others gave way: a pool full of what a past load
  // used would otherwise help nobody for good.
  bool make_room(std::size_t size_class, std::vector<std::byte*>& evicted) DFS_REQUIRES(mutex) {
    const std::uint64_t needed = std::uint64_t{1} << size_class;
    while (pooled_bytes + needed > kPooledBytesMax) {
      std::size_t largest = size_class;
      for (std::size_t i = 0; i < kClasses; ++i) {
        if (free[i].size() << i > free[largest].size() << largest) largest = i;
      }
      if (largest == size_class || needed > kPooledBytesMax) return false;
      evicted.push_back(free[largest].back());
      free[largest].pop_back();
      pooled_bytes -= std::uint64_t{1} << largest;
    }
    return true;
  }
};

Pool& pool() {
  // Never destroyed: buffers of detached coroutines may outlive static objects.
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

Buffer::Buffer(std::size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  capacity_ = std::bit_ceil(size_bytes < kBlockBytes ? kBlockBytes : size_bytes);
  const std::size_t size_class = static_cast<std::size_t>(std::countr_zero(capacity_));
  DFS_ASSERT(size_class < kClasses);
  Pool& from = pool();
  {
    LockGuard lock(from.mutex);
    auto& free = from.free[size_class];
    if (!free.empty()) {
      data_ = free.back();
      free.pop_back();
      from.pooled_bytes -= capacity_;
    }
  }
  if (data_ == nullptr) {
    data_ = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, capacity_));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  from.in_use_bytes.fetch_add(capacity_, std::memory_order_relaxed);
}

void Buffer::reset() {
  if (data_ == nullptr) return;
  Pool& to = pool();
  to.in_use_bytes.fetch_sub(capacity_, std::memory_order_relaxed);
  const auto size_class = static_cast<std::size_t>(std::countr_zero(capacity_));
  bool keep = false;
  std::vector<std::byte*> evicted;  // freed after the lock is released
  {
    LockGuard lock(to.mutex);
    keep = to.make_room(size_class, evicted);
    if (keep) {
      to.free[size_class].push_back(data_);
      to.pooled_bytes += capacity_;
    }
  }
  for (std::byte* const other : evicted) std::free(other);
  if (!keep) std::free(data_);
  data_ = nullptr;
  size_ = 0;
  capacity_ = 0;
}

BufferUse buffer_use() {
  Pool& from = pool();
  LockGuard lock(from.mutex);
  return {.in_use_bytes = from.in_use_bytes.load(std::memory_order_relaxed),
          .pooled_bytes = from.pooled_bytes};
}

}  // namespace dynamicfs
