// The part of the allocator for chunks that get other places while they are in use.
#include <algorithm>
#include <limits>

#include "base/assert.hpp"
#include "extent/allocator_layout.hpp"

namespace dynamicfs::extent {
namespace {

bool has_disk(std::span<const Place> places, DiskId disk) {
  return std::ranges::find(places, disk, &Place::disk) != places.end();
}

bool has_place(std::span<const Place> places, const Place& place) {
  return std::ranges::find(places, place) != places.end();
}

}  // namespace

// How many of its places should be elsewhere.
std::size_t Allocator::leaving(std::span<const Place> places) const {
  return static_cast<std::size_t>(std::ranges::count_if(
      places,
      [&](const Place& place) DFS_NO_THREAD_SAFETY_ANALYSIS { return is_leaving(place.disk); }));
}

bool Allocator::is_leaving(DiskId disk) const {
  const PoolView::DiskEntry* const entry = view_->find(disk);
  return entry == nullptr || entry->leaving;
}

std::vector<ChunkId> Allocator::misplaced() const {
  LockGuard lock(mutex_);
  std::vector<ChunkId> out;
  if (misplaced_slots_ == 0) return out;
  chunks_.for_each([&](const Chunk& chunk) {
    if (chunk.stage == ChunkStage::kRemoved) return;
    const ParityGroup* const group = chunk.group();
    if (group == nullptr ? chunk.to_move > 0 : group->first == chunk.id && group->to_move > 0)
      out.push_back(chunk.id);
  });
  return out;
}

std::uint64_t Allocator::misplaced_slots() const {
  LockGuard lock(mutex_);
  return misplaced_slots_;
}

// By the slots: what is neither free, nor about to be, nor of a run.
bool Allocator::has_chunks(DiskId disk) const {
  LockGuard lock(mutex_);
  if (disk.raw >= disks_.size()) return false;
  const DiskSpace& space = disks_[disk.raw];
  return slots_.total(disk) > slots_.free(disk) + space.pending_slots + space.run_slots.size() +
                                  space.new_run_slots.size();
}

std::vector<ChunkId> Allocator::chunks_on(DiskId disk) const {
  LockGuard lock(mutex_);
  std::vector<ChunkId> out;
  chunks_.for_each([&](const Chunk& chunk) {
    if (chunk.stage == ChunkStage::kRemoved) return;
    const ParityGroup* const group = chunk.group();
    if (group != nullptr && group->first != chunk.id) return;
    const bool here = group == nullptr
                          ? has_disk({chunk.places.data(), chunk.places.size()}, disk)
                          : has_disk({group->places.data(), group->places.size()}, disk);
    if (here) out.push_back(chunk.id);
  });
  return out;
}

RoomWithout Allocator::room_without(DiskId disk) const {
  LockGuard lock(mutex_);
  std::uint32_t widest = 0;
  std::uint64_t needed = 0;
  std::uint64_t own = 0;
  std::uint64_t unreadable_blocks = 0;
  std::vector<std::uint64_t> takers(disks_.size());  // how many of the chunks may go there
  chunks_.for_each([&](const Chunk& chunk) DFS_NO_THREAD_SAFETY_ANALYSIS {
    if (chunk.stage == ChunkStage::kRemoved) return;
    const ParityGroup* const group = chunk.group();
    if (group != nullptr && group->first != chunk.id) return;
    if ((group != nullptr ? group->held_blocks() : chunk.held_blocks()) == 0) return;
    widest = std::max(widest, (group == nullptr ? chunk.layout : group->policy).width());
    const std::span<const Place> places =
        group == nullptr ? std::span<const Place>{chunk.places.data(), chunk.places.size()}
                         : std::span<const Place>{group->places.data(), group->places.size()};
    const auto is_here = [&](const Place& place) DFS_NO_THREAD_SAFETY_ANALYSIS {
      return view_->is_healthy(place.disk);
    };
    const auto goes = [&](const Place& place) DFS_NO_THREAD_SAFETY_ANALYSIS {
      return place.disk == disk || is_leaving(place.disk);
    };
    const auto going = static_cast<std::uint64_t>(std::ranges::count_if(places, goes));
    if (going == 0) return;
    const bool own_too = has_disk(places, disk);
    const auto here = static_cast<std::size_t>(std::ranges::count_if(places, is_here));
    const bool to_make_anew = std::ranges::any_of(
        places, [&](const Place& place) { return goes(place) && !is_here(place); });
    if (to_make_anew && here < (group == nullptr ? 1 : group->data_columns())) {
      if (own_too) unreadable_blocks += group == nullptr ? chunk.live_count : group->live_blocks();
      return;
    }
    needed += going;
    own += own_too ? 1 : 0;
    for (std::size_t i = 0; i < takers.size(); ++i)
      takers[i] += has_disk(places, DiskId{static_cast<std::uint16_t>(i)}) ? 0 : 1;
  });
  std::uint64_t room = 0;
  std::uint64_t free = 0;
  for (const Candidate& candidate : candidates(true, true)) {
    if (candidate.disk == disk || is_leaving(candidate.disk)) continue;
    room += std::min(candidate.free_slots, takers[candidate.disk.raw]);
    free += candidate.free_slots;
  }
  // What was promised, and is kept for overwriting, has to find room as well.
  std::uint64_t kept = 0;
  std::uint64_t at_homes = 0;
  for (const auto& layout : layouts_) {
    if (layout->policy.whole_files) {
      at_homes += layout->disk == disk ? 0 : layout->overwrite_reserve_blocks;
      continue;
    }
    kept = std::max(kept, ceil_div(kept_blocks(*layout), kSlotBlocks) * width_of(layout->policy));
  }
  kept = std::max(kept, ceil_div(at_homes, kSlotBlocks));
  kept = std::max(kept, ceil_div(promised_blocks_, kSlotBlocks) * promise_width());
  room = std::min(room, free - std::min(free, kept));
  return {.needed_bytes = needed * kSlotBytes,
          .room_bytes = std::min(needed, room) * kSlotBytes,
          .own_bytes = own * kSlotBytes,
          .unreadable_bytes = unreadable_blocks * kBlockBytes,
          .widest = widest};
}

// The disk that is least full of those that have room and none of `places`.
// Between them nothing is moved without need: it has to be less full than `than`, where the place is now.
std::optional<DiskId> Allocator::emptiest(std::span<const Place> places,
                                          std::optional<DiskId> than) const {
  std::optional<DiskId> best;
  double most = 0;
  if (than) most = static_cast<double>(slots_.free(*than) + 1) / std::max(1u, slots_.total(*than));
  for (const Candidate& candidate : candidates(false, true)) {
    if (candidate.free_slots == 0 || is_leaving(candidate.disk) || has_disk(places, candidate.disk))
      continue;
    const double free = static_cast<double>(candidate.free_slots) / slots_.total(candidate.disk);
    if ((best || than) && free <= most) continue;
    best = candidate.disk;
    most = free;
  }
  return best;
}

// No write point has it any more; if it is empty it will go.
void Allocator::close(Chunk& chunk) {
  if (ParityGroup* const group = chunk.group()) {
    Groups& groups = groups_of(group->policy);
    for (ParityGroup*& lane : groups.lanes) {
      if (lane == group) seal(groups, lane);
    }
    return;
  }
  Layout& layout = layout_of(chunk);
  for (Lane& lane : layout.lanes) {
    for (Chunk** const open : {&lane.large, &lane.small}) {
      if (*open == &chunk) seal(layout, *open, false);
    }
  }
}

// A slot on this disk for a place, or for one more. False: there is no such disk.
bool Allocator::take_place(Move& move, std::optional<Place> instead_of,
                           std::optional<DiskId> disk) {
  if (!disk) return false;
  const Place place{.disk = *disk, .slot = *slots_.take_lowest(*disk)};
  slots_changed();
  if (instead_of) {
    *std::ranges::find(move.to, *instead_of) = place;
  } else {
    move.to.push_back(place);
  }
  return true;
}

Allocator::MoveOutcome Allocator::begin_move(ChunkId id, std::optional<DiskId> off,
                                             bool only_to_emptier, Move* move) {
  LockGuard lock(mutex_);
  DFS_ASSERT(started_);
  Chunk* const chunk = chunks_.find(id);
  if (chunk == nullptr || chunk->stage == ChunkStage::kRemoved) return MoveOutcome::kNothing;
  ParityGroup* const group = chunk->group();
  const bool busy =
      group == nullptr ? chunk->moving || chunk->draining : group->moving || group->draining;
  // As many objects of it that readers may look at as can be counted: a hung disk keeps them.
  if (busy || chunk->ghosts == std::numeric_limits<std::uint8_t>::max()) return MoveOutcome::kLater;
  const std::uint32_t held = group == nullptr ? chunk->held_blocks() : group->held_blocks();
  const ChunkPut put = put_of(*chunk);
  move->chunk = id;
  move->layout = put.layout;
  move->from = put.places;
  move->to = put.places;
  // What is empty goes by itself.
  if (held == 0) {
    close(*chunk);
    return MoveOutcome::kNothing;
  }
  bool has_room = true;
  for (const Place& place : move->from) {
    const bool whole = move->layout.whole_files;
    if (is_leaving(place.disk)) {
      has_room &= take_place(*move, place, whole ? successor(place.disk) : emptiest(move->to, {}));
    } else if (place.disk == off && !(whole && only_to_emptier)) {
      // Between disks that stay nothing has to be moved; whole files would not be that any more.
      const bool taken =
          take_place(*move, place, emptiest(move->to, only_to_emptier ? off : std::nullopt));
      has_room &= taken || only_to_emptier;
    }
  }
  const std::size_t wanted = move->layout.kind == journal::Policy::Kind::kReplica
                                 ? move->layout.copies_or_data
                                 : move->from.size();
  while (has_room && move->to.size() < wanted)
    has_room &= take_place(*move, {}, emptiest(move->to, {}));
  if (move->to == move->from) return has_room ? MoveOutcome::kNothing : MoveOutcome::kNoRoom;
  close(*chunk);
  if (group != nullptr) {
    group->moving = true;
    judge(*group);
    return MoveOutcome::kReady;
  }
  chunk->moving = true;
  judge(*chunk);
  return MoveOutcome::kReady;
}

bool Allocator::is_settled(const Move& move) const {
  LockGuard lock(mutex_);
  const Chunk& chunk = *chunks_.find(move.chunk);
  const auto settled = [](const Chunk* each) { return each->held_blocks() == each->live_count; };
  return chunk.group() == nullptr ? settled(&chunk)
                                  : std::ranges::all_of(chunk.group()->columns, settled);
}

BlockWords Allocator::rows_to_copy(const Move& move) const {
  LockGuard lock(mutex_);
  const Chunk& chunk = *chunks_.find(move.chunk);
  if (chunk.group() == nullptr) return chunk.live.words();
  BlockWords rows{};
  for (const Chunk* const column : chunk.group()->columns) {
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] |= column->live.words()[i];
  }
  return rows;
}

