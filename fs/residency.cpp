// What is in memory, and how the rest comes there: inodes, names and windows are read from the runs
// when an operation needs them, and evicted when nobody has used them and the runs have them.
//
// Protocol  An operation finds the inodes it concerns (find()), which it then refers to, and has
//           what it will touch of them loaded before it takes a lock. What is loaded stays as long as
//           somebody refers to the inode: evict() takes out only what the table alone refers to,
//           and only what is clean. So behind the lock there is nothing to wait for (INV-1).
// Newer     What is in memory, and that something was removed, is newer than the runs: loading adds
//           only what is not there. It reads a snapshot of the runs taken after the inode was
//           referred to; whatever was evicted before is in it.
// Once      An inode is loaded by one at a time; two could differ, if it was modified and evicted
//           between them.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

using journal::RunCursor;

// A directory with at most this many names is read as a whole: some 10 KiB, a third of a block.
constexpr std::uint64_t kSmallDirectory = 200;
// Names that readdir reads ahead.
constexpr std::size_t kNamesAtOnce = 512;
// Windows that a seek reads ahead.
constexpr std::size_t kWindowsAtOnce = 64;
// More windows than this are read in one sweep.
constexpr std::uint64_t kWindowsOneByOne = 8;
// Holes of a range of more windows than this, 4 GiB, are not noted one by one: the file is read to its
// end, and then has none that are not known.
constexpr std::uint64_t kWindowsNoted = 4096;
// Eviction goes on until it has made this much room, so that it does not begin again at once.
constexpr std::uint64_t kRoomPercent = 10;

Bytes cookie_key(InodeId directory, std::uint64_t cookie) {
  return make_key(directory, KeyTag::kEntry, big_endian(cookie));
}

Bytes window_key(InodeId inode, std::uint64_t window) {
  return make_key(inode, KeyTag::kWindow, big_endian(window));
}

// Behind every key of this kind.
Bytes end_of(InodeId inode, KeyTag tag) {
  return make_key(inode, static_cast<KeyTag>(static_cast<std::uint8_t>(tag) + 1));
}

}  // namespace

// Inodes.

MaybeTask<Result<InodeRef>> Filesystem::Impl::find(InodeId id) {
  InodeRef inode = inodes.find(id);
  if (inode) return Result<InodeRef>{std::move(inode)};
  return load_inode(id);
}

Task<Result<InodeRef>> Filesystem::Impl::load_inode(InodeId id) {
  while (true) {
    if (!runs.may_have(head_hash(id))) {
      // It may have been made meanwhile.
      InodeRef inode = inodes.find(id);
      if (inode) co_return inode;
      co_return error(Code::kStale, id.raw);
    }
    std::shared_ptr<AsyncEvent> other;
    auto mine = std::make_shared<AsyncEvent>(executor);
    {
      LockGuard lock(loading_mutex);
      const auto [it, first] = loading.emplace(id.raw, mine);
      if (!first) other = it->second;
    }
    if (other != nullptr) {
      co_await other->wait();
    }
    InodeRef inode = inodes.find(id);
    if (other != nullptr && !inode && !inodes.is_removed(id)) continue;
    Result<InodeRef> outcome = error(Code::kStale, id.raw);
    if (inode) {
      outcome = inode;
    } else if (other == nullptr && !inodes.is_removed(id)) {
      outcome = co_await read_inode(id);
      if (outcome.has_value()) inodes.insert(*outcome);
    }
    if (other == nullptr) {
      {
        LockGuard lock(loading_mutex);
        loading.erase(id.raw);
      }
      mine->set();
      look_at_memory();
    }
    co_return outcome;
  }
}

