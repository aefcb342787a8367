#include "scheduler/depth_control.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.hpp"

namespace dynamicfs::scheduler {
namespace {

// A class competes for as long as this after its last request; also how often the depth is judged,
// if enough requests have come back to judge by.
constexpr Duration kWindow = std::chrono::milliseconds{100};
constexpr unsigned kSamplesMin = 16;
constexpr Duration kWindowMax = std::chrono::seconds{1};
// For so long the depth does not shrink after it did in vain.
constexpr Duration kHold = std::chrono::seconds{2};

// The latency of the most urgent class beside others, in eighths of the one it has alone: up to the
// first the depth may grow, from the second on it shrinks. The simulation in
// tests/scheduler/priority_test.cpp holds for these.
constexpr std::size_t kGrowBelow = 9;
constexpr std::size_t kShrinkAbove = 11;

// What is known of a device without company fades: it may have become slower for good.
constexpr double kForget = 1.002;
constexpr TimePoint kNever{Duration{std::chrono::hours{-24}}};

}  // namespace

DepthControl::DepthControl(DepthOptions options) : options_(options), depth_(options.start) {
  DFS_ASSERT(options.min > 0 && options.start >= options.min && options.start <= options.max);
  last_seen_.fill(kNever);
}

std::size_t DepthControl::kind_of(const IoRequest& request) {
  const auto op = static_cast<std::size_t>(request.op) + (request.durable ? 2 : 0);
  const auto size = static_cast<std::size_t>(std::bit_width(request.size_bytes / kBlockBytes));
  return (op % 4) * 16 + std::min<std::size_t>(size, 15);
}

IoClass DepthControl::urgent(TimePoint now) const {
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    if (now - last_seen_[i] < kWindow) return static_cast<IoClass>(i);
  }
  return IoClass::kBackground;
}

bool DepthControl::mixed(TimePoint now) const {
  return std::ranges::count_if(last_seen_, [now](TimePoint seen) { return now - seen < kWindow; }) >
         1;
}

void DepthControl::completed(const IoRequest& request, TimePoint now) {
  seen(request.io_class, now);
  if (request.io_class != IoClass::kBackground) others_there_ = now;
  // What flushes says nothing of how the device keeps up.
  if (request.io_class == urgent(now) && moves_data(request.op) && !request.flushes) {
    const auto took_ns =
        static_cast<double>(std::max<std::int64_t>((now - request.started).count(), 1));
    double& base_ns = base_ns_[kind_of(request)];
    if (base_ns == 0 || took_ns < base_ns) {
      // The first is believed, and every faster one moves it a part of the way: one is no rule.
      base_ns = base_ns == 0 ? took_ns : base_ns + (took_ns - base_ns) / 16;
    } else if (!mixed(now)) {
      base_ns += (took_ns - base_ns) / 16;
    }
    const auto eighths = static_cast<std::size_t>(took_ns * 8 / base_ns);
    ++ratios_[std::min(eighths, kRatios - 1)];
    ++samples_;
  }
  const Duration age = now - window_start_;
  if (age >= kWindowMax || (age >= kWindow && samples_ >= kSamplesMin)) end_window(now);
}

void DepthControl::end_window(TimePoint now) {
  if (mixed(now) && samples_ >= kSamplesMin) {
    std::size_t median = 0;
    for (unsigned seen = ratios_[0]; seen * 2 < samples_; seen += ratios_[++median]) {
    }
    const unsigned before = std::exchange(before_, 0);
    if (before != 0 && median * 10 > median_ * 9) {
      depth_ = before;
      hold_until_ = now + kHold;
    } else if (median >= kShrinkAbove && depth_ > options_.min && now >= hold_until_) {
      before_ = depth_;
      median_ = median;
      const auto fit = static_cast<unsigned>(depth_ * kGrowBelow / median);
      depth_ = std::clamp(fit, options_.min, depth_ - 1);
    } else if (median < kGrowBelow && held_back_) {
      depth_ = std::min(depth_ + 1, options_.max);
    }
    for (double& base_ns : base_ns_) base_ns *= kForget;
  }
  window_start_ = now;
  ratios_.fill(0);
  samples_ = 0;
  held_back_ = false;
}

}  // namespace dynamicfs::scheduler
