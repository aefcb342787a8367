// Whether the parity of rows is what their data asks for.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"
#include "extent/write_path.hpp"

namespace dynamicfs::extent {

// What is known of the data of some rows: blocks that a read has verified, or checksums.
class RightData {
 public:
  virtual ~RightData() = default;
  // The block itself, if it is at hand.
  virtual const std::byte* find(const ParityGroup& group, std::size_t column,
                                std::uint32_t row) const = 0;
  // Whether these bytes are known to be right.
  virtual bool is_right(const ParityGroup& group, std::size_t column, std::uint32_t row,
                        std::span<const std::byte> bytes) const = 0;
};

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

// What a scrub of a window has read and mended.
class Verified final : public RightData {
 public:
  explicit Verified(const ReadPlan& plan) : plan_(plan) {}
  const std::byte* find(const ParityGroup& group, std::size_t column,
                        std::uint32_t row) const override {
    return find_read(plan_, group, column, row, 1);
  }
  bool is_right(const ParityGroup& group, std::size_t column, std::uint32_t row,
                std::span<const std::byte> bytes) const override {
    return find(group, column, row) == bytes.data() || find(group, column, row) != nullptr;
  }

 private:
  const ReadPlan& plan_;
};

// The checksums of one row.
class Summed final : public RightData {
 public:
  explicit Summed(const RowSums& sums) : sums_(sums) {}
  const std::byte* find(const ParityGroup&, std::size_t, std::uint32_t) const override {
    return nullptr;
  }
  bool is_right(const ParityGroup&, std::size_t column, std::uint32_t,
                std::span<const std::byte> bytes) const override {
    const auto at = sums_.find(column);
    return at != sums_.end() && at->second == crc32c(bytes);
  }

 private:
  const RowSums& sums_;
};

}  // namespace

// Of the rows that `fetches` touch, whose blocks `plan` has read and mended.
Task<void> Store::Impl::scrub_parity(std::shared_ptr<const PoolView> disks, const ReadPlan* plan,
                                     std::vector<Fetch> fetches, journal::ScrubCounts* counts) {
  const auto all = rows_of(fetches);
  const Verified right(*plan);
  std::vector<std::uint32_t> doubtful;
  for (const auto& [group, ranges] : all) {
    for (const Rows& rows : ranges) {
      doubtful.clear();
      const bool read =
          co_await scrub_rows(disks, &right, group, rows.first, rows.count, counts, &doubtful);
      // A bad sector is no reason to leave the other rows alone.
      for (std::uint32_t i = 0; i < rows.count && !read && rows.count > 1; ++i) {
        const bool alone =
            co_await scrub_rows(disks, &right, group, rows.first + i, 1, counts, &doubtful);
        if (!alone) counts->copies_bad += 1;  // a disk has gone meanwhile
      }
      LockGuard lock(doubtful_mutex);
      for (const std::uint32_t row : doubtful) doubtful_rows.try_emplace({group->first, row});
    }
  }
}

