// Pending space becomes free again; empty chunks go.
#include "base/bytes.hpp"
#include "base/mutant.hpp"
#include "extent/store_impl.hpp"
#include "extent/write_path.hpp"

namespace dynamicfs::extent {
namespace {

// Removals per record batch: enough to keep up with anything, and far below what the journal holds.
constexpr std::uint32_t kRemovalsAtOnce = 64;

}  // namespace

Task<void> Store::Impl::reclaim() {
  if (journal == nullptr) co_return;
  if (!allocator.has_pending() && allocator.empty_chunks() == 0) co_return;
  const auto guard = co_await reclaiming.acquire();
  while (allocator.empty_chunks() > 0 && !pool.read_only() && !journal->stopped()) {
    journal::Credit credit =
        co_await journal->reserve(kRemovalsAtOnce, kRemovalsAtOnce * kChunkRemoveBytes);
    const journal::ChangeScope scope(gate);
    JournalChunkLog log(*journal, credit);
    allocator.remove_empty(kRemovalsAtOnce, log);
  }
  allocator.advance(mutated(Mutant::kReuseEarly) ? journal->appended() : journal->covered());
}

Task<Result<bool>> Store::Impl::make_room(unsigned round) {
  // Readers hold blocks for as long as a disk takes to answer; beyond this a disk hangs, and what
  // it holds is not there. 1 ms doubled each time: about two seconds in all.
  constexpr unsigned kRounds = 12;
  if (round >= kRounds || (!allocator.has_pending() && allocator.empty_chunks() == 0)) {
    co_return try_full_disks_again();
  }
  metrics.space_drains.add();
  co_await reclaim();  // empty chunks first, so that the same drain covers their removal
  const auto drained = co_await journal->drain();
  if (!drained.has_value()) co_return drained.error();
  co_await reclaim();
  if (round > 0) co_await executor.sleep(std::chrono::milliseconds{1} * (1 << (round - 1)));
  co_return true;
}

}  // namespace dynamicfs::extent
