// A disk as everything above sees it: a flat array of bytes that reads, writes and flushes without
// blocking the caller.
//
// Promises    submit() never waits, never fails and never drops: a request that has to wait is
//             queued (it carries its own queue links, so queueing allocates nothing) and its
//             submitter stays suspended: that is the backpressure (INV-7).
//             Each request completes exactly once, with `error` set, on any thread, possibly
//             inside submit() itself.
//             A flush that succeeds covers every write that had completed when it was submitted.
//             After a flush has failed nothing written since the last good one is known to be there
//             (Rebello et al., "Can Applications Recover from fsync Failures?", ATC'20): the caller
//             must stop trusting the disk, not flush again.
// Threads     Every method may be called from any thread. No mutex of ours may be held (INV-1).
#pragma once

#include <array>
#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/executor.hpp"
#include "base/ids.hpp"
#include "base/metrics.hpp"
#include "base/mutex.hpp"
#include "base/result.hpp"
#include "scheduler/latency_watch.hpp"

namespace dynamicfs::scheduler {

// In order of urgency. Every request names one; man/architecture.md says who uses which.
enum class IoClass : std::uint8_t { kCritical, kHotRead, kRead, kWrite, kBackground };
inline constexpr std::size_t kIoClasses = 5;
inline constexpr std::array<const char*, kIoClasses> kIoClassNames = {
    "critical", "hot_read", "read", "write", "background"};

enum class IoOp : std::uint8_t {
  kRead,
  kWrite,
  kFlush,
  // Whether what the user named is there, in its whole length: kDiskGone if not. A deleted file
  // takes all other requests until it is closed.
  kCheck,
};
inline bool moves_data(IoOp op) { return op == IoOp::kRead || op == IoOp::kWrite; }

// One request. The memory of the request and of its data belongs to the submitter and stays valid
// until completion. Offset, size and address are multiples of kBlockBytes (4 KiB).
struct IoRequest {
  IoOp op = IoOp::kRead;
  IoClass io_class = IoClass::kRead;
  // Writes only: on stable storage when it completes (FUA or a flush of its own).
  bool durable = false;
  // With `durable`: by a flush behind the write, which covers all that a flush submitted now would,
  // for the price of one.
  bool flushes = false;
  std::uint64_t offset_bytes = 0;
  std::byte* data = nullptr;  // a write only reads from it
  std::size_t size_bytes = 0;

  // Reads only: what `data` lies in, if the submitter wants the request answered when the disk fails
  // although the device still has it. Then it lives until the device has given it back.
  std::shared_ptr<void> memory;

  // Set before completion; code kOk when everything was transferred.
  Error error{};
  void (*on_complete)(IoRequest&) = nullptr;
  void* owner = nullptr;

  // For the disk alone.
  IoRequest* next = nullptr;
  TimePoint arrival{};  // at the queue
  TimePoint due{};
  TimePoint started{};           // at the device
  std::uint64_t cost_there = 0;  // of all that was at the device then
  std::uint64_t tag = 0;
  std::size_t done_bytes = 0;
  bool flushing = false;   // written, the flush behind it is not done
  bool held_back = false;  // the device had as many as it may have of this class
};

struct ClassMetrics {
  Counter completed;
  Counter bytes;
  Counter errors;
  Counter no_space;      // refused by a host file system that is full
  Counter late;          // at the device for longer than the deadline of the class
  Counter waits;         // held back by the queue: no slot for it, or background's pace
  Histogram latency_us;  // from submit() to completion
  std::atomic<std::int64_t> queued{0};
  std::atomic<std::int64_t> in_flight{0};
};

struct DiskMetrics {
  std::array<ClassMetrics, kIoClasses> classes;
  // Requests given to the device; write_batch_ops of the writes reached it as write_batches.
  Counter reads, writes, flushes;
  Counter durable_writes;  // of the writes: the device flushes for each, uncounted above
  Counter read_bytes, written_bytes;
  Counter write_batches;           // of several writes that were one to the device
  Counter write_batch_ops;         // the writes in them
  Counter system_calls;            // io_uring_enter and the like, by our workers
  Counter polls;                   // looks for a completion without sleeping, a system call each
  Counter wake_ups;                // times a sleeping worker was woken
  std::atomic<unsigned> depth{0};  // at the device at once, as of the last completion
};

enum class DiskKind : std::uint8_t { kDirectory, kImageFile, kBlockDevice, kSimulated };

class Disk {
 public:
  Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  virtual ~Disk() = default;

