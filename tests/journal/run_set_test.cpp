// The runs of a mounted pool: what they say together, how little is read for it, and when the slots
// of a replaced run may be given back.

#include "tests/journal/run_pool.hpp"

namespace dynamicfs::test {
namespace {

using Mode = RunSetPool::Mode;

// `count` keys of one group, enough for several blocks if the values are long.
Layer many(std::size_t count, std::string_view group = "group000", std::size_t value_bytes = 900) {
  Layer layer;
  for (std::size_t i = 0; i < count; ++i) {
    layer.keys[fmt::format("{}{:05}", group, i)] = std::string(value_bytes, 'v');
  }
  return layer;
}

Entries all(RunSetPool& pool, Mode mode) { return pool.range("", "", mode).value(); }

}  // namespace

TEST_SUITE("run set") {
  TEST_CASE("random layers say what the model says, in any range and either way") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(30); ++seed) {
      CAPTURE(seed);
      RandomLayers random{seed};
      RunSetPool pool{seed, random.below(3) * 200 * kKiB};
      for (std::size_t i = 1 + random.below(7); i > 0; --i) pool.add(random.layer());
      if (random.below(2) == 0) REQUIRE(pool.open_anew().has_value());
      CHECK(all(pool, Mode::kCached) == live(pool.layers));
      CHECK(all(pool, Mode::kStream) == live(pool.layers));
      for (int i = 0; i < 30; ++i) {
        const Mode mode = random.below(2) == 0 ? Mode::kCached : Mode::kStream;
        std::string low = random.key();
        std::string high = random.key();
        if (high < low) std::swap(low, high);
        CHECK(pool.range(low, high, mode).value() == live(pool.layers, low, high));
        const std::string group = RandomLayers::group(random.below(7));
        CHECK(pool.range(group, group + '~', mode, hash_of_group(as_bytes(group))).value() ==
              live(pool.layers, group, group + '~'));
        CHECK(pool.look_up(low).value() == live(pool.layers, low, low + '\0'));
      }
    }
  }

  TEST_CASE(
      "a prefix deletion takes what older runs have, not what its own run or a newer one has") {
    RunSetPool pool;
    pool.add({.keys = {{"a", "1"}, {"ab", "1"}, {"abc", "1"}, {"b", "1"}}, .prefixes = {}});
    pool.add({.keys = {{"abb", "2"}}, .prefixes = {"ab"}});
    pool.add({.keys = {{"ab", "3"}}, .prefixes = {}});
    CHECK(all(pool, Mode::kCached) == Entries{{"a", "1"}, {"ab", "3"}, {"abb", "2"}, {"b", "1"}});
    pool.add({.keys = {{"ab", "4"}}, .prefixes = {"a"}});
    CHECK(all(pool, Mode::kCached) == Entries{{"ab", "4"}, {"b", "1"}});
    pool.add({.keys = {}, .prefixes = {""}});
    CHECK(all(pool, Mode::kStream).empty());
  }

  TEST_CASE("a prefix deletion at the end of a block is found with the key that follows") {
    for (const std::size_t left : {0u, 1u, 4u, 5u, 6u, 100u}) {
      CAPTURE(left);
      RunSetPool pool;
      pool.add({.keys = {{"b", "old"}, {"bb", "old"}}, .prefixes = {}});
      // What is left in the block behind the first two entries and the prefix deletion.
      const std::size_t filled = journal::kRunPayloadBytesMax - 5 - left;
      pool.add({.keys = {{"a", std::string(20'000, 'a')},
                         {"aa", std::string(filled - 20'000 - 5 - 6, 'a')},
                         {"b", std::string(90, 'b')}},
                .prefixes = {"b"}});
      CHECK(pool.set->runs()->front()->ref().entry_blocks == (left < 95 ? 2 : 1));
      CHECK(pool.range("b", "c").value() == Entries{{"b", std::string(90, 'b')}});
      CHECK(pool.range("b", "c", Mode::kStream).value() == Entries{{"b", std::string(90, 'b')}});
      CHECK(all(pool, Mode::kCached) == live(pool.layers));
    }
  }

  TEST_CASE("no runs, and runs without entries, have nothing") {
    RunSetPool pool;
    CHECK(pool.set->runs()->empty());
    CHECK_FALSE(pool.set->may_have(1));
    CHECK(all(pool, Mode::kCached).empty());
    const auto run = pool.add({});
    CHECK(run->ref().entry_blocks == 1);
    CHECK(run->ref().index_blocks == 1);
    CHECK(run->ref().blocks() == 2);
    CHECK(all(pool, Mode::kCached).empty());
    CHECK(all(pool, Mode::kStream).empty());
    REQUIRE(pool.open_anew().has_value());
    CHECK(all(pool, Mode::kStream).empty());
  }

  TEST_CASE("a point look-up reads one block of each run that may have the key") {
    RunSetPool pool;
    for (int i = 0; i < 3; ++i) pool.add(many(2000));
    pool.add(many(2000, "another0"));
    CHECK(pool.set->runs()->front()->ref().entry_blocks > 50);
    const std::uint64_t before = pool.device_reads();
    CHECK(pool.look_up("group00001234").value().size() == 1);
    CHECK(pool.device_reads() - before == 3);
    CHECK(pool.set->metrics().block_reads.sum() == 3);
    CHECK(pool.set->metrics().filter_negatives.sum() == 1);
    // Also of a key that is not there, but whose group is.
    CHECK(pool.look_up("group00001500x").value().empty());
    CHECK(pool.device_reads() - before == 6);
  }

  TEST_CASE("what is cached, and what the filter excludes, takes no time") {
    RunSetPool pool;
    pool.add(many(2000));
    CHECK(pool.look_up("group00001234").value().size() == 1);
    const std::uint64_t reads = pool.device_reads();
    const TimePoint before = pool.executor.now();
    CHECK(pool.look_up("group00001234").value().size() == 1);
    CHECK(pool.look_up("nowhere0").value().empty());
    CHECK(pool.executor.now() == before);
    CHECK(pool.device_reads() == reads);
    CHECK(pool.set->metrics().cache_hits.sum() == 1);
    CHECK(pool.set->may_have(*hash_of_group(as_bytes("group000"))));
    CHECK_FALSE(pool.set->may_have(*hash_of_group(as_bytes("nowhere0"))));
  }

  TEST_CASE("those who look for an absent block at once share one read, and its failure") {
    bool damaged = false;
    SUBCASE("whole") {}
    SUBCASE("damaged") { damaged = true; }
    RunSetPool pool;
    const auto run = pool.add(many(100));
    if (damaged) {
      for (const std::size_t copy : {0u, 1u})
        pool.media[copy]->flip(pool.place(run->ref(), copy, 0), 1);
    }
    const std::uint64_t before = pool.device_reads();
    std::vector<std::unique_ptr<journal::RunCursor>> cursors;
    std::vector<Task<Result<Entries>>> looking;
    for (int i = 0; i < 5; ++i) {
      cursors.push_back(std::make_unique<journal::RunCursor>(
          *pool.set, pool.set->runs(), RunSetPool::bytes_of("group00000001"),
          RunSetPool::bytes_of("group00000002"), Mode::kCached));
      looking.push_back(RunSetPool::collect(*cursors.back()));
    }
    for (const auto& found : pool.executor.run(when_all(std::move(looking)))) {
      if (damaged) {
        CHECK(found.error() == error(Code::kCorrupt, 0));
      } else {
        CHECK(found.value().size() == 1);
      }
    }
    CHECK(pool.device_reads() - before == (damaged ? 2 : 1));
    CHECK(pool.set->metrics().block_reads.sum() == 1);
  }

  TEST_CASE("the cache keeps what was used last, and no more than it may") {
    RunSetPool pool{9, 1 * kMiB};
    pool.add(many(10'000));
    CHECK(pool.set->memory_bytes() < 100 * kKiB);
    CHECK(all(pool, Mode::kCached) == live(pool.layers));
    CHECK(pool.set->memory_bytes() > 900 * kKiB);
    CHECK(pool.set->memory_bytes() < 1200 * kKiB);
    const std::uint64_t reads = pool.set->metrics().block_reads.sum();
    CHECK(pool.look_up("group00009999").value().size() == 1);
    CHECK(pool.set->metrics().block_reads.sum() == reads);
    CHECK(pool.look_up("group00000000").value().size() == 1);
    CHECK(pool.set->metrics().block_reads.sum() == reads + 1);
    // A walk does not push out what look-ups use.
    CHECK(all(pool, Mode::kStream).size() == 10'000);
    CHECK(pool.look_up("group00000000").value().size() == 1);
    CHECK(pool.set->metrics().block_reads.sum() == reads + 1);
  }

  TEST_CASE("both disks serve look-ups") {
    RunSetPool pool;
    pool.add(many(2000));
    const std::uint64_t first = pool.disks[0]->metrics().reads.sum();
    const std::uint64_t second = pool.disks[1]->metrics().reads.sum();
    for (int i = 0; i < 2000; i += 20)
      CHECK(pool.look_up(fmt::format("group000{:05}", i)).has_value());
    CHECK(pool.disks[0]->metrics().reads.sum() - first > 20);
    CHECK(pool.disks[1]->metrics().reads.sum() - second > 20);
  }

  TEST_CASE("rotten and torn blocks are read from the twin and repaired: entries, index, filter") {
    for (const Mode mode : {Mode::kCached, Mode::kStream}) {
      RunSetPool pool;
      Layer layer = many(300);
      for (std::size_t i = 0; i < 40'000; ++i) layer.keys[fmt::format("g{:07}", i)] = "";
      const journal::RunRef run = pool.add(layer)->ref();
      REQUIRE(run.entry_blocks > 4);
      REQUIRE(run.blocks() - run.entry_blocks - run.index_blocks > 1);
      // Look-ups ask the copies in turn block by block, streams piece by piece.
      const auto asked_first = [&](std::uint64_t block) {
        const bool stream = mode == Mode::kStream || block >= run.entry_blocks;
        return (stream ? block * journal::kRunBlockBytes / journal::kRunPieceBytes : block) % 2;
      };
      const std::vector<std::uint64_t> damaged{0, 3, run.entry_blocks, run.blocks() - 1};
      for (const std::uint64_t block : damaged) {
        const std::size_t copy = asked_first(block);
        const std::uint64_t at = pool.place(run, copy, block * journal::kRunBlockBytes);
        if (block == 3) {
          const Bytes zeros(journal::kRunBlockBytes / 2);
          pool.media[copy]->write(at + zeros.size(), zeros);
        } else {
          pool.media[copy]->flip(at + 77, 3);
        }
      }
      REQUIRE(pool.open_anew(0).has_value());
      CHECK(all(pool, mode) == live(pool.layers));
      CHECK(pool.set->metrics().blocks_bad.sum() == damaged.size());
      CHECK(pool.set->metrics().blocks_repaired.sum() == damaged.size());
      REQUIRE(pool.open_anew(0).has_value());
      CHECK(all(pool, mode) == live(pool.layers));
      CHECK(pool.set->metrics().blocks_bad.sum() == 0);
    }
  }

  TEST_CASE("a block that is bad in every copy is named, and an index or filter stops the mount") {
    RunSetPool pool;
    Layer layer = many(300);
    const journal::RunRef run = pool.add(layer)->ref();
    std::uint64_t block = 0;
    SUBCASE("entries") { block = 5; }
    SUBCASE("index") { block = run.entry_blocks; }
    SUBCASE("filter") { block = run.blocks() - 1; }
    for (const std::size_t copy : {0u, 1u}) {
      pool.media[copy]->flip(pool.place(run, copy, block * journal::kRunBlockBytes) + 100, 0);
    }
    const Result<void> opened = pool.open_anew();
    if (block != 5) {
      CHECK(opened.error() == error(Code::kCorrupt, block));
      CHECK(pool.set->runs()->empty());
      return;
    }
    REQUIRE(opened.has_value());
    CHECK(pool.range("", "").error() == error(Code::kCorrupt, 5));
    CHECK(pool.range("", "", Mode::kStream).error() == error(Code::kCorrupt, 5));
    CHECK(pool.look_up("group00000000").value().size() == 1);
  }

  TEST_CASE("look-ups go on without a disk") {
    RunSetPool pool;
    pool.add(many(1000));
    REQUIRE(pool.executor.run(pool.pool->report_failure(DiskId{0}, error(Code::kDiskRead)))
                .has_value());
    for (const Mode mode : {Mode::kCached, Mode::kStream})
      CHECK(all(pool, mode) == live(pool.layers));
    CHECK(pool.set->metrics().blocks_bad.sum() == 0);
  }

  TEST_CASE("a cursor may be given up in the middle") {
    for (const Mode mode : {Mode::kCached, Mode::kStream}) {
      RunSetPool pool;
      pool.add(many(5000));
      pool.add(many(5000));
      {
        journal::RunCursor cursor{*pool.set, pool.set->runs(), {}, {}, mode};
        REQUIRE(pool.executor.run(cursor.next()).value());
        CHECK(as_text(cursor.key()) == "group00000000");
        CHECK(cursor.value().size() == 900);
      }
      pool.executor.run_until_idle();
    }
  }
}

TEST_SUITE("retiring runs") {
  TEST_CASE("a replaced run is retired once, when the last snapshot that has it is gone") {
    RunSetPool pool;
    auto old = pool.add(many(10));
    auto kept = pool.add(many(20));
    auto first = pool.set->runs();
    auto second = pool.set->runs();
    auto cursor = std::make_unique<journal::RunCursor>(*pool.set, pool.set->runs(), Bytes{},
                                                       Bytes{}, Mode::kCached);
    {
      const std::vector replaced{old};
      old = nullptr;
      pool.set->install(nullptr, replaced);
      CHECK(pool.set->runs()->size() == 1);
    }
    CHECK(pool.retired.empty());
    first = nullptr;
    CHECK(pool.executor.run(RunSetPool::collect(*cursor)).value().size() == 20);
    second = nullptr;
    // The cursor reads it still.
    CHECK(pool.retired.empty());
    cursor = nullptr;
    CHECK(pool.retired == std::vector<std::uint64_t>{1});
    CHECK(all(pool, Mode::kCached).size() == 20);
    kept = nullptr;
    CHECK(pool.retired == std::vector<std::uint64_t>{1});
  }

  TEST_CASE("several give way to one, in their place") {
    RunSetPool pool;
    std::vector<RunSetPool::RunPointer> runs;
    for (int i = 0; i < 5; ++i) runs.insert(runs.begin(), pool.add(many(10)));
    auto fresh = pool.open(pool.write(many(10)));
    const auto ids = [&pool] {
      std::vector<std::uint64_t> out;
      for (const auto& run : *pool.set->runs()) out.push_back(run->ref().id);
      return out;
    };
    CHECK(ids() == std::vector<std::uint64_t>{5, 4, 3, 2, 1});
    pool.set->install(fresh, std::span{runs}.subspan(1, 2));
    CHECK(ids() == std::vector<std::uint64_t>{5, 6, 2, 1});
    CHECK(pool.retired.empty());
    runs.clear();
    CHECK(pool.retired.size() == 2);
    CHECK(pool.slots.taken(0) == 4);
  }

  TEST_CASE("a run that was never installed, or outlives its set, is not retired") {
    RunSetPool pool;
    pool.open(pool.write(many(10)));
    auto run = pool.add(many(10));
    CHECK(pool.retired.empty());
    {
      const std::vector replaced{run};
      pool.set->install(nullptr, replaced);
    }
    pool.set = nullptr;
    run = nullptr;
    CHECK(pool.retired.empty());
  }
}

}  // namespace dynamicfs::test
