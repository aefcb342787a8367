// When a commit waits for company: arithmetic.
#include "journal/settle.hpp"

#include <doctest/doctest.h>

#include "tests/journal/sim_pool.hpp"

namespace dynamicfs::test {
namespace {

using journal::CommitOptions;
using journal::Settle;
using std::chrono::microseconds;

constexpr TimePoint at(int us) { return TimePoint{microseconds{us}}; }

Task<void> sync_often(SimPool& pool, unsigned times, Duration pause, unsigned* done) {
  for (unsigned i = 0; i < times; ++i) {
    journal::Credit credit = co_await pool.log->reserve(1, 10);
    const Lsn lsn = pool.log->append(credit, as_bytes("some text"));
    const Result<void> synced = co_await pool.log->sync(lsn);
    CHECK(synced.has_value());
    co_await pool.executor.sleep(pause);
  }
  ++*done;
}

struct Slow : SimPool {
  explicit Slow(CommitOptions commit = {}) : SimPool(3, one_millisecond()) {
    commit_options = commit;
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
  }
  static Options one_millisecond() {
    Options options = replicas(1);
    options.latency = {.min = std::chrono::milliseconds{1}, .max = std::chrono::milliseconds{1}};
    return options;
  }
};

}  // namespace

TEST_SUITE("settle") {
  TEST_CASE("one who syncs alone never waits") {
    Settle settle{{}};
    CHECK_FALSE(settle.plan(at(0), 1).has_value());
    settle.committed(at(1000), microseconds{1000}, 1, 0);
    CHECK_FALSE(settle.plan(at(1010), 1).has_value());
  }

  TEST_CASE("those whom the last batch woke are waited for, for half a trip or a fifth of a ms") {
    Settle settle{{}};
    settle.committed(at(1000), microseconds{1000}, 5, 3);
    const auto plan = settle.plan(at(1010), 3);
    REQUIRE(plan.has_value());
    CHECK(plan->until == 8);
    CHECK(plan->deadline == at(1200));

    Settle quick{{}};
    quick.committed(at(1000), microseconds{100}, 5, 3);
    CHECK(quick.plan(at(1010), 3)->deadline == at(1050));
  }

  TEST_CASE("nobody is waited for long after the last batch, or when all are here") {
    Settle settle{{}};
    settle.committed(at(1000), microseconds{1000}, 5, 3);
    CHECK_FALSE(settle.plan(at(1200), 3).has_value());
    CHECK_FALSE(settle.plan(at(1010), 8).has_value());
  }

  TEST_CASE("when fewer than half of them come it is tried ever more rarely, and then again") {
    Settle settle{{}};
    int tried = 0;
    int since = 0;
    int longest = 0;
    for (int i = 0; i < 1000; ++i) {
      settle.committed(at(1000 * i), microseconds{1000}, 4, 4);
      ++since;
      if (!settle.plan(at(1000 * i + 10), 4).has_value()) continue;
      settle.settled(5);
      ++tried;
      longest = std::max(longest, std::exchange(since, 0));
    }
    CHECK(tried > 10);
    CHECK(tried < 30);
    CHECK(longest == 64);
    // It pays again: from then on always.
    while (!settle.plan(at(1'000'010), 4).has_value())
      settle.committed(at(1'000'000), microseconds{1000}, 4, 4);
    settle.settled(8);
    settle.committed(at(2'000'000), microseconds{1000}, 8, 0);
    CHECK(settle.plan(at(2'000'010), 1).has_value());
  }

  TEST_CASE("whoever wants larger batches gets them, at the price named") {
    Settle settle{{.ops = 10, .wait = microseconds{3000}}};
    const auto plan = settle.plan(at(0), 1);
    REQUIRE(plan.has_value());
    CHECK(plan->until == 10);
    CHECK(plan->deadline == at(3000));
    CHECK_FALSE(settle.plan(at(0), 10).has_value());
  }

  TEST_CASE("many who sync in a loop become one cohort: as many batches as one of them alone") {
    for (const unsigned writers : {2u, 8u, 128u}) {
      CAPTURE(writers);
      Slow pool;
      const std::uint64_t before = pool.log->metrics().group_commits.sum();
      unsigned done = 0;
      for (unsigned i = 0; i < writers; ++i)
        spawn(sync_often(pool, 50, microseconds{i % 20}, &done));
      pool.executor.run_until_idle();
      CHECK(done == writers);
      // A few more at the beginning, before the cohorts have met.
      CHECK(pool.log->metrics().group_commits.sum() - before <= 56);
    }
  }

  TEST_CASE("a batch waits for as many as group_commit_ops, no longer than group_commit_wait") {
    Slow pool{{.ops = 3, .wait = std::chrono::milliseconds{5}}};
    unsigned done = 0;
    const TimePoint start = pool.executor.now();
    spawn(sync_often(pool, 1, Duration{0}, &done));
    pool.executor.run_for(std::chrono::milliseconds{4});
    CHECK(done == 0);
    pool.executor.run_for(std::chrono::milliseconds{3});
    CHECK(done == 1);
    for (int i = 0; i < 3; ++i) spawn(sync_often(pool, 1, Duration{0}, &done));
    pool.executor.run_for(std::chrono::milliseconds{2});
    CHECK(done == 4);
    CHECK(pool.executor.now() - start <= std::chrono::milliseconds{10});
  }

  TEST_CASE("a journal that stops, or goes, does not wait for company") {
    Slow pool{{.ops = 3, .wait = std::chrono::seconds{1}}};
    const Lsn lsn = pool.append("alone");
    Result<void> synced;
    struct Sync {
      static Task<void> run(SimPool& pool, Lsn lsn, Result<void>* result, bool* ended) {
        *result = co_await pool.log->sync(lsn);
        *ended = true;
      }
    };
    bool ended = false;
    spawn(Sync::run(pool, lsn, &synced, &ended));
    pool.executor.run_for(std::chrono::milliseconds{5});
    CHECK_FALSE(ended);
    pool.log->stop();
    pool.executor.run_for(std::chrono::milliseconds{1});
    CHECK(ended);
    CHECK(synced.error().code == Code::kJournalStopped);
    pool.log.reset();  // its timer is still to come
    pool.executor.run_for(std::chrono::seconds{2});
  }
}

}  // namespace dynamicfs::test
