// Disks that were away and come back: they get what they have missed, by themselves.
#include <doctest/doctest.h>

#include <memory>
#include <random>

#include "tests/fs/sim_pool.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;

namespace {

struct Returning {
  Returning(std::uint64_t seed, const char* policy) : pool(seed, options_of(policy)), random(seed) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 40; ++i) write(i, 1 + random() % 300'000);
    sync();
  }
  static SimPoolOptions options_of(const char* policy) {
    SimPoolOptions options;
    options.disk_bytes.assign(4, 96 * kMiB);
    options.policy = journal::Policy::parse(policy).value();
    return options;
  }
  void write(int number, std::size_t size) {
    const std::string name = "f" + std::to_string(number);
    std::string& text = files[name];
    if (text.empty()) REQUIRE(pool.create(name).has_value());
    const std::size_t from = text.empty() ? 0 : random() % text.size();
    const std::string piece = pattern(random(), size);
    REQUIRE(pool.write(name, from, piece).has_value());
    if (text.size() < from + size) text.resize(from + size);
    text.replace(from, size, piece);
  }
  void remove(int number) {
    if (files.erase("f" + std::to_string(number)) != 0)
      REQUIRE(pool.unlink("f" + std::to_string(number)).has_value());
  }
  void change(int times) {
    for (int i = 0; i < times; ++i) {
      if (random() % 5 == 0) {
        remove(static_cast<int>(random() % 60));
      } else {
        write(static_cast<int>(random() % 60), 1 + random() % 200'000);
      }
    }
  }
  void mount(const std::vector<std::size_t>& away = {}) {
    const Result<void> mounted = pool.mount(away);
    CAPTURE(pool.problem.text);
    REQUIRE(mounted.has_value());
  }
  void remount(const std::vector<std::size_t>& away = {}) {
    REQUIRE(pool.unmount().has_value());
    mount(away);
  }
  // Its n-th write from now fails, and so it is out.
  void fail_in(std::size_t disk, int writes) {
    pool.disks[disk]->faults().fail = [left = std::make_shared<int>(writes)](
                                          const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite && --*left <= 0 ? Code::kDiskWrite : Code::kOk;
    };
  }
  bool stale() {
    return std::ranges::any_of(pool.fs().pool().status(), [](const journal::DiskStatus& disk) {
      return disk.health == journal::DiskHealth::kStale;
    });
  }
  void settle() {
    const TimePoint end = pool.executor.now() + std::chrono::minutes{20};
    while (stale()) {
      REQUIRE(pool.executor.now() < end);
      pool.executor.run_for(std::chrono::seconds{1});
    }
  }
  void check() {
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const auto read = pool.read(name);
      REQUIRE(read.has_value());
      CHECK((read.value() == text));
    }
    CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
    CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
  }
  // Whatever disk is gone now.
  void check_without_each() {
    for (std::size_t i = 0; i < pool.media.size(); ++i) {
      CAPTURE(i);
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({i}, true).has_value());
      check();
    }
    remount();
  }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }

  SimPool pool;
  std::mt19937_64 random;
  std::map<std::string, std::string> files;
};

constexpr const char* kPolicies[] = {"replica:2", "replica:3", "ec:2+1"};

}  // namespace

TEST_SUITE("resync") {
  TEST_CASE("a disk that comes back gets what it has missed, and nothing else") {
    for (const char* const policy : kPolicies) {
      const std::string of = policy;
      CAPTURE(of);
      Returning test(seed_from_environment(1), policy);
      test.fail_in(0, 3);
      test.change(25);
      test.sync();
      REQUIRE(test.pool.fs().pool().degraded());
      const std::uint64_t everything = test.pool.fs().store().live_blocks() * kBlockBytes;
      test.remount();
      CHECK(test.stale());
      test.settle();
      const std::uint64_t resynced = test.pool.fs().metrics().resynced_bytes.sum();
      CHECK(resynced > 0);
      CHECK(resynced < everything / 4);
      CHECK(test.pool.fs().metrics().scrub_read_bytes.sum() == 0);
      test.check();
      check_whole(test.pool);
      test.check_without_each();
    }
  }

  TEST_CASE("while files change, and across power cuts, it ends with every disk whole") {
    const std::uint64_t first = seed_from_environment(2);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Returning test(seed, kPolicies[seed % 3]);
      for (int round = 0; round < 3; ++round) {
        if (test.random() % 3 == 0) {
          test.remount({test.random() % 4});
        } else {
          test.fail_in(test.random() % 4, 1 + static_cast<int>(test.random() % 5));
        }
        test.change(15);
        test.sync();
        test.pool.power_cut();
        test.mount();
        for (int cut = 0; cut < 2; ++cut) {
          for (int i = 0; i < 4; ++i) {
            test.change(2);
            test.pool.executor.run_for(std::chrono::milliseconds{test.random() % 3000});
          }
          test.sync();
          test.pool.power_cut();
          test.mount();
          test.check();
        }
      }
      test.settle();
      test.check();
      test.check_without_each();
    }
  }

  TEST_CASE(
      "a disk that fails at the flush of chunks that move there is not believed to have them") {
    const Quiet quiet;
    int failed = 0;
    const std::uint64_t first = seed_from_environment(7);
    for (std::uint64_t seed = first; seed < first + seeds(8); ++seed) {
      CAPTURE(seed);
      Returning test(seed, "replica:2");
      REQUIRE(test.pool.add_disk(96 * kMiB).has_value());
      test.pool.disks.back()->faults().fail = [left = std::make_shared<int>(
                                                   1 + static_cast<int>(seed % 2))](
                                                  const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kFlush && --*left <= 0 ? Code::kDiskFlush : Code::kOk;
      };
      REQUIRE(test.pool.run(test.pool.fs().rebalance(true)).has_value());
      test.pool.executor.run_for(std::chrono::minutes{1});
      failed += test.pool.disks.back()->failed() ? 1 : 0;
      test.check();
      test.remount();
      test.settle();
      test.check_without_each();
    }
    CHECK(failed > 0);
  }

  TEST_CASE("what cannot be mended keeps the disk from being believed, and is tried again") {
    const Quiet quiet;
    Returning test(seed_from_environment(3), "replica:2");
    test.fail_in(1, 3);
    test.change(25);
    test.remount();
    // It has no room of its own to write to: every write fails, so the disk goes again.
    test.pool.disks[1]->fail();
    test.pool.executor.run_for(std::chrono::minutes{3});
    CHECK_FALSE(test.stale());
    CHECK(test.pool.fs().pool().degraded());
    test.check();
    test.remount();
    CHECK(test.stale());
    test.settle();
    test.check_without_each();
  }
}

