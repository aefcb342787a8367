// The bytes of the log: batches of records.
//
//   batch   header (128 bytes), then one frame per record, then zeros up to a whole block
//   frame   checksum, length, LSN, payload, zeros up to a multiple of 8
//
// The header has a checksum of its own beside that of the frames, so that recovery can tell "this
// batch was begun" from "nothing was written here": a header of a later batch proves that the
// batches before it were once whole. It lies in one sector, which no disk tears.
//
// Format  man/format.md, "Journal".
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/uuid.hpp"
#include "journal/superblock.hpp"

namespace dynamicfs::journal {

inline constexpr std::size_t kRecordBytesMax = 128 * kKiB;
// A batch, header and padding included.
inline constexpr std::size_t kBatchBytesMax = 1 * kMiB;
// A larger one is not written beside the flush of its data. 4 bytes of a record name at most 4 KiB of
// data, so this bounds what a mount after a crash reads to check the last batch: 64 MiB of each copy.
inline constexpr std::size_t kBesideFlushBytesMax = 64 * kKiB;
inline constexpr std::size_t kBatchHeaderBytes = 128;
inline constexpr std::size_t kFrameHeaderBytes = 16;

struct BatchHeader {
  Uuid pool;
  Epoch epoch;
  std::uint64_t epoch_tag = 0;
  BatchSequence sequence;
  std::uint64_t offset = 0;         // where it lies, so that a misdirected write is noticed
  Lsn first;                        // of its records; 0 if it has none
  Lsn last;                         // of its records, or of the last record before it
  Lsn watermark;                    // every record up to this one was durable before it was written
  std::uint32_t previous_crc = 0;   // `crc` of the batch before
  std::uint32_t payload_bytes = 0;  // of all frames
  std::uint32_t payload_crc = 0;
  std::uint32_t records = 0;
  // Written beside the flush that its data waited for, not behind it: of the last batch of a log it
  // takes the data itself to tell whether that is there (recovery.hpp).
  bool beside_flush = false;
  std::uint32_t crc = 0;  // of the header, and so of everything; set by put_header()
  bool operator==(const BatchHeader&) const = default;

  std::uint64_t batch_bytes() const {
    return align_up(kBatchHeaderBytes + payload_bytes, kBlockBytes);
  }
};

constexpr std::size_t frame_bytes(std::size_t payload_bytes) {
  return align_up(kFrameHeaderBytes + payload_bytes, 8);
}
static_assert(kBatchHeaderBytes + frame_bytes(kRecordBytesMax) <= kBatchBytesMax,
              "the largest record must fit into a batch");

// The checksum that a frame carries.
std::uint32_t frame_crc(Lsn lsn, std::span<const std::byte> payload);
// Writes one frame of frame_bytes(payload.size()) bytes.
void put_frame(std::span<std::byte> at, Lsn lsn, std::uint32_t crc,
               std::span<const std::byte> payload);
// Writes the header into the first kBatchHeaderBytes of `batch`, and its checksum into `header`.
void put_header(std::span<std::byte> batch, BatchHeader& header);

// The header at the front of `bytes`, if one is there and whole; the frames may be damaged.
std::optional<BatchHeader> get_header(std::span<const std::byte> bytes);
// Whether the frames of `batch`, which starts with `header`, are whole.
bool payload_whole(const BatchHeader& header, std::span<const std::byte> batch);
// Calls `each` for every record of a whole batch. kFormatInvalid: the frames contradict the header.
Result<void> for_each_record(
    const BatchHeader& header, std::span<const std::byte> batch,
    const std::function<Result<void>(Lsn, std::span<const std::byte> payload)>& each);

// What the log must say at one place for the batch there to be the next one.
struct ExpectedBatch {
  Uuid pool;
  LogPosition position;  // `offset` is the place looked at
  const EpochRecord* epoch = nullptr;
};
bool is_expected(const BatchHeader& header, const ExpectedBatch& expected);
// Whether this header, found at `offset`, is a later batch of the log of `superblock` than `next`:
// then `next` was durable once, because one batch is in flight at a time.
bool proves(const BatchHeader& header, std::uint64_t offset, const Superblock& superblock,
            BatchSequence next);

}  // namespace dynamicfs::journal
