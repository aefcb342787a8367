// How quickly a disk answers, and what follows from that, as arithmetic.
#include "scheduler/latency_watch.hpp"

#include <doctest/doctest.h>

#include <random>

#include "tests/support/seed.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Verdict = LatencyWatch::Verdict;

constexpr Lateness kWell{};
constexpr Lateness kLate{.late = true, .hung = false};
constexpr Lateness kHung{.late = true, .hung = true};

TimePoint at(Duration time) { return {time}; }

}  // namespace

TEST_SUITE("latency watch") {
  TEST_CASE("a disk that is late is suspect, and healthy when nothing was late for ten seconds") {
    LatencyWatch watch;
    CHECK(watch.look(at(seconds{1}), kWell) == Verdict::kAsBefore);
    CHECK_FALSE(watch.suspect());
    CHECK(watch.look(at(seconds{2}), kLate) == Verdict::kSuspect);
    CHECK(watch.suspect());
    CHECK(watch.look(at(seconds{3}), kLate) == Verdict::kAsBefore);
    CHECK(watch.look(at(seconds{4}), kWell) == Verdict::kAsBefore);
    watch.completed_late(at(seconds{5}));
    CHECK(watch.look(at(milliseconds{14'999}), kWell) == Verdict::kAsBefore);
    CHECK(watch.suspect());
    CHECK(watch.look(at(seconds{15}), kWell) == Verdict::kRecovered);
    CHECK_FALSE(watch.suspect());
    CHECK(watch.look(at(seconds{16}), kWell) == Verdict::kAsBefore);
  }

  TEST_CASE("a disk that has hung was suspect before") {
    LatencyWatch watch;
    CHECK(watch.look(at(seconds{40}), kHung) == Verdict::kSuspect);
    CHECK(watch.look(at(seconds{41}), kHung) == Verdict::kHung);
    CHECK(watch.look(at(seconds{42}), kHung) == Verdict::kHung);
    CHECK(watch.suspect());
  }

  TEST_CASE("the estimate is near what 95 of 100 reads stay below, and follows when that changes") {
    std::mt19937_64 random(test::seed_from_environment(1));
    LatencyWatch watch;
    // Mostly 80 to 120 us, one in ten somewhere up to 1.1 ms: 95 % lie below 620 us.
    const auto feed = [&](int reads, int times) {
      for (int i = 0; i < reads; ++i) {
        const std::uint64_t us = random() % 10 == 0 ? 120 + random() % 1000 : 80 + random() % 40;
        watch.read_completed(microseconds{us * static_cast<unsigned>(times)});
      }
    };
    feed(20'000, 1);
    CHECK(watch.read_p95() > microseconds{450});
    CHECK(watch.read_p95() < microseconds{800});
    feed(20'000, 10);
    CHECK(watch.read_p95() > microseconds{4'500});
    CHECK(watch.read_p95() < microseconds{8'000});
    feed(20'000, 1);
    CHECK(watch.read_p95() < microseconds{800});
  }
}

}  // namespace dynamicfs::scheduler
