#include "extent/extent_format.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

namespace {

template <class Change>
Bytes encoded(const Change& change) {
  Bytes out;
  ByteWriter writer(out);
  encode(writer, change);
  return out;
}
template <>
Bytes encoded(const ExtentPut& put) {
  Bytes out;
  ByteWriter writer(out);
  encode(writer, put.inode, put.first, put.pieces, put.crcs);
  return out;
}

// Checks the frame, returns the body.
std::span<const std::byte> body(const Bytes& change, ChangeType type) {
  ByteReader reader(change);
  REQUIRE(reader.get<std::uint8_t>() == static_cast<std::uint8_t>(type));
  const auto bytes = reader.get_sized<std::uint32_t>();
  REQUIRE(reader.ok());
  REQUIRE(reader.at_end());
  return bytes;
}

const ExtentPut kPut{.inode = InodeId{0x1122334455667788},
                     .first = FileBlock{1000},
                     .pieces = {{.chunk = ChunkId{9}, .block = 1020, .count = 4},
                                {.chunk = ChunkId{10}, .block = 0, .count = 2}},
                     .crcs = {1, 2, 3, 4, 5, 0xfffffffe}};
const ChunkPut kChunk{
    .chunk = ChunkId{77},
    .layout = {.copies_or_data = 2},
    .places = {{.disk = DiskId{0}, .slot = SlotId{5}}, {.disk = DiskId{3}, .slot = SlotId{9000}}}};

ChunkState state_with(const BlockBitmap& live) {
  return {.put = kChunk, .live = live, .shared = {}};
}
BlockBitmap bits(std::uint32_t first, std::uint32_t count) {
  BlockBitmap live;
  live.set(first, count);
  return live;
}
const ChunkState kState = state_with(bits(60, 900));

// Every shorter and every slightly damaged body: refused, or a change that encodes to those bytes.
// `frame`: what encode() puts before the body.
template <class Decode>
void check_damage(std::span<const std::byte> good, Decode decode, std::ptrdiff_t frame = 5) {
  REQUIRE(decode(good).has_value());
  for (std::size_t length = 0; length < good.size(); ++length) {
    CHECK(decode(good.first(length)).error().code == Code::kFormatInvalid);
  }
  Bytes longer(good.begin(), good.end());
  longer.push_back(std::byte{0});
  CHECK(decode(longer).error().code == Code::kFormatInvalid);
  std::mt19937_64 random(test::seed_from_environment(3));
  for (int i = 0; i < 5000; ++i) {
    Bytes bad(good.begin(), good.end());
    for (std::uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
      bad[random() % bad.size()] ^= std::byte{static_cast<unsigned char>(1u << random() % 8)};
    }
    const auto result = decode(bad);
    if (!result.has_value()) continue;
    const Bytes again = encoded(result.value());
    CHECK(Bytes(again.begin() + frame, again.end()) == bad);
  }
}

// Lines of man/format.md under this heading, up to the next one.
std::vector<std::string> section(const std::string& heading) {
  std::ifstream page{DYNAMICFS_FORMAT_PAGE};
  REQUIRE(page.good());
  std::vector<std::string> lines;
  bool inside = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("#")) {
      inside = line == heading;
    } else if (inside) {
      lines.push_back(line);
    }
  }
  CAPTURE(heading);
  REQUIRE_FALSE(lines.empty());
  return lines;
}

}  // namespace

