// A disk in memory that answers from a thread of its own, for tests with real threads. It never
// fails.
#pragma once

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/accounting.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::test {

class MemoryDisk final : public scheduler::Disk {
 public:
  MemoryDisk(Executor& executor, std::string path, std::uint64_t size_bytes)
      : executor_(executor),
        path_(std::move(path)),
        bytes_(size_bytes),
        worker_([this] { work(); }) {}
  ~MemoryDisk() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    worker_.join();
  }

  void submit(scheduler::IoRequest& request) override {
    scheduler::assert_well_formed(request);
    scheduler::note_queued(metrics_, request);
    request.arrival = executor_.now();
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(&request);
    }
    wake_.notify_one();
  }
  std::uint64_t size_bytes() const override { return bytes_.size(); }
  const std::string& path() const override { return path_; }
  scheduler::DiskKind kind() const override { return scheduler::DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return false; }
  const scheduler::DiskMetrics& metrics() const override { return metrics_; }
  void fail() override {}
  bool failed() const override { return false; }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      scheduler::IoRequest& request = *queue_.front();
      queue_.pop_front();
      lock.unlock();
      scheduler::note_started(metrics_, request);
      if (request.op == scheduler::IoOp::kRead) {
        std::memcpy(request.data, bytes_.data() + request.offset_bytes, request.size_bytes);
      } else if (request.op == scheduler::IoOp::kWrite) {
        std::memcpy(bytes_.data() + request.offset_bytes, request.data, request.size_bytes);
      }
      request.error = {};
      scheduler::note_completed(metrics_, latency(), request, executor_.now());
      {
        const DriverScope scope(executor_);
        request.on_complete(request);
      }
      lock.lock();
    }
  }

  Executor& executor_;
  std::string path_;
  std::vector<std::byte> bytes_;  // the worker's
  scheduler::DiskMetrics metrics_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<scheduler::IoRequest*> queue_;
  bool stopping_ = false;
  std::thread worker_;
};

}  // namespace dynamicfs::test
