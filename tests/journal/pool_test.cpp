// Making and opening pools: what is refused, in which words, and that a refusal changes nothing.

#include "tests/journal/sim_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

constexpr std::uint64_t kSmall = journal::kVolumeBytesMin;

bool says(const SimPool& pool, std::string_view words) {
  INFO(pool.problem.text);
  return pool.problem.text.find(words) != std::string::npos;
}

SimPool::Options sized(std::vector<std::uint64_t> disk_bytes, unsigned copies) {
  SimPool::Options options;
  options.disk_bytes = std::move(disk_bytes);
  options.policy.copies_or_data = static_cast<std::uint8_t>(copies);
  return options;
}

// Puts `superblock` in place of both copies.
void write_superblock(SimPool& pool, std::size_t disk, const journal::Superblock& superblock) {
  const auto bytes = journal::encode(superblock);
  REQUIRE(bytes.has_value());
  pool.media[disk]->write(0, *bytes);
  pool.media[disk]->write(journal::kSuperblockBytes, *bytes);
}

void spoil_superblocks(SimPool& pool, std::size_t disk) {
  pool.media[disk]->flip(200, 3);
  pool.media[disk]->flip(journal::kSuperblockBytes + 200, 3);
}

}  // namespace

TEST_SUITE("making a pool") {
  TEST_CASE("a new pool has two superblocks per disk, members, slots, and a log of zeros") {
    SimPool pool{1, sized({kSmall, 300 * kMiB, 2 * kGiB, kSmall}, 2)};
    // Whatever was there before.
    Buffer dirt{kBlockBytes};
    std::fill_n(dirt.data(), dirt.size(), std::byte{0xff});
    pool.media[2]->write(journal::kJournalOffset, dirt.span());
    pool.media[2]->write(journal::kJournalOffset + 31 * kMiB - kBlockBytes, dirt.span());
    const Result<Uuid> made = pool.format();
    REQUIRE(made.has_value());
    for (std::size_t i = 0; i < 4; ++i) {
      const journal::Superblock superblock = pool.superblock_on(i);
      CHECK(superblock.pool == *made);
      CHECK(superblock.label == "test");
      CHECK(superblock.this_disk.raw == i);
      CHECK(superblock.policy.text() == "replica:2");
      CHECK(superblock.members == std::vector<DiskId>{DiskId{0}, DiskId{1}, DiskId{2}});
      CHECK(superblock.clean);
      CHECK(superblock.disks[i].path == SimPool::path(i));
      CHECK(superblock.log_bytes == journal::kJournalBytesMin);
      CHECK(superblock.created_unix_s == 1'700'000'000);
    }
    const auto disks = pool.superblock_on(0).disks;
    CHECK(disks[0].slots == 8);
    CHECK(disks[0].first_slot_offset == 8 * kMiB);
    CHECK(disks[2].journal_bytes == 31 * kMiB);
    CHECK(disks[2].slots == 504);
    Buffer block{kBlockBytes};
    for (const std::uint64_t at :
         {journal::kJournalOffset, journal::kJournalOffset + 31 * kMiB - kBlockBytes}) {
      pool.media[2]->read(at, block.span());
      CHECK(std::all_of(block.data(), block.data() + block.size(),
                        [](std::byte b) { return b == std::byte{0}; }));
    }
  }

  TEST_CASE("a disk that is in a pool is refused, and no other disk is touched") {
    SimPool old{1, sized({kSmall}, 1)};
    REQUIRE(old.format().has_value());
    SUBCASE("whole") {}
    SUBCASE("with one superblock gone") { old.media[0]->write(0, Bytes(kBlockBytes)); }
    SUBCASE("with damaged superblocks") { spoil_superblocks(old, 0); }
    SUBCASE("of a newer format") {
      auto superblock = old.superblock_on(0);
      superblock.reader_min = journal::kFormatVersion + 1;
      write_superblock(old, 0, superblock);
    }
    SimPool pool{2, sized({kSmall, kSmall}, 2)};
    pool.media[1] = old.media[0];
    CHECK(pool.format().error() == error(Code::kPoolExists, 1));
    auto untouched = pool.make_disk(0);
    CHECK(pool.executor.run(journal::read_superblock(*untouched)).error().code ==
          Code::kFormatMagic);
  }

  TEST_CASE("too few disks, disks too small and labels too long are refused") {
    CHECK(SimPool{1, sized({kSmall, kSmall}, 3)}.format().error() == error(Code::kTooFewDisks, 3));
    CHECK(SimPool{1, sized({}, 1)}.format().error().code == Code::kTooFewDisks);
    CHECK(SimPool{1, sized({kSmall, kSmall - kBlockBytes}, 1)}.format().error() ==
          error(Code::kInvalid, 1));
    CHECK(SimPool{1, sized(std::vector<std::uint64_t>(65, kSmall), 1)}.format().error().code ==
          Code::kInvalid);
    SimPool pool{1, sized({kSmall}, 1)};
    auto disk = pool.make_disk(0);
    std::vector<scheduler::Disk*> disks{disk.get()};
    journal::FormatOptions options;
    options.label = std::string(5000, 'l');
    CHECK(pool.executor.run(Pool::format(pool.executor, disks, options)).error().code ==
          Code::kFormatInvalid);
    CHECK(disk->device_operations() == 0);
  }

  TEST_CASE("a disk that fails while a pool is made is an error, and no pool is there") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    auto a = pool.make_disk(0);
    auto b = pool.make_disk(1);
    b->faults().fail = [](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
    };
    std::vector<scheduler::Disk*> disks{a.get(), b.get()};
    CHECK(pool.executor.run(Pool::format(pool.executor, disks, {})).error().code ==
          Code::kDiskWrite);
    CHECK(pool.executor.run(journal::read_superblock(*a)).error().code == Code::kFormatMagic);
  }
}

