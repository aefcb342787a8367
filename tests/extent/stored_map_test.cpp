// Maps of files of which the runs have a part: what is in memory, what is not, and what changed.
#include "extent/extent_map.hpp"

#include <doctest/doctest.h>

#include <barrier>
#include <map>
#include <random>
#include <thread>

#include "tests/extent/map_model.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

namespace {

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

}  // namespace

TEST_SUITE("extent map of a stored file") {
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
}
