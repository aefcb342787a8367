// So many bytes of memory for one purpose: whoever wants some beyond that waits its turn.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "base/executor.hpp"
#include "base/metrics.hpp"
#include "base/mutex.hpp"

namespace dynamicfs {

// First come, first served, so that a large request is not overtaken for ever by small ones. What is
// larger than the whole budget counts as all of it. Any thread; a leaf mutex. Resumption goes
// through Executor::post.
class ByteBudget {
 public:
  ByteBudget(Executor& executor, std::uint64_t bytes) : executor_(executor), bytes_(bytes) {}
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;
  ~ByteBudget() { DFS_ASSERT(in_use_ == 0 && waiting_.empty()); }

  // Gives back when it dies; movable.
  class [[nodiscard]] Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}
    Share& operator=(Share&& other) noexcept {
      if (this != &other) {
        reset();
        budget_ = std::exchange(other.budget_, nullptr);
        bytes_ = other.bytes_;
      }
      return *this;
    }
    ~Share() { reset(); }
    void reset() {
      if (budget_ != nullptr) std::exchange(budget_, nullptr)->give_back(bytes_);
    }

   private:
    friend class ByteBudget;
    Share(ByteBudget* budget, std::uint64_t bytes) : budget_(budget), bytes_(bytes) {}
    ByteBudget* budget_ = nullptr;
    std::uint64_t bytes_ = 0;
  };

  auto take(std::uint64_t bytes) {
    struct Awaiter {
      ByteBudget& budget;
      std::uint64_t bytes;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) { return budget.wait(bytes, handle); }
      Share await_resume() const noexcept { return Share{&budget, bytes}; }
    };
    return Awaiter{*this, std::min(bytes, bytes_)};
  }

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t in_use_bytes() const {
    LockGuard lock(mutex_);
    return in_use_;
  }
  // How often somebody had to wait.
  std::uint64_t waits() const { return waits_.sum(); }

 private:
  struct Waiter {
    std::uint64_t bytes;
    std::coroutine_handle<> handle;
  };

  // False: it is there now.
  bool wait(std::uint64_t bytes, std::coroutine_handle<> handle) {
    assert_no_mutex_held();
    LockGuard lock(mutex_);
    if (waiting_.empty() && bytes <= bytes_ - in_use_) [[likely]] {
      in_use_ += bytes;
      return false;
    }
    waiting_.push_back({bytes, handle});
    waits_.add();
    return true;
  }
  void give_back(std::uint64_t bytes) {
    std::vector<std::coroutine_handle<>> ready;
    {
      LockGuard lock(mutex_);
      in_use_ -= bytes;
      while (!waiting_.empty() && waiting_.front().bytes <= bytes_ - in_use_) {
        in_use_ += waiting_.front().bytes;
        ready.push_back(waiting_.front().handle);
        waiting_.pop_front();
      }
    }
    for (const auto handle : ready) executor_.post(handle);
  }

  Executor& executor_;
  const std::uint64_t bytes_;
  Counter waits_;
  mutable Mutex mutex_;
  std::uint64_t in_use_ DFS_GUARDED_BY(mutex_) = 0;
  std::deque<Waiter> waiting_ DFS_GUARDED_BY(mutex_);
};

}  // namespace dynamicfs
