// The map of a file against the simplest model there is: one entry per block.
#include "extent/extent_map.hpp"

#include <doctest/doctest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <map>
#include <random>
#include <thread>

#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

namespace {

struct ModelBlock {
  MappingKind kind = MappingKind::kData;
  std::uint32_t chunk = 0;
  std::uint32_t block = 0;
  std::uint64_t generation = 0;
  std::uint32_t crc = 0;
  bool operator==(const ModelBlock&) const = default;
};
using Model = std::map<std::uint64_t, ModelBlock>;

// One entry per block, so that how a range is cut into mappings does not matter.
Model expand(const MappingSet& set) {
  Model out;
  for (const Mapping& mapping : set.mappings) {
    REQUIRE(mapping.count > 0);
    for (std::uint32_t i = 0; i < mapping.count; ++i) {
      const bool data = mapping.kind == MappingKind::kData;
      const bool fresh = out.emplace(mapping.first.raw + i,
                                     ModelBlock{.kind = mapping.kind,
                                                .chunk = mapping.chunk.raw,
                                                .block = data ? mapping.block + i : 0,
                                                .generation = mapping.generation.raw,
                                                .crc = data ? set.crcs[mapping.crc_index + i] : 0})
                             .second;
      REQUIRE(fresh);
    }
  }
  return out;
}

Model slice(const Model& model, std::uint64_t first, std::uint64_t count) {
  const auto end = count > ~first ? model.end() : model.lower_bound(first + count);
  return Model(model.lower_bound(first), end);
}

MappingSet snapshot(const FileMap& map, std::uint64_t first, std::uint64_t count) {
  MappingSet set;
  map.snapshot(FileBlock{first}, count, set);
  return set;
}

// A map and its model, changed together.
struct Twins {
  journal::Eras eras;
  MapContext context{eras};
  FileMap map{context};
  Model model;
  std::uint64_t generation = 0;
  std::uint32_t next_chunk = 1;

  void put(std::uint64_t first, std::vector<Piece> pieces) {
    ++generation;
    std::vector<std::uint32_t> crcs;
    Model fresh;
    std::uint64_t block = first;
    for (const Piece& piece : pieces) {
      for (std::uint32_t i = 0; i < piece.count; ++i) {
        crcs.push_back(static_cast<std::uint32_t>(generation * 1000 + crcs.size()));
        fresh[block++] = {MappingKind::kData, piece.chunk.raw, piece.block + i, generation,
                          crcs.back()};
      }
    }
    Freed freed;
    map.put(FileBlock{first}, pieces, crcs, Generation{generation}, freed);
    expect_freed(freed, first, crcs.size());
    for (const auto& [at, value] : fresh) model[at] = value;
  }
  void put(std::uint64_t first, std::uint16_t count) {
    put(first, {{.chunk = ChunkId{next_chunk++}, .block = 7, .count = count}});
  }
  void clear(std::uint64_t first, std::uint64_t count) {
    Freed freed;
    map.clear(FileBlock{first}, count, freed);
    expect_freed(freed, first, count);
    std::erase_if(model, [&](const auto& entry) {
      return entry.first >= first && (count > ~first || entry.first < first + count);
    });
  }
  void reserve(std::uint64_t first, std::uint64_t count) {
    ++generation;
    std::uint64_t taken = 0;
    for (std::uint64_t block = first; block < first + count; ++block) {
      taken += model.emplace(block, ModelBlock{MappingKind::kReserved, 0, 0, generation, 0}).second;
    }
    CHECK(map.holes(FileBlock{first}, count) == taken);
    CHECK(map.reserve(FileBlock{first}, count, Generation{generation}) == taken);
    CHECK(map.holes(FileBlock{first}, count) == 0);
  }
  void expect_freed(const Freed& freed, std::uint64_t first, std::uint64_t count) const {
    std::multimap<std::uint32_t, std::uint32_t> expected;
    std::uint64_t reserved = 0;
    for (const auto& [at, block] : slice(model, first, count)) {
      if (block.kind == MappingKind::kData) {
        expected.emplace(block.chunk, block.block);
      } else {
        ++reserved;
      }
    }
    std::multimap<std::uint32_t, std::uint32_t> got;
    for (const Piece& piece : freed.pieces) {
      for (std::uint32_t i = 0; i < piece.count; ++i) got.emplace(piece.chunk.raw, piece.block + i);
    }
    CHECK(freed.reserved_blocks == reserved);
    CHECK(std::multimap<std::uint32_t, std::uint32_t>(got) == expected);
  }

