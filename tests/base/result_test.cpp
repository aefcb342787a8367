#include "base/result.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <string>

#include "base/log.hpp"
#include "base/sim_executor.hpp"
#include "base/task.hpp"
#include "tests/base/dies.hpp"

using namespace dynamicfs;

namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return error(Code::kInvalid, static_cast<std::uint64_t>(number));
  return number / 2;
}

Result<void> refuse_odd(int number) {
  TRY(half(number));
  return {};
}

Result<int> quarter(int number) { return TRY(half(TRY(half(number)))); }

Result<std::unique_ptr<int>> boxed(int number) { return std::make_unique<int>(TRY(half(number))); }

Result<int> unboxed(int number) {
  const auto box = TRY(boxed(number));
  TRY(refuse_odd(*box));
  return *box;
}

Task<Result<std::unique_ptr<int>>> boxed_later(Executor& executor, int number) {
  co_await executor.yield();
  if (number < 0) co_return Code::kRange;
  co_return std::make_unique<int>(number);
}

Task<Result<void>> refuse_odd_later(Executor& executor, int number) {
  co_await executor.yield();
  CO_TRY(refuse_odd(number));
  co_return {};
}

Task<Result<int>> sum_later(Executor& executor, int a, int b) {
  CO_TRY_ASSIGN(const auto first, co_await boxed_later(executor, a));
  CO_TRY_ASSIGN(const auto second, co_await boxed_later(executor, b));
  CO_TRY(co_await refuse_odd_later(executor, *first));
  CO_TRY(co_await refuse_odd_later(executor, *second));
  co_return *first + *second;
}

}  // namespace

TEST_SUITE("result") {
  TEST_CASE("a result is a value or an error") {
    const Result<int> good = 7;
    CHECK(good.has_value());
    CHECK(*good == 7);
    CHECK(good.value_or(9) == 7);
    const Result<int> bad = error(Code::kNoSpace, 4096);
    CHECK_FALSE(static_cast<bool>(bad));
    CHECK(bad.error() == Error{Code::kNoSpace, 0, 4096});
    CHECK(bad.value_or(9) == 9);
    CHECK(Result<void>{}.has_value());
    CHECK(Result<void>{Code::kStale}.error() == Error{.code = Code::kStale});
  }

  TEST_CASE("a result owns what cannot be copied and gives it away once") {
    Result<std::unique_ptr<int>> box = std::make_unique<int>(3);
    CHECK(**box == 3);
    const std::unique_ptr<int> out = std::move(box).value();
    CHECK(*out == 3);
  }

  TEST_CASE("reading the wrong side of a result, or an error that says ok, is our own mistake") {
    CHECK(test::aborts([] { (void)Result<int>{Code::kBusy}.value(); }));
    CHECK(test::aborts([] { (void)Result<int>{1}.error(); }));
    CHECK(test::aborts([] { (void)Result<void>{}.error(); }));
    CHECK(test::aborts([] { (void)Result<int>{Code::kOk}; }));
    CHECK(test::aborts([] { (void)Result<void>{Error{}}; }));
  }

  TEST_CASE("TRY unwraps or returns the error as it was, also nested and of move-only values") {
    CHECK(quarter(12).value() == 3);
    CHECK(quarter(6).error() == Error{Code::kInvalid, 0, 3});
    CHECK(quarter(5).error() == Error{Code::kInvalid, 0, 5});
    CHECK(unboxed(8).value() == 4);
    CHECK(unboxed(6).error() == Error{Code::kInvalid, 0, 3});
    CHECK(unboxed(7).error() == Error{Code::kInvalid, 0, 7});
  }

  TEST_CASE("CO_TRY and CO_TRY_ASSIGN do the same in a coroutine") {
    SimExecutor executor{1};
    CHECK(executor.run(sum_later(executor, 2, 4)).value() == 6);
    CHECK(executor.run(sum_later(executor, -1, 4)).error().code == Code::kRange);
    CHECK(executor.run(sum_later(executor, 2, -1)).error().code == Code::kRange);
    CHECK(executor.run(sum_later(executor, 2, 3)).error() == Error{Code::kInvalid, 0, 3});
  }

  TEST_CASE("every code has a name of its own") {
    std::set<std::string_view> names;
    for (int code = 0; code <= static_cast<int>(Code::kShutdown); ++code) {
      names.insert(code_name(static_cast<Code>(code)));
    }
    CHECK(names.size() == static_cast<std::size_t>(Code::kShutdown) + 1);
    CHECK_FALSE(names.contains("unknown"));
    CHECK(code_name(static_cast<Code>(255)) == "unknown");
  }

  TEST_CASE("an error is described by what happened, why, and where") {
    CHECK(describe(error(Code::kChecksum)) == "checksum");
    CHECK(describe(error(Code::kChecksum, 4096)) == "checksum, at 4096");
    CHECK(describe(system_error(Code::kDiskRead, EIO, 8)) ==
          "disk read (Input/output error), at 8");
  }
}
