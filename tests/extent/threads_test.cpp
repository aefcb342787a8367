// The store with real threads: writers, readers without locks, commits and reclaim at once. Run it
// under the thread sanitizer.
#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <thread>

#include "base/blocking.hpp"
#include "tests/extent/memory_disk.hpp"
#include "tests/extent/sim_store.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;
using namespace dynamicfs::test;

namespace {

struct ThreadStore {
  ThreadStore() {
    std::vector<std::unique_ptr<scheduler::Disk>> disks;
    std::vector<scheduler::Disk*> plain;
    for (int i = 0; i < 2; ++i) {
      disks.push_back(std::make_unique<MemoryDisk>(*executor, "memory", 44 * kMiB));
      plain.push_back(disks.back().get());
    }
    const journal::FormatOptions format{.policy = {.copies_or_data = 2}, .label = "test"};
    REQUIRE(block_on(*executor, journal::Pool::format(*executor, plain, format)).has_value());
    journal::Pool::Opening opening;
    opening.disks = std::move(disks);
    journal::Pool::Problem problem;
    auto opened = block_on(*executor, journal::Pool::open(*executor, std::move(opening), &problem));
    REQUIRE(opened.has_value());
    pool = std::move(opened).value();
    store = std::make_unique<Store>(*executor, *pool, gate, eras);
    journal::Replay replay;
    replay.apply = [](Lsn, std::span<const std::byte>) { return done(); };
    auto log_opened =
        block_on(*executor, journal::Journal::open(*executor, *pool, std::move(replay)));
    REQUIRE(log_opened.has_value());
    log = std::move(log_opened).value();
    store->start(*log);
    map = std::make_unique<FileMap>(store->map_context());
  }
  ~ThreadStore() {
    block_on(*executor, close(this));
    log.reset();
    map.reset();
    store.reset();
    pool.reset();
  }

  static Task<int> close(ThreadStore* self) {
    co_await self->log->close();
    co_return 0;
  }
  static Task<Result<Lsn>> write(ThreadStore* self, std::uint64_t first, std::uint64_t count,
                                 std::uint64_t version) {
    const Buffer data = stamped(1, first, count, version);
    WriteHint hint;
    hint.inode = InodeId{1};
    hint.first = FileBlock{first};
    hint.policy = self->pool->policy();
    hint.replaced_blocks = count;
    CO_TRY_ASSIGN(const Written written, co_await self->store->write(hint, data.span()));
    journal::Credit credit = co_await self->log->reserve(1, 8 * kKiB);
    Freed freed;
    Lsn lsn;
    {
      const journal::ChangeScope scope(self->gate);
      const auto guard = self->store->locks().lock(InodeId{1}, FileBlock{first}, count);
      Bytes record;
      ByteWriter writer(record);
      encode(writer, InodeId{1}, FileBlock{first}, written.pieces, written.crcs);
      lsn = self->log->append(credit, record);
      self->map->put(FileBlock{first}, written.pieces, written.crcs, Generation{lsn.raw}, freed);
      self->store->publish(written);
      self->store->free(freed, lsn);
    }
    co_return lsn;
  }
  static Task<Result<Buffer>> read(ThreadStore* self, std::uint64_t first, std::uint64_t count) {
    Buffer data{count * kBlockBytes};
    CO_TRY(co_await self->store->read(*self->map, InodeId{1}, FileBlock{first}, data,
                                      scheduler::IoClass::kRead));
    co_return data;
  }
  // Commits, forgets the log (nobody will recover from it), and releases what has become safe.
  static Task<Result<void>> housekeep(ThreadStore* self) {
    CO_TRY(co_await self->log->drain());
    self->log->trim(self->log->position_after(self->log->durable()));
    co_await self->store->reclaim();
    co_return Result<void>{};
  }

  std::unique_ptr<Executor> executor = make_thread_executor();
  journal::ChangeGate gate;
  journal::Eras eras;
  std::unique_ptr<journal::Pool> pool;
  std::unique_ptr<Store> store;
  std::unique_ptr<journal::Journal> log;
  std::unique_ptr<FileMap> map;
};

}  // namespace

