#include "extent/allocator.hpp"

#include <algorithm>

#include "base/assert.hpp"
#include "extent/allocator_layout.hpp"

namespace dynamicfs::extent {
namespace {

// Slots are short when fewer than a tenth is free; a compaction that regains less than 1/64 of them is
// not worth reading all maps for.
constexpr std::uint64_t kShortOfSlots = 10;
constexpr std::uint64_t kWorthwhile = 64;

}  // namespace

Allocator::Allocator(ChunkTable& chunks, ReadRegistry& reads, AllocatorMetrics& metrics,
                     const journal::Eras& eras)
    : chunks_(chunks),
      reads_(reads),
      metrics_(metrics),
      eras_(eras),
      view_(std::make_shared<PoolView>()) {}

Allocator::~Allocator() = default;

// Write points.

Allocator::Outcome Allocator::allocate(const Request& request, ChunkLog* log,
                                       std::vector<Piece>& out) {
  DFS_ASSERT(request.blocks > 0 && request.blocks <= kSlotBlocks);
  LockGuard lock(mutex_);
  DFS_ASSERT(started_);
  const bool erasure = request.policy.kind == journal::Policy::Kind::kErasure;
  Outcome outcome = Outcome::kNoSpace;
  if (erasure && request.blocks >= kStripeBlocks * request.policy.copies_or_data)
    outcome = allocate_rows(request, log, out);
  if (request.rows_only && outcome == Outcome::kNoSpace) return outcome;
  if (outcome == Outcome::kNoSpace) {
    outcome = request.policy.whole_files
                  ? allocate_whole(request, log, out)
                  : allocate_copies(layout_of(request.policy), request, log, out);
  }
  if (erasure && outcome == Outcome::kNoSpace) outcome = allocate_any_rows(request, out);
  if (outcome == Outcome::kNoSpace && request.urgent && request.policy == journal::Policy{})
    outcome = allocate_single(request, log, out);
  if (outcome != Outcome::kDone) return outcome;
  metrics_.blocks_allocated.add(request.blocks);
  if (request.moving) moving_blocks_ += request.blocks;
  return outcome;
}

Allocator::Outcome Allocator::allocate_copies(Layout& layout, const Request& request, ChunkLog* log,
                                              std::vector<Piece>& out) {
  const std::uint32_t blocks = request.blocks;
  const std::uint32_t fresh = blocks - std::min(request.replaced_blocks, blocks);
  // What gives back as much leaves room alone that is promised to others, as long as that comes in time.
  const bool takes = fresh == 0 && (request.urgent || request.promised);
  if (layout.lanes.empty() || !fits(layout, fresh, blocks, takes)) return Outcome::kNoSpace;

  if (blocks >= kLargeBlocks) {
    Lane& lane = layout.lanes[layout.next_large % layout.lanes.size()];
    if (lane.large == nullptr || !take_run(layout, *lane.large, blocks, out)) {
      if (can_open(layout, takes)) {
        // A new chunk rather than a write in two pieces; small writes use up what is left behind.
        if (log == nullptr) return Outcome::kNeedsChunk;
        seal(layout, lane.large, true);
        lane.large = &open(layout, *log);
        DFS_ASSERT(take_run(layout, *lane.large, blocks, out));
      } else if (!fill_holes(layout, lane, request, out)) {
        return Outcome::kNoSpace;
      }
    }
    ++layout.next_large;
  } else {
    Lane& lane = layout.lanes[Layout::lane_of(request.inode, request.first) % layout.lanes.size()];
    bool done = lane.small != nullptr && take_run(layout, *lane.small, blocks, out);
    while (!done && layout.leftovers.head != nullptr) {
      Chunk& leftover = *layout.leftovers.head;
      done = take_run(layout, leftover, blocks, out);
      // A full one has left the list by itself.
      if (leftover.list != nullptr) leftover.list->remove(leftover);
      if (done) {
        seal(layout, lane.small, false);
        lane.small = &leftover;
        leftover.stage = ChunkStage::kOpen;
      } else {
        layout.partial.push_back(leftover);  // too short an end
      }
    }
    if (!done && can_open(layout, takes)) {
      if (log == nullptr) return Outcome::kNeedsChunk;
      seal(layout, lane.small, false);
      lane.small = &open(layout, *log);
      done = take_run(layout, *lane.small, blocks, out);
    }
    if (!done && !fill_holes(layout, lane, request, out)) return Outcome::kNoSpace;
  }
  return Outcome::kDone;
}

// Promises are kept for as if all of them were of the widest policy that any was made under. To chunks of other
// layouts they leave whole chunks only.
std::size_t Allocator::promise_width() const {
  const auto most = static_cast<std::uint8_t>(promise_width_);
  return std::max<std::size_t>(1, width_of({.copies_or_data = most}));
}

// What fresh blocks of this layout leave alone of what is available to it.
std::uint64_t Allocator::kept_blocks(const Layout& layout) const {
  if (promised_blocks_ == 0 || layout.policy.whole_files) return layout.overwrite_reserve_blocks;
  const bool of_promises = width_of(layout.policy) == promise_width() || !holds_promises();
  return layout.overwrite_reserve_blocks + (of_promises ? promised_blocks_ : 0);
}

// So much cannot have been promised under the widest policy: then each layout keeps it as its own.
bool Allocator::holds_promises() const {
  return chunks_that_fit(candidates(false, true), promise_width()) * kSlotBlocks >=
         promised_elsewhere();
}

// Of the promises what has no room in chunks of their width that are there: in those of whole files not every file has.
std::uint64_t Allocator::promised_elsewhere() const {
  std::uint64_t blocks = promised_blocks_;
  for (const auto& layout : layouts_) {
    if (width_of(layout->policy) == promise_width() && !layout->policy.whole_files)
      blocks -= std::min(blocks, layout->free_blocks);
  }
  return blocks;
}

// How many chunks of this layout can be opened with room left for what is promised to others.
std::uint64_t Allocator::spare_chunks(const Layout& layout) const {
  const std::size_t width = width_of(layout.policy);
  if (promised_blocks_ == 0) return ~std::uint64_t{0};
  const bool held = holds_promises();
  const bool whole = layout.policy.whole_files;
  if (!whole && (width == promise_width() || !held)) return ~std::uint64_t{0};
  // Nobody keeps them on one disk: then they are kept on all as if made for one copy.
  const std::size_t of_promises = held ? promise_width() : 1;
  const std::uint64_t fit = chunks_that_fit(candidates(false, true), of_promises);
  const std::uint64_t needed = ceil_div(promised_elsewhere(), kSlotBlocks);
  // Each slot that is taken makes one chunk fewer at most.
  return fit > needed ? (fit - needed) / std::max<std::size_t>(1, width) : 0;
}

// Whether `blocks` fit, of which `fresh_blocks` must leave the reserve and the promises alone.
bool Allocator::fits(Layout& layout, std::uint64_t fresh_blocks, std::uint64_t blocks,
                     bool may_take_promises) {
  // The holes alone are enough as a rule; counting the slots costs more.
  const std::uint64_t kept = kept_blocks(layout);
  if (layout.free_blocks >= blocks + kept) return true;
  if (available_blocks(layout) < blocks) return false;
  if (may_take_promises) return true;
  const std::uint64_t chunks = std::min(layout.chunks_fit, spare_chunks(layout));
  const std::uint64_t needed = fresh_blocks == 0 ? blocks : std::max(fresh_blocks + kept, blocks);
  return layout.free_blocks + chunks * kSlotBlocks >= needed;
}

bool Allocator::can_open(Layout& layout, bool may_take_promises) {
  available_blocks(layout);
  return layout.chunks_fit > 0 && (may_take_promises || spare_chunks(layout) > 0);
}

std::uint64_t Allocator::available_blocks(Layout& layout) {
  if (layout.chunks_fit_version != slots_version_) {
    layout.chunks_fit = chunks_that_fit(candidates(false, true, &layout), width_of(layout.policy));
    layout.chunks_fit_version = slots_version_;
  }
  return layout.free_blocks + layout.chunks_fit * kSlotBlocks;
}

Chunk& Allocator::open(Layout& layout, ChunkLog& log) {
  ChunkPut put{.chunk = ChunkId{next_chunk_++}, .layout = layout.policy, .places = {}};
  for (const DiskId disk :
       layout.placement.choose(candidates(false, true, &layout), width_of(layout.policy))) {
    const std::optional<SlotId> slot = slots_.take_lowest(disk);
    DFS_ASSERT(slot.has_value());
    put.places.push_back({.disk = disk, .slot = *slot});
  }
  DFS_ASSERT(!put.places.empty());
  log.append(put);
  Chunk& chunk = chunks_.add(put.chunk, put.layout, put.places);
  touch(chunk);
  slots_changed();
  chunk.stage = ChunkStage::kOpen;
  judge(chunk);
  metrics_.chunks_opened.add();
  return chunk;
}

// The write point lets go of its chunk.
void Allocator::seal(Layout& layout, Chunk*& chunk, bool has_long_tail) {
  Chunk* const old = std::exchange(chunk, nullptr);
  if (old == nullptr) return;
  old->stage = ChunkStage::kSealed;
  if (old->fillable && old->free_blocks() > 0) {
    (has_long_tail ? layout.leftovers : layout.list_of(*old)).push_back(*old);
  }
  note_if_empty(*old);
}

void Allocator::note_if_empty(Chunk& chunk) {
  if (chunk.group() != nullptr) return note_if_empty(*chunk.group());
  if (chunk.stage != ChunkStage::kSealed || chunk.held_blocks() != 0 || chunk.empty_noted ||
      chunk.moving)
    return;
  chunk.empty_noted = true;
  empty_.push_back(chunk.id);
}

void Allocator::take(Layout& layout, Chunk& chunk, std::uint32_t block, std::uint32_t count,
                     std::vector<Piece>& out) {
  {
    const ChunkTable::Resizing resizing(chunks_, chunk);
    DFS_ASSERT(chunk.live.is_clear(block, count));
    chunk.unnamed.set(block, count);
  }
  chunk.used_blocks = static_cast<std::uint16_t>(chunk.used_blocks + count);
  chunk.cursor = static_cast<std::uint16_t>(block + count);
  layout.free_blocks -= count;
  if (block < chunk.high_water) {
    metrics_.blocks_reused.add(std::min<std::uint32_t>(count, chunk.high_water - block));
  }
  chunk.high_water = std::max(chunk.high_water, chunk.cursor);
  if (chunk.free_blocks() == 0 && chunk.list != nullptr) chunk.list->remove(chunk);
  if (!out.empty()) {
    Piece& before = out.back();
    if (before.chunk == chunk.id && before.block + before.count == static_cast<int>(block)) {
      before.count = static_cast<std::uint16_t>(before.count + count);
      return;
    }
  }
  out.push_back({.chunk = chunk.id,
                 .block = static_cast<std::uint16_t>(block),
                 .count = static_cast<std::uint16_t>(count)});
}

// `count` blocks in one piece, behind the last ones if possible; false if there is no such run.
bool Allocator::take_run(Layout& layout, Chunk& chunk, std::uint32_t count,
                         std::vector<Piece>& out) {
  if (chunk.free_blocks() < count) return false;
  const EitherWords used = chunk.used();
  std::optional<std::uint32_t> start = find_clear_run(used, chunk.cursor, kSlotBlocks, count);
  if (!start) {
    const auto end = std::min<std::uint32_t>(chunk.cursor + count - 1, kSlotBlocks);
    start = find_clear_run(used, 0, end, count);
  }
  if (!start) return false;
  take(layout, chunk, *start, count, out);
  return true;
}

// Up to `count` blocks, in as many pieces as it takes; returns how many.
std::uint32_t Allocator::take_some(Layout& layout, Chunk& chunk, std::uint32_t count,
                                   std::vector<Piece>& out) {
  std::uint32_t taken = 0;
  while (taken < count && chunk.free_blocks() > 0) {
    const EitherWords used = chunk.used();
    std::uint32_t start = next_clear(used, chunk.cursor);
    if (start == kSlotBlocks) start = next_clear(used, 0);
    const std::uint32_t end = next_set(used, start);
    const std::uint32_t blocks = std::min(end - start, count - taken);
    take(layout, chunk, start, blocks, out);
    taken += blocks;
  }
  return taken;
}

// No chunk can be opened any more. fits() has seen that there is room; false, and nothing is taken, if
// it is where data that is being moved must not go.
bool Allocator::fill_holes(Layout& layout, Lane& lane, const Request& request,
                           std::vector<Piece>& out) {
  const std::uint32_t count = request.blocks;
  // In one piece, if a short look finds it. A guess: more chunks looked at cost more than a seek.
  constexpr int kLooks = 16;
  for (Lane& other : layout.lanes) {
    for (Chunk* const chunk : {other.large, other.small}) {
      if (chunk != nullptr && take_run(layout, *chunk, count, out)) return true;
    }
  }
  for (ChunkList* const list : {&layout.leftovers, &layout.partial}) {
    for (int look = 0; look < kLooks && list->head != nullptr; ++look) {
      Chunk& chunk = *list->head;
      const bool found = take_run(layout, chunk, count, out);
      // Looked at: to the back, so that the next search begins behind it.
      if (chunk.list != nullptr) {
        list->remove(chunk);
        list->push_back(chunk);
      }
      if (!found) continue;
      // Small writes go on here.
      if (count < kLargeBlocks && chunk.list != nullptr) {
        list->remove(chunk);
        seal(layout, lane.small, false);
        lane.small = &chunk;
        chunk.stage = ChunkStage::kOpen;
      }
      return true;
    }
  }
  if (request.in_one_piece) return false;
  // In pieces.
  const std::size_t before = out.size();
  std::uint32_t left = count;
  for (ChunkList* const list : {&layout.partial, &layout.leftovers}) {
    while (left > 0 && list->head != nullptr) left -= take_from(layout, *list->head, left, out);
  }
  for (Lane& other : layout.lanes) {
    for (Chunk* const chunk : {other.large, other.small}) {
      if (left > 0 && chunk != nullptr) left -= take_some(layout, *chunk, left, out);
    }
  }
  if (request.moving && left > 0) {
    for (std::size_t i = before; i < out.size(); ++i) {
      give(*chunks_.find(out[i].chunk), out[i].block, out[i].count);
    }
    out.resize(before);
    return false;
  }
  while (left > 0 && layout.draining.head != nullptr) {
    left -= take_from(layout, *layout.draining.head, left, out);
  }
  DFS_ASSERT(left == 0);
  return true;
}

// take_some() from a chunk of a list, which has room therefore.
std::uint32_t Allocator::take_from(Layout& layout, Chunk& chunk, std::uint32_t count,
                                   std::vector<Piece>& out) {
  DFS_ASSERT(chunk.free_blocks() > 0);
  return take_some(layout, chunk, count, out);
}

// Compaction.

std::vector<ChunkId> Allocator::drain_sparse(Drain why) {
  LockGuard lock(mutex_);
  for (const auto& groups : groups_) drain_sparse(layout_of(groups->policy), groups->policy, why);
  // By number: one that is looked for and not there yet is put behind the last.
  for (std::size_t i = 0; i < layouts_.size(); ++i) {
    Layout& layout = *layouts_[i];
    const bool of_groups = std::ranges::any_of(
        groups_, [&](const auto& groups) { return groups->policy.of_copies() == layout.policy; });
    if (!of_groups) drain_sparse(layout, layout.policy, why);
  }
  std::ranges::sort(draining_);
  return draining_;
}

// Those that were written under one policy, its copies as well as its groups.
void Allocator::drain_sparse(Layout& layout, journal::Policy policy, Drain why) {
  const bool in_any_case = why != Drain::kWhenShort;
  const std::uint64_t total = chunks_that_fit(whole_disks(layout), width_of(policy));
  const std::uint64_t soon_free =
      chunks_that_fit(candidates(true, true, &layout), width_of(policy));
  if (!in_any_case && soon_free * kShortOfSlots > total) return;

  std::vector<Chunk*> sparse;
  for (const ChunkList* const list : {&layout.partial, &layout.leftovers}) {
    for (Chunk* chunk = list->head; chunk != nullptr; chunk = chunk->next) {
      // Moving is writing: what is shared would be there twice, and its old place be kept all the same.
      if (chunk->held_blocks() > 0 && chunk->held_blocks() <= kSlotBlocks / 2 &&
          !shared_.contains(chunk->id.raw)) {
        sparse.push_back(chunk);
      }
    }
  }
  if (why == Drain::kForRoom) {
    // What has a place on a disk that is away is in no list.
    const auto is_here = [&](const Place& place) DFS_NO_THREAD_SAFETY_ANALYSIS {
      return view_->is_healthy(place.disk);
    };
    chunks_.for_each([&](Chunk& chunk) DFS_NO_THREAD_SAFETY_ANALYSIS {
      if (chunk.group() == nullptr && !chunk.fillable && !chunk.moving &&
          chunk.stage == ChunkStage::kSealed && &layout_of(chunk) == &layout &&
          chunk.held_blocks() > 0 && chunk.held_blocks() <= kSlotBlocks / 2 &&
          std::ranges::any_of(chunk.places, is_here) && !shared_.contains(chunk.id.raw)) {
        sparse.push_back(&chunk);
      }
    });
  }
  std::ranges::sort(sparse, {}, [](const Chunk* chunk) { return chunk->held_blocks(); });
  // As many as what they hold has room outside of them, until a fifth of the slots would be free.
  const std::uint64_t kept = kept_blocks(layout);
  std::uint64_t room = available_blocks(layout);
  std::uint64_t held = 0;
  std::uint64_t gain = 0;
  std::size_t count = 0;
  while (count < sparse.size()) {
    const Chunk& next = *sparse[count];
    if (!in_any_case && (soon_free + gain) * kShortOfSlots / 2 > total) break;
    const std::uint64_t lost = next.fillable ? next.free_blocks() : 0;
    if (room < lost + held + next.held_blocks() + kept) break;
    room -= lost;
    held += next.held_blocks();
    ++count;
    gain = count - ceil_div(held, kSlotBlocks);
  }
  std::uint64_t least = std::max<std::uint64_t>(1, total / kWorthwhile);
  if (in_any_case) least = why == Drain::kAll ? 0 : 1;
  if (policy.kind == journal::Policy::Kind::kErasure) {
    const std::size_t width = width_of(policy);
    const std::uint64_t wanted =
        in_any_case ? ~std::uint64_t{0} : total * 2 / kShortOfSlots * width;
    const std::uint64_t slots = in_any_case ? 1 : least * width;
    const std::uint64_t given_up =
        drain_groups(groups_of(policy), slots, wanted, why == Drain::kForRoom);
    gain += ceil_div(given_up, width);
  }
  if (gain < least) return;
  for (std::size_t i = 0; i < count; ++i) {
    Chunk& chunk = *sparse[i];
    chunk.draining = true;
    draining_.push_back(chunk.id);
    if (chunk.list == nullptr) continue;
    chunk.list->remove(chunk);
    layout.draining.push_back(chunk);
  }
}

std::uint64_t Allocator::draining_blocks() const {
  LockGuard lock(mutex_);
  std::uint64_t blocks = 0;
  for (const ChunkId id : draining_) {
    const Chunk* const chunk = chunks_.find(id);
    if (chunk != nullptr && chunk->stage != ChunkStage::kRemoved) blocks += chunk->held_blocks();
  }
  return blocks;
}

void Allocator::stop_draining() {
  LockGuard lock(mutex_);
  for (const ChunkId id : draining_) {
    Chunk* const chunk = chunks_.find(id);
    if (chunk == nullptr) continue;
    if (ParityGroup* const group = chunk->group()) {
      Groups& groups = groups_of(group->policy);
      group->draining = false;
      if (group->list != &groups.draining) continue;
      groups.draining.remove(*group);
      groups.partial.push_back(*group);
      continue;
    }
    chunk->draining = false;
    Layout& layout = layout_of(*chunk);
    if (chunk->list != &layout.draining) continue;
    layout.draining.remove(*chunk);
    layout.partial.push_back(*chunk);
  }
  draining_.clear();
}

void Allocator::note_moved(std::uint64_t blocks) {
  LockGuard lock(mutex_);
  DFS_ASSERT(moving_blocks_ >= blocks);
  moving_blocks_ -= blocks;
}

// Giving back.

void Allocator::give(Chunk& chunk, std::uint32_t block, std::uint32_t count) {
  {
    const ChunkTable::Resizing resizing(chunks_, chunk);
    chunk.unnamed.clear(block, count);
  }
  chunk.used_blocks = static_cast<std::uint16_t>(chunk.used_blocks - count);
  if (chunk.group() != nullptr) return note_rows_given(chunk, block, count);
  if (chunk.fillable) {
    Layout& layout = layout_of(chunk);
    layout.free_blocks += count;
    if (chunk.stage == ChunkStage::kSealed && chunk.list == nullptr)
      layout.list_of(chunk).push_back(chunk);
  }
}

void Allocator::discard(std::span<const Piece> pieces) {
  LockGuard lock(mutex_);
  for (const Piece& piece : pieces) {
    Chunk* const chunk = chunks_.find(piece.chunk);
    DFS_ASSERT(chunk != nullptr && chunk->stage != ChunkStage::kRemoved);
    give(*chunk, piece.block, piece.count);
    note_if_empty(*chunk);
  }
}

// Live blocks.

// The chunk is not clean until a run of this era or a later one is installed.
void Allocator::touch(Chunk& chunk) {
  const std::uint64_t era = eras_.current.load(std::memory_order_acquire);
  if (std::exchange(chunk.era, era) != era) dirty_.emplace_back(chunk.id, era);
}

// False, and nothing has changed, if there are no such blocks or one of them is live.
bool Allocator::set_live(const Piece& piece) {
  Chunk* const chunk = chunks_.find(piece.chunk);
  if (chunk == nullptr || piece.count == 0 || piece.block + piece.count > kSlotBlocks) return false;
  if (!chunk->live.is_clear(piece.block, piece.count)) return false;
  const ChunkTable::Resizing resizing(chunks_, *chunk);
  chunk->live.set(piece.block, piece.count);
  chunk->live_count = static_cast<std::uint16_t>(chunk->live_count + piece.count);
  live_blocks_ += piece.count;
  if (chunk->group() != nullptr) striped_blocks_ += piece.count;
  touch(*chunk);
  return true;
}

// A mapping of these is gone; `dead`: those that no other names. False, and nothing has changed, if one
// of them is not live.
bool Allocator::clear_live(const Piece& piece, DeadPieces* dead) {
  dead->clear();
  Chunk* const chunk = chunks_.find(piece.chunk);
  if (chunk == nullptr || piece.count == 0 || piece.block + piece.count > kSlotBlocks) return false;
  if (!chunk->live.is_set(piece.block, piece.count)) return false;
  touch(*chunk);
  clear_references(*chunk, piece, *dead);
  const ChunkTable::Resizing resizing(chunks_, *chunk);
  for (const Piece& last : *dead) {
    chunk->live.clear(last.block, last.count);
    chunk->live_count = static_cast<std::uint16_t>(chunk->live_count - last.count);
    live_blocks_ -= last.count;
    if (chunk->group() != nullptr) striped_blocks_ -= last.count;
  }
  return true;
}

void Allocator::clear_references(Chunk& chunk, const Piece& piece, DeadPieces& dead) {
  const auto at = shared_.find(chunk.id.raw);
  if (at == shared_.end()) {
    dead.emplace_back() = piece;
    return;
  }
  SharedBlocks& shared = at->second;
  const std::uint64_t blocks = shared.blocks();
  const std::uint64_t saved = shared.saved();
  shared.remove(piece.block, piece.count, [&](std::uint32_t block, std::uint32_t count) {
    dead.emplace_back() = {.chunk = chunk.id,
                           .block = static_cast<std::uint16_t>(block),
                           .count = static_cast<std::uint16_t>(count)};
  });
  shared_blocks_ -= blocks - shared.blocks();
  saved_blocks_ -= saved - shared.saved();
  if (shared.empty()) shared_.erase(at);
}

bool Allocator::can_share(const Piece& piece) const {
  const Chunk* const chunk = chunks_.find(piece.chunk);
  if (chunk == nullptr || piece.count == 0 || piece.block + piece.count > kSlotBlocks) return false;
  if (!chunk->live.is_set(piece.block, piece.count)) return false;
  const auto at = shared_.find(piece.chunk.raw);
  return at == shared_.end() || at->second.can_add(piece.block, piece.count);
}

void Allocator::add_reference(const Piece& piece) {
  touch(*chunks_.find(piece.chunk));
  SharedBlocks& shared = shared_[piece.chunk.raw];
  const std::uint64_t blocks = shared.blocks();
  const std::uint64_t saved = shared.saved();
  shared.add(piece.block, piece.count);
  shared_blocks_ += shared.blocks() - blocks;
  saved_blocks_ += shared.saved() - saved;
}

bool Allocator::share(std::span<const Piece> pieces) {
  LockGuard lock(mutex_);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (can_share(pieces[i])) {
      add_reference(pieces[i]);
      continue;
    }
    // They were there before, so none of them dies.
    DeadPieces dead;
    while (i-- > 0) {
      DFS_ASSERT(clear_live(pieces[i], &dead));
      DFS_ASSERT(dead.size() == 0);
    }
    return false;
  }
  return true;
}

