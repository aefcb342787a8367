#include "base/uuid.hpp"

#include <doctest/doctest.h>

using namespace dynamicfs;

TEST_SUITE("uuid") {
  TEST_CASE("random bits make a version 4 UUID of variant 1, and keep the other 122 bits") {
    const Uuid ones = Uuid::from_random(~std::uint64_t{0}, ~std::uint64_t{0});
    CHECK(ones.text() == "ffffffff-ffff-4fff-bfff-ffffffffffff");
    const Uuid zeros = Uuid::from_random(0, 0);
    CHECK(zeros.text() == "00000000-0000-4000-8000-000000000000");
    CHECK_FALSE(zeros.is_zero());
    CHECK(Uuid{}.is_zero());
  }

  TEST_CASE("text parses back, in either case") {
    const char* const text = "01234567-89ab-cdef-0123-456789abcdef";
    const auto uuid = Uuid::parse(text);
    REQUIRE(uuid.has_value());
    CHECK(uuid->text() == text);
    CHECK(uuid->bytes[0] == 0x01);
    CHECK(uuid->bytes[15] == 0xef);
    CHECK(Uuid::parse("01234567-89AB-CDEF-0123-456789ABCDEF") == uuid);
  }

  TEST_CASE("anything else is refused") {
    for (const char* const text :
         {"", "01234567-89ab-cdef-0123-456789abcde", "01234567-89ab-cdef-0123-456789abcdef0",
          "0123456789abcdef0123456789abcdef", "01234567+89ab-cdef-0123-456789abcdef",
          "g1234567-89ab-cdef-0123-456789abcdef", "0123456-789ab-cdef-0123-456789abcdef",
          "{1234567-89ab-cdef-0123-456789abcde}", "01234567-89ab-cdef-0123-456789abcde-"}) {
      CAPTURE(text);
      CHECK_FALSE(Uuid::parse(text).has_value());
    }
  }
}
