// Checkpoints and merges, beside everything else and when they fail: what changed meanwhile is there
// afterwards.
#include <doctest/doctest.h>

#include <random>
#include <set>

#include "base/log.hpp"
#include "journal/run_set.hpp"
#include "tests/fs/cold_metadata.hpp"
#include "tests/fs/operations.hpp"
#include "tests/support/held_disk.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using fs::RenameMode;
using fs::XattrMode;

// Nothing can be written into slots: for want of room, so that no disk is given up.
void fail_slots(SimPool& pool) {
  const std::uint64_t slots_from = pool.fs().pool().slot_offset(DiskId{0}, SlotId{0});
  for (scheduler::SimulatedDisk* disk : pool.disks) {
    disk->faults().fail = [=](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite && request.offset_bytes >= slots_from
                 ? Code::kNoSpace
                 : Code::kOk;
    };
  }
}

void heal_slots(SimPool& pool) {
  for (scheduler::SimulatedDisk* disk : pool.disks) disk->faults().fail = nullptr;
  pool.fs().store().try_full_disks_again();  // as is done once a minute
}

// Several at once.

struct Crowd {
  fs::Filesystem* filesystem = nullptr;
  SimExecutor* executor = nullptr;
  InodeId directories[3];
  int running = 0;
  std::vector<std::string> problems;
};

// A file says over and over which number it has, so that no other's data passes for its own.
std::string stamp_of(InodeId inode, std::size_t size) {
  std::string text;
  while (text.size() < size) text += fmt::format("inode {}; ", inode.raw);
  text.resize(size);
  return text;
}

bool is_stamp(InodeId inode, std::string_view text) {
  const std::string wanted = stamp_of(inode, text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\0' && text[i] != wanted[i]) return false;
  }
  return true;
}

Task<void> member(Crowd* crowd, std::uint64_t seed, int operations) {
  std::mt19937_64 random(seed);
  fs::Filesystem& fs = *crowd->filesystem;
  const auto no_problem = [crowd](Code code) {
    // What may be found where others rename and remove.
    const bool expected = code == Code::kNotFound || code == Code::kExists ||
                          code == Code::kNotEmpty || code == Code::kIsDirectory ||
                          code == Code::kNotDirectory || code == Code::kStale ||
                          code == Code::kInvalid || code == Code::kPermission;
    if (!expected)
      crowd->problems.push_back(fmt::format("an operation on names: {}", code_name(code)));
  };
  for (int i = 0; i < operations; ++i) {
    const InodeId a = crowd->directories[random() % 3];
    const InodeId b = crowd->directories[random() % 3];
    const std::string from = "n" + std::to_string(random() % 12);
    const std::string to = "n" + std::to_string(random() % 12);
    Result<void> done;
    switch (random() % 10) {
      case 0: {
        const auto made = co_await fs.mknod(a, from, S_IFREG | 0644, 0, {});
        if (made.has_value()) fs.forget(made->inode, 1);
        if (!made.has_value()) done = made.error();
        break;
      }
      case 1: {
        const auto made = co_await fs.mkdir(a, from, 0755, {});
        if (made.has_value()) fs.forget(made->inode, 1);
        if (!made.has_value()) done = made.error();
        break;
      }
      case 2: {
        const auto mode = random() % 3 == 0 ? RenameMode::kExchange : RenameMode::kReplace;
        done = co_await fs.rename(a, from, b, to, mode);
        break;
      }
      case 3: done = co_await fs.unlink(a, from); break;
      case 4: done = co_await fs.rmdir(a, from); break;
      case 5: {
        const auto found = co_await fs.lookup(a, from);
        if (!found.has_value()) {
          done = found.error();
          break;
        }
        const auto linked = co_await fs.link(found->inode, b, to);
        if (linked.has_value()) fs.forget(linked->inode, 1);
        if (!linked.has_value()) done = linked.error();
        fs.forget(found->inode, 1);
        break;
      }
      case 6:
      case 7: {
        // Kept for a while: it may lose its last name, and must stay.
        const auto found = co_await fs.lookup(a, from);
        if (!found.has_value()) {
          done = found.error();
          break;
        }
        const InodeId inode = found->inode;
        if ((found->mode & S_IFMT) == S_IFREG) {
          const std::size_t size = 1 + random() % 30'000;
          const std::uint64_t at = random() % 3 == 0 ? kWindowBytes - size % 9000 : 0;
          const std::string whole = stamp_of(inode, at + size);
          const auto written = co_await SimPool::write_task(&fs, inode, at, whole.substr(at));
          if (!written.has_value()) {
            crowd->problems.push_back("write: " + describe(written.error()));
          }
          if (random() % 2 == 0) fs.evict();
          const auto read = co_await SimPool::read_task(&fs, inode, 0, at + size);
          if (!read.has_value()) {
            crowd->problems.push_back("read: " + describe(read.error()));
          } else if (!is_stamp(inode, *read)) {
            crowd->problems.push_back("another file's data");
          }
        }
        const auto attributes = co_await fs.getattr(inode);
        if (!attributes.has_value()) {
          crowd->problems.push_back("getattr: " + describe(attributes.error()));
        }
        fs.forget(inode, 1);
        break;
      }
      case 8: {
        NamesRead read;
        while (!read.end) {
          done = co_await read_names(&fs, a, 5, &read);
          if (!done.has_value()) break;
          if (random() % 3 == 0) fs.evict();
        }
        const std::set<std::string> once(read.names.begin(), read.names.end());
        if (once.size() != read.names.size()) crowd->problems.push_back("a name came twice");
        break;
      }
      default: {
        const auto found = co_await fs.lookup(a, from);
        if (!found.has_value()) {
          done = found.error();
          break;
        }
        const std::string value = stamp_of(found->inode, random() % 3000);
        const auto set = co_await fs.setxattr(found->inode, "user.x", value, XattrMode::kEither);
        if (!set.has_value()) crowd->problems.push_back("setxattr: " + describe(set.error()));
        fs.forget(found->inode, 1);
        break;
      }
    }
    if (!done.has_value()) no_problem(done.error().code);
    if (random() % 3 == 0) co_await crowd->executor->yield();
    if (random() % 12 == 0) {
      const auto written = co_await fs.checkpoint();
      if (!written.has_value()) {
        crowd->problems.push_back("checkpoint: " + describe(written.error()));
      }
    }
    if (random() % 5 == 0) fs.evict();
  }
  --crowd->running;
}

