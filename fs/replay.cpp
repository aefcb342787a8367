// Recovery: what the runs say of the pool as a whole, and the records behind them.
//
// What a record changes is read from the runs first where that takes knowing it: the windows that
// mappings replace, the names of a directory. Everything that was changed is in memory afterwards and
// dirty. Recovery is one task with nothing else running, so locks are taken only where types ask.
#include <sys/stat.h>

#include <algorithm>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {

Task<Result<void>> Filesystem::Impl::load_pool_state() {
  journal::RunCursor cursor{runs, runs.runs(), inode_prefix(InodeId{}), inode_prefix(InodeId{1}),
                            journal::RunCursor::Mode::kStream};
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    salvage.space_map_damaged = !cursor.lost().empty();
    if (!more) co_return Result<void>{};
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    switch (key.tag) {
      case KeyTag::kPoolState: {
        CO_TRY_ASSIGN(const PoolState state, decode_pool_state(cursor.value()));
        inode_limit_logged = state.inode_limit;
        next_inode = std::max(next_inode.load(), state.inode_limit);
        inode_count = state.inodes;
        reserved_blocks = state.reserved_blocks;
        store->load_next_chunk(state.next_chunk);
        break;
      }
      case KeyTag::kPoolChunk: {
        CO_TRY_ASSIGN(const extent::ChunkState chunk, extent::decode_chunk_state(cursor.value()));
        if (key.rest.size() != 4) co_return Code::kFormatInvalid;
        const Result<void> loaded =
            store->load(ChunkId{from_big_endian<std::uint32_t>(key.rest)}, chunk);
        if (loaded.has_value()) break;
        if (!options.salvage) co_return loaded.error();
        // Where its blocks lie is enough to read them, and any column of a group knows that. What
        // another has said is not made older.
        if (cursor.in_doubt() && store->knows(chunk.put.chunk)) break;
        if (!store->replay(chunk.put).has_value()) ++salvage.chunks_lost;
        break;
      }
      case KeyTag::kPoolOrphan: {
        if (key.rest.size() != 8) co_return Code::kFormatInvalid;
        LockGuard lock(orphans_mutex);
        orphans.insert(from_big_endian<std::uint64_t>(key.rest));
        break;
      }
      default: co_return error(Code::kFormatInvalid, static_cast<std::uint64_t>(key.tag));
    }
  }
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

// What the runs have that a record changes: an inode, and of it names or blocks.
struct Filesystem::Impl::Wanted {
  InodeId inode;
  KeyTag tag = KeyTag::kInode;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  auto operator<=>(const Wanted&) const = default;
};

namespace {

// Loads under way at once while records are prepared: disks are busy, and neighbours find each other's
// block.
constexpr std::size_t kLoadsAtOnce = 64;

}  // namespace

