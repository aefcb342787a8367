// New data: space, checksums, one device write per copy.
#include "extent/write_path.hpp"

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "extent/store_impl.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::uint32_t kWriteBlocksMax = kWindowBlocks + 1;

// What a write to the disks of parity groups needs beside the caller's data, until it has ended.
struct Stripes {
  std::vector<Buffer> made;
  // Pieces of the stripe that begins at the first of `pieces`: of one group, column by column.
  static std::size_t length(const ChunkTable& chunks, std::span<const Piece> pieces) {
    const Chunk* const first = chunks.find(pieces[0].chunk);
    std::size_t count = 1;
    while (count < pieces.size() && pieces[count].chunk.raw == first->id.raw + count &&
           pieces[count].block == pieces[0].block && count < first->group()->data_columns()) {
      ++count;
    }
    return count;
  }
  // The columns and the parity of `rows` rows whose data is `data`; zeros behind it.
  std::vector<std::byte*> encode(const ParityGroup& group, std::size_t rows,
                                 std::span<const std::byte> data) {
    const std::size_t column_bytes = rows * kBlockBytes;
    const std::size_t whole = data.size() / column_bytes;
    Buffer& buffer = made.emplace_back((group.width() - whole) * column_bytes);
    const std::size_t rest = data.size() - whole * column_bytes;
    const std::size_t padded_bytes = (group.data_columns() - whole) * column_bytes;
    std::memcpy(buffer.data(), data.data() + whole * column_bytes, rest);
    std::memset(buffer.data() + rest, 0, padded_bytes - rest);
    std::vector<std::byte*> columns;
    for (std::size_t i = 0; i < group.width(); ++i) {
      // Only read: ISA-L takes no pointers to const.
      columns.push_back(i < whole ? const_cast<std::byte*>(data.data()) + i * column_bytes
                                  : buffer.data() + (i - whole) * column_bytes);
    }
    group.codec->encode(column_bytes, columns);
    return columns;
  }
};

}  // namespace

Task<Result<Written>> Store::Impl::write(WriteHint hint, std::span<const std::byte> data) {
  DFS_ASSERT(!data.empty() && data.size() % kBlockBytes == 0);
  DFS_ASSERT(data.size() <= kWriteBlocksMax * kBlockBytes);
  if (pool.read_only() || journal->stopped()) co_return Code::kReadOnly;
  const auto blocks = static_cast<std::uint32_t>(data.size() / kBlockBytes);
  Written written;
  written.pin = writers.pin();
  written.losses = pool.losses();
  written.crcs.resize(blocks);
  crc32c_blocks(data, written.crcs);

  Allocator::Request request;
  request.inode = hint.inode;
  request.first = hint.first;
  request.policy = hint.policy;
  request.home = hint.home;
  request.promised = hint.promised;
  request.blocks = blocks;
  request.moving = hint.moving;
  request.in_one_piece = hint.in_one_piece;
  request.rows_only = hint.rows_only;
  request.replaced_blocks =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(hint.replaced_blocks, blocks));

  // Each failure takes a disk out, so there is an end; one disk may be replaced by trouble with the
  // next.
  for (std::size_t failures = 0;; ++failures) {
    look();
    auto allocated = co_await allocate(request);
    if (!allocated.has_value()) co_return allocated.error();
    written.pieces = std::move(allocated).value();
    std::shared_ptr<const PoolView> disks = look();
    const auto stored = co_await write_copies(disks, written.pieces, data, hint.io_class);
    if (stored.has_value()) {
      metrics.data_bytes_written.add(data.size());
      written.striped = std::ranges::any_of(written.pieces, [&](const Piece& piece) {
        return chunks.find(piece.chunk)->group() != nullptr;
      });
      written.elsewhere.reset();
      for (const Piece& piece : written.pieces) {
        if (!hint.home) break;
        const Chunk& chunk = *chunks.find(piece.chunk);
        if (chunk.places[0].disk != *hint.home || !chunk.layout.whole_files)
          written.elsewhere = chunk.places[0].disk;
      }
      co_return written;
    }
    allocator.discard(written.pieces);
    if (hint.moving) allocator.note_moved(blocks);
    if (stored.error().code == Code::kReadOnly || failures >= disks->disks.size()) {
      co_return stored.error();
    }
  }
}

