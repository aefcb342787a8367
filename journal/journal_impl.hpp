// The inside of Journal, shared by its interface (journal.cpp) and the commit loop (commit.cpp).
#pragma once

#include <atomic>
#include <coroutine>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "base/buffer.hpp"
#include "base/mutex.hpp"
#include "journal/journal.hpp"
#include "journal/log_space.hpp"
#include "journal/record_ring.hpp"
#include "journal/settle.hpp"

namespace dynamicfs::journal {

// Somebody who waits for the commit loop; lives in the waiting coroutine's frame.
struct CommitWaiter {
  enum class Until : std::uint8_t { kDurable, kCovered, kBatch, kIdle };
  Until until = Until::kDurable;
  Lsn target;           // kDurable, kCovered
  BatchSequence batch;  // kBatch: it is on its way or there
  std::coroutine_handle<> handle;
  bool failed = false;
};

// Somebody who waits for room in RAM.
struct RoomWaiter {
  std::uint32_t records = 0;
  std::uint64_t bytes = 0;
  std::coroutine_handle<> handle;
  bool backed = false;  // room was taken; false: the journal has stopped and appends go nowhere
};

// The commit loop while it waits for company. Who takes the handle resumes it: the last one that is
// waited for, stop(), or a timer, which may outlive the journal.
struct SettleWaiter {
  std::size_t until = 0;
  std::atomic<void*> handle{nullptr};
  std::coroutine_handle<> take() {
    return std::coroutine_handle<>::from_address(handle.exchange(nullptr));
  }
};

struct Batch {
  Buffer bytes;
  BatchHeader header;
  bool behind_data = false;  // a record of it must be
};

struct Journal::Impl {
  Impl(Executor& executor_in, Pool& pool_in, LogSpace space_in, Lsn last, CommitOptions options);

  // Fixed.
  Executor& executor;
  Pool& pool;
  const Uuid pool_uuid;

  // Own synchronisation.
  JournalMetrics metrics;
  RecoveryReport report;  // written before anybody else knows the journal
  RecordRing ring;
  // LSNs handed out after the journal stopped: beyond any that will ever be durable.
  std::atomic<std::uint64_t> lost_next{std::uint64_t{1} << 62};
  std::atomic<std::uint32_t> room_waiting{0};
  // Written under the mutex.
  std::atomic<std::uint64_t> durable;
  std::atomic<std::uint64_t> covered;
  std::atomic<bool> stopped{false};

  // The committing coroutine alone.
  Lsn taken;  // records up to this one have left the ring
  std::shared_ptr<const LogSet> log_set;
  std::uint64_t changes_seen = 0;  // Pool::changes() that `log_set` has seen settled
  Settle settle;
  std::vector<const scheduler::Disk*> unfit;  // could not be given the log

  mutable Mutex mutex;
  // Written under the mutex; read without it only as a hint.
  std::atomic<bool> committing{false};
  LogSpace space DFS_GUARDED_BY(mutex);
  std::vector<CommitWaiter*> waiters DFS_GUARDED_BY(mutex);
  std::deque<RoomWaiter*> room_waiters DFS_GUARDED_BY(mutex);
  std::shared_ptr<SettleWaiter> settle_waiter DFS_GUARDED_BY(mutex);
  std::coroutine_handle<> space_waiter DFS_GUARDED_BY(mutex);  // the commit loop, without log space
  std::vector<std::function<void()>> listeners DFS_GUARDED_BY(mutex);

  using Handles = std::vector<std::coroutine_handle<>>;
  void post(const Handles& handles) {
    for (const auto handle : handles) executor.post(handle);
  }

  // Waits until `waiter` is satisfied, committing if nobody is.
  Task<Result<void>> wait(CommitWaiter::Until until, Lsn target, BatchSequence batch = {});
  bool satisfied(const CommitWaiter& waiter) const DFS_REQUIRES(mutex);
  // Room that came back goes to those who wait for it, first come first served.
  void give_back(std::uint32_t records, std::uint64_t bytes);
  void grant_room(Handles& wake) DFS_REQUIRES(mutex);
  // Starts committing on another stack, if nobody is committing: callable under other locks.
  void commit_soon();
  void stop();

  // commit.cpp. Whoever sets `committing` runs commit_loop() until it has cleared it.
  enum class Work : std::uint8_t { kNone, kRecords, kMark };
  Work next_work() const DFS_REQUIRES(mutex);
  Task<void> commit_loop();
  Task<void> await_company();
  Task<bool> commit_one(Work work);
  bool take_records(Batch& batch);
  void take_mark(Batch& batch);
  Task<bool> find_room(Batch* batch);
  Task<bool> write_batch(Batch* batch);
  Task<void> replace_member();
  Task<bool> copy_log(DiskId to);
  Task<bool> write_once(Batch* batch);
  Task<bool> run(scheduler::IoGroup& group, const std::vector<DiskId>& ids);
  bool finish(const Batch& batch);
};

}  // namespace dynamicfs::journal