// Reads what these records will want to know, many at once and in the order in which it lies in the
// runs: one after the other each would be a trip to a disk.
Task<void> Filesystem::Impl::load_ahead(std::vector<journal::TailRecord> records) {
  std::vector<Wanted> wanted;
  const auto want = [&](Wanted what) -> Result<void> {
    if (runs.may_have(head_hash(what.inode))) wanted.push_back(what);
    return {};
  };
  const auto look = [&](std::uint8_t type, std::span<const std::byte> body) -> Result<void> {
    switch (static_cast<ChangeType>(type)) {
      case ChangeType::kInodePut: return want({TRY(decode_inode(body)).inode});
      case ChangeType::kInodeRemove: {
        return want({TRY(decode_inode_id(body)), KeyTag::kWindow, 0, ~std::uint64_t{0}});
      }
      case ChangeType::kEntryPut: {
        const EntryChange change = TRY(decode_entry_put(body));
        return want({change.directory, KeyTag::kEntry, change.cookie, 1});
      }
      case ChangeType::kEntryRemove: {
        const EntryChange change = TRY(decode_entry_remove(body));
        return want({change.directory, KeyTag::kEntry, change.cookie, 1});
      }
      case ChangeType::kXattrPut: return want({TRY(decode_xattr_put(body)).inode});
      case ChangeType::kXattrRemove: return want({TRY(decode_xattr_remove(body)).inode});
      default: break;
    }
    switch (static_cast<extent::ChangeType>(type)) {
      case extent::ChangeType::kExtentPut:
      case extent::ChangeType::kExtentShare: {
        const extent::ExtentPut change = TRY(extent::decode_extent_put(body));
        return want({change.inode, KeyTag::kWindow, change.first.raw, change.crcs.size()});
      }
      case extent::ChangeType::kExtentClear: {
        const extent::ExtentClear change = TRY(extent::decode_extent_clear(body));
        return want({change.inode, KeyTag::kWindow, change.first.raw, change.count});
      }
      case extent::ChangeType::kExtentReserve: {
        const extent::ExtentReserve change = TRY(extent::decode_extent_reserve(body));
        return want({change.inode, KeyTag::kWindow, change.first.raw, change.count});
      }
      default: return {};
    }
  };
  for (const journal::TailRecord& record : records) {
    for_each_change(record.payload, look).ignore("it is met again when the record is applied");
  }
  std::ranges::sort(wanted);
  const auto [from, end] = std::ranges::unique(wanted);
  wanted.erase(from, end);
  for (std::size_t begin = 0; begin < wanted.size(); begin += kLoadsAtOnce) {
    std::vector<Task<Result<void>>> loads;
    for (std::size_t i = begin; i < std::min(begin + kLoadsAtOnce, wanted.size()); ++i) {
      loads.push_back(load_wanted(wanted[i]));
    }
    const std::vector<Result<void>> outcomes = co_await when_all(std::move(loads));
    for (const Result<void>& loaded : outcomes) {
      loaded.ignore("it is met again when the record is applied");
    }
  }
}

Task<Result<void>> Filesystem::Impl::load_wanted(Wanted what) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await find(what.inode));
  if (what.tag == KeyTag::kWindow && inode->map) {
    co_return co_await load_windows(*inode, FileBlock{what.first}, what.count);
  }
  if (what.tag == KeyTag::kEntry) {
    {
      LockGuard lock(inode->mutex);
      if (!inode->directory || inode->directory->is_whole()) co_return Result<void>{};
    }
    co_return co_await load_cookies(*inode, what.first, what.first + 1);
  }
  co_return Result<void>{};
}

namespace {

struct ChangeBytes {
  std::uint8_t type;
  std::span<const std::byte> body;
};

// The inode that a record makes: it gets its first and only name and has not been changed since it
// was made, so all that there is of it is in the log. 0: none, or it cannot be told.
InodeId made_by(const std::vector<ChangeBytes>& changes) {
  InodeId named;
  std::size_t names = 0;
  for (const ChangeBytes& change : changes) {
    if (static_cast<ChangeType>(change.type) == ChangeType::kEntryRemove) return {};
    if (static_cast<ChangeType>(change.type) != ChangeType::kEntryPut) continue;
    const Result<EntryChange> entry = decode_entry_put(change.body);
    if (!entry.has_value() || ++names > 1) return {};
    named = entry->inode;
  }
  for (const ChangeBytes& change : changes) {
    if (static_cast<ChangeType>(change.type) != ChangeType::kInodePut) continue;
    const Result<InodeImage> image = decode_inode(change.body);
    if (!image.has_value() || image->inode != named) continue;
    const std::uint32_t type = image->mode & Inode::kTypeMask;
    const bool empty = type != Inode::kTypeRegular || image->size_bytes == 0;
    const bool first = image->nlink == (type == Inode::kTypeDirectory ? 2 : 1);
    return empty && first && image->ctime_ns == image->btime_ns ? named : InodeId{};
  }
  return {};
}

}  // namespace

