// `check --repair`: pools whose metadata is whole and contradicts itself (tests/fs/wrong_pool.hpp); what is derived anew
// must be as it was.
#include <random>

#include "tests/fs/wrong_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

void dead(Inside& inside, const std::vector<extent::Piece>& pieces) {
  REQUIRE(inside.store->note_dead(pieces).has_value());
}

// Several kinds at once.
void spoil_much(Inside& inside, const Wrong& pool) {
  REQUIRE(inside.store->note_live(Wrong::nobodys(inside)).has_value());
  dead(inside, Wrong::pieces(inside, pool.other));
  Wrong::with(inside, pool.file, [](fs::Inode& inode) { inode.nlink = 7; });
  Wrong::put_name(inside, pool.dir, "ghost", InodeId{4000}, S_IFREG);
  Wrong::drop_name(inside, pool.dir, "e");
  inside.inode_count += 3;
}

// One of many; what was done, in words. No file loses its links and its names.
std::string spoil_something(Inside& inside, const std::vector<InodeId>& all,
                            std::mt19937_64& draw) {
  const auto any_of = [&](std::uint32_t type) {
    while (true) {
      const InodeId id = all[draw() % all.size()];
      const fs::InodeRef inode = inside.inodes.find(id);
      LockGuard lock(inode->mutex);
      if (type == 0 || (inode->mode & S_IFMT) == type) return id;
    }
  };
  const InodeId directory = any_of(S_IFDIR);
  const InodeId inode = any_of(0);
  const InodeId regular = any_of(S_IFREG);
  const std::uint64_t number = draw() % 9;
  const std::string name = fmt::format("n{}", draw() % 1000);
  std::optional<std::pair<std::uint64_t, fs::Entry>> entry;
  Wrong::with(inside, directory, [&](fs::Inode& in) {
    const auto found = in.directory->next(0);
    if (found) entry.emplace(found->cookie, *found->entry);
  });
  const auto put = [&](std::uint64_t cookie, const fs::Entry& what) {
    Wrong::with(inside, directory, [&](fs::Inode& in) { in.directory->put(cookie, what); });
  };
  const std::uint64_t kind = draw() % 10;
  switch (kind) {
    case 0:
      inside.store->note_live(Wrong::nobodys(inside)).ignore("it may have been done before");
      break;
    case 1: inside.store->note_dead(Wrong::pieces(inside, regular)).ignore("likewise"); break;
    case 2: inside.store->note_shared(Wrong::pieces(inside, regular)).ignore("likewise"); break;
    case 3:
      Wrong::with(inside, inode,
                  [&](fs::Inode& in) { in.nlink = static_cast<std::uint32_t>(number + 1); });
      break;
    case 4:
      Wrong::with(inside, directory, [&](fs::Inode& in) { in.directory->set_count(number); });
      break;
    case 5:
      Wrong::with(inside, regular, [&](fs::Inode& in) {
        in.map->set_counts({.data_blocks = number, .reserved_blocks = number});
      });
      break;
    case 6: Wrong::put_name(inside, directory, name, InodeId{4000 + number}, S_IFREG); break;
    case 7:
      if (entry) Wrong::drop_name(inside, directory, entry->second.name);
      break;
    case 8: Wrong::put_name(inside, directory, name, inode, number < 5 ? S_IFDIR : S_IFREG); break;
    default:
      if (!entry) break;
      Wrong::drop_name(inside, directory, entry->second.name);
      put(20 + draw() % 1000, entry->second);
  }
  return fmt::format("{} of directory {}, inode {}, file {}, {}; ", kind, directory, inode, regular,
                     number);
}

}  // namespace

