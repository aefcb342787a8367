// The last batch of the log, when it was written beside the flush of its data: one trip, and what a
// recovery makes of it.

#include "tests/journal/workload.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

constexpr std::chrono::milliseconds kTrip{1};

SimPool::Options one_trip_is_a_millisecond(std::size_t disks) {
  SimPool::Options options = SimPool::replicas(disks);
  options.latency = {.min = kTrip, .max = kTrip};
  return options;
}

// A log whose last batch has three records beside unflushed data.
struct UnsureTail : SimPool {
  explicit UnsureTail(std::size_t disk_count, std::uint64_t seed = 11)
      : SimPool(seed, replicas(disk_count)) {
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
    REQUIRE(append_and_sync("before").has_value());
    write_data(0);
    append("one");
    append("two");
    REQUIRE(append_and_sync("three").has_value());
    power_cut();
    count_whole = [this](std::vector<journal::TailRecord> tail) { return count(this, tail); };
  }
  static Task<Result<std::size_t>> count(UnsureTail* self, std::vector<journal::TailRecord> tail) {
    self->asked.clear();
    for (const journal::TailRecord& record : tail)
      self->asked.emplace_back(as_text(record.payload));
    self->replayed_when_asked = texts(self->replayed);
    co_return std::min(self->whole, tail.size());
  }
  std::vector<std::string> found() { return texts(replayed); }

  std::size_t whole = 3;
  std::vector<std::string> asked;
  std::vector<std::string> replayed_when_asked;
};

using Texts = std::vector<std::string>;

}  // namespace

