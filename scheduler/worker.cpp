#include "scheduler/worker.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <mutex>
#include <span>
#include <utility>

#include "base/log.hpp"
#include "scheduler/accounting.hpp"

namespace dynamicfs::scheduler {
namespace {

// Index of the volume in the ring's table of registered files.
constexpr int kVolumeFile = 0;

// What is not a request in the user data of a completion; requests are told by their slot.
constexpr std::uint64_t kWakeUp = std::uint64_t{1} << 32;
constexpr std::uint64_t kSpace = kWakeUp + 1;

// In a row without progress. The kernel means EAGAIN as "soon"; a store that says it forever is one
// that does not work.
constexpr std::uint64_t kRetriesMax = 1000;

bool is_small_read(const IoRequest& request) {
  return request.op == IoOp::kRead && request.size_bytes <= 16 * kKiB;
}

thread_local const WorkerShared* resuming_for = nullptr;

// Held while a ring is made or unmade. liburing maps its memory with system calls that the thread
// sanitizer does not see; without an order between the end of one ring and the beginning of the
// next at the same address it would call the two workers' accesses a race.
std::mutex ring_lifetime;

// A thread that resumes coroutines is not where a signal of the process should be handled.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Result<std::unique_ptr<Worker>> Worker::start(WorkerShared& shared, const std::string& name) {
  unsigned depth = 0;
  {
    LockGuard lock(shared.mutex);
    depth = shared.queue.depth();
  }
  std::unique_ptr<Worker> worker(new Worker(shared, depth));
  worker->wake_event_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!worker->wake_event_) return system_error(Code::kDiskOpen, errno);
  std::promise<Result<void>> started;
  std::future<Result<void>> ready = started.get_future();
  {
    const SignalsBlocked blocked;
    worker->thread_ = std::thread(&Worker::run, worker.get(), name, std::move(started));
  }
  TRY(ready.get());
  return worker;
}

Worker::Worker(WorkerShared& shared, unsigned depth) : shared_(shared), slots_(depth) {
  for (std::uint32_t slot = depth; slot-- > 0;) free_slots_.push_back(slot);
}

Worker::~Worker() { join(); }

void Worker::join() {
  DFS_ASSERT(thread_.get_id() != std::this_thread::get_id());
  if (thread_.joinable()) thread_.join();
}

void Worker::wake() {
  shared_.metrics.wake_ups.add();
  const std::uint64_t one = 1;
  const ssize_t written = ::write(wake_event_.get(), &one, sizeof one);
  DFS_ASSERT(written == sizeof one);
}

bool Worker::is_resuming_here(const WorkerShared& shared) { return resuming_for == &shared; }

void Worker::run(std::string name, std::promise<Result<void>> started) {
  name.resize(std::min<std::size_t>(name.size(), 15));  // the kernel's limit
  pthread_setname_np(pthread_self(), name.c_str());
  const Result<void> ready = set_up_ring();
  started.set_value(ready);
  if (!ready) return;
  prepare_wake_up();
  while (take_work()) {
    if (flush_here_) {
      flush_here();
    } else {
      enter();
      reap();
    }
    complete();
  }
  // Explicitly: what a closed ring still holds is let go of later, by a kernel thread, and whoever
  // opens the volume next would find it taken.
  io_uring_unregister_files(&ring_);
  const std::lock_guard lock(ring_lifetime);
  io_uring_queue_exit(&ring_);
}

