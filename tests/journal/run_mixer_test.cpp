// A run of what is added and of older runs says what they would say beside each other.
#include "journal/run_mixer.hpp"

#include "journal/run_merge.hpp"
#include "tests/journal/run_pool.hpp"

namespace dynamicfs::test {
namespace {

using journal::RunEntryKind;

struct RawEntry {
  RunEntryKind kind;
  std::string key;
  std::string value;
  bool operator==(const RawEntry&) const = default;
};

// What a run has, but prefix deletions within others: they add nothing, and one may keep them.
std::vector<RawEntry> entries_of(RunSetPool& pool, const journal::RunRef& run) {
  std::vector<RawEntry> entries;
  std::string outer = "none begins so";
  const auto report = pool.executor.run(
      journal::read_run(*pool.pool, run,
                        [&](RunEntryKind kind, std::span<const std::byte> key,
                            std::span<const std::byte> value) -> Result<void> {
                          const std::string text{as_text(key)};
                          if (kind == RunEntryKind::kPrefixDeletion) {
                            if (text.starts_with(outer)) return {};
                            outer = text;
                          }
                          entries.push_back({kind, text, std::string{as_text(value)}});
                          return {};
                        }));
  REQUIRE(report.has_value());
  return entries;
}

std::size_t deletions_among(const std::vector<RawEntry>& entries) {
  return static_cast<std::size_t>(std::ranges::count_if(
      entries, [](const RawEntry& entry) { return entry.kind != RunEntryKind::kValue; }));
}

Task<Result<journal::RunRef>> mix(journal::RunSet& set, journal::RunSet::Runs older, bool to_bottom,
                                  const Layer& added, journal::RunWriter& writer) {
  journal::RunMixer mixer{set, std::move(older), to_bottom, writer};
  auto prefix = added.prefixes.begin();
  for (const auto& [key, value] : added.keys) {
    for (; prefix != added.prefixes.end() && *prefix <= key; ++prefix) {
      CO_TRY(co_await mixer.add(RunEntryKind::kPrefixDeletion, as_bytes(*prefix), {}));
    }
    const RunEntryKind kind = value ? RunEntryKind::kValue : RunEntryKind::kDeletion;
    const std::string text = value.value_or("");
    CO_TRY(co_await mixer.add(kind, as_bytes(key), as_bytes(text)));
  }
  for (; prefix != added.prefixes.end(); ++prefix) {
    CO_TRY(co_await mixer.add(RunEntryKind::kPrefixDeletion, as_bytes(*prefix), {}));
  }
  CO_TRY(co_await mixer.finish());
  co_return co_await writer.finish();
}

// The newest `count` runs of the set.
journal::RunSet::Runs newest(RunSetPool& pool, std::size_t count) {
  const auto runs = pool.set->runs();
  return {runs->begin(), runs->begin() + static_cast<std::ptrdiff_t>(count)};
}

// `added` and the newest `count` runs become one.
journal::RunRef mix_in(RunSetPool& pool, std::size_t count, Layer added) {
  const journal::RunSet::Runs older = newest(pool, count);
  const bool to_bottom = count == pool.set->runs()->size();
  journal::RunWriter writer = pool.writer();
  const auto mixed = pool.executor.run(mix(*pool.set, older, to_bottom, added, writer));
  REQUIRE(mixed.has_value());
  pool.set->install(pool.open(*mixed), older);
  pool.layers.insert(pool.layers.begin(), std::move(added));
  return *mixed;
}

}  // namespace

TEST_SUITE("mixing what is new with older runs") {
  TEST_CASE("random additions over random runs say what they say beside them") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(30); ++seed) {
      CAPTURE(seed);
      RandomLayers random{seed};
      RunSetPool pool{seed};
      for (std::size_t i = random.below(5); i > 0; --i) pool.add(random.layer());
      for (int round = 0; round < 4; ++round) {
        const std::size_t runs = pool.set->runs()->size();
        const std::size_t count = random.below(runs + 1);
        const Layer added = random.below(8) == 0 ? Layer{} : random.layer();

        // The same as a run of its own, merged.
        journal::RunSet::Runs beside = newest(pool, count);
        const journal::RunRef alone = pool.write(added);
        beside.insert(beside.begin(), pool.open(alone));
        journal::RunWriter writer = pool.writer();
        const journal::RunRef merged =
            pool.executor.run(journal::merge_runs(*pool.set, beside, count == runs, writer))
                .value();

        const journal::RunRef mixed = mix_in(pool, count, added);
        const std::vector<RawEntry> entries = entries_of(pool, mixed);
        CHECK(entries == entries_of(pool, merged));
        if (count == runs) CHECK(deletions_among(entries) == 0);
        CHECK(pool.set->runs()->size() == runs - count + 1);
        CHECK(pool.range("", "").value() == live(pool.layers));
        for (std::size_t number = 0; number < 6; ++number) {
          const std::string group = RandomLayers::group(number);
          CHECK(pool.range(group, group + '~', RunSetPool::Mode::kCached,
                           hash_of_group(as_bytes(group)))
                    .value() == live(pool.layers, group, group + '~'));
        }
        if (random.below(3) == 0) pool.add(random.layer());
        if (random.below(3) == 0) REQUIRE(pool.open_anew().has_value());
      }
    }
  }

  TEST_CASE("a prefix that is deleted takes older entries and no new ones") {
    RunSetPool pool;
    pool.add(
        {.keys = {{"a", "1"}, {"p", "1"}, {"pa", "1"}, {"pb", "1"}, {"q", "1"}}, .prefixes = {}});
    mix_in(pool, 1, {.keys = {{"pb", "2"}, {"pc", "2"}}, .prefixes = {"p"}});
    CHECK(pool.range("", "").value() == Entries{{"a", "1"}, {"pb", "2"}, {"pc", "2"}, {"q", "1"}});
  }

  TEST_CASE("what is deleted goes on being deleted for the runs behind") {
    RunSetPool pool;
    pool.add({.keys = {{"a", "1"}, {"b", "1"}, {"pa", "1"}, {"pb", "1"}}, .prefixes = {}});
    pool.add({.keys = {{"c", "2"}, {"pb", "2"}}, .prefixes = {"p"}});
    // The key has the bytes of a prefix that is older than it and still needed.
    const journal::RunRef upper =
        mix_in(pool, 1, {.keys = {{"b", std::nullopt}, {"p", "3"}}, .prefixes = {}});
    CHECK(deletions_among(entries_of(pool, upper)) == 2);
    CHECK(pool.range("", "").value() == Entries{{"a", "1"}, {"c", "2"}, {"p", "3"}, {"pb", "2"}});
    const journal::RunRef all = mix_in(pool, 2, {});
    CHECK(deletions_among(entries_of(pool, all)) == 0);
    CHECK(pool.range("", "").value() == Entries{{"a", "1"}, {"c", "2"}, {"p", "3"}, {"pb", "2"}});
  }

  TEST_CASE("an older block without a good copy is an error wherever it is met") {
    RunSetPool pool;
    Layer layer;
    for (int i = 0; i < 3000; ++i)
      layer.keys[fmt::format("group000{:05}", i)] = std::string(900, 'v');
    const journal::RunRef older = pool.add(layer)->ref();
    for (const std::size_t copy : {0u, 1u}) {
      pool.media[copy]->flip(pool.place(older, copy, 60 * journal::kRunBlockBytes), 0);
    }
    for (const std::string key : {"group000", "group00099999"}) {  // before it, behind it
      CAPTURE(key);
      journal::RunWriter writer = pool.writer();
      const Layer added{.keys = {{key, "new"}}, .prefixes = {}};
      const auto mixed = pool.executor.run(mix(*pool.set, newest(pool, 1), true, added, writer));
      CHECK(mixed.error().code == Code::kCorrupt);
    }
    CHECK(pool.look_up("group00000000").value().size() == 1);
  }
}

}  // namespace dynamicfs::test
