// Which slots of which disks are taken. The lowest free slot is taken first, so that volume files
// grow from the front and a shrunk pool leaves their ends unused.
//
// Threads  None of its own; the allocator's mutex.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.hpp"

namespace dynamicfs::extent {

class SlotMap {
 public:
  // Disks may be added, never taken away; a known disk keeps its slots.
  void add_disk(DiskId disk, std::uint32_t slots);
  // False if it is taken already or does not exist.
  bool take(DiskId disk, SlotId slot);
  std::optional<SlotId> take_lowest(DiskId disk);
  void give_back(DiskId disk, SlotId slot);

  std::uint32_t total(DiskId disk) const;
  std::uint32_t free(DiskId disk) const;
  bool is_taken(DiskId disk, SlotId slot) const;
  // What it takes beside itself.
  std::uint64_t memory_bytes() const;

 private:
  struct DiskSlots {
    std::uint32_t total = 0;
    std::uint32_t free = 0;
    std::size_t lowest_word = 0;  // no word before it has a free slot
    std::vector<std::uint64_t> taken;
  };
  const DiskSlots* find(DiskId disk) const {
    return disk.raw < disks_.size() ? &disks_[disk.raw] : nullptr;
  }
  std::vector<DiskSlots> disks_;  // by id
};

}  // namespace dynamicfs::extent
