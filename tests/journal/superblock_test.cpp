// The superblock as bytes.

#include <random>

#include <doctest/doctest.h>

#include "base/crc32c.hpp"
#include "journal/membership.hpp"
#include "journal/superblock.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::journal {
namespace {

Superblock full() {
  Superblock superblock;
  superblock.writer_min = kFormatVersion;
  superblock.pool = Uuid::from_random(1, 2);
  superblock.label = "home";
  superblock.sequence = 77;
  superblock.this_disk = DiskId{4};
  superblock.policy = Policy::parse("replica:2").value();
  superblock.epochs = {{Epoch{1}, 11, BatchSequence{1}, Lsn{}},
                       {Epoch{3}, 33, BatchSequence{9}, Lsn{90}}};
  superblock.members = {DiskId{4}, DiskId{2}};
  for (const std::uint16_t id : {std::uint16_t{2}, std::uint16_t{4}}) {
    DiskRecord& disk = superblock.disks.emplace_back();
    disk.id = DiskId{id};
    disk.uuid = Uuid::from_random(id, 3);
    disk.path = "/mnt/" + std::to_string(id);
    disk.size_bytes = 40 * kMiB;
    disk.journal_bytes = 7 * kMiB;
    disk.first_slot_offset = 8 * kMiB;
    disk.slots = 8;
    disk.state = id == 2 ? DiskState::kAway : DiskState::kActive;
    disk.stale_since = Lsn{id == 2 ? 55u : 0u};
    disk.leaving = id == 4;
    disk.lost = id == 4;
  }
  superblock.next_disk = DiskId{9};
  superblock.log_bytes = 7 * kMiB;
  superblock.lsn_floor = Lsn{1000};
  superblock.manifest.next_run = 7;
  superblock.manifest.lsn = Lsn{80};
  superblock.manifest.runs = {
      {.id = 6,
       .bytes = 5 * kMiB,
       .entry_blocks = 150,
       .index_blocks = 7,
       .copies = {{DiskId{2}, {SlotId{1}, SlotId{3}}}, {DiskId{4}, {SlotId{0}, SlotId{7}}}}},
      {.id = 3,
       .bytes = 64 * kKiB,
       .entry_blocks = 1,
       .index_blocks = 1,
       .copies = {{DiskId{4}, {SlotId{2}}}}}};
  superblock.manifest.log_start = {
      .sequence = BatchSequence{8}, .offset = 12 * kBlockBytes, .previous_crc = 5};
  superblock.clean = true;
  superblock.rebalancing = true;
  superblock.whole_files = true;
  superblock.created_unix_s = 1'700'000'000;
  return superblock;
}

// As a program with other ideas about contents would write it: any change, a good checksum.
Result<Superblock> decode_changed(void (*change)(Superblock&)) {
  Superblock superblock = full();
  change(superblock);
  return decode(encode(superblock).value());
}

}  // namespace

