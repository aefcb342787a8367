// The filter and the index of a run, by themselves.

#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "journal/run_filter.hpp"
#include "journal/run_index.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::journal {
namespace {

double false_positives(const RunFilter& filter, std::uint64_t first, std::uint64_t count) {
  std::uint64_t found = 0;
  for (std::uint64_t i = 0; i < count; ++i) found += filter.may_have(first + i) ? 1 : 0;
  return static_cast<double>(found) / static_cast<double>(count);
}

}  // namespace

TEST_SUITE("run filter") {
  TEST_CASE("every hash that was added is found, of others less than five in a thousand") {
    for (const std::uint64_t count : {1u, 50u, 52u, 1000u, 100'000u}) {
      CAPTURE(count);
      // Neighbouring numbers: the filter has to mix them itself.
      std::vector<std::uint64_t> hashes;
      for (std::uint64_t i = 0; i < count; ++i) hashes.push_back(i);
      const RunFilter filter{hashes};
      for (const std::uint64_t hash : hashes) REQUIRE(filter.may_have(hash));
      CHECK(filter.bytes().size() == ceil_div(count * RunFilter::kBitsPerHash, 512) * 64);
      // One line may be fuller than the average of many.
      CHECK(false_positives(filter, count, 100'000) < (count >= 1000 ? 0.005 : 0.02));
    }
  }

  TEST_CASE("random hashes") {
    const std::uint64_t seed = test::seed_from_environment(1);
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    std::vector<std::uint64_t> hashes(20'000);
    for (std::uint64_t& hash : hashes) hash = random();
    const RunFilter filter{hashes};
    for (const std::uint64_t hash : hashes) REQUIRE(filter.may_have(hash));
    std::uint64_t found = 0;
    for (int i = 0; i < 100'000; ++i) found += filter.may_have(random()) ? 1 : 0;
    CHECK(found < 2000);
  }

  TEST_CASE("an empty filter has nothing") {
    CHECK_FALSE(RunFilter{}.may_have(0));
    CHECK_FALSE(RunFilter{std::span<const std::uint64_t>{}}.may_have(7));
    CHECK(RunFilter{}.bytes().empty());
  }

  TEST_CASE("a filter is the same when it is read in parts") {
    const std::vector<std::uint64_t> hashes{5, 6, 7, 1000, 2000};
    std::vector<std::uint64_t> many = hashes;
    for (std::uint64_t i = 0; i < 500; ++i) many.push_back(i * 3);
    const RunFilter written{many};
    RunFilter read;
    read.append(written.bytes().first(128));
    read.append({});
    read.append(written.bytes().subspan(128));
    CHECK(std::ranges::equal(read.bytes(), written.bytes()));
    for (const std::uint64_t hash : many) CHECK(read.may_have(hash));
  }
}

TEST_SUITE("run index") {
  TEST_CASE("a key is in the last block that does not begin behind it") {
    RunIndex index;
    for (const char* separator : {"", "b", "bb", "d"}) index.add(as_bytes(separator));
    const auto block_of = [&index](std::string_view key) { return index.block_of(as_bytes(key)); };
    CHECK(block_of("") == 0);
    CHECK(block_of("az") == 0);
    CHECK(block_of("b") == 1);
    CHECK(block_of("ba") == 1);
    CHECK(block_of("bb") == 2);
    CHECK(block_of("c") == 2);
    CHECK(block_of("z") == 3);
    const auto end_of = [&index](std::string_view key) { return index.end_of(as_bytes(key)); };
    CHECK(end_of("") == 0);
    CHECK(end_of("a") == 1);
    CHECK(end_of("b") == 1);
    CHECK(end_of(std::string_view{"b\0", 2}) == 2);
    CHECK(end_of("d") == 3);
    CHECK(end_of("z") == 4);
    CHECK(RunIndex{}.block_of(as_bytes("a")) == 0);
    CHECK(RunIndex{}.end_of(as_bytes("a")) == 0);
  }
}

}  // namespace dynamicfs::journal
