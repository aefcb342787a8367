// One mount: the kernel's requests become calls on Filesystem, their results become replies.
//
// Nothing else happens here. A request is received by one of a few reader threads (`fuse-<n>`),
// started as a task and answered by whichever thread completes it; what needs no disk is answered
// by the reader itself, without a hop. The memory a WRITE was received into travels with its task
// to the disks, so its payload is copied nowhere.
//
// Stateless  The kernel is told once that OPEN, OPENDIR, CREATE and FLUSH do not exist. It then
//            opens without asking, makes files by MKNOD and keeps nothing to RELEASE: a small file
//            costs three requests instead of seven. What an open file is, the Filesystem knows from
//            the references that FORGET gives back.
// Threads    See each method. Replies may be sent from any thread (libfuse allows it).
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/executor.hpp"
#include "base/metrics.hpp"
#include "base/mutex.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "extent/epoch.hpp"
#include "fs/filesystem.hpp"
#include "fs/fuse_rings.hpp"
#include "fs/fuse_wire.hpp"
#include "fs/kernel_writeback.hpp"
#include "fs/receive_buffers.hpp"
#include "fs/stale_attributes.hpp"

struct fuse_req;
struct fuse_session;
struct iovec;
struct fuse_conn_info;

namespace dynamicfs::fs {

struct SessionOptions {
  unsigned readers = 2;
  // Buffered writes stay in the page cache until the kernel writes them back.
  bool writeback = true;
  bool acl = false;
  // Payload of writes that wait; beyond that no request is taken from the kernel.
  std::uint64_t write_memory_bytes = 0;
  std::string mountpoint{};
  std::string device{};  // "0:52"
  // The kernel will keep no more dirty than dirty_bytes_max().
  bool dirty_limited = false;
  // Requests come through io_uring if the kernel offers that (fuse_rings.hpp).
  bool io_uring = false;
};

// The one place where a Code becomes an errno.
int errno_of(const Error& error);

class FuseSession {
 public:
  // `device` is an open /dev/fuse that was just mounted: the kernel's INIT is on its way.
  // `executor` and `filesystem` outlive the session. Errors: kSystem.
  static Result<std::unique_ptr<FuseSession>> start(Executor& executor, Filesystem& filesystem,
                                                    UniqueFd device, SessionOptions options);
  // stop() and drain() come first.
  ~FuseSession();

  // Waits until the kernel's INIT was answered. kShutdown: the session ended before, or nothing
  // came in `patience`.
  Result<void> wait_for_init(std::chrono::milliseconds patience);
  // What the kernel may have dirty, if that can be limited: see kernel_knobs.hpp.
  std::optional<std::uint64_t> dirty_bytes_max() const;
  // Becomes readable when the kernel has ended the session (unmounted, or aborted).
  int end_fd() const { return end_fd_.get(); }

  // Tells the kernel to ask again for attributes that it keeps and that writes have changed, and for
  // pages that it keeps and that we have refused to take. To be called about once a second, from a
  // thread that answers no requests: it may wait for some.
  void refresh_attributes();

  // Completes when every WRITE that the kernel has queued or sent before has been carried out or has failed.
  // kShutdown: the readers have ended before. kBusy: for 30 s it could not be told. syncfs(2) comes first: it makes the kernel queue what is dirty, and since Linux 6.18 (and
  // before 6.16) does not wait for it. `device`: of the mount, as in mountinfo.
  Task<Result<void>> writes_settled(std::string device);
  // Of a WRITE, before anything counts it as received: until it has been answered.
  static extent::EpochTracker::Pin begin_write(fuse_req* request);

  // Ends the readers; requests that were received go on. Not from a reader.
  void stop();
  // Waits until every request was answered and every buffer is home. After stop().
  void drain();

  struct State {
    wire::Init offered;
    wire::Init answered;
    std::string library_version;
    unsigned readers = 0;
    std::size_t buffers_max = 0;
    std::size_t buffers_made = 0;
    std::size_t buffers_out = 0;
    std::size_t buffer_waits = 0;
    std::uint64_t in_flight = 0;
    std::uint64_t seek_syncs = 0;
    std::size_t ring_queues = 0;      // 0: all requests come by /dev/fuse
    std::size_t ring_entries = 0;     // requests that may be under way in all queues together
    std::uint64_t ring_requests = 0;  // 0: the kernel has the queues and does not use them
    std::uint64_t ring_answers_handed_over = 0;
  };
  State state() const;
  // Requests received, by opcode; see wire::opcode_name.
  std::uint64_t requests(unsigned opcode) const { return requests_[opcode].sum(); }

 private:
  friend class Request;
  friend void on_init(void* session, fuse_conn_info* connection);
  FuseSession(Executor& executor, Filesystem& filesystem, SessionOptions options);

  std::size_t write_buffers() const { return buffers_.count_max() - options_.readers; }
  void start_rings();
  // How many requests may wait for the kernel's writeback at once.
  std::size_t flushes_max() const;
  void read_requests(unsigned index);
  void handle(std::span<std::byte> message);
  void negotiate(fuse_conn_info* connection);
  void attributes_changed(InodeId inode);
  void forget_attributes(InodeId inode);
  void pages_refused(InodeId inode, ByteRange range);
  static ssize_t send(int fd, iovec* iov, int count, void* self);
  static ssize_t receive(int fd, void* memory, std::size_t size, void* self);

  Executor& executor_;
  Filesystem& filesystem_;
  const SessionOptions options_;
  fuse_session* session_ = nullptr;  // owned, with the device in it
  int device_fd_ = -1;
  std::atomic<bool> kernel_keeps_times_{false};   // it has a writeback cache; known from INIT on
  std::atomic<bool> setxattr_extended_{false};    // likewise: it sends FUSE_SETXATTR_EXT
  std::atomic<bool> kernel_checks_flags_{false};  // likewise: who may set them
  UniqueFd end_fd_;
  ReceiveBuffers buffers_;
  StaleAttributes stale_attributes_;
  std::optional<KernelWriteback> writeback_;
  std::atomic<std::size_t> flushing_{0};
  std::unique_ptr<FuseRings> rings_;  // if they were asked for, and there can be any
  std::vector<std::thread> readers_;
  std::atomic<unsigned> readers_left_{0};
  std::atomic<bool> stopping_{false};

  Mutex refused_mutex_;  // leaf
  std::unordered_map<InodeId, ByteRange> refused_ DFS_GUARDED_BY(refused_mutex_);

  std::array<Counter, wire::kOpcodes> requests_;
  Counter writes_begun_;
  extent::EpochTracker writes_;  // under way
  // The difference is what is in flight; two sums, so that no counter is shared on the way.
  Counter started_;
  Counter finished_;

  // std::mutex, not ours: wait_for_init waits on the condition variable.
  mutable std::mutex init_mutex_;
  std::condition_variable init_done_;
  wire::Init offered_;
  wire::Init answered_;
  bool initialised_ = false;
  bool ended_ = false;
};

}  // namespace dynamicfs::fs
