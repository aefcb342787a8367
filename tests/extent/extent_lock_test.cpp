#include "extent/extent_lock.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>
#include <vector>

using namespace dynamicfs;
using namespace dynamicfs::extent;

// With any number of shards: a build with -Dlock_shards=1 passes too.
TEST_SUITE("extent locks") {
  TEST_CASE("as many consecutive windows of a file as there are locks have different ones") {
    for (std::uint64_t inode = 1; inode < 50; ++inode) {
      std::set<std::size_t> shards;
      for (std::uint64_t window = 1000; window < 1000 + kLockShards; ++window) {
        shards.insert(ExtentLocks::shard_of(InodeId{inode}, WindowId{window}));
      }
      CHECK(shards.size() == kLockShards);
    }
  }

  TEST_CASE("files spread over the locks") {
    std::vector<int> hits(kLockShards);
    for (std::uint64_t inode = 1; inode <= kLockShards * 100; ++inode) {
      ++hits[ExtentLocks::shard_of(InodeId{inode}, WindowId{0})];
    }
    for (const int count : hits) CHECK((count > 50 && count < 160));
  }

  TEST_CASE("a guard holds as many mutexes as its range has windows, and gives them back") {
    ExtentLocks locks;
    const int before = Mutex::held_by_this_thread();
    const auto held_for = [&](std::uint64_t first, std::uint64_t count) {
      const auto guard = locks.lock(InodeId{9}, FileBlock{first}, count);
      return Mutex::held_by_this_thread() - before;
    };
    std::uint64_t acquired = 0;
    const auto at_most_all = [&](std::size_t windows) {
      const std::size_t shards = std::min(windows, kLockShards);
      acquired += shards;
      return static_cast<int>(shards);
    };
    CHECK(held_for(0, 1) == at_most_all(1));
    CHECK(held_for(0, 256) == at_most_all(1));
    CHECK(held_for(255, 2) == at_most_all(2));
    CHECK(held_for(255, 258) == at_most_all(3));
    CHECK(held_for(0, 256 * 255) == at_most_all(255));
    CHECK(held_for(1, 256 * 255) == at_most_all(256));
    CHECK(held_for(0, 256 * 4000) == at_most_all(4000));
    CHECK(held_for(77, ~std::uint64_t{0}) == at_most_all(4000));
    CHECK(held_for(0, ~std::uint64_t{0}) == at_most_all(4000));
    CHECK(Mutex::held_by_this_thread() == before);
    CHECK(locks.metrics().acquisitions.sum() == acquired);
    CHECK(locks.metrics().contentions.sum() == 0);
  }

  TEST_CASE("two ranges are locked together, each window once") {
    ExtentLocks locks;
    const int before = Mutex::held_by_this_thread();
    const auto shards_of = [](std::uint64_t inode, std::uint64_t window, std::uint64_t windows,
                              std::set<std::size_t>& shards) {
      for (std::uint64_t i = 0; i < windows; ++i)
        shards.insert(ExtentLocks::shard_of(InodeId{inode}, WindowId{window + i}));
    };
    for (const std::uint64_t other : {9, 10, 11, 12, 500}) {
      for (const std::uint64_t windows : {1, 2, 17, 300}) {
        std::set<std::size_t> shards;
        shards_of(9, 3, windows, shards);
        shards_of(other, 7, windows, shards);
        const auto guard = locks.lock({InodeId{9}, FileBlock{3 * 256}, windows * 256},
                                      {InodeId{other}, FileBlock{7 * 256}, windows * 256});
        CHECK(Mutex::held_by_this_thread() - before == static_cast<int>(shards.size()));
      }
      CHECK(Mutex::held_by_this_thread() == before);
    }
  }

  TEST_CASE("overlapping ranges exclude each other, in any order, without a deadlock") {
    ExtentLocks locks;
    std::vector<std::uint64_t> counters(40);
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < 5000; ++i) {
          const std::uint64_t first = (i * 7 + t * 13) % 30;
          const std::uint64_t count = 1 + (i + t) % 10;
          if (i % 500 == 0) {
            const auto guard = locks.lock(InodeId{1}, FileBlock{0}, ~std::uint64_t{0});
            for (auto& counter : counters) ++counter;
          } else if (i % 3 == 0) {
            // As many windows, some of them apart and in front of the others.
            const std::uint64_t apart = count / 2;
            const std::uint64_t other = first < 15 ? 39 - apart : 0;
            const auto guard =
                locks.lock({InodeId{1}, FileBlock{first * 256}, (count - apart) * 256},
                           {InodeId{1}, FileBlock{other * 256}, std::max<std::uint64_t>(apart, 1)});
            for (std::uint64_t window = first; window < first + count - apart; ++window)
              ++counters[window];
            counters[other] += apart;
          } else {
            const auto guard = locks.lock(InodeId{1}, FileBlock{first * 256 + 3}, count * 256 - 3);
            for (std::uint64_t window = first; window < first + count; ++window) ++counters[window];
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    std::uint64_t expected = 0;
    for (std::uint64_t t = 0; t < 4; ++t) {
      for (std::uint64_t i = 0; i < 5000; ++i) {
        expected += i % 500 == 0 ? counters.size() : 1 + (i + t) % 10;
      }
    }
    std::uint64_t sum = 0;
    for (const std::uint64_t counter : counters) sum += counter;
    CHECK(sum == expected);
  }

  TEST_CASE("waiting is counted as contention, with its time") {
    ExtentLocks locks;
    std::uint64_t rounds = 0;
    // On a busy machine the other thread may come to the lock only after it was let go.
    for (; locks.metrics().contentions.sum() == 0 && rounds < 10; ++rounds) {
      std::atomic<bool> entered{false};
      std::thread other;
      {
        const auto guard = locks.lock(InodeId{1}, FileBlock{0}, 1);
        other = std::thread([&] {
          entered = true;
          const auto mine = locks.lock(InodeId{1}, FileBlock{5}, 1);
        });
        while (!entered) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds(10) * (1 << rounds));
      }
      other.join();
    }
    CHECK(locks.metrics().acquisitions.sum() == 2 * rounds);
    CHECK(locks.metrics().contentions.sum() == 1);
    CHECK(locks.metrics().wait_ns.count() == 1);
    CHECK(locks.metrics().wait_ns.sum() > 0);
  }
}
