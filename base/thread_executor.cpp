#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <queue>
#include <random>
#include <thread>
#include <vector>

#include "base/executor.hpp"

namespace dynamicfs {
namespace {

// What was posted on this thread inside a DriverScope and waits for the scope to end.
struct LocalQueue {
  int depth = 0;
  std::vector<std::coroutine_handle<>> ready;
};
thread_local LocalQueue local_queue;

class ThreadExecutor final : public Executor {
 public:
  ThreadExecutor() : thread_([this] { run(); }) { pthread_setname_np(thread_.native_handle(), "dfs-timer"); }

  ~ThreadExecutor() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  TimePoint now() const override {
    return {std::chrono::duration_cast<Duration>(
        std::chrono::steady_clock::now().time_since_epoch())};
  }
  Duration wall_now() const override {
    return std::chrono::duration_cast<Duration>(
        std::chrono::system_clock::now().time_since_epoch());
  }
  std::uint64_t random() override {
    thread_local std::mt19937_64 generator{std::random_device{}()};
    return generator();
  }

  void post(std::coroutine_handle<> handle) override {
    if (local_queue.depth > 0) {
      local_queue.ready.push_back(handle);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      posted_.push_back(handle);
    }
    wake_.notify_one();
  }

  void post_at(TimePoint when, std::coroutine_handle<> handle) override {
    bool earliest = false;
    {
      std::lock_guard lock(mutex_);
      earliest = timers_.empty() || when < timers_.top().when;
      timers_.push({when, next_timer_++, handle});
    }
    if (earliest) wake_.notify_one();
  }

 private:
  struct Timer {
    TimePoint when;
    std::uint64_t order;
    std::coroutine_handle<> handle;
    bool operator<(const Timer& other) const {
      return when != other.when ? when > other.when : order > other.order;
    }
  };

  void enter_driver() override { ++local_queue.depth; }
  void leave_driver() override {
    if (local_queue.depth > 1) {
      --local_queue.depth;
      return;
    }
    // By index: a resumed coroutine may post more.
    for (std::size_t i = 0; i < local_queue.ready.size(); ++i) local_queue.ready[i].resume();
    local_queue.ready.clear();
    --local_queue.depth;
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      std::coroutine_handle<> next;
      if (!posted_.empty()) {
        next = posted_.front();
        posted_.pop_front();
      } else if (!timers_.empty() && timers_.top().when <= now()) {
        next = timers_.top().handle;
        timers_.pop();
      } else if (stopping_) {
        // Timers that are left belong to coroutines whose owners have drained; none resumes now.
        return;
      } else if (timers_.empty()) {
        wake_.wait(lock);
        continue;
      } else {
        wake_.wait_for(lock, timers_.top().when - now());
        continue;
      }
      lock.unlock();
      {
        DriverScope scope(*this);
        next.resume();
      }
      lock.lock();
    }
  }

  // std::mutex here, not ours: this is the one place that must wait on a condition variable.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::coroutine_handle<>> posted_;
  std::priority_queue<Timer> timers_;
  std::uint64_t next_timer_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Executor> make_thread_executor() { return std::make_unique<ThreadExecutor>(); }

}  // namespace dynamicfs
