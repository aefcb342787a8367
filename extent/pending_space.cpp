#include "extent/pending_space.hpp"

#include <algorithm>
#include <bitset>
#include <utility>

namespace dynamicfs::extent {
namespace {

// Moves on as far as the present pins let it: two steps when there are none.
std::uint64_t advance_twice(EpochTracker& tracker) {
  tracker.try_advance();
  return tracker.try_advance();
}

template <class F>
void for_each_disk(const PendingEntry& entry, const ChunkTable& chunks, F each) {
  if (entry.kind == PendingEntry::Kind::kRunSlot) {
    each(ReadRegistry::index_of(entry.disk));
    return;
  }
  const Chunk* const chunk = chunks.find(entry.chunk);
  if (chunk == nullptr) return;
  for (const Place& place : chunk->places) each(ReadRegistry::index_of(place.disk));
}

}  // namespace

std::vector<PendingEntry> PendingSpace::advance(Lsn covered, Lsn hold, ReadRegistry& reads,
                                                const ChunkTable& chunks) {
  std::vector<PendingEntry> released;
  if (empty()) return released;

  Arriving fresh;
  std::vector<PendingEntry> held;
  while (!uncovered_.empty() && uncovered_.front().lsn <= covered) {
    const PendingEntry& next = uncovered_.front();
    const bool hold_it = next.kind == PendingEntry::Kind::kChunkSlots && next.lsn > hold;
    (hold_it ? held : fresh.entries).push_back(next);
    uncovered_.pop_front();
  }
  uncovered_.insert(uncovered_.begin(), held.begin(), held.end());
  if (!fresh.entries.empty()) {
    fresh.epoch = reads.arrivals().current();
    arriving_.push_back(std::move(fresh));
  }

  if (!arriving_.empty()) {
    const std::uint64_t safe = advance_twice(reads.arrivals());
    Reading next;
    while (!arriving_.empty() && arriving_.front().epoch <= safe) {
      auto& entries = arriving_.front().entries;
      next.entries.insert(next.entries.end(), entries.begin(), entries.end());
      arriving_.pop_front();
    }
    if (!next.entries.empty()) {
      std::bitset<ReadRegistry::kTrackers> disks;
      for (const PendingEntry& entry : next.entries) {
        for_each_disk(entry, chunks, [&](std::size_t index) { disks.set(index); });
      }
      for (std::size_t i = 0; i < disks.size(); ++i) {
        if (disks.test(i)) next.epochs[i] = reads.disk(i).current();
      }
      reading_.push_back(std::move(next));
    }
  }
  if (reading_.empty()) return released;

  std::bitset<ReadRegistry::kTrackers> waited_for;
  for (const Reading& batch : reading_) {
    for (std::size_t i = 0; i < waited_for.size(); ++i) {
      if (batch.epochs[i] != 0) waited_for.set(i);
    }
  }
  std::array<std::uint64_t, ReadRegistry::kTrackers> safe{};
  for (std::size_t i = 0; i < safe.size(); ++i) {
    if (waited_for.test(i)) safe[i] = advance_twice(reads.disk(i));
  }
  for (Reading& batch : reading_) {
    std::erase_if(batch.entries, [&](const PendingEntry& entry) {
      bool free = true;
      for_each_disk(entry, chunks,
                    [&](std::size_t index) { free &= batch.epochs[index] <= safe[index]; });
      if (free) released.push_back(entry);
      return free;
    });
  }
  std::erase_if(reading_, [](const Reading& batch) { return batch.entries.empty(); });
  return released;
}

}  // namespace dynamicfs::extent
