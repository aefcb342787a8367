// Disks that go and come back while the pool is mounted and used.
#include <doctest/doctest.h>

#include <memory>
#include <optional>
#include <random>

#include "tests/fs/sim_pool.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;

namespace {

// Files that are written all the time, and what they hold when nothing is being written.
struct Used {
  Used(std::uint64_t seed, const char* policy, std::size_t disks = 4)
      : pool(seed, options_of(policy, disks)), random(seed) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 16; ++i) {
      names.push_back("f" + std::to_string(i));
      texts.push_back(pattern(random(), 1 + random() % 400'000));
      REQUIRE(pool.create(names.back()).has_value());
      REQUIRE(pool.write(names.back(), 0, texts.back()).has_value());
    }
    sync();
  }
  ~Used() { rest(); }
  static SimPoolOptions options_of(const char* policy, std::size_t disks) {
    SimPoolOptions options;
    options.disk_bytes.assign(disks, 96 * kMiB);
    options.policy = journal::Policy::parse(policy).value();
    return options;
  }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }

  // From now on four write, each to files of its own.
  void work() {
    working = true;
    for (std::size_t i = 0; i < 4; ++i) {
      ++workers;
      spawn(write_on(this, i, random()));
    }
  }
  // Until what they are at is written.
  void rest() {
    working = false;
    while (workers != 0) pool.executor.run_for(std::chrono::milliseconds{1});
  }
  static Task<void> write_on(Used* self, std::size_t first, std::uint64_t seed) {
    std::mt19937_64 dice(seed);
    fs::Filesystem* const filesystem = &self->pool.fs();
    while (self->working) {
      const std::size_t file = first + 4 * (dice() % 4);
      std::string& text = self->texts[file];
      const std::size_t from = dice() % text.size();
      const std::string piece = pattern(dice(), 1 + dice() % 150'000);
      const auto inode = co_await SimPool::resolve_task(filesystem, self->names[file]);
      DFS_ASSERT(inode.has_value());
      const Result<void> written =
          co_await SimPool::write_task(filesystem, inode.value(), from, piece);
      self->failures += written.has_value() ? 0 : 1;
      if (text.size() < from + piece.size()) text.resize(from + piece.size());
      text.replace(from, piece.size(), piece);
    }
    --self->workers;
  }

  void run_for(std::uint64_t milliseconds) {
    pool.executor.run_for(std::chrono::milliseconds{milliseconds});
  }
  journal::DiskHealth health(std::size_t disk) { return pool.fs().pool().status().at(disk).health; }
  void offline(std::size_t disk) {
    const Result<void> done =
        pool.run(pool.fs().take_offline(DiskId{static_cast<std::uint16_t>(disk)}));
    const std::string why = done.has_value() ? "" : describe(done.error());
    INFO(why);
    REQUIRE(done.has_value());
    CHECK(health(disk) == journal::DiskHealth::kOffline);
  }
  void fail(std::size_t disk) {
    for (scheduler::SimulatedDisk* const one : pool.disks) {
      if (one->path() != "sim" + std::to_string(disk)) continue;
      one->faults().fail = [](const scheduler::IoRequest&) { return Code::kDiskWrite; };
    }
    const TimePoint end = pool.executor.now() + std::chrono::minutes{1};
    while (pool.fs().pool().disk(DiskId{static_cast<std::uint16_t>(disk)}) != nullptr) {
      REQUIRE(pool.executor.now() < end);
      run_for(1);
    }
  }
  void online(std::size_t disk) {
    const auto done = pool.return_disk(disk);
    const std::string why = done.has_value() ? "" : describe(done.error());
    INFO(why);
    REQUIRE(done.has_value());
    CHECK(done->raw == disk);
  }
  void settle() {
    const TimePoint end = pool.executor.now() + std::chrono::minutes{20};
    while (pool.fs().pool().degraded() || pool.fs().store().misplaced_bytes() != 0) {
      REQUIRE(pool.executor.now() < end);
      run_for(1000);
    }
  }
  void check() {
    for (std::size_t i = 0; i < names.size(); ++i) {
      CAPTURE(names[i]);
      const auto read = pool.read(names[i]);
      REQUIRE(read.has_value());
      CHECK((read.value() == texts[i]));
    }
    CHECK(failures == 0);
    CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
  }
  // Everything lies where it should: whatever disk is gone now.
  void check_without_each() {
    for (std::size_t i = 0; i < pool.media.size(); ++i) {
      CAPTURE(i);
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({i}, true).has_value());
      check();
    }
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    check_whole(pool);
  }

  SimPool pool;
  std::mt19937_64 random;
  std::vector<std::string> names;
  std::vector<std::string> texts;
  bool working = false;
  int workers = 0;
  int failures = 0;
};

}  // namespace

