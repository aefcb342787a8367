// The part of the allocator for parity groups: rows instead of blocks.
#include <algorithm>
#include <bit>

#include "base/assert.hpp"
#include "extent/allocator_layout.hpp"

namespace dynamicfs::extent {
namespace {

// How many sealed groups are looked at for enough rows in one piece. A guess, as for chunks.
constexpr int kLooks = 16;

}  // namespace

Allocator::Groups& Allocator::groups_of(journal::Policy policy) {
  for (const auto& groups : groups_) {
    if (groups->policy == policy) return *groups;
  }
  groups_.push_back(std::make_unique<Groups>(policy));
  if (started_) groups_.back()->lanes.resize(view_->healthy->size());
  return *groups_.back();
}

const Allocator::Groups* Allocator::find_groups(journal::Policy policy) const {
  for (const auto& groups : groups_) {
    if (groups->policy == policy) return groups.get();
  }
  return nullptr;
}

// kNoSpace, and nothing is taken, if the rows are not there in one piece.
Allocator::Outcome Allocator::allocate_rows(const Request& request, ChunkLog* log,
                                            std::vector<Piece>& out) {
  Groups& groups = groups_of(request.policy);
  if (groups.lanes.empty()) return Outcome::kNoSpace;
  const auto rows = static_cast<std::uint32_t>(
      ceil_div(request.blocks, std::uint32_t{request.policy.copies_or_data}));
  ParityGroup*& lane = groups.lanes[groups.next_lane++ % groups.lanes.size()];
  if (lane != nullptr && take_rows(groups, *lane, rows, request.blocks, out)) return Outcome::kDone;
  if (can_open(groups, request)) {
    if (log == nullptr) {
      --groups.next_lane;
      return Outcome::kNeedsChunk;
    }
    seal(groups, lane);
    lane = &open(groups, *log);
    DFS_ASSERT(take_rows(groups, *lane, rows, request.blocks, out));
    return Outcome::kDone;
  }
  for (ParityGroup* const other : groups.lanes) {
    if (other != nullptr && take_rows(groups, *other, rows, request.blocks, out))
      return Outcome::kDone;
  }
  for (int look = 0; look < kLooks && groups.partial.head != nullptr; ++look) {
    ParityGroup& group = *groups.partial.head;
    if (take_rows(groups, group, rows, request.blocks, out)) return Outcome::kDone;
    groups.partial.remove(group);
    groups.partial.push_back(group);
  }
  return Outcome::kNoSpace;
}

// Whatever rows there are, in as many pieces as it takes; nothing is taken if that is not enough.
Allocator::Outcome Allocator::allocate_any_rows(const Request& request, std::vector<Piece>& out) {
  Groups& groups = groups_of(request.policy);
  const std::uint32_t width = request.policy.copies_or_data;
  if (request.in_one_piece || request.moving) return Outcome::kNoSpace;
  // Every piece but the last fills its rows.
  if (groups.free_rows < ceil_div(request.blocks, width)) return Outcome::kNoSpace;
  std::uint32_t left = request.blocks;
  const auto take_from = [&](ParityGroup& group) DFS_NO_THREAD_SAFETY_ANALYSIS {
    while (left > 0 && group.free_rows() > 0) {
      const BlockWords used = group.used();
      const std::uint32_t row = next_clear(used, 0);
      const auto rows =
          std::min(next_set(used, row) - row, static_cast<std::uint32_t>(ceil_div(left, width)));
      const std::uint32_t blocks = std::min(left, rows * width);
      fill_rows(groups, group, row, rows, blocks, out);
      left -= blocks;
    }
  };
  for (ParityGroup* const lane : groups.lanes) {
    if (lane != nullptr) take_from(*lane);
  }
  for (NodeList<ParityGroup>* const list : {&groups.partial, &groups.draining}) {
    while (left > 0 && list->head != nullptr) take_from(*list->head);
  }
  DFS_ASSERT(left == 0);
  return Outcome::kDone;
}

// `rows` rows in one piece for `blocks` blocks; false if there is no such run.
bool Allocator::take_rows(Groups& groups, ParityGroup& group, std::uint32_t rows,
                          std::uint32_t blocks, std::vector<Piece>& out) {
  if (group.free_rows() < rows) return false;
  const BlockWords used = group.used();
  std::optional<std::uint32_t> start = find_clear_run(used, group.cursor, kSlotBlocks, rows);
  if (!start) {
    const auto end = std::min<std::uint32_t>(group.cursor + rows - 1, kSlotBlocks);
    start = find_clear_run(used, 0, end, rows);
  }
  if (!start) return false;
  fill_rows(groups, group, *start, rows, blocks, out);
  return true;
}

// Column by column, a piece for each that gets any: the first pieces have all the rows.
void Allocator::fill_rows(Groups& groups, ParityGroup& group, std::uint32_t row, std::uint32_t rows,
                          std::uint32_t blocks, std::vector<Piece>& out) {
  for (std::uint32_t left = blocks; Chunk* const column : group.columns) {
    const std::uint32_t count = std::min(left, rows);
    if (count == 0) break;
    {
      const ChunkTable::Resizing resizing(chunks_, *column);
      DFS_ASSERT(column->live.is_clear(row, count));
      column->unnamed.set(row, count);
    }
    column->used_blocks = static_cast<std::uint16_t>(column->used_blocks + count);
    out.push_back({.chunk = column->id,
                   .block = static_cast<std::uint16_t>(row),
                   .count = static_cast<std::uint16_t>(count)});
    left -= count;
  }
  group.used_rows = static_cast<std::uint16_t>(group.used_rows + rows);
  group.cursor = static_cast<std::uint16_t>(row + rows);
  groups.free_rows -= rows;
  if (group.free_rows() == 0 && group.list != nullptr) group.list->remove(group);
}

// Promises and overwriting are kept for as copies, which every write can be.
bool Allocator::can_open(Groups& groups, const Request& request) {
  const std::size_t width = groups.policy.width();
  if (groups.fit_version != slots_version_) {
    groups.fit = chunks_that_fit(candidates(false, true), width);
    groups.fit_version = slots_version_;
  }
  if (groups.fit == 0) return false;
  Layout& copies = layout_of(groups.policy);
  std::uint64_t kept = kept_blocks(copies);
  kept -= std::min<std::uint64_t>(kept, request.replaced_blocks);
  if (request.replaced_blocks < request.blocks && spare_chunks(copies) < 2 * width) return false;
  const std::uint64_t taken = ceil_div(width, width_of(groups.policy)) * kSlotBlocks;
  return available_blocks(copies) >= kept + taken;
}

ParityGroup& Allocator::open(Groups& groups, ChunkLog& log) {
  const std::size_t width = groups.policy.width();
  ChunkPut put{.chunk = ChunkId{next_chunk_}, .layout = groups.policy, .places = {}};
  std::vector<DiskId> disks = groups.placement.choose(candidates(false, true), width);
  DFS_ASSERT(disks.size() == width);
  // A large read asks the disks with data: each is to have its part of the parity.
  groups.parity_due.resize(std::max(groups.parity_due.size(), disks_.size()));
  const auto due = [&groups](DiskId disk) -> std::int64_t& { return groups.parity_due[disk.raw]; };
  for (const DiskId disk : disks) due(disk) += groups.policy.parity;
  std::ranges::sort(disks);
  std::ranges::stable_sort(disks, std::less{}, due);
  for (std::size_t i = groups.policy.copies_or_data; i < width; ++i)
    due(disks[i]) -= static_cast<std::int64_t>(width);
  for (const DiskId disk : disks) {
    const std::optional<SlotId> slot = slots_.take_lowest(disk);
    DFS_ASSERT(slot.has_value());
    put.places.push_back({.disk = disk, .slot = *slot});
  }
  log.append(put);
  ParityGroup& group = add_group(put);
  for (Chunk* const column : group.columns) touch(*column);
  slots_changed();
  group.open = true;
  judge(group);
  metrics_.chunks_opened.add(group.data_columns());
  return group;
}

void Allocator::seal(Groups& groups, ParityGroup*& group) {
  ParityGroup* const old = std::exchange(group, nullptr);
  if (old == nullptr) return;
  old->open = false;
  if (old->fillable && old->free_rows() > 0) groups.list_of(*old).push_back(*old);
  note_if_empty(*old);
}

// Its slots are taken.
ParityGroup& Allocator::add_group(const ChunkPut& change) {
  const std::size_t columns = change.layout.copies_or_data;
  auto made = std::make_unique<ParityGroup>();
  ParityGroup& group = *made;
  group.first = change.chunk;
  group.policy = change.layout;
  group.codec = &groups_of(change.layout).codec;
  group.places.append(change.places.data(), change.places.size());
  for (std::size_t i = 0; i < columns; ++i) {
    const ChunkId id{static_cast<std::uint32_t>(change.chunk.raw + i)};
    Chunk& column = chunks_.add(id, change.layout, std::span{&change.places[i], 1});
    column.of_group = &group;
    group.columns.push_back(&column);
  }
  next_chunk_ = std::max(next_chunk_, static_cast<std::uint32_t>(change.chunk.raw + columns));
  parity_groups_.emplace(change.chunk.raw, std::move(made));
  return group;
}

// These blocks of a column are not in use any more: rows of which no other is are free.
void Allocator::note_rows_given(Chunk& column, std::uint32_t first, std::uint32_t count) {
  ParityGroup& group = *column.group();
  const BlockWords used = group.used();
  std::uint32_t rows = 0;
  for (std::uint32_t row = first; row < first + count; ++row)
    rows += (used[row / 64] >> row % 64 & 1) == 0 ? 1 : 0;
  group.used_rows = static_cast<std::uint16_t>(group.used_rows - rows);
  if (!group.fillable || rows == 0) return;
  Groups& groups = groups_of(group.policy);
  groups.free_rows += rows;
  if (!group.open && group.list == nullptr) groups.list_of(group).push_back(group);
}

void Allocator::note_if_empty(ParityGroup& group) {
  if (group.open || group.removed || group.moving || group.empty_noted || group.held_blocks() != 0)
    return;
  group.empty_noted = true;
  empty_.push_back(group.first);
}

// As judge() of a chunk.
void Allocator::judge(ParityGroup& group) {
  Groups& groups = groups_of(group.policy);
  if (group.fillable) groups.free_rows -= group.free_rows();
  if (group.degraded) degraded_chunks_ -= group.data_columns();
  misplaced_slots_ -= group.to_move;
  if (group.list != nullptr) group.list->remove(group);
  group.fillable = !group.moving;
  std::size_t readable = 0;
  bool to_make_anew = false;
  for (const Place& place : group.places) {
    const bool here = view_->is_healthy(place.disk);
    readable += here ? 1 : 0;
    to_make_anew |= !here && is_leaving(place.disk);
    group.fillable &= disks_[place.disk.raw].writable;
  }
  group.degraded = readable < group.places.size();
  if (group.degraded) degraded_chunks_ += group.data_columns();
  const std::size_t to_move = leaving({group.places.data(), group.places.size()});
  const bool can_move = !to_make_anew || readable >= group.data_columns();
  group.to_move = static_cast<std::uint8_t>(can_move ? to_move : 0);
  misplaced_slots_ += group.to_move;
  if (!group.fillable) return;
  groups.free_rows += group.free_rows();
  if (!group.open && group.free_rows() > 0) groups.list_of(group).push_back(group);
}

// Unless it has been filled or opened again meanwhile.
void Allocator::remove(ParityGroup& group, ChunkLog& log) {
  group.empty_noted = false;
  if (group.open || group.moving || group.held_blocks() != 0) return;
  // Nothing names it: all of its pending blocks were freed by records before this one.
  const Lsn lsn = log.append(ChunkRemove{.chunk = group.first});
  if (group.list != nullptr) group.list->remove(group);
  if (group.fillable) groups_of(group.policy).free_rows -= group.free_rows();
  if (group.degraded) degraded_chunks_ -= group.data_columns();
  group.fillable = false;
  group.degraded = false;
  misplaced_slots_ -= std::exchange(group.to_move, 0);
  group.removed = true;
  for (Chunk* const column : group.columns) {
    pending_blocks_ -= column->pending_blocks;
    column->stage = ChunkStage::kRemoved;
    touch(*column);
  }
  for (const Place& place : group.places) {
    ++disks_[place.disk.raw].pending_slots;
    ++pending_slots_;
  }
  pending_.add({.kind = PendingEntry::Kind::kChunkSlots,
                .lsn = lsn,
                .chunk = group.first,
                .disk = {},
                .slot = {}});
  metrics_.chunks_removed.add(group.data_columns());
}

Allocator::RowFound Allocator::find_row(ChunkId first, std::uint32_t row) const {
  LockGuard lock(mutex_);
  RowFound found;
  const auto at = parity_groups_.find(first.raw);
  if (at == parity_groups_.end() || at->second->removed) return found;
  found.group = at->second.get();
  found.moving = found.group->moving;
  for (const Chunk* const column : found.group->columns)
    found.live |= column->live.test(row) ? 1u << column->column() : 0;
  return found;
}

bool Allocator::has_groups() const {
  LockGuard lock(mutex_);
  return !parity_groups_.empty();
}

std::uint64_t Allocator::copied_blocks() const {
  LockGuard lock(mutex_);
  return live_blocks_ - striped_blocks_;
}

std::optional<journal::Policy> Allocator::layout(ChunkId chunk) const {
  LockGuard lock(mutex_);
  const Chunk* const found = chunks_.find(chunk);
  if (found == nullptr) return std::nullopt;
  return found->group() != nullptr ? found->group()->policy : found->layout;
}

// The sparsest sealed groups, until `slots_wanted` would be gained by emptying them; none if less than
// `slots_least` would. Returns how many would be. What they hold finds room in rows elsewhere. `also_lost`: likewise of those
// with a place on a disk that is away.
std::uint64_t Allocator::drain_groups(Groups& groups, std::uint64_t slots_least,
                                      std::uint64_t slots_wanted, bool also_lost) {
  const std::uint32_t width = groups.policy.copies_or_data;
  std::vector<ParityGroup*> sparse;
  for (const auto& [first, group] : parity_groups_) {
    // Also those without a free row: every row may hold a block, and few blocks be in use.
    if (group->policy != groups.policy || group->open || group->removed || group->moving ||
        group->draining || (!group->fillable && !also_lost)) {
      continue;
    }
    const auto here =
        std::ranges::count_if(group->places, [&](const Place& place) DFS_NO_THREAD_SAFETY_ANALYSIS {
          return view_->is_healthy(place.disk);
        });
    if (static_cast<std::size_t>(here) < group->data_columns()) continue;  // it cannot be read
    const bool shares =
        std::ranges::any_of(group->columns, [&](const Chunk* column) DFS_NO_THREAD_SAFETY_ANALYSIS {
          return shared_.contains(column->id.raw);
        });
    const std::uint32_t held = group->held_blocks();
    if (held > 0 && held <= width * kSlotBlocks / 2 && !shares) sparse.push_back(group.get());
  }
  std::ranges::sort(sparse, {}, &ParityGroup::held_blocks);
  const std::uint64_t fit = chunks_that_fit(candidates(false, true), groups.policy.width());
  std::uint64_t room = groups.free_rows + fit * kSlotBlocks;  // in rows
  std::uint64_t held = 0;
  std::size_t count = 0;
  std::uint64_t gain = 0;
  while (count < sparse.size() && gain < slots_wanted) {
    const ParityGroup& next = *sparse[count];
    // Rows that are taken out of reach, and those that what is in them needs elsewhere.
    const std::uint64_t rows = ceil_div(held + next.held_blocks(), width);
    const std::uint64_t lost = next.fillable ? next.free_rows() : 0;
    if (room < lost + rows) break;
    room -= lost;
    held += next.held_blocks();
    ++count;
    gain = (count - std::min<std::uint64_t>(count, ceil_div(held, width * kSlotBlocks))) *
           groups.policy.width();
  }
  if (gain < slots_least) return 0;
  for (std::size_t i = 0; i < count; ++i) {
    ParityGroup& group = *sparse[i];
    if (group.list != nullptr) group.list->remove(group);
    group.draining = true;
    if (group.fillable && group.free_rows() > 0) groups.draining.push_back(group);
    for (const Chunk* const column : group.columns) draining_.push_back(column->id);
  }
  return gain;
}

// Its pending slots are free; the group is gone.
void Allocator::erase(ParityGroup& group) {
  for (const Place& place : group.places) {
    slots_.give_back(place.disk, place.slot);
    --disks_[place.disk.raw].pending_slots;
    --pending_slots_;
  }
  for (const Chunk* const column : group.columns) chunks_.erase(column->id);
  parity_groups_.erase(group.first.raw);
  slots_changed();
}

}  // namespace dynamicfs::extent
