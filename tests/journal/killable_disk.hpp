// A disk whose user can be killed while the disk lives on, as `kill -9` does it: what the device
// has taken stays in its volatile cache, what it has not yet taken never comes.
//
// A durable write reaches the cache first and stable storage later, so that a kill can come in
// between; and it makes its own range durable, nothing else.
#pragma once

#include <memory>

#include "base/sim_executor.hpp"
#include "scheduler/simulated_disk.hpp"

namespace dynamicfs::test {

class KillableDisk final : public scheduler::Disk {
 public:
  KillableDisk(SimExecutor& executor, std::shared_ptr<scheduler::SimulatedDisk> device)
      : state_(std::make_shared<State>(executor, std::move(device))) {}

  void kill() { state_->killed = true; }

  void submit(scheduler::IoRequest& request) override { spawn(serve(state_, &request)); }
  std::uint64_t size_bytes() const override { return state_->device->size_bytes(); }
  const std::string& path() const override { return state_->device->path(); }
  scheduler::DiskKind kind() const override { return scheduler::DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  // Of this user's writes alone.
  bool needs_flush() const override { return state_->written > state_->flushed; }
  const scheduler::DiskMetrics& metrics() const override { return state_->device->metrics(); }
  void fail() override { state_->killed = true; }
  bool failed() const override { return state_->killed; }

 private:
  struct State {
    State(SimExecutor& executor_in, std::shared_ptr<scheduler::SimulatedDisk> device_in)
        : executor(executor_in), device(std::move(device_in)) {}
    SimExecutor& executor;
    std::shared_ptr<scheduler::SimulatedDisk> device;
    bool killed = false;
    std::uint64_t written = 0;
    std::uint64_t flushed = 0;
  };

  static Task<void> serve(std::shared_ptr<State> state, scheduler::IoRequest* request) {
    using scheduler::IoOp;
    co_await state->executor.sleep(std::chrono::microseconds(state->executor.random() % 100));
    Result<void> done = Code::kDiskGone;
    if (!state->killed) {
      const std::span<std::byte> data{request->data, request->size_bytes};
      const std::uint64_t written = state->written;
      if (request->op == IoOp::kRead) {
        done = co_await scheduler::read(*state->device, request->io_class, request->offset_bytes,
                                        data);
      } else if (request->op == IoOp::kCheck) {
        done = Result<void>{};
      } else if (request->op == IoOp::kFlush) {
        done = co_await scheduler::flush(*state->device, request->io_class);
        if (done.has_value()) state->flushed = std::max(state->flushed, written);
      } else {
        done = co_await scheduler::write(*state->device, request->io_class, request->offset_bytes,
                                         data);
        if (!request->durable) ++state->written;
        if (done.has_value() && request->durable) {
          co_await state->executor.sleep(std::chrono::microseconds(state->executor.random() % 100));
          done = Code::kDiskGone;
          if (!state->killed) {
            done = co_await scheduler::write(*state->device, request->io_class,
                                             request->offset_bytes, data, true);
          }
        }
      }
    }
    request->error = {};
    if (state->killed) {
      request->error = error(Code::kDiskGone);
    } else if (!done.has_value()) {
      request->error = done.error();
    }
    request->on_complete(*request);
  }

  std::shared_ptr<State> state_;
};

}  // namespace dynamicfs::test
