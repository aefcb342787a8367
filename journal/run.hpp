// Sorted runs: immutable tables of metadata, key -> value in ascending key order.
//
// A run is a stream of 32 KiB blocks, each with its own header and CRC-32C (run id and block index
// included, so that a misdirected or stale block is noticed), laid out over whole slots, in two or
// more copies on different disks. A block that fails its checksum is read from another copy and the
// bad one is rewritten.
//
// Format  man/format.md, "Runs".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/buffer.hpp"
#include "base/bytes.hpp"
#include "journal/pool.hpp"
#include "journal/scrub_counts.hpp"

namespace dynamicfs::journal {

inline constexpr std::size_t kRunBlockBytes = 32 * kKiB;
// An entry must fit in one block; callers split larger values over several keys.
inline constexpr std::size_t kRunEntryBytesMax = 30 * kKiB;

// Where slots for runs come from: the allocator of extent/.
class SlotSource {
 public:
  virtual ~SlotSource() = default;
  // A free slot on that disk, now taken; nothing if the disk is full even for metadata.
  virtual std::optional<SlotId> take_run_slot(DiskId disk) = 0;
  // Gives back slots of a run that was never named by a durable manifest.
  virtual void drop_run_slots(DiskId disk, std::span<const SlotId> slots) = 0;
};

// Bytewise order; a prefix sorts first.
bool key_less(std::span<const std::byte> a, std::span<const std::byte> b);

class RunWriter {
 public:
  // `disks`: one copy on each. Writes go out at `io_class`.
  RunWriter(Pool& pool, SlotSource& slots, std::uint64_t run_id, std::vector<DiskId> disks,
            scheduler::IoClass io_class = scheduler::IoClass::kWrite);
  // Drops the slots unless finish() succeeded, as soon as no write to them is in flight: pool and
  // slots outlive that.
  ~RunWriter();

  // Keys ascend strictly. Suspends while a full piece is written. A disk that fails is reported to
  // the pool and its copy dropped; kReadOnly/kDiskGone when none is left; kNoSpace (detail: the disk),
  // with ENOSPC if its host file system is full.
  Task<Result<void>> add(std::span<const std::byte> key, std::span<const std::byte> value);
  // Writes the rest and flushes every copy's disk. run_bytes and copies of the result are set.
  Task<Result<Manifest>> finish();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

struct RunReadReport {
  std::uint64_t entries = 0;
  std::uint64_t blocks = 0;
  std::uint64_t blocks_bad = 0;  // copies that failed their checksum or could not be read
  std::uint64_t blocks_repaired = 0;
};

// Calls `each` for every entry in order. kCorrupt (detail: block) when a block has no good copy.
// Reads ahead; repairs bad copies on healthy disks unless the pool is read-only.
using RunEntry =
    std::function<Result<void>(std::span<const std::byte> key, std::span<const std::byte> value)>;
Task<Result<RunReadReport>> read_run(Pool& pool, Manifest manifest, RunEntry each);

// Reads every copy of the piece of the run at byte `at` (a multiple of kRunPieceBytes, within the run)
// in the background class and rewrites bad blocks from a good copy unless the pool is read-only. A
// disk that turns out to be gone is reported to the pool. Whoever asks keeps the run's slots from
// being given back meanwhile.
Task<ScrubCounts> scrub_run_piece(Pool& pool, Manifest manifest, std::uint64_t at);

// Writes a good block over a bad one, in the background class; the next commit flushes it. False if
// it did not succeed: the pool is read-only, or the disk is gone or failed (and is reported).
// `block` stays valid until completion.
Task<bool> rewrite_run_block(Pool& pool, RunCopy copy, std::uint64_t at,
                             std::span<const std::byte> block);

}  // namespace dynamicfs::journal
