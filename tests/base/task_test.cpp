// What a task promises: it runs when awaited, ends once, needs no stack for what is ready, and its
// frame and parameters are gone when whoever awaited it goes on.

#include "base/task.hpp"

#include <doctest/doctest.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>

#include "base/blocking.hpp"
#include "base/result.hpp"
#include "base/sim_executor.hpp"
#include "tests/base/dies.hpp"
#include "tests/support/seed.hpp"

namespace {

// Allocations of this thread, and the one that fails: -1 for none, 0 for the next.
thread_local std::int64_t allocations = 0;
thread_local std::int64_t allocation_failing = -1;

void* allocate(std::size_t size) {
  ++allocations;
  if (allocation_failing >= 0 && allocation_failing-- == 0) throw std::bad_alloc();
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// Replaced for the whole test program, so that frames can be counted and made to fail.
// Not inlined, or g++ sees free() meet operator new and warns.
[[gnu::noinline]] void* operator new(std::size_t size) { return allocate(size); }
[[gnu::noinline]] void* operator new[](std::size_t size) { return allocate(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

using namespace dynamicfs;

namespace {

// Counts how many of its kind are alive; a second destruction would make the count negative.
struct Tracked {
  std::atomic<int>* alive;
  explicit Tracked(std::atomic<int>& count) : alive(&count) { ++*alive; }
  Tracked(const Tracked& other) : alive(other.alive) { ++*alive; }
  Tracked& operator=(const Tracked&) = delete;
  ~Tracked() { --*alive; }
};

Task<int> ready(int value) { co_return value; }
Task<int> later(Executor& executor, int value) {
  co_await executor.yield();
  co_return value;
}
Task<void> add(int* sum, int value) {
  *sum += value;
  co_return;
}
Task<std::unique_ptr<int>> boxed(std::unique_ptr<int> box) { co_return box; }
Task<std::unique_ptr<int>> boxed_later(Executor& executor, std::unique_ptr<int> box) {
  co_await executor.yield();
  co_return box;
}
Task<int> tracked(Tracked parameter, int value) {
  const Tracked local = parameter;
  co_return value;
}
Task<int> tracked_later(Executor& executor, Tracked parameter, int value) {
  const Tracked local = parameter;
  co_await executor.yield();
  co_return value;
}

// Resumes what it is given at once, on one of its own threads: the completion races with whatever
// the suspending thread still does.
class Racer {
 public:
  explicit Racer(int thread_count) {
    for (int t = 0; t < thread_count; ++t) threads_.emplace_back([this] { run(); });
  }
  ~Racer() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  auto hop() {
    struct Awaiter {
      Racer& racer;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> handle) { racer.push(handle); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  void push(std::coroutine_handle<> handle) {
    {
      std::lock_guard lock(mutex_);
      handles_.push_back(handle);
    }
    wake_.notify_one();
  }
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (!handles_.empty()) {
        const auto handle = handles_.front();
        handles_.pop_front();
        lock.unlock();
        handle.resume();
        lock.lock();
      } else if (stopping_) {
        return;
      } else {
        // Spins between waits: a sleeping thread would never win the race that is tested.
        lock.unlock();
        for (int spin = 0; spin < 20; ++spin) std::this_thread::yield();
        lock.lock();
        if (handles_.empty() && !stopping_) wake_.wait_for(lock, std::chrono::milliseconds(1));
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::coroutine_handle<>> handles_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

Task<int> raced(Racer& racer, Tracked parameter, int value) {
  const Tracked local = parameter;
  co_await racer.hop();
  co_return value;
}

}  // namespace

TEST_SUITE("task") {
  TEST_CASE("a task does nothing until it is awaited, and nothing if it never is") {
    int sum = 0;
    { const Task<void> never = add(&sum, 1); }
    CHECK(sum == 0);
    Task<void> once = add(&sum, 1);
    CHECK(sum == 0);
    SimExecutor executor{1};
    executor.run(std::move(once));
    CHECK(sum == 1);
  }

  TEST_CASE("a task yields its value, also one that can only be moved") {
    SimExecutor executor{1};
    CHECK(executor.run(ready(7)) == 7);
    CHECK(executor.run(later(executor, 8)) == 8);
    CHECK(*executor.run(boxed(std::make_unique<int>(9))) == 9);
    CHECK(*executor.run(boxed_later(executor, std::make_unique<int>(10))) == 10);
  }

  Task<Result<void>> nothing_wrong() { co_return {}; }
  Task<std::pair<int, std::string>> pair_in_braces() { co_return {1, "one"}; }

  TEST_CASE("a value in braces is returned as one") {
    SimExecutor executor{1};
    CHECK(executor.run(nothing_wrong()).has_value());
    CHECK(executor.run(pair_in_braces()) == std::pair<int, std::string>{1, "one"});
  }

  TEST_CASE("an assigned task replaces, and destroys, the one that was there") {
    std::atomic<int> alive{0};
    Task<int> task = tracked(Tracked{alive}, 1);
    CHECK(alive == 1);
    task = tracked(Tracked{alive}, 2);
    CHECK(alive == 1);
    SimExecutor executor{1};
    CHECK(executor.run(std::move(task)) == 2);
    CHECK(alive == 0);
  }

  TEST_CASE("awaiting nothing, or one task twice, is our own mistake") {
    CHECK(test::aborts([] { SimExecutor{1}.run(Task<int>{}); }));
    CHECK(test::aborts([] {
      struct Twice {
        static Task<void> run(Task<int> task) {
          (void)co_await std::move(task);
          (void)co_await std::move(task);
        }
      };
      SimExecutor{1}.run(Twice::run(ready(1)));
    }));
  }

  Task<std::int64_t> sum_of_ready(int count) {
    std::int64_t sum = 0;
    for (int i = 0; i < count; ++i) {
      const int value = co_await ready(i);
      sum += value;
    }
    co_return sum;
  }

  TEST_CASE("a loop of a million ready awaits needs no stack") {
    SimExecutor executor{1};
    CHECK(executor.run(sum_of_ready(1'000'000)) == std::int64_t{999'999} * 500'000);
  }

  Task<std::int64_t> sum_of_later(Executor & executor, int count) {
    std::int64_t sum = 0;
    for (int i = 0; i < count; ++i) {
      const int value = co_await later(executor, i);
      sum += value;
    }
    co_return sum;
  }

  TEST_CASE("nor does a loop of awaits that finish asynchronously") {
    SimExecutor executor{1};
    CHECK(executor.run(sum_of_later(executor, 200'000)) == std::int64_t{199'999} * 100'000);
  }

  Task<int> chain(Executor & executor, int depth) {
    if (depth == 0) {
      co_await executor.yield();
      co_return 0;
    }
    const int below = co_await chain(executor, depth - 1);
    if (depth % 3 == 0) co_await executor.yield();
    co_return below + 1;
  }

  TEST_CASE("a deep chain unwinds, whether it suspends on the way or not") {
    SimExecutor executor{1};
    CHECK(executor.run(chain(executor, 1000)) == 1000);
    const auto threads = make_thread_executor();
    CHECK(block_on(*threads, chain(*threads, 1000)) == 1000);
  }

  Task<int> two_tracked(Executor & executor, Tracked parameter) {
    const int before = *parameter.alive;
    const int first = co_await tracked(parameter, 1);
    const int after_first = *parameter.alive;
    const int second = co_await tracked_later(executor, parameter, 2);
    const int after_second = *parameter.alive;
    co_return first + second == 3 && after_first == before&& after_second == before ? 1 : 0;
  }

  TEST_CASE(
      "frames, locals and parameters are destroyed exactly once, before the awaiter goes on") {
    std::atomic<int> alive{0};
    SimExecutor executor{1};
    CHECK(executor.run(two_tracked(executor, Tracked{alive})) == 1);
    CHECK(alive == 0);
  }

  TEST_CASE("a task costs one allocation, and awaiting it none") {
    SimExecutor executor{1};
    executor.run(sum_of_ready(1));
    const std::int64_t before = allocations;
    executor.run(sum_of_ready(100));
    // The tasks, sum_of_ready itself, and the coroutine that collects the result.
    CHECK(allocations - before == 102);
  }

  MaybeTask<Result<int>> perhaps(Executor & executor, bool there) {
    if (there) return Result<int>{1};
    struct Bring {
      static Task<Result<int>> later(Executor& executor) {
        co_await executor.yield();
        co_return 2;
      }
    };
    return Bring::later(executor);
  }

  TEST_CASE("what is there already costs no allocation, and what is not is brought") {
    struct Both {
      static Task<int> run(Executor& executor, std::int64_t* cost) {
        const std::int64_t before = allocations;
        const Result<int> there = co_await perhaps(executor, true);
        *cost = allocations - before;
        const Result<int> brought = co_await perhaps(executor, false);
        co_return 10 * *there + *brought;
      }
    };
    SimExecutor executor{1};
    std::int64_t cost = -1;
    CHECK(executor.run(Both::run(executor, &cost)) == 12);
    CHECK(cost == 0);
  }

  TEST_CASE("a frame that finds no memory throws before the task exists, and leaks nothing") {
    std::atomic<int> alive{0};
    bool caught = false;
    allocation_failing = 0;
    try {
      const Task<int> task = tracked(Tracked{alive}, 1);
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    CHECK(caught);
    CHECK(alive == 0);
    struct Holder {
      static Task<void> hold(Tracked) { co_return; }
    };
    Task<void> task = Holder::hold(Tracked{alive});
    caught = false;
    allocation_failing = 0;
    try {
      spawn(std::move(task));
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    CHECK(caught);
    task = {};
    CHECK(alive == 0);
  }

  TEST_CASE("an exception inside a task ends the process: nobody can tell what it left half done") {
    CHECK(test::aborts([] {
      Task<std::int64_t> task = sum_of_ready(5);
      SimExecutor executor{1};
      // The collecting coroutine, then the first ready().
      allocation_failing = 1;
      executor.run(std::move(task));
    }));
  }

  Task<int> many_races(Racer & racer, Tracked parameter, int count) {
    int sum = 0;
    for (int i = 0; i < count; ++i) {
      const int value = co_await raced(racer, parameter, 1);
      sum += value;
    }
    co_return sum;
  }

  TEST_CASE("a completion on another thread may come while the awaiter still suspends") {
    std::atomic<int> alive{0};
    const int count = static_cast<int>(test::scaled(20'000));
    {
      const auto executor = make_thread_executor();
      Racer racer{2};
      CHECK(block_on(*executor, many_races(racer, Tracked{alive}, count)) == count);
    }
    CHECK(alive == 0);
  }
}

TEST_SUITE("when_all") {
  TEST_CASE("of nothing completes at once, with nothing") {
    SimExecutor executor{1};
    CHECK(executor.run(when_all(std::vector<Task<int>>{})).empty());
  }

  TEST_CASE("gives results in the order of the tasks, whatever the order of completion") {
    const std::uint64_t seed = test::seed_from_environment(4);
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    for (int repeat = 0; repeat < 50; ++repeat) {
      SimExecutor executor{random()};
      std::vector<Task<int>> tasks;
      for (int i = 0; i < 20; ++i) {
        // All ready, all suspended, then mixed.
        const bool is_ready = repeat == 0 || (repeat > 1 && random() % 2 == 0);
        tasks.push_back(is_ready ? ready(i) : later(executor, i));
      }
      const std::vector<int> results = executor.run(when_all(std::move(tasks)));
      REQUIRE(results.size() == 20);
      for (int i = 0; i < 20; ++i) REQUIRE(results[static_cast<std::size_t>(i)] == i);
    }
  }

  TEST_CASE("moves results that cannot be copied") {
    SimExecutor executor{1};
    std::vector<Task<std::unique_ptr<int>>> tasks;
    tasks.push_back(boxed(std::make_unique<int>(1)));
    tasks.push_back(boxed_later(executor, std::make_unique<int>(2)));
    const auto results = executor.run(when_all(std::move(tasks)));
    CHECK(*results.at(0) == 1);
    CHECK(*results.at(1) == 2);
  }

  TEST_CASE("of very many tasks needs no stack") {
    SimExecutor executor{1};
    constexpr int kCount = 200'000;
    std::vector<Task<int>> tasks;
    for (int i = 0; i < kCount; ++i) tasks.push_back(ready(i));
    CHECK(executor.run(when_all(std::move(tasks))).back() == kCount - 1);
    tasks.clear();
    for (int i = 0; i < kCount; ++i) tasks.push_back(later(executor, i));
    CHECK(executor.run(when_all(std::move(tasks))).back() == kCount - 1);
  }

  Task<int> alive_after_when_all(Executor & executor, std::atomic<int> * alive, bool is_ready) {
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 3; ++i) {
      if (is_ready) {
        tasks.push_back(tracked(Tracked{*alive}, i));
      } else {
        tasks.push_back(tracked_later(executor, Tracked{*alive}, i));
      }
    }
    (void)co_await when_all(std::move(tasks));
    co_return alive->load();
  }

  TEST_CASE("has destroyed every child and its parameters when it completes") {
    std::atomic<int> alive{0};
    SimExecutor executor{1};
    CHECK(executor.run(alive_after_when_all(executor, &alive, true)) == 0);
    CHECK(executor.run(alive_after_when_all(executor, &alive, false)) == 0);
    CHECK(alive == 0);
  }

  Task<int> many_forks(Racer & racer, std::atomic<int> * alive, int count) {
    int sum = 0;
    for (int i = 0; i < count; ++i) {
      std::vector<Task<int>> tasks;
      for (int k = 0; k < 4; ++k) tasks.push_back(raced(racer, Tracked{*alive}, 1));
      tasks.push_back(tracked(Tracked{*alive}, 1));
      const std::vector<int> results = co_await when_all(std::move(tasks));
      for (const int value : results) sum += value;
      if (*alive != 0) co_return -1;
    }
    co_return sum;
  }

  TEST_CASE("joins children that end on several threads at once") {
    std::atomic<int> alive{0};
    const int count = static_cast<int>(test::scaled(4'000));
    {
      const auto executor = make_thread_executor();
      Racer racer{3};
      CHECK(block_on(*executor, many_forks(racer, &alive, count)) == 5 * count);
    }
    CHECK(alive == 0);
  }
}
