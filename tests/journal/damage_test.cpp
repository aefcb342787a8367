// The log after damage: a torn tail is cut off, rot is repaired from another member or refused.

#include "journal/record_format.hpp"
#include "tests/journal/workload.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// Three synced records, each a batch of its own.
struct ThreeBatches : SimPool {
  explicit ThreeBatches(std::size_t disk_count, std::uint64_t seed = 3)
      : SimPool(seed, replicas(disk_count)) {
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
    for (const char* text : {"one", "two", "three"}) {
      const Lsn lsn = append(text);
      REQUIRE(sync(lsn).has_value());
      offsets.push_back(journal::kJournalOffset + log->position_after(Lsn{lsn.raw - 1}).offset);
    }
    power_cut();
  }
  void spoil_header(std::size_t disk, std::size_t batch) {
    media[disk]->flip(offsets[batch] + 40, 1);
  }
  void spoil_record(std::size_t disk, std::size_t batch) {
    media[disk]->flip(offsets[batch] + journal::kBatchHeaderBytes + journal::kFrameHeaderBytes, 1);
  }
  std::vector<std::string> found() { return texts(replayed); }

  std::vector<std::uint64_t> offsets;  // on the volume
};

const std::vector<std::string> kAll{"one", "two", "three"};

}  // namespace

