// Task<T>: a lazily started coroutine, awaited exactly once, resumed on whatever thread completes
// what it waits for.
//
// Awaiting a task starts it inside the awaiting coroutine's await_suspend and asks afterwards
// whether it already finished; if so the awaiting coroutine never suspends. So a loop of a million
// ready awaits uses constant stack without symmetric transfer, which is not a tail call in
// sanitizer and -O0 builds of g++ 12. Method: Lewis Baker, cppcoro `task`, the variant for
// compilers without symmetric transfer.
//
// g++ 12 rules (each is a compiler bug met in practice): no co_await inside a statement expression
// (use CO_TRY_ASSIGN), none in conditional expressions or braced initialisers, parameters by value,
// no capturing coroutine lambdas.
//
// Threads  A task may resume on another thread than it suspended on; one thread at a time runs it.
// Errors   Tasks return Result<T>; an exception that leaves a task ends the process, since nobody
//          can tell what it left half done. std::bad_alloc of the outermost frame is thrown by the
//          call that would have made it, before anything has started, and may be caught there.
// Lifetime The frame, and the parameters in it, live until the Task object dies: in `co_await f(x)`
//          until the end of that statement. A task that has started must end before it dies.
#pragma once

#include <atomic>
#include <coroutine>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "base/assert.hpp"
#include "base/mutex.hpp"

namespace dynamicfs {

template <class T>
class [[nodiscard]] Task;

namespace detail {

class TaskPromiseBase {
 public:
  std::suspend_always initial_suspend() noexcept { return {}; }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> handle) noexcept {
      TaskPromiseBase& promise = handle.promise();
      // Whoever comes second resumes the continuation: here, the awaiting coroutine has suspended.
      // The frame may be gone once `other_side_` is set, so the handle is read before.
      const std::coroutine_handle<> continuation = promise.continuation_;
      if (promise.other_side_.exchange(true, std::memory_order_acq_rel)) continuation.resume();
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }

  // Starts the task; true if it is still running and will resume `continuation`.
  bool start(std::coroutine_handle<> self, std::coroutine_handle<> continuation) {
    DFS_ASSERT(!continuation_);  // awaited once
    continuation_ = continuation;
    self.resume();
    return !other_side_.exchange(true, std::memory_order_acq_rel);
  }

 private:
  std::coroutine_handle<> continuation_;
  std::atomic<bool> other_side_{false};
};

template <class T>
class TaskPromise : public TaskPromiseBase {
 public:
  Task<T> get_return_object() noexcept;
  // U defaults to T so that `co_return {};` works.
  template <class U = T>
  void return_value(U&& value) {
    value_.emplace(std::forward<U>(value));
  }
  T take() { return std::move(*value_); }

 private:
  std::optional<T> value_;
};

template <>
class TaskPromise<void> : public TaskPromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void return_void() noexcept {}
  void take() noexcept {}
};

}  // namespace detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::TaskPromise<T>;
  using value_type = T;

  Task() = default;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  struct Awaiter {
    std::coroutine_handle<promise_type> handle;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> continuation) {
      assert_no_mutex_held();
      return handle.promise().start(handle, continuation);
    }
    T await_resume() { return handle.promise().take(); }
  };
  Awaiter operator co_await() && noexcept {
    DFS_ASSERT(handle_);
    return Awaiter{handle_};
  }

 private:
  std::coroutine_handle<promise_type> handle_;
};

// What is often there already: a value, or the task that brings it. Awaited like a Task; a value costs
// no coroutine frame.
template <class T>
class [[nodiscard]] MaybeTask {
 public:
  using value_type = T;

  MaybeTask(T value) : value_(std::move(value)) {}
  MaybeTask(Task<T> task) : task_(std::move(task)) {}

  struct Awaiter {
    std::optional<T> value;
    std::optional<typename Task<T>::Awaiter> task;
    bool await_ready() const noexcept { return value.has_value(); }
    bool await_suspend(std::coroutine_handle<> continuation) {
      return task->await_suspend(continuation);
    }
    T await_resume() { return value ? std::move(*value) : task->await_resume(); }
  };
  Awaiter operator co_await() && noexcept {
    if (value_) return {.value = std::move(value_), .task = std::nullopt};
    return {.value = std::nullopt, .task = std::move(task_).operator co_await()};
  }

 private:
  std::optional<T> value_;
  Task<T> task_;
};

namespace detail {

template <class T>
Task<T> TaskPromise<T>::get_return_object() noexcept {
  return Task<T>{std::coroutine_handle<TaskPromise<T>>::from_promise(*this)};
}
inline Task<void> TaskPromise<void>::get_return_object() noexcept {
  return Task<void>{std::coroutine_handle<TaskPromise<void>>::from_promise(*this)};
}

// A coroutine that owns itself: its frame is freed when it ends.
struct Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

}  // namespace detail

// Starts `task` on this thread, at once; nobody waits for it. What it refers to must outlive it.
inline detail::Detached spawn(Task<void> task) { co_await std::move(task); }

namespace detail {

struct WhenAllCounter {
  std::atomic<std::size_t> left;
  std::coroutine_handle<> continuation;
  // Called by each child and once by the waiting side: the last one resumes.
  bool arrive() { return left.fetch_sub(1, std::memory_order_acq_rel) == 1; }
};

template <class T>
Detached when_all_child(Task<T> task, std::optional<T>* slot, WhenAllCounter* counter) {
  slot->emplace(co_await std::move(task));
  // Parameters go with the frame, before the waiting side may tear down what they refer to.
  task = {};
  if (counter->arrive()) counter->continuation.resume();
}

}  // namespace detail

// Runs all tasks at once; completes when the last has ended. Results in the order of the tasks.
template <class T>
Task<std::vector<T>> when_all(std::vector<Task<T>> tasks) {
  std::vector<std::optional<T>> slots(tasks.size());
  detail::WhenAllCounter counter{.left = tasks.size() + 1, .continuation = {}};
  struct Awaiter {
    std::vector<Task<T>>& tasks;
    std::vector<std::optional<T>>& slots;
    detail::WhenAllCounter& counter;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> continuation) {
      assert_no_mutex_held();
      counter.continuation = continuation;
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        detail::when_all_child(std::move(tasks[i]), &slots[i], &counter);
      }
      return !counter.arrive();
    }
    void await_resume() const noexcept {}
  };
  Awaiter awaiter{tasks, slots, counter};
  co_await awaiter;
  std::vector<T> results;
  results.reserve(slots.size());
  for (auto& slot : slots) results.push_back(std::move(*slot));
  co_return results;
}

}  // namespace dynamicfs
