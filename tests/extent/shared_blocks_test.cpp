// How often blocks are named, against a count for each of them.
#include "extent/shared_blocks.hpp"

#include <doctest/doctest.h>

#include <array>
#include <random>

#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

namespace {

using Runs = std::vector<SharedRun>;

Runs runs_of(const SharedBlocks& shared) { return {shared.runs().begin(), shared.runs().end()}; }

}  // namespace

TEST_SUITE("shared blocks") {
  TEST_CASE("a second reference makes a run, the third splits it, and what goes joins it again") {
    SharedBlocks shared;
    CHECK(shared.empty());
    CHECK(shared.memory_bytes() == 0);
    shared.add(100, 10);
    shared.add(104, 2);
    CHECK(runs_of(shared) == Runs{{100, 4, 2}, {104, 2, 3}, {106, 4, 2}});
    CHECK(shared.blocks() == 10);
    CHECK(shared.saved() == 12);
    const auto none = [](std::uint32_t, std::uint32_t) { FAIL("nothing has its last reference"); };
    shared.remove(104, 2, none);
    CHECK(runs_of(shared) == Runs{{100, 10, 2}});
    shared.add(110, 1);
    CHECK(runs_of(shared) == Runs{{100, 11, 2}});
    shared.remove(100, 11, none);
    CHECK(shared.empty());
    CHECK(shared.memory_bytes() == 0);
  }

  TEST_CASE("the last reference is told of, and of a range only what had but one") {
    SharedBlocks shared;
    shared.add(10, 2);
    Runs last;
    const auto note = [&](std::uint32_t block, std::uint32_t count) {
      last.push_back({static_cast<std::uint16_t>(block), static_cast<std::uint16_t>(count), 1});
    };
    shared.remove(8, 6, note);
    CHECK(last == Runs{{8, 2, 1}, {12, 2, 1}});
    CHECK(shared.empty());
    last.clear();
    shared.remove(10, 2, note);
    CHECK(last == Runs{{10, 2, 1}});
  }

  TEST_CASE("a block has as many references as can be counted, and not one more") {
    SharedBlocks shared{Runs{{5, 1, kReferencesMax - 1}}};
    CHECK(shared.can_add(0, 1024));
    shared.add(5, 1);
    CHECK_FALSE(shared.can_add(0, 1024));
    CHECK_FALSE(shared.can_add(5, 1));
    CHECK(shared.can_add(4, 1));
    CHECK(shared.can_add(6, 10));
  }

  TEST_CASE("whatever comes and goes, counts are those of a list with one for each block") {
    const std::uint64_t base = test::seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + test::seeds(20); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      SharedBlocks shared;
      std::array<std::uint32_t, kSlotBlocks> model;
      model.fill(1);
      for (int step = 0; step < 2000; ++step) {
        const auto block = static_cast<std::uint32_t>(random() % kSlotBlocks);
        const auto count = static_cast<std::uint32_t>(
            1 +
            random() % std::min<std::uint64_t>(kSlotBlocks - block, random() % 3 == 0 ? 400 : 9));
        if (random() % 2 == 0) {
          shared.add(block, count);
          for (std::uint32_t i = block; i < block + count; ++i) ++model[i];
        } else {
          std::array<bool, kSlotBlocks> died{};
          shared.remove(block, count, [&](std::uint32_t first, std::uint32_t blocks) {
            for (std::uint32_t i = first; i < first + blocks; ++i) died[i] = true;
          });
          for (std::uint32_t i = 0; i < kSlotBlocks; ++i) {
            const bool here = i >= block && i < block + count;
            REQUIRE(died[i] == (here && model[i] == 1));
            // What died is written anew at once.
            if (here && model[i] > 1) --model[i];
          }
        }
        REQUIRE(SharedBlocks::is_proper(shared.runs()));
        std::array<std::uint32_t, kSlotBlocks> now;
        now.fill(1);
        std::uint64_t blocks = 0;
        std::uint64_t saved = 0;
        for (const SharedRun& run : shared.runs()) {
          for (std::uint32_t i = run.block; i < run.block + std::uint32_t{run.count}; ++i)
            now[i] = run.references;
        }
        REQUIRE(now == model);
        for (const std::uint32_t references : model) {
          blocks += references > 1 ? 1 : 0;
          saved += references - 1;
        }
        CHECK(shared.blocks() == blocks);
        CHECK(shared.saved() == saved);
        std::uint32_t single = 0;
        for (std::uint32_t i = block; i < block + count; ++i) single += model[i] == 1 ? 1 : 0;
        CHECK(shared.single(block, count) == single);
        CHECK(shared.any(block, count) == (single != count));
      }
    }
  }
}
