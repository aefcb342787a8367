// The part of the allocator for files each of which lies on one disk.
#include <algorithm>

#include "base/assert.hpp"
#include "extent/allocator_layout.hpp"

namespace dynamicfs::extent {
namespace {

// A disk that is leaving gives its whole files to one other as long as that is not fuller than the emptiest by more
// than this part of it: with each change of the disk, files that lie in chunks on both sides of it are cut.
constexpr double kStay = 0.1;

constexpr journal::Policy kWholeFiles{.whole_files = true};

}  // namespace

// Space.

// At home, or else wherever there is room, in the end in chunks of any file and in parts: "no space" is the exact truth.
Allocator::Outcome Allocator::allocate_whole(const Request& request, ChunkLog* log,
                                             std::vector<Piece>& out) {
  DFS_ASSERT(request.home.has_value());
  std::vector<Layout*> layouts;
  if (request.home->raw < disks_.size())
    layouts.push_back(&layout_of(request.policy, *request.home));
  if (request.anywhere) {
    std::vector<std::pair<std::uint64_t, Layout*>> others;
    for (std::size_t i = 0; i < disks_.size(); ++i) {
      const DiskId disk{static_cast<std::uint16_t>(i)};
      if (disk == *request.home || !disks_[i].keeps_writing) continue;
      Layout& layout = layout_of(request.policy, disk);
      others.emplace_back(available_blocks(layout), &layout);
    }
    std::ranges::stable_sort(others, std::greater{}, &std::pair<std::uint64_t, Layout*>::first);
    for (const auto& [room, layout] : others) layouts.push_back(layout);
    layouts.push_back(&layout_of(request.policy.spread()));
  }
  for (Layout* const layout : layouts) {
    const Outcome outcome = allocate_copies(*layout, request, log, out);
    if (outcome != Outcome::kNoSpace) return outcome;
  }
  if (!request.anywhere || request.in_one_piece) return Outcome::kNoSpace;
  return allocate_parts(layouts, request, log, out);
}

// A promise does not say of what kind the file is: in the end what is left in chunks of whole files will do for any of one copy.
Allocator::Outcome Allocator::allocate_single(const Request& request, ChunkLog* log,
                                              std::vector<Piece>& out) {
  std::vector<Layout*> layouts{&layout_of(request.policy)};
  for (const auto& layout : layouts_) {
    if (layout->policy.whole_files) layouts.push_back(layout.get());
  }
  return layouts.size() == 1 ? Outcome::kNoSpace : allocate_parts(layouts, request, log, out);
}

// What a layout has for fresh blocks.
std::uint64_t Allocator::fresh_room(Layout& layout) {
  available_blocks(layout);
  const std::uint64_t kept = kept_blocks(layout);
  const std::uint64_t room =
      layout.free_blocks + std::min(layout.chunks_fit, spare_chunks(layout)) * kSlotBlocks;
  return room > kept ? room - kept : 0;
}

// Each layout has room for less than all of it. Nothing is taken if that is not enough. kNeedsChunk also with a
// log, when a chunk was opened and one is not enough.
Allocator::Outcome Allocator::allocate_parts(std::span<Layout* const> layouts,
                                             const Request& request, ChunkLog* log,
                                             std::vector<Piece>& out) {
  const std::size_t before = out.size();
  Request part = request;
  std::uint32_t left = request.blocks;
  std::uint32_t replaced = std::min(request.replaced_blocks, request.blocks);
  Outcome outcome = Outcome::kNoSpace;
  for (Layout* const layout : layouts) {
    if (left == 0) break;
    // What replaces something may have all there is.
    const std::uint64_t room = available_blocks(*layout);
    const std::uint64_t most = std::min(room, fresh_room(*layout) + replaced);
    part.blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, most));
    if (part.blocks == 0) continue;
    part.replaced_blocks = std::min(replaced, part.blocks);
    const std::uint32_t next_chunk = next_chunk_;
    outcome = allocate_copies(*layout, part, log, out);
    if (outcome == Outcome::kNeedsChunk) break;
    if (next_chunk_ != next_chunk) log = nullptr;  // there is room for one record
    if (outcome != Outcome::kDone) continue;
    left -= part.blocks;
    replaced -= part.replaced_blocks;
  }
  if (left == 0) return Outcome::kDone;
  for (std::size_t i = before; i < out.size(); ++i) {
    Chunk& chunk = *chunks_.find(out[i].chunk);
    give(chunk, out[i].block, out[i].count);
    note_if_empty(chunk);
  }
  out.resize(before);
  return outcome == Outcome::kNeedsChunk ? outcome : Outcome::kNoSpace;
}