void Allocator::end_move(ChunkId id) {
  Chunk& chunk = *chunks_.find(id);
  if (ParityGroup* const group = chunk.group()) {
    group->moving = false;
    judge(*group);
    note_if_empty(*group);
    return;
  }
  chunk.moving = false;
  judge(chunk);
  note_if_empty(chunk);
}

void Allocator::cancel_move(const Move& move) {
  LockGuard lock(mutex_);
  for (const Place& place : move.to) {
    if (!has_place(move.from, place)) slots_.give_back(place.disk, place.slot);
  }
  slots_changed();
  end_move(move.chunk);
}

// Readers find the new places from now on; who has found the old ones reads there until it ends.
void Allocator::finish_move(const Move& move, ChunkLog& log) {
  LockGuard lock(mutex_);
  const Lsn lsn =
      log.append_moved(ChunkPut{.chunk = move.chunk, .layout = move.layout, .places = move.to});
  const MovedChunk* const moved = put_places(move.chunk, move.to);
  for (const Place& place : moved->left) {
    ++disks_[place.disk.raw].pending_slots;
    ++pending_slots_;
  }
  pending_.add({.kind = PendingEntry::Kind::kMovedSlots,
                .lsn = lsn,
                .chunk = move.chunk,
                .disk = {},
                .slot = {},
                .moved = moved});
  end_move(move.chunk);
  slots_changed();
}