bool Allocator::is_shared(std::span<const Piece> pieces) const {
  LockGuard lock(mutex_);
  return std::ranges::any_of(pieces, [&](const Piece& piece) DFS_NO_THREAD_SAFETY_ANALYSIS {
    const auto at = shared_.find(piece.chunk.raw);
    return at != shared_.end() && at->second.any(piece.block, piece.count);
  });
}

std::uint64_t Allocator::single_blocks(std::span<const Piece> pieces) const {
  LockGuard lock(mutex_);
  std::uint64_t blocks = 0;
  for (const Piece& piece : pieces) {
    const auto at = shared_.find(piece.chunk.raw);
    blocks += at == shared_.end() ? piece.count : at->second.single(piece.block, piece.count);
  }
  return blocks;
}

void Allocator::publish(std::span<const Piece> pieces) {
  LockGuard lock(mutex_);
  for (const Piece& piece : pieces) {
    DFS_ASSERT(set_live(piece));
    Chunk& chunk = *chunks_.find(piece.chunk);
    const ChunkTable::Resizing resizing(chunks_, chunk);
    chunk.unnamed.clear(piece.block, piece.count);
  }
}

void Allocator::free(std::span<const Piece> pieces, Lsn lsn) {
  LockGuard lock(mutex_);
  // Records that took other references to the same blocks may be younger and have come here before: a
  // block is free when all of them are durable.
  last_freed_ = std::max(last_freed_, lsn);
  DeadPieces dead;
  for (const Piece& piece : pieces) {
    DFS_ASSERT(clear_live(piece, &dead));
    for (const Piece& last : dead) make_pending(last, last_freed_);
  }
}

