// Disks that fail, go away, come back, or were mounted apart: who is believed, who gets the log.

#include <map>

#include "tests/journal/workload.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

constexpr auto kDiskA = DiskId{0};
constexpr auto kDiskB = DiskId{1};

struct Started : SimPool {
  explicit Started(std::size_t disk_count) : Started(replicas(disk_count), 11) {}
  Started(Options options, std::uint64_t seed) : SimPool(seed, std::move(options)) {
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
  }
  void boot_with(std::vector<bool> which) {
    power_cut();
    here = std::move(which);
    const Result<void> booted = boot();
    INFO(problem.text);
    REQUIRE(booted.has_value());
  }
  DiskHealth health(std::size_t disk) { return pool->status()[disk].health; }
};

// A write that flushes is a flush too.
auto fail_every(scheduler::IoOp op, Code code) {
  return [op, code](const scheduler::IoRequest& request) {
    const bool flush = op == scheduler::IoOp::kFlush && request.flushes;
    return request.op == op || flush ? code : Code::kOk;
  };
}

std::vector<std::string> list(std::initializer_list<const char*> items) {
  return {items.begin(), items.end()};
}

}  // namespace

TEST_SUITE("journal members") {
  TEST_CASE("a member that refuses a log write is ejected and the record is acknowledged") {
    Started pool{2};
    const Epoch before = pool.pool->epoch().number;
    pool.disks[1]->faults().fail = fail_every(scheduler::IoOp::kWrite, Code::kDiskWrite);
    REQUIRE(pool.append_and_sync("after").has_value());
    CHECK(pool.pool->members() == std::vector<DiskId>{kDiskA});
    CHECK(pool.pool->epoch().number.raw == before.raw + 1);
    CHECK(pool.pool->disk(kDiskB) == nullptr);
    CHECK(pool.health(1) == DiskHealth::kFailed);
    CHECK(pool.pool->status()[1].reason.find("write") != std::string::npos);
    CHECK(pool.pool->degraded());
    CHECK_FALSE(pool.pool->read_only());
    CHECK(pool.disks[1]->failed());

    pool.boot_with({true, false});
    CHECK(texts(pool.replayed) == list({"after"}));
  }

  TEST_CASE("a disk whose flush fails is ejected and not flushed again") {
    Started pool{2};
    pool.write_data(0);
    pool.write_data(1);
    pool.disks[1]->faults().fail = fail_every(scheduler::IoOp::kFlush, Code::kDiskFlush);
    REQUIRE(pool.append_and_sync("after").has_value());
    CHECK(pool.disks[1]->metrics().flushes.sum() == 2);  // the one of recovery, and this one
    CHECK(pool.pool->members() == std::vector<DiskId>{kDiskA});
    CHECK(pool.superblock_on(0).find(kDiskB)->state == journal::DiskState::kAway);
  }

  TEST_CASE("a disk that is no member is ejected by its flush, and the members stay") {
    Started pool{4};
    pool.write_data(3);
    pool.disks[3]->faults().fail = fail_every(scheduler::IoOp::kFlush, Code::kDiskFlush);
    REQUIRE(pool.append_and_sync("after").has_value());
    CHECK(pool.health(3) == DiskHealth::kFailed);
    CHECK(pool.pool->members().size() == 3);
  }

  TEST_CASE("when more disks fail than the policy tolerates the journal stops and says so") {
    for (const std::size_t disks : {1u, 2u, 3u}) {
      CAPTURE(disks);
      Started pool{disks};
      REQUIRE(pool.append_and_sync("kept").has_value());
      const std::size_t to_fail = disks == 1 ? 1 : 2;
      for (std::size_t i = 0; i < to_fail; ++i) {
        pool.disks[i]->faults().fail = fail_every(scheduler::IoOp::kWrite, Code::kDiskWrite);
      }
      const Result<void> synced = pool.append_and_sync("lost");
      REQUIRE_FALSE(synced.has_value());
      CHECK(synced.error().code == Code::kJournalStopped);
      CHECK(pool.log->stopped());
      CHECK(pool.pool->read_only());
      // Asking for room still works, and what was durable stays so.
      CHECK(pool.append_and_sync("late").error().code == Code::kJournalStopped);
      CHECK(pool.sync(pool.log->durable()).has_value());
      CHECK(pool.executor.run(pool.log->drain()).error().code == Code::kJournalStopped);

      pool.boot_with(std::vector<bool>(disks, true));
      CHECK(texts(pool.replayed)[0] == "kept");
    }
  }

  TEST_CASE("without a copy, the loss of any disk stops the pool") {
    SimPool::Options options = SimPool::replicas(3);
    options.policy = {};
    Started pool{options, 3};
    const Result<void> reported =
        pool.executor.run(pool.pool->report_failure(DiskId{2}, error(Code::kDiskWrite)));
    REQUIRE_FALSE(reported.has_value());
    CHECK(reported.error().code == Code::kReadOnly);
    CHECK(pool.append_and_sync("x").error().code == Code::kJournalStopped);
  }

  TEST_CASE("a failure is recorded with the last durable LSN, once, and everybody is told") {
    Started pool{3};
    unsigned told = 0;
    pool.pool->on_change([&told] { ++told; });
    const Lsn durable = pool.append("one");
    REQUIRE(pool.sync(durable).has_value());
    const std::uint64_t epochs = pool.pool->superblock().epochs.size();
    std::vector<Task<Result<void>>> reports;
    for (int i = 0; i < 3; ++i)
      reports.push_back(pool.pool->report_failure(kDiskB, error(Code::kDiskWrite)));
    for (const auto& result : pool.executor.run(when_all(std::move(reports))))
      CHECK(result.has_value());
    const auto superblock = pool.superblock_on(0);
    CHECK(superblock.find(kDiskB)->stale_since == durable);
    CHECK(superblock.epochs.size() == epochs + 1);
    CHECK(superblock.epochs.back().after == durable);
    CHECK(told == 1);
    CHECK(pool.superblock_on(2).epochs.back() == superblock.epochs.back());
  }

  TEST_CASE("a missing member is done without, named, and a new epoch begins") {
    Started pool{2};
    REQUIRE(pool.append_and_sync("both").has_value());
    const std::uint64_t epochs = pool.pool->superblock().epochs.size();
    pool.boot_with({true, false});
    CHECK(texts(pool.replayed) == list({"both"}));
    CHECK(pool.health(1) == DiskHealth::kMissing);
    CHECK(pool.pool->members() == std::vector<DiskId>{kDiskA});
    CHECK(pool.pool->superblock().epochs.size() == epochs + 1);
    CHECK(pool.pool->healthy()->size() == 1);
    CHECK(pool.append_and_sync("alone").has_value());
  }

  TEST_CASE("a member that comes back is not believed, gets the log, and is stale") {
    Started pool{2};
    REQUIRE(pool.append_and_sync("both").has_value());
    const Lsn both = pool.log->durable();
    pool.boot_with({true, false});
    REQUIRE(pool.append_and_sync("alone").has_value());
    pool.boot_with({true, true});
    CHECK(texts(pool.replayed) == list({"both", "alone"}));
    CHECK(pool.health(1) == DiskHealth::kStale);
    CHECK(pool.pool->status()[1].record.stale_since == both);
    CHECK(pool.pool->members() == std::vector<DiskId>{kDiskA, kDiskB});
    // It has everything now: the other one may go.
    pool.boot_with({false, true});
    CHECK(texts(pool.replayed) == list({"both", "alone"}));
  }

  TEST_CASE("a disk that comes back and has missed nothing is healthy") {
    Started pool{2};
    REQUIRE(pool.append_and_sync("both").has_value());
    pool.boot_with({true, false});
    pool.boot_with({true, true});
    CHECK(pool.health(1) == DiskHealth::kHealthy);
    CHECK_FALSE(pool.pool->degraded());
  }

  TEST_CASE("a disk that was set back to an older state is stale since then") {
    Started pool{2};
    REQUIRE(pool.append_and_sync("one").has_value());
    const Lsn one = pool.log->durable();
    pool.power_cut();
    auto old_b = std::make_shared<SimulatedMedia>(pool.media[1]->clone());
    pool.boot_with({true, true});
    REQUIRE(pool.append_and_sync("two").has_value());
    pool.power_cut();
    pool.media[1] = old_b;
    pool.boot_with({true, true});
    CHECK(texts(pool.replayed) == list({"one", "two"}));
    CHECK(pool.health(0) == DiskHealth::kHealthy);
    CHECK(pool.health(1) == DiskHealth::kStale);
    CHECK(pool.pool->status()[1].record.stale_since == one);
  }

  TEST_CASE("a disk that fails after the journal is closed does not take the log with it") {
    Started pool{2};
    REQUIRE(pool.append_and_sync("one").has_value());
    pool.log.reset();
    REQUIRE(
        pool.executor.run(pool.pool->report_failure(kDiskB, error(Code::kDiskWrite))).has_value());
    pool.boot_with({true, true});
    CHECK(texts(pool.replayed) == list({"one"}));
  }

  TEST_CASE("a fourth disk takes the place of a member that is missing at mount") {
    Started pool{4};
    REQUIRE(pool.append_and_sync("one").has_value());
    pool.boot_with({true, false, true, true});
    CHECK(pool.pool->members() == std::vector<DiskId>{DiskId{0}, DiskId{2}, DiskId{3}});
    // The log was copied to it: as the only member that is left it tells everything.
    REQUIRE(pool.append_and_sync("two").has_value());
    pool.boot_with({false, true, true, true});
    CHECK(texts(pool.replayed) == list({"one", "two"}));
    pool.boot_with({true, true, true, false});
    CHECK(texts(pool.replayed) == list({"one", "two"}));
  }

  TEST_CASE("a fourth disk takes the place of a member that fails, with the whole log") {
    for (const std::size_t failing : {0u, 1u, 2u}) {
      CAPTURE(failing);
      Started pool{4};
      REQUIRE(pool.append_and_sync("one").has_value());
      REQUIRE(pool.append_and_sync("two").has_value());
      pool.disks[failing]->faults().fail = fail_every(scheduler::IoOp::kWrite, Code::kDiskWrite);
      REQUIRE(pool.append_and_sync("three").has_value());
      CHECK(pool.pool->members().size() == 3);
      CHECK(pool.pool->log_set()->has(DiskId{3}));
      CHECK(pool.log->metrics().members_replaced.sum() == 1);
      REQUIRE(pool.append_and_sync("four").has_value());
      pool.power_cut();
      // Only the new member can tell now.
      for (std::size_t i = 0; i < 3; ++i)
        pool.media[i]->write(journal::kJournalOffset, Bytes(64 * kKiB));
      std::vector<bool> here(4, true);
      here[failing] = false;
      pool.boot_with(here);
      CHECK(texts(pool.replayed) == list({"one", "two", "three", "four"}));
    }
  }

  TEST_CASE("a member that fails while nothing is committed is replaced when that is asked for") {
    Started pool{4};
    REQUIRE(pool.append_and_sync("one").has_value());
    REQUIRE(
        pool.executor.run(pool.pool->report_failure(kDiskB, error(Code::kDiskWrite))).has_value());
    CHECK(pool.pool->members().size() == 2);
    REQUIRE(pool.executor.run(pool.log->settle_members()).has_value());
    CHECK(pool.pool->members().size() == 3);
    CHECK(pool.log->metrics().members_replaced.sum() == 1);
    const std::uint64_t commits = pool.log->metrics().group_commits.sum();
    REQUIRE(pool.executor.run(pool.log->settle_members()).has_value());
    CHECK(pool.log->metrics().group_commits.sum() == commits);
    pool.power_cut();
    for (const std::size_t i : {0u, 2u})
      pool.media[i]->write(journal::kJournalOffset, Bytes(64 * kKiB));
    pool.boot_with({true, false, true, true});
    CHECK(texts(pool.replayed) == list({"one"}));
  }

  TEST_CASE("a member that is to leave keeps the log until another has it, and then no longer") {
    Started pool{4};
    REQUIRE(pool.append_and_sync("one").has_value());
    REQUIRE(pool.executor.run(pool.pool->set_leaving(kDiskB, journal::Pool::Leaving::kYes))
                .has_value());
    REQUIRE(pool.append_and_sync("while it is emptied").has_value());
    CHECK(pool.pool->log_set()->has(kDiskB));
    CHECK(pool.executor.run(pool.pool->remove_disk(kDiskB)).error().code == Code::kBusy);
    pool.pool->let_log_go(kDiskB);
    SUBCASE("at the next commit") { REQUIRE(pool.append_and_sync("two").has_value()); }
    SUBCASE("when that is asked for") {
      REQUIRE(pool.executor.run(pool.log->settle_members()).has_value());
      REQUIRE(pool.append_and_sync("two").has_value());
    }
    SUBCASE("unless there is no other") {
      REQUIRE(pool.executor.run(pool.pool->report_failure(DiskId{3}, error(Code::kDiskWrite)))
                  .has_value());
      REQUIRE(pool.append_and_sync("two").has_value());
      CHECK(pool.pool->log_set()->has(kDiskB));
      CHECK(pool.pool->members().size() == 3);
      return;
    }
    CHECK(pool.pool->members() == std::vector<DiskId>{DiskId{0}, DiskId{3}, DiskId{2}});
    CHECK(!pool.pool->log_set()->has(kDiskB));
    CHECK(pool.pool->log_set()->has(DiskId{3}));
    pool.power_cut();
    // Only the new member can tell now.
    for (const std::size_t i : {0u, 1u, 2u})
      pool.media[i]->write(journal::kJournalOffset, Bytes(64 * kKiB));
    pool.boot_with({true, false, true, true});
    CHECK(texts(pool.replayed) == list({"one", "while it is emptied", "two"}));
  }

  TEST_CASE("the power may fail at any moment of that, and any two of three copies be lost then") {
    Started::Options options = SimPool::replicas(4);
    options.policy.copies_or_data = 3;
    for (std::uint64_t index = 0, cuts = 1; cuts != 0; ++index) {
      CAPTURE(index);
      cuts = 0;
      for (unsigned lost = 0; lost < 6; ++lost) {
        // Two of the four.
        std::vector<bool> here(4, true);
        const unsigned first = lost < 3 ? 0 : lost < 5 ? 1 : 2;
        here[first] = here[lost < 3 ? lost + 1 : lost < 5 ? lost - 1 : 3] = false;
        Started pool(options, 100 + index);
        REQUIRE(pool.append_and_sync("one").has_value());
        REQUIRE(pool.executor.run(pool.pool->set_leaving(kDiskB, journal::Pool::Leaving::kYes))
                    .has_value());
        REQUIRE(pool.append_and_sync("two").has_value());
        pool.pool->let_log_go(kDiskB);
        pool.cut_at_operation(index);
        const bool three = pool.append_and_sync("three").has_value();
        const bool removed = pool.executor.run(pool.pool->remove_disk(kDiskB)).has_value();
        cuts += pool.cut_done ? 1 : 0;
        pool.power_cut();
        if (removed) here[1] = false;  // it is nobody's disk then
        CAPTURE(lost);
        CAPTURE(removed);
        pool.here = here;
        pool.on_new_disk = {};
        const Result<void> booted = pool.boot();
        INFO(pool.problem.text);
        REQUIRE(booted.has_value());
        const std::vector<std::string> found = texts(pool.replayed);
        REQUIRE(found.size() >= (three ? 3u : 2u));
        CHECK(found[1] == "two");
      }
    }
  }

  TEST_CASE("a spare disk that cannot be given the log is left out, and commits go on") {
    Started pool{4};
    REQUIRE(pool.append_and_sync("one").has_value());
    SUBCASE("it fails") {
      pool.disks[3]->faults().fail = fail_every(scheduler::IoOp::kFlush, Code::kDiskFlush);
    }
    SUBCASE("no member has the log whole any more") {
      for (const std::size_t i : {0u, 2u}) {
        REQUIRE(pool.executor.run(scheduler::flush(*pool.disks[i], scheduler::IoClass::kCritical))
                    .has_value());
        pool.media[i]->flip(journal::kJournalOffset + 150, 1);
      }
    }
    pool.disks[1]->faults().fail = fail_every(scheduler::IoOp::kWrite, Code::kDiskWrite);
    const Result<void> synced = pool.append_and_sync("two");
    if (!pool.pool->read_only()) {
      REQUIRE(synced.has_value());
      CHECK_FALSE(pool.pool->log_set()->has(DiskId{3}));
      CHECK(pool.log->metrics().members_replaced.sum() == 0);
      REQUIRE(pool.append_and_sync("three").has_value());
    } else {
      CHECK_FALSE(synced.has_value());  // two disks of four, with two copies
    }
  }

  TEST_CASE("a batch that only an absent member had does not come back with it") {
    Started pool{2};
    REQUIRE(pool.append_and_sync("acknowledged").has_value());
    // On its way to both when the power fails: A has it, B does not.
    pool.disks[1]->faults().lose = [](const scheduler::IoRequest&) { return true; };
    REQUIRE(pool.append_and_sync("half").has_value());
    SUBCASE("the other one is mounted alone meanwhile") {
      pool.boot_with({false, true});
      CHECK(texts(pool.replayed) == list({"acknowledged"}));
      pool.boot_with({true, true});
      CHECK(texts(pool.replayed) == list({"acknowledged"}));
      pool.boot_with({true, true});
      CHECK(texts(pool.replayed) == list({"acknowledged"}));
    }
    SUBCASE("its disk could not be read for a while") {
      pool.on_new_disk = [](std::size_t i, SimulatedDisk& disk) {
        if (i != 0) return;
        disk.faults().fail = [](const scheduler::IoRequest& request) {
          const bool there =
              request.offset_bytes + request.size_bytes > journal::kJournalOffset + kBlockBytes &&
              request.offset_bytes <= journal::kJournalOffset + kBlockBytes;
          return request.op == scheduler::IoOp::kRead && there ? Code::kDiskRead : Code::kOk;
        };
      };
      pool.boot_with({true, true});
      CHECK(texts(pool.replayed) == list({"acknowledged"}));
      pool.on_new_disk = nullptr;
      pool.boot_with({true, true});
      CHECK(texts(pool.replayed) == list({"acknowledged"}));
    }
  }

  TEST_CASE("disks that were mounted apart are refused, both named, and nothing is changed") {
    for (const bool reverse : {false, true}) {
      for (const bool recorded : {false, true}) {
        CAPTURE(reverse);
        CAPTURE(recorded);
        Started pool{2};
        REQUIRE(pool.append_and_sync("both").has_value());
        pool.boot_with({!reverse, reverse});
        if (recorded) REQUIRE(pool.append_and_sync("first").has_value());
        pool.boot_with({reverse, !reverse});
        CHECK(texts(pool.replayed) == list({"both"}));
        if (recorded) REQUIRE(pool.append_and_sync("second").has_value());
        pool.power_cut();
        const auto before_a = pool.superblock_on(0);
        const auto before_b = pool.superblock_on(1);
        pool.here = {true, true};
        const Result<void> booted = pool.boot();
        REQUIRE_FALSE(booted.has_value());
        CHECK(booted.error().code == Code::kSplitBrain);
        CHECK(pool.problem.text.find("/disks/a") != std::string::npos);
        CHECK(pool.problem.text.find("/disks/b") != std::string::npos);
        CHECK(pool.superblock_on(0) == before_a);
        CHECK(pool.superblock_on(1) == before_b);
        // Each alone still opens: that is the way out.
        pool.boot_with({true, false});
        pool.boot_with({false, true});
      }
    }
  }

  TEST_CASE("disks of three that were mounted apart are refused, whoever saw whom") {
    Started pool{3};
    pool.boot_with({true, true, false});
    REQUIRE(pool.append_and_sync("ab").has_value());
    pool.boot_with({true, true, true});
    pool.boot_with({false, true, true});
    REQUIRE(pool.append_and_sync("bc").has_value());
    pool.boot_with({true, true, true});
    CHECK(texts(pool.replayed) == list({"ab", "bc"}));

    // b goes its own way with a, then c with a rolled back to before that.
    pool.power_cut();
    auto old_a = std::make_shared<SimulatedMedia>(pool.media[0]->clone());
    pool.boot_with({true, true, false});
    pool.power_cut();
    pool.media[0] = old_a;
    pool.boot_with({true, false, true});
    pool.power_cut();
    pool.here = {true, true, true};
    CHECK(pool.boot().error().code == Code::kSplitBrain);
  }

  TEST_CASE("power that fails while an epoch begins sets no disks apart, whoever is away next") {
    for (const std::size_t disks : {3u, 4u}) {
      for (std::uint64_t index = 0; index < 40; ++index) {
        for (std::size_t away = 0; away < disks; ++away) {
          CAPTURE(disks);
          CAPTURE(index);
          CAPTURE(away);
          Started pool{SimPool::replicas(disks), index};
          REQUIRE(pool.append_and_sync("one").has_value());
          pool.power_cut();
          pool.cut_at_operation(index);
          const bool booted = pool.boot().has_value();
          pool.on_new_disk = nullptr;
          std::vector<bool> which(disks, true);
          which[away] = false;
          pool.boot_with(which);
          REQUIRE(pool.append_and_sync("two").has_value());
          pool.boot_with(std::vector<bool>(disks, true));
          CHECK(texts(pool.replayed) == list({"one", "two"}));
          // Nothing but "two" was missed.
          for (std::size_t i = 0; i < disks; ++i) {
            CHECK(pool.health(i) == (i == away ? DiskHealth::kStale : DiskHealth::kHealthy));
          }
          if (booted) index = 1000;
        }
      }
    }
  }

  TEST_CASE("a pool without any member of its newest epoch is refused, naming who had the log") {
    SimPool::Options options = SimPool::replicas(4);
    options.policy.copies_or_data = 4;
    Started pool{options, 5};
    for (const DiskId id : {DiskId{1}, DiskId{2}}) {
      REQUIRE(
          pool.executor.run(pool.pool->report_failure(id, error(Code::kDiskWrite))).has_value());
    }
    CHECK(pool.pool->members() == std::vector<DiskId>{kDiskA});
    pool.power_cut();
    pool.here = {false, true, true, true};
    const Result<void> booted = pool.boot();
    REQUIRE_FALSE(booted.has_value());
    CHECK(booted.error().code == Code::kDiskMissing);
    CHECK(pool.problem.text.find("/disks/a") != std::string::npos);
    REQUIRE(pool.problem.missing.size() == 1);
    CHECK(pool.problem.missing[0].id == kDiskA);
  }

  TEST_CASE("what is acknowledged after a disk has failed is in an epoch that says so") {
    struct Race {
      static Task<Result<void>> sync(SimPool& pool, Lsn lsn, bool* cut) {
        const Result<void> synced = co_await pool.log->sync(lsn);
        pool.cut_all();
        *cut = true;
        co_return synced;
      }
      static Task<Result<void>> report(SimPool& pool) {
        const Result<void> reported =
            co_await pool.pool->report_failure(DiskId{3}, error(Code::kDiskFlush));
        reported.ignore("the power may be gone");
        co_return Result<void>{};
      }
      // Superblocks are being written for another reason, so the epoch has to wait.
      static Task<Result<void>> checkpoint(SimPool& pool) {
        const Result<void> stored =
            co_await pool.pool->commit_manifest(pool.pool->superblock().manifest);
        stored.ignore("the power may be gone");
        co_return Result<void>{};
      }
      static Task<Result<void>> all(SimPool& pool, Lsn lsn, bool* cut) {
        std::vector<Task<Result<void>>> tasks;
        tasks.push_back(checkpoint(pool));
        tasks.push_back(report(pool));
        tasks.push_back(sync(pool, lsn, cut));
        const auto results = co_await when_all(std::move(tasks));
        co_return results[2];
      }
    };
    const std::uint64_t first = seed_from_environment(300);
    for (std::uint64_t seed = first; seed < first + seeds(50); ++seed) {
      CAPTURE(seed);
      Started pool{SimPool::replicas(4), seed};
      pool.write_data(3);  // lost with its cache
      const Lsn lsn = pool.append("tells of the data");
      bool cut = false;
      const Result<void> synced = pool.executor.run(Race::all(pool, lsn, &cut));
      REQUIRE(cut);
      REQUIRE(synced.has_value());
      pool.power_cut();
      CHECK(pool.superblock_on(0).find(DiskId{3})->state == journal::DiskState::kAway);
    }
  }

  TEST_CASE("disks fail, leave and return at random, and nothing acknowledged is lost") {
    const std::uint64_t first = seed_from_environment(20000);
    for (std::uint64_t seed = first; seed < first + seeds(200); ++seed) {
      CAPTURE(seed);
      const std::size_t disks = 3 + seed % 3;
      SimPool pool{seed, SimPool::replicas(disks)};
      REQUIRE(pool.format().has_value());
      Model model;
      for (unsigned round = 0; round < 6; ++round) {
        CAPTURE(round);
        auto draw = [&pool](std::uint64_t below) { return pool.executor.random() % below; };
        pool.here.assign(disks, true);
        if (draw(2) == 0) pool.here[draw(disks)] = false;
        const bool cuts = draw(2) == 0;
        if (cuts) {
          pool.cut_at_operation(draw(draw(3) == 0 ? 10 : 100));
        } else {
          pool.on_new_disk = nullptr;
        }
        const Result<void> started = pool.boot();
        if (!started.has_value()) {
          INFO(pool.problem.text);
          INFO(describe(started.error()));
          CHECK(pool.cut_done);
          pool.power_cut();
          continue;
        }
        compare(pool, model);
        // One disk begins to fail at some time, in some way; or somebody else reports it.
        const std::size_t victim = draw(disks);
        if (pool.disks[victim] != nullptr) {
          const std::uint64_t kind = draw(4);
          const std::uint64_t from = pool.disks[victim]->device_operations() + draw(30);
          SimulatedDisk* const disk = pool.disks[victim];
          if (kind < 2) {
            const auto op = kind == 0 ? scheduler::IoOp::kWrite : scheduler::IoOp::kFlush;
            disk->faults().fail = [op, from, disk](const scheduler::IoRequest& request) {
              if (request.op != op || disk->device_operations() < from) return Code::kOk;
              return op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kDiskFlush;
            };
          } else if (kind == 2) {
            struct Report {
              static Task<void> run(SimPool& from_pool, std::size_t which, std::uint64_t after_us) {
                co_await from_pool.executor.sleep(std::chrono::microseconds(after_us));
                const DiskId id{static_cast<std::uint16_t>(which)};
                const auto reported =
                    co_await from_pool.pool->report_failure(id, error(Code::kDiskRead));
                reported.ignore("a second loss may be one too many");
              }
            };
            spawn(Report::run(pool, victim, draw(5000)));
          }
        }
        run_workload(pool, model, 5);
        pool.power_cut();
      }
      pool.here.assign(disks, true);
      pool.on_new_disk = nullptr;
      const Result<void> booted = pool.boot();
      INFO(pool.problem.text);
      INFO((booted.has_value() ? "" : describe(booted.error())));
      REQUIRE(booted.has_value());
      compare(pool, model);
    }
  }
}

}  // namespace dynamicfs::test
