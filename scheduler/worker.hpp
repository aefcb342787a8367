// One worker of a disk: a thread with an io_uring of its own.
//
// Its life is one loop: take every request that may start from the disk's queue, hand all of them
// to the kernel and wait for the first completion in one system call, reap all completions, resume
// their coroutines. What those submit to the same disk is found at the top of the loop: no wake-up.
// Small writes that were taken together and lie side by side are one to the kernel.
// While only a small read or two are at a fast device it looks for them instead (scheduler/poll_gate).
#pragma once

#include <liburing.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "base/unique_fd.hpp"
#include "scheduler/disk.hpp"
#include "scheduler/io_queue.hpp"
#include "scheduler/poll_gate.hpp"
#include "scheduler/space_ahead.hpp"
#include "scheduler/volume.hpp"

namespace dynamicfs::scheduler {

// What one worker is at, as those who submit need to know it.
enum class WorkerState : std::uint8_t {
  kLooking,   // awake, will look at the queue next
  kSleeping,  // waits in the kernel; only a completion or a wake-up gets it out
  kBusy,      // resumes coroutines, looks at the queue afterwards
  kAway,      // in a flush of its own, for as long as that takes
};

// What the workers of one disk share.
struct WorkerShared {
  WorkerShared(Executor& on_executor, LatencyWatch& of_disk, OpenVolume opened,
               IoQueueOptions queue_options)
      : executor(on_executor),
        latency(of_disk),
        volume(std::move(opened)),
        space(volume.size_bytes, volume.space_step_bytes),
        options(queue_options),
        queue(queue_options) {}

  Executor& executor;
  LatencyWatch& latency;
  OpenVolume volume;  // its file is closed when no worker runs any more; the rest never changes
  SpaceAhead space;
  const IoQueueOptions options;
  DiskMetrics metrics;
  // Of writes that were not durable: how many have completed, and how many of those had when the
  // last good flush was submitted.
  std::atomic<std::uint64_t> writes_completed{0};
  std::atomic<std::uint64_t> writes_flushed{0};

  Mutex mutex;  // a leaf
  IoQueue queue DFS_GUARDED_BY(mutex);
  bool stopping DFS_GUARDED_BY(mutex) = false;
  // What writes is not waited for any more: Disk::fail(). Changes under the mutex.
  std::atomic<bool> failed{false};
  int workers_here DFS_GUARDED_BY(mutex) = 0;  // those that are not kAway
  bool has_timekeeper DFS_GUARDED_BY(mutex) =
      false;  // a worker sleeps no longer than the pace asks
};

class Worker {
 public:
  // Returns when the ring stands, or says why it does not (kDiskOpen, the errno of io_uring_setup).
  static Result<std::unique_ptr<Worker>> start(WorkerShared& shared, const std::string& name);
  // As join().
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // `shared.stopping` is set and wake() was called: waits until the queue and the ring are empty. Once more does nothing.
  void join();
  // Gets the thread out of the kernel. Any thread; no lock needed.
  void wake();

  // Whether the calling thread is a worker of this disk that resumes coroutines: it will look at
  // the queue before it sleeps.
  static bool is_resuming_here(const WorkerShared& shared);

  // Guarded by shared.mutex, which Clang cannot see through a reference.
  WorkerState state = WorkerState::kLooking;
  TimePoint busy_since{};

  // The disk has failed: all that this worker has and that need not be waited for; nobody else answers
  // it from now on.
  // Any thread, also while this one is kept by the kernel.
  void take_away(std::vector<IoRequest*>& requests);
  // The kernel has something of this worker's, or the worker itself.
  bool kept() const { return in_use_.load(std::memory_order_acquire) != 0; }

 private:
  Worker(WorkerShared& shared, unsigned depth);
  void run(std::string name, std::promise<Result<void>> started);
  Result<void> set_up_ring();
  bool take_work();
  void start_taken(std::size_t fresh);
  void flush_here();
  void enter();
  bool poll();
  void reap();
  void complete();

  void start_request(IoRequest& request);
  void prepare(IoRequest& request);
  bool may_gather(const IoRequest& request) const;
  void start_gathered();
  void prepare_gathered(std::span<IoRequest* const> run);
  void finish_gathered(std::uint32_t leader, int result);
  std::size_t piece_bytes(const IoRequest& request) const;
  std::uint32_t take_slot();
  void free_slot(std::uint32_t slot);
  void show(std::uint32_t slot, IoRequest& request);
  IoRequest* claim(std::uint32_t slot);
  void finish(IoRequest& request, int result);
  void finish_check(IoRequest& request, int result, const struct statx& found);
  void finish_transfer(IoRequest& request, int result);
  void prepare_wake_up();
  void prepare_space(const SpaceAhead::Range& space);
  void finish_space(int result);
  io_uring_sqe* next_sqe();

  WorkerShared& shared_;
  UniqueFd wake_event_;
  std::thread thread_;

  // The thread's own.
  io_uring ring_{};
  std::uint64_t wake_value_ = 0;      // where the kernel stores what it read from wake_event_
  std::optional<TimePoint> wake_at_;  // the timekeeper's: it looks at the queue then
  unsigned small_reads_ = 0;          // at the kernel
  PollGate poll_gate_;
  std::vector<IoRequest*> taken_;
  std::vector<IoRequest*> gathered_;  // of those taken: small writes, by class and place
  std::vector<IoRequest*> to_flush_;  // written, want the flush behind it; in no slot
  std::vector<IoRequest*> finished_;
  std::vector<std::uint32_t> free_slots_;
  std::optional<std::uint32_t> flush_here_;    // to be done by this thread itself
  SpaceAhead::Range space_asked_;              // at the kernel now
  std::vector<std::uint32_t> awaiting_space_;  // slots of writes that wait for an allocation

  // A request of this worker that waits for the kernel, by the number the kernel is told. Who
  // exchanges it for nullptr answers it: this thread when the kernel has, or whoever fails the disk.
  // Outside of that only this thread writes, and touches no request that is shown here.
  struct Slot {
    std::atomic<IoRequest*> request{nullptr};
    std::atomic<bool> waited_for{false};  // what `request` has last pointed to: a read without
    std::shared_ptr<void> memory;         // ... this, which the kernel may write to
    struct statx checked {};
    bool small_read = false;
    // Of the first of several writes that are one to the kernel: their pieces and slots, its own first.
    std::vector<iovec> pieces;
    std::vector<std::uint32_t> members;
  };
  std::vector<Slot> slots_;
  std::atomic<std::uint32_t> in_use_{0};  // slots, also those whose request was taken away
};

}  // namespace dynamicfs::scheduler