TEST_SUITE("repair") {
  TEST_CASE_FIXTURE(Wrong, "blocks that are in use and no file's are free again") {
    const std::string tree = mended(
        [](Inside& inside) { REQUIRE(inside.store->note_live(nobodys(inside)).has_value()); },
        "has blocks in use that no file has", "5 blocks that no file has are free");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(WrongUnderParity, "blocks of a parity group, likewise") {
    const std::string tree = mended(
        [](Inside& inside) { REQUIRE(inside.store->note_live(nobodys(inside)).has_value()); },
        "has blocks in use that no file has", "5 blocks that no file has are free");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "blocks that files have and that are free are in use again") {
    const std::string tree =
        mended([&](Inside& inside) { dead(inside, pieces(inside, other)); },
               "has blocks in use that no file has", "49 blocks that files have are in use");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(WrongUnderParity, "blocks of a parity group that files have, likewise") {
    const std::string tree =
        mended([&](Inside& inside) { dead(inside, pieces(inside, other)); },
               "has blocks in use that no file has", "that files have are in use");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "shared blocks are counted as often as files have them") {
    std::string tree;
    SUBCASE("they were counted once more") {
      tree = mended(
          [&](Inside& inside) {
            REQUIRE(inside.store->note_shared(pieces(inside, other)).has_value());
          },
          "that files name more often", "49 blocks are counted as often");
    }
    SUBCASE("they were counted once less") {
      tree = mended([&](Inside& inside) { dead(inside, pieces(inside, copy)); },
                    "that files name more often", "49 blocks are counted as often");
    }
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "links are names, of files and of directories") {
    const std::string tree = mended(
        [&](Inside& inside) {
          with(inside, file, [](fs::Inode& inode) { inode.nlink = 7; });
          with(inside, other, [](fs::Inode& inode) { inode.nlink = 0; });
          with(inside, dir, [](fs::Inode& inode) { inode.nlink = 9; });
        },
        "has 7 links and 2 names", "had 7 links: 2");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "what a directory, a file and the pool count is counted again") {
    const std::string tree = mended(
        [&](Inside& inside) {
          with(inside, dir, [](fs::Inode& inode) { inode.directory->set_count(9); });
          with(inside, other, [](fs::Inode& inode) {
            inode.map->set_counts({.data_blocks = 3, .reserved_blocks = 4});
          });
          inside.inode_count += 3;
          inside.reserved_blocks += 5;
        },
        "names and says it has 9", "said that it had 9 names: 2");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "a directory that says it is empty shows what is in it, and keeps it") {
    const std::string tree = mended(
        [&](Inside& inside) {
          with(inside, inner, [](fs::Inode& inode) { inode.directory->set_count(0); });
        },
        "names and says it has 0", "said that it had 0 names: 1");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "a name of an inode that does not exist is removed, and told") {
    const std::string tree =
        mended([&](Inside& inside) { put_name(inside, dir, "ghost", InodeId{4000}, S_IFREG); },
               "'ghost' in directory", "the name 'ghost' in directory");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "a name says of what type its inode is, and is where it can be found") {
    const std::string tree = mended(
        [&](Inside& inside) {
          drop_name(inside, kRootInode, "g");
          put_name(inside, kRootInode, "g", other, S_IFLNK);
          drop_name(inside, kRootInode, "s");
          const auto link = inside.inodes.ids();
          for (const InodeId id : link) {
            const fs::InodeRef inode = inside.inodes.find(id);
            if (!inode->symlink) continue;
            with(inside, kRootInode, [&](fs::Inode& root) {
              root.directory->put(12345, {id, S_IFLNK, "s"});
            });
          }
        },
        "its name says symbolic link", "says of what type inode");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "a file without a name gets one in lost+found") {
    const std::string tree =
        mended([&](Inside& inside) { drop_name(inside, kRootInode, "g"); },
               fmt::format("inode {} has 1 links and 0 names", other),
               fmt::format("inode {} had no name in the tree: /lost+found/inode-{}", other, other));
    CHECK(tree.find(fmt::format("/lost+found/inode-{} 100644 links 1 size 200000", other)) !=
          std::string::npos);
    REQUIRE(mount().has_value());
    CHECK(*read(fmt::format("lost+found/inode-{}", other)) == pattern('g', 200'000));
    // Nobody gets the number of lost+found.
    REQUIRE(create("later").has_value());
    CHECK(*resolve("later") != *resolve("lost+found"));
    REQUIRE(unmount().has_value());
    // And what is lost next finds it there.
    const std::string both =
        mended([&](Inside& inside) { drop_name(inside, dir, "x"); }, "has 1 links and 0 names",
               "had no name in the tree: /lost+found/inode-");
    CHECK(both.find("lost+found-1") == std::string::npos);
  }

  TEST_CASE_FIXTURE(Wrong, "a directory without a name gets one with all that is in it") {
    const std::string tree = mended([&](Inside& inside) { drop_name(inside, kRootInode, "d"); },
                                    fmt::format("directory {} has 0 names", dir),
                                    fmt::format("/lost+found/inode-{}", dir));
    REQUIRE(mount().has_value());
    CHECK(*read(fmt::format("lost+found/inode-{}/e/y", dir)) == pattern('d', 200'000));
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong, "directories that lie in each other are put into lost+found") {
    mended(
        [&](Inside& inside) {
          drop_name(inside, kRootInode, "d");
          put_name(inside, inner, "d", dir, S_IFDIR);
          with(inside, dir, [&](fs::Inode& inode) { inode.parent = inner; });
          with(inside, inner, [](fs::Inode& inode) { inode.nlink = 3; });
          with(inside, kRootInode, [](fs::Inode& inode) { inode.nlink = 2; });
        },
        "cannot be reached from the root", fmt::format("/lost+found/inode-{}", dir));
    REQUIRE(mount().has_value());
    CHECK(*read(fmt::format("lost+found/inode-{}/e/y", dir)) == pattern('d', 200'000));
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong, "a directory has one name, where it says that it is") {
    const std::string tree = mended(
        [&](Inside& inside) {
          put_name(inside, kRootInode, "again", inner, S_IFDIR);
          with(inside, kRootInode, [](fs::Inode& inode) { inode.nlink = 4; });
        },
        fmt::format("directory {} has 2 names", inner),
        "the name 'again' in directory 1 is removed");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "a directory says that it is where its name is") {
    const std::string tree = mended(
        [&](Inside& inside) {
          with(inside, inner, [](fs::Inode& inode) { inode.parent = kRootInode; });
        },
        "and says it is in 1", "said that it was in directory 1");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "what has neither links nor names and is not listed gets a name") {
    mended(
        [&](Inside& inside) {
          drop_name(inside, kRootInode, "g");
          with(inside, other, [](fs::Inode& inode) { inode.nlink = 0; });
        },
        "has no links and is not listed for removal",
        fmt::format("inode {} had no name in the tree: /lost+found/inode-{}", other, other));
    REQUIRE(mount().has_value());
    CHECK(*read(fmt::format("lost+found/inode-{}", other)) == pattern('g', 200'000));
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong, "if it is empty it is listed, and the next mount removes it") {
    REQUIRE(mount().has_value());
    REQUIRE(create("empty").has_value());
    const InodeId empty = *resolve("empty");
    REQUIRE(unmount().has_value());
    const std::string tree = mended(
        [&](Inside& inside) {
          drop_name(inside, kRootInode, "empty");
          with(inside, empty, [](fs::Inode& inode) { inode.nlink = 0; });
        },
        "has no links and is not listed for removal", "the next mount removes it");
    CHECK(tree == good);
    REQUIRE(mount().has_value());
    CHECK(run(fs().getattr(empty)).error().code == Code::kStale);
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong, "a directory of others is not used as lost+found") {
    REQUIRE(mount().has_value());
    REQUIRE(mkdir("lost+found").has_value());
    REQUIRE(unmount().has_value());
    const std::string tree =
        mended([&](Inside& inside) { drop_name(inside, kRootInode, "g"); },
               "has 1 links and 0 names", fmt::format("/lost+found-1/inode-{}", other));
    CHECK(tree.find("/lost+found-1 40700 ") != std::string::npos);
  }

  TEST_CASE_FIXTURE(Wrong, "a file whose only name is another's in its directory gets a name") {
    mended(
        [&](Inside& inside) {
          drop_name(inside, kRootInode, "g");
          with(inside, kRootInode, [&](fs::Inode& root) {
            root.directory->put(fs::Directory::cookie_of("f") + 1, {other, S_IFREG, "f"});
          });
        },
        "has the name 'f' where it cannot be found", "no program can find it");
    REQUIRE(mount().has_value());
    CHECK(*read(fmt::format("lost+found/inode-{}", other)) == pattern('g', 200'000));
    CHECK(*read("f") == pattern('f', 200'000));
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong, "numbers that are in use are not given again") {
    const std::string tree = mended([](Inside& inside) { inside.inode_limit_logged = 4; },
                                    "has a number that may be given again", "are not given again");
    CHECK(tree == good);
  }

  TEST_CASE_FIXTURE(Wrong, "what is repaired is durable before anything else can be done") {
    tamper([&](Inside& inside) { spoil_much(inside, *this); });
    options_.tolerant = options_.repair = true;
    REQUIRE(mount().has_value());
    power_cut();
    options_.tolerant = options_.repair = false;
    CHECK(problems().empty());
    works();
  }

  TEST_CASE_FIXTURE(Wrong, "the number of inodes is told without what the repair has made") {
    tamper([&](Inside& inside) { spoil_much(inside, *this); });
    const auto report = repair();
    REQUIRE(report.has_value());
    INFO("repaired", joined(report->repaired));
    CHECK(any_says(report->repaired, "the pool said that there were 12 inodes: 9"));
  }

  TEST_CASE_FIXTURE(Wrong, "with a disk away nothing is repaired, and it is named") {
    tamper([&](Inside& inside) { spoil_much(inside, *this); });
    const std::vector<std::string> before = problems();
    const auto report = repair({2});
    REQUIRE(report.has_value());
    CHECK(report->repaired.empty());
    CHECK(any_says(report->left, "(sim2) is missing"));
    // It has missed nothing, and what was wrong is so still.
    CHECK(problems() == before);
  }

  TEST_CASE_FIXTURE(Wrong, "metadata that cannot be read is no reason to remove anything") {
    const Quiet quiet;
    REQUIRE(mount().has_value());
    for (int i = 0; i < 800; ++i) REQUIRE(create(fmt::format("file number {}", i)).has_value());
    REQUIRE(unmount().has_value());
    tamper([&](Inside& inside) { spoil_much(inside, *this); });
    const std::vector<std::string> before = problems();
    // In the middle of the run, in both copies: its chunks are in front of that.
    REQUIRE(mount({}, true).has_value());
    const auto runs = fs().runs().runs();
    REQUIRE(runs->size() == 1);
    REQUIRE(runs->front()->ref().bytes > 4 * journal::kRunBlockBytes);
    std::vector<std::pair<std::size_t, std::uint64_t>> places;
    for (const journal::RunCopy& one : runs->front()->ref().copies) {
      places.emplace_back(one.disk.raw, fs().pool().slot_offset(one.disk, one.slots[0]) +
                                            2 * journal::kRunBlockBytes + 100);
    }
    REQUIRE(unmount().has_value());
    for (const auto& [disk, offset] : places) media[disk]->flip(offset, 3);
    CHECK(repair().error().code == Code::kCorrupt);
    for (const auto& [disk, offset] : places) media[disk]->flip(offset, 3);
    CHECK(problems() == before);
    // With one good copy it can.
    media[places[0].first]->flip(places[0].second, 3);
    CHECK(repair().has_value());
    CHECK(problems().empty());
  }

  TEST_CASE("wherever the power goes during a repair, another one ends it") {
    Wrong pool;
    pool.tamper([&](Inside& inside) { spoil_much(inside, pool); });
    const std::size_t before = pool.problems().size();
    std::vector<scheduler::SimulatedMedia> saved;
    for (const auto& medium : pool.media) saved.push_back(medium->clone());
    std::uint64_t cuts = 0;
    std::uint64_t unchanged = 0;
    for (std::uint64_t at = 0;; ++at) {
      INFO("power cut at device operation ", at);
      for (std::size_t i = 0; i < saved.size(); ++i) *pool.media[i] = saved[i].clone();
      std::uint64_t seen = 0;
      bool cut = false;
      pool.on_open = [&](std::size_t, scheduler::SimulatedDisk& disk) {
        disk.on_device_operation([&](std::uint64_t) {
          if (cut || seen++ != at) return;
          cut = true;
          for (scheduler::SimulatedDisk* each : pool.disks) each->power_cut();
        });
      };
      {
        const Quiet quiet;
        const auto report = pool.repair();
        CHECK(report.has_value() != cut);
      }
      pool.on_open = nullptr;
      if (!cut) break;
      ++cuts;
      const std::size_t left = pool.problems().size();
      CHECK((left == 0 || left == before));
      unchanged += left == 0 ? 0 : 1;
      if (left != 0) REQUIRE(pool.repair().has_value());
      CHECK(pool.problems().empty());
      REQUIRE(pool.mount().has_value());
      CHECK(*pool.read("g") == pattern('g', 200'000));
      CHECK(*pool.read(fmt::format("lost+found/inode-{}/y", pool.inner)) == pattern('d', 200'000));
      REQUIRE(pool.unmount().has_value());
    }
    CHECK(unchanged > 0);
    CHECK(unchanged < cuts);
  }

  TEST_CASE(
      "whatever is wrong at once, no content is lost, and a second repair finds nothing to do") {
    const std::uint64_t first = seed_from_environment(1);
    std::uint64_t clean = 0;
    std::uint64_t left = 0;
    for (std::uint64_t seed = first; seed < first + seeds(40); ++seed) {
      CAPTURE(seed);
      Wrong pool;
      std::vector<InodeId> all;
      std::string done;
      pool.tamper([&](Inside& inside) {
        std::mt19937_64 draw(seed);
        all = inside.inodes.ids();
        std::ranges::sort(all);
        const std::uint64_t changes = 1 + draw() % 6;
        for (std::uint64_t i = 0; i < changes; ++i) done += spoil_something(inside, all, draw);
      });
      INFO(done);
      const std::vector<std::string> before = pool.problems();
      const auto report = pool.repair();
      REQUIRE(report.has_value());
      INFO("repaired", joined(report->repaired), "\nleft", joined(report->left));
      const std::vector<std::string> after = pool.problems();
      INFO("found afterwards", joined(after));
      CHECK(after.empty() == report->left.empty());
      if (!report->left.empty()) {
        CHECK(report->repaired.empty());
        CHECK(after == before);
        ++left;
      }
      clean += after.empty() ? 1 : 0;
      const auto again = pool.repair();
      REQUIRE(again.has_value());
      INFO("repaired again", joined(again->repaired));
      CHECK(again->repaired.empty());
      REQUIRE(pool.mount().has_value());
      for (const InodeId id : all) {
        const auto attributes = pool.run(pool.fs().getattr(id));
        REQUIRE(attributes.has_value());
        if ((attributes->mode & S_IFMT) != S_IFREG) continue;
        const std::string text = *pool.run(SimPool::read_task(&pool.fs(), id, 0, kMiB));
        const bool known = text == pattern('f', 200'000) || text == pattern('g', 200'000) ||
                           text == pattern('d', 200'000);
        CHECK(known);
      }
      REQUIRE(pool.unmount().has_value());
    }
    CHECK(clean > 0);
    CHECK((left > 0 || seeds(40) < 40));
  }

  TEST_CASE_FIXTURE(Wrong, "a good pool is not written to") {
    const auto report = repair();
    REQUIRE(report.has_value());
    CHECK(report->repaired.empty());
    CHECK(report->left.empty());
    CHECK(works() == good);
  }
}

}  // namespace dynamicfs::test
