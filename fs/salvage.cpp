#include "fs/salvage.hpp"

#include <algorithm>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// Of a part of a file that is in doubt so many windows, 1 TiB, are looked for one by one; more are
// all in doubt.
constexpr std::uint64_t kWindowsAskedMax = 1 << 20;
constexpr std::size_t kNumbersFound = 1024;
constexpr std::uint64_t kWindowsEnd = ~std::uint64_t{0};

// The first window of [begin, end) whose key is not below `key`; `end` if there is none.
std::uint64_t first_window_behind(InodeId inode, std::uint64_t begin, std::uint64_t end,
                                  std::span<const std::byte> key) {
  while (begin < end) {
    const std::uint64_t middle = begin + (end - begin) / 2;
    if (journal::key_less(make_key(inode, KeyTag::kWindow, big_endian(middle)), key)) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

std::uint64_t mapped_blocks(const extent::FileMap& map) {
  std::uint64_t blocks = 0;
  map.for_each([&blocks](const extent::Mapping& mapping) {
    if (mapping.kind == extent::MappingKind::kData) blocks += mapping.count;
  });
  return blocks;
}

// Something that a cursor has found, kept until it is known what it is worth.
struct Kept {
  std::uint64_t number = 0;  // window or cookie
  Bytes value;
};

// Which inode a change is about: of a name, its directory.
std::optional<InodeId> changed_inode(std::uint8_t type, std::span<const std::byte> body) {
  const auto inode_of = [](const auto& decoded) -> std::optional<InodeId> {
    if (!decoded.has_value()) return std::nullopt;
    return decoded->inode;
  };
  const auto directory_of = [](const Result<EntryChange>& decoded) -> std::optional<InodeId> {
    if (!decoded.has_value()) return std::nullopt;
    return decoded->directory;
  };
  switch (static_cast<ChangeType>(type)) {
    case ChangeType::kInodePut: return inode_of(decode_inode(body));
    case ChangeType::kEntryPut: return directory_of(decode_entry_put(body));
    case ChangeType::kEntryRemove: return directory_of(decode_entry_remove(body));
    case ChangeType::kXattrPut: return inode_of(decode_xattr_put(body));
    case ChangeType::kXattrRemove: return inode_of(decode_xattr_remove(body));
    case ChangeType::kSymlinkPut: return inode_of(decode_symlink_put(body));
    default: break;
  }
  switch (static_cast<extent::ChangeType>(type)) {
    case extent::ChangeType::kExtentPut:
    case extent::ChangeType::kExtentShare: return inode_of(extent::decode_extent_put(body));
    case extent::ChangeType::kExtentClear: return inode_of(extent::decode_extent_clear(body));
    case extent::ChangeType::kExtentReserve: return inode_of(extent::decode_extent_reserve(body));
    default: return std::nullopt;
  }
}

}  // namespace

void SalvageDoubt::add_windows(std::uint64_t first, std::uint64_t end) {
  if (first >= end) return;
  auto at =
      std::ranges::lower_bound(windows, first, {}, [](const auto& range) { return range.second; });
  while (at != windows.end() && at->first <= end) {
    first = std::min(first, at->first);
    end = std::max(end, at->second);
    at = windows.erase(at);
  }
  windows.insert(at, {first, end});
}

void SalvageDoubt::cut_windows(std::uint64_t end) {
  while (!windows.empty() && windows.back().first >= end) windows.pop_back();
  if (!windows.empty()) windows.back().second = std::min(windows.back().second, end);
}

void Filesystem::Impl::note_doubt(InodeId inode, const std::function<void(SalvageDoubt&)>& note) {
  LockGuard lock(doubts_mutex);
  note(doubts[inode.raw]);
}

// A record that could be applied in part only: what it is about is in doubt, all of it.
void Filesystem::Impl::note_failed_change(std::uint8_t type, std::span<const std::byte> body) {
  const std::optional<InodeId> inode = changed_inode(type, body);
  if (inode) note_doubt(*inode, [](SalvageDoubt& doubt) { doubt.changes = true; });
}

Task<Result<void>> Filesystem::Impl::salvage_windows(Inode& inode, std::vector<LostKeys> lost,
                                                     std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t size = inode.size_bytes.load(std::memory_order_acquire);
  end = std::min(end, ceil_div(size, kWindowBytes));
  for (const LostKeys& keys : lost) {
    const std::uint64_t from = first_window_behind(inode.id, begin, end, keys.low);
    const std::uint64_t to =
        keys.high.empty() ? end : first_window_behind(inode.id, begin, end, keys.high);
    if (from >= to) continue;
    if (to - from > kWindowsAskedMax) {
      note_doubt(inode.id, [&](SalvageDoubt& doubt) { doubt.add_windows(from, to); });
      continue;
    }
    for (std::uint64_t window = from; window < to; ++window) {
      CO_TRY(co_await salvage_window(inode, WindowId{window}));
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> Filesystem::Impl::salvage_window(Inode& inode, WindowId window) {
  extent::FileMap& map = *inode.map;
  if (!map.absent(FileBlock{window.raw * kWindowBlocks}, 1)) co_return Result<void>{};
  const std::uint64_t hash = window_hash(inode.id, window);
  if (runs.may_have(hash)) {
    journal::RunCursor cursor{runs,
                              runs.runs(),
                              make_key(inode.id, KeyTag::kWindow, big_endian(window.raw)),
                              make_key(inode.id, KeyTag::kWindow, big_endian(window.raw + 1)),
                              journal::RunCursor::Mode::kCached,
                              hash};
    CO_TRY_ASSIGN(const bool found, co_await cursor.next());
    if (found && !cursor.in_doubt()) co_return map.load_window(window, cursor.value());
    if (!cursor.lost().empty()) {
      note_doubt(inode.id,
                 [&](SalvageDoubt& doubt) { doubt.add_windows(window.raw, window.raw + 1); });
    }
  }
  map.note_hole(window);
  co_return Result<void>{};
}

// Of the record, a symbolic link with it, and of the extended attributes, which are written all together
// when one has changed: some that are sure are all.
void Filesystem::Impl::note_lost_head(InodeId inode, const std::vector<LostKeys>& lost, bool sure,
                                      bool xattrs_sure) {
  const bool block =
      std::ranges::any_of(lost, [](const LostKeys& keys) { return !keys.whole_run; });
  const bool run = std::ranges::any_of(lost, &LostKeys::whole_run);
  note_doubt(inode, [&](SalvageDoubt& doubt) {
    doubt.outdated |= block || !sure;
    doubt.attributes |= run && !xattrs_sure;
  });
}

Task<Result<void>> Filesystem::Impl::salvage_whole(Inode& inode, StoredInode stored, bool sure) {
  if (inode.map) co_return co_await salvage_map(inode, stored, sure);
  if (inode.directory) co_return co_await salvage_names(inode, stored, sure);
  co_return Result<void>{};
}

// Windows that are sure, if they have as many blocks as the file, are all there are. Otherwise those
// that are in doubt are better than nothing; and what no run has is unknown, unless the blocks are all
// there that this version of the inode had.
Task<Result<void>> Filesystem::Impl::salvage_map(Inode& inode, StoredInode stored, bool sure) {
  extent::FileMap& map = *inode.map;
  const Bytes low = make_key(inode.id, KeyTag::kWindow);
  journal::RunCursor cursor{
      runs, runs.runs(), low,
      make_key(inode.id, static_cast<KeyTag>(static_cast<std::uint8_t>(KeyTag::kWindow) + 1)),
      journal::RunCursor::Mode::kCached};
  std::vector<std::uint64_t> known;
  std::vector<Kept> in_doubt;
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    if (key.rest.size() != 8) co_return error(Code::kFormatInvalid, inode.id.raw);
    const auto window = from_big_endian<std::uint64_t>(key.rest);
    if (cursor.in_doubt()) {
      in_doubt.push_back({window, Bytes{cursor.value().begin(), cursor.value().end()}});
    } else if (map.load_window(WindowId{window}, cursor.value()).has_value()) {
      known.push_back(window);
    }
  }
  map.set_whole();
  if (sure && mapped_blocks(map) == stored.data_blocks) co_return Result<void>{};
  for (const Kept& kept : in_doubt) {
    if (map.load_window(WindowId{kept.number}, kept.value).has_value())
      known.push_back(kept.number);
  }
  std::ranges::sort(known);
  const bool all = mapped_blocks(map) == stored.data_blocks;
  note_doubt(inode.id, [&](SalvageDoubt& doubt) {
    doubt.mixed |= !in_doubt.empty();
    // As far as it went in this version nothing is missing; there may have been more in a newer one.
    std::uint64_t at = !all ? 0 : sure ? kWindowsEnd : stored.image.size_bytes / kWindowBytes;
    for (const std::uint64_t window : known) {
      if (window < at) continue;
      doubt.add_windows(at, window);
      at = window + 1;
    }
    doubt.add_windows(at, kWindowsEnd);
  });
  co_return Result<void>{};
}

// Likewise.
Task<Result<void>> Filesystem::Impl::salvage_names(Inode& inode, StoredInode stored, bool sure) {
  journal::RunCursor cursor{
      runs, runs.runs(), make_key(inode.id, KeyTag::kEntry),
      make_key(inode.id, static_cast<KeyTag>(static_cast<std::uint8_t>(KeyTag::kEntry) + 1)),
      journal::RunCursor::Mode::kCached};
  const auto load = [&inode](std::uint64_t cookie, std::span<const std::byte> value) {
    Result<Entry> entry = decode_entry(value);
    if (!entry.has_value()) return false;
    LockGuard lock(inode.mutex);
    inode.directory->load(cookie, std::move(entry).value());
    return true;
  };
  std::uint64_t known = 0;
  std::vector<Kept> in_doubt;
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    CO_TRY_ASSIGN(const Key key, parse_key(cursor.key()));
    if (key.rest.size() != 8) co_return error(Code::kFormatInvalid, inode.id.raw);
    const auto cookie = from_big_endian<std::uint64_t>(key.rest);
    if (cursor.in_doubt()) {
      in_doubt.push_back({cookie, Bytes{cursor.value().begin(), cursor.value().end()}});
    } else if (load(cookie, cursor.value())) {
      ++known;
    }
  }
  {
    LockGuard lock(inode.mutex);
    inode.directory->set_whole();
  }
  if (sure && known == stored.names) co_return Result<void>{};
  for (const Kept& kept : in_doubt) load(kept.number, kept.value);
  note_doubt(inode.id, [](SalvageDoubt& doubt) { doubt.names = true; });
  co_return Result<void>{};
}

void Filesystem::Impl::note_unknown(const InodeImage& image) {
  note_doubt(image.inode, [&](SalvageDoubt& doubt) {
    doubt.attributes = true;
    const std::uint32_t type = image.mode & Inode::kTypeMask;
    doubt.names |= type == Inode::kTypeDirectory;
    if (type == Inode::kTypeRegular && image.size_bytes != 0)
      doubt.add_windows(0, ceil_div(image.size_bytes, kWindowBytes));
  });
}

void Filesystem::Impl::salvage_end(Inode& inode, std::uint64_t size_before,
                                   std::uint64_t size_bytes) {
  if (size_bytes < size_before) {
    extent::Freed freed;
    inode.map->clear(FileBlock{ceil_div(size_bytes, kBlockBytes)}, ~std::uint64_t{0}, freed);
  }
  LockGuard lock(doubts_mutex);
  const auto found = doubts.find(inode.id.raw);
  if (found == doubts.end()) return;
  found->second.cut_windows(ceil_div(size_bytes, kWindowBytes));
  if (size_bytes == 0) found->second.mixed = false;
}

SalvageDoubt Filesystem::salvage_doubt(InodeId inode) const {
  LockGuard lock(impl_->doubts_mutex);
  const auto found = impl_->doubts.find(inode.raw);
  return found == impl_->doubts.end() ? SalvageDoubt{} : found->second;
}

SalvageReport Filesystem::salvage_report() const {
  SalvageReport report = impl_->salvage;
  const std::vector<journal::RunRef> lost = impl_->runs.lost_runs();
  report.runs_lost = lost.size();
  for (const journal::RunRef& run : lost) report.run_bytes_lost += run.bytes;
  report.blocks_lost = impl_->runs.lost_blocks();
  return report;
}

Task<Result<std::vector<InodeId>>> Filesystem::inodes_behind(InodeId from) {
  journal::RunCursor cursor{impl_->runs,
                            impl_->runs.runs(),
                            inode_prefix(InodeId{from.raw + 1}),
                            {},
                            journal::RunCursor::Mode::kStream};
  std::vector<InodeId> found;
  bool all = true;
  while (true) {
    CO_TRY_ASSIGN(const bool more, co_await cursor.next());
    if (!more) break;
    const Result<Key> key = parse_key(cursor.key());
    if (!key.has_value() || key->tag != KeyTag::kInode) continue;
    found.push_back(key->inode);
    all = found.size() < kNumbersFound;
    if (!all) break;
  }
  for (const InodeId id : impl_->inodes.ids()) {
    if (id > from && (all || id < found.back())) found.push_back(id);
  }
  std::ranges::sort(found);
  const auto [twice, end] = std::ranges::unique(found);
  found.erase(twice, end);
  co_return found;
}

}  // namespace dynamicfs::fs
