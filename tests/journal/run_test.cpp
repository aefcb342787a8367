// Sorted runs: written on several disks, read back whole, repaired from each other.

#include <map>

#include "journal/run.hpp"
#include "journal/run_format.hpp"
#include "tests/journal/sim_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// Gives slots from the front of each disk and checks that none is given back twice.
class CountingSlots final : public journal::SlotSource {
 public:
  std::optional<SlotId> take_run_slot(DiskId disk) override {
    auto& taken = taken_[disk];
    if (taken.size() >= slots_max) return std::nullopt;
    // Not in order, as in a disk that has been used.
    const SlotId slot{static_cast<std::uint32_t>(taken.size() ^ 1)};
    taken.push_back(slot);
    return slot;
  }
  void drop_run_slots(DiskId disk, std::span<const SlotId> slots) override {
    for (const SlotId slot : slots) CHECK(std::erase(taken_[disk], slot) == 1);
  }
  std::size_t taken(unsigned disk) {
    return taken_[DiskId{static_cast<std::uint16_t>(disk)}].size();
  }

  std::size_t slots_max = 8;

 private:
  std::map<DiskId, std::vector<SlotId>> taken_;
};

using Entries = std::map<std::string, std::string>;

struct RunPool : SimPool {
  explicit RunPool(std::size_t disk_count, std::uint64_t seed = 9)
      : SimPool(seed, options(disk_count)) {
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
  }
  static Options options(std::size_t disk_count) {
    Options out = replicas(disk_count);
    out.disk_bytes.assign(disk_count, 64 * kMiB);
    return out;
  }
  static std::vector<DiskId> two() { return {DiskId{0}, DiskId{1}}; }

  static Task<Result<journal::Manifest>> write(journal::RunWriter& writer, const Entries& entries) {
    for (const auto& [key, value] : entries) {
      CO_TRY(co_await writer.add(as_bytes(key), as_bytes(value)));
    }
    auto finished = co_await writer.finish();
    co_return finished;
  }
  Result<journal::Manifest> write_run(const Entries& entries, std::vector<DiskId> on = two(),
                                      std::uint64_t run_id = 42) {
    journal::RunWriter writer{*pool, slots, run_id, std::move(on)};
    return executor.run(write(writer, entries));
  }
  Result<journal::RunReadReport> read_run(const journal::Manifest& manifest) {
    found.clear();
    return executor.run(journal::read_run(
        *pool, manifest,
        [this](std::span<const std::byte> key, std::span<const std::byte> value) -> Result<void> {
          if (!found.empty()) CHECK(found.rbegin()->first < as_text(key));
          found.emplace_hint(found.end(), as_text(key), as_text(value));
          return {};
        }));
  }
  std::uint64_t place(const journal::Manifest& manifest, std::size_t copy, std::uint64_t at) {
    return journal::run_offset(*pool, manifest.copies[copy], at);
  }

