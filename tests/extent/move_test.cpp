// Chunks get other places while they are read and written: nothing is lost, whatever happens meanwhile.
#include <doctest/doctest.h>

#include <random>

#include "tests/extent/sim_store.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;
using namespace dynamicfs::test;

namespace {

Versions all_of(std::size_t count, std::uint64_t version) { return Versions(count, version); }

struct Movable : SimStore {
  explicit Movable(journal::Policy policy, std::size_t count, std::uint64_t seed = 1,
                   std::uint64_t disk_bytes = 96 * kMiB)
      : SimStore(seed_from_environment(seed),
                 {.disk_bytes = std::vector<std::uint64_t>(count, disk_bytes),
                  .policy = policy,
                  .latency = {}}) {}

  static DiskId id(std::size_t disk) { return DiskId{static_cast<std::uint16_t>(disk)}; }
  // Until nothing is left there; what is in the way now is not later.
  static Task<Result<void>> empty_task(SimStore* self, DiskId disk) {
    for (int round = 0; round < 100; ++round) {
      const std::vector<ChunkId> here = self->store->chunks_on(disk);
      if (here.empty()) co_return Result<void>{};
      for (const ChunkId chunk : here) {
        const Result<bool> moved = co_await self->store->move_chunk(chunk, disk);
        if (!moved.has_value() && moved.error().code != Code::kBusy) co_return moved.error();
      }
      co_await self->store->reclaim();
      co_await self->executor.sleep(std::chrono::milliseconds{1});
    }
    co_return Code::kBusy;
  }
  Result<void> empty(std::size_t disk) { return executor.run(empty_task(this, id(disk))); }
  Result<void> rebuild() { return executor.run(rebuild_task(this)); }
  static Task<Result<void>> rebuild_task(SimStore* self) {
    while (self->store->misplaced_bytes() > 0) {
      for (const ChunkId chunk : self->store->misplaced_chunks()) {
        CO_TRY_ASSIGN(const bool moved, co_await self->store->move_chunk(chunk));
        if (!moved) co_await self->store->reclaim();
      }
    }
    co_return Result<void>{};
  }
  Result<void> leave(std::size_t disk) {
    return executor.run(pool->set_leaving(id(disk), journal::Pool::Leaving::kYes));
  }
  // A new one; returns which.
  std::size_t add(std::uint64_t bytes = 96 * kMiB) {
    media.push_back(std::make_shared<SimulatedMedia>(bytes));
    auto disk = std::make_unique<SimulatedDisk>(executor, "/disk/" + std::to_string(disks.size()),
                                                media.back(), executor.random());
    disks.push_back(disk.get());
    const Result<DiskId> added = executor.run(pool->add_disk(std::move(disk)));
    REQUIRE(added.has_value());
    REQUIRE(added->raw == disks.size() - 1);
    return added->raw;
  }
  void reboot() {
    shut();
    boot();
  }
};

constexpr journal::Policy copies(std::uint8_t count) { return {.copies_or_data = count}; }
constexpr journal::Policy parity(std::uint8_t data, std::uint8_t parity) {
  return {.kind = journal::Policy::Kind::kErasure, .copies_or_data = data, .parity = parity};
}

}  // namespace

