// What the file system promises across a power cut, cut by cut.
//
// A scripted or random workload runs; at the n-th write or flush that reaches any device the power
// goes, for every n (script) or a drawn one (random). The pool is mounted again and must be exactly
// the state after some number of operations, not fewer than had been synced (INV-5), not more than
// were begun (INV-6): each operation whole or absent, and none without those before it.
#include <doctest/doctest.h>

#include "tests/fs/operations.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

struct History {
  std::vector<std::string> states;  // states[i]: the tree after i operations
  std::size_t synced = 0;           // operations known to be durable
};

// Cuts the power of all disks at once, at the `at`-th device operation counted over all of them.
struct Cut {
  std::uint64_t at = ~std::uint64_t{0};
  std::uint64_t seen = 0;
  bool done = false;

  void arm(SimPool& pool) {
    pool.on_open = [this, &pool](std::size_t, scheduler::SimulatedDisk& disk) {
      disk.on_device_operation([this, &pool](std::uint64_t) {
        if (done || seen++ != at) return;
        done = true;
        for (scheduler::SimulatedDisk* each : pool.disks) each->power_cut();
      });
    };
  }
};

void check_recovered(SimPool& pool, const History& history) {
  pool.on_open = nullptr;
  const Result<void> mounted = pool.mount();
  INFO(pool.problem.text);
  REQUIRE(mounted.has_value());
  const std::string found = pool.dump().value();
  bool legal = false;
  for (std::size_t i = history.synced; i < history.states.size() && !legal; ++i) {
    legal = history.states[i] == found;
  }
  if (!legal) {
    MESSAGE("synced state ", history.synced, ":\n", history.states[history.synced], "newest:\n",
            history.states.back(), "found:\n", found);
  }
  REQUIRE(legal);
  // And it goes on working: what is written now survives an orderly remount.
  REQUIRE(pool.create("after-the-crash").has_value());
  const std::string now = pool.dump().value();
  REQUIRE(pool.unmount().has_value());
  REQUIRE(pool.mount().has_value());
  CHECK(pool.dump().value() == now);
}

// Runs until the cut or the end; true if the power went.
bool run_random(SimPool& pool, const Cut& cut, std::uint64_t seed, int operations,
                History& history) {
  Model model;
  RandomOperations random(seed);
  history.states.push_back(model.dump());
  for (int i = 0; i < operations && !cut.done; ++i) {
    const RandomOperations::Outcome outcome = random.step(pool, model);
    history.states.push_back(model.dump());
    if (!cut.done) history.synced = std::max<std::size_t>(history.synced, outcome.synced);
  }
  return cut.done;
}

