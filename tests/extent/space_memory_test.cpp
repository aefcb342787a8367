// What the maps of space take in memory: counted as malloc does it, and how much that is for a TiB.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>

#include "tests/extent/allocator_space.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::uint32_t kChunks = 32768;  // 128 GiB of data
constexpr double kChunksOfTiB = 262144;

enum class Fill { kFull, kEverySecondBlock };

BlockBitmap live_of(Fill fill) {
  BlockBitmap::Words words{};
  words.fill(fill == Fill::kFull ? ~std::uint64_t{0} : 0x5555555555555555);
  return BlockBitmap{words};
}

// A pool as a mount finds it, all of its chunks alike.
std::unique_ptr<Space> mounted(std::uint16_t copies, Fill fill, std::uint32_t chunks) {
  auto space = std::make_unique<Space>();
  space->sizes.assign(copies, kChunks + kChunks / 10);
  space->set_healthy(std::vector<bool>(copies, true));
  for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
    ChunkState state;
    state.put.chunk = ChunkId{chunk + 1};
    state.put.layout.copies_or_data = static_cast<std::uint8_t>(copies);
    for (std::uint16_t disk = 0; disk < copies; ++disk) {
      state.put.places.push_back({.disk = DiskId{disk}, .slot = SlotId{chunk}});
    }
    state.live = live_of(fill);
    REQUIRE(space->allocator.load(state.put.chunk, state).has_value());
  }
  space->allocator.start();
  return space;
}

// Of all arenas, in use. 0 where malloc is not glibc's, as under a sanitizer.
double malloc_bytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd);
}

struct Use {
  double counted = 0;
  double taken = 0;
};
Use use_of(std::uint16_t copies, Fill fill, std::uint32_t chunks) {
  const double before = malloc_bytes();
  const auto space = mounted(copies, fill, chunks);
  return {.counted = static_cast<double>(space->allocator.map_bytes()),
          .taken = malloc_bytes() - before};
}

}  // namespace

TEST_SUITE("memory of the maps of space") {
  TEST_CASE("is what malloc has given, and some tens of MiB for a TiB of data") {
    struct Case {
      Fill fill;
      std::array<double, 3> mib_per_tib_max;  // for one copy, two and three
    };
    for (const Case& one :
         {Case{Fill::kFull, {31, 31, 43}}, Case{Fill::kEverySecondBlock, {67, 67, 79}}}) {
      for (const std::uint16_t copies : {1, 2, 3}) {
        // Without what the rest of an allocator takes.
        const Use none = use_of(copies, one.fill, 0);
        const Use all = use_of(copies, one.fill, kChunks);
        const double mib_per_tib = all.counted / kChunks * kChunksOfTiB / (1 << 20);
        const std::string what =
            fmt::format("{} copies, {}: {:.1f} MiB for a TiB of data", copies,
                        one.fill == Fill::kFull ? "full" : "every second block", mib_per_tib);
        MESSAGE(what);
        CHECK(mib_per_tib <= one.mib_per_tib_max[copies - 1u]);
        if (all.taken == 0) continue;
        CHECK(all.counted - none.counted == doctest::Approx(all.taken - none.taken).epsilon(0.002));
      }
    }
  }

  TEST_CASE("is counted as it changes, as a mount would count it") {
    const std::uint64_t seed = test::seed_from_environment(1);
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    Space space;
    space.start({40, 40, 40});
    std::vector<std::vector<Piece>> files;
    for (int step = 0; step < 4000; ++step) {
      if (random() % 5 < 3) {
        const auto blocks =
            static_cast<std::uint32_t>(1 + random() % (random() % 2 == 0 ? 256 : 8));
        std::vector<Piece> pieces = space.allocate(blocks, random() % 2 == 0 ? kSingle : kTwo);
        if (pieces.empty()) continue;
        if (random() % 10 == 0) {
          space.allocator.discard(pieces);
          continue;
        }
        space.allocator.publish(pieces);
        if (random() % 4 == 0 && space.allocator.share(pieces)) files.push_back(pieces);
        files.push_back(std::move(pieces));
      } else if (!files.empty()) {
        std::swap(files[random() % files.size()], files.back());
        space.allocator.free(files.back(), Lsn{++space.log.lsn});
        files.pop_back();
      }
      if (random() % 50 == 0) space.drain();
    }
    space.drain();

    Space again;
    again.sizes = space.sizes;
    again.set_healthy({true, true, true});
    const auto live = space.allocator.live();
    const auto chunks = space.allocator.chunks();
    const auto shared = space.allocator.shared();
    REQUIRE(!shared.empty());
    REQUIRE(live.size() == chunks.size());
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const auto at =
          std::ranges::find(shared, live[i].first, &std::pair<ChunkId, SharedBlocks>::first);
      REQUIRE(
          again.allocator
              .load(chunks[i].chunk, {.put = chunks[i],
                                      .live = live[i].second,
                                      .shared = at == shared.end() ? SharedBlocks{} : at->second})
              .has_value());
    }
    again.allocator.start();
    CHECK(space.allocator.map_bytes() == again.allocator.map_bytes());
  }
}

}  // namespace dynamicfs::extent
