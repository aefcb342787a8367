// Work that goes on beside requests, and that unmount waits for.
#pragma once

#include <atomic>
#include <cstdint>

namespace dynamicfs::fs {

// Detached work, so that unmount can wait for it.
class TaskTracker {
 public:
  void enter() { running_.fetch_add(1, std::memory_order_acq_rel); }
  void leave() { running_.fetch_sub(1, std::memory_order_acq_rel); }
  bool idle() const { return running_.load(std::memory_order_acquire) == 0; }

 private:
  std::atomic<std::int64_t> running_{0};
};

// A task of which one runs at a time.
class SoleTask {
 public:
  // True: it is the caller's, who says end(). False: it runs already, or `go_on()` says that it may not.
  template <class GoOn>
  bool begin(TaskTracker& tasks, const GoOn& go_on) {
    if (active_.exchange(true, std::memory_order_acq_rel)) return false;
    tasks
        .enter();  // before the look at whether the pool is closing: unmount says so, then waits for tasks
    if (go_on()) return true;
    end(tasks);
    return false;
  }
  void end(TaskTracker& tasks) {
    active_.store(false, std::memory_order_release);
    tasks.leave();
  }
  bool active() const { return active_.load(std::memory_order_acquire); }

 private:
  std::atomic<bool> active_{false};
};

}  // namespace dynamicfs::fs
