#include "scheduler/latency_watch.hpp"

#include <algorithm>

namespace dynamicfs::scheduler {
namespace {

// The estimate goes down by this part of itself for each read that was quicker, and up by nineteen
// times that for one that was slower: in balance when that is one in twenty.
constexpr std::int64_t kStep = 512;
constexpr std::int64_t kLeastNs = 1'000;

}  // namespace

void LatencyWatch::read_completed(Duration latency) {
  // Two that meet count as one.
  const std::int64_t before = read_p95_ns_.load(std::memory_order_relaxed);
  const std::int64_t step = before / kStep + 1;
  const std::int64_t after = latency.count() > before ? before + 19 * step : before - step;
  read_p95_ns_.store(std::max(after, kLeastNs), std::memory_order_relaxed);
}

void LatencyWatch::completed_late(TimePoint now) {
  last_late_ns_.store(now.since_origin.count(), std::memory_order_relaxed);
}

LatencyWatch::Verdict LatencyWatch::look(TimePoint now, Lateness at_device) {
  if (at_device.late) {
    last_late_ns_.store(now.since_origin.count(), std::memory_order_relaxed);
    if (!suspect_.exchange(true, std::memory_order_relaxed)) return Verdict::kSuspect;
    return at_device.hung ? Verdict::kHung : Verdict::kAsBefore;
  }
  if (!suspect()) return Verdict::kAsBefore;
  const TimePoint last_late{Duration{last_late_ns_.load(std::memory_order_relaxed)}};
  if (now - last_late < kTrial) return Verdict::kAsBefore;
  suspect_.store(false, std::memory_order_relaxed);
  return Verdict::kRecovered;
}

}  // namespace dynamicfs::scheduler
