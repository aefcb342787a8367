// When a read that waits for one disk may ask another, and how often that may happen.
//
// After max(2 x the 95th percentile of the disk, 2 ms); at most one read in 20 may, on average, with
// kBurst saved up, so that disks that are all slow are not made to do twice the work. A suspect disk
// is known to be the cause: away from it is free.
//
// Method   A list of the rounds under way with their times, and one timer for all of them, which
//          runs only while the list is not empty and at most once a millisecond: watching costs an
//          entry in a vector, and no wake-up of its own.
// Threads  Every method may be called from any thread.
// Locks    One, before those of the rounds.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "base/executor.hpp"
#include "base/mutex.hpp"
#include "base/task.hpp"
#include "extent/read_round.hpp"

namespace dynamicfs::extent {

class Hedges {
 public:
  static constexpr Duration kAfterMin = std::chrono::milliseconds{2};
  static constexpr unsigned kReadsPerHedge = 20;
  static constexpr unsigned kBurst = 64;

  explicit Hedges(Executor& executor);
  ~Hedges();
  Hedges(const Hedges&) = delete;
  Hedges& operator=(const Hedges&) = delete;

  // How long to wait for this disk.
  static Duration patience_with(const scheduler::Disk& disk);

  // A read that could ask elsewhere has begun: it earns its part.
  void earn();
  // Takes one hedge out of what was earned; false if it is not there.
  bool spend();
  // Calls round.overdue() at `when` or somewhat later, unless it is decided by then.
  void watch(const std::shared_ptr<ReadRound>& round, TimePoint when);

 private:
  // Shared with the timer, which may sleep longer than this lives.
  struct Watched;
  static Task<void> tick(std::shared_ptr<Watched> watched, Executor& executor);

  Executor& executor_;
  std::shared_ptr<Watched> watched_;
  // In parts of a hedge, kReadsPerHedge to one. Two that meet may count as one.
  std::atomic<unsigned> earned_{kBurst * kReadsPerHedge};
};

}  // namespace dynamicfs::extent
