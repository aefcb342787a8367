// Reads from a disk that keeps them waiting: another copy answers, and what is left behind does no
// harm.
#include "extent/hedges.hpp"

#include <doctest/doctest.h>

#include "tests/extent/sim_store.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;
using namespace dynamicfs::test;

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct HedgedCopies : SimStore {
  HedgedCopies() : SimStore(seed_from_environment(1)) {}

  // Reads while that disk has hung; how long it took.
  Duration read_beside(std::size_t hung, std::uint64_t first, std::uint64_t count,
                       std::optional<Buffer>* kept = nullptr) {
    disks[hung]->faults().hung = true;
    const TimePoint start = executor.now();
    auto data = executor.run(read_task(this, 1, first, count));
    const Duration took = executor.now() - start;
    REQUIRE(data.has_value());
    CHECK(versions(*data, 1, first) == Versions(count, 7));
    if (kept != nullptr) *kept = std::move(*data);
    return took;
  }
};

}  // namespace

TEST_SUITE("hedges") {
  TEST_CASE_FIXTURE(HedgedCopies,
                    "a read that a hung disk keeps waiting is answered by the other copy") {
    for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(write(1, i * 256, 256, 7).has_value());
    for (std::uint64_t i = 0; i < 256; ++i) CHECK(read(1, i * 8, 8).value() == Versions(8, 7));
    CHECK(store->metrics().hedges.sum() == 0);
    for (const std::size_t hung : {std::size_t{0}, std::size_t{1}}) {
      CAPTURE(hung);
      const std::uint64_t before = store->metrics().hedges_won.sum();
      for (std::uint64_t i = 0; i < 64; ++i) {
        // Twice 0.5 ms is less than the least patience, 2 ms.
        CHECK(read_beside(hung, i * 32, 1 + i % 32) <= milliseconds{4});
      }
      CHECK(store->metrics().hedges_won.sum() > before);
      CHECK(store->metrics().reads_left_behind.sum() == store->metrics().hedges_won.sum());
      disks[hung]->release();
      executor.run_until_idle();
    }
    CHECK(store->metrics().read_failovers.sum() == 0);
    CHECK(store->metrics().repairs.sum() == 0);
    CHECK_FALSE(pool->degraded());
  }

  TEST_CASE_FIXTURE(HedgedCopies,
                    "what a slow disk answers at last does not reach the memory of the reader") {
    for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(write(1, i * 200, 200, 7).has_value());
    std::vector<Buffer> kept;
    while (store->metrics().reads_left_behind.sum() < 8) {
      // The other disk has more to do than the hung one keeps, so that this is asked first.
      for (std::size_t i = 0; i <= kept.size(); ++i) spawn(distract(disks[1]));
      std::optional<Buffer> data;
      read_beside(0, kept.size(), 300, &data);
      kept.push_back(std::move(*data));
      REQUIRE(kept.size() <= store->metrics().reads_left_behind.sum());
      for (std::byte& byte : kept.back().span()) byte = std::byte{1};
    }
    // The blocks hold something else by the time the disks answer.
    clear(1, 0, 600);
    disks[0]->release();
    executor.run_until_idle();
    for (const Buffer& buffer : kept) {
      CHECK(std::ranges::count(buffer.span(), std::byte{1}) ==
            static_cast<std::ptrdiff_t>(buffer.size()));
    }
  }

  TEST_CASE_FIXTURE(HedgedCopies,
                    "a bad copy that is the quicker one is noticed, and the slow one waited for") {
    REQUIRE(write(1, 0, 64, 7).has_value());
    const std::size_t slow = locate(1, 20)[0].disk;
    damage(locate(1, 20)[1]);
    disks[slow]->faults().hung = true;
    std::optional<Result<Buffer>> result;
    spawn(keep(read_task(this, 1, 0, 64), &result));
    executor.run_for(seconds{3});
    CHECK_FALSE(result.has_value());
    SUBCASE("it answers") {
      disks[slow]->release();
      executor.run_until_idle();
      REQUIRE(result.has_value());
      REQUIRE(result->has_value());
      CHECK(versions(**result, 1, 0) == Versions(64, 7));
      CHECK(store->metrics().repairs.sum() == 1);
    }
    SUBCASE("it fails") {
      const DiskId id{static_cast<std::uint16_t>(slow)};
      REQUIRE(executor.run(pool->report_failure(id, error(Code::kDiskHung))).has_value());
      executor.run_for(seconds{3});
      REQUIRE(result.has_value());
      CHECK(result->error() == error(Code::kDiskGone, 20));
      disks[slow]->release();
    }
    CHECK(store->metrics().checksum_errors.sum() == 1);
    CHECK(store->metrics().unrecoverable_blocks.sum() == 0);
  }

  TEST_CASE_FIXTURE(HedgedCopies,
                    "the budget bounds what is asked twice, until the disk is suspect") {
    constexpr std::uint64_t kPieces = 220;
    for (const std::uint64_t odd : {0, 1}) {
      for (std::uint64_t i = odd; i < kPieces; i += 2) REQUIRE(write(1, i, 1, 7).has_value());
    }
    disks[0]->faults().hung = true;
    std::optional<Result<Buffer>> result;
    spawn(keep(read_task(this, 1, 0, kPieces), &result));
    executor.run_for(seconds{2});
    CHECK_FALSE(result.has_value());
    CHECK(store->metrics().hedges.sum() == Hedges::kBurst);
    CHECK(store->metrics().hedges_refused.sum() > 0);
    disks[0]->latency().look(executor.now(), disks[0]->lateness());
    REQUIRE(disks[0]->latency().suspect());
    executor.run_for(seconds{2});
    REQUIRE(result.has_value());
    REQUIRE(result->has_value());
    CHECK(versions(**result, 1, 0) == Versions(kPieces, 7));
    CHECK(store->metrics().reads_left_behind.sum() == 1);
    disks[0]->release();
  }

  TEST_CASE_FIXTURE(HedgedCopies,
                    "of two good answers one turns out bad: the other is still asked for") {
    constexpr std::uint64_t kPieces = 8;  // twice at both disks: as much as they take at once
    for (const std::uint64_t odd : {0, 1}) {
      for (std::uint64_t i = odd; i < kPieces; i += 2) REQUIRE(write(1, i, 1, 7).has_value());
    }
    for (std::uint64_t round = 0; round < 8; ++round) {
      for (std::uint64_t i = 0; i < kPieces; i += 2) {
        REQUIRE(write(1, i, 1, 7).has_value());
        damage(locate(1, i)[(round + i / 2) % 2]);
      }
      for (SimulatedDisk* const disk : disks) disk->faults().hung = true;
      std::optional<Result<Buffer>> result;
      spawn(keep(read_task(this, 1, 0, kPieces), &result));
      executor.run_for(milliseconds{20});
      CHECK_FALSE(result.has_value());
      // Now both disks have all pieces, and answer in any order.
      for (SimulatedDisk* const disk : disks) disk->release();
      executor.run_until_idle();
      REQUIRE(result.has_value());
      REQUIRE(result->has_value());
      CHECK(versions(**result, 1, 0) == Versions(kPieces, 7));
    }
    CHECK(store->metrics().unrecoverable_blocks.sum() == 0);
    CHECK(store->metrics().repairs.sum() > 0);
  }

  TEST_CASE("a disk that failed since the read began is passed over for the third copy") {
    SimStore three(seed_from_environment(1), {.disk_bytes = {64 * kMiB, 64 * kMiB, 64 * kMiB},
                                              .policy = {.copies_or_data = 3},
                                              .latency = {}});
    REQUIRE(three.write(1, 0, 16, 7).has_value());
    for (SimulatedDisk* const disk : three.disks) disk->faults().hung = true;
    std::optional<Result<Buffer>> result;
    spawn(keep(SimStore::read_task(&three, 1, 0, 16), &result));
    // One is asked. Which? The one that has it. Another one fails, the third answers.
    std::size_t asked = 0;
    while (three.disks[asked]->metrics().classes[2].in_flight.load() == 0) ++asked;
    three.disks[(asked + 1) % 3]->fail();
    three.disks[(asked + 2) % 3]->release();
    three.executor.run_for(milliseconds{100});
    REQUIRE(result.has_value());
    REQUIRE(result->has_value());
    CHECK(SimStore::versions(**result, 1, 0) == Versions(16, 7));
    for (SimulatedDisk* const disk : three.disks) disk->release();
  }

  TEST_CASE("the only copy is on a disk that hangs and fails: the read ends with an error") {
    SimStore single(seed_from_environment(1),
                    {.disk_bytes = {64 * kMiB}, .policy = {}, .latency = {}});
    REQUIRE(single.write(1, 0, 16, 7).has_value());
    single.disks[0]->faults().hung = true;
    std::optional<Result<Buffer>> result;
    spawn(keep(SimStore::read_task(&single, 1, 0, 16), &result));
    single.executor.run_for(seconds{100});
    CHECK_FALSE(result.has_value());
    single.disks[0]->fail();
    single.executor.run_for(seconds{1});
    REQUIRE(result.has_value());
    CHECK(result->error().code == Code::kDiskGone);
    single.disks[0]->release();
  }

  TEST_CASE("one read in twenty may be hedged, and some more after a quiet time") {
    SimExecutor executor(1);
    Hedges hedges(executor);
    unsigned burst = 0;
    while (hedges.spend()) ++burst;
    CHECK(burst == Hedges::kBurst);
    unsigned hedged = 0;
    for (int i = 0; i < 1000; ++i) {
      hedges.earn();
      hedged += hedges.spend() ? 1 : 0;
    }
    CHECK(hedged == 50);
    for (int i = 0; i < 100'000; ++i) hedges.earn();
    burst = 0;
    while (hedges.spend()) ++burst;
    CHECK(burst == Hedges::kBurst);
  }
}
