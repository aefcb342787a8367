#include "journal/run_format.hpp"

#include <algorithm>
#include <cstring>

#include "base/crc32c.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::size_t kCrcBytes = 4;
static_assert(4 + 4 + 8 + 8 + 16 + 4 + 1 + 1 + 18 == kRunBlockHeaderBytes);

}  // namespace

bool key_less(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::ranges::lexicographical_compare(a, b);
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
  if (header.payload_bytes > kRunBlockBytes - kRunBlockHeaderBytes || last > 1 ||
      header.kind != RunBlockKind::kEntries) {
    return error(Code::kFormatInvalid, index);
  }
  return header;
}

void put_run_entry(std::span<std::byte> at, std::span<const std::byte> key,
                   std::span<const std::byte> value) {
  store(at.data(), static_cast<std::uint16_t>(key.size()));
  store(at.data() + 2, static_cast<std::uint16_t>(value.size()));
  if (!key.empty()) std::memcpy(at.data() + kRunEntryHeaderBytes, key.data(), key.size());
  if (!value.empty()) {
    std::memcpy(at.data() + kRunEntryHeaderBytes + key.size(), value.data(), value.size());
  }
}

Result<void> for_each_run_entry(std::span<const std::byte> block, const RunBlockHeader& header,
                                const RunEntry& each) {
  ByteReader in{block.subspan(kRunBlockHeaderBytes, header.payload_bytes)};
  for (std::uint32_t i = 0; i < header.entries; ++i) {
    const auto key_bytes = in.get<std::uint16_t>();
    const auto value_bytes = in.get<std::uint16_t>();
    const auto key = in.get_bytes(key_bytes);
    const auto value = in.get_bytes(value_bytes);
    if (!in.ok()) return error(Code::kFormatInvalid, header.index);
    TRY(each(key, value));
  }
  if (!in.at_end()) return error(Code::kFormatInvalid, header.index);
  return {};
}

std::uint64_t run_offset(const Pool& pool, const RunCopy& copy, std::uint64_t at) {
  return pool.slot_offset(copy.disk, copy.slots[at / kSlotBytes]) + at % kSlotBytes;
}

}  // namespace dynamicfs::journal