std::uint64_t Allocator::room_at_home(DiskId disk) {
  LockGuard lock(mutex_);
  if (disk.raw >= disks_.size() || !disks_[disk.raw].keeps_writing) return 0;
  return fresh_room(layout_of(kWholeFiles, disk));
}

bool Allocator::has_pending_at_home(DiskId disk) {
  LockGuard lock(mutex_);
  if (disk.raw >= disks_.size() || !disks_[disk.raw].keeps_writing) return false;
  return disks_[disk.raw].pending_slots != 0 || layout_of(kWholeFiles, disk).pending_blocks != 0;
}

std::optional<DiskId> Allocator::disk_of(ChunkId id) const {
  LockGuard lock(mutex_);
  const Chunk* const chunk = chunks_.find(id);
  if (chunk == nullptr || chunk->stage == ChunkStage::kRemoved) return std::nullopt;
  return chunk->places[0].disk;
}

// Which disk.

std::optional<DiskId> Allocator::home(std::optional<DiskId> known, std::uint64_t blocks) {
  LockGuard lock(mutex_);
  if (known && known->raw < disks_.size()) {
    if (disks_[known->raw].keeps_writing) return known;
    if (view_->is_healthy(*known) && is_leaving(*known)) {
      if (const std::optional<DiskId> next = successor(*known)) return next;
    }
  }
  std::vector<Candidate> all = candidates(false, true);
  std::erase_if(all, [&](const Candidate& candidate)
                         DFS_NO_THREAD_SAFETY_ANALYSIS { return is_leaving(candidate.disk); });
  std::vector<Candidate> roomy = all;
  std::erase_if(roomy, [&](const Candidate& candidate) {
    return candidate.free_slots * kSlotBlocks < blocks;
  });
  if (std::vector<DiskId> chosen = homes_.choose(roomy, 1); !chosen.empty()) return chosen[0];
  if (std::vector<DiskId> chosen = homes_.choose(all, 1); !chosen.empty()) return chosen[0];
  // No slots, but what is free in chunks.
  std::optional<DiskId> best;
  std::uint64_t most = 0;
  for (std::size_t i = 0; i < disks_.size(); ++i) {
    if (!disks_[i].keeps_writing) continue;
    const DiskId disk{static_cast<std::uint16_t>(i)};
    const std::uint64_t room = available_blocks(layout_of(kWholeFiles, disk));
    if (best && room <= most) continue;
    best = disk;
    most = room;
  }
  if (best || view_->healthy->empty()) return best;
  return view_->healthy->front();
}

std::optional<DiskId> Allocator::successor(DiskId leaving) {
  std::optional<DiskId>& current = disks_[leaving.raw].successor;
  std::optional<DiskId> best;
  double most = 0;
  double most_at_current = -1;
  for (const Candidate& candidate : candidates(false, true)) {
    if (candidate.free_slots == 0 || is_leaving(candidate.disk)) continue;
    const double free = static_cast<double>(candidate.free_slots) / slots_.total(candidate.disk);
    if (current == candidate.disk) most_at_current = free;
    if (best && free <= most) continue;
    best = candidate.disk;
    most = free;
  }
  if (most_at_current < 0 || most_at_current + kStay < most) current = best;
  return current;
}

}  // namespace dynamicfs::extent
