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

Result<InodeId> parse_child(std::span<const std::byte> value) {
  ByteReader in(value);
  const auto inode = in.get<InodeId>();
  if (!in.ok()) return Code::kFormatInvalid;
  return inode;
}

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
  DFS_ASSERT(options.read_only || !options.tolerant);
  auto impl = std::make_unique<Impl>(executor, std::move(pool), options);
  const Result<void> loaded = co_await impl->load();
  if (!loaded.has_value()) {
    co_await impl->quiesce();
    co_await executor.leave_driver_thread();  // the disks go with `impl`
    co_return loaded.error();
  }
  Impl& parts = *impl;
  std::unique_ptr<Filesystem> filesystem{new Filesystem(std::move(impl))};
  parts.begin_housekeeping();
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
  if (manifest.run_id != 0) {
    auto on_entry = [this](std::span<const std::byte> key, std::span<const std::byte> value) {
      return apply_run_entry(key, value);
    };
    CO_TRY_ASSIGN(const journal::RunReadReport run,
                  co_await journal::read_run(*pool, manifest, on_entry));
    report.run_entries = run.entries;
    report.run_blocks = run.blocks;
    report.run_blocks_bad = run.blocks_bad;
    store->keep_run(manifest);
  }
  journal::Replay replay;
  replay.apply = [this](Lsn lsn, std::span<const std::byte> record) {
    return apply_record(lsn, record);
  };
  replay.count_whole = [this](std::vector<journal::TailRecord> tail) {
    return count_whole(std::move(tail));
  };
  CO_TRY_ASSIGN(journal, co_await journal::Journal::open(executor, *pool, std::move(replay),
                                                         options.group_commit));
  report.journal = journal->recovery();
  CO_TRY(note_all_live());
  store->start(*journal);

  pool->on_change([this] {
    if (pool->read_only()) journal->stop();
    run_thin.store(run_is_thin());
    checkpoint_if_due();
  });
  if (!options.read_only) {
    journal->on_progress([this] { on_progress(); });
    // A log that is nearly full has no room for what follows.
    if (log_is_filling()) {
      CO_TRY(co_await checkpoint());
    }
  }

  const bool empty = manifest.run_id == 0 && report.journal.records_replayed == 0;
  if (!empty && !inodes.find(kRootInode)) {
    log_error("the pool has metadata but no root directory");
    co_return error(Code::kFormatInvalid, kRootInode.raw);
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

    std::vector<InodeId> orphans;
    for (const InodeId id : inodes.ids()) {
      const InodeRef inode = inodes.find(id);
      LockGuard lock(inode->mutex);
      if (inode->nlink == 0) orphans.push_back(id);
    }
    for (const InodeId id : orphans) co_await reap(id);
    report.orphans_removed = orphans.size();
  } else if (empty) {
    co_return error(Code::kReadOnly);
  }
  if (!options.read_only) {
    run_thin.store(run_is_thin());
    checkpoint_if_due();
  }
  report.inodes = inodes.size();
  report.took = executor.now() - start;
  co_return {};
}

Task<Result<void>> Filesystem::Impl::make_root() {
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  const InodeRef root{new Inode{kRootInode}};
  const journal::ChangeScope scope(gate);
  const InodeLockSet locks{root.get()};
  root->mode = S_IFDIR | 0755;
  root->nlink = 2;
  root->parent = kRootInode;
  root->directory = std::make_unique<Directory>();
  const std::int64_t now = now_ns();
  root->atime_ns = root->mtime_ns = root->ctime_ns = now;
  root->btime_ns = now;
  RecordWriter record;
  record.inode_put(image_of(*root));
  append(credit, record, {root.get()});
  inodes.insert(root);
  co_return {};
}