  void check_all() const {
    REQUIRE(expand(snapshot(map, 0, ~std::uint64_t{0})) == model);
    std::uint64_t data = 0;
    for (const auto& [at, block] : model) data += block.kind == MappingKind::kData;
    CHECK(map.data_blocks() == data);
    CHECK(map.reserved_blocks() == model.size() - data);
    std::uint64_t extents = 0;
    map.for_each([&](const Mapping&) { ++extents; });
    CHECK(map.extents() == extents);
  }
  void check_range(std::uint64_t first, std::uint64_t count) const {
    const MappingSet seen = snapshot(map, first, count);
    REQUIRE(expand(seen) == slice(model, first, count));
    CHECK(map.unchanged(FileBlock{first}, count, seen));
    MappingSet at_once;
    REQUIRE(map.try_snapshot(FileBlock{first}, count, at_once));
    CHECK(expand(at_once) == slice(model, first, count));
  }
  void check_seek(std::uint64_t from) const {
    auto at = model.lower_bound(from);
    while (at != model.end() && at->second.kind != MappingKind::kData) ++at;
    const std::optional<FileBlock> data = map.next_data(FileBlock{from});
    REQUIRE(data.has_value() == (at != model.end()));
    if (data) CHECK(data->raw == at->first);
    std::uint64_t hole = from;
    while (true) {
      const auto here = model.find(hole);
      if (here == model.end() || here->second.kind != MappingKind::kData) break;
      ++hole;
    }
    CHECK(map.next_hole(FileBlock{from}).raw == hole);
  }
};

// A stored file: what the runs have of it, the map, and the model of every block.
struct StoredFile {
  using Windows = std::map<std::uint64_t, Bytes>;
  struct Capture {
    std::uint64_t era = 0;
    std::map<std::uint64_t, std::optional<Bytes>> windows;  // nothing: a hole
    Model model;
  };

  Twins twins;
  Windows runs;
  Model durable;                                   // what `runs` amount to
  std::map<std::uint64_t, std::uint64_t> changed;  // window: era of its last change

  // Brings in what a change or a look is about to touch; returns how many windows that took.
  int load(std::uint64_t first, std::uint64_t count) {
    int loaded = 0;
    for (; const auto window = twins.map.absent(FileBlock{first}, count); ++loaded) {
      const auto it = runs.find(window->raw);
      if (it == runs.end()) {
        twins.map.note_hole(*window);
      } else {
        REQUIRE(twins.map.load_window(*window, it->second).has_value());
      }
    }
    return loaded;
  }
  void load_all() {
    for (const auto& [window, encoded] : runs) {
      REQUIRE(twins.map.load_window(WindowId{window}, encoded).has_value());
    }
    twins.map.set_whole();
  }
  bool has_window(std::uint64_t window) const {
    const auto it = twins.model.lower_bound(window * 256);
    return it != twins.model.end() && it->first < (window + 1) * 256;
  }
  void note_change(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t window = first / 256; window <= (first + count - 1) / 256; ++window)
      changed[window] = twins.eras.current.load();
  }
  void put(std::uint64_t first, std::uint16_t count) {
    load(first, count);
    twins.put(first, count);
    note_change(first, count);
  }
  void clear(std::uint64_t first, std::uint64_t count) {
    load(first, count);
    for (std::uint64_t window = first / 256; window <= (first + count - 1) / 256; ++window) {
      if (has_window(window)) note_change(window * 256, 1);
    }
    twins.clear(first, count);
    // What was never stored leaves nothing.
    if (!twins.map.is_stored())
      std::erase_if(changed, [&](const auto& entry) { return !has_window(entry.first); });
  }
  void reserve(std::uint64_t first, std::uint64_t count) {
    load(first, count);
    for (std::uint64_t block = first; block < first + count; ++block) {
      if (!twins.model.contains(block)) note_change(block, 1);
    }
    twins.reserve(first, count);
  }

