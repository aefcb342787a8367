#include "base/crc32c.hpp"

#include <array>
#include <cstring>

#include "base/assert.hpp"
#include "base/ids.hpp"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace dynamicfs {
namespace {

constexpr std::uint32_t kPolynomialReflected = 0x82f63b78;

// Slicing-by-8 (Kounavis and Berry, "A Systematic Approach to Building High Performance
// Software-based CRC Generators"): tables[k][b] is the CRC of byte b followed by k zero bytes.
constexpr auto make_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit)
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomialReflected : 0);
    tables[0][b] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      const std::uint32_t before = tables[k - 1][b];
      tables[k][b] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}
constexpr auto kTables = make_tables();

#if defined(__x86_64__)

bool has_sse42() {
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
}

std::uint64_t word(const std::byte* at) {
  std::uint64_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_sse42(std::span<const std::byte> bytes,
                                                             std::uint32_t crc) {
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t state = ~crc;
  for (; left >= 8; left -= 8, at += 8) state = _mm_crc32_u64(state, word(at));
  auto narrow = static_cast<std::uint32_t>(state);
  for (; left > 0; --left, ++at) narrow = _mm_crc32_u8(narrow, static_cast<std::uint8_t>(*at));
  return ~narrow;
}

// The instruction takes three cycles and one may start every cycle, so three independent blocks
// cost as much as one.
__attribute__((target("sse4.2"))) void crc32c_three_blocks(const std::byte* at,
                                                           std::uint32_t* out) {
  std::uint64_t a = 0xffffffff;
  std::uint64_t b = 0xffffffff;
  std::uint64_t c = 0xffffffff;
  for (std::size_t i = 0; i < kBlockBytes; i += 8) {
    a = _mm_crc32_u64(a, word(at + i));
    b = _mm_crc32_u64(b, word(at + kBlockBytes + i));
    c = _mm_crc32_u64(c, word(at + 2 * kBlockBytes + i));
  }
  out[0] = ~static_cast<std::uint32_t>(a);
  out[1] = ~static_cast<std::uint32_t>(b);
  out[2] = ~static_cast<std::uint32_t>(c);
}

#endif

}  // namespace

namespace detail {

std::uint32_t crc32c_table(std::span<const std::byte> bytes, std::uint32_t crc) {
  crc = ~crc;
  const auto* at = reinterpret_cast<const std::uint8_t*>(bytes.data());
  std::size_t left = bytes.size();
  for (; left >= 8; left -= 8, at += 8) {
    crc = kTables[7][(crc ^ at[0]) & 0xff] ^ kTables[6][((crc >> 8) ^ at[1]) & 0xff] ^
          kTables[5][((crc >> 16) ^ at[2]) & 0xff] ^ kTables[4][(crc >> 24) ^ at[3]] ^
          kTables[3][at[4]] ^ kTables[2][at[5]] ^ kTables[1][at[6]] ^ kTables[0][at[7]];
  }
  for (; left > 0; --left, ++at) crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xff];
  return ~crc;
}

}  // namespace detail

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc) {
#if defined(__x86_64__)
  if (has_sse42()) return crc32c_sse42(bytes, crc);
#endif
  return detail::crc32c_table(bytes, crc);
}

void crc32c_blocks(std::span<const std::byte> bytes, std::span<std::uint32_t> out) {
  DFS_ASSERT(bytes.size() == out.size() * kBlockBytes);
  std::size_t block = 0;
#if defined(__x86_64__)
  if (has_sse42()) {
    for (; block + 3 <= out.size(); block += 3) {
      crc32c_three_blocks(bytes.data() + block * kBlockBytes, out.data() + block);
    }
  }
#endif
  for (; block < out.size(); ++block) {
    out[block] = crc32c(bytes.subspan(block * kBlockBytes, kBlockBytes));
  }
}

void copy_crc32c_blocks(std::span<std::byte> to, std::span<const std::byte> from,
                        std::span<std::uint32_t> out) {
  DFS_ASSERT(to.size() == from.size());
  DFS_ASSERT(from.size() == out.size() * kBlockBytes);
  // In steps that stay in the first-level cache, so that the data comes from memory once.
  constexpr std::size_t kStepBlocks = 3;
  for (std::size_t block = 0; block < out.size(); block += kStepBlocks) {
    const std::size_t count = out.size() - block < kStepBlocks ? out.size() - block : kStepBlocks;
    const std::size_t at = block * kBlockBytes;
    std::memcpy(to.data() + at, from.data() + at, count * kBlockBytes);
    crc32c_blocks(to.subspan(at, count * kBlockBytes), out.subspan(block, count));
  }
}

const char* crc32c_implementation() {
#if defined(__x86_64__)
  if (has_sse42()) return "sse4.2";
#endif
  return "table";
}

}  // namespace dynamicfs
