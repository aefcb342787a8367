// Checkpoints: all metadata as of one LSN, as one sorted run.
//
// At one instant (ChangeGate::exclusively) the last LSN, the chunk table and the inode limit are
// noted. From then on, whoever modifies an inode for the first time puts its state of that instant
// aside ("captures" it) before; the writer walks all inodes in ascending order, taking the state
// that was put aside, or capturing the inode itself. So the run is exact at that LSN, nobody waits
// for more than the serialising of one inode, and memory is needed only for inodes that are
// modified while the walk has not reached them.
//
// Crash  Until commit_manifest() completes, the old run and the log from its position are
//        everything; afterwards the new ones are. The old run's slots are given back behind that.
#include <algorithm>
#include <cerrno>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// A change in a record begins with its kind and size, which an entry of a run does not have.
constexpr std::size_t kChangeHeader = 1 + 4;

void put_entry(ByteWriter& out, std::span<const std::byte> key, std::span<const std::byte> value) {
  out.put_sized<std::uint16_t>(key);
  out.put_sized<std::uint32_t>(value);
}

// A value may be larger than an entry of a run.
constexpr std::size_t kXattrPieceBytes = 16 * kKiB;

}  // namespace

void Filesystem::Impl::serialise(const Inode& inode, RunImage& image) {
  ByteWriter out(image);
  RecordWriter attributes;
  attributes.inode_put(image_of(inode));
  put_entry(out, make_key(inode.id, KeyTag::kInode), attributes.bytes().subspan(kChangeHeader));
  if (inode.symlink) put_entry(out, make_key(inode.id, KeyTag::kSymlink), as_bytes(*inode.symlink));
  if (inode.xattrs) {
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
        put_entry(out, make_key(inode.id, KeyTag::kXattr, rest),
                  as_bytes(std::string_view{value}.substr(at, size)));
        at += size;
        ++part;
      } while (at < value.size());
    }
  }
  if (inode.directory) {
    for (const auto& [cookie, entry] : inode.directory->entries()) {
      Bytes value;
      ByteWriter writer(value);
      writer.put(entry.inode);
      writer.put(entry.type_bits);
      writer.put_bytes(as_bytes(entry.name));
      put_entry(out, make_key(inode.id, KeyTag::kEntry, big_endian(cookie)), value);
    }
  }
  if (inode.map) {
    inode.map->for_each_window([&](WindowId window, std::span<const std::byte> encoded) {
      put_entry(out, make_key(inode.id, KeyTag::kWindow, big_endian(window.raw)), encoded);
    });
  }
}

void Filesystem::Impl::capture_locked(Inode& inode) {
  const std::uint64_t number = checkpoint_number.load(std::memory_order_acquire);
  if (inode.captured.load(std::memory_order_acquire) == number) return;
  RunImage image;
  serialise(inode, image);
  {
    LockGuard lock(images_mutex);
    images.emplace(inode.id.raw, std::move(image));
  }
  inode.captured.store(number, std::memory_order_release);
}

void Filesystem::Impl::capture(Inode& inode) {
  // Only inodes without this checkpoint's mark need the mutex, and only once per checkpoint.
  if (inode.captured.load(std::memory_order_acquire) ==
      checkpoint_number.load(std::memory_order_acquire)) {
    return;
  }
  LockGuard lock(inode.mutex);
  capture_locked(inode);
}

