// The files that extent_bench looks up in and publishes to, and what they cost in memory.
#pragma once

#include <fmt/format.h>
#ifdef DYNAMICFS_TCMALLOC
#include <gperftools/malloc_extension_c.h>
#else
#include <malloc.h>
#endif

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "base/ids.hpp"
#include "extent/extent_lock.hpp"
#include "extent/extent_map.hpp"
#include "extent/read_registry.hpp"
#include "journal/change_gate.hpp"
#include "tools/bench/extent_others.hpp"

namespace dynamicfs::bench {

enum class Shape : std::uint8_t {
  kRegular,  // four blocks each, one behind the other: 64 in a window
  kRandom,   // one to four blocks, then a hole of none to two: about 73 in a window
  kBlocks,   // one block each, one behind the other: 256 in a window, as many as there can be
};

inline const char* name_of(Shape shape) {
  switch (shape) {
    case Shape::kRegular: return "regular";
    case Shape::kRandom: return "random";
    case Shape::kBlocks: break;
  }
  return "blocks";
}

// How many blocks of the file the extents take, holes included. The same ones every time.
template <class F>
std::uint64_t for_each_extent(Shape shape, std::uint64_t count, F each) {
  std::mt19937_64 random(1);
  std::uint64_t block = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint32_t blocks = shape == Shape::kBlocks ? 1 : kExtentBlocksMax;
    if (shape == Shape::kRandom) {
      const std::uint64_t bits = random();
      block += bits % 3;
      // No extent crosses a window, in any of the stores.
      const std::uint64_t room = kWindowBlocks - block % kWindowBlocks;
      blocks = static_cast<std::uint32_t>(std::min(1 + (bits >> 32) % kExtentBlocksMax, room));
    }
    each(Extent{.first = block, .count = blocks});
    block += blocks;
  }
  return block;
}

inline std::uint64_t heap_bytes() {
#ifdef DYNAMICFS_TCMALLOC
  // mallinfo2() is glibc's, which knows nothing of it.
  std::size_t bytes = 0;
  MallocExtension_GetNumericProperty("generic.current_allocated_bytes", &bytes);
  return bytes;
#else
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
#endif
}

inline const std::array<std::uint32_t, kWindowBlocks> kCrcs{};

// One file, made by one put() for each extent, as writes make it.
struct OurFile {
  OurFile(Shape shape, std::uint64_t count) : extents(count) {
    const std::uint64_t before = heap_bytes();
    extent::Freed freed;
    blocks = for_each_extent(shape, count, [&](Extent extent) {
      map.put(FileBlock{extent.first}, {{piece_of(extent.first, extent.count)}},
              {kCrcs.data(), extent.count}, Generation{++lsn}, freed);
    });
    heap = heap_bytes() - before - context.memory.garbage_bytes();
  }
  static extent::Piece piece_of(std::uint64_t first, std::uint32_t count) {
    return {.chunk = ChunkId{static_cast<std::uint32_t>(1 + first / kSlotBlocks)},
            .block = static_cast<std::uint16_t>(first % kSlotBlocks),
            .count = static_cast<std::uint16_t>(count)};
  }

  // The inside of Filesystem::write() from the gate on, without the record: the journal's part is
  // measured by tools/bench/commit.
  void publish(std::uint64_t first, std::uint32_t count) {
    extent::Freed freed;
    const journal::ChangeScope scope(gate);
    const auto guard = locks.lock(InodeId{1}, FileBlock{first}, count);
    map.put(FileBlock{first}, {{piece_of(first, count)}}, {kCrcs.data(), count},
            Generation{lsn.fetch_add(1, std::memory_order_relaxed)}, freed);
  }

  journal::Eras eras;
  extent::MapContext context{eras};
  extent::FileMap map{context};
  extent::ReadRegistry reads;
  extent::ExtentLocks locks;
  journal::ChangeGate gate;
  std::atomic<std::uint64_t> lsn{0};
  const std::uint64_t extents;
  std::uint64_t blocks = 0;  // holes included
  std::uint64_t heap = 0;    // what malloc() says of it
};

}  // namespace dynamicfs::bench
