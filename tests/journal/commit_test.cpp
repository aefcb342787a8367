// Group commit: who shares a device trip, what one trip is, who waits for what.

#include "tests/journal/workload.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// Of those who append and sync at once.
constexpr unsigned kThreads = 64;
constexpr unsigned kEach = 20;

struct Counted : SimPool {
  explicit Counted(std::size_t disk_count, std::uint64_t seed = 5)
      : SimPool(seed, replicas(disk_count)) {
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
  }
  struct Trips {
    std::uint64_t writes = 0;
    std::uint64_t flushes = 0;
    bool operator==(const Trips&) const = default;
  };
  Trips trips(std::size_t disk) const {
    const auto& metrics = disks[disk]->metrics();
    return {metrics.writes.sum() - before_[disk].writes,
            metrics.flushes.sum() - before_[disk].flushes};
  }
  void count_from_here() {
    before_.assign(disks.size(), {});
    for (std::size_t i = 0; i < disks.size(); ++i) before_[i] = trips(i);
  }
  // What a checkpoint leaves of the log: nothing.
  void trim_all() {
    Model model;
    executor.run(checkpoint(*this, model));
  }

 private:
  std::vector<Trips> before_;
};

Task<void> append_and_sync_often(SimPool& pool, unsigned count, unsigned* done) {
  for (unsigned i = 0; i < count; ++i) {
    journal::Credit credit = co_await pool.log->reserve(1, 100);
    const Lsn lsn = pool.log->append(credit, as_bytes("some record"));
    const Result<void> synced = co_await pool.log->sync(lsn);
    CHECK(synced.has_value());
    CHECK(pool.log->durable() >= lsn);
  }
  ++*done;
}

Task<void> note_when_synced(SimPool& pool, Lsn lsn, bool* done) {
  const Result<void> synced = co_await pool.log->sync(lsn);
  *done = synced.has_value();
}

Task<void> take_room(SimPool& pool, std::uint32_t records, bool* done) {
  const journal::Credit credit = co_await pool.log->reserve(records, records);
  *done = true;
}

}  // namespace