// A workload that touches every kind of record, a checkpoint, and every kind of sync.
void script(SimPool& pool, const Cut& cut, History& history) {
  Model model;
  const std::string block(kBlockBytes, 'b');
  const std::string big(3 * kBlockBytes + 100, 'B');
  history.states.push_back(model.dump());
  const auto step = [&](Result<void> real, Result<void> expected, bool syncs = false) {
    expected.ignore("the script only does what works");
    history.states.push_back(model.dump());
    if (syncs && !cut.done && real.has_value()) history.synced = history.states.size() - 1;
    return !cut.done;
  };
  using Type = Model::Node::Type;
  using fs::FallocateMode;
  using fs::RenameMode;
  const auto fallocate = [&](const std::string& path, FallocateMode mode, std::uint64_t at,
                             std::uint64_t size) -> Result<void> {
    const InodeId inode = TRY(pool.resolve(path));
    return pool.run(pool.fs().fallocate(inode, mode, at, size));
  };
  const bool finished =
      step(pool.mkdir("d"), model.make("d", Type::kDirectory, "", 0755)) &&
      step(pool.create("d/f"), model.make("d/f", Type::kFile, "", 0644)) &&
      step(pool.write("d/f", 0, big), model.write("d/f", 0, big)) &&
      step(pool.fsync("d/f"), {}, true) &&
      step(pool.write("d/f", 100, "overwritten"), model.write("d/f", 100, "overwritten")) &&
      step(pool.write("d/f", kBlockBytes, block), model.write("d/f", kBlockBytes, block)) &&
      step(pool.create("new"), model.make("new", Type::kFile, "", 0644)) &&
      step(pool.write("new", 0, "replacement"), model.write("new", 0, "replacement")) &&
      step(pool.rename("new", "d/f"), model.rename("new", "d/f", RenameMode::kReplace)) &&
      step(pool.fsync("d"), {}, true) && step(pool.run(pool.fs().checkpoint()), {}, true) &&
      step(pool.write("d/f", 5, big), model.write("d/f", 5, big)) &&
      step(pool.truncate("d/f", 4500), model.truncate("d/f", 4500)) &&
      step(pool.truncate("d/f", 9000), model.truncate("d/f", 9000)) &&
      step(pool.symlink("s", "d/f"), model.make("s", Type::kSymlink, "d/f", 0777)) &&
      step(pool.link("d/f", "hard"), model.link("d/f", "hard")) &&
      step(pool.fsync("hard"), {}, true) &&
      step(fallocate("hard", FallocateMode::kPunchHole, 1000, 6000),
           model.fallocate("hard", FallocateMode::kPunchHole, 1000, 6000)) &&
      step(pool.unlink("d/f"), model.unlink("d/f")) &&
      step(pool.rename("hard", "s", RenameMode::kExchange),
           model.rename("hard", "s", RenameMode::kExchange)) &&
      step(pool.run(pool.fs().sync()), {}, true) && step(pool.unlink("s"), model.unlink("s")) &&
      step(pool.rmdir("d"), model.rmdir("d")) && step(pool.run(pool.fs().checkpoint()), {}, true) &&
      step(pool.create("last"), model.make("last", Type::kFile, "", 0644)) &&
      step(pool.write("last", 0, big), model.write("last", 0, big)) &&
      step(pool.fsync("last"), {}, true);
  static_cast<void>(finished);
}

}  // namespace

TEST_SUITE("power cut") {
  TEST_CASE("a cut at every single device operation of a script leaves a legal state") {
    const std::uint64_t seed = seed_from_environment(1);
    std::uint64_t cuts = 0;
    for (std::uint64_t at = 0;; ++at) {
      CAPTURE(seed);
      CAPTURE(at);
      SimPool pool(seed + at);
      pool.format();
      Cut cut;
      cut.arm(pool);
      REQUIRE(pool.mount().has_value());
      cut.seen = 0;
      cut.at = at;
      History history;
      script(pool, cut, history);
      if (!cut.done) break;
      ++cuts;
      pool.power_cut();
      check_recovered(pool, history);
    }
    MESSAGE("cuts tried: ", cuts);
    CHECK(cuts > 40);
  }

  TEST_CASE("a cut at a drawn moment of random operations leaves a legal state") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t i = 0; i < seeds(150); ++i) {
      const std::uint64_t seed = first + i;
      CAPTURE(seed);
      SimPool pool(seed);
      pool.format();
      Cut cut;
      cut.arm(pool);
      REQUIRE(pool.mount().has_value());
      cut.at = cut.seen + seed * 7919 % 400;
      History history;
      run_random(pool, cut, seed, 200, history);
      pool.power_cut();
      check_recovered(pool, history);
    }
  }

  TEST_CASE("a cut during recovery or the checkpoint behind it loses nothing") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t i = 0; i < seeds(60); ++i) {
      const std::uint64_t seed = first + i;
      CAPTURE(seed);
      SimPool pool(seed);
      pool.format();
      Cut cut;
      cut.arm(pool);
      REQUIRE(pool.mount().has_value());
      cut.at = cut.seen + 40 + seed * 31 % 200;
      History history;
      run_random(pool, cut, seed, 100, history);
      pool.power_cut();
      Cut second;
      second.at = i % 8;
      second.arm(pool);
      if (pool.mount().has_value()) {
        pool.run(pool.fs().checkpoint()).ignore("the power may go in the middle");
      }
      pool.power_cut();
      check_recovered(pool, history);
    }
  }
}

}  // namespace dynamicfs::test