TEST_SUITE("journal, last batch") {
  TEST_CASE("the flush of the data and the log go out together: a sync takes one trip") {
    for (const std::size_t disks : {1u, 2u, 4u}) {
      CAPTURE(disks);
      SimPool pool{3, one_trip_is_a_millisecond(disks)};
      REQUIRE(pool.format().has_value());
      REQUIRE(pool.boot().has_value());
      for (std::size_t i = 0; i < disks; ++i) pool.write_data(i);
      const Lsn lsn = pool.append("record");
      const TimePoint start = pool.executor.now();
      REQUIRE(pool.sync(lsn).has_value());
      CHECK(pool.executor.now() - start == kTrip);
    }
  }

  TEST_CASE("a member with data flushes once for that and its log") {
    SimPool pool{3, one_trip_is_a_millisecond(4)};
    REQUIRE(pool.format().has_value());
    REQUIRE(pool.boot().has_value());
    pool.write_data(1);
    pool.write_data(3);  // no member
    std::vector<std::pair<std::uint64_t, std::uint64_t>> before;
    for (const auto* disk : pool.disks)
      before.emplace_back(disk->metrics().writes.sum(), disk->metrics().flushes.sum());
    const Lsn lsn = pool.append("record");
    const TimePoint start = pool.executor.now();
    REQUIRE(pool.sync(lsn).has_value());
    CHECK(pool.executor.now() - start == kTrip);
    for (std::size_t i = 0; i < 4; ++i) {
      CAPTURE(i);
      CHECK(pool.disks[i]->metrics().writes.sum() - before[i].first == (i < 3 ? 1 : 0));
      CHECK(pool.disks[i]->metrics().flushes.sum() - before[i].second == i % 2);
      CHECK_FALSE(pool.disks[i]->needs_flush());
    }
  }

  TEST_CASE("a long batch is written behind the flush, and its data is not asked for") {
    SimPool pool{3, one_trip_is_a_millisecond(2)};
    REQUIRE(pool.format().has_value());
    REQUIRE(pool.boot().has_value());
    bool asked = false;
    const auto count =
        [&asked](std::vector<journal::TailRecord> tail) -> Task<Result<std::size_t>> {
      asked = true;
      return [](std::size_t all) -> Task<Result<std::size_t>> { co_return all; }(tail.size());
    };
    pool.count_whole = count;
    pool.write_data(0);
    const Lsn lsn = pool.append(std::string(journal::kBesideFlushBytesMax, 'x'));
    const TimePoint start = pool.executor.now();
    REQUIRE(pool.sync(lsn).has_value());
    CHECK(pool.executor.now() - start == 2 * kTrip);
    pool.reboot_after_power_cut();
    CHECK(pool.replayed.size() == 1);
    CHECK_FALSE(asked);

    // Nor is it when there was nothing to flush.
    REQUIRE(pool.append_and_sync("only names").has_value());
    pool.reboot_after_power_cut();
    CHECK(pool.replayed.size() == 2);
    CHECK_FALSE(asked);
  }

  TEST_CASE("the data of the last batch is asked for, and only of that one") {
    UnsureTail pool{2};
    REQUIRE(pool.boot().has_value());
    CHECK(pool.asked == Texts{"one", "two", "three"});
    CHECK(pool.replayed_when_asked == Texts{"before"});
    CHECK(pool.found() == Texts{"before", "one", "two", "three"});
    CHECK(pool.log->recovery().records_checked == 3);
    CHECK(pool.log->recovery().records_dropped == 0);

    pool.asked.clear();
    REQUIRE(pool.append_and_sync("after").has_value());
    pool.whole = 0;
    pool.reboot_after_power_cut();
    CHECK(pool.asked == Texts{});
    CHECK(pool.found() == Texts{"before", "one", "two", "three", "after"});
  }

  TEST_CASE("records from the first without its data on are dropped, for good") {
    for (const std::size_t disks : {1u, 3u}) {
      for (const std::size_t whole : {0u, 1u, 2u}) {
        CAPTURE(disks);
        CAPTURE(whole);
        UnsureTail pool{disks};
        pool.whole = whole;
        Texts expected{"before", "one", "two", "three"};
        expected.resize(1 + whole);
        REQUIRE(pool.boot().has_value());
        CHECK(pool.found() == expected);
        CHECK(pool.log->recovery().records_dropped == 3 - whole);
        CHECK(pool.log->recovery().last.raw == 1 + whole);

        // Whatever the disks say now, they do not come back.
        pool.whole = 3;
        pool.reboot_after_power_cut();
        CHECK(pool.found() == expected);
        CHECK(pool.log->recovery().records_dropped == 0);
        REQUIRE(pool.append_and_sync("after").has_value());
        expected.emplace_back("after");
        pool.reboot_after_power_cut();
        CHECK(pool.found() == expected);
      }
    }
  }

  TEST_CASE("a checkpoint inside the last batch keeps its records without asking") {
    UnsureTail pool{2};
    REQUIRE(pool.boot().has_value());
    journal::Manifest manifest = pool.pool->superblock().manifest;
    manifest.lsn = Lsn{3};  // "before", "one" and "two"
    REQUIRE(pool.executor.run(pool.pool->commit_manifest(manifest)).has_value());
    pool.whole = 0;
    pool.reboot_after_power_cut();
    CHECK(pool.asked == Texts{"three"});
    CHECK(pool.found() == Texts{});
    CHECK(pool.log->recovery().last.raw == 3);
    REQUIRE(pool.append_and_sync("after").has_value());
    pool.reboot_after_power_cut();
    CHECK(pool.found() == Texts{"after"});
  }

  TEST_CASE("a cut anywhere while the last batch is cut leaves the old end or the new one") {
    const std::uint64_t seed = seed_from_environment(21);
    for (std::uint64_t index = 0;; ++index) {
      CAPTURE(index);
      UnsureTail pool{2, seed + index};
      pool.whole = 1;
      pool.cut_at_operation(index);
      const Result<void> booted = pool.boot();
      booted.ignore("the power may have gone");
      const bool cut = pool.cut_done;
      pool.on_new_disk = nullptr;
      pool.reboot_after_power_cut();
      CHECK(pool.found() == Texts{"before", "one"});
      REQUIRE(pool.append_and_sync("after").has_value());
      pool.whole = 3;
      pool.reboot_after_power_cut();
      CHECK(pool.found() == Texts{"before", "one", "after"});
      if (!cut) break;
    }
  }

  TEST_CASE("opened read-only the log is cut in memory alone") {
    UnsureTail pool{2};
    pool.whole = 1;
    REQUIRE(pool.boot(true).has_value());
    CHECK(pool.found() == Texts{"before", "one"});
    for (const SimulatedDisk* const disk : pool.disks) CHECK(disk->device_operations() == 0);
    pool.whole = 3;
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == Texts{"before", "one", "two", "three"});
  }

  TEST_CASE("a member that fails while the last batch is cut is left out") {
    UnsureTail pool{2};
    pool.whole = 1;
    pool.on_new_disk = [](std::size_t disk, SimulatedDisk& made) {
      if (disk != 0) return;
      made.faults().fail = [](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
      };
    };
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == Texts{"before", "one"});
    CHECK(pool.pool->degraded());
    pool.on_new_disk = nullptr;
    pool.whole = 3;
    pool.reboot_after_power_cut();
    CHECK(pool.found() == Texts{"before", "one"});
  }

  TEST_CASE("an error while asking for the data stops the mount, and nothing is dropped") {
    UnsureTail pool{1};
    const auto good = pool.count_whole;
    pool.count_whole = [](std::vector<journal::TailRecord>) {
      return [](int) -> Task<Result<std::size_t>> { co_return error(Code::kFormatInvalid, 5); }(0);
    };
    CHECK(pool.boot().error() == error(Code::kFormatInvalid, 5));
    pool.count_whole = good;
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == Texts{"before", "one", "two", "three"});
  }
}

}  // namespace dynamicfs::test
