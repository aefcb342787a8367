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

}  // namespace

Task<Result<void>> Filesystem::Impl::aim(Inode& inode, extent::WriteHint* hint) {
  hint->home.reset();
  if (!hint->policy.whole_files) co_return Result<void>{};
  CO_TRY_ASSIGN(hint->home, co_await home_of(inode));
  co_return Result<void>{};
}

bool Filesystem::Impl::is_promised(const Inode& inode, FileBlock first, std::uint64_t blocks) {
  if (inode.map->reserved_blocks() == 0) return false;
  extent::MappingSet set;
  inode.map->snapshot(first, blocks, set);
  std::uint64_t reserved = 0;
  for (const extent::Mapping& mapping : set.mappings)
    reserved += mapping.kind == extent::MappingKind::kReserved ? mapping.count : 0;
  return reserved == blocks;
}

Task<Result<DiskId>> Filesystem::Impl::home_of(Inode& inode) {
  std::uint32_t pinned = inode.home.load(std::memory_order_acquire);
  std::optional<DiskId> known;
  if (pinned != 0) {
    known = DiskId{static_cast<std::uint16_t>(pinned - 1)};
  } else if (inode.map->data_blocks() != 0) {
    CO_TRY_ASSIGN(const Spread spread, co_await where_it_lies(inode, kWindowsToLookAt));
    if (!spread.blocks.empty()) known = spread.blocks.front().first;
  }
  const std::uint64_t blocks = inode.map->data_blocks() + inode.map->reserved_blocks();
  const std::optional<DiskId> home = store->home(known, blocks);
  if (!home) co_return Code::kNoSpace;
  if (known && *home != *known && inode.map->data_blocks() != 0) {
    CO_TRY(co_await note_scattered_files());
  }
  const std::uint32_t wanted = home->raw + std::uint32_t{1};
  // Whoever came first has chosen.
  if (wanted != pinned && !inode.home.compare_exchange_strong(pinned, wanted))
    co_return DiskId{static_cast<std::uint16_t>(pinned - 1)};
  co_return *home;
}

Task<Result<void>> Filesystem::Impl::note_spill(Inode& inode, const extent::Written& written) {
  if (!written.elsewhere) co_return Result<void>{};
  const Result<void> noted = co_await note_scattered_files();
  if (!noted.has_value()) {
    store->discard(written);
    co_return noted;
  }
  metrics.spilled_bytes.add(written.crcs.size() * kBlockBytes);
  inode.home.store(written.elsewhere->raw + std::uint32_t{1}, std::memory_order_release);
  co_return Result<void>{};
}

bool Filesystem::Impl::is_at_home(const Inode& inode, std::optional<DiskId> home,
                                  const extent::Written& written) {
  if (!home) return true;
  const DiskId at = written.elsewhere.value_or(*home);
  return inode.home.load(std::memory_order_acquire) == at.raw + std::uint32_t{1};
}

Task<Result<void>> Filesystem::Impl::note_scattered_files() {
  const AsyncMutex::Guard guard = co_await policy_mutex.acquire();
  const bool known = pool->reencoding();
  CO_TRY(co_await pool->set_reencoding(true));
  compaction->note_policy(known);
  co_return Result<void>{};
}

Task<Result<Filesystem::Impl::Spread>> Filesystem::Impl::where_it_lies(Inode& inode,
                                                                       std::uint64_t windows_max) {
  Spread spread;
  extent::MappingSet set;
  std::uint64_t windows = 0;
  for (std::uint64_t next = 0; next != ~std::uint64_t{0} && windows < windows_max;) {
    const std::uint64_t from = next;
    CO_TRY_ASSIGN(next, co_await load_some_windows(inode, next));
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

Task<Result<std::optional<DiskId>>> Filesystem::Impl::where_it_fits(InodeRef inode) {
  CO_TRY_ASSIGN(const DiskId home, co_await home_of(*inode));
  CO_TRY_ASSIGN(const Spread spread, co_await where_it_lies(*inode, ~std::uint64_t{0}));
  const auto on = [&](DiskId disk) {
    const auto at =
        std::ranges::find(spread.blocks, disk, &std::pair<DiskId, std::uint64_t>::first);
    return at == spread.blocks.end() ? 0 : at->second;
  };
  const auto fits = [&](DiskId disk) {
    const std::uint64_t to_come = spread.all - on(disk);
    return to_come == 0 || to_come <= store->room_at_home(disk);
  };
  if (fits(home)) co_return std::optional{home};
  // Where most of it is already, of those that stay and have room.
  std::optional<DiskId> best;
  for (const DiskId disk : *pool->staying()) {
    if (fits(disk) && (!best || on(disk) > on(*best))) best = disk;
  }
  if (best) inode->home.store(best->raw + std::uint32_t{1}, std::memory_order_release);
  co_return best;
}

}  // namespace dynamicfs::fs
