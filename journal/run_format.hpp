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
inline constexpr std::size_t kRunEntryHeaderBytes = 4;
static_assert(kRunBlockHeaderBytes + kRunEntryHeaderBytes + kRunEntryBytesMax <= kRunBlockBytes,
              "the largest entry must fit into a block");
// The unit of reading and writing.
inline constexpr std::uint64_t kRunPieceBytes = 1 * kMiB;
static_assert(kSlotBytes % kRunPieceBytes == 0, "a piece must not straddle slots");

// What a block holds. Later versions add an index and a filter behind the entries.
enum class RunBlockKind : std::uint8_t { kEntries = 1 };

struct RunBlockHeader {
  Uuid pool;
  std::uint64_t run_id = 0;
  std::uint64_t index = 0;  // of this block in the run, so that a misplaced one is noticed
  std::uint32_t payload_bytes = 0;
  std::uint32_t entries = 0;
  RunBlockKind kind = RunBlockKind::kEntries;
  bool last = false;  // the run ends here
};

// Completes a block whose entries stand behind the header already: zeros the rest, writes the
// header.
void seal_run_block(std::span<std::byte> block, const RunBlockHeader& header);
// kChecksum: damaged, or not the block that was asked for.
Result<RunBlockHeader> open_run_block(std::span<const std::byte> block, Uuid pool,
                                      std::uint64_t run_id, std::uint64_t index);

constexpr std::size_t run_entry_bytes(std::size_t key_bytes, std::size_t value_bytes) {
  return kRunEntryHeaderBytes + key_bytes + value_bytes;
}
void put_run_entry(std::span<std::byte> at, std::span<const std::byte> key,
                   std::span<const std::byte> value);
// Calls `each` for the entries of an opened block. kFormatInvalid: they contradict the header.
Result<void> for_each_run_entry(std::span<const std::byte> block, const RunBlockHeader& header,
                                const RunEntry& each);

// Where byte `at` of the run lies on a copy's disk.
std::uint64_t run_offset(const Pool& pool, const RunCopy& copy, std::uint64_t at);

}  // namespace dynamicfs::journal