void Allocator::make_pending(const Piece& piece, Lsn lsn) {
  Chunk& chunk = *chunks_.find(piece.chunk);
  {
    const ChunkTable::Resizing resizing(chunks_, chunk);
    chunk.unnamed.set(piece.block, piece.count);
  }
  chunk.pending_blocks = static_cast<std::uint16_t>(chunk.pending_blocks + piece.count);
  DFS_ASSERT(chunk.pending_blocks <= chunk.used_blocks);
  pending_blocks_ += piece.count;
  if (chunk.fillable) layout_of(chunk).pending_blocks += piece.count;
  pending_.add({.kind = PendingEntry::Kind::kBlocks,
                .lsn = lsn,
                .chunk = piece.chunk,
                .block = piece.block,
                .count = piece.count,
                .disk = {},
                .slot = {}});
  metrics_.blocks_freed.add(piece.count);
  note_if_empty(chunk);
}

bool Allocator::advance(Lsn covered) {
  LockGuard lock(mutex_);
  const std::vector<PendingEntry> released = pending_.advance(covered, hold_, reads_, chunks_);
  for (const PendingEntry& entry : released) {
    if (entry.kind == PendingEntry::Kind::kRunSlot) {
      slots_.give_back(entry.disk, entry.slot);
      --disks_[entry.disk.raw].pending_slots;
      --pending_slots_;
      slots_changed();
      continue;
    }
    if (entry.kind == PendingEntry::Kind::kMovedSlots) {
      forget(entry.moved);
      continue;
    }
    Chunk* const chunk = chunks_.find(entry.chunk);
    if (chunk == nullptr) continue;  // its slots were released before its blocks
    if (entry.kind == PendingEntry::Kind::kChunkSlots && chunk->group() != nullptr) {
      erase(*chunk->group());
      continue;
    }
    if (entry.kind == PendingEntry::Kind::kChunkSlots) {
      for (const Place& place : chunk->places) {
        slots_.give_back(place.disk, place.slot);
        --disks_[place.disk.raw].pending_slots;
        --pending_slots_;
      }
      chunks_.erase(chunk->id);
      slots_changed();
      continue;
    }
    if (chunk->stage == ChunkStage::kRemoved) continue;
    chunk->pending_blocks = static_cast<std::uint16_t>(chunk->pending_blocks - entry.count);
    pending_blocks_ -= entry.count;
    if (chunk->fillable) layout_of(*chunk).pending_blocks -= entry.count;
    give(*chunk, entry.block, entry.count);
  }
  return !released.empty();
}

