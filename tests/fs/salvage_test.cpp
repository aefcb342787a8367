// Mounts for `extract`: pools that no other mount takes, with disks away, the log or the runs damaged.
// What is said without a doubt is right; what is missing is in doubt, or an error.
#include <doctest/doctest.h>

#include <map>
#include <random>

#include "tests/fs/salvage_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

SimPoolOptions single_disks(std::size_t count) {
  return {.disk_bytes = std::vector<std::uint64_t>(count, 96 * kMiB),
          .policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = 1}};
}

}  // namespace

TEST_SUITE("salvage") {
  TEST_CASE("with more disks away than the policy tolerates only this mount goes on, read-only") {
    const Quiet quiet;
    SimPool pool(21, single_disks(3));
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 30; ++i) {
      REQUIRE(pool.create(fmt::format("f{}", i)).has_value());
      REQUIRE(pool.write(fmt::format("f{}", i), 0, pattern(i, 40'000)).has_value());
    }
    REQUIRE(pool.unmount().has_value());
    int read = 0;
    for (std::size_t away = 0; away < 3; ++away) {
      pool.set_salvage(false);
      CHECK(pool.mount({away}).error().code == Code::kDiskMissing);
      REQUIRE(salvage_mount(pool, {away}).has_value());
      CHECK(pool.create("new").error().code == Code::kReadOnly);
      for (int i = 0; i < 30; ++i) {
        const auto text = pool.read(fmt::format("f{}", i));
        if (text.has_value()) {
          CHECK(*text == pattern(i, 40'000));
          ++read;
        } else {
          CHECK(text.error().code == Code::kDiskGone);
        }
      }
      CHECK_FALSE(pool.fs().salvage_report().any());
      REQUIRE(pool.unmount().has_value());
    }
    CHECK(read > 30);  // each file is missing once or twice
    CHECK(read <= 60);
  }

  TEST_CASE(
      "without a member of the newest epoch the runs are all there is, and the log is told as "
      "lost") {
    const Quiet quiet;
    SimPool pool(22, {.disk_bytes = std::vector<std::uint64_t>(4, 96 * kMiB),
                      .policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = 3}});
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("old").has_value());
    checkpoint(pool);
    REQUIRE(pool.create("new").has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::vector<DiskId> members = pool.fs().pool().members();
    REQUIRE(members.size() == 3);
    const auto copies = runs_of(pool).front().copies;
    std::vector<std::size_t> away;
    for (const DiskId id : members) away.push_back(id.raw);
    const bool has_run = std::ranges::any_of(copies, [&](const journal::RunCopy& copy) {
      return std::ranges::find(members, copy.disk) == members.end();
    });
    pool.power_cut();
    CHECK_FALSE(pool.mount(away).has_value());
    REQUIRE(salvage_mount(pool, away).has_value());
    CHECK(pool.fs().mount_report().journal.damaged.raw != 0);
    CHECK(pool.resolve("old").has_value() == has_run);
    CHECK(pool.fs().salvage_report().runs_lost == (has_run ? 0 : 1));
    CHECK_FALSE(pool.resolve("new").has_value());
  }

  TEST_CASE(
      "a journal damaged in the middle is replayed up to there, and after an orderly unmount "
      "nothing is lost") {
    const Quiet quiet;
    SimPool pool(23, single_disks(1));
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 20; ++i) {
      REQUIRE(pool.create(fmt::format("f{}", i)).has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
    }
    pool.power_cut();
    // Batches of 4 KiB, one behind the other.
    const MediaCopy whole = copy_of(pool.media);
    std::size_t least = 20;
    for (std::uint64_t block = 0; block < 20; ++block) {
      pool.media = copy_of(whole);
      pool.media[0]->flip(journal::kJournalOffset + block * kBlockBytes + 200, 1);
      const Result<void> mounted = salvage_mount(pool);
      if (!mounted.has_value()) {  // as if it had never been mounted: not even a root directory
        CHECK(mounted.error().code == Code::kReadOnly);
        CHECK(block < 2);
        least = 0;
        continue;
      }
      std::size_t there = 0;
      while (there < 20 && pool.resolve(fmt::format("f{}", there)).has_value()) ++there;
      for (std::size_t i = there; i < 20; ++i)
        CHECK_FALSE(pool.resolve(fmt::format("f{}", i)).has_value());
      const bool damaged = pool.fs().mount_report().journal.damaged.raw != 0;
      CAPTURE(block);
      CAPTURE(there);
      CHECK((damaged || there == 20));
      least = std::min(least, there);
      REQUIRE(pool.unmount().has_value());
    }
    CHECK(least < 5);
    pool.media = whole;
    pool.set_salvage(false);
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.unmount().has_value());
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(pool.fs().mount_report().journal.damaged.raw == 0);
    CHECK(pool.resolve("f19").has_value());
  }

  TEST_CASE("whatever metadata is damaged, what is not in doubt is right") {
    const Quiet quiet;
    const std::uint64_t seed = seed_from_environment(24);
    CAPTURE(seed);
    SimPool pool(seed, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    SalvageTree tree(pool, seed);
    tree.make(1200);
    checkpoint(pool);
    for (int round = 0; round < 2; ++round) {
      tree.change(60);
      tree.make(20);
      checkpoint(pool);
    }
    // What the log changes is looked up when it is replayed, and in doubt already for that.
    SUBCASE("with changes in the log") { tree.change(40); }
    SUBCASE("with everything in the runs") {}
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const RunBlocks blocks(pool);
    REQUIRE(blocks.entry_blocks.size() == 3);
    pool.power_cut();
    const MediaCopy whole = copy_of(pool.media);
    std::mt19937_64 random(seed);
    std::size_t in_doubt = 0;
    std::size_t missing = 0;
    std::size_t right = 0;
    for (std::uint64_t attempt = 0; attempt < scaled(40); ++attempt) {
      pool.media = copy_of(whole);
      // First each block of each run alone, also those of index and filter; then some together.
      std::string spoiled;
      const std::size_t count = attempt < blocks.places.size() ? 1 : 1 + random() % 3;
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t which = count == 1 ? attempt : random() % blocks.places.size();
        const auto& [run, block] =
            std::next(blocks.places.begin(), static_cast<long>(which % blocks.places.size()))
                ->first;
        blocks.spoil(pool.media, run, block);
        spoiled += fmt::format("block {} of run {} ({} of entries), ", block, run,
                               blocks.entry_blocks.at(run));
      }
      CAPTURE(spoiled);
      REQUIRE(salvage_mount(pool).has_value());
      SalvageVerdict verdict(pool);
      verdict.judge(tree);
      const std::string first = verdict.wrong.empty() ? "" : verdict.wrong.front();
      INFO(verdict.wrong.size(), " of ", tree.files().size(), " wrong: ", first);
      CHECK(verdict.wrong.empty());
      in_doubt += verdict.doubtful;
      missing += verdict.missing;
      right += verdict.right;
      pool.power_cut();
    }
    // It was not for nothing, and not everything is given up.
    CHECK(in_doubt > 0);
    CHECK(missing > 100);
    CHECK(right > missing);
  }

  TEST_CASE("of a file whose newer windows are lost neither the older ones come nor holes") {
    const Quiet quiet;
    constexpr std::uint64_t kWindows = 3000;
    constexpr auto kNotChanged = [](std::uint64_t window) { return window % 4 == 3; };
    SimPool pool(26, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    const auto write_all = [&](char letter, bool all) {
      for (std::uint64_t window = 0; window < kWindows; ++window) {
        if (!all && kNotChanged(window)) continue;
        REQUIRE(
            pool.write("f", window * kWindowBytes, std::string(kBlockBytes, letter)).has_value());
      }
    };
    write_all('a', true);
    checkpoint(pool);
    write_all('b', false);
    checkpoint(pool);
    const journal::RunRef newest = runs_of(pool).front();
    REQUIRE(runs_of(pool).size() == 2);
    REQUIRE(newest.entry_blocks >= 3);
    const RunBlocks blocks(pool);
    REQUIRE(pool.unmount().has_value());
    blocks.spoil(pool.media, newest.id, 1);
    REQUIRE(salvage_mount(pool).has_value());
    const InodeId id = *pool.resolve("f");
    std::vector<bool> data(kWindows);
    std::uint64_t at = 0;
    while (true) {
      const auto found = pool.run(pool.fs().seek(id, at, fs::SeekKind::kData));
      if (!found.has_value()) break;
      data[*found / kWindowBytes] = true;
      at = *found + kBlockBytes;
      if (at >= (kWindows - 1) * kWindowBytes + kBlockBytes) break;
    }
    const fs::SalvageDoubt doubt = pool.fs().salvage_doubt(id);
    CHECK_FALSE(doubt.outdated);
    std::vector<bool> in_doubt(kWindows);
    for (const auto& [from, end] : doubt.windows) {
      for (std::uint64_t window = from; window < end; ++window) in_doubt[window] = true;
    }
    std::uint64_t lost = 0;
    std::uint64_t doubted_in_vain = 0;
    for (std::uint64_t window = 0; window < kWindows; ++window) {
      CAPTURE(window);
      CHECK(in_doubt[window] != data[window]);
      lost += in_doubt[window];
      doubted_in_vain += in_doubt[window] && kNotChanged(window);
      if (!data[window]) continue;
      const auto text = pool.read("f", window * kWindowBytes, 1);
      REQUIRE(text.has_value());
      CHECK(*text == (kNotChanged(window) ? "a" : "b"));
    }
    CHECK(lost > 300);
    CHECK(lost < kWindows / 2);
    // The filter knows most of those that were not changed.
    CHECK(doubted_in_vain < 20);
  }

  TEST_CASE("a file of which attributes are lost is in doubt, and the others are there") {
    const Quiet quiet;
    SimPool pool(27, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    const InodeId id = *pool.resolve("f");
    for (int i = 0; i < 80; ++i) {
      const auto set = pool.run(pool.fs().setxattr(id, fmt::format("user.{:02}", i),
                                                   pattern(i, 1000), fs::XattrMode::kEither));
      REQUIRE(set.has_value());
    }
    checkpoint(pool);
    const journal::RunRef run = runs_of(pool).front();
    REQUIRE(run.entry_blocks >= 3);
    const RunBlocks blocks(pool);
    REQUIRE(pool.unmount().has_value());
    blocks.spoil(pool.media, run.id, 1);
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(*pool.run(pool.fs().getxattr(id, "user.00")) == pattern(0, 1000));
    CHECK_FALSE(pool.run(pool.fs().getxattr(id, "user.50")).has_value());
    CHECK(pool.fs().salvage_doubt(id).outdated);
    CHECK_FALSE(pool.fs().salvage_doubt(kRootInode).outdated);
  }

  TEST_CASE("a run of which nothing is left is told, and what the others know is there") {
    const Quiet quiet;
    SimPool pool(25, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("old").has_value());
    REQUIRE(pool.write("old", 0, "old content").has_value());
    checkpoint(pool);
    REQUIRE(pool.create("new").has_value());
    checkpoint(pool);
    const std::vector<journal::RunRef> runs = runs_of(pool);
    REQUIRE(runs.size() == 2);
    const RunBlocks blocks(pool);
    REQUIRE(pool.unmount().has_value());
    for (std::uint64_t block = 0; block < runs[0].blocks(); ++block)
      blocks.spoil(pool.media, runs[0].id, block);
    CHECK(pool.mount().error().code == Code::kCorrupt);
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(pool.fs().salvage_report().runs_lost == 1);
    CHECK(*pool.read("old") == "old content");
    CHECK_FALSE(pool.resolve("new").has_value());
  }

  TEST_CASE("a doubt about windows is kept as ranges that do not touch") {
    fs::SalvageDoubt doubt;
    for (const auto& [from, end] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
             {5, 6}, {1, 2}, {6, 8}, {3, 3}, {2, 3}, {20, 30}, {22, 25}, {7, 9}}) {
      doubt.add_windows(from, end);
    }
    CHECK(doubt.windows ==
          std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}, {5, 9}, {20, 30}});
    CHECK(doubt.any());
    doubt.cut_windows(7);
    CHECK(doubt.windows == std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}, {5, 7}});
    doubt.cut_windows(3);
    CHECK(doubt.windows == std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}});
    doubt.cut_windows(0);
    CHECK_FALSE(doubt.any());
  }
}

}  // namespace dynamicfs::test
