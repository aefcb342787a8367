// The write points of one policy: shared by the two halves of the allocator.
#pragma once

#include "extent/allocator.hpp"
#include "extent/parity_group.hpp"

namespace dynamicfs::extent {

// As a record has it; of a column that of its group.
ChunkPut put_of(const Chunk& chunk);

struct Allocator::Layout {
  journal::Policy policy;
  DiskId disk;  // of whole files: the one on which all of its chunks lie
  Placement placement;
  std::vector<Lane> lanes;
  std::size_t next_large = 0;
  // Sealed chunks with room: what large writes left at the end of theirs, and what frees have
  // opened.
  ChunkList leftovers;
  ChunkList partial;
  // Those that a compaction empties, and have room: filled only when nothing else has.
  ChunkList draining;
  std::uint64_t free_blocks = 0;     // in chunks that may be filled, open ones included
  std::uint64_t pending_blocks = 0;  // likewise
  std::uint64_t overwrite_reserve_blocks = 0;
  // How many more chunks can be opened, as of slots_version_.
  std::uint64_t chunks_fit = 0;
  std::uint64_t chunks_fit_version = 0;

  // Where a sealed chunk with room belongs.
  ChunkList& list_of(const Chunk& chunk) { return chunk.draining ? draining : partial; }

  // Neighbouring windows of a file follow each other around the lanes.
  static std::size_t lane_of(InodeId inode, FileBlock first) {
    return inode.raw * 0x9e3779b97f4a7c15 % 65537 + first.raw / kWindowBlocks;
  }
};

// The parity groups of one policy.
struct Allocator::Groups {
  explicit Groups(journal::Policy of) : policy(of), codec(of) {}
  journal::Policy policy;
  ErasureCodec codec;
  Placement placement;
  // By disk: its part of the parity of the groups that it is in, less what it has been given of it; in columns, times the
  // width.
  std::vector<std::int64_t> parity_due;
  std::vector<ParityGroup*> lanes;  // write points; null: none yet
  std::size_t next_lane = 0;
  NodeList<ParityGroup> partial;   // sealed, with free rows
  NodeList<ParityGroup> draining;  // likewise, and a compaction empties them
  std::uint64_t free_rows = 0;     // in groups that may be filled
  std::uint64_t fit = 0;           // how many more can be opened, as of slots_version_
  std::uint64_t fit_version = 0;

  NodeList<ParityGroup>& list_of(const ParityGroup& group) {
    return group.draining ? draining : partial;
  }
};

}  // namespace dynamicfs::extent
