// A pool in memory, mounted in this process, for benchmarks of the engine without FUSE.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "fs/filesystem.hpp"
#include "tests/support/plain_disk.hpp"

namespace dynamicfs {

using Clock = std::chrono::steady_clock;

// Keeps everything in memory. Reads and plain writes take no time; what must reach stable storage
// takes `sync`, one after the other.
class SlowSyncDisk final : public test::PlainDisk {
 public:
  SlowSyncDisk(Executor& executor, std::string path, std::shared_ptr<Bytes> media,
               std::chrono::microseconds sync)
      : PlainDisk(std::move(path), media->size()),
        media_(std::move(media)),
        sync_(sync),
        thread_(executor, [this](scheduler::IoRequest& request) { serve_sync(request); }) {}

  void submit(scheduler::IoRequest& request) override {
    std::byte* const at = media_->data() + request.offset_bytes;
    if (request.op == scheduler::IoOp::kRead) std::memcpy(request.data, at, request.size_bytes);
    if (request.op == scheduler::IoOp::kWrite) std::memcpy(at, request.data, request.size_bytes);
    const bool syncs = request.op == scheduler::IoOp::kFlush || request.durable;
    if (!syncs) {
      if (request.op == scheduler::IoOp::kWrite) written_.fetch_add(1);
      request.error = {};
      return request.on_complete(request);
    }
    request.tag = written_.load();
    thread_.add(request);
  }
  bool needs_flush() const override { return flushed_.load() < written_.load(); }

 private:
  void serve_sync(scheduler::IoRequest& request) {
    pass();
    if (request.op == scheduler::IoOp::kFlush || request.flushes) flushed_.store(request.tag);
    metrics_.flushes.add();
    request.error = {};
  }
  // To the microsecond: a sleep alone is 50 too long.
  void pass() const {
    const auto end = Clock::now() + sync_;
    if (sync_ > std::chrono::microseconds{200})
      std::this_thread::sleep_for(sync_ - std::chrono::microseconds{150});
    while (Clock::now() < end) {
    }
  }

  const std::shared_ptr<Bytes> media_;
  const std::chrono::microseconds sync_;
  std::atomic<std::uint64_t> written_{0};
  std::atomic<std::uint64_t> flushed_{0};
  test::RequestThread thread_;
};

// Benchmarks end where something fails.
template <class T>
T must(Result<T> result) {
  if (!result.has_value()) {
    fmt::print(stderr, "{}\n", describe(result.error()));
    std::exit(1);
  }
  return std::move(result).value();
}
inline void must(Result<void> result) {
  if (result.has_value()) return;
  fmt::print(stderr, "{}\n", describe(result.error()));
  std::exit(1);
}

struct MemoryPool {
  MemoryPool(std::size_t count, std::chrono::microseconds sync, journal::Policy policy)
      : executor(make_thread_executor()) {
    for (std::size_t i = 0; i < count; ++i) media.push_back(std::make_shared<Bytes>(1024 * kMiB));
    auto plain = make(std::chrono::microseconds{0});
    std::vector<scheduler::Disk*> disks;
    for (const auto& disk : plain) disks.push_back(disk.get());
    must(block_on(*executor, journal::Pool::format(*executor, disks, {policy, "bench"})));
    plain.clear();
    journal::Pool::Opening opening;
    opening.disks = make(sync);
    auto pool =
        must(block_on(*executor, journal::Pool::open(*executor, std::move(opening), nullptr)));
    filesystem = must(block_on(*executor, fs::Filesystem::mount(*executor, std::move(pool), {})));
  }
  ~MemoryPool() { must(block_on(*executor, filesystem->unmount())); }

  std::vector<std::unique_ptr<scheduler::Disk>> make(std::chrono::microseconds sync) {
    std::vector<std::unique_ptr<scheduler::Disk>> out;
    for (std::size_t i = 0; i < media.size(); ++i) {
      out.push_back(
          std::make_unique<SlowSyncDisk>(*executor, fmt::format("/memory/{}", i), media[i], sync));
    }
    return out;
  }

  std::unique_ptr<Executor> executor;
  std::vector<std::shared_ptr<Bytes>> media;
  std::unique_ptr<fs::Filesystem> filesystem;
};

}  // namespace dynamicfs
