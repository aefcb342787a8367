#include "fs/daemon.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include <fmt/ranges.h>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "fs/alarm.hpp"
#include "fs/control.hpp"
#include "fs/disk_orders.hpp"
#include "fs/disk_search.hpp"
#include "fs/filesystem.hpp"
#include "fs/fuse_session.hpp"
#include "fs/kernel_knobs.hpp"
#include "fs/mount_point.hpp"
#include "fs/scrub_screen.hpp"
#include "fs/start_report.hpp"
#include "fs/status.hpp"

namespace dynamicfs::fs {
namespace {

using std::chrono::milliseconds;

// The kernel sends INIT with the mount; a machine in trouble may take a while to schedule us.
constexpr milliseconds kInitPatience{30'000};
// For those who are still in the tree when we are told to end.
constexpr milliseconds kUnmountPatience{2'000};
// How long a disk may take to give back what nobody waits for, at the end.
constexpr milliseconds kKeptPatience{2000};
// How old the number of blocks may be that `du` sees of a file that is being written.
constexpr int kRefreshMilliseconds = 1000;
constexpr off_t kLogBytesMax = 8 * kMiB;

// Before anything is touched.

Outcome<UniqueFd> open_device() {
  auto device = open_fuse_device();
  if (device) return std::move(*device);
  const int why = device.error().sys_errno;
  if (why == EACCES && ::geteuid() != 0) {
    return Refusal{ExitCode::kPermission, "You may not open /dev/fuse.",
                   "Mount as root, with sudo."};
  }
  return Refusal{ExitCode::kNoFuse,
                 fmt::format("FUSE is not available: /dev/fuse: {}.", std::strerror(why)),
                 "Load it with 'modprobe fuse'; a container needs --device /dev/fuse and --cap-add "
                 "SYS_ADMIN."};
}

Refusal refuse_mountpoint(const std::string& path, const MountpointProbe& probe) {
  const auto refuse = [](std::string what, std::string remedy) {
    return Refusal{ExitCode::kMountpoint, std::move(what), std::move(remedy)};
  };
  switch (probe.state) {
    case MountpointState::kAbsent:
      return refuse(fmt::format("There is no directory {}.", path),
                    fmt::format("Make it: mkdir {}", path));
    case MountpointState::kNotDirectory:
      return refuse(fmt::format("{} is not a directory.", path), "Mount on an empty directory.");
    case MountpointState::kNotEmpty:
      return refuse(fmt::format("{} is not empty; mounting there would hide what it holds.", path),
                    "Mount on an empty directory.");
    case MountpointState::kMounted:
      return refuse(
          fmt::format("Another pool is mounted at {}.", path),
          fmt::format("Unmount it with 'dynamicfs umount {}', or mount elsewhere.", path));
    case MountpointState::kDead:
      return refuse(fmt::format("{} holds a mount of something else whose daemon is gone.", path),
                    fmt::format("Remove it with 'umount {}'.", path));
    case MountpointState::kUnreadable:
    case MountpointState::kUsable: break;
  }
  return refuse(fmt::format("{} cannot be looked at: {}.", path, std::strerror(probe.sys_errno)),
                "");
}

// What fusermount3 says is for people who call it; the two that they meet most often are told with a remedy.
Refusal refuse_by_helper(const std::string& mountpoint, const HelperSays& said) {
  if (said.missing) {
    return {ExitCode::kPermission, "Mounting without being root needs fusermount3.",
            "Install the package fuse3, or mount with sudo."};
  }
  if (said.text.find("user_allow_other") != std::string::npos) {
    return {ExitCode::kPermission,
            "Only root may mount with allow_other: /etc/fuse.conf does not have user_allow_other.",
            "Mount without allow_other, or have user_allow_other written into /etc/fuse.conf."};
  }
  return {ExitCode::kPermission, fmt::format("{} cannot be mounted at: {}.", mountpoint, said.text),
          "The directory has to be yours, and you need access to /dev/fuse."};
}

// The log of a daemon in the background.

std::string log_directory() {
  if (::geteuid() == 0) return "/var/log/dynamicfs";
  if (const char* const state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state != '\0') {
    return std::string{state} + "/dynamicfs";
  }
  const char* const home = std::getenv("HOME");
  return home == nullptr ? std::string{} : std::string{home} + "/.local/state/dynamicfs";
}

// From here on stderr is the log. Failing that it is /dev/null: no reason not to mount.
std::string redirect_log(const Uuid& pool) {
  const std::string directory = log_directory();
  const std::string path = directory + "/" + pool.text() + ".log";
  std::error_code ignored;
  std::filesystem::create_directories(directory, ignored);
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && info.st_size > kLogBytesMax) {
    ::rename(path.c_str(), (path + ".1").c_str());
  }
  UniqueFd log{::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640)};
  if (!log) log = UniqueFd{::open("/dev/null", O_WRONLY | O_CLOEXEC)};
  ::dup2(log.get(), STDERR_FILENO);
  return path;
}

// Why an order to the scrub was not followed, for ControlReply::refuse().
std::string why_not(const std::string& command, Error refused) {
  if (refused.code == Code::kBusy) return "a scrub is running or paused already";
  if (refused.code == Code::kShutdown) return "the pool is being unmounted";
  if (command == "scrub_resume") return "no scrub is paused";
  return command == "scrub_pause" ? "no scrub is running" : "no scrub is running or paused";
}

// The mount.

class Daemon {
 public:
  explicit Daemon(MountRequest request) : request_(std::move(request)) {}

