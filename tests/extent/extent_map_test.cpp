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

#include "tests/extent/map_model.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

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

  TEST_CASE("every block of a window is found, however many extents there are") {
    for (std::uint32_t count = 1; count <= kWindowBlocks; ++count) {
      Twins twins;
      const std::uint64_t step = kWindowBlocks / count;
      for (std::uint32_t i = 0; i < count; ++i) twins.put(i * step, 1);
      REQUIRE(twins.map.extents() == count);
      for (std::uint64_t block = 0; block < kWindowBlocks; ++block) {
        const Model found = expand(snapshot(twins.map, block, 1));
        REQUIRE(found == slice(twins.model, block, 1));
      }
    }
  }

  TEST_CASE_FIXTURE(Twins, "an extent replaced by one of its size leaves the others as they are") {
    for (std::uint64_t block = 0; block < 96; block += 3) put(block, 3);
    CHECK(map.reserve(FileBlock{100}, 20, Generation{generation}) == 20);
    for (std::uint64_t i = 0; i < 20; ++i) {
      model[100 + i] = {.kind = MappingKind::kReserved, .generation = generation};
    }
    for (std::uint64_t block = 0; block < 96; block += 3) {
      put(block, 3);
      check_all();
    }
    put(100, 20);
    check_all();
    CHECK(map.reserved_blocks() == 0);
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
        switch (random() % 10) {
          case 8:
          case 9: {
            const std::uint64_t source = place();
            const std::uint64_t count = 1 + random() % 700;
            const std::uint64_t apart = first < source ? source - first : first - source;
            if (apart < count || std::max(first, source) + count > kFileBlocksEnd) break;
            twins.clone(source, first, count);
            break;
          }
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
      if (n % 2 == 0) {
        map.put(FileBlock{100}, {&piece, 1}, crcs, Generation{n}, freed);
      } else {
        const PutView view{FileBlock{100}, {&piece, 1}, crcs};
        map.replace(FileBlock{90}, 420, {&view, 1}, Generation{n}, freed);
      }
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
