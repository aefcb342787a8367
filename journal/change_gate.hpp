// Lets a checkpoint find one instant at which no change is half made.
//
// Every change of metadata happens inside a ChangeScope: enter, lock, modify memory, append the
// record, unlock, leave. A scope never suspends, so closing the gate waits for microseconds. While
// it is closed the last LSN and memory agree exactly: the checkpoint notes both ("never fuzzy") and
// opens it again; what is modified afterwards is captured before its first modification.
//
// Order  The gate is entered before any mutex is taken.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/assert.hpp"
#include "base/metrics.hpp"
#include "base/mutex.hpp"

namespace dynamicfs::journal {

class ChangeGate {
 public:
  void enter() {
    assert_no_mutex_held();
    while (true) {
      inside_[thread_shard()].count.fetch_add(1, std::memory_order_seq_cst);
      if (!closed_.load(std::memory_order_seq_cst)) return;
      leave();
      closed_.wait(true, std::memory_order_acquire);
    }
  }
  void leave() { inside_[thread_shard()].count.fetch_sub(1, std::memory_order_release); }

  // Runs `instant` while nobody is inside. One caller at a time; not from inside a scope.
  template <class F>
  void exclusively(F instant) {
    closed_.store(true, std::memory_order_seq_cst);
    for (Cell& cell : inside_) {
      while (cell.count.load(std::memory_order_seq_cst) != 0) __builtin_ia32_pause();
    }
    instant();
    closed_.store(false, std::memory_order_release);
    closed_.notify_all();
  }

 private:
  struct alignas(64) Cell {
    std::atomic<std::int64_t> count{0};
  };
  std::array<Cell, kShards> inside_;
  std::atomic<bool> closed_{false};
};

class ChangeScope {
 public:
  explicit ChangeScope(ChangeGate& gate) : gate_(gate) { gate_.enter(); }
  ~ChangeScope() { gate_.leave(); }
  ChangeScope(const ChangeScope&) = delete;
  ChangeScope& operator=(const ChangeScope&) = delete;

 private:
  ChangeGate& gate_;
};

}  // namespace dynamicfs::journal