TEST_SUITE("journal damage") {
  TEST_CASE("an end without a torn batch is no torn tail") {
    ThreeBatches pool{2};
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == kAll);
    const auto& report = pool.log->recovery();
    CHECK_FALSE(report.torn_tail);
    CHECK(report.records_replayed == 3);
    CHECK(report.batches_replayed == 3);
    CHECK(report.batches_repaired == 0);
    CHECK(report.last.raw == 3);
  }

  TEST_CASE("a torn last batch is dropped, reported, and overwritten by the next one") {
    ThreeBatches pool{2};
    pool.spoil_record(0, 2);
    pool.spoil_record(1, 2);
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == std::vector<std::string>{"one", "two"});
    CHECK(pool.log->recovery().torn_tail);
    REQUIRE(pool.append_and_sync("new").has_value());
    pool.reboot_after_power_cut();
    CHECK(pool.found() == std::vector<std::string>{"one", "two", "new"});
    CHECK_FALSE(pool.log->recovery().torn_tail);
  }

  TEST_CASE("a batch that one member lacks or has damaged is taken from the other and repaired") {
    for (const std::size_t disk : {0u, 1u}) {
      for (const std::size_t batch : {0u, 1u, 2u}) {
        for (const bool header : {false, true}) {
          CAPTURE(disk);
          CAPTURE(batch);
          CAPTURE(header);
          ThreeBatches pool{2};
          header ? pool.spoil_header(disk, batch) : pool.spoil_record(disk, batch);
          REQUIRE(pool.boot().has_value());
          CHECK(pool.found() == kAll);
          CHECK(pool.log->recovery().batches_repaired == 1);
          // The repaired copy stands alone.
          pool.power_cut();
          pool.here[1 - disk] = false;
          REQUIRE(pool.boot().has_value());
          CHECK(pool.found() == kAll);
        }
      }
    }
  }

  TEST_CASE("different batches damaged on different members are all found and repaired") {
    ThreeBatches pool{3};
    pool.spoil_record(0, 0);
    pool.spoil_header(1, 0);
    pool.spoil_header(1, 1);
    pool.spoil_record(2, 1);
    pool.spoil_record(2, 2);
    pool.spoil_header(0, 2);
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == kAll);
    pool.reboot_after_power_cut();
    CHECK(pool.log->recovery().batches_repaired == 0);
  }

  TEST_CASE("a batch damaged on every member, with a later one behind it, is refused") {
    for (const std::size_t disks : {1u, 2u, 3u}) {
      for (const std::size_t batch : {0u, 1u}) {
        for (const bool header : {false, true}) {
          CAPTURE(disks);
          CAPTURE(batch);
          CAPTURE(header);
          ThreeBatches pool{disks};
          for (std::size_t disk = 0; disk < disks; ++disk) {
            header ? pool.spoil_header(disk, batch) : pool.spoil_record(disk, batch);
          }
          const auto before = pool.superblock_on(0);
          const Result<void> booted = pool.boot();
          REQUIRE_FALSE(booted.has_value());
          CHECK(booted.error() == error(Code::kCorrupt, batch + 1));
          pool.shut();
          CHECK(pool.superblock_on(0) == before);
        }
      }
    }
  }

  TEST_CASE("the header of a torn batch proves that the one before it was whole once") {
    ThreeBatches pool{2};
    for (const std::size_t disk : {0u, 1u}) {
      pool.spoil_record(disk, 1);
      pool.spoil_record(disk, 2);
    }
    CHECK(pool.boot().error() == error(Code::kCorrupt, 2));
  }

  TEST_CASE("a watermark closes the log, so damage to its last record is noticed") {
    SimPool pool{3, SimPool::replicas(1)};
    REQUIRE(pool.format().has_value());
    REQUIRE(pool.boot().has_value());
    pool.append("only");
    REQUIRE(pool.executor.run(pool.log->drain()).has_value());
    pool.power_cut();
    pool.media[0]->flip(journal::kJournalOffset + journal::kBatchHeaderBytes + 20, 0);
    CHECK(pool.boot().error().code == Code::kCorrupt);
  }

  TEST_CASE("what cannot be read on one member is read from the other, on both it is an error") {
    for (const bool both : {false, true}) {
      CAPTURE(both);
      ThreeBatches pool{2};
      const std::uint64_t bad = pool.offsets[1];
      pool.on_new_disk = [bad, both](std::size_t i, SimulatedDisk& disk) {
        if (i != 0 && !both) return;
        auto written = std::make_shared<bool>(false);
        disk.faults().fail = [bad, written](const scheduler::IoRequest& request) {
          const bool there =
              request.offset_bytes <= bad && bad < request.offset_bytes + request.size_bytes;
          if (request.op == scheduler::IoOp::kWrite && there)
            *written = true;  // the sector is replaced
          return request.op == scheduler::IoOp::kRead && there && !*written ? Code::kDiskRead
                                                                            : Code::kOk;
        };
      };
      const Result<void> booted = pool.boot();
      if (both) {
        REQUIRE_FALSE(booted.has_value());
        CHECK(booted.error() == error(Code::kCorrupt, 2));
      } else {
        REQUIRE(booted.has_value());
        CHECK(pool.found() == kAll);
        CHECK(pool.log->recovery().batches_repaired == 1);
        CHECK_FALSE(pool.pool->degraded());
      }
    }
  }

  TEST_CASE("where the log may go on and no member can be read nobody knows its end: refused") {
    for (const bool both : {false, true}) {
      CAPTURE(both);
      ThreeBatches pool{2};
      const std::uint64_t next = pool.offsets[2] + kBlockBytes;
      pool.on_new_disk = [next, both](std::size_t i, SimulatedDisk& disk) {
        if (i != 0 && !both) return;
        disk.faults().fail = [next](const scheduler::IoRequest& request) {
          const bool there =
              request.offset_bytes <= next && next < request.offset_bytes + request.size_bytes;
          return request.op == scheduler::IoOp::kRead && there ? Code::kDiskRead : Code::kOk;
        };
      };
      const auto before = pool.superblock_on(0);
      const Result<void> booted = pool.boot();
      REQUIRE(booted.has_value() == !both);
      if (both) {
        CHECK(booted.error() == error(Code::kCorrupt, 4));
        pool.shut();
        CHECK(pool.superblock_on(0) == before);
      } else {
        CHECK(pool.found() == kAll);
      }
    }
  }

  TEST_CASE("a member that cannot be repaired is left out, and the rest goes on") {
    ThreeBatches pool{3};
    pool.spoil_record(1, 1);
    pool.on_new_disk = [](std::size_t i, SimulatedDisk& disk) {
      if (i != 1) return;
      disk.faults().fail = [](const scheduler::IoRequest& request) {
        return request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
      };
    };
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == kAll);
    CHECK(pool.pool->members() == std::vector<DiskId>{DiskId{0}, DiskId{2}});
    CHECK(pool.pool->status()[1].health == DiskHealth::kFailed);
    CHECK(pool.append_and_sync("on").has_value());
  }

  TEST_CASE("a write into the wrong place is noticed on the member that has it") {
    ThreeBatches pool{2};
    // The second batch of A lies where the third should, which is what a misdirected write leaves.
    Buffer block{kBlockBytes};
    pool.media[0]->read(pool.offsets[1], block.span());
    pool.media[0]->write(pool.offsets[2], block.span());
    REQUIRE(pool.boot().has_value());
    CHECK(pool.found() == kAll);
    CHECK(pool.log->recovery().batches_repaired == 1);
  }

  TEST_CASE("an Apply that refuses stops the mount with its own error") {
    ThreeBatches pool{2};
    REQUIRE(pool.open_pool().has_value());
    unsigned calls = 0;
    journal::Replay replay;
    replay.apply = [&calls](Lsn, std::span<const std::byte>) {
      return done(++calls == 2 ? Result<void>{error(Code::kFormatInvalid, 77)} : Result<void>{});
    };
    auto opened = pool.executor.run(Journal::open(pool.executor, *pool.pool, std::move(replay)));
    REQUIRE_FALSE(opened.has_value());
    CHECK(opened.error() == error(Code::kFormatInvalid, 77));
    CHECK(calls == 2);
  }

  TEST_CASE("opening read-only replays, writes nothing, and commits nothing") {
    ThreeBatches pool{2};
    pool.spoil_record(0, 1);
    REQUIRE(pool.boot(true).has_value());
    CHECK(pool.found() == kAll);
    CHECK(pool.log->stopped());
    CHECK(pool.pool->read_only());
    CHECK(pool.append_and_sync("no").error().code == Code::kJournalStopped);
    for (const SimulatedDisk* const disk : pool.disks) CHECK(disk->device_operations() == 0);
  }

  TEST_CASE("any single flipped bit of the log on one of two members goes unnoticed by the user") {
    const std::uint64_t first = seed_from_environment(60);
    for (std::uint64_t seed = first; seed < first + seeds(100); ++seed) {
      CAPTURE(seed);
      ThreeBatches pool{2, seed};
      const std::uint64_t random = pool.executor.random();
      pool.media[random % 2]->flip(pool.offsets[0] + random / 2 % (3 * kBlockBytes), random % 8);
      REQUIRE(pool.boot().has_value());
      CHECK(pool.found() == kAll);
    }
  }

  TEST_CASE("no bytes in the log make recovery crash") {
    const std::uint64_t first = seed_from_environment(70);
    for (std::uint64_t seed = first; seed < first + seeds(100); ++seed) {
      CAPTURE(seed);
      ThreeBatches pool{1, seed};
      const std::uint64_t flips = 1 + pool.executor.random() % 50;
      for (std::uint64_t i = 0; i < flips; ++i) {
        const std::uint64_t random = pool.executor.random();
        pool.media[0]->flip(pool.offsets[0] + random % (3 * kBlockBytes) / (1 + random % 30),
                            random % 8);
      }
      const Result<void> booted = pool.boot();
      if (!booted.has_value()) CHECK(booted.error().code == Code::kCorrupt);
    }
  }
}

