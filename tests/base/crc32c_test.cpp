#include "base/crc32c.hpp"

#include <doctest/doctest.h>

#include <numeric>
#include <random>
#include <vector>

#include "base/bytes.hpp"
#include "tests/base/dies.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;

namespace {

Bytes random_bytes(std::mt19937_64& random, std::size_t size) {
  Bytes out(size);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

// The definition, bit by bit: the model for everything faster.
std::uint32_t crc32c_by_definition(std::span<const std::byte> bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
  }
  return ~crc;
}

}  // namespace

TEST_SUITE("crc32c") {
  TEST_CASE("the vectors of RFC 3720, B.4, and the check value of the catalogue") {
    for (const auto crc : {crc32c, detail::crc32c_table}) {
      CHECK(crc({}, 0) == 0);
      CHECK(crc(as_bytes("123456789"), 0) == 0xe3069283);
      CHECK(crc(Bytes(32, std::byte{0x00}), 0) == 0x8a9136aa);
      CHECK(crc(Bytes(32, std::byte{0xff}), 0) == 0x62a8ab43);
      Bytes rising(32);
      for (std::size_t i = 0; i < 32; ++i) rising[i] = static_cast<std::byte>(i);
      CHECK(crc(rising, 0) == 0x46dd794e);
      const Bytes falling(rising.rbegin(), rising.rend());
      CHECK(crc(falling, 0) == 0x113fdb5c);
    }
  }

  TEST_CASE("instruction, table and definition agree on every length and alignment") {
    const std::uint64_t seed = test::seed_from_environment(1);
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    const Bytes data = random_bytes(random, 300);
    for (std::size_t start = 0; start < 9; ++start) {
      for (std::size_t size = 0; size + start <= data.size(); size += 1 + random() % 5) {
        const auto part = std::span{data}.subspan(start, size);
        const std::uint32_t expected = crc32c_by_definition(part);
        REQUIRE(crc32c(part) == expected);
        REQUIRE(detail::crc32c_table(part, 0) == expected);
      }
    }
  }

  TEST_CASE("a checksum continues where an earlier one ended") {
    const std::uint64_t seed = test::seed_from_environment(2);
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    const Bytes data = random_bytes(random, 1000);
    const std::span<const std::byte> all{data};
    for (int repeat = 0; repeat < 200; ++repeat) {
      const std::size_t cut = random() % (data.size() + 1);
      REQUIRE(crc32c(all.subspan(cut), crc32c(all.first(cut))) == crc32c(all));
      REQUIRE(detail::crc32c_table(all.subspan(cut), detail::crc32c_table(all.first(cut), 0)) ==
              crc32c(all));
    }
  }

  TEST_CASE("the checksums of 0 to 16 blocks are those of each block, copied or not") {
    const std::uint64_t seed = test::seed_from_environment(3);
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    for (std::size_t count = 0; count <= 16; ++count) {
      CAPTURE(count);
      const Bytes data = random_bytes(random, count * kBlockBytes);
      std::vector<std::uint32_t> expected;
      for (std::size_t i = 0; i < count; ++i) {
        expected.push_back(crc32c(std::span{data}.subspan(i * kBlockBytes, kBlockBytes)));
      }
      std::vector<std::uint32_t> hashed(count);
      crc32c_blocks(data, hashed);
      CHECK(hashed == expected);
      Bytes copy(data.size());
      std::vector<std::uint32_t> hashed_copy(count);
      copy_crc32c_blocks(copy, data, hashed_copy);
      CHECK(hashed_copy == expected);
      CHECK(copy == data);
    }
  }

  TEST_CASE("a number of checksums that does not fit the blocks is our own mistake") {
    Bytes two(2 * kBlockBytes);
    Bytes copy(2 * kBlockBytes);
    for (const std::size_t count : {1, 3}) {
      CAPTURE(count);
      std::vector<std::uint32_t> out(count);
      CHECK(test::aborts([&] { crc32c_blocks(two, out); }));
      CHECK(test::aborts([&] { copy_crc32c_blocks(copy, two, out); }));
    }
  }
}
