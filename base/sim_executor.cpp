#include "base/sim_executor.hpp"

#include <algorithm>

namespace dynamicfs {
namespace {

// NOLINTNEXTLINE(readability-identifier-naming): called, so named, like a function
constexpr auto later = [](const auto& a, const auto& b) {
  return a.when != b.when ? a.when > b.when : a.order > b.order;
};

detail::Detached mark_done(Task<void> task, bool* done) {
  co_await std::move(task);
  *done = true;
}

}  // namespace

void SimExecutor::post_at(TimePoint when, std::coroutine_handle<> handle) {
  timers_.push_back({when, next_timer_++, handle});
  std::push_heap(timers_.begin(), timers_.end(), later);
}

bool SimExecutor::step() {
  if (!ready_.empty()) {
    const std::size_t i = generator_() % ready_.size();
    const std::coroutine_handle<> next = ready_[i];
    ready_[i] = ready_.back();
    ready_.pop_back();
    next.resume();
    return true;
  }
  if (timers_.empty()) return false;
  std::pop_heap(timers_.begin(), timers_.end(), later);
  const Timer timer = timers_.back();
  timers_.pop_back();
  now_ = std::max(now_, timer.when);
  timer.handle.resume();
  return true;
}

void SimExecutor::run_until_idle() {
  while (step()) {
  }
}

void SimExecutor::run_for(Duration duration) {
  const TimePoint end = now_ + duration;
  while (!ready_.empty() || (!timers_.empty() && timers_.front().when <= end)) step();
  now_ = std::max(now_, end);
}

void SimExecutor::run(Task<void> task) {
  bool done = false;
  mark_done(std::move(task), &done);
  while (!done && step()) {
  }
  DFS_ASSERT(done);
}

}  // namespace dynamicfs
