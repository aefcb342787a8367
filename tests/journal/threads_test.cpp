// The journal under real threads: nothing lost, nothing twice, nobody left waiting. Run under the
// thread sanitizer as well.

#include <map>
#include <set>
#include <thread>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "journal/journal.hpp"
#include "journal/record_ring.hpp"
#include "tests/journal/threaded_disk.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {

using journal::Journal;
using journal::Pool;

namespace {

constexpr unsigned kThreads = 8;
constexpr std::uint32_t kHalfRing = journal::kRingRecords / 2;

struct ThreadedPool {
  explicit ThreadedPool(std::size_t disk_count) {
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});
    for (std::size_t i = 0; i < disk_count; ++i) {
      media.push_back(std::make_shared<Bytes>(journal::kVolumeBytesMin));
    }
    std::vector<std::unique_ptr<scheduler::Disk>> made = make_disks();
    std::vector<scheduler::Disk*> to_format;
    for (const auto& disk : made) to_format.push_back(disk.get());
    journal::FormatOptions options;
    options.policy.copies_or_data = static_cast<std::uint8_t>(disk_count);
    REQUIRE(block_on(*executor, Pool::format(*executor, to_format, options)).has_value());
  }
  ~ThreadedPool() { shut(); }

  std::vector<std::unique_ptr<scheduler::Disk>> make_disks() {
    std::vector<std::unique_ptr<scheduler::Disk>> out;
    for (std::size_t i = 0; i < media.size(); ++i) {
      out.push_back(
          std::make_unique<ThreadedDisk>(*executor, fmt::format("/disks/{}", i), media[i]));
    }
    return out;
  }
  void boot() {
    shut();
    replayed.clear();
    Pool::Opening opening;
    opening.disks = make_disks();
    auto opened = block_on(*executor, Pool::open(*executor, std::move(opening), nullptr));
    REQUIRE(opened.has_value());
    pool = std::move(opened).value();
    journal::Replay replay;
    replay.apply = [this](Lsn lsn, std::span<const std::byte> payload) -> Result<void> {
      replayed.emplace(lsn.raw, as_text(payload));
      return {};
    };
    auto log_opened = block_on(*executor, Journal::open(*executor, *pool, std::move(replay)));
    REQUIRE(log_opened.has_value());
    log = std::move(log_opened).value();
  }
  void shut() {
    if (log != nullptr) block_on(*executor, closed(*log));
    log.reset();
    pool.reset();
  }
  static Task<int> closed(Journal& journal) {
    co_await journal.close();
    co_return 0;
  }

  std::unique_ptr<Executor> executor = make_thread_executor();
  std::vector<std::shared_ptr<Bytes>> media;
  std::unique_ptr<Pool> pool;
  std::unique_ptr<Journal> log;
  std::map<std::uint64_t, std::string> replayed;
};

struct Appended {
  std::map<std::uint64_t, std::string> records;
  std::uint64_t acknowledged = 0;
};

Task<bool> append_one(Journal& log, std::string text, bool sync, Appended* to) {
  journal::Credit credit = co_await log.reserve(1, text.size());
  const Lsn lsn = log.append(credit, as_bytes(text));
  to->records.emplace(lsn.raw, std::move(text));
  if (!sync) co_return true;
  const Result<void> synced = co_await log.sync(lsn);
  if (!synced.has_value()) co_return false;
  to->acknowledged = std::max(to->acknowledged, lsn.raw);
  co_return true;
}

void append_from_threads(ThreadedPool& pool, unsigned each, std::vector<Appended>& appended) {
  std::vector<std::thread> threads;
  appended.resize(kThreads);
  for (unsigned number = 0; number < kThreads; ++number) {
    threads.emplace_back([&pool, &appended, each, number] {
      for (unsigned i = 0; i < each; ++i) {
        // Some longer than a slot of the ring.
        std::string text = fmt::format("{}:{}:", number, i);
        text.resize(text.size() + i * 37 % (i % 50 == 0 ? 5000 : 300), 'x');
        if (!block_on(*pool.executor,
                      append_one(*pool.log, std::move(text), i % 3 == 0, &appended[number])))
          break;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::map<std::uint64_t, std::string> merged(const std::vector<Appended>& appended) {
  std::map<std::uint64_t, std::string> all;
  std::size_t count = 0;
  for (const Appended& one : appended) {
    all.insert(one.records.begin(), one.records.end());
    count += one.records.size();
  }
  CHECK(all.size() == count);  // no LSN twice
  return all;
}

}  // namespace

TEST_SUITE("journal under threads") {
  TEST_CASE("eight threads append and sync, and everything is there after a reboot") {
    ThreadedPool pool{2};
    pool.boot();
    std::vector<Appended> appended;
    append_from_threads(pool, static_cast<unsigned>(scaled(400)), appended);
    REQUIRE(block_on(*pool.executor, pool.log->drain()).has_value());
    CHECK(pool.log->covered() == pool.log->appended());
    const auto& metrics = pool.log->metrics();
    CHECK(metrics.group_commits.sum() < metrics.group_commit_waiters.sum());
    pool.boot();
    CHECK(pool.replayed == merged(appended));
  }

  TEST_CASE("a disk that fails meanwhile costs no acknowledged record") {
    for (unsigned round = 0; round < scaled(5); ++round) {
      ThreadedPool pool{2};
      pool.boot();
      std::vector<Appended> appended;
      std::thread killer([&pool, round] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5 + 7 * round));
        const auto reported =
            block_on(*pool.executor, pool.pool->report_failure(DiskId{1}, error(Code::kDiskWrite)));
        CHECK(reported.has_value());
      });
      append_from_threads(pool, 200, appended);
      killer.join();
      REQUIRE(block_on(*pool.executor, pool.log->drain()).has_value());
      CHECK_FALSE(pool.log->stopped());
      CHECK(pool.pool->members().size() == 1);
      pool.boot();
      CHECK(pool.replayed == merged(appended));
    }
  }

  TEST_CASE("a full ring makes threads wait, and lets all of them through") {
    ThreadedPool pool{1};
    pool.boot();
    struct Bulk {
      // Half of the ring at a time, without a sync.
      static Task<int> run(Journal& log, unsigned times) {
        for (unsigned i = 0; i < times; ++i) {
          journal::Credit credit = co_await log.reserve(kHalfRing, kHalfRing);
          for (std::uint32_t k = 0; k < kHalfRing; ++k) (void)log.append(credit, as_bytes("x"));
        }
        co_return 0;
      }
    };
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < kThreads; ++number) {
      threads.emplace_back([&pool] { block_on(*pool.executor, Bulk::run(*pool.log, 3)); });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(pool.log->metrics().appends.sum() == kThreads * 3 * journal::kRingRecords / 2);
    REQUIRE(block_on(*pool.executor, pool.log->drain()).has_value());
  }

  TEST_CASE("stopping while threads append and sync leaves nobody waiting") {
    for (unsigned round = 0; round < scaled(10); ++round) {
      ThreadedPool pool{2};
      pool.boot();
      std::vector<Appended> appended;
      std::thread stopper([&pool, round] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1 + 3 * round));
        pool.log->stop();
      });
      append_from_threads(pool, 100000, appended);
      stopper.join();
      std::uint64_t acknowledged = 0;
      for (const Appended& one : appended) acknowledged = std::max(acknowledged, one.acknowledged);
      pool.boot();
      const auto all = merged(appended);
      CHECK(pool.log->recovery().last.raw >= acknowledged);
      for (const auto& [lsn, text] : pool.replayed) CHECK(all.at(lsn) == text);
    }
  }
}

}  // namespace dynamicfs::test
