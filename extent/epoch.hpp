// Who may still be looking: epochs with counters, used twice. Once for memory (a replaced window
// node is freed when no reader that could have seen it is left; pinned for nanoseconds, never
// across a device wait) and once for blocks (INV-3: a freed block is reused when no read that could
// aim at it is outstanding; pinned from before the mapping is copied until the data has arrived).
//
// Method: epoch-based reclamation (Fraser, "Practical lock-freedom", 2004) with counters instead of
// per-thread announcements, so that a pin may move between threads with its coroutine.
//
// Invariant  What is retired at epoch e is released only after two advances, each of which requires
//            that no pin of the epoch before is left.
// Threads    Everything may be called from any thread; pin() and unpin() are lock-free.
// Locks      retire() takes a leaf, one of kShards.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "base/metrics.hpp"
#include "base/mutex.hpp"

namespace dynamicfs::extent {

class EpochTracker {
 public:
  EpochTracker() = default;
  EpochTracker(const EpochTracker&) = delete;
  EpochTracker& operator=(const EpochTracker&) = delete;
  ~EpochTracker();  // nobody may be pinned; frees what is still retired

  class Pin {
   public:
    Pin() = default;
    Pin(Pin&& other) noexcept
        : tracker_(std::exchange(other.tracker_, nullptr)),
          slot_(other.slot_),
          shard_(other.shard_) {}
    Pin& operator=(Pin&& other) noexcept {
      if (this != &other) {
        reset();
        tracker_ = std::exchange(other.tracker_, nullptr);
        slot_ = other.slot_;
        shard_ = other.shard_;
      }
      return *this;
    }
    ~Pin() { reset(); }
    void reset() {
      if (tracker_ != nullptr) std::exchange(tracker_, nullptr)->unpin(slot_, shard_);
    }

   private:
    friend class EpochTracker;
    Pin(EpochTracker* tracker, unsigned slot, unsigned shard)
        : tracker_(tracker), slot_(slot), shard_(shard) {}
    EpochTracker* tracker_ = nullptr;
    unsigned slot_ = 0;
    unsigned shard_ = 0;
  };

  [[nodiscard]] Pin pin() {
    const unsigned shard = thread_shard();
    while (true) {
      const std::uint64_t epoch = epoch_.load(std::memory_order_seq_cst);
      const unsigned slot = epoch % kSlots;
      cells_[shard].pins[slot].fetch_add(1, std::memory_order_seq_cst);
      // If the epoch moved on meanwhile the pin might be missed: take another.
      if (epoch_.load(std::memory_order_seq_cst) == epoch) return Pin{this, slot, shard};
      unpin(slot, shard);
    }
  }

  // What was unlinked before this call may be released once try_advance() returns at least this
  // value. A read-modify-write on purpose: whoever sees a later epoch then also sees the unlinking.
  std::uint64_t current() { return epoch_.fetch_add(0, std::memory_order_seq_cst); }
  // Moves on if nobody is left from the epoch before; returns the newest epoch whose retired things
  // may be released (0: none).
  std::uint64_t try_advance() {
    std::uint64_t epoch = epoch_.load(std::memory_order_seq_cst);
    const unsigned before = (epoch + kSlots - 1) % kSlots;
    bool busy = false;
    for (const Cell& cell : cells_) busy |= cell.pins[before].load(std::memory_order_seq_cst) != 0;
    if (!busy && epoch_.compare_exchange_strong(epoch, epoch + 1, std::memory_order_seq_cst))
      ++epoch;
    return safe(epoch);
  }

  // Frees `memory` (from std::malloc, `bytes` long) once nobody can be looking at it any more.
  // Garbage is bounded while pins are short: a batch of kBatchBytes per shard is gathered, then
  // waits for two advances.
  void retire(void* memory, std::size_t bytes);
  // Retired and not yet freed.
  std::uint64_t garbage_bytes() const;

 private:
  // A guess: some tens of the largest window nodes, so that the epoch moves rarely and the garbage
  // stays far below what the maps themselves hold.
  static constexpr std::size_t kBatchBytes = 128 * 1024;
  static constexpr std::size_t kBatchItems = 256;
  struct Batch {
    std::uint64_t epoch = 0;
    std::size_t bytes = 0;
    std::vector<void*> items;
  };
  struct alignas(64) Retired {
    mutable Mutex mutex;
    Batch gathering DFS_GUARDED_BY(mutex);
    std::deque<Batch> waiting DFS_GUARDED_BY(mutex);
    std::size_t bytes DFS_GUARDED_BY(mutex) = 0;
  };
  static constexpr unsigned kSlots = 3;
  static constexpr std::uint64_t safe(std::uint64_t epoch) { return epoch >= 2 ? epoch - 2 : 0; }
  void unpin(unsigned slot, unsigned shard) {
    cells_[shard].pins[slot].fetch_sub(1, std::memory_order_release);
  }
  struct alignas(64) Cell {
    std::array<std::atomic<std::int64_t>, kSlots> pins{};
  };
  std::atomic<std::uint64_t> epoch_{2};
  std::array<Cell, kShards> cells_;
  std::array<Retired, kShards> retired_;
};

}  // namespace dynamicfs::extent