Task<Result<journal::Manifest>> Filesystem::Impl::write_run(std::uint64_t number,
                                                            std::uint64_t limit,
                                                            std::vector<extent::ChunkPut> chunks,
                                                            std::uint64_t run_id) {
  std::vector<DiskId> disks = store->run_disks(run_copies());
  if (pool->healthy()->empty()) co_return error(Code::kReadOnly);
  // The run before this one has its copies: without them one disk less is only for want of log.
  const std::size_t wanted = std::min(run_copies(), pool->healthy()->size());
  if (disks.empty() || (disks.size() < wanted && !log_is_filling())) {
    co_return error(Code::kNoSpace);
  }
  journal::RunWriter writer(*pool, *store, run_id, std::move(disks));
  {
    const Bytes key = make_key(InodeId{}, KeyTag::kPoolLimit);
    const auto value = [limit] {
      Bytes bytes;
      ByteWriter(bytes).put(limit);
      return bytes;
    }();
    CO_TRY(co_await writer.add(key, value));
  }
  for (const extent::ChunkPut& chunk : chunks) {
    Bytes change;
    ByteWriter out(change);
    extent::encode(out, chunk);
    const Bytes key = make_key(InodeId{}, KeyTag::kPoolChunk, big_endian(chunk.chunk.raw));
    CO_TRY(co_await writer.add(key, std::span{change}.subspan(kChangeHeader)));
  }
  chunks.clear();

  // Inodes of the instant: those in the table now, and those removed since, which were put aside.
  // Numbers made later are in the table too, but carry this checkpoint's mark and no image.
  std::vector<InodeId> ids = inodes.ids();
  {
    LockGuard lock(images_mutex);
    for (const auto& [id, image] : images) ids.emplace_back(id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  RunImage image;
  for (const InodeId id : ids) {
    image.clear();
    const InodeRef inode = inodes.find(id);
    if (inode) {
      LockGuard lock(inode->mutex);
      if (inode->captured.load(std::memory_order_acquire) != number) {
        serialise(*inode, image);
        inode->captured.store(number, std::memory_order_release);
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
      const auto key = in.get_sized<std::uint16_t>();
      const auto value = in.get_sized<std::uint32_t>();
      DFS_ASSERT(in.ok());
      CO_TRY(co_await writer.add(key, value));
    }
  }
  co_return co_await writer.finish();
}

// Enough copies to survive what the policy survives, two at least where there are two disks.
std::size_t Filesystem::Impl::run_copies() const {
  return std::max<std::size_t>(2, pool->policy().tolerance() + 1);
}

std::size_t Filesystem::Impl::run_copies_here() const {
  const journal::Manifest manifest = pool->superblock().manifest;
  return static_cast<std::size_t>(std::ranges::count_if(
      manifest.copies,
      [this](const journal::RunCopy& copy) { return pool->disk(copy.disk) != nullptr; }));
}

bool Filesystem::Impl::run_is_thin() const {
  if (pool->superblock().manifest.run_id == 0) return false;
  return run_copies_here() < std::min(run_copies(), pool->healthy()->size());
}

std::size_t Filesystem::metadata_copies() const { return impl_->run_copies_here(); }

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
    outcome = co_await pool->report_failure(flushed[i], flushes.error(i));
  }
  co_return outcome;
}

// Writes the run and makes it the current one; on an error the old one still is.
Task<Result<void>> Filesystem::Impl::switch_run(std::uint64_t number, std::uint64_t limit, Lsn lsn,
                                                std::vector<extent::ChunkPut> chunks,
                                                journal::Manifest old) {
  CO_TRY_ASSIGN(journal::Manifest manifest,
                co_await write_run(number, limit, std::move(chunks), old.run_id + 1));
  manifest.run_id = old.run_id + 1;
  manifest.lsn = lsn;
  manifest.log_start = journal->position_after(lsn);

  // The run names data whose records may not be committed yet: it must be on stable storage before
  // the run counts. (Not journal->sync: a commit may be waiting for the space this will free.)
  Result<void> outcome;
  if (!mutated(Mutant::kSkipRunFlush)) outcome = co_await flush_disks();
  if (mutated(Mutant::kTrimEarly)) journal->trim(manifest.log_start);
  if (outcome.has_value()) outcome = co_await pool->commit_manifest(manifest);
  if (!outcome.has_value()) {
    // Nothing names the new run, unless the pool is lost anyway.
    if (!pool->read_only()) {
      for (const journal::RunCopy& copy : manifest.copies) {
        store->drop_run_slots(copy.disk, copy.slots);
      }
    }
    co_return outcome.error();
  }
  journal->trim(manifest.log_start);
  if (old.run_id != 0) store->retire_run(old);
  co_return outcome;
}

Task<Result<void>> Filesystem::Impl::checkpoint() {
  const AsyncMutex::Guard guard = co_await checkpoint_mutex.acquire();
  Result<void> result;
  // A disk without room for its copy of the run is left out, as long as others are there.
  for (std::size_t full = 0; full <= pool->healthy()->size(); ++full) {
    if (store->run_disks(1).empty()) store->try_full_disks_again();
    result = co_await checkpoint_once();
    if (result.has_value() || result.error().code != Code::kNoSpace ||
        result.error().sys_errno != ENOSPC) {
      break;
    }
    store->note_full(DiskId{static_cast<std::uint16_t>(result.error().detail)});
  }
  // The other half of the log is for removals.
  metadata_full.store(!result.has_value() && result.error().code == Code::kNoSpace &&
                      log_is_filling());
  co_return result;
}

Task<Result<void>> Filesystem::Impl::checkpoint_once() {
  CO_TRY(writable());
  const TimePoint start = executor.now();
  const journal::Manifest old = pool->superblock().manifest;
  Lsn lsn;
  std::uint64_t number = 0;
  std::uint64_t limit = 0;
  std::vector<extent::ChunkPut> chunks;
  gate.exclusively([&] {
    lsn = journal->appended();
    limit = inode_limit_logged.load();
    store->hold_chunk_slots(lsn);
    chunks = store->chunks();
    number = checkpoint_number.load() + 1;
    {
      // What was put aside for a checkpoint that failed is not of this instant.
      LockGuard lock(images_mutex);
      images.clear();
    }
    checkpoint_number.store(number, std::memory_order_release);
  });
  const Result<void> switched = co_await switch_run(number, limit, lsn, std::move(chunks), old);
  store->release_chunk_slots();
  if (!switched.has_value()) {
    // Some inodes carry this checkpoint's mark already, and that is harmless: the next one has
    // another number. What was put aside is of no use any more.
    LockGuard lock(images_mutex);
    images.clear();
    log_warning("checkpoint failed: {}", describe(switched.error()));
    co_return switched.error();
  }
  // A disk may have failed while its copy was written. For one that is full tend() tries again.
  run_thin.store(run_is_thin() && store->full_disks().empty());
  metrics.checkpoints.add();
  metrics.checkpoint_ms.record(
      static_cast<std::uint64_t>((executor.now() - start).count() / 1'000'000));
  co_return {};
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
