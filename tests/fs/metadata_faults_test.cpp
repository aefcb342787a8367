// Disks that refuse, lie, are full or hang while the log, the runs and the superblocks are written: what
// has been acknowledged is there after a power cut, and `status` knows of the disk.
#include <doctest/doctest.h>

#include <algorithm>
#include <optional>
#include <random>

#include "base/log.hpp"
#include "journal/record_format.hpp"
#include "journal/run_set.hpp"
#include "tests/fs/operations.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/lying_disk.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using scheduler::IoOp;
using scheduler::IoRequest;
using std::chrono::seconds;

// What a request is about. Data and runs lie in slots: which it is, only the test knows.
enum class Part { kSuperblock, kLog, kSlots };

Part part_of(const fs::Filesystem& filesystem, const IoRequest& request) {
  if (request.offset_bytes < journal::kJournalOffset) return Part::kSuperblock;
  auto& pool = const_cast<fs::Filesystem&>(filesystem).pool();
  return request.offset_bytes < pool.slot_offset(DiskId{0}, SlotId{0}) ? Part::kLog : Part::kSlots;
}

// How a disk refuses.
struct Refusal {
  const char* what;
  IoOp op;
  Part part;
  Code answer;
  bool in_checkpoint;  // only then
  bool costs_the_disk;
};

constexpr Refusal kRefusals[] = {
    {"EIO on a log write", IoOp::kWrite, Part::kLog, Code::kDiskWrite, false, true},
    {"ENOSPC on a log write", IoOp::kWrite, Part::kLog, Code::kNoSpace, false, true},
    {"EIO on a flush", IoOp::kFlush, Part::kSlots, Code::kDiskFlush, false, true},
    {"EIO on a flush of a checkpoint", IoOp::kFlush, Part::kSlots, Code::kDiskFlush, true, true},
    {"EIO on a write of a run", IoOp::kWrite, Part::kSlots, Code::kDiskWrite, true, true},
    {"ENOSPC on a write of a run", IoOp::kWrite, Part::kSlots, Code::kNoSpace, true, false},
    {"EIO on a superblock", IoOp::kWrite, Part::kSuperblock, Code::kDiskWrite, true, true},
    {"ENOSPC on a superblock", IoOp::kWrite, Part::kSuperblock, Code::kNoSpace, true, true},
};

SimPoolOptions disks(std::size_t count) {
  return {.disk_bytes = std::vector<std::uint64_t>(count, 96 * kMiB),
          .policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = 2}};
}

journal::DiskHealth health(SimPool& pool, std::size_t disk) {
  return pool.fs().pool().status()[disk].health;
}

// Some operations, all of which must do what the model does.
void work(SimPool& pool, Model& model, RandomOperations& random, int operations) {
  for (int i = 0; i < operations; ++i) {
    const RandomOperations::Outcome outcome = random.step(pool, model);
    INFO("operation ", i, ": ", outcome.text);
    // Without two disks that have room a checkpoint leaves everything in the log.
    if (outcome.text == "checkpoint" && outcome.real == Code::kNoSpace) continue;
    REQUIRE(code_name(outcome.real) == code_name(outcome.model));
  }
}

// The next request that `when` says yes to is refused, and if `for_good` all like it.
struct Fault {
  const Refusal& how;
  std::uint64_t skip;
  bool for_good;
  bool in_checkpoint = false;
  bool hit = false;

  Code answer(const fs::Filesystem& filesystem, const IoRequest& request) {
    const bool flush = how.op == IoOp::kFlush && (request.op == IoOp::kFlush || request.flushes);
    const bool write = how.op == IoOp::kWrite && request.op == IoOp::kWrite &&
                       part_of(filesystem, request) == how.part;
    if (!flush && !write) return Code::kOk;
    if (how.in_checkpoint && !in_checkpoint) return Code::kOk;
    if (skip > 0) {
      --skip;
      return Code::kOk;
    }
    if (hit && !for_good) return Code::kOk;
    hit = true;
    // A failed flush of one that writes as well is a failed write.
    return request.op == IoOp::kWrite && how.op == IoOp::kFlush ? Code::kDiskWrite : how.answer;
  }
};

}  // namespace

