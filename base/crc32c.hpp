// CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected, initial and final value ~0), as iSCSI,
// ext4 and btrfs use it. The SSE4.2 instruction where the processor has it, else a table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dynamicfs {

// `crc` continues an earlier result: crc32c(b, crc32c(a)) == crc32c(a + b).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);

// One checksum per 4 KiB block; `bytes` is a whole number of blocks, `out` has one entry each.
// Blocks are hashed three at a time, which hides the latency of the instruction.
void crc32c_blocks(std::span<const std::byte> bytes, std::span<std::uint32_t> out);

// Copies and hashes in one pass over the data. `to` is as large as `from`.
void copy_crc32c_blocks(std::span<std::byte> to, std::span<const std::byte> from,
                        std::span<std::uint32_t> out);

// "sse4.2" or "table", for `status`.
const char* crc32c_implementation();

namespace detail {
std::uint32_t crc32c_table(std::span<const std::byte> bytes, std::uint32_t crc);
}

}  // namespace dynamicfs