TEST_SUITE("extent format") {
  TEST_CASE("the tables of the format page add up to the sizes that the code writes") {
    const Bytes put = encoded(kPut);
    const Bytes chunk = encoded(kChunk);
    const std::map<std::string, std::size_t> tables{
        {"### Change header (5 bytes, then the body)", 5},
        {"### Chunk put (8 bytes, then the places)", chunk.size() - 5 - 2 * 6},
        {"### Place (6 bytes)", 6},
        {"### Chunk in a run (body of a chunk put, then the live blocks)",
         encoded(kState).size() - (chunk.size() - 5)},
        {"### Extent put and extent share (19 bytes, then pieces and checksums)",
         put.size() - 5 - 2 * 8 - 6 * 4},
        {"### Piece (8 bytes)", 8},
        {"### Shared blocks (2 bytes, then the runs of blocks)", 2},
        {"### Run of shared blocks (8 bytes)", sizeof(SharedRun)},
        {"### Extent clear and extent reserve (24 bytes)", encoded(ExtentClear{}).size() - 5},
        {"### Window (2 bytes, then extents and checksums)", 2},
        {"### Window extent (18 bytes)", 18},
    };
    for (const auto& [heading, size] : tables) {
      CAPTURE(heading);
      std::size_t end = 0;
      for (const std::string& line : section(heading)) {
        std::istringstream cells{line};
        char bar = 0;
        std::size_t offset = 0;
        std::size_t bytes = 0;
        if (!(cells >> bar >> offset >> bar >> bytes)) continue;
        CHECK(offset == end);
        end = offset + bytes;
      }
      CHECK(end == size);
    }
  }

  TEST_CASE("the example of the format page is the change that it says") {
    Bytes example;
    for (const std::string& line : section("### Example of a change")) {
      if (!line.starts_with("0000")) continue;
      std::istringstream in{line.substr(6)};
      for (unsigned value = 0; in >> std::hex >> value;)
        example.push_back(static_cast<std::byte>(value));
    }
    const ExtentPut put{.inode = InodeId{5},
                        .first = FileBlock{300},
                        .pieces = {{.chunk = ChunkId{7}, .block = 16, .count = 2}},
                        .crcs = {0xaabbccdd, 0x01020304}};
    CHECK(encoded(put) == example);
    CHECK(decode_extent_put(body(example, ChangeType::kExtentPut))->pieces == put.pieces);
  }

  TEST_CASE("a put comes back as it went") {
    const Bytes bytes = encoded(kPut);
    const auto back = decode_extent_put(body(bytes, ChangeType::kExtentPut));
    REQUIRE(back.has_value());
    CHECK(back->inode == kPut.inode);
    CHECK(back->first == kPut.first);
    CHECK(back->encoding == Encoding::kPlain);
    CHECK(back->pieces == kPut.pieces);
    CHECK(back->crcs == kPut.crcs);
  }

  TEST_CASE("a clear may reach to the end of the file") {
    for (const std::uint64_t count : {std::uint64_t{1}, std::uint64_t{12345}, ~std::uint64_t{0}}) {
      const ExtentClear clear{.inode = InodeId{4}, .first = FileBlock{5}, .count = count};
      const Bytes bytes = encoded(clear);
      const auto back = decode_extent_clear(body(bytes, ChangeType::kExtentClear));
      REQUIRE(back.has_value());
      CHECK(back->inode == clear.inode);
      CHECK(back->first == clear.first);
      CHECK(back->count == clear.count);
    }
  }

  TEST_CASE("a reserve, a chunk and its removal come back as they went") {
    const Bytes reserve =
        encoded(ExtentReserve{.inode = InodeId{4}, .first = FileBlock{0}, .count = 1 << 20});
    CHECK(decode_extent_reserve(body(reserve, ChangeType::kExtentReserve))->count == 1 << 20);
    const Bytes chunk = encoded(kChunk);
    CHECK(decode_chunk_put(body(chunk, ChangeType::kChunkPut)).value() == kChunk);
    ChunkPut whole_files = kChunk;
    whole_files.layout = {.whole_files = true};
    whole_files.places.resize(1);
    const Bytes of_whole_files = encoded(whole_files);
    CHECK(decode_chunk_put(body(of_whole_files, ChangeType::kChunkPut)).value() == whole_files);
    check_damage(body(of_whole_files, ChangeType::kChunkPut), decode_chunk_put);
    whole_files.layout.copies_or_data = 2;
    CHECK(decode_chunk_put(body(encoded(whole_files), ChangeType::kChunkPut)).error().code ==
          Code::kFormatInvalid);
    const Bytes remove = encoded(ChunkRemove{.chunk = ChunkId{77}});
    CHECK(decode_chunk_remove(body(remove, ChangeType::kChunkRemove))->chunk == ChunkId{77});
  }

  TEST_CASE("a chunk comes back from a run with its live blocks, in few bytes if all are alike") {
    const std::size_t put = encoded(kChunk).size() - 5;
    CHECK(encoded(state_with(bits(0, 0))).size() == put + 1);
    CHECK(encoded(state_with(bits(0, kSlotBlocks))).size() == put + 1);
    CHECK(encoded(kState).size() == put + 1 + 128);
    std::mt19937_64 random(test::seed_from_environment(5));
    std::vector<BlockBitmap> all{bits(0, 0), bits(0, kSlotBlocks), bits(0, 1), bits(1023, 1),
                                 bits(1, 1023)};
    for (int i = 0; i < 50; ++i) {
      BlockBitmap::Words words;
      for (std::uint64_t& word : words) word = random() & random();
      all.emplace_back(words);
    }
    for (const BlockBitmap& live : all) {
      CHECK(decode_chunk_state(encoded(state_with(live))).value() == state_with(live));
    }
    // Block 70 is bit 6 of the second number.
    CHECK(encoded(state_with(bits(70, 1)))[put + 1 + 8] == std::byte{1 << 6});
  }

  TEST_CASE("a share is a put by another name") {
    Bytes share;
    ByteWriter writer(share);
    encode_share(writer, kPut);
    const auto back = decode_extent_put(body(share, ChangeType::kExtentShare));
    REQUIRE(back.has_value());
    CHECK(back->pieces == kPut.pieces);
    Bytes put = encoded(kPut);
    put[0] = share[0];
    CHECK(put == share);
  }

  TEST_CASE("a chunk comes back from a run with the references of its blocks, if it shares any") {
    ChunkState state = kState;
    const std::size_t alone = encoded(state).size();
    state.shared =
        SharedBlocks{std::vector<SharedRun>{{.block = 60, .count = 3, .references = 2},
                                            {.block = 63, .count = 1, .references = 70'000}}};
    const Bytes bytes = encoded(state);
    CHECK(bytes.size() == alone + 2 + 2 * 8);
    CHECK(decode_chunk_state(bytes).value() == state);
    // Without them it is another good value: that of a chunk that shares nothing.
    CHECK(decode_chunk_state(std::span{bytes}.first(alone)).value() == kState);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      if (length != alone)
        CHECK_FALSE(decode_chunk_state(std::span{bytes}.first(length)).has_value());
    }

    const auto refused = [&](std::vector<SharedRun> runs) {
      ChunkState bad = kState;
      bad.shared = SharedBlocks{runs};
      return !decode_chunk_state(encoded(bad)).has_value();
    };
    CHECK_FALSE(refused({{.block = 959, .count = 1, .references = 2}}));
    CHECK(refused({{.block = 959, .count = 2, .references = 2}}));  // not live
    CHECK(refused({{.block = 70, .count = 1, .references = 1}}));
    CHECK(refused({{.block = 70, .count = 0, .references = 2}}));
    CHECK(refused(
        {{.block = 71, .count = 1, .references = 2}, {.block = 70, .count = 1, .references = 3}}));
    CHECK(refused(
        {{.block = 70, .count = 2, .references = 2}, {.block = 71, .count = 1, .references = 3}}));
    CHECK(refused(
        {{.block = 70, .count = 1, .references = 2}, {.block = 71, .count = 1, .references = 2}}));
    Bytes none = encoded(kState);
    none.resize(none.size() + 2);
    CHECK_FALSE(decode_chunk_state(none).has_value());
  }

  TEST_CASE("damaged bodies are refused or mean something else, and never crash") {
    const Bytes put = encoded(kPut);
    check_damage(body(put, ChangeType::kExtentPut), decode_extent_put);
    const Bytes clear =
        encoded(ExtentClear{.inode = InodeId{4}, .first = FileBlock{5}, .count = 6});
    check_damage(body(clear, ChangeType::kExtentClear), decode_extent_clear);
    const Bytes reserve =
        encoded(ExtentReserve{.inode = InodeId{4}, .first = FileBlock{5}, .count = 6});
    check_damage(body(reserve, ChangeType::kExtentReserve), decode_extent_reserve);
    const Bytes chunk = encoded(kChunk);
    check_damage(body(chunk, ChangeType::kChunkPut), decode_chunk_put);
    const Bytes remove = encoded(ChunkRemove{.chunk = ChunkId{77}});
    check_damage(body(remove, ChangeType::kChunkRemove), decode_chunk_remove);
    for (const BlockBitmap& live : {bits(0, 0), bits(0, kSlotBlocks), kState.live}) {
      check_damage(encoded(state_with(live)), decode_chunk_state, 0);
    }
  }

  TEST_CASE("impossible contents are refused") {
    const auto refused = [](ExtentPut put) {
      const Bytes bytes = encoded(put);
      return decode_extent_put(body(bytes, ChangeType::kExtentPut)).error().code ==
             Code::kFormatInvalid;
    };
    ExtentPut empty = kPut;
    empty.pieces.clear();
    empty.crcs.clear();
    CHECK(refused(empty));
    ExtentPut behind_the_end = kPut;
    behind_the_end.first = FileBlock{kFileBlocksEnd - 5};
    CHECK(refused(behind_the_end));
    ExtentPut long_piece = kPut;
    long_piece.pieces = {{.chunk = ChunkId{9}, .block = 65535, .count = 6}};
    CHECK(refused(long_piece));

    const auto chunk_refused = [](ChunkPut put) {
      const Bytes bytes = encoded(put);
      return decode_chunk_put(body(bytes, ChangeType::kChunkPut)).error().code ==
             Code::kFormatInvalid;
    };
    ChunkPut twice = kChunk;
    twice.places[1].disk = twice.places[0].disk;
    CHECK(chunk_refused(twice));
    ChunkPut nowhere = kChunk;
    nowhere.places.clear();
    CHECK(chunk_refused(nowhere));
    ChunkPut too_many = kChunk;
    too_many.places.push_back({.disk = DiskId{4}, .slot = SlotId{1}});
    CHECK(chunk_refused(too_many));
    ChunkPut no_id = kChunk;
    no_id.chunk = ChunkId{0};
    CHECK(chunk_refused(no_id));
  }

  TEST_CASE("live blocks in another form than the one there is for them are refused") {
    const std::size_t put = encoded(kChunk).size() - 5;
    const Bytes bitmap = encoded(kState);
    for (const auto value : {std::byte{0}, std::byte{0xff}}) {
      Bytes alike = bitmap;
      std::fill(alike.begin() + static_cast<std::ptrdiff_t>(put) + 1, alike.end(), value);
      CHECK(decode_chunk_state(alike).error().code == Code::kFormatInvalid);
    }
    Bytes unknown = encoded(state_with({}));
    unknown[put] = std::byte{3};
    CHECK(decode_chunk_state(unknown).error().code == Code::kFormatInvalid);
    Bytes bad_chunk = bitmap;
    bad_chunk[4] = std::byte{9};
    CHECK(decode_chunk_state(bad_chunk).error().code == Code::kFormatInvalid);
  }

  TEST_CASE("an encoding of the future is refused by name") {
    Bytes bytes = encoded(kPut);
    bytes[5 + 16] = std::byte{2};
    CHECK(decode_extent_put(std::span{bytes}.subspan(5)).error() == error(Code::kNotSupported, 2));
  }
}