Result<InodeRef> Filesystem::Impl::put_inode(const InodeImage& image) {
  InodeRef inode = inodes.find(image.inode);
  const bool fresh = !inode;
  if (fresh) {
    inode = InodeRef{new Inode{image.inode}};
    if ((image.mode & S_IFMT) == S_IFREG) {
      inode->map = std::make_unique<extent::FileMap>(store->memory_epochs());
    }
  }
  {
    LockGuard lock(inode->mutex);
    if (!fresh && ((inode->mode ^ image.mode) & S_IFMT) != 0) {
      return error(Code::kFormatInvalid, image.inode.raw);
    }
    inode->mode = image.mode;
    inode->nlink = image.nlink;
    inode->uid = image.uid;
    inode->gid = image.gid;
    inode->rdev = image.rdev;
    inode->size_bytes = image.size_bytes;
    inode->atime_ns = image.atime_ns;
    inode->mtime_ns = image.mtime_ns;
    inode->ctime_ns = image.ctime_ns;
    inode->btime_ns = image.btime_ns;
    inode->parent = image.parent;
    if (fresh && inode->is_directory()) inode->directory = std::make_unique<Directory>();
  }
  if (fresh) {
    inodes.insert(inode);
    next_inode = std::max(next_inode.load(), image.inode.raw + 1);
  }
  return inode;
}

// See journal::Replay.
Task<Result<std::size_t>> Filesystem::Impl::count_whole(std::vector<journal::TailRecord> tail) {
  extent::Claims claims;
  for (std::size_t i = 0; i < tail.size(); ++i) {
    CO_TRY(
        for_each_change(tail[i].payload, [&](std::uint8_t type, std::span<const std::byte> body) {
          return claims.take(i, tail[i].lsn, type, body);
        }));
  }
  const std::optional<std::size_t> missing = co_await store->first_missing(std::move(claims));
  co_return missing.value_or(tail.size());
}

Result<void> Filesystem::Impl::apply_record(Lsn lsn, std::span<const std::byte> record) {
  return for_each_change(record, [&](std::uint8_t type, std::span<const std::byte> body) {
    return apply_change(lsn, type, body);
  });
}

