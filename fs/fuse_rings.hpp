// Requests of the kernel through io_uring instead of /dev/fuse (FUSE_OVER_IO_URING, Linux 6.14): a queue for each
// processor, served by a thread there, so a request and its answer stay where the caller runs; one system call
// takes the answer to one request and brings the next.
//
// An entry is memory for one request with its payload and for the answer; the kernel has it while it
// waits for a request, we have it until that is answered. What an entry holds beside the fixed headers of the kernel's
// interface is laid out so that a request can be handed on as one message, as if read from /dev/fuse, with
// the payload of a WRITE on a block boundary. /dev/fuse stays for INIT, forgets and notifications.
//
// Source: Documentation/filesystems/fuse-io-uring.rst and include/uapi/linux/fuse.h of Linux.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/executor.hpp"
#include "base/metrics.hpp"
#include "base/result.hpp"

namespace dynamicfs::fs {

class FuseRings {
 public:
  class Entry;
  class Queue;
  // One request; `message` is ours until it is answered. In the queue's thread, inside a DriverScope.
  using Handler = std::function<void(Entry&, std::span<std::byte> message)>;

  struct Options {
    int device = -1;                   // /dev/fuse of the mount; outlives the rings
    std::size_t entries = 0;           // of all queues together, about; not below entries_min()
    std::function<void()> on_failure;  // a queue cannot go on: its callers wait for ever
    std::size_t payload_bytes = 0;     // the largest of a request or an answer
  };
  static std::size_t entries_min();
  // How many entries each queue has then.
  static std::size_t entries_per_queue(std::size_t entries);

  // Threads and memory are there; the kernel knows nothing of them. kSystem: the kernel has no such rings.
  static Result<std::unique_ptr<FuseRings>> start(Executor& executor, Options options,
                                                  Handler handler);
  // After end().
  ~FuseRings();

  // The kernel gets all entries: after INIT was answered with FUSE_OVER_IO_URING. Refuses it, it uses
  // /dev/fuse as ever.
  void enlist();
  // The kernel gets the answer (its header first, then what belongs to it) and `entry` for the next request. Any thread.
  void answer(Entry& entry, std::span<const iovec> parts);
  // No request is handled when this returns; those that were are still answered. Not from a handler.
  void stop();
  // Ends the threads, when everything has been answered. After stop().
  void end();

  std::size_t queues() const { return queues_.size(); }
  std::size_t entries() const;
  // Requests that have come.
  std::uint64_t requests() const { return requests_.sum(); }
  // Answers that another thread than the queue's gave, for which that had to be woken.
  std::uint64_t handed_over() const { return handed_over_.sum(); }

 private:
  FuseRings(Executor& executor, Options options, Handler handler);

  Executor& executor_;
  const Options options_;
  const Handler handler_;
  std::atomic<bool> stopping_{false};
  Counter requests_;
  Counter handed_over_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

// The `unique` of the request that `entry` was last given.
std::uint64_t unique_of(const FuseRings::Entry& entry);
// All memory of `entry` for messages: the payload begins a block behind its beginning, and a block before its end a
// largest one ends.
std::span<std::byte> memory_of(FuseRings::Entry& entry);

}  // namespace dynamicfs::fs
