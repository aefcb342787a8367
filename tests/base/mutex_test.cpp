#include "base/mutex.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>
#include <vector>

using namespace dynamicfs;

TEST_SUITE("mutex") {
  TEST_CASE("eight threads exclude each other") {
    constexpr int kThreads = 8;
    constexpr int kRounds = 20'000;
    Mutex mutex;
    std::uint64_t count = 0;
    std::atomic<int> inside{0};
    std::atomic<bool> overlapped{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kRounds; ++i) {
          LockGuard lock(mutex);
          if (inside.fetch_add(1, std::memory_order_relaxed) != 0) overlapped = true;
          ++count;
          // Now and then the holder sleeps inside, so that others queue up and must be woken.
          if (i % 5000 == 0) std::this_thread::yield();
          inside.fetch_sub(1, std::memory_order_relaxed);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_FALSE(overlapped);
    CHECK(count == kThreads * kRounds);
  }

  TEST_CASE("every sleeper is woken, however many there are") {
    Mutex mutex;
    std::atomic<int> done{0};
    std::vector<std::thread> threads;
    mutex.lock();
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        LockGuard lock(mutex);
        ++done;
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(done == 0);
    mutex.unlock();
    for (std::thread& thread : threads) thread.join();
    CHECK(done == 8);
  }

  TEST_CASE("lock returns how long it waited, and zero when there was nobody to wait for") {
    Mutex mutex;
    CHECK(mutex.lock() == 0);
    mutex.unlock();
    std::uint64_t waited_ns = 0;
    std::chrono::nanoseconds held{};
    // On a busy machine the other thread may come to the lock only after it was let go.
    for (int round = 0; waited_ns == 0 && round < 10; ++round) {
      const auto from = std::chrono::steady_clock::now();
      mutex.lock();
      std::thread other{[&] {
        waited_ns = mutex.lock();
        mutex.unlock();
      }};
      std::this_thread::sleep_for(std::chrono::milliseconds(10) * (1 << round));
      mutex.unlock();
      other.join();
      held = std::chrono::steady_clock::now() - from;
    }
    CHECK(waited_ns > 0);
    CHECK(waited_ns <= static_cast<std::uint64_t>(held.count()));
    CHECK(mutex.lock() == 0);
    mutex.unlock();
  }

  TEST_CASE("try_lock takes a free mutex and leaves a held one") {
    Mutex mutex;
    const auto try_elsewhere = [&] {
      bool taken = false;
      std::thread{[&] {
        if (!mutex.try_lock()) return;
        taken = true;
        mutex.unlock();
      }}.join();
      return taken;
    };
    CHECK(try_elsewhere());
    {
      LockGuard lock(mutex);
      CHECK_FALSE(try_elsewhere());
    }
    CHECK(try_elsewhere());
  }

  TEST_CASE("each thread knows how many mutexes it holds") {
    Mutex a;
    Mutex b;
    CHECK(Mutex::held_by_this_thread() == 0);
    {
      LockGuard lock_a(a);
      CHECK(Mutex::held_by_this_thread() == 1);
      {
        LockGuard lock_b(b);
        CHECK(Mutex::held_by_this_thread() == 2);
        int held_elsewhere = -1;
        std::thread{[&] {
          held_elsewhere = Mutex::held_by_this_thread();
          if (a.try_lock()) a.unlock();
          held_elsewhere += Mutex::held_by_this_thread();
        }}.join();
        CHECK(held_elsewhere == 0);
      }
      CHECK(Mutex::held_by_this_thread() == 1);
    }
    CHECK(Mutex::held_by_this_thread() == 0);
  }
}
