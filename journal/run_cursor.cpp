#include "journal/run_cursor.hpp"

namespace dynamicfs::journal {
namespace {

RunSet::Runs worth_reading(RunSet& set, const RunSet::Runs& runs,
                           std::optional<std::uint64_t> hash) {
  if (!hash) return runs;
  RunSet::Runs chosen;
  for (const auto& run : runs) {
    if (run->may_have(*hash)) {
      chosen.push_back(run);
    } else {
      set.count_filter_negative();
    }
  }
  return chosen;
}

}  // namespace

RunCursor::RunCursor(RunSet& set, std::shared_ptr<const RunSet::Runs> runs, Bytes low, Bytes high,
                     Mode mode, std::optional<std::uint64_t> hash, scheduler::IoClass io_class)
    : entries_(
          set, worth_reading(set, *runs, hash), std::move(low), std::move(high),
          mode == Mode::kCached ? MergedEntries::Source::kCached : MergedEntries::Source::kStream,
          io_class) {}

Task<Result<bool>> RunCursor::next() {
  for (;;) {
    const MergedEntries::Step step = entries_.step();
    if (step == MergedEntries::Step::kEnd) co_return false;
    if (step == MergedEntries::Step::kBlocks) {
      CO_TRY(co_await entries_.load());
    } else if (entries_.kind() == RunEntryKind::kValue) {
      co_return true;
    }
  }
}

}  // namespace dynamicfs::journal
