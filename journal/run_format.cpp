#include "journal/run_format.hpp"

#include <algorithm>
#include <cstring>

#include "base/crc32c.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::size_t kCrcBytes = 4;
// In the place of the size of a value.
constexpr std::uint16_t kDeletionMark = 0xffff;
constexpr std::uint16_t kPrefixDeletionMark = 0xfffe;
static_assert(kRunEntryBytesMax < kPrefixDeletionMark, "no value has the size of a mark");
static_assert(4 + 4 + 8 + 8 + 16 + 4 + 1 + 1 + 18 == kRunBlockHeaderBytes);

}  // namespace

std::strong_ordering key_order(std::span<const std::byte> a, std::span<const std::byte> b) {
  const std::size_t common = std::min(a.size(), b.size());
  const int order = common == 0 ? 0 : std::memcmp(a.data(), b.data(), common);
  return order == 0 ? a.size() <=> b.size() : order <=> 0;
}

void seal_run_block(std::span<std::byte> block, const RunBlockHeader& header) {
  DFS_ASSERT(block.size() == kRunBlockBytes);
  const std::size_t end = kRunBlockHeaderBytes + header.payload_bytes;
  std::memset(block.data() + end, 0, block.size() - end);
  Bytes bytes;
  bytes.reserve(kRunBlockHeaderBytes);
  ByteWriter out{bytes};
  out.put(std::uint32_t{0});
  out.put(header.payload_bytes);
  out.put(header.run_id);
  out.put(header.index);
  out.put_bytes(header.pool.span());
  out.put(header.entries);
  out.put(static_cast<std::uint8_t>(header.kind));
  out.put(static_cast<std::uint8_t>(header.last ? 1 : 0));
  bytes.resize(kRunBlockHeaderBytes);
  std::memcpy(block.data(), bytes.data(), bytes.size());
  store(block.data(), crc32c(block.subspan(kCrcBytes)));
}

Result<RunBlockHeader> open_run_block(std::span<const std::byte> block, Uuid pool,
                                      std::uint64_t run_id, std::uint64_t index) {
  DFS_ASSERT(block.size() == kRunBlockBytes);
  ByteReader in{block};
  if (in.get<std::uint32_t>() != crc32c(block.subspan(kCrcBytes)))
    return error(Code::kChecksum, index);
  RunBlockHeader header;
  header.payload_bytes = in.get<std::uint32_t>();
  header.run_id = in.get<std::uint64_t>();
  header.index = in.get<std::uint64_t>();
  const auto uuid = in.get_bytes(header.pool.bytes.size());
  std::memcpy(header.pool.bytes.data(), uuid.data(), uuid.size());
  header.entries = in.get<std::uint32_t>();
  header.kind = static_cast<RunBlockKind>(in.get<std::uint8_t>());
  const auto last = in.get<std::uint8_t>();
  header.last = last == 1;
  // A good checksum over another block: written to the wrong place, or left by an older run.
  if (header.pool != pool || header.run_id != run_id || header.index != index) {
    return error(Code::kChecksum, index);
  }
  if (header.payload_bytes > kRunPayloadBytesMax || last > 1 ||
      header.kind < RunBlockKind::kEntries || header.kind > RunBlockKind::kFilter) {
    return error(Code::kFormatInvalid, index);
  }
  return header;
}

Result<RunBlockHeader> open_run_block(std::span<const std::byte> block, Uuid pool,
                                      const RunRef& run, std::uint64_t index) {
  const RunBlockHeader header = TRY(open_run_block(block, pool, run.id, index));
  const RunBlockKind kind = index < run.entry_blocks                      ? RunBlockKind::kEntries
                            : index < run.entry_blocks + run.index_blocks ? RunBlockKind::kIndex
                                                                          : RunBlockKind::kFilter;
  if (header.kind != kind || header.last != (index + 1 == run.blocks())) {
    return error(Code::kFormatInvalid, index);
  }
  if (kind != RunBlockKind::kFilter) {
    RunEntries entries{block.subspan(kRunBlockHeaderBytes, header.payload_bytes), header.entries};
    while (entries.next()) {
    }
    if (!entries.ok()) return error(Code::kFormatInvalid, index);
  }
  return header;
}

void put_run_entry(std::span<std::byte> at, RunEntryKind kind, std::span<const std::byte> key,
                   std::span<const std::byte> value) {
  DFS_ASSERT(kind == RunEntryKind::kValue || value.empty());
  const auto value_bytes = kind == RunEntryKind::kDeletion         ? kDeletionMark
                           : kind == RunEntryKind::kPrefixDeletion ? kPrefixDeletionMark
                                                                   : value.size();
  store(at.data(), static_cast<std::uint16_t>(key.size()));
  store(at.data() + 2, static_cast<std::uint16_t>(value_bytes));
  if (!key.empty()) std::memcpy(at.data() + kRunEntryHeaderBytes, key.data(), key.size());
  if (!value.empty()) {
    std::memcpy(at.data() + kRunEntryHeaderBytes + key.size(), value.data(), value.size());
  }
}

bool RunEntries::next() {
  if (left_ == 0) return false;
  const auto key_bytes = in_.get<std::uint16_t>();
  const auto value_bytes = in_.get<std::uint16_t>();
  kind_ = value_bytes == kDeletionMark         ? RunEntryKind::kDeletion
          : value_bytes == kPrefixDeletionMark ? RunEntryKind::kPrefixDeletion
                                               : RunEntryKind::kValue;
  key_ = in_.get_bytes(key_bytes);
  value_ = in_.get_bytes(kind_ == RunEntryKind::kValue ? value_bytes : 0);
  if (!in_.ok()) return false;
  --left_;
  return true;
}

std::uint64_t run_offset(const Pool& pool, const RunCopy& copy, std::uint64_t at) {
  return pool.slot_offset(copy.disk, copy.slots[at / kSlotBytes]) + at % kSlotBytes;
}

}  // namespace dynamicfs::journal
