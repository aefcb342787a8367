// The tree against the model: any sequence of operations, seen through the file system itself and
// again after a remount, is what the model says.
#include <doctest/doctest.h>

#include "tests/fs/operations.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

void compare_with_model(std::uint64_t seed, SimPoolOptions options, int operations) {
  CAPTURE(seed);
  SimPool pool(seed, options);
  pool.format();
  REQUIRE(pool.mount().has_value());
  Model model;
  RandomOperations random(seed);
  for (int i = 0; i < operations; ++i) {
    const RandomOperations::Outcome outcome = random.step(pool, model);
    INFO("operation ", i, ": ", outcome.text);
    REQUIRE(code_name(outcome.real) == code_name(outcome.model));
    if (i % 50 == 49) {
      REQUIRE(pool.dump().value() == model.dump());
    }
    if (i % 100 == 99) {
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount().has_value());
      REQUIRE(pool.dump().value() == model.dump());
    }
  }
  CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
  CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
}

}  // namespace

TEST_SUITE("file system against the model") {
  TEST_CASE("random operations on two copies over unequal disks do what the model does") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t i = 0; i < seeds(25); ++i) compare_with_model(first + i, {}, 300);
  }
  TEST_CASE("random operations on a single disk without copies do what the model does") {
    const std::uint64_t first = seed_from_environment(1000);
    SimPoolOptions options;
    options.disk_bytes = {64 * kMiB};
    options.policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = 1};
    for (std::uint64_t i = 0; i < seeds(10); ++i) compare_with_model(first + i, options, 300);
  }
}

}  // namespace dynamicfs::test