  CountingSlots slots;
  Entries found;
};

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
    const auto manifest = pool.write_run(entries);
    REQUIRE(manifest.has_value());
    CHECK(manifest->run_id == 42);
    CHECK(manifest->run_bytes > 6 * kMiB);
    REQUIRE(manifest->copies.size() == 2);
    CHECK(manifest->copies[0].slots.size() == ceil_div(manifest->run_bytes, kSlotBytes));
    CHECK(pool.slots.taken(0) == manifest->copies[0].slots.size());
    const auto report = pool.read_run(*manifest);
    REQUIRE(report.has_value());
    CHECK(pool.found == entries);
    CHECK(report->entries == entries.size());
    CHECK(report->blocks * journal::kRunBlockBytes == manifest->run_bytes);
    CHECK(report->blocks_bad == 0);
  }

  TEST_CASE("a finished run survives a power cut") {
    RunPool pool{2};
    const Entries entries = some_entries(30'000);
    const auto manifest = pool.write_run(entries);
    REQUIRE(manifest.has_value());
    pool.reboot_after_power_cut();
    REQUIRE(pool.read_run(*manifest).has_value());
    CHECK(pool.found == entries);
  }

  TEST_CASE("an empty run, one of one entry, the largest and the smallest entries") {
    RunPool pool{1};
    for (const Entries& entries :
         {Entries{}, Entries{{"", ""}}, Entries{{"a", ""}, {"aa", ""}, {"b", ""}},
          Entries{{"k", std::string(journal::kRunEntryBytesMax - 1, 'v')},
                  {std::string(journal::kRunEntryBytesMax, 'z'), ""}},
          some_entries(70, 29 * kKiB)}) {
      const auto manifest = pool.write_run(entries, {DiskId{0}});
      REQUIRE(manifest.has_value());
      REQUIRE(pool.read_run(*manifest).has_value());
      CHECK(pool.found == entries);
      pool.slots.drop_run_slots(DiskId{0}, manifest->copies[0].slots);
    }
  }

  TEST_CASE("no run at all reads as nothing") {
    RunPool pool{1};
    const auto report = pool.read_run(journal::Manifest{});
    REQUIRE(report.has_value());
    CHECK(report->entries == 0);
  }

  TEST_CASE("a bad block is read from the twin, and the bad copy rewritten") {
    RunPool pool{2};
    const Entries entries = some_entries(60'000);
    const auto manifest = pool.write_run(entries);
    REQUIRE(manifest.has_value());
    // The copies take turns piece by piece: one block of each, in the piece that is read from it.
    for (const std::size_t copy : {0u, 1u}) {
      const std::uint64_t at = copy * journal::kRunPieceBytes + 5 * journal::kRunBlockBytes;
      pool.media[copy]->flip(pool.place(*manifest, copy, at) + 1000, 2);
    }
    auto report = pool.read_run(*manifest);
    REQUIRE(report.has_value());
    CHECK(pool.found == entries);
    CHECK(report->blocks_bad == 2);
    CHECK(report->blocks_repaired == 2);
    report = pool.read_run(*manifest);
    REQUIRE(report.has_value());
    CHECK(report->blocks_bad == 0);
  }

  TEST_CASE("a block of another run, or of another place, is not taken for the right one") {
    RunPool pool{2};
    const Entries entries = some_entries(40'000);
    const auto old = pool.write_run(entries, RunPool::two(), 41);
    const auto manifest = pool.write_run(entries, RunPool::two(), 42);
    REQUIRE(manifest.has_value());
    Buffer block{journal::kRunBlockBytes};
    pool.media[0]->read(pool.place(*old, 0, 0), block.span());
    pool.media[0]->write(pool.place(*manifest, 0, 0), block.span());
    pool.media[0]->read(pool.place(*manifest, 0, journal::kRunBlockBytes), block.span());
    pool.media[0]->write(pool.place(*manifest, 0, 2 * journal::kRunBlockBytes), block.span());
    const auto report = pool.read_run(*manifest);
    REQUIRE(report.has_value());
    CHECK(pool.found == entries);
    CHECK(report->blocks_repaired == 2);
  }

  TEST_CASE("a block that is bad in every copy is named") {
    RunPool pool{2};
    const auto manifest = pool.write_run(some_entries(40'000));
    REQUIRE(manifest.has_value());
    for (const std::size_t copy : {0u, 1u}) {
      pool.media[copy]->flip(pool.place(*manifest, copy, 7 * journal::kRunBlockBytes), 0);
    }
    CHECK(pool.read_run(*manifest).error() == error(Code::kCorrupt, 7));
  }

  TEST_CASE("reading goes on without a disk that is away or cannot be read") {
    RunPool pool{3};
    const Entries entries = some_entries(40'000);
    const auto manifest = pool.write_run(entries);
    REQUIRE(manifest.has_value());
    SUBCASE("away") {
      REQUIRE(pool.executor.run(pool.pool->report_failure(DiskId{0}, error(Code::kDiskRead)))
                  .has_value());
      const auto report = pool.read_run(*manifest);
      REQUIRE(report.has_value());
      CHECK(report->blocks_bad == 0);
    }
    SUBCASE("unreadable") {
      pool.disks[1]->faults().fail = [](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kRead ? Code::kDiskRead : Code::kOk;
      };
      const auto report = pool.read_run(*manifest);
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
      const auto manifest = pool.write_run(entries);
      REQUIRE(manifest.has_value());
      REQUIRE(manifest->copies.size() == 1);
      CHECK(manifest->copies[0].disk == DiskId{0});
      CHECK(pool.slots.taken(1) == 0);
      CHECK(pool.pool->disk(DiskId{1}) == nullptr);
      REQUIRE(pool.read_run(*manifest).has_value());
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
        journal::RunWriter writer{*pool.pool, pool.slots, 42, RunPool::two()};
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
    const auto manifest = pool.write_run(some_entries(100'000));
    REQUIRE(manifest.has_value());
    unsigned calls = 0;
    const auto report = pool.executor.run(journal::read_run(
        *pool.pool, *manifest,
        [&calls](std::span<const std::byte>, std::span<const std::byte>) -> Result<void> {
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
      journal::for_each_run_entry(
          block, *opened,
          [](std::span<const std::byte>, std::span<const std::byte>) { return Result<void>{}; })
          .ignore("either is right");
      CHECK_FALSE(journal::open_run_block(block, uuid, 3, 5).has_value());
      CHECK_FALSE(journal::open_run_block(block, uuid, 2, 4).has_value());
      CHECK_FALSE(journal::open_run_block(block, Uuid{}, 3, 4).has_value());
    }
  }
}

}  // namespace dynamicfs::test