TEST_SUITE("opening a pool") {
  TEST_CASE("what is no dynamicfs disk is named") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    pool.media[1] = std::make_shared<SimulatedMedia>(kSmall);
    CHECK(pool.boot().error().code == Code::kFormatMagic);
    CHECK(says(pool, "/disks/b is not a dynamicfs disk"));
  }

  TEST_CASE("a newer or older format is refused with its number") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    auto superblock = pool.superblock_on(1);
    superblock.reader_min = 7;
    write_superblock(pool, 1, superblock);
    CHECK(pool.boot().error() == error(Code::kFormatVersion, 7));
    CHECK(says(pool,
               "/disks/b was written by a newer dynamicfs (format 7; this program reads 3 to 6)"));
    superblock.reader_min = 2;
    write_superblock(pool, 1, superblock);
    CHECK(pool.boot().error() == error(Code::kFormatVersion, 2));
    CHECK(says(pool,
               "/disks/b was written by an older dynamicfs (format 2; this program reads 3 to 6)"));
  }

  TEST_CASE("a pool of format 3 is one of this format as soon as it is mounted for writing") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    for (const std::size_t disk : {0, 1}) {
      auto superblock = pool.superblock_on(disk);
      superblock.reader_min = superblock.writer_min = journal::kFormatVersionOldest;
      write_superblock(pool, disk, superblock);
    }
    REQUIRE(pool.boot().has_value());
    CHECK(pool.superblock_on(0).reader_min == journal::kFormatVersion);
    CHECK(pool.superblock_on(1).writer_min == journal::kFormatVersion);
  }

  TEST_CASE("a newer copy of a newer format outweighs an older one that could be read") {
    SimPool pool{1, sized({kSmall}, 1)};
    REQUIRE(pool.format().has_value());
    auto superblock = pool.superblock_on(0);
    superblock.reader_min = journal::kFormatVersion + 1;
    superblock.sequence = 2;
    pool.media[0]->write(journal::kSuperblockBytes, *journal::encode(superblock));
    CHECK(pool.boot().error().code == Code::kFormatVersion);
  }

  TEST_CASE("a format that only newer programs may write opens read-only") {
    SimPool pool{1, sized({kSmall}, 1)};
    REQUIRE(pool.format().has_value());
    auto superblock = pool.superblock_on(0);
    superblock.writer_min = journal::kFormatVersion + 1;
    write_superblock(pool, 0, superblock);
    REQUIRE(pool.boot().has_value());
    CHECK(pool.pool->read_only());
    CHECK(pool.superblock_on(0) == superblock);
  }

  TEST_CASE("disks of different pools are refused, both named") {
    SimPool other{2, sized({kSmall}, 1)};
    REQUIRE(other.format().has_value());
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    pool.media[1] = other.media[0];
    CHECK(pool.boot().error().code == Code::kNotInPool);
    CHECK(says(pool, "/disks/a"));
    CHECK(says(pool, "/disks/b"));
    CHECK(says(pool, "different pools"));
  }

  TEST_CASE("two copies of one disk are refused") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    pool.media[1] = std::make_shared<SimulatedMedia>(pool.media[0]->clone());
    CHECK(pool.boot().error().code == Code::kNotInPool);
    CHECK(says(pool, "two copies of the same disk"));
  }

  TEST_CASE("more disks missing than the policy tolerates is refused, naming them") {
    SimPool pool{1, sized({kSmall, kSmall, kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    pool.here = {true, false, true, false};
    CHECK(pool.boot().error() == error(Code::kDiskMissing, 2));
    CHECK(says(pool, "2 of 4 disks are missing, and replica:2 can do without 1"));
    CHECK(says(pool, "last seen at /disks/b"));
    CHECK(says(pool, "last seen at /disks/d"));
    REQUIRE(pool.problem.missing.size() == 2);
    CHECK(pool.problem.missing[1].id.raw == 3);
    pool.here = {true, true, true, false};
    CHECK(pool.boot().has_value());
  }

  TEST_CASE("one damaged superblock of two does not matter") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    REQUIRE(pool.boot().has_value());
    REQUIRE(pool.append_and_sync("x").has_value());
    pool.power_cut();
    for (const std::uint64_t copy : {0u, 1u}) {
      auto kept = std::make_shared<SimulatedMedia>(pool.media[0]->clone());
      pool.media[0]->flip(copy * journal::kSuperblockBytes + 200, 3);
      REQUIRE(pool.boot().has_value());
      CHECK(texts(pool.replayed) == std::vector<std::string>{"x"});
      pool.power_cut();
      pool.media[0] = kept;
    }
  }

  TEST_CASE("a disk with two damaged superblocks counts as missing") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    spoil_superblocks(pool, 0);
    REQUIRE(pool.boot().has_value());
    CHECK(pool.pool->status()[0].health == DiskHealth::kMissing);
    CHECK(pool.pool->status()[1].health == DiskHealth::kHealthy);

    SimPool single{1, sized({kSmall, kSmall}, 1)};
    REQUIRE(single.format().has_value());
    spoil_superblocks(single, 1);
    CHECK(single.boot().error().code == Code::kChecksum);
    CHECK(says(single, "/disks/b cannot be used: both of its superblocks are damaged"));
    spoil_superblocks(single, 0);
    CHECK(single.boot().error().code == Code::kChecksum);
  }

  TEST_CASE("a disk that cannot be read counts as missing") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    pool.on_new_disk = [](std::size_t i, SimulatedDisk& disk) {
      if (i == 1) disk.fail();
    };
    REQUIRE(pool.boot().has_value());
    CHECK(pool.pool->status()[1].health == DiskHealth::kMissing);
  }

  TEST_CASE("a disk that has shrunk is not used") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    auto smaller = std::make_shared<SimulatedMedia>(kSmall - kSlotBytes);
    Buffer piece{8 * kMiB};
    pool.media[1]->read(0, piece.span());
    smaller->write(0, piece.span());
    pool.media[1] = smaller;
    REQUIRE(pool.boot().has_value());
    CHECK(pool.pool->status()[1].health == DiskHealth::kMissing);
    CHECK(pool.pool->status()[1].reason.find("smaller") != std::string::npos);
  }

  TEST_CASE("disks are found by what they say, not by their order or path") {
    SimPool pool{1, sized({kSmall, 64 * kMiB, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    std::swap(pool.media[0], pool.media[2]);
    REQUIRE(pool.boot().has_value());
    CHECK(pool.pool->disk(DiskId{0})->path() == "/disks/c");
    // The new place is remembered.
    CHECK(pool.superblock_on(0).find(DiskId{0})->path == "/disks/c");
    pool.pool->set_path(DiskId{0}, "/elsewhere");
    pool.pool->set_path(DiskId{1}, std::string(5000, 'p'));
    REQUIRE(pool.executor.run(pool.pool->mark_clean()).has_value());
    CHECK(pool.superblock_on(0).find(DiskId{0})->path == "/elsewhere");
    CHECK(pool.superblock_on(0).find(DiskId{1})->path.empty());
    CHECK(pool.pool->slot_offset(DiskId{1}, SlotId{2}) == 16 * kMiB);
    CHECK(pool.pool->slot_count(DiskId{1}) == 14);
    CHECK(pool.pool->disk(DiskId{9}) == nullptr);
  }

  TEST_CASE("a mount makes all superblocks agree before anything else is written") {
    SimPool pool{1, sized({kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    REQUIRE(pool.boot().has_value());
    // A checkpoint that reached only one disk before the power failed.
    REQUIRE(pool.append_and_sync("x").has_value());
    pool.power_cut();
    auto newer = pool.superblock_on(0);
    newer.sequence += 1;
    newer.manifest.lsn = Lsn{1};
    write_superblock(pool, 0, newer);
    REQUIRE(pool.boot().has_value());
    CHECK(pool.superblock_on(1).manifest.lsn == Lsn{1});
    CHECK(pool.superblock_on(1).sequence == pool.superblock_on(0).sequence);
    CHECK(pool.superblock_on(1).sequence > newer.sequence);
  }

  TEST_CASE("a checkpoint is on all disks, survives torn superblocks, and may be too large") {
    SimPool pool{1, sized({kSmall, kSmall, kSmall, kSmall}, 2)};
    REQUIRE(pool.format().has_value());
    REQUIRE(pool.boot().has_value());
    journal::Manifest manifest;
    manifest.next_run = 6;
    manifest.runs = {
        {.id = 5,
         .bytes = 6 * kMiB,
         .entry_blocks = 190,
         .index_blocks = 1,
         .copies = {{DiskId{0}, {SlotId{1}, SlotId{7}}}, {DiskId{3}, {SlotId{0}, SlotId{2}}}}}};
    REQUIRE(pool.executor.run(pool.pool->commit_manifest(manifest)).has_value());
    for (std::size_t i = 0; i < 4; ++i) CHECK(pool.superblock_on(i).manifest == manifest);

    journal::Manifest large = manifest;
    large.runs[0].bytes = 9000 * kSlotBytes;
    for (auto& copy : large.runs[0].copies) copy.slots.resize(9000);
    CHECK(pool.executor.run(pool.pool->commit_manifest(large)).error().code ==
          Code::kFormatInvalid);
    CHECK(pool.pool->superblock().manifest == manifest);
    CHECK_FALSE(pool.pool->read_only());
    REQUIRE(pool.append_and_sync("x").has_value());
    pool.reboot_after_power_cut();
    CHECK(pool.pool->superblock().manifest == manifest);
  }

  TEST_CASE("damage to either superblock of the only disk costs nothing, whatever came before") {
    for (const std::uint64_t copy : {0u, 1u}) {
      for (const bool reboots : {false, true}) {
        CAPTURE(copy);
        CAPTURE(reboots);
        SimPool pool{1, sized({kSmall}, 1)};
        REQUIRE(pool.format().has_value());
        REQUIRE(pool.boot().has_value());
        if (reboots) {
          REQUIRE(pool.executor.run(pool.pool->mark_clean()).has_value());
          REQUIRE(pool.boot().has_value());
        }
        // The log wraps behind a checkpoint, so that the place of its old beginning is gone.
        Lsn last;
        for (int round = 0; round < 12; ++round) {
          for (int i = 0; i < 5; ++i)
            last = pool.append(std::string(journal::kRecordBytesMax, 'r'));
          REQUIRE(pool.sync(last).has_value());
          journal::Manifest manifest = pool.pool->superblock().manifest;
          manifest.lsn = last;
          manifest.log_start = pool.log->position_after(last);
          REQUIRE(pool.executor.run(pool.pool->commit_manifest(manifest)).has_value());
          pool.log->trim(manifest.log_start);
        }
        REQUIRE(pool.append_and_sync("kept").has_value());
        last = pool.log->durable();
        pool.power_cut();
        pool.media[0]->flip(copy * journal::kSuperblockBytes + 100, 1);
        REQUIRE(pool.boot().has_value());
        CHECK(texts(pool.replayed) == std::vector<std::string>{"kept"});
        CHECK(pool.append("next").raw > last.raw);
      }
    }
  }

  TEST_CASE("either the old checkpoint or the new one is there, whenever the power fails") {
    for (std::uint64_t index = 0; index < 10; ++index) {
      CAPTURE(index);
      SimPool pool{index, sized({kSmall, kSmall}, 2)};
      REQUIRE(pool.format().has_value());
      REQUIRE(pool.boot().has_value());
      pool.cut_at_operation(index);
      journal::Manifest manifest = pool.pool->superblock().manifest;
      Lsn committed;
      for (std::uint64_t i = 1; i <= 4; ++i) {
        manifest.lsn = Lsn{i};
        if (!pool.executor.run(pool.pool->commit_manifest(manifest)).has_value()) break;
        committed = manifest.lsn;
      }
      pool.on_new_disk = nullptr;
      pool.reboot_after_power_cut();
      const Lsn found = pool.pool->superblock().manifest.lsn;
      CHECK(found.raw >= committed.raw);
      CHECK(found.raw <= committed.raw + 1);
    }
  }
}

}  // namespace dynamicfs::test