// Nobody else knows the inode that is made here.
Task<Result<InodeRef>> Filesystem::Impl::read_inode(InodeId id) DFS_NO_THREAD_SAFETY_ANALYSIS {
  metrics.inodes_loaded.add();
  RunCursor cursor{runs,
                   runs.runs(),
                   inode_prefix(id),
                   make_key(id, KeyTag::kEntry),
                   RunCursor::Mode::kCached,
                   head_hash(id)};
  InodeRef inode{new Inode{id}};
  inode->stored = true;
  bool found = false;
  StoredInode stored;
  bool sure = true;  // no newer record of it can be lost
  bool xattrs_sure = false;
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    if (!found && key.tag != KeyTag::kInode && !cursor.lost().empty()) break;
    if (!found && key.tag != KeyTag::kInode) co_return error(Code::kFormatInvalid, id.raw);
    if (key.tag == KeyTag::kXattr) {
      xattrs_sure = !cursor.in_doubt();
    } else {
      sure &= !cursor.in_doubt();
    }
    switch (key.tag) {
      case KeyTag::kInode: {
        CO_TRY_ASSIGN(stored, decode_stored_inode(cursor.value()));
        if (stored.image.inode != id) co_return error(Code::kFormatInvalid, id.raw);
        found = true;
        take_image(*inode, stored.image);
        if (inode->is_directory()) {
          inode->directory = std::make_unique<Directory>(directory_context(), stored.names);
        } else if ((inode->mode & Inode::kTypeMask) == Inode::kTypeRegular) {
          const extent::FileMap::Stored blocks{.data_blocks = stored.data_blocks,
                                               .reserved_blocks = stored.reserved_blocks};
          inode->map = std::make_unique<extent::FileMap>(store->map_context(), blocks);
        }
        break;
      }
      case KeyTag::kSymlink:
        inode->symlink = std::make_unique<std::string>(as_text(cursor.value()));
        break;
      case KeyTag::kXattr: {
        // Behind the name a NUL and the number of the part.
        if (key.rest.size() < 4) co_return error(Code::kFormatInvalid, id.raw);
        const std::string name{as_text(key.rest.first(key.rest.size() - 3))};
        if (!inode->xattrs) inode->xattrs = std::make_unique<XattrMap>();
        (*inode->xattrs)[name] += as_text(cursor.value());
        break;
      }
      default: co_return error(Code::kFormatInvalid, id.raw);
    }
  }
  // That what cannot be read has nothing of it is not known.
  if (!found && !cursor.lost().empty()) co_return error(Code::kCorrupt, id.raw);
  if (!found) co_return error(Code::kStale, id.raw);
  if (!cursor.lost().empty()) note_lost_head(id, cursor.lost(), sure, xattrs_sure);
  if (inode->xattrs) inode->note_xattrs(metadata_memory);
  if (runs.any_lost()) {
    CO_TRY(co_await salvage_whole(*inode, stored, sure));
    co_return inode;
  }
  if (inode->directory && inode->directory->count() <= kSmallDirectory) {
    CO_TRY(co_await load_cookies(*inode, 0, ~std::uint64_t{0}));
  }
  co_return inode;
}

// Names.

Task<Result<void>> Filesystem::Impl::load_cookies(Inode& directory, std::uint64_t from,
                                                  std::uint64_t end) {
  const std::optional<std::uint64_t> hash = end - from <= kCookiesPerHash - from % kCookiesPerHash
                                                ? std::optional{names_hash(directory.id, from)}
                                                : std::nullopt;
  if (hash && !runs.may_have(*hash)) co_return Result<void>{};
  const bool to_end = end == ~std::uint64_t{0};
  RunCursor cursor{runs,
                   runs.runs(),
                   cookie_key(directory.id, from),
                   to_end ? end_of(directory.id, KeyTag::kEntry) : cookie_key(directory.id, end),
                   RunCursor::Mode::kCached,
                   hash};
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    CO_TRY_ASSIGN(Entry entry, decode_entry(cursor.value()));
    if (key.rest.size() != 8) co_return error(Code::kFormatInvalid, directory.id.raw);
    LockGuard lock(directory.mutex);
    directory.directory->load(from_big_endian<std::uint64_t>(key.rest), std::move(entry));
  }
  if (!cursor.lost().empty())
    note_doubt(directory.id, [](SalvageDoubt& doubt) { doubt.names = true; });
  if (from == 0 && to_end) {
    LockGuard lock(directory.mutex);
    directory.directory->set_whole();
  }
  co_return Result<void>{};
}

