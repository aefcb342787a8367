// `check --repair` of what is not understood: nothing is written, not even what could be repaired. And of what the
// log contradicts.
#include "tests/fs/wrong_pool.hpp"

namespace dynamicfs::test {

TEST_SUITE("repair") {
  TEST_CASE_FIXTURE(Wrong,
                    "if two files claim a block with different contents nothing is repaired") {
    untouched(
        [&](Inside& inside) {
          contest(inside);
          REQUIRE(inside.store->note_live(nobodys(inside)).has_value());
          with(inside, file, [](fs::Inode& inode) { inode.nlink = 7; });
        },
        "has 7 links and 2 names",
        fmt::format("inode {} (/g) and inode {} (/c) have with different contents", other, copy));
    REQUIRE(mount().has_value());
    CHECK(*read("g") == pattern('g', 200'000));
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong,
                    "two files that claim a block are found although the chunk calls it shared") {
    untouched(
        [&](Inside& inside) {
          const extent::Piece piece = contest(inside);
          REQUIRE(inside.store->note_shared({&piece, 1}).has_value());
        },
        "with different contents", "with different contents");
    CHECK(problems().size() == 1);
  }

  TEST_CASE_FIXTURE(Wrong,
                    "blocks of a file that says it is something else are not given to others") {
    std::uint32_t mode = 0;
    SUBCASE("a symbolic link") { mode = S_IFLNK | 0644; }
    SUBCASE("a socket") { mode = S_IFSOCK | 0644; }
    SUBCASE("nothing") { mode = 0644; }
    SUBCASE("a directory") { mode = S_IFDIR | 0644; }
    untouched([&](Inside& inside) { set_mode(inside, other, mode); },
              "has blocks of a file and is none",
              fmt::format("inode {} has blocks of a file and is none", other));
    CHECK(repair()->left.size() > 2);  // the name says it as well
    // It is all there.
    tamper([&](Inside& inside) { set_mode(inside, other, S_IFREG | 0644); });
    REQUIRE(repair().has_value());
    CHECK(problems().empty());
    REQUIRE(mount().has_value());
    CHECK(*read("g") == pattern('g', 200'000));
    REQUIRE(unmount().has_value());
  }

  TEST_CASE_FIXTURE(Wrong, "names in a directory that says it is something else are not lost") {
    untouched([&](Inside& inside) { set_mode(inside, inner, S_IFIFO | 0755); },
              "has names in it and is no directory",
              fmt::format("inode {} has names in it and is no directory", inner));
  }

  TEST_CASE_FIXTURE(Wrong, "what has content and no head is not taken for removed") {
    std::string path;
    std::string what;
    SUBCASE("a file") {
      path = "g";
      what = "there are blocks";
    }
    SUBCASE("a directory") {
      path = "d/e";
      what = "there are names";
    }
    SUBCASE("a symbolic link") {
      path = "s";
      what = "there is something";
    }
    REQUIRE(mount().has_value());
    const InodeId lost = *resolve(path);
    REQUIRE(unmount().has_value());
    untouched([&](Inside& inside) { lose_head(inside, lost); }, what,
              fmt::format("inode {} has no head, and {} of it", lost, what));
  }

  TEST_CASE_FIXTURE(Wrong,
                    "a name that says what its inode is not is not believed less than the inode") {
    untouched(
        [&](Inside& inside) {
          drop_name(inside, kRootInode, "g");
          put_name(inside, kRootInode, "g", other, S_IFDIR);
        },
        "its name says directory", "its name 'g' says directory: one of both is damaged");
  }

  TEST_CASE_FIXTURE(Wrong, "a file that has fewer blocks than it says is not counted anew") {
    untouched(
        [&](Inside& inside) {
          with(inside, other, [](fs::Inode& inode) {
            extent::Freed freed;
            inode.map->clear(FileBlock{10}, 20, freed);
            inode.map->set_counts({.data_blocks = 49, .reserved_blocks = 0});
          });
        },
        "and says 49", fmt::format("inode {} (/g) has 29 blocks, and said that it had 49", other));
  }

  TEST_CASE_FIXTURE(Wrong, "without a root directory nothing is derived") {
    const Quiet quiet;
    tamper([&](Inside& inside) { set_mode(inside, kRootInode, S_IFREG | 0755); });
    const std::vector<std::string> before = problems();
    CHECK(repair().error().code == Code::kFormatInvalid);
    CHECK(problems() == before);
  }

  TEST_CASE_FIXTURE(
      Wrong, "what the log says against the chunks is not made final if it is not understood") {
    const Quiet quiet;
    tamper([&](Inside& inside) { put_name(inside, dir, "ghost", InodeId{4000}, S_IFREG); });
    REQUIRE(mount().has_value());
    extent::Piece piece{.chunk = {}, .block = 0, .count = 3};
    piece.chunk = fs().store().live().front().first;
    REQUIRE(unmount().has_value());
    const std::vector<std::uint32_t> crcs{1, 2, 3};
    fs::RecordWriter record;
    extent::encode(record.raw(), other, FileBlock{100}, {{piece}}, crcs);
    log(record);
    not_understood("'ghost'", "with different contents");
    CHECK(mount().error().code == Code::kFormatInvalid);
  }

  TEST_CASE_FIXTURE(Wrong,
                    "what the log takes from a file and the chunk calls free ends as the file is") {
    const Quiet quiet;
    fs::RecordWriter record;
    extent::encode(record.raw(),
                   extent::ExtentClear{.inode = other, .first = FileBlock{0}, .count = 49});
    tamper([&](Inside& inside) {
      REQUIRE(inside.store->note_dead(pieces(inside, other)).has_value());
    });
    log(record);
    CHECK(mount().error().code == Code::kFormatInvalid);
    CHECK(any_says(problems(), "the log takes blocks of chunk"));
    const auto report = repair();
    REQUIRE(report.has_value());
    INFO("left", joined(report->left));
    CHECK(any_says(report->repaired, "what the log says and the chunks contradict"));
    CHECK(problems().empty());
    works();
  }

  TEST_CASE_FIXTURE(Wrong, "what the log gives a file and the chunk calls in use is the file's") {
    const Quiet quiet;
    fs::RecordWriter record;
    tamper([&](Inside& inside) {
      const std::vector<extent::Piece> piece = nobodys(inside);
      const std::vector<std::uint32_t> crcs{1, 2, 3, 4, 5};
      extent::encode(record.raw(), other, FileBlock{0}, piece, crcs);
      REQUIRE(inside.store->note_live(piece).has_value());
    });
    log(record);
    CHECK(mount().error().code == Code::kFormatInvalid);
    CHECK(any_says(problems(), "has blocks that are not its own"));
    const auto report = repair();
    REQUIRE(report.has_value());
    INFO("left", joined(report->left));
    CHECK(any_says(report->repaired, "what the log says and the chunks contradict"));
    CHECK(problems().empty());
    REQUIRE(mount().has_value());
    check_whole(*this);
    REQUIRE(unmount().has_value());
  }
}

}  // namespace dynamicfs::test
