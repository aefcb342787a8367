// The commit loop: one coroutine at a time turns what is in the ring into batches, as long as
// somebody waits for them. See the head of journal.hpp.

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "base/mutant.hpp"
#include "journal/journal_impl.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::IoClass;
using scheduler::IoGroup;

// How long to look at a record that has its LSN but not yet its content before others get the
// thread: its producer is copying a few hundred bytes, or was preempted while it did.
constexpr int kPublishSpins = 64;
constexpr Duration kPublishSleep = std::chrono::microseconds(50);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Journal::Impl::Work Journal::Impl::next_work() const {
  bool wanted = !room_waiters.empty() || ring.filling();
  bool mark_wanted = false;
  for (const CommitWaiter* const waiter : waiters) {
    if (waiter->until == CommitWaiter::Until::kIdle || satisfied(*waiter)) continue;
    wanted = true;
    mark_wanted = mark_wanted || waiter->until != CommitWaiter::Until::kDurable;
  }
  if (wanted && ring.last() > taken) return Work::kRecords;
  return mark_wanted ? Work::kMark : Work::kNone;
}

Task<void> Journal::Impl::commit_loop() {
  Executor& to = executor;
  std::optional<Duration> batch_took;
  while (true) {
    Work work = Work::kNone;
    Handles wake;
    {
      LockGuard lock(mutex);
      if (!stopped.load(std::memory_order_relaxed)) work = next_work();
      if (work == Work::kNone) committing.store(false, std::memory_order_relaxed);
      std::uint64_t count = 0;
      std::erase_if(waiters, [&](CommitWaiter* waiter) DFS_NO_THREAD_SAFETY_ANALYSIS {
        if (!satisfied(*waiter)) return false;
        wake.push_back(waiter->handle);
        ++count;
        return true;
      });
      if (count != 0) {
        metrics.group_commit_waiters.add(count);
        const auto size = static_cast<std::size_t>(std::bit_width(count)) - 1;
        metrics.commits_by_waiters[std::min(size, metrics.commits_by_waiters.size() - 1)].add();
      }
      if (batch_took) settle.committed(executor.now(), *batch_took, count, waiters.size());
    }
    // Once nobody commits any more the journal may be destroyed, by a waiter as soon as it is woken
    // or by anybody who finds it idle: only locals from here on.
    for (const auto handle : wake) to.post(handle);
    if (work == Work::kNone) co_return;

    if (work == Work::kRecords) co_await await_company();
    const TimePoint start = to.now();
    const bool done = co_await commit_one(work);
    batch_took = to.now() - start;
    if (!done) {
      stop();
      continue;
    }
    std::vector<std::function<void()>> to_call;
    {
      LockGuard lock(mutex);
      to_call = listeners;
    }
    for (const auto& listener : to_call) listener();
  }
}

// See settle.hpp. Not while somebody waits for room, which comes from committing, and not before a
// mark, which company has no part in.
Task<void> Journal::Impl::await_company() {
  // Too short for a timer: then only those are waited for who are about to run on this thread.
  constexpr Duration kShortestSleep = std::chrono::microseconds{50};
  constexpr int kYields = 4;
  std::optional<Settle::Plan> plan;
  const auto count = [this] {
    LockGuard lock(mutex);
    return waiters.size();
  };
  {
    LockGuard lock(mutex);
    if (room_waiters.empty() && !ring.filling()) plan = settle.plan(executor.now(), waiters.size());
  }
  if (!plan) co_return;
  metrics.settle_waits.add();
  for (int i = 0; i < kYields && count() < plan->until; ++i) co_await executor.yield();
  if (count() < plan->until && plan->deadline - executor.now() >= kShortestSleep) {
    struct Timer {
      static Task<void> run(Executor& executor, TimePoint when,
                            std::shared_ptr<SettleWaiter> waiter) {
        co_await executor.sleep_until(when);
        const auto handle = waiter->take();
        if (handle) executor.post(handle);
      }
    };
    struct Awaiter {
      Impl& impl;
      Settle::Plan plan;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        const auto waiter = std::make_shared<SettleWaiter>();
        waiter->until = plan.until;
        waiter->handle.store(handle.address());
        // The awaiter may be gone as soon as the lock is released.
        Executor& executor = impl.executor;
        const TimePoint deadline = plan.deadline;
        {
          LockGuard lock(impl.mutex);
          if (impl.stopped.load(std::memory_order_relaxed) || !impl.room_waiters.empty() ||
              impl.waiters.size() >= plan.until) {
            return false;
          }
          impl.settle_waiter = waiter;
        }
        spawn(Timer::run(executor, deadline, waiter));
        return true;
      }
      void await_resume() const noexcept {}
    };
    Awaiter awaiter{*this, *plan};
    co_await awaiter;
  }
  LockGuard lock(mutex);
  settle_waiter.reset();
  settle.settled(waiters.size());
}

