#include "extent/hot_windows.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <random>
#include <thread>
#include <vector>

using namespace dynamicfs;
using namespace dynamicfs::extent;
using namespace std::chrono_literals;

namespace {

struct Clock {
  TimePoint now{1h};
  TimePoint after(Duration time) { return now = now + time; }
};

constexpr InodeId kFile{7};

}  // namespace

TEST_SUITE("hot windows") {
  TEST_CASE("one pass over a file makes nothing hot, however small its reads are") {
    for (const std::uint64_t step : {1, 3, 32, 256, 1000}) {
      HotWindows windows;
      Clock clock;
      std::size_t hot = 0;
      for (std::uint64_t at = 0; at < 64 * kWindowBlocks; at += step) {
        hot += windows.note(kFile, FileBlock{at}, step, clock.after(100us)) ? 1 : 0;
      }
      CHECK(hot == 0);
      CHECK(windows.hot(clock.now) == 0);
    }
  }

  TEST_CASE("a window read whole the second time is hot, and its neighbours are not") {
    HotWindows windows;
    Clock clock;
    CHECK_FALSE(windows.note(kFile, FileBlock{512}, 256, clock.after(1ms)));
    CHECK(windows.note(kFile, FileBlock{512}, 256, clock.after(1ms)));
    CHECK_FALSE(windows.note(kFile, FileBlock{256}, 256, clock.after(1ms)));
    CHECK_FALSE(windows.note(InodeId{8}, FileBlock{512}, 256, clock.after(1ms)));
    // A read that touches a cold window is a cold one.
    CHECK_FALSE(windows.note(kFile, FileBlock{760}, 16, clock.after(1ms)));
    CHECK(windows.hot(clock.now) == 1);
  }

  TEST_CASE("fourteen small reads at random places of a window make it hot") {
    HotWindows windows;
    Clock clock;
    int reads = 1;
    for (std::uint64_t at = 200; !windows.note(kFile, FileBlock{at}, 1, clock.after(10ms));
         at = (at + 77) % 256) {
      ++reads;
    }
    CHECK(reads == 14);
  }

  TEST_CASE("what is no longer read cools down: to a half in ten seconds") {
    HotWindows windows;
    Clock clock;
    for (int i = 0; i < 6; ++i) windows.note(kFile, FileBlock{0}, 256, clock.after(1ms));
    CHECK(windows.hot(clock.now) == 1);
    CHECK(windows.hot(clock.now + 10s) == 1);  // 3
    CHECK(windows.hot(clock.now + 20s) == 0);  // 1.5
    CHECK(windows.hot(clock.now + 1000s) == 0);
    // A read adds to what is left: 1.5 and 1.
    CHECK(windows.note(kFile, FileBlock{0}, 256, clock.after(20s)));
    // Read once a minute it never becomes hot.
    for (int i = 0; i < 20; ++i) {
      CHECK_FALSE(windows.note(kFile, FileBlock{0}, 256, clock.after(60s)));
    }
  }

  TEST_CASE("among far more windows than there are cells those that are read often are found") {
    HotWindows windows;
    Clock clock;
    std::mt19937_64 random(1);
    std::size_t hot_of_hot = 0, hot_reads = 0, hot_of_cold = 0, cold_reads = 0;
    for (int i = 0; i < 2'000'000; ++i) {
      // One read in four goes to 100 windows, the rest to a million.
      const bool is_hot = random() % 4 == 0;
      const std::uint64_t window = is_hot ? random() % 100 : 1000 + random() % 1'000'000;
      const FileBlock block{window * kWindowBlocks + random() % kWindowBlocks};
      const bool called_hot = windows.note(kFile, block, 1, clock.after(20us));
      if (i < 1'000'000) continue;  // warm by now
      (is_hot ? hot_reads : cold_reads) += 1;
      if (called_hot) (is_hot ? hot_of_hot : hot_of_cold) += 1;
    }
    CHECK(hot_of_hot * 100 > hot_reads * 95);
    CHECK(hot_of_cold * 1000 < cold_reads);
  }

  TEST_CASE("threads may count at once") {
    HotWindows windows;
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&windows, t] {
        for (std::uint64_t i = 0; i < 10'000; ++i) {
          windows.note(InodeId{i % 3}, FileBlock{(i * 7 + t) % 256}, 1, TimePoint{1h});
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(windows.hot(TimePoint{1h}) == 3);
  }
}