// In the worker's thread: with SINGLE_ISSUER the ring belongs to the thread that made it.
Result<void> Worker::set_up_ring() {
  {
    LockGuard lock(shared_.mutex);
    ++shared_.workers_here;
  }
  const std::lock_guard lifetime_lock(ring_lifetime);
  // Besides the requests, the wake-up and one allocation.
  const unsigned entries = std::bit_ceil(static_cast<unsigned>(slots_.size()) + 2);
  int result = -EINVAL;
  // Newest first; an older kernel refuses what it does not know.
  for (const unsigned flags :
       {IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN, 0U}) {
    result = io_uring_queue_init(entries, &ring_, flags);
    if (result != -EINVAL) break;
  }
  if (result < 0) return system_error(Code::kDiskOpen, -result);
  // Linux 5.11. Before, liburing waits for a time by a request of its own, which we would have to know.
  if ((ring_.features & IORING_FEAT_EXT_ARG) == 0) {
    io_uring_queue_exit(&ring_);
    return system_error(Code::kDiskOpen, ENOSYS);
  }
  const int file = shared_.volume.fd.get();
  result = io_uring_register_files(&ring_, &file, 1);
  if (result < 0) {
    io_uring_queue_exit(&ring_);
    return system_error(Code::kDiskOpen, -result);
  }
  // Saves the look-up of the ring in each call; where it is refused everything works without.
  io_uring_register_ring_fd(&ring_);
  return {};
}

// Takes what may start and prepares it. False when the disk is to stop and nothing is left to do.
bool Worker::take_work() {
  std::size_t fresh = 0;  // of those taken; the others have been written and want their flush
  {
    const TimePoint now = shared_.executor.now();
    LockGuard lock(shared_.mutex);
    if (wake_at_) shared_.has_timekeeper = false;
    wake_at_.reset();
    while (IoRequest* const request = shared_.queue.pop(now)) {
      taken_.push_back(request);
    }
    fresh = taken_.size();
    taken_.insert(taken_.end(), to_flush_.begin(), to_flush_.end());
    to_flush_.clear();
    // What is left in the queue then waits for a completion at another worker, who will take it.
    if (shared_.stopping && taken_.empty() && !kept()) return false;
    // From here on whoever submits wakes us, though we are on our way into the kernel only: the
    // event is level-triggered, so nothing is lost.
    state = WorkerState::kSleeping;
    // The ring hands a flush to a kernel thread and is told by it: 22 to 30 us of processor time
    // and four context switches for a write and its flush on a loop device over memory, where the
    // call itself makes it 9 to 11 us and two. So a worker that has nothing else to wait for calls,
    // if another is there for what comes meanwhile. (Not so a durable write: as a call of its own it
    // made 4 KiB write + fdatasync on a mount 18 % slower.)
    if (taken_.size() == 1 && (taken_[0]->op == IoOp::kFlush || taken_[0]->flushing) && !kept() &&
        shared_.workers_here > 1 && !shared_.stopping &&
        (shared_.has_timekeeper || !shared_.queue.paced_until(now))) {
      flush_here_ = take_slot();
      state = WorkerState::kAway;
      --shared_.workers_here;
    } else if (!shared_.has_timekeeper) {
      wake_at_ = shared_.queue.paced_until(now);
      shared_.has_timekeeper = wake_at_.has_value();
    }
  }
  start_taken(fresh);
  return true;
}

void Worker::start_taken(std::size_t fresh) {
  for (std::size_t i = 0; i < taken_.size(); ++i) {
    IoRequest& request = *taken_[i];
    if (i < fresh) note_started(shared_.metrics, request);
    if (flush_here_) {
      show(*flush_here_, request);
    } else if (request.flushing) {
      prepare(request);
    } else if (fresh > 1 && may_gather(request)) {
      gathered_.push_back(&request);
    } else {
      start_request(request);
    }
  }
  taken_.clear();
  start_gathered();
}

bool Worker::may_gather(const IoRequest& request) const {
  return request.op == IoOp::kWrite && !request.durable && !request.flushes &&
         request.size_bytes < shared_.options.write_batch_bytes &&
         shared_.options.write_batch_extents > 1;
}