// Recovery is one thread with nothing else running, so locks are taken only where types ask.
Result<void> Filesystem::Impl::apply_change(
    Lsn lsn, std::uint8_t type, std::span<const std::byte> body) DFS_NO_THREAD_SAFETY_ANALYSIS {
  const auto existing = [&](InodeId id) -> Result<InodeRef> {
    InodeRef inode = inodes.find(id);
    if (!inode) return error(Code::kFormatInvalid, id.raw);
    return inode;
  };
  const auto directory = [&](InodeId id) -> Result<InodeRef> {
    InodeRef inode = TRY(existing(id));
    if (inode->directory == nullptr) return error(Code::kFormatInvalid, id.raw);
    return inode;
  };
  const auto file = [&](InodeId id) -> Result<InodeRef> {
    InodeRef inode = TRY(existing(id));
    if (inode->map == nullptr) return error(Code::kFormatInvalid, id.raw);
    return inode;
  };
  extent::Freed freed;  // what is free is found out at the end, from what is mapped then
  switch (static_cast<ChangeType>(type)) {
    case ChangeType::kInodePut: TRY(put_inode(TRY(decode_inode(body)))); return {};
    case ChangeType::kInodeRemove: inodes.remove(TRY(decode_inode_id(body))); return {};
    case ChangeType::kEntryPut: {
      EntryChange change = TRY(decode_entry_put(body));
      TRY(directory(change.directory))
          ->directory->put(change.cookie, {change.inode, change.type_bits, std::move(change.name)});
      return {};
    }
    case ChangeType::kEntryRemove: {
      const EntryChange change = TRY(decode_entry_remove(body));
      TRY(directory(change.directory))->directory->remove(change.cookie);
      return {};
    }
    case ChangeType::kXattrPut: {
      XattrChange change = TRY(decode_xattr_put(body));
      const InodeRef inode = TRY(existing(change.inode));
      if (!inode->xattrs) inode->xattrs = std::make_unique<std::map<std::string, std::string>>();
      (*inode->xattrs)[std::move(change.name)] = std::move(change.value);
      inode->has_xattrs = true;
      return {};
    }
    case ChangeType::kXattrRemove: {
      const XattrChange change = TRY(decode_xattr_remove(body));
      const InodeRef inode = TRY(existing(change.inode));
      if (inode->xattrs) inode->xattrs->erase(change.name);
      inode->has_xattrs = inode->xattrs && !inode->xattrs->empty();
      return {};
    }
    case ChangeType::kSymlinkPut: {
      XattrChange change = TRY(decode_symlink_put(body));
      TRY(existing(change.inode))->symlink = std::make_unique<std::string>(std::move(change.value));
      return {};
    }
    case ChangeType::kInodeLimit:
      inode_limit_logged = std::max(inode_limit_logged.load(), TRY(decode_inode_id(body)).raw);
      return {};
  }
  switch (static_cast<extent::ChangeType>(type)) {
    // A change of data may have been published just behind the removal of its inode.
    case extent::ChangeType::kExtentPut: {
      const extent::ExtentPut change = TRY(extent::decode_extent_put(body));
      if (!inodes.find(change.inode)) return {};
      TRY(file(change.inode))
          ->map->put(change.first, change.pieces, change.crcs, Generation{lsn.raw}, freed);
      return {};
    }
    case extent::ChangeType::kExtentClear: {
      const extent::ExtentClear change = TRY(extent::decode_extent_clear(body));
      if (!inodes.find(change.inode)) return {};
      TRY(file(change.inode))->map->clear(change.first, change.count, freed);
      return {};
    }
    case extent::ChangeType::kExtentReserve: {
      const extent::ExtentReserve change = TRY(extent::decode_extent_reserve(body));
      if (!inodes.find(change.inode)) return {};
      TRY(file(change.inode))->map->reserve(change.first, change.count, Generation{lsn.raw});
      return {};
    }
    case extent::ChangeType::kChunkPut: return store->replay(TRY(extent::decode_chunk_put(body)));
    case extent::ChangeType::kChunkRemove:
      return store->replay(TRY(extent::decode_chunk_remove(body)));
    case extent::ChangeType::kReferenceCount: break;
  }
  log_error("journal record {} has a change of unknown type {}", lsn, type);
  return error(Code::kFormatVersion, type);
}

Result<void> Filesystem::Impl::apply_run_entry(std::span<const std::byte> key_bytes,
                                               std::span<const std::byte> value)
    DFS_NO_THREAD_SAFETY_ANALYSIS {
  const Key key = TRY(parse_key(key_bytes));
  if (key.inode.raw == 0) {
    if (key.tag == KeyTag::kPoolLimit) {
      inode_limit_logged = TRY(parse_child(value)).raw;
      return {};
    }
    if (key.tag == KeyTag::kPoolChunk) return store->replay(TRY(extent::decode_chunk_put(value)));
    return error(Code::kFormatInvalid, static_cast<std::uint64_t>(key.tag));
  }
  if (key.tag == KeyTag::kInode) {
    TRY(put_inode(TRY(decode_inode(value))));
    return {};
  }
  const InodeRef inode = inodes.find(key.inode);
  if (!inode) return error(Code::kFormatInvalid, key.inode.raw);
  switch (key.tag) {
    case KeyTag::kSymlink:
      inode->symlink = std::make_unique<std::string>(as_text(value));
      return {};
    case KeyTag::kXattr: {
      if (key.rest.size() < 4) return error(Code::kFormatInvalid, key.inode.raw);
      const std::string name{as_text(key.rest.first(key.rest.size() - 3))};
      if (!inode->xattrs) inode->xattrs = std::make_unique<std::map<std::string, std::string>>();
      (*inode->xattrs)[name] += as_text(value);
      inode->has_xattrs = true;
      return {};
    }
    case KeyTag::kEntry: {
      ByteReader in(value);
      Entry entry;
      entry.inode = in.get<InodeId>();
      entry.type_bits = in.get<std::uint32_t>();
      entry.name = std::string{as_text(in.get_bytes(in.left()))};
      if (!in.ok() || key.rest.size() != 8 || inode->directory == nullptr) {
        return error(Code::kFormatInvalid, key.inode.raw);
      }
      inode->directory->put(from_big_endian<std::uint64_t>(key.rest), std::move(entry));
      return {};
    }
    case KeyTag::kWindow:
      if (key.rest.size() != 8 || inode->map == nullptr) {
        return error(Code::kFormatInvalid, key.inode.raw);
      }
      return inode->map->load_window(WindowId{from_big_endian<std::uint64_t>(key.rest)}, value);
    case KeyTag::kInode: break;
  }
  return error(Code::kFormatInvalid, static_cast<std::uint64_t>(key.tag));
}

