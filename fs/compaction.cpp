#include "fs/compaction.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// A window is fragmented when reading it takes this many transfers: with pieces of 32 KiB on average
// a solid state disk needs twice the time for it, a spinning one a hundred times.
constexpr std::size_t kFragments = 32;
// Nobody writes to a window any more when nobody has for so long.
constexpr Duration kQuiet = std::chrono::seconds{30};
// 16 GiB of fragmented windows are remembered, in 512 KiB.
constexpr std::size_t kNotedMax = 16384;
// A sweep reads all maps: not more often than this, and rarely when the last one did not get on.
constexpr Duration kSweepInterval = std::chrono::minutes{1};
constexpr Duration kSweepIntervalObstructed = std::chrono::hours{1};

Generation newest_of(const extent::MappingSet& set) {
  Generation newest;
  for (const extent::Mapping& mapping : set.mappings) newest = std::max(newest, mapping.generation);
  return newest;
}

}  // namespace

Compaction::Compaction(Filesystem::Impl& parts)
    : fs_(parts), walk_(parts, [this](InodeId, Error) { obstructed_ = true; }) {}

void Compaction::look_at(const Inode& inode, FileBlock first, std::uint64_t blocks) {
  if (blocks > kWindowBlocks / kFragments) return;
  // A write adds two extents at most, so a window that becomes fragmented is seen here, and told once
  // or a few times rather than with every write.
  const std::size_t extents = inode.map->window_extents(first);
  if (extents != kFragments && extents != kFragments + 1) return;
  const FileBlock window{align_down(first.raw, kWindowBlocks)};
  const TimePoint now = fs_.executor.now();
  LockGuard lock(mutex_);
  if (noted_.size() >= kNotedMax) return;
  const bool known = std::ranges::any_of(
      noted_, [&](const Noted& noted) { return noted.inode == inode.id && noted.first == window; });
  if (!known) noted_.push_back({.inode = inode.id, .first = window, .newest = {}, .since = now});
}

bool Compaction::begin() {
  if (active_.exchange(true, std::memory_order_acq_rel)) return false;
  fs_.tasks.enter();  // before the look at `closing`: unmount sets that, then waits for tasks
  if (!go_on()) {
    end();
    return false;
  }
  return true;
}

void Compaction::end() {
  active_.store(false, std::memory_order_release);
  fs_.tasks.leave();
}

bool Compaction::go_on() const {
  return !fs_.closing.load(std::memory_order_acquire) && fs_.growable().has_value() &&
         !fs_.journal->stopped();
}

void Compaction::tend() {
  if (!begin()) return;
  const TimePoint now = fs_.executor.now();
  bool quiet = false;
  {
    LockGuard lock(mutex_);
    quiet = std::ranges::any_of(noted_,
                                [&](const Noted& noted) { return now - noted.since >= kQuiet; });
  }
  std::vector<ChunkId> sparse;
  if (now >= sweep_again_at_.load()) {
    sparse = fs_.store->drain_sparse(fs_.pool->policy(), false);
    sweep_again_at_.store(now + kSweepInterval);
  }
  if (!quiet && sparse.empty()) {
    end();
    return;
  }
  spawn(run(std::move(sparse)));
}

Task<void> Compaction::run(std::vector<ChunkId> sparse) {
  co_await fs_.executor.leave_driver_thread();
  co_await tend_noted();
  if (!sparse.empty()) co_await sweep(std::move(sparse));
  end();
}

Task<Result<void>> Compaction::compact() {
  if (!begin()) co_return fs_.closing.load() ? Code::kShutdown : Code::kBusy;
  // What has been freed lately counts as room.
  const Result<void> drained = co_await fs_.journal->drain();
  co_await fs_.store->reclaim();
  if (drained.has_value()) co_await sweep(fs_.store->drain_sparse(fs_.pool->policy(), true));
  end();
  co_return drained;
}

// Rewrites the noted windows that nobody has written to for a while.
Task<void> Compaction::tend_noted() {
  std::vector<Noted> due;
  {
    LockGuard lock(mutex_);
    const TimePoint now = fs_.executor.now();
    const auto rest = std::ranges::partition(
        noted_, [&](const Noted& noted) { return now - noted.since < kQuiet; });
    due.assign(rest.begin(), rest.end());
    noted_.erase(rest.begin(), rest.end());
  }
  for (Noted& noted : due) {
    if (!go_on()) co_return;
    const Result<InodeRef> found = co_await fs_.find(noted.inode);
    if (!found.has_value() || !(*found)->map) continue;
    const InodeRef inode = *found;
    const Result<void> loaded = co_await fs_.load_windows(*inode, noted.first, kWindowBlocks);
    if (!loaded.has_value()) continue;
    extent::MappingSet set;
    inode->map->snapshot(noted.first, kWindowBlocks, set);
    if (newest_of(set) != noted.newest) {
      noted.newest = newest_of(set);
      noted.since = fs_.executor.now();
      LockGuard lock(mutex_);
      noted_.push_back(noted);
      continue;
    }
    const std::vector<Run> runs = plan(set, {});
    if (!runs.empty()) fs_.metrics.compaction_windows.add();
    for (const Run& run : runs) co_await move(inode, run);
  }
}

