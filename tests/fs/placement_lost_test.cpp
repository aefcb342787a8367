// Files that are kept whole on one disk, when disks are lost, full for a while, or too small.
#include <doctest/doctest.h>

#include <set>

#include "tests/fs/shelves.hpp"
#include "tests/fs/whole.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;
using namespace std::chrono;

namespace {

// What a full file system under the disk answers, from now on.
void fill_host(SimPool& pool, DiskId disk) {
  const std::uint64_t slots_from = pool.fs().pool().slot_offset(disk, SlotId{0});
  pool.disks[disk.raw]->faults().fail = [slots_from](const scheduler::IoRequest& request) {
    const bool grows = request.op == scheduler::IoOp::kWrite && request.offset_bytes >= slots_from;
    return grows ? Code::kNoSpace : Code::kOk;
  };
}

void lose(SimPool& pool, DiskId disk) {
  REQUIRE(pool.run(pool.fs().pool().report_failure(disk, error(Code::kDiskGone))).has_value());
}

bool is_spare(SimPool& pool, DiskId disk) {
  return pool.fs().pool().superblock().find(disk)->spare;
}

// Whether anything moves, or somebody intends to.
bool rebuild_rests(SimPool& pool) {
  const fs::RebuildReport report = pool.fs().rebuild_report();
  return !report.due && !report.running && report.left_bytes == 0 && report.stuck_chunks == 0;
}

std::uint64_t bytes_on(Shelves& shelves, DiskId disk) {
  std::uint64_t bytes = 0;
  for (const auto& [name, home] : shelves.check_whole_files()) {
    if (home == disk) bytes += align_up(shelves.files[name].size(), kBlockBytes);
  }
  return bytes;
}

// What each has answered, if it has.
using Writes = std::vector<std::shared_ptr<std::optional<Result<void>>>>;

Task<void> write_one(fs::Filesystem* filesystem, InodeId file, std::uint64_t at,
                     std::shared_ptr<std::optional<Result<void>>> ended) {
  *ended = co_await SimPool::write_task(filesystem, file, at, std::string(kMiB, 'n'));
}

// So many of a MiB each, at once.
Writes begin_writes(SimPool& pool, InodeId file, std::uint64_t first_mib, std::uint64_t count) {
  Writes writes;
  for (std::uint64_t i = 0; i < count; ++i) {
    writes.push_back(std::make_shared<std::optional<Result<void>>>());
    spawn(write_one(&pool.fs(), file, (first_mib + i) * kMiB, writes.back()));
  }
  return writes;
}

std::uint64_t sweeps(SimPool& pool) { return pool.fs().metrics().compaction_sweeps.sum(); }

}  // namespace

