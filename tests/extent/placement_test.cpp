#include "extent/placement.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>

#include "extent/slot_map.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

namespace {

std::vector<Candidate> disks_of(const std::vector<std::uint64_t>& free) {
  std::vector<Candidate> disks;
  for (std::size_t i = 0; i < free.size(); ++i) {
    disks.push_back({.disk = DiskId{static_cast<std::uint16_t>(i)}, .free_slots = free[i]});
  }
  return disks;
}

// Places chunks until none fits; returns them. Checks that each is on different disks with room.
std::vector<std::vector<DiskId>> fill(std::vector<std::uint64_t> free, std::size_t width) {
  Placement placement;
  std::vector<std::vector<DiskId>> chunks;
  while (true) {
    const std::vector<DiskId> chosen = placement.choose(disks_of(free), width);
    if (chosen.empty()) return chunks;
    REQUIRE(chosen.size() == width);
    REQUIRE(std::set<DiskId>(chosen.begin(), chosen.end()).size() == width);
    for (const DiskId disk : chosen) {
      REQUIRE(free[disk.raw] > 0);
      --free[disk.raw];
    }
    chunks.push_back(chosen);
  }
}

}  // namespace

TEST_SUITE("placement") {
  TEST_CASE("unequal disks are used to the last slot that another order could have used") {
    CHECK(fill({10, 3, 3}, 2).size() == 6);
    CHECK(fill({10, 10}, 2).size() == 10);
    CHECK(fill({4, 8, 12}, 2).size() == 12);
    CHECK(fill({5, 5, 5}, 2).size() == 7);
    CHECK(fill({100, 1, 1, 1}, 2).size() == 3);
    CHECK(fill({7, 0, 7}, 2).size() == 7);
    CHECK(fill({10, 3, 3}, 1).size() == 16);
    CHECK(fill({10, 3, 3}, 3).size() == 3);
    CHECK(fill({10, 3}, 3).size() == 0);
    CHECK(fill({0, 0}, 1).size() == 0);
  }

  TEST_CASE("two copies reach min(sum/2, sum - largest) on any disks") {
    std::mt19937_64 random(test::seed_from_environment(1));
    for (int round = 0; round < 300; ++round) {
      std::vector<std::uint64_t> free(2 + random() % 6);
      for (std::uint64_t& slots : free) slots = random() % (random() % 2 == 0 ? 10 : 200);
      std::uint64_t sum = 0;
      for (const std::uint64_t slots : free) sum += slots;
      const std::uint64_t largest = *std::max_element(free.begin(), free.end());
      const std::uint64_t bound = std::min(sum / 2, sum - largest);
      CHECK(chunks_that_fit(disks_of(free), 2) == bound);
      CHECK(fill(free, 2).size() == bound);
    }
  }

  TEST_CASE(
      "any number of copies reaches what chunks_that_fit() says, and that is right for few slots") {
    std::mt19937_64 random(test::seed_from_environment(2));
    for (int round = 0; round < 200; ++round) {
      std::vector<std::uint64_t> free(1 + random() % 7);
      for (std::uint64_t& slots : free) slots = random() % 40;
      const std::size_t width = 1 + random() % 4;
      // The model: always the disks with most left, which is optimal.
      std::vector<std::uint64_t> left = free;
      std::size_t best = 0;
      while (left.size() >= width) {
        std::sort(left.rbegin(), left.rend());
        if (left[width - 1] == 0) break;
        for (std::size_t i = 0; i < width; ++i) --left[i];
        ++best;
      }
      CHECK(chunks_that_fit(disks_of(free), width) == best);
      CHECK(fill(free, width).size() == best);
    }
  }

  TEST_CASE("equal disks take turns: any stretch of chunks is spread evenly") {
    for (const std::size_t disks : {2, 3, 4, 8}) {
      const auto chunks = fill(std::vector<std::uint64_t>(disks, 60), 1);
      for (std::size_t start = 0; start + disks <= chunks.size(); start += disks) {
        std::set<DiskId> used;
        for (std::size_t i = start; i < start + disks; ++i) used.insert(chunks[i][0]);
        CHECK(used.size() == disks);
      }
    }
  }

  TEST_CASE("with two copies on four disks two chunks in a row use all four, and pairs vary") {
    const auto chunks = fill({60, 60, 60, 60}, 2);
    std::set<std::set<DiskId>> pairs;
    for (std::size_t i = 0; i + 1 < chunks.size(); i += 2) {
      std::set<DiskId> used(chunks[i].begin(), chunks[i].end());
      pairs.insert(used);
      used.insert(chunks[i + 1].begin(), chunks[i + 1].end());
      CHECK(used.size() == 4);
    }
    CHECK(pairs.size() == 6);
  }

  TEST_CASE("every two of equal disks share about as many chunks as any other two") {
    for (const std::size_t disks : {3u, 4u, 5u, 6u, 9u}) {
      for (const std::size_t width : {2u, 3u}) {
        // Not all equally full, as they are after some years.
        for (const std::uint64_t fuller : {0u, 3u, 20u}) {
          std::vector<std::uint64_t> free(disks, 1200);
          free[1] -= fuller;
          free[disks - 1] -= fuller / 2;
          CAPTURE(disks);
          CAPTURE(width);
          CAPTURE(fuller);
          std::vector<std::vector<int>> shared(disks, std::vector<int>(disks));
          auto chunks = fill(free, width);
          chunks.resize(disks * (disks - 1) * 4);
          for (const std::vector<DiskId>& chunk : chunks) {
            for (const DiskId one : chunk) {
              for (const DiskId other : chunk) ++shared[one.raw][other.raw];
            }
          }
          const double mean = static_cast<double>(chunks.size() * width * (width - 1)) /
                              static_cast<double>(disks * (disks - 1));
          for (std::size_t a = 0; a < disks; ++a) {
            for (std::size_t b = 0; b < a; ++b) {
              CAPTURE(a);
              CAPTURE(b);
              CHECK(shared[a][b] >= 0.7 * mean);
              CHECK(shared[a][b] <= 1.4 * mean);
            }
          }
        }
      }
    }
  }

  TEST_CASE("also with a disk that comes later") {
    Placement placement;
    std::vector<std::uint64_t> free(4, 4000);
    std::vector<std::vector<int>> shared(5, std::vector<int>(5));
    constexpr int kChunks = 4000;
    for (int chunk = 0; chunk < 2 * kChunks; ++chunk) {
      if (chunk == kChunks) free.push_back(2000);  // as much room as the others have left
      const std::vector<DiskId> chosen = placement.choose(disks_of(free), 2);
      for (const DiskId one : chosen) {
        --free[one.raw];
        for (const DiskId other : chosen) shared[one.raw][other.raw] += chunk >= kChunks ? 1 : 0;
      }
    }
    for (std::size_t a = 0; a < 5; ++a) {
      for (std::size_t b = 0; b < a; ++b) {
        CAPTURE(a);
        CAPTURE(b);
        CHECK(shared[a][b] >= 0.7 * kChunks / 10);
        CHECK(shared[a][b] <= 1.4 * kChunks / 10);
      }
    }
  }

  TEST_CASE("unequal disks fill in proportion") {
    const auto chunks = fill({300, 200, 100}, 1);
    std::vector<int> used(3);
    for (std::size_t i = 0; i < 60; ++i) ++used[chunks[i][0].raw];
    CHECK((used[0] >= 28 && used[0] <= 32));
    CHECK((used[1] >= 18 && used[1] <= 22));
    CHECK((used[2] >= 8 && used[2] <= 12));
  }

  TEST_CASE("the same disks give the same choices") {
    CHECK(fill({30, 20, 10, 25}, 2) == fill({30, 20, 10, 25}, 2));
  }
}

