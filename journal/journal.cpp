#include "journal/journal.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "journal/journal_impl.hpp"
#include "journal/recovery.hpp"

namespace dynamicfs::journal {

Credit::Credit(Credit&& other) noexcept
    : journal_(std::exchange(other.journal_, nullptr)),
      records_(std::exchange(other.records_, 0)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Credit& Credit::operator=(Credit&& other) noexcept {
  if (this != &other) {
    Credit old{std::move(*this)};  // gives back what is left
    journal_ = std::exchange(other.journal_, nullptr);
    records_ = std::exchange(other.records_, 0);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Credit::~Credit() {
  if (journal_ != nullptr && (records_ != 0 || bytes_ != 0))
    journal_->impl_->give_back(records_, bytes_);
}

Journal::Impl::Impl(Executor& executor_in, Pool& pool_in, LogSpace space_in, Lsn last,
                    CommitOptions options)
    : executor(executor_in),
      pool(pool_in),
      pool_uuid(pool_in.uuid()),
      ring(last),
      durable(last.raw),
      covered(last.raw),
      taken(last),
      log_set(pool_in.log_set()),
      settle(options),
      space(std::move(space_in)) {}

bool Journal::Impl::satisfied(const CommitWaiter& waiter) const {
  switch (waiter.until) {
    case CommitWaiter::Until::kDurable:
      return durable.load(std::memory_order_relaxed) >= waiter.target.raw;
    case CommitWaiter::Until::kCovered:
      return covered.load(std::memory_order_relaxed) >= waiter.target.raw;
    case CommitWaiter::Until::kBatch: return space.next().sequence > waiter.batch;
    case CommitWaiter::Until::kIdle: return !committing.load(std::memory_order_relaxed);
  }
  return false;
}

Task<Result<void>> Journal::Impl::wait(CommitWaiter::Until until, Lsn target, BatchSequence batch) {
  assert_no_mutex_held();
  struct Awaiter {
    Impl& impl;
    CommitWaiter& waiter;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      // The waiter, and this awaiter with it, may be gone as soon as the lock is released.
      Impl& journal = impl;
      Executor& executor = journal.executor;
      bool leads = false;
      std::coroutine_handle<> settled;
      {
        LockGuard lock(journal.mutex);
        if (journal.satisfied(waiter)) return false;
        if (waiter.until != CommitWaiter::Until::kIdle) {
          if (journal.stopped.load(std::memory_order_relaxed)) {
            waiter.failed = true;
            return false;
          }
          leads = !journal.committing.exchange(true, std::memory_order_relaxed);
        }
        waiter.handle = handle;
        journal.waiters.push_back(&waiter);
        if (journal.settle_waiter && journal.waiters.size() >= journal.settle_waiter->until)
          settled = journal.settle_waiter->take();
      }
      if (leads) spawn(journal.commit_loop());
      if (settled) executor.post(settled);
      return true;
    }
    void await_resume() const noexcept {}
  };
  CommitWaiter waiter;
  waiter.until = until;
  waiter.target = target;
  waiter.batch = batch;
  Awaiter awaiter{*this, waiter};
  co_await awaiter;
  if (waiter.failed) co_return Code::kJournalStopped;
  co_return Result<void>{};
}

void Journal::Impl::give_back(std::uint32_t records, std::uint64_t bytes) {
  ring.give_back(records, bytes);
  // Either we see who waits, or who comes to wait sees the room: both sides are sequentially
  // consistent.
  if (room_waiting.load(std::memory_order_seq_cst) == 0) return;
  Handles wake;
  {
    LockGuard lock(mutex);
    grant_room(wake);
  }
  post(wake);
}

void Journal::Impl::grant_room(Handles& wake) {
  const bool lost = stopped.load(std::memory_order_relaxed);
  while (!room_waiters.empty()) {
    RoomWaiter& waiter = *room_waiters.front();
    if (!lost) {
      if (!ring.try_take(waiter.records, waiter.bytes)) return;
      waiter.backed = true;
    }
    wake.push_back(waiter.handle);
    room_waiters.pop_front();
    room_waiting.fetch_sub(1, std::memory_order_seq_cst);
  }
}

void Journal::Impl::commit_soon() {
  {
    LockGuard lock(mutex);
    if (stopped.load(std::memory_order_relaxed)) return;
    if (committing.exchange(true, std::memory_order_relaxed)) return;
  }
  struct Later {
    static Task<void> run(Impl& impl) {
      co_await impl.executor.yield();
      co_await impl.commit_loop();
    }
  };
  spawn(Later::run(*this));
}

void Journal::Impl::stop() {
  Handles wake;
  {
    LockGuard lock(mutex);
    if (stopped.exchange(true, std::memory_order_release)) return;
    std::erase_if(waiters, [&](CommitWaiter* waiter) DFS_NO_THREAD_SAFETY_ANALYSIS {
      if (waiter->until == CommitWaiter::Until::kIdle) return false;
      waiter->failed = !satisfied(*waiter);
      wake.push_back(waiter->handle);
      return true;
    });
    grant_room(wake);
    if (space_waiter) wake.push_back(std::exchange(space_waiter, {}));
    if (settle_waiter) {
      if (const auto settled = settle_waiter->take()) wake.push_back(settled);
    }
  }
  log_error("the journal has stopped: nothing can be made durable any more");
  post(wake);
}

Journal::Journal(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Journal::~Journal() {
  impl_->pool.set_log_source({});
  LockGuard lock(impl_->mutex);
  DFS_ASSERT(!impl_->committing.load(std::memory_order_relaxed));  // somebody forgot close()
}

Task<Result<std::unique_ptr<Journal>>> Journal::open(Executor& executor, Pool& pool, Replay replay,
                                                     CommitOptions options) {
  const TimePoint start = executor.now();
  CO_TRY_ASSIGN(Recovered recovered, co_await recover(pool, std::move(replay)));

  const Superblock superblock = pool.superblock();
  LogFound found;
  found.end.last = recovered.report.last;
  found.end.next = recovered.next.sequence;
  found.certain = recovered.certain;
  found.members = recovered.members;
  found.lsn_floor = std::max(superblock.lsn_floor, recovered.report.last);
  if (!superblock.clean) found.lsn_floor.raw += kLsnSkip;
  CO_TRY(co_await pool.begin(found));

  LogSpace space{superblock.log_bytes, superblock.manifest.log_start};
  for (const LoggedBatch& batch : recovered.batches) space.add(batch);
  auto impl = std::make_unique<Impl>(executor, pool, std::move(space), found.lsn_floor, options);
  impl->report = recovered.report;
  impl->report.took = executor.now() - start;
  impl->stopped.store(pool.read_only(), std::memory_order_release);
  Impl* const raw = impl.get();
  pool.set_log_source([raw] {
    LockGuard lock(raw->mutex);
    return LogEnd{.last = Lsn{raw->durable.load(std::memory_order_relaxed)},
                  .next = raw->space.next().sequence};
  });
  co_return std::unique_ptr<Journal>{new Journal{std::move(impl)}};
}

Task<Credit> Journal::reserve(std::uint32_t records, std::uint64_t bytes) {
  // Also where there is room: next time there may be none.
  assert_no_mutex_held();
  Impl& impl = *impl_;
  DFS_ASSERT(records <= kRingRecords && bytes <= kRingBytesMax);
  Credit credit;
  credit.records_ = records;
  credit.bytes_ = bytes;
  const bool queue = impl.room_waiting.load(std::memory_order_relaxed) != 0;
  if (!queue && !impl.stopped.load(std::memory_order_acquire) &&
      impl.ring.try_take(records, bytes)) {
    if (impl.ring.filling() && !impl.committing.load(std::memory_order_relaxed)) impl.commit_soon();
    credit.journal_ = this;
    co_return credit;
  }

  struct Awaiter {
    Impl& impl;
    RoomWaiter& waiter;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      Impl& journal = impl;
      Executor& executor = impl.executor;
      bool leads = false;
      std::coroutine_handle<> settled;
      {
        LockGuard lock(journal.mutex);
        if (journal.stopped.load(std::memory_order_relaxed)) return false;
        // Counted before looking again: see give_back().
        journal.room_waiting.fetch_add(1, std::memory_order_seq_cst);
        if (journal.room_waiters.empty() && journal.ring.try_take(waiter.records, waiter.bytes)) {
          journal.room_waiting.fetch_sub(1, std::memory_order_seq_cst);
          waiter.backed = true;
          return false;
        }
        waiter.handle = handle;
        journal.room_waiters.push_back(&waiter);
        leads = !journal.committing.exchange(true, std::memory_order_relaxed);
        if (journal.settle_waiter) settled = journal.settle_waiter->take();
        journal.metrics.reserve_waits.add();
      }
      if (leads) spawn(journal.commit_loop());
      if (settled) executor.post(settled);
      return true;
    }
    void await_resume() const noexcept {}
  };
  RoomWaiter waiter;
  waiter.records = records;
  waiter.bytes = bytes;
  Awaiter awaiter{impl, waiter};
  co_await awaiter;
  if (waiter.backed) credit.journal_ = this;
  co_return credit;
}

Lsn Journal::append(Credit& credit, std::span<const std::byte> payload, RecordOrder order) {
  Impl& impl = *impl_;
  DFS_ASSERT(!payload.empty() && payload.size() <= kRecordBytesMax);
  DFS_ASSERT(credit.records_ > 0 && credit.bytes_ >= payload.size());
  --credit.records_;
  credit.bytes_ -= payload.size();
  if (credit.journal_ == nullptr)
    return Lsn{impl.lost_next.fetch_add(1, std::memory_order_relaxed)};
  const Lsn lsn = impl.ring.append(payload, order);
  impl.metrics.appends.add();
  // Somebody waits for room, found nothing to commit then, and would wait for ever if nobody
  // synced.
  if (impl.room_waiting.load(std::memory_order_seq_cst) != 0) [[unlikely]]
    impl.commit_soon();
  return lsn;
}

Task<Result<void>> Journal::sync(Lsn upto) {
  if (durable() >= upto || mutated(Mutant::kAckEarly)) co_return Result<void>{};
  DFS_ASSERT(stopped() || upto <= appended());
  const Result<void> waited = co_await impl_->wait(CommitWaiter::Until::kDurable, upto);
  co_return waited;
}

Task<Result<void>> Journal::drain() {
  const Lsn upto = appended();
  CO_TRY(co_await sync(upto));
  if (covered() >= upto) co_return Result<void>{};
  const Result<void> waited = co_await impl_->wait(CommitWaiter::Until::kCovered, upto);
  co_return waited;
}

Task<Result<void>> Journal::settle_members() {
  const std::shared_ptr<const LogSet> set = impl_->pool.log_set();
  const std::vector<DiskId> wanted = impl_->pool.members_to_be();
  BatchSequence next;
  {
    LockGuard lock(impl_->mutex);
    next = impl_->space.next().sequence;
  }
  if (set == nullptr || impl_->pool.read_only() ||
      std::ranges::all_of(wanted, [&](DiskId id) { return set->has(id); }))
    co_return Result<void>{};
  // A batch finds out who should have it before it is written, and again if that changes meanwhile.
  const Result<void> waited = co_await impl_->wait(CommitWaiter::Until::kBatch, Lsn{}, next);
  co_return waited;
}

Task<void> Journal::close() {
  const Result<void> idle = co_await impl_->wait(CommitWaiter::Until::kIdle, Lsn{});
  idle.ignore("waiting for idleness does not fail");
}

Lsn Journal::appended() const { return impl_->ring.last(); }
Lsn Journal::durable() const { return Lsn{impl_->durable.load(std::memory_order_acquire)}; }
Lsn Journal::covered() const { return Lsn{impl_->covered.load(std::memory_order_acquire)}; }
bool Journal::stopped() const { return impl_->stopped.load(std::memory_order_acquire); }
void Journal::stop() { impl_->stop(); }

void Journal::on_progress(std::function<void()> listener) {
  LockGuard lock(impl_->mutex);
  impl_->listeners.push_back(std::move(listener));
}

std::uint64_t Journal::log_used_bytes() const {
  LockGuard lock(impl_->mutex);
  return impl_->space.used_bytes();
}

std::uint64_t Journal::log_capacity_bytes() const {
  LockGuard lock(impl_->mutex);
  return impl_->space.capacity_bytes();
}

LogPosition Journal::position_after(Lsn lsn) const {
  LockGuard lock(impl_->mutex);
  return impl_->space.position_after(lsn);
}

void Journal::trim(LogPosition position) {
  std::coroutine_handle<> waiter;
  {
    LockGuard lock(impl_->mutex);
    impl_->space.trim(position);
    waiter = std::exchange(impl_->space_waiter, {});
  }
  if (waiter) impl_->executor.post(waiter);
}

const JournalMetrics& Journal::metrics() const { return impl_->metrics; }
const RecoveryReport& Journal::recovery() const { return impl_->report; }

}  // namespace dynamicfs::journal
