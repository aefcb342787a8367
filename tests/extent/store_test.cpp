// The data path on simulated disks: what is written comes back, whatever the disks do.
#include "extent/store.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <random>
#include <set>

#include "tests/extent/sim_store.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;
using namespace dynamicfs::test;

namespace {

struct TwoCopies : SimStore {
  TwoCopies() : SimStore(seed_from_environment(1)) {}
};
struct TwoOfThree : SimStore {
  TwoOfThree()
      : SimStore(seed_from_environment(1), {.disk_bytes = {64 * kMiB, 64 * kMiB, 64 * kMiB},
                                            .policy = {.copies_or_data = 2},
                                            .latency = {}}) {}
};
struct Single : SimStore {
  Single()
      : SimStore(seed_from_environment(1),
                 {.disk_bytes = {64 * kMiB, 48 * kMiB}, .policy = {}, .latency = {}}) {}
};

}  // namespace

TEST_SUITE("store") {
  TEST_CASE_FIXTURE(TwoCopies,
                    "what was written is read back, holes and reserved blocks are zeros") {
    REQUIRE(write(1, 0, 256, 10).has_value());
    REQUIRE(write(1, 100, 5, 11).has_value());
    REQUIRE(write(1, 700, 257, 12).has_value());
    REQUIRE(executor.run(reserve_task(this, 1, 250, 20)).has_value());
    CHECK(read(1, 0, 100).value() == times(100, 10));
    CHECK(read(1, 98, 9).value() == Versions{10, 10, 11, 11, 11, 11, 11, 10, 10});
    CHECK(read(1, 256, 444).value() == times(444, 0));
    CHECK(read(1, 699, 259).value().front() == 0);
    CHECK(read(1, 700, 257).value() == times(257, 12));
    CHECK(read(1, 5000, 3).value() == times(3, 0));
    CHECK(read(2, 0, 3).value() == times(3, 0));
    CHECK(store->metrics().checksum_errors.sum() == 0);
    CHECK(store->metrics().data_bytes_written.sum() == (256 + 5 + 257) * kBlockBytes);
  }

  TEST_CASE_FIXTURE(TwoCopies,
                    "every block lies on two disks, and a read of one extent is one request") {
    REQUIRE(write(1, 0, 257, 1).has_value());
    for (const std::uint64_t block : {0, 255, 256}) {
      const auto where = locate(1, block);
      REQUIRE(where.size() == 2);
      CHECK(where[0].disk != where[1].disk);
    }
    const auto requests = [&] {
      return disks[0]->metrics().reads.sum() + disks[1]->metrics().reads.sum();
    };
    const std::uint64_t before = requests();
    CHECK(read(1, 0, 257).value() == times(257, 1));  // two extents, but contiguous on disk
    CHECK(requests() == before + 1);
  }

  TEST_CASE_FIXTURE(TwoCopies, "the copies share the reading") {
    for (std::uint64_t i = 0; i < 16; ++i) REQUIRE(write(1, i * 256, 256, 1).has_value());
    for (std::uint64_t i = 0; i < 64; ++i) REQUIRE(read(1, i * 64, 64).has_value());
    CHECK(disks[0]->metrics().read_bytes.sum() > 4 * kMiB);
    CHECK(disks[1]->metrics().read_bytes.sum() > 4 * kMiB);
  }

  TEST_CASE_FIXTURE(TwoCopies,
                    "a flipped bit is read from the other copy, counted, and rewritten") {
    REQUIRE(write(1, 0, 64, 7).has_value());
    std::uint64_t errors = 0;
    for (const std::size_t copy : {0, 1}) {
      const Location bad = locate(1, 20)[copy];
      const Location good = locate(1, 20)[1 - copy];
      damage(bad);
      CHECK(read_avoiding(good.disk, 1, 0, 64).value() == times(64, 7));
      ++errors;
      CHECK(store->metrics().checksum_errors.sum() == errors);
      CHECK(store->metrics().repairs.sum() == errors);
      // It is good now, on its own: the other cannot have helped.
      CHECK(read_avoiding(good.disk, 1, 20, 1).value() == times(1, 7));
      CHECK(store->metrics().checksum_errors.sum() == errors);
      CHECK(store->metrics().read_failovers.sum() == errors);
    }
    CHECK_FALSE(pool->degraded());
    CHECK(store->metrics().checksum_stale.sum() == 0);
  }

  TEST_CASE_FIXTURE(
      Single, "a block whose only copy is bad is refused with its place, and nothing else is") {
    REQUIRE(write(9, 300, 40, 5).has_value());
    damage(locate(9, 320)[0]);
    std::vector<std::pair<InodeId, FileBlock>> lost;
    store->on_unrecoverable(
        [&](InodeId inode, FileBlock block) { lost.emplace_back(inode, block); });
    const auto result = read(9, 300, 40);
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == error(Code::kCorrupt, 320));
    REQUIRE(lost.size() == 1);
    CHECK(lost[0] == std::pair{InodeId{9}, FileBlock{320}});
    CHECK(read(9, 300, 20).value() == times(20, 5));
    CHECK(read(9, 321, 19).value() == times(19, 5));
    CHECK(store->metrics().unrecoverable_blocks.sum() == 1);
    CHECK(store->metrics().checksum_errors.sum() == 1);
    // Overwriting makes it well again.
    REQUIRE(write(9, 320, 1, 6).has_value());
    CHECK(read(9, 320, 1).value() == times(1, 6));
  }

  TEST_CASE_FIXTURE(
      TwoCopies,
      "damage met while the file is overwritten is damage, and the read is the old version") {
    REQUIRE(write(1, 0, 64, 7).has_value());
    damage(locate(1, 20)[0]);
    disks[locate(1, 20)[0].disk]->faults().hung = true;
    std::optional<Result<Buffer>> result;
    spawn(distract(disks[locate(1, 20)[1].disk]));
    spawn(keep(read_task(this, 1, 0, 64), &result));
    const std::size_t slow = locate(1, 20)[0].disk;
    disks[slow]->faults().hung = false;
    // The whole range is replaced and everything settles before the read gets its answer.
    clear(1, 0, 64);
    CHECK_FALSE(result.has_value());
    disks[slow]->release();
    executor.run_until_idle();
    REQUIRE(result.has_value());
    REQUIRE(result->has_value());
    CHECK(versions(**result, 1, 0) == times(64, 7));
    CHECK(store->metrics().checksum_errors.sum() == 1);
    CHECK(store->metrics().checksum_stale.sum() == 0);
    CHECK(store->metrics().repairs.sum() == 1);
    CHECK(read(1, 0, 64).value() == times(64, 0));
  }

  TEST_CASE_FIXTURE(TwoCopies, "both copies bad is refused; each bad in another block is not") {
    REQUIRE(write(1, 0, 64, 7).has_value());
    damage(locate(1, 10)[0]);
    damage(locate(1, 50)[1]);
    CHECK(read(1, 0, 64).value() == times(64, 7));
    damage(locate(1, 30)[0]);
    damage(locate(1, 30)[1]);
    CHECK(read(1, 0, 64).error() == error(Code::kCorrupt, 30));
    CHECK(store->metrics().unrecoverable_blocks.sum() == 1);
    CHECK(read(1, 31, 33).value() == times(33, 7));
  }

  TEST_CASE_FIXTURE(TwoCopies,
                    "a lost write is noticed although the old block had a good checksum once") {
    REQUIRE(write(1, 0, 4, 1).has_value());
    disks[1]->faults().lose = [&](const scheduler::IoRequest& request) {
      return is_data(1, request);
    };
    REQUIRE(write(1, 0, 4, 2).has_value());
    disks[1]->faults().lose = nullptr;
    CHECK(read_avoiding(0, 1, 0, 4).value() == times(4, 2));
    CHECK(store->metrics().checksum_errors.sum() == 4);
    CHECK(store->metrics().repairs.sum() == 4);
    disks[0]->fail();
    CHECK(read(1, 0, 4).value() == times(4, 2));
  }

  TEST_CASE_FIXTURE(TwoCopies,
                    "a write that went astray is noticed where it is missing and where it hit") {
    REQUIRE(write(1, 0, 4, 1).has_value());
    REQUIRE(write(2, 0, 4, 1).has_value());
    std::uint64_t victim = 0;
    for (const Location& at : locate(2, 0)) victim = at.disk == 1 ? at.offset_bytes : victim;
    disks[1]->faults().misdirect = [&](const scheduler::IoRequest& request) {
      return is_data(1, request) ? victim : request.offset_bytes;
    };
    REQUIRE(write(1, 0, 4, 2).has_value());
    disks[1]->faults().misdirect = nullptr;
    CHECK(read_avoiding(0, 1, 0, 4).value() == times(4, 2));
    CHECK(read_avoiding(0, 2, 0, 4).value() == times(4, 1));
    CHECK(store->metrics().repairs.sum() == 8);
  }

  TEST_CASE_FIXTURE(TwoCopies,
                    "a read error is answered from the other copy and the bad place rewritten") {
    REQUIRE(write(1, 0, 64, 3).has_value());
    for (const std::size_t bad : {0, 1}) {
      disks[bad]->faults().fail = [&, bad](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kRead && is_data(bad, request) ? Code::kDiskRead
                                                                             : Code::kOk;
      };
      CHECK(read_avoiding(1 - bad, 1, 0, 64).value() == times(64, 3));
      CHECK(store->metrics().read_failovers.sum() == bad + 1);
      CHECK(store->metrics().repairs.sum() == 64 * (bad + 1));
      disks[bad]->faults().fail = nullptr;
    }
    CHECK(store->metrics().checksum_errors.sum() == 0);
    CHECK_FALSE(pool->degraded());
  }

  TEST_CASE_FIXTURE(TwoOfThree,
                    "a disk that vanishes is reported, and reads go on from the other copies") {
    for (std::uint64_t i = 0; i < 12; ++i) REQUIRE(write(1, i * 256, 256, i + 1).has_value());
    REQUIRE(sync().has_value());
    disks[1]->fail();
    for (std::uint64_t i = 0; i < 12; ++i)
      CHECK(read(1, i * 256, 256).value() == times(256, i + 1));
    CHECK(pool->degraded());
    CHECK(pool->disk(DiskId{1}) == nullptr);
    CHECK(store->space(pool->policy()).degraded_chunks > 0);
    // New data has two copies on the two that are left.
    REQUIRE(write(2, 0, 200, 50).has_value());
    std::set<std::size_t> used;
    for (const Location& at : locate(2, 0)) used.insert(at.disk);
    CHECK(used == std::set<std::size_t>{0, 2});
    CHECK(read(2, 0, 200).value() == times(200, 50));
  }

  TEST_CASE_FIXTURE(TwoCopies, "a disk that fails a write is left out, and the write succeeds") {
    REQUIRE(write(1, 0, 64, 1).has_value());
    disks[0]->faults().fail = [&](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite && is_data(0, request) ? Code::kDiskWrite
                                                                          : Code::kOk;
    };
    REQUIRE(write(1, 0, 200, 2).has_value());
    CHECK(pool->degraded());
    CHECK_FALSE(pool->read_only());
    CHECK(read(1, 0, 200).value() == times(200, 2));
    for (std::uint64_t i = 0; i < 20; ++i) REQUIRE(write(2, i * 256, 256, 3).has_value());
    CHECK(read(2, 0, 256).value() == times(256, 3));
    CHECK(sync().has_value());
  }

  TEST_CASE_FIXTURE(
      Single, "without a second copy a failed write makes the pool read-only, and is an error") {
    REQUIRE(write(1, 0, 64, 1).has_value());
    for (std::size_t i : {0, 1}) {
      disks[i]->faults().fail = [&, i](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kWrite && is_data(i, request) ? Code::kDiskWrite
                                                                            : Code::kOk;
      };
    }
    CHECK(write(1, 0, 64, 2).error().code == Code::kReadOnly);
    CHECK(pool->read_only());
    CHECK(write(1, 0, 64, 2).error().code == Code::kReadOnly);
  }

  TEST_CASE_FIXTURE(Single, "a copy on a disk that is away is not called corrupt") {
    for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(write(1, i * 256, 256, 1).has_value());
    disks[0]->fail();
    int gone = 0;
    for (std::uint64_t i = 0; i < 8; ++i) {
      const auto result = read(1, i * 256, 256);
      if (result.has_value()) {
        CHECK(*result == times(256, 1));
      } else {
        CHECK(result.error().code == Code::kDiskGone);
        ++gone;
      }
    }
    CHECK(gone == 4);
    CHECK(store->metrics().unrecoverable_blocks.sum() == 0);
  }

  TEST_CASE_FIXTURE(
      TwoOfThree,
      "a host file system without space keeps its disk in the pool, and writes go elsewhere") {
    bool full = true;
    disks[2]->faults().fail = [&](const scheduler::IoRequest& request) {
      return full && request.op == scheduler::IoOp::kWrite && is_data(2, request) ? Code::kNoSpace
                                                                                  : Code::kOk;
    };
    for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(write(1, i * 256, 256, i + 1).has_value());
    CHECK_FALSE(pool->degraded());
    for (std::uint64_t i = 0; i < 8; ++i) {
      CHECK(read(1, i * 256, 256).value() == times(256, i + 1));
      for (const Location& at : locate(1, i * 256)) CHECK(at.disk != 2);
    }
    // Later there is space again.
    full = false;
    executor.run_for(std::chrono::seconds{20});
    bool used = false;
    for (std::uint64_t i = 0; i < 12; ++i) {
      REQUIRE(write(2, i * 256, 256, i + 1).has_value());
      for (const Location& at : locate(2, i * 256)) used |= at.disk == 2;
    }
    CHECK(used);
  }

  TEST_CASE_FIXTURE(TwoCopies,
                    "when all hosts are full the answer is no space, and no disk has failed") {
    for (std::size_t i : {0, 1}) {
      disks[i]->faults().fail = [&, i](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kWrite && is_data(i, request) ? Code::kNoSpace
                                                                            : Code::kOk;
      };
    }
    CHECK(write(1, 0, 64, 2).error().code == Code::kNoSpace);
    CHECK_FALSE(pool->degraded());
  }

  TEST_CASE_FIXTURE(TwoCopies, "a full pool says so exactly, and space comes back after a delete") {
    const SpaceReport before = store->space(pool->policy());
    CHECK(before.free_bytes <= before.usable_bytes);
    const std::uint64_t room = (before.free_bytes - before.reserve_bytes) / kBlockBytes;
    std::uint64_t written = 0;
    while (written + 256 <= room) {
      REQUIRE(write(1, written, 256, 1).has_value());
      written += 256;
    }
    CHECK(write(1, written, 257, 1).error().code == Code::kNoSpace);
    for (; written < room; ++written) REQUIRE(write(1, written, 1, 1).has_value());
    CHECK(write(2, 0, 1, 1).error().code == Code::kNoSpace);
    const SpaceReport full = store->space(pool->policy());
    CHECK(full.free_bytes == full.reserve_bytes);
    // Overwriting goes on, with the same number of blocks, for ever.
    for (std::uint64_t i = 0; i < 40; ++i) REQUIRE(write(1, i * 64, 64, 2).has_value());
    CHECK(write(2, 0, 1, 1).error().code == Code::kNoSpace);
    // Nobody has to settle anything: the write waits for what was just freed.
    clear(1, 1000, 300);
    REQUIRE(write(2, 0, 256, 3).has_value());
    CHECK(store->metrics().space_drains.sum() > 0);
    CHECK(read(2, 0, 256).value() == times(256, 3));
    CHECK(read(1, 0, 64).value() == times(64, 2));
    clear(1, 0, ~std::uint64_t{0});
    clear(2, 0, ~std::uint64_t{0});
    settle();
    const SpaceReport after = store->space(pool->policy());
    CHECK(after.free_bytes == before.free_bytes);
    CHECK(after.pending_bytes == 0);
    CHECK(store->metrics().checksum_errors.sum() == 0);
  }

  TEST_CASE_FIXTURE(TwoCopies, "what the report says of a fresh pool can be seen on its disks") {
    const SpaceReport report = store->space(pool->policy());
    CHECK(report.usable_bytes == 14 * kSlotBytes);  // 64 MiB less 8 MiB of superblocks and journal
    CHECK(report.used_by_disk.size() == 2);
    CHECK(report.used_by_disk[0].second == 0);
    REQUIRE(write(1, 0, 1, 1).has_value());
    const SpaceReport after = store->space(pool->policy());
    CHECK(after.free_bytes == report.free_bytes - kBlockBytes);
    CHECK(after.used_by_disk[0].second == kSlotBytes);
    CHECK(after.used_by_disk[1].second == kSlotBytes);
  }

  TEST_CASE_FIXTURE(TwoCopies, "promised space outlives a full pool, and a recovery") {
    REQUIRE(executor.run(reserve_task(this, 1, 0, 1000)).has_value());
    const std::uint64_t room =
        (store->space(pool->policy()).free_bytes - store->space(pool->policy()).reserve_bytes) /
        kBlockBytes;
    CHECK(executor.run(reserve_task(this, 2, 0, room + 1)).error().code == Code::kNoSpace);
    for (std::uint64_t written = 0; written < room; ++written) {
      const std::uint64_t step = std::min<std::uint64_t>(256, room - written);
      REQUIRE(write(3, written, step, 1).has_value());
      written += step - 1;
    }
    CHECK(write(3, room, 1, 1).error().code == Code::kNoSpace);
    REQUIRE(sync().has_value());
    power_cut();
    boot();
    CHECK(store->space(pool->policy()).promised_bytes == 1000 * kBlockBytes);
    CHECK(write(3, room, 1, 1).error().code == Code::kNoSpace);
    for (std::uint64_t block = 0; block < 1000; block += 100)
      REQUIRE(write(1, block, 100, 9).has_value());
    CHECK(store->space(pool->policy()).promised_bytes == 0);
    CHECK(read(1, 0, 1000).value() == times(1000, 9));
  }

  TEST_CASE_FIXTURE(TwoCopies, "blocks that were written and discarded are free at once") {
    const std::uint64_t before = store->space(pool->policy()).free_bytes;
    const Buffer data = stamped(1, 0, 100, 1);
    WriteHint hint;
    hint.inode = InodeId{1};
    hint.policy = pool->policy();
    auto written = executor.run(store->write(hint, data.span()));
    REQUIRE(written.has_value());
    CHECK(store->space(pool->policy()).free_bytes == before - 100 * kBlockBytes);
    store->discard(*written);
    CHECK(store->space(pool->policy()).free_bytes == before);
    CHECK(store->space(pool->policy()).pending_bytes == 0);
  }

  TEST_CASE_FIXTURE(TwoCopies, "a removed chunk's slots are used again, and recovery agrees") {
    for (int round = 0; round < 6; ++round) {
      for (std::uint64_t i = 0; i < 32; ++i) REQUIRE(write(1, i * 256, 256, 1).has_value());
      clear(1, 0, ~std::uint64_t{0});
      settle();
    }
    CHECK(store->metrics().chunks_removed.sum() > 10);
    REQUIRE(write(2, 0, 256, 77).has_value());
    REQUIRE(sync().has_value());
    const std::uint64_t free_before = store->space(pool->policy()).free_bytes;
    power_cut();
    boot();
    CHECK(read(2, 0, 256).value() == times(256, 77));
    CHECK(read(1, 0, 256).value() == times(256, 0));
    settle();
    CHECK(store->space(pool->policy()).free_bytes == free_before);
  }

  TEST_CASE_FIXTURE(TwoCopies, "run slots are lent and given back") {
    const std::vector<DiskId> on = store->run_disks(2);
    REQUIRE(on.size() == 2);
    CHECK(store->run_disks(5).size() == 2);
    const std::optional<SlotId> slot = store->take_run_slot(on[0]);
    REQUIRE(slot.has_value());
    CHECK(store->take_run_slot(on[0]) != slot);
    store->drop_run_slots(on[0], std::span{&*slot, 1});
    CHECK(store->take_run_slot(on[0]) == slot);
    const std::vector<journal::RunCopy> run{{.disk = on[0], .slots = {*slot}}};
    store->adopt_run(run);
    store->retire_run(run);
    CHECK(store->take_run_slot(on[0]) != slot);
    REQUIRE(write(1, 0, 1, 1).has_value());
    settle();
    CHECK(store->take_run_slot(on[0]) == slot);
  }

  TEST_CASE("readers beside writers see whole blocks of one instant, and never a reused one") {
    const std::uint64_t base = seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + seeds(5); ++seed) {
      CAPTURE(seed);
      // Small and nearly full, so that blocks come round quickly; slow, so that reads last.
      SimStoreOptions options;
      options.disk_bytes = {44 * kMiB, 44 * kMiB};
      options.latency = {.min = std::chrono::microseconds{10},
                         .max = std::chrono::milliseconds{20}};
      SimStore sim(seed, options);
      constexpr std::uint64_t kBlocks = 480;
      struct State {
        SimStore* sim;
        std::uint64_t newest = 0;
        std::uint64_t reads = 0;
        int writers = 3;
      };
      State state{&sim};
      const auto writer = [](State* at, std::uint64_t rounds) -> Task<int> {
        for (std::uint64_t i = 0; i < rounds; ++i) {
          const std::uint64_t version = ++at->newest;
          // One request over three windows; all its blocks carry its number.
          const auto result = co_await SimStore::write_task(at->sim, 1, 200, 257, version);
          CHECK(result.has_value());
          if (version % 3 == 0) {
            const auto other =
                co_await SimStore::write_task(at->sim, 2, version * 7 % 2000, 20, version);
            CHECK(other.has_value());
          }
          if (version % 4 == 0) {
            const auto synced = co_await at->sim->log->sync(at->sim->log->appended());
            CHECK(synced.has_value());
          }
          co_await at->sim->store->reclaim();
        }
        --at->writers;
        co_return 0;
      };
      const auto reader = [](State* at) -> Task<int> {
        while (at->writers > 0) {
          auto data = co_await SimStore::read_task(at->sim, 1, 190, kBlocks - 190);
          REQUIRE(data.has_value());
          const Versions seen = SimStore::versions(*data, 1, 190);
          for (std::size_t i = 0; i < seen.size(); ++i) {
            CHECK(seen[i] == (i >= 10 && i < 267 ? seen[10] : 0));
          }
          ++at->reads;
          // A read of holes does not suspend, and time stands still while somebody can run.
          co_await at->sim->executor.sleep(std::chrono::microseconds{50});
        }
        co_return 0;
      };
      std::vector<Task<int>> tasks;
      for (int i = 0; i < 3; ++i) tasks.push_back(writer(&state, 25));
      for (int i = 0; i < 4; ++i) tasks.push_back(reader(&state));
      sim.executor.run(when_all(std::move(tasks)));
      CHECK(state.reads > 0);
      CHECK(sim.store->metrics().checksum_stale.sum() == 0);
      CHECK(sim.store->metrics().checksum_errors.sum() == 0);
      CHECK(sim.store->metrics().blocks_reused.sum() > 0);
    }
  }

  // Everything at once: many files, overwrites, clears, rot in one copy, one failing disk, power
  // cuts.
  TEST_CASE("random work on three disks with faults agrees with the model, over power cuts") {
    const std::uint64_t base = seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + seeds(15); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      SimStoreOptions options;
      options.disk_bytes = {48 * kMiB, 44 * kMiB, 56 * kMiB};
      SimStore sim(seed, options);
      std::map<std::uint64_t, std::map<std::uint64_t, std::uint64_t>> model;
      std::uint64_t version = 0;
      bool disk_lost = false;
      for (int step = 0; step < 250; ++step) {
        const std::uint64_t inode = 1 + random() % 4;
        const std::uint64_t first = random() % 1500;
        const std::uint64_t count = random() % 3 == 0 ? 1 + random() % 257 : 1 + random() % 12;
        auto& file = model[inode];
        switch (random() % 12) {
          case 0:
          case 1:
            sim.clear(inode, first, count * 3);
            for (std::uint64_t i = 0; i < count * 3; ++i) file.erase(first + i);
            break;
          case 2:
            REQUIRE(sim.sync().has_value());
            sim.executor.run(sim.store->reclaim());
            break;
          case 3: {
            // Rot, on one copy only, where both are there.
            if (disk_lost || file.empty()) break;
            auto at = file.lower_bound(first);
            if (at == file.end()) at = file.begin();
            const auto where = sim.locate(inode, at->first);
            if (where.size() != 2) break;
            const std::size_t bad = random() % 2;
            sim.damage(where[bad]);
            CHECK(sim.read_avoiding(where[1 - bad].disk, inode, at->first, 1).value() ==
                  Versions{at->second});
            break;
          }
          case 4:
            if (random() % 10 == 0) {
              REQUIRE(sim.sync().has_value());
              if (disk_lost) break;  // what the lost disk had is elsewhere; keep the cut simple
              sim.power_cut();
              sim.boot();
            }
            break;
          case 5:
            if (!disk_lost && random() % 12 == 0) {
              disk_lost = true;
              sim.disks[random() % 3]->fail();
            }
            break;
          case 6:
          case 7: {
            const Versions seen = sim.read(inode, first, count).value();
            for (std::uint64_t i = 0; i < count; ++i) {
              const auto at = file.find(first + i);
              CHECK(seen[i] == (at == file.end() ? 0 : at->second));
            }
            break;
          }
          default: {
            const auto written = sim.write(inode, first, count, ++version);
            if (!written.has_value()) {
              REQUIRE(written.error().code == Code::kNoSpace);
              break;
            }
            for (std::uint64_t i = 0; i < count; ++i) file[first + i] = version;
          }
        }
      }
      for (const auto& [inode, file] : model) {
        const Versions seen = sim.read(inode, 0, 2500).value();
        for (std::uint64_t i = 0; i < seen.size(); ++i) {
          const auto at = file.find(i);
          CHECK(seen[i] == (at == file.end() ? 0 : at->second));
        }
      }
      CHECK(sim.store->metrics().checksum_stale.sum() == 0);
      CHECK(sim.store->metrics().unrecoverable_blocks.sum() == 0);
    }
  }
}
