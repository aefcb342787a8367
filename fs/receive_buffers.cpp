#include "fs/receive_buffers.hpp"

#include <new>

#include "base/assert.hpp"

namespace dynamicfs::fs {

void ReceiveBuffer::give_back() {
  if (home_ != nullptr) std::exchange(home_, nullptr)->put(std::move(buffer_));
}

// One block in front for the headers, one behind the largest payload as spare.
ReceiveBuffers::ReceiveBuffers(std::size_t write_bytes_max, std::size_t count_max)
    : buffer_bytes_(align_up(write_bytes_max, kBlockBytes) + 2 * kBlockBytes),
      count_max_(count_max) {
  free_.reserve(count_max);
}

ReceiveBuffers::~ReceiveBuffers() { DFS_ASSERT(out_ == 0); }

ReceiveBuffer ReceiveBuffers::take() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (!free_.empty()) {
      Buffer buffer = std::move(free_.back());
      free_.pop_back();
      ++out_;
      return {this, std::move(buffer)};
    }
    if (made_ < count_max_) {
      try {
        Buffer buffer{buffer_bytes_};
        ++made_;
        ++out_;
        return {this, std::move(buffer)};
      } catch (const std::bad_alloc&) {
        // What there is must do; without any there is no way to hear of a request at all.
        if (made_ == 0) throw;
      }
    }
    ++waits_;
    came_back_.wait(lock, [&] { return !free_.empty(); });
  }
}

void ReceiveBuffers::put(Buffer buffer) {
  // Notified under the lock: whoever destroys us has seen out_ fall under the same lock.
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(buffer));
  --out_;
  came_back_.notify_one();
}

std::size_t ReceiveBuffers::made() const {
  std::lock_guard lock(mutex_);
  return made_;
}
std::size_t ReceiveBuffers::out() const {
  std::lock_guard lock(mutex_);
  return out_;
}
std::size_t ReceiveBuffers::waits() const {
  std::lock_guard lock(mutex_);
  return waits_;
}

}  // namespace dynamicfs::fs