  // See the head of this file.
  virtual void submit(IoRequest& request) = 0;

  virtual std::uint64_t size_bytes() const = 0;
  // What the user named: the directory, the image file or the device.
  virtual const std::string& path() const = 0;
  virtual DiskKind kind() const = 0;
  virtual bool rotational() const = 0;
  // False: the backing store refused O_DIRECT, so the page cache of the host stands between.
  virtual bool direct() const = 0;
  // True while a completed write that was not `durable` is not yet covered by a good flush.
  virtual bool needs_flush() const = 0;
  virtual const DiskMetrics& metrics() const = 0;

  // From now on every request, queued ones included, completes with kDiskGone: also those that the
  // device has, at once and not when it answers. It may carry writes out still, whole or in part,
  // with whatever their memory holds by then. Only reads without `memory` are waited for, because it
  // would write into what is theirs. Irrevocable for this object.
  virtual void fail() = 0;
  virtual bool failed() const = 0;

  // The device has requests, answered or not: the destructor would wait for it.
  virtual bool kept() const { return false; }
  // Lets others open what the user named, while this object lives on; for one that is left behind.
  virtual void unlock() {}
  // After fail(): ends what serves it and closes what the user named, so that it can be unmounted or unplugged; this
  // object lives on. False, and nothing has happened: the device has requests, or fail() has not returned yet. Not in a
  // thread of the disk, and not beside itself.
  virtual bool close() { return failed() && !kept(); }

  // What the device has now that it should have answered.
  virtual Lateness lateness() const { return {}; }
  LatencyWatch& latency() { return latency_; }
  const LatencyWatch& latency() const { return latency_; }

 private:
  LatencyWatch latency_;
};

// Several requests to any disks, awaited together:
//
//   IoGroup group;
//   group.write(disk_a, IoClass::kWrite, offset, data);
//   group.write(disk_b, IoClass::kWrite, offset, data);
//   co_await group.run();
//   if (group.error(0).code != Code::kOk) ...
//
// Lives in the awaiting coroutine's frame; reusable after clear(). The coroutine resumes on the
// thread of the last completion, or does not suspend if all completed at once.
class IoGroup {
 public:
  IoGroup() = default;
  IoGroup(const IoGroup&) = delete;
  IoGroup& operator=(const IoGroup&) = delete;

  // Each returns the index of the request.
  std::size_t read(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                   std::span<std::byte> into, std::shared_ptr<void> memory = nullptr);
  std::size_t write(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                    std::span<const std::byte> from, bool durable = false);
  // A durable write that is a flush as well.
  std::size_t write_and_flush(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                              std::span<const std::byte> from);
  std::size_t flush(Disk& disk, IoClass io_class);
  std::size_t check(Disk& disk, IoClass io_class);

  std::size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  Error error(std::size_t index) const { return entries_[index].request.error; }
  Disk& disk(std::size_t index) const { return *entries_[index].disk; }
  // The first failure, or success.
  Result<void> result() const;
  void clear() { entries_.clear(); }

  auto run() {
    struct Awaiter {
      IoGroup& group;
      bool await_ready() const noexcept { return group.entries_.empty(); }
      bool await_suspend(std::coroutine_handle<> handle) { return group.start(handle); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  struct Entry {
    Disk* disk;
    IoRequest request;
  };
  std::size_t add(Disk& disk, const IoRequest& request);
  bool start(std::coroutine_handle<> handle);
  static void completed(IoRequest& request);

  std::vector<Entry> entries_;
  std::coroutine_handle<> continuation_;
  std::atomic<std::size_t> left_{0};
};

// One request, awaited.
Task<Result<void>> read(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                        std::span<std::byte> into, std::shared_ptr<void> memory = nullptr);
Task<Result<void>> write(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                         std::span<const std::byte> from, bool durable = false);
Task<Result<void>> flush(Disk& disk, IoClass io_class);

}  // namespace dynamicfs::scheduler
