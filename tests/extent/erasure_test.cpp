// Parity groups on simulated disks: any M disks may go, nothing is updated in place, and what is
// rotten is computed anew.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <random>

#include "base/buffer.hpp"
#include "extent/erasure_codec.hpp"
#include "tests/extent/sim_store.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;
using namespace dynamicfs::test;

namespace {

constexpr journal::Policy erasure(std::uint8_t data, std::uint8_t parity) {
  return {.kind = journal::Policy::Kind::kErasure, .copies_or_data = data, .parity = parity};
}

struct FourAndTwo : SimStore {
  FourAndTwo()
      : SimStore(seed_from_environment(1), {.disk_bytes = std::vector<std::uint64_t>(6, 128 * kMiB),
                                            .policy = erasure(4, 2),
                                            .latency = {}}) {}

  void lose(std::size_t disk) { disks[disk]->fail(); }
  // Where the parity of the row of a block lies.
  Location parity_of(std::uint64_t inode, std::uint64_t block, std::size_t which) {
    extent::MappingSet set;
    file(inode).snapshot(FileBlock{block}, 1, set);
    REQUIRE(set.mappings.size() == 1);
    for (const extent::ChunkPut& chunk : store->chunks()) {
      if (set.mappings[0].chunk.raw - chunk.chunk.raw >= chunk.columns()) continue;
      const extent::Place& place = chunk.places[chunk.columns() + which];
      return {place.disk.raw,
              pool->slot_offset(place.disk, place.slot) + set.mappings[0].block * kBlockBytes};
    }
    FAIL("the chunk is not known");
    return {};
  }
  journal::ScrubCounts scrub(std::uint64_t inode, std::uint64_t first, std::uint64_t count) {
    const auto counts =
        executor.run(store->scrub(file(inode), InodeId{inode}, FileBlock{first}, count));
    REQUIRE(counts.has_value());
    return counts.value();
  }
  std::uint64_t reconstructed() const { return store->metrics().blocks_reconstructed.sum(); }
};

// Calls each(lost) for every choice of `count` of `of`.
template <class F>
void for_each_choice(std::size_t of, std::size_t count, F each) {
  std::vector<bool> chosen(of, false);
  std::fill_n(chosen.begin(), count, true);
  do {
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < of; ++i) {
      if (chosen[i]) which.push_back(i);
    }
    each(which);
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
}

}  // namespace

