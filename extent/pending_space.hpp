// What has been freed and may not be reused yet (INV-3), in the order of release:
//
//   uncovered  the record that freed it, and a later header that says so, are not yet durable
//   arriving   a read may have copied its mapping and not yet pinned its disks
//   reading    a read may be under way on one of its disks
//
// Threads  None of its own; the allocator's mutex.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "extent/chunk.hpp"
#include "extent/extent_format.hpp"
#include "extent/read_registry.hpp"

namespace dynamicfs::extent {

// A chunk or group as it was before it was moved: readers may still look at it.
struct MovedChunk {
  MovedChunk();
  ~MovedChunk();
  std::vector<std::unique_ptr<Chunk>> chunks;
  std::unique_ptr<ParityGroup> group;
  std::vector<Place> left;      // the slots that it does not have any more
  std::vector<DiskId> readers;  // who looks at it has pinned one of these
};

struct PendingEntry {
  enum class Kind : std::uint8_t {
    kBlocks,      // blocks of a chunk
    kChunkSlots,  // all slots of a removed chunk
    kMovedSlots,  // those that a chunk had before it was moved
    kRunSlot,     // a slot of a replaced run
  };
  Kind kind = Kind::kBlocks;
  Lsn lsn;  // of the record that freed it
  ChunkId chunk;
  std::uint16_t block = 0;
  std::uint16_t count = 0;
  DiskId disk;
  SlotId slot;
  const MovedChunk* moved = nullptr;
  std::uint8_t moves = 0;  // Chunk::moves when the wait for its disks began
};

class PendingSpace {
 public:
  // LSN 0 is covered at any time.
  void add(const PendingEntry& entry) {
    if (entry.lsn.raw == 0) {
      uncovered_.push_front(entry);
    } else {
      uncovered_.push_back(entry);
    }
  }
  // Moves everything on as far as it may go; returns what is free now. Blocks of chunks that are
  // gone from `chunks` went with them and are dropped.
  // Slots of chunks that were removed behind `hold` stay: a run that is being written names them.
  std::vector<PendingEntry> advance(Lsn covered, Lsn hold, ReadRegistry& reads,
                                    const ChunkTable& chunks);
  bool empty() const {
    return uncovered_.empty() && arriving_.empty() && reading_entries_ == 0 && haunted_.empty();
  }

 private:
  struct Arriving {
    std::uint64_t epoch = 0;
    std::vector<PendingEntry> entries;
  };
  // An entry waits for its disks one after the other, so that each queue is popped at its front
  // alone and a hung disk costs nothing but the memory of what waits for it.
  struct Reading {
    std::uint64_t epoch = 0;
    std::vector<std::pair<PendingEntry, std::size_t>> entries;  // and which of its disks this is
  };
  void wait_for_disk(PendingEntry entry, std::size_t place, ReadRegistry& reads,
                     const ChunkTable& chunks, std::vector<PendingEntry>& released);

  // About in the order of their LSNs: a neighbour may come a little late, then it waits a little.
  std::deque<PendingEntry> uncovered_;
  std::deque<Arriving> arriving_;
  std::array<std::deque<Reading>, ReadRegistry::kTrackers> reading_;
  std::size_t reading_entries_ = 0;
  std::vector<PendingEntry> haunted_;  // of chunks that have moved (Chunk::ghosts): tried again
};

}  // namespace dynamicfs::extent
