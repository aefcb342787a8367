#include "extent/hedges.hpp"

#include <algorithm>

namespace dynamicfs::extent {
namespace {

// Between two looks at the list: a read is answered in far less, mostly.
constexpr Duration kTickMin = std::chrono::milliseconds{1};
// One that comes meanwhile may be due earlier than all that are in the list.
constexpr Duration kTickMax = std::chrono::milliseconds{10};

}  // namespace

struct Hedges::Watched {
  struct Entry {
    TimePoint when;
    std::weak_ptr<ReadRound> round;
  };
  Mutex mutex;
  std::vector<Entry> entries DFS_GUARDED_BY(mutex);
  bool ticking DFS_GUARDED_BY(mutex) = false;
  bool closed DFS_GUARDED_BY(mutex) = false;
};

Hedges::Hedges(Executor& executor) : executor_(executor), watched_(std::make_shared<Watched>()) {}

Hedges::~Hedges() {
  LockGuard lock(watched_->mutex);
  watched_->closed = true;
  watched_->entries.clear();
}

Duration Hedges::patience_with(const scheduler::Disk& disk) {
  return std::max(2 * disk.latency().read_p95(), kAfterMin);
}

void Hedges::earn() {
  const unsigned before = earned_.load(std::memory_order_relaxed);
  if (before < kBurst * kReadsPerHedge) earned_.store(before + 1, std::memory_order_relaxed);
}

bool Hedges::spend() {
  unsigned before = earned_.load(std::memory_order_relaxed);
  do {
    if (before < kReadsPerHedge) return false;
  } while (
      !earned_.compare_exchange_weak(before, before - kReadsPerHedge, std::memory_order_relaxed));
  return true;
}

void Hedges::watch(const std::shared_ptr<ReadRound>& round, TimePoint when) {
  {
    LockGuard lock(watched_->mutex);
    watched_->entries.push_back({.when = when, .round = round});
    if (std::exchange(watched_->ticking, true)) return;
  }
  spawn(tick(watched_, executor_));
}

Task<void> Hedges::tick(std::shared_ptr<Watched> watched, Executor& executor) {
  std::vector<std::shared_ptr<ReadRound>> due;
  while (true) {
    const TimePoint now = executor.now();
    TimePoint next{};
    {
      LockGuard lock(watched->mutex);
      std::erase_if(watched->entries, [&](const Watched::Entry& entry) {
        std::shared_ptr<ReadRound> round = entry.round.lock();
        if (round == nullptr || round->is_decided()) return true;
        if (entry.when > now) return false;
        due.push_back(std::move(round));
        return true;
      });
      if (watched->closed) co_return;
      if (watched->entries.empty()) {
        watched->ticking = false;
      } else {
        next = std::ranges::min(watched->entries, {}, &Watched::Entry::when).when;
      }
    }
    for (const auto& round : due) round->overdue();
    due.clear();
    if (next == TimePoint{}) co_return;
    co_await executor.sleep_until(std::clamp(next, now + kTickMin, now + kTickMax));
  }
}

}  // namespace dynamicfs::extent