TEST_SUITE("record format") {
  TEST_CASE("frames that contradict the header are refused, whatever their checksums say") {
    Bytes batch(kBlockBytes);
    journal::BatchHeader header;
    header.first = Lsn{5};
    header.last = Lsn{5};
    header.records = 1;
    header.payload_bytes = 24;
    const auto payload = as_bytes("hello");
    const auto frame =
        std::span{batch}.subspan(journal::kBatchHeaderBytes, journal::frame_bytes(5));
    const auto read = [&] {
      std::vector<std::string> seen;
      const auto result = journal::for_each_record(
          header, batch, [&](Lsn, std::span<const std::byte> bytes) -> Result<void> {
            seen.emplace_back(as_text(bytes));
            return {};
          });
      return std::pair{result.has_value(), seen};
    };
    journal::put_frame(frame, Lsn{5}, journal::frame_crc(Lsn{5}, payload), payload);
    CHECK(read() == std::pair{true, std::vector<std::string>{"hello"}});

    journal::put_frame(frame, Lsn{6}, journal::frame_crc(Lsn{6}, payload), payload);
    CHECK_FALSE(read().first);
    journal::put_frame(frame, Lsn{5}, journal::frame_crc(Lsn{4}, payload), payload);
    CHECK_FALSE(read().first);
    journal::put_frame(frame, Lsn{5}, journal::frame_crc(Lsn{5}, payload), payload);
    header.records = 2;
    CHECK_FALSE(read().first);
    header.records = 0;
    CHECK_FALSE(read().first);
    header.records = 1;
    header.payload_bytes = 16;
    CHECK_FALSE(read().first);
  }

  TEST_CASE("every bit of a header counts") {
    Bytes batch(kBlockBytes);
    journal::BatchHeader header;
    header.sequence = BatchSequence{9};
    header.payload_bytes = 24;
    journal::put_header(batch, header);
    CHECK(journal::get_header(batch) == header);
    for (std::size_t bit = 0; bit < journal::kBatchHeaderBytes * 8; ++bit) {
      batch[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      CHECK_FALSE(journal::get_header(batch).has_value());
      batch[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    }
    CHECK_FALSE(journal::get_header(std::span{batch}.first(100)).has_value());
    header.payload_bytes = journal::kBatchBytesMax;
    journal::put_header(batch, header);
    CHECK_FALSE(journal::get_header(batch).has_value());
  }
}

}  // namespace dynamicfs::test
