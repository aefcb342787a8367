#include "base/waiters.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "base/blocking.hpp"
#include "base/sim_executor.hpp"

using namespace dynamicfs;
using namespace std::chrono_literals;

namespace {

using Order = std::vector<int>;

Task<void> wait_and_count(AsyncEvent& event, std::atomic<int>* count) {
  co_await event.wait();
  ++*count;
}
Task<void> note_inside(AsyncMutex& mutex, Executor& executor, Order* order, int name) {
  const AsyncMutex::Guard guard = co_await mutex.acquire();
  order->push_back(name);
  co_await executor.sleep(1ms);
  order->push_back(name);
}

}  // namespace

TEST_SUITE("async_event") {
  TEST_CASE("set resumes every waiter once, and never inside set") {
    SimExecutor executor{1};
    AsyncEvent event{executor};
    std::atomic<int> count{0};
    for (int i = 0; i < 5; ++i) spawn(wait_and_count(event, &count));
    executor.run_until_idle();
    CHECK(count == 0);
    CHECK_FALSE(event.is_set());
    event.set();
    CHECK(event.is_set());
    CHECK(count == 0);
    executor.run_until_idle();
    CHECK(count == 5);
    event.set();
    executor.run_until_idle();
    CHECK(count == 5);
  }

  TEST_CASE("waiting after set does not suspend") {
    SimExecutor executor{1};
    AsyncEvent event{executor};
    event.set();
    std::atomic<int> count{0};
    spawn(wait_and_count(event, &count));
    CHECK(count == 1);
  }

  TEST_CASE("no waiter is lost when set races with wait on other threads") {
    const auto executor = make_thread_executor();
    for (int round = 0; round < 200; ++round) {
      AsyncEvent event{*executor};
      std::atomic<int> count{0};
      std::vector<std::thread> threads;
      for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&] {
          for (int i = 0; i < 10; ++i) spawn(wait_and_count(event, &count));
        });
      }
      event.set();
      for (std::thread& thread : threads) thread.join();
      while (count != 30) std::this_thread::yield();
    }
  }

  TEST_CASE("the last waiter may destroy the event while set still returns") {
    // An executor that runs what is posted before post() returns: the worst that a second thread
    // could do, every time.
    struct EagerExecutor final : Executor {
      TimePoint now() const override { return {}; }
      Duration wall_now() const override { return {}; }
      std::uint64_t random() override { return 0; }
      void post(std::coroutine_handle<> handle) override { handle.resume(); }
      void post_at(TimePoint, std::coroutine_handle<> handle) override { handle.resume(); }
      void post_to_own_thread(std::coroutine_handle<> handle) override { handle.resume(); }
      void enter_driver() override {}
      void leave_driver() override {}
    };
    struct Waiter {
      // Takes the event away before the second waiter has been posted.
      static Task<void> destroy(std::unique_ptr<AsyncEvent>* event, int* count) {
        co_await (*event)->wait();
        event->reset();
        ++*count;
      }
      static Task<void> wait(AsyncEvent* event, int* count) {
        co_await event->wait();
        ++*count;
      }
    };
    EagerExecutor executor;
    auto event = std::make_unique<AsyncEvent>(executor);
    int count = 0;
    spawn(Waiter::destroy(&event, &count));
    spawn(Waiter::wait(event.get(), &count));
    event->set();
    CHECK(event == nullptr);
    CHECK(count == 2);
  }
}

TEST_SUITE("async_mutex") {
  TEST_CASE("holders exclude each other across suspension, first come first served") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      CAPTURE(seed);
      SimExecutor executor{seed};
      AsyncMutex mutex{executor};
      Order order;
      for (int name = 0; name < 5; ++name) spawn(note_inside(mutex, executor, &order, name));
      executor.run_until_idle();
      CHECK(order == Order{0, 0, 1, 1, 2, 2, 3, 3, 4, 4});
    }
  }

  Task<void> take_and_give_back(AsyncMutex & mutex, int* count) {
    {
      AsyncMutex::Guard guard = co_await mutex.acquire();
      const AsyncMutex::Guard moved = std::move(guard);
      ++*count;
    }
    // Had the moved-from guard released too, or the moved one not, this would not work.
    const AsyncMutex::Guard again = co_await mutex.acquire();
    ++*count;
  }

  TEST_CASE("a guard that was moved releases once") {
    SimExecutor executor{1};
    AsyncMutex mutex{executor};
    int count = 0;
    executor.run(take_and_give_back(mutex, &count));
    CHECK(count == 2);
  }

  Task<int> count_inside(AsyncMutex & mutex, Executor & executor, int* unprotected, int rounds) {
    for (int i = 0; i < rounds; ++i) {
      const AsyncMutex::Guard guard = co_await mutex.acquire();
      const int before = *unprotected;
      if (i % 16 == 0) co_await executor.sleep(10us);
      *unprotected = before + 1;
    }
    co_return rounds;
  }

  TEST_CASE("holders on several threads exclude each other") {
    const auto executor = make_thread_executor();
    AsyncMutex mutex{*executor};
    int unprotected = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back(
          [&] { block_on(*executor, count_inside(mutex, *executor, &unprotected, 500)); });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(unprotected == 2'000);
  }
}
