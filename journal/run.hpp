// Sorted runs: immutable tables of metadata, key -> value in ascending key order, that together are
// the checkpoint: what a newer run says of a key counts.
//
// A run is a stream of 32 KiB blocks, each with its own header and CRC-32C (run id and block index
// included, so that a misdirected or stale block is noticed), laid out over whole slots, in two or
// more copies on different disks: first the entries, then an index of their blocks, then a filter.
// A block that fails its checksum is read from another copy and the bad one is rewritten.
//
// Here is how a run is written, and read or verified as it lies there. run_set.hpp and
// run_cursor.hpp are how metadata is found in all of them; run_merge.hpp makes one of several.
//
// Source  O'Neil, Cheng, Gawlick, O'Neil, "The Log-Structured Merge-Tree", Acta Informatica 1996.
// Format  man/format.md, "Runs".
#pragma once

#include <compare>
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

// An entry must fit in one block; callers split larger values over several keys.
inline constexpr std::size_t kRunEntryBytesMax = 30 * kKiB;
// Of the key of a prefix deletion: it must fit into one block with another entry of its key.
inline constexpr std::size_t kRunPrefixBytesMax = 1 * kKiB;

enum class RunEntryKind : std::uint8_t {
  kValue,
  kDeletion,        // the key is not there any more, whatever older runs say
  kPrefixDeletion,  // nor is any key of an older run that begins with this one; this run's are
};

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
std::strong_ordering key_order(std::span<const std::byte> a, std::span<const std::byte> b);
inline bool key_less(std::span<const std::byte> a, std::span<const std::byte> b) {
  return key_order(a, b) < 0;
}
inline bool key_begins_with(std::span<const std::byte> key, std::span<const std::byte> prefix) {
  return key.size() >= prefix.size() && key_order(key.first(prefix.size()), prefix) == 0;
}

// What the filter of a run knows a key by; nothing: the key is in no filter. Pure: the same for a
// key in every run of a pool. Keys that are looked up together may share one.
using RunFilterHash = std::function<std::optional<std::uint64_t>(std::span<const std::byte> key)>;

class RunWriter {
 public:
  // `disks`: one copy on each. Writes go out at `io_class`.
  RunWriter(Pool& pool, SlotSource& slots, std::uint64_t run_id, std::vector<DiskId> disks,
            RunFilterHash filter, scheduler::IoClass io_class = scheduler::IoClass::kWrite);
  // Drops the slots unless finish() succeeded, as soon as no write to them is in flight: pool and
  // slots outlive that.
  ~RunWriter();

  // Keys ascend strictly, but that a prefix deletion may stand before another entry of its key. Key
  // and value are copied. Suspends while a full piece is written. Memory grows by the index and by 8
  // bytes for each hash. A disk that fails is reported to the pool and its copy dropped;
  // kReadOnly/kDiskGone when none is left; kNoSpace (detail: the disk), with ENOSPC if its host file
  // system is full.
  Task<Result<void>> add(std::span<const std::byte> key, std::span<const std::byte> value);
  Task<Result<void>> add_deletion(std::span<const std::byte> key);
  // Its key is given to the filter as any other.
  Task<Result<void>> add_prefix_deletion(std::span<const std::byte> prefix);
  // The same, by kind; `value` is empty unless the kind is kValue.
  Task<Result<void>> add(RunEntryKind kind, std::span<const std::byte> key,
                         std::span<const std::byte> value);
  // Writes the rest, index and filter, and flushes every copy's disk. A run without entries is one,
  // too. Errors as add().
  Task<Result<RunRef>> finish();
  // Instead of finish(), or when it has failed: no write is in flight any more.
  Task<void> abandon();

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

// Calls `each` for every entry of this one run in order, deletions included. kCorrupt (detail:
// block) when a block has no good copy. Reads ahead; repairs bad copies on healthy disks unless the
// pool is read-only. Index and filter are not read.
using RunEntry = std::function<Result<void>(RunEntryKind kind, std::span<const std::byte> key,
                                            std::span<const std::byte> value)>;
Task<Result<RunReadReport>> read_run(Pool& pool, RunRef run, RunEntry each);

// Reads every copy of the piece of the run at byte `at` (a multiple of kRunPieceBytes, within the
// run) in the background class and rewrites bad blocks from a good copy unless the pool is
// read-only. A disk that turns out to be gone is reported to the pool. Whoever asks keeps the run's
// slots from being given back meanwhile.
Task<ScrubCounts> scrub_run_piece(Pool& pool, RunRef run, std::uint64_t at);

// Writes a good block over a bad one, in the background class; the next commit flushes it. False if
// it did not succeed: the pool is read-only, or the disk is gone or failed (and is reported).
// `block` stays valid until completion.
Task<bool> rewrite_run_block(Pool& pool, RunCopy copy, std::uint64_t at,
                             std::span<const std::byte> block);

}  // namespace dynamicfs::journal
