// Sequences that once lost or hung something, each named for what must hold.
#include <doctest/doctest.h>

#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {
namespace {

Task<Result<void>> checkpoint_and_say(fs::Filesystem* filesystem, bool* done) {
  const Result<void> result = co_await filesystem->checkpoint();
  *done = true;
  co_return result;
}

// Unlinks, syncs and reclaims for as long as a checkpoint runs.
Task<Result<void>> empty_chunks_until(fs::Filesystem* filesystem, Executor* executor, int files,
                                      const bool* done) {
  int next = 0;
  while (!*done) {
    if (next < files) {
      const Result<void> gone =
          co_await filesystem->unlink(kRootInode, "big" + std::to_string(next++));
      gone.ignore("seen in the dump");
    }
    const Result<void> synced = co_await filesystem->sync();
    synced.ignore("seen after the cut");
    co_await filesystem->store().reclaim();
    co_await executor->sleep(std::chrono::microseconds{200});
  }
  co_return {};
}

Task<Result<void>> checkpoint_while_emptying(fs::Filesystem* filesystem, Executor* executor,
                                             int files) {
  bool done = false;
  std::vector<Task<Result<void>>> tasks;
  tasks.push_back(checkpoint_and_say(filesystem, &done));
  tasks.push_back(empty_chunks_until(filesystem, executor, files, &done));
  const auto results = co_await when_all(std::move(tasks));
  co_return results[0];
}

Task<Result<void>> unlink_and_forget(fs::Filesystem* filesystem, InodeId inode, std::string name) {
  const Result<void> result = co_await filesystem->unlink(kRootInode, name);
  filesystem->forget(inode, 1);
  co_return result;
}

void add_large_attributes(SimPool& pool, int files) {
  for (int i = 0; i < files; ++i) {
    const std::string name = "meta" + std::to_string(i);
    REQUIRE(pool.create(name).has_value());
    const InodeId inode = pool.resolve(name).value();
    REQUIRE(pool.run(pool.fs().setxattr(inode, "user.x", std::string(65'000, 'x'),
                                        fs::XattrMode::kEither))
                .has_value());
    if (i % 20 == 19) REQUIRE(pool.run(pool.fs().sync()).has_value());
  }
}

}  // namespace

static std::size_t run_copies_here(SimPool& pool) {
  std::size_t here = 0;
  const journal::RunRef newest = pool.fs().pool().superblock().manifest.runs.front();
  for (const auto& copy : newest.copies) {
    if (pool.fs().pool().disk(copy.disk) != nullptr) ++here;
  }
  return here;
}

TEST_SUITE("regressions") {
  TEST_CASE("metadata has two copies again soon after a disk that had one is lost") {
    for (const bool while_writing : {false, true}) {
      CAPTURE(while_writing);
      SimPool pool(9);
      pool.format();
      REQUIRE(pool.mount().has_value());
      for (int i = 0; i < 50; ++i) REQUIRE(pool.create("f" + std::to_string(i)).has_value());
      REQUIRE(pool.run(pool.fs().checkpoint()).has_value());
      REQUIRE(run_copies_here(pool) == 2);
      const DiskId lost = pool.fs().pool().superblock().manifest.runs.front().copies[0].disk;
      if (while_writing) {
        pool.disks[lost.raw]->faults().fail = [](const scheduler::IoRequest& request) {
          return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
        };
        REQUIRE(pool.run(pool.fs().checkpoint()).has_value());
      } else {
        REQUIRE(
            pool.run(pool.fs().pool().report_failure(lost, error(Code::kDiskWrite))).has_value());
      }
      CHECK(pool.fs().pool().disk(lost) == nullptr);
      pool.executor.run_for(std::chrono::seconds{1});
      CHECK(run_copies_here(pool) == 2);
      const std::string before = pool.dump().value();
      const DiskId second = pool.fs().pool().superblock().manifest.runs.front().copies[0].disk;
      pool.power_cut();
      REQUIRE_FALSE(pool.mount({lost.raw, second.raw}).has_value());  // two are one too many
      REQUIRE(pool.mount({lost.raw}).has_value());
      CHECK(pool.dump().value() == before);
    }
  }

  // Superblocks and journal have their space since the pool was made; slots take it when written.
  TEST_CASE("a disk whose host file system is full takes no part in a checkpoint") {
    for (const std::size_t full : {1, 2, 3}) {
      CAPTURE(full);
      SimPool pool(11);
      pool.format();
      REQUIRE(pool.mount().has_value());
      const std::uint64_t slots_from = pool.fs().pool().slot_offset(DiskId{0}, SlotId{0});
      for (std::size_t i = 0; i < full; ++i) {
        // The disk with most free slots, which is asked first, among them.
        pool.disks[2 - i]->faults().fail = [=](const scheduler::IoRequest& request) {
          return request.op == scheduler::IoOp::kWrite && request.offset_bytes >= slots_from
                     ? Code::kNoSpace
                     : Code::kOk;
        };
      }
      for (int i = 0; i < 50; ++i) REQUIRE(pool.create("f" + std::to_string(i)).has_value());
      const Result<void> result = pool.run(pool.fs().checkpoint());
      CHECK_FALSE(pool.fs().pool().degraded());
      CHECK(pool.fs().store().full_disks().size() == std::min<std::size_t>(full, 2));
      CHECK(pool.run(pool.fs().sync()).has_value());
      if (full == 1) {
        REQUIRE(result.has_value());
        CHECK(run_copies_here(pool) == 2);
      } else {
        // One copy of all metadata would be too few: it stays in the log.
        CHECK(result.error().code == Code::kNoSpace);
        CHECK(pool.create("and goes on").has_value());
      }
      if (full == 2) {
        // ... until that fills.
        add_large_attributes(pool, 80);
        pool.executor.run_for(std::chrono::seconds{3});
        CHECK(run_copies_here(pool) == 1);
        // Room again: the second copy comes by itself.
        for (scheduler::SimulatedDisk* disk : pool.disks) disk->faults().fail = nullptr;
        pool.executor.run_for(std::chrono::seconds{90});
        CHECK(run_copies_here(pool) == 2);
      }
      const std::string before = pool.dump().value();
      CHECK(pool.unmount().has_value());
      REQUIRE(pool.mount().has_value());
      CHECK(pool.dump().value() == before);
    }
  }

  TEST_CASE("a run takes no slot of a chunk that it still names") {
    SimPool pool(7, {.disk_bytes = {256 * kMiB, 256 * kMiB}});
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 12; ++i) {
      const std::string name = "big" + std::to_string(i);
      REQUIRE(pool.create(name).has_value());
      REQUIRE(pool.write(name, 0, std::string(4 * kMiB, static_cast<char>('b' + i))).has_value());
    }
    add_large_attributes(pool, 160);
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    REQUIRE(pool.run(checkpoint_while_emptying(&pool.fs(), &pool.executor, 12)).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::string synced = pool.dump().value();
    pool.power_cut();
    REQUIRE(pool.mount().has_value());
    CHECK(pool.dump().value() == synced);
    for (int i = 0; i < 20; ++i) {
      const std::string name = "new" + std::to_string(i);
      REQUIRE(pool.create(name).has_value());
      REQUIRE(pool.write(name, 0, std::string(4 * kMiB, static_cast<char>('B' + i))).has_value());
    }
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::string filled = pool.dump().value();
    pool.power_cut();
    REQUIRE(pool.mount().has_value());
    CHECK(pool.dump().value() == filled);
  }

  TEST_CASE("unmount ends although what waits in memory is larger than the log") {
    SimPool pool(7, {.disk_bytes = {96 * kMiB, 96 * kMiB}});
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 170; ++i) {
      const std::string name = "m" + std::to_string(i);
      REQUIRE(pool.create(name).has_value());
      const InodeId inode = pool.resolve(name).value();
      REQUIRE(pool.run(pool.fs().setxattr(inode, "user.x", std::string(65'000, 'x'),
                                          fs::XattrMode::kEither))
                  .has_value());
    }
    const std::string before = pool.dump().value();
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    CHECK(pool.dump().value() == before);
  }

  TEST_CASE("metadata that outgrows its room is refused; deleting and remounting still work") {
    SimPool pool(7, {.disk_bytes = {48 * kMiB, 48 * kMiB}});
    pool.format();
    REQUIRE(pool.mount().has_value());
    int made = 0;
    bool refused = false;
    for (; made < 3000 && !refused; ++made) {
      const std::string name = "m" + std::to_string(made);
      if (!pool.create(name).has_value()) {
        refused = true;
        break;
      }
      const InodeId inode = pool.resolve(name).value();
      refused = !pool.run(pool.fs().setxattr(inode, "user.x", std::string(65'000, 'x'),
                                             fs::XattrMode::kEither))
                     .has_value();
      if (made % 20 == 19) {
        REQUIRE(pool.run(pool.fs().sync()).has_value());
        pool.executor.run_for(std::chrono::milliseconds{100});
      }
    }
    CHECK(refused);
    for (int i = 0; i < made; ++i) REQUIRE(pool.unlink("m" + std::to_string(i)).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    pool.executor.run_for(std::chrono::seconds{3});
    CHECK(pool.run(pool.fs().checkpoint()).has_value());
    CHECK(pool.create("again").has_value());
    pool.power_cut();
    REQUIRE(pool.mount().has_value());
  }

  TEST_CASE("a write that meets the removal of its file leaves a pool that mounts") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      CAPTURE(seed);
      SimPool pool(seed);
      pool.format();
      REQUIRE(pool.mount().has_value());
      const InodeId inode =
          pool.run(pool.fs().mknod(kRootInode, "f", S_IFREG | 0644, 0, {})).value().inode;
      std::vector<Task<Result<void>>> tasks;
      tasks.push_back(SimPool::write_task(&pool.fs(), inode, 0, std::string(9000, 'w')));
      tasks.push_back(unlink_and_forget(&pool.fs(), inode, "f"));
      const auto results = pool.run(when_all(std::move(tasks)));
      CHECK(results[1].has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      pool.power_cut();
      REQUIRE(pool.mount().has_value());
      CHECK(pool.dump().value().empty());
    }
  }
}

}  // namespace dynamicfs::test
