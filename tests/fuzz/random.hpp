// Choices of the fuzzer: each step draws from numbers of its own, so what a step does follows from
// the seed, its number and the state of the model, and not from how long anything took.
#pragma once

#include <cstdint>

#include "base/hash.hpp"

namespace dynamicfs::fuzz {

class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream) : state_(mix(seed) ^ mix(~stream)) {}

  std::uint64_t next() { return mix(state_++); }
  // 0 to count - 1; `count` is not 0.
  std::uint64_t below(std::uint64_t count) { return next() % count; }
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + below(high - low + 1);
  }
  bool chance(unsigned percent) { return below(100) < percent; }

 private:
  std::uint64_t state_;
};

}  // namespace dynamicfs::fuzz
