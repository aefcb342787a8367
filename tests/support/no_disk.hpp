// A disk that is there and is never asked for anything.
#pragma once

#include <cstdlib>
#include <string>

#include "scheduler/disk.hpp"

namespace dynamicfs::test {

class NoDisk final : public scheduler::Disk {
 public:
  void submit(scheduler::IoRequest&) override { std::abort(); }
  std::uint64_t size_bytes() const override { return 0; }
  const std::string& path() const override { return path_; }
  scheduler::DiskKind kind() const override { return scheduler::DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return false; }
  const scheduler::DiskMetrics& metrics() const override { return metrics_; }
  void fail() override {}
  bool failed() const override { return false; }

 private:
  std::string path_ = "none";
  scheduler::DiskMetrics metrics_;
};

}  // namespace dynamicfs::test
