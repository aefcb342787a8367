// A chunk in memory: where it lies (fixed) and which of its blocks are in use (the allocator's).
// ChunkTable finds it by id without a lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "base/heap_bytes.hpp"
#include "base/ids.hpp"
#include "base/inline_vector.hpp"
#include "extent/block_bitmap.hpp"
#include "extent/extent_format.hpp"
#include "extent/node_list.hpp"
#include "journal/era.hpp"

namespace dynamicfs::extent {

enum class ChunkStage : std::uint8_t {
  kSealed,   // no write point uses it; may be in a list of chunks with room
  kOpen,     // a write point's
  kRemoved,  // its ChunkRemove is appended; the slots are pending
};

struct Chunk;
struct ParityGroup;
using ChunkList = NodeList<Chunk>;

struct Chunk {
  // Fixed: a chunk that moves to other places gets another object (ChunkTable::replace), so who has
  // this one sees what was there as long as the slots are not given away.
  ChunkId id;
  journal::Policy layout;
  InlineVector<Place, 2> places;

  // The allocator's, under its mutex.
  // Blocks in use are those of the two: a chunk at rest has nothing in the second, and if it is full
  // the first takes no memory either.
  BlockBitmap live;                         // published mappings name them
  BlockBitmap unnamed;                      // not live: being written, or pending
  std::uint64_t era = journal::kStoredEra;  // of the last change of `live`, or of its making
  std::uint16_t used_blocks = 0;
  std::uint16_t live_count = 0;
  std::uint16_t pending_blocks = 0;  // of the used: freed, not yet to be reused (INV-3)
  std::uint16_t cursor = 0;          // where the last allocation ended
  std::uint16_t high_water = 0;      // blocks from here on have never been used
  ChunkStage stage = ChunkStage::kSealed;
  bool fillable : 1 = false;  // every place can be written and there are as many as there should be
  bool degraded : 1 = false;  // fewer readable places than its layout asks for
  bool empty_noted : 1 = false;
  bool draining : 1 = false;  // a compaction empties it
  bool moving : 1 = false;    // to other places: nothing is put there meanwhile
  std::uint8_t moves = 0;     // how often it has moved, modulo 256
  std::uint8_t ghosts = 0;    // objects of it as it was before, which readers may look at
  // How many places it lacks, or has on disks that are to be emptied; 0 while it cannot be read.
  std::uint8_t to_move = 0;
  ChunkList* list = nullptr;
  Chunk* previous = nullptr;
  union {
    Chunk* next = nullptr;
    ParityGroup* of_group;  // a column is in no list
  };

  // Of a column, which is opened, filled and removed with its group; `places` is the column's own. Fixed.
  ParityGroup* group() const {
    return layout.kind == journal::Policy::Kind::kErasure ? of_group : nullptr;
  }
  std::size_t column() const;  // in its group

  std::uint32_t free_blocks() const {
    return static_cast<std::uint32_t>(kSlotBlocks) - used_blocks;
  }
  // What it takes, with all that belongs to it alone.
  std::size_t memory_bytes() const {
    return heap_bytes(sizeof *this) + places.memory_bytes() + bitmap_bytes();
  }
  std::size_t bitmap_bytes() const { return live.memory_bytes() + unnamed.memory_bytes(); }
  EitherWords used() const { return {live.words(), unnamed.words()}; }
  // Live or being written.
  std::uint32_t held_blocks() const {
    return used_blocks - static_cast<std::uint32_t>(pending_blocks);
  }
};

// Owns the chunks of a pool, and counts the memory that they take. find() may run beside everything else and returns what add()
// published; the chunk stays valid while a read is registered that found its id in a mapping (it is
// freed only behind INV-3).
class ChunkTable {
 public:
  ChunkTable();
  ~ChunkTable();
  ChunkTable(const ChunkTable&) = delete;
  ChunkTable& operator=(const ChunkTable&) = delete;

  Chunk* find(ChunkId id) const;

  // The rest is for the holder of the allocator's mutex.
  Chunk& add(ChunkId id, journal::Policy layout,
             std::span<const Place> places);  // the id must be new
  void erase(ChunkId id);
  // Another object with these places for a chunk that is in no list, a column of `group` if that is
  // given, takes over all else. Returns the old one, for those who still look at it.
  std::unique_ptr<Chunk> replace(ChunkId id, std::span<const Place> places, ParityGroup* group);
  // Around whatever changes the bitmaps of a chunk.
  class Resizing {
   public:
    Resizing(ChunkTable& table, const Chunk& chunk) : table_(table), chunk_(chunk) {
      table_.memory_bytes_ -= chunk_.bitmap_bytes();
    }
    ~Resizing() { table_.memory_bytes_ += chunk_.bitmap_bytes(); }
    Resizing(const Resizing&) = delete;
    Resizing& operator=(const Resizing&) = delete;

   private:
    ChunkTable& table_;
    const Chunk& chunk_;
  };
  std::size_t size() const { return size_; }
  // What all chunks and the table itself take.
  std::uint64_t memory_bytes() const { return sizeof *this + memory_bytes_; }
  // Ascending.
  template <class F>
  void for_each(F each) const {
    for (const auto& group : groups_) {
      const Group* const present = group.load(std::memory_order_acquire);
      if (present == nullptr) continue;
      for (const auto& leaf : present->leaves) {
        const Leaf* const slots = leaf.load(std::memory_order_acquire);
        if (slots == nullptr) continue;
        for (const auto& slot : slots->chunks) {
          if (Chunk* const chunk = slot.load(std::memory_order_acquire)) each(*chunk);
        }
      }
    }
  }

 private:
  // Three levels of the 32-bit id. Ids are never reused, so leaves of dead chunks stay behind: 8
  // bytes for 4 MiB written, until the next mount.
  static constexpr unsigned kLeafBits = 11;
  static constexpr unsigned kGroupBits = 11;
  struct Leaf {
    std::array<std::atomic<Chunk*>, std::size_t{1} << kLeafBits> chunks{};
  };
  struct Group {
    std::array<std::atomic<Leaf*>, std::size_t{1} << kGroupBits> leaves{};
  };
  std::atomic<Chunk*>& slot_of(ChunkId id);

  std::array<std::atomic<Group*>, std::size_t{1} << (32 - kLeafBits - kGroupBits)> groups_{};
  std::size_t size_ = 0;
  std::uint64_t memory_bytes_ = 0;
};

}  // namespace dynamicfs::extent
