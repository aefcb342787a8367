// A disk in memory that answers from a thread of its own, for tests with real threads. It never
// fails.
#pragma once

#include <cstring>
#include <string>
#include <utility>

#include "base/bytes.hpp"
#include "scheduler/accounting.hpp"
#include "tests/support/plain_disk.hpp"

namespace dynamicfs::test {

class MemoryDisk final : public PlainDisk {
 public:
  MemoryDisk(Executor& executor, std::string path, std::uint64_t size_bytes)
      : PlainDisk(std::move(path), size_bytes),
        executor_(executor),
        bytes_(size_bytes),
        thread_(executor, [this](scheduler::IoRequest& request) { serve(request); }) {}

  void submit(scheduler::IoRequest& request) override {
    scheduler::assert_well_formed(request);
    scheduler::note_queued(metrics_, request);
    request.arrival = executor_.now();
    thread_.add(request);
  }

 private:
  void serve(scheduler::IoRequest& request) {
    scheduler::note_started(metrics_, request);
    std::byte* const at = bytes_.data() + request.offset_bytes;
    if (request.op == scheduler::IoOp::kRead) std::memcpy(request.data, at, request.size_bytes);
    if (request.op == scheduler::IoOp::kWrite) std::memcpy(at, request.data, request.size_bytes);
    request.error = {};
    scheduler::note_completed(metrics_, latency(), request, executor_.now());
  }

  Executor& executor_;
  Bytes bytes_;  // the thread's
  RequestThread thread_;
};

}  // namespace dynamicfs::test
