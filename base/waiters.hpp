// Coroutines that wait for something another coroutine will say.
//
// Resumption goes through Executor::post, so nobody is resumed inside the caller of notify and
// never under its locks.
#pragma once

#include <coroutine>
#include <utility>
#include <vector>

#include "base/executor.hpp"
#include "base/mutex.hpp"

namespace dynamicfs {

// A level that only rises once: waiting after set() does not suspend.
class AsyncEvent {
 public:
  explicit AsyncEvent(Executor& executor) : executor_(executor) {}

  void set() {
    std::vector<std::coroutine_handle<>> waiting;
    // Whoever sees the event set may destroy it, even before all are posted.
    Executor& executor = executor_;
    {
      LockGuard lock(mutex_);
      set_ = true;
      waiting.swap(waiting_);
    }
    for (const auto handle : waiting) executor.post(handle);
  }
  bool is_set() const {
    LockGuard lock(mutex_);
    return set_;
  }
  auto wait() {
    struct Awaiter {
      AsyncEvent& event;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        assert_no_mutex_held();
        LockGuard lock(event.mutex_);
        if (event.set_) return false;
        event.waiting_.push_back(handle);
        return true;
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  Executor& executor_;
  mutable Mutex mutex_;
  bool set_ DFS_GUARDED_BY(mutex_) = false;
  std::vector<std::coroutine_handle<>> waiting_ DFS_GUARDED_BY(mutex_);
};

// Mutual exclusion across suspension points, first come first served: for rare, long work
// (a checkpoint, a superblock write), never on the path of a read or write.
class AsyncMutex {
 public:
  explicit AsyncMutex(Executor& executor) : executor_(executor) {}

  class [[nodiscard]] Guard {
   public:
    explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (mutex_ != nullptr) mutex_->release();
    }

   private:
    AsyncMutex* mutex_;
  };

  auto acquire() {
    struct Awaiter {
      AsyncMutex& mutex;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        assert_no_mutex_held();
        LockGuard lock(mutex.mutex_);
        if (!mutex.held_) {
          mutex.held_ = true;
          return false;
        }
        mutex.waiting_.push_back(handle);
        return true;
      }
      Guard await_resume() const noexcept { return Guard{&mutex}; }
    };
    return Awaiter{*this};
  }

 private:
  void release() {
    std::coroutine_handle<> next;
    {
      LockGuard lock(mutex_);
      if (waiting_.empty()) {
        held_ = false;
        return;
      }
      // Handed over: held_ stays true.
      next = waiting_.front();
      waiting_.erase(waiting_.begin());
    }
    executor_.post(next);
  }

  Executor& executor_;
  Mutex mutex_;
  bool held_ DFS_GUARDED_BY(mutex_) = false;
  std::vector<std::coroutine_handle<>> waiting_ DFS_GUARDED_BY(mutex_);
};

}  // namespace dynamicfs
