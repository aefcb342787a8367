// Compaction: what is scattered comes together, what is sparse becomes empty, and nobody sees it happen.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/fs/whole.hpp"
#include "tests/support/held_disk.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

constexpr std::uint64_t kWindow = kMiB;

// One block after the other of the first MiB in random order, between blocks of another file, so that
// no two neighbours lie together.
void scatter(SimPool& pool, std::uint64_t seed, std::string* content) {
  std::vector<std::size_t> order(kWindow / kBlockBytes);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::mt19937_64 random(seed);
  std::ranges::shuffle(order, random);
  for (const std::size_t block : order) {
    const std::string text = pattern(random(), kBlockBytes);
    REQUIRE(pool.write("f", block * kBlockBytes, text).has_value());
    content->replace(block * kBlockBytes, kBlockBytes, text);
  }
}

// How many requests to the disks a read of the first MiB is.
std::uint64_t reads_of_window(SimPool& pool) {
  const auto sum = [&] {
    std::uint64_t all = 0;
    for (const scheduler::SimulatedDisk* disk : pool.disks) {
      for (const auto& one : disk->metrics().classes) all += one.completed.sum();
    }
    return all;
  };
  const std::uint64_t before = sum();
  REQUIRE(pool.read("f", 0, kWindow).has_value());
  return sum() - before;
}

struct Scattered {
  explicit Scattered(std::uint64_t seed) : pool(seed, one_disk(256 * kMiB)) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    content = pattern(seed, kWindow + 10'000);
    REQUIRE(pool.write("f", 0, content).has_value());
    scatter(pool, seed + 1, &content);
  }
  std::uint64_t windows() { return pool.fs().metrics().compaction_windows.sum(); }

  SimPool pool;
  std::string content;
};

// A pool whose slots are nearly all taken by chunks of which a quarter is in use.
struct Sparse {
  static constexpr int kKept = 4;

  explicit Sparse(std::uint64_t seed, std::size_t disks = 1)
      : options{.disk_bytes = std::vector<std::uint64_t>(disks, 128 * kMiB),
                .policy = {.copies_or_data = static_cast<std::uint8_t>(disks > 1 ? 2 : 1)}},
        pool(seed, options) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    // Pieces of 128 KiB until nothing fits.
    for (;; ++files) {
      const std::string name = name_of(files);
      REQUIRE(pool.create(name).has_value());
      if (!pool.write(name, 0, content_of(files)).has_value()) break;
    }
    REQUIRE(pool.unlink(name_of(files)).has_value());
  }
  void thin_out() {
    for (int i = 0; i < files; ++i) {
      if (i % kKept != 0) REQUIRE(pool.unlink(name_of(i)).has_value());
    }
    checkpoint(pool);
    pool.executor.run_for(std::chrono::seconds{10});  // until what is freed may be used again
  }
  void check_files() {
    for (int i = 0; i < files; i += kKept) {
      const auto text = pool.read(name_of(i));
      REQUIRE(text.has_value());
      REQUIRE(text.value() == content_of(i));
    }
  }
  std::size_t chunks() { return pool.fs().store().chunks().size(); }
  static std::string name_of(int i) { return "f" + std::to_string(i); }
  static std::string content_of(int i) {
    std::string text;
    for (int block = 0; block < 32; ++block) {
      const std::string head = fmt::format("block {} of file {} ", block, i);
      text += head + std::string(kBlockBytes - head.size(), static_cast<char>('a' + i % 26));
    }
    text.resize(text.size() - 100);
    return text;
  }

  SimPoolOptions options;
  SimPool pool;
  int files = 0;
};

}  // namespace

