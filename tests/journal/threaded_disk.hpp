// A disk in memory with a thread of its own that does what is asked, one request after the other:
// for tests of the engine under real threads. Nothing fails unless the test says so, nothing is
// volatile.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/bytes.hpp"
#include "base/executor.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::test {

class ThreadedDisk final : public scheduler::Disk {
 public:
  ThreadedDisk(Executor& executor, std::string path, std::shared_ptr<Bytes> media,
               Duration latency = {})
      : executor_(executor),
        path_(std::move(path)),
        media_(std::move(media)),
        latency_(latency),
        thread_([this] { serve(); }) {}
  ~ThreadedDisk() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void submit(scheduler::IoRequest& request) override {
    DFS_ASSERT(Mutex::held_by_this_thread() == 0);
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(&request);
    }
    wake_.notify_one();
  }
  std::uint64_t size_bytes() const override { return media_->size(); }
  const std::string& path() const override { return path_; }
  scheduler::DiskKind kind() const override { return scheduler::DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return unflushed_.load(std::memory_order_acquire); }
  const scheduler::DiskMetrics& metrics() const override { return metrics_; }
  void fail() override { failed_.store(true, std::memory_order_release); }
  bool failed() const override { return failed_.load(std::memory_order_acquire); }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      scheduler::IoRequest* const request = queue_.front();
      queue_.pop_front();
      lock.unlock();
      if (latency_.count() != 0) std::this_thread::sleep_for(latency_);
      request->error = failed() ? error(Code::kDiskGone) : Error{};
      if (!failed()) perform(*request);
      {
        DriverScope scope(executor_);
        request->on_complete(*request);
      }
      lock.lock();
    }
  }

  void perform(scheduler::IoRequest& request) {
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

  Executor& executor_;
  const std::string path_;
  const std::shared_ptr<Bytes> media_;
  const Duration latency_;
  scheduler::DiskMetrics metrics_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> unflushed_{false};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<scheduler::IoRequest*> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace dynamicfs::test