// Neighbours of one class become one write, as many as the limits allow.
void Worker::start_gathered() {
  std::ranges::sort(gathered_, {}, [](const IoRequest* request) {
    return std::pair{request->io_class, request->offset_bytes};
  });
  const std::uint64_t bytes_max =
      std::min<std::uint64_t>(shared_.options.write_batch_bytes, shared_.volume.transfer_bytes_max);
  for (std::size_t i = 0; i < gathered_.size();) {
    const IoRequest& first = *gathered_[i];
    std::uint64_t bytes = first.size_bytes;
    std::size_t end = i + 1;
    for (; end < gathered_.size() && end - i < shared_.options.write_batch_extents; ++end) {
      const IoRequest& next = *gathered_[end];
      if (next.io_class != first.io_class || next.offset_bytes != first.offset_bytes + bytes ||
          bytes + next.size_bytes > bytes_max) {
        break;
      }
      bytes += next.size_bytes;
    }
    if (end - i == 1 || shared_.failed.load(std::memory_order_relaxed) ||
        shared_.space.missing(first.offset_bytes, bytes).size_bytes != 0) {
      for (; i < end; ++i) start_request(*gathered_[i]);
    } else {
      prepare_gathered(std::span{gathered_}.subspan(i, end - i));
      i = end;
    }
  }
  gathered_.clear();
}

void Worker::prepare_gathered(std::span<IoRequest* const> run) {
  const std::uint64_t offset = run.front()->offset_bytes;
  const std::uint32_t leader = take_slot();
  Slot& slot = slots_[leader];
  slot.pieces.clear();
  slot.members.assign(1, leader);
  for (const IoRequest* const request : run) {
    slot.pieces.push_back({.iov_base = request->data, .iov_len = request->size_bytes});
    if (request != run.front()) slot.members.push_back(take_slot());
  }
  io_uring_sqe* const sqe = next_sqe();
  io_uring_prep_writev(sqe, kVolumeFile, slot.pieces.data(),
                       static_cast<unsigned>(slot.pieces.size()), offset);
  sqe->flags |= IOSQE_FIXED_FILE;
  io_uring_sqe_set_data64(sqe, leader);
  shared_.metrics.write_batches.add();
  shared_.metrics.write_batch_ops.add(run.size());
  // From here on others may answer them.
  for (std::size_t i = 0; i < run.size(); ++i) show(slot.members[i], *run[i]);
}

// What stopped in the middle, or for want of room, is tried again one by one: so each learns what became
// of it. An error of the device is theirs all.
void Worker::finish_gathered(std::uint32_t leader, int result) {
  std::vector<std::uint32_t> members;
  members.swap(slots_[leader].members);
  std::size_t bytes = 0;
  for (const iovec& piece : slots_[leader].pieces) bytes += piece.iov_len;
  const bool whole = result > 0 && static_cast<std::size_t>(result) == bytes;
  const bool again = result >= 0 || result == -EINTR || result == -EAGAIN || result == -ENOSPC ||
                     result == -EDQUOT || result == -EFBIG;
  for (const std::uint32_t member : members) {
    IoRequest* const request = claim(member);
    free_slot(member);
    if (request == nullptr) continue;
    if (whole) {
      finish(*request, static_cast<int>(request->size_bytes));
    } else if (again) {
      start_request(*request);
    } else {
      finish(*request, result);
    }
  }
}

void Worker::flush_here() {
  int result = 0;
  if (finished_.empty()) {  // else the disk has failed just now
    shared_.metrics.system_calls.add();
    if (::fdatasync(shared_.volume.fd.get()) != 0) result = -errno;
  }
  {
    LockGuard lock(shared_.mutex);
    ++shared_.workers_here;
    state = WorkerState::kLooking;
  }
  const std::uint32_t slot = *flush_here_;
  flush_here_.reset();
  IoRequest* const request = claim(slot);
  free_slot(slot);
  if (request != nullptr) finish(*request, result);
}

// The number of a place for one request, which is in use until free_slot().
std::uint32_t Worker::take_slot() {
  DFS_ASSERT(!free_slots_.empty());  // as many as the depth of the disk
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  in_use_.fetch_add(1, std::memory_order_acq_rel);
  return slot;
}

void Worker::free_slot(std::uint32_t slot) {
  slots_[slot].memory.reset();
  if (std::exchange(slots_[slot].small_read, false)) --small_reads_;
  free_slots_.push_back(slot);
  in_use_.fetch_sub(1, std::memory_order_acq_rel);
}

