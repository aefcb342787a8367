// One run as it lies there, and the repair of its blocks.
#include <cerrno>

#include "journal/run_stream.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::IoClass;

// On their way while one is looked at: enough for both disks of a run to stream.
constexpr std::size_t kReadPiecesAhead = 4;

}  // namespace

Task<Result<RunReadReport>> read_run(Pool& pool, RunRef run, RunEntry each) {
  const std::uint64_t blocks = run.entry_blocks;
  RunStream stream{pool, std::move(run), 0, blocks, IoClass::kCritical, kReadPiecesAhead};
  RunReadReport report;
  while (!stream.at_end()) {
    CO_TRY_ASSIGN(const RunBlock block, co_await stream.next());
    RunEntries entries{block.payload, block.entries};
    while (entries.next()) {
      CO_TRY(each(entries.kind(), entries.key(), entries.value()));
    }
    ++report.blocks;
    report.entries += block.entries;
  }
  report.blocks_bad = stream.repairs().bad;
  report.blocks_repaired = stream.repairs().repaired;
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
  const Result<void> reported = co_await pool.report_failure(copy.disk, written.error(), disk);
  reported.ignore("the block has been read; whoever writes next is told");
  co_return false;
}

}  // namespace dynamicfs::journal
