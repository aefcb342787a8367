// Files that are kept whole on one disk: `single,placement=file`. A lost disk takes those files that lie on it, and
// nothing of any other.
//
// Home    The disk of a file is chosen at its first write, by free space, and kept in its inode in memory. Nothing on
//         disk says so but its data: after a mount it is the disk that has most of the beginning of the file.
// Spill   What finds no room at home goes elsewhere, and so does what is written to the file from then on. The superblock
//         says beforehand, as after a change of policy, that some data does not lie as it should: a sweep of the compaction
//         puts the file together on one disk that has room for all of it.
// Drain   What lies on a disk that is leaving moves with its chunks (Allocator::successor), and files that are cut by that are
//         put together in the same way.
#include <algorithm>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// Windows that are looked at to find where a file lies: it lies on one disk, but for what was spilled.
constexpr std::uint64_t kWindowsToLookAt = 64;
// A file that has nothing any more is not begun anew on a disk that has room for less: 64 MiB, a guess.
constexpr std::uint64_t kLittleRoomBlocks = 16 * kSlotBlocks;

// Inode::home.
std::uint32_t pin_of(DiskId disk) { return disk.raw + std::uint32_t{1}; }

}  // namespace

bool Filesystem::Impl::is_promised(const Inode& inode, FileBlock first, std::uint64_t blocks) {
  if (inode.map->reserved_blocks() == 0) return false;
  extent::MappingSet set;
  inode.map->snapshot(first, blocks, set);
  std::uint64_t reserved = 0;
  for (const extent::Mapping& mapping : set.mappings)
    reserved += mapping.kind == extent::MappingKind::kReserved ? mapping.count : 0;
  return reserved == blocks;
}

bool Filesystem::Impl::pin_home(Inode& inode, std::optional<std::uint32_t> from, DiskId to) {
  LockGuard lock(inode.mutex);
  const auto extents = lock_all_windows(inode);
  const std::uint32_t now = inode.home.load(std::memory_order_relaxed);
  if (from ? now != *from : inode.map->data_blocks() != 0) return false;
  inode.home.store(pin_of(to), std::memory_order_release);
  return true;
}

Task<Result<DiskId>> Filesystem::Impl::home_of(Inode& inode) {
  const std::uint32_t pinned = inode.home.load(std::memory_order_acquire);
  const std::uint64_t data_blocks = inode.map->data_blocks();
  const std::uint64_t blocks = data_blocks + inode.map->reserved_blocks();
  std::optional<DiskId> known;
  bool unknown = false;
  if (pinned != 0) {
    known = DiskId{static_cast<std::uint16_t>(pinned - 1)};
  } else if (data_blocks != 0) {
    const Spread spread = co_await where_it_lies(inode, kWindowsToLookAt);
    if (!spread.blocks.empty()) known = spread.blocks.front().first;
    // What is written needs no more of the map than itself.
    unknown = !known && !spread.outcome.has_value();
  }
  if (pinned != 0 && data_blocks == 0) leave_if_cramped(inode, *known, blocks);
  if (inode.home.load(std::memory_order_acquire) != pinned) co_return co_await home_of(inode);
  const std::optional<DiskId> home = store->home(known, blocks);
  if (!home) co_return Code::kNoSpace;
  if (pin_of(*home) == pinned) co_return *home;
  if (data_blocks != 0 && (unknown || (known && *home != *known))) {
    CO_TRY(co_await note_scattered_files(&inode, pinned, *home));
  } else if (pinned == 0) {
    pin_home(inode, pinned, *home);
  } else {
    pin_home(inode, {}, *home);
  }
  const std::uint32_t chosen = inode.home.load(std::memory_order_acquire);
  // Somebody has written to it meanwhile.
  if (chosen == pinned) co_return co_await home_of(inode);
  // Whoever came first has chosen.
  co_return DiskId{static_cast<std::uint16_t>(chosen - 1)};
}

// Nothing of it would stay behind.
void Filesystem::Impl::leave_if_cramped(Inode& inode, DiskId home, std::uint64_t blocks) {
  const std::uint64_t room = store->room_at_home(home);
  if (room >= kLittleRoomBlocks) return;
  const std::optional<DiskId> other =
      store->home(std::nullopt, std::max(blocks, kLittleRoomBlocks));
  // Never to and fro.
  if (other && *other != home && store->room_at_home(*other) / 2 > room)
    pin_home(inode, {}, *other);
}

Task<Result<std::optional<DiskId>>> Filesystem::Impl::home_to_move(Inode& inode) {
  const std::uint32_t pinned = inode.home.load(std::memory_order_acquire);
  const std::uint64_t blocks = inode.map->data_blocks() + inode.map->reserved_blocks();
  std::optional<DiskId> known;
  if (pinned != 0) {
    known = DiskId{static_cast<std::uint16_t>(pinned - 1)};
  } else {
    const Spread spread = co_await where_it_lies(inode, kWindowsToLookAt);
    CO_TRY(spread.outcome);
    if (!spread.blocks.empty()) known = spread.blocks.front().first;
  }
  const std::optional<DiskId> home = store->home(known, blocks);
  // What is elsewhere would be apart from that.
  if (!home || (known && *home != *known)) co_return std::optional<DiskId>{};
  if (pinned == 0 && !pin_home(inode, pinned, *home)) co_return std::optional<DiskId>{};
  co_return home;
}