TEST_SUITE("moved chunks") {
  TEST_CASE("what lies on a disk goes to others, and comes back after a restart") {
    for (const journal::Policy policy : {copies(1), copies(2), copies(3), parity(2, 1)}) {
      CAPTURE(policy.text());
      Movable store(policy, 5);
      for (std::uint64_t i = 0; i < 20; ++i) REQUIRE(store.write(1, i * 256, 256, 3).has_value());
      for (std::uint64_t i = 0; i < 60; ++i) REQUIRE(store.write(2, i * 3, 2, 4).has_value());
      const std::uint64_t live = store.store->live_blocks();
      REQUIRE(store.empty(1).has_value());
      CHECK(store.store->metrics().chunks_moved.sum() > 0);
      CHECK(store.store->chunks_on(store.id(1)).empty());
      CHECK(store.read(1, 0, 20 * 256).value() == all_of(20 * 256, 3));
      REQUIRE(store.sync().has_value());
      store.settle();
      // What it had there is free.
      for (const auto& [disk, bytes] : store.store->space(policy).used_by_disk)
        CHECK((disk.raw != 1 || bytes == 0));
      SUBCASE("in order") { store.shut(); }
      SUBCASE("by a power cut") { store.power_cut(); }
      store.boot();
      CHECK(store.store->chunks_on(store.id(1)).empty());
      CHECK(store.store->live_blocks() == live);
      CHECK(store.read(1, 0, 20 * 256).value() == all_of(20 * 256, 3));
      for (std::uint64_t i = 0; i < 60; ++i) CHECK(store.read(2, i * 3, 2).value() == all_of(2, 4));
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
      if (policy.tolerance() == 0) continue;
      store.disks[0]->fail();
      CHECK(store.read(1, 0, 20 * 256).value() == all_of(20 * 256, 3));
    }
  }

  TEST_CASE("what too few disks are left of is not waited for: the rest is rebuilt") {
    for (const journal::Policy policy : {copies(2), parity(2, 1), parity(3, 1)}) {
      CAPTURE(policy.text());
      Movable store(policy, 6, 1, 192 * kMiB);
      for (std::uint64_t i = 0; i < 160; ++i) REQUIRE(store.write(1, i * 256, 256, 3).has_value());
      for (std::uint64_t i = 0; i < 60; ++i) REQUIRE(store.write(2, i * 3, 2, 4).has_value());
      REQUIRE(store.sync().has_value());
      // Then the pool goes on without two disks, though its data does not.
      REQUIRE(store.executor.run(store.pool->note_whole_files()).has_value());
      for (const std::size_t lost : {2, 3}) {
        store.disks[lost]->fail();
        REQUIRE(
            store.executor.run(store.pool->report_failure(store.id(lost), error(Code::kDiskGone)))
                .has_value());
      }
      const std::uint64_t gone = store.store->unavailable_bytes();
      CHECK(gone > 0);
      const RoomWithout without = store.store->room_without(store.id(2));
      CHECK(without.own_bytes > 0);
      CHECK(without.unreadable_bytes > 0);
      CHECK(without.room_bytes == without.needed_bytes);
      REQUIRE(store.leave(2).has_value());
      REQUIRE(store.leave(3).has_value());
      const std::uint64_t before = store.store->misplaced_bytes();
      CHECK(before > 0);
      REQUIRE(store.rebuild().has_value());
      CHECK(store.store->misplaced_chunks().empty());
      CHECK(store.store->unavailable_bytes() == gone);
      for (const std::size_t lost : {2, 3}) {
        const std::vector<ChunkId> there = store.store->chunks_on(store.id(lost));
        CHECK_FALSE(there.empty());
        CHECK(store.store->has_chunks(store.id(lost)));
        for (const ChunkId chunk : there) {
          const auto moved = store.executor.run(store.store->move_chunk(chunk));
          CHECK(moved.error().code == Code::kDiskGone);
        }
      }
    }
  }

  TEST_CASE("a lost disk is rebuilt on the others, and then another may go") {
    for (const journal::Policy policy : {copies(2), copies(3), parity(2, 1), parity(3, 2)}) {
      CAPTURE(policy.text());
      Movable store(policy, 7);
      for (std::uint64_t i = 0; i < 30; ++i) REQUIRE(store.write(1, i * 256, 256, 3).has_value());
      for (std::uint64_t i = 0; i < 60; ++i) REQUIRE(store.write(2, i * 3, 2, 4).has_value());
      REQUIRE(store.sync().has_value());
      for (const std::size_t lost : {2, 4}) {
        store.disks[lost]->fail();
        CHECK(store.read(1, 0, 30 * 256).value() == all_of(30 * 256, 3));
        REQUIRE(
            store.executor.run(store.pool->report_failure(store.id(lost), error(Code::kDiskGone)))
                .has_value());
        CHECK(store.store->misplaced_bytes() == 0);
        CHECK(store.store->space(policy).degraded_chunks > 0);
        REQUIRE(store.leave(lost).has_value());
        CHECK(store.store->misplaced_bytes() > 0);
        REQUIRE(store.rebuild().has_value());
        CHECK(store.store->space(policy).degraded_chunks == 0);
        CHECK(store.store->chunks_on(store.id(lost)).empty());
        REQUIRE(store.sync().has_value());
        REQUIRE(store.executor.run(store.pool->remove_disk(store.id(lost))).has_value());
        CHECK_FALSE(store.pool->degraded());
      }
      store.disks[0]->fail();
      CHECK(store.read(1, 0, 30 * 256).value() == all_of(30 * 256, 3));
      for (std::uint64_t i = 0; i < 60; ++i) CHECK(store.read(2, i * 3, 2).value() == all_of(2, 4));
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
    }
  }

  TEST_CASE(
      "what had to be written with too few copies gets the rest when there is a disk for them") {
    Movable store(copies(2), 2);
    REQUIRE(store.write(1, 0, 256, 1).has_value());
    store.disks[1]->fail();
    REQUIRE(store.executor.run(store.pool->report_failure(store.id(1), error(Code::kDiskGone)))
                .has_value());
    REQUIRE(store.write(1, 256, 256, 2).has_value());
    REQUIRE(store.sync().has_value());
    CHECK_FALSE(store.leave(1).has_value());
    const std::size_t fresh = store.add(64 * kMiB);
    REQUIRE(store.leave(1).has_value());
    REQUIRE(store.rebuild().has_value());
    REQUIRE(store.sync().has_value());
    CHECK(store.store->space(copies(2)).degraded_chunks == 0);
    CHECK(store.locate(1, 300).size() == 2);
    REQUIRE(store.executor.run(store.pool->remove_disk(store.id(1))).has_value());
    REQUIRE(store.write(1, 512, 10, 5).has_value());
    REQUIRE(store.sync().has_value());
    REQUIRE(store.pool->members().size() == 2);
    store.disks[0]->fail();
    CHECK(store.read(1, 0, 256).value() == all_of(256, 1));
    CHECK(store.read(1, 256, 256).value() == all_of(256, 2));
    CHECK(store.pool->disk(store.id(fresh)) != nullptr);
  }

  TEST_CASE("a right copy is not lost to a wrong one, nor to one that cannot be read") {
    Movable store(copies(2), 3);
    REQUIRE(store.write(1, 0, 200, 1).has_value());
    const auto at = store.locate(1, 50);
    SUBCASE("the other one is wrong") {
      store.damage(at[1]);
      REQUIRE(store.empty(at[0].disk).has_value());
    }
    SUBCASE("that one cannot be read, and the other can") {
      store.disks[at[0].disk]->faults().fail = [&](const scheduler::IoRequest& request) {
        const bool covers = request.offset_bytes <= at[0].offset_bytes &&
                            at[0].offset_bytes < request.offset_bytes + request.size_bytes;
        return covers && request.op == scheduler::IoOp::kRead ? Code::kDiskRead : Code::kOk;
      };
      REQUIRE(store.empty(at[0].disk).has_value());
      CHECK(store.read_avoiding(at[1].disk, 1, 0, 200).value() == all_of(200, 1));
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
    }
    SUBCASE("neither can be read") {
      for (const auto& copy : at) {
        store.disks[copy.disk]->faults().fail = [copy](const scheduler::IoRequest& request) {
          const bool covers = request.offset_bytes <= copy.offset_bytes &&
                              copy.offset_bytes < request.offset_bytes + request.size_bytes;
          return covers && request.op == scheduler::IoOp::kRead ? Code::kDiskRead : Code::kOk;
        };
      }
      CHECK(store.empty(at[0].disk).error().code == Code::kDiskRead);
      for (SimulatedDisk* const disk : store.disks) disk->faults().fail = nullptr;
    }
    CHECK(store.read(1, 0, 200).value() == all_of(200, 1));
    CHECK(store.store->metrics().unrecoverable_blocks.sum() == 0);
  }

  TEST_CASE("without room everything stays as it is") {
    Movable store(copies(2), 3, 1, 48 * kMiB);
    std::uint64_t windows = 0;
    while (store.write(1, windows * 256, 256, 1).has_value()) ++windows;
    const auto before = store.store->chunks();
    const auto free = store.store->space(copies(2)).free_bytes;
    CHECK(store.empty(0).error().code == Code::kNoSpace);
    CHECK(store.store->space(copies(2)).free_bytes == free);
    CHECK(store.store->chunks().size() == before.size());
    CHECK(store.read(1, 0, windows * 256).value() == all_of(windows * 256, 1));
    store.clear(1, 0, windows * 256);
    store.settle();
    CHECK(store.empty(0).has_value());
  }

  TEST_CASE(
      "who reads and writes meanwhile sees what was written last, and blocks are not reused "
      "early") {
    for (std::uint64_t i = 0; i < seeds(12); ++i) {
      const std::uint64_t seed = seed_from_environment(100 + i);
      CAPTURE(seed);
      const journal::Policy policy =
          i % 3 == 0 ? parity(2, 1) : copies(static_cast<std::uint8_t>(1 + i % 3));
      Movable store(policy, 5, seed);
      std::mt19937_64 random(seed);
      constexpr std::uint64_t kBlocks = 10 * 256;
      Versions expected(kBlocks, 1);
      for (std::uint64_t at = 0; at < kBlocks; at += 256)
        REQUIRE(store.write(1, at, 256, 1).has_value());
      std::vector<std::unique_ptr<std::optional<Result<void>>>> emptied;
      std::vector<std::unique_ptr<std::optional<Result<Buffer>>>> seen;
      for (std::uint64_t version = 2; version < 300; ++version) {
        if (version % 60 == 10) {
          emptied.push_back(std::make_unique<std::optional<Result<void>>>());
          spawn(keep(Movable::empty_task(&store, store.id(random() % 5)), emptied.back().get()));
        }
        const std::uint64_t count = 1 + random() % 200;
        const std::uint64_t first = random() % (kBlocks - count);
        // Some readers are still at it when their blocks are freed.
        seen.push_back(std::make_unique<std::optional<Result<Buffer>>>());
        spawn(keep(SimStore::read_task(&store, 1, first, count), seen.back().get()));
        REQUIRE(store.write(1, first, count, version).has_value());
        std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(first), count, version);
        if (random() % 4 == 0) store.executor.run(store.store->reclaim());
      }
      REQUIRE(store.sync().has_value());
      store.executor.run_until_idle();
      for (const auto& result : emptied) REQUIRE(result->has_value());
      for (const auto& result : seen) {
        REQUIRE(result->has_value());
        CHECK((*result)->has_value());
      }
      CHECK(store.store->metrics().chunks_moved.sum() > 0);
      CHECK(store.read(1, 0, kBlocks).value() == expected);
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
      CHECK(store.store->metrics().checksum_stale.sum() == 0);
      store.reboot();
      CHECK(store.read(1, 0, kBlocks).value() == expected);
    }
  }

  TEST_CASE("a power cut in the middle of a move leaves the old places or the new") {
    for (std::uint64_t i = 0; i < seeds(24); ++i) {
      const std::uint64_t seed = seed_from_environment(500 + i);
      CAPTURE(seed);
      const journal::Policy policy =
          i % 2 == 0 ? parity(2, 1) : copies(static_cast<std::uint8_t>(1 + i % 3));
      Movable store(policy, 5, seed);
      for (std::uint64_t at = 0; at < 12 * 256; at += 256)
        REQUIRE(store.write(1, at, 256, 1).has_value());
      REQUIRE(store.sync().has_value());
      std::mt19937_64 random(seed);
      std::optional<Result<void>> emptied;
      spawn(keep(Movable::empty_task(&store, store.id(random() % 5)), &emptied));
      store.executor.run_for(std::chrono::microseconds{random() % 60'000});
      store.power_cut();
      store.boot();
      CHECK(store.read(1, 0, 12 * 256).value() == all_of(12 * 256, 1));
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
      // All of it can be moved on.
      REQUIRE(store.empty(random() % 5).has_value());
      REQUIRE(store.sync().has_value());
      store.reboot();
      if (policy.tolerance() > 0) store.disks[random() % 5]->fail();
      CHECK(store.read(1, 0, 12 * 256).value() == all_of(12 * 256, 1));
    }
  }

  TEST_CASE("what a disk has missed is not taken from it") {
    for (std::uint64_t i = 0; i < seeds(8); ++i) {
      const std::uint64_t seed = seed_from_environment(900 + i);
      CAPTURE(seed);
      Movable store(copies(2), 4, seed);
      for (std::uint64_t at = 0; at < 8 * 256; at += 256)
        REQUIRE(store.write(1, at, 256, 1).has_value());
      REQUIRE(store.sync().has_value());
      // Written to both copies, and one of the disks forgets.
      for (std::uint64_t at = 0; at < 8 * 256; at += 200)
        REQUIRE(store.write(1, at, 100, 2).has_value());
      store.disks[0]->power_cut();
      REQUIRE(store.executor.run(store.pool->report_failure(store.id(0), error(Code::kDiskGone)))
                  .has_value());
      REQUIRE(store.sync().has_value());
      const Versions expected = store.read(1, 0, 8 * 256).value();
      store.reboot();
      REQUIRE(store.pool->degraded());
      REQUIRE(store.empty(0).has_value());
      REQUIRE(store.sync().has_value());
      CHECK(store.store->metrics().made_anew_bytes.sum() > 0);
      // Each of the others may go now.
      store.disks[1 + seed % 3]->fail();
      CHECK(store.read(1, 0, 8 * 256).value() == expected);
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
    }
  }

  TEST_CASE("nothing is put on a disk that is about to go, even for want of another") {
    Movable store(copies(2), 3);
    REQUIRE(store.write(1, 0, 256, 1).has_value());
    REQUIRE(store.leave(2).has_value());
    REQUIRE(store.rebuild().has_value());
    REQUIRE(store.sync().has_value());
    store.settle();
    REQUIRE(store.store->close_if_unused(store.id(2)));
    store.disks[1]->fail();
    REQUIRE(store.executor.run(store.pool->report_failure(store.id(1), error(Code::kDiskGone)))
                .has_value());
    REQUIRE(store.write(1, 256, 256, 2).has_value());
    CHECK(store.store->chunks_on(store.id(2)).empty());
    CHECK(store.store->close_if_unused(store.id(2)));
    CHECK(store.read(1, 256, 256).value() == all_of(256, 2));
    // Unless it stays after all.
    REQUIRE(store.executor.run(store.pool->set_leaving(store.id(2), journal::Pool::Leaving::kNo))
                .has_value());
    for (std::uint64_t i = 2; i < 12; ++i) REQUIRE(store.write(1, i * 256, 256, 3).has_value());
    CHECK_FALSE(store.store->chunks_on(store.id(2)).empty());
  }

  TEST_CASE(
      "a run on a disk that has left is no checkpoint, and a disk that refuses is not added") {
    Movable store(copies(2), 3);
    REQUIRE(store.write(1, 0, 256, 1).has_value());
    REQUIRE(store.leave(2).has_value());
    REQUIRE(store.rebuild().has_value());
    REQUIRE(store.sync().has_value());
    REQUIRE(store.executor.run(store.pool->remove_disk(store.id(2))).has_value());
    journal::Manifest manifest = store.pool->superblock().manifest;
    manifest.runs.push_back({.id = manifest.next_run++,
                             .bytes = 3 * journal::kRunBlockBytes,
                             .entry_blocks = 1,
                             .index_blocks = 1,
                             .copies = {{store.id(0), {SlotId{9}}}, {store.id(2), {SlotId{1}}}}});
    CHECK(store.executor.run(store.pool->commit_manifest(manifest)).error().code ==
          Code::kNotInPool);
    const auto refusing = std::make_shared<SimulatedMedia>(96 * kMiB);
    auto disk = std::make_unique<SimulatedDisk>(store.executor, "/disk/new", refusing, 7);
    disk->faults().fail = [](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
    };
    CHECK_FALSE(store.executor.run(store.pool->add_disk(std::move(disk))).has_value());
    CHECK(store.pool->superblock().disks.size() == 2);
    REQUIRE(store.write(1, 256, 256, 2).has_value());
    REQUIRE(store.sync().has_value());
    // The media of the one that has left has no superblock any more.
    store.media.pop_back();
    store.reboot();
    CHECK(store.read(1, 0, 256).value() == all_of(256, 1));
  }
}
