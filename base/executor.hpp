// Where coroutines run and what time it is: the only clock, timer and source of randomness that
// journal, extent and fs know.
//
// Two worlds implement it: ThreadExecutor (real threads and time) and SimExecutor (one thread, a
// simulated clock, an order drawn from a seed: every interleaving can be replayed).
//
// A thread that resumes coroutines because of an outside event (a FUSE reader, a disk worker, a
// timer) does so inside a DriverScope. Whatever is posted meanwhile runs on that same thread when
// the scope ends: no wake-up, no recursion, and never while the poster still holds a lock. Only a
// flood goes elsewhere: coroutines that keep posting must not hold the thread for good.
#pragma once

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <memory>

#include "base/mutex.hpp"
#include "base/task.hpp"

namespace dynamicfs {

using Duration = std::chrono::nanoseconds;
// Monotonic, from an arbitrary origin.
struct TimePoint {
  Duration since_origin{0};
  constexpr auto operator<=>(const TimePoint&) const = default;
  constexpr TimePoint operator+(Duration d) const { return {since_origin + d}; }
  constexpr Duration operator-(TimePoint other) const { return since_origin - other.since_origin; }
};

class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor() = default;

  virtual TimePoint now() const = 0;
  // Wall clock for timestamps: since 1970-01-01 UTC.
  virtual Duration wall_now() const = 0;
  virtual std::uint64_t random() = 0;

  // Resumes `handle` soon, never inside this call. From any thread.
  virtual void post(std::coroutine_handle<> handle) = 0;
  // Resumes `handle` at `when` or soon after. From any thread.
  virtual void post_at(TimePoint when, std::coroutine_handle<> handle) = 0;

  auto sleep_until(TimePoint when) {
    struct Awaiter {
      Executor& executor;
      TimePoint when;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> handle) {
        assert_no_mutex_held();
        executor.post_at(when, handle);
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this, when};
  }
  auto sleep(Duration duration) { return sleep_until(now() + duration); }
  // Lets others run.
  auto yield() {
    struct Awaiter {
      Executor& executor;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> handle) {
        assert_no_mutex_held();
        executor.post(handle);
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }
  // Goes on on a thread that drives no disk: before something is destroyed that joins such threads.
  auto leave_driver_thread() {
    struct Awaiter {
      Executor& executor;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> handle) {
        assert_no_mutex_held();
        executor.post_to_own_thread(handle);
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  friend class DriverScope;
  // Like post(), but never to the thread of the caller's DriverScope.
  virtual void post_to_own_thread(std::coroutine_handle<> handle) = 0;
  // Brackets of a DriverScope on this thread; nested scopes do nothing.
  virtual void enter_driver() = 0;
  virtual void leave_driver() = 0;
};

// See above. Cheap: two thread-local accesses.
class DriverScope {
 public:
  explicit DriverScope(Executor& executor) : executor_(executor) { executor_.enter_driver(); }
  ~DriverScope() { executor_.leave_driver(); }
  DriverScope(const DriverScope&) = delete;
  DriverScope& operator=(const DriverScope&) = delete;

 private:
  Executor& executor_;
};

// Real threads. Work posted outside a DriverScope, and timers, run on one housekeeping thread.
std::unique_ptr<Executor> make_thread_executor();

}  // namespace dynamicfs
