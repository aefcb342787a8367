// The simulated world: one thread, a clock that jumps to the next timer, and an order of ready
// coroutines drawn from a seed. Two runs with one seed are the same run.
//
// It lives in base and not in tests, because `dynamicfs check` may drive the engine in it too and
// because it documents what Executor promises.
#pragma once

#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "base/executor.hpp"

namespace dynamicfs {

class SimExecutor final : public Executor {
 public:
  explicit SimExecutor(std::uint64_t seed) : generator_(seed) {}

  TimePoint now() const override { return now_; }
  Duration wall_now() const override {
    return Duration{1'700'000'000'000'000'000} + now_.since_origin;
  }
  std::uint64_t random() override { return generator_(); }
  void post(std::coroutine_handle<> handle) override { ready_.push_back(handle); }
  void post_at(TimePoint when, std::coroutine_handle<> handle) override;

  // Runs one ready coroutine, drawn by the seed, or moves the clock to the next timer and runs
  // that. False if nothing is left to do.
  bool step();
  // Steps until nothing is left. Periodic work must be stopped first, or this never returns.
  void run_until_idle();
  // Steps until the clock has reached `now() + duration`.
  void run_for(Duration duration);

  // Starts `task` and steps until it ends; other coroutines run meanwhile. A task that never ends
  // because nothing is left to run is an assertion: that is a deadlock.
  template <class T>
  T run(Task<T> task) {
    std::optional<T> result;
    collect(std::move(task), &result);
    while (!result && step()) {
    }
    DFS_ASSERT(result.has_value());
    return std::move(*result);
  }
  void run(Task<void> task);

 private:
  template <class T>
  static detail::Detached collect(Task<T> task, std::optional<T>* result) {
    result->emplace(co_await std::move(task));
  }
  void post_to_own_thread(std::coroutine_handle<> handle) override { post(handle); }
  void enter_driver() override {}
  void leave_driver() override {}

  struct Timer {
    TimePoint when;
    std::uint64_t order;
    std::coroutine_handle<> handle;
  };

  std::mt19937_64 generator_;
  TimePoint now_;
  std::uint64_t next_timer_ = 0;
  std::vector<std::coroutine_handle<>> ready_;
  std::vector<Timer> timers_;  // a heap, earliest on top
};

}  // namespace dynamicfs
