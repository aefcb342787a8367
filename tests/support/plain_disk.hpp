// What disks made for tests and benchmarks have in common: one that is fast, sound and needs no flush.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/executor.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::test {

class PlainDisk : public scheduler::Disk {
 public:
  PlainDisk(std::string path, std::uint64_t size_bytes)
      : path_(std::move(path)), size_bytes_(size_bytes) {}
  std::uint64_t size_bytes() const override { return size_bytes_; }
  const std::string& path() const override { return path_; }
  scheduler::DiskKind kind() const override { return scheduler::DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return false; }
  const scheduler::DiskMetrics& metrics() const override { return metrics_; }
  void fail() override {}
  bool failed() const override { return false; }

 protected:
  scheduler::DiskMetrics metrics_;

 private:
  const std::string path_;
  const std::uint64_t size_bytes_;
};

// A disk that is there and is never asked for anything.
class NoDisk final : public PlainDisk {
 public:
  NoDisk() : PlainDisk("none", 0) {}
  void submit(scheduler::IoRequest&) override { std::abort(); }
};

// A thread that serves requests, one after the other: `serve` does one and leaves its error in it. The last
// member of the disk it belongs to. Ends when everything in the queue is done.
class RequestThread {
 public:
  RequestThread(Executor& executor, std::function<void(scheduler::IoRequest&)> serve)
      : executor_(executor), serve_(std::move(serve)), thread_([this] { run(); }) {}
  ~RequestThread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  RequestThread(const RequestThread&) = delete;
  RequestThread& operator=(const RequestThread&) = delete;

  void add(scheduler::IoRequest& request) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(&request);
    }
    wake_.notify_one();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      scheduler::IoRequest& request = *queue_.front();
      queue_.pop_front();
      lock.unlock();
      serve_(request);
      {
        const DriverScope scope(executor_);
        request.on_complete(request);
      }
      lock.lock();
    }
  }

  Executor& executor_;
  const std::function<void(scheduler::IoRequest&)> serve_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<scheduler::IoRequest*> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace dynamicfs::test
