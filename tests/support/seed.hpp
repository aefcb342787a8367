// Seeds of randomised tests: printed, and taken back from the environment.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

namespace dynamicfs::test {

// DYNAMICFS_SEED if set, else `fallback`. Print it with CAPTURE so that a failure names it.
inline std::uint64_t seed_from_environment(std::uint64_t fallback) {
  const char* text = std::getenv("DYNAMICFS_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

// How often a randomised test repeats: `count` times DYNAMICFS_TEST_SCALE (default 1).
inline std::uint64_t scaled(std::uint64_t count) {
  const char* text = std::getenv("DYNAMICFS_TEST_SCALE");
  const double scale = text != nullptr ? std::atof(text) : 1.0;
  const auto value = static_cast<std::uint64_t>(static_cast<double>(count) * scale);
  return value > 0 ? value : 1;
}

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// How many seeds a test in simulation tries. The thread sanitizer slows a simulation down twentyfold
// and finds nothing in its single thread, so there a tenth will do.
inline std::uint64_t seeds(std::uint64_t count) {
  return kThreadSanitizer ? scaled(count) / 10 + 1 : scaled(count);
}

}  // namespace dynamicfs::test
