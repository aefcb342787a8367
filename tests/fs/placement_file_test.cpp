// Files that are kept whole on one disk: `single,placement=file`.
#include <doctest/doctest.h>

#include <set>

#include "tests/fs/shelves.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;

namespace {

Task<Result<void>> clone_task(fs::Filesystem* filesystem, InodeId from, InodeId to,
                              std::uint64_t to_at, std::uint64_t size) {
  for (std::uint64_t done = 0; done < size;) {
    CO_TRY_ASSIGN(const std::uint64_t some,
                  co_await filesystem->copy_range(from, done, to, to_at + done, size - done, {}));
    done += some;
  }
  co_return Result<void>{};
}

}  // namespace

TEST_SUITE("whole files") {
  TEST_CASE("each file lies on one disk, whatever is written to it and whenever the power goes") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, {96 * kMiB, 160 * kMiB, 128 * kMiB});
      shelves.add_some(30, 400'000);
      std::set<DiskId> used;
      for (int round = 0; round < 5; ++round) {
        for (int i = 0; i < 25; ++i) shelves.change_one();
        shelves.pool.executor.run_for(std::chrono::milliseconds{shelves.random() % 40'000});
        shelves.sync();
        const auto before = shelves.check_whole_files();
        if (round % 2 == 0) {
          cut_and_mount(shelves.pool);
        } else {
          REQUIRE(shelves.pool.unmount().has_value());
          REQUIRE(shelves.pool.mount().has_value());
        }
        // They stay where they are when somebody writes to them afterwards.
        for (const auto& [name, disk] : before) {
          if (shelves.random() % 4 != 0) continue;
          shelves.write(name, shelves.files[name].size(), pattern(shelves.random(), 10'000));
        }
        for (const auto& [name, disk] : shelves.check_whole_files()) {
          CAPTURE(name);
          used.insert(disk);
          if (before.contains(name)) CHECK(before.at(name) == disk);
        }
        shelves.check();
      }
      CHECK(used.size() == 3);
      CHECK(shelves.pool.fs().metrics().spilled_bytes.sum() == 0);
      CHECK_FALSE(shelves.pool.fs().reencode_report().pending);
      check_whole(shelves.pool);
    }
  }

  TEST_CASE("a lost disk takes the files that lie on it and no other, and the pool goes on") {
    Shelves shelves(seed_from_environment(2), disks_alike(3, 128 * kMiB));
    REQUIRE(shelves.pool.mkdir("deep").has_value());
    shelves.add_some(60, 500'000);
    checkpoint(shelves.pool);
    shelves.add_some(6, 500'000);
    const auto homes = shelves.check_whole_files();
    REQUIRE(shelves.pool.unmount().has_value());
    for (std::uint16_t gone = 0; gone < 3; ++gone) {
      CAPTURE(gone);
      REQUIRE(shelves.pool.mount({gone}).has_value());
      CHECK_FALSE(shelves.pool.fs().pool().read_only());
      std::size_t lost = 0;
      for (const auto& [name, text] : shelves.files) {
        CAPTURE(name);
        const auto read = shelves.pool.read(name);
        const bool here = !homes.contains(name) || homes.at(name) != DiskId{gone};
        CHECK(read.has_value() == here);
        if (read.has_value()) CHECK((read.value() == text));
        lost += here ? 0 : 1;
      }
      CHECK(lost > 10);
      CHECK(lost < 40);
      CHECK(shelves.pool.fs().store().unavailable_bytes() > 0);
      // Those that are here are written to where they are, and new ones are made.
      for (const auto& [name, disk] : homes) {
        if (disk == DiskId{gone}) continue;
        shelves.write(name, 0, pattern(gone, 5000));
      }
      const std::string fresh = shelves.add(300'000);
      CHECK(shelves.disks_of(fresh) != std::vector{DiskId{gone}});
      REQUIRE(shelves.pool.unlink(fresh).has_value());
      shelves.files.erase(fresh);
      REQUIRE(shelves.pool.unmount().has_value());
    }
    // Two of three, even.
    REQUIRE(shelves.pool.mount().has_value());
    shelves.check();
    REQUIRE(shelves.pool.unmount().has_value());
    REQUIRE(shelves.pool.mount({0, 1}).has_value());
    for (const auto& [name, disk] : homes)
      CHECK(shelves.pool.read(name).has_value() == (disk == DiskId{2}));
    REQUIRE(shelves.pool.unmount().has_value());
    REQUIRE(shelves.pool.mount().has_value());
    shelves.check();
    CHECK(shelves.check_whole_files() == homes);
  }

  TEST_CASE("a file whose disk is gone is written anew elsewhere, and its disk can leave") {
    Shelves shelves(seed_from_environment(3), disks_alike(3, 96 * kMiB));
    shelves.add_some(40, 300'000);
    const auto homes = shelves.check_whole_files();
    REQUIRE(shelves.pool.unmount().has_value());
    REQUIRE(shelves.pool.mount({1}).has_value());
    for (const auto& [name, disk] : homes) {
      if (disk != DiskId{1}) continue;
      REQUIRE(shelves.pool.truncate(name, 0).has_value());
      shelves.write(name, 0, shelves.files[name]);
      CHECK(shelves.disks_of(name) != std::vector{DiskId{1}});
    }
    shelves.check();
    std::uint64_t missing = 0;
    REQUIRE(shelves.pool.run(shelves.pool.fs().remove_disk(DiskId{1}, &missing)).has_value());
    shelves.settle();
    shelves.check();
    shelves.check_whole_files();
    CHECK(shelves.pool.fs().pool().superblock().disks.size() == 2);
    check_whole(shelves.pool);
  }

  TEST_CASE("small files of one disk share its chunks") {
    Shelves shelves(seed_from_environment(4), disks_alike(3, 96 * kMiB));
    const std::uint64_t before = shelves.used_bytes();
    for (int i = 0; i < 300; ++i) shelves.add(3000);
    CHECK(shelves.used_bytes() - before <= 3 * kSlotBytes);
    shelves.check_whole_files();
  }

  TEST_CASE("writes to a new file at the same time go to one disk") {
    const std::uint64_t first = seed_from_environment(5);
    for (std::uint64_t seed = first; seed < first + seeds(20); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, disks_alike(4, 64 * kMiB));
      REQUIRE(shelves.pool.create("new").has_value());
      const InodeId id = shelves.pool.resolve("new").value();
      std::string text;
      std::vector<Task<Result<void>>> writes;
      for (std::uint64_t i = 0; i < 12; ++i) {
        const std::string piece = pattern(seed + i, 70'000);
        text += piece;
        writes.push_back(SimPool::write_task(&shelves.pool.fs(), id, i * 70'000, piece));
      }
      for (const auto& written : shelves.pool.run(when_all(std::move(writes))))
        REQUIRE(written.has_value());
      shelves.files["new"] = text;
      shelves.check();
      shelves.check_whole_files();
    }
  }

  TEST_CASE("a file that is written to and cloned into at the same time lies on one disk") {
    const std::uint64_t first = seed_from_environment(16);
    for (std::uint64_t seed = first; seed < first + seeds(40); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, disks_alike(3, 64 * kMiB));
      const std::string from = shelves.add(200'000);
      for (int i = 0; i < 6; ++i) {
        const std::string to = "to" + std::to_string(i);
        REQUIRE(shelves.pool.create(to).has_value());
        const InodeId id = shelves.pool.resolve(to).value();
        const std::string piece = pattern(seed, 60'000);
        std::vector<Task<Result<void>>> both;
        both.push_back(SimPool::write_task(&shelves.pool.fs(), id, 0, piece));
        both.push_back(clone_task(&shelves.pool.fs(), shelves.pool.resolve(from).value(), id,
                                  256 * kKiB, 200'000));
        const auto outcomes = shelves.pool.run(when_all(std::move(both)));
        REQUIRE(outcomes[0].has_value());
        std::string& text = shelves.files[to];
        text = piece;
        if (!outcomes[1].has_value()) {
          CHECK(outcomes[1].error().code == Code::kNotSupported);
          continue;
        }
        text.resize(256 * kKiB);
        text += shelves.files[from];
      }
      shelves.check();
      shelves.check_whole_files();
      check_whole(shelves.pool);
    }
  }

  TEST_CASE("what finds no room on its disk goes elsewhere, and the file is put together") {
    const std::uint64_t first = seed_from_environment(6);
    for (std::uint64_t seed = first; seed < first + seeds(4); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, {64 * kMiB, 64 * kMiB, 160 * kMiB});
      // On a small disk.
      std::string name;
      do {
        name = shelves.add(kMiB);
      } while (shelves.disks_of(name) == std::vector{DiskId{2}});
      const DiskId home = shelves.disks_of(name).front();
      for (std::size_t at = kMiB; at < 60 * kMiB; at += kMiB)
        shelves.write(name, at, pattern(shelves.random(), kMiB));
      CHECK(shelves.pool.fs().metrics().spilled_bytes.sum() > 0);
      CHECK(shelves.pool.fs().reencode_report().pending);
      CHECK(shelves.disks_of(name).size() > 1);
      shelves.check();
      shelves.sync();
      if (seed % 2 == 0) {
        cut_and_mount(shelves.pool);
        CHECK(shelves.pool.fs().reencode_report().pending);
      }
      shelves.settle();
      shelves.check();
      shelves.check_whole_files();
      CHECK(shelves.disks_of(name) == std::vector{DiskId{2}});
      CHECK(home != DiskId{2});
      check_whole(shelves.pool);
    }
  }

  TEST_CASE("a file that no disk has room for lies on several, is told, and is there") {
    Shelves shelves(seed_from_environment(7), disks_alike(3, 64 * kMiB));
    const std::string name = shelves.add(0);
    for (std::size_t at = 0; at < 80 * kMiB; at += kMiB) shelves.write(name, at, pattern(at, kMiB));
    shelves.add_some(10, 100'000);
    shelves.pool.executor.run_for(std::chrono::minutes{5});
    CHECK(shelves.disks_of(name).size() > 1);
    CHECK(shelves.pool.fs().reencode_report().stuck_bytes > 0);
    shelves.check();
    // Smaller again, it is put together.
    REQUIRE(shelves.pool.truncate(name, 20 * kMiB).has_value());
    shelves.files[name].resize(20 * kMiB);
    shelves.settle();
    shelves.check();
    shelves.check_whole_files();
  }

  TEST_CASE("a full pool takes what it says, keeps its promises, and can be emptied") {
    const std::uint64_t first = seed_from_environment(8);
    for (std::uint64_t seed = first; seed < first + seeds(4); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, {64 * kMiB, 96 * kMiB, 64 * kMiB});
      const std::uint64_t promised = 30 * kMiB;
      REQUIRE(shelves.pool.create("promised").has_value());
      const InodeId id = shelves.pool.resolve("promised").value();
      const auto reserve = [&](std::uint64_t bytes) {
        return shelves.pool.run(
            shelves.pool.fs().fallocate(id, fs::FallocateMode::kAllocate, 0, bytes, false));
      };
      CHECK(reserve(kGiB).error().code == Code::kNoSpace);
      REQUIRE(reserve(promised).has_value());
      const fs::StatFs room = shelves.pool.fs().statfs();
      std::uint64_t taken = 0;
      while (true) {
        const std::string name = "f" + std::to_string(shelves.made++);
        REQUIRE(shelves.pool.create(name).has_value());
        std::string text = pattern(shelves.random(), shelves.random() % 2'000'000);
        const Result<void> written = shelves.pool.write(name, 0, text);
        if (!written.has_value()) {
          CHECK(written.error().code == Code::kNoSpace);
          REQUIRE(shelves.pool.unlink(name).has_value());
          break;
        }
        taken += text.size();
        shelves.files[name] = std::move(text);
      }
      CHECK(taken + 12 * kMiB > room.available_bytes);
      CHECK(taken <= room.available_bytes + 2 * kMiB);
      // Overwriting takes nothing of the promise for good.
      for (int i = 0; i < 60; ++i) {
        const std::string name = shelves.any();
        if (shelves.files[name].empty()) continue;
        const std::size_t from = shelves.random() % shelves.files[name].size();
        const std::size_t most = shelves.files[name].size() - from;
        shelves.write(name, from, pattern(i, std::min<std::size_t>(most, 200'000)));
      }
      std::string text;
      for (std::uint64_t at = 0; at < promised; at += 512 * kKiB) {
        const std::string piece = pattern(at, 512 * kKiB);
        REQUIRE(shelves.pool.write("promised", at, piece).has_value());
        text += piece;
      }
      shelves.files["promised"] = text;
      shelves.check();
      check_whole(shelves.pool);
      for (int i = 0; i < 5; ++i) {
        const std::string name = shelves.any();
        REQUIRE(shelves.pool.unlink(name).has_value());
        shelves.files.erase(name);
      }
      shelves.pool.executor.run_for(std::chrono::minutes{3});
      shelves.check();
      while (!shelves.files.empty()) {
        REQUIRE(shelves.pool.unlink(shelves.files.begin()->first).has_value());
        shelves.files.erase(shelves.files.begin());
      }
      shelves.settle();
      CHECK(shelves.pool.fs().statfs().available_bytes >= room.available_bytes + promised);
    }
  }

  TEST_CASE("promises hold beside files of the other kind") {
    const std::uint64_t first = seed_from_environment(15);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      const bool whole = seed % 2 == 0;
      Shelves shelves(seed, disks_alike(3, 64 * kMiB), whole ? kWhole : "single");
      const std::uint64_t promised = 24 * kMiB;
      REQUIRE(shelves.pool.create("promised").has_value());
      REQUIRE(shelves.set("promised", whole ? "single" : kWhole).has_value());
      const InodeId id = shelves.pool.resolve("promised").value();
      REQUIRE(shelves.pool
                  .run(shelves.pool.fs().fallocate(id, fs::FallocateMode::kAllocate, 0, promised,
                                                   false))
                  .has_value());
      while (true) {
        const std::string name = "f" + std::to_string(shelves.made++);
        REQUIRE(shelves.pool.create(name).has_value());
        const std::string text = pattern(shelves.random(), shelves.random() % 900'000);
        if (!shelves.pool.write(name, 0, text).has_value()) break;
        shelves.files[name] = text;
      }
      shelves.pool.unlink("f" + std::to_string(shelves.made - 1)).ignore("it may be kept");
      for (int i = 0; i < 150; ++i) {
        const std::string name = shelves.any();
        const std::size_t size = shelves.files[name].size();
        if (size == 0) continue;
        const std::size_t from = shelves.random() % size;
        const std::string piece = pattern(i, std::min<std::size_t>(size - from, 300'000));
        if (!shelves.pool.write(name, from, piece).has_value()) continue;
        shelves.files[name].replace(from, piece.size(), piece);
      }
      std::string text;
      for (std::uint64_t at = 0; at < promised; at += 512 * kKiB) {
        const std::string piece = pattern(at, 512 * kKiB);
        REQUIRE(shelves.pool.write("promised", at, piece).has_value());
        text += piece;
      }
      shelves.files["promised"] = text;
      shelves.check();
      check_whole(shelves.pool);
    }
  }

  TEST_CASE("promises of both kinds are kept to the last block") {
    const std::uint64_t first = seed_from_environment(17);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, disks_alike(3, 64 * kMiB), "single");
      const auto promise = [&](const std::string& name, std::uint64_t bytes) {
        const InodeId id = shelves.pool.resolve(name).value();
        return shelves.pool.run(
            shelves.pool.fs().fallocate(id, fs::FallocateMode::kAllocate, 0, bytes, false));
      };
      std::map<std::string, std::uint64_t> promised;
      for (int i = 0; i < 6; ++i) {
        const std::string name = "whole" + std::to_string(i);
        REQUIRE(shelves.pool.create(name).has_value());
        REQUIRE(shelves.set(name, kWhole).has_value());
        promised[name] = kMiB + shelves.random() % 60 * kBlockBytes;
        REQUIRE(promise(name, promised[name]).has_value());
      }
      REQUIRE(shelves.pool.create("spread").has_value());
      std::uint64_t most = 200 * kMiB;
      while (!promise("spread", most).has_value()) most -= 16 * kBlockBytes;
      // Small and large pieces, so that whole files leave as much of their chunks unused as can be.
      const auto fill = [&](const std::string& name, std::uint64_t bytes, std::size_t largest) {
        std::string text;
        while (text.size() < bytes) {
          const std::size_t size = kBlockBytes * (1 + shelves.random() % largest);
          const std::string piece =
              pattern(shelves.random(), std::min<std::size_t>(size, bytes - text.size()));
          REQUIRE(shelves.pool.write(name, text.size(), piece).has_value());
          text += piece;
        }
        shelves.files[name] = text;
      };
      for (const auto& [name, bytes] : promised) fill(name, bytes, 30);
      fill("spread", most, 200);
      for (const auto& [name, text] : shelves.files) {
        const auto read = shelves.pool.read(name, 0, 256 * kMiB);
        REQUIRE(read.has_value());
        CHECK((read.value() == text));
      }
      check_whole(shelves.pool);
    }
  }

  TEST_CASE("a disk that leaves takes no file apart") {
    const std::uint64_t first = seed_from_environment(9);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Shelves shelves(seed, disks_alike(4, 96 * kMiB));
      shelves.add_some(40, 6'000'000);
      for (int i = 0; i < 6; ++i) shelves.change_one();
      const auto before = shelves.check_whole_files();
      std::uint64_t missing = 0;
      REQUIRE(shelves.pool.run(shelves.pool.fs().remove_disk(DiskId{1}, &missing)).has_value());
      // Left alone, too: then nothing else says that a file may have been cut.
      for (int i = 0; i < 6 && seed % 3 != 0; ++i) {
        for (int k = 0; k < 4; ++k) shelves.change_one();
        shelves.pool.executor.run_for(std::chrono::milliseconds{shelves.random() % 1500});
        if (seed % 2 == 0 && i < 3) {
          shelves.sync();
          // Not with a disk that has left by then.
          const bool left = shelves.pool.fs().pool().superblock().find(DiskId{1}) == nullptr;
          cut_and_mount(shelves.pool,
                        left ? std::vector<std::size_t>{1} : std::vector<std::size_t>{});
        }
        shelves.check();
      }
      shelves.settle();
      shelves.check();
      CHECK(shelves.pool.fs().pool().superblock().find(DiskId{1}) == nullptr);
      for (const auto& [name, disk] : shelves.check_whole_files()) {
        CAPTURE(name);
        CHECK(disk != DiskId{1});
        if (before.contains(name) && before.at(name) != DiskId{1}) CHECK(disk == before.at(name));
      }
      check_whole(shelves.pool);
    }
  }

  TEST_CASE("balancing leaves whole files where they are, and new ones go to the emptier disk") {
    Shelves shelves(seed_from_environment(10), disks_alike(2, 96 * kMiB));
    shelves.add_some(40, 2'000'000);
    const auto before = shelves.check_whole_files();
    REQUIRE(shelves.pool.add_disk(256 * kMiB).has_value());
    REQUIRE(shelves.pool.run(shelves.pool.fs().rebalance(true)).has_value());
    shelves.settle();
    CHECK(shelves.check_whole_files() == before);
    std::map<DiskId, int> fresh;
    for (int i = 0; i < 40; ++i) ++fresh[shelves.disks_of(shelves.add(50'000)).front()];
    CHECK(fresh[DiskId{2}] > 20);
    shelves.check();
  }

  TEST_CASE("compaction leaves each file on its disk") {
    Shelves shelves(seed_from_environment(11), disks_alike(3, 64 * kMiB));
    for (int i = 0; i < 500; ++i) shelves.add(100'000 + shelves.random() % 200'000);
    const auto before = shelves.check_whole_files();
    for (auto at = shelves.files.begin(); at != shelves.files.end();) {
      if (shelves.random() % 4 == 0) {
        ++at;
        continue;
      }
      REQUIRE(shelves.pool.unlink(at->first).has_value());
      at = shelves.files.erase(at);
    }
    const std::uint64_t used = shelves.used_bytes();
    REQUIRE(shelves.pool.run(shelves.pool.fs().compact()).has_value());
    shelves.sync();
    shelves.pool.executor.run_for(std::chrono::seconds{10});
    CHECK(shelves.used_bytes() + 8 * kSlotBytes < used);
    CHECK(shelves.pool.fs().metrics().compaction_bytes.sum() > 0);
    for (const auto& [name, disk] : shelves.check_whole_files()) CHECK(before.at(name) == disk);
    shelves.check();
    check_whole(shelves.pool);
  }

  TEST_CASE("a clone shares the blocks and the disk, and never brings another disk in") {
    Shelves shelves(seed_from_environment(12), disks_alike(3, 96 * kMiB));
    const std::string one = shelves.add(3'000'000);
    std::string other;
    do {
      other = shelves.add(1'000'000);
    } while (shelves.disks_of(other) == shelves.disks_of(one));
    REQUIRE(shelves.pool.unmount().has_value());
    REQUIRE(shelves.pool.mount().has_value());
    for (int i = 0; i < 5; ++i) {
      const std::string clone = "clone" + std::to_string(i);
      REQUIRE(shelves.pool.create(clone).has_value());
      REQUIRE(shelves.pool.copy_range(one, 0, clone, 0, 3'000'000).has_value());
      shelves.files[clone] = shelves.files[one];
      shelves.write(clone, 500'000, pattern(i, 100'000));
      CHECK(shelves.disks_of(clone) == shelves.disks_of(one));
    }
    CHECK(shelves.pool.fs().store().saved_blocks() > 3000);
    CHECK(shelves.pool.copy_range(one, 0, other, 0, 1'000'000).error().code == Code::kNotSupported);
    shelves.check();
    shelves.check_whole_files();
    check_whole(shelves.pool);
  }

  TEST_CASE("a change of policy brings each file to one disk, and back to all") {
    const std::uint64_t first = seed_from_environment(13);
    for (std::uint64_t seed = first; seed < first + seeds(4); ++seed) {
      CAPTURE(seed);
      const char* const from[] = {"single", "replica:2", "ec:2+1"};
      Shelves shelves(seed, disks_alike(3, 128 * kMiB), from[seed % 3]);
      shelves.add_some(30, 3'000'000);
      const auto policy = journal::Policy::parse(kWhole).value();
      REQUIRE(shelves.pool.run(shelves.pool.fs().set_policy(policy)).has_value());
      for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 5; ++k) shelves.change_one();
        shelves.pool.executor.run_for(std::chrono::milliseconds{shelves.random() % 3000});
        shelves.sync();
        cut_and_mount(shelves.pool);
        shelves.check();
      }
      shelves.settle();
      shelves.check();
      std::set<DiskId> used;
      for (const auto& [name, disk] : shelves.check_whole_files()) used.insert(disk);
      CHECK(used.size() == 3);
      check_whole(shelves.pool);
      const auto back = journal::Policy::parse(from[seed % 3]).value();
      REQUIRE(shelves.pool.run(shelves.pool.fs().set_policy(back)).has_value());
      shelves.settle();
      shelves.check();
      check_whole(shelves.pool);
      for (const auto& [name, text] : shelves.files) {
        const InodeId id = shelves.pool.resolve(name).value();
        const fs::PolicyReport report =
            shelves.pool.run(shelves.pool.fs().policy_report(id)).value();
        for (const auto& [layout, bytes] : report.layouts) CHECK_FALSE(layout.whole_files);
      }
    }
  }

  TEST_CASE("a directory of whole files in a pool of copies lets the rest be reached") {
    Shelves shelves(seed_from_environment(14), disks_alike(4, 96 * kMiB), "single");
    REQUIRE(shelves.pool.mkdir("films").has_value());
    REQUIRE(shelves.set("films", kWhole).has_value());
    std::map<std::string, DiskId> homes;
    for (int i = 0; i < 30; ++i) {
      const std::string name = "films/" + std::to_string(i);
      REQUIRE(shelves.pool.create(name).has_value());
      REQUIRE(shelves.pool.write(name, 0, pattern(i, 400'000)).has_value());
      REQUIRE(shelves.disks_of(name).size() == 1);
      homes[name] = shelves.disks_of(name).front();
    }
    checkpoint(shelves.pool);
    shelves.pool.executor.run_for(std::chrono::minutes{1});
    CHECK(shelves.pool.fs().metadata_copies() == 3);
    REQUIRE(shelves.pool.unmount().has_value());
    REQUIRE(shelves.pool.mount({0, 3}).has_value());
    for (const auto& [name, disk] : homes) {
      const auto read = shelves.pool.read(name);
      CHECK(read.has_value() == (disk != DiskId{0} && disk != DiskId{3}));
    }
  }
}
