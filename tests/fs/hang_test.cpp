// Disks that stop answering: what waits for them, what does not, and when they are given up.
#include <doctest/doctest.h>

#include "tests/fs/operations.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct HangPool {
  explicit HangPool(SimPoolOptions options = {})
      : pool(seed_from_environment(1), std::move(options)) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("file").has_value());
    REQUIRE(pool.write("file", 0, std::string(3'000'000, 'x')).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
  }
  ~HangPool() {
    for (auto* const disk : pool.disks) disk->release();
  }
  journal::DiskHealth health(std::size_t disk) { return pool.fs().pool().status()[disk].health; }
  bool suspect(std::size_t disk) { return pool.disks[disk]->latency().suspect(); }
  Duration time(const std::function<void()>& what) {
    const TimePoint start = pool.executor.now();
    what();
    return pool.executor.now() - start;
  }
  SimPool pool;
};

SimPoolOptions disks(std::size_t count, std::uint8_t copies) {
  return {.disk_bytes = std::vector<std::uint64_t>(count, 64 * kMiB),
          .policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = copies}};
}

}  // namespace

TEST_SUITE("hangs") {
  TEST_CASE("a disk that stalls for ten seconds delays no read, is suspect, and comes back") {
    HangPool mounted(disks(2, 2));
    SimPool& pool = mounted.pool;
    pool.disks[1]->faults().hung = true;
    const TimePoint start = pool.executor.now();
    Duration slowest{0};
    while (pool.executor.now() - start < seconds{10}) {
      for (std::uint64_t i = 0; i < 20; ++i) {
        slowest = std::max(slowest, mounted.time([&] {
          CHECK(pool.read("file", i * 100'000, 50'000).value() == std::string(50'000, 'x'));
        }));
      }
      pool.executor.run_for(milliseconds{100});
    }
    CHECK(slowest < milliseconds{50});
    CHECK(mounted.suspect(1));
    CHECK(mounted.health(1) == journal::DiskHealth::kHealthy);
    CHECK(pool.fs().metrics().disks_suspected.sum() == 1);
    pool.disks[1]->release();
    pool.executor.run_for(seconds{15});
    CHECK_FALSE(mounted.suspect(1));
    CHECK(mounted.health(1) == journal::DiskHealth::kHealthy);
    CHECK(pool.fs().metrics().disks_hung.sum() == 0);
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE("while a disk is suspect new data goes to others, and only what needs it waits") {
    HangPool mounted(disks(4, 2));
    SimPool& pool = mounted.pool;
    REQUIRE(pool.create("new").has_value());
    const InodeId file = pool.resolve("new").value();
    pool.disks[2]->faults().hung = true;
    // Something must find out: a write that lands there waits.
    std::vector<std::optional<Result<void>>> stuck(16);
    for (std::size_t i = 0; i < stuck.size(); ++i) {
      spawn(
          keep(SimPool::write_task(&pool.fs(), file, i * kMiB, std::string(kMiB, 'n')), &stuck[i]));
    }
    pool.executor.run_for(seconds{5});
    REQUIRE(mounted.suspect(2));
    const std::uint64_t there = pool.disks[2]->metrics().writes.sum();
    for (std::uint64_t i = 0; i < 32; ++i) {
      CHECK(mounted.time([&] {
        REQUIRE(pool.write("new", (100 + i) * kMiB, std::string(kMiB, 'm')).has_value());
      }) < milliseconds{50});
    }
    CHECK(pool.disks[2]->metrics().writes.sum() == there);
    pool.disks[2]->release();
    pool.executor.run_for(seconds{15});
    for (const auto& write : stuck) {
      REQUIRE(write.has_value());
      CHECK(write->has_value());
    }
    CHECK_FALSE(mounted.suspect(2));
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE("a disk that has hung for 30 s is given up, and fsync and writes that waited succeed") {
    for (const std::size_t count : {std::size_t{2}, std::size_t{3}, std::size_t{4}}) {
      CAPTURE(count);
      HangPool mounted(disks(count, 2));
      SimPool& pool = mounted.pool;
      const InodeId file = pool.resolve("file").value();
      pool.disks[0]->faults().hung = true;
      std::optional<Result<void>> synced;
      std::optional<Result<void>> written;
      const auto write_and_sync = [](fs::Filesystem* filesystem,
                                     InodeId inode) -> Task<Result<void>> {
        CO_TRY(co_await SimPool::write_task(filesystem, inode, 0, std::string(2'000'000, 'y')));
        co_return co_await filesystem->fsync(inode);
      };
      spawn(keep(write_and_sync(&pool.fs(), file), &synced));
      pool.executor.run_for(seconds{20});
      CHECK_FALSE(synced.has_value());
      CHECK(mounted.health(0) == journal::DiskHealth::kHealthy);
      pool.executor.run_for(seconds{20});
      REQUIRE(synced.has_value());
      CHECK(synced->has_value());
      CHECK(mounted.health(0) == journal::DiskHealth::kFailed);
      CHECK(pool.fs().metrics().disks_hung.sum() == 1);
      CHECK(pool.write("file", 2'000'000, std::string(100'000, 'z')).has_value());
      CHECK(pool.fsync("file").has_value());
      pool.disks[0]->release();
      // What it had may still have reached it: it is stale and nothing of it is believed.
      pool.power_cut();
      REQUIRE(pool.mount().has_value());
      CHECK(pool.read("file").value() ==
            std::string(2'000'000, 'y') + std::string(100'000, 'z') + std::string(900'000, 'x'));
      REQUIRE(pool.unmount().has_value());
    }
  }

  TEST_CASE("without another copy a hung disk is waited for, as long as it takes") {
    HangPool mounted(disks(2, 1));
    SimPool& pool = mounted.pool;
    const InodeId file = pool.resolve("file").value();
    pool.disks[0]->faults().hung = true;
    pool.disks[1]->faults().hung = true;
    std::optional<Result<std::string>> read;
    spawn(keep(SimPool::read_task(&pool.fs(), file, 0, 3'000'000), &read));
    pool.executor.run_for(seconds{120});
    CHECK_FALSE(read.has_value());
    CHECK(mounted.health(0) == journal::DiskHealth::kHealthy);
    CHECK_FALSE(pool.fs().pool().read_only());
    for (auto* const disk : pool.disks) disk->release();
    pool.executor.run_for(seconds{1});
    REQUIRE(read.has_value());
    CHECK(read->value() == std::string(3'000'000, 'x'));
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE("two disks that hang together are both given up, if every file has a third copy") {
    HangPool mounted(disks(4, 3));
    SimPool& pool = mounted.pool;
    const InodeId file = pool.resolve("file").value();
    pool.disks[0]->faults().hung = true;
    pool.disks[1]->faults().hung = true;
    std::optional<Result<void>> synced;
    const auto write_and_sync = [](fs::Filesystem* filesystem,
                                   InodeId inode) -> Task<Result<void>> {
      CO_TRY(co_await SimPool::write_task(filesystem, inode, 0, std::string(2'000'000, 'y')));
      co_return co_await filesystem->fsync(inode);
    };
    spawn(keep(write_and_sync(&pool.fs(), file), &synced));
    pool.executor.run_for(seconds{70});
    REQUIRE(synced.has_value());
    CHECK(synced->has_value());
    CHECK(mounted.health(0) == journal::DiskHealth::kFailed);
    CHECK(mounted.health(1) == journal::DiskHealth::kFailed);
    CHECK(pool.fsync("file").has_value());
  }

  TEST_CASE("a disk that alone has what was written while the other was away is not given up") {
    HangPool mounted(disks(2, 2));
    SimPool& pool = mounted.pool;
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount({0}).has_value());
    REQUIRE(pool.create("alone").has_value());
    REQUIRE(pool.write("alone", 0, std::string(9'000'000, 'a')).has_value());
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    pool.fs().pause_rebuild(true);  // it would put a copy on the other disk
    REQUIRE(pool.fs().start_scrub().has_value());
    pool.executor.run_for(seconds{20});
    REQUIRE(mounted.health(0) == journal::DiskHealth::kHealthy);
    CHECK(pool.fs().can_lose(DiskId{0}));
    CHECK_FALSE(pool.fs().can_lose(DiskId{1}));
    pool.disks[1]->faults().hung = true;
    std::optional<Result<std::string>> read;
    spawn(keep(SimPool::read_task(&pool.fs(), pool.resolve("alone").value(), 0, 9'000'000), &read));
    pool.executor.run_for(seconds{120});
    CHECK_FALSE(read.has_value());
    CHECK(mounted.suspect(1));
    CHECK(mounted.health(1) == journal::DiskHealth::kHealthy);
    pool.disks[1]->release();
    pool.executor.run_for(seconds{15});
    REQUIRE(read.has_value());
    CHECK(read->value() == std::string(9'000'000, 'a'));
    CHECK_FALSE(mounted.suspect(1));
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE(
      "a scrub beside a disk that hangs goes on when that is given up, and so does all else") {
    HangPool mounted(disks(3, 2));
    SimPool& pool = mounted.pool;
    REQUIRE(pool.write("file", 0, std::string(20'000'000, 'x')).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    pool.disks[1]->faults().hung = true;
    REQUIRE(pool.fs().start_scrub().has_value());
    pool.executor.run_for(seconds{60});
    CHECK(mounted.health(1) == journal::DiskHealth::kFailed);
    CHECK(pool.fs().scrub_report().state == fs::ScrubState::kFinished);
    // Blocks that the scrub had pinned come back, and checkpoints are written.
    for (int i = 0; i < 20; ++i) {
      REQUIRE(pool.write("file", 0, std::string(8'000'000, 'y')).has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
    }
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE("reads take their turn at the memory for them, and what they do not need goes on") {
    SimPoolOptions options = disks(1, 1);
    options.read_memory_bytes = 128 * kKiB;
    HangPool mounted(options);
    SimPool& pool = mounted.pool;
    const InodeId file = pool.resolve("file").value();
    pool.disks[0]->faults().hung = true;
    std::vector<std::optional<Result<std::string>>> reads(10);
    for (std::size_t i = 0; i < reads.size(); ++i) {
      spawn(keep(SimPool::read_task(&pool.fs(), file, i * 64 * kKiB, 64 * kKiB), &reads[i]));
    }
    pool.executor.run_for(seconds{1});
    CHECK(pool.fs().read_memory().in_use_bytes() == 128 * kKiB);
    CHECK(pool.fs().read_memory().waits() == 8);
    const auto& of_reads = pool.disks[0]->metrics().classes[2];
    CHECK(of_reads.in_flight.load() + of_reads.queued.load() == 2);
    CHECK(pool.stat("file").has_value());
    pool.disks[0]->release();
    pool.executor.run_for(seconds{1});
    for (const auto& read : reads) {
      REQUIRE(read.has_value());
      CHECK(read->value() == std::string(64 * kKiB, 'x'));
    }
    CHECK(pool.fs().read_memory().in_use_bytes() == 0);
    REQUIRE(pool.unmount().has_value());
  }

  TEST_CASE(
      "an unmount beside a hung disk ends when that is given up, with everything on the others") {
    HangPool mounted(disks(3, 2));
    SimPool& pool = mounted.pool;
    REQUIRE(pool.write("file", 0, "last words").has_value());
    pool.disks[1]->faults().hung = true;
    std::optional<Result<void>> unmounted;
    spawn(keep(pool.fs().unmount(), &unmounted));
    pool.executor.run_for(seconds{60});
    REQUIRE(unmounted.has_value());
    CHECK(unmounted->has_value());
    pool.disks[1]->release();
    pool.power_cut();
    REQUIRE(pool.mount({1}).has_value());
    CHECK(pool.read("file", 0, 10).value() == "last words");
    REQUIRE(pool.unmount().has_value());
  }
}

}  // namespace dynamicfs::test