TEST_SUITE("group commit") {
  TEST_CASE(
      "one thread pays one trip: one write per member, one flush per disk with unflushed data") {
    Counted pool{4};
    pool.count_from_here();
    REQUIRE(pool.append_and_sync("no data").has_value());
    for (const std::size_t member : {0u, 1u, 2u}) CHECK(pool.trips(member) == Counted::Trips{1, 0});
    CHECK(pool.trips(3) == Counted::Trips{0, 0});

    pool.write_data(1);
    pool.write_data(3);
    pool.count_from_here();
    REQUIRE(pool.append_and_sync("data on b and d").has_value());
    CHECK(pool.trips(0) == Counted::Trips{1, 0});
    CHECK(pool.trips(1) == Counted::Trips{1, 1});
    CHECK(pool.trips(2) == Counted::Trips{1, 0});
    CHECK(pool.trips(3) == Counted::Trips{0, 1});
    CHECK(pool.log->metrics().flushes.sum() == 2);
  }

  TEST_CASE("what is durable already costs nothing") {
    Counted pool{2};
    const Lsn lsn = pool.append("once");
    REQUIRE(pool.sync(lsn).has_value());
    pool.count_from_here();
    CHECK(pool.sync(lsn).has_value());
    CHECK(pool.sync(Lsn{1}).has_value());
    CHECK(pool.trips(0) == Counted::Trips{0, 0});
  }

  TEST_CASE("sync waits for what it was asked for and takes along what is there") {
    Counted pool{2};
    const Lsn first = pool.append("first");
    const Lsn second = pool.append("second");
    CHECK(second.raw == first.raw + 1);
    CHECK(pool.log->appended() == second);
    CHECK(pool.log->durable() < first);
    REQUIRE(pool.sync(first).has_value());
    CHECK(pool.log->durable() == second);
    CHECK(pool.log->metrics().group_commits.sum() == 1);
    CHECK(pool.log->metrics().group_commit_ops.sum() == 2);
  }

  TEST_CASE("sixty-four who append and sync share their trips") {
    const std::uint64_t first = seed_from_environment(300);
    for (std::uint64_t seed = first; seed < first + seeds(20); ++seed) {
      CAPTURE(seed);
      Counted pool{2, seed};
      unsigned done = 0;
      for (unsigned i = 0; i < kThreads; ++i) spawn(append_and_sync_often(pool, kEach, &done));
      pool.executor.run_until_idle();
      CHECK(done == kThreads);
      const auto& metrics = pool.log->metrics();
      CHECK(metrics.group_commit_ops.sum() == kThreads * kEach);
      CHECK(metrics.group_commit_waiters.sum() == kThreads * kEach);
      // Two cohorts take turns, so at worst about 2 x kEach batches.
      CHECK(metrics.group_commits.sum() <= 2 * kEach + 2);
      CHECK(metrics.batch_records.count() == metrics.group_commits.sum());
    }
  }

  TEST_CASE("who arrives during a commit shares the next one, and one is in flight at a time") {
    Counted pool{1};
    pool.disks[0]->faults().hung = true;
    bool first_done = false;
    bool second_done = false;
    bool third_done = false;
    spawn(note_when_synced(pool, pool.append("first"), &first_done));
    spawn(note_when_synced(pool, pool.append("second"), &second_done));
    spawn(note_when_synced(pool, pool.append("third"), &third_done));
    pool.executor.run_until_idle();
    CHECK_FALSE(first_done);
    CHECK(pool.disks[0]->metrics().classes[0].in_flight.load() == 1);
    pool.disks[0]->release();
    pool.executor.run_until_idle();
    CHECK(first_done);
    CHECK(second_done);
    CHECK(third_done);
    CHECK(pool.log->metrics().group_commits.sum() == 2);
  }

  TEST_CASE("drain closes with a watermark: two trips, then one, then none") {
    Counted pool{2};
    pool.append("a record");
    pool.count_from_here();
    REQUIRE(pool.executor.run(pool.log->drain()).has_value());
    CHECK(pool.log->covered() == pool.log->durable());
    CHECK(pool.log->durable() == pool.log->appended());
    CHECK(pool.trips(0) == Counted::Trips{2, 0});

    REQUIRE(pool.append_and_sync("another").has_value());
    CHECK(pool.log->covered() < pool.log->durable());
    pool.count_from_here();
    REQUIRE(pool.executor.run(pool.log->drain()).has_value());
    CHECK(pool.log->covered() == pool.log->durable());
    CHECK(pool.trips(0) == Counted::Trips{1, 0});
    REQUIRE(pool.executor.run(pool.log->drain()).has_value());
    CHECK(pool.trips(0) == Counted::Trips{1, 0});
  }

  TEST_CASE("a later commit covers the one before it") {
    Counted pool{2};
    const Lsn first = pool.append("first");
    REQUIRE(pool.sync(first).has_value());
    CHECK(pool.log->covered() < first);
    REQUIRE(pool.append_and_sync("second").has_value());
    CHECK(pool.log->covered() == first);
  }

  TEST_CASE("after a mount everything recovered is covered") {
    Counted pool{2};
    REQUIRE(pool.append_and_sync("first").has_value());
    pool.reboot_after_power_cut();
    CHECK(pool.log->covered() == pool.log->durable());
    CHECK(pool.log->durable() == pool.log->appended());
    pool.count_from_here();
    CHECK(pool.executor.run(pool.log->drain()).has_value());
    CHECK(pool.trips(0) == Counted::Trips{0, 0});
  }

  TEST_CASE("listeners hear of progress, by then it is visible") {
    Counted pool{2};
    std::vector<Lsn> seen;
    Journal* const log = pool.log.get();
    pool.log->on_progress([&seen, log] { seen.push_back(log->durable()); });
    const Lsn first = pool.append("first");
    REQUIRE(pool.sync(first).has_value());
    REQUIRE(pool.executor.run(pool.log->drain()).has_value());
    CHECK(seen == std::vector<Lsn>{first, first});
  }

  TEST_CASE("large records and small ones come back whole and in order") {
    Counted pool{2};
    std::vector<std::string> expected;
    for (const std::size_t size : {1u, 7u, 8u, 231u, 232u, 233u, 4095u, 4096u, 65536u, 131072u}) {
      for (int repeat = 0; repeat < 9; ++repeat) {
        expected.push_back(std::string(size, static_cast<char>('a' + repeat)));
        pool.append(expected.back());
      }
    }
    REQUIRE(pool.sync(pool.log->appended()).has_value());
    // About 1.8 MiB: at least two batches.
    CHECK(pool.log->metrics().group_commits.sum() >= 2);
    pool.reboot_after_power_cut();
    CHECK(texts(pool.replayed) == expected);
    CHECK(pool.log->recovery().records_replayed == expected.size());
  }
}

