#include "base/metrics.hpp"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

using namespace dynamicfs;

TEST_SUITE("metrics") {
  TEST_CASE("a counter loses nothing that many threads add, and never falls") {
    Counter counter;
    std::atomic<bool> stop{false};
    bool fell = false;
    std::thread reader{[&] {
      std::uint64_t last = 0;
      while (!stop) {
        const std::uint64_t now = counter.sum();
        fell = fell || now < last;
        last = now;
      }
    }};
    std::vector<std::thread> threads;
    // More threads than cells, so that some share one.
    for (unsigned t = 0; t < kShards + 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 5'000; ++i) counter.add();
        counter.add(7);
      });
    }
    for (std::thread& thread : threads) thread.join();
    stop = true;
    reader.join();
    CHECK_FALSE(fell);
    CHECK(counter.sum() == (kShards + 4) * 5'007u);
  }

  TEST_CASE("a thread keeps its cell") {
    const unsigned shard = thread_shard();
    CHECK(shard < kShards);
    CHECK(thread_shard() == shard);
  }

  TEST_CASE("a value falls into the bucket of its highest bit") {
    Histogram histogram;
    for (const std::uint64_t value : {0, 1, 2, 3, 4, 7, 8}) histogram.record(value);
    CHECK(histogram.bucket(0) == 1);
    CHECK(histogram.bucket(1) == 1);
    CHECK(histogram.bucket(2) == 2);
    CHECK(histogram.bucket(3) == 2);
    CHECK(histogram.bucket(4) == 1);
    CHECK(histogram.count() == 7);
    CHECK(histogram.sum() == 25);
    histogram.record(~std::uint64_t{0});
    CHECK(histogram.bucket(Histogram::kBuckets - 1) == 1);
  }

  TEST_CASE("a percentile is at least the true value and less than twice it") {
    Histogram histogram;
    CHECK(histogram.percentile(0.5) == 0);
    for (std::uint64_t value = 1; value <= 1000; ++value) histogram.record(value);
    for (const double fraction : {0.001, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      CAPTURE(fraction);
      const auto exact = static_cast<std::uint64_t>(fraction * 1000);
      CHECK(histogram.percentile(fraction) >= exact);
      CHECK(histogram.percentile(fraction) < 2 * exact);
    }
  }

  TEST_CASE("one slow request in a thousand shows at p99.9 and above, not at p99") {
    Histogram histogram;
    for (int i = 0; i < 998; ++i) histogram.record(100);
    for (int i = 0; i < 2; ++i) histogram.record(1'000'000);
    CHECK(histogram.percentile(0.5) == 127);
    CHECK(histogram.percentile(0.99) == 127);
    CHECK(histogram.percentile(0.999) == (1u << 20) - 1);
    CHECK(histogram.percentile(1.0) == (1u << 20) - 1);
  }

  TEST_CASE("a histogram loses nothing that many threads record") {
    Histogram histogram;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (std::uint64_t i = 0; i < 5'000; ++i) histogram.record(i % 16);
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(histogram.count() == 20'000);
    CHECK(histogram.bucket(0) == 4 * 313);
    CHECK(histogram.sum() == 4 * (312 * 120 + 28));
  }
}
