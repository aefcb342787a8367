// Checkpoints: what has changed up to one LSN, as a sorted run; and the merging of runs.
//
// At one instant (ChangeGate::exclusively) the last LSN, the changed chunks and the pool's state are
// noted and a new era begins. From then on, whoever modifies an inode for the first time in the new
// era puts what is dirty of it aside ("captures" it) before; the writer walks the dirty inodes in
// ascending order, taking what was put aside, or serialising the inode itself. So the run is exact
// at that LSN, nobody waits for more than the serialising of what is dirty of one inode, and memory
// is needed only for inodes that are modified while the walk has not reached them.
//
// Dirty     What carries an era that is not installed (journal/era.hpp). A checkpoint that fails
//           installs nothing, so the next one writes the same again.
// Runs      Small runs (a slot) are merged into the new one while it is written, so that a small pool
//           has one; of the others several of like size are merged in the background.
// Crash     Until commit_manifest() completes, the old runs and the log from its position are
//           everything; afterwards the new ones are. The slots of runs that are not named any more are
//           given back behind that, when nobody reads them.
#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "fs/filesystem_impl.hpp"
#include "journal/run_mixer.hpp"

namespace dynamicfs::fs {

using journal::RunEntryKind;

namespace {

// Numbers of runs that were given to runs no manifest names: a crash forgets them, and a stale block
// of one must not pass for a new one's.
constexpr std::uint64_t kRunNumbersAhead = 4096;
// Places of the manifest that are kept for checkpoints beside a merge of all runs.
constexpr std::size_t kRunsSpare = 4;
// A merge that has failed is not tried again before that: it may have read a lot.
constexpr Duration kMergeAgainAfter = std::chrono::minutes{1};
// A value may be larger than an entry of a run.
constexpr std::size_t kXattrPieceBytes = 16 * kKiB;

void put_entry(ByteWriter& out, RunEntryKind kind, std::span<const std::byte> key,
               std::span<const std::byte> value = {}) {
  out.put(static_cast<std::uint8_t>(kind));
  out.put_sized<std::uint16_t>(key);
  out.put_sized<std::uint32_t>(value);
}

}  // namespace

// What the pool was at the end of an era.
struct Filesystem::Impl::Instant {
  std::uint64_t era = 0;
  Lsn lsn;
  PoolState state;
  std::vector<extent::ChunkChange> chunks;
  std::vector<std::uint64_t> orphans;
  InodeTable::Dirty dirty;
};

void Filesystem::Impl::serialise(Inode& inode, RunImage& image) {
  ByteWriter out(image);
  StoredInode stored{.image = image_of(inode)};
  if (inode.map) {
    stored.data_blocks = inode.map->data_blocks();
    stored.reserved_blocks = inode.map->reserved_blocks();
  }
  if (inode.directory) stored.names = inode.directory->count();
  put_entry(out, RunEntryKind::kValue, make_key(inode.id, KeyTag::kInode), encode(stored));
  if (inode.symlink) {
    put_entry(out, RunEntryKind::kValue, make_key(inode.id, KeyTag::kSymlink),
              as_bytes(*inode.symlink));
  }
  if (!eras.is_clean(inode.xattrs_era)) serialise_xattrs(inode, out);
  if (inode.directory) {
    inode.directory->for_each_dirty([&](std::uint64_t cookie, const Entry* entry) {
      const Bytes key = make_key(inode.id, KeyTag::kEntry, big_endian(cookie));
      if (entry == nullptr) {
        put_entry(out, RunEntryKind::kDeletion, key);
      } else {
        put_entry(out, RunEntryKind::kValue, key, encode_entry(*entry));
      }
    });
    inode.directory->set_stored();
  }
  if (inode.map) {
    inode.map->for_each_dirty(
        [&](WindowId window, std::optional<std::span<const std::byte>> encoded) {
          const Bytes key = make_key(inode.id, KeyTag::kWindow, big_endian(window.raw));
          put_entry(out, encoded ? RunEntryKind::kValue : RunEntryKind::kDeletion, key,
                    encoded.value_or(std::span<const std::byte>{}));
        });
    inode.map->set_stored();
  }
  inode.stored.store(true, std::memory_order_release);
}

// All of them, behind the deletion of those there were.
void Filesystem::Impl::serialise_xattrs(const Inode& inode, ByteWriter& out) {
  put_entry(out, RunEntryKind::kPrefixDeletion, make_key(inode.id, KeyTag::kXattr));
  if (!inode.xattrs) return;
  for (const auto& [name, value] : *inode.xattrs) {
    std::uint16_t part = 0;
    std::size_t at = 0;
    do {
      Bytes rest;
      ByteWriter key(rest);
      key.put_bytes(as_bytes(name));
      key.put(std::uint8_t{0});
      key.put_bytes(big_endian(part));
      const std::size_t size = std::min(value.size() - at, kXattrPieceBytes);
      put_entry(out, RunEntryKind::kValue, make_key(inode.id, KeyTag::kXattr, rest),
                as_bytes(std::string_view{value}.substr(at, size)));
      at += size;
      ++part;
    } while (at < value.size());
  }
}

void Filesystem::Impl::modify_locked(Inode& inode) {
  if (inode.removed.load(std::memory_order_relaxed)) return;  // the runs are to forget it
  const std::uint64_t now = eras.current.load(std::memory_order_acquire);
  const std::uint64_t before = inode.era.load(std::memory_order_relaxed);
  if (before == now) return;
  if (!eras.is_clean(before) && inode.captured.load(std::memory_order_relaxed) < now - 1) {
    RunImage image;
    serialise(inode, image);
    {
      LockGuard lock(images_mutex);
      images.emplace(inode.id.raw, std::move(image));
    }
    inode.captured.store(now - 1, std::memory_order_relaxed);
  }
  inode.era.store(now, std::memory_order_release);
  inodes.note_dirty(inode.id);
}

void Filesystem::Impl::modify_new(Inode& inode) {
  inode.era.store(eras.current.load(std::memory_order_acquire), std::memory_order_release);
  inodes.note_dirty(inode.id);
}

void Filesystem::Impl::modify(Inode& inode) {
  // Only the first modification in an era needs the mutex.
  if (inode.era.load(std::memory_order_acquire) == eras.current.load(std::memory_order_acquire)) {
    return;
  }
  LockGuard lock(inode.mutex);
  modify_locked(inode);
}

// Everything that is not in the runs, ascending.
Task<Result<void>> Filesystem::Impl::write_changes(const Instant& instant, journal::RunMixer& out) {
  CO_TRY(co_await out.add(RunEntryKind::kValue, make_key(InodeId{}, KeyTag::kPoolState),
                          encode(instant.state)));
  for (const extent::ChunkChange& change : instant.chunks) {
    const Bytes key = make_key(InodeId{}, KeyTag::kPoolChunk, big_endian(change.chunk.raw));
    Bytes value;
    if (change.state) {
      ByteWriter writer(value);
      extent::encode(writer, *change.state);
    }
    const RunEntryKind kind = change.state ? RunEntryKind::kValue : RunEntryKind::kDeletion;
    CO_TRY(co_await out.add(kind, key, value));
  }
  // Few as a rule: all of them, behind the deletion of those there were.
  CO_TRY(co_await out.add(RunEntryKind::kPrefixDeletion, make_key(InodeId{}, KeyTag::kPoolOrphan),
                          {}));
  for (const std::uint64_t orphan : instant.orphans) {
    const Bytes key = make_key(InodeId{}, KeyTag::kPoolOrphan, big_endian(orphan));
    CO_TRY(co_await out.add(RunEntryKind::kValue, key, {}));
  }

  RunImage image;
  auto removed = instant.dirty.removed.begin();
  for (const InodeId id : instant.dirty.modified) {
    for (; removed != instant.dirty.removed.end() && *removed <= id; ++removed) {
      CO_TRY(co_await out.add(RunEntryKind::kPrefixDeletion, inode_prefix(*removed), {}));
    }
    image.clear();
    const InodeRef inode = inodes.find(id);
    if (inode) {
      LockGuard lock(inode->mutex);
      // Captured, or clean by a checkpoint before a failed one, or of a later era alone.
      const std::uint64_t era = inode->era.load(std::memory_order_relaxed);
      if (inode->captured.load(std::memory_order_relaxed) < instant.era && era <= instant.era &&
          !eras.is_clean(era)) {
        serialise(*inode, image);
        inode->captured.store(instant.era, std::memory_order_relaxed);
      }
    }
    if (image.empty()) {
      LockGuard lock(images_mutex);
      const auto it = images.find(id.raw);
      if (it != images.end()) {
        image = std::move(it->second);
        images.erase(it);
      }
    }
    ByteReader in(image);
    while (!in.at_end()) {
      const auto kind = static_cast<RunEntryKind>(in.get<std::uint8_t>());
      const auto key = in.get_sized<std::uint16_t>();
      const auto value = in.get_sized<std::uint32_t>();
      DFS_ASSERT(in.ok());
      CO_TRY(co_await out.add(kind, key, value));
    }
  }
  for (; removed != instant.dirty.removed.end(); ++removed) {
    CO_TRY(co_await out.add(RunEntryKind::kPrefixDeletion, inode_prefix(*removed), {}));
  }
  co_return co_await out.finish();
}

// On which disks a run is written: kNoSpace, kReadOnly.
Result<std::vector<DiskId>> Filesystem::Impl::disks_for_run() const {
  store->release_pending();
  std::vector<DiskId> disks = store->run_disks(run_copies());
  if (pool->healthy()->empty()) return error(Code::kReadOnly);
  // The runs before this one have their copies: without them one disk less is only for want of log.
  const std::size_t wanted = std::min(run_copies(), pool->staying()->size());
  if (disks.empty() || (disks.size() < wanted && !log_is_filling())) return error(Code::kNoSpace);
  return disks;
}

// The changes of the instant, mixed with `inputs`.
Task<Result<journal::RunRef>> Filesystem::Impl::write_run(const Instant& instant,
                                                          journal::RunSet::Runs inputs,
                                                          bool to_bottom) {
  CO_TRY_ASSIGN(std::vector<DiskId> disks, disks_for_run());
  journal::RunWriter writer(*pool, *store, next_run.fetch_add(1), std::move(disks), filter_hash);
  journal::RunMixer mixer(runs, std::move(inputs), to_bottom, writer);
  Result<void> written = co_await write_changes(instant, mixer);
  Result<journal::RunRef> run = error(Code::kShutdown);
  if (written.has_value()) {
    run = co_await writer.finish();
  } else {
    run = written.error();
  }
  if (!run.has_value()) co_await writer.abandon();
  co_return run;
}

// Enough copies to survive what the strongest policy survives, two at least where there are two disks.
std::size_t Filesystem::Impl::run_copies() const {
  return std::max<std::size_t>(2, pool->tolerance() + 1);
}

// Of the run that has the fewest.
std::size_t Filesystem::Impl::run_copies_here() const {
  const journal::Manifest manifest = pool->superblock().manifest;
  std::size_t fewest = manifest.runs.empty() ? 0 : pool->healthy()->size();
  for (const journal::RunRef& run : manifest.runs) {
    fewest = std::min(fewest, copies_here(run));
  }
  return fewest;
}

std::size_t Filesystem::Impl::copies_here(const journal::RunRef& run) const {
  const auto staying = pool->staying();
  return static_cast<std::size_t>(
      std::ranges::count_if(run.copies, [&](const journal::RunCopy& copy) {
        return std::ranges::binary_search(*staying, copy.disk);
      }));
}

bool Filesystem::Impl::run_is_thin() const {
  const std::size_t wanted = std::min(run_copies(), pool->staying()->size());
  const std::vector<DiskId> next = store->run_disks(run_copies());
  // On a disk that is leaving, and would not be chosen again.
  const auto is_to_go = [&](const journal::RunCopy& copy) {
    return pool->is_leaving(copy.disk) && std::ranges::find(next, copy.disk) == next.end();
  };
  return std::ranges::any_of(readable_runs(), [&](const auto& run) {
    return copies_here(run->ref()) < wanted || std::ranges::any_of(run->ref().copies, is_to_go);
  });
}

journal::RunSet::Runs Filesystem::Impl::readable_runs() const {
  const std::shared_ptr<const journal::RunSet::Runs> all = runs.runs();
  return {all->begin(),
          std::ranges::find_if(*all, [](const auto& run) { return run->unreadable(); })};
}

std::size_t Filesystem::metadata_copies() const { return impl_->run_copies_here(); }

std::size_t Filesystem::unreadable_runs() const {
  const std::shared_ptr<const journal::RunSet::Runs> all = impl_->runs.runs();
  return static_cast<std::size_t>(
      std::ranges::count_if(*all, [](const auto& run) { return run->unreadable(); }));
}

Task<Result<void>> Filesystem::Impl::flush_disks() {
  scheduler::IoGroup flushes;
  std::vector<DiskId> flushed;
  const auto healthy = pool->healthy();
  for (const DiskId id : *healthy) {
    scheduler::Disk* const disk = pool->disk(id);
    if (disk == nullptr || !disk->needs_flush()) continue;
    flushes.flush(*disk, scheduler::IoClass::kWrite);
    flushed.push_back(id);
  }
  co_await flushes.run();
  Result<void> outcome;
  for (std::size_t i = 0; i < flushed.size() && outcome.has_value(); ++i) {
    if (flushes.error(i).code == Code::kOk) continue;
    outcome = co_await pool->report_failure(flushed[i], flushes.error(i), &flushes.disk(i));
  }
  co_return outcome;
}

// Makes `fresh` durable as what takes the place of `replaced`, which are neighbours; with the
// log position of `manifest`. On an error everything is as before. checkpoint_mutex held.
Task<Result<void>> Filesystem::Impl::commit_runs(journal::Manifest manifest, journal::RunRef fresh,
                                                 journal::RunSet::Runs replaced) {
  CO_TRY_ASSIGN(const std::shared_ptr<const journal::Run> opened, co_await runs.open_run(fresh));
  auto at = manifest.runs.begin();
  if (!replaced.empty()) {
    at = std::ranges::find(manifest.runs, replaced.front()->ref().id, &journal::RunRef::id);
    DFS_ASSERT(at != manifest.runs.end());
    at = manifest.runs.erase(at, at + static_cast<std::ptrdiff_t>(replaced.size()));
  }
  manifest.runs.insert(at, fresh);
  manifest.next_run = next_run.load() + kRunNumbersAhead;
  CO_TRY(co_await pool->commit_manifest(manifest));
  store->adopt_run(fresh.copies);
  runs.install(opened, replaced);
  co_return Result<void>{};
}

void Filesystem::Impl::drop_run(const journal::RunRef& run) {
  // Nothing names it, unless the pool is lost anyway.
  if (pool->read_only()) return;
  for (const journal::RunCopy& copy : run.copies) store->drop_run_slots(copy.disk, copy.slots);
}

// The runs that the next one takes the place of: the small ones; all of them when room gets short,
// for what has been deleted goes with that, and metadata never outgrows what can be written anew; or
// when there are so many that the manifest would soon have no room, for a merge may take its time.
// Those that are being merged are left alone, and those that cannot be read. checkpoint_mutex held.
journal::RunSet::Runs Filesystem::Impl::runs_to_replace() const {
  store->release_pending();
  journal::RunSet::Runs newer = readable_runs();
  newer.erase(std::ranges::find_if(
                  newer, [this](const auto& run) { return run->ref().id == merging_from; }),
              newer.end());
  const std::vector<DiskId> disks = store->run_disks(run_copies());
  if (runs.runs()->size() + kRunsSpare > journal::kRunsMax ||
      std::ranges::any_of(disks, [this](DiskId disk) { return store->is_crowded(disk); })) {
    return newer;
  }
  const auto large = std::ranges::find_if(
      newer, [this](const auto& run) { return run->ref().bytes > options.small_run_bytes; });
  newer.erase(large, newer.end());
  return newer;
}

// Writes the changes as a run and makes it count; on an error all is as before.
Task<Result<void>> Filesystem::Impl::switch_run(const Instant& instant,
                                                journal::RunSet::Runs replaced) {
  const bool to_bottom = replaced.size() == runs.runs()->size();
  CO_TRY_ASSIGN(const journal::RunRef fresh, co_await write_run(instant, replaced, to_bottom));
  journal::Manifest manifest = pool->superblock().manifest;
  manifest.lsn = instant.lsn;
  manifest.log_start = journal->position_after(instant.lsn);

  // The run names data whose records may not be committed yet: it must be on stable storage before
  // the run counts. (Not journal->sync: a commit may be waiting for the space this will free.)
  Result<void> outcome;
  if (!mutated(Mutant::kSkipRunFlush)) outcome = co_await flush_disks();
  if (mutated(Mutant::kTrimEarly)) journal->trim(manifest.log_start);
  if (outcome.has_value()) outcome = co_await commit_runs(manifest, fresh, replaced);
  if (!outcome.has_value()) {
    drop_run(fresh);
    co_return outcome.error();
  }
  journal->trim(manifest.log_start);
  co_return outcome;
}

Task<Result<void>> Filesystem::Impl::checkpoint() {
  Result<void> result;
  {
    const AsyncMutex::Guard guard = co_await checkpoint_mutex.acquire();
    // A disk without room for its copy of the run is left out, as long as others are there.
    for (std::size_t full = 0; full <= pool->healthy()->size(); ++full) {
      if (store->run_disks(1).empty()) store->try_full_disks_again();
      // A run that cannot be read is left as it is, and those behind it: what has changed need not
      // wait for them. Each time round there is one more that is known.
      while (true) {
        const journal::RunSet::Runs replaced = runs_to_replace();
        result = co_await checkpoint_once(replaced);
        if (result.has_value() || !note_if_unreadable(result.error(), replaced)) break;
      }
      if (!note_if_full(result)) break;
    }
    // The other half of the log is for removals.
    metadata_full.store(!result.has_value() && result.error().code == Code::kNoSpace &&
                        log_is_filling());
  }
  merge_if_due();
  co_return result;
}

// Writing these runs anew has failed: is it because one of them cannot be read? Then it is noted.
bool Filesystem::Impl::note_if_unreadable(const Error& why, const journal::RunSet::Runs& inputs) {
  if (inputs.empty() || (why.code != Code::kCorrupt && why.code != Code::kFormatInvalid)) {
    return false;
  }
  // What cannot be read says so itself; of entries that make no sense nobody knows whose they are.
  if (std::ranges::none_of(inputs, [](const auto& run) { return run->unreadable(); })) {
    inputs.front()->note_unreadable();
  }
  return true;
}

Task<Result<void>> Filesystem::Impl::checkpoint_once(journal::RunSet::Runs replaced) {
  CO_TRY(writable());
  const TimePoint start = executor.now();
  Instant instant;
  gate.exclusively([&] {
    instant.era = eras.current.load();
    instant.lsn = journal->appended();
    instant.state = {.inode_limit = inode_limit_logged.load(),
                     .inodes = inode_count.load(),
                     .reserved_blocks = reserved_blocks.load(),
                     .next_chunk = store->next_chunk()};
    store->hold_chunk_slots(instant.lsn);
    instant.chunks = store->chunk_changes();
    instant.dirty = inodes.take_dirty();
    {
      LockGuard lock(orphans_mutex);
      instant.orphans.assign(orphans.begin(), orphans.end());
    }
    {
      // What was put aside for a checkpoint that failed is not of this instant.
      LockGuard lock(images_mutex);
      images.clear();
    }
    eras.current.store(instant.era + 1, std::memory_order_release);
  });
  std::vector<InodeId>& modified = instant.dirty.modified;
  modified.insert(modified.end(), unwritten.begin(), unwritten.end());
  std::ranges::sort(modified);
  const auto [from, end] = std::ranges::unique(modified);
  modified.erase(from, end);
  std::ranges::sort(instant.dirty.removed);

  const Result<void> switched = co_await switch_run(instant, std::move(replaced));
  store->release_chunk_slots();
  {
    LockGuard lock(images_mutex);
    images.clear();
  }
  if (!switched.has_value()) {
    unwritten = std::move(modified);
    log_warning("checkpoint failed: {}", describe(switched.error()));
    co_return switched.error();
  }
  unwritten.clear();
  eras.installed.store(instant.era + 1, std::memory_order_release);
  inodes.forget_removed(instant.era + 1);
  // A disk may have failed while its copy was written. For one that is full tend() tries again.
  run_thin.store(run_is_thin() && store->full_disks().empty());
  metrics.checkpoints.add();
  metrics.checkpoint_inodes.add(modified.size());
  metrics.checkpoint_ms.record(
      static_cast<std::uint64_t>((executor.now() - start).count() / 1'000'000));
  co_return {};
}

// Merging.

void Filesystem::Impl::merge_if_due() {
  tasks.enter();  // before the look at `closing`: unmount sets that, then waits for tasks
  if (closing.load(std::memory_order_acquire) || executor.now() < merge_again_at.load() ||
      !next_merge() || merging.exchange(true)) {
    tasks.leave();
    return;
  }
  spawn(merge_in_background());
}

// Runs that are to become one: neighbours, newest first. Those with a copy less than they should have
// come first of all.
std::optional<journal::RunSet::Runs> Filesystem::Impl::next_merge() const {
  const journal::RunSet::Runs all = readable_runs();
  if (all.empty()) return std::nullopt;
  if (run_thin.load()) return all;
  std::vector<std::uint64_t> bytes;
  for (const auto& run : all) bytes.push_back(run->ref().bytes);
  const auto range = journal::choose_merge(bytes);
  if (!range) return std::nullopt;
  return journal::RunSet::Runs{all.begin() + static_cast<std::ptrdiff_t>(range->first),
                               all.begin() + static_cast<std::ptrdiff_t>(range->second)};
}

Task<void> Filesystem::Impl::merge_in_background() {
  while (!closing.load(std::memory_order_acquire) && writable().has_value() &&
         executor.now() >= merge_again_at.load()) {
    std::optional<journal::RunSet::Runs> inputs;
    {
      // A checkpoint under way may be writing some of them anew; the next one sees which we merge.
      const AsyncMutex::Guard guard = co_await checkpoint_mutex.acquire();
      inputs = next_merge();
      merging_from = inputs ? inputs->front()->ref().id : 0;
    }
    if (!inputs) break;
    const Result<void> merged = co_await merge(*inputs);
    if (merged.has_value()) continue;
    if (!closing.load(std::memory_order_acquire)) {
      log_warning("merging of metadata runs failed: {}", describe(merged.error()));
    }
    if (note_if_unreadable(merged.error(), *inputs)) continue;  // the newer ones may go together
    run_thin.store(false);
    if (!note_if_full(merged)) merge_again_at.store(executor.now() + kMergeAgainAfter);
    break;
  }
  merging_from = 0;
  merging.store(false);
  tasks.leave();
}

Task<Result<void>> Filesystem::Impl::merge(journal::RunSet::Runs inputs) {
  const TimePoint start = executor.now();
  const bool to_bottom = inputs.back() == runs.runs()->back();
  CO_TRY_ASSIGN(const std::vector<DiskId> disks, disks_for_run());
  journal::RunWriter writer(*pool, *store, next_run.fetch_add(1), disks, filter_hash,
                            scheduler::IoClass::kBackground);
  const auto go_on = [this] { return !closing.load(std::memory_order_acquire); };
  const Result<journal::RunRef> merged =
      co_await journal::merge_runs(runs, inputs, to_bottom, writer, go_on);
  if (!merged.has_value()) {
    co_await writer.abandon();
    co_return merged.error();
  }
  const journal::RunRef fresh = *merged;
  Result<void> outcome;
  {
    const AsyncMutex::Guard guard = co_await checkpoint_mutex.acquire();
    outcome = writable();
    if (outcome.has_value()) {
      outcome = co_await commit_runs(pool->superblock().manifest, fresh, inputs);
    }
  }
  if (!outcome.has_value()) {
    drop_run(fresh);
    co_return outcome;
  }
  const bool thin = run_is_thin() && store->full_disks().empty();
  run_thin.store(thin);
  // With a copy on every disk that was to have one it would be no better the next time. (If one has
  // failed meanwhile another takes its place.)
  if (thin && fresh.copies.size() == disks.size()) {
    merge_again_at.store(executor.now() + kMergeAgainAfter);
  }
  metrics.run_merges.add();
  metrics.run_merge_bytes.add(fresh.bytes);
  metrics.run_merge_ms.record(
      static_cast<std::uint64_t>((executor.now() - start).count() / 1'000'000));
  co_return outcome;
}

// A write found no room on a disk: others are to be tried.
bool Filesystem::Impl::note_if_full(const Result<void>& result) {
  if (result.has_value() || result.error().code != Code::kNoSpace ||
      result.error().sys_errno != ENOSPC) {
    return false;
  }
  store->note_full(DiskId{static_cast<std::uint16_t>(result.error().detail)});
  return true;
}

// A commit may be waiting for the log space this frees, so a failure is tried again while that is
// so. A copy more of the run is tried for once each time that the disks change.
Task<void> Filesystem::Impl::checkpoint_in_background() {
  while (checkpoint_is_due() && writable().has_value()) {
    const Result<void> result = co_await checkpoint();
    if (closing.load(std::memory_order_acquire)) break;
    if (result.has_value()) continue;
    run_thin.store(false);
    co_await executor.sleep(std::chrono::seconds{1});
  }
  checkpointing.store(false);
  tasks.leave();
}

Task<Result<void>> Filesystem::checkpoint() { co_return co_await impl_->checkpoint(); }

}  // namespace dynamicfs::fs
