// How quickly a disk answers: when a read has waited long enough to ask another copy, and whether
// the disk is suspect.
//
//   state    | what look() sees at the device                           | becomes
//   healthy  | a request later than its deadline (IoQueue::deadline)    | suspect
//   suspect  | none, and none has completed so late for kTrial          | healthy
//   either   | a request there for kHungAfter                           | hung: whoever looks decides
//
// A suspect disk is asked for a read only where no other copy is here, and takes no new chunk where
// others can. Writes to chunks that lie on it wait for it.
//
// Source   The percentile is estimated as it comes, in one number (Ma, Muthukrishnan and Sandler,
//          "Frugal Streaming for Estimating Quantiles", 2013, with a step that is relative).
// Threads  Every method may be called from any thread; look() by one at a time. No locks.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/executor.hpp"
#include "base/metrics.hpp"

namespace dynamicfs::scheduler {

// What is at a device at one moment.
struct Lateness {
  bool late = false;  // a request that has passed its deadline
  bool hung = false;  // ... and has been there for kHungAfter
};

class LatencyWatch {
 public:
  static constexpr Duration kTrial = std::chrono::seconds{10};
  static constexpr Duration kHungAfter = std::chrono::seconds{30};

  // A read somebody waits for has come back well, `latency` after submit().
  void read_completed(Duration latency);
  // A read is asked for at another disk as well, because this one has kept it waiting.
  void hedged() { hedges_.add(); }
  std::uint64_t hedges() const { return hedges_.sum(); }
  // Some request has come back after its deadline.
  void completed_late(TimePoint now);

  // 95 % of reads come back sooner, of late.
  Duration read_p95() const { return Duration{read_p95_ns_.load(std::memory_order_relaxed)}; }
  bool suspect() const { return suspect_.load(std::memory_order_relaxed); }

  enum class Verdict : std::uint8_t { kAsBefore, kSuspect, kRecovered, kHung };
  // To be called about once a second. The state has changed as the verdict says; kHung: it is
  // suspect, and has been told to be so before.
  Verdict look(TimePoint now, Lateness at_device);

 private:
  std::atomic<std::int64_t> read_p95_ns_{1'000'000};
  std::atomic<bool> suspect_{false};
  std::atomic<std::int64_t> last_late_ns_{0};  // TimePoint
  Counter hedges_;
};

}  // namespace dynamicfs::scheduler