Task<Result<void>> Filesystem::Impl::apply_record(Lsn lsn, std::span<const std::byte> record) {
  using Change = ChangeBytes;
  std::vector<Change> changes;
  CO_TRY(for_each_change(record, [&](std::uint8_t type, std::span<const std::byte> body) {
    changes.push_back({type, body});
    return Result<void>{};
  }));
  being_made = runs.any_lost() ? made_by(changes) : InodeId{};
  // An inode that the record alone knows is there before what else it says of it.
  for (const Change& change : changes) {
    if (!runs.any_lost() || static_cast<ChangeType>(change.type) != ChangeType::kInodePut) continue;
    const Result<InodeImage> image = decode_inode(change.body);
    if (!image.has_value()) continue;
    const Result<InodeRef> found = co_await find(image->inode);
    if (found.has_value() || found.error().code != Code::kCorrupt) continue;
    const Result<void> put = co_await put_inode(*image);
    put.ignore("it is met again below");
  }
  Result<void> outcome;
  for (const Change& change : changes) {
    const Result<void> applied = co_await apply_change(lsn, change.type, change.body);
    if (applied.has_value()) continue;
    if (!options.salvage) co_return applied.error();
    note_failed_change(change.type, change.body);
    outcome = applied;
  }
  co_return outcome;
}

namespace {

Error impossible(InodeId id) { return error(Code::kFormatInvalid, id.raw); }

// An inode that a record names is there, or the record could not have been written.
Result<InodeRef> expected(Result<InodeRef> found, InodeId id) {
  if (!found.has_value() && found.error().code == Code::kStale) return impossible(id);
  return found;
}

}  // namespace

void Filesystem::Impl::take_image(Inode& inode, const InodeImage& image) {
  inode.mode = image.mode;
  inode.nlink = image.nlink;
  inode.uid = image.uid;
  inode.gid = image.gid;
  inode.rdev = image.rdev;
  inode.size_bytes = image.size_bytes;
  inode.atime_ns = image.atime_ns;
  inode.mtime_ns = image.mtime_ns;
  inode.ctime_ns = image.ctime_ns;
  inode.btime_ns = image.btime_ns;
  inode.parent = image.parent;
  inode.flags = image.flags;
}

Task<Result<void>> Filesystem::Impl::put_inode(InodeImage image) {
  const Result<InodeRef> found = co_await find(image.inode);
  const bool unknown =
      !found.has_value() && found.error().code == Code::kCorrupt && runs.any_lost();
  if (!found.has_value() && found.error().code != Code::kStale && !unknown) co_return found.error();
  if (unknown && image.inode != being_made) note_unknown(image);
  InodeRef inode;
  if (found.has_value()) {
    inode = *found;
  } else {
    inode = InodeRef{new Inode{image.inode}};
    inode->stored = unknown;  // so that it is not looked for once it is removed
  }
  {
    LockGuard lock(inode->mutex);
    if (found.has_value() && ((inode->mode ^ image.mode) & S_IFMT) != 0) {
      co_return impossible(image.inode);
    }
    const std::uint64_t size_before = inode->size_bytes.load(std::memory_order_relaxed);
    take_image(*inode, image);
    if (found.has_value() && inode->map && runs.any_lost())
      salvage_end(*inode, size_before, image.size_bytes);
    if (found.has_value()) {
      modify_locked(*inode);
    } else {
      modify_new(*inode);
      if ((image.mode & S_IFMT) == S_IFREG) {
        inode->map = std::make_unique<extent::FileMap>(store->map_context());
      } else if (inode->is_directory()) {
        inode->directory = std::make_unique<Directory>(directory_context());
      }
    }
    note_orphan(*inode);
  }
  if (!found.has_value()) {
    inodes.insert(inode);
    ++inode_count;
    next_inode = std::max(next_inode.load(), image.inode.raw + 1);
  }
  co_return Result<void>{};
}

Task<Result<void>> Filesystem::Impl::remove_inode(InodeId id) {
  const Result<InodeRef> found = co_await find(id);
  if (!found.has_value() && found.error().code == Code::kStale) co_return Result<void>{};
  if (!found.has_value() && found.error().code == Code::kCorrupt && runs.any_lost()) {
    inodes.remove(id, eras.current.load(std::memory_order_acquire), true);
    co_return Result<void>{};
  }
  CO_TRY_ASSIGN(const InodeRef inode, found);
  extent::Freed freed;
  if (inode->map) {
    CO_TRY(co_await load_windows(*inode, FileBlock{0}, ~std::uint64_t{0}));
    inode->map->clear(FileBlock{0}, ~std::uint64_t{0}, freed);
  }
  CO_TRY(settle(freed));
  RecordWriter ignored;
  const InodeLockSet locks{inode.get()};
  modify_locked(*inode);
  remove_locked(ignored, *inode);
  co_return Result<void>{};
}