// The chunk, or group, has these places from now on, whose slots are taken. What it was before goes to moved_.
const MovedChunk* Allocator::put_places(ChunkId id, std::span<const Place> places) {
  auto moved = std::make_unique<MovedChunk>();
  const ChunkPut before = put_of(*chunks_.find(id));
  for (const Place& place : before.places) {
    if (!has_place(places, place)) moved->left.push_back(place);
  }
  const auto at = parity_groups_.find(id.raw);
  if (at == parity_groups_.end()) {
    for (const Place& place : before.places) moved->readers.push_back(place.disk);
    moved->chunks.push_back(chunks_.replace(id, places, nullptr));
    touch(*chunks_.find(id));
  } else {
    // Who reconstructs a block has pinned the disk of its own.
    moved->group = std::move(at->second);
    const ParityGroup& old = *moved->group;
    DFS_ASSERT(old.list == nullptr && !old.open);
    auto fresh = std::make_unique<ParityGroup>(old);
    fresh->columns.clear();
    fresh->places.clear();
    fresh->places.append(places.data(), places.size());
    for (std::size_t i = 0; i < old.columns.size(); ++i) {
      moved->readers.push_back(old.places[i].disk);
      const ChunkId column = old.columns[i]->id;
      moved->chunks.push_back(chunks_.replace(column, places.subspan(i, 1), fresh.get()));
      fresh->columns.push_back(chunks_.find(column));
      touch(*fresh->columns.back());
    }
    at->second = std::move(fresh);
  }
  const MovedChunk* const key = moved.get();
  moved_.emplace(key, std::move(moved));
  return key;
}

// Nobody looks at it as it was any more.
void Allocator::forget(const MovedChunk* moved) {
  for (const Place& place : moved->left) {
    slots_.give_back(place.disk, place.slot);
    --disks_[place.disk.raw].pending_slots;
    --pending_slots_;
  }
  for (const auto& old : moved->chunks) {
    // It may have moved again, or be gone.
    if (Chunk* const chunk = chunks_.find(old->id)) --chunk->ghosts;
  }
  moved_.erase(moved);
  slots_changed();
}

}  // namespace dynamicfs::extent
