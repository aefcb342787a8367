#include "extent/chunk.hpp"

#include "base/assert.hpp"

namespace dynamicfs::extent {

ChunkTable::ChunkTable() = default;

ChunkTable::~ChunkTable() {
  for (const auto& group : groups_) {
    const std::unique_ptr<Group> owned_group(group.load(std::memory_order_relaxed));
    if (owned_group == nullptr) continue;
    for (const auto& leaf : owned_group->leaves) {
      const std::unique_ptr<Leaf> owned_leaf(leaf.load(std::memory_order_relaxed));
      if (owned_leaf == nullptr) continue;
      for (const auto& slot : owned_leaf->chunks) {
        const std::unique_ptr<Chunk> owned_chunk(slot.load(std::memory_order_relaxed));
      }
    }
  }
}

Chunk* ChunkTable::find(ChunkId id) const {
  const Group* const group =
      groups_[id.raw >> (kLeafBits + kGroupBits)].load(std::memory_order_acquire);
  if (group == nullptr) return nullptr;
  const Leaf* const leaf =
      group->leaves[id.raw >> kLeafBits & ((1u << kGroupBits) - 1)].load(std::memory_order_acquire);
  if (leaf == nullptr) return nullptr;
  return leaf->chunks[id.raw & ((1u << kLeafBits) - 1)].load(std::memory_order_acquire);
}

// Of a chunk that there is.
std::atomic<Chunk*>& ChunkTable::slot_of(ChunkId id) {
  const Group* const group =
      groups_[id.raw >> (kLeafBits + kGroupBits)].load(std::memory_order_relaxed);
  Leaf* const leaf =
      group->leaves[id.raw >> kLeafBits & ((1u << kGroupBits) - 1)].load(std::memory_order_relaxed);
  return leaf->chunks[id.raw & ((1u << kLeafBits) - 1)];
}

Chunk& ChunkTable::add(ChunkId id, journal::Policy layout, std::span<const Place> places) {
  auto& group_slot = groups_[id.raw >> (kLeafBits + kGroupBits)];
  Group* group = group_slot.load(std::memory_order_relaxed);
  if (group == nullptr) {
    group = std::make_unique<Group>().release();
    memory_bytes_ += heap_bytes(sizeof *group);
    group_slot.store(group, std::memory_order_release);
  }
  auto& leaf_slot = group->leaves[id.raw >> kLeafBits & ((1u << kGroupBits) - 1)];
  Leaf* leaf = leaf_slot.load(std::memory_order_relaxed);
  if (leaf == nullptr) {
    leaf = std::make_unique<Leaf>().release();
    memory_bytes_ += heap_bytes(sizeof *leaf);
    leaf_slot.store(leaf, std::memory_order_release);
  }
  auto& slot = leaf->chunks[id.raw & ((1u << kLeafBits) - 1)];
  DFS_ASSERT(slot.load(std::memory_order_relaxed) == nullptr);
  auto chunk = std::make_unique<Chunk>();
  chunk->id = id;
  chunk->layout = layout;
  chunk->places.append(places.data(), places.size());
  Chunk& added = *chunk;
  slot.store(chunk.release(), std::memory_order_release);
  ++size_;
  memory_bytes_ += added.memory_bytes();
  return added;
}

std::unique_ptr<Chunk> ChunkTable::replace(ChunkId id, std::span<const Place> places,
                                           ParityGroup* group) {
  auto& slot = slot_of(id);
  std::unique_ptr<Chunk> old(slot.load(std::memory_order_relaxed));
  DFS_ASSERT(old != nullptr && (group != nullptr || old->list == nullptr));
  memory_bytes_ -= old->memory_bytes();
  // Readers may look at the old one's places, so those stay; its blocks are the new one's.
  auto fresh = std::make_unique<Chunk>(*old);
  old->live = old->unnamed = BlockBitmap{};
  fresh->places = {};
  fresh->places.append(places.data(), places.size());
  ++fresh->moves;
  ++fresh->ghosts;
  if (group != nullptr) fresh->of_group = group;
  memory_bytes_ += fresh->memory_bytes();
  slot.store(fresh.release(), std::memory_order_release);
  return old;
}

void ChunkTable::erase(ChunkId id) {
  const std::unique_ptr<Chunk> owned(find(id));
  DFS_ASSERT(owned != nullptr && owned->list == nullptr);
  slot_of(id).store(nullptr, std::memory_order_release);
  --size_;
  memory_bytes_ -= owned->memory_bytes();
}

}  // namespace dynamicfs::extent
