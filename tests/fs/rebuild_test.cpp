// The life of disks: added, removed, lost, replaced and balanced, while the pool is in use and across crashes.
#include <doctest/doctest.h>

#include <random>

#include "tests/fs/sim_pool.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;

namespace {

constexpr journal::Policy copies(std::uint8_t count) { return {.copies_or_data = count}; }
constexpr journal::Policy erasure(std::uint8_t data, std::uint8_t parity) {
  return {.kind = journal::Policy::Kind::kErasure, .copies_or_data = data, .parity = parity};
}

// Files that are known, and change all the time.
struct Archive {
  explicit Archive(std::uint64_t seed, journal::Policy policy, std::vector<std::uint64_t> disks)
      : pool(seed, options_of(policy, std::move(disks))), random(seed) {
    pool.format();
    REQUIRE(pool.mount().has_value());
  }
  static SimPoolOptions options_of(journal::Policy policy, std::vector<std::uint64_t> disks) {
    SimPoolOptions options;
    options.disk_bytes = std::move(disks);
    options.policy = policy;
    return options;
  }
  void add(int count, std::size_t size) {
    for (int i = 0; i < count; ++i) {
      const std::string name = "f" + std::to_string(files.size());
      REQUIRE(pool.create(name).has_value());
      change(name, size / 2 + random() % size);
    }
  }
  void change(const std::string& name, std::size_t size) {
    std::string text = pattern(random(), size);
    REQUIRE(pool.write(name, 0, text).has_value());
    std::string& known = files[name];
    if (known.size() > text.size()) text += known.substr(text.size());
    known = std::move(text);
  }
  void check() {
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const auto read = pool.read(name);
      REQUIRE(read.has_value());
      CHECK((read.value() == text));
    }
    CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
    CHECK(pool.fs().store().metrics().unrecoverable_blocks.sum() == 0);
  }
  // With all disks that are not wiped.
  void mount() {
    std::vector<std::size_t> away;
    for (std::size_t i = 0; i < pool.media.size(); ++i) {
      Buffer block{kBlockBytes};
      pool.media[i]->read(0, block.span());
      if (load<std::uint64_t>(block.data()) == 0) away.push_back(i);
    }
    const Result<void> mounted = pool.mount(away);
    CAPTURE(pool.problem.text);
    if (!mounted.has_value()) FAIL_CHECK(describe(mounted.error()));
    REQUIRE(mounted.has_value());
  }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }
  static DiskId id(std::size_t disk) { return DiskId{static_cast<std::uint16_t>(disk)}; }
  Result<void> remove(std::size_t disk) {
    return pool.run(pool.fs().remove_disk(id(disk), &missing_bytes));
  }
  bool has(std::size_t disk) { return pool.fs().pool().superblock().find(id(disk)) != nullptr; }
  // Works on until everything is where it should be.
  void settle(Duration most = std::chrono::minutes{10}) {
    const TimePoint end = pool.executor.now() + most;
    while (!done()) {
      REQUIRE(pool.executor.now() < end);
      pool.executor.run_for(std::chrono::seconds{1});
    }
  }
  bool done() {
    const fs::RebuildReport report = pool.fs().rebuild_report();
    const auto disks = pool.fs().pool().status();
    return report.left_bytes == 0 && !report.rebalancing &&
           std::ranges::none_of(disks, [](const auto& disk) { return disk.record.leaving; });
  }
  std::uint64_t used(std::size_t disk) {
    for (const auto& [known, bytes] :
         pool.fs().store().space(pool.fs().pool().policy()).used_by_disk)
      if (known == id(disk)) return bytes;
    return 0;
  }

  SimPool pool;
  std::mt19937_64 random;
  std::map<std::string, std::string> files;
  std::uint64_t missing_bytes = 0;
};

std::vector<std::uint64_t> equal(std::size_t count, std::uint64_t bytes = 96 * kMiB) {
  return std::vector<std::uint64_t>(count, bytes);
}

}  // namespace