  // The instant of a checkpoint.
  Capture capture() {
    Capture capture{.era = twins.eras.current.load(), .windows = {}, .model = twins.model};
    twins.map.set_stored();
    std::uint64_t next = 0;
    twins.map.for_each_dirty(
        [&](WindowId window, std::optional<std::span<const std::byte>> encoded) {
          CHECK(window.raw >= next);
          next = window.raw + 1;
          auto& entry = capture.windows[window.raw];
          if (encoded) entry.emplace(encoded->begin(), encoded->end());
        });
    ++twins.eras.current;
    return capture;
  }
  void install(const Capture& capture) {
    for (const auto& [window, encoded] : capture.windows) {
      runs.erase(window);
      if (encoded) runs[window] = *encoded;
    }
    durable = capture.model;
    twins.eras.installed = capture.era + 1;
  }
  // Those whose last change no durable run has.
  std::map<std::uint64_t, std::uint64_t> dirty() const {
    auto out = changed;
    std::erase_if(out, [&](const auto& entry) { return twins.eras.is_clean(entry.second); });
    return out;
  }
  void check_runs() {
    std::uint64_t data = 0;
    for (const auto& [at, block] : durable) data += block.kind == MappingKind::kData;
    const FileMap::Stored stored{.data_blocks = data, .reserved_blocks = durable.size() - data};
    FileMap copy(twins.context, stored);
    for (const auto& [window, encoded] : runs)
      REQUIRE(copy.load_window(WindowId{window}, encoded).has_value());
    CHECK(expand(snapshot(copy, 0, ~std::uint64_t{0})) == durable);
    CHECK(copy.data_blocks() == stored.data_blocks);
    CHECK(copy.reserved_blocks() == stored.reserved_blocks);
    CHECK_FALSE(copy.has_dirty());
  }
  std::int64_t map_bytes() const {
    return static_cast<std::int64_t>(twins.map.memory_bytes() - sizeof(FileMap));
  }
};

constexpr std::uint64_t kTiBBlocks = kTiB / kBlockBytes;

}  // namespace

