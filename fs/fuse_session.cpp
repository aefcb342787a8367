#define FUSE_USE_VERSION 312

#include "fs/fuse_session.hpp"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "fs/fuse_operations.hpp"

namespace dynamicfs::fs {
namespace {

// One WRITE fills one extent window.
constexpr unsigned kWriteBytesMax = kWindowBytes;
// Writeback in flight from where on the kernel starts no more of its own accord, only what an fsync
// asks for. Enough that one stream keeps every disk busy (FAST'17 found 100 enough for 32 threads on a
// hard disk).
constexpr std::size_t kCongestedAt = 96;

// Of the buffers for writes, in fifths. The largest writeback at once, where it can be limited: an
// fsync of all that is dirty.
constexpr std::size_t kFifthsDirty = 3;
// Readahead, direct I/O and writeback at once, at most: so few that writeback cannot take the last
// buffer and lookups, reads and fsync go on; the others are for synchronous writes, each of which is
// a thread that waits. And more than writeback alone, because all reads wait when there are so many.
constexpr std::size_t kFifthsBackground = 4;

// Wakes a reader out of read(2); it does nothing, being delivered is the point.
constexpr int kWakeSignal = SIGUSR1;
void on_wake_signal(int) {}

// True while this thread answers INIT: the reply that passes then is the one to complete.
thread_local bool answering_init = false;

}  // namespace

int errno_of(const Error& error) {
  switch (error.code) {
    case Code::kOk: return 0;
    case Code::kNotFound: return ENOENT;
    case Code::kExists: return EEXIST;
    case Code::kNotDirectory: return ENOTDIR;
    case Code::kIsDirectory: return EISDIR;
    case Code::kNotEmpty: return ENOTEMPTY;
    case Code::kNameTooLong: return ENAMETOOLONG;
    case Code::kTooFewDisks:
    case Code::kInvalid: return EINVAL;
    case Code::kPermission: return EPERM;
    case Code::kAccess: return EACCES;
    case Code::kTooManyLinks: return EMLINK;
    case Code::kFileTooBig: return EFBIG;
    case Code::kNoAttribute: return ENODATA;
    case Code::kStale: return ESTALE;
    case Code::kNotSupported: return EOPNOTSUPP;
    case Code::kRange: return ERANGE;
    case Code::kCrossDevice: return EXDEV;
    case Code::kNoMemory: return ENOMEM;
    case Code::kBusy: return EBUSY;
    case Code::kNoDevice: return ENXIO;  // lseek behind the last data, open of a socket
    case Code::kNoSpace: return ENOSPC;
    case Code::kReadOnly: return EROFS;
    case Code::kUsage: return EINVAL;
    case Code::kSystem: return error.sys_errno != 0 ? error.sys_errno : EIO;
    // Everything that went wrong below the tree. The log and `status` say what it was.
    case Code::kDiskRead:
    case Code::kDiskWrite:
    case Code::kDiskFlush:
    case Code::kDiskGone:
    case Code::kDiskHung:
    case Code::kDiskOffline:
    case Code::kDiskRange:
    case Code::kDiskOpen:
    case Code::kFormatMagic:
    case Code::kFormatVersion:
    case Code::kFormatInvalid:
    case Code::kChecksum:
    case Code::kCorrupt:
    case Code::kJournalFull:
    case Code::kJournalStopped:
    case Code::kNotInPool:
    case Code::kPoolBusy:
    case Code::kPoolExists:
    case Code::kDiskMissing:
    case Code::kSplitBrain:
    case Code::kShutdown: return EIO;
  }
  return EIO;
}

FuseSession::FuseSession(Executor& executor, Filesystem& filesystem, SessionOptions options)
    : executor_(executor),
      filesystem_(filesystem),
      options_(options),
      end_fd_(::eventfd(0, EFD_CLOEXEC)),
      buffers_(kWriteBytesMax, options.write_memory_bytes / kWriteBytesMax + options.readers) {}

Result<std::unique_ptr<FuseSession>> FuseSession::start(Executor& executor, Filesystem& filesystem,
                                                        UniqueFd device, SessionOptions options) {
  DFS_ASSERT(options.readers > 0);
  std::unique_ptr<FuseSession> session{new FuseSession(executor, filesystem, options)};
  if (!session->end_fd_) return system_error(Code::kSystem, errno);

  struct sigaction action {};
  action.sa_handler = on_wake_signal;  // without SA_RESTART: read(2) must return
  if (::sigaction(kWakeSignal, &action, nullptr) != 0) return system_error(Code::kSystem, errno);

  char name[] = "dynamicfs";
  char* arguments[] = {name, nullptr};
  fuse_args args{.argc = 1, .argv = arguments, .allocated = 0};
  session->session_ =
      fuse_session_new(&args, &fuse_operations(), sizeof(fuse_lowlevel_ops), session.get());
  fuse_opt_free_args(&args);
  if (session->session_ == nullptr) return system_error(Code::kSystem, ENOMEM);

  fuse_custom_io io{};
  io.writev = send;
  io.read = receive;
  const int adopted = fuse_session_custom_io(session->session_, &io, device.get());
  if (adopted == -EOPNOTSUPP) {
    // From 3.18 on there are builds without; Debian's has been one.
    log_error("libfuse {} was built without custom I/O (-Denable-custom-io=true)",
              fuse_pkgversion());
  }
  if (adopted != 0) return system_error(Code::kSystem, -adopted);
  session->device_fd_ = device.release();
  session->writeback_.emplace(executor, options.mountpoint, options.device);
  if (options.io_uring) session->start_rings();

  session->readers_left_ = options.readers;
  for (unsigned index = 0; index < options.readers; ++index) {
    session->readers_.emplace_back([self = session.get(), index] { self->read_requests(index); });
  }
  return session;
}

void FuseSession::start_rings() {
  if (write_buffers() < FuseRings::entries_min()) {
    log_warning(
        "fuse: io_uring needs write_memory={}M with so many processors; going on with /dev/fuse",
        FuseRings::entries_min() * kWriteBytesMax / kMiB);
    return;
  }
  auto rings = FuseRings::start(executor_,
                                {.device = device_fd_,
                                 .entries = write_buffers(),
                                 .on_failure =
                                     [this] {
                                       const std::uint64_t one = 1;
                                       [[maybe_unused]] const auto told =
                                           ::write(end_fd_.get(), &one, sizeof one);
                                     },
                                 .payload_bytes = kWriteBytesMax},
                                [this](FuseRings::Entry& entry, std::span<std::byte> message) {
                                  ReceiveBuffer memory{memory_of(entry)};
                                  incoming.buffer = &memory;
                                  incoming.entry = &entry;
                                  handle(message);
                                  incoming.entry = nullptr;
                                  incoming.buffer = nullptr;
                                });
  if (rings.has_value()) {
    rings_ = std::move(*rings);
  } else {
    log_warning("fuse: io_uring cannot be used, /dev/fuse is: {}", describe(rings.error()));
  }
}

std::size_t FuseSession::flushes_max() const {
  return rings_ ? FuseRings::entries_per_queue(write_buffers()) / 2 : SIZE_MAX;
}

FuseSession::~FuseSession() {
  DFS_ASSERT(readers_left_ == 0);
  if (session_ != nullptr) fuse_session_destroy(session_);
}

Result<void> FuseSession::wait_for_init(std::chrono::milliseconds patience) {
  std::unique_lock lock(init_mutex_);
  init_done_.wait_for(lock, patience, [&] { return initialised_ || ended_; });
  if (!initialised_) return Code::kShutdown;
  return {};
}

namespace {

// The root of fusectl, mounted or not; none if there is neither, nor leave to make one.
UniqueFd open_connections() {
  constexpr long kFusectlMagic = 0x65735543;
  UniqueFd there{::open("/sys/fs/fuse/connections", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  struct statfs of {};
  if (there && ::fstatfs(there.get(), &of) == 0 && of.f_type == kFusectlMagic) return there;
  // Attached to no namespace: it goes with its descriptor.
  const UniqueFd context{::fsopen("fusectl", FSOPEN_CLOEXEC)};
  if (!context || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return {};
  return UniqueFd{::fsmount(context.get(), FSMOUNT_CLOEXEC, 0)};
}

}  // namespace

extent::EpochTracker::Pin FuseSession::begin_write(fuse_req* request) {
  FuseSession& session = *static_cast<FuseSession*>(fuse_req_userdata(request));
  auto pin = session.writes_.pin();
  session.writes_begun_.add();
  return pin;
}

Task<Result<void>> FuseSession::writes_settled(std::string device) {
  constexpr Duration kStep = std::chrono::milliseconds{1};
  constexpr Duration kPatience = std::chrono::seconds{30};
  // Queues of rings are one for each processor: after so long none is far behind another.
  const Duration in_order_after = rings_ ? Duration{std::chrono::seconds{1}} : Duration{0};
  // How many requests the kernel has that are not answered, ours among them; nothing if it does not say.
  const UniqueFd connections = open_connections();
  const std::string path = device.substr(device.find(':') + 1) + "/waiting";
  const auto waiting = [&]() -> std::optional<std::uint64_t> {
    const UniqueFd file{::openat(connections.get(), path.c_str(), O_RDONLY | O_CLOEXEC)};
    char text[32];
    const ssize_t size = file ? ::read(file.get(), text, sizeof text) : -1;
    std::uint64_t count = 0;
    if (size <= 0 || std::from_chars(text, text + size, count).ec != std::errc{})
      return std::nullopt;
    return count;
  };
  const TimePoint began = executor_.now();
  const std::uint64_t begun_before = writes_begun_.sum();
  const std::optional<std::uint64_t> waiting_before = waiting();
  std::uint64_t begun = begun_before;
  for (int quiet = 0; !stopping_;) {
    const Duration elapsed = executor_.now() - began;
    const std::uint64_t started = started_.sum();
    const std::optional<std::uint64_t> now = waiting();
    const std::uint64_t finished = finished_.sum();
    if (!now) {
      // fusectl cannot be had, which root always can. Nothing new for a while, then, or for long enough.
      constexpr int kQuietSteps = 100;
      constexpr Duration kLongEnough = std::chrono::seconds{3};
      quiet = begun == writes_begun_.sum() ? quiet + 1 : 0;
      if (quiet == kQuietSteps || elapsed > kLongEnough) break;
      begun = writes_begun_.sum();
    } else if (started >= finished && *now <= started - finished) {
      break;  // so many were here all the while: all that the kernel had
    } else if (elapsed >= in_order_after && waiting_before &&
               writes_begun_.sum() - begun_before >= *waiting_before) {
      break;  // they come in the order in which they were queued
    }
    if (elapsed > kPatience) co_return Code::kBusy;
    co_await executor_.sleep(kStep);
  }
  // Two steps: who was there is gone.
  const std::uint64_t epoch = writes_.current();
  while (writes_.try_advance() < epoch) co_await executor_.sleep(kStep);
  co_return stopping_ ? Result<void>{Code::kShutdown} : Result<void>{};
}

void FuseSession::stop() {
  // First: what it waits for comes through the readers.
  writeback_->stop();
  stopping_ = true;
  if (rings_) rings_->stop();
  fuse_session_exit(session_);
  // A signal that arrives between the check of stopping_ and read(2) wakes nobody, so it is
  // repeated until the last reader has left.
  while (readers_left_.load() > 0) {
    for (std::thread& reader : readers_) ::pthread_kill(reader.native_handle(), kWakeSignal);
    std::this_thread::sleep_for(std::chrono::milliseconds{2});
  }
  for (std::thread& reader : readers_) {
    if (reader.joinable()) reader.join();
  }
}

void FuseSession::drain() {
  while (finished_.sum() != started_.sum() || buffers_.out() != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  if (rings_) rings_->end();
}

void FuseSession::read_requests(unsigned index) {
  const std::string name = fmt::format("fuse-{}", index);
  ::pthread_setname_np(::pthread_self(), name.c_str());
  ReceiveBuffer buffer = buffers_.take();
  incoming.buffer = &buffer;
  while (!stopping_.load(std::memory_order_relaxed)) {
    fuse_buf request{};
    request.mem = buffer.message();
    const int received = fuse_session_receive_buf(session_, &request);
    if (received == -EINTR || received == -EAGAIN) continue;
    if (received <= 0) {
      if (received < 0)
        log_error("fuse: receiving failed: {}", describe(system_error(Code::kSystem, -received)));
      break;
    }
    {
      DriverScope scope(executor_);
      handle({buffer.message(), static_cast<std::size_t>(received)});
    }
    // Outside the scope: what the request has posted may be what brings a buffer back.
    if (!buffer) buffer = buffers_.take();
  }
  incoming.buffer = nullptr;
  buffer = {};
  // The first that leaves speaks for all: the kernel has ended the session, or we have.
  {
    std::lock_guard lock(init_mutex_);
    ended_ = true;
  }
  init_done_.notify_all();
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto told = ::write(end_fd_.get(), &one, sizeof one);
  readers_left_.fetch_sub(1);
}

void FuseSession::handle(std::span<std::byte> message) {
  const wire::Head head = wire::head_of(message);
  requests_[head.opcode < wire::kOpcodes ? head.opcode : 0].add();
  if (wire::is_interrupt(head)) {
    // Our requests end by themselves, and tracking which is being waited for costs every one of
    // them a lock: refused once, the kernel sends no more. (One about a request that came by a ring it does not
    // find here, and goes on.)
    std::vector<std::byte> refusal = wire::refusal_of(head);
    [[maybe_unused]] const auto sent = ::write(device_fd_, refusal.data(), refusal.size());
    return;
  }
  if (wire::is_init(head)) {
    std::lock_guard lock(init_mutex_);
    offered_ = wire::init_offer(message);
    answering_init = true;
    if (rings_ && !wire::over_io_uring(offered_)) {
      log_warning(
          "fuse: the kernel does not offer io_uring (see "
          "/sys/module/fuse/parameters/enable_uring); going on with /dev/fuse");
      rings_.reset();
    }
  }
  incoming.kill_suid_sgid = wire::kills_suid_sgid(head, message);
  incoming.kill_sgid = setxattr_extended_.load(std::memory_order_relaxed) &&
                       wire::take_setxattr_extension(head, message);
  incoming.newer = wire::pass_as_older(head, message);
  fuse_buf request{};
  request.mem = message.data();
  request.size = message.size();
  fuse_session_process_buf(session_, &request);
  if (answering_init) {
    answering_init = false;
    if (rings_) rings_->enlist();
    std::lock_guard lock(init_mutex_);
    initialised_ = answered_.major != 0;
    init_done_.notify_all();
  }
}

std::optional<std::uint64_t> FuseSession::dirty_bytes_max() const {
  if (!options_.dirty_limited) return std::nullopt;
  return write_buffers() * kFifthsDirty / 5 * kWriteBytesMax;
}

// Called by libfuse while it answers INIT.
void FuseSession::negotiate(fuse_conn_info* connection) {
  // Not ATOMIC_O_TRUNC: an open that we never hear of cannot truncate; without it the kernel sends
  // SETATTR. Not AUTO_INVAL_DATA: nobody but this mount changes a file. Not HANDLE_KILLPRIV: we do
  // its second version. No splice: one copy less in the kernel, one system call more per request.
  // Not READDIRPLUS_AUTO: who reads a directory to its end before asking for attributes, as du, find
  // and rsync do, would have a LOOKUP for each file behind the first buffer of names.
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                    FUSE_CAP_READDIRPLUS | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPORT_SUPPORT |
                    FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_IOCTL_DIR;
  if (options_.writeback) wanted |= FUSE_CAP_WRITEBACK_CACHE;
  // A default ACL takes the place of the umask, so that is left to us, too.
  if (options_.acl) wanted |= FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
  connection->want = wanted & connection->capable;
  kernel_keeps_times_ = (connection->want & FUSE_CAP_WRITEBACK_CACHE) != 0;
  connection->max_write = kWriteBytesMax;
  // All of it may come to the queue of one processor.
  const std::size_t buffers =
      rings_ ? FuseRings::entries_per_queue(write_buffers()) : write_buffers();
  const std::size_t background = std::min<std::size_t>(buffers * kFifthsBackground / 5, 0xFFFF);
  const std::size_t congested = std::min(background * 3 / 4, kCongestedAt);
  connection->congestion_threshold = static_cast<unsigned>(std::max<std::size_t>(congested, 1));
  // Without a limit of what is dirty writeback takes them all; then few, so that it waits in the
  // kernel rather than in our memory.
  connection->max_background = static_cast<unsigned>(
      options_.dirty_limited ? background : std::min(background, kCongestedAt * 4 / 3));
  // As large as the kernel offers, which is what the bdi has: kernel_knobs raises that afterwards.
  connection->time_gran = 1;
}

ssize_t FuseSession::send(int fd, iovec* iov, int count, void* self) {
  assert_no_mutex_held();
  if (answering_init && count == 2) {
    auto* const session = static_cast<FuseSession*>(self);
    std::lock_guard lock(session->init_mutex_);
    session->answered_ =
        wire::complete_init_reply(session->offered_, session->rings_ != nullptr,
                                  {static_cast<std::byte*>(iov[1].iov_base), iov[1].iov_len});
    session->setxattr_extended_ = wire::extends_setxattr(session->answered_);
    session->kernel_checks_flags_ = wire::checks_flags(session->offered_);
  }
  // Notifications have no request, and what libfuse answers by itself is what was just received.
  fuse_out_header header{};
  std::memcpy(&header, iov[0].iov_base, sizeof header);
  FuseRings::Entry* const entry = answering != nullptr ? answering : incoming.entry;
  if (entry != nullptr && header.unique == unique_of(*entry)) {
    static_cast<FuseSession*>(self)->rings_->answer(*entry, {iov, static_cast<std::size_t>(count)});
    return header.len;
  }
  return ::writev(fd, iov, count);
}

ssize_t FuseSession::receive(int fd, void* memory, std::size_t size, void* /*self*/) {
  // libfuse may ask for more than a buffer of ours holds before INIT has fixed the largest WRITE.
  const std::size_t size_max = incoming.buffer->message_bytes_max();
  return ::read(fd, memory, size < size_max ? size : size_max);
}

void FuseSession::forget_attributes(InodeId inode) {
  // No offset: attributes alone. The kernel takes no lock for that which a request could hold. It
  // may know the file no more; then there is nothing to forget.
  assert_no_mutex_held();
  fuse_lowlevel_notify_inval_inode(session_, inode.raw, -1, 0);
}

// Called by a WRITE before its answer, so the kernel has the inode in use.
void FuseSession::attributes_changed(InodeId inode) {
  if (stale_attributes_.note(inode)) forget_attributes(inode);
}

// What lies between two such ranges goes, too: it is only read again.
void FuseSession::pages_refused(InodeId inode, ByteRange range) {
  LockGuard lock(refused_mutex_);
  const auto [it, fresh] = refused_.try_emplace(inode, range);
  it->second.from = std::min(it->second.from, range.from);
  it->second.to = std::max(it->second.to, range.to);
}

// Here the kernel may drop the last reference to an inode and, before that, wait for its writeback:
// for answers that other threads send. Pages that are dirty again it writes back before it drops them.
void FuseSession::refresh_attributes() {
  for (const InodeId inode : stale_attributes_.next_period()) forget_attributes(inode);
  std::unordered_map<InodeId, ByteRange> refused;
  {
    LockGuard lock(refused_mutex_);
    refused.swap(refused_);
  }
  for (const auto& [inode, range] : refused) {
    fuse_lowlevel_notify_inval_inode(session_, inode.raw, static_cast<off_t>(range.from),
                                     static_cast<off_t>(range.to - range.from));
  }
}

FuseSession::State FuseSession::state() const {
  State state;
  {
    std::lock_guard lock(init_mutex_);
    state.offered = offered_;
    state.answered = answered_;
  }
  state.library_version = fuse_pkgversion();
  state.readers = options_.readers;
  state.buffers_max = buffers_.count_max();
  state.buffers_made = buffers_.made();
  state.buffers_out = buffers_.out();
  state.buffer_waits = buffers_.waits();
  if (rings_) {
    state.ring_queues = rings_->queues();
    state.ring_entries = rings_->entries();
    state.ring_requests = rings_->requests();
    state.ring_answers_handed_over = rings_->handed_over();
  }
  state.seek_syncs = writeback_ ? writeback_->flushes() : 0;
  // Finished first: it can only grow, so the difference is never negative.
  const std::uint64_t finished = finished_.sum();
  state.in_flight = started_.sum() - finished;
  return state;
}

}  // namespace dynamicfs::fs
