// Disks that go, come back, rot or fail while the tree is in use.
#include <doctest/doctest.h>

#include <random>

#include "tests/fs/operations.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// A pool of copies with a few files on it.
struct Filled {
  explicit Filled(std::uint64_t seed, SimPoolOptions options = {})
      : pool(seed, std::move(options)) {
    pool.format();
    DFS_ASSERT(pool.mount().has_value());
    for (int i = 0; i < 12; ++i) {
      const std::string name = "f" + std::to_string(i);
      DFS_ASSERT(pool.create(name).has_value());
      DFS_ASSERT(pool.write(name, 0, pattern(static_cast<std::uint64_t>(i), size(i))).has_value());
    }
    DFS_ASSERT(pool.run(pool.fs().sync()).has_value());
  }
  static std::size_t size(int i) { return 5000 + static_cast<std::size_t>(i) * 100'000; }
  void check_all() {
    for (int i = 0; i < 12; ++i) {
      const auto text = pool.read("f" + std::to_string(i));
      REQUIRE(text.has_value());
      CHECK(text.value() == pattern(static_cast<std::uint64_t>(i), size(i)));
    }
  }
  SimPool pool;
};

}  // namespace

TEST_SUITE("faults") {
  TEST_CASE("any one disk may be away at mount: all files read right, new writes succeed") {
    for (std::size_t away = 0; away < 3; ++away) {
      CAPTURE(away);
      Filled filled(away + 1);
      SimPool& pool = filled.pool;
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({away}).has_value());
      CHECK(pool.fs().pool().degraded());
      filled.check_all();
      REQUIRE(pool.create("while-degraded").has_value());
      REQUIRE(pool.write("while-degraded", 0, pattern(99, 300'000)).has_value());
      REQUIRE(pool.write("f3", 10, "changed").has_value());
      REQUIRE(pool.fsync("while-degraded").has_value());
      pool.power_cut();
      // The disk is back: it is stale, and nothing of what it missed is lost.
      REQUIRE(pool.mount().has_value());
      CHECK(pool.read("while-degraded").value() == pattern(99, 300'000));
      CHECK(pool.read("f3", 10, 7).value() == "changed");
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount().has_value());
      CHECK(pool.read("while-degraded").value() == pattern(99, 300'000));
    }
  }

  TEST_CASE("two of three disks away is more than two copies tolerate, and is refused by name") {
    Filled filled(5);
    SimPool& pool = filled.pool;
    REQUIRE(pool.unmount().has_value());
    const Result<void> mounted = pool.mount({0, 2});
    REQUIRE_FALSE(mounted.has_value());
    CHECK(code_name(mounted.error().code) == code_name(Code::kDiskMissing));
    CHECK(pool.problem.text.find("sim0") != std::string::npos);
    CHECK(pool.problem.text.find("sim2") != std::string::npos);
    REQUIRE(pool.mount().has_value());
    filled.check_all();
  }

  TEST_CASE("two disks that were mounted apart are refused, in both orders, and nothing changes") {
    for (const std::size_t first : {0u, 1u}) {
      SimPoolOptions options;
      options.disk_bytes = {64 * kMiB, 64 * kMiB};
      Filled filled(first + 10, options);
      SimPool& pool = filled.pool;
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({first}).has_value());
      REQUIRE(pool.create("apart-1").has_value());
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({1 - first}).has_value());
      REQUIRE(pool.create("apart-2").has_value());
      REQUIRE(pool.unmount().has_value());
      const Result<void> mounted = pool.mount();
      REQUIRE_FALSE(mounted.has_value());
      CHECK(code_name(mounted.error().code) == code_name(Code::kSplitBrain));
      CHECK(pool.problem.text.find("sim0") != std::string::npos);
      CHECK(pool.problem.text.find("sim1") != std::string::npos);
      // Each alone is as it was left.
      REQUIRE(pool.mount({first}).has_value());
      CHECK(pool.stat("apart-1").has_value());
      CHECK_FALSE(pool.stat("apart-2").has_value());
    }
  }

  TEST_CASE(
      "a disk of a copy of the pool is refused when both were mounted since, else it is stale") {
    for (const bool both : {true, false}) {
      CAPTURE(both);
      SimPoolOptions options;
      options.disk_bytes = {64 * kMiB, 64 * kMiB};
      Filled filled(21, options);
      SimPool& pool = filled.pool;
      REQUIRE(pool.unmount().has_value());
      const auto original = pool.media;
      for (auto& medium : pool.media)
        medium = std::make_shared<scheduler::SimulatedMedia>(medium->clone());
      const auto copy = pool.media;
      // All disks of each are there each time, and each is unmounted in order.
      if (both) {
        REQUIRE(pool.mount().has_value());
        REQUIRE(pool.create("in-the-copy").has_value());
        REQUIRE(pool.write("in-the-copy", 0, std::string(50'000, 'c')).has_value());
        REQUIRE(pool.unmount().has_value());
      }
      pool.media = original;
      REQUIRE(pool.mount().has_value());
      REQUIRE(pool.create("in-the-original").has_value());
      REQUIRE(pool.write("in-the-original", 0, std::string(50'000, 'o')).has_value());
      REQUIRE(pool.unmount().has_value());
      for (const std::size_t mixed : {1u, 0u}) {
        pool.media = original;
        pool.media[mixed] = std::make_shared<scheduler::SimulatedMedia>(copy[mixed]->clone());
        const Result<void> mounted = pool.mount();
        REQUIRE(mounted.has_value() == !both);
        if (both) {
          CHECK(code_name(mounted.error().code) == code_name(Code::kSplitBrain));
          continue;
        }
        // Set back to what it was: what it has missed is read from the other.
        CHECK(pool.read("in-the-original").value() == std::string(50'000, 'o'));
        filled.check_all();
        CHECK(pool.fs().store().metrics().unrecoverable_blocks.sum() == 0);
        pool.power_cut();
      }
    }
  }

  TEST_CASE("a disk that fails while files are written and read costs nothing but the disk") {
    for (std::uint64_t seed = 1; seed <= seeds(12); ++seed) {
      CAPTURE(seed);
      Filled filled(seed);
      SimPool& pool = filled.pool;
      Model model;
      RandomOperations random(seed);
      const std::size_t victim = seed % 3;
      const std::uint64_t after = seed * 5 % 16;
      std::uint64_t seen = 0;
      pool.disks[victim]->faults().fail = [&seen, after](const scheduler::IoRequest& request) {
        if (++seen <= after) return Code::kOk;
        return request.op == scheduler::IoOp::kRead    ? Code::kDiskRead
               : request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite
                                                       : Code::kDiskFlush;
      };
      REQUIRE(pool.mkdir("a").has_value());
      model.make("a", Model::Node::Type::kDirectory, "", 0755).ignore("works");
      for (int i = 0; i < 150; ++i) {
        const RandomOperations::Outcome outcome = random.step(pool, model);
        INFO("operation ", i, ": ", outcome.text);
        REQUIRE(code_name(outcome.real) == code_name(outcome.model));
      }
      filled.check_all();
      REQUIRE(pool.create("one-more").has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      CHECK(pool.fs().pool().degraded());
      const std::string before = pool.dump().value();
      pool.power_cut();
      REQUIRE(pool.mount({victim}).has_value());
      CHECK(pool.dump().value() == before);
      filled.check_all();
    }
  }

  TEST_CASE("bits that flip on one disk are seen, served from the other copy and mended") {
    for (std::uint64_t seed = 1; seed <= seeds(6); ++seed) {
      CAPTURE(seed);
      SimPoolOptions options;
      options.disk_bytes = {64 * kMiB, 64 * kMiB};
      Filled filled(seed, options);
      SimPool& pool = filled.pool;
      REQUIRE(pool.unmount().has_value());
      // Every block of the first disk's slots that is not empty gets a flipped bit.
      const std::uint64_t first_slot = 8 * kMiB;
      std::uint64_t flipped = 0;
      Bytes block(kBlockBytes);
      std::mt19937_64 random(seed);
      for (std::uint64_t at = first_slot; at < pool.media[0]->size_bytes(); at += kBlockBytes) {
        pool.media[0]->read(at, block);
        if (std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{0}; }))
          continue;
        pool.media[0]->flip(at + random() % kBlockBytes, static_cast<unsigned>(random() % 8));
        ++flipped;
      }
      REQUIRE(flipped > 100);
      REQUIRE(pool.mount().has_value());
      filled.check_all();
      const auto& metrics = pool.fs().store().metrics();
      CHECK(metrics.unrecoverable_blocks.sum() == 0);
      // Reads prefer either copy; once all of one disk has been read through the other is mended.
      CHECK(metrics.checksum_errors.sum() == metrics.repairs.sum());
      CHECK(metrics.checksum_errors.sum() > 0);
      filled.check_all();
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({1}).has_value());
    }
  }

  TEST_CASE(
      "a block without a good copy is an error for its reader and is named, never wrong bytes") {
    SimPoolOptions options;
    options.disk_bytes = {64 * kMiB, 64 * kMiB};
    Filled filled(3, options);
    SimPool& pool = filled.pool;
    REQUIRE(pool.unmount().has_value());
    const std::string wanted = pattern(4, Filled::size(4)).substr(8 * kBlockBytes, 64);
    Bytes block(kBlockBytes);
    int hits = 0;
    for (const auto& media : pool.media) {
      for (std::uint64_t at = 8 * kMiB; at < media->size_bytes(); at += kBlockBytes) {
        media->read(at, block);
        if (as_text(block).substr(0, 64) != wanted) continue;
        media->flip(at + 17, 3);
        ++hits;
      }
    }
    REQUIRE(hits == 2);
    REQUIRE(pool.mount().has_value());
    const auto bad = pool.read("f4", 8 * kBlockBytes, kBlockBytes);
    REQUIRE_FALSE(bad.has_value());
    CHECK(code_name(bad.error().code) == code_name(Code::kCorrupt));
    CHECK(pool.run(pool.fs().damaged_files()) == std::vector<std::string>{"/f4"});
    CHECK(pool.read("f4", 0, 8 * kBlockBytes).value() ==
          pattern(4, Filled::size(4)).substr(0, 8 * kBlockBytes));
  }

  TEST_CASE("a full pool says so, can delete, and takes new data afterwards") {
    SimPoolOptions options;
    options.disk_bytes = {48 * kMiB, 48 * kMiB};
    SimPool pool(1, options);
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int round = 0; round < 3; ++round) {
      int files = 0;
      Result<void> wrote;
      while (wrote.has_value() && files < 200) {
        const std::string name = "full" + std::to_string(files++);
        REQUIRE(pool.create(name).has_value());
        wrote = pool.write(name, 0, pattern(static_cast<std::uint64_t>(files), 700'000));
      }
      REQUIRE_FALSE(wrote.has_value());
      CHECK(code_name(wrote.error().code) == code_name(Code::kNoSpace));
      CHECK(files > 20);
      for (int i = 0; i < files; ++i) REQUIRE(pool.unlink("full" + std::to_string(i)).has_value());
    }
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    CHECK(pool.dump().value().empty());
  }

  TEST_CASE("a file that was unlinked while open is gone after a crash, and its space is back") {
    SimPool pool(1);
    pool.format();
    REQUIRE(pool.mount().has_value());
    const std::uint64_t free = pool.fs().statfs().free_bytes;
    REQUIRE(pool.create("open").has_value());
    const InodeId inode = pool.run(pool.fs().lookup(kRootInode, "open")).value().inode;
    REQUIRE(pool.run(SimPool::write_task(&pool.fs(), inode, 0, pattern(1, 2'000'000))).has_value());
    REQUIRE(pool.unlink("open").has_value());
    // Still there for whoever has it.
    CHECK(pool.run(SimPool::read_task(&pool.fs(), inode, 5, 100)).value() ==
          pattern(1, 2'000'000).substr(5, 100));
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    pool.power_cut();
    REQUIRE(pool.mount().has_value());
    CHECK(pool.fs().mount_report().orphans_removed == 1);
    CHECK(pool.dump().value().empty());
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    // An open chunk that got its first block may have taken a slot for good.
    CHECK(pool.fs().statfs().free_bytes + 8 * kMiB >= free);
  }

  TEST_CASE("an inode number is never used twice, not even one that a crash took back") {
    SimPool pool(1);
    pool.format();
    std::uint64_t newest = 0;
    for (int round = 0; round < 4; ++round) {
      REQUIRE(pool.mount().has_value());
      for (int i = 0; i < 5; ++i) {
        const std::string name = "n" + std::to_string(round) + "-" + std::to_string(i);
        REQUIRE(pool.create(name).has_value());
        const std::uint64_t inode = pool.stat(name).value().inode.raw;
        CHECK(inode > newest);
        newest = inode;
      }
      pool.power_cut();  // nothing was synced: the names are gone, the numbers stay used
    }
  }
}

}  // namespace dynamicfs::test