MaybeTask<Result<void>> Filesystem::Impl::load_name(Inode& directory, std::string_view name,
                                                    bool for_a_new_one) {
  {
    LockGuard lock(directory.mutex);
    if (directory.directory == nullptr || directory.directory->is_whole()) return Result<void>{};
    // That the name is there says nothing of the places that it could take if it went.
    if (!for_a_new_one && directory.directory->knows(name)) return Result<void>{};
  }
  return read_name(directory, Directory::cookie_of(name));
}

Task<Result<void>> Filesystem::Impl::read_name(Inode& directory, std::uint64_t first) {
  const std::uint64_t middle = align_down(first, kCookiesPerHash) + kCookiesPerHash;
  const std::uint64_t end = first + Directory::kProbes;
  CO_TRY(co_await load_cookies(directory, first, std::min(middle, end)));
  if (middle < end) {
    CO_TRY(co_await load_cookies(directory, middle, end));
  }
  look_at_memory();
  co_return Result<void>{};
}

Task<Result<std::uint64_t>> Filesystem::Impl::load_entries(Inode& directory, std::uint64_t from) {
  {
    LockGuard lock(directory.mutex);
    const std::uint64_t known = directory.directory->known_to(from);
    if (known != from) co_return known;
  }
  RunCursor cursor{runs, runs.runs(), cookie_key(directory.id, from),
                   end_of(directory.id, KeyTag::kEntry), RunCursor::Mode::kCached};
  for (std::size_t names = 0;; ++names) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!cursor.lost().empty())
      note_doubt(directory.id, [](SalvageDoubt& doubt) { doubt.names = true; });
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    CO_TRY_ASSIGN(Entry entry, decode_entry(cursor.value()));
    if (key.rest.size() != 8) co_return error(Code::kFormatInvalid, directory.id.raw);
    const auto cookie = from_big_endian<std::uint64_t>(key.rest);
    bool enough = false;
    {
      LockGuard lock(directory.mutex);
      directory.directory->load(cookie, std::move(entry));
      // Not behind one that has been removed since: the caller is to find one.
      enough = names + 1 >= kNamesAtOnce && directory.directory->contains(cookie);
      if (enough) directory.directory->note_loaded(from, cookie + 1);
    }
    if (enough) {
      look_at_memory();
      co_return cookie + 1;
    }
  }
  LockGuard lock(directory.mutex);
  directory.directory->note_loaded(from, ~std::uint64_t{0});
  co_return ~std::uint64_t{0};
}

// Windows.

MaybeTask<Result<void>> Filesystem::Impl::load_windows(Inode& inode, FileBlock first,
                                                       std::uint64_t count) {
  if (!inode.map->absent(first, count)) return Result<void>{};
  return read_windows(inode, first, count);
}

Task<Result<void>> Filesystem::Impl::read_windows(Inode& inode, FileBlock first,
                                                  std::uint64_t count) {
  extent::FileMap& map = *inode.map;
  const std::uint64_t blocks_end =
      count > extent::kFileBlocksEnd - first.raw ? extent::kFileBlocksEnd : first.raw + count;
  const std::uint64_t begin = first.raw / kWindowBlocks;
  const std::uint64_t end = ceil_div(blocks_end, kWindowBlocks);
  if (end - begin > kWindowsNoted && count != ~std::uint64_t{0}) {
    co_return co_await read_windows(inode, FileBlock{0}, ~std::uint64_t{0});
  }
  const auto load = [&map](const RunCursor& cursor) -> Result<void> {
    const Key key = TRY(parse_key(cursor.key()));
    if (key.rest.size() != 8) return Code::kFormatInvalid;
    return map.load_window(WindowId{from_big_endian<std::uint64_t>(key.rest)}, cursor.value());
  };
  if (end - begin <= kWindowsOneByOne) {
    for (std::uint64_t window = begin; window < end; ++window) {
      if (!map.absent(FileBlock{window * kWindowBlocks}, 1)) continue;
      const std::uint64_t hash = window_hash(inode.id, WindowId{window});
      if (!runs.may_have(hash)) {
        map.note_hole(WindowId{window});
        continue;
      }
      if (options.salvage) {
        CO_TRY(co_await salvage_window(inode, WindowId{window}));
        continue;
      }
      RunCursor cursor{runs,
                       runs.runs(),
                       window_key(inode.id, window),
                       window_key(inode.id, window + 1),
                       RunCursor::Mode::kCached,
                       hash};
      CO_TRY_ASSIGN(const bool found, co_await cursor.next());
      if (found) {
        CO_TRY(load(cursor));
      } else {
        map.note_hole(WindowId{window});
      }
    }
    look_at_memory();
    co_return Result<void>{};
  }
  RunCursor cursor{
      runs, runs.runs(), window_key(inode.id, begin),
      count == ~std::uint64_t{0} ? end_of(inode.id, KeyTag::kWindow) : window_key(inode.id, end),
      RunCursor::Mode::kCached};
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    if (cursor.in_doubt()) continue;
    CO_TRY(load(cursor));
  }
  CO_TRY(co_await salvage_windows(inode, cursor.lost(), begin, end));
  if (count != ~std::uint64_t{0}) {
    for (std::uint64_t window = begin; window < end; ++window) map.note_hole(WindowId{window});
  } else if (begin == 0) {
    map.set_whole();
  }
  look_at_memory();
  co_return Result<void>{};
}

