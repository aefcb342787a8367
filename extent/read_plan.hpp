// One reading of some blocks of a file: what is fetched from where, what came of it. Shared by the
// read path and the scrub.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "extent/chunk.hpp"
#include "extent/extent_map.hpp"
#include "extent/parity_group.hpp"
#include "extent/pool_view.hpp"
#include "extent/read_registry.hpp"

namespace dynamicfs::extent {

// A read that finds a checksum stale looks again; more often than this it is no race.
inline constexpr unsigned kStaleTries = 3;

// Consecutive blocks of the file that are consecutive in one chunk.
struct Fetch {
  std::uint32_t at = 0;  // index of the first block in `out`
  std::uint32_t count = 0;
  const Chunk* chunk = nullptr;
  std::uint32_t block = 0;      // in the chunk
  std::uint32_t crc_index = 0;  // into MappingSet::crcs
  Generation generation;        // the newest of its extents
  std::size_t place = 0;        // the copy asked now
  std::uint64_t tried = 0;      // a bit per place
  std::uint64_t bad = 0;  // of the tried: the copy is wrong or unreadable and can be rewritten
  std::uint64_t mismatched = 0;  // of the bad: it should have been right
};
static_assert(journal::kDisksMax <= 64, "Fetch::tried has one bit per place");

struct ReadPlan {
  explicit ReadPlan(ReadRegistry& reads) : pins(reads) {}
  ReadPins pins;
  MappingSet set;
  FileBlock first;
  std::span<std::byte> out;
  std::vector<Fetch> fetches;
  std::vector<Fetch> done;     // of parity groups: in `out`, and right. Neighbours may be two
  std::vector<Fetch> dark;     // of parity groups: to be reconstructed
  std::vector<Fetch> repairs;  // read well in the end, with bad copies
  std::vector<FileBlock> lost;
  Error failure;
  bool changed = false;  // look again
  scheduler::IoClass repair_class = scheduler::IoClass::kWrite;
  std::vector<std::uint32_t> crcs;  // scratch
};

inline std::span<std::byte> part(const ReadPlan& plan, const Fetch& fetch) {
  return plan.out.subspan(fetch.at * kBlockBytes, fetch.count * kBlockBytes);
}

// Rows of a column of `group`, if this read has all of them.
inline std::byte* find_read(const ReadPlan& plan, const ParityGroup& group, std::size_t column,
                            std::uint32_t row, std::uint32_t rows) {
  for (const Fetch& fetch : plan.done) {
    if (fetch.chunk->group() == &group && fetch.chunk->column() == column && fetch.block <= row &&
        row + rows <= fetch.block + fetch.count) {
      return part(plan, fetch).data() + (row - fetch.block) * kBlockBytes;
    }
  }
  return nullptr;
}

// One fetch per run of blocks of `plan.set`; zeros in `plan.out`, unless it is empty, where there is
// no data.
Result<void> make_fetches(const ChunkTable& chunks, ReadPlan& plan);

// The disk was away when this was written: what it has instead is no damage, but worth rewriting.
inline bool may_lack(const PoolView::DiskEntry& disk, Generation generation) {
  return disk.stale_since.raw != 0 && generation.raw > disk.stale_since.raw;
}

}  // namespace dynamicfs::extent
