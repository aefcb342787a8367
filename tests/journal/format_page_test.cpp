// man/format.md is enough to write a second reader: its tables add up to the sizes the code uses,
// and its example is a batch as the code reads it.

#include <fstream>
#include <map>
#include <sstream>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "journal/record_format.hpp"
#include "journal/run_format.hpp"

namespace dynamicfs::journal {
namespace {

std::string page() {
  std::ifstream file{DYNAMICFS_FORMAT_PAGE};
  REQUIRE(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Lines of the part under this heading, up to the next heading.
std::vector<std::string> section(const std::string& heading) {
  std::istringstream in{page()};
  std::vector<std::string> lines;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#"))
      inside = line == heading;
    else if (inside)
      lines.push_back(line);
  }
  INFO(heading);
  REQUIRE_FALSE(lines.empty());
  return lines;
}

// The sum of the sizes of a table whose rows follow each other without a gap.
std::uint64_t table_bytes(const std::string& heading) {
  std::uint64_t end = 0;
  for (const std::string& line : section(heading)) {
    std::istringstream cells{line};
    char bar = 0;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    char second_bar = 0;
    if (!(cells >> bar >> offset >> second_bar >> size)) continue;
    INFO(line);
    CHECK(offset == end);
    end = offset + size;
  }
  return end;
}

Bytes example_bytes() {
  Bytes bytes;
  for (const std::string& line : section("### Example")) {
    std::istringstream in{line};
    std::uint64_t offset = 0;
    if (!(in >> std::hex >> offset) || line.size() < 56 || line.substr(6, 2) != "  ") continue;
    CHECK(offset == bytes.size());
    for (int i = 0; i < 16; ++i) {
      unsigned value = 0;
      REQUIRE((in >> value));
      bytes.push_back(static_cast<std::byte>(value));
    }
  }
  bytes.resize(kBlockBytes);
  return bytes;
}

}  // namespace

TEST_SUITE("format page") {
  TEST_CASE("the rows of each table add up to the size in its heading, which the code has, too") {
    const std::map<std::string, std::size_t> tables{
        {"### Superblock, fixed part (192 bytes)", 192},
        {"### Epoch record (32 bytes)", 32},
        {"### Disk record (60 bytes, then the path)", 60},
        {"### Run record (34 bytes, then the copies)", 34},
        {"### Run copy (6 bytes, then the slots)", 6},
        {"### Batch header (128 bytes)", kBatchHeaderBytes},
        {"### Frame (16 bytes, then the record)", kFrameHeaderBytes},
        {"### Run block header (64 bytes)", kRunBlockHeaderBytes},
        {"### Run entry (4 bytes, then key and value)", kRunEntryHeaderBytes},
    };
    for (const auto& table : tables) {
      INFO(table.first);
      CHECK(table_bytes(table.first) == table.second);
    }
  }

  TEST_CASE("the example is a batch with the record that the page says") {
    const Bytes batch = example_bytes();
    const auto header = get_header(batch);
    REQUIRE(header.has_value());
    CHECK(header->pool.text() == "6f1f6b3a-6d1c-4c7e-9a55-0c8f3b2d4e10");
    CHECK(header->epoch == Epoch{1});
    CHECK(header->epoch_tag == 0x8f4e2a1c5b7d9036);
    CHECK(header->sequence == BatchSequence{1});
    CHECK(header->offset == 0);
    CHECK(header->first == Lsn{1});
    CHECK(header->last == Lsn{1});
    CHECK(header->watermark == Lsn{0});
    CHECK(header->previous_crc == 0);
    CHECK(header->records == 1);
    CHECK(header->payload_bytes == 32);
    CHECK(header->batch_bytes() == kBlockBytes);
    CHECK(payload_whole(*header, batch));
    std::vector<std::string> records;
    const auto read = for_each_record(
        *header, batch, [&](Lsn lsn, std::span<const std::byte> payload) -> Result<void> {
          CHECK(lsn == Lsn{1});
          records.emplace_back(as_text(payload));
          return {};
        });
    CHECK(read.has_value());
    CHECK(records == std::vector<std::string>{"mkdir /photos"});
  }

  TEST_CASE("the example is what the code writes") {
    Bytes batch(kBlockBytes);
    const auto payload = as_bytes("mkdir /photos");
    put_frame(std::span{batch}.subspan(kBatchHeaderBytes, frame_bytes(payload.size())), Lsn{1},
              frame_crc(Lsn{1}, payload), payload);
    BatchHeader header = get_header(example_bytes()).value();
    put_header(batch, header);
    CHECK(batch == example_bytes());
  }
}

}  // namespace dynamicfs::journal
