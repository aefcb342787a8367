#include "scheduler/uring_disk.hpp"

#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "scheduler/accounting.hpp"
#include "scheduler/volume.hpp"
#include "scheduler/worker.hpp"

namespace dynamicfs::scheduler {
namespace {

// When a worker is awake, one more is woken only for a queue this long, or when the awake one has
// not looked at it for this long: a wake-up costs about 40 us of processor time, most of what it
// takes to serve a small request.
constexpr std::size_t kBacklogForSecond = 8;
constexpr Duration kBusyForSecond = std::chrono::microseconds{200};

class UringDisk final : public Disk {
 public:
  static Result<std::unique_ptr<Disk>> open(Executor& executor, const VolumeTarget& target,
                                            const UringDiskOptions& options) {
    OpenVolume volume = TRY(open_volume(target, options.read_only, options.lock_wait));
    IoQueueOptions queue = options.queue;
    queue.rotational = volume.rotational;
    std::unique_ptr<UringDisk> disk(new UringDisk(executor, target, std::move(volume), queue));
    for (int n = 0; n < options.workers; ++n) {
      auto worker = TRY(Worker::start(disk->shared_, fmt::format("io-{}-{}", options.name, n)));
      LockGuard lock(disk->shared_.mutex);
      disk->workers_.push_back(std::move(worker));
    }
    return Result<std::unique_ptr<Disk>>(std::move(disk));
  }

  ~UringDisk() override {
    end_workers();
    {
      LockGuard lock(shared_.mutex);
      DFS_ASSERT(shared_.queue.queued() == 0);
      DFS_ASSERT(shared_.queue.in_flight() == 0);
    }
    // At once, not when the last reference to the open file goes.
    unlock();
  }

  void submit(IoRequest& request) override {
    assert_well_formed(request);
    if (!in_range(request, size_bytes())) {
      note_refused(shared_.metrics, request, false);
      request.error = error(Code::kDiskRange, request.offset_bytes);
      request.on_complete(request);
      return;
    }
    request.done_bytes = 0;
    request.flushing = false;
    request.tag =
        request.op == IoOp::kFlush ? shared_.writes_completed.load(std::memory_order_acquire) : 0;
    const TimePoint now = shared_.executor.now();
    Worker* to_wake = nullptr;
    bool refused = false;
    {
      LockGuard lock(shared_.mutex);
      refused = shared_.failed.load(std::memory_order_relaxed);
      if (!refused) {
        note_queued(shared_.metrics, request);
        shared_.queue.push(request, now);
        if (!Worker::is_resuming_here(shared_)) to_wake = worker_to_wake(now);
      }
    }
    if (to_wake != nullptr) to_wake->wake();
    if (refused) {
      note_refused(shared_.metrics, request, false);
      request.error = error(Code::kDiskGone);
      request.on_complete(request);
    }
  }

  std::uint64_t size_bytes() const override { return shared_.volume.size_bytes; }
  const std::string& path() const override { return target_.path; }
  DiskKind kind() const override { return target_.kind; }
  bool rotational() const override { return shared_.volume.rotational; }
  bool direct() const override { return shared_.volume.direct; }
  bool needs_flush() const override {
    return shared_.writes_flushed.load(std::memory_order_acquire) <
           shared_.writes_completed.load(std::memory_order_acquire);
  }
  const DiskMetrics& metrics() const override { return shared_.metrics; }

  void fail() override {
    std::vector<IoRequest*> queued;
    {
      LockGuard lock(shared_.mutex);
      if (shared_.failed.exchange(true, std::memory_order_seq_cst)) return;
      while (IoRequest* const request = shared_.queue.drain()) queued.push_back(request);
    }
    std::vector<IoRequest*> at_device;
    for (const auto& worker : workers_) worker->take_away(at_device);
    const TimePoint now = shared_.executor.now();
    {
      LockGuard lock(shared_.mutex);
      for (const IoRequest* const request : at_device) shared_.queue.completed(*request, now);
    }
    DriverScope scope(shared_.executor);
    for (IoRequest* const request : at_device) {
      request->error = error(Code::kDiskGone);
      note_completed(shared_.metrics, latency(), *request, now);
      request->on_complete(*request);
    }
    for (IoRequest* const request : queued) {
      note_refused(shared_.metrics, *request, true);
      request->error = error(Code::kDiskGone);
      request->on_complete(*request);
    }
    fail_ended_.store(true, std::memory_order_release);
  }
  bool close() override {
    if (!fail_ended_.load(std::memory_order_acquire) || kept()) return false;
    end_workers();
    unlock();
    shared_.volume.fd.reset();
    return true;
  }
  bool kept() const override {
    return std::ranges::any_of(workers_, [](const auto& worker) { return worker->kept(); });
  }
  void unlock() override { ::flock(shared_.volume.fd.get(), LOCK_UN); }
  bool failed() const override { return shared_.failed.load(std::memory_order_relaxed); }
  Lateness lateness() const override {
    const TimePoint now = shared_.executor.now();
    LockGuard lock(shared_.mutex);
    return shared_.queue.lateness(now);
  }

 private:
  UringDisk(Executor& executor, VolumeTarget target, OpenVolume volume, IoQueueOptions queue)
      : target_(std::move(target)), shared_(executor, latency(), std::move(volume), queue) {}

  void end_workers() {
    {
      LockGuard lock(shared_.mutex);
      shared_.stopping = true;
      shared_.queue.end_pace();
    }
    for (const auto& worker : workers_) worker->wake();
    for (const auto& worker : workers_) worker->join();
  }

  // Who is to look at the queue because of what was just pushed; nullptr if somebody will anyway.
  Worker* worker_to_wake(TimePoint now) DFS_REQUIRES(shared_.mutex) {
    // The completion that it waits for will look, or the timekeeper.
    if (!shared_.queue.startable(now) &&
        (shared_.has_timekeeper || !shared_.queue.paced_until(now))) {
      return nullptr;
    }
    // The first that sleeps: the others stay asleep as long as it keeps up.
    Worker* sleeping = nullptr;
    bool soon = false;
    for (const auto& worker : workers_) {
      switch (worker->state) {
        case WorkerState::kLooking: return nullptr;
        case WorkerState::kBusy: soon = soon || now - worker->busy_since < kBusyForSecond; break;
        case WorkerState::kAway: break;
        case WorkerState::kSleeping:
          if (sleeping == nullptr) sleeping = worker.get();
          break;
      }
    }
    if (sleeping == nullptr || (soon && shared_.queue.queued() < kBacklogForSecond)) return nullptr;
    sleeping->state = WorkerState::kLooking;
    return sleeping;
  }

  const VolumeTarget target_;
  mutable WorkerShared shared_;
  std::vector<std::unique_ptr<Worker>> workers_;  // fixed when open() has returned
  std::atomic<bool> fail_ended_{false};
};

}  // namespace

Result<std::unique_ptr<Disk>> open_uring_disk(Executor& executor, const VolumeTarget& target,
                                              const UringDiskOptions& options) {
  DFS_ASSERT(options.workers > 0);
  return UringDisk::open(executor, target, options);
}

}  // namespace dynamicfs::scheduler
