// What the journal promises across power cuts, against a model: everything acknowledged is there,
// what is there is a prefix of what was appended, and every byte is right.

#include "tests/journal/workload.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// Every member has the whole log, so each disk that the policy allows to be away may be away.
void check_each_member_alone(SimPool& pool, Model& model) {
  const std::size_t disks = pool.media.size();
  if (disks == 1) return;
  pool.power_cut();
  const auto media = pool.media;
  for (std::size_t away = 0; away < disks; ++away) {
    CAPTURE(away);
    for (std::size_t i = 0; i < disks; ++i) {
      pool.media[i] = std::make_shared<SimulatedMedia>(media[i]->clone());
    }
    pool.here.assign(disks, true);
    pool.here[away] = false;
    REQUIRE(pool.boot().has_value());
    compare(pool, model);
    CHECK(pool.pool->degraded());
    pool.power_cut();
  }
}

}  // namespace

TEST_SUITE("journal, power cut") {
  TEST_CASE("records survive a cut at every write and flush of a run") {
    const std::uint64_t seed = test::seed_from_environment(7);
    CAPTURE(seed);
    for (const std::size_t disks : {1u, 2u, 3u}) {
      CAPTURE(disks);
      for (std::uint64_t index = 0;; ++index) {
        CAPTURE(index);
        SimPool pool{seed, SimPool::replicas(disks)};
        REQUIRE(pool.format().has_value());
        REQUIRE(pool.boot().has_value());
        Model model;
        pool.cut_at_operation(index);
        run_workload(pool, model, 6);
        const bool cut = pool.cut_done;
        pool.on_new_disk = nullptr;
        pool.reboot_after_power_cut();
        compare(pool, model);
        // And it goes on from there.
        REQUIRE(pool.append_and_sync("on").has_value());
        pool.reboot_after_power_cut();
        REQUIRE(!pool.replayed.empty());
        CHECK(pool.replayed.back().text == "on");
        if (!cut) break;
      }
    }
  }

  TEST_CASE("a chain of cuts, some of them while recovering, loses nothing acknowledged") {
    const std::uint64_t first = test::seed_from_environment(1000);
    for (std::uint64_t seed = first; seed < first + seeds(250); ++seed) {
      CAPTURE(seed);
      SimPool pool{seed, SimPool::replicas(1 + seed % 4)};
      REQUIRE(pool.format().has_value());
      Model model;
      for (unsigned round = 0; round < 6; ++round) {
        CAPTURE(round);
        // Recovery makes few writes, so small numbers hit it.
        const std::uint64_t random = pool.executor.random();
        pool.cut_at_operation(random % (random % 3 == 0 ? 8 : 120));
        if (pool.boot().has_value()) {
          compare(pool, model);
          run_workload(pool, model, 4);
        }
        pool.power_cut();
      }
      pool.on_new_disk = nullptr;
      REQUIRE(pool.boot().has_value());
      compare(pool, model);
      CHECK(!pool.pool->degraded());
      check_each_member_alone(pool, model);
    }
  }

  TEST_CASE("after kill -9 and recovery, what was acknowledged survives a power cut") {
    const std::uint64_t first = test::seed_from_environment(5000);
    for (std::uint64_t seed = first; seed < first + seeds(200); ++seed) {
      CAPTURE(seed);
      SimPool pool{seed, SimPool::replicas(1 + seed % 3)};
      REQUIRE(pool.format().has_value());
      Model model;
      for (unsigned round = 0; round < 3; ++round) {
        CAPTURE(round);
        pool.keep_devices();
        for (unsigned life = 0; life < 3; ++life) {
          CAPTURE(life);
          REQUIRE(pool.boot().has_value());
          compare(pool, model);
          start_workload(pool, model, 4);
          pool.executor.run_for(std::chrono::microseconds(pool.executor.random() % 6000));
          pool.kill();
        }
        pool.lose_devices();
      }
      REQUIRE(pool.boot().has_value());
      compare(pool, model);
    }
  }
}

}  // namespace dynamicfs::test
