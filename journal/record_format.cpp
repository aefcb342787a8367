#include "journal/record_format.hpp"

#include <cstring>

#include "base/assert.hpp"
#include "base/crc32c.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::string_view kBatchMagic{"dynfslog"};
// The header's checksum covers what follows it.
constexpr std::size_t kBatchCrcOffset = 8;
constexpr std::size_t kBatchCrcCoversFrom = kBatchCrcOffset + 4;
// The only flag there is.
constexpr std::uint32_t kBesideFlush = 1;

// The rows of man/format.md, "Journal".
static_assert(8 + 4 + 4 + 16 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 4 + 4 + 4 + 4 + 24 == kBatchHeaderBytes);
static_assert(4 + 4 + 8 == kFrameHeaderBytes);

}  // namespace

std::uint32_t frame_crc(Lsn lsn, std::span<const std::byte> payload) {
  std::byte head[kFrameHeaderBytes - 4];
  store(head, static_cast<std::uint32_t>(payload.size()));
  store(head + 4, lsn.raw);
  return crc32c(payload, crc32c(head));
}

void put_frame(std::span<std::byte> at, Lsn lsn, std::uint32_t crc,
               std::span<const std::byte> payload) {
  DFS_ASSERT(at.size() == frame_bytes(payload.size()));
  store(at.data(), crc);
  store(at.data() + 4, static_cast<std::uint32_t>(payload.size()));
  store(at.data() + 8, lsn.raw);
  std::memcpy(at.data() + kFrameHeaderBytes, payload.data(), payload.size());
  const std::size_t end = kFrameHeaderBytes + payload.size();
  std::memset(at.data() + end, 0, at.size() - end);
}

void put_header(std::span<std::byte> batch, BatchHeader& header) {
  DFS_ASSERT(batch.size() >= kBatchHeaderBytes);
  Bytes bytes;
  bytes.reserve(kBatchHeaderBytes);
  ByteWriter out{bytes};
  out.put_bytes(as_bytes(kBatchMagic));
  out.put(std::uint32_t{0});
  out.put(header.payload_crc);
  out.put_bytes(header.pool.span());
  out.put(header.epoch);
  out.put(header.epoch_tag);
  out.put(header.sequence);
  out.put(header.offset);
  out.put(header.first);
  out.put(header.last);
  out.put(header.watermark);
  out.put(header.previous_crc);
  out.put(header.payload_bytes);
  out.put(header.records);
  out.put(header.beside_flush ? kBesideFlush : std::uint32_t{0});
  bytes.resize(kBatchHeaderBytes);
  header.crc = crc32c(std::span<const std::byte>{bytes}.subspan(kBatchCrcCoversFrom));
  store(bytes.data() + kBatchCrcOffset, header.crc);
  std::memcpy(batch.data(), bytes.data(), bytes.size());
}

std::optional<BatchHeader> get_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kBatchHeaderBytes || as_text(bytes.first(kBatchMagic.size())) != kBatchMagic) {
    return std::nullopt;
  }
  const auto covered = bytes.first(kBatchHeaderBytes).subspan(kBatchCrcCoversFrom);
  BatchHeader header;
  header.crc = load<std::uint32_t>(bytes.data() + kBatchCrcOffset);
  if (crc32c(covered) != header.crc) return std::nullopt;
  ByteReader in{covered};
  header.payload_crc = in.get<std::uint32_t>();
  const auto pool = in.get_bytes(header.pool.bytes.size());
  std::memcpy(header.pool.bytes.data(), pool.data(), pool.size());
  header.epoch = in.get<Epoch>();
  header.epoch_tag = in.get<std::uint64_t>();
  header.sequence = in.get<BatchSequence>();
  header.offset = in.get<std::uint64_t>();
  header.first = in.get<Lsn>();
  header.last = in.get<Lsn>();
  header.watermark = in.get<Lsn>();
  header.previous_crc = in.get<std::uint32_t>();
  header.payload_bytes = in.get<std::uint32_t>();
  header.records = in.get<std::uint32_t>();
  const auto flags = in.get<std::uint32_t>();
  if ((flags & ~kBesideFlush) != 0) return std::nullopt;
  header.beside_flush = flags != 0;
  // Reserved bytes are zero; a length beyond the largest batch would lead out of the buffer.
  for (const std::byte b : in.get_bytes(in.left())) {
    if (b != std::byte{0}) return std::nullopt;
  }
  if (header.payload_bytes > kBatchBytesMax - kBatchHeaderBytes) return std::nullopt;
  return header;
}

bool payload_whole(const BatchHeader& header, std::span<const std::byte> batch) {
  if (batch.size() < kBatchHeaderBytes + header.payload_bytes) return false;
  return crc32c(batch.subspan(kBatchHeaderBytes, header.payload_bytes)) == header.payload_crc;
}

Result<void> for_each_record(
    const BatchHeader& header, std::span<const std::byte> batch,
    const std::function<Result<void>(Lsn, std::span<const std::byte> payload)>& each) {
  ByteReader in{batch.subspan(kBatchHeaderBytes, header.payload_bytes)};
  Lsn lsn = header.first;
  for (std::uint32_t i = 0; i < header.records; ++i, ++lsn.raw) {
    const auto crc = in.get<std::uint32_t>();
    const auto size = in.get<std::uint32_t>();
    const bool lsn_right = in.get<Lsn>() == lsn;
    if (size == 0 || size > kRecordBytesMax) return error(Code::kFormatInvalid, lsn.raw);
    const auto payload = in.get_bytes(size);
    in.get_bytes(frame_bytes(size) - kFrameHeaderBytes - size);
    if (!in.ok() || !lsn_right || frame_crc(lsn, payload) != crc) {
      return error(Code::kFormatInvalid, lsn.raw);
    }
    TRY(each(lsn, payload));
  }
  if (!in.at_end()) return error(Code::kFormatInvalid, header.last.raw);
  return {};
}

bool is_expected(const BatchHeader& header, const ExpectedBatch& expected) {
  return header.pool == expected.pool && expected.epoch != nullptr &&
         header.epoch == expected.epoch->number && header.epoch_tag == expected.epoch->tag &&
         header.sequence == expected.position.sequence &&
         header.offset == expected.position.offset &&
         header.previous_crc == expected.position.previous_crc;
}

bool proves(const BatchHeader& header, std::uint64_t offset, const Superblock& superblock,
            BatchSequence next) {
  const EpochRecord* const epoch = superblock.epoch_of(header.sequence);
  return header.pool == superblock.pool && header.offset == offset && header.sequence > next &&
         epoch != nullptr && header.epoch == epoch->number && header.epoch_tag == epoch->tag;
}

}  // namespace dynamicfs::journal