Result<void> Filesystem::Impl::note_all_live() {
  for (const InodeId id : inodes.ids()) {
    const InodeRef inode = inodes.find(id);
    if (!inode->map) continue;
    Result<void> outcome;
    inode->map->for_each([&](const extent::Mapping& mapping) {
      if (mapping.kind == extent::MappingKind::kReserved) {
        store->note_reserved(mapping.count);
      } else if (outcome.has_value()) {
        outcome = store->note_live(mapping);
      }
    });
    if (outcome.has_value()) continue;
    if (!options.tolerant) {
      log_error("inode {}: {}", id, describe(outcome.error()));
      return outcome;
    }
    load_problems.push_back(fmt::format("inode {} has blocks that are not its own (chunk {})", id,
                                        outcome.error().detail));
  }
  return {};
}

// Housekeeping.

void Filesystem::Impl::on_progress() {
  checkpoint_if_due();
  tasks.enter();  // before the look at `closing`: unmount sets that, then waits for tasks
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

// An unmount writes a run by itself; but its commits may need the room.
bool Filesystem::Impl::checkpoint_is_due() const {
  return log_is_filling() || (run_thin.load() && !closing.load(std::memory_order_acquire));
}

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
      const Result<void> reported = co_await pool->report_failure(id, check.error(0));
      reported.ignore("the pool says so itself");
    }
  }
  being_checked.fetch_and(~bit);
  tasks.leave();
}

bool Filesystem::Impl::can_lose(DiskId id) const {
  if (!pool->can_lose(id) || !store->has_elsewhere(id)) return false;
  const journal::Manifest manifest = pool->superblock().manifest;
  return manifest.run_id == 0 ||
         std::ranges::any_of(manifest.copies, [&](const journal::RunCopy& copy) {
           return copy.disk != id && pool->disk(copy.disk) != nullptr;
         });
}

bool Filesystem::can_lose(DiskId id) const { return impl_->can_lose(id); }

// Not inside watch_disks(): the epoch without it is written to disks that may hang too.
Task<void> Filesystem::Impl::give_up(DiskId id) {
  const Result<void> given_up = co_await pool->report_failure(id, error(Code::kDiskHung));
  given_up.ignore("the pool says so itself");
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
        spawn(give_up(id));
        continue;
    }
    if (disk->latency().suspect()) suspects.push_back(id);
  }
  store->note_suspects(std::move(suspects));
  co_return;
}

