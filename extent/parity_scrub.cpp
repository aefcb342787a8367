// Whether the parity of rows is what their data asks for.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"

namespace dynamicfs::extent {
namespace {

struct Rows {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};

// The rows of each group that the fetches touch, joined where they overlap.
std::map<const ParityGroup*, std::vector<Rows>> rows_of(std::span<const Fetch> fetches) {
  std::map<const ParityGroup*, std::vector<Rows>> rows;
  for (const Fetch& fetch : fetches) {
    if (const ParityGroup* const group = fetch.chunk->group())
      rows[group].push_back({fetch.block, fetch.count});
  }
  for (auto& [group, all] : rows) {
    std::ranges::sort(all, {}, &Rows::first);
    std::vector<Rows> joined;
    for (const Rows& next : all) {
      if (joined.empty() || next.first > joined.back().first + joined.back().count) {
        joined.push_back(next);
        continue;
      }
      Rows& last = joined.back();
      last.count = std::max(last.first + last.count, next.first + next.count) - last.first;
    }
    all = std::move(joined);
  }
  return rows;
}

}  // namespace

// Of the rows that `fetches` touch, whose blocks `plan` has read and mended.
Task<void> Store::Impl::scrub_parity(std::shared_ptr<const PoolView> disks, ReadPlan* plan,
                                     std::vector<Fetch> fetches, journal::ScrubCounts* counts) {
  const auto all = rows_of(fetches);
  for (const auto& [group, ranges] : all) {
    for (const Rows& rows : ranges) {
      const std::vector<std::uint32_t> doubtful =
          co_await wrong_parity(disks, plan, group, rows.first, rows.count, counts);
      LockGuard lock(doubtful_mutex);
      for (const std::uint32_t row : doubtful) doubtful_rows.emplace(group->first, row);
    }
  }
}

// Verifies the parity of rows that are in use, and stay so while the caller looks at them. Wrong parity is
// written anew if nothing else can be wrong: all blocks of the row that mappings name are right in `plan`.
// (Blocks that none names are as they should be if the row had been reconstructible from them; which of the two is wrong cannot be
// told, and the row is right again with either.) Returns the other rows with wrong parity.
// Without a plan all data counts as right.
Task<std::vector<std::uint32_t>> Store::Impl::wrong_parity(std::shared_ptr<const PoolView> disks,
                                                           const ReadPlan* plan,
                                                           const ParityGroup* group,
                                                           std::uint32_t row, std::uint32_t rows,
                                                           journal::ScrubCounts* counts) {
  const std::size_t data = group->data_columns();
  const std::size_t parity = group->width() - data;
  const std::size_t column_bytes = rows * kBlockBytes;
  // A disk that goes in the middle may still write to what it was given.
  const auto memory = std::make_shared<Buffer>(group->width() * column_bytes);
  std::vector<std::byte*> columns(group->width());
  scheduler::IoGroup io;
  bool whole = true;
  for (std::size_t i = 0; i < group->width(); ++i) {
    columns[i] = memory->data() + i * column_bytes;
    const Place& place = group->places[i];
    const PoolView::DiskEntry* const entry = disks->find(place.disk);
    if (entry == nullptr || entry->disk == nullptr) {
      whole = false;
      break;
    }
    std::byte* const read = plan == nullptr ? nullptr : find_read(*plan, *group, i, row, rows);
    if (read != nullptr) {
      columns[i] = read;
      continue;
    }
    io.read(*entry->disk, scheduler::IoClass::kBackground,
            PoolView::offset_of(*entry, place.slot, row), {columns[i], column_bytes}, memory);
  }
  if (whole) {
    co_await io.run();
    counts->read_bytes += io.size() * column_bytes;
    whole = io.result().has_value();
  }
  if (!whole) {
    counts->copies_skipped += parity * rows;
    co_return {};
  }
  // What the plan has is right, also where a repair has not reached the disk.
  for (std::size_t i = 0; i < data && plan != nullptr; ++i) {
    for (std::uint32_t at = 0; at < rows; ++at) {
      const std::byte* const right = find_read(*plan, *group, i, row + at, 1);
      std::byte* const here = columns[i] + at * kBlockBytes;
      if (right != nullptr && right != here) std::memcpy(here, right, kBlockBytes);
    }
  }

  Buffer expected{parity * column_bytes};
  std::vector<std::byte*> with_expected = columns;
  for (std::size_t i = 0; i < parity; ++i)
    with_expected[data + i] = expected.data() + i * column_bytes;
  group->codec->encode(column_bytes, with_expected);

  std::vector<std::uint32_t> doubtful;
  scheduler::IoGroup repairs;
  for (std::uint32_t at = 0; at < rows; ++at) {
    std::uint32_t wrong = 0;
    for (std::size_t i = 0; i < parity; ++i) {
      const std::size_t offset = at * kBlockBytes;
      if (std::memcmp(columns[data + i] + offset, with_expected[data + i] + offset, kBlockBytes) !=
          0)
        wrong |= 1u << i;
    }
    if (wrong == 0) continue;
    const std::optional<std::uint32_t> live = allocator.live_columns(*group, row + at);
    if (!live) continue;
    bool judged = true;
    for (std::size_t i = 0; i < data && plan != nullptr; ++i)
      judged &= (*live >> i & 1) == 0 || find_read(*plan, *group, i, row + at, 1) != nullptr;
    if (!judged) {
      doubtful.push_back(row + at);
      continue;
    }
    for (std::size_t i = 0; i < parity; ++i) {
      if ((wrong >> i & 1) == 0) continue;
      const Place& place = group->places[data + i];
      const PoolView::DiskEntry& entry = *disks->find(place.disk);
      if (entry.stale_since.raw != 0) {
        // It may have gone before this reached the medium.
        ++counts->copies_outdated;
      } else {
        ++counts->copies_bad;
        metrics.checksum_errors.add();
        log_warning("disk {}: row {} of the group of chunk {} has wrong parity", place.disk,
                    row + at, group->first);
      }
      if (pool.read_only() || pool.disk(place.disk) == nullptr) continue;
      repairs.write(*entry.disk, scheduler::IoClass::kBackground,
                    PoolView::offset_of(entry, place.slot, row + at),
                    {with_expected[data + i] + at * kBlockBytes, kBlockBytes});
    }
  }
  co_await repairs.run();
  for (std::size_t i = 0; i < repairs.size(); ++i) {
    if (repairs.error(i).code != Code::kOk) continue;  // the next scrub says so again
    metrics.parity_repairs.add();
    ++counts->copies_repaired;
  }
  co_return doubtful;
}

Task<journal::ScrubCounts> Store::Impl::scrub_doubtful() {
  journal::ScrubCounts counts;
  std::set<std::pair<ChunkId, std::uint32_t>> rows;
  {
    LockGuard lock(doubtful_mutex);
    rows.swap(doubtful_rows);
    // One of those blocks may be what is wrong, and its parity the only thing that can mend it.
    if (std::exchange(unmended, false)) {
      counts.copies_bad += rows.size();
      co_return counts;
    }
  }
  for (const auto& [first, row] : rows) {
    const std::shared_ptr<const PoolView> disks = look();
    ReadPins pins(reads);
    const Chunk* const chunk = chunks.find(first);
    const ParityGroup* const group = chunk != nullptr ? chunk->group() : nullptr;
    if (group == nullptr || !allocator.live_columns(*group, row)) continue;
    // With the disks of all its columns pinned none of its blocks can become free.
    for (std::size_t i = 0; i < group->data_columns(); ++i) pins.pin(group->places[i].disk);
    pins.arrived();
    const auto others = co_await wrong_parity(disks, nullptr, group, row, 1, &counts);
    DFS_ASSERT(others.empty());
  }
  co_return counts;
}

}  // namespace dynamicfs::extent
