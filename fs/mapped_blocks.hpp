// What files name of a chunk, and how often: what its live blocks and references should be.
#pragma once

#include <algorithm>

#include "extent/block_bitmap.hpp"
#include "extent/shared_blocks.hpp"

namespace dynamicfs::fs {

struct MappedBlocks {
  extent::BlockBitmap blocks;
  extent::SharedBlocks shared;  // those that are named more than once

  void add(std::uint32_t first, std::uint32_t count) {
    const std::uint32_t end = first + count;
    while (first < end) {
      const bool again = blocks.test(first);
      const std::uint32_t next = std::min(end, again ? extent::next_clear(blocks.words(), first)
                                                     : extent::next_set(blocks.words(), first));
      if (!again) blocks.set(first, next - first);
      // So often no pool can be read.
      if (again && shared.can_add(first, next - first)) shared.add(first, next - first);
      first = next;
    }
  }
};

}  // namespace dynamicfs::fs
