// Times as the kernel has them, and ours: nanoseconds since 1970.
#pragma once

#include <cstdint>
#include <ctime>

namespace dynamicfs::fs {

inline constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

inline timespec timespec_of(std::int64_t ns) {
  // Rounded down, so that times before 1970 keep nanoseconds in [0, 1e9).
  std::int64_t seconds = ns / kNanosecondsPerSecond;
  std::int64_t rest = ns % kNanosecondsPerSecond;
  if (rest < 0) {
    rest += kNanosecondsPerSecond;
    --seconds;
  }
  return {.tv_sec = seconds, .tv_nsec = rest};
}

// Times that do not fit (before 1678, after 2262) become the nearest that do.
inline std::int64_t nanoseconds_of(const timespec& time) {
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(time.tv_sec, kNanosecondsPerSecond, &ns) ||
      __builtin_add_overflow(ns, time.tv_nsec, &ns)) {
    return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
  }
  return ns;
}

}  // namespace dynamicfs::fs
