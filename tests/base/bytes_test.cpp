#include "base/bytes.hpp"

#include <doctest/doctest.h>

#include "tests/base/dies.hpp"

using namespace dynamicfs;

namespace {

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes out;
  for (const int value : values) out.push_back(static_cast<std::byte>(value));
  return out;
}

}  // namespace

TEST_SUITE("bytes") {
  TEST_CASE("numbers and ids are written little-endian, one behind the other") {
    Bytes out;
    ByteWriter writer{out};
    writer.put(std::uint8_t{0x01});
    writer.put(std::uint16_t{0x0302});
    writer.put(std::int32_t{-2});
    writer.put(DiskId{0x0504});
    writer.put_sized<std::uint16_t>("ab");
    CHECK(out == bytes_of({1, 2, 3, 0xfe, 0xff, 0xff, 0xff, 4, 5, 2, 0, 'a', 'b'}));
    CHECK(writer.size() == 13);
  }

  TEST_CASE("what was written reads back, and then the input is at its end") {
    Bytes out;
    ByteWriter writer{out};
    writer.put(std::uint64_t{0x1122334455667788});
    writer.put(InodeId{42});
    writer.put(std::int16_t{-300});
    writer.put_sized<std::uint8_t>("name");
    writer.put_bytes(as_bytes("tail"));
    ByteReader reader{out};
    CHECK(reader.get<std::uint64_t>() == 0x1122334455667788);
    CHECK(reader.get<InodeId>() == InodeId{42});
    CHECK(reader.get<std::int16_t>() == -300);
    CHECK(reader.get_text<std::uint8_t>() == "name");
    CHECK(reader.left() == 4);
    CHECK(as_text(reader.get_bytes(4)) == "tail");
    CHECK(reader.ok());
    CHECK(reader.at_end());
  }

  TEST_CASE("a read past the end yields zero, and so does every read after it") {
    const Bytes three = bytes_of({1, 2, 3});
    ByteReader reader{three};
    CHECK(reader.get<std::uint32_t>() == 0);
    CHECK_FALSE(reader.ok());
    // Three bytes are left, but the reader stays failed.
    CHECK(reader.get<std::uint8_t>() == 0);
    CHECK(reader.get_bytes(1).empty());
    CHECK(reader.get<InodeId>() == InodeId{});
    CHECK_FALSE(reader.ok());
  }

  TEST_CASE("a read of exactly the rest is good, of one byte more is not") {
    const Bytes four = bytes_of({1, 0, 0, 0});
    ByteReader exact{four};
    CHECK(exact.get<std::uint32_t>() == 1);
    CHECK(exact.ok());
    CHECK(exact.get_bytes(0).empty());
    CHECK(exact.ok());
    CHECK(exact.get<std::uint8_t>() == 0);
    CHECK_FALSE(exact.ok());
    ByteReader empty{{}};
    CHECK(empty.ok());
    CHECK(empty.at_end());
    CHECK(empty.get<std::uint8_t>() == 0);
    CHECK_FALSE(empty.ok());
  }

  TEST_CASE("a length that promises more than there is fails, however large") {
    const Bytes short_by_one = bytes_of({3, 0, 'a', 'b'});
    ByteReader reader{short_by_one};
    CHECK(reader.get_text<std::uint16_t>().empty());
    CHECK_FALSE(reader.ok());
    const Bytes huge(16, std::byte{0xff});
    ByteReader wide{huge};
    CHECK(wide.get_sized<std::uint64_t>().empty());
    CHECK_FALSE(wide.ok());
    ByteReader negative{huge};
    CHECK(negative.get_sized<std::int8_t>().empty());
    CHECK_FALSE(negative.ok());
  }

  TEST_CASE("any byte is a bool, since it may come from a damaged disk") {
    const Bytes flags = bytes_of({0, 1, 2, 255});
    ByteReader reader{flags};
    CHECK(reader.get<bool>() == false);
    CHECK(reader.get<bool>() == true);
    CHECK(reader.get<bool>() == true);
    CHECK(reader.get<bool>() == true);
    CHECK(reader.ok());
  }

  TEST_CASE("a length that its field cannot hold is refused, not cut off") {
    const std::string text(256, 'x');
    CHECK(test::aborts([&] {
      Bytes out;
      ByteWriter{out}.put_sized<std::uint8_t>(std::string_view{text});
    }));
    Bytes out;
    ByteWriter{out}.put_sized<std::uint8_t>(std::string_view{text}.substr(1));
    CHECK(out.size() == 256);
    CHECK(out[0] == std::byte{255});
  }

  TEST_CASE("store and load need no alignment") {
    Bytes raw(16);
    store<std::uint64_t>(raw.data() + 3, 0x0102030405060708);
    CHECK(load<std::uint64_t>(raw.data() + 3) == 0x0102030405060708);
    CHECK(raw[3] == std::byte{8});
    CHECK(raw[10] == std::byte{1});
    CHECK(raw[11] == std::byte{0});
  }
}