Task<Result<std::vector<Piece>>> Store::Impl::allocate(Allocator::Request request) {
  std::vector<Piece> pieces;
  bool last = false;
  for (unsigned round = 0;; ++round) {
    request.urgent = last;
    Allocator::Outcome outcome = allocator.allocate(request, nullptr, pieces);
    if (outcome == Allocator::Outcome::kNeedsChunk) {
      journal::Credit credit = co_await journal->reserve(1, kChunkPutBytes);
      const journal::ChangeScope scope(gate);
      JournalChunkLog log(*journal, credit);
      outcome = allocator.allocate(request, &log, pieces);
    }
    if (outcome == Allocator::Outcome::kDone) co_return pieces;
    if (outcome == Allocator::Outcome::kNeedsChunk) continue;  // another one
    if (request.home && !request.moving && !request.anywhere) {
      // What is about to be free there is worth one trip of the journal, and no more.
      if (round > 0 || !allocator.has_pending_at_home(*request.home)) {
        request.anywhere = true;
      } else {
        CO_TRY(co_await make_room(0));
      }
      continue;
    }
    if (last || request.moving) co_return Code::kNoSpace;
    // Nothing left to wait for: somebody else may have made the room since we looked.
    CO_TRY_ASSIGN(const bool again, co_await make_room(round));
    last = !again;
  }
}

// Success: every piece has a complete copy, and one on every disk that is healthy now; what lies in
// parity groups is complete with its parity.
Task<Result<void>> Store::Impl::write_copies(std::shared_ptr<const PoolView> disks,
                                             std::span<const Piece> pieces,
                                             std::span<const std::byte> data,
                                             scheduler::IoClass io_class) {
  struct Copy {
    std::size_t piece;
    DiskId disk;
  };
  scheduler::IoGroup group;
  Stripes stripes;
  std::vector<Copy> copies;
  std::vector<std::size_t> missing(pieces.size(), 1);  // how many copies it takes
  std::size_t offset = 0;
  for (std::size_t i = 0; i < pieces.size();) {
    const Piece& piece = pieces[i];
    const Chunk* const chunk = chunks.find(piece.chunk);
    DFS_ASSERT(chunk != nullptr);
    const bool striped = chunk->group() != nullptr;
    const std::size_t count = striped ? Stripes::length(chunks, pieces.subspan(i)) : 1;
    std::size_t bytes = 0;
    for (std::size_t j = i; j < i + count; ++j) {
      bytes += pieces[j].count * kBlockBytes;
      missing[j] = j == i ? 1 : 0;
    }
    const std::span<const std::byte> part = data.subspan(offset, bytes);
    std::vector<std::byte*> columns;
    if (striped) {
      columns = stripes.encode(*chunk->group(), piece.count, part);
      missing[i] = columns.size();
      metrics.parity_bytes_written.add((columns.size() - chunk->group()->data_columns()) *
                                       piece.count * kBlockBytes);
    }
    const std::size_t places = striped ? columns.size() : chunk->places.size();
    for (std::size_t at = 0; at < places; ++at) {
      const Place& place = striped ? chunk->group()->places[at] : chunk->places[at];
      const PoolView::DiskEntry* const entry = disks->find(place.disk);
      if (entry == nullptr || entry->disk == nullptr) continue;
      group.write(
          *entry->disk, io_class, PoolView::offset_of(*entry, place.slot, piece.block),
          striped ? std::span<const std::byte>{columns[at], piece.count * kBlockBytes} : part);
      copies.push_back({.piece = i, .disk = place.disk});
    }
    offset += bytes;
    i += count;
  }
  co_await group.run();

  Error first_failure = error(Code::kDiskGone);
  bool needs_elsewhere = false;
  std::vector<DiskId> reported;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const Error failure = group.error(i);
    if (failure.code == Code::kOk) continue;
    if (reported.empty()) first_failure = failure;
    if (std::find(reported.begin(), reported.end(), copies[i].disk) != reported.end()) continue;
    reported.push_back(copies[i].disk);
    if (is_host_full(failure)) {
      note_host_full(copies[i].disk);
      needs_elsewhere = true;
      continue;
    }
    const auto outcome = co_await pool.report_failure(copies[i].disk, failure, &group.disk(i));
    outcome.ignore("asked for below: read_only() says whether the pool can go on");
  }
  if (pool.read_only()) co_return Code::kReadOnly;
  // That disk stays in the pool, so a copy must not be missing there: somewhere else, then.
  if (needs_elsewhere) co_return Code::kNoSpace;

  // A copy counts if its disk is still there; one may have failed in another's hands, and even be back.
  for (std::size_t i = 0; i < copies.size(); ++i) {
    std::size_t& wanted = missing[copies[i].piece];
    if (wanted > 0 && group.error(i).code == Code::kOk &&
        pool.disk(copies[i].disk) == &group.disk(i)) {
      --wanted;
    }
  }
  if (std::ranges::any_of(missing, [](std::size_t wanted) { return wanted > 0; }))
    co_return first_failure;
  co_return Result<void>{};
}

Task<Result<void>> Store::Impl::promise(std::uint64_t blocks, journal::Policy policy) {
  bool last = false;
  for (unsigned round = 0;; ++round) {
    look();
    if (allocator.promise(blocks, policy)) co_return Result<void>{};
    if (last) co_return Code::kNoSpace;
    CO_TRY_ASSIGN(const bool again, co_await make_room(round));
    last = !again;
  }
}

}  // namespace dynamicfs::extent
