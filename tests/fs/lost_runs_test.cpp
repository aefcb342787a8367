// Runs that are lost as a whole, on disks that are away or rotten: nothing that only they knew passes for
// a hole or for a name that is not there, and what older ones say is told as older.
#include <doctest/doctest.h>

#include <bit>
#include <map>

#include "tests/fs/salvage_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// Three runs; what is where is said by the tests. Each mounts without one of them.
struct LayersOfRuns {
  LayersOfRuns() {
    pool.format();
    REQUIRE(pool.mount().has_value());
  }
  void file(const std::string& path, char letter, std::uint64_t windows = 1) {
    if (!pool.resolve(path).has_value()) REQUIRE(pool.create(path).has_value());
    for (std::uint64_t i = 0; i < windows; ++i) {
      REQUIRE(pool.write(path, i * kWindowBytes, std::string(kBlockBytes, letter)).has_value());
    }
  }
  void touch(const std::string& path) {
    fs::AttributeChange change;
    change.mtime_ns = 1;
    REQUIRE(pool.run(pool.fs().setattr(*pool.resolve(path), change)).has_value());
  }
  // `rank` 0: the newest. What the log has stays.
  void lose(std::size_t rank) {
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::vector<journal::RunRef> runs = runs_of(pool);
    const RunBlocks blocks(pool);
    pool.power_cut();
    blocks.lose(pool.media, runs.at(rank).id);
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(pool.fs().salvage_report().runs_lost == 1);
  }
  fs::SalvageDoubt doubt(const std::string& path) {
    const Result<InodeId> id = pool.resolve(path);
    REQUIRE(id.has_value());
    REQUIRE(pool.run(pool.fs().getattr(*id)).has_value());
    return pool.fs().salvage_doubt(*id);
  }
  // But for what extended attributes it may have had.
  bool whole(const std::string& path) {
    fs::SalvageDoubt found = doubt(path);
    found.attributes = false;
    return !found.any();
  }
  const Quiet quiet;
  SimPool pool{29, many_runs()};
};

}  // namespace