  // Everything up to the ready tree.
  Outcome<void> start(StartReport& report);
  // Until the mount is over and all is on disk.
  Outcome<void> serve();

 private:
  Outcome<void> check_surroundings();
  Outcome<void> open_pool(StartReport& report);
  Outcome<void> check_mountpoint();
  bool is_of_this_pool(const std::string& disk);
  Outcome<void> clear_mountpoint();
  Outcome<void> enter_tree();
  Outcome<void> start_control();
  void answer(const Json& request, ControlReply reply);
  Task<void> answer_policy(InodeId inode, ControlReply reply);
  Task<void> answer_set_policy(journal::Policy policy, ControlReply reply);
  bool answer_scrub(const std::string& command, ControlReply& reply);
  static Task<void> answer_cancel(Filesystem& filesystem, ControlReply reply,
                                  std::atomic<int>* outstanding);
  Task<void> answer_sync(ControlReply reply);
  void leave_tree(bool by_kernel);
  Outcome<void> close_pool();

  MountRequest request_;
  UniqueFd device_;
  UniqueFd shutdown_event_{::eventfd(0, EFD_CLOEXEC)};
  UniqueFd signals_;
  MountFacts facts_;
  std::vector<std::string> known_paths_;
  std::vector<std::string> notes_;  // from before there was a log
  bool mounted_ = false;
  // In the order in which they are made; they go in the reverse order.
  std::vector<std::string> left_behind_;  // disks that kept us when everything else had ended
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Filesystem> filesystem_;
  std::unique_ptr<FuseSession> session_;
  std::unique_ptr<DiskOrders> disk_orders_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<Alarm> alarm_;
  std::atomic<bool> ending_{false};  // nothing is mounted any more, or soon will not be
  std::atomic<int> syncs_{0};        // answers that are still to be given
};

Outcome<void> Daemon::check_surroundings() {
  TRY(check_control_directory());
  // Without privilege it is fusermount3 that opens the device and mounts.
  if (::geteuid() == 0) {
    device_ = TRY(open_device());
    request_.options.allow_other = true;
  }
  auto mountpoint = resolve_mountpoint(request_.mountpoint);
  if (!mountpoint) {
    return refuse_mountpoint(request_.mountpoint, {mountpoint.error().sys_errno == ENOTDIR
                                                       ? MountpointState::kNotDirectory
                                                       : MountpointState::kAbsent,
                                                   mountpoint.error().sys_errno});
  }
  facts_.mountpoint = *mountpoint;
  facts_.options = request_.options;
  return {};
}

Outcome<void> Daemon::open_pool(StartReport& report) {
  FoundDisks found =
      TRY(find_disks(*executor_, {.named = request_.disk,
                                  .others = request_.options.disks,
                                  .workers_per_disk = request_.options.workers_per_disk,
                                  .queue = request_.options.queue,
                                  .read_only = request_.options.read_only}));
  known_paths_ = found.known_paths;
  TRY(check_mountpoint());  // nothing was changed so far
  if (!request_.foreground) redirect_log(found.pool);
  report.log_is_open();
  for (const std::string& note : notes_) log_warning("{}", note);
  for (const std::string& note : found.notes) log_warning("{}", note);
  log_info("dynamicfs {}: mounting pool {} at {}", kProgramVersion, found.pool.text(),
           facts_.mountpoint);

  std::unique_ptr<journal::Pool> pool =
      TRY(fs::open_pool(*executor_, std::move(found.disks), request_.options.read_only));
  for (const journal::DiskStatus& disk : pool->status()) {
    if (disk.health == journal::DiskHealth::kHealthy) continue;
    report.warn(fmt::format("disk {} ({}) is {}{}{}; the pool is degraded.", disk.record.id,
                            disk.record.path, journal::disk_health_name(disk.health),
                            disk.reason.empty() ? "" : ": ", disk.reason));
  }

  const journal::Superblock as_found = pool->superblock();
  const bool never_mounted =
      request_.options.read_only && as_found.clean && as_found.manifest.runs.empty();
  FilesystemOptions options;
  options.read_memory_bytes = request_.options.read_memory_bytes;
  options.acl = request_.options.acl;
  options.metadata_memory_bytes = request_.options.metadata_memory_bytes;
  options.commit_interval = request_.options.commit_interval;
  options.rebuild_after = request_.options.rebuild_after;
  options.scrub_every = request_.options.scrub_every;
  options.group_commit = request_.options.group_commit;
  options.read_only = request_.options.read_only;
  options.atime = atime_rules(request_.options.flags);
  options.maker = {.uid = ::geteuid(), .gid = ::getegid()};
  auto mounted = block_on(*executor_, Filesystem::mount(*executor_, std::move(pool), options));
  if (!mounted) {
    if (mounted.error().code == Code::kReadOnly && never_mounted) {
      return Refusal{ExitCode::kFailed,
                     "This pool has never been mounted: there is nothing to look at.",
                     "Mount it once without -o ro."};
    }
    if (mounted.error().code == Code::kReadOnly) {
      return Refusal{ExitCode::kDiskMissing, "The disks that are here do not take writes.",
                     "Connect the missing disks, or mount with -o ro to look at what can be read."};
    }
    return failed(fmt::format("The pool cannot be recovered: {}.", describe(mounted.error())),
                  "Nothing was thrown away. 'dynamicfs check' says what is damaged.");
  }
  filesystem_ = std::move(*mounted);
  const MountReport& recovery = filesystem_->mount_report();
  const journal::RecoveryReport& log = recovery.journal;
  log_info("recovered {} inodes, {} records in {} ms{}{}", recovery.inodes, log.records_replayed,
           std::chrono::duration_cast<milliseconds>(recovery.took).count(),
           log.torn_tail ? ", a torn tail was dropped" : "",
           log.records_checked == 0
               ? ""
               : fmt::format(", {} looked for on the disks", log.records_checked));
  return {};
}

// Whether a mount that was made by this disk is none of another pool. A disk that has left its pool since is of none.
bool Daemon::is_of_this_pool(const std::string& disk) {
  if (disk == request_.disk || std::ranges::count(known_paths_, disk) > 0) return true;
  // It has to be there: a disk whose file system is not mounted may be of any pool.
  const auto there = scheduler::inspect_volume(disk);
  if (!there || !there->exists || there->size_bytes == 0) return false;
  const auto probed = probe_disk(*executor_, disk, Duration::zero());
  return !probed && probed.error().code == ExitCode::kNotADisk;
}

// Checked once the disks are known: a dead mount of this pool may be replaced, one of another may
// not.
Outcome<void> Daemon::check_mountpoint() {
  const MountpointProbe probe = probe_mountpoint(facts_.mountpoint);
  if (probe.state == MountpointState::kUsable) return {};
  if (probe.state == MountpointState::kDead) {
    const auto entry = mounted_at(facts_.mountpoint);
    if (entry && entry->type == kMountType && is_of_this_pool(entry->source)) return {};
  }
  return refuse_mountpoint(facts_.mountpoint, probe);
}

// Leaves the old mount alone until the new one can take its place.
Outcome<void> Daemon::clear_mountpoint() {
  if (probe_mountpoint(facts_.mountpoint).state != MountpointState::kDead) return {};
  log_warning("replacing the dead mount of this pool at {}", facts_.mountpoint);
  if (const auto detached = detach(facts_.mountpoint); !detached) {
    return failed(fmt::format("The dead mount at {} cannot be removed: {}.", facts_.mountpoint,
                              describe(detached.error())));
  }
  return check_mountpoint();
}

Outcome<void> Daemon::enter_tree() {
  const MountPlan plan{.source = request_.disk,
                       .mountpoint = facts_.mountpoint,
                       .flags = request_.options.flags,
                       .allow_other = request_.options.allow_other};
  if (::geteuid() != 0) {
    HelperSays said;
    auto device = mount_by_helper(plan, &said);
    if (!device) return refuse_by_helper(facts_.mountpoint, said);
    device_ = std::move(*device);
  } else if (const auto mounted = mount_fuse(device_, plan); !mounted) {
    const int why = mounted.error().sys_errno;
    if (why == EPERM) {
      return Refusal{ExitCode::kPermission, "The kernel does not let us mount.",
                     "A container needs --cap-add SYS_ADMIN."};
    }
    if (why == ENODEV)
      return Refusal{ExitCode::kNoFuse, "The kernel has no FUSE.", "Load it with 'modprobe fuse'."};
    return failed(fmt::format("Mounting at {} failed: {}.", facts_.mountpoint, std::strerror(why)));
  }
  mounted_ = true;
  if (const auto entry = mounted_at(facts_.mountpoint)) facts_.device = entry->device;
  auto session = FuseSession::start(*executor_, *filesystem_, std::move(device_),
                                    {.readers = request_.options.readers,
                                     .writeback = request_.options.writeback,
                                     .acl = request_.options.acl,
                                     .write_memory_bytes = request_.options.write_memory_bytes,
                                     .mountpoint = facts_.mountpoint,
                                     .device = facts_.device,
                                     .dirty_limited = can_limit_dirty_memory(facts_.device),
                                     .io_uring = request_.options.io_uring});
  if (!session)
    return failed(fmt::format("The FUSE session cannot start: {}.", describe(session.error())));
  session_ = std::move(*session);
  if (!session_->wait_for_init(kInitPatience))
    return failed("The kernel did not open the FUSE session.");
  // Not from the handler of INIT, where it would deadlock; the kernel is past that now.
  facts_.knobs = raise_kernel_knobs(facts_.device, session_->dirty_bytes_max());
  facts_.since = std::chrono::steady_clock::now();
  const FuseSession::State state = session_->state();
  log_info("fuse {}.{}, libfuse {}: {}", state.offered.major, state.offered.minor,
           state.library_version, fmt::join(wire::flag_names(state.answered.flags), " "));
  for (const Knob& knob : facts_.knobs)
    log_info("{}: {} -> {}", knob.name, knob.before, knob.after);
  return {};
}

Outcome<void> Daemon::start_control() {
  disk_orders_ = std::make_unique<DiskOrders>(*executor_, *filesystem_, facts_, syncs_);
  control_ = TRY(ControlServer::start(
      filesystem_->pool().uuid(),
      [this](const Json& request, ControlReply reply) { answer(request, std::move(reply)); }));
  return {};
}

Outcome<void> Daemon::start(StartReport& report) {
  TRY(check_surroundings());
  notes_ = protect_from_memory_pressure();
  // Blocked in every thread, so that they are read from signals_ and nowhere else.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (request_.foreground) sigaddset(&set, SIGHUP);  // the terminal is gone
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  if (!request_.foreground) ::signal(SIGHUP, SIG_IGN);
  signals_ = UniqueFd{::signalfd(-1, &set, SFD_CLOEXEC)};
  executor_ = make_thread_executor();
  // What can be refused without the pool's disks is refused first: it takes no lock and no time.
  if (const auto probe = probe_mountpoint(facts_.mountpoint);
      probe.state != MountpointState::kUsable && probe.state != MountpointState::kDead &&
      probe.state != MountpointState::kMounted) {
    return refuse_mountpoint(facts_.mountpoint, probe);
  }
  TRY(open_pool(report));
  Outcome<void> entered = clear_mountpoint();
  if (entered) entered = enter_tree();
  if (entered) entered = start_control();
  if (entered) return {};
  if (mounted_) detach(facts_.mountpoint).ignore("it was never usable");
  if (session_ != nullptr) {
    session_->stop();
    session_->drain();
  }
  // What stood in the way of the mount is what the user must hear; the next mount recovers.
  if (const auto closed = close_pool(); !closed) log_error("{}", closed.error().what);
  return entered;
}

// On the control server's thread.
void Daemon::answer(const Json& request, ControlReply reply) {
  const std::string command = request["command"].get<std::string>();
  if (command == "hello") {
    Json disks = Json::array();
    for (const auto& disk : filesystem_->pool().status()) disks.push_back(disk.record.path);
    reply.send({{"ok", true},
                {"pool", filesystem_->pool().uuid().text()},
                {"label", filesystem_->pool().superblock().label},
                {"pid", ::getpid()},
                {"mountpoint", facts_.mountpoint},
                {"device", facts_.device},
                {"ending", ending_.load()},
                {"disks", disks}});
  } else if (command == "status") {
    reply.send(
        {{"ok", true}, {"status", build_status(*executor_, *filesystem_, *session_, facts_)}});
  } else if (command == "sync") {
    // The answer comes from whichever thread makes it durable: others may ask meanwhile.
    syncs_.fetch_add(1);
    DriverScope scope(*executor_);
    spawn(answer_sync(std::move(reply)));
  } else if (command.starts_with(kAtimeCommand)) {
    // Of a remount; the kernel keeps no times of access for us, so it is not asked.
    unsigned long flags = 0;
    for (const char digit : command.substr(kAtimeCommand.size())) {
      flags = flags * 10 + static_cast<unsigned long>(digit - '0');
    }
    filesystem_->set_atime_rules(atime_rules(flags));
    reply.send({{"ok", true}});
  } else if (command == "shutdown" || command == "await_exit") {
    reply.send({{"ok", true}, {"pid", ::getpid()}});
    control_->keep(reply.take_connection());
    if (command == "shutdown") {
      const std::uint64_t one = 1;
      [[maybe_unused]] const auto told = ::write(shutdown_event_.get(), &one, sizeof one);
    }
  } else if (disk_orders_->takes(command)) {
    disk_orders_->answer(request, std::move(reply));
  } else if (command == "policy_get") {
    syncs_.fetch_add(1);
    DriverScope scope(*executor_);
    spawn(answer_policy(InodeId{request.value("inode", std::uint64_t{0})}, std::move(reply)));
  } else if (command == "policy_set") {
    const auto policy = journal::Policy::parse(request.value("policy", ""));
    if (!policy) {
      reply.refuse("that is no policy");
      return;
    }
    syncs_.fetch_add(1);
    DriverScope scope(*executor_);
    spawn(answer_set_policy(*policy, std::move(reply)));
  } else if (!answer_scrub(command, reply)) {
    reply.refuse("there is no such command");
  }
}

// False: not one of its commands, and nothing was answered.
bool Daemon::answer_scrub(const std::string& command, ControlReply& reply) {
  const DriverScope scope(*executor_);
  Result<void> done;
  if (command == "scrub_status") {
    reply.send({{"ok", true}, {"scrub", scrub_json(filesystem_->scrub_report())}});
    return true;
  }
  if (command == "scrub_cancel") {
    syncs_.fetch_add(1);
    spawn(answer_cancel(*filesystem_, std::move(reply), &syncs_));
    return true;
  }
  if (command == "scrub_start") {
    done = filesystem_->start_scrub();
  } else if (command == "scrub_pause") {
    done = filesystem_->pause_scrub();
  } else if (command == "scrub_resume") {
    done = filesystem_->resume_scrub();
  } else {
    return false;
  }
  if (done) {
    reply.send({{"ok", true}});
  } else {
    reply.refuse(why_not(command, done.error()));
  }
  return true;
}

Task<void> Daemon::answer_policy(InodeId inode, ControlReply reply) {
  const auto report = co_await filesystem_->policy_report(inode);
  if (report) {
    Json layouts = Json::array();
    for (const auto& [layout, bytes] : report->layouts) {
      const bool as_asked = layout == report->policy || layout == report->policy.of_copies();
      layouts.push_back({{"policy", layout.text()}, {"bytes", bytes}, {"as_asked", as_asked}});
    }
    Json shown = {{"policy", report->policy.text()}, {"own", report->own}, {"layouts", layouts}};
    if (report->policy.whole_files) {
      shown["disks"] = Json::array();
      for (const auto& [disk, bytes] : report->disks)
        shown["disks"].push_back({{"disk", disk.raw},
                                  {"bytes", bytes},
                                  {"here", filesystem_->pool().disk(disk) != nullptr}});
    }
    reply.send({{"ok", true}, {"policy", std::move(shown)}});
  } else {
    reply.refuse(describe(report.error()));
  }
  syncs_.fetch_sub(1);
}

Task<void> Daemon::answer_set_policy(journal::Policy policy, ControlReply reply) {
  const Result<void> done = co_await filesystem_->set_policy(policy);
  if (done) {
    reply.send({{"ok", true}});
  } else if (done.error().code == Code::kTooFewDisks) {
    reply.refuse(Refusal{ExitCode::kTooFewDisks,
                         fmt::format("{} takes {} disks, and {} of this pool stay.", policy.text(),
                                     policy.width(), filesystem_->pool().staying()->size()),
                         "Add some with 'dynamicfs disk add', or choose another policy."});
  } else if (done.error().code == Code::kDiskMissing) {
    reply.refuse(Refusal{ExitCode::kFailed,
                         fmt::format("{} disks are away, and {} can do without {}.",
                                     done.error().detail, policy.text(), policy.tolerance()),
                         "Connect them, or remove them from the pool, first."});
  } else {
    reply.refuse(describe(done.error()));
  }
  syncs_.fetch_sub(1);
}

Task<void> Daemon::answer_cancel(Filesystem& filesystem, ControlReply reply,
                                 std::atomic<int>* outstanding) {
  const Result<void> done = co_await filesystem.cancel_scrub();
  if (done) {
    reply.send({{"ok", true}});
  } else {
    reply.refuse(why_not("scrub_cancel", done.error()));
  }
  outstanding->fetch_sub(1);
}

Task<void> Daemon::answer_sync(ControlReply reply) {
  const auto settled = co_await session_->writes_settled(facts_.device);
  // kShutdown: the kernel has ended the session, and before that written back what there was.
  const bool unsure = !settled.has_value() && settled.error().code == Code::kBusy;
  const auto done = co_await filesystem_->sync();
  if (unsure) {
    reply.refuse("so much is asked of the pool that the kernel has not said when all was written");
  } else if (done) {
    reply.send({{"ok", true}});
  } else {
    reply.refuse(describe(done.error()));
  }
  syncs_.fetch_sub(1);
}

Outcome<void> Daemon::serve() {
  pollfd events[3] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                      {.fd = session_->end_fd(), .events = POLLIN, .revents = 0},
                      {.fd = shutdown_event_.get(), .events = POLLIN, .revents = 0}};
  if (!request_.options.alarm.empty()) {
    alarm_ = std::make_unique<Alarm>(request_.options.alarm, [this] {
      return build_status(*executor_, *filesystem_, *session_, facts_);
    });
  }
  while (::poll(events, 3, kRefreshMilliseconds) <= 0) {
    session_->refresh_attributes();
    if (const auto dirty = session_->dirty_bytes_max()) hold_dirty_limit(facts_.device, *dirty);
  }
  ending_ = true;
  const bool by_kernel = events[1].revents != 0;
  log_info("ending: {}", by_kernel                ? "unmounted"
                         : events[2].revents != 0 ? "asked to by the command"
                                                  : "asked to by a signal");
  leave_tree(by_kernel);
  session_->stop();
  session_->drain();
  control_->stop();
  disk_orders_->stop();
  alarm_.reset();
  while (syncs_.load() != 0) std::this_thread::sleep_for(milliseconds{1});
  const Outcome<void> closed = close_pool();
  log_info("ended{}", closed ? "" : ": " + closed.error().what);
  control_->say_last_words(closed ? "" : closed.error().what, left_behind_);
  if (!left_behind_.empty()) {
    // Threads that a disk keeps may come back at any time and use what is left: nothing is destroyed.
    if (!closed) fmt::print(stderr, "dynamicfs: {}\n", closed.error().what);
    ::_exit(closed ? 0 : static_cast<int>(closed.error().code));
  }
  return closed;
}

void Daemon::leave_tree(bool by_kernel) {
  if (by_kernel) {
    // Aborted rather than unmounted? Then the mount is still there, and dead.
    const auto entry = mounted_at(facts_.mountpoint);
    if (entry && entry->device == facts_.device) {
      log_warning("the connection was aborted; removing the dead mount at {}", facts_.mountpoint);
      detach(facts_.mountpoint).ignore("nobody could use it any more");
    }
    return;
  }
  const auto ours = mounted_at(facts_.mountpoint);
  if (!ours || ours->device != facts_.device) {
    // It has been unmounted here, and others hold it in namespaces of theirs.
    const UniqueFd held = open_held(facts_.device);
    if (held && ::syncfs(held.get()) != 0)
      log_error("syncing {} failed: {}", facts_.mountpoint, std::strerror(errno));
    return;
  }
  if (unmount(facts_.mountpoint, milliseconds{0})) return;
  // Somebody is in there. What they have written goes to us first; we answer meanwhile.
  log_warning("{} is in use", facts_.mountpoint);
  if (const UniqueFd root{::open(facts_.mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
      root) {
    if (::syncfs(root.get()) != 0)
      log_error("syncing {} failed: {}", facts_.mountpoint, std::strerror(errno));
    block_on(*executor_, session_->writes_settled(facts_.device))
        .ignore("nobody else can end the readers");
  }
  if (unmount(facts_.mountpoint, kUnmountPatience)) return;
  log_warning("{} is still in use; whoever holds files there loses them", facts_.mountpoint);
  if (const auto detached = detach(facts_.mountpoint); !detached) {
    log_error("detaching {} failed: {}", facts_.mountpoint, describe(detached.error()));
  }
}

Outcome<void> Daemon::close_pool() {
  // Closes the device: requests that the kernel still holds are refused.
  session_.reset();
  const auto unmounted = block_on(*executor_, filesystem_->unmount());
  // A read that was left behind for a quicker copy comes back by itself, as a rule.
  const auto patience = std::chrono::steady_clock::now() + kKeptPatience;
  const auto look = [this] {
    left_behind_ = filesystem_->pool().kept_disks();
    if (disk_orders_ != nullptr && disk_orders_->is_opening())
      left_behind_.push_back("a disk that was to be online again");
    return !left_behind_.empty();
  };
  while (look() && std::chrono::steady_clock::now() < patience)
    std::this_thread::sleep_for(milliseconds{10});
  for (const std::string& disk : left_behind_) log_warning("{} does not answer: left behind", disk);
  if (left_behind_.empty()) {
    filesystem_.reset();
    executor_.reset();
  }
  if (!unmounted) {
    return failed(
        fmt::format("Not everything could be written: {}.", describe(unmounted.error())),
        "What was synced is safe; the next mount recovers the rest as after a power cut.");
  }
  return {};
}

// Runs in the process that stays.
Outcome<void> run(const MountRequest& request, StartReport& report) {
  Daemon daemon{request};
  TRY(daemon.start(report));
  report.ready();
  return daemon.serve();
}

}  // namespace

Outcome<void> mount_pool(const MountRequest& given) {
  // The daemon lives in /, so that it keeps no file system busy.
  MountRequest request = given;
  request.disk = absolute_path(given.disk);
  request.mountpoint = absolute_path(given.mountpoint);
  if (request.foreground) {
    StartReport report = StartReport::to_stderr();
    report.log_is_open();
    [[maybe_unused]] const int moved = ::chdir("/");
    return run(request, report);
  }
  auto pipe = make_start_pipe();
  if (!pipe) return failed(fmt::format("No pipe can be made: {}.", describe(pipe.error())));
  const pid_t child = ::fork();
  if (child < 0) return failed(fmt::format("No process can be made: {}.", std::strerror(errno)));
  if (child > 0) {
    pipe->write_end.reset();
    return wait_for_start(std::move(pipe->read_end), child);
  }
  pipe->read_end.reset();
  become_daemon(pipe->write_end);
  StartReport report = StartReport::to_pipe(std::move(pipe->write_end));
  const Outcome<void> ended = run(request, report);
  if (!ended) report.refuse(ended.error());
  // Not exit(): what the parent has registered or buffered is the parent's.
  ::_exit(ended ? 0 : static_cast<int>(ended.error().code));
}

}  // namespace dynamicfs::fs
