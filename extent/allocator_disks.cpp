// The other half of the allocator: recovery, membership, runs and reports.
#include <algorithm>
#include <bit>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "base/mutant.hpp"
#include "extent/allocator_layout.hpp"

namespace dynamicfs::extent {
namespace {

// Kept on every disk for metadata runs: 1.5 % of it, at least two slots, and at least room to write
// the largest thing that may have to be written, a merge of all runs. Together with the blocks kept for overwriting about
// 2 %, a guess between ext4's 5 % and what tests of full pools turned out to need.
constexpr std::uint64_t kRunReserveDivisor = 67;
constexpr std::uint32_t kRunReserveSlotsMin = 2;
// Kept of what a policy can hold, for writes that replace blocks: 0.5 %, at least two windows.
constexpr std::uint64_t kOverwriteReserveDivisor = 200;
constexpr std::uint64_t kOverwriteReserveBlocksMin = 2 * kWindowBlocks;

}  // namespace

ChunkPut put_of(const Chunk& chunk) {
  if (const ParityGroup* const group = chunk.group()) {
    return {.chunk = group->first,
            .layout = group->policy,
            .places = {group->places.begin(), group->places.end()}};
  }
  return {.chunk = chunk.id,
          .layout = chunk.layout,
          .places = {chunk.places.begin(), chunk.places.end()}};
}

Allocator::Layout& Allocator::layout_of(journal::Policy policy, DiskId disk) {
  policy = policy.of_copies();
  for (const auto& layout : layouts_) {
    if (layout->policy == policy && (!policy.whole_files || layout->disk == disk)) return *layout;
  }
  auto fresh = std::make_unique<Layout>();
  fresh->policy = policy;
  fresh->disk = disk;
  if (started_) fresh->lanes.resize(lanes_of(*fresh));
  fresh->overwrite_reserve_blocks = overwrite_reserve(*fresh);
  layouts_.push_back(std::move(fresh));
  return *layouts_.back();
}

Allocator::Layout& Allocator::layout_of(const Chunk& chunk) {
  return layout_of(chunk.layout, chunk.places[0].disk);
}

std::size_t Allocator::lanes_of(const Layout& layout) const {
  return layout.policy.whole_files ? 1 : view_->healthy->size();
}

// Whether chunks of the layout may be made and filled there.
bool Allocator::is_on(const Layout& layout, DiskId disk) const {
  const DiskSpace& space = disks_[disk.raw];
  return layout.policy.whole_files ? layout.disk == disk && space.keeps_writing : space.writable;
}

// How many places a new chunk gets: as the policy says, or one on each disk that is left.
std::size_t Allocator::width_of(journal::Policy policy) const {
  std::size_t open = 0;
  if (view_->healthy != nullptr) {
    for (const DiskId disk : *view_->healthy) open += disks_[disk.raw].closed ? 0 : 1;
  }
  return std::min<std::size_t>(policy.of_copies().copies_or_data, open);
}

std::uint32_t Allocator::reserved_slots(DiskId disk) const {
  const DiskSpace& space = disks_[disk.raw];
  const std::uint32_t wanted =
      std::max({kRunReserveSlotsMin,
                static_cast<std::uint32_t>(ceil_div(slots_.total(disk), kRunReserveDivisor)),
                // Beside that merge a checkpoint, of half a log: 1/128 of the volume.
                static_cast<std::uint32_t>(space.run_slots.size()) + 2 + slots_.total(disk) / 128});
  // What runs being written have taken was taken from the reserve.
  const auto taken = static_cast<std::uint32_t>(space.new_run_slots.size());
  return wanted > taken ? wanted - taken : 0;
}

// The disks that can take new chunks, with what they have for them. `with_pending`: as if
// everything pending were free; `with_reserve`: without what is kept for runs.
std::vector<Candidate> Allocator::candidates(bool with_pending, bool with_reserve,
                                             const Layout* layout) const {
  std::vector<Candidate> out;
  for (std::size_t id = 0; id < disks_.size(); ++id) {
    const DiskSpace& space = disks_[id];
    const DiskId disk{static_cast<std::uint16_t>(id)};
    if (layout != nullptr ? !is_on(*layout, disk) : !space.writable) continue;
    const std::uint32_t free = slots_.free(disk) + (with_pending ? space.pending_slots : 0);
    const std::uint32_t kept = with_reserve ? reserved_slots(disk) : 0;
    out.push_back({.disk = disk, .free_slots = free > kept ? free - kept : 0});
  }
  return out;
}

// The disks of a layout, as if they were empty.
std::vector<Candidate> Allocator::whole_disks(const Layout& layout) const {
  std::vector<Candidate> all;
  for (std::size_t id = 0; id < disks_.size(); ++id) {
    const DiskId disk{static_cast<std::uint16_t>(id)};
    if (is_on(layout, disk)) all.push_back({.disk = disk, .free_slots = slots_.total(disk)});
  }
  return all;
}

std::uint64_t Allocator::overwrite_reserve(const Layout& layout) const {
  const std::uint64_t blocks =
      chunks_that_fit(whole_disks(layout), width_of(layout.policy)) * kSlotBlocks;
  return std::max(kOverwriteReserveBlocksMin, blocks / kOverwriteReserveDivisor);
}

void Allocator::slots_changed() { ++slots_version_; }

// Recovery.

void Allocator::tolerate_conflicts() {
  LockGuard lock(mutex_);
  salvage_ = true;
}

bool Allocator::claim(const Place& place) {
  return slots_.take(place.disk, place.slot) ||
         (salvage_ && slots_.is_taken(place.disk, place.slot));
}

// A chunk that is not known yet takes its slots; of a group all columns, and the first is returned.
Result<Chunk*> Allocator::add(const ChunkPut& change) {
  for (std::uint32_t i = 0; i < change.columns(); ++i) {
    if (chunks_.find(ChunkId{change.chunk.raw + i}) != nullptr)
      return error(Code::kFormatInvalid, change.chunk.raw);
  }
  next_chunk_ = std::max(next_chunk_, change.chunk.raw + 1);
  for (const Place& place : change.places) {
    if (!claim(place)) return error(Code::kFormatInvalid, change.chunk.raw);
  }
  if (change.layout.kind == journal::Policy::Kind::kErasure)
    return add_group(change).columns.front();
  return &chunks_.add(change.chunk, change.layout, change.places);
}

Result<void> Allocator::load(ChunkId id, const ChunkState& state) {
  LockGuard lock(mutex_);
  if (id < state.put.chunk || id.raw >= state.put.chunk.raw + state.put.columns())
    return error(Code::kFormatInvalid, id.raw);
  // Of a group the first column brings all: runs are in the order of ids.
  Chunk* known = chunks_.find(id);
  if (known == nullptr) {
    if (id != state.put.chunk) return error(Code::kFormatInvalid, id.raw);
    known = TRY(add(state.put));
  } else if (known->group() == nullptr || put_of(*known) != state.put || known->live_count != 0) {
    return error(Code::kFormatInvalid, id.raw);
  }
  Chunk& chunk = *known;
  const ChunkTable::Resizing resizing(chunks_, chunk);
  chunk.live = state.live;
  chunk.live_count = static_cast<std::uint16_t>(state.live.count());
  live_blocks_ += chunk.live_count;
  if (chunk.group() != nullptr) striped_blocks_ += chunk.live_count;
  if (!state.shared.empty()) {
    shared_.emplace(id.raw, state.shared);
    shared_blocks_ += state.shared.blocks();
    saved_blocks_ += state.shared.saved();
  }
  return {};
}

bool Allocator::knows(ChunkId id) const {
  LockGuard lock(mutex_);
  return chunks_.find(id) != nullptr;
}

void Allocator::load_next_chunk(std::uint32_t id) {
  LockGuard lock(mutex_);
  next_chunk_ = std::max(next_chunk_, id);
}

void Allocator::keep_run(std::span<const journal::RunCopy> copies) {
  LockGuard lock(mutex_);
  for (const journal::RunCopy& copy : copies) {
    for (const SlotId slot : copy.slots) {
      if (!slots_.take(copy.disk, slot)) {
        log_error("slot {} of disk {} belongs to a metadata run and to something else", slot,
                  copy.disk);
        continue;
      }
      disks_[copy.disk.raw].run_slots.insert(slot);
    }
  }
  slots_changed();
}

Result<void> Allocator::replay(const ChunkPut& change) {
  LockGuard lock(mutex_);
  if (const Chunk* const known = chunks_.find(change.chunk)) {
    const ChunkPut before = put_of(*known);
    if (before == change) return {};
    // It has moved.
    if (before.chunk != change.chunk || before.layout != change.layout ||
        before.places.size() > change.places.size()) {
      return error(Code::kFormatInvalid, change.chunk.raw);
    }
    for (const Place& place : change.places) {
      const bool had = std::ranges::find(before.places, place) != before.places.end();
      if (!had && !claim(place)) return error(Code::kFormatInvalid, change.chunk.raw);
    }
    const MovedChunk* const moved = put_places(change.chunk, change.places);
    for (const Place& place : moved->left) {
      if (!salvage_) slots_.give_back(place.disk, place.slot);
    }
    for (const auto& old : moved->chunks) chunks_.find(old->id)->ghosts = 0;
    moved_.erase(moved);
    return {};
  }
  Chunk& added = *TRY(add(change));
  touch(added);
  if (added.group() == nullptr) return {};
  for (Chunk* const column : added.group()->columns) touch(*column);
  return {};
}

Result<void> Allocator::replay(const ChunkRemove& change) {
  LockGuard lock(mutex_);
  next_chunk_ = std::max(next_chunk_, change.chunk.raw + 1);
  if (salvage_)
    return {};  // what leads there has the wrong checksum, or has been there all the time
  Chunk* const chunk = chunks_.find(change.chunk);
  if (chunk == nullptr || chunk->live_count != 0) {
    return error(Code::kFormatInvalid, change.chunk.raw);
  }
  if (ParityGroup* const group = chunk->group()) {
    const bool in_use = std::ranges::any_of(
        group->columns, [](const Chunk* column) { return column->live_count != 0; });
    if (group->first != change.chunk || in_use)
      return error(Code::kFormatInvalid, change.chunk.raw);
    for (Chunk* const column : group->columns) {
      touch(*column);
      chunks_.erase(column->id);
    }
    for (const Place& place : group->places) slots_.give_back(place.disk, place.slot);
    parity_groups_.erase(change.chunk.raw);
    return {};
  }
  touch(*chunk);
  for (const Place& place : chunk->places) slots_.give_back(place.disk, place.slot);
  chunks_.erase(change.chunk);
  return {};
}

Result<void> Allocator::note_live(std::span<const Piece> pieces) {
  LockGuard lock(mutex_);
  for (const Piece& piece : pieces) {
    if (!set_live(piece)) return error(Code::kFormatInvalid, piece.chunk.raw);
  }
  return {};
}

Result<void> Allocator::note_dead(std::span<const Piece> pieces) {
  LockGuard lock(mutex_);
  DeadPieces dead;
  for (const Piece& piece : pieces) {
    const auto at = shared_.find(piece.chunk.raw);
    if (mutated(Mutant::kKeepShared) && at != shared_.end() &&
        at->second.any(piece.block, piece.count)) {
      continue;
    }
    if (!clear_live(piece, &dead)) return error(Code::kFormatInvalid, piece.chunk.raw);
  }
  return {};
}

Result<void> Allocator::note_shared(std::span<const Piece> pieces) {
  LockGuard lock(mutex_);
  for (const Piece& piece : pieces) {
    if (!can_share(piece)) return error(Code::kFormatInvalid, piece.chunk.raw);
    add_reference(piece);
  }
  return {};
}

void Allocator::recount(ChunkId id, const BlockBitmap& live, const SharedBlocks& shared) {
  LockGuard lock(mutex_);
  DFS_ASSERT(!started_);
  Chunk& chunk = *chunks_.find(id);
  touch(chunk);
  const ChunkTable::Resizing resizing(chunks_, chunk);
  const std::uint64_t before = chunk.live_count;
  chunk.live = live;
  chunk.live_count = static_cast<std::uint16_t>(live.count());
  live_blocks_ += chunk.live_count - before;
  if (chunk.group() != nullptr) striped_blocks_ += chunk.live_count - before;
  SharedBlocks& references = shared_[id.raw];
  shared_blocks_ += shared.blocks() - references.blocks();
  saved_blocks_ += shared.saved() - references.saved();
  references = shared;
  if (shared.empty()) shared_.erase(id.raw);
}

void Allocator::start() {
  std::shared_ptr<const PoolView> view;
  std::vector<DiskId> left_alone;
  std::vector<DiskId> closed;
  std::vector<DiskId> slow;
  {
    LockGuard lock(mutex_);
    started_ = true;
    chunks_.for_each([](Chunk& chunk) {
      DFS_ASSERT(chunk.unnamed == BlockBitmap{});
      chunk.used_blocks = chunk.live_count;
      // What was used before the mount is not known: taking a block counts as reuse.
      chunk.high_water = kSlotBlocks;
      chunk.cursor = 0;
    });
    for (const auto& [first, group] : parity_groups_) {
      const BlockWords used = group->used();
      group->used_rows = 0;
      for (const std::uint64_t word : used)
        group->used_rows = static_cast<std::uint16_t>(group->used_rows + std::popcount(word));
    }
    view = view_;
    for (std::size_t i = 0; i < disks_.size(); ++i) {
      const DiskId disk{static_cast<std::uint16_t>(i)};
      if (disks_[i].closed) closed.push_back(disk);
      if (view_->is_healthy(disk) && !disks_[i].writable) left_alone.push_back(disk);
      if (disks_[i].keeps_writing && !disks_[i].writable) slow.push_back(disk);
    }
  }
  set_disks(view, left_alone, closed, slow);
  LockGuard lock(mutex_);
  chunks_.for_each([&](Chunk& chunk) DFS_NO_THREAD_SAFETY_ANALYSIS { note_if_empty(chunk); });
}

// Membership.

// Derives what depends on the disks: whether the chunk may be filled, and in which list it is.
void Allocator::judge(Chunk& chunk) {
  DFS_ASSERT(chunk.group() == nullptr);
  Layout& layout = layout_of(chunk);
  if (chunk.fillable) {
    layout.free_blocks -= chunk.free_blocks();
    layout.pending_blocks -= chunk.pending_blocks;
  }
  if (chunk.degraded) --degraded_chunks_;
  misplaced_slots_ -= chunk.to_move;
  if (chunk.list != nullptr) chunk.list->remove(chunk);
  std::size_t readable = 0;
  bool writable = true;
  for (const Place& place : chunk.places) {
    readable += view_->is_healthy(place.disk) ? 1 : 0;
    writable &= is_on(layout, place.disk);
  }
  chunk.degraded = readable < chunk.layout.copies_or_data;
  const std::size_t has = chunk.places.size();
  chunk.fillable = writable && !chunk.moving && has >= width_of(chunk.layout);
  const std::size_t lacks =
      chunk.layout.copies_or_data > has ? chunk.layout.copies_or_data - has : 0;
  // There is nothing to make another place of while none is here.
  const std::size_t to_move = leaving({chunk.places.data(), chunk.places.size()}) + lacks;
  chunk.to_move = static_cast<std::uint8_t>(readable == 0 ? 0 : to_move);
  misplaced_slots_ += chunk.to_move;
  if (chunk.degraded) ++degraded_chunks_;
  if (chunk.fillable) {
    layout.free_blocks += chunk.free_blocks();
    layout.pending_blocks += chunk.pending_blocks;
    if (chunk.stage == ChunkStage::kSealed && chunk.free_blocks() > 0)
      layout.list_of(chunk).push_back(chunk);
  }
}

void Allocator::set_disks(std::shared_ptr<const PoolView> view, std::vector<DiskId> left_alone,
                          std::vector<DiskId> closed, std::vector<DiskId> slow) {
  LockGuard lock(mutex_);
  view_ = std::move(view);
  if (view_->disks.size() > disks_.size()) disks_.resize(view_->disks.size());
  // Also those that have left the pool.
  for (std::size_t i = 0; i < disks_.size(); ++i) {
    const DiskId disk{static_cast<std::uint16_t>(i)};
    if (i < view_->disks.size()) slots_.add_disk(disk, view_->disks[i].slots);
    disks_[i].closed = std::ranges::find(closed, disk) != closed.end();
    const bool open = view_->is_healthy(disk) && !disks_[i].closed;
    disks_[i].writable = open && std::ranges::find(left_alone, disk) == left_alone.end();
    const bool only_slow = std::ranges::find(slow, disk) != slow.end();
    disks_[i].keeps_writing = open && (disks_[i].writable || only_slow) && !is_leaving(disk);
  }
  slots_changed();
  if (!started_) return;
  const std::size_t lanes = view_->healthy->size();
  for (const auto& layout : layouts_) {
    layout->overwrite_reserve_blocks = overwrite_reserve(*layout);
  }
  chunks_.for_each([&](Chunk& chunk) DFS_NO_THREAD_SAFETY_ANALYSIS {
    if (chunk.stage != ChunkStage::kRemoved && chunk.group() == nullptr) judge(chunk);
  });
  for (const auto& [first, group] : parity_groups_) {
    if (!group->removed) judge(*group);
  }
  for (const auto& layout : layouts_) {
    const std::size_t count = lanes_of(*layout);
    for (std::size_t i = 0; i < layout->lanes.size(); ++i) {
      for (Chunk** const chunk : {&layout->lanes[i].large, &layout->lanes[i].small}) {
        if (*chunk != nullptr && (!(*chunk)->fillable || i >= count)) seal(*layout, *chunk, false);
      }
    }
    layout->lanes.resize(count);
  }
  for (const auto& groups : groups_) {
    for (std::size_t i = 0; i < groups->lanes.size(); ++i) {
      ParityGroup*& lane = groups->lanes[i];
      if (lane != nullptr && (!lane->fillable || i >= lanes)) seal(*groups, lane);
    }
    groups->lanes.resize(lanes);
  }
}

bool Allocator::has_elsewhere(DiskId disk) const {
  LockGuard lock(mutex_);
  bool elsewhere = true;
  chunks_.for_each([&](const Chunk& chunk) DFS_NO_THREAD_SAFETY_ANALYSIS {
    if (!elsewhere || chunk.used_blocks == 0 || chunk.stage == ChunkStage::kRemoved) return;
    bool here = false;
    std::size_t others = 0;
    const auto look = [&](const auto& places) DFS_NO_THREAD_SAFETY_ANALYSIS {
      for (const Place& place : places) {
        here |= place.disk == disk;
        others += place.disk != disk && view_->is_healthy(place.disk) &&
                          view_->find(place.disk)->stale_since.raw == 0
                      ? 1
                      : 0;
      }
    };
    if (chunk.group() != nullptr) {
      look(chunk.group()->places);
    } else {
      look(chunk.places);
    }
    elsewhere = !here || others >= (chunk.group() != nullptr ? chunk.group()->data_columns() : 1);
  });
  return elsewhere;
}

// Runs.

std::vector<ChunkChange> Allocator::chunk_changes() {
  LockGuard lock(mutex_);
  std::erase_if(dirty_, [&](const auto& entry) { return eras_.is_clean(entry.second); });
  // Of each chunk the latest era alone, so that checkpoints that fail do not make the list longer.
  std::ranges::sort(dirty_, [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  });
  const auto rest =
      std::ranges::unique(dirty_, [](const auto& a, const auto& b) { return a.first == b.first; });
  dirty_.erase(rest.begin(), rest.end());
  std::vector<ChunkChange> changes;
  changes.reserve(dirty_.size());
  for (const auto& [id, era] : dirty_) {
    ChunkChange& change = changes.emplace_back(ChunkChange{.chunk = id, .state = {}});
    const Chunk* const chunk = chunks_.find(id);
    if (chunk == nullptr || chunk->stage == ChunkStage::kRemoved) continue;
    change.state = ChunkState{.put = put_of(*chunk), .live = chunk->live, .shared = {}};
    const auto at = shared_.find(id.raw);
    if (at != shared_.end() && !mutated(Mutant::kForgetShared)) change.state->shared = at->second;
  }
  return changes;
}

std::uint32_t Allocator::next_chunk() const {
  LockGuard lock(mutex_);
  return next_chunk_;
}

std::optional<SlotId> Allocator::take_run_slot(DiskId disk) {
  LockGuard lock(mutex_);
  const std::optional<SlotId> slot = slots_.take_lowest(disk);
  if (slot) {
    disks_[disk.raw].new_run_slots.insert(*slot);
    slots_changed();
  }
  return slot;
}

void Allocator::drop_run_slots(DiskId disk, std::span<const SlotId> slots) {
  LockGuard lock(mutex_);
  for (const SlotId slot : slots) {
    DFS_ASSERT(disks_[disk.raw].new_run_slots.erase(slot) == 1);
    slots_.give_back(disk, slot);
  }
  slots_changed();
}

void Allocator::hold_chunk_slots(Lsn lsn) {
  LockGuard lock(mutex_);
  hold_ = lsn;
}

void Allocator::adopt_run(std::span<const journal::RunCopy> copies) {
  LockGuard lock(mutex_);
  for (const journal::RunCopy& copy : copies) {
    DiskSpace& space = disks_[copy.disk.raw];
    for (const SlotId slot : copy.slots) {
      DFS_ASSERT(space.new_run_slots.erase(slot) == 1);
      space.run_slots.insert(slot);
    }
  }
  slots_changed();
}

void Allocator::retire_run(std::span<const journal::RunCopy> copies) {
  LockGuard lock(mutex_);
  for (const journal::RunCopy& copy : copies) {
    DiskSpace& space = disks_[copy.disk.raw];
    for (const SlotId slot : copy.slots) {
      if (space.run_slots.erase(slot) == 0) continue;  // keep_run() has complained
      pending_.add({.kind = PendingEntry::Kind::kRunSlot,
                    .lsn = {},
                    .chunk = {},
                    .disk = copy.disk,
                    .slot = slot});
      ++space.pending_slots;
      ++pending_slots_;
    }
  }
  slots_changed();
}

std::vector<DiskId> Allocator::run_disks(std::size_t copies) const {
  LockGuard lock(mutex_);
  std::vector<DiskId> disks = *view_->healthy;
  // One copy less is better than none, and the next checkpoint looks again.
  std::erase_if(
      disks, [&](DiskId disk) DFS_NO_THREAD_SAFETY_ANALYSIS { return !disks_[disk.raw].writable; });
  std::stable_sort(disks.begin(), disks.end(),
                   [&](DiskId a, DiskId b)
                       DFS_NO_THREAD_SAFETY_ANALYSIS { return slots_.free(a) > slots_.free(b); });
  if (disks.size() > copies) disks.resize(copies);
  return disks;
}

bool Allocator::is_crowded(DiskId disk) const {
  LockGuard lock(mutex_);
  return slots_.free(disk) < disks_[disk.raw].run_slots.size() + kRunReserveSlotsMin;
}

// Reports.

Allocator::Space Allocator::space(journal::Policy policy) const {
  LockGuard lock(mutex_);
  Space out;
  const std::size_t width = width_of(policy);
  std::vector<Candidate> all;
  for (std::size_t id = 0; id < disks_.size(); ++id) {
    const DiskId disk{static_cast<std::uint16_t>(id)};
    if (view_->is_healthy(disk) && !is_leaving(disk))
      all.push_back({.disk = disk, .free_slots = slots_.total(disk)});
    const PoolView::DiskEntry* const entry = view_->find(disk);
    if (entry == nullptr || entry->slots == 0) continue;
    out.used_slots.emplace_back(disk,
                                slots_.total(disk) - slots_.free(disk) - disks_[id].pending_slots);
  }
  // What is free is counted as rows under erasure coding, if there are disks enough.
  const bool erasure =
      policy.kind == journal::Policy::Kind::kErasure && all.size() >= policy.width();
  const auto room_on = [&](const std::vector<Candidate>& disks) {
    return chunks_that_fit(disks, erasure ? policy.width() : width) *
           (erasure ? policy.copies_or_data : 1) * kSlotBlocks;
  };
  out.usable_blocks = room_on(all);
  std::uint64_t in_chunks = 0;
  std::uint64_t overwrite_blocks = 0;
  Layout any;
  any.policy = policy.of_copies();
  for (const Candidate& disk : all) {
    any.disk = disk.disk;
    overwrite_blocks += policy.whole_files ? overwrite_reserve(any) : 0;
  }
  if (!policy.whole_files) overwrite_blocks = overwrite_reserve(any);
  for (const auto& layout : layouts_) {
    if (layout->policy == policy.of_copies())
      in_chunks += layout->free_blocks + layout->pending_blocks;
  }
  if (const Groups* const groups = find_groups(policy))
    in_chunks += groups->free_rows * policy.copies_or_data;
  const std::uint64_t everything = in_chunks + room_on(candidates(true, false));
  const std::uint64_t for_data = in_chunks + room_on(candidates(true, true));
  const auto minus = [](std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; };
  out.promised_blocks = promised_blocks_;
  const std::uint64_t promised =
      promised_blocks_ * ceil_div(promise_width(), std::max<std::size_t>(1, width));
  out.free_blocks = minus(everything, promised);
  out.reserve_blocks = out.free_blocks - minus(minus(for_data, overwrite_blocks), promised);
  // How much room data takes depends on where it lies, so "used" is what files have.
  if (policy.kind == journal::Policy::Kind::kErasure)
    out.usable_blocks = out.free_blocks + live_blocks_ + promised_blocks_;
  out.pending_blocks = pending_blocks_ + pending_slots_ * kSlotBlocks;
  out.degraded_chunks = degraded_chunks_;
  return out;
}

// What mappings name and no disk that is here has, or can be made of what those have.
std::uint64_t Allocator::unavailable_blocks() const {
  LockGuard lock(mutex_);
  if (degraded_chunks_ == 0) return 0;
  std::uint64_t blocks = 0;
  chunks_.for_each([&](const Chunk& chunk) DFS_NO_THREAD_SAFETY_ANALYSIS {
    if (chunk.stage == ChunkStage::kRemoved || chunk.live_count == 0) return;
    const auto is_here = [&](const Place& place) DFS_NO_THREAD_SAFETY_ANALYSIS {
      return view_->is_healthy(place.disk);
    };
    if (const ParityGroup* const group = chunk.group()) {
      if (!group->degraded || is_here(group->places[chunk.column()])) return;
      const auto here = std::ranges::count_if(group->places, is_here);
      if (static_cast<std::size_t>(here) < group->data_columns()) blocks += chunk.live_count;
    } else if (chunk.degraded && std::ranges::none_of(chunk.places, is_here)) {
      blocks += chunk.live_count;
    }
  });
  return blocks;
}

std::vector<ChunkPut> Allocator::chunks() const {
  LockGuard lock(mutex_);
  std::vector<ChunkPut> out;
  out.reserve(chunks_.size());
  chunks_.for_each([&](const Chunk& chunk) {
    if (chunk.stage == ChunkStage::kRemoved || (chunk.group() != nullptr && chunk.column() != 0))
      return;
    out.push_back(put_of(chunk));
  });
  return out;
}

std::vector<std::pair<ChunkId, BlockBitmap>> Allocator::live() const {
  LockGuard lock(mutex_);
  std::vector<std::pair<ChunkId, BlockBitmap>> out;
  out.reserve(chunks_.size());
  chunks_.for_each([&](const Chunk& chunk) {
    if (chunk.stage != ChunkStage::kRemoved) out.emplace_back(chunk.id, chunk.live);
  });
  return out;
}

std::vector<std::pair<ChunkId, SharedBlocks>> Allocator::shared() const {
  LockGuard lock(mutex_);
  std::vector<std::pair<ChunkId, SharedBlocks>> out;
  out.reserve(shared_.size());
  for (const auto& [chunk, shared] : shared_) out.emplace_back(ChunkId{chunk}, shared);
  return out;
}

std::uint64_t Allocator::live_blocks() const {
  LockGuard lock(mutex_);
  return live_blocks_;
}

bool Allocator::is_unused(DiskId disk) const {
  LockGuard lock(mutex_);
  return slots_.free(disk) == slots_.total(disk);
}

std::size_t Allocator::copies(ChunkId chunk) const {
  LockGuard lock(mutex_);
  const Chunk* const found = chunks_.find(chunk);
  DFS_ASSERT(found != nullptr);
  // As many disks may be lost.
  return found->group() != nullptr ? found->group()->policy.tolerance() + 1 : found->places.size();
}

std::optional<Allocator::Lost> Allocator::lost(ChunkId chunk) const {
  LockGuard lock(mutex_);
  const Chunk* const found = chunks_.find(chunk);
  if (found == nullptr) return std::nullopt;
  const auto is_gone = [&](const Place& place)
                           DFS_NO_THREAD_SAFETY_ANALYSIS { return !view_->is_healthy(place.disk); };
  // A column that is here is read without the others.
  if (!std::ranges::all_of(found->places, is_gone)) return std::nullopt;
  const ParityGroup* const group = found->group();
  Lost out;
  const auto take = [&](const auto& places) {
    for (const Place& place : places) {
      if (is_gone(place)) out.gone.push_back(place.disk);
    }
    out.tolerance = group != nullptr ? group->policy.tolerance() : places.size() - 1;
  };
  if (group != nullptr) {
    take(group->places);
  } else {
    take(found->places);
  }
  if (out.gone.size() <= out.tolerance) return std::nullopt;
  return out;
}

std::uint64_t Allocator::map_bytes() const {
  // A tree's node: three pointers and a colour beside the element.
  constexpr std::size_t kSetNodeBytes = heap_bytes(4 * sizeof(void*) + sizeof(SlotId));
  constexpr std::size_t kSharedNodeBytes =
      heap_bytes(4 * sizeof(void*) + sizeof(decltype(shared_)::value_type));
  constexpr std::size_t kGroupNodeBytes =
      heap_bytes(4 * sizeof(void*) + sizeof(decltype(parity_groups_)::value_type));
  LockGuard lock(mutex_);
  std::uint64_t bytes = chunks_.memory_bytes() + slots_.memory_bytes();
  for (const DiskSpace& disk : disks_) {
    bytes += (disk.run_slots.size() + disk.new_run_slots.size()) * kSetNodeBytes;
  }
  for (const auto& [chunk, shared] : shared_) bytes += kSharedNodeBytes + shared.memory_bytes();
  for (const auto& [first, group] : parity_groups_) {
    bytes += kGroupNodeBytes + heap_bytes(sizeof *group) + group->places.memory_bytes() +
             heap_bytes(group->columns.capacity() * sizeof(Chunk*));
  }
  return bytes;
}

}  // namespace dynamicfs::extent