bool Allocator::has_pending() const {
  LockGuard lock(mutex_);
  return !pending_.empty() || moving_blocks_ != 0;
}

std::size_t Allocator::empty_chunks() const {
  LockGuard lock(mutex_);
  return empty_.size();
}

void Allocator::remove_empty(std::size_t count, ChunkLog& log) {
  LockGuard lock(mutex_);
  for (; count > 0 && !empty_.empty(); --count) {
    Chunk* const chunk = chunks_.find(empty_.back());
    empty_.pop_back();
    if (chunk == nullptr) continue;
    if (chunk->group() != nullptr) {
      remove(*chunk->group(), log);
      continue;
    }
    chunk->empty_noted = false;
    // It may have been filled or opened again meanwhile.
    if (chunk->stage != ChunkStage::kSealed || chunk->held_blocks() != 0 || chunk->moving) continue;
    // Nothing names it: all of its pending blocks were freed by records before this one.
    const Lsn lsn = log.append(ChunkRemove{.chunk = chunk->id});
    if (chunk->list != nullptr) chunk->list->remove(*chunk);
    if (chunk->fillable) {
      Layout& layout = layout_of(*chunk);
      layout.free_blocks -= chunk->free_blocks();
      layout.pending_blocks -= chunk->pending_blocks;
      chunk->fillable = false;
    }
    if (chunk->degraded) --degraded_chunks_;
    chunk->degraded = false;
    misplaced_slots_ -= std::exchange(chunk->to_move, 0);
    pending_blocks_ -= chunk->pending_blocks;
    chunk->stage = ChunkStage::kRemoved;
    touch(*chunk);
    for (const Place& place : chunk->places) {
      ++disks_[place.disk.raw].pending_slots;
      ++pending_slots_;
    }
    pending_.add({.kind = PendingEntry::Kind::kChunkSlots,
                  .lsn = lsn,
                  .chunk = chunk->id,
                  .disk = {},
                  .slot = {}});
    metrics_.chunks_removed.add();
  }
}

