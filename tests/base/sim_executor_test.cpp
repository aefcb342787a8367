#include "base/sim_executor.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <vector>

#include "tests/base/dies.hpp"

using namespace dynamicfs;
using namespace std::chrono_literals;

namespace {

using Order = std::vector<int>;

Task<void> note_after_yields(Executor& executor, Order* order, int name) {
  for (int i = 0; i < 3; ++i) {
    co_await executor.yield();
    order->push_back(name);
  }
}
Task<void> note_at(Executor& executor, Order* order, Duration after, int name) {
  co_await executor.sleep(after);
  order->push_back(name);
}

Order order_of(std::uint64_t seed) {
  SimExecutor executor{seed};
  Order order;
  for (int name = 0; name < 8; ++name) spawn(note_after_yields(executor, &order, name));
  executor.run_until_idle();
  return order;
}

struct Simulation {
  SimExecutor executor{1};
  Order order;

  void note(Duration after, int name) { spawn(note_at(executor, &order, after, name)); }
  Duration since_start() const { return executor.now() - TimePoint{}; }
};

}  // namespace

TEST_SUITE("sim_executor") {
  TEST_CASE("one seed is one order, another seed another") {
    CHECK(order_of(1).size() == 24);
    CHECK(order_of(1) == order_of(1));
    CHECK(order_of(2) == order_of(2));
    CHECK(order_of(1) != order_of(2));
  }

  TEST_CASE("one seed is one sequence of random numbers") {
    SimExecutor a{5};
    SimExecutor b{5};
    SimExecutor c{6};
    const std::uint64_t first = a.random();
    CHECK(first == b.random());
    CHECK(first != c.random());
    CHECK(a.random() != first);
  }

  TEST_CASE_FIXTURE(Simulation, "what is posted never runs inside the call that posts it") {
    spawn(note_after_yields(executor, &order, 1));
    CHECK(order.empty());
    CHECK(executor.step());
    CHECK(order == Order{1});
    executor.run_until_idle();
  }

  TEST_CASE_FIXTURE(Simulation, "the clock stands still until it jumps to the next timer") {
    note(10s, 1);
    note(1h, 2);
    CHECK(since_start() == 0s);
    CHECK(executor.step());
    CHECK(since_start() == 10s);
    CHECK(order == Order{1});
    CHECK(executor.step());
    CHECK(since_start() == 1h);
    CHECK(order == Order{1, 2});
    CHECK_FALSE(executor.step());
    CHECK(since_start() == 1h);
  }

  TEST_CASE_FIXTURE(Simulation, "wall time moves with the clock") {
    const Duration before = executor.wall_now();
    executor.run_for(90s);
    CHECK(executor.wall_now() - before == 90s);
  }

  TEST_CASE_FIXTURE(Simulation,
                    "timers fire by their time, and those of one time as they were set") {
    note(3ms, 30);
    note(1ms, 10);
    note(2ms, 20);
    note(1ms, 11);
    note(1ms, 12);
    executor.run_until_idle();
    CHECK(order == Order{10, 11, 12, 20, 30});
  }

  TEST_CASE_FIXTURE(Simulation, "whatever is ready runs before the clock moves") {
    note(1ns, 2);
    spawn(note_after_yields(executor, &order, 1));
    executor.run_until_idle();
    CHECK(order == Order{1, 1, 1, 2});
  }

  TEST_CASE_FIXTURE(Simulation, "run_for fires the timers up to its end, and no later one") {
    note(1s, 1);
    note(2s, 2);
    note(2s + 1ns, 3);
    executor.run_for(2s);
    CHECK(order == Order{1, 2});
    CHECK(since_start() == 2s);
    executor.run_for(1ns);
    CHECK(order == Order{1, 2, 3});
    executor.run_for(5s);
    CHECK(since_start() == 7s + 1ns);
  }

  TEST_CASE_FIXTURE(Simulation,
                    "a timer in the past fires at once and does not turn the clock back") {
    executor.run_for(10s);
    note(-5s, 1);
    executor.run_until_idle();
    CHECK(order == Order{1});
    CHECK(since_start() == 10s);
  }

  TEST_CASE_FIXTURE(Simulation, "run stops when its task ends, and leaves the others for later") {
    note(1h, 2);
    executor.run(note_at(executor, &order, 1s, 1));
    CHECK(order == Order{1});
    CHECK(since_start() == 1s);
    executor.run_until_idle();
    CHECK(order == Order{1, 2});
  }

  TEST_CASE("a task that nobody will ever resume is found as a deadlock") {
    struct Stuck {
      static Task<int> forever() {
        co_await std::suspend_always{};
        co_return 1;
      }
    };
    CHECK(test::aborts([] { SimExecutor{1}.run(Stuck::forever()); }));
  }
}
