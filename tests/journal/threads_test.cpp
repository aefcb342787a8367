// The journal and the runs under real threads: nothing lost, nothing twice, nobody left waiting. Run
// under the thread sanitizer as well.

#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "journal/journal.hpp"
#include "journal/record_ring.hpp"
#include "journal/run_cursor.hpp"
#include "journal/run_merge.hpp"
#include "tests/journal/threaded_disk.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {

using journal::Journal;
using journal::Pool;

namespace {

constexpr unsigned kThreads = 8;
constexpr std::uint32_t kHalfRing = journal::kRingRecords / 2;

struct ThreadedPool {
  explicit ThreadedPool(std::size_t disk_count,
                        std::uint64_t disk_bytes = journal::kVolumeBytesMin) {
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});
    for (std::size_t i = 0; i < disk_count; ++i) {
      media.push_back(std::make_shared<Bytes>(disk_bytes));
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
    replay.apply = [this](Lsn lsn, std::span<const std::byte> payload) {
      replayed.emplace(lsn.raw, as_text(payload));
      return done();
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

// The smallest free slot first: one that was given back is soon overwritten.
class SharedSlots final : public journal::SlotSource {
 public:
  static constexpr std::uint32_t kSlots = 30;  // of a disk of 128 MiB

  std::optional<SlotId> take_run_slot(DiskId disk) override {
    std::lock_guard lock(mutex_);
    std::uint32_t slot = 0;
    while (slot < kSlots && !taken_.emplace(disk, slot).second) ++slot;
    if (slot == kSlots) return std::nullopt;
    return SlotId{slot};
  }
  void drop_run_slots(DiskId disk, std::span<const SlotId> slots) override {
    std::lock_guard lock(mutex_);
    for (const SlotId slot : slots) CHECK(taken_.erase({disk, slot.raw}) == 1);
  }
  std::size_t taken() {
    std::lock_guard lock(mutex_);
    return taken_.size();
  }

 private:
  std::mutex mutex_;
  std::set<std::pair<DiskId, std::uint32_t>> taken_;
};

// Keys whose values are the number of the run that wrote them last.
struct NumberedRuns {
  static constexpr std::size_t kKeys = 400;

  NumberedRuns() {
    pool.boot();
    set = std::make_unique<journal::RunSet>(*pool.executor, *pool.pool, 256 * kKiB);
    set->on_retired([this](const journal::RunRef& run) {
      for (const journal::RunCopy& copy : run.copies) slots.drop_run_slots(copy.disk, copy.slots);
    });
  }

  static std::string key(std::size_t number) { return fmt::format("{:03}", number); }
  static std::optional<std::uint64_t> hash(std::span<const std::byte> key) {
    return static_cast<std::uint64_t>(key[1]);
  }
  journal::RunWriter writer() { return {*pool.pool, slots, ++runs, {DiskId{0}, DiskId{1}}, hash}; }

  // Writes a run of some of the keys.
  Task<Result<void>> write(std::vector<std::size_t> numbers) {
    journal::RunWriter out = writer();
    const std::uint64_t run = runs;
    for (const std::size_t number : numbers) {
      const std::string text = key(number);
      std::string value = fmt::format("{:08}", run);
      value.resize(800);
      CO_TRY(co_await out.add(as_bytes(text), as_bytes(value)));
    }
    CO_TRY_ASSIGN(journal::RunRef ref, co_await out.finish());
    CO_TRY_ASSIGN(auto fresh, co_await set->open_run(std::move(ref)));
    set->install(std::move(fresh), {});
    for (const std::size_t number : numbers) newest[number].store(run);
    co_return Result<void>{};
  }
  Task<Result<void>> merge(std::size_t begin, std::size_t end) {
    const auto snapshot = set->runs();
    const auto first = snapshot->begin() + static_cast<std::ptrdiff_t>(begin);
    const journal::RunSet::Runs inputs(first, first + static_cast<std::ptrdiff_t>(end - begin));
    journal::RunWriter out = writer();
    CO_TRY_ASSIGN(journal::RunRef ref,
                  co_await journal::merge_runs(*set, inputs, end == snapshot->size(), out));
    CO_TRY_ASSIGN(auto fresh, co_await set->open_run(std::move(ref)));
    set->install(std::move(fresh), inputs);
    co_return Result<void>{};
  }
  // Every key from `begin` on and before `end` has at least the number that was there before.
  Task<Result<bool>> look(std::size_t begin, std::size_t end, journal::RunCursor::Mode mode) {
    std::map<std::string, std::uint64_t> before;
    for (std::size_t number = begin; number < end; ++number) {
      if (const std::uint64_t run = newest[number].load()) before[key(number)] = run;
    }
    const std::string low = key(begin);
    const std::string high = key(end);
    std::optional<std::uint64_t> filter;
    if (end == begin + 1) filter = hash(as_bytes(low));
    journal::RunCursor cursor{*set,
                              set->runs(),
                              {as_bytes(low).begin(), as_bytes(low).end()},
                              {as_bytes(high).begin(), as_bytes(high).end()},
                              mode,
                              filter};
    for (;;) {
      CO_TRY_ASSIGN(const bool more, co_await cursor.next());
      if (!more) break;
      const auto it = before.find(std::string{as_text(cursor.key())});
      if (it == before.end()) continue;
      if (std::stoull(std::string{as_text(cursor.value().first(8))}) < it->second) co_return false;
      before.erase(it);
    }
    co_return before.empty();
  }

  // Room for what four readers may still hold of runs that were replaced.
  ThreadedPool pool{2, 128 * kMiB};
  SharedSlots slots;
  std::unique_ptr<journal::RunSet> set;
  std::uint64_t runs = 0;
  std::array<std::atomic<std::uint64_t>, kKeys> newest{};
};

}  // namespace

TEST_SUITE("runs under threads") {
  TEST_CASE("four threads look up while runs are written, merged, retired and overwritten") {
    const std::uint64_t seed = seed_from_environment(1);
    CAPTURE(seed);
    NumberedRuns runs;
    std::atomic<bool> stopping{false};
    std::atomic<std::uint64_t> looks{0};
    std::vector<std::thread> readers;
    for (unsigned i = 0; i < 4; ++i) {
      readers.emplace_back([&runs, &stopping, &looks, seed, i] {
        std::mt19937_64 random{seed + i};
        while (!stopping.load()) {
          const std::size_t begin = random() % NumberedRuns::kKeys;
          const bool one = random() % 4 != 0;
          const auto mode = one || random() % 2 == 0 ? journal::RunCursor::Mode::kCached
                                                     : journal::RunCursor::Mode::kStream;
          const auto found = block_on(
              *runs.pool.executor, runs.look(begin, one ? begin + 1 : NumberedRuns::kKeys, mode));
          REQUIRE(found.has_value());
          CHECK(*found);
          looks.fetch_add(1);
        }
      });
    }
    std::mt19937_64 random{seed};
    for (std::uint64_t round = 0; round < scaled(100); ++round) {
      std::vector<std::size_t> numbers;
      for (std::size_t number = 0; number < NumberedRuns::kKeys; ++number) {
        if (random() % 2 == 0) numbers.push_back(number);
      }
      REQUIRE(block_on(*runs.pool.executor, runs.write(std::move(numbers))).has_value());
      const std::size_t count = runs.set->runs()->size();
      if (count < 4) continue;
      const std::size_t begin = random() % (count - 1);
      REQUIRE(
          block_on(*runs.pool.executor, runs.merge(begin, count - random() % (count - begin - 1)))
              .has_value());
    }
    stopping.store(true);
    for (std::thread& reader : readers) reader.join();
    CHECK(looks.load() > 100);
    CHECK(runs.slots.taken() == 2 * runs.set->runs()->size());
    runs.set = nullptr;
  }
}

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
