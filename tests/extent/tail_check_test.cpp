// Records of the last batch count if their data is there: what a mount after a crash makes of them.
#include <doctest/doctest.h>

#include "tests/extent/sim_store.hpp"

namespace dynamicfs::test {
namespace {

// Two files, both in the last batch, beside their data. The devices have all of it.
struct Tail : SimStore {
  Tail() : SimStore(7) {
    REQUIRE(write(1, 0, 4, 1).has_value());
    REQUIRE(write(2, 0, 2, 1).has_value());
    first = locate(1, 2);
    second = locate(2, 0);
    REQUIRE(sync().has_value());
    power_cut();
  }
  void flip(const Location& at) { media[at.disk]->flip(at.offset_bytes + 100, 1); }
  bool differs(const Location& a, const Location& b) const {
    Bytes one(kBlockBytes);
    Bytes other(kBlockBytes);
    media[a.disk]->read(a.offset_bytes, one);
    media[b.disk]->read(b.offset_bytes, other);
    return one != other;
  }
  std::vector<Location> first, second;  // copies of a block of each file
};

}  // namespace

TEST_SUITE("data of the last records") {
  TEST_CASE_FIXTURE(Tail, "all there: the records count") {
    boot();
    CHECK(log->recovery().records_checked >= 2);
    CHECK(log->recovery().records_dropped == 0);
    CHECK(read(1, 0, 4).value() == Versions{1, 1, 1, 1});
    CHECK(read(2, 0, 2).value() == Versions{1, 1});
  }

  TEST_CASE_FIXTURE(Tail,
                    "a copy that is not there is written from one that is, before the mount") {
    flip(first[1]);
    flip(second[0]);
    boot();
    CHECK(log->recovery().records_dropped == 0);
    power_cut();
    CHECK_FALSE(differs(first[0], first[1]));
    CHECK_FALSE(differs(second[0], second[1]));
    boot();
    CHECK(read(1, 0, 4).value() == Versions{1, 1, 1, 1});
    CHECK(read(2, 0, 2).value() == Versions{1, 1});
    CHECK(store->metrics().checksum_errors.sum() == 0);
  }

  TEST_CASE_FIXTURE(Tail, "a disk that refuses its missing copy is left out, and commits go on") {
    flip(first[1]);
    const std::size_t victim = first[1].disk;
    on_open = [victim](std::size_t index, SimulatedDisk& disk) {
      if (index != victim) return;
      disk.faults().fail = [](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
      };
    };
    boot();
    CHECK(pool->degraded());
    CHECK(pool->members().size() == 1);
    CHECK(read(1, 0, 4).value() == Versions{1, 1, 1, 1});
    REQUIRE(write(3, 0, 4, 2).has_value());
    REQUIRE(sync().has_value());
  }

  TEST_CASE_FIXTURE(Tail, "a disk whose host is full stays, without the copy") {
    flip(first[1]);
    const std::size_t victim = first[1].disk;
    on_open = [victim](std::size_t index, SimulatedDisk& disk) {
      if (index != victim) return;
      disk.faults().fail = [](const scheduler::IoRequest& request) {
        const bool data =
            request.offset_bytes >= journal::kJournalOffset + journal::kJournalBytesMin;
        return request.op == scheduler::IoOp::kWrite && data ? Code::kNoSpace : Code::kOk;
      };
    };
    boot();
    CHECK_FALSE(pool->degraded());
    CHECK(read(1, 0, 4).value() == Versions{1, 1, 1, 1});
  }

  TEST_CASE_FIXTURE(Tail, "a record without its data on any disk goes, with all behind it") {
    SUBCASE("the last") {
      flip(second[0]);
      flip(second[1]);
      boot();
      CHECK(log->recovery().records_dropped == 1);
      CHECK(read(1, 0, 4).value() == Versions{1, 1, 1, 1});
    }
    SUBCASE("one before it") {
      flip(first[0]);
      flip(first[1]);
      boot();
      CHECK(log->recovery().records_dropped >= 2);
      CHECK(read(1, 0, 4).value() == Versions{0, 0, 0, 0});
    }
    CHECK(read(2, 0, 2).value() == Versions{0, 0});
    // Their blocks are free, and what is written there now stays.
    REQUIRE(write(3, 0, 16, 5).has_value());
    REQUIRE(sync().has_value());
    power_cut();
    boot();
    CHECK(read(3, 0, 16).value() == Versions(16, 5));
    CHECK(read(2, 0, 2).value() == Versions{0, 0});
  }

  TEST_CASE("a copy that cannot be read says nothing; one that is wrong does") {
    SimStore pool{9};
    REQUIRE(pool.write(1, 0, 2, 1).has_value());
    extent::MappingSet set;
    pool.file(1).snapshot(FileBlock{0}, 2, set);
    REQUIRE(set.mappings.size() == 1);
    const auto where = pool.locate(1, 1);
    const auto ask = [&pool, &set] {
      extent::Claims claims;
      extent::Claims::Claim claim;
      claim.record = 17;
      claim.put.pieces = {{set.mappings[0].chunk, set.mappings[0].block, 2}};
      claim.put.crcs.assign(set.crcs.begin(), set.crcs.end());
      claims.claims.push_back(claim);
      return pool.executor.run(pool.store->first_missing(std::move(claims)));
    };
    CHECK(ask() == std::nullopt);
    const auto unreadable = [&pool](std::size_t disk) {
      pool.disks[disk]->faults().fail = [&pool, disk](const scheduler::IoRequest& request) {
        const bool data = request.op == scheduler::IoOp::kRead && pool.is_data(disk, request);
        return data ? Code::kDiskRead : Code::kOk;
      };
    };
    SUBCASE("neither can be read") {
      unreadable(0);
      unreadable(1);
      CHECK(ask() == std::nullopt);
    }
    SUBCASE("one cannot be read, the other is wrong") {
      unreadable(where[0].disk);
      pool.damage(where[1]);
      CHECK(ask() == 17);
    }
    SUBCASE("one cannot be read, the other is right") {
      unreadable(where[0].disk);
      CHECK(ask() == std::nullopt);
    }
    SUBCASE("both are wrong, and away") {
      pool.damage(where[0]);
      pool.damage(where[1]);
      for (const auto& at : where) {
        const DiskId id{static_cast<std::uint16_t>(at.disk)};
        pool.executor.run(pool.pool->report_failure(id, error(Code::kDiskWrite)))
            .ignore("two are one too many");
        REQUIRE(pool.pool->disk(id) == nullptr);
      }
      CHECK(ask() == std::nullopt);
    }
    SUBCASE("one is away, the other is right") {
      pool.disks[where[0].disk]->fail();
      CHECK(ask() == std::nullopt);
      CHECK(pool.pool->degraded());
    }
  }

  TEST_CASE("many records are looked at piece by piece") {
    SimStoreOptions options;
    options.disk_bytes = {128 * kMiB, 128 * kMiB};
    SimStore pool{10, options};
    for (std::uint64_t inode = 1; inode <= 24; ++inode) {
      REQUIRE(pool.write(inode, 0, 256, inode).has_value());  // 24 MiB, a batch of some 27 KiB
    }
    const auto last = pool.locate(20, 255);
    REQUIRE(pool.sync().has_value());
    pool.power_cut();
    for (const auto& at : last) pool.media[at.disk]->flip(at.offset_bytes, 0);
    pool.boot();
    CHECK(pool.log->recovery().records_dropped >= 5);
    for (std::uint64_t inode = 1; inode < 20; ++inode) {
      CHECK(pool.read(inode, 255, 1).value() == Versions{inode});
    }
    for (std::uint64_t inode = 20; inode <= 24; ++inode) {
      CHECK(pool.read(inode, 0, 1).value() == Versions{0});
    }
  }
}

}  // namespace dynamicfs::test