TEST_SUITE("online") {
  TEST_CASE(
      "a disk that goes offline and comes back gets what it has missed, while programs write") {
    for (const char* const policy : {"replica:2", "replica:3", "ec:2+1"}) {
      const std::string of = policy;
      CAPTURE(of);
      Used test(seed_from_environment(1), policy);
      test.work();
      test.run_for(20);
      test.offline(1);
      test.run_for(50);
      test.online(1);
      CHECK(test.health(1) == journal::DiskHealth::kStale);
      test.run_for(20);
      test.rest();
      test.sync();
      test.settle();
      CHECK(test.pool.fs().pool().members().size() == 3);
      test.check();
      test.check_without_each();
    }
  }

  TEST_CASE("disks go and come back at any moment, and nothing is lost by it") {
    const std::uint64_t first = seed_from_environment(1);
    const std::uint64_t count = seeds(8);
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
      CAPTURE(seed);
      constexpr const char* kPolicies[] = {"replica:2", "replica:3", "ec:2+1"};
      Used test(seed, kPolicies[seed % 3]);
      for (int round = 0; round < 4; ++round) {
        CAPTURE(round);
        test.work();
        test.run_for(test.random() % 30);
        const std::size_t disk = test.random() % 4;
        if (test.random() % 2 == 0) {
          test.offline(disk);
        } else {
          const Quiet quiet;
          test.fail(disk);
        }
        test.run_for(test.random() % 60);
        test.online(disk);
        test.run_for(test.random() % 30);
        if (test.random() % 3 == 0) {
          // Gone again before it has everything.
          const Quiet quiet;
          test.fail(disk);
          test.online(disk);
        }
        test.rest();
        if (test.random() % 2 == 0) {
          test.sync();
          test.pool.power_cut();
          const Result<void> mounted = test.pool.mount();
          CAPTURE(test.pool.problem.text);
          REQUIRE(mounted.has_value());
        }
        test.settle();
        test.check();
      }
      test.check_without_each();
    }
  }

  TEST_CASE("a disk is not whole before what was being written without it is published") {
    Used test(seed_from_environment(1), "replica:2", 2);
    // Both have a place for it, and one fails under it.
    for (scheduler::SimulatedDisk* const disk : test.pool.disks) {
      if (disk->path() == "sim1")
        disk->faults().fail = [](const scheduler::IoRequest&) { return Code::kDiskWrite; };
    }
    const auto policy = test.pool.fs().pool().policy();
    const Buffer data{8 * kBlockBytes};
    std::optional<extent::Written> written;
    {
      const Quiet quiet;
      extent::WriteHint hint;
      hint.inode = InodeId{900};
      hint.policy = policy;
      auto done = test.pool.run(test.pool.fs().store().write(hint, data.span()));
      REQUIRE(done.has_value());
      written = std::move(*done);
    }
    test.online(1);
    test.run_for(180'000);
    CHECK(test.health(1) == journal::DiskHealth::kStale);
    test.pool.fs().store().discard(*written);
    written.reset();
    test.settle();
    test.check();
    test.check_without_each();
  }

  TEST_CASE("a disk that has come back may go again before it has everything") {
    Used test(seed_from_environment(1), "replica:2");
    test.offline(1);
    test.work();
    test.run_for(50);
    test.rest();
    test.online(1);
    CHECK(test.health(1) == journal::DiskHealth::kStale);
    test.offline(1);
    test.online(1);
    test.settle();
    test.check();
  }

  TEST_CASE(
      "what an answer says of a disk that was there before is not held against the one that is") {
    Used test(seed_from_environment(1), "replica:2");
    journal::Pool& pool = test.pool.fs().pool();
    const scheduler::Disk* const before = pool.disk(DiskId{1});
    test.offline(1);
    test.online(1);
    const Result<void> late =
        test.pool.run(pool.report_failure(DiskId{1}, error(Code::kDiskGone), before));
    CHECK(late.has_value());
    CHECK(pool.disk(DiskId{1}) != nullptr);
    const Result<void> gone = test.pool.run(pool.remove_disk(DiskId{1}));
    REQUIRE(!gone.has_value());
    CHECK(gone.error().code == Code::kBusy);
    const Result<void> lost =
        test.pool.run(pool.set_leaving(DiskId{1}, journal::Pool::Leaving::kWhileAway));
    REQUIRE(!lost.has_value());
    CHECK(lost.error().code == Code::kBusy);
    test.settle();
  }

  TEST_CASE("what cannot be done without stays online") {
    Used test(seed_from_environment(1), "replica:2");
    test.offline(3);
    const Result<void> refused = test.pool.run(test.pool.fs().take_offline(DiskId{2}));
    REQUIRE(!refused.has_value());
    CHECK(refused.error().code == Code::kTooFewDisks);
    const Result<void> again = test.pool.run(test.pool.fs().take_offline(DiskId{3}));
    REQUIRE(!again.has_value());
    CHECK(again.error().code == Code::kDiskGone);
    const Result<void> unknown = test.pool.run(test.pool.fs().take_offline(DiskId{9}));
    REQUIRE(!unknown.has_value());
    CHECK(unknown.error().code == Code::kNotInPool);
    CHECK(test.health(2) == journal::DiskHealth::kHealthy);
    test.check();
  }

  TEST_CASE("a disk that is no part of the pool, or not as it was, does not come back") {
    Used test(seed_from_environment(1), "replica:2");
    const auto here = test.pool.return_disk(0);
    REQUIRE(!here.has_value());
    CHECK(here.error().code == Code::kBusy);

    // Mounted alone meanwhile.
    test.sync();
    test.offline(1);
    {
      SimPool apart(99, Used::options_of("replica:2", 4));
      for (std::size_t i = 0; i < 4; ++i)
        apart.media[i] = std::make_shared<scheduler::SimulatedMedia>(test.pool.media[i]->clone());
      REQUIRE(apart.mount({0}).has_value());
      REQUIRE(apart.unmount().has_value());
      test.pool.media[1] = apart.media[1];
    }
    const auto apart = test.pool.return_disk(1);
    REQUIRE(!apart.has_value());
    CHECK(apart.error().code == Code::kSplitBrain);

    // Of another pool.
    SimPool other(7, Used::options_of("replica:2", 4));
    other.format();
    test.pool.media[1] = other.media[1];
    const auto strange = test.pool.return_disk(1);
    REQUIRE(!strange.has_value());
    CHECK(strange.error().code == Code::kNotInPool);

    // Of nobody.
    test.pool.media[1] = std::make_shared<scheduler::SimulatedMedia>(96 * kMiB);
    const auto empty = test.pool.return_disk(1);
    REQUIRE(!empty.has_value());
    CHECK(empty.error().code == Code::kFormatMagic);

    CHECK(test.health(1) == journal::DiskHealth::kOffline);
    test.check();
  }

  TEST_CASE("a disk that comes back before what it had is made anew keeps it") {
    Used test(seed_from_environment(1), "replica:2");
    test.pool.fs().pause_rebuild(true);
    test.offline(2);
    while (!test.pool.fs().pool().is_leaving(DiskId{2})) test.run_for(1000);
    test.online(2);
    test.settle();
    CHECK_FALSE(test.pool.fs().pool().is_leaving(DiskId{2}));
    CHECK(test.pool.fs().store().metrics().chunks_moved.sum() == 0);
    test.check();
    test.check_without_each();
  }

  TEST_CASE(
      "a spare takes nothing, is not missed, and takes the place of the next disk that is lost") {
    Used test(seed_from_environment(1), "replica:2", 3);
    const auto room = [&] { return test.pool.fs().statfs().total_bytes; };
    const auto spare_of = [&] { return test.pool.fs().pool().status().at(3).record.spare; };
    const std::uint64_t room_before = room();
    REQUIRE(test.pool.add_disk(96 * kMiB, true).has_value());
    const DiskId spare{3};
    CHECK(spare_of());
    CHECK(room() == room_before);
    test.work();
    test.run_for(300);
    test.rest();
    test.sync();
    test.run_for(60'000);
    CHECK(test.pool.fs().store().chunks_on(spare).empty());
    CHECK(test.pool.fs().rebuild_report().running == false);

    // Away with another one, in a pool that can do without one.
    REQUIRE(test.pool.unmount().has_value());
    REQUIRE(test.pool.mount({1, 3}).has_value());
    CHECK_FALSE(test.pool.fs().pool().read_only());
    test.check();
    REQUIRE(test.pool.unmount().has_value());
    REQUIRE(test.pool.mount().has_value());
    test.settle();
    CHECK(spare_of());

    test.offline(1);
    test.work();
    test.run_for(100);
    test.rest();
    while (test.pool.fs().pool().status().size() == 4) test.run_for(1000);
    CHECK_FALSE(test.pool.fs().pool().status().at(2).record.spare);
    CHECK_FALSE(test.pool.fs().store().chunks_on(spare).empty());
    test.check();
    test.pool.media.erase(test.pool.media.begin() + 1);
    REQUIRE(test.pool.unmount().has_value());
    REQUIRE(test.pool.mount().has_value());
    test.check_without_each();
  }
}
