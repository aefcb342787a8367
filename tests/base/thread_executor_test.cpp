#include "base/executor.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/blocking.hpp"

using namespace dynamicfs;
using namespace std::chrono_literals;

namespace {

// A coroutine whose frame belongs to the test, so that it may stay suspended for good.
struct Owned {
  struct promise_type {
    Owned get_return_object() {
      return Owned{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
  explicit Owned(std::coroutine_handle<promise_type> frame) : handle(frame) {}
  Owned(Owned&& other) noexcept : handle(std::exchange(other.handle, {})) {}
  Owned& operator=(Owned&&) = delete;
  ~Owned() {
    if (handle) handle.destroy();
  }
  std::coroutine_handle<promise_type> handle;
};

Task<void> hop(Executor& executor, std::atomic<int>* count) {
  co_await executor.yield();
  ++*count;
}
Task<std::thread::id> thread_after_yield(Executor& executor) {
  co_await executor.yield();
  co_return std::this_thread::get_id();
}
Task<void> note_thread(Executor& executor, std::atomic<std::thread::id>* thread) {
  co_await executor.yield();
  *thread = std::this_thread::get_id();
}

void wait_for(const std::atomic<int>& count, int value) {
  while (count != value) std::this_thread::sleep_for(1ms);
}

}  // namespace

TEST_SUITE("thread_executor") {
  TEST_CASE("everything that many threads post runs once") {
    const auto executor = make_thread_executor();
    std::atomic<int> count{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 1'000; ++i) spawn(hop(*executor, &count));
      });
    }
    for (std::thread& thread : threads) thread.join();
    wait_for(count, 8'000);
    std::this_thread::sleep_for(5ms);
    CHECK(count == 8'000);
  }

  TEST_CASE("what is posted outside a driver scope runs on the housekeeping thread") {
    const auto executor = make_thread_executor();
    std::atomic<std::thread::id> thread{};
    spawn(note_thread(*executor, &thread));
    while (thread.load() == std::thread::id{}) std::this_thread::sleep_for(1ms);
    CHECK(thread.load() != std::this_thread::get_id());
  }

  TEST_CASE("what is posted inside a driver scope runs on this thread, when the scope ends") {
    const auto executor = make_thread_executor();
    std::atomic<std::thread::id> thread{};
    {
      DriverScope scope(*executor);
      spawn(note_thread(*executor, &thread));
      std::this_thread::sleep_for(5ms);
      CHECK(thread.load() == std::thread::id{});
    }
    CHECK(thread.load() == std::this_thread::get_id());
  }

  TEST_CASE("an inner driver scope leaves its work to the outer one") {
    const auto executor = make_thread_executor();
    std::atomic<int> count{0};
    {
      DriverScope outer(*executor);
      {
        DriverScope inner(*executor);
        spawn(hop(*executor, &count));
      }
      CHECK(count == 0);
    }
    CHECK(count == 1);
  }

  Task<void> several_hops(Executor & executor, std::atomic<int> * count, int hops) {
    for (int i = 0; i < hops; ++i) co_await hop(executor, count);
  }

  TEST_CASE("what runs at the end of a scope may post more, which the scope runs too") {
    const auto executor = make_thread_executor();
    std::atomic<int> count{0};
    {
      DriverScope scope(*executor);
      spawn(several_hops(*executor, &count, 10));
    }
    CHECK(count == 10);
  }

  Task<int> yields_until(Executor & executor, std::atomic<bool> * stop) {
    int yields = 0;
    while (!*stop) {
      co_await executor.yield();
      ++yields;
    }
    co_return yields;
  }
  Task<int> set_after(Executor & executor, std::atomic<bool> * flag, Duration after) {
    co_await executor.sleep(after);
    *flag = true;
    co_return 0;
  }
  Task<int> waits_for_a_timer_by_yielding(Executor & executor, std::atomic<bool> * stop) {
    std::vector<Task<int>> tasks;
    tasks.push_back(set_after(executor, stop, 10ms));
    tasks.push_back(yields_until(executor, stop));
    const std::vector<int> results = co_await when_all(std::move(tasks));
    co_return results[1];
  }

  TEST_CASE("coroutines that keep yielding starve neither timers nor the thread they began on") {
    const auto executor = make_thread_executor();
    std::atomic<bool> stop{false};
    CHECK(block_on(*executor, waits_for_a_timer_by_yielding(*executor, &stop)) > 0);
    // The end of this scope is on this thread, which must come back to set `stop`.
    std::atomic<bool> stop_from_here{false};
    std::atomic<int> ended{0};
    struct Spin {
      static Task<void> until(Executor& executor, std::atomic<bool>* flag,
                              std::atomic<int>* ended) {
        while (!*flag) co_await executor.yield();
        ++*ended;
      }
    };
    {
      DriverScope scope(*executor);
      spawn(Spin::until(*executor, &stop_from_here, &ended));
    }
    stop_from_here = true;
    wait_for(ended, 1);
  }

  Task<void> note_in_order(Executor & executor, TimePoint when, std::vector<int> * order, int name,
                           std::atomic<int>* ended) {
    co_await executor.sleep_until(when);
    order->push_back(name);  // only the housekeeping thread runs these
    ++*ended;
  }

  TEST_CASE("timers fire in order, never early, and an earlier one wakes the sleeping thread") {
    const auto executor = make_thread_executor();
    std::vector<int> order;
    std::atomic<int> ended{0};
    const TimePoint start = executor->now();
    spawn(note_in_order(*executor, start + 60ms, &order, 3, &ended));
    std::this_thread::sleep_for(5ms);
    spawn(note_in_order(*executor, start + 20ms, &order, 1, &ended));
    spawn(note_in_order(*executor, start + 40ms, &order, 2, &ended));
    wait_for(ended, 3);
    CHECK(order == std::vector<int>{1, 2, 3});
    CHECK(executor->now() - start >= 60ms);
  }

  TEST_CASE("a timer at the end of time waits without burning the processor") {
    const auto used = [] {
      timespec time{};
      ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
      return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
    };
    auto executor = make_thread_executor();
    struct Never {
      static Owned sleep(Executor& executor) {
        co_await executor.sleep_until(TimePoint{Duration::max()});
      }
    };
    const Owned never = Never::sleep(*executor);
    const auto before = used();
    std::this_thread::sleep_for(100ms);
    CHECK(used() - before < 50ms);
    CHECK_FALSE(never.handle.done());
    executor.reset();  // ends the sleep, so before the frame goes
  }

  TEST_CASE("shutdown runs what was posted, and ends every sleep instead of waiting for it") {
    std::atomic<int> count{0};
    struct Sleeper {
      static Owned sleep(Executor& executor) { co_await executor.sleep(1h); }
    };
    auto executor = make_thread_executor();
    const Owned sleeper = Sleeper::sleep(*executor);
    for (int i = 0; i < 1'000; ++i) spawn(hop(*executor, &count));
    const auto start = std::chrono::steady_clock::now();
    executor.reset();
    CHECK(count == 1'000);
    CHECK(sleeper.handle.done());
    CHECK(std::chrono::steady_clock::now() - start < 60s);
  }

  TEST_CASE("an idle executor shuts down at once, also one just made") {
    for (int i = 0; i < 100; ++i) make_thread_executor().reset();
  }

  TEST_CASE("clocks go forward, wall time is of this century, random numbers differ") {
    const auto executor = make_thread_executor();
    const TimePoint before = executor->now();
    std::this_thread::sleep_for(2ms);
    CHECK(executor->now() - before >= 2ms);
    CHECK(executor->wall_now() > Duration{1'700'000'000'000'000'000});
    CHECK(executor->random() != executor->random());
  }
}

TEST_SUITE("block_on") {
  Task<int> ready(int value) { co_return value; }
  Task<int> slept(Executor & executor, int value) {
    co_await executor.sleep(2ms);
    co_return value;
  }

  TEST_CASE("returns what the task returns, ready or not") {
    const auto executor = make_thread_executor();
    CHECK(block_on(*executor, ready(1)) == 1);
    CHECK(block_on(*executor, slept(*executor, 2)) == 2);
    CHECK(block_on(*executor, thread_after_yield(*executor)) == std::this_thread::get_id());
  }

  // Takes its time to die, and says when it has.
  struct Slow {
    std::shared_ptr<std::atomic<bool>> gone = std::make_shared<std::atomic<bool>>(false);
    Slow() = default;
    Slow(Slow&&) = default;
    ~Slow() {
      if (gone == nullptr) return;
      std::this_thread::sleep_for(20ms);
      *gone = true;
    }
  };
  Task<int> slept_with(Executor & executor, Slow) {
    co_await executor.sleep(2ms);
    co_return 1;
  }

  TEST_CASE("has destroyed the task and its parameters when it returns") {
    const auto executor = make_thread_executor();
    Slow slow;
    const std::shared_ptr<std::atomic<bool>> gone = slow.gone;
    CHECK(block_on(*executor, slept_with(*executor, std::move(slow))) == 1);
    CHECK(gone->load());
  }

  TEST_CASE("many threads may block at once") {
    const auto executor = make_thread_executor();
    std::atomic<int> sum{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20; ++i) sum += block_on(*executor, slept(*executor, 1));
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(sum == 80);
  }
}
