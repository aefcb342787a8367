// The order of requests at one disk: a pure data structure that takes its clock as an argument.
//
// Five FIFO queues; the next request is the head with the smallest arrival + offset of its class.
// While queues are short that is strict priority; a request that has waited longer than the offset
// overtakes, so nothing starves and no timer is needed. (Earliest deadline first with one relative
// deadline per class; Liu and Layland 1973.) A class whose slots are taken is passed over.
//
// Locks  None: the owner guards it.
#pragma once

#include <array>
#include <cstdint>

#include "base/assert.hpp"
#include "base/executor.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::scheduler {

struct IoQueueOptions {
  // Requests at the device at once. One slot is always kept for critical requests, writes get at
  // most three quarters, background at most one quarter (each at least one).
  unsigned depth = 32;
  // Offsets are four times as long on spinning disks.
  bool rotational = false;
};

class IoQueue {
 public:
  explicit IoQueue(IoQueueOptions options) : options_(options) { DFS_ASSERT(options.depth > 0); }

  // Takes the request (intrusively, by its `next`), stamping `arrival`.
  void push(IoRequest& request, TimePoint now);
  // The next request that may go to the device now, or nullptr; it then counts as in flight.
  IoRequest* pop();
  // An in-flight request of this class has come back.
  void completed(IoClass io_class);
  // Takes any queued request, regardless of slots, not counting it in flight: for failing a disk.
  IoRequest* drain();

  // pop() would return a request.
  bool startable() const;
  std::size_t queued() const;
  std::size_t queued(IoClass io_class) const { return queues_[index(io_class)].count; }
  unsigned depth() const { return options_.depth; }
  unsigned in_flight() const { return in_flight_total_; }

 private:
  struct Fifo {
    IoRequest* head = nullptr;
    IoRequest* tail = nullptr;
    std::size_t count = 0;
  };
  static std::size_t index(IoClass io_class) { return static_cast<std::size_t>(io_class); }
  bool may_start(IoClass io_class) const;
  IoRequest* take(std::size_t queue);

  IoQueueOptions options_;
  std::array<Fifo, kIoClasses> queues_{};
  std::array<unsigned, kIoClasses> in_flight_{};
  unsigned in_flight_total_ = 0;
};

}  // namespace dynamicfs::scheduler