TEST_SUITE("compaction") {
  TEST_CASE(
      "a MiB that small writes have scattered is in one piece again when nobody writes to it") {
    const std::uint64_t seed = seed_from_environment(1);
    CAPTURE(seed);
    Scattered test(seed);
    REQUIRE(reads_of_window(test.pool) > 100);
    test.pool.executor.run_for(std::chrono::minutes{3});
    CHECK(test.windows() == 1);
    CHECK(reads_of_window(test.pool) == 1);
    const auto text = test.pool.read("f");
    REQUIRE(text.has_value());
    CHECK(text.value() == test.content);
    check_whole(test.pool);
    // And stays so.
    test.pool.executor.run_for(std::chrono::seconds{300});
    CHECK(test.windows() == 1);
    REQUIRE(test.pool.unmount().has_value());
    REQUIRE(test.pool.mount().has_value());
    CHECK(reads_of_window(test.pool) <= 3);  // with what the runs have of it
    CHECK(test.pool.read("f").value() == test.content);
  }

  TEST_CASE(
      "a flush of a compaction that fails is a disk that has failed, and no fsync succeeds behind "
      "it") {
    SimPoolOptions options;
    options.disk_bytes = {256 * kMiB};
    options.policy = *journal::Policy::parse("single");
    SimPool pool(seed_from_environment(33), options);
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    std::string content = pattern(33, kWindow);
    REQUIRE(pool.write("f", 0, content).has_value());
    scatter(pool, 33, &content);
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    // Once: the kernel says it to one flush only.
    const auto failed = std::make_shared<int>(0);
    pool.disks[0]->faults().fail = [failed](const scheduler::IoRequest& request) {
      const bool mine = request.op == scheduler::IoOp::kFlush &&
                        request.io_class == scheduler::IoClass::kBackground;
      return mine && (*failed)++ == 0 ? Code::kDiskWrite : Code::kOk;
    };
    const Result<void> compacted = pool.run(pool.fs().compact());
    compacted.ignore("the disk is gone");
    CHECK(*failed == 1);
    CHECK(pool.fs().pool().read_only());
    CHECK_FALSE(pool.write("f", 0, content).has_value());
  }

  TEST_CASE("a MiB that is being written to is left alone") {
    const std::uint64_t seed = seed_from_environment(2);
    CAPTURE(seed);
    Scattered test(seed);
    for (int i = 0; i < 30; ++i) {
      test.pool.executor.run_for(std::chrono::seconds{10});
      REQUIRE(test.pool.write("f", 7 * kBlockBytes, pattern(seed + 100, kBlockBytes)).has_value());
    }
    CHECK(test.windows() == 0);
  }

  // A compaction stands still with its first write; something happens to the file; it goes on.
  struct Interrupted {
    explicit Interrupted(std::uint64_t seed) : pool(seed, one_disk(256 * kMiB)) {
      pool.wrap = [this](std::unique_ptr<scheduler::SimulatedDisk> disk, std::size_t) {
        return std::make_unique<HoldingDisk>(std::move(disk), hold);
      };
      pool.format();
      REQUIRE(pool.mount().has_value());
      REQUIRE(pool.create("f").has_value());
      content = pattern(seed, kWindow);
      REQUIRE(pool.write("f", 0, content).has_value());
      scatter(pool, seed, &content);
      // Two pieces to move: in front of the hole and behind it.
      punch(100, 8);
      hold.which = [](const scheduler::IoRequest& request) {
        return request.io_class == scheduler::IoClass::kBackground &&
               request.op == scheduler::IoOp::kWrite;
      };
      hold.on = true;
      {
        const DriverScope scope(pool.executor);
        spawn(keep(pool.fs().compact(), &done));
      }
      pool.executor.run_for(std::chrono::seconds{1});
      REQUIRE(hold.held.size() == 1);
    }
    void punch(std::uint64_t block, std::uint64_t count) {
      const InodeId inode = pool.resolve("f").value();
      REQUIRE(pool.run(pool.fs().fallocate(inode, fs::FallocateMode::kPunchHole,
                                           block * kBlockBytes, count * kBlockBytes))
                  .has_value());
      content.replace(block * kBlockBytes, count * kBlockBytes, count * kBlockBytes, '\0');
    }
    void go_on() {
      hold.release();
      pool.executor.run_for(std::chrono::seconds{1});
      REQUIRE(done.has_value());
      CHECK(done->has_value());
    }
    std::uint64_t moved() { return pool.fs().metrics().compaction_bytes.sum() / kBlockBytes; }

    Hold hold;
    SimPool pool;
    std::string content;
    std::optional<Result<void>> done;
  };

  TEST_CASE("what is written while a compaction is under way stays") {
    const std::uint64_t seed = seed_from_environment(3);
    CAPTURE(seed);
    Interrupted test(seed);
    const std::string mine = pattern(seed + 1, kBlockBytes);
    REQUIRE(test.pool.write("f", 5 * kBlockBytes, mine).has_value());
    test.content.replace(5 * kBlockBytes, kBlockBytes, mine);
    test.go_on();
    CHECK(test.moved() == 256 - 108);  // the second piece alone
    CHECK(test.pool.read("f").value() == test.content);
    check_whole(test.pool);
    // Once more, with nobody in between.
    REQUIRE(test.pool.run(test.pool.fs().compact()).has_value());
    CHECK(test.moved() == 256 - 108 + 100);
    CHECK(test.pool.read("f").value() == test.content);
    check_whole(test.pool);
  }

  TEST_CASE("what is removed while a compaction is under way stays removed") {
    const std::uint64_t seed = seed_from_environment(31);
    CAPTURE(seed);
    Interrupted test(seed);
    SUBCASE("a hole") {
      test.punch(90, 60);
      const std::uint64_t blocks = test.pool.stat("f")->blocks_512;
      test.go_on();
      CHECK(test.pool.stat("f")->blocks_512 == blocks);
      CHECK(test.pool.read("f").value() == test.content);
    }
    SUBCASE("the end") {
      REQUIRE(test.pool.truncate("f", 3 * kBlockBytes + 5).has_value());
      test.content.resize(3 * kBlockBytes + 5);
      test.go_on();
      CHECK(test.pool.stat("f")->blocks_512 == 4 * 8);
      CHECK(test.pool.read("f").value() == test.content);
    }
    SUBCASE("the file") {
      REQUIRE(test.pool.unlink("f").has_value());
      test.go_on();
      CHECK(test.moved() == 0);
    }
    check_whole(test.pool);
  }

  TEST_CASE("nothing is moved to fewer copies while a disk is away") {
    const std::uint64_t seed = seed_from_environment(32);
    CAPTURE(seed);
    SimPoolOptions options;
    options.disk_bytes = {256 * kMiB, 256 * kMiB};
    SimPool pool(seed, options);
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    std::string content = pattern(seed, kWindow);
    REQUIRE(pool.write("f", 0, content).has_value());
    scatter(pool, seed, &content);
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount({1}).has_value());
    CHECK(pool.run(pool.fs().compact()).error().code == Code::kBusy);
    pool.executor.run_for(std::chrono::minutes{5});
    CHECK(pool.fs().metrics().compaction_bytes.sum() == 0);
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    CHECK(pool.read("f").value() == content);
  }

  TEST_CASE("a hole in a scattered MiB stays a hole") {
    const std::uint64_t seed = seed_from_environment(4);
    CAPTURE(seed);
    Scattered test(seed);
    const InodeId inode = test.pool.resolve("f").value();
    REQUIRE(test.pool
                .run(test.pool.fs().fallocate(inode, fs::FallocateMode::kPunchHole,
                                              20 * kBlockBytes, 30 * kBlockBytes))
                .has_value());
    test.content.replace(20 * kBlockBytes, 30 * kBlockBytes, 30 * kBlockBytes, '\0');
    const std::uint64_t blocks = test.pool.stat("f").value().blocks_512;
    REQUIRE(test.pool.run(test.pool.fs().compact()).has_value());
    CHECK(test.pool.fs().metrics().compaction_bytes.sum() > 100 * kBlockBytes);
    CHECK(test.pool.stat("f").value().blocks_512 == blocks);
    CHECK(test.pool.run(test.pool.fs().seek(inode, 0, fs::SeekKind::kHole)).value() ==
          20 * kBlockBytes);
    CHECK(test.pool.read("f").value() == test.content);
    CHECK(reads_of_window(test.pool) == 2);
    check_whole(test.pool);
  }

  TEST_CASE("sparse chunks are emptied by themselves when slots run short") {
    for (const std::size_t disks : {1u, 3u}) {
      const std::uint64_t seed = seed_from_environment(5);
      CAPTURE(seed);
      CAPTURE(disks);
      Sparse test(seed, disks);
      const std::size_t before = test.chunks();
      test.thin_out();
      const std::uint64_t free_before = test.pool.fs().statfs().free_bytes;
      test.pool.executor.run_for(std::chrono::minutes{5});
      CHECK(test.pool.fs().metrics().compaction_sweeps.sum() >= 1);
      CHECK(test.chunks() < before - before / 10);
      CHECK(test.pool.fs().statfs().free_bytes >= free_before - 2 * kSlotBytes);
      test.check_files();
      check_whole(test.pool);
      // Enough is free now, so that is all.
      const std::uint64_t sweeps = test.pool.fs().metrics().compaction_sweeps.sum();
      test.pool.executor.run_for(std::chrono::minutes{30});
      CHECK(test.pool.fs().metrics().compaction_sweeps.sum() <= sweeps + 1);
      REQUIRE(test.pool.unmount().has_value());
      REQUIRE(test.pool.mount().has_value());
      test.check_files();
      check_whole(test.pool);
    }
  }

  TEST_CASE("a pool with room is left as it is") {
    const std::uint64_t seed = seed_from_environment(6);
    CAPTURE(seed);
    SimPool pool(seed, one_disk(256 * kMiB));
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 100; ++i) {
      REQUIRE(pool.create("f" + std::to_string(i)).has_value());
      REQUIRE(pool.write("f" + std::to_string(i), 0, pattern(1, 128 * kKiB)).has_value());
    }
    for (int i = 0; i < 100; ++i) {
      if (i % 4 != 0) REQUIRE(pool.unlink("f" + std::to_string(i)).has_value());
    }
    pool.executor.run_for(std::chrono::minutes{30});
    CHECK(pool.fs().metrics().compaction_sweeps.sum() == 0);
    CHECK(pool.fs().metrics().compaction_bytes.sum() == 0);
  }

  TEST_CASE("while chunks are emptied a pool holds as much as ever") {
    const std::uint64_t seed = seed_from_environment(7);
    CAPTURE(seed);
    std::vector<int> held;
    for (const bool draining : {false, true}) {
      Sparse test(seed);
      test.thin_out();
      if (draining) {
        REQUIRE(test.pool.fs().store().drain_sparse(extent::Drain::kAll).size() > 3);
      }
      int again = test.files;
      for (;; ++again) {
        REQUIRE(test.pool.create(Sparse::name_of(again)).has_value());
        const std::string content = Sparse::content_of(again);
        if (!test.pool.write(Sparse::name_of(again), 0, content).has_value()) break;
      }
      held.push_back(again - test.files);
      test.pool.fs().store().stop_draining();
      test.check_files();
      for (int i = test.files; i < again; ++i) {
        REQUIRE(test.pool.read(Sparse::name_of(i)).value() == Sparse::content_of(i));
      }
    }
    CAPTURE(held[0]);
    CHECK(held[0] > 100);
    CHECK(held[1] == held[0]);
  }

  TEST_CASE("a power cut in the middle of a compaction loses nothing") {
    std::uint64_t moved = 0;
    for (std::uint64_t i = 0; i < seeds(12); ++i) {
      const std::uint64_t seed = seed_from_environment(1000 + i);
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      Sparse test(seed, 2);
      test.thin_out();
      std::optional<Result<void>> done;
      {
        const DriverScope scope(test.pool.executor);
        spawn(keep(test.pool.fs().compact(), &done));
      }
      test.pool.executor.run_for(std::chrono::milliseconds{random() % 400});
      if (random() % 2 == 0) {
        const Result<void> synced = test.pool.run(test.pool.fs().sync());
        REQUIRE(synced.has_value());
      }
      test.pool.executor.run_for(std::chrono::milliseconds{random() % 100});
      moved += test.pool.fs().metrics().compaction_bytes.sum();
      cut_and_mount(test.pool);
      check_whole(test.pool);
      test.check_files();
      REQUIRE(test.pool.run(test.pool.fs().compact()).has_value());
      check_whole(test.pool);
      test.check_files();
    }
    CHECK(moved > 0);
  }
}

}  // namespace dynamicfs::test
