// Whether the data that the last records of the log name has reached the disks.
#include <algorithm>
#include <map>

#include "base/buffer.hpp"
#include "base/crc32c.hpp"
#include "base/mutant.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"
#include "extent/write_path.hpp"

namespace dynamicfs::extent {
namespace {

// Read at once, copies counted.
constexpr std::size_t kStepBlocks = 8 * kMiB / kBlockBytes;

// A run of blocks that a record names, and where its copies should be.
struct ClaimPart {
  const Claims::Claim* claim = nullptr;
  std::span<const Place> places;
  std::uint32_t block = 0;
  std::span<const std::uint32_t> crcs;  // one per block
};

struct Copy {
  const ClaimPart* part = nullptr;
  const Place* place = nullptr;
  std::span<std::byte> bytes;
  bool good = false;
};

std::vector<ClaimPart> list_parts(const ChunkTable& chunks, const Claims& claims) {
  std::map<std::uint32_t, std::span<const Place>> new_places;
  for (const ChunkPut& chunk : claims.chunks) new_places[chunk.chunk.raw] = chunk.places;
  std::vector<ClaimPart> parts;
  for (const Claims::Claim& claim : claims.claims) {
    std::span<const std::uint32_t> crcs{claim.put.crcs};
    for (const Piece& piece : claim.put.pieces) {
      // What contradicts itself is for replay() and note_live() to refuse.
      if (piece.count > crcs.size() || piece.block + piece.count > kSlotBlocks) break;
      ClaimPart part;
      part.claim = &claim;
      part.block = piece.block;
      part.crcs = crcs.first(piece.count);
      crcs = crcs.subspan(piece.count);
      const auto it = new_places.find(piece.chunk.raw);
      const Chunk* const known = chunks.find(piece.chunk);
      if (it != new_places.end()) {
        part.places = it->second;
      } else if (known != nullptr) {
        part.places = known->places;
      }
      parts.push_back(part);
    }
  }
  return parts;
}

bool matches(std::span<const std::byte> bytes, std::span<const std::uint32_t> crcs) {
  std::vector<std::uint32_t> found(crcs.size());
  crc32c_blocks(bytes, found);
  return std::ranges::equal(found, crcs);
}

// The record counts from now on, so its data must be on every disk that should have it.
Task<void> complete_copies(journal::Pool& pool, std::shared_ptr<const PoolView> disks,
                           std::span<const Copy> copies) {
  scheduler::IoGroup group;
  std::vector<DiskId> ids;
  for (const Copy& copy : copies) {
    const auto is_whole = [&copy](const Copy& other) {
      return other.part == copy.part && other.good;
    };
    const auto source = std::ranges::find_if(copies, is_whole);
    if (copy.good || source == copies.end()) continue;
    const PoolView::DiskEntry& entry = *disks->find(copy.place->disk);
    group.write(*entry.disk, scheduler::IoClass::kCritical,
                PoolView::offset_of(entry, copy.place->slot, copy.part->block), source->bytes);
    ids.push_back(copy.place->disk);
  }
  co_await group.run();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (group.error(i).code == Code::kOk || is_host_full(group.error(i))) continue;
    const auto reported = co_await pool.report_failure(ids[i], group.error(i), &group.disk(i));
    reported.ignore("the other copies decide");
  }
}

}  // namespace

Result<void> Claims::take(std::size_t record, Lsn lsn, std::uint8_t type,
                          std::span<const std::byte> body) {
  switch (static_cast<ChangeType>(type)) {
    case ChangeType::kChunkPut: chunks.push_back(TRY(decode_chunk_put(body))); return {};
    case ChangeType::kExtentPut:
      claims.push_back({record, Generation{lsn.raw}, TRY(decode_extent_put(body))});
      return {};
    // A share among them: what it names an earlier record has put, which is looked at if it is in this
    // batch, and whose data was flushed before this batch was begun if it is not.
    default: return {};
  }
}

Task<std::optional<std::size_t>> Store::Impl::first_missing(Claims claims) {
  const std::vector<ClaimPart> parts = list_parts(chunks, claims);
  const std::shared_ptr<const PoolView> disks = look();
  // A disk that was away before and is back, but has not been given what it missed: since the epoch began in which it
  // takes part again it was written to as all others were.
  const journal::Superblock superblock = pool.superblock();
  const auto was_written = [&superblock](DiskId disk, Generation generation) {
    const journal::DiskRecord* const record = superblock.find(disk);
    return record != nullptr && record->state == journal::DiskState::kActive &&
           generation.raw > superblock.epoch().after.raw;
  };

  Buffer buffer{kStepBlocks * kBlockBytes};
  scheduler::IoGroup group;
  std::vector<Copy> copies;
  for (std::size_t next = 0; next < parts.size();) {
    group.clear();
    copies.clear();
    std::size_t used = 0;
    const std::size_t first = next;
    for (; next < parts.size(); ++next) {
      const ClaimPart& part = parts[next];
      const std::size_t bytes = part.crcs.size() * kBlockBytes;
      if (next != first && used + bytes * part.places.size() > buffer.size()) break;
      for (const Place& place : part.places) {
        const PoolView::DiskEntry* const entry = disks->find(place.disk);
        // Of more copies than fit any will do.
        if (entry == nullptr || entry->disk == nullptr || used + bytes > buffer.size()) continue;
        const Generation generation = part.claim->generation;
        if (may_lack(*entry, generation) && !was_written(place.disk, generation)) continue;
        copies.push_back({&part, &place, buffer.span().subspan(used, bytes)});
        group.read(*entry->disk, scheduler::IoClass::kCritical,
                   PoolView::offset_of(*entry, place.slot, part.block), copies.back().bytes);
        used += bytes;
      }
    }
    co_await group.run();

    // A part is missing if a copy says so and none says otherwise: one that cannot be read, or is
    // away, says nothing.
    const ClaimPart* missing = nullptr;
    for (std::size_t i = 0; i < copies.size();) {
      const ClaimPart* const part = copies[i].part;
      bool good = false;
      bool bad = false;
      for (; i < copies.size() && copies[i].part == part; ++i) {
        if (group.error(i).code != Code::kOk) continue;
        copies[i].good = matches(copies[i].bytes, part->crcs);
        (copies[i].good ? good : bad) = true;
      }
      if (bad && !good && missing == nullptr) missing = part;
    }
    if (missing != nullptr) {
      const std::size_t record = missing->claim->record;
      std::erase_if(copies, [&](const Copy& copy) { return copy.part->claim->record >= record; });
      if (!pool.read_only() && !mutated(Mutant::kSkipCopies))
        co_await complete_copies(pool, disks, copies);
      co_return record;
    }
    if (!pool.read_only() && !mutated(Mutant::kSkipCopies))
      co_await complete_copies(pool, disks, copies);
  }
  co_return std::nullopt;
}

}  // namespace dynamicfs::extent