Task<void> Compaction::sweep(std::vector<ChunkId> sparse) {
  moved_blocks_ = 0;
  obstructed_ = false;
  fs_.metrics.compaction_sweeps.add();
  walk_.begin();
  while (go_on()) {
    const std::optional<FileWalk::Piece> piece = co_await walk_.next();
    if (!piece) break;
    extent::MappingSet set;
    piece->inode->map->snapshot(piece->first, piece->count, set);
    const std::vector<Run> runs = plan(set, sparse);
    for (const Run& run : runs) co_await move(piece->inode, run);
  }
  walk_.end();
  // What is empty now goes before anything can be put there again.
  co_await fs_.store->reclaim();
  fs_.store->stop_draining();
  if (obstructed_) sweep_again_at_.store(fs_.executor.now() + kSweepIntervalObstructed);
  log_info("compaction: {} MiB moved out of {} sparse chunks and fragmented files",
           moved_blocks_ * kBlockBytes / kMiB, sparse.size());
}

std::vector<Compaction::Run> Compaction::plan(const extent::MappingSet& set,
                                              const std::vector<ChunkId>& sparse) {
  std::vector<Run> whole;     // by blocks of the file
  std::vector<Run> selected;  // likewise, of the sparse chunks
  const extent::Mapping* before = nullptr;
  bool before_selected = false;
  std::size_t fragments = 0;
  for (const extent::Mapping& mapping : set.mappings) {
    if (mapping.kind != extent::MappingKind::kData ||
        mapping.encoding != extent::Encoding::kPlain) {
      before = nullptr;
      continue;
    }
    const bool follows =
        before != nullptr && before->first.raw + before->count == mapping.first.raw;
    const bool lies_behind =
        follows && before->chunk == mapping.chunk && before->block + before->count == mapping.block;
    const bool here = std::ranges::binary_search(sparse, mapping.chunk);
    if (!follows) whole.push_back({.first = mapping.first});
    whole.back().count += mapping.count;
    whole.back().places += lies_behind ? 0 : 1;
    whole.back().must_go |= here;
    if (here) {
      if (!follows || !before_selected)
        selected.push_back({.first = mapping.first, .must_go = true});
      selected.back().count += mapping.count;
    }
    before_selected = here;
    before = &mapping;
  }
  for (const Run& run : whole) fragments += run.places - 1;
  if (fragments + 1 < kFragments) return selected;
  std::erase_if(whole, [](const Run& run) { return run.places == 1 && !run.must_go; });
  return whole;
}

Task<void> Compaction::move(InodeRef inode, Run run) {
  if (!go_on()) co_return;
  const Result<void> loaded = co_await fs_.load_windows(*inode, run.first, run.count);
  if (!loaded.has_value()) {
    obstructed_ = true;
    co_return;
  }
  extent::MappingSet seen;
  inode->map->snapshot(run.first, run.count, seen);
  Buffer data{run.count * kBlockBytes};
  const Result<void> read = co_await fs_.store->read(*inode->map, inode->id, run.first, data,
                                                     scheduler::IoClass::kBackground);
  if (!read.has_value()) {
    obstructed_ = true;
    co_return;
  }
  extent::WriteHint hint;
  hint.inode = inode->id;
  hint.first = run.first;
  hint.policy = fs_.pool->policy();
  hint.io_class = scheduler::IoClass::kBackground;
  hint.moving = true;
  const Result<extent::Written> written = co_await fs_.store->write(hint, data.span());
  if (!written.has_value()) {
    obstructed_ = true;
    co_return;
  }
  // Between holes in a full pool it would lie no better than before.
  const bool better = run.must_go || written->pieces.size() < run.places;
  journal::Credit credit =
      co_await fs_.journal->reserve(1, kPutFixedBytes + run.count * kPutBytesPerBlock);
  bool published = false;
  if (better) {
    const journal::ChangeScope scope(fs_.gate);
    fs_.modify(*inode);
    const auto extents = fs_.store->locks().lock(inode->id, run.first, run.count);
    if (!inode->removed.load(std::memory_order_acquire) &&
        inode->map->unchanged(run.first, run.count, seen)) {
      RecordWriter record;
      extent::encode(record.raw(), inode->id, run.first, written->pieces, written->crcs);
      const Lsn lsn = fs_.append(credit, record, {inode.get()});
      extent::Freed freed;
      inode->map->put(run.first, written->pieces, written->crcs, Generation{lsn.raw}, freed);
      fs_.store->publish(*written);
      fs_.free_data(freed, lsn);
      published = true;
    }
  }
  if (!published) {
    fs_.store->discard(*written);
    co_return;
  }
  moved_blocks_ += run.count;
  fs_.metrics.compaction_bytes.add(run.count * kBlockBytes);
}

Task<Result<void>> Filesystem::compact() { co_return co_await impl_->compaction->compact(); }

}  // namespace dynamicfs::fs