Task<Result<std::uint64_t>> Filesystem::Impl::load_some_windows(Inode& inode, std::uint64_t window,
                                                                scheduler::IoClass io_class) {
  constexpr std::uint64_t kEnd = ~std::uint64_t{0};
  if (inode.map->is_whole()) co_return kEnd;
  RunCursor cursor{runs,
                   runs.runs(),
                   window_key(inode.id, window),
                   end_of(inode.id, KeyTag::kWindow),
                   RunCursor::Mode::kCached,
                   {},
                   io_class};
  for (std::size_t loaded = 0;; ++loaded) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    if (key.rest.size() != 8) co_return error(Code::kFormatInvalid, inode.id.raw);
    const auto found = from_big_endian<std::uint64_t>(key.rest);
    if (!cursor.in_doubt()) {
      CO_TRY(inode.map->load_window(WindowId{found}, cursor.value()));
    }
    if (loaded + 1 >= kWindowsAtOnce) {
      CO_TRY(co_await salvage_windows(inode, cursor.lost(), window, found + 1));
      look_at_memory();
      co_return found + 1;
    }
  }
  CO_TRY(co_await salvage_windows(inode, cursor.lost(), window, kEnd));
  if (window == 0) inode.map->set_whole();
  co_return kEnd;
}

Task<Result<std::vector<InodeRef>>> Filesystem::Impl::load_everything() {
  RunCursor cursor{
      runs, runs.runs(), make_key(kRootInode, KeyTag::kInode), {}, RunCursor::Mode::kStream};
  std::map<InodeId, StoredKeys> all;  // and those that the runs do not have yet
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    if (key.inode.raw != 0) all[key.inode].note(key.tag);
  }
  for (const InodeId id : inodes.ids()) all.try_emplace(id);
  stored_problems.clear();
  std::vector<InodeRef> loaded;
  loaded.reserve(all.size());
  for (const auto& [id, keys] : all) {
    const Result<InodeRef> inode = co_await find(id);
    if (!inode.has_value() && inode.error().code != Code::kStale) {
      // Without a head nothing of it can be read; that is what is told below.
      if (keys.head || keys.none()) co_return inode.error();
    }
    if (!inodes.is_removed(id)) note_stored(id, keys, inode.has_value() ? inode->get() : nullptr);
    if (!inode.has_value()) continue;
    if ((*inode)->map) {
      CO_TRY(co_await load_windows(**inode, FileBlock{0}, ~std::uint64_t{0}));
    }
    if ((*inode)->directory) {
      CO_TRY(co_await load_cookies(**inode, 0, ~std::uint64_t{0}));
    }
    loaded.push_back(*inode);
  }
  co_return loaded;
}