TEST_SUITE("whole files") {
  TEST_CASE("a lost disk of whole files is waited for: nothing is rebuilt and no spare is taken") {
    Shelves shelves(seed_from_environment(31), disks_alike(3, 96 * kMiB));
    REQUIRE(shelves.pool.add_disk(96 * kMiB, true).has_value());
    shelves.add_some(40, 300'000);
    shelves.sync();
    const auto homes = shelves.check_whole_files();
    const std::uint64_t lost_bytes = bytes_on(shelves, DiskId{1});
    REQUIRE(lost_bytes > 0);
    lose(shelves.pool, DiskId{1});
    shelves.pool.executor.run_for(minutes{45});
    CHECK(is_spare(shelves.pool, DiskId{3}));
    CHECK_FALSE(shelves.pool.fs().pool().is_leaving(DiskId{1}));
    CHECK(rebuild_rests(shelves.pool));
    CHECK(shelves.pool.fs().store().metrics().chunks_moved.sum() == 0);
    CHECK(shelves.pool.fs().store().unavailable_bytes() == lost_bytes);
    for (const auto& [name, home] : homes)
      CHECK(shelves.pool.read(name).has_value() == (home != DiskId{1}));
    const std::string fresh = shelves.add(200'000);
    CHECK(shelves.disks_of(fresh) != std::vector{DiskId{1}});
    CHECK(shelves.disks_of(fresh) != std::vector{DiskId{3}});
    REQUIRE(shelves.pool.return_disk(1).has_value());
    shelves.pool.executor.run_for(minutes{5});
    shelves.check();
    CHECK(shelves.pool.fs().store().unavailable_bytes() == 0);
  }

  TEST_CASE(
      "of a lost disk the files of other policies are rebuilt, and it leaves without the rest") {
    const std::uint64_t first = seed_from_environment(32);
    for (std::uint64_t seed = first; seed < first + seeds(3); ++seed) {
      CAPTURE(seed);
      const char* const other = seed % 2 == 0 ? "replica:2" : "ec:2+1";
      Shelves shelves(seed, disks_alike(4, 96 * kMiB), other);
      SimPool& pool = shelves.pool;
      REQUIRE(pool.add_disk(96 * kMiB, true).has_value());
      for (int i = 0; i < 12; ++i) shelves.add(1'500'000);
      shelves.sync();
      std::map<std::string, std::string> films;
      std::vector<std::string> lost;
      REQUIRE(pool.mkdir("films").has_value());
      REQUIRE(shelves.set("films", kWhole).has_value());
      for (int i = 0; i < 20; ++i) {
        const std::string name = "films/" + std::to_string(i);
        films[name] = pattern(seed + i, 400'000);
        REQUIRE(pool.create(name).has_value());
        REQUIRE(pool.write(name, 0, films[name]).has_value());
        if (shelves.disks_of(name) == std::vector{DiskId{2}}) lost.push_back(name);
      }
      REQUIRE(lost.size() > 1);
      shelves.sync();
      lose(pool, DiskId{2});
      pool.executor.run_for(minutes{30});
      CHECK_FALSE(is_spare(pool, DiskId{4}));
      CHECK(pool.fs().pool().is_leaving(DiskId{2}));
      CHECK(rebuild_rests(pool));
      CHECK(pool.fs().store().unavailable_bytes() == lost.size() * align_up(400'000, kBlockBytes));
      shelves.check();
      const std::uint64_t moved = pool.fs().store().metrics().chunks_moved.sum();
      CHECK(moved > 0);
      for (const ChunkId chunk : pool.fs().store().chunks_on(DiskId{2}))
        CHECK(pool.fs().store().layout(chunk)->whole_files);
      // It is as safe as before.
      lose(pool, DiskId{0});
      shelves.check();
      for (const auto& [name, text] : films) {
        const bool here = std::ranges::find(lost, name) == lost.end();
        const auto read = pool.read(name);
        if (read.has_value()) CHECK((read.value() == text));
        if (!here) CHECK_FALSE(read.has_value());
      }
      CHECK(pool.fs().store().metrics().chunks_moved.sum() == moved);
      // What is in its way can be removed.
      for (const std::string& name : lost) REQUIRE(pool.unlink(name).has_value());
      shelves.sync();
      pool.executor.run_for(minutes{3});
      CHECK(pool.fs().pool().superblock().find(DiskId{2}) == nullptr);
      shelves.check();
    }
  }

  TEST_CASE("a spare takes the place of a disk of whole files when metadata would be on one disk") {
    Shelves shelves(seed_from_environment(33), disks_alike(2, 96 * kMiB));
    REQUIRE(shelves.pool.add_disk(96 * kMiB, true).has_value());
    shelves.add_some(30, 300'000);
    checkpoint(shelves.pool);
    const std::uint64_t lost_bytes = bytes_on(shelves, DiskId{0});
    lose(shelves.pool, DiskId{0});
    CHECK(is_spare(shelves.pool, DiskId{2}));
    shelves.pool.executor.run_for(minutes{15});
    CHECK_FALSE(is_spare(shelves.pool, DiskId{2}));
    CHECK_FALSE(shelves.pool.fs().pool().is_leaving(DiskId{0}));
    CHECK(shelves.pool.fs().metadata_copies() == 2);
    CHECK(shelves.pool.fs().pool().members().size() == 2);
    CHECK(rebuild_rests(shelves.pool));
    CHECK(shelves.pool.fs().store().unavailable_bytes() == lost_bytes);
  }

  TEST_CASE("beside whole files a disk that leaves takes nothing new of others") {
    Shelves shelves(seed_from_environment(34), disks_alike(3, 96 * kMiB), "single");
    REQUIRE(shelves.pool.mkdir("films").has_value());
    REQUIRE(shelves.set("films", kWhole).has_value());
    shelves.add_some(20, 500'000);
    shelves.pool.fs().pause_rebuild(true);
    std::uint64_t missing = 0;
    REQUIRE(shelves.pool.run(shelves.pool.fs().remove_disk(DiskId{1}, &missing)).has_value());
    const auto there = [&] { return shelves.pool.disks[1]->metrics().written_bytes.sum(); };
    const std::size_t chunks = shelves.pool.fs().store().chunks_on(DiskId{1}).size();
    const std::uint64_t before = there();
    for (int i = 0; i < 40; ++i) shelves.add(kMiB);
    CHECK(shelves.pool.fs().store().chunks_on(DiskId{1}).size() == chunks);
    // Its log alone.
    CHECK(there() - before < 8 * kMiB);
    shelves.pool.fs().pause_rebuild(false);
    shelves.settle();
    shelves.check();
    check_whole(shelves.pool);
  }

  TEST_CASE("beside whole files new data of others goes past a disk that is suspect") {
    SimPool pool(seed_from_environment(35),
                 Shelves::options_of(disks_alike(3, 64 * kMiB), "single"));
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.mkdir("films").has_value());
    REQUIRE(
        pool.run(pool.fs().setxattr(pool.resolve("films").value(), std::string{fs::kPolicyXattr},
                                    std::string{kWhole}, fs::XattrMode::kEither, false))
            .has_value());
    REQUIRE(pool.create("new").has_value());
    const InodeId file = pool.resolve("new").value();
    pool.disks[2]->faults().hung = true;
    // Something must find out: a write that lands there waits.
    const Writes waiting = begin_writes(pool, file, 0, 16);
    pool.executor.run_for(seconds{5});
    REQUIRE(pool.disks[2]->latency().suspect());
    const std::uint64_t there = pool.disks[2]->metrics().writes.sum();
    const Writes others = begin_writes(pool, file, 20, 16);
    pool.executor.run_for(seconds{5});
    for (const auto& ended : others) CHECK(ended->has_value());
    CHECK(pool.disks[2]->metrics().writes.sum() == there);
    pool.disks[2]->release();
    pool.executor.run_for(seconds{15});
    for (const Writes& all : {waiting, others}) {
      for (const auto& ended : all) {
        REQUIRE(ended->has_value());
        CHECK((*ended)->has_value());
      }
    }
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE("a disk that is full for a while keeps its files") {
    const std::uint64_t first = seed_from_environment(36);
    for (std::uint64_t seed = first; seed < first + seeds(3); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, disks_alike(3, 128 * kMiB));
      SimPool& pool = shelves.pool;
      const std::string large = shelves.add(12 * kMiB);
      shelves.add_some(20, 400'000);
      const DiskId disk = shelves.disks_of(large).front();
      shelves.sync();
      const auto homes = shelves.check_whole_files();
      fill_host(pool, disk);
      // A small part goes elsewhere; that is looked at while the disk takes nothing.
      shelves.write(large, 12 * kMiB, pattern(seed, 300'000));
      CHECK(shelves.disks_of(large).size() == 2);
      CHECK(pool.fs().reencode_report().pending);
      for (int i = 0; i < 20; ++i) {
        pool.executor.run_for(seconds{10});
        for (const auto& [name, home] : homes) {
          if (name != large) CHECK(shelves.disks_of(name) == std::vector{home});
        }
      }
      pool.disks[disk.raw]->faults().fail = nullptr;
      shelves.settle();
      for (const auto& [name, home] : shelves.check_whole_files()) {
        if (name != large) CHECK(homes.at(name) == home);
      }
      shelves.check();
      check_whole(pool);
    }
  }

  TEST_CASE("what has gone elsewhere comes back to the disk that has most of the file") {
    const std::uint64_t first = seed_from_environment(37);
    for (std::uint64_t seed = first; seed < first + seeds(4); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, {128 * kMiB, 128 * kMiB, 256 * kMiB, 128 * kMiB});
      SimPool& pool = shelves.pool;
      std::string large;
      do {
        large = shelves.add(16 * kMiB);
      } while (shelves.disks_of(large) == std::vector{DiskId{3}});
      const DiskId disk = shelves.disks_of(large).front();
      // Nothing is put together while another disk is away.
      REQUIRE(pool.run(pool.fs().take_offline(DiskId{3})).has_value());
      fill_host(pool, disk);
      shelves.write(large, 16 * kMiB, pattern(seed, 300'000));
      REQUIRE(shelves.disks_of(large).size() == 2);
      pool.disks[disk.raw]->faults().fail = nullptr;
      pool.executor.run_for(minutes{3});
      REQUIRE(shelves.disks_of(large).size() == 2);
      if (seed % 2 == 0) {
        shelves.sync();
        cut_and_mount(pool);
      } else {
        REQUIRE(pool.return_disk(3).has_value());
      }
      shelves.settle();
      CHECK(shelves.disks_of(large) == std::vector{disk});
      CHECK(pool.fs().metrics().reencoded_bytes.sum() <= kMiB);
      shelves.check();
    }
  }

  TEST_CASE("a file that no disk has room for is looked at more and more rarely") {
    for (const bool full : {false, true}) {
      CAPTURE(full);
      Shelves shelves(seed_from_environment(38), disks_alike(3, 64 * kMiB));
      SimPool& pool = shelves.pool;
      const std::string name = shelves.add(0);
      for (std::size_t at = 0; at < 80 * kMiB; at += kMiB)
        shelves.write(name, at, pattern(at, kMiB));
      // A disk that takes nothing is no reason to look again, either.
      if (full) fill_host(pool, shelves.disks_of(name).back());
      pool.executor.run_for(minutes{20});
      const fs::ReencodeReport report = pool.fs().reencode_report();
      CHECK(report.pending);
      // Beside what can stay.
      CHECK(report.stuck_bytes > 0);
      CHECK(report.stuck_bytes < 45 * kMiB);
      CHECK(report.cut_bytes == report.stuck_bytes);
      const std::uint64_t before = sweeps(pool);
      pool.executor.run_for(hours{10});
      CHECK(sweeps(pool) - before <= 6);
      CHECK(sweeps(pool) - before >= 2);
      const std::uint64_t copied = pool.fs().metrics().reencoded_bytes.sum();
      pool.executor.run_for(hours{5});
      CHECK(pool.fs().metrics().reencoded_bytes.sum() == copied);
      // A disk that has room is found at once.
      REQUIRE(pool.add_disk(192 * kMiB).has_value());
      pool.executor.run_for(minutes{2});
      CHECK_FALSE(pool.fs().reencode_report().pending);
      CHECK(shelves.disks_of(name) == std::vector{DiskId{3}});
      shelves.check();
      check_whole(pool);
    }
  }

  TEST_CASE("a file that is emptied on a full disk begins anew on one that has room") {
    const std::uint64_t first = seed_from_environment(39);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, {96 * kMiB, 96 * kMiB, 400 * kMiB});
      SimPool& pool = shelves.pool;
      std::string name;
      do {
        name = shelves.add(kMiB);
      } while (shelves.disks_of(name) == std::vector{DiskId{2}});
      const DiskId full = shelves.disks_of(name).front();
      std::string other;
      do {
        other = shelves.add(kMiB);
      } while (shelves.disks_of(other) != std::vector{full});
      for (std::size_t at = kMiB; pool.fs().store().room_at_home(full) > 1000; at += kMiB)
        shelves.write(other, at, pattern(at, kMiB));
      REQUIRE(pool.fs().metrics().spilled_bytes.sum() == 0);
      REQUIRE(pool.truncate(name, 0).has_value());
      // Many at once, as the kernel writes them.
      const InodeId id = pool.resolve(name).value();
      std::vector<Task<Result<void>>> writes;
      std::string text;
      for (std::uint64_t i = 0; i < 24; ++i) {
        const std::string piece = pattern(seed + i, kMiB);
        text += piece;
        writes.push_back(SimPool::write_task(&pool.fs(), id, i * kMiB, piece));
      }
      for (const auto& written : pool.run(when_all(std::move(writes))))
        REQUIRE(written.has_value());
      shelves.files[name] = text;
      CHECK(shelves.disks_of(name).size() == 1);
      CHECK(shelves.disks_of(name) != std::vector{full});
      CHECK(pool.fs().metrics().spilled_bytes.sum() == 0);
      CHECK_FALSE(pool.fs().reencode_report().pending);
      shelves.check();
      check_whole(pool);
    }
  }

  TEST_CASE("what is written to a file needs no part of its map but that") {
    Shelves shelves(seed_from_environment(40), disks_alike(3, 160 * kMiB));
    SimPool& pool = shelves.pool;
    const std::string name = shelves.add(0);
    for (std::size_t at = 0; at < 90 * kMiB; at += kMiB) shelves.write(name, at, pattern(at, kMiB));
    checkpoint(pool);
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    // The end of the map is in memory, and nothing more can be read of it.
    REQUIRE(pool.read(name, 89 * kMiB, 4096).has_value());
    const journal::Manifest manifest = pool.fs().pool().superblock().manifest;
    for (std::size_t i = 0; i < pool.disks.size(); ++i) {
      const DiskId disk{static_cast<std::uint16_t>(i)};
      std::vector<std::uint64_t> slots;
      for (const journal::RunRef& run : manifest.runs) {
        for (const journal::RunCopy& copy : run.copies) {
          if (copy.disk != disk) continue;
          for (const SlotId slot : copy.slots)
            slots.push_back(pool.fs().pool().slot_offset(disk, slot));
        }
      }
      pool.disks[i]->faults().fail = [slots](const scheduler::IoRequest& request) {
        const bool in_run = std::ranges::any_of(slots, [&](std::uint64_t slot) {
          return request.offset_bytes >= slot && request.offset_bytes < slot + kSlotBytes;
        });
        return in_run && request.op == scheduler::IoOp::kRead ? Code::kDiskRead : Code::kOk;
      };
    }
    REQUIRE_FALSE(pool.read(name, 45 * kMiB, 4096).has_value());
    REQUIRE(pool.write(name, 89 * kMiB, pattern(7, 500'000)).has_value());
    CHECK(pool.read(name, 89 * kMiB, 500'000).value() == pattern(7, 500'000));
    CHECK(pool.fs().reencode_report().pending);
    for (scheduler::SimulatedDisk* const disk : pool.disks) disk->faults().fail = nullptr;
    shelves.files[name].replace(89 * kMiB, 500'000, pattern(7, 500'000));
    shelves.settle();
    shelves.check();
    shelves.check_whole_files();
  }
}
