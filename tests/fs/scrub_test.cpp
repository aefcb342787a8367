// The scrub: what it finds and mends, what it leaves alone, and what may happen meanwhile.
#include <doctest/doctest.h>

#include <random>
#include <set>

#include "journal/run_format.hpp"
#include "tests/fs/operations.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using fs::ScrubState;

constexpr int kFilesToScrub = 6;
// Not before the superblocks; slots begin somewhere behind.
constexpr std::uint64_t kDataBegins = 1 * kMiB;

std::string content_of(int i) {
  return pattern(static_cast<std::uint64_t>(i), 5000 + static_cast<std::size_t>(i) * 250'000);
}

SimPoolOptions two_disks() {
  SimPoolOptions options;
  options.disk_bytes = {64 * kMiB, 64 * kMiB};
  return options;
}

// With room for what is written anew all the time.
SimPoolOptions roomy(std::size_t disks) {
  SimPoolOptions options;
  options.disk_bytes.assign(disks, 256 * kMiB);
  return options;
}

std::uint64_t run_bytes(SimPool& pool) {
  std::uint64_t bytes = 0;
  for (const journal::RunRef& run : pool.fs().pool().superblock().manifest.runs) bytes += run.bytes;
  return bytes;
}

// A pool with some files, all of them in a checkpoint's run.
struct ScrubPool {
  explicit ScrubPool(std::uint64_t seed, SimPoolOptions options = two_disks())
      : pool(seed, std::move(options)) {
    pool.format();
    DFS_ASSERT(pool.mount().has_value());
    for (int i = 0; i < kFilesToScrub; ++i) {
      const std::string name = "f" + std::to_string(i);
      DFS_ASSERT(pool.create(name).has_value());
      DFS_ASSERT(pool.write(name, 0, content_of(i)).has_value());
    }
    DFS_ASSERT(pool.run(pool.fs().checkpoint()).has_value());
  }
  void check_all() {
    for (int i = 0; i < kFilesToScrub; ++i) {
      const auto text = pool.read("f" + std::to_string(i));
      REQUIRE(text.has_value());
      CHECK(text.value() == content_of(i));
    }
  }
  fs::ScrubReport scrub() {
    REQUIRE(pool.fs().start_scrub().has_value());
    return wait();
  }
  fs::ScrubReport wait() {
    while (pool.fs().scrub_report().state == ScrubState::kRunning) REQUIRE(pool.executor.step());
    return pool.fs().scrub_report();
  }
  std::uint64_t data_blocks() const {
    std::uint64_t blocks = 0;
    for (int i = 0; i < kFilesToScrub; ++i)
      blocks += align_up(content_of(i).size(), kBlockBytes) / kBlockBytes;
    return blocks;
  }
  // Flips a bit in every block of data of file `name` that lies on disk `disk`; returns how many.
  std::uint64_t spoil_data(std::size_t disk, int file) {
    const std::string content = content_of(file);
    std::set<std::string, std::less<>> heads;  // of its blocks
    for (std::size_t at = 0; at < content.size(); at += kBlockBytes) {
      heads.insert(content.substr(at, 64));
    }
    scheduler::SimulatedMedia& media = *pool.media[disk];
    Bytes block(kBlockBytes);
    std::uint64_t spoilt = 0;
    for (std::uint64_t at = kDataBegins; at < media.size_bytes(); at += kBlockBytes) {
      media.read(at, block);
      if (!heads.contains(as_text(block).substr(0, 64))) continue;
      media.flip(at + 100 + spoilt % 3000, static_cast<unsigned>(spoilt % 8));
      ++spoilt;
    }
    return spoilt;
  }
  // Flips a bit in every block of the runs on disk `disk`; returns how many.
  std::uint64_t spoil_run(std::size_t disk) {
    std::uint64_t spoilt = 0;
    for (const journal::RunRef& run : pool.fs().pool().superblock().manifest.runs) {
      for (const journal::RunCopy& copy : run.copies) {
        if (copy.disk.raw != disk) continue;
        for (std::uint64_t at = 0; at < run.bytes; at += journal::kRunBlockBytes) {
          pool.media[disk]->flip(journal::run_offset(pool.fs().pool(), copy, at) + 7 + spoilt, 3);
          ++spoilt;
        }
      }
    }
    return spoilt;
  }

  SimPool pool;
};

// Changes everything all the time.
struct Storm {
  fs::Filesystem* filesystem = nullptr;
  SimExecutor* executor = nullptr;
  std::uint64_t problems = 0;
  int running = 0;
};

Task<void> blow(Storm* storm, std::uint64_t seed, int operations) {
  std::mt19937_64 random(seed);
  fs::Filesystem& filesystem = *storm->filesystem;
  for (int i = 0; i < operations; ++i) {
    const std::string name = "s" + std::to_string(random() % 5);
    const std::uint64_t kind = random() % 10;
    if (kind == 0) {
      const auto done = co_await filesystem.unlink(kRootInode, name);
      done.ignore("any outcome is right");
    } else if (kind == 1) {
      const auto done = co_await filesystem.checkpoint();
      if (!done.has_value()) ++storm->problems;
    } else {
      auto found = co_await filesystem.lookup(kRootInode, name);
      if (!found.has_value()) {
        found = co_await filesystem.mknod(kRootInode, name, S_IFREG | 0644, 0, {});
      }
      if (found.has_value()) {
        if (kind < 4) {
          fs::AttributeChange change;
          change.size_bytes = random() % 1'500'000;
          const auto done = co_await filesystem.setattr(found->inode, change);
          done.ignore("it may be gone");
        } else {
          const auto done =
              co_await SimPool::write_task(&filesystem, found->inode, random() % 1'200'000,
                                           pattern(random(), 1 + random() % 200'000));
          done.ignore("it may be gone");
        }
        filesystem.forget(found->inode, 1);
      }
    }
    if (random() % 3 == 0) co_await storm->executor->yield();
  }
  --storm->running;
}

}  // namespace

TEST_SUITE("scrub") {
  TEST_CASE("a whole pool is found whole: every copy of every block is read, nothing is written") {
    ScrubPool filled(1);
    SimPool& pool = filled.pool;
    CHECK(pool.fs().scrub_report().state == ScrubState::kIdle);
    const fs::ScrubReport report = filled.scrub();
    CHECK(report.state == ScrubState::kFinished);
    CHECK(report.counts.bytes == filled.data_blocks() * kBlockBytes + run_bytes(filled.pool));
    CHECK(report.total_bytes == report.counts.bytes);
    CHECK(report.counts.read_bytes == 2 * report.counts.bytes + 2 * 2 * journal::kSuperblockBytes);
    CHECK(report.counts.copies_bad == 0);
    CHECK(report.counts.copies_outdated == 0);
    CHECK(report.counts.copies_repaired == 0);
    CHECK(report.counts.copies_skipped == 0);
    CHECK(report.counts.blocks_lost == 0);
    CHECK(report.errors == 0);
    CHECK(report.ended_ns >= report.started_ns);
    CHECK(report.active.count() > 0);
    CHECK(pool.fs().store().metrics().repairs.sum() == 0);
    CHECK(pool.fs().metrics().scrub_bytes.sum() == report.counts.bytes);
    // All of it in the background class.
    const auto background = static_cast<std::size_t>(scheduler::IoClass::kBackground);
    std::uint64_t bytes = 0;
    for (const auto* disk : pool.disks) bytes += disk->metrics().classes[background].bytes.sum();
    CHECK(bytes >= report.counts.read_bytes);
  }

  // The walk lets go of a file after 256 of them, so that what it has loaded can leave memory.
  TEST_CASE("a file of many windows is read once, whole") {
    constexpr std::uint64_t kWindows = 600;
    SimPool pool(7, roomy(2));
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("long").has_value());
    for (std::uint64_t window = 0; window < kWindows; ++window)
      REQUIRE(pool.write("long", window * kWindowBlocks * kBlockBytes, "x").has_value());
    REQUIRE(pool.run(pool.fs().checkpoint()).has_value());
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.fs().start_scrub().has_value());
    while (pool.fs().scrub_report().state == ScrubState::kRunning) REQUIRE(pool.executor.step());
    const fs::ScrubReport report = pool.fs().scrub_report();
    CHECK(report.state == ScrubState::kFinished);
    CHECK(report.counts.bytes == kWindows * kBlockBytes + run_bytes(pool));
    CHECK(report.errors == 0);
  }

  TEST_CASE("flipped bits in data, run and superblock of one disk are mended: the other may go") {
    for (std::size_t disk = 0; disk < 2; ++disk) {
      CAPTURE(disk);
      ScrubPool filled(disk + 1);
      SimPool& pool = filled.pool;
      std::uint64_t spoilt = filled.spoil_run(disk);
      for (int i = 0; i < kFilesToScrub; ++i) spoilt += filled.spoil_data(disk, i);
      pool.media[disk]->flip(disk * journal::kSuperblockBytes + 200, 1);
      ++spoilt;
      REQUIRE(spoilt > filled.data_blocks());
      const fs::ScrubReport report = filled.scrub();
      CHECK(report.counts.copies_bad == spoilt);
      CHECK(report.counts.copies_repaired == spoilt);
      CHECK(report.counts.blocks_lost == 0);
      const fs::ScrubReport again = filled.scrub();
      CHECK(again.counts.copies_bad == 0);
      CHECK(again.counts.copies_repaired == 0);
      CHECK(pool.run(pool.fs().damaged_files()).empty());
      pool.power_cut();
      REQUIRE(pool.mount({1 - disk}).has_value());
      filled.check_all();
    }
  }

  TEST_CASE("a block whose copies are all bad is lost: counted, its file named, the rest mended") {
    ScrubPool filled(3);
    SimPool& pool = filled.pool;
    const std::uint64_t blocks = filled.spoil_data(0, 4);
    REQUIRE(filled.spoil_data(1, 4) == blocks);
    const std::uint64_t other = filled.spoil_data(1, 5);
    const fs::ScrubReport report = filled.scrub();
    CHECK(report.state == ScrubState::kFinished);
    CHECK(report.counts.copies_bad == 2 * blocks + other);
    CHECK(report.counts.copies_repaired == other);
    CHECK(report.counts.blocks_lost == blocks);
    CHECK(pool.run(pool.fs().damaged_files()) == std::vector<std::string>{"/f4"});
    CHECK(pool.fs().store().metrics().unrecoverable_blocks.sum() == blocks);
    CHECK(pool.fs().metrics().scrub_blocks_lost.sum() == blocks);
    CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
  }

  TEST_CASE("metadata that is bad in every copy is told, and what is in memory goes on") {
    ScrubPool filled(4);
    SimPool& pool = filled.pool;
    const std::uint64_t spoilt = filled.spoil_run(0) + filled.spoil_run(1);
    const std::string before = pool.dump().value();
    const fs::ScrubReport report = filled.scrub();
    CHECK(report.counts.copies_bad == spoilt);
    CHECK(report.counts.copies_repaired == 0);
    CHECK(report.counts.blocks_lost == spoilt / 2);
    CHECK(pool.dump().value() == before);
  }

  TEST_CASE("a read-only pool is verified and nothing on its disks changes") {
    ScrubPool filled(5);
    SimPool& pool = filled.pool;
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount({}, true).has_value());
    const std::uint64_t spoilt = filled.spoil_data(0, 3) + filled.spoil_run(1);
    std::uint64_t operations = 0;
    for (const auto* disk : pool.disks) operations += disk->device_operations();
    const fs::ScrubReport report = filled.scrub();
    CHECK(report.state == ScrubState::kFinished);
    CHECK(report.read_only);
    CHECK(report.counts.copies_bad == spoilt);
    CHECK(report.counts.copies_repaired == 0);
    CHECK(report.counts.blocks_lost == 0);
    for (const auto* disk : pool.disks) operations -= disk->device_operations();
    CHECK(operations == 0);
  }

  TEST_CASE("copies on a disk that is gone are skipped; what is bad then may still be elsewhere") {
    ScrubPool filled(6);
    SimPool& pool = filled.pool;
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount({1}).has_value());
    const std::uint64_t spoilt = filled.spoil_data(0, 2);
    const fs::ScrubReport report = filled.scrub();
    CHECK(report.counts.copies_skipped >= filled.data_blocks());
    CHECK(report.counts.copies_bad == spoilt);
    CHECK(report.counts.copies_repaired == 0);
    CHECK(report.counts.blocks_unreadable == spoilt);
    CHECK(report.counts.blocks_lost == 0);
    CHECK(pool.run(pool.fs().damaged_files()).empty());
  }

  TEST_CASE("what a disk missed while it was away is brought to it, and is no damage") {
    ScrubPool three(7, SimPoolOptions{});
    SimPool& wide = three.pool;
    // The disk loses its power: of what was not flushed it has lost some.
    for (int i = 0; i < 8; ++i) {
      REQUIRE(wide.create("late" + std::to_string(i)).has_value());
      REQUIRE(wide.write("late" + std::to_string(i), 0, pattern(77, 100'000)).has_value());
    }
    wide.disks[2]->power_cut();
    REQUIRE(wide.run(wide.fs().sync()).has_value());
    REQUIRE(wide.fs().pool().degraded());
    REQUIRE(wide.unmount().has_value());
    REQUIRE(wide.mount().has_value());
    const fs::ScrubReport report = three.scrub();
    CHECK(report.counts.copies_bad == 0);
    CHECK(report.counts.blocks_lost == 0);
    CHECK(report.counts.copies_outdated > 0);
    CHECK(report.counts.copies_outdated == report.counts.copies_repaired);
    CHECK(three.scrub().counts.copies_outdated == 0);
    // Nothing is missing on it any more, and it is no longer said to be stale.
    const auto all_healthy = [&wide] {
      return std::ranges::all_of(wide.fs().pool().status(), [](const journal::DiskStatus& disk) {
        return disk.health == journal::DiskHealth::kHealthy;
      });
    };
    CHECK(all_healthy());
    const std::string before = wide.dump().value();
    REQUIRE(wide.unmount().has_value());
    REQUIRE(wide.mount().has_value());
    CHECK(all_healthy());
    REQUIRE(wide.unmount().has_value());
    REQUIRE(wide.mount({0}).has_value());
    CHECK(wide.dump().value() == before);
  }

  // The walk may have passed where the clone is before it is there, and the original is gone when it comes.
  TEST_CASE("a disk that was away is not whole by a scrub that clones were made beside") {
    ScrubPool three(7, SimPoolOptions{});
    SimPool& wide = three.pool;
    wide.disks[2]->faults().fail = [](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
    };
    REQUIRE(wide.create("late").has_value());
    REQUIRE(wide.write("late", 0, pattern(77, 100'000)).has_value());
    REQUIRE(wide.fs().pool().degraded());
    REQUIRE(wide.unmount().has_value());
    REQUIRE(wide.mount().has_value());
    const auto all_healthy = [&wide] {
      return std::ranges::all_of(wide.fs().pool().status(), [](const journal::DiskStatus& disk) {
        return disk.health == journal::DiskHealth::kHealthy;
      });
    };
    REQUIRE(wide.create("clone").has_value());
    REQUIRE(wide.fs().start_scrub().has_value());
    while (wide.fs().scrub_report().counts.bytes == 0) REQUIRE(wide.executor.step());
    REQUIRE(wide.copy_range("late", 0, "clone", 0, 100'000).has_value());
    CHECK(three.wait().state == ScrubState::kFinished);
    CHECK_FALSE(all_healthy());
    CHECK(three.scrub().state == ScrubState::kFinished);
    CHECK(all_healthy());
  }

  TEST_CASE("what a scrub did not look at because it was removed does not come back after it") {
    ScrubPool three(9, SimPoolOptions{});
    SimPool& wide = three.pool;
    wide.disks[2]->faults().fail = [](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
    };
    for (int i = 0; i < 8; ++i) {
      REQUIRE(wide.create("late" + std::to_string(i)).has_value());
      REQUIRE(wide.write("late" + std::to_string(i), 0, pattern(77, 100'000)).has_value());
    }
    REQUIRE(wide.unmount().has_value());
    REQUIRE(wide.mount().has_value());
    for (int i = 0; i < 8; ++i) REQUIRE(wide.unlink("late" + std::to_string(i)).has_value());
    // Not yet durable; but a disk that the scrub calls whole must be so after a power cut too.
    three.scrub();
    CHECK(wide.fs().pool().status()[2].health == journal::DiskHealth::kHealthy);
    wide.power_cut();
    REQUIRE(wide.mount().has_value());
    for (int i = 0; i < 8; ++i) CHECK_FALSE(wide.resolve("late" + std::to_string(i)).has_value());
  }

  TEST_CASE("a disk that lacks what only a missing one has stays stale after a scrub") {
    ScrubPool three(8, {.disk_bytes = {64 * kMiB, 64 * kMiB}});
    SimPool& two = three.pool;
    REQUIRE(two.unmount().has_value());
    REQUIRE(two.mount({1}).has_value());
    REQUIRE(two.create("late").has_value());
    REQUIRE(two.write("late", 0, pattern(78, 100'000)).has_value());
    REQUIRE(two.unmount().has_value());
    REQUIRE(two.mount().has_value());
    REQUIRE(two.unmount().has_value());
    REQUIRE(two.mount({0}).has_value());
    const fs::ScrubReport report = three.scrub();
    CHECK(report.counts.blocks_unreadable > 0);
    CHECK(two.fs().pool().status()[1].health == journal::DiskHealth::kStale);
    REQUIRE(two.unmount().has_value());
    REQUIRE(two.mount().has_value());
    CHECK(three.scrub().counts.blocks_unreadable == 0);
    CHECK(two.fs().pool().status()[1].health == journal::DiskHealth::kHealthy);
    // A chunk that was made without it does not lie on it: that takes a rebuild.
    CHECK(two.fs().store().space(two.fs().pool().policy()).degraded_chunks > 0);
  }

  TEST_CASE("beside writes, truncates, unlinks and checkpoints nothing is called damage") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t i = 0; i < seeds(30); ++i) {
      const std::uint64_t seed = first + i;
      CAPTURE(seed);
      ScrubPool filled(seed, roomy(2 + seed % 2));
      SimPool& pool = filled.pool;
      Storm storm{
          .filesystem = &pool.fs(), .executor = &pool.executor, .problems = 0, .running = 6};
      for (std::uint64_t c = 0; c < 6; ++c) spawn(blow(&storm, seed * 100 + c, 50));
      std::uint64_t scrubs = 0;
      while (storm.running > 0) {
        if (pool.fs().start_scrub().has_value()) ++scrubs;
        REQUIRE(pool.executor.step());
      }
      CHECK(scrubs >= 1);
      const fs::ScrubReport report = filled.wait();
      CHECK(report.state == ScrubState::kFinished);
      CHECK(storm.problems == 0);
      const auto& metrics = pool.fs().metrics();
      CHECK(metrics.scrubs_finished.sum() == scrubs);
      CHECK(metrics.scrub_copies_bad.sum() == 0);
      CHECK(metrics.scrub_blocks_lost.sum() == 0);
      CHECK(metrics.scrub_copies_repaired.sum() == 0);
      CHECK(report.errors == 0);
      CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
      CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
      filled.check_all();
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      const std::string before = pool.dump().value();
      const fs::ScrubReport quiet = filled.scrub();
      CHECK(quiet.counts.copies_bad == 0);
      CHECK(pool.dump().value() == before);
      pool.power_cut();
      REQUIRE(pool.mount().has_value());
      CHECK(pool.dump().value() == before);
    }
  }

  TEST_CASE("damage is mended beside writes and checkpoints, and every file stays right") {
    for (std::uint64_t seed = 1; seed <= seeds(12); ++seed) {
      CAPTURE(seed);
      ScrubPool filled(seed, roomy(2));
      SimPool& pool = filled.pool;
      const std::size_t disk = seed % 2;
      for (int i = 0; i < kFilesToScrub; ++i) REQUIRE(filled.spoil_data(disk, i) > 0);
      Storm storm{
          .filesystem = &pool.fs(), .executor = &pool.executor, .problems = 0, .running = 4};
      for (std::uint64_t c = 0; c < 4; ++c) spawn(blow(&storm, seed * 300 + c, 40));
      const fs::ScrubReport report = filled.scrub();
      while (storm.running > 0) REQUIRE(pool.executor.step());
      CHECK(report.counts.copies_repaired == report.counts.copies_bad);
      CHECK(report.counts.copies_bad >= filled.data_blocks());
      CHECK(report.counts.blocks_lost == 0);
      CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({1 - disk}).has_value());
      filled.check_all();
    }
  }

  TEST_CASE("a disk that fails in the middle costs nothing but the disk, and the scrub ends") {
    for (std::uint64_t seed = 1; seed <= seeds(12); ++seed) {
      CAPTURE(seed);
      ScrubPool filled(seed, SimPoolOptions{});
      SimPool& pool = filled.pool;
      const std::size_t victim = seed % 3;
      const std::uint64_t after = seed * 3 % 20;
      REQUIRE(pool.fs().start_scrub().has_value());
      for (std::uint64_t i = 0; i < after * 5; ++i) REQUIRE(pool.executor.step());
      pool.disks[victim]->fail();
      const fs::ScrubReport report = filled.wait();
      CHECK(report.state == ScrubState::kFinished);
      CHECK(report.counts.copies_bad == 0);
      CHECK(report.counts.blocks_lost == 0);
      CHECK(pool.run(pool.fs().damaged_files()).empty());
      filled.check_all();
      REQUIRE(pool.create("one-more").has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
    }
  }

  TEST_CASE("sectors that cannot be read count as bad and are rewritten") {
    ScrubPool filled(9);
    SimPool& pool = filled.pool;
    std::uint64_t failed = 0;
    pool.disks[0]->faults().fail = [&failed](const scheduler::IoRequest& request) {
      if (request.op != scheduler::IoOp::kRead || request.offset_bytes < kDataBegins ||
          failed == 2) {
        return Code::kOk;
      }
      ++failed;
      return Code::kDiskRead;
    };
    const fs::ScrubReport report = filled.scrub();
    CHECK(failed == 2);
    CHECK(report.counts.copies_bad > 0);
    CHECK(report.counts.copies_repaired == report.counts.copies_bad);
    CHECK(report.counts.blocks_lost == 0);
    CHECK_FALSE(pool.fs().pool().degraded());
  }

  TEST_CASE("unmounting cancels a scrub, running or paused, and the pool is whole") {
    for (std::uint64_t seed = 1; seed <= seeds(12); ++seed) {
      CAPTURE(seed);
      ScrubPool filled(seed);
      SimPool& pool = filled.pool;
      REQUIRE(pool.fs().start_scrub().has_value());
      for (std::uint64_t i = 0; i < seed * 7; ++i) REQUIRE(pool.executor.step());
      if (seed % 2 == 0) pool.fs().pause_scrub().ignore("it may have ended");
      const std::string before = pool.dump().value();
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount().has_value());
      CHECK(pool.dump().value() == before);
    }
  }

  TEST_CASE("start, pause, resume and cancel do what they say, and refuse what makes no sense") {
    ScrubPool filled(10);
    SimPool& pool = filled.pool;
    fs::Filesystem& filesystem = pool.fs();
    const auto refused = [](const Result<void>& result) {
      return code_name(result.has_value() ? Code::kOk : result.error().code);
    };
    CHECK(refused(filesystem.pause_scrub()) == code_name(Code::kInvalid));
    CHECK(refused(filesystem.resume_scrub()) == code_name(Code::kInvalid));
    CHECK(refused(pool.run(filesystem.cancel_scrub())) == code_name(Code::kInvalid));

    REQUIRE(filesystem.start_scrub().has_value());
    CHECK(refused(filesystem.start_scrub()) == code_name(Code::kBusy));
    CHECK(refused(filesystem.resume_scrub()) == code_name(Code::kInvalid));
    while (filesystem.scrub_report().counts.bytes == 0) REQUIRE(pool.executor.step());
    REQUIRE(filesystem.pause_scrub().has_value());
    CHECK(refused(filesystem.pause_scrub()) == code_name(Code::kInvalid));
    CHECK(refused(filesystem.start_scrub()) == code_name(Code::kBusy));
    pool.executor.run_for(std::chrono::seconds{1});  // what is in flight ends
    const fs::ScrubReport paused = filesystem.scrub_report();
    CHECK(paused.state == ScrubState::kPaused);
    CHECK(paused.counts.bytes < paused.total_bytes);
    pool.executor.run_for(std::chrono::seconds{10});
    CHECK(filesystem.scrub_report().counts == paused.counts);
    CHECK(filesystem.scrub_report().active == paused.active);
    REQUIRE(filesystem.resume_scrub().has_value());
    const fs::ScrubReport finished = filled.wait();
    CHECK(finished.state == ScrubState::kFinished);
    CHECK(finished.counts.bytes == finished.total_bytes);
    CHECK(finished.active < std::chrono::seconds{10});
    CHECK(refused(filesystem.pause_scrub()) == code_name(Code::kInvalid));

    for (const bool pause : {false, true}) {
      REQUIRE(filesystem.start_scrub().has_value());
      while (filesystem.scrub_report().counts.bytes == 0) REQUIRE(pool.executor.step());
      if (pause) REQUIRE(filesystem.pause_scrub().has_value());
      REQUIRE(pool.run(filesystem.cancel_scrub()).has_value());
      const fs::ScrubReport cancelled = filesystem.scrub_report();
      CHECK(cancelled.state == ScrubState::kCancelled);
      CHECK(cancelled.counts.bytes < cancelled.total_bytes);
      CHECK(refused(pool.run(filesystem.cancel_scrub())) == code_name(Code::kInvalid));
    }
    CHECK(filesystem.metrics().scrubs_started.sum() == 3);
    CHECK(filesystem.metrics().scrubs_finished.sum() == 1);
    filled.check_all();
  }
}

}  // namespace dynamicfs::test