TEST_SUITE("superblock") {
  TEST_CASE("every field comes back, in whole blocks") {
    const Bytes bytes = encode(full()).value();
    CHECK(bytes.size() == kBlockBytes);
    CHECK(decode(bytes).value() == full());
    // What lies behind it in its place does not matter.
    Bytes padded = bytes;
    padded.resize(kSuperblockBytes, std::byte{0xaa});
    CHECK(decode(padded).value() == full());
  }

  TEST_CASE("every flipped bit is noticed") {
    Bytes bytes = encode(full()).value();
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      const auto decoded = decode(bytes);
      REQUIRE_FALSE(decoded.has_value());
      CHECK(decoded.error().code == (bit < 64 ? Code::kFormatMagic : Code::kChecksum));
      bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    }
  }

  TEST_CASE("a part of a superblock is none") {
    Superblock superblock = full();
    superblock.epochs.clear();
    for (std::uint64_t i = 1; i <= 400; ++i)
      superblock.epochs.push_back({Epoch{i}, i, BatchSequence{i}, Lsn{i}});
    const Bytes bytes = encode(superblock).value();
    CHECK(bytes.size() == 4 * kBlockBytes);
    CHECK(decode(bytes).value() == superblock);
    CHECK(decode(std::span{bytes}.first(kBlockBytes)).error().code == Code::kChecksum);
    CHECK(decode({}).error().code == Code::kFormatMagic);
  }

  TEST_CASE("impossible contents are refused although their checksum is good") {
    const auto refused = [](void (*change)(Superblock&)) {
      const auto decoded = decode_changed(change);
      return !decoded.has_value() && decoded.error().code == Code::kFormatInvalid;
    };
    CHECK(decode_changed([](Superblock&) {}).has_value());
    CHECK(refused([](Superblock& s) { s.this_disk = DiskId{9}; }));
    CHECK(refused([](Superblock& s) { s.disks.clear(); }));
    CHECK(refused([](Superblock& s) { s.disks[1].id = s.disks[0].id; }));
    CHECK(refused([](Superblock& s) { s.members.clear(); }));
    CHECK(refused([](Superblock& s) { s.members = {DiskId{2}, DiskId{2}}; }));
    CHECK(refused([](Superblock& s) { s.members = {DiskId{3}}; }));
    CHECK(refused([](Superblock& s) { s.epochs.clear(); }));
    CHECK(refused([](Superblock& s) { s.epochs[1].number = Epoch{1}; }));
    CHECK(refused([](Superblock& s) { s.epochs[0].first_sequence = BatchSequence{10}; }));
    CHECK(refused([](Superblock& s) { s.policy.copies_or_data = 0; }));
    CHECK(refused([](Superblock& s) { s.policy.parity = 1; }));
    CHECK(refused([](Superblock& s) { s.policy.kind = Policy::Kind{9}; }));
    CHECK(refused([](Superblock& s) { s.disks[0].state = DiskState{0}; }));
    CHECK(refused([](Superblock& s) { s.disks[0].slots = 9; }));
    CHECK(refused([](Superblock& s) { s.disks[0].first_slot_offset = 7 * kMiB; }));
    CHECK(refused([](Superblock& s) { s.disks[0].first_slot_offset = ~std::uint64_t{0} << 22; }));
    CHECK(refused([](Superblock& s) { s.disks[0].journal_bytes = 6 * kMiB; }));
    CHECK(refused([](Superblock& s) { s.log_bytes = 8 * kMiB; }));
    CHECK(refused([](Superblock& s) { s.log_bytes = 100; }));
    CHECK(refused([](Superblock& s) { s.manifest.log_start.offset = 8 * kMiB; }));
    CHECK(refused([](Superblock& s) { s.manifest.log_start.offset = 100; }));
    CHECK(refused([](Superblock& s) { s.manifest.log_start.sequence = BatchSequence{0}; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[0].copies[0].disk = DiskId{3}; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[0].copies[0].slots[0] = SlotId{8}; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[0].copies[0].slots.pop_back(); }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[0].copies.clear(); }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[0].id = 0; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[0].id = 3; }));
    CHECK(refused([](Superblock& s) { s.manifest.next_run = 6; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[1].bytes = 64 * kKiB + 1; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[1].bytes = ~std::uint64_t{0} << 15; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[1].entry_blocks = 0; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[1].entry_blocks = 2; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[1].index_blocks = 0; }));
    CHECK(refused([](Superblock& s) { s.manifest.runs[1].index_blocks = ~std::uint64_t{0}; }));
  }

  TEST_CASE("reserved bytes are checked, unless a newer writer may have used them") {
    for (const std::uint32_t writer_min : {kFormatVersion, kFormatVersion + 1}) {
      Superblock superblock = full();
      superblock.writer_min = writer_min;
      Bytes bytes = encode(superblock).value();
      bytes[150] = std::byte{1};
      store(bytes.data() + 8, crc32c(std::span<const std::byte>{bytes}.subspan(12)));
      CHECK(decode(bytes).has_value() == (writer_min > kFormatVersion));
    }
  }

  TEST_CASE("a newer or older format is refused by its number, before its contents are looked at") {
    Superblock superblock = full();
    superblock.reader_min = 9;
    superblock.members.clear();
    CHECK(decode(encode(superblock).value()).error() == error(Code::kFormatVersion, 9));
    superblock.reader_min = 2;
    CHECK(decode(encode(superblock).value()).error() == error(Code::kFormatVersion, 2));
  }

  TEST_CASE("as many runs as there may be come back, and not one more") {
    Superblock superblock = full();
    superblock.manifest.next_run = 1000;
    while (superblock.manifest.runs.size() < kRunsMax) {
      RunRef& run = superblock.manifest.runs.emplace_back(superblock.manifest.runs.front());
      run.id = 100 + superblock.manifest.runs.size();
    }
    CHECK(decode(encode(superblock).value()).value() == superblock);
    superblock.manifest.runs.push_back(superblock.manifest.runs.back());
    superblock.manifest.runs.back().id = 999;
    CHECK(encode(superblock).error().code == Code::kFormatInvalid);
  }

  TEST_CASE("what does not fit is not encoded") {
    Superblock superblock = full();
    superblock.manifest.runs[0].copies[0].slots.resize(20000);
    CHECK(encode(superblock).error().code == Code::kFormatInvalid);
    superblock = full();
    superblock.disks[0].path = std::string(70000, 'p');
    CHECK(encode(superblock).error().code == Code::kFormatInvalid);
  }

  TEST_CASE("no bytes crash the decoder") {
    const std::uint64_t first = test::seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + test::scaled(2000); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random{seed};
      Bytes bytes = encode(full()).value();
      for (unsigned i = 0; i < 1 + seed % 8; ++i) {
        bytes[12 + random() % (seed % 2 == 0 ? 400 : 4000)] = static_cast<std::byte>(random());
      }
      store(bytes.data() + 12, std::uint32_t{kBlockBytes});
      store(bytes.data() + 8, crc32c(std::span<const std::byte>{bytes}.subspan(12)));
      const auto decoded = decode(bytes);
      if (decoded.has_value()) CHECK(encode(*decoded).has_value());
    }
  }

  TEST_CASE("a batch belongs to the last epoch that begins with it or before") {
    const Superblock superblock = full();
    CHECK(superblock.epoch_of(BatchSequence{1})->number.raw == 1);
    CHECK(superblock.epoch_of(BatchSequence{8})->number.raw == 1);
    CHECK(superblock.epoch_of(BatchSequence{9})->number.raw == 3);
    CHECK(superblock.epoch_of(BatchSequence{999})->number.raw == 3);
    Superblock forgotten = full();
    forgotten.epochs.erase(forgotten.epochs.begin());
    CHECK(forgotten.epoch_of(BatchSequence{8}) == nullptr);
  }
}

