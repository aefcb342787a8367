// A disk in memory with a thread of its own that does what is asked, one request after the other:
// for tests of the engine under real threads. Nothing fails unless the test says so, nothing is
// volatile.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/bytes.hpp"
#include "tests/support/plain_disk.hpp"

namespace dynamicfs::test {

class ThreadedDisk final : public PlainDisk {
 public:
  ThreadedDisk(Executor& executor, std::string path, std::shared_ptr<Bytes> media,
               Duration latency = {})
      : PlainDisk(std::move(path), media->size()),
        media_(std::move(media)),
        latency_(latency),
        thread_(executor, [this](scheduler::IoRequest& request) { serve(request); }) {}

  void submit(scheduler::IoRequest& request) override {
    DFS_ASSERT(Mutex::held_by_this_thread() == 0);
    thread_.add(request);
  }
  bool needs_flush() const override { return unflushed_.load(std::memory_order_acquire); }
  void fail() override { failed_.store(true, std::memory_order_release); }
  bool failed() const override { return failed_.load(std::memory_order_acquire); }

 private:
  void serve(scheduler::IoRequest& request) {
    if (latency_.count() != 0) std::this_thread::sleep_for(latency_);
    request.error = failed() ? error(Code::kDiskGone) : Error{};
    if (failed()) return;
    std::byte* const at = media_->data() + request.offset_bytes;
    switch (request.op) {
      case scheduler::IoOp::kRead:
        std::memcpy(request.data, at, request.size_bytes);
        metrics_.reads.add();
        break;
      case scheduler::IoOp::kWrite:
        std::memcpy(at, request.data, request.size_bytes);
        if (!request.durable) unflushed_.store(true, std::memory_order_release);
        metrics_.writes.add();
        break;
      case scheduler::IoOp::kFlush:
        unflushed_.store(false, std::memory_order_release);
        metrics_.flushes.add();
        break;
      case scheduler::IoOp::kCheck: break;
    }
  }

  const std::shared_ptr<Bytes> media_;
  const Duration latency_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> unflushed_{false};
  RequestThread thread_;
};

}  // namespace dynamicfs::test