// `inode`: nullptr if there is none. A pool that changes meanwhile may have removed it, and the runs may
// know by now.
void Filesystem::Impl::note_stored(InodeId id, const StoredKeys& keys, const Inode* inode) {
  const auto note = [&](const std::string& what) {
    stored_problems.push_back(fmt::format("inode {} {}", id, what));
  };
  if (keys.none()) return;
  if (!keys.head) {
    return note(fmt::format("has no head, and there {} of it", keys.windows   ? "are blocks"
                                                               : keys.entries ? "are names"
                                                                              : "is something"));
  }
  if (inode == nullptr) {
    if (options.tolerant) note("is in the metadata and cannot be found there");
    return;
  }
  if (keys.windows && !inode->map) note("has blocks of a file and is none");
  if (keys.entries && !inode->directory) note("has names in it and is no directory");
}

// Eviction.

std::uint64_t Filesystem::Impl::metadata_bytes() const {
  // What the allocator and the table add to an inode, roughly.
  constexpr std::uint64_t kInodeBytes = sizeof(Inode) + 64 + sizeof(extent::FileMap);
  return inodes.size() * kInodeBytes + inodes.reference_bytes() + metadata_memory.sum() +
         store->map_context().bytes.sum() + runs.memory_bytes();
}

// Indexes and filters cannot be evicted: however much they take, a quarter is for the rest.
std::uint64_t Filesystem::Impl::metadata_bytes_max() const {
  return std::max(options.metadata_memory_bytes,
                  runs.memory_bytes() + options.metadata_memory_bytes / 4);
}

void Filesystem::Impl::look_at_memory() {
  if (!may_evict.load(std::memory_order_acquire) || executor.now() < evict_again_at.load()) return;
  const std::uint64_t bytes = metadata_bytes();
  if (bytes <= options.metadata_memory_bytes || bytes <= metadata_bytes_max()) return;
  tasks.enter();  // before the look at `closing`: unmount sets that, then waits for tasks
  if (closing.load(std::memory_order_acquire) || evicting.exchange(true)) {
    tasks.leave();
    return;
  }
  spawn(evict());
}

// The function is called with a shard of the table locked and nobody referring to the inode, so no
// mutex is needed.
Filesystem::Impl::Evicted Filesystem::Impl::evict_once(
    bool recently_used_too, std::uint64_t goal_bytes) DFS_NO_THREAD_SAFETY_ANALYSIS {
  Evicted out;
  for (std::size_t i = 0; i < InodeTable::kTableShards && metadata_bytes() > goal_bytes; ++i) {
    const std::size_t shard = evict_next.fetch_add(1) % InodeTable::kTableShards;
    out.inodes += inodes.evict(shard, [&](Inode& inode) DFS_NO_THREAD_SAFETY_ANALYSIS {
      const bool used = inode.used.exchange(false, std::memory_order_relaxed);
      if (used && !recently_used_too) return false;
      const bool clean = eras.is_clean(inode.era.load(std::memory_order_relaxed));
      if (!clean) out.dirty_left = true;
      if (clean && inode.id != kRootInode && inode.nlink != 0) return true;
      if (runs.any_lost()) return false;  // what salvage_whole() has found is not asked for again
      if (inode.directory) inode.directory->drop_clean();
      if (inode.map) inode.map->drop_clean();
      return false;
    });
  }
  metrics.inodes_evicted.add(out.inodes);
  return out;
}

// First what has not been used since eviction last came by; then the rest of what is clean; then a
// checkpoint makes clean what is not. If all that does not help, it is tried again a little later.
Task<void> Filesystem::Impl::evict() {
  co_await executor.leave_driver_thread();
  const std::uint64_t goal = metadata_bytes_max() / 100 * (100 - kRoomPercent);
  const auto enough = [&] { return metadata_bytes() <= goal; };
  Evicted last;
  for (const bool recently_used_too : {false, true}) {
    last = evict_once(recently_used_too, goal);
  }
  // Not all that is dirty has a record: reading changes times.
  if (!enough() && last.dirty_left && writable().has_value()) {
    const Result<void> written = co_await checkpoint();
    written.ignore("it has said so itself; what is not clean stays in memory");
    evict_once(true, goal);
  }
  if (!enough()) evict_again_at.store(executor.now() + std::chrono::seconds{1});
  evicting.store(false);
  tasks.leave();
}

std::size_t Filesystem::evict() { return impl_->evict_once(true, 0).inodes; }

}  // namespace dynamicfs::fs
