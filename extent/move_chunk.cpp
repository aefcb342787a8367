// A chunk gets other places: what is there is copied, or computed from the rest of its rows, and then
// readers find it there.
//
// Method  Nothing is put into the chunk from the beginning, and what was being written to it is waited for; so
//         what it holds stays as it is, or goes. The record of the new places is not durable before the copies are. The old slots
//         are free when that is so and no reader looks at them (INV-3), so a crash leaves the old places or the new.
// Trust   What is copied is not verified: the checksums are in the maps, and who has the chunk's blocks is not known here.
//         What can be read of a place goes to the new one as it is, so of the copies, or columns of a row, as many are
//         right as before; only what is gone is made from others. So what could be read before can be read
//         afterwards, and the scrub that follows a rebuild finds the rest. (OpenZFS, "sequential resilver", does the
//         same.)
#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"
#include "extent/write_path.hpp"

namespace dynamicfs::extent {
namespace {

// Read and written at once.
constexpr std::uint32_t kPieceRows = kWindowBlocks;
// Beside programs that read: a read that comes while one is transferred waits for the rest of it.
constexpr std::uint32_t kPieceRowsBeside = 8;
// RowRun between two that are needed are copied with them if they are fewer: a transfer more costs as much.
constexpr std::uint32_t kGapRows = 16;
// How long what is being written to the chunk may take to end.
constexpr Duration kSettleStep = std::chrono::milliseconds{1};
constexpr unsigned kSettleSteps = 2000;

struct RowRun {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};

std::vector<RowRun> runs_of(const BlockWords& rows) {
  std::vector<RowRun> runs;
  for (std::uint32_t from = next_set(rows, 0); from < kSlotBlocks;) {
    std::uint32_t to = next_clear(rows, from);
    std::uint32_t next = next_set(rows, to);
    while (next < kSlotBlocks && next - to < kGapRows) {
      to = next_clear(rows, next);
      next = next_set(rows, to);
    }
    runs.push_back({.first = from, .count = to - from});
    from = next;
  }
  return runs;
}

}  // namespace

// What lies, or should lie, in rows of some places of a chunk.
struct Store::Impl::Columns {
  std::vector<std::size_t> wanted;               // indexes of places
  std::vector<std::shared_ptr<Buffer>> columns;  // by place; null: not read
  bool unreadable = false;                       // one that is here
};

// Reads these rows of some places. Afterwards they are in `out`, or not.
Task<void> Store::Impl::read_places(std::shared_ptr<const PoolView> disks,
                                    const Allocator::Move* move, std::uint32_t row,
                                    std::uint32_t rows, std::vector<std::size_t> places,
                                    Columns* out) {
  scheduler::IoGroup group;
  std::vector<std::shared_ptr<Buffer>> memory;
  for (const std::size_t at : places) {
    const Place& place = move->from[at];
    const PoolView::DiskEntry& entry = *disks->find(place.disk);
    memory.push_back(std::make_shared<Buffer>(rows * kBlockBytes));
    group.read(*entry.disk, scheduler::IoClass::kBackground,
               PoolView::offset_of(entry, place.slot, row), memory.back()->span(), memory.back());
  }
  co_await group.run();
  for (std::size_t i = 0; i < places.size(); ++i) {
    const Error failure = group.error(i);
    if (failure.code == Code::kOk) {
      out->columns[places[i]] = memory[i];
      continue;
    }
    out->unreadable = true;
    if (failure.code != Code::kDiskGone) continue;
    const auto reported =
        co_await pool.report_failure(move->from[places[i]].disk, failure, &group.disk(i));
    reported.ignore("the other places decide");
  }
}

// Fills the wanted columns. kDiskRead: too few places can be read. kDiskGone: too few are here.
Task<Result<void>> Store::Impl::gather(std::shared_ptr<const PoolView> disks,
                                       const Allocator::Move* move, const ErasureCodec* codec,
                                       std::uint32_t row, std::uint32_t rows, Columns* out) {
  const std::vector<Place>& from = move->from;
  out->columns.assign(move->to.size(), nullptr);
  out->unreadable = false;
  const auto entry_of = [&](std::size_t at) { return disks->find(from[at].disk); };
  const auto is_here = [&](std::size_t at) {
    return entry_of(at) != nullptr && entry_of(at)->disk != nullptr;
  };

  // What lies there, whether it is right or not: that is nobody's to judge here. But what a disk has missed must not
  // look as if it were there.
  std::vector<std::size_t> own;
  std::vector<std::size_t> stale;
  for (const std::size_t at : out->wanted) {
    if (at < from.size() && is_here(at))
      (entry_of(at)->stale_since.raw == 0 ? own : stale).push_back(at);
  }
  co_await read_places(disks, move, row, rows, own, out);
  std::vector<std::size_t> lost;
  for (const std::size_t at : out->wanted) {
    if (out->columns[at] == nullptr) lost.push_back(at);
  }
  if (lost.empty()) co_return Result<void>{};

  metrics.made_anew_bytes.add(lost.size() * rows * kBlockBytes);
  // The rest from those that have been here all the time: another may lack what nobody else has.
  std::vector<std::size_t> sources;
  std::size_t have = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::size_t at = (i + move->chunk.raw) % from.size();
    if (!is_here(at) || entry_of(at)->stale_since.raw != 0) continue;
    if (out->columns[at] != nullptr) {
      ++have;
    } else if (std::ranges::find(own, at) == own.end()) {
      sources.push_back(at);
    }
  }
  std::ranges::stable_sort(sources, {},
                           [&](std::size_t at) { return entry_of(at)->disk->latency().suspect(); });
  const std::size_t needed = codec == nullptr ? 1 : move->layout.copies_or_data;
  for (std::size_t next = 0; have < needed && next < sources.size();) {
    const std::size_t count = std::min(needed - have, sources.size() - next);
    std::vector<std::size_t> places(sources.begin() + static_cast<std::ptrdiff_t>(next),
                                    sources.begin() + static_cast<std::ptrdiff_t>(next + count));
    next += count;
    co_await read_places(disks, move, row, rows, places, out);
    for (const std::size_t at : places) have += out->columns[at] != nullptr ? 1 : 0;
  }
  if (have < needed) {
    // Better than nothing, and the scrub that follows finds what it lacks.
    co_await read_places(disks, move, row, rows, stale, out);
    const bool all = std::ranges::all_of(
        out->wanted, [&](std::size_t at) { return out->columns[at] != nullptr; });
    if (all) co_return Result<void>{};
    co_return out->unreadable ? Code::kDiskRead : Code::kDiskGone;
  }
  std::vector<std::size_t> given;
  std::vector<std::byte*> pointers(move->to.size());
  for (std::size_t at = 0; at < from.size() && given.size() < needed; ++at) {
    if (out->columns[at] == nullptr || entry_of(at)->stale_since.raw != 0) continue;
    given.push_back(at);
    pointers[at] = out->columns[at]->data();
  }
  if (codec == nullptr) {
    for (const std::size_t at : lost) out->columns[at] = out->columns[given.front()];
    co_return Result<void>{};
  }
  for (const std::size_t at : lost) {
    out->columns[at] = std::make_shared<Buffer>(rows * kBlockBytes);
    pointers[at] = out->columns[at]->data();
  }
  codec->reconstruct(rows * kBlockBytes, given, lost, pointers);
  co_return Result<void>{};
}

