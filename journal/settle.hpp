// When a commit waits a moment for those who are about to ask for one.
//
// Commit while busy makes two cohorts of N who sync in a loop: while the one waits for its batch the
// other gathers, so a batch has N/2. Whoever was woken by the last batch will soon be back; waiting
// for them makes one cohort of N, at N per trip. They may also not come: then those who are here have
// waited for nothing, so it is bounded by half a trip, and tried ever more rarely while it fails.
// (PostgreSQL's commit_delay needs a number of the user's for that; ours comes from the last batch.)
//
// Arithmetic alone: no clock, no lock, no waiting. The commit loop is its only user.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>

#include "base/executor.hpp"

namespace dynamicfs::journal {

struct CommitOptions {
  // A commit that somebody waits for begins when so many wait, or after `wait`. 0: at once, apart from
  // the moment above.
  std::size_t ops = 64;
  Duration wait{0};
};

class Settle {
 public:
  static constexpr Duration kLongest{std::chrono::microseconds{200}};

  explicit Settle(CommitOptions options) : options_(options) {}

  // A batch took `trip`, woke `woken` and left `waiting` for the next.
  void committed(TimePoint now, Duration trip, std::size_t woken, std::size_t waiting) {
    trip_ = trip_ == Duration{0} ? trip : trip_ + (trip - trip_) / 8;
    woke_at_ = now;
    expected_ = woken + waiting;
  }

  struct Plan {
    std::size_t until = 0;  // so many wait
    TimePoint deadline;
  };
  // Whether a batch for which `waiting` wait now should wait for more.
  std::optional<Plan> plan(TimePoint now, std::size_t waiting) {
    planned_ = false;
    if (options_.wait > Duration{0})
      return waiting < options_.ops ? std::optional{Plan{options_.ops, now + options_.wait}}
                                    : std::nullopt;
    if (waiting >= expected_) return std::nullopt;
    const TimePoint deadline = woke_at_ + std::min(trip_ / 2, kLongest);
    if (deadline <= now) return std::nullopt;
    if (skip_ > 0) {
      --skip_;
      return std::nullopt;
    }
    planned_ = true;
    missing_ = expected_ - waiting;
    had_ = waiting;
    return Plan{expected_, deadline};
  }
  // ... and how many there were in the end.
  void settled(std::size_t waiting) {
    if (!planned_) return;
    const bool paid = 2 * (waiting - std::min(waiting, had_)) >= missing_;
    failures_ = paid ? 0 : std::min(failures_ + 1, 6U);
    skip_ = (1U << failures_) - 1;
  }

 private:
  const CommitOptions options_;
  Duration trip_{0};
  TimePoint woke_at_{};
  std::size_t expected_ = 0;
  bool planned_ = false;
  std::size_t missing_ = 0;
  std::size_t had_ = 0;
  unsigned failures_ = 0;
  unsigned skip_ = 0;  // so many commits before it is tried again
};

}  // namespace dynamicfs::journal
