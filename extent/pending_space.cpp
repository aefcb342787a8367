#include "extent/pending_space.hpp"

#include <optional>
#include <utility>

#include "extent/parity_group.hpp"

namespace dynamicfs::extent {

MovedChunk::MovedChunk() = default;
MovedChunk::~MovedChunk() = default;

namespace {

// Moves on as far as the present pins let it: two steps when there are none.
std::uint64_t advance_twice(EpochTracker& tracker) {
  tracker.try_advance();
  return tracker.try_advance();
}

// The disk at `place`, by its tracker; nothing behind the last, or if the chunk is gone.
std::optional<std::size_t> tracker_of(const PendingEntry& entry, std::size_t place,
                                      const ChunkTable& chunks) {
  if (entry.kind == PendingEntry::Kind::kRunSlot) {
    if (place > 0) return std::nullopt;
    return ReadRegistry::index_of(entry.disk);
  }
  if (entry.kind == PendingEntry::Kind::kMovedSlots) {
    if (place >= entry.moved->readers.size()) return std::nullopt;
    return ReadRegistry::index_of(entry.moved->readers[place]);
  }
  const Chunk* const chunk = chunks.find(entry.chunk);
  if (chunk == nullptr) return std::nullopt;
  // Who reconstructs a block reads all columns, and has pinned the disk of its own.
  if (entry.kind == PendingEntry::Kind::kChunkSlots && chunk->group() != nullptr) {
    if (place >= chunk->group()->data_columns()) return std::nullopt;
    return ReadRegistry::index_of(chunk->group()->places[place].disk);
  }
  if (place >= chunk->places.size()) return std::nullopt;
  return ReadRegistry::index_of(chunk->places[place].disk);
}

}  // namespace

void PendingSpace::wait_for_disk(PendingEntry entry, std::size_t place, ReadRegistry& reads,
                                 const ChunkTable& chunks, std::vector<PendingEntry>& released) {
  if (entry.kind == PendingEntry::Kind::kBlocks) {
    // Moved meanwhile: there may be readers at disks that were not waited for.
    const Chunk* const chunk = chunks.find(entry.chunk);
    if (chunk != nullptr && std::exchange(entry.moves, chunk->moves) != chunk->moves) place = 0;
  }
  const std::optional<std::size_t> tracker = tracker_of(entry, place, chunks);
  if (!tracker) {
    // Who looks at a chunk as it was may still turn to another of its places.
    const bool of_chunk =
        entry.kind == PendingEntry::Kind::kBlocks || entry.kind == PendingEntry::Kind::kChunkSlots;
    const Chunk* const chunk = of_chunk ? chunks.find(entry.chunk) : nullptr;
    (chunk != nullptr && chunk->ghosts > 0 ? haunted_ : released).push_back(entry);
    return;
  }
  auto& queue = reading_[*tracker];
  const std::uint64_t epoch = reads.disk(*tracker).current();
  if (queue.empty() || queue.back().epoch != epoch)
    queue.push_back({.epoch = epoch, .entries = {}});
  queue.back().entries.emplace_back(entry, place);
  ++reading_entries_;
}

std::vector<PendingEntry> PendingSpace::advance(Lsn covered, Lsn hold, ReadRegistry& reads,
                                                const ChunkTable& chunks) {
  std::vector<PendingEntry> released;
  if (empty()) return released;

  Arriving fresh;
  std::vector<PendingEntry> held;
  while (!uncovered_.empty() && uncovered_.front().lsn <= covered) {
    const PendingEntry& next = uncovered_.front();
    const bool of_chunk = next.kind == PendingEntry::Kind::kChunkSlots ||
                          next.kind == PendingEntry::Kind::kMovedSlots;
    const bool hold_it = of_chunk && next.lsn > hold;
    (hold_it ? held : fresh.entries).push_back(next);
    uncovered_.pop_front();
  }
  uncovered_.insert(uncovered_.begin(), held.begin(), held.end());
  if (!fresh.entries.empty()) {
    fresh.epoch = reads.arrivals().current();
    arriving_.push_back(std::move(fresh));
  }

  for (const PendingEntry& entry : std::exchange(haunted_, {}))
    wait_for_disk(entry, 0, reads, chunks, released);
  if (!arriving_.empty()) {
    const std::uint64_t safe = advance_twice(reads.arrivals());
    while (!arriving_.empty() && arriving_.front().epoch <= safe) {
      for (const PendingEntry& entry : arriving_.front().entries) {
        wait_for_disk(entry, 0, reads, chunks, released);
      }
      arriving_.pop_front();
    }
  }

  // Each turn takes every entry past one of its disks at most.
  for (bool moved = true; moved && reading_entries_ > 0;) {
    moved = false;
    for (std::size_t i = 0; i < reading_.size(); ++i) {
      auto& queue = reading_[i];
      if (queue.empty()) continue;
      const std::uint64_t safe = advance_twice(reads.disk(i));
      while (!queue.empty() && queue.front().epoch <= safe) {
        const Reading batch = std::move(queue.front());
        queue.pop_front();
        reading_entries_ -= batch.entries.size();
        for (const auto& [entry, place] : batch.entries) {
          wait_for_disk(entry, place + 1, reads, chunks, released);
        }
        moved = true;
      }
    }
  }
  return released;
}

}  // namespace dynamicfs::extent
