#include "extent/slot_map.hpp"

#include <algorithm>
#include <bit>

#include "base/assert.hpp"
#include "base/heap_bytes.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::uint64_t bit(SlotId slot) { return std::uint64_t{1} << slot.raw % 64; }

}  // namespace

void SlotMap::add_disk(DiskId disk, std::uint32_t slots) {
  if (disk.raw >= disks_.size()) disks_.resize(disk.raw + std::size_t{1});
  DiskSlots& entry = disks_[disk.raw];
  if (entry.total >= slots) return;
  entry.taken.resize(ceil_div(slots, 64));
  entry.lowest_word = std::min<std::size_t>(entry.lowest_word, entry.total / 64);
  entry.free += slots - entry.total;
  entry.total = slots;
}

bool SlotMap::take(DiskId disk, SlotId slot) {
  if (disk.raw >= disks_.size()) return false;
  DiskSlots& entry = disks_[disk.raw];
  if (slot.raw >= entry.total) return false;
  std::uint64_t& word = entry.taken[slot.raw / 64];
  if ((word & bit(slot)) != 0) return false;
  word |= bit(slot);
  --entry.free;
  return true;
}

std::optional<SlotId> SlotMap::take_lowest(DiskId disk) {
  if (disk.raw >= disks_.size() || disks_[disk.raw].free == 0) return std::nullopt;
  DiskSlots& entry = disks_[disk.raw];
  while (entry.taken[entry.lowest_word] == ~std::uint64_t{0}) ++entry.lowest_word;
  const auto in_word = static_cast<std::uint32_t>(std::countr_one(entry.taken[entry.lowest_word]));
  const SlotId slot{static_cast<std::uint32_t>(entry.lowest_word * 64 + in_word)};
  DFS_ASSERT(take(disk, slot));
  return slot;
}

void SlotMap::give_back(DiskId disk, SlotId slot) {
  DFS_ASSERT(is_taken(disk, slot));
  DiskSlots& entry = disks_[disk.raw];
  entry.taken[slot.raw / 64] &= ~bit(slot);
  ++entry.free;
  entry.lowest_word = std::min<std::size_t>(entry.lowest_word, slot.raw / 64);
}

std::uint32_t SlotMap::total(DiskId disk) const {
  const DiskSlots* const entry = find(disk);
  return entry != nullptr ? entry->total : 0;
}

std::uint32_t SlotMap::free(DiskId disk) const {
  const DiskSlots* const entry = find(disk);
  return entry != nullptr ? entry->free : 0;
}

bool SlotMap::is_taken(DiskId disk, SlotId slot) const {
  const DiskSlots* const entry = find(disk);
  return entry != nullptr && slot.raw < entry->total &&
         (entry->taken[slot.raw / 64] & bit(slot)) != 0;
}

std::uint64_t SlotMap::memory_bytes() const {
  std::uint64_t bytes = heap_bytes(disks_.capacity() * sizeof(DiskSlots));
  for (const DiskSlots& disk : disks_) {
    bytes += heap_bytes(disk.taken.capacity() * sizeof(std::uint64_t));
  }
  return bytes;
}

}  // namespace dynamicfs::extent
