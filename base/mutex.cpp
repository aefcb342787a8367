#include "base/mutex.hpp"

#include <chrono>

namespace dynamicfs {

namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

constinit thread_local int Mutex::held_ = 0;

std::uint64_t Mutex::lock_contended() {
  const auto start = std::chrono::steady_clock::now();
  // About a microsecond: sections are memory operations, so the holder is likely on its way out.
  bool taken = false;
  for (int spin = 0; spin < 64 && !taken; ++spin) {
    pause();
    std::uint32_t expected = kFree;
    taken = state_.compare_exchange_weak(expected, kHeld, std::memory_order_acquire);
  }
  while (!taken && state_.exchange(kContended, std::memory_order_acquire) != kFree) {
    state_.wait(kContended, std::memory_order_relaxed);
  }
  const auto waited = std::chrono::steady_clock::now() - start;
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(waited).count();
  return ns > 0 ? static_cast<std::uint64_t>(ns) : 1;
}

}  // namespace dynamicfs
