#include "journal/log_walk.hpp"

#include "base/buffer.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::IoClass;

// The header at `offset` if it is the expected one; `found`: any whole header there.
Task<Result<std::optional<BatchHeader>>> read_header(scheduler::Disk* disk, ExpectedBatch expected,
                                                     std::optional<BatchHeader>* found) {
  Buffer block{kBlockBytes};
  CO_TRY(co_await scheduler::read(*disk, IoClass::kRead, kJournalOffset + expected.position.offset,
                                  block.span()));
  const std::optional<BatchHeader> header = get_header(block.span());
  if (header) *found = header;
  if (header && is_expected(*header, expected)) co_return header;
  co_return std::optional<BatchHeader>{};
}

// Where recovery looks for it; see recovery.hpp, "Torn or rotten".
Task<Result<std::optional<BatchHeader>>> find_later(scheduler::Disk* disk, Superblock superblock,
                                                    LogPosition next) {
  for (const std::uint64_t from : {next.offset, std::uint64_t{0}}) {
    if (from + kBlockBytes > superblock.log_bytes) continue;
    Buffer window{std::min(kBatchBytesMax + kBlockBytes, superblock.log_bytes - from)};
    CO_TRY(co_await scheduler::read(*disk, IoClass::kRead, kJournalOffset + from, window.span()));
    for (std::uint64_t at = 0; at < window.size(); at += kBlockBytes) {
      const std::optional<BatchHeader> header = get_header(window.span().subspan(at));
      if (header && proves(*header, from + at, superblock, next.sequence)) co_return header;
    }
  }
  co_return std::optional<BatchHeader>{};
}

}  // namespace

Task<Result<LogEndFound>> walk_log(Pool& pool, DiskId member, BatchSeen each) {
  const Superblock superblock = pool.superblock();
  scheduler::Disk* const disk = pool.disk(member);
  if (disk == nullptr) co_return error(Code::kDiskGone);
  LogEndFound end;
  end.next = superblock.manifest.log_start;
  while (true) {
    ExpectedBatch expected;
    expected.pool = superblock.pool;
    expected.position = end.next;
    expected.epoch = superblock.epoch_of(end.next.sequence);
    std::optional<BatchHeader> header;
    end.other.reset();
    if (end.next.offset + kBlockBytes <= superblock.log_bytes) {
      CO_TRY_ASSIGN(header, co_await read_header(disk, expected, &end.other));
    }
    if (!header && end.next.offset != 0) {
      std::optional<BatchHeader> at_start;
      expected.position.offset = 0;
      CO_TRY_ASSIGN(header, co_await read_header(disk, expected, &at_start));
    }
    if (!header || header->offset + header->batch_bytes() > superblock.log_bytes) {
      CO_TRY_ASSIGN(end.later, co_await find_later(disk, superblock, end.next));
      co_return std::move(end);
    }
    Buffer batch{header->batch_bytes()};
    CO_TRY(co_await scheduler::read(*disk, IoClass::kRead, kJournalOffset + header->offset,
                                    batch.span()));
    each(*header, batch.span(), payload_whole(*header, batch.span()));
    end.next = {.sequence = BatchSequence{header->sequence.raw + 1},
                .offset = header->offset + header->batch_bytes(),
                .previous_crc = header->crc};
  }
}

}  // namespace dynamicfs::journal
