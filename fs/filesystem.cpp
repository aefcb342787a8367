// The life of a mounted pool: recovery, housekeeping, unmount.
#include "fs/filesystem.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// A checkpoint frees log space; it is pointless while the log holds next to nothing.
constexpr std::uint64_t kCheckpointLogBytesMin = 1 * kMiB;
constexpr std::size_t kDamagedMax = 64;
// How soon after its deadline a request is noticed.
constexpr Duration kWatchInterval = std::chrono::seconds{1};
// How soon a disk that was deleted, or that nobody uses and that hangs, is noticed.
constexpr Duration kCheckInterval = std::chrono::seconds{5};

}  // namespace

Filesystem::Filesystem(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Filesystem::~Filesystem() {
  if (impl_ == nullptr) return;
  impl_->link->cut();
  impl_->watch_link->cut();
}

// Recovery.

Task<Result<std::unique_ptr<Filesystem>>> Filesystem::mount(Executor& executor,
                                                            std::unique_ptr<journal::Pool> pool,
                                                            FilesystemOptions options) {
  DFS_ASSERT(options.read_only || options.repair || !options.tolerant);
  DFS_ASSERT(options.tolerant || !options.salvage);
  auto impl = std::make_unique<Impl>(executor, std::move(pool), options);
  const Result<void> loaded = co_await impl->load();
  if (!loaded.has_value()) {
    co_await impl->quiesce();
    co_await executor.leave_driver_thread();  // the disks go with `impl`
    co_return loaded.error();
  }
  Impl& parts = *impl;
  std::unique_ptr<Filesystem> filesystem{new Filesystem(std::move(impl))};
  if (!options.repair) parts.begin_housekeeping();
  co_return filesystem;
}

Task<Result<void>> Filesystem::Impl::load() {
  const TimePoint start = executor.now();
  store->on_unrecoverable([this](InodeId inode, FileBlock block) {
    log_error("no good copy is left of block {} of inode {}", block, inode);
    LockGuard lock(damaged_mutex);
    if (std::find(damaged.begin(), damaged.end(), inode) != damaged.end()) return;
    if (damaged.size() == kDamagedMax) damaged.erase(damaged.begin());
    damaged.push_back(inode);
  });

  const journal::Manifest manifest = pool->superblock().manifest;
  if (options.salvage) {
    runs.tolerate_damage();
    store->tolerate_conflicts();
  }
  runs.on_retired([this](const journal::RunRef& run) { store->retire_run(run.copies); });
  CO_TRY(co_await runs.open(manifest));
  for (const journal::RunRef& run : manifest.runs) report.run_bytes += run.bytes;
  report.runs = manifest.runs.size();
  next_run = manifest.next_run;
  CO_TRY(co_await load_pool_state());
  journal::Replay replay;
  replay.apply = [this](Lsn lsn, std::span<const std::byte> record) {
    return apply_record(lsn, record);
  };
  replay.prepare = [this](std::vector<journal::TailRecord> records) {
    return load_ahead(std::move(records));
  };
  replay.count_whole = [this](std::vector<journal::TailRecord> tail) {
    return count_whole(std::move(tail));
  };
  replay.salvage = options.salvage;
  CO_TRY_ASSIGN(journal, co_await journal::Journal::open(executor, *pool, std::move(replay),
                                                         options.group_commit));
  report.journal = journal->recovery();
  if (options.repair) {
    CO_TRY(co_await repair_tree());
    if (repairs.repaired.empty()) options.read_only = true;
  }
  // Behind the replay: a run that was merged behind the last checkpoint may lie where a chunk did that
  // a record removes.
  for (const journal::RunRef& run : manifest.runs) store->keep_run(run.copies);
  store->note_reserved(reserved_blocks.load());
  store->start(*journal);
  if (options.repair) {
    // Before any record that would make no sense without it. The next mount does the rest of this.
    if (!options.read_only) {
      CO_TRY(co_await checkpoint());
    }
    co_return {};
  }

  pool->on_change([this] {
    if (pool->read_only()) journal->stop();
    run_thin.store(run_is_thin());
    merge_again_at.store({});
    checkpoint_if_due();
    merge_if_due();
  });
  if (!options.read_only) {
    journal->on_progress([this] { on_progress(); });
    // A log that is nearly full has no room for what follows.
    if (log_is_filling()) {
      CO_TRY(co_await checkpoint());
    }
  }

  const bool empty = manifest.runs.empty() && report.journal.records_replayed == 0;
  if (!empty) {
    const Result<InodeRef> root = co_await find(kRootInode);
    if (!root.has_value() && root.error().code != Code::kStale && !options.salvage)
      co_return root.error();
    if (!root.has_value() && !options.salvage) {
      log_error("the pool has metadata but no root directory");
      co_return error(Code::kFormatInvalid, kRootInode.raw);
    }
  }
  if (!options.read_only) {
    // Grants the first step of inode numbers, durably: none that was handed out before a crash and
    // lost with it is handed out again.
    const std::uint64_t first = std::max(next_inode.load(), inode_limit_logged.load());
    next_inode = first;
    RecordWriter record;
    record.inode_limit(InodeId{first + kInodeStep});
    journal::Credit credit = co_await journal->reserve(1, record.bytes().size());
    Lsn lsn;
    {
      const journal::ChangeScope scope(gate);
      lsn = append(credit, record, {});
      inode_limit_logged = first + kInodeStep;
      inode_limit_lsn = lsn.raw;
    }
    if (empty) {
      CO_TRY(co_await make_root());
    }
    CO_TRY(co_await journal->sync(journal->appended()));
    inode_limit_durable = inode_limit_logged.load();

    std::vector<std::uint64_t> left;
    {
      LockGuard lock(orphans_mutex);
      left.assign(orphans.begin(), orphans.end());
    }
    for (const std::uint64_t id : left) co_await reap(InodeId{id});
    report.orphans_removed = left.size();
  } else if (empty) {
    co_return error(Code::kReadOnly);
  }
  if (!options.read_only) {
    run_thin.store(run_is_thin());
    checkpoint_if_due();
    merge_if_due();
  }
  report.inodes = inode_count.load();
  report.took = executor.now() - start;
  co_return {};
}

Task<Result<void>> Filesystem::Impl::make_root() {
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  const InodeRef root{new Inode{kRootInode}};
  const journal::ChangeScope scope(gate);
  const InodeLockSet locks{root.get()};
  root->mode = S_IFDIR | 0755;
  root->uid = options.maker.uid;
  root->gid = options.maker.gid;
  root->nlink = 2;
  root->parent = kRootInode;
  root->directory = std::make_unique<Directory>(directory_context());
  modify_new(*root);
  const std::int64_t now = now_ns();
  root->atime_ns = root->mtime_ns = root->ctime_ns = now;
  root->btime_ns = now;
  RecordWriter record;
  record.inode_put(image_of(*root));
  append(credit, record, {root.get()});
  inodes.insert(root);
  ++inode_count;
  co_return {};
}

// Housekeeping.

void Filesystem::Impl::on_progress() {
  checkpoint_if_due();
  look_at_memory();  // what is made is never loaded
  tasks.enter();     // before the look at `closing`: unmount sets that, then waits for tasks
  if (closing.load(std::memory_order_acquire) || reclaiming.exchange(true)) {
    tasks.leave();
    return;
  }
  spawn(reclaim_once());
}

bool Filesystem::Impl::log_is_filling() const {
  const std::uint64_t used = journal->log_used_bytes();
  return used > kCheckpointLogBytesMin &&
         used * 100 > journal->log_capacity_bytes() * options.checkpoint_log_percent;
}

bool Filesystem::Impl::checkpoint_is_due() const { return log_is_filling(); }

void Filesystem::Impl::checkpoint_if_due() {
  tasks.enter();  // as in on_progress()
  if (!checkpoint_is_due() || checkpointing.exchange(true)) {
    tasks.leave();
    return;
  }
  spawn(checkpoint_in_background());
}

Task<void> Filesystem::Impl::reclaim_once() {
  co_await store->reclaim();
  reclaiming.store(false);
  tasks.leave();
}

void Filesystem::Impl::begin_housekeeping() {
  may_evict.store(true, std::memory_order_release);
  watch_link->join(this);
  link->join(this);
  spawn(every(kWatchInterval, watch_link, executor, &Impl::watch_disks));
  spawn(every(kCheckInterval, link, executor, &Impl::check_disks));
  if (!options.read_only) spawn(every(options.commit_interval, link, executor, &Impl::tend));
}

// Static, and with the executor apart: the file system may be gone when a sleep ends.
Task<void> Filesystem::Impl::every(Duration interval, std::shared_ptr<HousekeepingLink> link,
                                   Executor& executor, Task<void> (Impl::*what)()) {
  while (true) {
    co_await executor.sleep(interval);
    Impl* impl = nullptr;
    {
      LockGuard lock(link->mutex);
      impl = link->impl;
      if (impl == nullptr) co_return;
      impl->tasks.enter();  // unmount waits for what follows
    }
    co_await (impl->*what)();
    impl->tasks.leave();
  }
}

// Asks each disk whether it is still there; on a network file system that also finds one that hangs
// while nobody uses it.
Task<void> Filesystem::Impl::check_disks() {
  const auto disks = pool->healthy();
  for (const DiskId id : *disks) {
    const std::uint64_t bit = std::uint64_t{1} << id.raw % 64;
    if ((being_checked.fetch_or(bit) & bit) != 0) continue;  // it has not answered the last time
    tasks.enter();
    spawn(check_disk(id, bit));
  }
  co_return;
}

Task<void> Filesystem::Impl::check_disk(DiskId id, std::uint64_t bit) {
  scheduler::IoGroup check;
  if (scheduler::Disk* const disk = pool->disk(id)) {
    check.check(*disk, scheduler::IoClass::kWrite);
    co_await check.run();
    if (!check.result()) {
      const Result<void> reported = co_await pool->report_failure(id, check.error(0), disk);
      reported.ignore("the pool says so itself");
    }
  }
  being_checked.fetch_and(~bit);
  tasks.leave();
}

bool Filesystem::Impl::can_lose(DiskId id) const {
  if (!pool->can_lose(id) || !store->has_elsewhere(id)) return false;
  const journal::Manifest manifest = pool->superblock().manifest;
  return std::ranges::all_of(manifest.runs, [&](const journal::RunRef& run) {
    return std::ranges::any_of(run.copies, [&](const journal::RunCopy& copy) {
      return copy.disk != id && pool->disk(copy.disk) != nullptr;
    });
  });
}

bool Filesystem::can_lose(DiskId id) const { return impl_->can_lose(id); }

// Not inside watch_disks(): the epoch without it is written to disks that may hang too.
Task<void> Filesystem::Impl::give_up(DiskId id, const scheduler::Disk* disk) {
  const Result<void> given_up = co_await pool->report_failure(id, error(Code::kDiskHung), disk);
  given_up.ignore("the pool says so itself");
  tasks.leave();
}

Task<void> Filesystem::Impl::close_failed() {
  co_await pool->close_failed();
  tasks.leave();
}

// Which disks do not answer in time, and which do again. One that has hung is given up when every
// file has a copy elsewhere; without one, waiting is all that is left.
Task<void> Filesystem::Impl::watch_disks() {
  using Verdict = scheduler::LatencyWatch::Verdict;
  std::vector<DiskId> suspects;
  const auto disks = pool->healthy();
  for (const DiskId id : *disks) {
    scheduler::Disk* const disk = pool->disk(id);
    if (disk == nullptr) continue;
    switch (disk->latency().look(executor.now(), disk->lateness())) {
      case Verdict::kAsBefore: break;
      case Verdict::kSuspect:
        log_warning("disk {} ({}) does not answer in time: it is suspect", id, disk->path());
        metrics.disks_suspected.add();
        break;
      case Verdict::kRecovered:
        log_warning("disk {} ({}) answers in time again", id, disk->path());
        break;
      case Verdict::kHung:
        if (!can_lose(id)) break;
        metrics.disks_hung.add();
        tasks.enter();
        spawn(give_up(id, disk));
        continue;
    }
    if (disk->latency().suspect()) suspects.push_back(id);
  }
  store->note_suspects(std::move(suspects));
  if (pool->has_failed_open()) {
    tasks.enter();
    spawn(close_failed());
  }
  co_return;
}

// Makes durable what nobody asked to, and closes the journal with a watermark when it is idle. Looks
// at the memory too: windows grow by writing, which does not look itself.
Task<void> Filesystem::Impl::tend() {
  if (journal->stopped()) co_return;
  if (journal->covered() < journal->appended()) {
    const Result<void> result = co_await journal->drain();
    result.ignore("the journal has stopped and said so; every later sync reports it");
  }
  // One that keeps the log may have left or failed since the last commit.
  const std::uint64_t changes = pool->changes();
  if (members_settled_at != changes) {
    const Result<void> settled = co_await journal->settle_members();
    if (settled.has_value()) members_settled_at = changes;
  }
  co_await store->reclaim();
  if (run_is_thin() && store->full_disks().empty()) {
    run_thin.store(true);
  }
  merge_if_due();
  look_at_memory();
  compaction->tend();
  rebuild->tend();
  resync->tend();
  scrub->tend();
}

Task<Result<void>> Filesystem::unmount() { co_return co_await impl_->unmount(); }

Task<Result<void>> Filesystem::Impl::unmount() {
  const Result<void> written = co_await write_everything();
  co_await quiesce();
  co_return written;
}

// Whatever has not become durable by now never does.
Task<void> Filesystem::Impl::quiesce() {
  closing.store(true, std::memory_order_release);
  scrub->close();
  // A commit that waits for room in the log would wait for ever.
  const bool unfinished = journal != nullptr && journal->covered() < journal->appended();
  if (unfinished && !options.read_only) journal->stop();
  while (!tasks.idle()) co_await executor.sleep(std::chrono::milliseconds{1});
  if (journal != nullptr) co_await journal->close();
  watch_link->cut();
  while (!tasks.idle()) co_await executor.sleep(std::chrono::milliseconds{1});
}

Task<Result<void>> Filesystem::Impl::write_everything() {
  link->cut();
  closing.store(true, std::memory_order_release);
  scrub->close();
  while (!tasks.idle()) co_await executor.sleep(std::chrono::milliseconds{1});
  if (options.read_only) co_return {};
  // First, because it needs no log space: what is committed below finds an empty log.
  const Result<void> first = co_await checkpoint();
  if (!first.has_value() && first.error().code != Code::kNoSpace) {
    // What finds room in the log is kept all the same.
    if (!pool->read_only() && !log_is_filling()) {
      const Result<void> drained = co_await journal->drain();
      drained.ignore("the first error is the one to tell");
    }
    co_return first;
  }
  CO_TRY(co_await journal->drain());
  co_await store->reclaim();
  CO_TRY(co_await journal->drain());
  while (!tasks.idle()) co_await executor.sleep(std::chrono::milliseconds{1});
  const Result<void> last = co_await checkpoint();
  // Without room for a run everything is in the log, and the next mount recovers it from there.
  if (!last.has_value() && last.error().code == Code::kNoSpace) co_return Result<void>{};
  CO_TRY(last);
  co_return co_await pool->mark_clean();
}

// Helpers.

Result<void> Filesystem::Impl::writable() const {
  if (options.read_only || pool->read_only() || journal->stopped()) return Code::kReadOnly;
  return {};
}

Result<void> Filesystem::Impl::growable() const {
  TRY(writable());
  if (metadata_full.load(std::memory_order_relaxed)) return Code::kNoSpace;
  return {};
}

Lsn Filesystem::Impl::append(journal::Credit& credit, const RecordWriter& record,
                             std::initializer_list<Inode*> concerned) {
  const Lsn lsn = journal->append(credit, record.bytes(), record.order());
  for (Inode* inode : concerned) {
    if (inode != nullptr) inode->touch(lsn);
  }
  return lsn;
}

Task<Result<InodeId>> Filesystem::Impl::new_inode_id() {
  const std::uint64_t id = next_inode.fetch_add(1);
  if (id + kInodeStep / 2 >= inode_limit_logged.load(std::memory_order_acquire)) {
    RecordWriter record;
    const std::uint64_t limit = align_up(id + kInodeStep, kInodeStep);
    record.inode_limit(InodeId{limit});
    journal::Credit credit = co_await journal->reserve(1, record.bytes().size());
    const journal::ChangeScope scope(gate);
    LockGuard lock(images_mutex);  // any leaf: two at once would grant twice, which is harmless
    if (limit > inode_limit_logged.load()) {
      const Lsn lsn = append(credit, record, {});
      inode_limit_lsn.store(lsn.raw, std::memory_order_release);
      inode_limit_logged.store(limit, std::memory_order_release);
    }
  }
  if (id >= inode_limit_durable.load(std::memory_order_acquire)) {
    const std::uint64_t granted = inode_limit_logged.load(std::memory_order_acquire);
    CO_TRY(co_await journal->sync(Lsn{inode_limit_lsn.load(std::memory_order_acquire)}));
    std::uint64_t seen = inode_limit_durable.load();
    while (seen < granted && !inode_limit_durable.compare_exchange_weak(seen, granted)) {
    }
  }
  co_return InodeId{id};
}

void Filesystem::Impl::remove_locked(RecordWriter& record, Inode& inode) {
  record.inode_remove(inode.id);
  inode.removed.store(true, std::memory_order_release);
  inodes.remove(inode.id, eras.current.load(std::memory_order_acquire), inode.stored.load());
  --inode_count;
  LockGuard lock(orphans_mutex);
  orphans.erase(inode.id.raw);
}

void Filesystem::Impl::note_orphan(const Inode& inode) {
  LockGuard lock(orphans_mutex);
  if (inode.nlink == 0) {
    orphans.insert(inode.id.raw);
  } else {
    orphans.erase(inode.id.raw);
  }
}

void Filesystem::Impl::release_data(Inode& inode, Lsn lsn) {
  if (!inode.map) return;
  extent::Freed freed;
  inode.map->clear(FileBlock{0}, ~std::uint64_t{0}, freed);
  free_data(freed, lsn);
}

void Filesystem::Impl::free_data(const extent::Freed& freed, Lsn lsn) {
  reserved_blocks.fetch_sub(freed.reserved_blocks, std::memory_order_relaxed);
  store->free(freed, lsn);
}

// Nobody changes a window of the file meanwhile: what is behind its end only changes with the mutex.
extent::ExtentLocks::Guard Filesystem::Impl::lock_all_windows(Inode& inode) {
  const std::uint64_t blocks =
      inode.map ? ceil_div(inode.size_bytes.load(std::memory_order_acquire), kBlockBytes) : 0;
  return store->locks().lock(inode.id, FileBlock{0}, std::max<std::uint64_t>(blocks, 1));
}

void Filesystem::Impl::reap_soon(InodeId id) {
  // Closing: the orphan is removed at the next mount. Read-only: it stays.
  tasks.enter();
  if (closing.load(std::memory_order_acquire) || options.read_only) {
    tasks.leave();
    return;
  }
  struct Run {
    static Task<void> run(Impl& impl, InodeId orphan) {
      co_await impl.reap(orphan);
      impl.tasks.leave();
    }
  };
  spawn(Run::run(*this, id));
}

Task<void> Filesystem::Impl::reap(InodeId id) {
  if (!writable().has_value()) co_return;
  const Result<InodeRef> found = co_await find(id);
  if (!found.has_value()) {
    {
      LockGuard lock(orphans_mutex);
      if (!orphans.contains(id.raw)) co_return;  // somebody else was faster
    }
    log_error("inode {} has no name any more and cannot be removed: {}", id,
              describe(found.error()));
    co_return;
  }
  const InodeRef inode = *found;
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  while (true) {
    if (inode->map) {
      const Result<void> loaded = co_await load_windows(*inode, FileBlock{0}, ~std::uint64_t{0});
      if (!loaded.has_value()) {
        log_error("inode {} has no name any more and cannot be removed: {}", id,
                  describe(loaded.error()));
        co_return;
      }
    }
    const journal::ChangeScope scope(gate);
    const InodeLockSet locks{inode.get()};
    if (inode->removed || inode->nlink != 0 || inode->lookups != 0) co_return;
    if (inode->map && !inode->map->is_whole()) continue;
    const auto extents = lock_all_windows(*inode);
    modify_locked(*inode);
    RecordWriter record;
    remove_locked(record, *inode);
    const Lsn lsn = append(credit, record, {inode.get()});
    release_data(*inode, lsn);
    co_return;
  }
}

void Filesystem::Impl::kill_suid_sgid(Inode& inode) {
  inode.mode &= ~static_cast<std::uint32_t>(S_ISUID);
  // Without group execution the bit means mandatory locking, not a change of group.
  if ((inode.mode & S_IXGRP) != 0) inode.mode &= ~static_cast<std::uint32_t>(S_ISGID);
}

// Durability and state.

Task<Result<void>> Filesystem::fsync(InodeId id) {
  impl_->metrics.fsyncs.add();
  const TimePoint start = impl_->executor.now();
  std::uint32_t losses_seen = 0;
  std::uint64_t lsn = 0;
  {
    // What is not in memory is in durable runs.
    const InodeRef inode = impl_->inodes.find(id);
    if (inode) lsn = inode->last_lsn.load(std::memory_order_acquire);
    losses_seen = inode ? inode->losses_seen.load(std::memory_order_acquire) : 0;
  }
  CO_TRY(co_await impl_->journal->sync(Lsn{lsn}));
  const std::uint32_t losses = impl_->pool->losses();
  if (losses_seen != losses && impl_->harmless_losses.load(std::memory_order_acquire) != losses) {
    CO_TRY(co_await impl_->check_unsynced(id, losses));
  }
  impl_->metrics.fsync_latency_us.record(
      static_cast<std::uint64_t>((impl_->executor.now() - start).count() / 1000));
  co_return {};
}

// The pool may go on without a disk that this file could not do without: then what had not been flushed there is gone.
Task<Result<void>> Filesystem::Impl::check_unsynced(InodeId id, std::uint32_t losses) {
  // A write that is published later was begun later (Written::losses).
  if (harmful_losses.load(std::memory_order_acquire) != losses) {
    if (store->unavailable_bytes() == 0) {
      harmless_losses.store(losses, std::memory_order_release);
      co_return Result<void>{};
    }
    harmful_losses.store(losses, std::memory_order_release);
  }
  bool lost = false;
  const auto look = [&](const extent::Mapping& mapping) {
    lost = store->lost_before_durable(mapping);
    return !lost;
  };
  const Result<void> walked = co_await walk_data(id, scheduler::IoClass::kRead, look);
  // Nobody can reach it any more.
  if (!walked.has_value() && walked.error().code == Code::kStale) co_return Result<void>{};
  if (!walked.has_value()) co_return walked.error();
  if (lost) {
    log_error("inode {}: what was written to it last was on a disk that has gone, and may be lost",
              id);
    co_return error(Code::kDiskGone, id.raw);
  }
  if (const InodeRef inode = inodes.find(id))
    inode->losses_seen.store(losses, std::memory_order_release);
  co_return Result<void>{};
}

Task<Result<void>> Filesystem::sync() {
  co_return co_await impl_->journal->sync(impl_->journal->appended());
}

StatFs Filesystem::statfs() {
  const extent::SpaceReport space = impl_->store->space(impl_->pool->policy());
  StatFs out;
  out.total_bytes = space.usable_bytes;
  out.free_bytes = space.free_bytes;
  out.available_bytes =
      space.free_bytes > space.reserve_bytes ? space.free_bytes - space.reserve_bytes : 0;
  out.files = impl_->inode_count.load();
  return out;
}

journal::Pool& Filesystem::pool() { return *impl_->pool; }
journal::Journal& Filesystem::journal() { return *impl_->journal; }
extent::Store& Filesystem::store() { return *impl_->store; }
const FilesystemMetrics& Filesystem::metrics() const { return impl_->metrics; }
std::size_t Filesystem::hot_windows() const {
  return impl_->hot_windows.hot(impl_->executor.now());
}
const MountReport& Filesystem::mount_report() const { return impl_->report; }
std::uint64_t Filesystem::inode_count() const { return impl_->inode_count.load(); }
std::uint64_t Filesystem::inodes_in_memory() const { return impl_->inodes.size(); }
const journal::RunSet& Filesystem::runs() const { return impl_->runs; }

const ByteBudget& Filesystem::read_memory() const { return impl_->read_memory; }

std::uint64_t Filesystem::metadata_memory_bytes() const { return impl_->metadata_bytes(); }

// A name of an inode and the directory it is in. Reverse names are not stored: this looks through
// every directory, for a report that is rare.
Task<std::optional<std::pair<InodeId, std::string>>> Filesystem::Impl::name_of(InodeId id) {
  using Name = std::pair<InodeId, std::string>;
  for (const InodeId candidate : inodes.ids()) {
    const InodeRef inode = inodes.find(candidate);
    if (!inode) continue;
    LockGuard lock(inode->mutex);
    if (!inode->directory) continue;
    for (auto found = inode->directory->next(0); found;
         found = inode->directory->next(found->cookie + 1)) {
      if (found->entry->inode == id) co_return Name{candidate, found->entry->name};
    }
  }
  journal::RunCursor cursor{runs,
                            runs.runs(),
                            make_key(kRootInode, KeyTag::kInode),
                            {},
                            journal::RunCursor::Mode::kStream,
                            {},
                            scheduler::IoClass::kBackground};
  while (true) {
    const Result<bool> more = co_await cursor.next();
    if (!more.has_value() || !*more) co_return std::nullopt;
    const Result<Key> key = parse_key(cursor.key());
    if (!key.has_value() || key->tag != KeyTag::kEntry) continue;
    Result<Entry> entry = decode_entry(cursor.value());
    if (!entry.has_value() || entry->inode != id) continue;
    // In memory it may have gone.
    const Result<InodeRef> directory = co_await find(key->inode);
    if (!directory.has_value()) continue;
    const Result<void> known = co_await load_name(**directory, entry->name);
    if (!known.has_value()) continue;
    LockGuard lock((*directory)->mutex);
    if (!(*directory)->directory) continue;
    const auto now = (*directory)->directory->find(entry->name);
    if (now && now->entry->inode == id) co_return Name{(*directory)->id, now->entry->name};
  }
}

Task<std::string> Filesystem::Impl::path_of(InodeId id) {
  std::string path;
  constexpr int kDepthMax = 10'000;  // damaged directories may lie in each other
  for (int depth = 0; id != kRootInode && depth < kDepthMax; ++depth) {
    const auto name = co_await name_of(id);
    if (!name) co_return fmt::format("inode {} (no name any more){}", id, path);
    path = "/" + name->second + path;
    id = name->first;
  }
  co_return path.empty() ? "/" : path;
}

Task<std::vector<std::string>> Filesystem::damaged_files() {
  std::vector<InodeId> ids;
  {
    LockGuard lock(impl_->damaged_mutex);
    ids.assign(impl_->damaged.rbegin(), impl_->damaged.rend());
  }
  return impl_->paths_of(std::move(ids));
}

Task<std::vector<std::string>> Filesystem::cut_off_files() {
  return impl_->paths_of(impl_->scrub->cut_off());
}

Task<std::vector<std::string>> Filesystem::Impl::paths_of(std::vector<InodeId> ids) {
  std::vector<std::string> paths;
  paths.reserve(ids.size());
  for (const InodeId id : ids) {
    // With the last name of a file its damage is gone.
    const Result<InodeRef> inode = co_await find(id);
    if (!inode.has_value() || (*inode)->removed.load(std::memory_order_acquire)) continue;
    {
      LockGuard lock((*inode)->mutex);
      if ((*inode)->nlink == 0) continue;
    }
    std::string path = co_await path_of(id);
    paths.push_back(std::move(path));
  }
  co_return paths;
}

}  // namespace dynamicfs::fs