// Verifies the parity of rows that are in use, and stay so while the caller looks at them. Wrong parity is
// written anew if nothing else can be wrong: all blocks of the row that mappings name are right. (Blocks that none
// names tell nothing of themselves; the parity follows them.) The other rows with wrong parity go to `doubtful`. False, and nothing
// is counted: something of several rows cannot be read.
Task<bool> Store::Impl::scrub_rows(std::shared_ptr<const PoolView> disks, const RightData* right,
                                   const ParityGroup* group, std::uint32_t row, std::uint32_t rows,
                                   journal::ScrubCounts* counts,
                                   std::vector<std::uint32_t>* doubtful) {
  const std::size_t data = group->data_columns();
  const std::size_t parity = group->width() - data;
  const std::size_t column_bytes = rows * kBlockBytes;
  bool stale = false;
  bool whole = true;
  for (const Place& place : group->places) {
    const PoolView::DiskEntry* const entry = disks->find(place.disk);
    whole &= entry != nullptr && entry->disk != nullptr && pool.disk(place.disk) != nullptr;
    stale |= entry != nullptr && entry->disk != nullptr && entry->stale_since.raw != 0;
  }
  if (!whole) {
    counts->copies_skipped += parity * rows;
    if (stale) counts->parity_skipped += parity * rows;
    co_return true;
  }
  // A disk that goes in the middle may still write to what it was given.
  const auto memory = std::make_shared<Buffer>(group->width() * column_bytes);
  std::vector<std::byte*> columns(group->width());
  scheduler::IoGroup io;
  for (std::size_t i = 0; i < group->width(); ++i) {
    columns[i] = memory->data() + i * column_bytes;
    const PoolView::DiskEntry& entry = *disks->find(group->places[i].disk);
    io.read(*entry.disk, scheduler::IoClass::kBackground,
            PoolView::offset_of(entry, group->places[i].slot, row), {columns[i], column_bytes},
            memory);
  }
  co_await io.run();
  std::uint32_t unreadable = 0;
  for (std::size_t i = 0; i < group->width(); ++i) {
    if (io.error(i).code == Code::kOk) continue;
    if (io.error(i).code == Code::kDiskGone) {
      const auto reported =
          co_await pool.report_failure(group->places[i].disk, io.error(i), &io.disk(i));
      reported.ignore("the other columns decide");
    }
    unreadable |= 1u << i;
  }
  if (unreadable != 0 && rows > 1) co_return false;
  counts->read_bytes += parity * column_bytes;

  // A copy: `memory` may be written to by a disk that is gone.
  Buffer seen{data * column_bytes};
  Buffer expected{parity * column_bytes};
  std::vector<std::byte*> with_expected(group->width());
  for (std::size_t i = 0; i < data; ++i) {
    with_expected[i] = seen.data() + i * column_bytes;
    std::memcpy(with_expected[i], columns[i], column_bytes);
    for (std::uint32_t at = 0; at < rows; ++at) {
      // Also where a repair has not reached the disk.
      const std::byte* const known = right->find(*group, i, row + at);
      if (known != nullptr) std::memcpy(with_expected[i] + at * kBlockBytes, known, kBlockBytes);
    }
  }
  for (std::size_t i = 0; i < parity; ++i)
    with_expected[data + i] = expected.data() + i * column_bytes;

  scheduler::IoGroup repairs;
  std::vector<DiskId> repaired_disks;
  const auto rewrite = [&](std::size_t column, std::uint32_t at) {
    const PoolView::DiskEntry& entry = *disks->find(group->places[column].disk);
    repairs.write(*entry.disk, scheduler::IoClass::kBackground,
                  PoolView::offset_of(entry, group->places[column].slot, row + at),
                  {with_expected[column] + at * kBlockBytes, kBlockBytes});
    repaired_disks.push_back(group->places[column].disk);
  };
  // A block that no mapping names and that cannot be read is nothing but a part of its row.
  const Allocator::RowFound now = allocator.find_row(group->first, row);
  for (std::size_t i = 0; i < data && rows == 1; ++i) {
    if ((unreadable >> i & 1) == 0 || (now.live >> i & 1) != 0) continue;
    std::memset(with_expected[i], 0, column_bytes);
    ++counts->copies_bad;
    if (now.live != 0 && !now.moving && !pool.read_only()) rewrite(i, 0);
  }
  group->codec->encode(column_bytes, with_expected);

  for (std::uint32_t at = 0; at < rows; ++at) {
    const std::size_t offset = at * kBlockBytes;
    std::uint32_t wrong = 0;
    for (std::size_t i = 0; i < parity; ++i) {
      if ((unreadable >> (data + i) & 1) != 0 ||
          std::memcmp(columns[data + i] + offset, with_expected[data + i] + offset, kBlockBytes) !=
              0)
        wrong |= 1u << i;
    }
    if (wrong == 0) continue;
    const Allocator::RowFound found = allocator.find_row(group->first, row + at);
    if (found.live == 0) continue;  // nobody needs it, and it may be written to
    if (found.moving) {
      // Mended here it would be wrong there all the same: the next scrub looks at it.
      ++counts->copies_skipped;
      ++counts->parity_skipped;
      continue;
    }
    bool judged = true;
    for (std::size_t i = 0; i < data; ++i) {
      judged &= (found.live >> i & 1) == 0 ||
                right->is_right(*group, i, row + at, {with_expected[i] + offset, kBlockBytes});
    }
    if (!judged) {
      doubtful->push_back(row + at);
      continue;
    }
    for (std::size_t i = 0; i < parity; ++i) {
      if ((wrong >> i & 1) == 0) continue;
      const Place& place = group->places[data + i];
      if (stale) {
        // One may have gone before this, or a block of the row that nobody names, reached its medium.
        ++counts->copies_outdated;
      } else {
        ++counts->copies_bad;
        metrics.checksum_errors.add();
        log_warning("disk {}: row {} of the group of chunk {} has wrong parity", place.disk,
                    row + at, group->first);
      }
      if (!pool.read_only()) rewrite(data + i, at);
    }
  }
  co_await repairs.run();
  for (std::size_t i = 0; i < repairs.size(); ++i) {
    if (repairs.error(i).code == Code::kOk) {
      metrics.parity_repairs.add();
      ++counts->copies_repaired;
      continue;
    }
    if (is_host_full(repairs.error(i))) continue;
    const auto reported =
        co_await pool.report_failure(repaired_disks[i], repairs.error(i), &repairs.disk(i));
    reported.ignore("the scrub goes on with the others");
  }
  co_return true;
}

