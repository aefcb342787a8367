// The one mutex: four bytes, annotated for Clang's -Wthread-safety, reading the clock only where
// there is contention. An uncontended lock is one compare-and-swap and one thread-local increment.
//
// Method: Ulrich Drepper, "Futexes Are Tricky", mutex 2, over C++20 atomic wait.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/assert.hpp"

#if defined(__clang__)
#define DFS_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define DFS_THREAD_ANNOTATION(x)
#endif
#define DFS_CAPABILITY DFS_THREAD_ANNOTATION(capability("mutex"))
#define DFS_SCOPED_CAPABILITY DFS_THREAD_ANNOTATION(scoped_lockable)
#define DFS_GUARDED_BY(x) DFS_THREAD_ANNOTATION(guarded_by(x))
#define DFS_REQUIRES(...) DFS_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define DFS_ACQUIRE(...) DFS_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define DFS_RELEASE(...) DFS_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define DFS_TRY_ACQUIRE(...) DFS_THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define DFS_EXCLUDES(...) DFS_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define DFS_NO_THREAD_SAFETY_ANALYSIS DFS_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace dynamicfs {

class DFS_CAPABILITY Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  // Returns the time spent waiting, in nanoseconds: 0 when there was nobody to wait for.
  std::uint64_t lock() DFS_ACQUIRE() {
    std::uint32_t expected = kFree;
    if (state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire)) [[likely]] {
      entered();
      return 0;
    }
    const std::uint64_t waited_ns = lock_contended();
    entered();
    return waited_ns;
  }
  bool try_lock() DFS_TRY_ACQUIRE(true) {
    std::uint32_t expected = kFree;
    const bool ok = state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire);
    if (ok) entered();
    return ok;
  }
  void unlock() DFS_RELEASE() {
    left();
    if (state_.exchange(kFree, std::memory_order_release) == kContended) state_.notify_one();
  }

  // How many mutexes this thread holds.
  static int held_by_this_thread() { return held_; }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kHeld = 1;
  static constexpr std::uint32_t kContended = 2;

  std::uint64_t lock_contended();
  static void entered() { ++held_; }
  static void left() { --held_; }

  static constinit thread_local int
      held_;  // NOLINT(readability-identifier-naming): a member all the same
  std::atomic<std::uint32_t> state_{kFree};
};

class DFS_SCOPED_CAPABILITY LockGuard {
 public:
  explicit LockGuard(Mutex& mutex) DFS_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~LockGuard() DFS_RELEASE() { mutex_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  Mutex& mutex_;
};

// INV-1. Wherever something may be waited for: an await of any kind, which takes in the journal, a
// request to a disk, an answer to the kernel.
inline void assert_no_mutex_held() { DFS_ASSERT(Mutex::held_by_this_thread() == 0); }

}  // namespace dynamicfs