TEST_SUITE("erasure coding") {
  TEST_CASE("any K of K + M columns give the others") {
    std::mt19937_64 random(seed_from_environment(1));
    for (const auto& [data, parity] : {std::pair{1, 1}, {2, 1}, {4, 2}, {5, 3}, {10, 4}}) {
      const ErasureCodec codec{
          erasure(static_cast<std::uint8_t>(data), static_cast<std::uint8_t>(parity))};
      const std::size_t width = static_cast<std::size_t>(data + parity);
      constexpr std::size_t kBytes = 3 * kBlockBytes;
      std::vector<Buffer> columns;
      std::vector<std::byte*> pointers;
      for (std::size_t i = 0; i < width; ++i) {
        columns.emplace_back(kBytes);
        pointers.push_back(columns.back().data());
        for (std::byte& byte : columns.back().span()) byte = static_cast<std::byte>(random());
      }
      codec.encode(kBytes, pointers);
      for_each_choice(width, static_cast<std::size_t>(parity), [&](const auto& lost) {
        std::vector<std::size_t> given;
        for (std::size_t i = 0; i < width; ++i) {
          if (std::ranges::find(lost, i) == lost.end()) given.push_back(i);
        }
        std::vector<Buffer> made;
        std::vector<std::byte*> at = pointers;
        for (const std::size_t column : lost) at[column] = made.emplace_back(kBytes).data();
        codec.reconstruct(kBytes, given, lost, at);
        for (std::size_t i = 0; i < lost.size(); ++i)
          CHECK(std::ranges::equal(made[i].span(), columns[lost[i]].span()));
      });
    }
  }

  TEST_CASE("parity is what man/format.md says") {
    // The field by its definition: Russian peasants' multiplication, and inverses by search.
    const auto times = [](unsigned a, unsigned b) {
      unsigned product = 0;
      for (; b != 0; b >>= 1, a = a << 1 ^ ((a & 0x80) != 0 ? 0x11d : 0))
        product ^= (b & 1) != 0 ? a : 0;
      return product;
    };
    const auto inverse = [&](unsigned a) {
      unsigned b = 1;
      while (times(a, b) != 1) ++b;
      return b;
    };
    constexpr std::size_t kData = 5;
    constexpr std::size_t kParity = 3;
    std::mt19937_64 random(seed_from_environment(1));
    std::array<std::array<std::byte, 64>, kData + kParity> columns;
    std::vector<std::byte*> pointers;
    for (auto& column : columns) {
      for (std::byte& byte : column) byte = static_cast<std::byte>(random());
      pointers.push_back(column.data());
    }
    ErasureCodec{erasure(kData, kParity)}.encode(64, pointers);
    for (unsigned p = 0; p < kParity; ++p) {
      for (std::size_t at = 0; at < 64; ++at) {
        unsigned sum = 0;
        for (unsigned c = 0; c < kData; ++c)
          sum ^= times(inverse((kData + p) ^ c), std::to_integer<unsigned>(columns[c][at]));
        CHECK(std::to_integer<unsigned>(columns[kData + p][at]) == sum);
      }
    }
  }

  TEST_CASE_FIXTURE(FourAndTwo, "a large write takes one and a half times its size, on six disks") {
    const auto written = [&] {
      std::uint64_t bytes = 0;
      for (const SimulatedDisk* disk : disks) bytes += disk->metrics().written_bytes.sum();
      return bytes;
    };
    const auto requests = [&] {
      std::uint64_t count = 0;
      for (const SimulatedDisk* disk : disks) count += disk->metrics().writes.sum();
      return count;
    };
    REQUIRE(write(1, 0, 256, 1).has_value());  // the group is made, which is no data
    const std::uint64_t bytes = written();
    const std::uint64_t count = requests();
    for (std::uint64_t i = 1; i < 9; ++i) REQUIRE(write(1, i * 256, 256, 1).has_value());
    CHECK(written() - bytes == 8 * 384 * kBlockBytes);
    CHECK(requests() - count == 8 * 6);
    CHECK(read(1, 0, 9 * 256).value() == times(9 * 256, 1));
    CHECK(reconstructed() == 0);
  }

  TEST_CASE_FIXTURE(FourAndTwo,
                    "consecutive blocks lie together, so a read of a few asks one disk") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    const auto reads = [&] {
      std::uint64_t count = 0;
      for (const SimulatedDisk* disk : disks) count += disk->metrics().reads.sum();
      return count;
    };
    const std::uint64_t before = reads();
    CHECK(read(1, 64, 64).value() == times(64, 1));
    CHECK(reads() - before == 1);
    CHECK(read(1, 0, 256).value() == times(256, 1));
    CHECK(reads() - before == 1 + 4);
  }

  TEST_CASE_FIXTURE(FourAndTwo,
                    "what is no multiple of the columns comes back as well, and small writes") {
    std::uint64_t at = 0;
    for (const std::uint64_t count : {257, 16, 17, 18, 19, 15, 3, 1, 250, 100}) {
      REQUIRE(write(1, at, count, 7).has_value());
      at += count;
    }
    CHECK(read(1, 0, at).value() == times(at, 7));
    REQUIRE(sync().has_value());
    shut();
    boot();
    CHECK(read(1, 0, at).value() == times(at, 7));
    lose(0);
    lose(3);
    CHECK(read(1, 0, at).value() == times(at, 7));
    CHECK(reconstructed() > 0);
  }

  TEST_CASE("each disk has its part of the parity, also if not all have the same room") {
    for (const std::uint64_t less : {0u, 1u, 5u}) {
      CAPTURE(less);
      std::vector<std::uint64_t> bytes(4, 128 * kMiB);
      bytes[1] -= less * kSlotBytes;
      bytes[2] -= less * kSlotBytes;
      SimStore store{1, {.disk_bytes = bytes, .policy = erasure(3, 1), .latency = {}}};
      for (std::uint64_t i = 0; i < 140; ++i) REQUIRE(store.write(1, i * 256, 256, 1).has_value());
      std::map<DiskId, int> parities;
      int groups = 0;
      for (const extent::ChunkPut& chunk : store.store->chunks()) {
        if (chunk.places.size() != 4) continue;
        ++groups;
        ++parities[chunk.places.back().disk];
      }
      CHECK(groups >= 10);
      REQUIRE(parities.size() == 4);
      for (const auto& [disk, count] : parities) {
        CAPTURE(disk.raw);
        CHECK(count >= groups / 4);
        CHECK(count <= groups / 4 + 1);
      }
    }
  }

  TEST_CASE("a disk that is smaller than the others has its part of the parity, and no more") {
    std::vector<std::uint64_t> bytes(4, 256 * kMiB);
    bytes[3] = 96 * kMiB;
    SimStore store{1, {.disk_bytes = bytes, .policy = erasure(2, 1), .latency = {}}};
    for (std::uint64_t i = 0; i < 300; ++i) REQUIRE(store.write(1, i * 256, 256, 1).has_value());
    std::map<DiskId, std::pair<int, int>> columns;  // of parity, and all
    for (const extent::ChunkPut& chunk : store.store->chunks()) {
      if (chunk.places.size() != 3) continue;
      ++columns[chunk.places.back().disk].first;
      for (const extent::Place& place : chunk.places) ++columns[place.disk].second;
    }
    REQUIRE(columns.size() == 4);
    for (const auto& [disk, of] : columns) {
      CAPTURE(disk.raw);
      CHECK(of.second >= 9);
      CHECK(std::abs(of.first - of.second / 3) <= 2);
    }
  }

  TEST_CASE("with any two of six disks gone everything is read, and written") {
    for_each_choice(6, 2, [](const std::vector<std::size_t>& lost) {
      FourAndTwo store;
      for (std::uint64_t i = 0; i < 6; ++i) REQUIRE(store.write(1, i * 256, 256, 1).has_value());
      REQUIRE(store.sync().has_value());
      for (const std::size_t disk : lost) store.lose(disk);
      CHECK(store.read(1, 0, 6 * 256).value() == times(6 * 256, 1));
      CHECK(store.reconstructed() > 0);
      REQUIRE(store.write(1, 100, 256, 2).has_value());
      CHECK(store.read(1, 100, 256).value() == times(256, 2));
      CHECK(store.read(1, 356, 6 * 256 - 356).value() == times(6 * 256 - 356, 1));
      CHECK(store.store->metrics().checksum_errors.sum() == 0);
    });
  }

  TEST_CASE_FIXTURE(FourAndTwo, "with three disks gone a read says so, and invents nothing") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    REQUIRE(sync().has_value());
    for (const std::size_t disk : {0, 1, 2}) lose(disk);
    for (std::uint64_t block = 0; block < 256; block += 64) {
      const auto result = read(1, block, 64);
      if (result.has_value()) {
        CHECK(result.value() == times(64, 1));
      } else {
        CHECK(result.error().code == Code::kDiskGone);
      }
    }
  }

  TEST_CASE_FIXTURE(FourAndTwo,
                    "a rotten block is computed from the others and rewritten where it lies") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    for (const std::uint64_t block : {3, 4, 70, 255}) damage(locate(1, block)[0]);
    CHECK(read(1, 0, 256).value() == times(256, 1));
    CHECK(store->metrics().checksum_errors.sum() == 4);
    CHECK(store->metrics().repairs.sum() == 4);
    CHECK(reconstructed() == 4);
    CHECK(read(1, 0, 256).value() == times(256, 1));
    CHECK(store->metrics().checksum_errors.sum() == 4);
  }

  TEST_CASE_FIXTURE(FourAndTwo, "two rotten blocks of one row are told from the good ones") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    // Blocks 64 apart lie in the same row of neighbouring columns.
    damage(locate(1, 10)[0]);
    damage(locate(1, 10 + 64)[0]);
    CHECK(read(1, 10, 1).value() == times(1, 1));
    CHECK(read(1, 0, 256).value() == times(256, 1));
    CHECK(store->metrics().unrecoverable_blocks.sum() == 0);
  }

  TEST_CASE_FIXTURE(FourAndTwo, "a row is not written again before its last block is free") {
    std::mt19937_64 random(seed_from_environment(1));
    Versions expected(8 * 256, 1);
    for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(write(1, i * 256, 256, 1).has_value());
    // Much more than the disks hold, so rows are used again; what lies beside stays reconstructible.
    for (std::uint64_t version = 2; version < 400; ++version) {
      const std::uint64_t count = 16 + random() % 200;
      const std::uint64_t first = random() % (expected.size() - count);
      REQUIRE(write(1, first, count, version).has_value());
      std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(first), count, version);
      if (version % 10 == 0) settle();
    }
    REQUIRE(sync().has_value());
    CHECK(store->metrics().blocks_freed.sum() > 6 * 256 * 20);
    lose(1);
    lose(4);
    CHECK(read(1, 0, expected.size()).value() == expected);
    CHECK(reconstructed() > 0);
    CHECK(store->metrics().checksum_errors.sum() == 0);
  }

  TEST_CASE_FIXTURE(FourAndTwo, "all space comes back, and as much fits again") {
    const auto fill = [&] {
      std::uint64_t windows = 0;
      while (write(2, windows * 256, 256, 1).has_value()) ++windows;
      return windows;
    };
    const std::uint64_t free_bytes = store->space(pool->policy()).free_bytes;
    const std::uint64_t windows = fill();
    // What is said to be free can be written, but for the reserve.
    CHECK(windows * kMiB > free_bytes - store->space(pool->policy()).reserve_bytes - 64 * kMiB);
    clear(2, 0, windows * 256);
    settle();
    CHECK(fill() == windows);
    clear(2, 0, windows * 256);
    REQUIRE(sync().has_value());
    // Write points keep their chunks, a mount has none.
    shut();
    boot();
    settle();
    CHECK(store->chunks().empty());
    CHECK(store->space(pool->policy()).free_bytes == free_bytes);
    CHECK(fill() == windows);
    CHECK(read(2, 0, 256).value() == times(256, 1));
  }

  TEST_CASE_FIXTURE(FourAndTwo, "a scrub finds what is wrong in data and parity, and mends it") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    REQUIRE(sync().has_value());
    const journal::ScrubCounts all_well = scrub(1, 0, 256);
    CHECK(all_well.blocks == 256);
    CHECK(all_well.read_bytes == 384 * kBlockBytes);
    CHECK(all_well.copies_bad == 0);
    damage(locate(1, 100)[0]);
    damage(parity_of(1, 5, 0));
    damage(parity_of(1, 6, 0));
    damage(parity_of(1, 6, 1));
    const journal::ScrubCounts found = scrub(1, 0, 256);
    CHECK(found.copies_bad == 4);
    CHECK(found.copies_repaired == 4);
    CHECK(store->metrics().parity_repairs.sum() == 3);
    const journal::ScrubCounts again = scrub(1, 0, 256);
    CHECK(again.copies_bad == 0);
    lose(0);
    lose(1);
    CHECK(read(1, 0, 256).value() == times(256, 1));
  }

  TEST_CASE_FIXTURE(FourAndTwo,
                    "parity that covers blocks of others too is mended when all has been read") {
    // One stripe, of which half lies in one window of the file and half in the next.
    REQUIRE(write(1, 128, 256, 1).has_value());
    REQUIRE(sync().has_value());
    damage(parity_of(1, 130, 1));
    CHECK(scrub(1, 128, 128).copies_bad == 0);
    CHECK(scrub(1, 256, 128).copies_bad == 0);
    CHECK(store->metrics().parity_repairs.sum() == 0);
    REQUIRE(store->has_doubtful());
    store->note_doubtful(file(1), FileBlock{128}, 128);
    store->note_doubtful(file(1), FileBlock{256}, 128);
    const journal::ScrubCounts found = executor.run(store->scrub_doubtful());
    CHECK(found.copies_bad == 1);
    CHECK(found.copies_repaired == 1);
    CHECK(executor.run(store->scrub_doubtful()).copies_bad == 0);
    lose(2);
    lose(5);
    CHECK(read(1, 128, 256).value() == times(256, 1));
  }

  TEST_CASE_FIXTURE(FourAndTwo, "with too few disks left new data is kept in copies") {
    lose(5);
    REQUIRE(write(1, 0, 256, 1).has_value());
    REQUIRE(sync().has_value());
    lose(0);
    CHECK(read(1, 0, 256).value() == times(256, 1));
    CHECK(reconstructed() == 0);
  }

  TEST_CASE_FIXTURE(FourAndTwo,
                    "parity that cannot be read is written anew, and what is beside it looked at") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    REQUIRE(sync().has_value());
    damage(parity_of(1, 9, 1));
    const Location bad = parity_of(1, 5, 0);
    bool broken = true;
    disks[bad.disk]->faults().fail = [&](const scheduler::IoRequest& request) {
      const bool covers = request.offset_bytes <= bad.offset_bytes &&
                          bad.offset_bytes < request.offset_bytes + request.size_bytes;
      if (!covers || !broken || !scheduler::moves_data(request.op)) return Code::kOk;
      if (request.op == scheduler::IoOp::kRead) return Code::kDiskRead;
      broken = false;
      return Code::kOk;
    };
    const journal::ScrubCounts found = scrub(1, 0, 256);
    CHECK_FALSE(broken);
    CHECK(found.copies_bad == 2);
    CHECK(found.copies_repaired == 2);
    CHECK(scrub(1, 0, 256).copies_bad == 0);
  }

  TEST_CASE_FIXTURE(FourAndTwo, "what a suspect disk has is computed from the others") {
    REQUIRE(write(1, 0, 256, 1).has_value());
    const std::size_t slow = locate(1, 10)[0].disk;
    disks[slow]->faults().hung = true;
    std::optional<Result<Buffer>> before;
    spawn(keep(read_task(this, 1, 10, 1), &before));
    executor.run_for(std::chrono::seconds{2});
    CHECK_FALSE(before.has_value());
    disks[slow]->latency().look(executor.now(), disks[slow]->lateness());
    REQUIRE(disks[slow]->latency().suspect());
    CHECK(read(1, 10, 2).value() == times(2, 1));
    CHECK(reconstructed() == 2);
    CHECK_FALSE(before.has_value());
    // With two of the others wrong it takes the disk itself.
    damage(parity_of(1, 20, 0));
    damage(parity_of(1, 20, 1));
    std::optional<Result<Buffer>> after;
    spawn(keep(read_task(this, 1, 20, 1), &after));
    executor.run_for(std::chrono::seconds{2});
    CHECK_FALSE(after.has_value());
    disks[slow]->release();
    executor.run_until_idle();
    REQUIRE(before.has_value());
    REQUIRE(before->has_value());
    REQUIRE(after.has_value());
    REQUIRE(after->has_value());
    CHECK(versions(**after, 1, 20) == times(1, 1));
  }

  TEST_CASE_FIXTURE(FourAndTwo, "what was promised can be written, however full the disks are") {
    constexpr std::uint64_t kWindows = 24;
    REQUIRE(executor.run(reserve_task(this, 2, 0, kWindows * 256)).has_value());
    std::uint64_t filled = 0;
    while (write(1, filled * 256, 256, 1).has_value()) ++filled;
    CHECK(filled > 100);
    for (std::uint64_t i = 0; i < kWindows; ++i) {
      CAPTURE(i);
      REQUIRE(write(2, i * 256, 256, 3).has_value());
    }
    CHECK(read(2, 0, 256).value() == times(256, 3));
  }
}
