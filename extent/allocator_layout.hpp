// The write points of one policy: shared by the two halves of the allocator.
#pragma once

#include "extent/allocator.hpp"

namespace dynamicfs::extent {

struct Allocator::Layout {
  journal::Policy policy;
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

}  // namespace dynamicfs::extent
