// The bytes of a sorted run: a stream of blocks of 32 KiB, each with a header and a checksum, over
// the slots of each copy in order.
//
// Format  man/format.md, "Runs".
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "base/uuid.hpp"
#include "journal/run.hpp"

namespace dynamicfs::journal {

inline constexpr std::size_t kRunBlockHeaderBytes = 64;
inline constexpr std::size_t kRunPayloadBytesMax = kRunBlockBytes - kRunBlockHeaderBytes;
inline constexpr std::size_t kRunEntryHeaderBytes = 4;
static_assert(kRunEntryHeaderBytes + kRunEntryBytesMax <= kRunPayloadBytesMax,
              "the largest entry must fit into a block");
static_assert(2 * kRunEntryHeaderBytes + kRunPrefixBytesMax + kRunEntryBytesMax <=
                  kRunPayloadBytesMax,
              "a prefix deletion shares a block with any entry of its key");
// The unit of writing, and of reading ahead.
inline constexpr std::uint64_t kRunPieceBytes = 1 * kMiB;
static_assert(kSlotBytes % kRunPieceBytes == 0, "a piece must not straddle slots");

// What a block holds: entries of the run; entries whose keys separate the blocks of entries, one
// for each; a part of the filter.
enum class RunBlockKind : std::uint8_t { kEntries = 1, kIndex = 2, kFilter = 3 };

struct RunBlockHeader {
  Uuid pool;
  std::uint64_t run_id = 0;
  std::uint64_t index = 0;  // of this block in the run, so that a misplaced one is noticed
  std::uint32_t payload_bytes = 0;
  std::uint32_t entries = 0;  // 0 in a block of the filter
  RunBlockKind kind = RunBlockKind::kEntries;
  bool last = false;  // the run ends here
};

// Completes a block whose payload stands behind the header already: zeros the rest, writes the
// header.
void seal_run_block(std::span<std::byte> block, const RunBlockHeader& header);
// kChecksum: damaged, or not the block that was asked for.
Result<RunBlockHeader> open_run_block(std::span<const std::byte> block, Uuid pool,
                                      std::uint64_t run_id, std::uint64_t index);
// The same, and the block is what belongs in this place of this run, with entries that can be
// walked: else kFormatInvalid (detail: block).
Result<RunBlockHeader> open_run_block(std::span<const std::byte> block, Uuid pool,
                                      const RunRef& run, std::uint64_t index);

// Bytes of an entry. Only a kValue has a value.
constexpr std::size_t run_entry_bytes(std::size_t key_bytes, std::size_t value_bytes) {
  return kRunEntryHeaderBytes + key_bytes + value_bytes;
}
void put_run_entry(std::span<std::byte> at, RunEntryKind kind, std::span<const std::byte> key,
                   std::span<const std::byte> value);

// Walks the entries of a block, front to back. What it shows borrows from the block.
class RunEntries {
 public:
  RunEntries() = default;
  RunEntries(std::span<const std::byte> payload, std::uint32_t entries)
      : in_(payload), left_(entries) {}

  // Takes the next entry; false at the end, or where ok() is not true any more.
  bool next();
  RunEntryKind kind() const { return kind_; }
  std::span<const std::byte> key() const { return key_; }
  std::span<const std::byte> value() const { return value_; }
  // What was taken lies within the payload; at the end: and fills it.
  bool ok() const { return in_.ok() && (left_ != 0 || in_.at_end()); }

 private:
  ByteReader in_{{}};
  std::uint32_t left_ = 0;
  RunEntryKind kind_ = RunEntryKind::kValue;
  std::span<const std::byte> key_;
  std::span<const std::byte> value_;
};

// Where byte `at` of the run lies on a copy's disk.
std::uint64_t run_offset(const Pool& pool, const RunCopy& copy, std::uint64_t at);

}  // namespace dynamicfs::journal
