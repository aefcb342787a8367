#include "scheduler/uring_disk.hpp"

#include <sys/file.h>
#include <sys/stat.h>

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
    const IoQueueOptions queue{.depth = options.depth, .rotational = volume.rotational};
    std::unique_ptr<UringDisk> disk(new UringDisk(executor, target, std::move(volume), queue));
    for (int n = 0; n < options.workers; ++n) {
      auto worker = TRY(Worker::start(disk->shared_, fmt::format("io-{}-{}", options.name, n)));
      LockGuard lock(disk->shared_.mutex);
      disk->workers_.push_back(std::move(worker));
    }
    return Result<std::unique_ptr<Disk>>(std::move(disk));
  }

  ~UringDisk() override {
    {
      LockGuard lock(shared_.mutex);
      shared_.stopping = true;
    }
    for (const auto& worker : workers_) worker->wake();
    workers_.clear();
    {
      LockGuard lock(shared_.mutex);
      DFS_ASSERT(shared_.queue.queued() == 0);
      DFS_ASSERT(shared_.queue.in_flight() == 0);
    }
    // At once, not when the last reference to the open file goes.
    ::flock(shared_.volume.fd.get(), LOCK_UN);
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
    request.tag =
        request.op == IoOp::kFlush ? shared_.writes_completed.load(std::memory_order_acquire) : 0;
    const TimePoint now = shared_.executor.now();
    Worker* to_wake = nullptr;
    bool refused = false;
    {
      LockGuard lock(shared_.mutex);
      refused = failed_.load(std::memory_order_relaxed);
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
  bool vanished() const override {
    struct stat now {};
    if (::fstat(shared_.volume.fd.get(), &now) != 0) return true;
    return S_ISREG(now.st_mode) &&
           (now.st_nlink == 0 || static_cast<std::uint64_t>(now.st_size) < size_bytes());
  }

  void fail() override {
    std::vector<IoRequest*> queued;
    {
      LockGuard lock(shared_.mutex);
      failed_.store(true, std::memory_order_relaxed);
      while (IoRequest* const request = shared_.queue.drain()) queued.push_back(request);
    }
    DriverScope scope(shared_.executor);
    for (IoRequest* const request : queued) {
      note_refused(shared_.metrics, *request, true);
      request->error = error(Code::kDiskGone);
      request->on_complete(*request);
    }
  }
  bool failed() const override { return failed_.load(std::memory_order_relaxed); }

 private:
  UringDisk(Executor& executor, VolumeTarget target, OpenVolume volume, IoQueueOptions queue)
      : target_(std::move(target)), shared_(executor, std::move(volume), queue) {}

  // Who is to look at the queue because of what was just pushed; nullptr if somebody will anyway.
  Worker* worker_to_wake(TimePoint now) DFS_REQUIRES(shared_.mutex) {
    if (!shared_.queue.startable(now)) return nullptr;  // the completion it waits for will look
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
  WorkerShared shared_;
  std::atomic<bool> failed_{false};
  std::vector<std::unique_ptr<Worker>> workers_;  // fixed when open() has returned
};

}  // namespace

Result<std::unique_ptr<Disk>> open_uring_disk(Executor& executor, const VolumeTarget& target,
                                              const UringDiskOptions& options) {
  DFS_ASSERT(options.workers > 0);
  return UringDisk::open(executor, target, options);
}

}  // namespace dynamicfs::scheduler