TEST_SUITE("slot map") {
  TEST_CASE("slots are taken from the front, and the lowest again once it is given back") {
    SlotMap slots;
    slots.add_disk(DiskId{3}, 130);
    CHECK(slots.free(DiskId{3}) == 130);
    CHECK(slots.free(DiskId{0}) == 0);
    CHECK_FALSE(slots.take_lowest(DiskId{0}).has_value());
    for (std::uint32_t i = 0; i < 130; ++i) CHECK(slots.take_lowest(DiskId{3}) == SlotId{i});
    CHECK_FALSE(slots.take_lowest(DiskId{3}).has_value());
    slots.give_back(DiskId{3}, SlotId{129});
    slots.give_back(DiskId{3}, SlotId{2});
    CHECK(slots.take_lowest(DiskId{3}) == SlotId{2});
    CHECK(slots.take_lowest(DiskId{3}) == SlotId{129});
    CHECK(slots.free(DiskId{3}) == 0);
  }

  TEST_CASE("a slot is taken once, and none beyond the end") {
    SlotMap slots;
    slots.add_disk(DiskId{0}, 10);
    CHECK(slots.take(DiskId{0}, SlotId{9}));
    CHECK_FALSE(slots.take(DiskId{0}, SlotId{9}));
    CHECK_FALSE(slots.take(DiskId{0}, SlotId{10}));
    CHECK_FALSE(slots.take(DiskId{1}, SlotId{0}));
    CHECK(slots.free(DiskId{0}) == 9);
  }
}
