// Verifies every copy of a run, a piece at a time.
#include <memory>
#include <vector>

#include "base/log.hpp"
#include "journal/run_format.hpp"

namespace dynamicfs::journal {

using scheduler::IoClass;

Task<ScrubCounts> scrub_run_piece(Pool& pool, RunRef run, std::uint64_t at) {
  DFS_ASSERT(at % kRunPieceBytes == 0 && at < run.bytes);
  const std::uint64_t size_bytes = std::min(kRunPieceBytes, run.bytes - at);
  ScrubCounts counts;
  counts.blocks = size_bytes / kRunBlockBytes;
  counts.bytes = size_bytes;

  scheduler::IoGroup group;
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<std::size_t> read;  // index of the copy, by request
  for (std::size_t copy = 0; copy < run.copies.size(); ++copy) {
    buffers.push_back(std::make_shared<Buffer>(size_bytes));
    scheduler::Disk* const disk = pool.disk(run.copies[copy].disk);
    if (disk == nullptr) continue;
    group.read(*disk, IoClass::kBackground, run_offset(pool, run.copies[copy], at),
               buffers[copy]->span(), buffers[copy]);
    read.push_back(copy);
  }
  co_await group.run();
  std::vector<bool> here(run.copies.size());
  std::vector<bool> arrived(run.copies.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    const Error failure = group.error(i);
    arrived[read[i]] = failure.code == Code::kOk;
    here[read[i]] = arrived[read[i]] || failure.code == Code::kDiskRead;
    if (arrived[read[i]]) counts.read_bytes += size_bytes;
    if (failure.code == Code::kDiskGone) {
      const Result<void> reported =
          co_await pool.report_failure(run.copies[read[i]].disk, failure, &group.disk(i));
      reported.ignore("the other copies decide");
    }
  }

  const Uuid pool_uuid = pool.uuid();
  for (std::uint64_t from = 0; from < size_bytes; from += kRunBlockBytes) {
    const std::uint64_t index = (at + from) / kRunBlockBytes;
    std::vector<std::size_t> bad;
    std::size_t good = run.copies.size();
    std::size_t away = 0;
    for (std::size_t copy = 0; copy < run.copies.size(); ++copy) {
      if (!here[copy]) {
        ++away;
      } else if (arrived[copy] &&
                 open_run_block(buffers[copy]->span().subspan(from, kRunBlockBytes), pool_uuid,
                                run.id, index)
                     .has_value()) {
        good = copy;
      } else {
        bad.push_back(copy);
      }
    }
    counts.copies_skipped += away;
    counts.copies_bad += bad.size();
    if (good == run.copies.size()) {
      ++(away == 0 ? counts.blocks_lost : counts.blocks_unreadable);
      log_error("block {} of metadata run {} is damaged in every copy", index, run.id);
      continue;
    }
    for (const std::size_t copy : bad) {
      log_warning("block {} of metadata run {} is damaged on disk {}", index, run.id,
                  run.copies[copy].disk);
      const bool repaired = co_await rewrite_run_block(
          pool, run.copies[copy], at + from, buffers[good]->span().subspan(from, kRunBlockBytes));
      if (repaired) ++counts.copies_repaired;
    }
  }
  co_return counts;
}

}  // namespace dynamicfs::journal