// What a replayed change has taken out of a map.
Result<void> Filesystem::Impl::settle(const extent::Freed& freed) {
  reserved_blocks -= freed.reserved_blocks;
  const Result<void> dead = store->note_dead(freed.pieces);
  if (dead.has_value() || !options.tolerant) return dead;
  load_problems.push_back(fmt::format(
      "the log takes blocks of chunk {} from a file, and they are nobody's", dead.error().detail));
  return {};
}

// A change of data in a record of a program before this one may stand just behind the removal of its
// inode: then there is no file, and nothing to do.
Task<Result<InodeRef>> Filesystem::Impl::file_to_change(InodeId id, FileBlock first,
                                                        std::uint64_t count) {
  const Result<InodeRef> found = co_await find(id);
  if (!found.has_value()) {
    if (found.error().code == Code::kStale) co_return InodeRef{};
    co_return found.error();
  }
  if ((*found)->map == nullptr) co_return impossible(id);
  CO_TRY(co_await load_windows(**found, first, count));
  LockGuard lock((*found)->mutex);
  modify_locked(**found);
  co_return *found;
}

// `shares`: the blocks are live already.
Task<Result<void>> Filesystem::Impl::put_extents(Lsn lsn, extent::ExtentPut change, bool shares) {
  CO_TRY_ASSIGN(const InodeRef inode,
                co_await file_to_change(change.inode, change.first, change.crcs.size()));
  if (!inode) co_return Result<void>{};
  extent::Freed freed;
  inode->map->put(change.first, change.pieces, change.crcs, Generation{lsn.raw}, freed);
  const Result<void> live =
      shares ? store->note_shared(change.pieces) : store->note_live(change.pieces);
  if (!live.has_value() && !options.tolerant) {
    log_error("inode {}: {}", change.inode, describe(live.error()));
    co_return live;
  }
  if (!live.has_value() && !options.salvage) {
    load_problems.push_back(
        fmt::format("inode {} {} (chunk {})", change.inode,
                    shares ? "shares blocks that are nobody's" : "has blocks that are not its own",
                    live.error().detail));
  }
  co_return settle(freed);
}

Task<Result<void>> Filesystem::Impl::clear_extents(extent::ExtentClear change) {
  CO_TRY_ASSIGN(const InodeRef inode,
                co_await file_to_change(change.inode, change.first, change.count));
  if (!inode) co_return Result<void>{};
  extent::Freed freed;
  inode->map->clear(change.first, change.count, freed);
  co_return settle(freed);
}

Task<Result<void>> Filesystem::Impl::reserve_extents(Lsn lsn, extent::ExtentReserve change) {
  CO_TRY_ASSIGN(const InodeRef inode,
                co_await file_to_change(change.inode, change.first, change.count));
  if (!inode) co_return Result<void>{};
  reserved_blocks += inode->map->reserve(change.first, change.count, Generation{lsn.raw});
  co_return Result<void>{};
}

Task<Result<InodeRef>> Filesystem::Impl::directory_to_change(InodeId id, std::uint64_t cookie) {
  CO_TRY_ASSIGN(const InodeRef inode, expected(co_await find(id), id));
  if (inode->directory == nullptr) co_return impossible(id);
  bool known = false;
  {
    LockGuard lock(inode->mutex);
    known = inode->directory->is_whole() || inode->directory->contains(cookie);
  }
  if (!known) {
    CO_TRY(co_await load_cookies(*inode, cookie, cookie + 1));
  }
  LockGuard lock(inode->mutex);
  modify_locked(*inode);
  co_return inode;
}

Task<Result<InodeRef>> Filesystem::Impl::inode_to_change(InodeId id) {
  CO_TRY_ASSIGN(const InodeRef inode, expected(co_await find(id), id));
  LockGuard lock(inode->mutex);
  modify_locked(*inode);
  co_return inode;
}