// From here on whoever fails the disk may answer it, so it must not be touched any more. If that has
// happened already it is answered here: one of the two sees what the other has stored.
void Worker::show(std::uint32_t slot, IoRequest& request) {
  const bool waited_for = request.op == IoOp::kRead && request.memory == nullptr;
  slots_[slot].waited_for.store(waited_for, std::memory_order_relaxed);
  slots_[slot].memory = request.memory;
  slots_[slot].request.store(&request, std::memory_order_seq_cst);
  if (waited_for || !shared_.failed.load(std::memory_order_seq_cst)) return;
  IoRequest* const ours = claim(slot);
  if (ours == nullptr) return;
  ours->error = error(Code::kDiskGone);
  finished_.push_back(ours);
}

// nullptr: somebody else answers it.
IoRequest* Worker::claim(std::uint32_t slot) {
  return slots_[slot].request.exchange(nullptr, std::memory_order_seq_cst);
}

void Worker::take_away(std::vector<IoRequest*>& requests) {
  for (Slot& slot : slots_) {
    IoRequest* request = slot.request.load(std::memory_order_seq_cst);
    if (request == nullptr || slot.waited_for.load(std::memory_order_relaxed)) continue;
    if (slot.request.compare_exchange_strong(request, nullptr, std::memory_order_seq_cst)) {
      requests.push_back(request);
    }
  }
}

void Worker::enter() {
  // What is finished already, because the disk has failed, does not wait for the kernel.
  const unsigned at_least = finished_.empty() ? 1 : 0;
  int result = 0;
  if (at_least != 0 && poll_gate_.pays(in_use_.load(std::memory_order_relaxed), small_reads_) &&
      poll()) {
    return;
  }
  shared_.metrics.system_calls.add();
  if (wake_at_ && at_least != 0) {
    const std::int64_t left_ns =
        std::max<std::int64_t>((*wake_at_ - shared_.executor.now()).count(), 0);
    __kernel_timespec left{.tv_sec = left_ns / 1'000'000'000, .tv_nsec = left_ns % 1'000'000'000};
    io_uring_cqe* first = nullptr;
    result = io_uring_submit_and_wait_timeout(&ring_, &first, at_least, &left, nullptr);
  } else {
    result = io_uring_submit_and_wait(&ring_, at_least);
  }
  // What was not submitted stays in the ring for the next time round.
  DFS_ASSERT(result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
             result == -ENOMEM || result == -ETIME);
}

// Submits, and looks for completions for as long as it pays. False: none came, or other threads poll
// already on half of the processors.
bool Worker::poll() {
  static const int pollers_max = static_cast<int>(std::thread::hardware_concurrency()) / 2;
  static std::atomic<int> pollers{0};
  if (pollers.fetch_add(1, std::memory_order_relaxed) >= pollers_max) {
    pollers.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  const TimePoint end = shared_.executor.now() + PollGate::kLength;
  // What fails here is tried again by whoever waits.
  static_cast<void>(io_uring_submit(&ring_));
  shared_.metrics.system_calls.add();
  while (io_uring_cq_ready(&ring_) == 0 && shared_.executor.now() < end) {
    static_cast<void>(io_uring_get_events(&ring_));
    shared_.metrics.polls.add();
  }
  pollers.fetch_sub(1, std::memory_order_relaxed);
  const bool came = io_uring_cq_ready(&ring_) != 0;
  poll_gate_.polled(came);
  return came;
}

void Worker::reap() {
  unsigned head = 0;
  unsigned count = 0;
  io_uring_cqe* cqe = nullptr;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    ++count;
    switch (cqe->user_data) {
      case kWakeUp: prepare_wake_up(); break;
      case kSpace: finish_space(cqe->res); break;
      default: {
        const auto slot = static_cast<std::uint32_t>(cqe->user_data);
        if (!slots_[slot].members.empty()) {
          finish_gathered(slot, cqe->res);
          break;
        }
        IoRequest* const request = claim(slot);
        free_slot(slot);
        if (request == nullptr) break;
        if (request->op == IoOp::kCheck) {
          finish_check(*request, cqe->res, slots_[slot].checked);
        } else {
          finish(*request, cqe->res);
        }
      }
    }
  }
  io_uring_cq_advance(&ring_, count);
}