bool Allocator::promise(std::uint64_t blocks, journal::Policy policy) {
  LockGuard lock(mutex_);
  // What one disk has no room for goes to the others, in the end to chunks of any file.
  Layout& layout = layout_of(policy.spread());
  if (layout.lanes.empty() || !fits(layout, blocks, blocks)) return false;
  // Those that were promised more narrowly take as much then.
  const std::size_t width = std::max(promise_width_, width_of(policy));
  const std::size_t before = std::exchange(promise_width_, width);
  if (before != width && promised_blocks_ != 0 && !fits(layout, blocks, blocks)) {
    promise_width_ = before;
    return false;
  }
  // What is promised more narrowly must not make it look as if nothing was promised more widely.
  const bool held = holds_promises();
  promised_blocks_ += blocks;
  if (!held || holds_promises()) return true;
  promised_blocks_ -= blocks;
  promise_width_ = before;
  return false;
}

void Allocator::note_promised(std::uint64_t blocks, std::size_t width) {
  LockGuard lock(mutex_);
  promise_width_ = std::max(promise_width_, width);
  promised_blocks_ += blocks;
}

void Allocator::unpromise(std::uint64_t blocks) {
  LockGuard lock(mutex_);
  DFS_ASSERT(promised_blocks_ >= blocks);
  promised_blocks_ -= blocks;
  if (promised_blocks_ == 0) promise_width_ = 1;
}

}  // namespace dynamicfs::extent