TEST_SUITE("extent map") {
  TEST_CASE_FIXTURE(Twins, "an empty map has no data, no extents, and is five words") {
    check_all();
    check_range(0, 1000);
    check_seek(0);
    check_seek(5 * kTiBBlocks);
    CHECK(map.memory_bytes() <= 40);
  }

  TEST_CASE_FIXTURE(Twins, "a small file costs less than a hundred bytes") {
    put(0, 1);
    CHECK(map.memory_bytes() <= 88);
  }

  TEST_CASE_FIXTURE(Twins, "a file of a few MiB pays for its checksums more than for its tree") {
    for (std::uint64_t window = 0; window < 8; ++window) put(window * 256, 256);
    CHECK(map.memory_bytes() <= 8 * 1024 + 1024);
  }

  TEST_CASE_FIXTURE(
      Twins, "an overwrite in the middle leaves both sides with their generation and checksums") {
    put(10, 100);
    put(50, 5);
    check_all();
    CHECK(map.extents() == 3);
    const MappingSet set = snapshot(map, 10, 100);
    REQUIRE(set.mappings.size() == 3);
    CHECK(set.mappings[0].generation == Generation{1});
    CHECK(set.mappings[1].generation == Generation{2});
    CHECK(set.mappings[2].generation == Generation{1});
    CHECK(set.mappings[2].block == 7 + 45);
  }

  TEST_CASE_FIXTURE(
      Twins, "neighbours of different generation stay apart although they are contiguous on disk") {
    put(0, {{.chunk = ChunkId{1}, .block = 0, .count = 8}});
    put(8, {{.chunk = ChunkId{1}, .block = 8, .count = 8}});
    CHECK(map.extents() == 2);
  }

  TEST_CASE_FIXTURE(Twins, "extents are cut at window edges, wherever the pieces end") {
    put(200, {{.chunk = ChunkId{1}, .block = 3, .count = 100},
              {.chunk = ChunkId{2}, .block = 500, .count = 157}});
    check_all();
    map.for_each([](const Mapping& mapping) {
      CHECK(mapping.first.raw / 256 == (mapping.first.raw + mapping.count - 1) / 256);
    });
    put(255, 2);
    put(511, 2);
    check_all();
    clear(255, 2);
    check_all();
  }

  TEST_CASE_FIXTURE(Twins, "a window holds 256 extents of one block") {
    for (std::uint64_t i = 0; i < 256; ++i) put((i * 37) % 256, 1);
    CHECK(map.extents() == 256);
    check_all();
    put(0, 256);
    CHECK(map.extents() == 1);
    check_all();
  }

  TEST_CASE_FIXTURE(Twins, "the tree grows to any offset and keeps what is below") {
    put(0, 3);
    std::uint64_t block = 255;
    while (block < kFileBlocksEnd / 2) {
      put(block, 2);
      check_range(block - 1, 4);
      block = block * 2 + 1;
    }
    put(kFileBlocksEnd - 2, 2);
    check_all();
    for (const auto& [at, value] : Model(model)) {
      check_seek(at);
      check_seek(at + 1);
    }
    clear(kTiBBlocks, ~std::uint64_t{0});
    check_all();
    clear(0, ~std::uint64_t{0});
    check_all();
    CHECK(map.data_blocks() == 0);
  }

  TEST_CASE_FIXTURE(Twins, "a first write far out makes a map without a window 0") {
    put(3 * kTiBBlocks, 4);
    check_all();
    CHECK(map.next_data(FileBlock{0}) == FileBlock{3 * kTiBBlocks});
    put(0, 1);
    check_all();
  }

  TEST_CASE_FIXTURE(Twins, "reserving fills holes only and counts them") {
    put(100, 50);
    reserve(0, 700);
    check_all();
    CHECK(map.reserved_blocks() == 650);
    CHECK(map.next_data(FileBlock{0}) == FileBlock{100});
    CHECK(map.next_hole(FileBlock{100}) == FileBlock{150});
    put(0, 10);
    check_all();
    reserve(0, 700);
    check_all();
    clear(5, 600);
    check_all();
  }

  TEST_CASE_FIXTURE(
      Twins, "unchanged notices a new generation, a clearing and a filling, and nothing else") {
    put(0, 20);
    put(30, 20);
    const MappingSet seen = snapshot(map, 0, 60);
    CHECK(map.unchanged(FileBlock{0}, 60, seen));
    CHECK(map.unchanged(FileBlock{10}, 25, seen));
    CHECK(map.unchanged(FileBlock{20}, 10, seen));
    put(60, 1);
    CHECK(map.unchanged(FileBlock{0}, 60, seen));
    put(25, 1);
    CHECK_FALSE(map.unchanged(FileBlock{0}, 60, seen));
    CHECK(map.unchanged(FileBlock{0}, 25, seen));
    CHECK(map.unchanged(FileBlock{26}, 34, seen));
    put(19, 1);
    CHECK_FALSE(map.unchanged(FileBlock{0}, 20, seen));
    CHECK_FALSE(map.unchanged(FileBlock{19}, 1, seen));
    CHECK(map.unchanged(FileBlock{0}, 19, seen));
    clear(49, 1);
    CHECK_FALSE(map.unchanged(FileBlock{30}, 20, seen));
    CHECK(map.unchanged(FileBlock{30}, 19, seen));
  }

  TEST_CASE(
      "random changes agree with the model, and a map loaded from its windows is the same map") {
    const std::uint64_t base = test::seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + test::scaled(40); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      Twins twins;
      // Few places, so that changes meet; some of them far out.
      std::vector<std::uint64_t> places = {0, 200, 8 * 1024, 40'000};
      if (seed % 2 == 0) places.push_back(2 * kTiBBlocks - 100);
      if (seed % 3 == 0) places.push_back(kFileBlocksEnd - 2000);
      const auto place = [&] { return places[random() % places.size()] + random() % 600; };
      for (int step = 0; step < 300; ++step) {
        const std::uint64_t first = place();
        switch (random() % 8) {
          case 0: twins.clear(first, 1 + random() % 400); break;
          case 1: twins.reserve(first, 1 + random() % 400); break;
          case 2:
            if (random() % 20 == 0) twins.clear(first, ~std::uint64_t{0});
            break;
          default: {
            std::vector<Piece> pieces;
            std::uint64_t blocks = 0;
            do {
              const auto count = static_cast<std::uint16_t>(random() % 3 == 0 ? 1 + random() % 200
                                                                              : 1 + random() % 4);
              pieces.push_back({.chunk = ChunkId{twins.next_chunk++},
                                .block = static_cast<std::uint16_t>(random() % 700),
                                .count = count});
              blocks += count;
            } while (random() % 3 == 0);
            if (first + blocks <= kFileBlocksEnd) twins.put(first, pieces);
          }
        }
        twins.check_range(place(), 1 + random() % 600);
        if (step % 10 == 0) twins.check_seek(place());
      }
      twins.check_all();

      FileMap copy(twins.context, {.data_blocks = twins.map.data_blocks(),
                                   .reserved_blocks = twins.map.reserved_blocks()});
      std::uint64_t largest = 0;
      twins.map.for_each_window([&](WindowId window, std::span<const std::byte> encoded) {
        largest = std::max<std::uint64_t>(largest, encoded.size());
        REQUIRE(copy.load_window(window, encoded).has_value());
      });
      CHECK(largest <= 7 * kKiB);
      CHECK(expand(snapshot(copy, 0, ~std::uint64_t{0})) == twins.model);
      CHECK(copy.data_blocks() == twins.map.data_blocks());
      CHECK(copy.reserved_blocks() == twins.map.reserved_blocks());
      CHECK(copy.extents() == twins.map.extents());
    }
  }

  TEST_CASE_FIXTURE(Twins,
                    "a damaged window is refused or is another valid window, and never crashes") {
    put(3, 5);
    put(20, 100);
    reserve(0, 256);
    put(50, 1);
    Bytes good;
    map.for_each_window([&](WindowId, std::span<const std::byte> encoded) {
      good.assign(encoded.begin(), encoded.end());
    });
    FileMap first_copy(context);
    CHECK(first_copy.load_window(WindowId{5}, good).has_value());
    CHECK(first_copy.load_window(WindowId{kFileBlocksEnd / 256}, good).error().code ==
          Code::kFormatInvalid);
    for (std::size_t length = 0; length < good.size(); ++length) {
      FileMap copy(context);
      CHECK_FALSE(copy.load_window(WindowId{0}, std::span{good}.first(length)).has_value());
    }
    Bytes longer = good;
    longer.push_back(std::byte{0});
    FileMap copy(context);
    CHECK_FALSE(copy.load_window(WindowId{0}, longer).has_value());
    std::mt19937_64 random(test::seed_from_environment(7));
    for (int i = 0; i < 20'000; ++i) {
      Bytes bad = good;
      for (std::uint64_t flips = 1 + random() % 4; flips > 0; --flips) {
        bad[random() % bad.size()] ^= std::byte{static_cast<unsigned char>(1u << random() % 8)};
      }
      FileMap other(context);
      if (!other.load_window(WindowId{0}, bad).has_value()) continue;
      // Whatever was accepted is written back the same.
      Bytes again;
      other.for_each_window([&](WindowId, std::span<const std::byte> encoded) {
        again.assign(encoded.begin(), encoded.end());
      });
      CHECK(again == bad);
    }
  }

  TEST_CASE_FIXTURE(StoredFile, "a new file is whole: what is not in memory is a hole") {
    CHECK_FALSE(twins.map.is_stored());
    CHECK(twins.map.is_whole());
    CHECK(twins.map.absent(FileBlock{0}, ~std::uint64_t{0}) == std::nullopt);
    put(3000, 10);
    CHECK(twins.map.absent(FileBlock{0}, ~std::uint64_t{0}) == std::nullopt);
    CHECK(twins.map.drop_clean() == 0);
    CHECK(capture().windows.size() == 1);
  }

  TEST_CASE_FIXTURE(StoredFile, "what a new file got and lost again leaves nothing") {
    for (int i = 0; i < 100; ++i) {
      put(3000, 10);
      clear(0, 4000);
      put(0, 10);
      clear(0, 10);
    }
    CHECK_FALSE(twins.map.has_dirty());
    CHECK(capture().windows.empty());
  }

  TEST_CASE_FIXTURE(StoredFile, "a file stays whole when it is first stored, until it is dropped") {
    put(0, 10);
    put(3000, 10);
    install(capture());
    CHECK(twins.map.is_stored());
    CHECK(twins.map.is_whole());
    CHECK_FALSE(twins.map.has_dirty());
    const std::uint64_t before = twins.map.memory_bytes();
    CHECK(twins.map.drop_clean() == before - sizeof(FileMap));
    CHECK(twins.map.memory_bytes() == sizeof(FileMap));
    CHECK(twins.context.bytes.sum() == 0);
    CHECK_FALSE(twins.map.is_whole());
    CHECK(twins.map.data_blocks() == 20);
    CHECK(twins.map.extents() == 0);
    CHECK(twins.map.absent(FileBlock{5}, 1) == WindowId{0});
    CHECK(twins.map.absent(FileBlock{2999}, ~std::uint64_t{0}) == WindowId{2999 / 256});
    CHECK(twins.map.absent(FileBlock{kFileBlocksEnd}, 1) == std::nullopt);
    CHECK(twins.map.absent(FileBlock{0}, 0) == std::nullopt);
    CHECK(load(0, 3100) == 13);
    CHECK(twins.map.absent(FileBlock{0}, 13 * 256) == std::nullopt);
    CHECK(twins.map.absent(FileBlock{0}, 13 * 256 + 1) == WindowId{13});
    twins.map.set_whole();
    CHECK(twins.map.absent(FileBlock{0}, ~std::uint64_t{0}) == std::nullopt);
    twins.check_all();
    CHECK_FALSE(twins.map.has_dirty());
  }

  TEST_CASE_FIXTURE(StoredFile, "a window cleared in memory is a hole, whatever the runs have") {
    put(0, 600);
    install(capture());
    clear(256, 256);
    CHECK(twins.map.next_hole(FileBlock{0}) == FileBlock{256});
    CHECK(twins.map.next_data(FileBlock{256}) == FileBlock{512});
    CHECK(twins.map.holes(FileBlock{0}, 600) == 256);
    twins.map.drop_clean();
    // Dirty, so it stays.
    CHECK(twins.map.absent(FileBlock{256}, 256) == std::nullopt);
    REQUIRE(twins.map.load_window(WindowId{1}, runs[1]).has_value());
    twins.map.note_hole(WindowId{0});  // a mistake of the caller's, so that it can be seen
    CHECK(expand(snapshot(twins.map, 0, 512)).empty());
    CHECK(twins.map.data_blocks() == 344);
    const Capture second = capture();
    REQUIRE(second.windows.size() == 1);
    CHECK(second.windows.at(1) == std::nullopt);
    install(second);
    CHECK(twins.map.drop_clean() > 0);
    CHECK(load(0, 600) == 3);
    twins.check_all();
  }

  TEST_CASE_FIXTURE(StoredFile, "what is in memory is not replaced by what the runs have") {
    put(0, 10);
    put(300, 10);
    install(capture());
    put(0, 5);
    put(300, 5);
    for (const auto& [window, encoded] : runs)
      REQUIRE(twins.map.load_window(WindowId{window}, encoded).has_value());
    twins.map.note_hole(WindowId{0});
    twins.map.note_hole(WindowId{1});
    twins.check_all();
  }

  TEST_CASE(
      "checkpoints have what has changed since the durable one, and windows come back from the "
      "runs") {
    const std::uint64_t base = test::seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + test::scaled(60); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      StoredFile file;
      // Some files keep to their first window.
      std::vector<std::uint64_t> places = {0};
      if (seed % 3 != 0) places.insert(places.end(), {200, 8 * 1024, 40'000});
      if (seed % 6 == 1) places.push_back(2 * kTiBBlocks - 100);
      const std::uint64_t reach = seed % 3 != 0 ? 600 : 100;
      const auto place = [&] { return places[random() % places.size()] + random() % reach; };
      const auto length = [&] { return 1 + random() % (reach / 2); };
      std::optional<StoredFile::Capture> running;
      for (int step = 0; step < 400; ++step) {
        switch (random() % 10) {
          case 0: file.clear(place(), length()); break;
          case 1: file.reserve(place(), length()); break;
          case 2: file.clear(place() / 256 * 256, 256 * (1 + random() % 2)); break;
          case 3:
            if (running) break;
            CHECK(file.twins.map.has_dirty() == !file.dirty().empty());
            running = file.capture();
            {
              const auto expected = file.dirty();
              REQUIRE(running->windows.size() == expected.size());
              auto it = expected.begin();
              for (const auto& [window, encoded] : running->windows) {
                CHECK(window == (it++)->first);
                CHECK(encoded.has_value() == file.has_window(window));
              }
            }
            break;
          case 4:
            if (!running) break;
            if (random() % 3 != 0) {
              file.install(*running);
              file.check_runs();
            }
            running.reset();
            break;
          case 5: {
            const auto before = file.twins.context.bytes.sum();
            const std::uint64_t freed = file.twins.map.drop_clean();
            CHECK(file.twins.context.bytes.sum() == before - static_cast<std::int64_t>(freed));
            if (file.twins.map.is_stored() && random() % 2 == 0) file.load_all();
            break;
          }
          default: file.put(place(), static_cast<std::uint16_t>(length()));
        }
        CHECK(file.twins.context.bytes.sum() == file.map_bytes());
        const std::uint64_t first = place();
        const std::uint64_t count = length();
        file.load(first, count);
        file.twins.check_range(first, count);
      }
      if (file.twins.map.is_stored()) file.load_all();
      file.twins.check_all();
    }
  }

  TEST_CASE("the memory of maps is counted until they are gone") {
    journal::Eras eras;
    MapContext context(eras);
    {
      FileMap small(context);
      FileMap large(context, {});
      const std::uint32_t crc = 1;
      const Piece piece{.chunk = ChunkId{1}, .block = 0, .count = 1};
      Freed freed;
      small.put(FileBlock{0}, {&piece, 1}, {&crc, 1}, Generation{1}, freed);
      large.note_hole(WindowId{0});
      large.note_hole(WindowId{1});
      large.note_hole(WindowId{kTiBBlocks / 256});
      large.put(FileBlock{kTiBBlocks}, {&piece, 1}, {&crc, 1}, Generation{1}, freed);
      CHECK(context.bytes.sum() ==
            static_cast<std::int64_t>(small.memory_bytes() + large.memory_bytes() -
                                      2 * sizeof(FileMap)));
    }
    CHECK(context.bytes.sum() == 0);
  }

  // A reader that looked a window up before the map was known to be whole says so late.
  TEST_CASE("a hole noted late does not come in a writer's way") {
    for (std::uint64_t round = 0; round < test::scaled(200); ++round) {
      journal::Eras eras;
      MapContext context(eras);
      FileMap map(context, {});
      map.set_whole();
      const std::uint64_t windows = round % 2 == 0 ? 1 : 64;
      std::barrier start(2);
      std::thread late([&] {
        start.arrive_and_wait();
        for (std::uint64_t window = 0; window < windows; ++window) map.note_hole(WindowId{window});
      });
      start.arrive_and_wait();
      const std::uint32_t crc = 1;
      const Piece piece{.chunk = ChunkId{1}, .block = 0, .count = 1};
      for (std::uint64_t window = 0; window < windows; ++window) {
        Freed freed;
        map.put(FileBlock{window * 256}, {&piece, 1}, {&crc, 1}, Generation{1}, freed);
        CHECK(freed.pieces.empty());
      }
      late.join();
      CHECK(map.data_blocks() == windows);
      CHECK(map.extents() == windows);
      std::uint64_t dirty = 0;
      map.for_each_dirty([&](WindowId, std::optional<std::span<const std::byte>> encoded) {
        dirty += encoded.has_value() ? 1 : 0;
      });
      CHECK(dirty == windows);
      CHECK(context.bytes.sum() == static_cast<std::int64_t>(map.memory_bytes() - sizeof map));
    }
  }

  TEST_CASE_FIXTURE(Twins, "extents in an encoding of the future are refused by name") {
    put(0, 1);
    Bytes window;
    map.for_each_window([&](WindowId, std::span<const std::byte> encoded) {
      window.assign(encoded.begin(), encoded.end());
    });
    window[2 + 3] = std::byte{4};
    FileMap copy(context);
    const Result<void> result = copy.load_window(WindowId{0}, window);
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == error(Code::kNotSupported, 4));
  }

  // The reader is stopped by a signal, at any instruction, for as long as the write takes. (The
  // thread sanitizer keeps signals back until the thread blocks; there chance must do.)
  TEST_CASE("a reader sees the write whole that makes a file outgrow its first window") {
    static std::atomic<bool> stopped, go_on;
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = [](int) {
      stopped.store(true);
      while (!go_on.load()) {
      }
    };
    REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
    journal::Eras eras;
    MapContext context(eras);
    const std::uint64_t rounds = test::scaled(5'000);
    std::unique_ptr<FileMap> map;
    std::barrier round(2);
    std::uint64_t torn = 0;
    std::thread reader([&] {
      MappingSet set;
      for (std::uint64_t n = 0; n < rounds; ++n) {
        round.arrive_and_wait();
        do {
          set.clear();
          if (!map->try_snapshot(FileBlock{100}, 400, set)) continue;
          std::uint64_t blocks = 0;
          for (const Mapping& mapping : set.mappings) blocks += mapping.count;
          torn += blocks != 0 && blocks != 400 ? 1 : 0;
        } while (set.mappings.empty());
        round.arrive_and_wait();
      }
    });
    const std::vector<std::uint32_t> crcs(400);
    const Piece piece{.chunk = ChunkId{1}, .block = 0, .count = 400};
    for (std::uint64_t n = 0; n < rounds; ++n) {
      map = std::make_unique<FileMap>(context);
      stopped = go_on = false;
      round.arrive_and_wait();
#ifndef __SANITIZE_THREAD__
      pthread_kill(reader.native_handle(), SIGUSR1);
      while (!stopped.load()) std::this_thread::yield();
#endif
      Freed freed;
      map->put(FileBlock{100}, {&piece, 1}, crcs, Generation{1}, freed);
      go_on = true;
      round.arrive_and_wait();
    }
    reader.join();
    ::sigaction(SIGUSR1, &before, nullptr);
    CHECK(torn == 0);
  }

  // Each write of the whole range carries its number in every mapping: a reader must never see two
  // numbers.
  TEST_CASE("readers without a lock see a change of several windows whole or not at all") {
    journal::Eras eras;
    MapContext context(eras);
    FileMap map(context);
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> torn{0};
    std::atomic<std::uint64_t> seen{0};
    std::vector<std::thread> readers;
    for (int t = 0; t < 2; ++t) {
      readers.emplace_back([&] {
        MappingSet set;
        while (!stop.load(std::memory_order_relaxed)) {
          set.clear();
          if (!map.try_snapshot(FileBlock{100}, 400, set)) continue;
          if (set.mappings.empty()) continue;
          seen.fetch_add(1, std::memory_order_relaxed);
          std::uint64_t blocks = 0;
          for (const Mapping& mapping : set.mappings) {
            blocks += mapping.count;
            const Generation expected = set.mappings[0].generation;
            if (mapping.generation != expected || mapping.chunk.raw != expected.raw ||
                set.crcs[mapping.crc_index] != expected.raw) {
              torn.fetch_add(1);
            }
          }
          if (blocks != 400) torn.fetch_add(1);
        }
      });
    }
    std::vector<std::uint32_t> crcs(400);
    const std::uint64_t rounds = test::scaled(20'000);
    for (std::uint64_t n = 1; n <= rounds || seen.load() == 0; ++n) {
      Freed freed;
      if (n % 50 == 0) {
        map.clear(FileBlock{0}, ~std::uint64_t{0}, freed);
        continue;
      }
      const auto number = static_cast<std::uint32_t>(n);
      std::fill(crcs.begin(), crcs.end(), number);
      const Piece piece{.chunk = ChunkId{number}, .block = 0, .count = 400};
      map.put(FileBlock{100}, {&piece, 1}, crcs, Generation{n}, freed);
    }
    stop = true;
    for (std::thread& thread : readers) thread.join();
    CHECK(torn == 0);
    CHECK(seen > 0);
    // A reader that lost its processor while it was pinned may have kept much; now nobody is left.
    for (std::uint64_t n = 1; n <= 2000; ++n) {
      Freed freed;
      const Piece piece{.chunk = ChunkId{1}, .block = 0, .count = 1};
      map.put(FileBlock{100}, {&piece, 1}, {crcs.data(), 1}, Generation{rounds + n}, freed);
    }
    CHECK(context.memory.garbage_bytes() < kMiB);
  }

  TEST_CASE("writers of different windows grow one tree together") {
    for (int round = 0; round < 20; ++round) {
      journal::Eras eras;
      MapContext context(eras);
      FileMap map(context);
      constexpr std::uint64_t kWriters = 4;
      std::vector<std::thread> writers;
      std::atomic<int> ready{0};
      for (std::uint64_t t = 0; t < kWriters; ++t) {
        writers.emplace_back([&, t] {
          ready.fetch_add(1);
          while (ready.load() < static_cast<int>(kWriters)) {
          }
          const std::uint32_t crc = 1;
          for (std::uint64_t i = 0; i < 200; ++i) {
            Freed freed;
            // Writer 0 keeps to window 0 while the others make a tree of it.
            const std::uint64_t window = t == 0 ? 0 : t + kWriters * (i * i * i);
            const Piece piece{.chunk = ChunkId{1}, .block = 0, .count = 1};
            map.put(FileBlock{window * 256 + i % 256}, {&piece, 1}, {&crc, 1}, Generation{i + 1},
                    freed);
          }
        });
      }
      for (std::thread& thread : writers) thread.join();
      CHECK(map.data_blocks() == kWriters * 200);
      std::uint64_t blocks = 0;
      map.for_each([&](const Mapping& mapping) { blocks += mapping.count; });
      CHECK(blocks == kWriters * 200);
    }
  }
}