TEST_SUITE("store with threads") {
  TEST_CASE_FIXTURE(ThreadStore,
                    "each read is one instant, and no block is reused under a reader") {
    // Every write to [200, 457) carries one number in all of its blocks; single blocks of [0, 150)
    // are overwritten at random.
    const std::uint64_t rounds = scaled(300);
    std::atomic<std::uint64_t> version{0};
    std::atomic<int> writers{3};
    std::atomic<std::uint64_t> bad{0};
    std::atomic<std::uint64_t> reads{0};
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(t + 1);
        // On a busy machine it takes longer until a read and a release came in between.
        const auto enough = [&] {
          return reads.load() > 0 && store->metrics().blocks_reused.sum() > 0;
        };
        for (std::uint64_t i = 0; i < rounds || (i < 100 * rounds && !enough()); ++i) {
          const bool wide = random() % 2 == 0;
          const auto result = block_on(*executor, write(this, wide ? 200 : random() % 150,
                                                        wide ? 257 : 1 + random() % 20, ++version));
          if (!result.has_value()) bad.fetch_add(1);
        }
        writers.fetch_sub(1);
      });
    }
    for (std::uint64_t t = 0; t < 2; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(t + 100);
        while (writers.load() > 0) {
          const bool wide = random() % 2 == 0;
          const std::uint64_t first = wide ? 200 : random() % 150;
          const std::uint64_t count = wide ? 257 : 1 + random() % 20;
          const auto data = block_on(*executor, read(this, first, count));
          if (!data.has_value()) {
            bad.fetch_add(1);
            continue;
          }
          std::optional<std::uint64_t> seen;
          for (std::uint64_t i = 0; i < count; ++i) {
            const auto stamp = read_stamp(data->data() + i * kBlockBytes);
            const bool whole =
                stamp && (stamp->version == 0 || (stamp->inode == 1 && stamp->block == first + i));
            if (!whole) {
              bad.fetch_add(1);
            } else if (wide) {
              if (seen && *seen != stamp->version) bad.fetch_add(1);
              seen = stamp->version;
            }
          }
          reads.fetch_add(1);
        }
      });
    }
    threads.emplace_back([&] {
      while (writers.load() > 0) {
        if (!block_on(*executor, housekeep(this)).has_value()) bad.fetch_add(1);
      }
    });
    for (std::thread& thread : threads) thread.join();
    CHECK(bad == 0);
    CHECK(reads > 0);
    CHECK(store->metrics().checksum_stale.sum() == 0);
    CHECK(store->metrics().checksum_errors.sum() == 0);
    CHECK(store->metrics().blocks_reused.sum() > 0);
  }

  TEST_CASE_FIXTURE(ThreadStore,
                    "reads of several windows that meet a change of them look again, then lock") {
    // All of them change at once, which takes long enough to be met.
    constexpr std::uint64_t kBlocks = 64 * kWindowBlocks;
    const auto start = Generation{1};
    map->reserve(FileBlock{0}, kBlocks, start);
    std::atomic<bool> stop{false};
    std::thread writer([&] {
      for (std::uint64_t n = 2; !stop.load(std::memory_order_relaxed); ++n) {
        Freed freed;
        const journal::ChangeScope scope(gate);
        const auto guard = store->locks().lock(InodeId{1}, FileBlock{0}, kBlocks);
        map->clear(FileBlock{0}, kBlocks, freed);
        map->reserve(FileBlock{0}, kBlocks, Generation{n});
      }
    });
    const StoreMetrics& metrics = store->metrics();
    const auto read_blocks = [&](std::uint64_t first, std::uint64_t reads) {
      for (std::uint64_t i = 0; i < reads; ++i) {
        REQUIRE(block_on(*executor, read(this, first, 2)).has_value());
      }
    };
    // Within one window there is nothing to meet.
    read_blocks(33 * kWindowBlocks, 1000);
    CHECK(metrics.reads_optimistic.sum() == 1000);
    CHECK(metrics.read_retries.sum() == 0);
    std::uint64_t reads = 0;
    while (reads < 100'000 && (reads < 1000 || metrics.read_fallbacks.sum() == 0)) {
      read_blocks(33 * kWindowBlocks - 1, 1);
      ++reads;
    }
    stop = true;
    writer.join();
    // Each ends in one of the two ways, and takes the locks after three tries.
    CHECK(metrics.read_fallbacks.sum() > 0);
    CHECK(metrics.reads_optimistic.sum() + metrics.read_fallbacks.sum() == 1000 + reads);
    CHECK(metrics.read_retries.sum() >= 3 * metrics.read_fallbacks.sum());
  }
}
