#include "base/byte_budget.hpp"

#include <doctest/doctest.h>

#include <optional>
#include <vector>

#include "base/sim_executor.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;

namespace {

Task<void> use(ByteBudget& budget, SimExecutor& executor, std::uint64_t bytes,
               std::vector<std::uint64_t>* order, std::uint64_t* largest) {
  const ByteBudget::Share share = co_await budget.take(bytes);
  order->push_back(bytes);
  *largest = std::max(*largest, budget.in_use_bytes());
  co_await executor.sleep(std::chrono::microseconds(1 + executor.random() % 100));
}

}  // namespace

TEST_SUITE("byte budget") {
  TEST_CASE("what is beyond the budget waits, in the order it came, and nobody is forgotten") {
    SimExecutor executor(test::seed_from_environment(1));
    ByteBudget budget(executor, 1000);
    std::vector<std::uint64_t> order;
    std::vector<std::uint64_t> wanted;
    std::uint64_t largest = 0;
    for (int i = 0; i < 500; ++i) {
      wanted.push_back(1 + executor.random() % 700);
      spawn(use(budget, executor, wanted.back(), &order, &largest));
    }
    executor.run_until_idle();
    // Those that are let in together may resume in any order.
    CHECK(order.size() == wanted.size());
    std::ranges::sort(order);
    std::ranges::sort(wanted);
    CHECK(order == wanted);
    CHECK(largest <= 1000);
    CHECK(largest > 600);
    CHECK(budget.in_use_bytes() == 0);
    CHECK(budget.waits() > 400);
  }

  TEST_CASE("a large one is not overtaken by small ones that come later") {
    SimExecutor executor(test::seed_from_environment(1));
    ByteBudget budget(executor, 1000);
    std::vector<std::uint64_t> order;
    std::uint64_t largest = 0;
    spawn(use(budget, executor, 600, &order, &largest));
    spawn(use(budget, executor, 900, &order, &largest));
    spawn(use(budget, executor, 100, &order, &largest));
    executor.run_until_idle();
    CHECK(order == std::vector<std::uint64_t>{600, 900, 100});
  }

  TEST_CASE(
      "more than there is at all is let in alone, and does not suspend when nobody is there") {
    SimExecutor executor(test::seed_from_environment(1));
    ByteBudget budget(executor, 10);
    std::vector<std::uint64_t> order;
    std::uint64_t largest = 0;
    spawn(use(budget, executor, 5000, &order, &largest));
    CHECK(order.size() == 1);
    CHECK(budget.in_use_bytes() == 10);
    spawn(use(budget, executor, 1, &order, &largest));
    CHECK(order.size() == 1);
    executor.run_until_idle();
    CHECK(order.size() == 2);
  }
}
