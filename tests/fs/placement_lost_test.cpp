// Files that are kept whole on one disk, when disks are lost.
#include <doctest/doctest.h>

#include <set>

#include "tests/fs/shelves.hpp"
#include "tests/fs/whole.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;
using namespace std::chrono;

namespace {

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
    std::vector<std::shared_ptr<std::optional<Result<void>>>> waiting;
    for (std::uint64_t i = 0; i < 16; ++i) {
      const auto ended = waiting.emplace_back(std::make_shared<std::optional<Result<void>>>());
      struct Write {
        static Task<void> run(fs::Filesystem* filesystem, InodeId file, std::uint64_t at,
                              std::shared_ptr<std::optional<Result<void>>> ended) {
          *ended = co_await SimPool::write_task(filesystem, file, at, std::string(kMiB, 'n'));
        }
      };
      spawn(Write::run(&pool.fs(), file, i * kMiB, ended));
    }
    pool.executor.run_for(seconds{5});
    REQUIRE(pool.disks[2]->latency().suspect());
    const std::uint64_t there = pool.disks[2]->metrics().writes.sum();
    for (std::uint64_t i = 0; i < 16; ++i)
      REQUIRE(pool.write("new", (20 + i) * kMiB, std::string(kMiB, 'm')).has_value());
    CHECK(pool.disks[2]->metrics().writes.sum() == there);
    pool.disks[2]->release();
    pool.executor.run_for(seconds{15});
    for (const auto& ended : waiting) {
      REQUIRE(ended->has_value());
      CHECK((*ended)->has_value());
    }
    REQUIRE(pool.unmount().has_value());
  }
}
