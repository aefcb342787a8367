// Which reads are under way, as far as reuse of blocks must know (INV-3).
//
// A read pins `arrivals` before it copies a mapping, then the trackers of the disks it is going to
// ask, then lets go of `arrivals`, so that a hung disk keeps only its own blocks from being reused.
// A block is free of readers when `arrivals` has moved on since it became unreachable, and after
// that the trackers of all disks it lies on have: who saw the mapping has by then either ended or
// pinned one of those disks. Repairs happen inside the read's pins.
//
// Threads  Everything may be called from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/ids.hpp"
#include "extent/epoch.hpp"
#include "journal/superblock.hpp"

namespace dynamicfs::extent {

class ReadRegistry {
 public:
  ReadRegistry() = default;
  ReadRegistry(const ReadRegistry&) = delete;
  ReadRegistry& operator=(const ReadRegistry&) = delete;
  ~ReadRegistry() {
    for (auto& tracker : disks_) {
      const std::unique_ptr<EpochTracker> owned(tracker.load(std::memory_order_relaxed));
    }
  }

  EpochTracker& arrivals() { return arrivals_; }
  // Disks beyond the 64th share a tracker with another: reuse may wait for the wrong disk, no more.
  static std::size_t index_of(DiskId disk) { return disk.raw % kTrackers; }
  EpochTracker& disk(std::size_t index) {
    EpochTracker* tracker = disks_[index].load(std::memory_order_acquire);
    if (tracker != nullptr) return *tracker;
    auto fresh = std::make_unique<EpochTracker>();
    if (disks_[index].compare_exchange_strong(tracker, fresh.get(), std::memory_order_acq_rel)) {
      tracker = fresh.release();
    }
    return *tracker;
  }

  static constexpr std::size_t kTrackers = journal::kDisksMax;

 private:
  EpochTracker arrivals_;
  std::array<std::atomic<EpochTracker*>, kTrackers> disks_{};
};

// The pins of one read. Moves with its coroutine.
class ReadPins {
 public:
  explicit ReadPins(ReadRegistry& registry)
      : registry_(&registry), arrival_(registry.arrivals().pin()) {}

  void pin(DiskId disk) {
    const std::size_t index = ReadRegistry::index_of(disk);
    for (std::size_t i = 0; i < count_; ++i) {
      if (indexes_[i] == index) return;
    }
    if (count_ == disks_.size()) {
      crowded_ = true;  // more disks than we remember: `arrivals` goes on holding everything
      return;
    }
    indexes_[count_] = index;
    disks_[count_++] = registry_->disk(index).pin();
  }
  // The disks of the mappings copied so far are pinned.
  void arrived() {
    if (!crowded_) arrival_.reset();
  }

 private:
  ReadRegistry* registry_;
  EpochTracker::Pin arrival_;
  bool crowded_ = false;
  std::size_t count_ = 0;
  std::array<std::size_t, 8> indexes_{};
  std::array<EpochTracker::Pin, 8> disks_;
};

}  // namespace dynamicfs::extent
