// A disk between the file system and a simulated one that keeps some requests waiting until the test
// lets them go: for what must happen while a request is under way.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/forwarding_disk.hpp"

namespace dynamicfs::test {

// Requests that wait, of all disks that share this, in the order they came. Outlives the disks.
struct Hold {
  struct Held {
    scheduler::Disk* device;
    scheduler::IoRequest* request;
  };
  bool on = false;
  // Which ones wait while it is on; all in class background if it is not set.
  std::function<bool(const scheduler::IoRequest&)> which;
  std::vector<Held> held;

  bool takes(const scheduler::IoRequest& request) const {
    if (!on) return false;
    return which ? which(request) : request.io_class == scheduler::IoClass::kBackground;
  }
  // Those that wait go on, and no others wait from now on.
  void release() {
    on = false;
    let_go_if([](const scheduler::IoRequest&) { return true; });
  }
  // Some of them go on; it stays as it is for others.
  void let_go_if(const std::function<bool(const scheduler::IoRequest&)>& may_go) {
    const auto end =
        std::ranges::stable_partition(held, [&](const Held& one) { return !may_go(*one.request); });
    const std::vector<Held> going{end.begin(), end.end()};
    held.erase(end.begin(), end.end());
    for (const Held& one : going) one.device->submit(*one.request);
  }
};

class HoldingDisk final : public ForwardingDisk {
 public:
  HoldingDisk(std::unique_ptr<scheduler::SimulatedDisk> device, Hold& hold)
      : ForwardingDisk(std::move(device)), hold_(hold) {}

  void submit(scheduler::IoRequest& request) override {
    if (hold_.takes(request)) {
      hold_.held.push_back({device_.get(), &request});
    } else {
      device_->submit(request);
    }
  }

 private:
  Hold& hold_;
};

}  // namespace dynamicfs::test
