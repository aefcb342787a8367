// A disk that hands everything on to a simulated one: for those that do something else with some
// requests.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "scheduler/simulated_disk.hpp"

namespace dynamicfs::test {

class ForwardingDisk : public scheduler::Disk {
 public:
  explicit ForwardingDisk(std::unique_ptr<scheduler::SimulatedDisk> device)
      : device_(std::move(device)) {}

  void submit(scheduler::IoRequest& request) override { device_->submit(request); }
  std::uint64_t size_bytes() const override { return device_->size_bytes(); }
  const std::string& path() const override { return device_->path(); }
  scheduler::DiskKind kind() const override { return device_->kind(); }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return device_->needs_flush(); }
  const scheduler::DiskMetrics& metrics() const override { return device_->metrics(); }
  void fail() override { device_->fail(); }
  bool failed() const override { return device_->failed(); }

 protected:
  const std::unique_ptr<scheduler::SimulatedDisk> device_;
};

}  // namespace dynamicfs::test