Task<Result<void>> Store::Impl::copy_rows(std::shared_ptr<const PoolView> disks,
                                          const Allocator::Move* move, const BlockWords* needed,
                                          std::uint32_t row, std::uint32_t rows) {
  const ParityGroup* const group = chunks.find(move->chunk)->group();
  Columns columns;
  for (std::size_t i = 0; i < move->to.size(); ++i) {
    if (i >= move->from.size() || move->to[i] != move->from[i]) columns.wanted.push_back(i);
  }
  const Result<void> gathered =
      co_await gather(disks, move, group == nullptr ? nullptr : group->codec, row, rows, &columns);
  if (!gathered.has_value()) {
    if (gathered.error().code != Code::kDiskRead || rows == 1) co_return gathered.error();
    // A bad sector is no reason to leave the other rows alone, and none at all if nobody needs its row.
    for (std::uint32_t i = 0; i < rows; ++i) {
      if (((*needed)[(row + i) / 64] >> (row + i) % 64 & 1) == 0) continue;
      CO_TRY(co_await copy_rows(disks, move, needed, row + i, 1));
    }
    co_return Result<void>{};
  }
  scheduler::IoGroup writes;
  for (const std::size_t at : columns.wanted) {
    const Place& place = move->to[at];
    const PoolView::DiskEntry& entry = *disks->find(place.disk);
    if (entry.disk == nullptr) co_return error(Code::kDiskGone);
    writes.write(*entry.disk, scheduler::IoClass::kBackground,
                 PoolView::offset_of(entry, place.slot, row), columns.columns[at]->span());
  }
  co_await writes.run();
  for (std::size_t i = 0; i < writes.size(); ++i) {
    const Error failure = writes.error(i);
    if (failure.code == Code::kOk) {
      metrics.moved_bytes.add(rows * kBlockBytes);
      continue;
    }
    const DiskId disk = move->to[columns.wanted[i]].disk;
    if (is_host_full(failure)) {
      note_host_full(disk);
      co_return Code::kNoSpace;
    }
    const auto reported = co_await pool.report_failure(disk, failure, &writes.disk(i));
    reported.ignore("somewhere else, then");
    co_return error(Code::kDiskGone);
  }
  co_return Result<void>{};
}