TEST_SUITE("journal room") {
  TEST_CASE("room goes to those who wait for it, first come first served") {
    Counted pool{1};
    auto most = pool.executor.run(pool.log->reserve(journal::kRingRecords - 10, 0));
    auto some = pool.executor.run(pool.log->reserve(10, 0));
    bool large_done = false;
    bool small_done = false;
    spawn(take_room(pool, 100, &large_done));
    spawn(take_room(pool, 1, &small_done));
    pool.executor.run_until_idle();
    CHECK(pool.log->metrics().reserve_waits.sum() == 2);
    { const journal::Credit given_back = std::move(some); }
    pool.executor.run_until_idle();
    CHECK_FALSE(large_done);
    CHECK_FALSE(small_done);  // there is room for it, but it is not its turn
    bool late_done = false;
    spawn(take_room(pool, 1, &late_done));
    pool.executor.run_until_idle();
    CHECK_FALSE(late_done);
    { const journal::Credit given_back = std::move(most); }
    pool.executor.run_until_idle();
    CHECK(large_done);
    CHECK(small_done);
    CHECK(late_done);
  }

  TEST_CASE("an append makes room for who waits, when nothing could be committed before") {
    Counted pool{1};
    auto all = pool.executor.run(pool.log->reserve(journal::kRingRecords, journal::kRingRecords));
    bool done = false;
    spawn(take_room(pool, 1, &done));
    pool.executor.run_until_idle();
    CHECK_FALSE(done);
    for (std::uint64_t i = 0; i < journal::kRingRecords; ++i)
      (void)pool.log->append(all, as_bytes("x"));
    pool.executor.run_until_idle();
    CHECK(done);
  }

  TEST_CASE("a stopped journal grants room to those who wait and to those who come") {
    Counted pool{1};
    auto all = pool.executor.run(pool.log->reserve(journal::kRingRecords, journal::kRingBytesMax));
    bool done = false;
    spawn(take_room(pool, 1, &done));
    pool.executor.run_until_idle();
    pool.log->stop();
    pool.executor.run_until_idle();
    CHECK(done);
    auto more = pool.executor.run(pool.log->reserve(journal::kRingRecords, journal::kRingBytesMax));
    const Lsn first = pool.log->append(more, as_bytes("lost"));
    const Lsn second = pool.log->append(more, as_bytes("lost, too"));
    CHECK(second > first);  // generations still grow
    CHECK(pool.sync(second).error().code == Code::kJournalStopped);
  }

  TEST_CASE("who waits for room gets it although nobody syncs") {
    const std::uint64_t first = seed_from_environment(900);
    for (std::uint64_t seed = first; seed < first + seeds(20); ++seed) {
      CAPTURE(seed);
      Counted pool{1, seed};
      struct Filler {
        static Task<void> run(SimPool& from, unsigned count, std::uint32_t at_a_time,
                              unsigned* done) {
          for (unsigned i = 0; i < count; ++i) {
            journal::Credit credit = co_await from.log->reserve(at_a_time, 1000 * at_a_time);
            // Others come to wait while the room is taken and the ring still empty.
            co_await from.executor.yield();
            for (std::uint32_t k = 0; k < at_a_time; ++k) {
              (void)from.log->append(credit, as_bytes("some record"));
            }
          }
          ++*done;
        }
      };
      unsigned done = 0;
      for (unsigned i = 0; i < 8; ++i) spawn(Filler::run(pool, 4, 6000, &done));
      pool.executor.run_until_idle();
      CHECK(done == 8);
      CHECK(pool.log->metrics().reserve_waits.sum() > 0);
      CHECK(pool.log->metrics().appends.sum() == 8 * 4 * 6000);
    }
  }

  TEST_CASE("a full log makes commits wait until a checkpoint trims it") {
    Counted pool{2};
    const std::string record(journal::kRecordBytesMax, 'r');
    bool done = false;
    Lsn last;
    // 7 MiB of log, batches of at most 1 MiB.
    for (int i = 0; i < 80; ++i) last = pool.append(record);
    spawn(note_when_synced(pool, last, &done));
    pool.executor.run_until_idle();
    CHECK_FALSE(done);
    CHECK(pool.log->metrics().log_space_waits.sum() == 1);
    CHECK(pool.log->log_used_bytes() > pool.log->log_capacity_bytes() - journal::kBatchBytesMax);
    CHECK(pool.log->log_used_bytes() <= pool.log->log_capacity_bytes());
    // The checkpoint names everything appended: it asks for the position while the commit waits.
    journal::Manifest manifest = pool.pool->superblock().manifest;
    manifest.lsn = pool.log->appended();
    manifest.log_start = pool.log->position_after(manifest.lsn);
    REQUIRE(pool.executor.run(pool.pool->commit_manifest(manifest)).has_value());
    pool.log->trim(manifest.log_start);
    pool.executor.run_until_idle();
    CHECK(done);
    REQUIRE(pool.append_and_sync("next").has_value());
    pool.reboot_after_power_cut();
    CHECK(texts(pool.replayed) == std::vector<std::string>{"next"});
  }

  TEST_CASE("stopping releases a commit that waits for room in the log") {
    Counted pool{1};
    const std::string record(journal::kRecordBytesMax, 'r');
    for (int i = 0; i < 80; ++i) pool.append(record);
    bool done = false;
    spawn(note_when_synced(pool, pool.log->appended(), &done));
    pool.executor.run_until_idle();
    pool.log->stop();
    pool.executor.run_until_idle();
    CHECK_FALSE(done);
    CHECK(pool.log->stopped());
    pool.executor.run(pool.log->close());
  }

  TEST_CASE("the log wraps many times and every record survives") {
    const std::uint64_t first = seed_from_environment(40);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Counted pool{2, seed};
      Model model;
      std::uint64_t written = 0;
      std::uint64_t turns = 0;
      while (written < 60 * kMiB) {
        const std::uint64_t random = pool.executor.random();
        std::string text = std::to_string(turns++) + ":" + std::string(random % (100 * kKiB), 'x');
        written += text.size();
        const Lsn lsn = pool.append(text);
        model.history.push_back({lsn, std::move(text)});
        if (random % 5 == 0 || pool.log->log_used_bytes() > 4 * kMiB) {
          REQUIRE(pool.sync(lsn).has_value());
          model.acknowledged = lsn;
        }
        if (pool.log->log_used_bytes() > 4 * kMiB) {
          // Sometimes a part, sometimes all.
          const Lsn keep{random % 2 == 0 ? lsn.raw : lsn.raw - 3};
          journal::Manifest manifest = pool.pool->superblock().manifest;
          manifest.lsn = std::max(keep, manifest.lsn);
          manifest.log_start = pool.log->position_after(manifest.lsn);
          REQUIRE(pool.executor.run(pool.pool->commit_manifest(manifest)).has_value());
          pool.log->trim(manifest.log_start);
          model.checkpointed = manifest.lsn;
        }
        if (random % 97 == 0) {
          pool.reboot_after_power_cut();
          compare(pool, model);
        }
      }
      pool.reboot_after_power_cut();
      compare(pool, model);
    }
  }

  TEST_CASE("LSNs never repeat, also when two crashes follow each other without a record between") {
    Counted pool{2};
    REQUIRE(pool.append_and_sync("one").has_value());
    std::set<std::uint64_t> used;
    for (int i = 0; i < 5; ++i) {
      pool.reboot_after_power_cut();
      // Appended, perhaps used as a generation, never durable.
      for (int k = 0; k < 100; ++k) CHECK(used.insert(pool.append("lost").raw).second);
    }
  }

  TEST_CASE("after an orderly shutdown LSNs go on densely, in a new epoch") {
    Counted pool{2};
    const Lsn last = pool.append("one");
    REQUIRE(pool.sync(last).has_value());
    pool.trim_all();
    REQUIRE(pool.executor.run(pool.pool->mark_clean()).has_value());
    const auto epochs = pool.pool->superblock().epochs;
    pool.shut();
    REQUIRE(pool.boot().has_value());
    // A copy of these disks may be mounted for writing as well: it gets another tag.
    const auto now = pool.pool->superblock().epochs;
    REQUIRE(now.size() == epochs.size() + 1);
    CHECK(std::equal(epochs.begin(), epochs.end(), now.begin()));
    CHECK(now.back().tag != epochs.back().tag);
    CHECK(pool.append("two").raw == last.raw + 1);
    CHECK_FALSE(pool.superblock_on(0).clean);
  }
}

}  // namespace dynamicfs::test