// Makes durable what nobody asked to, and closes the journal with a watermark when it is idle.
Task<void> Filesystem::Impl::tend() {
  if (journal->stopped()) co_return;
  if (journal->covered() < journal->appended()) {
    const Result<void> result = co_await journal->drain();
    result.ignore("the journal has stopped and said so; every later sync reports it");
  }
  co_await store->reclaim();
  if (run_is_thin() && store->full_disks().empty()) {
    run_thin.store(true);
    checkpoint_if_due();
  }
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
  if (!first.has_value() && first.error().code != Code::kNoSpace) co_return first;
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

Result<InodeRef> Filesystem::Impl::find(InodeId id) const {
  InodeRef inode = inodes.find(id);
  if (!inode) return error(Code::kStale, id.raw);
  return inode;
}

Lsn Filesystem::Impl::append(journal::Credit& credit, const RecordWriter& record,
                             std::initializer_list<Inode*> concerned) {
  const Lsn lsn = journal->append(credit, record.bytes());
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
  inodes.remove(inode.id);
}

void Filesystem::Impl::release_data(Inode& inode, Lsn lsn) {
  if (!inode.map) return;
  extent::Freed freed;
  {
    const auto extents = store->locks().lock(inode.id, FileBlock{0}, ~std::uint64_t{0});
    inode.map->clear(FileBlock{0}, ~std::uint64_t{0}, freed);
  }
  store->free(freed, lsn);
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
  const InodeRef inode = inodes.find(id);
  if (!inode) co_return;
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  Lsn lsn;
  {
    const journal::ChangeScope scope(gate);
    const InodeLockSet locks{inode.get()};
    if (inode->removed || inode->nlink != 0 || inode->lookups != 0) co_return;
    capture_locked(*inode);
    RecordWriter record;
    remove_locked(record, *inode);
    lsn = append(credit, record, {inode.get()});
  }
  release_data(*inode, lsn);
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
  CO_TRY_ASSIGN(const InodeRef inode, impl_->find(id));
  CO_TRY(co_await impl_->journal->sync(Lsn{inode->last_lsn.load(std::memory_order_acquire)}));
  impl_->metrics.fsync_latency_us.record(
      static_cast<std::uint64_t>((impl_->executor.now() - start).count() / 1000));
  co_return {};
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
  out.files = impl_->inodes.size();
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
std::uint64_t Filesystem::inode_count() const { return impl_->inodes.size(); }

const ByteBudget& Filesystem::read_memory() const { return impl_->read_memory; }

std::uint64_t Filesystem::metadata_memory_bytes() const {
  // What the allocator adds per node of a map and per hash entry, roughly.
  constexpr std::uint64_t kNodeBytes = 64;
  std::uint64_t bytes = 0;
  for (const InodeId id : impl_->inodes.ids()) {
    const InodeRef inode = impl_->inodes.find(id);
    if (!inode) continue;
    bytes += sizeof(Inode) + kNodeBytes;
    if (inode->map) bytes += inode->map->memory_bytes();
    LockGuard lock(inode->mutex);
    if (inode->directory)
      bytes += inode->directory->entries().size() * (sizeof(Entry) + kNodeBytes);
  }
  return bytes;
}

std::string Filesystem::Impl::path_of(InodeId id) const {
  // Reverse names are not stored: this looks through every directory, for a report that is rare.
  std::string path;
  constexpr int kDepthMax = 10'000;  // damaged directories may lie in each other
  const std::vector<InodeId> all = inodes.ids();
  for (int depth = 0; id != kRootInode && depth < kDepthMax; ++depth) {
    bool found = false;
    for (const InodeId candidate : all) {
      const InodeRef inode = inodes.find(candidate);
      if (!inode) continue;
      LockGuard lock(inode->mutex);
      if (!inode->directory) continue;
      for (const auto& [cookie, entry] : inode->directory->entries()) {
        if (entry.inode != id) continue;
        path = "/" + entry.name + path;
        id = inode->id;
        found = true;
        break;
      }
      if (found) break;
    }
    if (!found) return fmt::format("inode {} (no name any more){}", id, path);
  }
  return path.empty() ? "/" : path;
}

std::vector<std::string> Filesystem::damaged_files() const {
  std::vector<InodeId> ids;
  {
    LockGuard lock(impl_->damaged_mutex);
    ids.assign(impl_->damaged.rbegin(), impl_->damaged.rend());
  }
  std::vector<std::string> paths;
  paths.reserve(ids.size());
  for (const InodeId id : ids) {
    // With the last name of a file its damage is gone.
    const InodeRef inode = impl_->inodes.find(id);
    if (!inode || inode->removed.load(std::memory_order_acquire)) continue;
    {
      LockGuard lock(inode->mutex);
      if (inode->nlink == 0) continue;
    }
    paths.push_back(impl_->path_of(id));
  }
  return paths;
}

}  // namespace dynamicfs::fs