Task<bool> Journal::Impl::commit_one(Work work) {
  const TimePoint start = executor.now();
  Batch batch;
  if (work == Work::kMark) {
    take_mark(batch);
  } else {
    while (!take_records(batch)) {
      if (stopped.load(std::memory_order_acquire)) co_return false;
      co_await executor.sleep(kPublishSleep);
    }
  }
  const bool room = co_await find_room(&batch);
  if (!room) co_return false;
  const bool written = co_await write_batch(&batch);
  if (!written) co_return false;

  metrics.group_commits.add();
  metrics.group_commit_ops.add(batch.header.records);
  metrics.batch_bytes.add(batch.bytes.size());
  metrics.batch_records.record(batch.header.records);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(executor.now() - start);
  metrics.commit_latency_us.record(static_cast<std::uint64_t>(took.count()));
  co_return true;
}

// Moves published records, in order and without a gap, from the ring into `batch`. False if the
// next one is not published yet.
bool Journal::Impl::take_records(Batch& batch) {
  Lsn end{taken.raw + 1};
  std::size_t size_bytes = kBatchHeaderBytes;
  const Lsn newest = ring.last();
  while (end <= newest) {
    for (int spin = 0; spin < kPublishSpins && !ring.published(end); ++spin) pause();
    if (!ring.published(end)) break;
    const std::size_t frame = frame_bytes(ring.size_bytes(end));
    if (size_bytes + frame > kBatchBytesMax) break;
    size_bytes += frame;
    ++end.raw;
  }
  const std::uint64_t records = end.raw - taken.raw - 1;
  if (records == 0) return false;

  BatchHeader& header = batch.header;
  header.first = Lsn{taken.raw + 1};
  header.last = Lsn{end.raw - 1};
  header.records = static_cast<std::uint32_t>(records);
  header.payload_bytes = static_cast<std::uint32_t>(size_bytes - kBatchHeaderBytes);
  batch.bytes = Buffer{align_up(size_bytes, kBlockBytes)};
  std::uint64_t payload_bytes = 0;
  std::size_t at = kBatchHeaderBytes;
  for (Lsn lsn = header.first; lsn < end; ++lsn.raw) {
    const auto payload = ring.payload(lsn);
    const std::size_t frame = frame_bytes(payload.size());
    put_frame(batch.bytes.span().subspan(at, frame), lsn, ring.crc(lsn), payload);
    at += frame;
    payload_bytes += payload.size();
    batch.behind_data |= ring.order(lsn) == RecordOrder::kBehindData;
    ring.release(lsn);
  }
  std::memset(batch.bytes.data() + at, 0, batch.bytes.size() - at);
  header.payload_crc = crc32c(batch.bytes.span().subspan(kBatchHeaderBytes, header.payload_bytes));
  taken = header.last;
  give_back(static_cast<std::uint32_t>(records), payload_bytes);
  return true;
}

// A batch without records, whose watermark says that everything before it is durable.
void Journal::Impl::take_mark(Batch& batch) {
  batch.header.last = taken;
  batch.bytes = Buffer{kBlockBytes};
  std::memset(batch.bytes.data(), 0, batch.bytes.size());
}