TEST_SUITE("the life of disks") {
  TEST_CASE("a disk that is removed is emptied, leaves the pool, and is nobody's afterwards") {
    const std::uint64_t seed = seed_from_environment(1);
    CAPTURE(seed);
    for (const journal::Policy policy : {copies(1), copies(2), erasure(2, 1)}) {
      CAPTURE(policy.text());
      Archive archive(seed, policy, equal(4));
      archive.add(60, 300'000);
      archive.sync();
      REQUIRE(archive.remove(1).has_value());
      CHECK(archive.pool.fs().rebuild_report().left_bytes > 0);
      archive.settle();
      CHECK_FALSE(archive.has(1));
      CHECK_FALSE(archive.pool.fs().pool().degraded());
      archive.check();
      check_whole(archive.pool);
      archive.add(20, 300'000);
      REQUIRE(archive.pool.unmount().has_value());
      // It is not asked for, and not taken for one of the pool.
      REQUIRE(archive.pool.mount({1}).has_value());
      CHECK_FALSE(archive.pool.fs().pool().degraded());
      archive.check();
      check_whole(archive.pool);
      // And can be made part of it again, under another number.
      const DiskId next = archive.pool.fs().pool().superblock().next_disk;
      CHECK(next == DiskId{4});
    }
  }

  TEST_CASE("when a disk leaves and another is lost, the one that leaves is better than no room") {
    const std::uint64_t seed = seed_from_environment(11);
    for (const journal::Policy policy : {copies(2), copies(3), erasure(2, 1)}) {
      CAPTURE(policy.text());
      Archive archive(seed, policy, equal(policy.width() + 1));
      archive.add(30, 300'000);
      archive.sync();
      REQUIRE(archive.remove(1).has_value());
      archive.pool.disks[0]->fail();
      archive.add(30, 300'000);
      archive.sync();
      archive.check();
      REQUIRE(archive.pool.add_disk(96 * kMiB).has_value());
      REQUIRE(archive.pool.add_disk(96 * kMiB).has_value());
      archive.pool.executor.run_for(std::chrono::minutes{12});
      archive.settle();
      CHECK_FALSE(archive.has(0));
      CHECK_FALSE(archive.has(1));
      CHECK(archive.pool.fs().store().space(policy).degraded_chunks == 0);
      archive.check();
      check_whole(archive.pool);
    }
  }

  TEST_CASE("a disk that leaves an idle pool hands the log on, so that as many may go as before") {
    const std::uint64_t seed = seed_from_environment(12);
    Archive archive(seed, copies(3), equal(4));
    archive.add(30, 300'000);
    archive.sync();
    REQUIRE(archive.remove(0).has_value());
    archive.settle();
    REQUIRE_FALSE(archive.has(0));
    CHECK(archive.pool.fs().pool().members().size() == 3);
    REQUIRE(archive.pool.unmount().has_value());
    REQUIRE(archive.pool.mount({0, 1, 2}).has_value());
    archive.check();
    check_whole(archive.pool);
  }

  TEST_CASE("what would not hold is refused, with how much is missing, and nothing has changed") {
    const std::uint64_t seed = seed_from_environment(2);
    CAPTURE(seed);
    Archive archive(seed, copies(2), equal(3, 64 * kMiB));
    archive.add(125, 500'000);
    CHECK(archive.remove(0).error() == error(Code::kNoSpace));
    CHECK(archive.missing_bytes > 0);
    CHECK(archive.missing_bytes < 64 * kMiB);
    CHECK(archive.remove(7).error().code == Code::kNotInPool);
    CHECK(archive.done());
    REQUIRE(archive.pool.add_disk(128 * kMiB).has_value());
    REQUIRE(archive.remove(0).has_value());
    archive.settle();
    CHECK(archive.remove(1).error() == error(Code::kNoSpace));
    archive.check();
    Archive two(seed, copies(2), equal(2));
    CHECK(two.remove(0).error() == error(Code::kTooFewDisks, 2));
    CHECK(two.done());
  }

  TEST_CASE("of two disks without redundancy one can go, and checkpoints find room on the other") {
    const std::uint64_t seed = seed_from_environment(8);
    CAPTURE(seed);
    Archive archive(seed, copies(1), equal(2));
    archive.add(60, 300'000);
    archive.sync();
    REQUIRE(archive.pool.run(archive.pool.fs().checkpoint()).has_value());
    REQUIRE(archive.remove(1).has_value());
    archive.settle();
    CHECK_FALSE(archive.has(1));
    archive.check();
    check_whole(archive.pool);
    REQUIRE(archive.pool.unmount().has_value());
    REQUIRE(archive.pool.mount({1}).has_value());
    archive.check();
  }

  TEST_CASE("a removal goes on after a crash, and can be called off") {
    const std::uint64_t first = seed_from_environment(3);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Archive archive(seed, seed % 2 == 0 ? copies(2) : erasure(2, 1), equal(4));
      archive.add(60, 300'000);
      archive.sync();
      REQUIRE(archive.remove(seed % 4).has_value());
      archive.pool.executor.run_for(std::chrono::milliseconds{archive.random() % 8000});
      archive.pool.power_cut();
      archive.mount();
      archive.check();
      if (archive.has(seed % 4) && seed % 3 == 0) {
        REQUIRE(archive.pool.run(archive.pool.fs().keep_disk(archive.id(seed % 4))).has_value());
        archive.settle();
        CHECK(archive.has(seed % 4));
      } else {
        archive.settle();
        CHECK_FALSE(archive.has(seed % 4));
      }
      archive.check();
      check_whole(archive.pool);
    }
  }

  TEST_CASE("a lost disk is rebuilt by itself after a while, and another may go then") {
    const std::uint64_t seed = seed_from_environment(4);
    for (const journal::Policy policy : {copies(2), copies(3), erasure(2, 1)}) {
      CAPTURE(policy.text());
      Archive archive(seed, policy, equal(5));
      archive.add(60, 300'000);
      archive.sync();
      archive.pool.disks[2]->fail();
      for (int minute = 0; minute < 9; ++minute) {
        archive.change("f" + std::to_string(archive.random() % 60), 100'000);
        archive.pool.executor.run_for(std::chrono::minutes{1});
      }
      CHECK(archive.has(2));
      CHECK(archive.pool.fs().pool().degraded());
      archive.pool.executor.run_for(std::chrono::minutes{3});
      archive.settle();
      CHECK_FALSE(archive.has(2));
      CHECK_FALSE(archive.pool.fs().pool().degraded());
      CHECK(archive.pool.fs().store().space(policy).degraded_chunks == 0);
      archive.pool.disks[0]->fail();
      archive.check();
      REQUIRE(archive.pool.unmount().has_value());
      REQUIRE(archive.pool.mount({0, 2}).has_value());
      archive.check();
      check_whole(archive.pool);
    }
  }

  TEST_CASE("a lost disk that is found again before it is rebuilt stays") {
    const std::uint64_t seed = seed_from_environment(5);
    CAPTURE(seed);
    Archive archive(seed, copies(2), equal(4));
    archive.add(60, 300'000);
    REQUIRE(archive.pool.unmount().has_value());
    REQUIRE(archive.pool.mount({3}).has_value());
    archive.pool.fs().pause_rebuild(true);
    archive.pool.executor.run_for(std::chrono::minutes{12});
    const auto record = *archive.pool.fs().pool().superblock().find(archive.id(3));
    CHECK(record.leaving);
    CHECK(record.lost);
    archive.change("f3", 100'000);
    REQUIRE(archive.pool.unmount().has_value());
    REQUIRE(archive.pool.mount().has_value());
    CHECK_FALSE(archive.pool.fs().pool().superblock().find(archive.id(3))->leaving);
    archive.settle();
    CHECK(archive.has(3));
    archive.check();
    check_whole(archive.pool);
  }

  TEST_CASE("a pool grows: what is new is used, and balanced when that is asked for") {
    const std::uint64_t seed = seed_from_environment(6);
    CAPTURE(seed);
    Archive archive(seed, copies(2), equal(2, 64 * kMiB));
    archive.add(60, 400'000);
    const std::uint64_t before = archive.pool.fs().statfs().total_bytes;
    REQUIRE(archive.pool.add_disk(256 * kMiB).has_value());
    CHECK(archive.pool.fs().statfs().total_bytes > before);
    CHECK(archive.used(2) == 0);
    REQUIRE(archive.pool.run(archive.pool.fs().rebalance(true)).has_value());
    archive.pool.executor.run_for(std::chrono::milliseconds{5500});
    archive.pool.power_cut();
    archive.mount();
    archive.settle();
    const auto ratio = [&](std::size_t disk) {
      return static_cast<double>(archive.used(disk)) /
             static_cast<double>(archive.pool.fs().pool().slot_count(archive.id(disk)) *
                                 kSlotBytes);
    };
    CHECK(archive.used(2) > 0);
    CHECK(std::abs(ratio(0) - ratio(1)) < 0.15);
    archive.check();
    check_whole(archive.pool);
    REQUIRE(archive.pool.unmount().has_value());
    REQUIRE(archive.pool.mount({0}).has_value());
    archive.check();
  }

  TEST_CASE(
      "a fourth disk gets as much as the others have: chunks that cannot go there are passed "
      "over") {
    Archive archive(seed_from_environment(7), copies(2), equal(3, 128 * kMiB));
    archive.add(40, 4'000'000);
    archive.sync();
    REQUIRE(archive.pool.add_disk(128 * kMiB).has_value());
    REQUIRE(archive.pool.run(archive.pool.fs().rebalance(true)).has_value());
    archive.settle();
    std::uint64_t least = archive.used(0);
    std::uint64_t most = least;
    for (std::size_t disk = 1; disk < 4; ++disk) {
      least = std::min(least, archive.used(disk));
      most = std::max(most, archive.used(disk));
    }
    CHECK(least >= 40 * kMiB);
    CHECK(most - least <= 3 * kSlotBytes);
    archive.check();
    check_whole(archive.pool);
  }

  TEST_CASE("a pool that was mounted read-only takes no disk") {
    Archive archive(seed_from_environment(8), copies(2), equal(2, 64 * kMiB));
    archive.add(5, 100'000);
    REQUIRE(archive.pool.unmount().has_value());
    REQUIRE(archive.pool.mount({}, true).has_value());
    for (const bool spare : {false, true}) {
      const auto added = archive.pool.add_disk(64 * kMiB, spare);
      REQUIRE_FALSE(added.has_value());
      CHECK(added.error().code == Code::kReadOnly);
      archive.pool.media.pop_back();
    }
    archive.check();
  }

  TEST_CASE("what finds no room is told, and goes on when there is some") {
    const std::uint64_t seed = seed_from_environment(9);
    CAPTURE(seed);
    Archive archive(seed, copies(1), equal(3, 64 * kMiB));
    archive.add(40, 500'000);
    archive.sync();
    archive.pool.fs().pause_rebuild(true);
    REQUIRE(archive.remove(0).has_value());
    std::vector<std::string> fillers;
    for (bool full = false; !full;) {
      fillers.push_back("filler" + std::to_string(fillers.size()));
      REQUIRE(archive.pool.create(fillers.back()).has_value());
      full = !archive.pool.write(fillers.back(), 0, pattern(fillers.size(), 1'000'000)).has_value();
    }
    CHECK(archive.pool.fs().rebuild_report().stuck_chunks == 0);
    archive.pool.fs().pause_rebuild(false);
    archive.pool.executor.run_for(std::chrono::seconds{90});
    const fs::RebuildReport report = archive.pool.fs().rebuild_report();
    CHECK(report.stuck_chunks > 0);
    CHECK(report.obstacle.code == Code::kNoSpace);
    CHECK(archive.has(0));
    for (const std::string& name : fillers) REQUIRE(archive.pool.unlink(name).has_value());
    archive.settle();
    CHECK_FALSE(archive.has(0));
    archive.check();
    check_whole(archive.pool);
  }

  TEST_CASE("a scrub follows when something was made anew, and none when all could be copied") {
    const std::uint64_t seed = seed_from_environment(10);
    CAPTURE(seed);
    Archive archive(seed, copies(2), equal(4));
    archive.add(40, 300'000);
    archive.sync();
    REQUIRE(archive.remove(0).has_value());
    archive.settle();
    archive.pool.executor.run_for(std::chrono::minutes{2});
    CHECK(archive.pool.fs().store().metrics().made_anew_bytes.sum() == 0);
    CHECK(archive.pool.fs().metrics().scrubs_started.sum() == 0);
    archive.pool.disks[1]->fail();
    archive.pool.executor.run_for(std::chrono::minutes{12});
    archive.settle();
    archive.pool.executor.run_for(std::chrono::minutes{2});
    CHECK(archive.pool.fs().store().metrics().made_anew_bytes.sum() > 0);
    CHECK(archive.pool.fs().metrics().scrubs_started.sum() == 1);
    archive.check();
  }

  TEST_CASE(
      "while files change, disks come and go, and the power fails, what was synced is there") {
    const std::uint64_t first = seed_from_environment(7);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      const journal::Policy policy = seed % 3 == 0   ? erasure(2, 1)
                                     : seed % 3 == 1 ? copies(2)
                                                     : copies(3);
      Archive archive(seed, policy, equal(4));
      archive.add(40, 200'000);
      archive.sync();
      for (int round = 0; round < 12; ++round) {
        CAPTURE(round);
        switch (archive.random() % 4) {
          case 0: {
            const auto staying = archive.pool.fs().pool().staying();
            const Result<void> removed =
                archive.remove((*staying)[archive.random() % staying->size()].raw);
            removed.ignore("it may be one too many");
            break;
          }
          case 1:
            if (archive.pool.media.size() < 12)
              REQUIRE(archive.pool.add_disk((64 + archive.random() % 64) * kMiB).has_value());
            break;
          case 2: REQUIRE(archive.pool.run(archive.pool.fs().rebalance(true)).has_value()); break;
          default: break;
        }
        for (int i = 0; i < 10; ++i) {
          archive.change("f" + std::to_string(archive.random() % 40),
                         1 + archive.random() % 200'000);
          archive.pool.executor.run_for(std::chrono::milliseconds{archive.random() % 1500});
        }
        if (archive.random() % 3 == 0) {
          archive.sync();
          if (archive.random() % 2 == 0) {
            archive.pool.power_cut();
            archive.mount();
          }
          archive.check();
        }
      }
      archive.settle();
      archive.check();
      check_whole(archive.pool);
      REQUIRE(archive.pool.unmount().has_value());
      archive.mount();
      archive.check();
      CHECK(archive.pool.fs().store().metrics().checksum_errors.sum() == 0);
    }
  }
}
