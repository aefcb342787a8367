// Chunks that lie side by side under common parity: the layout ec(k, m).
//
// A group is k chunks with one place each (its *columns*) and m slots of parity, on k + m different disks.
// Block r of all of them is *row* r: its parity is computed over the k blocks of data. A row is
// written once, whole, and not again before none of its blocks is in use: what a mapping does not name any more stays
// where it is as long as its neighbours need it to be reconstructed. So there is no write hole.
//
// A large write takes consecutive rows and fills them column by column, so that consecutive blocks of the
// file lie together on one disk and a read of a few asks one disk; what is left of the last column are zeros.
#pragma once

#include <cstdint>
#include <vector>

#include "extent/chunk.hpp"
#include "extent/erasure_codec.hpp"

namespace dynamicfs::extent {

// Data goes to rows if there are at least as many blocks for each column: a device write is not worth it for
// less.
inline constexpr std::uint32_t kStripeBlocks = 4;

struct ParityGroup {
  // Fixed.
  ChunkId first;  // the columns have this id and those behind it
  journal::Policy policy;
  const ErasureCodec* codec = nullptr;
  InlineVector<Place, 8> places;  // of the columns in order, then of the parity
  std::vector<Chunk*> columns;

  // The allocator's, under its mutex.
  std::uint16_t used_rows = 0;  // a block of them is in use
  std::uint16_t cursor = 0;     // where the last allocation ended
  bool open = false;            // a write point's
  bool removed = false;         // its ChunkRemove is appended; the slots are pending
  bool fillable = false;        // every place can be written
  bool degraded = false;        // not every place can be read
  bool empty_noted = false;
  bool draining = false;  // a compaction empties it
  bool moving = false;    // as of a chunk
  std::uint8_t to_move = 0;
  NodeList<ParityGroup>* list = nullptr;
  ParityGroup* previous = nullptr;
  ParityGroup* next = nullptr;

  std::uint32_t free_rows() const { return static_cast<std::uint32_t>(kSlotBlocks) - used_rows; }
  std::size_t data_columns() const { return columns.size(); }
  std::size_t width() const { return places.size(); }
  std::uint32_t held_blocks() const {
    std::uint32_t held = 0;
    for (const Chunk* const column : columns) held += column->held_blocks();
    return held;
  }
  std::uint32_t live_blocks() const {
    std::uint32_t live = 0;
    for (const Chunk* const column : columns) live += column->live_count;
    return live;
  }
  // A bit for each row of which a block is in use.
  BlockWords used() const {
    BlockWords words{};
    for (const Chunk* const column : columns) {
      const EitherWords used = column->used();
      for (std::size_t i = 0; i < words.size(); ++i) words[i] |= used[i];
    }
    return words;
  }
};

inline std::size_t Chunk::column() const { return id.raw - of_group->first.raw; }

}  // namespace dynamicfs::extent