TEST_SUITE("faults of log and metadata") {
  TEST_CASE("one disk that refuses a write or a flush costs that disk and nothing acknowledged") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(1);
    for (const Refusal& how : kRefusals) {
      CAPTURE(std::string{how.what});
      int hits = 0;
      for (std::uint64_t seed = first; seed < first + seeds(12); ++seed) {
        CAPTURE(seed);
        std::mt19937_64 draw(seed * 7919);
        SimPool pool(seed, disks(2 + seed % 2));
        const std::size_t victim = draw() % pool.media.size();
        pool.format();
        REQUIRE(pool.mount().has_value());
        Model model;
        RandomOperations random(seed);
        REQUIRE(pool.create("y").has_value());
        REQUIRE(model.make("y", Model::Node::Type::kFile, "", 0644).has_value());
        work(pool, model, random, 30);
        checkpoint(pool);
        Fault fault{how, draw() % 4, draw() % 2 == 0};
        pool.disks[victim]->faults().fail = [&](const IoRequest& request) {
          return fault.answer(pool.fs(), request);
        };
        for (int round = 0; round < 20 && !fault.hit; ++round) {
          work(pool, model, random, 5);
          // Data on all disks, which is flushed with the log or for the run alone, which is on two.
          const std::string text(3 * kMiB, static_cast<char>('a' + round));
          REQUIRE(pool.write("y", 0, text).has_value());
          REQUIRE(model.write("y", 0, text).has_value());
          if (how.op != IoOp::kFlush || !how.in_checkpoint) {
            REQUIRE(pool.run(pool.fs().sync()).has_value());
          }
          fault.in_checkpoint = true;
          const Result<void> result = pool.run(pool.fs().checkpoint());
          fault.in_checkpoint = false;
          // With fewer than two disks that have room what has changed stays in the log.
          if (how.answer == Code::kNoSpace && how.part == Part::kSlots && pool.media.size() == 2) {
            if (!result.has_value()) {
              CHECK(code_name(result.error().code) == code_name(Code::kNoSpace));
            }
          } else {
            const std::string why = result.has_value() ? "" : describe(result.error());
            INFO(why);
            CHECK(result.has_value());
          }
        }
        if (!fault.hit) continue;  // no run has come to lie on it
        ++hits;
        CHECK((health(pool, victim) == journal::DiskHealth::kFailed) == how.costs_the_disk);
        CHECK(pool.fs().pool().degraded() == how.costs_the_disk);
        CHECK_FALSE(pool.fs().pool().read_only());
        work(pool, model, random, 10);
        REQUIRE(pool.create("z").has_value());  // the disk has missed something
        REQUIRE(model.make("z", Model::Node::Type::kFile, "", 0644).has_value());
        REQUIRE(pool.run(pool.fs().sync()).has_value());
        const std::string before = model.dump();
        CHECK(pool.dump().value() == before);
        // The disk may be here with what it has, or stay away.
        const bool away = how.costs_the_disk && draw() % 2 == 0;
        cut_and_mount(pool, away ? std::vector<std::size_t>{victim} : std::vector<std::size_t>{});
        CHECK(pool.dump().value() == before);
        check_whole(pool);
        if (how.costs_the_disk) CHECK(health(pool, victim) != journal::DiskHealth::kHealthy);
        checkpoint(pool);
        cut_and_mount(pool);
        CHECK(pool.dump().value() == before);
        check_whole(pool);
      }
      CHECK(hits > 0);
      if (!kThreadSanitizer) CHECK(hits > 4);  // there with two seeds
    }
  }

  TEST_CASE("a disk whose flushes lie until the power fails: the honest copy has everything") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(1);
    std::uint64_t lies = 0;
    std::uint64_t mended = 0;
    for (std::uint64_t seed = first; seed < first + seeds(40); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 draw(seed * 104'729);
      Lie lie;  // outlives the pool
      SimPool pool(seed, disks(2 + seed % 2));
      const std::size_t victim = draw() % pool.media.size();
      pool.wrap = [&](std::unique_ptr<scheduler::SimulatedDisk> disk,
                      std::size_t index) -> std::unique_ptr<scheduler::Disk> {
        if (index != victim) return disk;
        return std::make_unique<LyingDisk>(std::move(disk), lie);
      };
      pool.format();
      REQUIRE(pool.mount().has_value());
      Model model;
      RandomOperations random(seed);
      work(pool, model, random, 40);
      if (draw() % 2 == 0) checkpoint(pool);
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      lie.on = true;
      work(pool, model, random, 1 + static_cast<int>(draw() % 15));
      if (draw() % 3 == 0) checkpoint(pool);
      work(pool, model, random, static_cast<int>(draw() % 5));
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      CHECK(health(pool, victim) == journal::DiskHealth::kHealthy);  // nobody can know
      const std::string before = model.dump();
      pool.power_cut();
      lies += lie.told;
      lie = {};
      const Result<void> mounted = pool.mount();
      INFO(pool.problem.text);
      REQUIRE(mounted.has_value());
      CHECK(pool.dump().value() == before);
      CHECK(pool.fs().store().metrics().unrecoverable_blocks.sum() == 0);
      check_whole(pool);
      mended += pool.fs().mount_report().journal.batches_repaired +
                pool.fs().runs().metrics().blocks_repaired.sum() +
                pool.fs().store().metrics().repairs.sum();
      // What it lost is brought back to it, so that it may be the one that is left.
      REQUIRE(pool.fs().start_scrub().has_value());
      pool.executor.run_for(seconds{60});
      REQUIRE(pool.fs().scrub_report().state == fs::ScrubState::kFinished);
      CHECK(pool.fs().scrub_report().counts.blocks_lost == 0);
      REQUIRE(pool.unmount().has_value());
      if (pool.media.size() == 2) {
        REQUIRE(pool.mount({1 - victim}).has_value());
        CHECK(pool.dump().value() == before);
        check_whole(pool);
      }
    }
    CHECK(lies > 0);
    if (!kThreadSanitizer) {  // there with a few seeds
      CHECK(lies > 40);
      CHECK(mended > 0);
    }
  }

  TEST_CASE("a disk that hangs anywhere in a checkpoint or commit is given up within a minute") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(1);
    for (const Part part : {Part::kSuperblock, Part::kLog, Part::kSlots}) {
      for (std::uint64_t seed = first; seed < first + seeds(8); ++seed) {
        CAPTURE(static_cast<int>(part));
        CAPTURE(seed);
        std::mt19937_64 draw(seed * 31);
        SimPool pool(seed, disks(2 + seed % 3));
        const std::size_t victim = draw() % std::min<std::size_t>(pool.media.size(), 3);
        const bool for_good = seed % 4 != 0;
        pool.format();
        REQUIRE(pool.mount().has_value());
        Model model;
        RandomOperations random(seed);
        work(pool, model, random, 30);
        REQUIRE(pool.create("acknowledged").has_value());
        REQUIRE(pool.run(pool.fs().sync()).has_value());
        // From the first request of this kind on nothing is answered.
        scheduler::SimulatedDisk* const disk = pool.disks[victim];
        std::optional<TimePoint> since;
        disk->faults().fail = [&pool, &since, disk, part](const IoRequest& request) {
          if (request.op == IoOp::kWrite && part_of(pool.fs(), request) == part && !since) {
            since = pool.executor.now();
            disk->faults().hung = true;
          }
          return Code::kOk;
        };
        const InodeId file = pool.resolve("acknowledged").value();
        std::optional<Result<void>> wrote;
        std::optional<Result<void>> synced;
        std::optional<Result<void>> written;
        spawn(keep(SimPool::write_task(&pool.fs(), file, 0, std::string(300'000, 'w')), &wrote));
        pool.executor.run_for(seconds{part == Part::kSlots ? 35 : 1});
        if (part != Part::kSuperblock) spawn(keep(pool.fs().fsync(file), &synced));
        spawn(keep(pool.fs().checkpoint(), &written));
        if (part == Part::kSuperblock) {
          pool.executor.run_for(std::chrono::milliseconds{200});
          spawn(keep(pool.fs().fsync(file), &synced));
        }
        pool.executor.run_for(seconds{for_good ? 60 : 10});
        const Duration hung_for = since ? pool.executor.now() - *since : Duration{0};
        if (!for_good) {
          disk->release();
          pool.executor.run_for(seconds{20});
        }
        REQUIRE(wrote.has_value());
        CHECK(wrote->has_value());
        REQUIRE(synced.has_value());
        CHECK(synced->has_value());
        REQUIRE(written.has_value());
        CHECK(written->has_value());
        const bool gone = health(pool, victim) == journal::DiskHealth::kFailed;
        CHECK(gone == (hung_for > seconds{33}));
        if (pool.media.size() == 2) CHECK(since.has_value());
        CHECK(pool.fs().metrics().disks_hung.sum() == (gone ? 1 : 0));
        CHECK_FALSE(pool.fs().pool().read_only());
        CHECK(pool.fs().pool().degraded() == gone);
        // The pool goes on as if nothing had been.
        REQUIRE(pool.create("later").has_value());
        REQUIRE(pool.write("later", 0, std::string(200'000, 'l')).has_value());
        REQUIRE(pool.fsync("later").has_value());
        checkpoint(pool);
        const std::string before = pool.dump().value();
        disk->release();  // it does now what it was asked long ago, or some of it
        pool.executor.run_for(seconds{1});
        cut_and_mount(pool);
        CHECK(pool.dump().value() == before);
        CHECK(pool.read("acknowledged").value() == std::string(300'000, 'w'));
        check_whole(pool);
        REQUIRE(pool.unmount().has_value());
      }
    }
  }

  TEST_CASE("metadata that is not in memory has another copy than that on a disk that hangs") {
    for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
      CAPTURE(seed);
      SimPool pool(seed, disks(2));
      pool.format();
      REQUIRE(pool.mount().has_value());
      for (int i = 0; i < 3000; ++i) REQUIRE(pool.create("f" + std::to_string(i)).has_value());
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount().has_value());
      scheduler::SimulatedDisk* const disk = pool.disks[seed % 2];
      disk->faults().hung = true;
      // Blocks of the runs lie on both disks, and the copies take turns: soon one is asked of this.
      std::vector<std::optional<Result<InodeId>>> found(60);
      const auto look_up = [&](std::size_t i) {
        spawn(keep(SimPool::resolve_task(&pool.fs(), "f" + std::to_string(i * 50)), &found[i]));
      };
      std::size_t asked = 0;
      while (asked == 0 || found[asked - 1].has_value()) {
        look_up(asked++);
        pool.executor.run_for(std::chrono::milliseconds{100});
      }
      REQUIRE(asked < 10);
      pool.executor.run_for(seconds{4});
      REQUIRE(disk->latency().suspect());
      // From now on the other one is asked first. Who needs the same block waits with the first.
      for (std::size_t i = asked; i < found.size(); ++i) look_up(i);
      pool.executor.run_for(seconds{1});
      CHECK(std::ranges::count_if(found, [](const auto& one) { return one.has_value(); }) > 35);
      CHECK(health(pool, seed % 2) == journal::DiskHealth::kHealthy);
      pool.executor.run_for(seconds{35});
      CHECK(health(pool, seed % 2) == journal::DiskHealth::kFailed);
      for (const auto& one : found) {
        REQUIRE(one.has_value());
        CHECK(one->has_value());
      }
      REQUIRE(pool.create("new").has_value());
      checkpoint(pool);
      disk->release();
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({seed % 2}).has_value());
      CHECK(pool.stat("new").has_value());
      check_whole(pool);
    }
  }

  TEST_CASE("a member that hangs while a spare disk is given the log is not waited for for ever") {
    SimPoolOptions options = disks(4);
    options.policy.copies_or_data = 3;
    SimPool pool(1, options);
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 10; ++i) {
      REQUIRE(pool.create("f" + std::to_string(i)).has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
    }
    scheduler::SimulatedDisk* const disk = pool.disks[0];
    bool asked = false;
    disk->faults().fail = [&](const IoRequest& request) {
      if (request.op == IoOp::kRead && part_of(pool.fs(), request) == Part::kLog) {
        asked = disk->faults().hung = true;
      }
      return Code::kOk;
    };
    pool.disks[1]->faults().fail = [&](const IoRequest& request) {
      return request.op == IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
    };
    REQUIRE(pool.create("acknowledged").has_value());
    std::optional<Result<void>> synced;
    spawn(keep(pool.fs().sync(), &synced));
    pool.executor.run_for(seconds{20});
    REQUIRE(asked);
    CHECK_FALSE(synced.has_value());
    pool.executor.run_for(seconds{20});
    REQUIRE(synced.has_value());
    CHECK(synced->has_value());
    CHECK(pool.fs().pool().members() == std::vector<DiskId>{DiskId{2}, DiskId{3}});
    const std::string before = pool.dump().value();
    disk->faults().fail = nullptr;
    disk->release();
    // Only the spare one can tell now.
    pool.power_cut();
    pool.media[2]->write(journal::kJournalOffset, Bytes(64 * kKiB));
    REQUIRE(pool.mount({0, 1}).has_value());
    CHECK(pool.dump().value() == before);
    check_whole(pool);
  }

  TEST_CASE("a mount says what recovery did, and no number is given again behind what was lost") {
    SimPool pool(1, disks(2));
    pool.format();
    REQUIRE(pool.mount().has_value());
    CHECK(pool.fs().mount_report().journal.records_replayed == 0);
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const Lsn first = pool.fs().journal().appended();
    for (int i = 0; i < 10; ++i) REQUIRE(pool.create("f" + std::to_string(i)).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::string before = pool.dump().value();
    cut_and_mount(pool);
    fs::MountReport report = pool.fs().mount_report();
    CHECK(report.journal.records_replayed == first.raw + 10);
    CHECK(report.journal.last == Lsn{first.raw + 10});
    CHECK_FALSE(report.journal.torn_tail);
    CHECK(report.took > Duration{0});
    CHECK(report.journal.took > Duration{0});
    CHECK(report.took >= report.journal.took);
    CHECK(report.inodes == 11);

    // The last batch arrives on no disk whole.
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const Lsn durable = pool.fs().journal().durable();
    REQUIRE(pool.create("torn").has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const InodeId torn = pool.resolve("torn").value();
    const Lsn lost = pool.fs().journal().appended();
    const std::uint64_t at =
        journal::kJournalOffset + pool.fs().journal().position_after(durable).offset;
    pool.power_cut();
    for (const auto& media : pool.media) media->flip(at + journal::kBatchHeaderBytes + 30, 2);
    REQUIRE(pool.mount().has_value());
    report = pool.fs().mount_report();
    CHECK(report.journal.torn_tail);
    CHECK(pool.dump().value() == before);
    CHECK(report.inodes == 11);
    REQUIRE(pool.create("next").has_value());
    CHECK(pool.resolve("next").value() > torn);
    CHECK(pool.fs().journal().appended() > lost);
    // Once more, with nothing to be cut off: the same again, and no tail is torn any more.
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::string then = pool.dump().value();
    for (int again = 0; again < 3; ++again) {
      cut_and_mount(pool);
      CHECK_FALSE(pool.fs().mount_report().journal.torn_tail);
      CHECK(pool.dump().value() == then);
      check_whole(pool);
    }
    // In order: nothing to recover.
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    CHECK(pool.fs().mount_report().journal.records_replayed == 0);
    CHECK(pool.dump().value() == then);
  }

  TEST_CASE("without a second disk what is refused is told each time, and nothing before is lost") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(1);
    for (const Refusal& how : kRefusals) {
      CAPTURE(std::string{how.what});
      for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
        CAPTURE(seed);
        std::mt19937_64 draw(seed * 17);
        SimPoolOptions options = disks(1);
        options.policy = {};
        SimPool pool(seed, options);
        pool.format();
        REQUIRE(pool.mount().has_value());
        Model model;
        RandomOperations random(seed);
        work(pool, model, random, 40);
        REQUIRE(pool.run(pool.fs().sync()).has_value());
        const std::string before = pool.dump().value();
        Fault fault{how, 0, draw() % 2 == 0};
        pool.disks[0]->faults().fail = [&](const IoRequest& request) {
          return fault.answer(pool.fs(), request);
        };
        REQUIRE(pool.create("unsure").has_value());
        REQUIRE(pool.write("unsure", 0, "something to flush").has_value());
        fault.in_checkpoint = how.in_checkpoint;
        const Result<void> result =
            how.in_checkpoint ? pool.run(pool.fs().checkpoint()) : pool.run(pool.fs().sync());
        REQUIRE(fault.hit);
        fault.in_checkpoint = false;
        // A run finds room when it is tried again.
        if (fault.for_good || how.costs_the_disk) CHECK_FALSE(result.has_value());
        CHECK(pool.fs().pool().read_only() == how.costs_the_disk);
        if (pool.fs().pool().read_only()) {
          for (int again = 0; again < 3; ++again) CHECK_FALSE(pool.fsync("unsure").has_value());
          CHECK(code_name(pool.create("more").error().code) == code_name(Code::kReadOnly));
          CHECK(health(pool, 0) == journal::DiskHealth::kFailed);
        } else {
          REQUIRE(pool.fsync("unsure").has_value());
        }
        const bool sure = !pool.fs().pool().read_only();
        pool.disks[0]->faults().fail = nullptr;
        cut_and_mount(pool);
        if (sure) CHECK(pool.stat("unsure").has_value());
        if (pool.stat("unsure").has_value()) REQUIRE(pool.unlink("unsure").has_value());
        CHECK(pool.dump().value() == before);
        check_whole(pool);
        REQUIRE(pool.create("on").has_value());
        REQUIRE(pool.fsync("on").has_value());
      }
    }
  }
}

}  // namespace dynamicfs::test
