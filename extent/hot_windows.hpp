// Which windows are read often lately: their reads go in class hot read.
//
// Hot       A window whose score is at least kHotScore after a read of it. A read adds the part of
//           the window that it covers, but at least an eighth unless it goes on where the last one
//           ended; the score halves every 10 s. So hot is what is read whole twice, or some fifteen
//           times at random, within a second or two; one pass over a file makes nothing hot, however
//           small its reads are.
// Memory    A fixed table, 128 KiB: each window has one cell. Windows that meet in a cell wear each
//           other's score down, and the one that is read more often keeps it (Misra and Gries,
//           "Finding Repeated Elements", 1982, one counter per cell).
// Threads   Every method may be called from any thread. No locks: when two reads meet in a cell one
//           of them may not be counted.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/executor.hpp"
#include "base/ids.hpp"

namespace dynamicfs::extent {

class HotWindows {
 public:
  HotWindows();

  // Counts a read of `count` > 0 blocks from `first` on. True if every window of it is hot now.
  bool note(InodeId inode, FileBlock first, std::uint64_t count, TimePoint now);
  // How many windows would still be hot if they were read now. Looks at the whole table.
  std::size_t hot(TimePoint now) const;

 private:
  static constexpr std::size_t kCells = 16384;
  std::unique_ptr<std::atomic<std::uint64_t>[]> cells_;
};

}  // namespace dynamicfs::extent
