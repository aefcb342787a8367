// Goes through the data of all files, a window (1 MiB) at a time: what a scrub and a compaction have
// in common.
//
// What    Every inode that exists when it begins, by ascending number, with what it has up to its end
//         at that time or later. Numbers and maps that are not in memory are read from the runs in the
//         background class, a thousand numbers or a few windows at a time, and may be evicted behind it.
// Threads Several tasks may share one walk; each piece goes to one of them. begin() and end() when none
//         does.
// Locks   The cursor is held across a suspension, for the next inode may have to be read.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/waiters.hpp"
#include "fs/inode_table.hpp"

namespace dynamicfs::fs {

class FileWalk {
 public:
  // A part of one file, within one window; it begins with data.
  struct Piece {
    InodeRef inode;
    FileBlock first;
    std::uint64_t count = 0;
  };

  // `parts` outlives this. `on_error`: an inode, or those behind it, cannot be read; it is gone past.
  FileWalk(Filesystem::Impl& parts, std::function<void(InodeId, Error)> on_error);

  // `from`: inodes with smaller numbers are left out.
  void begin(InodeId from = {});
  // It has come to this inode, and given out all of those before it. From any thread; 0: it has not begun.
  InodeId position() const { return InodeId{position_.load(std::memory_order_acquire)}; }
  // The next piece with data; nothing: that was all.
  Task<std::optional<Piece>> next();
  // How much of the inodes is behind it, 0..1: of those that existed when it began, about. From any thread.
  double progress() const;
  // Holds no inode any more.
  void end();

 private:
  Task<void> open_next_inode();
  Task<void> fetch_numbers();

  Filesystem::Impl& fs_;
  const std::function<void(InodeId, Error)> on_error_;
  AsyncMutex cursor_;                     // the rest is its holder's
  std::atomic<std::uint64_t> passed_{0};  // inodes
  std::atomic<std::uint64_t> position_{0};
  std::vector<InodeId> in_memory_;  // when it began, ascending: the runs may lack them
  std::vector<InodeId> numbers_;    // ascending; of these the first `taken_` have been opened
  std::size_t taken_ = 0;
  InodeId fetched_to_;  // all numbers up to this one have been in numbers_
  bool fetched_all_ = true;
  InodeRef inode_;
  FileBlock next_block_;
  std::size_t windows_ = 0;  // of inode_, since it was found
  InodeId go_on_with_;       // at next_block_; 0: the next one
};

}  // namespace dynamicfs::fs