void Store::Impl::note_doubtful(const FileMap& map, FileBlock first, std::uint64_t count) {
  MappingSet set;
  map.snapshot(first, count, set);
  LockGuard lock(doubtful_mutex);
  for (const Mapping& mapping : set.mappings) {
    if (mapping.kind != MappingKind::kData) continue;
    // The groups whose columns this chunk may be among: the ids of one follow each other.
    for (std::uint32_t column = 0; column < journal::kColumnsMax && column < mapping.chunk.raw;
         ++column) {
      const ChunkId group{mapping.chunk.raw - column};
      for (auto row = doubtful_rows.lower_bound({group, mapping.block});
           row != doubtful_rows.end() && row->first.first == group &&
           row->first.second < mapping.block + std::uint32_t{mapping.count};
           ++row) {
        row->second[column] = set.crcs[mapping.crc_index + (row->first.second - mapping.block)];
      }
    }
  }
}

Task<journal::ScrubCounts> Store::Impl::scrub_doubtful() {
  journal::ScrubCounts counts;
  std::map<std::pair<ChunkId, std::uint32_t>, RowSums> rows;
  {
    LockGuard lock(doubtful_mutex);
    rows.swap(doubtful_rows);
  }
  std::vector<std::uint32_t> left;
  for (const auto& [at, sums] : rows) {
    const std::shared_ptr<const PoolView> disks = look();
    ReadPins pins(reads);
    const Allocator::RowFound found = allocator.find_row(at.first, at.second);
    const ParityGroup* const group = found.group;
    if (found.live == 0) continue;
    // A block of the row was live while we were registered, so it stays as long as the disks of all columns are
    // pinned, and with it the row.
    for (std::size_t i = 0; i < group->data_columns(); ++i) pins.pin(group->places[i].disk);
    pins.arrived();
    left.clear();
    const Summed right(sums);
    const bool read = co_await scrub_rows(disks, &right, group, at.second, 1, &counts, &left);
    if (!read || !left.empty()) {
      // What is wrong is data, or has changed while the maps were walked: the next scrub sees.
      log_warning("row {} of the group of chunk {} has wrong parity, or data", at.second, at.first);
      ++counts.copies_bad;
    }
  }
  co_return counts;
}

}  // namespace dynamicfs::extent
