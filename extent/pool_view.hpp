// The disks of a pool as the data path sees them: immutable, taken anew when membership changes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/ids.hpp"
#include "journal/pool.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::extent {

struct PoolView {
  struct DiskEntry {
    scheduler::Disk* disk = nullptr;  // null: away, or never was
    std::uint64_t first_slot_offset = 0;
    std::uint32_t slots = 0;
    Lsn stale_since;       // extents of later generations may lack their copy here; 0: none
    bool leaving = false;  // everything on it goes elsewhere
    bool spare = false;    // ... and nothing is put there
  };
  std::shared_ptr<const std::vector<DiskId>> healthy;  // ascending; its address is the version
  std::vector<DiskEntry> disks;                        // by id, all the pool knows

  const DiskEntry* find(DiskId id) const {
    return id.raw < disks.size() ? &disks[id.raw] : nullptr;
  }
  bool is_healthy(DiskId id) const {
    const DiskEntry* const entry = find(id);
    return entry != nullptr && entry->disk != nullptr;
  }
  static std::uint64_t offset_of(const DiskEntry& disk, SlotId slot, std::uint32_t block) {
    return disk.first_slot_offset + slot.raw * kSlotBytes + block * kBlockBytes;
  }
};

std::shared_ptr<const PoolView> look_at(const journal::Pool& pool);

}  // namespace dynamicfs::extent
