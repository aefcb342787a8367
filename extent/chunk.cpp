#include "extent/chunk.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.hpp"

namespace dynamicfs::extent {

template <class F>
void BlockBitmap::each_word(std::uint32_t first, std::uint32_t count, F change) {
  DFS_ASSERT(first + count <= kSlotBlocks);
  while (count > 0) {
    const std::uint32_t offset = first % 64;
    const std::uint32_t bits = std::min(count, 64 - offset);
    const std::uint64_t mask = (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1)
                               << offset;
    change(words_[first / 64], mask);
    first += bits;
    count -= bits;
  }
}

void BlockBitmap::set(std::uint32_t first, std::uint32_t count) {
  each_word(first, count, [](std::uint64_t& word, std::uint64_t mask) {
    DFS_ASSERT((word & mask) == 0);
    word |= mask;
  });
}

void BlockBitmap::clear(std::uint32_t first, std::uint32_t count) {
  each_word(first, count, [](std::uint64_t& word, std::uint64_t mask) {
    DFS_ASSERT((word & mask) == mask);
    word &= ~mask;
  });
}

// The first set bit of the words after inverting.
std::uint32_t BlockBitmap::next(std::uint32_t from, std::uint64_t invert) const {
  if (from >= kSlotBlocks) return kSlotBlocks;
  std::size_t index = from / 64;
  std::uint64_t word = (words_[index] ^ invert) & (~std::uint64_t{0} << from % 64);
  while (word == 0) {
    if (++index == words_.size()) return kSlotBlocks;
    word = words_[index] ^ invert;
  }
  return static_cast<std::uint32_t>(index * 64) +
         static_cast<std::uint32_t>(std::countr_zero(word));
}

std::optional<std::uint32_t> BlockBitmap::find_clear_run(std::uint32_t from, std::uint32_t to,
                                                         std::uint32_t count) const {
  while (from + count <= to) {
    const std::uint32_t start = next_clear(from);
    if (start + count > to) return std::nullopt;
    const std::uint32_t end = next_set(start);
    if (end - start >= count) return start;
    from = end;
  }
  return std::nullopt;
}

void ChunkList::push_back(Chunk& chunk) {
  DFS_ASSERT(chunk.list == nullptr);
  chunk.list = this;
  chunk.previous = tail;
  chunk.next = nullptr;
  (tail != nullptr ? tail->next : head) = &chunk;
  tail = &chunk;
}

void ChunkList::push_front(Chunk& chunk) {
  DFS_ASSERT(chunk.list == nullptr);
  chunk.list = this;
  chunk.previous = nullptr;
  chunk.next = head;
  (head != nullptr ? head->previous : tail) = &chunk;
  head = &chunk;
}

void ChunkList::remove(Chunk& chunk) {
  DFS_ASSERT(chunk.list == this);
  (chunk.previous != nullptr ? chunk.previous->next : head) = chunk.next;
  (chunk.next != nullptr ? chunk.next->previous : tail) = chunk.previous;
  chunk.list = nullptr;
  chunk.previous = nullptr;
  chunk.next = nullptr;
}

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

Chunk& ChunkTable::add(ChunkPut change) {
  auto& group_slot = groups_[change.chunk.raw >> (kLeafBits + kGroupBits)];
  Group* group = group_slot.load(std::memory_order_relaxed);
  if (group == nullptr) {
    group = std::make_unique<Group>().release();
    group_slot.store(group, std::memory_order_release);
  }
  auto& leaf_slot = group->leaves[change.chunk.raw >> kLeafBits & ((1u << kGroupBits) - 1)];
  Leaf* leaf = leaf_slot.load(std::memory_order_relaxed);
  if (leaf == nullptr) {
    leaf = std::make_unique<Leaf>().release();
    leaf_slot.store(leaf, std::memory_order_release);
  }
  auto& slot = leaf->chunks[change.chunk.raw & ((1u << kLeafBits) - 1)];
  DFS_ASSERT(slot.load(std::memory_order_relaxed) == nullptr);
  auto chunk = std::make_unique<Chunk>();
  chunk->id = change.chunk;
  chunk->layout = change.layout;
  chunk->places = std::move(change.places);
  Chunk& added = *chunk;
  slot.store(chunk.release(), std::memory_order_release);
  ++size_;
  return added;
}

void ChunkTable::erase(ChunkId id) {
  const std::unique_ptr<Chunk> owned(find(id));
  DFS_ASSERT(owned != nullptr && owned->list == nullptr);
  const Group* const group =
      groups_[id.raw >> (kLeafBits + kGroupBits)].load(std::memory_order_relaxed);
  Leaf* const leaf =
      group->leaves[id.raw >> kLeafBits & ((1u << kGroupBits) - 1)].load(std::memory_order_relaxed);
  leaf->chunks[id.raw & ((1u << kLeafBits) - 1)].store(nullptr, std::memory_order_release);
  --size_;
}

}  // namespace dynamicfs::extent
