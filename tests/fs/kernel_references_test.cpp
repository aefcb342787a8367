#include "fs/kernel_references.hpp"

#include <doctest/doctest.h>

#include <map>
#include <random>

#include "tests/support/seed.hpp"

namespace dynamicfs::fs {
namespace {

TEST_SUITE("references of the kernel to what is not in memory") {
  TEST_CASE("counts of any size are what a map says, and nothing is kept of what is forgotten") {
    const std::uint64_t seed = test::seed_from_environment(1);
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    KernelReferences references;
    std::map<std::uint64_t, std::uint64_t> model;
    // Around what a byte holds; far more; none.
    constexpr std::uint64_t kCounts[] = {0, 0, 1, 2, 254, 255, 256, 300, std::uint64_t{1} << 40};
    for (int i = 0; i < 20'000; ++i) {
      const std::uint64_t index = random() % 100 + (random() % 2 == 0 ? 0 : std::uint64_t{1} << 50);
      const std::uint64_t count = kCounts[random() % std::size(kCounts)];
      references.set(index, count);
      model[index] = count;
      REQUIRE(references.count(index) == count);
      const std::uint64_t other = random() % 100;
      REQUIRE(references.count(other) == (model.contains(other) ? model[other] : 0));
    }
    for (const auto& [index, count] : model) REQUIRE(references.count(index) == count);
    CHECK(references.pages() > 0);
    for (const auto& [index, count] : model) references.set(index, 0);
    CHECK(references.pages() == 0);
  }
}

}  // namespace
}  // namespace dynamicfs::fs