Task<Result<void>> change_names(fs::Filesystem* filesystem, std::string prefix, int count) {
  for (int i = 0; i < count; ++i) {
    const std::string name = prefix + std::to_string(i);
    CO_TRY_ASSIGN(const fs::Attributes made,
                  co_await filesystem->mknod(kRootInode, name, S_IFREG | 0600, 0, {}));
    filesystem->forget(made.inode, 1);
    CO_TRY(co_await filesystem->setxattr(made.inode, "user.x", name, XattrMode::kEither));
    if (i % 3 == 0) {
      CO_TRY(co_await filesystem->unlink(kRootInode, name));
    } else if (i % 3 == 1) {
      CO_TRY(co_await filesystem->rename(kRootInode, name, kRootInode, "r" + name,
                                         RenameMode::kReplace));
    }
  }
  co_return {};
}

}  // namespace

TEST_SUITE("checkpoints and merges beside everything else") {
  TEST_CASE("many at once, with runs written and merged and metadata evicted meanwhile") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(12); ++seed) {
      CAPTURE(seed);
      SimPoolOptions options = many_runs();
      if (seed % 2 == 0) options.metadata_memory_bytes = 0;
      SimPool pool(seed, options);
      pool.format();
      REQUIRE(pool.mount().has_value());
      Crowd crowd;
      crowd.filesystem = &pool.fs();
      crowd.executor = &pool.executor;
      crowd.directories[0] = kRootInode;
      REQUIRE(pool.mkdir("x").has_value());
      REQUIRE(pool.mkdir("x/y").has_value());
      // Kept by references, as if they were open.
      crowd.directories[1] = pool.run(pool.fs().lookup(kRootInode, "x")).value().inode;
      crowd.directories[2] = pool.run(pool.fs().lookup(crowd.directories[1], "y")).value().inode;
      crowd.running = 8;
      for (std::uint64_t i = 0; i < 8; ++i) spawn(member(&crowd, seed * 100 + i, 80));
      while (crowd.running > 0) REQUIRE(pool.executor.step());
      const std::string problem = crowd.problems.empty() ? "" : crowd.problems.front();
      INFO(problem);
      CHECK(crowd.problems.empty());
      CHECK(pool.fs().metrics().run_merges.sum() > 0);
      CHECK(pool.fs().metrics().inodes_loaded.sum() > 0);
      CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
      CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
      pool.executor.run_for(std::chrono::seconds{1});
      check_whole(pool);
      const std::string before = pool.dump().value();
      make_cold(pool);
      CHECK(pool.dump().value() == before);
      if (seed % 3 == 0) {
        remount(pool);
      } else {
        sync_and_cut(pool);
      }
      CHECK(pool.dump().value() == before);
      check_whole(pool);
    }
  }

  TEST_CASE("checkpoints go on however long a merge takes") {
    Hold hold;  // outlives the pool
    SimPool pool(8, many_runs());
    pool.wrap = [&hold](std::unique_ptr<scheduler::SimulatedDisk> disk, std::size_t) {
      return std::make_unique<HoldingDisk>(std::move(disk), hold);
    };
    pool.format();
    REQUIRE(pool.mount().has_value());
    hold.on = true;
    for (int i = 0; i < 60; ++i) {
      REQUIRE(pool.create("f" + std::to_string(i)).has_value());
      checkpoint(pool);
      CHECK(pool.fs().runs().runs()->size() <= journal::kRunsMax);
    }
    CHECK(!hold.held.empty());
    CHECK(pool.fs().metrics().run_merges.sum() == 0);
    hold.release();
    pool.executor.run_for(std::chrono::seconds{5});
    CHECK(pool.fs().metrics().run_merges.sum() > 0);
    const std::string before = pool.dump().value();
    sync_and_cut(pool);
    CHECK(pool.dump().value() == before);
    check_whole(pool);
  }

  TEST_CASE("a checkpoint that fails loses nothing: the next one writes it all") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(15); ++seed) {
      CAPTURE(seed);
      SimPoolOptions options = many_runs();
      if (seed % 2 == 1) options.small_run_bytes = kSlotBytes;
      SimPool pool(seed, options);
      pool.format();
      REQUIRE(pool.mount().has_value());
      Model model;
      RandomOperations random(seed);
      std::uint64_t failed = 0;
      for (int i = 0; i < 250; ++i) {
        const RandomOperations::Outcome outcome = random.step(pool, model);
        INFO("operation ", i, ": ", outcome.text);
        REQUIRE(code_name(outcome.real) == code_name(outcome.model));
        if (random.pick(8) == 0) {
          fail_slots(pool);
          const Result<void> result = pool.run(pool.fs().checkpoint());
          REQUIRE(result.error().code == Code::kNoSpace);
          heal_slots(pool);
          ++failed;
        }
        if (random.pick(6) == 0) pool.fs().evict();
        if (random.pick(12) == 0) {
          make_cold(pool);
          REQUIRE(pool.dump().value() == model.dump());
        }
      }
      CHECK(failed > 10);
      make_cold(pool);
      REQUIRE(pool.dump().value() == model.dump());
      check_whole(pool);
      sync_and_cut(pool);
      CHECK(pool.dump().value() == model.dump());
      check_whole(pool);
    }
  }

  TEST_CASE("a checkpoint that fails while much changes loses nothing") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(10); ++seed) {
      CAPTURE(seed);
      SimPool pool(seed);
      pool.format();
      REQUIRE(pool.mount().has_value());
      for (int round = 0; round < 4; ++round) {
        const bool fails = round % 2 == 0;
        if (fails) fail_slots(pool);
        std::vector<Task<Result<void>>> tasks;
        tasks.push_back(pool.fs().checkpoint());
        // The same names again: those of the round before are removed and renamed over.
        tasks.push_back(change_names(&pool.fs(), round % 2 == 0 ? "a" : "b", 100));
        const auto results = pool.run(when_all(std::move(tasks)));
        CHECK(results[0].has_value() == !fails);
        CHECK(results[1].has_value());
        if (fails) heal_slots(pool);
        const std::string before = pool.dump().value();
        make_cold(pool);
        CHECK(pool.dump().value() == before);
        check_whole(pool);
        for (int i = 0; i < 100; ++i) {
          const std::string name = (round % 2 == 0 ? "a" : "b") + std::to_string(i);
          pool.unlink(name).ignore("it may have another name");
        }
      }
      const std::string before = pool.dump().value();
      sync_and_cut(pool);
      CHECK(pool.dump().value() == before);
      check_whole(pool);
    }
  }

  // The manifest that a merge commits has the log position of the last checkpoint: at the next mount the
  // chunk is there until its removal is replayed.
  TEST_CASE("a run merged into the slot of a removed chunk is no hindrance to the next mount") {
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      CAPTURE(seed);
      SimPool pool(seed);
      pool.format();
      REQUIRE(pool.mount().has_value());
      for (int i = 0; i < 6; ++i) {
        const std::string name = "f" + std::to_string(i);
        REQUIRE(pool.create(name).has_value());
        REQUIRE(pool.write(name, 0, std::string(4 * kMiB, 'x')).has_value());
      }
      checkpoint(pool);
      for (int i = 0; i < 6; ++i) REQUIRE(pool.unlink("f" + std::to_string(i)).has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      pool.executor.run_for(std::chrono::seconds{20});  // the chunks go, and their slots are free
      REQUIRE(pool.fs().store().metrics().chunks_removed.sum() > 0);
      const journal::Manifest before = pool.fs().pool().superblock().manifest;
      const DiskId lost = before.runs.front().copies.front().disk;
      REQUIRE(pool.run(pool.fs().pool().report_failure(lost, error(Code::kDiskWrite))).has_value());
      pool.executor.run_for(std::chrono::seconds{2});
      const journal::Manifest after = pool.fs().pool().superblock().manifest;
      REQUIRE(after.runs.front().id != before.runs.front().id);
      REQUIRE(after.lsn == before.lsn);
      const std::string tree = pool.dump().value();
      pool.power_cut();
      REQUIRE(pool.mount({lost.raw}).has_value());
      CHECK(pool.dump().value() == tree);
      check_whole(pool);
    }
  }
}

}  // namespace dynamicfs::test
