// Waits on a plain thread for a task to end: for start-up, shutdown and tests, never for a request.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "base/executor.hpp"
#include "base/task.hpp"

namespace dynamicfs {
namespace detail {

template <class T>
struct BlockingState {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<T> result;
};

template <class T>
Detached block_child(Task<T> task, BlockingState<T>* state) {
  T value = co_await std::move(task);
  // Parameters go with the frame, before the waiting side may tear down what they refer to.
  task = {};
  // Notified under the lock: the waiting side destroys the state as soon as it sees the result.
  std::lock_guard lock(state->mutex);
  state->result.emplace(std::move(value));
  state->done.notify_one();
}

}  // namespace detail

// Starts `task` on this thread and blocks until it ended. Not inside a DriverScope: what the task
// posts would wait for this very thread.
template <class T>
T block_on(Executor& executor, Task<T> task) {
  detail::BlockingState<T> state;
  {
    DriverScope scope(executor);
    detail::block_child(std::move(task), &state);
  }
  std::unique_lock lock(state.mutex);
  state.done.wait(lock, [&] { return state.result.has_value(); });
  return std::move(*state.result);
}

}  // namespace dynamicfs
