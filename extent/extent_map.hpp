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
// A map is *stored* when the runs have windows of it. Then a window may be absent from memory, and a
// window without extents in memory is known to be a hole, whatever the runs say. Readers and writers
// take an absent window for a hole: their caller has seen to it, with absent(), that what they touch
// is in memory. Every window carries the era in which it was made (journal/era.hpp), so that a
// checkpoint writes only what has changed.
//
// Invariants  A published node never changes. A node is published by one release operation and read
//             by one acquire load inside an EpochTracker pin.
//             Extents in a node are sorted, disjoint and not empty; data extents carry one CRC-32C
//             per block.
//             Inner nodes are only added, and freed with the map or by drop_clean().
//             A window that no durable run has as it is (its era is not clean) is in memory, and in
//             the list of dirty ones.
// Threads     snapshot(), unchanged(), next_*(), absent(), load_window(), note_hole() take no lock.
//             put(), replace(), reserve(), clear() require the extent locks of the windows they touch
//             (extent_lock.hpp) and a ChangeScope.
// Locks       The list of dirty windows of a map has a mutex, a leaf.
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
#include "base/inline_vector.hpp"
#include "base/metrics.hpp"
#include "base/result.hpp"
#include "extent/epoch.hpp"
#include "journal/era.hpp"

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
  // A read of 4 KiB takes no memory but this, nor one of 32 KiB that was written in one piece.
  InlineVector<Mapping, 2> mappings;  // ascending, disjoint
  InlineVector<std::uint32_t, 8> crcs;
  void clear() {
    mappings.clear();
    crcs.clear();
  }
};

// Offsets end at 2^63 bytes.
inline constexpr std::uint64_t kFileBlocksEnd = std::uint64_t{1} << 51;

// A window with this many extents is worth being written anew in one piece.
inline constexpr std::size_t kScatteredExtents = 32;

// What a change of the map took out of it.
struct Freed {
  std::vector<Piece> pieces;
  std::uint64_t reserved_blocks = 0;
  bool scattered = false;  // a window of the range has kScatteredExtents now, and had fewer
};

// What the maps of a pool share. Outlives them.
struct MapContext {
  explicit MapContext(journal::Eras& eras_in) : eras(eras_in) {}

  EpochTracker memory;  // guards their nodes
  journal::Eras& eras;
  Gauge bytes;  // of nodes and trees; what is replaced and waits in `memory` is not counted
};

// Consecutive blocks of a file from `first` on and where they lie, in order.
struct PutView {
  FileBlock first;
  std::span<const Piece> pieces;
  std::span<const std::uint32_t> crcs;  // one per block, all pieces
};

class WindowNode;
class WindowBuilder;

// Five words for a small file, so that a million of them fit.
class FileMap {
 public:
  // What a stored file has in all, in memory or not.
  struct Stored {
    std::uint64_t data_blocks = 0;
    std::uint64_t reserved_blocks = 0;
  };

  // Of a new file: what is not in memory is a hole.
  explicit FileMap(MapContext& context);
  // The runs may have windows of it.
  FileMap(MapContext& context, Stored stored);
  ~FileMap();  // nobody may look any more
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;

  // Repair: what the windows have, whatever was said before. All of them are in memory.
  void set_counts(Stored counted) {
    data_blocks_.store(counted.data_blocks, std::memory_order_relaxed);
    reserved_blocks_.store(counted.reserved_blocks, std::memory_order_relaxed);
  }

  bool is_stored() const { return stored_.load(std::memory_order_acquire); }
  // A checkpoint is about to write the map for the first time. All of it is in memory still, so it is
  // whole until drop_clean(). No change may run meanwhile.
  void set_stored();
  // Whether everything that the runs have of it is in memory, as it always is when it is not stored.
  bool is_whole() const { return !is_stored() || whole_.load(std::memory_order_acquire); }
  // The caller has loaded everything the runs have.
  void set_whole() { whole_.store(true, std::memory_order_release); }
  // The first window of the range that is neither in memory nor known to be a hole. `count` may be
  // ~0. The caller looks it up in the runs, then calls load_window() or note_hole().
  std::optional<WindowId> absent(FileBlock first, std::uint64_t count) const;

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
  // Maps consecutive blocks from `first` as `shares` say (each as put() has it, ascending, disjoint,
  // within the range), and nothing else there: what was mapped goes to `freed`.
  void replace(FileBlock first, std::uint64_t count, std::span<const PutView> shares,
               Generation generation, Freed& freed);
  // Marks the holes in the range reserved; returns how many blocks that were.
  std::uint64_t reserve(FileBlock first, std::uint64_t count, Generation generation);
  // Unmaps the range. `count` may be ~0 for "to the end".
  void clear(FileBlock first, std::uint64_t count, Freed& freed);
  // Number of hole blocks in the range: what reserve() would take.
  std::uint64_t holes(FileBlock first, std::uint64_t count) const;

  // Of the whole file, absent windows included; exact when no change runs.
  std::uint64_t data_blocks() const { return data_blocks_.load(std::memory_order_relaxed); }
  std::uint64_t reserved_blocks() const { return reserved_blocks_.load(std::memory_order_relaxed); }
  // Of what is in memory; exact when no change runs.
  std::uint64_t extents() const;
  std::uint64_t memory_bytes() const;

  // A window as a run has it, clean; data_blocks() and reserved_blocks() have counted it before. Does
  // nothing if the window is in memory: somebody was faster. kFormatInvalid for impossible contents,
  // kNotSupported (detail: the encoding) for extents that only a newer program can read.
  Result<void> load_window(WindowId window, std::span<const std::byte> encoded);
  // The runs do not have this window. Does nothing if it is in memory.
  void note_hole(WindowId window);

  // No change may run during any of these.

  // Every window that is not clean, ascending, as it goes into a run (extent_format.hpp); nothing
  // for a hole: the runs are to forget that window. Costs what is dirty, not what there is.
  void for_each_dirty(
      const std::function<void(WindowId, std::optional<std::span<const std::byte>>)>& each);
  bool has_dirty() const;
  // Every window in memory that is no hole, ascending, likewise.
  void for_each_window(const std::function<void(WindowId, std::span<const std::byte>)>& each) const;
  // Every mapping in memory, ascending, without checksums.
  void for_each(const std::function<void(const Mapping&)>& each) const;
  // Forgets what the runs have as it is, if the map is stored; it is not whole then. Only when nobody
  // else uses the map. Returns how many bytes of memory are free now.
  std::uint64_t drop_clean();

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
  void publish(std::uint64_t window, const WindowNode* old, const WindowBuilder& builder);
  void publish(std::uint64_t window, const WindowNode* old, WindowNode* fresh);
  void add_stored(std::uint64_t window, WindowNode* node);
  bool is_dirty(const WindowNode* node) const;

  MapContext& context_;
  std::atomic<std::uint64_t> data_blocks_{0};
  std::atomic<std::uint64_t> reserved_blocks_{0};
  std::atomic<bool> stored_{false};
  std::atomic<bool> whole_{false};  // of a stored map
  // 0: empty. A WindowNode*: only window 0 is mapped. A Spread*, with bit 0 set: a tree.
  std::atomic<std::uintptr_t> root_{0};
};

}  // namespace dynamicfs::extent