// Whether programs have read from the disks within the last second.
bool Store::Impl::beside_reads(const PoolView& disks) {
  std::uint64_t read = 0;
  for (const PoolView::DiskEntry& entry : disks.disks) {
    if (entry.disk == nullptr) continue;
    const auto& classes = entry.disk->metrics().classes;
    for (const scheduler::IoClass io_class :
         {scheduler::IoClass::kHotRead, scheduler::IoClass::kRead})
      read += classes[static_cast<std::size_t>(io_class)].completed.sum();
  }
  const TimePoint now = executor.now();
  if (reads_seen.exchange(read) != read) reads_until.store(now + std::chrono::seconds{1});
  return now < reads_until.load();
}

// Until what was being written there is written.
Task<Result<void>> Store::Impl::await_settled(const Allocator::Move* move) {
  for (unsigned step = 0; !allocator.is_settled(*move); ++step) {
    if (step == kSettleSteps || pool.read_only()) co_return Code::kBusy;
    co_await executor.sleep(kSettleStep);
  }
  co_return Result<void>{};
}

Task<Result<void>> Store::Impl::copy_chunk(std::shared_ptr<const PoolView> disks,
                                           const Allocator::Move* move) {
  const BlockWords needed = allocator.rows_to_copy(*move);
  for (const RowRun& run : runs_of(needed)) {
    for (std::uint32_t done = 0; done < run.count;) {
      const std::uint32_t most = beside_reads(*disks) ? kPieceRowsBeside : kPieceRows;
      const std::uint32_t rows = std::min(most, run.count - done);
      CO_TRY(co_await copy_rows(disks, move, &needed, run.first + done, rows));
      done += rows;
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> Store::Impl::flush_new_places(std::shared_ptr<const PoolView> disks,
                                                 const Allocator::Move* move) {
  scheduler::IoGroup flushes;
  std::vector<DiskId> flushed;
  for (const Place& place : move->to) {
    if (std::ranges::find(move->from, place) != move->from.end()) continue;
    const PoolView::DiskEntry* const entry = disks->find(place.disk);
    if (entry == nullptr || entry->disk == nullptr) co_return error(Code::kDiskGone);
    if (!entry->disk->needs_flush()) continue;
    flushes.flush(*entry->disk, scheduler::IoClass::kBackground);
    flushed.push_back(place.disk);
  }
  co_await flushes.run();
  for (std::size_t i = 0; i < flushed.size(); ++i) {
    const Error failure = flushes.error(i);
    if (failure.code == Code::kOk) continue;
    const auto reported = co_await pool.report_failure(flushed[i], failure, &flushes.disk(i));
    reported.ignore("somewhere else, then");
    co_return error(Code::kDiskGone);
  }
  co_return Result<void>{};
}

Task<Result<bool>> Store::Impl::move_chunk(ChunkId chunk, std::optional<DiskId> off,
                                           bool only_to_emptier) {
  if (pool.read_only() || journal->stopped()) co_return Code::kReadOnly;
  look();
  Allocator::Move move;
  switch (allocator.begin_move(chunk, off, only_to_emptier, &move)) {
    case Allocator::MoveOutcome::kReady: break;
    case Allocator::MoveOutcome::kNothing: co_return false;
    case Allocator::MoveOutcome::kNoRoom: co_return Code::kNoSpace;
    case Allocator::MoveOutcome::kLater: co_return Code::kBusy;
  }
  Result<void> copied = co_await await_settled(&move);
  const std::shared_ptr<const PoolView> disks = look();
  if (copied.has_value()) copied = co_await copy_chunk(disks, &move);
  // A disk that fails at the flush in front of the record would have missed what no generation tells of.
  if (copied.has_value()) copied = co_await flush_new_places(disks, &move);
  if (copied.has_value()) {
    journal::Credit credit = co_await journal->reserve(1, kChunkPutBytes);
    const journal::ChangeScope scope(gate);
    // A disk that has failed meanwhile may not have kept it, also if it is back.
    const bool whole = std::ranges::all_of(move.to, [&](const Place& place) {
      return std::ranges::find(move.from, place) != move.from.end() ||
             pool.disk(place.disk) == disks->find(place.disk)->disk;
    });
    if (whole) {
      JournalChunkLog log(*journal, credit);
      allocator.finish_move(move, log);
      metrics.chunks_moved.add();
      co_return true;
    }
    copied = error(Code::kDiskGone);
  }
  allocator.cancel_move(move);
  co_return copied.error();
}

}  // namespace dynamicfs::extent
