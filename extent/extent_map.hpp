// Which blocks of a file are where: per file, a radix tree of 1 MiB windows, each an immutable
// sorted array of extents with their checksums, replaced as a whole.
//
// A lookup is a few pointer steps (none up to 1 MiB of file, one up to 32 MiB, two up to 16 GiB,
// three up to 8 TiB) and a search among at most 256 extents, whatever the size or fragmentation of
// the file. Extents never cross a window.
//
// The lowest level of the tree has 32 children, all others 512: a file of a few MiB pays for 256
// bytes of tree and not for 4 KiB, while the depth of a large one hardly differs.
//
// Invariants  A published node never changes. A node is published by one release operation and read
//             by one acquire load inside an EpochTracker pin.
//             Extents in a node are sorted, disjoint and not empty; data extents carry one CRC-32C
//             per block.
//             Inner nodes are only added, and freed with the map.
// Threads     snapshot(), unchanged(), next_*() take no lock. put(), reserve(), clear() require the
//             extent locks of the windows they touch (extent_lock.hpp).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "extent/epoch.hpp"

namespace dynamicfs::extent {

// Blocks [block, block + count) of a chunk.
struct Piece {
  ChunkId chunk;
  std::uint16_t block = 0;
  std::uint16_t count = 0;
  bool operator==(const Piece&) const = default;
};

// How the bytes of an extent are stored. Only plain is written so far; readers refuse others by
// name.
enum class Encoding : std::uint8_t { kPlain = 0 };

enum class MappingKind : std::uint8_t {
  kData,
  kReserved,  // fallocate: space is promised, contents are zeros
};

// What a reader copies: one extent, cut to the range asked for. Holes have no mapping.
struct Mapping {
  FileBlock first;
  std::uint16_t count = 0;
  MappingKind kind = MappingKind::kData;
  Encoding encoding = Encoding::kPlain;
  std::uint16_t block = 0;  // in the chunk
  ChunkId chunk;
  Generation generation;
  std::uint32_t crc_index = 0;  // into MappingSet::crcs, kData only
};

struct MappingSet {
  std::vector<Mapping> mappings;  // ascending, disjoint
  std::vector<std::uint32_t> crcs;
  void clear() {
    mappings.clear();
    crcs.clear();
  }
};

// Offsets end at 2^63 bytes.
inline constexpr std::uint64_t kFileBlocksEnd = std::uint64_t{1} << 51;

// What a change of the map took out of it.
struct Freed {
  std::vector<Piece> pieces;
  std::uint64_t reserved_blocks = 0;
};

class WindowNode;

// Two words for a small file, so that a million of them fit.
class FileMap {
 public:
  // `memory` guards the nodes of all maps of a pool and outlives them.
  explicit FileMap(EpochTracker& memory);
  ~FileMap();  // nobody may look any more
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;

  // Appends to `out` what covers [first, first + count). Within one window this is the state at one
  // instant; over several windows only while their locks are held: see try_snapshot().
  void snapshot(FileBlock first, std::uint64_t count, MappingSet& out) const;
  // The same at one instant over all windows, or false, `out` unchanged, when a change came
  // between.
  [[nodiscard]] bool try_snapshot(FileBlock first, std::uint64_t count, MappingSet& out) const;
  // True if the range still has exactly these mappings (compared by place, kind and generation).
  bool unchanged(FileBlock first, std::uint64_t count, const MappingSet& seen) const;
  // The first block >= from that is data (not hole, not reserved) / that is not data. next_hole
  // always has an answer; next_data has none behind the last extent.
  std::optional<FileBlock> next_data(FileBlock from) const;
  FileBlock next_hole(FileBlock from) const;

  // Maps consecutive blocks from `first` to the pieces in order; what was mapped there goes to
  // `freed`. crcs: one per block, all pieces.
  void put(FileBlock first, std::span<const Piece> pieces, std::span<const std::uint32_t> crcs,
           Generation generation, Freed& freed);
  // Marks the holes in the range reserved; returns how many blocks that were.
  std::uint64_t reserve(FileBlock first, std::uint64_t count, Generation generation);
  // Unmaps the range. `count` may be ~0 for "to the end".
  void clear(FileBlock first, std::uint64_t count, Freed& freed);
  // Number of hole blocks in the range: what reserve() would take.
  std::uint64_t holes(FileBlock first, std::uint64_t count) const;

  // Exact when no change runs.
  std::uint64_t data_blocks() const;
  std::uint64_t reserved_blocks() const;
  std::uint64_t extents() const;
  std::uint64_t memory_bytes() const;

  // Every window that is not empty, ascending, as it goes into a run (extent_format.hpp). No change
  // may run meanwhile.
  void for_each_window(const std::function<void(WindowId, std::span<const std::byte>)>& each) const;
  // The way back, for an empty window. kFormatInvalid for impossible contents, kNotSupported
  // (detail: the encoding) for extents that only a newer program can read.
  Result<void> load_window(WindowId window, std::span<const std::byte> encoded);
  // Every mapping, ascending, without checksums.
  void for_each(const std::function<void(const Mapping&)>& each) const;

 private:
  struct Spread;
  struct Inner;
  class ChangeOfSeveral;
  using Slot = std::atomic<void*>;

  Spread* spread() const;
  Spread& make_spread();
  const WindowNode* load(std::uint64_t window) const;
  const WindowNode* next_window(std::uint64_t from, std::uint64_t* found) const;
  template <class F>
  void for_nodes(FileBlock first, std::uint64_t end, F each) const;
  void publish(std::uint64_t window, const WindowNode* old, WindowNode* fresh);

  EpochTracker& memory_;
  // 0: empty. A WindowNode*: only window 0 is mapped. A Spread*, with bit 0 set: a tree.
  std::atomic<std::uintptr_t> root_{0};
};

}  // namespace dynamicfs::extent