// Resumes whoever waited for a finished request. After on_complete its memory may be gone.
void Worker::complete() {
  if (finished_.empty()) return;
  const TimePoint now = shared_.executor.now();
  for (const IoRequest* const request : finished_) {
    if (is_small_read(*request)) poll_gate_.read_took(now - request->started);
    note_completed(shared_.metrics, shared_.latency, *request, now);
  }
  {
    LockGuard lock(shared_.mutex);
    for (const IoRequest* const request : finished_) {
      if (shared_.queue.completed(*request, now)) {
        note_late(shared_.metrics, shared_.latency, *request, now);
      }
    }
    shared_.metrics.depth.store(shared_.queue.shared_depth(now), std::memory_order_relaxed);
    state = WorkerState::kBusy;
    busy_since = now;
  }
  resuming_for = &shared_;
  {
    DriverScope scope(shared_.executor);
    for (IoRequest* const request : finished_) request->on_complete(*request);
  }
  resuming_for = nullptr;
  finished_.clear();
}

void Worker::start_request(IoRequest& request) {
  if (request.op == IoOp::kWrite) {
    const auto space = shared_.space.missing(request.offset_bytes, request.size_bytes);
    if (space.size_bytes != 0) {
      awaiting_space_.push_back(take_slot());
      show(awaiting_space_.back(), request);
      if (space_asked_.size_bytes == 0) prepare_space(space);
      return;
    }
  }
  prepare(request);
}

// In pieces of equal length: a last one of a block would cost as much time as the others. Not what is
// durable by itself: each piece would flush.
std::size_t Worker::piece_bytes(const IoRequest& request) const {
  const std::size_t left = request.size_bytes - request.done_bytes;
  const std::uint64_t max = shared_.volume.transfer_bytes_max;
  if (left <= max || (request.durable && !request.flushes)) return left;
  const std::uint64_t pieces = (left + max - 1) / max;
  return align_up(left / pieces, kBlockBytes);
}

// The rest of the transfer, from done_bytes on, or the next piece of it.
void Worker::prepare(IoRequest& request) {
  if (shared_.failed.load(std::memory_order_relaxed)) {
    request.error = error(Code::kDiskGone);
    finished_.push_back(&request);
    return;
  }
  const std::uint32_t slot = take_slot();
  if (is_small_read(request)) {
    slots_[slot].small_read = true;
    ++small_reads_;
  }
  io_uring_sqe* const sqe = next_sqe();
  const IoOp op = request.flushing ? IoOp::kFlush : request.op;
  const auto size = static_cast<unsigned>(piece_bytes(request));
  const std::uint64_t offset = request.offset_bytes + request.done_bytes;
  switch (op) {
    case IoOp::kRead:
      io_uring_prep_read(sqe, kVolumeFile, request.data + request.done_bytes, size, offset);
      break;
    case IoOp::kWrite:
      io_uring_prep_write(sqe, kVolumeFile, request.data + request.done_bytes, size, offset);
      if (request.durable && !request.flushes) sqe->rw_flags = RWF_DSYNC;
      break;
    case IoOp::kFlush: io_uring_prep_fsync(sqe, kVolumeFile, IORING_FSYNC_DATASYNC); break;
    case IoOp::kCheck:
      // Not a call of our own: a network file system that is away would keep the thread.
      io_uring_prep_statx(sqe, shared_.volume.fd.get(), "", AT_EMPTY_PATH,
                          STATX_TYPE | STATX_NLINK | STATX_SIZE, &slots_[slot].checked);
      break;
  }
  if (request.op != IoOp::kCheck) sqe->flags |= IOSQE_FIXED_FILE;  // a statx wants the real one
  io_uring_sqe_set_data64(sqe, slot);
  show(slot, request);
}

