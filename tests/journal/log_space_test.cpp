// Which part of the log is in use: arithmetic, against the plainest model of a ring.

#include <deque>
#include <random>

#include <doctest/doctest.h>

#include "journal/log_space.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::uint64_t kBlocks = 16;
constexpr std::uint64_t kCapacity = kBlocks * kBlockBytes;

struct Log {
  LogSpace space{kCapacity, LogPosition{}};
  std::uint32_t crc = 0;
  std::uint64_t last = 0;

  std::optional<std::uint64_t> place(std::uint64_t blocks) const {
    const auto at = space.place(blocks * kBlockBytes);
    if (!at) return std::nullopt;
    return *at / kBlockBytes;
  }
  void add(std::uint64_t blocks) {
    LoggedBatch batch;
    batch.sequence = space.next().sequence;
    batch.offset = space.place(blocks * kBlockBytes).value();
    batch.size_bytes = blocks * kBlockBytes;
    batch.last = Lsn{last += 10};
    batch.previous_crc = crc;
    batch.crc = ++crc;
    space.add(batch);
  }
  void trim_to(std::uint64_t lsn) { space.trim(space.position_after(Lsn{lsn})); }
};

}  // namespace

TEST_SUITE("log space") {
  TEST_CASE("batches follow each other, and one that does not fit at the end goes to the front") {
    Log log;
    CHECK(log.place(6) == 0);
    log.add(6);
    CHECK(log.place(6) == 6);
    log.add(6);
    CHECK(log.place(4) == 12);
    CHECK(log.place(5) == std::nullopt);  // the front is in use
    log.trim_to(10);
    CHECK(log.place(4) == 12);
    CHECK(log.place(6) == 0);
    CHECK(log.place(7) == std::nullopt);
    log.add(6);
    CHECK(log.place(1) == std::nullopt);  // full
    CHECK(log.space.used_bytes() == kCapacity);
    log.trim_to(30);
    CHECK(log.space.used_bytes() == 0);
    CHECK(log.place(16) == 0);
    CHECK(log.place(10) == 6);
  }

  TEST_CASE("recovery starts at the first batch with a later record, or where the next one goes") {
    Log log;
    CHECK(log.space.position_after(Lsn{5}) == LogPosition{});
    log.add(2);  // LSNs to 10
    log.add(2);  // to 20
    CHECK(log.space.position_after(Lsn{0}) == LogPosition{});
    CHECK(log.space.position_after(Lsn{9}) == LogPosition{});
    const LogPosition second{
        .sequence = BatchSequence{2}, .offset = 2 * kBlockBytes, .previous_crc = 1};
    CHECK(log.space.position_after(Lsn{10}) == second);
    CHECK(log.space.position_after(Lsn{19}) == second);
    const LogPosition next{
        .sequence = BatchSequence{3}, .offset = 4 * kBlockBytes, .previous_crc = 2};
    CHECK(log.space.position_after(Lsn{20}) == next);
    CHECK(log.space.position_after(Lsn{1000}) == next);
    CHECK(log.space.next() == next);
  }

  TEST_CASE("no batch is placed over one that is needed, and a trimmed log takes any batch") {
    const std::uint64_t first = test::seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + test::scaled(300); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random{seed};
      Log log;
      struct Kept {
        std::uint64_t from, end, last;
      };
      std::deque<Kept> kept;
      for (int step = 0; step < 200; ++step) {
        const std::uint64_t blocks = 1 + random() % 8;
        const auto at = log.place(blocks);
        if (at) {
          CHECK(*at + blocks <= kBlocks);
          for (const Kept& other : kept) CHECK((*at + blocks <= other.from || *at >= other.end));
          log.add(blocks);
          kept.push_back({*at, *at + blocks, log.last});
        } else {
          CHECK_FALSE(kept.empty());
        }
        if (random() % 3 == 0 && !kept.empty()) {
          const std::uint64_t until = kept[random() % kept.size()].last;
          log.trim_to(until);
          while (!kept.empty() && kept.front().last <= until) kept.pop_front();
        }
        std::uint64_t used = 0;
        for (const Kept& one : kept) used += one.end - one.from;
        CHECK(log.space.used_bytes() >= used * kBlockBytes);
        CHECK(log.space.used_bytes() <= kCapacity);
        CHECK((log.space.used_bytes() == 0) == kept.empty());
        CHECK(log.space.batches() == kept.size());
      }
      log.trim_to(log.last);
      CHECK(log.place(kBlocks).has_value());
    }
  }
}

}  // namespace dynamicfs::journal