Task<Result<void>> Filesystem::Impl::note_spill(Inode& inode, const extent::WriteHint& hint,
                                                const extent::Written& written) {
  const Result<void> noted =
      co_await note_scattered_files(&inode, pin_of(*hint.home), *written.elsewhere);
  if (!noted.has_value()) {
    store->discard(written);
    co_return noted;
  }
  metrics.spilled_bytes.add(written.crcs.size() * kBlockBytes);
  co_return Result<void>{};
}

bool Filesystem::Impl::is_at_home(const Inode& inode, std::optional<DiskId> home,
                                  const extent::Written& written) {
  if (!home) return true;
  const DiskId at = written.elsewhere.value_or(*home);
  return inode.home.load(std::memory_order_acquire) == pin_of(at);
}

Task<Result<void>> Filesystem::Impl::note_scattered_files(Inode* inode, std::uint32_t from,
                                                          DiskId to) {
  const AsyncMutex::Guard guard = co_await policy_mutex.acquire();
  const bool known = pool->reencoding();
  CO_TRY(co_await pool->set_reencoding(true));
  // A sweep that does not know of this change finds the new home at least.
  if (inode != nullptr) pin_home(*inode, from, to);
  compaction->note_scattered(known);
  co_return Result<void>{};
}

Task<Filesystem::Impl::Spread> Filesystem::Impl::where_it_lies(Inode& inode,
                                                               std::uint64_t windows_max) {
  Spread spread;
  extent::MappingSet set;
  std::uint64_t windows = 0;
  for (std::uint64_t next = 0; next != ~std::uint64_t{0} && windows < windows_max;) {
    const std::uint64_t from = next;
    const Result<std::uint64_t> behind = co_await load_some_windows(inode, next);
    if (!behind.has_value()) {
      spread.outcome = behind.error();
      break;
    }
    next = *behind;
    const std::uint64_t size = inode.size_bytes.load(std::memory_order_acquire);
    const std::uint64_t end = std::min(next, ceil_div(size, kWindowBytes));
    for (std::uint64_t at = from; at < end && windows < windows_max; ++at) {
      const std::optional<FileBlock> data = inode.map->next_data(FileBlock{at * kWindowBlocks});
      if (!data || data->raw / kWindowBlocks >= end) break;
      at = data->raw / kWindowBlocks;
      ++windows;
      set.clear();
      inode.map->snapshot(FileBlock{at * kWindowBlocks}, kWindowBlocks, set);
      for (const extent::Mapping& mapping : set.mappings) {
        if (mapping.kind != extent::MappingKind::kData) continue;
        spread.all += mapping.count;
        const std::optional<journal::Policy> layout = store->layout(mapping.chunk);
        const std::optional<DiskId> disk = store->disk_of(mapping.chunk);
        if (!layout || !disk || !layout->whole_files) continue;
        auto on = std::ranges::find(spread.blocks, *disk, &std::pair<DiskId, std::uint64_t>::first);
        if (on == spread.blocks.end()) on = spread.blocks.insert(on, {*disk, 0});
        on->second += mapping.count;
      }
    }
  }
  std::ranges::stable_sort(spread.blocks, std::greater{},
                           &std::pair<DiskId, std::uint64_t>::second);
  co_return spread;
}

Task<Result<Filesystem::Impl::Fit>> Filesystem::Impl::where_it_fits(InodeRef inode) {
  const std::uint32_t pinned = inode->home.load(std::memory_order_acquire);
  const Spread spread = co_await where_it_lies(*inode, ~std::uint64_t{0});
  CO_TRY(spread.outcome);
  const std::shared_ptr<const std::vector<DiskId>> staying = pool->staying();
  const auto stays = [&](DiskId disk) { return std::ranges::binary_search(*staying, disk); };
  const auto on = [&](DiskId disk) {
    const auto at =
        std::ranges::find(spread.blocks, disk, &std::pair<DiskId, std::uint64_t>::first);
    return at == spread.blocks.end() ? 0 : at->second;
  };
  Fit fit;
  if (!spread.blocks.empty()) fit.most = spread.blocks.front().first;
  if (fit.most && on(*fit.most) == spread.all) {
    // It is whole, whether or not that disk can be written to just now; if it is leaving, its chunks move.
    if (stays(*fit.most)) fit.home = fit.most;
  } else {
    std::vector<DiskId> disks;
    if (fit.most) disks.push_back(*fit.most);
    if (pinned != 0) disks.push_back(DiskId{static_cast<std::uint16_t>(pinned - 1)});
    for (const auto& [disk, blocks] : spread.blocks) disks.push_back(disk);
    if (const auto chosen = store->home(std::nullopt, spread.all)) disks.push_back(*chosen);
    disks.insert(disks.end(), staying->begin(), staying->end());
    const auto fits = std::ranges::find_if(disks, [&](DiskId disk) {
      return stays(disk) && spread.all - on(disk) <= store->room_at_home(disk);
    });
    if (fits != disks.end()) fit.home = *fits;
  }
  // Somebody has chosen otherwise meanwhile.
  if (fit.home && !pin_home(*inode, pinned, *fit.home)) co_return co_await where_it_fits(inode);
  co_return fit;
}

}  // namespace dynamicfs::fs