void Worker::finish(IoRequest& request, int result) {
  if (request.op != IoOp::kFlush && !request.flushing) return finish_transfer(request, result);
  if (result < 0) {
    // Whatever the errno is: the kernel reports a failed write-back once and then forgets it, so a
    // flush after this one would lie.
    request.error = system_error(Code::kDiskFlush, -result);
  } else {
    std::uint64_t covered = shared_.writes_flushed.load(std::memory_order_relaxed);
    while (covered < request.tag && !shared_.writes_flushed.compare_exchange_weak(
                                        covered, request.tag, std::memory_order_release)) {
    }
  }
  finished_.push_back(&request);
}

void Worker::finish_check(IoRequest& request, int result, const struct statx& found) {
  // Where the kernel cannot look this way, other requests will say so in time.
  const bool unknown =
      result == -EINVAL || result == -EOPNOTSUPP || result == -EAGAIN || result == -EINTR;
  const bool file = S_ISREG(found.stx_mode);
  if (!unknown && (result < 0 || (file && (found.stx_nlink == 0 ||
                                           found.stx_size < shared_.volume.size_bytes)))) {
    request.error = system_error(Code::kDiskGone, result < 0 ? -result : 0);
  }
  finished_.push_back(&request);
}

void Worker::finish_transfer(IoRequest& request, int result) {
  const Code code = request.op == IoOp::kRead ? Code::kDiskRead : Code::kDiskWrite;
  if (result == -EINTR || result == -EAGAIN) {
    if (++request.tag <= kRetriesMax) return prepare(request);
  }
  if (result > 0) {
    std::size_t done = request.done_bytes + static_cast<std::size_t>(result);
    DFS_ASSERT(done <= request.size_bytes);
    if (done < request.size_bytes) {
      // A direct transfer goes on at a sector or is refused.
      if (shared_.volume.direct) done = align_down(done, 512);
      if (done > request.done_bytes) {
        request.done_bytes = done;
        request.tag = 0;
        return prepare(request);
      }
      result = -EIO;
    }
  }
  if (result <= 0) {
    // Nothing transferred before the end of a volume that has its full length: it was cut short
    // behind our back, or the device answers rubbish.
    request.error = system_error(code, result == 0 ? EIO : -result, request.offset_bytes);
  } else {
    request.done_bytes = request.size_bytes;
  }
  if (request.op == IoOp::kWrite && (!request.durable || request.flushes)) {
    // A failed one counts too: part of it may be in the cache.
    const std::uint64_t before = shared_.writes_completed.fetch_add(1, std::memory_order_acq_rel);
    if (request.flushes && request.error.code == Code::kOk) {
      request.flushing = true;
      request.tag = before + 1;
      to_flush_.push_back(&request);
      return;
    }
  }
  finished_.push_back(&request);
}

void Worker::prepare_wake_up() {
  io_uring_sqe* const sqe = next_sqe();
  io_uring_prep_read(sqe, wake_event_.get(), &wake_value_, sizeof wake_value_, 0);
  io_uring_sqe_set_data64(sqe, kWakeUp);
}

// In the ring, because it may take long and others need not wait for it.
void Worker::prepare_space(const SpaceAhead::Range& space) {
  space_asked_ = space;
  io_uring_sqe* const sqe = next_sqe();
  io_uring_prep_fallocate(sqe, kVolumeFile, 0, static_cast<off_t>(space_asked_.offset_bytes),
                          static_cast<off_t>(space_asked_.size_bytes));
  sqe->flags |= IOSQE_FIXED_FILE;
  io_uring_sqe_set_data64(sqe, kSpace);
}

void Worker::finish_space(int result) {
  // Without space for the whole piece there may still be enough for the write; it will say so.
  if (result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL) shared_.space.give_up();
  shared_.space.asked(space_asked_);
  space_asked_ = {};
  std::vector<std::uint32_t> waiting;
  waiting.swap(awaiting_space_);
  for (const std::uint32_t slot : waiting) {
    IoRequest* const request = claim(slot);
    free_slot(slot);
    if (request != nullptr) start_request(*request);
  }
}

io_uring_sqe* Worker::next_sqe() {
  io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
  // Each request, the wake-up and the allocation has at most one entry at a time.
  DFS_ASSERT(sqe != nullptr);
  return sqe;
}

}  // namespace dynamicfs::scheduler
