// A journal under load beside a model of what it must remember.
#pragma once

#include <set>

#include "tests/journal/sim_pool.hpp"

namespace dynamicfs::test {

// All that was ever appended and may still be there, oldest first.
struct Model {
  Records history;
  Lsn acknowledged;  // the newest record whose sync() succeeded
  Lsn checkpointed;  // records up to this one need not be in the log
  std::set<std::uint64_t> lsns_used;
  std::uint64_t next_text = 0;
};

inline std::string text_of(std::uint64_t number, std::uint64_t random) {
  // From empty-ish to longer than a slot of the ring, now and then several blocks.
  const std::size_t size = random % 16 == 0 ? 3000 + random % 9000 : 1 + random % 400;
  std::string text = std::to_string(number) + ":";
  while (text.size() < size) text += static_cast<char>('a' + (number + text.size()) % 26);
  return text;
}

inline Task<void> append_some(SimPool& pool, Model& model, unsigned rounds) {
  for (unsigned round = 0; round < rounds; ++round) {
    const std::uint64_t random = pool.executor.random();
    const std::uint64_t records = 1 + random % 4;
    std::vector<std::string> batch;
    std::uint64_t bytes = 0;
    for (std::uint64_t i = 0; i < records; ++i) {
      batch.push_back(text_of(model.next_text++, pool.executor.random()));
      bytes += batch.back().size();
    }
    journal::Credit credit = co_await pool.log->reserve(static_cast<std::uint32_t>(records), bytes);
    if (pool.log->stopped()) co_return;
    Lsn last;
    for (std::string& text : batch) {
      last = pool.log->append(credit, as_bytes(text));
      CHECK(model.lsns_used.insert(last.raw).second);
      model.history.push_back({last, std::move(text)});
    }
    if (random % 8 < 5) {
      const Result<void> synced = co_await pool.log->sync(last);
      if (!synced.has_value()) co_return;
      model.acknowledged = std::max(model.acknowledged, last);
    } else {
      co_await pool.executor.sleep(std::chrono::microseconds(random % 300));
    }
  }
}

// Does what a checkpoint does to the log: names everything up to now, then trims.
inline Task<void> checkpoint(SimPool& pool, Model& model) {
  const Lsn lsn = pool.log->durable();
  journal::Manifest manifest = pool.pool->superblock().manifest;
  manifest.lsn = lsn;
  manifest.log_start = pool.log->position_after(lsn);
  const Result<void> committed = co_await pool.pool->commit_manifest(manifest);
  if (!committed.has_value()) co_return;
  model.checkpointed = lsn;
  pool.log->trim(manifest.log_start);
}

inline Task<void> checkpoint_often(SimPool& pool, Model& model, unsigned rounds) {
  for (unsigned round = 0; round < rounds && !pool.log->stopped(); ++round) {
    co_await pool.executor.sleep(std::chrono::microseconds(1000 + pool.executor.random() % 3000));
    co_await checkpoint(pool, model);
  }
}

// The scripted run: several who append and sync, one who checkpoints.
inline void start_workload(SimPool& pool, Model& model, unsigned rounds) {
  for (unsigned i = 0; i < 4; ++i) spawn(append_some(pool, model, rounds));
  spawn(checkpoint_often(pool, model, rounds / 2));
}

inline void run_workload(SimPool& pool, Model& model, unsigned rounds) {
  start_workload(pool, model, rounds);
  pool.executor.run_until_idle();
}

// After a reboot: compares, and forgets what did not survive.
inline void compare(SimPool& pool, Model& model) {
  const Lsn start = pool.pool->superblock().manifest.lsn;
  CHECK(start >= model.checkpointed);
  Records expected;
  for (const Record& record : model.history) {
    if (record.lsn > start) expected.push_back(record);
  }
  REQUIRE(pool.replayed.size() <= expected.size());
  expected.resize(pool.replayed.size());
  CHECK(pool.replayed == expected);
  const Lsn last = pool.replayed.empty() ? start : pool.replayed.back().lsn;
  CHECK(last >= model.acknowledged);
  CHECK(pool.log->recovery().last == last);
  CHECK(pool.log->appended() >= last);
  model.checkpointed = start;
  std::erase_if(model.history, [last](const Record& record) { return record.lsn > last; });
}

}  // namespace dynamicfs::test
