#include <cerrno>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/log.hpp"
#include "base/waiters.hpp"
#include "journal/run_format.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::IoClass;

// Pieces on their way while one is looked at: enough for both disks of a run to stream.
constexpr std::size_t kReadAheadPieces = 4;

// One piece of the run on its way from one copy. Shared with its read, so that a reader that gives
// up leaves the memory to the disk.
struct Piece {
  explicit Piece(Executor& executor) : done(executor) {}
  std::uint64_t at = 0;
  std::size_t copy = 0;
  Buffer bytes;
  Result<void> result;
  AsyncEvent done;
};

class RunReader {
 public:
  RunReader(Pool& pool, Manifest manifest, RunEntry each)
      : pool_(pool),
        manifest_(std::move(manifest)),
        each_(std::move(each)),
        pool_uuid_(pool.uuid()) {}

  Task<Result<RunReadReport>> run();

 private:
  void start(std::uint64_t at);
  static Task<void> read_piece(scheduler::Disk* disk, std::uint64_t offset,
                               std::shared_ptr<Piece> piece);
  Task<Result<void>> take_piece(Piece* piece);
  Task<Result<RunBlockHeader>> rescue(std::uint64_t index, std::size_t bad_copy,
                                      std::span<std::byte> block);

  Pool& pool_;
  const Manifest manifest_;
  const RunEntry each_;
  const Uuid pool_uuid_;
  std::deque<std::shared_ptr<Piece>> ahead_;
  RunReadReport report_;
};

Task<void> RunReader::read_piece(scheduler::Disk* disk, std::uint64_t offset,
                                 std::shared_ptr<Piece> piece) {
  piece->result = co_await scheduler::read(*disk, IoClass::kCritical, offset, piece->bytes.span());
  piece->done.set();
}

// Copies take turns, so that all their disks read at once and damage on either is met.
void RunReader::start(std::uint64_t at) {
  auto piece = std::make_shared<Piece>(pool_.executor());
  piece->at = at;
  piece->bytes = Buffer{std::min(kRunPieceBytes, manifest_.run_bytes - at)};
  const std::size_t copies = manifest_.copies.size();
  const std::size_t first = at / kRunPieceBytes % copies;
  scheduler::Disk* disk = nullptr;
  for (std::size_t i = 0; i < copies && disk == nullptr; ++i) {
    piece->copy = (first + i) % copies;
    disk = pool_.disk(manifest_.copies[piece->copy].disk);
  }
  ahead_.push_back(piece);
  if (disk == nullptr) {
    piece->result = Code::kDiskGone;
    piece->done.set();
    return;
  }
  spawn(read_piece(disk, run_offset(pool_, manifest_.copies[piece->copy], at), piece));
}

// Reads block `index` from another copy than `bad_copy` into `block` and repairs the bad ones.
Task<Result<RunBlockHeader>> RunReader::rescue(std::uint64_t index, std::size_t bad_copy,
                                               std::span<std::byte> block) {
  const std::uint64_t at = index * kRunBlockBytes;
  std::vector<std::size_t> bad{bad_copy};
  ++report_.blocks_bad;
  for (std::size_t i = 1; i < manifest_.copies.size(); ++i) {
    const std::size_t copy = (bad_copy + i) % manifest_.copies.size();
    scheduler::Disk* const disk = pool_.disk(manifest_.copies[copy].disk);
    if (disk == nullptr) continue;
    const Result<void> read = co_await scheduler::read(
        *disk, IoClass::kCritical, run_offset(pool_, manifest_.copies[copy], at), block);
    if (read.has_value()) {
      const Result<RunBlockHeader> header =
          open_run_block(block, pool_uuid_, manifest_.run_id, index);
      if (header.has_value()) {
        for (const std::size_t to : bad) {
          const bool repaired = co_await rewrite_run_block(pool_, manifest_.copies[to], at, block);
          if (repaired) ++report_.blocks_repaired;
        }
        co_return header;
      }
    }
    ++report_.blocks_bad;
    bad.push_back(copy);
  }
  log_error("block {} of metadata run {} is damaged in every copy", index, manifest_.run_id);
  co_return error(Code::kCorrupt, index);
}

Task<Result<void>> RunReader::take_piece(Piece* piece) {
  co_await piece->done.wait();
  for (std::uint64_t at = 0; at < piece->bytes.size(); at += kRunBlockBytes) {
    const std::uint64_t index = (piece->at + at) / kRunBlockBytes;
    const std::span<std::byte> block = piece->bytes.span().subspan(at, kRunBlockBytes);
    Result<RunBlockHeader> header = Code::kChecksum;
    if (piece->result.has_value())
      header = open_run_block(block, pool_uuid_, manifest_.run_id, index);
    if (!header.has_value()) {
      header = co_await rescue(index, piece->copy, block);
      if (!header.has_value()) co_return header.error();
    }
    const bool last = (index + 1) * kRunBlockBytes == manifest_.run_bytes;
    if (header->last != last) co_return error(Code::kFormatInvalid, index);
    CO_TRY(for_each_run_entry(block, *header, each_));
    ++report_.blocks;
    report_.entries += header->entries;
  }
  co_return Result<void>{};
}

Task<Result<RunReadReport>> RunReader::run() {
  if (manifest_.run_id == 0) co_return report_;
  if (manifest_.copies.empty() || manifest_.run_bytes == 0 ||
      manifest_.run_bytes % kRunBlockBytes != 0) {
    co_return Code::kFormatInvalid;
  }
  std::uint64_t started = 0;
  while (started < manifest_.run_bytes || !ahead_.empty()) {
    while (started < manifest_.run_bytes && ahead_.size() < kReadAheadPieces) {
      start(started);
      started += kRunPieceBytes;
    }
    const std::shared_ptr<Piece> piece = ahead_.front();
    CO_TRY(co_await take_piece(piece.get()));
    ahead_.pop_front();
  }
  co_return report_;
}

}  // namespace

Task<Result<RunReadReport>> read_run(Pool& pool, Manifest manifest, RunEntry each) {
  RunReader reader{pool, std::move(manifest), std::move(each)};
  Result<RunReadReport> report = co_await reader.run();
  co_return report;
}

Task<bool> rewrite_run_block(Pool& pool, RunCopy copy, std::uint64_t at,
                             std::span<const std::byte> block) {
  scheduler::Disk* const disk = pool.disk(copy.disk);
  if (disk == nullptr || pool.read_only()) co_return false;
  const Result<void> written =
      co_await scheduler::write(*disk, IoClass::kBackground, run_offset(pool, copy, at), block);
  if (written.has_value()) co_return true;
  // A host file system that writes elsewhere may have no room for that: the disk is well.
  if (written.error().sys_errno == ENOSPC) co_return false;
  const Result<void> reported = co_await pool.report_failure(copy.disk, written.error());
  reported.ignore("the block has been read; whoever writes next is told");
  co_return false;
}

}  // namespace dynamicfs::journal
