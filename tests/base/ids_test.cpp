#include "base/ids.hpp"

#include <doctest/doctest.h>

#include <type_traits>
#include <unordered_set>

using namespace dynamicfs;

static_assert(!std::is_convertible_v<std::uint64_t, InodeId>, "a number is not an id by itself");
static_assert(!std::is_convertible_v<InodeId, std::uint64_t>, "an id is not a number by itself");
static_assert(!std::is_constructible_v<Lsn, Generation>, "one id is not another");
static_assert(sizeof(DiskId) == 2 && sizeof(SlotId) == 4 && sizeof(Lsn) == 8,
              "an id is as large as what it stands for");

TEST_SUITE("ids") {
  TEST_CASE("an id starts as zero and compares by its number") {
    CHECK(InodeId{}.raw == 0);
    CHECK(Lsn{1} < Lsn{2});
    CHECK(Lsn{2} == Lsn{2});
    CHECK(Lsn{2} != Lsn{3});
  }

  TEST_CASE("ids are keys of hash tables") {
    const std::unordered_set<InodeId> set{InodeId{1}, InodeId{2}, InodeId{1}};
    CHECK(set.size() == 2);
    CHECK(set.contains(InodeId{2}));
    CHECK_FALSE(set.contains(InodeId{3}));
  }

  TEST_CASE("ids print as their number and take its format options") {
    CHECK(fmt::format("{}", InodeId{18446744073709551615u}) == "18446744073709551615");
    CHECK(fmt::format("{:04x}", DiskId{0xab}) == "00ab");
  }

  TEST_CASE("alignment goes down, up, and stays where it is") {
    CHECK(align_down(4095, 4096) == 0);
    CHECK(align_down(4096, 4096) == 4096);
    CHECK(align_up(0, 4096) == 0);
    CHECK(align_up(1, 4096) == 4096);
    CHECK(align_up(4096, 4096) == 4096);
    CHECK(align_up(10, 3) == 12);
    CHECK(ceil_div(0, 4096) == 0);
    CHECK(ceil_div(1, 4096) == 1);
    CHECK(ceil_div(4097, 4096) == 2);
  }
}
