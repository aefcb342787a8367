// Sorted runs: written on several disks, read back whole, repaired from each other.

#include "journal/run_format.hpp"
#include "tests/journal/run_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

Entries some_entries(std::size_t count, std::size_t value_bytes = 40) {
  Entries entries;
  for (std::size_t i = 0; i < count; ++i) {
    entries[fmt::format("key{:08}", i * 7)] =
        std::string(value_bytes + i % 30, static_cast<char>('a' + i % 26));
  }
  return entries;
}

}  // namespace

TEST_SUITE("sorted runs") {
  TEST_CASE("a hundred thousand entries come back in order from two disks") {
    RunPool pool{2};
    const Entries entries = some_entries(100'000);
    const auto run = pool.write_run(entries);
    REQUIRE(run.has_value());
    CHECK(run->id == 42);
    CHECK(run->bytes > 6 * kMiB);
    REQUIRE(run->copies.size() == 2);
    CHECK(run->copies[0].slots.size() == ceil_div(run->bytes, kSlotBytes));
    CHECK(pool.slots.taken(0) == run->copies[0].slots.size());
    const auto report = pool.read_run(*run);
    REQUIRE(report.has_value());
    CHECK(pool.found == entries);
    CHECK(report->entries == entries.size());
    CHECK(report->blocks == run->entry_blocks);
    CHECK(report->blocks_bad == 0);
  }

  TEST_CASE("a finished run survives a power cut") {
    RunPool pool{2};
    const Entries entries = some_entries(30'000);
    const auto run = pool.write_run(entries);
    REQUIRE(run.has_value());
    pool.reboot_after_power_cut();
    REQUIRE(pool.read_run(*run).has_value());
    CHECK(pool.found == entries);
  }

  TEST_CASE("an empty run, one of one entry, the largest and the smallest entries") {
    RunPool pool{1};
    for (const Entries& entries :
         {Entries{}, Entries{{"", ""}}, Entries{{"a", ""}, {"aa", ""}, {"b", ""}},
          Entries{{"k", std::string(journal::kRunEntryBytesMax - 1, 'v')},
                  {std::string(journal::kRunEntryBytesMax, 'z'), ""}},
          some_entries(70, 29 * kKiB)}) {
      const auto run = pool.write_run(entries, {DiskId{0}});
      REQUIRE(run.has_value());
      REQUIRE(pool.read_run(*run).has_value());
      CHECK(pool.found == entries);
      pool.slots.drop_run_slots(DiskId{0}, run->copies[0].slots);
    }
  }

  TEST_CASE("a bad block is read from the twin, and the bad copy rewritten") {
    RunPool pool{2};
    const Entries entries = some_entries(60'000);
    const auto run = pool.write_run(entries);
    REQUIRE(run.has_value());
    // The copies take turns piece by piece: one block of each, in the piece that is read from it.
    for (const std::size_t copy : {0u, 1u}) {
      const std::uint64_t at = copy * journal::kRunPieceBytes + 5 * journal::kRunBlockBytes;
      pool.media[copy]->flip(pool.place(*run, copy, at) + 1000, 2);
    }
    auto report = pool.read_run(*run);
    REQUIRE(report.has_value());
    CHECK(pool.found == entries);
    CHECK(report->blocks_bad == 2);
    CHECK(report->blocks_repaired == 2);
    report = pool.read_run(*run);
    REQUIRE(report.has_value());
    CHECK(report->blocks_bad == 0);
  }

  TEST_CASE("a block of another run, or of another place, is not taken for the right one") {
    RunPool pool{2};
    const Entries entries = some_entries(40'000);
    const auto old = pool.write_run(entries, RunPool::two(), 41);
    const auto run = pool.write_run(entries, RunPool::two(), 42);
    REQUIRE(run.has_value());
    Buffer block{journal::kRunBlockBytes};
    pool.media[0]->read(pool.place(*old, 0, 0), block.span());
    pool.media[0]->write(pool.place(*run, 0, 0), block.span());
    pool.media[0]->read(pool.place(*run, 0, journal::kRunBlockBytes), block.span());
    pool.media[0]->write(pool.place(*run, 0, 2 * journal::kRunBlockBytes), block.span());
    const auto report = pool.read_run(*run);
    REQUIRE(report.has_value());
    CHECK(pool.found == entries);
    CHECK(report->blocks_repaired == 2);
  }

  TEST_CASE("a block that is bad in every copy is named") {
    RunPool pool{2};
    const auto run = pool.write_run(some_entries(40'000));
    REQUIRE(run.has_value());
    for (const std::size_t copy : {0u, 1u}) {
      pool.media[copy]->flip(pool.place(*run, copy, 7 * journal::kRunBlockBytes), 0);
    }
    CHECK(pool.read_run(*run).error() == error(Code::kCorrupt, 7));
  }

  TEST_CASE("reading goes on without a disk that is away or cannot be read") {
    RunPool pool{3};
    const Entries entries = some_entries(40'000);
    const auto run = pool.write_run(entries);
    REQUIRE(run.has_value());
    SUBCASE("away") {
      REQUIRE(pool.executor.run(pool.pool->report_failure(DiskId{0}, error(Code::kDiskRead)))
                  .has_value());
      const auto report = pool.read_run(*run);
      REQUIRE(report.has_value());
      CHECK(report->blocks_bad == 0);
    }
    SUBCASE("unreadable") {
      pool.disks[1]->faults().fail = [](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kRead ? Code::kDiskRead : Code::kOk;
      };
      const auto report = pool.read_run(*run);
      REQUIRE(report.has_value());
      CHECK(report->blocks_bad > 0);
      CHECK(report->blocks_repaired == report->blocks_bad);
    }
    CHECK(pool.found == entries);
  }

  TEST_CASE("a disk that fails while a run is written loses its copy, and the pool the disk") {
    for (const auto op : {scheduler::IoOp::kWrite, scheduler::IoOp::kFlush}) {
      RunPool pool{3};
      const Entries entries = some_entries(40'000);
      pool.disks[1]->faults().fail = [op](const scheduler::IoRequest& request) {
        if (request.op != op || request.io_class == scheduler::IoClass::kCritical) return Code::kOk;
        return op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kDiskFlush;
      };
      const auto run = pool.write_run(entries);
      REQUIRE(run.has_value());
      REQUIRE(run->copies.size() == 1);
      CHECK(run->copies[0].disk == DiskId{0});
      CHECK(pool.slots.taken(1) == 0);
      CHECK(pool.pool->disk(DiskId{1}) == nullptr);
      REQUIRE(pool.read_run(*run).has_value());
      CHECK(pool.found == entries);
    }
  }

  TEST_CASE("a run that cannot be finished gives its slots back") {
    RunPool pool{2};
    SUBCASE("a full disk") {
      pool.slots.slots_max = 1;
      CHECK(pool.write_run(some_entries(100'000)).error().code == Code::kNoSpace);
    }
    SUBCASE("no disk left") {
      for (SimulatedDisk* const disk : pool.disks) {
        disk->faults().fail = [](const scheduler::IoRequest& request) {
          return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
        };
      }
      CHECK(pool.write_run(some_entries(100'000)).error().code == Code::kReadOnly);
    }
    SUBCASE("given up while a write is in flight") {
      pool.disks[0]->faults().hung = true;
      {
        journal::RunWriter writer{*pool.pool, pool.slots, 42, RunPool::two(), hash_of_group};
        // A little more than a piece: the first piece is on its way when add() returns.
        for (const auto& [key, value] : some_entries(20'000)) {
          REQUIRE(pool.executor.run(writer.add(as_bytes(key), as_bytes(value))).has_value());
        }
      }
      // The write may still arrive, so the slot is not free yet.
      CHECK(pool.slots.taken(0) == 1);
      CHECK(pool.slots.taken(1) == 1);
      pool.disks[0]->release();
      pool.executor.run_until_idle();
    }
    CHECK(pool.slots.taken(0) == 0);
    CHECK(pool.slots.taken(1) == 0);
  }

  TEST_CASE("an entry that is refused ends the reading with that error") {
    RunPool pool{2};
    const auto run = pool.write_run(some_entries(100'000));
    REQUIRE(run.has_value());
    unsigned calls = 0;
    const auto report = pool.executor.run(
        journal::read_run(*pool.pool, *run,
                          [&calls](journal::RunEntryKind, std::span<const std::byte>,
                                   std::span<const std::byte>) -> Result<void> {
                            if (++calls == 100) return error(Code::kFormatInvalid, 100);
                            return {};
                          }));
    CHECK(report.error() == error(Code::kFormatInvalid, 100));
    CHECK(calls == 100);
    pool.executor.run_until_idle();
  }

  TEST_CASE("keys are ordered by bytes, and a prefix sorts first") {
    CHECK(journal::key_less(as_bytes("a"), as_bytes("b")));
    CHECK(journal::key_less(as_bytes("a"), as_bytes("aa")));
    CHECK(journal::key_less(as_bytes(""), as_bytes("a")));
    CHECK(journal::key_less(as_bytes("a"), as_bytes("\xff")));
    CHECK_FALSE(journal::key_less(as_bytes("a"), as_bytes("a")));
  }

  TEST_CASE("no bytes in a block crash the reader") {
    const std::uint64_t first = seed_from_environment(1);
    const Uuid uuid = Uuid::from_random(1, 2);
    journal::RunRef run;
    run.id = 3;
    run.bytes = 7 * journal::kRunBlockBytes;
    run.entry_blocks = 5;
    run.index_blocks = 1;
    for (std::uint64_t seed = first; seed < first + seeds(500); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random{seed};
      Bytes block(journal::kRunBlockBytes);
      for (std::byte& byte : block) byte = static_cast<std::byte>(random());
      journal::RunBlockHeader header;
      header.pool = uuid;
      header.run_id = 3;
      header.index = 4;
      header.entries = static_cast<std::uint32_t>(random() % 50);
      header.payload_bytes = static_cast<std::uint32_t>(
          random() % (journal::kRunBlockBytes - journal::kRunBlockHeaderBytes));
      journal::seal_run_block(block, header);
      const auto opened = journal::open_run_block(block, uuid, 3, 4);
      REQUIRE(opened.has_value());
      journal::RunEntries entries{
          std::span{block}.subspan(journal::kRunBlockHeaderBytes, header.payload_bytes),
          header.entries};
      while (entries.next()) {
      }
      CHECK(journal::open_run_block(block, uuid, run, 4).has_value() == entries.ok());
      CHECK_FALSE(journal::open_run_block(block, uuid, 3, 5).has_value());
      CHECK_FALSE(journal::open_run_block(block, uuid, 2, 4).has_value());
      CHECK_FALSE(journal::open_run_block(block, Uuid{}, 3, 4).has_value());
    }
  }
}

}  // namespace dynamicfs::test
