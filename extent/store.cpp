// Assembly, recovery, reports. The work is in write_path.cpp, read_path.cpp and reclaim.cpp.
#include "extent/store.hpp"

#include <algorithm>
#include <set>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "extent/store_impl.hpp"

namespace dynamicfs::extent {
namespace {

// How long a disk takes no new slots after its host had no space for it. A guess: long enough not
// to fail every write once more, short enough that space freed on the host is noticed.
constexpr Duration kHostFullRest = std::chrono::seconds{10};
// How long after a write was refused for want of space a disk is called full.
constexpr Duration kFullFor = std::chrono::seconds{60};

}  // namespace

Store::Impl::Impl(Executor& executor_in, journal::Pool& pool_in, journal::ChangeGate& gate_in,
                  journal::Eras& eras)
    : executor(executor_in),
      pool(pool_in),
      gate(gate_in),
      maps(eras),
      allocator(chunks, reads, metrics, eras),
      hedges(executor_in),
      reclaiming(executor_in),
      view(look_at(pool_in)) {
  allocator.set_disks(view, {});
}

std::shared_ptr<const PoolView> Store::Impl::look() {
  LockGuard lock(view_mutex);
  bool changed = pool.healthy() != view->healthy;
  if (changed) view = look_at(pool);
  if (!host_full.empty()) {
    const TimePoint now = executor.now();
    changed |= std::erase_if(host_full, [&](const auto& entry) { return entry.second <= now; }) > 0;
  }
  if (changed) {
    look_for_closed();
    tell_allocator();
  }
  return view;
}

void Store::Impl::look_for_closed() {
  // One that stays after all, or has left.
  std::erase_if(closed, [&](DiskId disk) DFS_NO_THREAD_SAFETY_ANALYSIS {
    const PoolView::DiskEntry* const entry = view->find(disk);
    return entry == nullptr || !entry->leaving;
  });
  for (std::size_t i = 0; i < view->disks.size(); ++i) {
    const DiskId disk{static_cast<std::uint16_t>(i)};
    if (view->disks[i].spare && std::ranges::find(closed, disk) == closed.end())
      closed.push_back(disk);
  }
}

bool Store::Impl::close_if_unused(DiskId disk) {
  look();
  LockGuard lock(view_mutex);
  const PoolView::DiskEntry* const entry = view->find(disk);
  if (entry == nullptr || !entry->leaving) return false;
  if (std::ranges::find(closed, disk) == closed.end()) {
    closed.push_back(disk);
    tell_allocator();
  }
  return allocator.is_unused(disk);
}

// A disk that leaves, or is suspect, is better than a missing copy: it is left alone only if the rest suffices. One that leaves
// has to be emptied while there are hardly others, so the second copy that a run wants is no reason to keep it, but what
// the policies ask for is: then another disk has been lost meanwhile.
std::vector<DiskId> Store::Impl::left_alone() const {
  std::vector<DiskId> disks;
  for (const auto& [disk, until] : host_full) disks.push_back(disk);
  // A run wants two copies whatever the policy. The third that it gets beside whole files has to do without them.
  const std::size_t copies = std::max<std::size_t>(2, pool.data_tolerance() + 1);
  const std::size_t wanted = std::min(copies, view->healthy->size());
  const auto leave_alone_too = [&](const std::vector<DiskId>& more, std::size_t least) {
    std::vector<DiskId> with_more = disks;
    for (const DiskId disk : more) {
      if (std::ranges::find(with_more, disk) == with_more.end()) with_more.push_back(disk);
    }
    const auto usable = std::ranges::count_if(*view->healthy, [&](DiskId id) {
      return std::ranges::find(with_more, id) == with_more.end();
    });
    if (static_cast<std::size_t>(usable) >= least) disks = std::move(with_more);
  };
  std::vector<DiskId> leaving;
  for (const DiskId id : *view->healthy) {
    if (view->find(id)->leaving) leaving.push_back(id);
  }
  const std::size_t staying = view->healthy->size() - leaving.size();
  const std::size_t asked = std::min<std::size_t>(pool.data_tolerance() + 1, view->healthy->size());
  leave_alone_too(leaving, std::max(asked, std::min(copies, std::max<std::size_t>(staying, 1))));
  leave_alone_too(suspects, wanted);
  return disks;
}

// Also which of those only do not answer in time: what has nowhere else to go waits for them.
void Store::Impl::tell_allocator() {
  std::vector<DiskId> slow = suspects;
  std::erase_if(slow, [&](DiskId disk) DFS_NO_THREAD_SAFETY_ANALYSIS {
    return std::ranges::find(host_full, disk, &std::pair<DiskId, TimePoint>::first) !=
           host_full.end();
  });
  allocator.set_disks(view, left_alone(), closed, std::move(slow));
}

void Store::Impl::note_suspects(std::vector<DiskId> disks) {
  LockGuard lock(view_mutex);
  if (disks == suspects) return;
  suspects = std::move(disks);
  tell_allocator();
}

bool Store::Impl::try_full_disks_again() {
  LockGuard lock(view_mutex);
  if (host_full.empty() && suspects.empty()) return false;
  host_full.clear();
  suspects.clear();
  tell_allocator();
  return true;
}

void Store::Impl::note_host_full(DiskId disk) {
  LockGuard lock(view_mutex);
  const TimePoint now = executor.now();
  auto last = std::ranges::find(last_full, disk, &std::pair<DiskId, TimePoint>::first);
  if (last == last_full.end() || now - last->second >= kFullFor) {
    log_warning("disk {}: the file system under it, or its volume, is full", disk);
  }
  if (last == last_full.end()) last = last_full.insert(last, {disk, now});
  last->second = now;
  const TimePoint until = now + kHostFullRest;
  const auto known = std::find_if(host_full.begin(), host_full.end(),
                                  [&](const auto& entry) { return entry.first == disk; });
  if (known != host_full.end()) {
    known->second = until;
    return;
  }
  host_full.emplace_back(disk, until);
  tell_allocator();
}

Written part_of(const Written& written, std::size_t first, std::size_t count) {
  Written part;
  part.striped = written.striped;
  part.losses = written.losses;
  part.crcs.assign(written.crcs.begin() + static_cast<std::ptrdiff_t>(first),
                   written.crcs.begin() + static_cast<std::ptrdiff_t>(first + count));
  std::size_t at = 0;
  for (const Piece& piece : written.pieces) {
    const std::size_t from = std::max(at, first);
    const std::size_t to = std::min(at + piece.count, first + count);
    if (from < to) {
      part.pieces.push_back({.chunk = piece.chunk,
                             .block = static_cast<std::uint16_t>(piece.block + (from - at)),
                             .count = static_cast<std::uint16_t>(to - from)});
    }
    at += piece.count;
  }
  return part;
}

Store::Store(Executor& executor, journal::Pool& pool, journal::ChangeGate& gate,
             journal::Eras& eras)
    : impl_(std::make_unique<Impl>(executor, pool, gate, eras)) {}

Store::~Store() = default;

// Recovery.

Result<void> Store::load(ChunkId id, const ChunkState& state) {
  return impl_->allocator.load(id, state);
}

void Store::tolerate_conflicts() { impl_->allocator.tolerate_conflicts(); }

bool Store::knows(ChunkId id) const { return impl_->allocator.knows(id); }

void Store::load_next_chunk(std::uint32_t id) { impl_->allocator.load_next_chunk(id); }

Result<void> Store::replay(const ChunkPut& change) { return impl_->allocator.replay(change); }

Result<void> Store::replay(const ChunkRemove& change) { return impl_->allocator.replay(change); }

Result<void> Store::note_live(std::span<const Piece> pieces) {
  return impl_->allocator.note_live(pieces);
}

Result<void> Store::note_dead(std::span<const Piece> pieces) {
  return impl_->allocator.note_dead(pieces);
}

Result<void> Store::note_shared(std::span<const Piece> pieces) {
  return impl_->allocator.note_shared(pieces);
}

void Store::recount(ChunkId id, const BlockBitmap& live, const SharedBlocks& shared) {
  impl_->allocator.recount(id, live, shared);
}

Task<std::optional<std::size_t>> Store::first_missing(Claims claims) {
  return impl_->first_missing(std::move(claims));
}

void Store::keep_run(std::span<const journal::RunCopy> copies) {
  impl_->allocator.keep_run(copies);
}

void Store::widen_promises(journal::Policy policy) {
  impl_->allocator.note_promised(0, policy.of_copies().copies_or_data);
}

void Store::note_reserved(std::uint64_t blocks) {
  impl_->allocator.note_promised(blocks, impl_->pool.data_tolerance() + 1);
}

void Store::start(journal::Journal& journal) {
  impl_->journal = &journal;
  // The journal has begun its epoch: who is stale is known only now.
  {
    LockGuard lock(impl_->view_mutex);
    impl_->view = look_at(impl_->pool);
    impl_->look_for_closed();
    impl_->tell_allocator();
  }
  impl_->allocator.start();
}

// Data.

Task<Result<Written>> Store::write(WriteHint hint, std::span<const std::byte> data) {
  return impl_->write(hint, data);
}

void Store::discard(const Written& written) { impl_->allocator.discard(written.pieces); }

void Store::publish(const Written& written) { impl_->allocator.publish(written.pieces); }

bool Store::share(std::span<const Piece> pieces) { return impl_->allocator.share(pieces); }

namespace {

std::vector<Piece> pieces_of(const MappingSet& set) {
  std::vector<Piece> pieces;
  for (const Mapping& mapping : set.mappings) {
    if (mapping.kind != MappingKind::kData) continue;
    pieces.push_back({.chunk = mapping.chunk, .block = mapping.block, .count = mapping.count});
  }
  return pieces;
}

}  // namespace

std::uint64_t Store::single_blocks(const MappingSet& set) const {
  return impl_->allocator.single_blocks(pieces_of(set));
}

bool Store::is_shared(const MappingSet& set) const {
  return shared_blocks() != 0 && impl_->allocator.is_shared(pieces_of(set));
}

void Store::free(const Freed& freed, Lsn lsn) {
  if (!freed.pieces.empty()) impl_->allocator.free(freed.pieces, lsn);
  if (freed.reserved_blocks != 0) impl_->allocator.unpromise(freed.reserved_blocks);
}

std::optional<DiskId> Store::home(std::optional<DiskId> known, std::uint64_t blocks) {
  impl_->look();
  return impl_->allocator.home(known, blocks);
}
std::uint64_t Store::room_at_home(DiskId disk) {
  impl_->look();
  return impl_->allocator.room_at_home(disk);
}
std::optional<DiskId> Store::disk_of(ChunkId chunk) const {
  return impl_->allocator.disk_of(chunk);
}
bool Store::is_leaving(DiskId disk) const {
  const PoolView::DiskEntry* const entry = impl_->look()->find(disk);
  return entry != nullptr && entry->leaving;
}

Task<Result<void>> Store::promise(std::uint64_t blocks, journal::Policy policy) {
  return impl_->promise(blocks, policy);
}

void Store::unpromise(std::uint64_t blocks) { impl_->allocator.unpromise(blocks); }

std::vector<ChunkId> Store::drain_sparse(Drain why) {
  impl_->look();
  return impl_->allocator.drain_sparse(why);
}
void Store::stop_draining() { impl_->allocator.stop_draining(); }
std::uint64_t Store::draining_blocks() const { return impl_->allocator.draining_blocks(); }
void Store::note_moved(const Written& written) { impl_->allocator.note_moved(written.crcs.size()); }
std::uint64_t Store::copied_blocks() const { return impl_->allocator.copied_blocks(); }
bool Store::has_groups() const { return impl_->allocator.has_groups(); }
std::optional<journal::Policy> Store::layout(ChunkId chunk) const {
  return impl_->allocator.layout(chunk);
}
std::size_t Store::copies(ChunkId chunk) const { return impl_->allocator.copies(chunk); }
bool Store::lost_before_durable(const Mapping& mapping) const {
  impl_->look();
  const std::optional<Allocator::Lost> lost = impl_->allocator.lost(mapping.chunk);
  if (!lost) return false;
  // It could be read until the last one that it could not do without went. Those that were away at the mount went first.
  std::vector<Lsn> durable;
  for (const DiskId disk : lost->gone)
    durable.push_back(impl_->pool.durable_at_loss(disk).value_or(Lsn{}));
  std::ranges::sort(durable);
  const Lsn last = durable[lost->tolerance];
  return last.raw != 0 && mapping.generation.raw > last.raw;
}
Task<Result<void>> Store::flush(const Written& written) {
  const std::shared_ptr<const PoolView> disks = impl_->look();
  std::set<DiskId> places;
  for (const Piece& piece : written.pieces) {
    if (const std::optional<DiskId> disk = impl_->allocator.disk_of(piece.chunk))
      places.insert(*disk);
  }
  scheduler::IoGroup flushes;
  std::vector<DiskId> flushed;
  for (const DiskId disk : places) {
    const PoolView::DiskEntry* const entry = disks->find(disk);
    if (entry == nullptr || entry->disk == nullptr) co_return error(Code::kDiskGone);
    if (!entry->disk->needs_flush()) continue;
    flushes.flush(*entry->disk, scheduler::IoClass::kBackground);
    flushed.push_back(disk);
  }
  co_await flushes.run();
  Result<void> outcome;
  for (std::size_t i = 0; i < flushed.size(); ++i) {
    const Error failure = flushes.error(i);
    if (failure.code == Code::kOk) continue;
    // It may have been about anything that was written there, and is said once.
    const Result<void> reported =
        co_await impl_->pool.report_failure(flushed[i], failure, &flushes.disk(i));
    reported.ignore("it is gone in any case");
    outcome = error(Code::kDiskGone);
  }
  co_return outcome;
}
bool Store::close_if_unused(DiskId disk) { return impl_->close_if_unused(disk); }
std::uint64_t Store::writes_mark() { return impl_->writers.current(); }
bool Store::writes_ended(std::uint64_t mark) { return impl_->writers.try_advance() >= mark; }

std::vector<ChunkId> Store::misplaced_chunks() const {
  impl_->look();
  return impl_->allocator.misplaced();
}
std::uint64_t Store::misplaced_bytes() const {
  impl_->look();
  return impl_->allocator.misplaced_slots() * kSlotBytes;
}
std::vector<ChunkId> Store::chunks_on(DiskId disk) const {
  return impl_->allocator.chunks_on(disk);
}
bool Store::has_chunks(DiskId disk) const { return impl_->allocator.has_chunks(disk); }
Task<Result<bool>> Store::move_chunk(ChunkId chunk, std::optional<DiskId> off,
                                     bool only_to_emptier) {
  return impl_->move_chunk(chunk, off, only_to_emptier);
}
RoomWithout Store::room_without(DiskId disk) const {
  impl_->look();
  return impl_->allocator.room_without(disk);
}

Task<Result<void>> Store::read(const FileMap& map, InodeId inode, FileBlock first, Buffer& out,
                               scheduler::IoClass io_class) {
  return impl_->read(map, inode, first, out, io_class);
}

Task<Result<journal::ScrubCounts>> Store::scrub(const FileMap& map, InodeId inode, FileBlock first,
                                                std::uint64_t count, ScrubOf of) {
  return impl_->scrub(map, inode, first, count, of);
}

bool Store::has_doubtful() const {
  LockGuard lock(impl_->doubtful_mutex);
  return !impl_->doubtful_rows.empty();
}
void Store::note_doubtful(const FileMap& map, FileBlock first, std::uint64_t count) {
  impl_->note_doubtful(map, first, count);
}
Task<journal::ScrubCounts> Store::scrub_doubtful() { return impl_->scrub_doubtful(); }

void Store::on_unrecoverable(std::function<void(InodeId, FileBlock)> listener) {
  LockGuard lock(impl_->view_mutex);
  impl_->unrecoverable = std::move(listener);
}

ExtentLocks& Store::locks() { return impl_->locks; }
MapContext& Store::map_context() { return impl_->maps; }

// Housekeeping and checkpoint.

Task<void> Store::reclaim() { return impl_->reclaim(); }

SpaceReport Store::space(journal::Policy policy) const {
  impl_->look();
  const Allocator::Space space = impl_->allocator.space(policy);
  SpaceReport report;
  report.usable_bytes = space.usable_blocks * kBlockBytes;
  report.free_bytes = space.free_blocks * kBlockBytes;
  report.pending_bytes = space.pending_blocks * kBlockBytes;
  report.promised_bytes = space.promised_blocks * kBlockBytes;
  report.reserve_bytes = space.reserve_blocks * kBlockBytes;
  report.degraded_chunks = space.degraded_chunks;
  for (const auto& [disk, slots] : space.used_slots) {
    report.used_by_disk.emplace_back(disk, slots * kSlotBytes);
  }
  return report;
}

std::uint64_t Store::unavailable_bytes() const {
  impl_->look();
  return impl_->allocator.unavailable_blocks() * kBlockBytes;
}

const StoreMetrics& Store::metrics() const { return impl_->metrics; }

std::vector<ChunkPut> Store::chunks() const { return impl_->allocator.chunks(); }

std::vector<ChunkChange> Store::chunk_changes() { return impl_->allocator.chunk_changes(); }

std::uint32_t Store::next_chunk() const { return impl_->allocator.next_chunk(); }

std::vector<std::pair<ChunkId, BlockBitmap>> Store::live() const { return impl_->allocator.live(); }

std::uint64_t Store::live_blocks() const { return impl_->allocator.live_blocks(); }

std::vector<std::pair<ChunkId, SharedBlocks>> Store::shared() const {
  return impl_->allocator.shared();
}
std::uint64_t Store::shared_blocks() const { return impl_->allocator.shared_blocks(); }
std::uint64_t Store::saved_blocks() const { return impl_->allocator.saved_blocks(); }

std::uint64_t Store::space_map_bytes() const { return impl_->allocator.map_bytes(); }

std::optional<SlotId> Store::take_run_slot(DiskId disk) {
  return impl_->allocator.take_run_slot(disk);
}

void Store::drop_run_slots(DiskId disk, std::span<const SlotId> slots) {
  impl_->allocator.drop_run_slots(disk, slots);
}

void Store::hold_chunk_slots(Lsn lsn) { impl_->allocator.hold_chunk_slots(lsn); }
void Store::release_chunk_slots() { impl_->allocator.hold_chunk_slots(Lsn{~std::uint64_t{0}}); }

void Store::adopt_run(std::span<const journal::RunCopy> copies) {
  impl_->allocator.adopt_run(copies);
}

void Store::retire_run(std::span<const journal::RunCopy> copies) {
  impl_->allocator.retire_run(copies);
}

void Store::release_pending() {
  if (impl_->journal != nullptr) impl_->allocator.advance(impl_->journal->covered());
}

void Store::note_full(DiskId disk) { impl_->note_host_full(disk); }

bool Store::has_elsewhere(DiskId disk) const {
  impl_->look();
  return impl_->allocator.has_elsewhere(disk);
}

void Store::note_suspects(std::vector<DiskId> disks) { impl_->note_suspects(std::move(disks)); }

void Store::try_full_disks_again() { impl_->try_full_disks_again(); }

std::vector<DiskId> Store::full_disks() const {
  LockGuard lock(impl_->view_mutex);
  const TimePoint now = impl_->executor.now();
  std::vector<DiskId> full;
  for (const auto& [disk, last] : impl_->last_full) {
    if (now - last < kFullFor) full.push_back(disk);
  }
  return full;
}

bool Store::is_crowded(DiskId disk) const { return impl_->allocator.is_crowded(disk); }

std::vector<DiskId> Store::run_disks(std::size_t copies) const {
  impl_->look();
  return impl_->allocator.run_disks(copies);
}

}  // namespace dynamicfs::extent