TEST_SUITE("policy") {
  TEST_CASE("policies are written as they are read") {
    for (const char* text :
         {"single", "single,placement=file", "replica:2", "replica:64", "ec:4+2", "ec:1+1"}) {
      const Policy policy = Policy::parse(text).value();
      CHECK(policy.text() == text);
      CHECK(Policy::unpacked(policy.packed()) == policy);
      CHECK(Policy::from_disk(policy.kind_on_disk(), policy.copies_or_data, policy.parity) ==
            policy);
    }
    CHECK(Policy::parse("replica:1")->text() == "single");
    for (const char* text :
         {"", "Single", "replica:", "replica:0", "replica:65", "replica:-1", "replica:2x", "ec:4",
          "ec:0+1", "ec:1+0", "ec:60+5", "ec:+", "raid5",
          "single,placement=", "single,placement=spread", "replica:2,placement=file",
          "ec:2+1,placement=file", "single,placement=file "}) {
      CAPTURE(text);
      CHECK_FALSE(Policy::parse(text).has_value());
    }
  }

  TEST_CASE("a policy knows how many disks it needs and may lose") {
    CHECK(Policy::parse("single")->tolerance() == 0);
    CHECK(Policy::parse("replica:3")->tolerance() == 2);
    CHECK(Policy::parse("replica:3")->width() == 3);
    CHECK(Policy::parse("ec:4+2")->tolerance() == 2);
    CHECK(Policy::parse("ec:4+2")->width() == 6);
    CHECK(Policy::parse("single,placement=file")->tolerance() == 0);
    CHECK(Policy::parse("single,placement=file")->width() == 1);
  }

  TEST_CASE("where files are whole two disks may be lost with the metadata still there") {
    Superblock superblock;
    CHECK(superblock.tolerance() == 0);
    superblock.whole_files = true;
    CHECK(superblock.tolerance() == 2);
    CHECK(superblock.data_tolerance() == 0);
    superblock.whole_files = false;
    superblock.policy = Policy::parse("single,placement=file").value();
    CHECK(superblock.tolerance() == 2);
    CHECK(superblock.data_tolerance() == 0);
  }
}

TEST_SUITE("who is newest") {
  TEST_CASE("the history that contains all others, of equals the one written last") {
    const auto with = [](std::vector<std::uint64_t> tags, std::uint64_t sequence) {
      Superblock superblock = full();
      superblock.epochs.clear();
      for (std::size_t i = 0; i < tags.size(); ++i)
        superblock.epochs.push_back({Epoch{i + 1}, tags[i], {}, {}});
      superblock.sequence = sequence;
      return superblock;
    };
    const auto newest = [](const std::vector<Superblock>& all) {
      std::vector<const Superblock*> found;
      for (const Superblock& one : all) found.push_back(&one);
      return newest_of(found);
    };
    using Answer = std::variant<std::size_t, SplitPair>;
    CHECK(newest({with({1}, 5)}) == Answer{std::size_t{0}});
    CHECK(newest({with({1}, 5), with({1}, 6)}) == Answer{std::size_t{1}});
    CHECK(newest({with({1, 2}, 5), with({1}, 6)}) == Answer{std::size_t{0}});
    CHECK(newest({with({1}, 9), with({1, 2, 3}, 5), with({1, 2}, 7)}) == Answer{std::size_t{1}});
    CHECK(newest({with({1, 2}, 5), with({1, 3}, 6)}) == Answer{SplitPair{0, 1}});
    CHECK(newest({with({1}, 5), with({1, 3}, 6), with({1, 2, 4}, 9)}) == Answer{SplitPair{1, 2}});
    // What was only announced claims nothing, but is known.
    const auto announced = [&with](std::vector<std::uint64_t> tags, std::uint64_t sequence) {
      Superblock superblock = with(std::move(tags), sequence);
      superblock.announced = true;
      return superblock;
    };
    CHECK(newest({announced({1, 2}, 6), with({1, 3}, 5)}) == Answer{std::size_t{1}});
    CHECK(newest({announced({1, 2}, 6), with({1}, 5)}) == Answer{std::size_t{0}});
    CHECK(newest({announced({1, 2}, 6), with({1, 2}, 7)}) == Answer{std::size_t{1}});
    CHECK(newest({announced({1, 2}, 6), with({1, 2, 3}, 5)}) == Answer{std::size_t{1}});
    // Same number, another tag: not the same epoch.
    CHECK(std::holds_alternative<SplitPair>(newest({with({1, 2}, 5), with({1, 9, 3}, 6)})));
  }
}

}  // namespace dynamicfs::journal
