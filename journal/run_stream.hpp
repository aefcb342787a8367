// Blocks of one run as they come from its disks: verified, and repaired where a copy is bad.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "base/result.hpp"
#include "base/task.hpp"
#include "base/uuid.hpp"
#include "journal/run_format.hpp"

namespace dynamicfs::journal {

// A block that has been verified, and what keeps its bytes.
struct RunBlock {
  std::shared_ptr<const void> memory;
  std::span<const std::byte> payload;
  std::uint32_t entries = 0;
};

// Copies of blocks that failed their checksum or could not be read, and those rewritten since.
struct RunRepairs {
  std::uint64_t bad = 0;
  std::uint64_t repaired = 0;
};

// Reads a block from the first copy that has it, beginning with `first_copy` and then in order, those
// on suspect disks last, and repairs those that were read before. kCorrupt (detail: block), with a
// word to the operator, when there is none. `run` and `repairs`, which is added to, stay valid until
// completion.
Task<Result<RunBlock>> read_run_block(Pool& pool, const RunRef* run, std::uint64_t index,
                                      std::size_t first_copy, scheduler::IoClass io_class,
                                      RunRepairs* repairs);

// A range of the blocks of a run in order, read ahead in pieces of kRunPieceBytes. Copies take
// turns, so that all their disks read at once and damage on either is met. One reader at a time; it
// may give up at any time, then what is in flight keeps its memory.
class RunStream {
 public:
  // Blocks from `begin` on and before `end`. `pieces` are in memory or on their way.
  RunStream(Pool& pool, RunRef run, std::uint64_t begin, std::uint64_t end,
            scheduler::IoClass io_class, std::size_t pieces);

  bool at_end() const { return taken_ == end_; }
  // The next block; there is one. kCorrupt (detail: block).
  Task<Result<RunBlock>> next();
  // Behind an error of next(): goes on with the block after that one.
  void skip();
  const RunRepairs& repairs() const { return repairs_; }

 private:
  struct Piece;
  void start();
  static Task<void> read_piece(scheduler::Disk* disk, scheduler::IoClass io_class,
                               std::uint64_t offset, std::shared_ptr<Piece> piece);

  Pool& pool_;
  const RunRef run_;
  const Uuid pool_uuid_;
  const std::uint64_t end_;
  const scheduler::IoClass io_class_;
  const std::size_t pieces_;
  std::uint64_t started_;  // blocks before this one have been asked for
  std::uint64_t taken_;    // ... have been handed out
  std::deque<std::shared_ptr<Piece>> ahead_;
  RunRepairs repairs_;
};

}  // namespace dynamicfs::journal
