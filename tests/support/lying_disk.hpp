// A disk that says it has flushed and has not: what it was told to make durable stays in its cache, and
// a power cut takes what it likes of that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/forwarding_disk.hpp"

namespace dynamicfs::test {

// Outlives the disk.
struct Lie {
  bool on = false;
  std::uint64_t told = 0;
};

class LyingDisk final : public ForwardingDisk {
 public:
  LyingDisk(std::unique_ptr<scheduler::SimulatedDisk> device, Lie& lie)
      : ForwardingDisk(std::move(device)), lie_(lie) {}

  void submit(scheduler::IoRequest& request) override {
    using scheduler::IoOp;
    const bool promises =
        request.op == IoOp::kFlush || (request.op == IoOp::kWrite && request.durable);
    if (!lie_.on || !promises) {
      device_->submit(request);
      return;
    }
    ++lie_.told;
    auto* const asked = new Asked{request, request};
    asked->inner.on_complete = &LyingDisk::completed;
    asked->inner.owner = asked;
    asked->inner.durable = asked->inner.flushes = false;
    // A look whether it is there takes as long as a request, and does nothing.
    if (request.op == IoOp::kFlush) asked->inner.op = IoOp::kCheck;
    device_->submit(asked->inner);
  }

 private:
  struct Asked {
    scheduler::IoRequest& outer;
    scheduler::IoRequest inner;
  };
  static void completed(scheduler::IoRequest& request) {
    const std::unique_ptr<Asked> asked{static_cast<Asked*>(request.owner)};
    asked->outer.error = request.error;
    asked->outer.on_complete(asked->outer);
  }

  Lie& lie_;
};

}  // namespace dynamicfs::test