TEST_SUITE("scheduled scrubs") {
  TEST_CASE("a scrub that an unmount or a power cut has interrupted goes on where it was") {
    const std::uint64_t seed = seed_from_environment(4);
    for (const bool cut : {false, true}) {
      CAPTURE(cut);
      Returning test(seed, "replica:2");
      test.pool.executor.run_for(std::chrono::seconds{10});
      const std::uint64_t all = test.pool.fs().store().live_blocks() * kBlockBytes;
      {
        const DriverScope scope(test.pool.executor);
        REQUIRE(test.pool.fs().start_scrub().has_value());
      }
      while (test.pool.fs().scrub_report().counts.bytes < all / 2)
        test.pool.executor.run_for(std::chrono::milliseconds{1});
      REQUIRE(test.pool.fs().scrub_report().state == fs::ScrubState::kRunning);
      const std::uint64_t before = test.pool.fs().scrub_report().counts.bytes;
      if (cut) {
        test.pool.power_cut();
        test.mount();
      } else {
        test.remount();
        CHECK(test.pool.fs().pool().superblock().scrub.next > kRootInode);
      }
      test.pool.executor.run_for(std::chrono::minutes{1});
      const fs::ScrubReport report = test.pool.fs().scrub_report();
      CHECK(report.state == fs::ScrubState::kFinished);
      CHECK(report.last_unix_s > 0);
      // Of what was in flight a part is seen twice, and the runs.
      if (!cut) CHECK(report.counts.bytes < all - before + 4 * kMiB);
      if (cut) CHECK(report.counts.bytes >= all);
      CHECK(test.pool.fs().pool().superblock().scrub.next == InodeId{});
    }
  }

  TEST_CASE("one that is asked for looks at everything, whatever was interrupted") {
    Returning test(seed_from_environment(6), "replica:2");
    test.pool.executor.run_for(std::chrono::seconds{10});
    const std::uint64_t all = test.pool.fs().store().live_blocks() * kBlockBytes;
    for (int round = 0; round < 2; ++round) {
      {
        const DriverScope scope(test.pool.executor);
        REQUIRE(test.pool.fs().start_scrub().has_value());
      }
      if (round == 1) break;
      while (test.pool.fs().scrub_report().counts.bytes < all / 2)
        test.pool.executor.run_for(std::chrono::milliseconds{1});
      test.remount();
    }
    test.pool.executor.run_for(std::chrono::minutes{1});
    CHECK(test.pool.fs().scrub_report().state == fs::ScrubState::kFinished);
    CHECK(test.pool.fs().scrub_report().counts.bytes >= all);
  }

  TEST_CASE("one that is called off does not go on, and one begins when it is time") {
    Returning test(seed_from_environment(5), "replica:2");
    {
      const DriverScope scope(test.pool.executor);
      REQUIRE(test.pool.fs().start_scrub().has_value());
    }
    REQUIRE(test.pool.run(test.pool.fs().cancel_scrub()).has_value());
    test.remount();
    test.pool.executor.run_for(std::chrono::minutes{1});
    CHECK(test.pool.fs().metrics().scrubs_started.sum() == 0);
    CHECK(test.pool.fs().scrub_report().due_unix_s == 0);
    REQUIRE(test.pool.unmount().has_value());
    test.pool.set_scrub_every(std::chrono::hours{2});
    test.mount();
    test.pool.executor.run_for(std::chrono::hours{3});
    CHECK(test.pool.fs().metrics().scrubs_finished.sum() == 1);
    test.pool.executor.run_for(std::chrono::hours{2});
    CHECK(test.pool.fs().metrics().scrubs_finished.sum() == 2);
    test.remount();
    test.pool.executor.run_for(std::chrono::minutes{30});
    CHECK(test.pool.fs().metrics().scrubs_started.sum() == 0);
  }
}
