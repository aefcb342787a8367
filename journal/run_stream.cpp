#include "journal/run_stream.hpp"

#include <algorithm>
#include <vector>

#include "base/log.hpp"
#include "base/waiters.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::IoClass;

constexpr std::uint64_t kPieceBlocks = kRunPieceBytes / kRunBlockBytes;

// The copies from `first` on, those on suspect disks behind the others.
std::vector<std::size_t> copies_in_order(const Pool& pool, const RunRef& run, std::size_t first) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < run.copies.size(); ++i) {
    const std::size_t copy = (first + i) % run.copies.size();
    if (pool.disk(run.copies[copy].disk) != nullptr) order.push_back(copy);
  }
  std::ranges::stable_partition(order, [&](std::size_t copy) {
    const scheduler::Disk* const disk = pool.disk(run.copies[copy].disk);
    return disk != nullptr && !disk->latency().suspect();
  });
  return order;
}

}  // namespace

Task<Result<RunBlock>> read_run_block(Pool& pool, const RunRef* run, std::uint64_t index,
                                      std::size_t first_copy, IoClass io_class,
                                      RunRepairs* repairs) {
  const std::uint64_t at = index * kRunBlockBytes;
  const Uuid pool_uuid = pool.uuid();
  std::vector<std::size_t> bad;
  const std::vector<std::size_t> order = copies_in_order(pool, *run, first_copy);
  for (const std::size_t copy : order) {
    scheduler::Disk* const disk = pool.disk(run->copies[copy].disk);
    if (disk == nullptr) continue;
    // New each time: a disk that was given up in the middle may still write into what it was given.
    const auto memory = std::make_shared<Buffer>(kRunBlockBytes);
    const std::span<std::byte> block = memory->span();
    const Result<void> read = co_await scheduler::read(
        *disk, io_class, run_offset(pool, run->copies[copy], at), block, memory);
    Result<RunBlockHeader> header = Code::kDiskRead;
    if (read.has_value()) header = open_run_block(block, pool_uuid, *run, index);
    if (!header.has_value()) {
      ++repairs->bad;
      bad.push_back(copy);
      continue;
    }
    for (const std::size_t to : bad) {
      const bool repaired = co_await rewrite_run_block(pool, run->copies[to], at, block);
      if (repaired) ++repairs->repaired;
    }
    co_return RunBlock{memory, block.subspan(kRunBlockHeaderBytes, header->payload_bytes),
                       header->entries};
  }
  log_error("no disk that is here has a good copy of block {} of metadata run {}", index, run->id);
  co_return error(Code::kCorrupt, index);
}

// Shared with its read, so that a reader that gives up, or whose disk is given up, leaves the memory
// to the disk.
struct RunStream::Piece {
  explicit Piece(Executor& executor) : done(executor) {}
  std::uint64_t first = 0;  // block of the run
  std::size_t copy = 0;
  Buffer bytes;
  Result<void> result;
  AsyncEvent done;
};

RunStream::RunStream(Pool& pool, RunRef run, std::uint64_t begin, std::uint64_t end,
                     IoClass io_class, std::size_t pieces)
    : pool_(pool),
      run_(std::move(run)),
      pool_uuid_(pool.uuid()),
      end_(end),
      io_class_(io_class),
      pieces_(pieces),
      started_(begin),
      taken_(begin) {
  DFS_ASSERT(begin <= end && end <= run_.blocks() && pieces != 0);
}

Task<void> RunStream::read_piece(scheduler::Disk* disk, IoClass io_class, std::uint64_t offset,
                                 std::shared_ptr<Piece> piece) {
  piece->result = co_await scheduler::read(*disk, io_class, offset, piece->bytes.span(), piece);
  piece->done.set();
}

// Asks for what is left of the next piece: none straddles slots.
void RunStream::start() {
  const std::uint64_t number = started_ / kPieceBlocks;
  const std::uint64_t stop = std::min(end_, (number + 1) * kPieceBlocks);
  auto piece = std::make_shared<Piece>(pool_.executor());
  piece->first = started_;
  piece->bytes = Buffer{(stop - started_) * kRunBlockBytes};
  const std::vector<std::size_t> order = copies_in_order(pool_, run_, number % run_.copies.size());
  if (!order.empty()) piece->copy = order.front();
  scheduler::Disk* const disk = pool_.disk(run_.copies[piece->copy].disk);
  ahead_.push_back(piece);
  started_ = stop;
  if (disk == nullptr) {
    piece->result = Code::kDiskGone;
    piece->done.set();
    return;
  }
  const std::uint64_t at = piece->first * kRunBlockBytes;
  spawn(read_piece(disk, io_class_, run_offset(pool_, run_.copies[piece->copy], at), piece));
}

Task<Result<RunBlock>> RunStream::next() {
  DFS_ASSERT(!at_end());
  while (started_ < end_ && ahead_.size() < pieces_) start();
  const std::shared_ptr<Piece> piece = ahead_.front();
  co_await piece->done.wait();

  const std::uint64_t index = taken_;
  const std::span<const std::byte> block =
      piece->bytes.span().subspan((index - piece->first) * kRunBlockBytes, kRunBlockBytes);
  Result<RunBlockHeader> header = Code::kChecksum;
  if (piece->result.has_value()) header = open_run_block(block, pool_uuid_, run_, index);
  RunBlock taken{piece, {}, 0};
  if (header.has_value()) {
    taken.payload = block.subspan(kRunBlockHeaderBytes, header->payload_bytes);
    taken.entries = header->entries;
  } else {
    // Once more from that copy, too: the others of a piece that failed as a whole may be well.
    CO_TRY_ASSIGN(taken,
                  co_await read_run_block(pool_, &run_, index, piece->copy, io_class_, &repairs_));
  }
  skip();
  co_return taken;
}

void RunStream::skip() {
  const Piece& piece = *ahead_.front();
  ++taken_;
  if ((taken_ - piece.first) * kRunBlockBytes == piece.bytes.size()) ahead_.pop_front();
}

}  // namespace dynamicfs::journal
