#include "journal/run_merge.hpp"

#include <algorithm>

#include "journal/merged_entries.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::size_t kGroupMin = 4;
constexpr std::uint64_t kRatioMax = 4;
static_assert(kRunsMax / 2 >= kGroupMin, "too many runs are enough for a group");

}  // namespace

std::optional<std::pair<std::size_t, std::size_t>> choose_merge(
    std::span<const std::uint64_t> bytes_newest_first) {
  const std::span<const std::uint64_t> bytes = bytes_newest_first;
  if (bytes.empty()) return std::nullopt;
  std::uint64_t newer = bytes[0];
  std::size_t end = 1;
  while (end < bytes.size() && ceil_div(bytes[end], kRatioMax) <= newer) newer += bytes[end++];
  if (bytes.size() > kRunsMax / 2) end = std::max(end, kGroupMin);
  if (end < kGroupMin) return std::nullopt;
  return std::pair{std::size_t{0}, end};
}

Task<Result<RunRef>> merge_runs(RunSet& set, RunSet::Runs inputs, bool to_bottom, RunWriter& writer,
                                std::function<bool()> go_on) {
  MergedEntries entries{set,
                        std::move(inputs),
                        {},
                        {},
                        MergedEntries::Source::kStream,
                        scheduler::IoClass::kBackground};
  for (;;) {
    const MergedEntries::Step step = entries.step();
    if (step == MergedEntries::Step::kEnd) break;
    if (step == MergedEntries::Step::kBlocks) {
      if (go_on && !go_on()) co_return Code::kShutdown;
      CO_TRY(co_await entries.load());
    } else if (!to_bottom || entries.kind() == RunEntryKind::kValue) {
      CO_TRY(co_await writer.add(entries.kind(), entries.key(), entries.value()));
    }
  }
  co_return co_await writer.finish();
}

}  // namespace dynamicfs::journal
