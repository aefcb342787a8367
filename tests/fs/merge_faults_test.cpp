// Runs that cannot be read, merges and checkpoints that fail or are ended: what has changed does not
// wait for them, and nothing of it is lost.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "base/log.hpp"
#include "journal/run_format.hpp"
#include "journal/run_set.hpp"
#include "tests/fs/cold_metadata.hpp"
#include "tests/support/held_disk.hpp"

namespace dynamicfs::test {
namespace {

using std::chrono::seconds;

SimPoolOptions one_run() {
  SimPoolOptions options;
  options.disk_bytes = {256 * kMiB, 256 * kMiB, 384 * kMiB};
  return options;
}

Task<Result<void>> make_files(fs::Filesystem* filesystem, InodeId directory, int count) {
  for (int i = 0; i < count; ++i) {
    CO_TRY_ASSIGN(
        const fs::Attributes made,
        co_await filesystem->mknod(directory, "f" + std::to_string(i), S_IFREG | 0644, 0, {}));
    filesystem->forget(made.inode, 1);
  }
  co_return {};
}

// Many in "full", whose inodes are the last that the runs have, and none in "new".
void make_two_directories(SimPool& pool, int count) {
  REQUIRE(pool.mkdir("new").has_value());
  REQUIRE(pool.mkdir("full").has_value());
  REQUIRE(pool.run(make_files(&pool.fs(), pool.resolve("full").value(), count)).has_value());
}

// Takes the last block of entries away from every copy of this run.
void spoil(SimPool& pool, const journal::RunRef& run) {
  const std::uint64_t at = (run.entry_blocks - 1) * journal::kRunBlockBytes;
  for (const journal::RunCopy& copy : run.copies) {
    const std::uint64_t offset = journal::run_offset(pool.fs().pool(), copy, at);
    pool.media[copy.disk.raw]->flip(offset + journal::kRunBlockHeaderBytes + 10, 3);
  }
}

journal::RunRef newest_run(SimPool& pool) {
  return pool.fs().pool().superblock().manifest.runs.front();
}

void set_attribute(SimPool& pool, const std::string& path, std::size_t size) {
  const InodeId inode = pool.resolve(path).value();
  REQUIRE(pool.run(pool.fs().setxattr(inode, "user.large", std::string(size, 'v'),
                                      fs::XattrMode::kEither))
              .has_value());
}

struct Listing {
  std::set<std::string> names;
  int without_attributes = 0;
};

// As readdirplus does: what the kernel then refers to is given back.
Result<Listing> list_with_attributes(SimPool& pool, InodeId directory) {
  Listing out;
  std::vector<InodeId> referred;
  const auto sink = [&](const fs::DirectoryEntry& entry) {
    if (entry.name == "." || entry.name == "..") return true;
    out.names.emplace(entry.name);
    if (entry.attributes == nullptr) {
      ++out.without_attributes;
    } else {
      referred.push_back(entry.inode);
    }
    return true;
  };
  TRY(pool.run(pool.fs().readdir(directory, 0, true, sink)));
  for (const InodeId inode : referred) pool.fs().forget(inode, 1);
  return out;
}

Task<Result<void>> unlink_and_forget(fs::Filesystem* filesystem, std::string name, InodeId inode) {
  const Result<void> unlinked = co_await filesystem->unlink(kRootInode, std::move(name));
  filesystem->forget(inode, 1);
  co_return unlinked;
}

}  // namespace

TEST_SUITE("faults of runs") {
  TEST_CASE("a small run that cannot be read does not stop checkpoints: it is left as it is") {
    const Quiet quiet;
    SimPool pool(1, one_run());
    pool.format();
    REQUIRE(pool.mount().has_value());
    make_two_directories(pool, 2000);
    checkpoint(pool);
    const journal::RunRef spoiled = newest_run(pool);
    REQUIRE(spoiled.entry_blocks > 3);
    REQUIRE(spoiled.bytes <= kSlotBytes);
    spoil(pool, spoiled);
    pool.fs().evict();
    for (int round = 0; round < 3; ++round) {
      const std::string name = "new/n" + std::to_string(round);
      REQUIRE(pool.create(name).has_value());
      REQUIRE(pool.write(name, 0, std::string(10'000, static_cast<char>('a' + round))).has_value());
      checkpoint(pool);
    }
    // It is there still, below what has changed since, and nobody tries it again.
    const auto runs = pool.fs().pool().superblock().manifest.runs;
    CHECK(runs.size() == 2);
    CHECK(runs.back() == spoiled);
    CHECK(pool.fs().metrics().checkpoints.sum() == 4);
    CHECK(pool.fs().unreadable_runs() == 1);
    REQUIRE(pool.create("new/in-the-log").has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    cut_and_mount(pool);
    for (int round = 0; round < 3; ++round) {
      CHECK(pool.read("new/n" + std::to_string(round)).value() ==
            std::string(10'000, static_cast<char>('a' + round)));
    }
    CHECK(pool.stat("new/in-the-log").has_value());
    // What was lost is told, not made up.
    const auto checked = pool.run(pool.fs().check_tree());
    REQUIRE_FALSE(checked.has_value());
    CHECK(code_name(checked.error().code) == code_name(Code::kCorrupt));
    // Unmounting writes a checkpoint, too.
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    CHECK(pool.stat("new/in-the-log").has_value());
  }

  TEST_CASE("newer runs are merged without one that cannot be read, however many there come") {
    const Quiet quiet;
    SimPool pool(2, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    make_two_directories(pool, 300);
    checkpoint(pool);
    const journal::RunRef spoiled = newest_run(pool);
    spoil(pool, spoiled);
    // What is modified meanwhile is in memory, so nobody but merges reads that block.
    const auto change = [&](std::size_t size) {
      set_attribute(pool, "new", size);
      checkpoint(pool);
      pool.executor.run_for(seconds{1});
    };
    const auto blocks_bad = [&] { return pool.fs().runs().metrics().blocks_bad.sum(); };
    for (int i = 0; i < 2; ++i) change(10);
    REQUIRE(blocks_bad() == 0);  // two or three runs are no reason to merge
    while (blocks_bad() == 0 && pool.fs().runs().runs()->size() < 10) change(10);
    const std::uint64_t first = blocks_bad();
    REQUIRE(first > 0);
    CHECK(pool.fs().unreadable_runs() == 1);
    for (std::size_t i = 0; i < 60; ++i) {
      change(i);
      CHECK(pool.fs().runs().runs()->size() < journal::kRunsMax / 2);
    }
    CHECK(pool.fs().metrics().run_merges.sum() > 10);
    CHECK(blocks_bad() == first);
    CHECK(pool.fs().pool().superblock().manifest.runs.back() == spoiled);
    // Nothing that can be read is lost with it; and so it is after each mount.
    for (std::size_t i = 70; i < 100; ++i) {
      set_attribute(pool, "new", i);
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      if (i % 2 == 0) {
        cut_and_mount(pool);
      } else {
        REQUIRE(pool.unmount().has_value());
        REQUIRE(pool.mount().has_value());
      }
      const InodeId directory = pool.resolve("new").value();
      REQUIRE(pool.run(pool.fs().getxattr(directory, "user.large")).value().size() == i);
    }
  }

  TEST_CASE("a disk with copies of runs goes: they get another at once, and are then left alone") {
    const Quiet quiet;
    SimPool pool(3, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    make_two_directories(pool, 300);
    for (int i = 0; i < 3; ++i) {
      set_attribute(pool, "new", 10);
      checkpoint(pool);
    }
    const journal::RunRef before = newest_run(pool);
    pool.disks[before.copies.front().disk.raw]->fail();
    set_attribute(pool, "new", 20);
    (void)pool.run(pool.fs().sync());
    pool.executor.run_for(seconds{5});
    CHECK(pool.fs().metadata_copies() == 2);
    const std::uint64_t merges = pool.fs().metrics().run_merges.sum();
    CHECK(merges > 0);
    pool.executor.run_for(seconds{120});
    CHECK(pool.fs().metrics().run_merges.sum() == merges);
  }

  TEST_CASE("an unmount ends a merge, but waits for the write that it has under way") {
    // Everything that a merge writes waits, and what it reads of the second piece of the oldest run:
    // then it has written one piece, of the first pieces of its inputs, and has no more to go on with.
    Hold hold;  // outlives the pool
    std::set<std::uint64_t> second_piece;
    hold.which = [&second_piece](const scheduler::IoRequest& request) {
      return request.io_class == scheduler::IoClass::kBackground &&
             (request.op == scheduler::IoOp::kWrite || second_piece.contains(request.offset_bytes));
    };
    SimPool pool(3, many_runs());
    pool.wrap = [&hold](std::unique_ptr<scheduler::SimulatedDisk> disk, std::size_t) {
      return std::make_unique<HoldingDisk>(std::move(disk), hold);
    };
    pool.format();
    REQUIRE(pool.mount().has_value());
    hold.on = true;
    for (int i = 0; i < 4; ++i) {
      for (int k = 0; k < 30; ++k) {
        const std::string name = "f" + std::to_string(i) + "-" + std::to_string(k);
        REQUIRE(pool.create(name).has_value());
        set_attribute(pool, name, 65'000);
      }
      if (i == 3) set_attribute(pool, "", 65'000);  // comes first, and is in the newest run
      checkpoint(pool);
      if (i > 0) continue;
      for (const journal::RunCopy& copy : newest_run(pool).copies) {
        second_piece.insert(journal::run_offset(pool.fs().pool(), copy, journal::kRunPieceBytes));
      }
    }
    pool.executor.run_for(seconds{1});
    const auto writes_held = std::ranges::count_if(hold.held, [](const Hold::Held& one) {
      return one.request->op == scheduler::IoOp::kWrite;
    });
    REQUIRE(writes_held == 2);
    REQUIRE(hold.held.size() > 2);
    REQUIRE(pool.fs().metrics().run_merges.sum() == 0);
    const std::string before = pool.dump().value();
    std::optional<Result<void>> unmounted;
    spawn(keep(pool.fs().unmount(), &unmounted));
    pool.executor.run_for(seconds{1});
    // It reads on, finds that it is to end, and must not leave its write behind: the disks would get
    // that after the pool has gone.
    hold.let_go_if(
        [](const scheduler::IoRequest& request) { return request.op == scheduler::IoOp::kRead; });
    pool.executor.run_for(seconds{5});
    CHECK(hold.held.size() == 2);
    CHECK_FALSE(unmounted.has_value());
    hold.release();
    pool.executor.run_for(seconds{5});
    REQUIRE(unmounted.has_value());
    CHECK(unmounted->has_value());
    CHECK(pool.fs().metrics().run_merges.sum() == 0);  // given up, not waited for
    // Slots of the run that it did not finish are free again: what is not free is named.
    const auto used = [&pool] {
      return pool.fs().store().space(pool.fs().pool().policy()).used_by_disk;
    };
    const auto used_before = used();
    cut_and_mount(pool);
    CHECK(used() == used_before);
    CHECK(pool.fs().mount_report().journal.records_replayed == 0);
    CHECK(pool.dump().value() == before);
    check_whole(pool);
  }

  TEST_CASE("a directory is listed whole although the inodes of some names cannot be read") {
    const Quiet quiet;
    SimPool pool(4, one_run());
    pool.format();
    REQUIRE(pool.mount().has_value());
    make_two_directories(pool, 2000);
    checkpoint(pool);
    const journal::RunRef run = newest_run(pool);
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount().has_value());
    spoil(pool, newest_run(pool));
    const Result<Listing> listed = list_with_attributes(pool, pool.resolve("full").value());
    REQUIRE(listed.has_value());
    CHECK(listed->names.size() == 2000);
    CHECK(listed->without_attributes > 0);
    CHECK(listed->without_attributes < 1000);
    // Who asks for one of those gets the error, whoever asks for another one what it is.
    int unreadable = 0;
    for (int i = 0; i < 2000; ++i) {
      const auto found = pool.stat("full/f" + std::to_string(i));
      if (found.has_value()) continue;
      CHECK(code_name(found.error().code) == code_name(Code::kCorrupt));
      ++unreadable;
    }
    CHECK(unreadable == listed->without_attributes);
  }

  TEST_CASE("of an inode that is removed during a write nothing comes into the runs") {
    Hold hold;  // outlives the pool
    hold.which = [](const scheduler::IoRequest& request) {
      return request.op == scheduler::IoOp::kWrite &&
             request.io_class == scheduler::IoClass::kWrite;
    };
    for (const bool stored : {false, true}) {
      CAPTURE(stored);
      SimPool pool(5, many_runs());
      pool.wrap = [&hold](std::unique_ptr<scheduler::SimulatedDisk> disk, std::size_t) {
        return std::make_unique<HoldingDisk>(std::move(disk), hold);
      };
      pool.format();
      REQUIRE(pool.mount().has_value());
      // Smaller numbers than the file's: the checkpoint comes to them first, and has more than the
      // two pieces to write that it may have in memory.
      for (int i = 0; i < 60; ++i) REQUIRE(pool.create("a" + std::to_string(i)).has_value());
      const InodeId file =
          pool.run(pool.fs().mknod(kRootInode, "file", S_IFREG | 0644, 0, {})).value().inode;
      if (stored) checkpoint(pool);
      for (int i = 0; i < 60; ++i) set_attribute(pool, "a" + std::to_string(i), 65'000);
      set_attribute(pool, "file", 10);

      hold.on = true;
      std::optional<Result<void>> wrote;
      spawn(keep(SimPool::write_task(&pool.fs(), file, 0, std::string(9000, 'w')), &wrote));
      pool.executor.run_for(seconds{1});
      const std::size_t of_data = hold.held.size();
      REQUIRE(of_data == 2);
      REQUIRE(pool.run(unlink_and_forget(&pool.fs(), "file", file)).has_value());
      pool.executor.run_for(seconds{1});
      std::optional<Result<void>> written;
      spawn(keep(pool.fs().checkpoint(), &written));
      pool.executor.run_for(seconds{1});
      REQUIRE(hold.held.size() > of_data);
      REQUIRE_FALSE(written.has_value());
      // The write goes on in the middle of the checkpoint that is to forget the file.
      hold.let_go_if([first = hold.held.front().request->data,
                      second = hold.held[1].request->data](const scheduler::IoRequest& request) {
        return request.data == first || request.data == second;
      });
      pool.executor.run_for(seconds{1});
      REQUIRE(wrote.has_value());
      CHECK_FALSE(wrote->has_value());
      REQUIRE_FALSE(written.has_value());
      hold.release();
      pool.executor.run_for(seconds{5});
      REQUIRE(written.has_value());
      CHECK(written->has_value());
      check_whole(pool);
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      cut_and_mount(pool);
      CHECK(pool.fs().inode_count() == 61);
      check_whole(pool);
    }
  }

  TEST_CASE("a checkpoint that fails and one that succeeds: together they have everything") {
    const Quiet quiet;
    for (const bool early : {false, true}) {
      CAPTURE(early);
      SimPool pool(6, many_runs());
      pool.format();
      REQUIRE(pool.mount().has_value());
      const std::uint64_t slots_from = pool.fs().pool().slot_offset(DiskId{0}, SlotId{0});
      REQUIRE(pool.create("old").has_value());
      REQUIRE(pool.write("old", 0, "first").has_value());
      checkpoint(pool);
      // Only the checkpoint that fails knows that these have changed.
      REQUIRE(pool.write("old", 0, "second").has_value());
      REQUIRE(pool.create("before").has_value());
      REQUIRE(pool.write("before", 0, std::string(50'000, 'b')).has_value());
      REQUIRE(pool.create("gone").has_value());
      REQUIRE(pool.mkdir("directory").has_value());
      const auto refuse = [=](const scheduler::IoRequest& request) {
        // The run finds no room, or is written and cannot be read: then the manifest stays as it is.
        const bool write = request.op == scheduler::IoOp::kWrite;
        if (early) {
          return write && request.offset_bytes >= slots_from ? Code::kNoSpace : Code::kOk;
        }
        return request.op == scheduler::IoOp::kRead ? Code::kDiskRead : Code::kOk;
      };
      for (scheduler::SimulatedDisk* disk : pool.disks) disk->faults().fail = refuse;
      const Result<void> failed = pool.run(pool.fs().checkpoint());
      for (scheduler::SimulatedDisk* disk : pool.disks) disk->faults().fail = nullptr;
      pool.fs().store().try_full_disks_again();
      REQUIRE_FALSE(failed.has_value());
      CHECK(code_name(failed.error().code) == code_name(early ? Code::kNoSpace : Code::kCorrupt));
      CHECK(pool.fs().metrics().checkpoints.sum() == 1);
      REQUIRE(pool.unlink("gone").has_value());
      REQUIRE(pool.rename("before", "directory/after").has_value());
      REQUIRE(pool.create("late").has_value());
      checkpoint(pool);
      const std::string before = pool.dump().value();
      cut_and_mount(pool);  // nothing was synced: the runs are all there is
      CHECK(pool.fs().mount_report().journal.records_replayed == 0);
      CHECK(pool.dump().value() == before);
      CHECK(pool.read("old").value() == "second");
      CHECK(pool.read("directory/after").value() == std::string(50'000, 'b'));
      check_whole(pool);
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount().has_value());
      CHECK(pool.dump().value() == before);
    }
  }
}

}  // namespace dynamicfs::test