Task<Result<void>> Filesystem::Impl::apply_change(
    Lsn lsn, std::uint8_t type, std::span<const std::byte> body) DFS_NO_THREAD_SAFETY_ANALYSIS {
  switch (static_cast<ChangeType>(type)) {
    case ChangeType::kInodePut: {
      CO_TRY_ASSIGN(const InodeImage image, decode_inode(body));
      co_return co_await put_inode(image);
    }
    case ChangeType::kInodeRemove: {
      CO_TRY_ASSIGN(const InodeId id, decode_inode_id(body));
      co_return co_await remove_inode(id);
    }
    case ChangeType::kEntryPut: {
      CO_TRY_ASSIGN(EntryChange change, decode_entry_put(body));
      CO_TRY_ASSIGN(const InodeRef inode,
                    co_await directory_to_change(change.directory, change.cookie));
      inode->directory->put(change.cookie,
                            {change.inode, change.type_bits, std::move(change.name)});
      co_return Result<void>{};
    }
    case ChangeType::kEntryRemove: {
      CO_TRY_ASSIGN(const EntryChange change, decode_entry_remove(body));
      CO_TRY_ASSIGN(const InodeRef inode,
                    co_await directory_to_change(change.directory, change.cookie));
      inode->directory->remove(change.cookie);
      co_return Result<void>{};
    }
    case ChangeType::kXattrPut: {
      CO_TRY_ASSIGN(XattrChange change, decode_xattr_put(body));
      CO_TRY_ASSIGN(const InodeRef inode, co_await inode_to_change(change.inode));
      put_xattr(*inode, std::move(change.name), std::move(change.value));
      co_return Result<void>{};
    }
    case ChangeType::kXattrRemove: {
      CO_TRY_ASSIGN(const XattrChange change, decode_xattr_remove(body));
      CO_TRY_ASSIGN(const InodeRef inode, co_await inode_to_change(change.inode));
      remove_xattr(*inode, change.name);
      co_return Result<void>{};
    }
    case ChangeType::kSymlinkPut: {
      CO_TRY_ASSIGN(XattrChange change, decode_symlink_put(body));
      CO_TRY_ASSIGN(const InodeRef inode, co_await inode_to_change(change.inode));
      inode->symlink = std::make_unique<std::string>(std::move(change.value));
      co_return Result<void>{};
    }
    case ChangeType::kInodeLimit: {
      CO_TRY_ASSIGN(const InodeId limit, decode_inode_id(body));
      inode_limit_logged = std::max(inode_limit_logged.load(), limit.raw);
      co_return Result<void>{};
    }
  }
  switch (static_cast<extent::ChangeType>(type)) {
    case extent::ChangeType::kExtentPut:
    case extent::ChangeType::kExtentShare: {
      CO_TRY_ASSIGN(extent::ExtentPut change, extent::decode_extent_put(body));
      const bool shares = type == static_cast<std::uint8_t>(extent::ChangeType::kExtentShare);
      co_return co_await put_extents(lsn, std::move(change), shares);
    }
    case extent::ChangeType::kExtentClear: {
      CO_TRY_ASSIGN(const extent::ExtentClear change, extent::decode_extent_clear(body));
      co_return co_await clear_extents(change);
    }
    case extent::ChangeType::kExtentReserve: {
      CO_TRY_ASSIGN(const extent::ExtentReserve change, extent::decode_extent_reserve(body));
      co_return co_await reserve_extents(lsn, change);
    }
    case extent::ChangeType::kChunkPut: {
      CO_TRY_ASSIGN(const extent::ChunkPut change, extent::decode_chunk_put(body));
      co_return store->replay(change);
    }
    case extent::ChangeType::kChunkRemove: {
      CO_TRY_ASSIGN(const extent::ChunkRemove change, extent::decode_chunk_remove(body));
      co_return store->replay(change);
    }
  }
  log_error("journal record {} has a change of unknown type {}", lsn, type);
  co_return error(Code::kFormatVersion, type);
}

}  // namespace dynamicfs::fs
