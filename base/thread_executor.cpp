#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <queue>
#include <random>
#include <thread>
#include <vector>

#include "base/executor.hpp"

namespace dynamicfs {
namespace {

// How many coroutines the end of one DriverScope runs before the rest goes to the housekeeping
// thread. Without a bound, coroutines that keep yielding to each other would never give the thread
// back, be it the one that would fire the timer or reap the I/O they wait for. A guess: far above
// what one event wakes, and a fraction of a millisecond.
constexpr std::size_t kDrainMax = 4096;

// A timer at the end of time must not overflow the clock's arithmetic.
constexpr Duration kSleepMax = std::chrono::hours(1);

// What was posted on this thread inside a DriverScope and waits for the scope to end.
struct LocalQueue {
  int depth = 0;
  std::vector<std::coroutine_handle<>> ready;
};
thread_local LocalQueue local_queue;

class ThreadExecutor final : public Executor {
 public:
  ThreadExecutor() : thread_([this] { run(); }) {
    pthread_setname_np(thread_.native_handle(), "dfs-timer");
  }

  ~ThreadExecutor() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  TimePoint now() const override {
    return {
        std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch())};
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
    post_to_own_thread(handle);
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

  void post_to_own_thread(std::coroutine_handle<> handle) override {
    {
      std::lock_guard lock(mutex_);
      posted_.push_back(handle);
    }
    wake_.notify_one();
  }
  void enter_driver() override { ++local_queue.depth; }
  void leave_driver() override {
    if (local_queue.depth > 1) {
      --local_queue.depth;
      return;
    }
    auto& ready = local_queue.ready;
    // By index: a resumed coroutine may post more.
    std::size_t done = 0;
    while (done < ready.size() && done < kDrainMax) ready[done++].resume();
    if (done < ready.size()) {
      {
        std::lock_guard lock(mutex_);
        posted_.insert(posted_.end(), ready.begin() + static_cast<std::ptrdiff_t>(done),
                       ready.end());
      }
      wake_.notify_one();
    }
    ready.clear();
    --local_queue.depth;
  }

  void run() {
    // In rounds of what was posted and what is due, so that neither starves the other.
    std::vector<std::coroutine_handle<>> round;
    std::unique_lock lock(mutex_);
    while (true) {
      round.swap(posted_);
      if (!timers_.empty()) {
        // Once stopping, every sleep ends at once: a periodic loop looks whether it still has an
        // owner, finds none, ends, and its frame is freed.
        for (const TimePoint due = stopping_ ? TimePoint{Duration::max()} : now();
             !timers_.empty() && timers_.top().when <= due; timers_.pop()) {
          round.push_back(timers_.top().handle);
        }
      }
      if (round.empty()) {
        if (stopping_) return;
        if (timers_.empty()) {
          wake_.wait(lock);
        } else {
          wake_.wait_for(lock, std::min(timers_.top().when - now(), kSleepMax));
        }
        continue;
      }
      lock.unlock();
      for (const std::coroutine_handle<> next : round) {
        DriverScope scope(*this);
        next.resume();
      }
      round.clear();
      lock.lock();
    }
  }

  // std::mutex here, not ours: this is the one place that must wait on a condition variable.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::coroutine_handle<>> posted_;
  std::priority_queue<Timer> timers_;
  std::uint64_t next_timer_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Executor> make_thread_executor() { return std::make_unique<ThreadExecutor>(); }

}  // namespace dynamicfs