// Waits until the log has room for the batch: a checkpoint must trim it. False: stopped meanwhile.
Task<bool> Journal::Impl::find_room(Batch* batch) {
  struct Awaiter {
    Impl& impl;
    std::uint64_t size_bytes;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      LockGuard lock(impl.mutex);
      if (impl.stopped.load(std::memory_order_relaxed) || impl.space.place(size_bytes))
        return false;
      impl.space_waiter = handle;
      return true;
    }
    void await_resume() const noexcept {}
  };
  bool waited = false;
  while (true) {
    {
      LockGuard lock(mutex);
      if (stopped.load(std::memory_order_relaxed)) co_return false;
      if (const auto offset = space.place(batch->bytes.size())) {
        batch->header.offset = *offset;
        batch->header.sequence = space.next().sequence;
        batch->header.previous_crc = space.next().previous_crc;
        co_return true;
      }
    }
    if (!waited) {
      metrics.log_space_waits.add();
      // Who listens to progress starts checkpoints: one is needed now.
      std::vector<std::function<void()>> to_call;
      {
        LockGuard lock(mutex);
        to_call = listeners;
      }
      for (const auto& listener : to_call) listener();
    }
    waited = true;
    Awaiter awaiter{*this, batch->bytes.size()};
    co_await awaiter;
  }
}

// Makes the batch durable, and again under a new epoch for each disk that fails. False: the pool is
// read-only, or somebody has stopped the journal.
Task<bool> Journal::Impl::write_batch(Batch* batch) {
  while (true) {
    // Settling may announce an epoch, which is a change: then once more round.
    while (log_set == nullptr || pool.changes() != changes_seen) {
      changes_seen = pool.changes();
      co_await pool.settled();
      unfit.clear();  // what has changed may be the cause
      log_set = pool.log_set();
      if (pool.read_only()) co_return false;
      co_await replace_member();
    }
    if (pool.read_only() || stopped.load(std::memory_order_acquire)) co_return false;
    const bool written = co_await write_once(batch);
    if (written && finish(*batch)) co_return true;
  }
}

// The first of the disks that should keep the log and do not, since a member has failed or is about to leave, gets it and
// does, in an epoch of its own. The commit waits for that: at most half the log is copied, once for each disk that fails; one that leaves does so
// behind a checkpoint.
Task<void> Journal::Impl::replace_member() {
  while (true) {
    const std::vector<DiskId> wanted = pool.members_to_be(unfit);
    const auto next =
        std::ranges::find_if(wanted, [this](DiskId one) { return !log_set->has(one); });
    if (next == wanted.end()) co_return;
    const DiskId id = *next;
    const scheduler::Disk* const disk = pool.disk(id);
    const bool copied = co_await copy_log(id);
    if (!copied) {
      unfit.push_back(disk);
      continue;
    }
    const Result<void> adopted = co_await pool.adopt_member(id, disk);
    if (!adopted.has_value()) co_return;
    metrics.members_replaced.add();
    log_info("disk {} keeps the journal from now on", id);
    co_return;  // that is a change: who calls looks again
  }
}

// All batches that are still needed, each from a member that has it whole. False: none has, or the
// disk fails.
Task<bool> Journal::Impl::copy_log(DiskId to) {
  std::vector<LoggedBatch> batches;
  {
    LockGuard lock(mutex);
    batches.assign(space.needed().begin(), space.needed().end());
  }
  const std::vector<DiskId> ids{to};
  scheduler::Disk* const disk = pool.disk(to);
  if (disk == nullptr) co_return false;
  const std::shared_ptr<const LogSet> set = log_set;
  IoGroup group;
  for (const LoggedBatch& batch : batches) {
    if (stopped.load(std::memory_order_acquire)) co_return false;
    std::shared_ptr<Buffer> bytes;
    bool found = false;
    for (const LogSet::Member& member : set->members) {
      // New each time: a disk that was given up in the middle may still write into what it was given.
      bytes = std::make_shared<Buffer>(batch.size_bytes);
      const Result<void> read = co_await scheduler::read(
          *member.disk, IoClass::kCritical, kJournalOffset + batch.offset, bytes->span(), bytes);
      if (!read.has_value()) continue;
      const std::optional<BatchHeader> header = get_header(bytes->span());
      found = header && header->crc == batch.crc && payload_whole(*header, bytes->span());
      if (found) break;
    }
    if (!found) {
      log_warning("batch {} of the journal cannot be read any more: disk {} is not given it",
                  batch.sequence, to);
      co_return false;
    }
    group.clear();
    group.write(*disk, IoClass::kCritical, kJournalOffset + batch.offset, bytes->span());
    const bool written = co_await run(group, ids);
    if (!written) co_return false;
  }
  group.clear();
  group.flush(*disk, IoClass::kCritical);
  const bool flushed = co_await run(group, ids);
  co_return flushed;
}