TEST_SUITE("salvage") {
  TEST_CASE("whatever runs are lost, what is not in doubt is right") {
    const Quiet quiet;
    const std::uint64_t seed = seed_from_environment(28);
    CAPTURE(seed);
    SimPool pool(seed, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    SalvageTree tree(pool, seed);
    tree.make(300);
    checkpoint(pool);
    for (int round = 0; round < 2; ++round) {
      tree.change(80);
      tree.make(30);
      checkpoint(pool);
    }
    SUBCASE("with changes in the log") {
      tree.change(60);
      tree.make(20);
    }
    SUBCASE("with everything in the runs") {}
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::vector<journal::RunRef> runs = runs_of(pool);
    REQUIRE(runs.size() == 3);
    const RunBlocks blocks(pool);
    pool.power_cut();
    const MediaCopy whole = copy_of(pool.media);
    for (unsigned lost = 1; lost < 8; ++lost) {
      CAPTURE(lost);  // bit 0: the newest
      pool.media = copy_of(whole);
      for (std::size_t i = 0; i < 3; ++i)
        if ((lost >> i & 1) != 0) blocks.lose(pool.media, runs[i].id);
      REQUIRE(salvage_mount(pool).has_value());
      CHECK(pool.fs().salvage_report().runs_lost == static_cast<unsigned>(std::popcount(lost)));
      for (const bool evicted : {false, true}) {
        CAPTURE(evicted);
        if (evicted) pool.fs().evict();
        SalvageVerdict verdict(pool);
        verdict.judge(tree);
        const std::string first = verdict.wrong.empty() ? "" : verdict.wrong.front();
        INFO(verdict.wrong.size(), " of ", tree.files().size(), " wrong: ", first);
        CHECK(verdict.wrong.empty());
        CHECK(verdict.doubtful + verdict.missing > 0);
        // With the newest run here some files are there, and known to be.
        if (lost == 2 || lost == 4) CHECK(verdict.right > 20);
      }
      pool.power_cut();
    }
  }

  TEST_CASE("the oldest run is lost: data and names that only it had are told, the rest is whole") {
    LayersOfRuns layers;
    SimPool& pool = layers.pool;
    REQUIRE(pool.mkdir("old").has_value());
    REQUIRE(pool.mkdir("untouched").has_value());
    for (const char* name : {"old/partly", "old/anew", "old/cut", "old/kept", "old/sparse"})
      layers.file(name, 'a', 3);
    checkpoint(pool);
    REQUIRE(pool.write("old/partly", kWindowBytes, "b").has_value());
    layers.file("old/anew", 'b', 3);
    REQUIRE(pool.truncate("old/cut", 0).has_value());
    REQUIRE(pool.truncate("old/cut", 5 * kWindowBytes).has_value());
    layers.touch("old/kept");
    REQUIRE(pool.truncate("old/sparse", 0).has_value());
    REQUIRE(pool.write("old/sparse", 4 * kWindowBytes, "b").has_value());
    REQUIRE(pool.mkdir("new").has_value());
    layers.file("new/file", 'c', 2);
    REQUIRE(pool.create("old/empty").has_value());
    checkpoint(pool);
    layers.file("logged", 'd');
    REQUIRE(pool.write("old/empty", 0, "late").has_value());
    std::map<std::string, InodeId> ids;
    for (const char* name : {"old", "old/partly", "old/anew", "old/cut", "old/kept", "old/sparse",
                             "old/empty", "untouched", "new", "new/file", "logged"})
      ids[name] = *pool.resolve(name);
    layers.lose(1);
    const auto doubt = [&](const char* name) {
      REQUIRE(pool.run(pool.fs().getattr(ids.at(name))).has_value());
      return pool.fs().salvage_doubt(ids.at(name));
    };
    const auto windows = [&](const char* name) { return doubt(name).windows; };
    using Windows = decltype(fs::SalvageDoubt::windows);
    CHECK(windows("old/partly") == Windows{{0, 1}, {2, ~std::uint64_t{0}}});
    CHECK(windows("old/kept") == Windows{{0, ~std::uint64_t{0}}});
    for (const char* name : {"old/anew", "old/cut", "old/sparse", "old/empty", "new", "new/file"}) {
      CAPTURE(name);
      CHECK(windows(name).empty());
      CHECK_FALSE(doubt(name).outdated);
      CHECK_FALSE(doubt(name).mixed);
      CHECK_FALSE(doubt(name).names);
    }
    // Names that were not written again are lost with the run; which ones it had is not known.
    CHECK(doubt("old").names);
    CHECK(pool.fs().salvage_doubt(kRootInode).names);
    CHECK_FALSE(pool.run(pool.fs().getattr(ids.at("untouched"))).has_value());
    CHECK_FALSE(doubt("logged").any());
    CHECK(*pool.read("new/file", 0, 1) == "c");
    CHECK(*pool.read("logged", 0, 1) == "d");
  }

  TEST_CASE("the newest run is lost: what older ones have may be outdated, and each file is told") {
    LayersOfRuns layers;
    SimPool& pool = layers.pool;
    REQUIRE(pool.mkdir("d").has_value());
    for (const char* name : {"d/same", "d/changed", "d/removed", "d/grown", "d/logged"})
      layers.file(name, 'a', 2);
    REQUIRE(pool.create("d/filled").has_value());
    checkpoint(pool);
    layers.file("d/changed", 'b', 1);
    layers.file("d/grown", 'b', 6);
    layers.file("d/filled", 'b', 2);
    REQUIRE(pool.unlink("d/removed").has_value());
    REQUIRE(pool.create("d/made").has_value());
    checkpoint(pool);
    layers.touch("d/grown");
    layers.touch("d/filled");
    REQUIRE(pool.write("d/logged", 0, std::string(kBlockBytes, 'c')).has_value());
    layers.file("d/new", 'd', 2);
    REQUIRE(pool.write("d/made", 0, "late").has_value());
    const InodeId made = *pool.resolve("d/made");
    const InodeId lost_name = *pool.resolve("d/grown");
    layers.lose(0);
    CHECK(layers.doubt("d").names);
    for (const char* name : {"d/same", "d/changed", "d/removed", "d/logged"}) {
      CAPTURE(name);
      CHECK(layers.doubt(name).outdated);
      CHECK(layers.doubt(name).mixed);
      // The version that is there is complete: it has no holes that are not told.
      CHECK((layers.doubt(name).windows.empty() || layers.doubt(name).windows.front().first >= 2));
    }
    CHECK(*pool.read("d/same", kWindowBytes, 1) == "a");
    CHECK(*pool.read("d/logged", 0, 1) == "c");
    // The log says how long it was.
    CHECK(pool.run(pool.fs().getattr(lost_name))->size_bytes == 5 * kWindowBytes + kBlockBytes);
    CHECK(layers.doubt("d/grown").windows == decltype(fs::SalvageDoubt::windows){{2, 6}});
    CHECK(layers.doubt("d/filled").windows == decltype(fs::SalvageDoubt::windows){{0, 2}});
    // Of what only the log knows all the rest is unknown; what the log has made is whole.
    REQUIRE(pool.run(pool.fs().getattr(made)).has_value());
    CHECK_FALSE(pool.fs().salvage_doubt(made).windows.empty());
    CHECK_FALSE(layers.doubt("d/new").any());
    CHECK(*pool.read("d/new", kWindowBytes, 1) == "d");
  }

  TEST_CASE(
      "a run in the middle is lost: a file is not put together of two versions without a word") {
    LayersOfRuns layers;
    SimPool& pool = layers.pool;
    for (const char* name : {"mixed", "sure", "cut"}) layers.file(name, 'a', 3);
    for (const char* name : {"left", "gone"}) REQUIRE(pool.create(name).has_value());
    checkpoint(pool);
    REQUIRE(pool.write("mixed", kWindowBytes, std::string(kBlockBytes, 'b')).has_value());
    REQUIRE(pool.truncate("cut", 0).has_value());
    REQUIRE(pool.unlink("gone").has_value());
    checkpoint(pool);
    REQUIRE(pool.write("mixed", 0, std::string(kBlockBytes, 'c')).has_value());
    layers.file("sure", 'c', 3);
    layers.file("cut", 'c', 1);
    REQUIRE(pool.create("late").has_value());
    checkpoint(pool);
    layers.lose(1);
    CHECK(layers.doubt("mixed").mixed);
    CHECK_FALSE(layers.doubt("mixed").outdated);
    CHECK(layers.whole("sure"));
    // Windows of a version before are not taken for it: those that are sure are all there are.
    CHECK(layers.whole("cut"));
    const auto cut = pool.read("cut", 0, kBlockBytes);
    REQUIRE(cut.has_value());
    CHECK(*cut == std::string(kBlockBytes, 'c'));
    CHECK(pool.fs().salvage_doubt(kRootInode).names);
    CHECK(pool.resolve("late").has_value());
    CHECK(layers.doubt("left").outdated);
  }

  TEST_CASE(
      "the only run is lost: what the log has comes without its names, and nothing is silent") {
    LayersOfRuns layers;
    SimPool& pool = layers.pool;
    layers.file("old", 'a', 2);
    REQUIRE(pool.symlink("link", "where").has_value());
    checkpoint(pool);
    const InodeId old = *pool.resolve("old");
    const InodeId link = *pool.resolve("link");
    REQUIRE(pool.write("old", 0, std::string(kBlockBytes, 'b')).has_value());
    layers.touch("link");
    layers.file("new", 'c', 2);
    SUBCASE("with a log") {
      layers.lose(0);
      CHECK(pool.fs().salvage_doubt(kRootInode).names);
      CHECK_FALSE(pool.resolve("old").has_value());
      CHECK_FALSE(layers.doubt("new").any());
      CHECK(pool.fs().salvage_doubt(old).windows == decltype(fs::SalvageDoubt::windows){{0, 2}});
      CHECK_FALSE(pool.run(pool.fs().readlink(link)).has_value());
    }
    SUBCASE("removed by the log") {
      REQUIRE(pool.unlink("old").has_value());
      layers.lose(0);
      CHECK(pool.run(pool.fs().getattr(old)).error().code == Code::kStale);
    }
  }

  TEST_CASE(
      "extended attributes that a lost run may have had are in doubt, those written since are "
      "not") {
    LayersOfRuns layers;
    SimPool& pool = layers.pool;
    const auto set = [&](const char* path, const char* value) {
      REQUIRE(pool.run(pool.fs().setxattr(*pool.resolve(path), "user.note", value,
                                          fs::XattrMode::kEither))
                  .has_value());
    };
    REQUIRE(pool.create("kept").has_value());
    REQUIRE(pool.create("anew").has_value());
    set("kept", "old");
    set("anew", "old");
    checkpoint(pool);
    layers.touch("kept");
    set("anew", "new");
    const InodeId kept = *pool.resolve("kept");
    const InodeId anew = *pool.resolve("anew");
    checkpoint(pool);
    layers.lose(1);
    REQUIRE(pool.run(pool.fs().getattr(kept)).has_value());
    CHECK(pool.fs().salvage_doubt(kept).attributes);
    CHECK_FALSE(pool.fs().salvage_doubt(kept).outdated);
    CHECK(*pool.run(pool.fs().getxattr(anew, "user.note")) == "new");
    CHECK_FALSE(pool.fs().salvage_doubt(anew).any());
  }
}

}  // namespace dynamicfs::test
