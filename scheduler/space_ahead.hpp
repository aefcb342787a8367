// Which pieces of a backing file have been asked to take their space.
//
// A volume file is sparse and as long as it will ever be. Before the first write to a piece goes
// out the piece is allocated whole, so that the file consists of few extents however small the
// writes are. Each piece is asked for once per mount, whatever came of it: asking again for what is
// there is cheap but not free, and where the host file system is full the write itself says so.
//
// (A high-water mark would do for a volume that fills from its start; but the last slot is used
// early, by the superblock's copy, and would take the whole volume's space with it.)
//
// Threads  Every method may be called from any thread; two that ask for one piece at one time both
//          get it, which does no harm.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "base/ids.hpp"

namespace dynamicfs::scheduler {

class SpaceAhead {
 public:
  struct Range {
    std::uint64_t offset_bytes = 0;
    std::uint64_t size_bytes = 0;  // 0: nothing to ask for
  };

  // `step_bytes` 0: never asks.
  SpaceAhead(std::uint64_t size_bytes, std::uint64_t step_bytes)
      : size_bytes_(size_bytes),
        step_bytes_(step_bytes),
        asked_(step_bytes == 0 ? 0 : ceil_div(size_bytes, step_bytes)),
        on_(step_bytes != 0) {}

  // What to allocate before a write to this range, in whole pieces.
  Range missing(std::uint64_t offset_bytes, std::uint64_t write_bytes) const {
    if (!on_.load(std::memory_order_relaxed)) return {};
    std::uint64_t first = offset_bytes / step_bytes_;
    std::uint64_t end = ceil_div(offset_bytes + write_bytes, step_bytes_);
    while (first < end && asked_[first].load(std::memory_order_relaxed)) ++first;
    while (first < end && asked_[end - 1].load(std::memory_order_relaxed)) --end;
    if (first == end) return {};
    const std::uint64_t end_bytes = std::min(size_bytes_, end * step_bytes_);
    return {.offset_bytes = first * step_bytes_, .size_bytes = end_bytes - first * step_bytes_};
  }
  // A range from missing() has been asked for.
  void asked(const Range& range) {
    const std::uint64_t end = ceil_div(range.offset_bytes + range.size_bytes, step_bytes_);
    for (std::uint64_t i = range.offset_bytes / step_bytes_; i < end; ++i) {
      asked_[i].store(true, std::memory_order_relaxed);
    }
  }
  // The file system cannot do it.
  void give_up() { on_.store(false, std::memory_order_relaxed); }

 private:
  const std::uint64_t size_bytes_;
  const std::uint64_t step_bytes_;
  std::vector<std::atomic<bool>> asked_;
  std::atomic<bool> on_;
};

}  // namespace dynamicfs::scheduler