// Every write that a record of this batch tells of has completed before the record was appended, so
// one flush per disk with unflushed writes covers them. A short batch is written beside the flushes,
// and says so; a long one behind them. A member with unflushed writes flushes once, behind its part of
// the log: beside it a durable write would make a device without forced unit access flush twice, and
// where it does not, the one call less still makes fdatasync 5 to 8 % faster. False: a disk failed.
Task<bool> Journal::Impl::write_once(Batch* batch) {
  const std::shared_ptr<const LogSet> set = log_set;
  BatchHeader& header = batch->header;
  IoGroup group;
  std::vector<DiskId> ids;
  std::vector<DiskId> flush_with_log;
  header.beside_flush = false;
  const auto healthy = pool.healthy();
  for (const DiskId id : *healthy) {
    scheduler::Disk* const disk = pool.disk(id);
    if (disk == nullptr || !disk->needs_flush() || mutated(Mutant::kSkipFlush)) continue;
    const bool beside = batch->bytes.size() <= kBesideFlushBytesMax &&
                        (!batch->behind_data || mutated(Mutant::kParityBeside));
    header.beside_flush = beside;
    metrics.flushes.add();
    if (beside && set->has(id)) {
      flush_with_log.push_back(id);
      continue;
    }
    group.flush(*disk, IoClass::kCritical);
    ids.push_back(id);
  }
  if (!ids.empty() && !header.beside_flush) {
    const bool flushed = co_await run(group, ids);
    if (!flushed) co_return false;
    group.clear();
    ids.clear();
  }

  header.pool = pool_uuid;
  header.epoch = set->epoch.number;
  header.epoch_tag = set->epoch.tag;
  header.watermark = Lsn{durable.load(std::memory_order_relaxed)};
  put_header(batch->bytes.span(), header);
  const std::uint64_t offset = kJournalOffset + header.offset;
  for (const LogSet::Member& member : set->members) {
    if (mutated(Mutant::kSkipMember) && member.id != set->members.front().id) continue;
    if (std::ranges::find(flush_with_log, member.id) != flush_with_log.end()) {
      group.write_and_flush(*member.disk, IoClass::kCritical, offset, batch->bytes.span());
    } else {
      group.write(*member.disk, IoClass::kCritical, offset, batch->bytes.span(), true);
    }
    ids.push_back(member.id);
  }
  const bool written = co_await run(group, ids);
  co_return written;
}

// False: one or more of these disks have failed, and the pool knows.
Task<bool> Journal::Impl::run(IoGroup& group, const std::vector<DiskId>& ids) {
  co_await group.run();
  bool good = true;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (group.error(i).code == Code::kOk) continue;
    good = false;
    const Result<void> reported =
        co_await pool.report_failure(ids[i], group.error(i), &group.disk(i));
    reported.ignore("read_only() is asked before the next attempt");
  }
  co_return good;
}

// The batch is on all members. False if a disk has failed or a new epoch has been announced since
// the flushes began: then it must carry the epoch that says so (see "Epoch and commit" in
// pool.hpp).
bool Journal::Impl::finish(const Batch& batch) {
  const BatchHeader& header = batch.header;
  LockGuard lock(mutex);
  if (stopped.load(std::memory_order_relaxed)) return false;
  if (pool.changes() != changes_seen) return false;
  space.add(LoggedBatch{.sequence = header.sequence,
                        .offset = header.offset,
                        .size_bytes = batch.bytes.size(),
                        .last = header.last,
                        .previous_crc = header.previous_crc,
                        .crc = header.crc});
  covered.store(header.watermark.raw, std::memory_order_release);
  durable.store(header.last.raw, std::memory_order_release);
  return true;
}

}  // namespace dynamicfs::journal
