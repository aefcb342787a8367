#include "fs/mounted_pool.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "base/log.hpp"
#include "fs/text_table.hpp"

namespace dynamicfs::fs {
namespace {

// Mounts come and go for a moment as desktop services look at them.
constexpr std::chrono::milliseconds kBusyPatience{500};
constexpr int kSilenceMilliseconds = 1500;
// Whoever has the mount in a namespace of their own may be about to end.
constexpr int kHeldSecondsMax = 5;

Refusal not_mounted(const std::string& path) {
  return {ExitCode::kNotMounted, fmt::format("No dynamicfs pool is mounted at {}.", path),
          "'dynamicfs status' lists the mounted pools."};
}

bool is_below(const std::string& path, const std::string& directory) {
  return directory == "/" || path == directory || path.starts_with(directory + "/");
}

// The mount that a path lies in: the deepest one, and the topmost of those.
std::optional<MountEntry> mount_of(const std::string& path) {
  std::optional<MountEntry> found;
  for (MountEntry& entry : mount_table()) {
    if (is_below(path, entry.mountpoint) &&
        (!found || entry.mountpoint.size() >= found->mountpoint.size())) {
      found = std::move(entry);
    }
  }
  return found;
}

std::optional<RunningDaemon> daemon_behind(const std::string& device, RunningDaemons daemons) {
  for (RunningDaemon& daemon : daemons.answering) {
    if (daemon.device == device) return std::move(daemon);
  }
  return std::nullopt;
}

Refusal refuse_silent(const std::string& mountpoint) {
  return {ExitCode::kFailed, fmt::format("The daemon of {} does not answer.", mountpoint),
          "It may be waiting for a disk; the log in /var/log/dynamicfs says what it is doing."};
}

// Of a pool that an ordinary user mounted: only they can ask its daemon, and the kernel lets nobody else, root
// included, see whether that is alive.
bool is_of_other_user(const MountEntry& mount) {
  return mount.user != 0 && mount.user != ::geteuid();
}
Refusal refuse_other_user(const MountEntry& mount) {
  return {ExitCode::kPermission,
          fmt::format("{} was mounted by the user {}, who alone can ask its daemon.",
                      mount.mountpoint, mount.user),
          fmt::format("Run the same command with sudo -u '#{}'. 'umount {}' removes the mount "
                      "without waiting for "
                      "the daemon.",
                      mount.user, mount.mountpoint)};
}

// Why nobody answers for a mount of ours.
Refusal refuse_unanswered(const MountEntry& mount, const RunningDaemons& daemons) {
  const std::string& at = mount.mountpoint;
  if (is_of_other_user(mount)) return refuse_other_user(mount);
  if (mount.user != 0) {
    if (const auto known = check_control_directory(); !known) return known.error();
  }
  if (daemons.denied || ::geteuid() != 0) {
    return {ExitCode::kPermission, fmt::format("You may not ask the daemon of {}.", at),
            "Run the same command with sudo."};
  }
  if (daemons.silent) return refuse_silent(at);
  return {ExitCode::kNotMounted, fmt::format("The daemon of {} is dead.", at),
          fmt::format(
              "'dynamicfs mount {} {}' mounts the pool again, 'dynamicfs umount {}' removes the "
              "dead mount.",
              mount.source, at, at)};
}

UniqueFd open_process(pid_t pid) {
  return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
}

// Says that it takes a while, where somebody is looking.
void wait_with_notice(int fd, const std::string& what) {
  pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&waiting, 1, kSilenceMilliseconds) != 0) return;
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "{}\n", what);
  while (::poll(&waiting, 1, -1) < 0 && errno == EINTR) {
  }
}

// What the kernel has of the file system and the daemon has is made durable; `where` is any open file of it.
Outcome<void> sync_through(const UniqueFd& where, const std::string& name,
                           const RunningDaemon& daemon) {
  // The kernel tells here, too, of what it could not write back earlier. The rest is to be durable.
  int lost = ::syncfs(where.get()) == 0 ? 0 : errno;
  auto client = TRY(ControlClient::connect(daemon.socket));
  TRY(client.ask("sync"));
  // What has failed meanwhile, of which the first call need not have waited.
  if (lost == 0 && ::syncfs(where.get()) != 0) lost = errno;
  if (lost != 0) {
    return Refusal{
        ExitCode::kFailed,
        fmt::format("Something that was written to {} earlier could not be kept: {}. "
                    "Everything else is on the disks now.",
                    name, std::strerror(lost)),
        "The program that wrote it was told when it closed or synced the file; 'dynamicfs "
        "status' shows whether the pool is in trouble."};
  }
  return {};
}

// The kernel has not told the daemon that the mount is gone.
bool is_serving(const RunningDaemon& daemon) {
  auto client = ControlClient::connect(daemon.socket);
  if (!client) return false;
  auto hello = client->ask("hello", std::chrono::milliseconds{1000});
  return hello.has_value() && !hello->value("ending", true);  // a daemon that does not say is older
}

// Ours is gone, and the daemon goes on: what was written so far is made durable.
Outcome<void> refuse_held(const MountEntry& mount, const RunningDaemon& daemon) {
  const UniqueFd there = open_held(mount.device);
  if (there) {
    TRY(sync_through(there, mount.mountpoint, daemon));
  } else {
    auto client = TRY(ControlClient::connect(daemon.socket));
    TRY(client.ask("sync"));
  }
  if (!is_serving(daemon)) return {};
  const std::string kept =
      fmt::format("{} is unmounted here, and {} is on the disks", mount.mountpoint,
                  there ? "what was written" : "what was closed");
  // Names and places are the holder's, who need not be a friend: nothing of them is to be run.
  constexpr const char* kRemedy =
      "The daemon goes on until it is unmounted there, or all processes there have ended: 'lsns -t "
      "mnt' lists "
      "them.";
  const std::vector<MountHolder> holders = mount_holders(mount.device);
  if (holders.empty()) {
    return Refusal{ExitCode::kMountHeld,
                   fmt::format("{}; somebody has it still: a mount namespace that cannot be seen "
                               "from here, or files that are open since it was detached.",
                               kept),
                   kRemedy};
  }
  const MountHolder& first = holders.front();
  const std::string others =
      holders.size() == 1 ? "" : fmt::format(" and {} more like it", holders.size() - 1);
  return Refusal{
      ExitCode::kMountHeld,
      fmt::format("{}; in another mount namespace process {} ({}) has it still{}, at {}.", kept,
                  first.pid, printable(first.name), others, printable(first.mountpoint)),
      kRemedy};
}

// Until the daemon has said its last words, or ends without.
Outcome<void> await_end(const ControlClient& client, const MountEntry& mount,
                        const RunningDaemon& daemon) {
  pollfd waiting{.fd = client.fd(), .events = POLLIN, .revents = 0};
  for (int held = 0, seconds = 1; ::poll(&waiting, 1, 1000) <= 0; ++seconds) {
    if (seconds == 2 && ::isatty(STDERR_FILENO) == 1)
      fmt::print(stderr, "Waiting until everything is on the disks ...\n");
    held = is_serving(daemon) ? held + 1 : 0;
    if (held < kHeldSecondsMax) continue;
    const Outcome<void> ended = refuse_held(mount, daemon);
    if (!ended && ended.error().code != ExitCode::kNotMounted) return ended.error();
    held = 0;
  }
  return {};
}

Outcome<void> unmount_only(const MountEntry& mount) {
  const auto done = unmount(mount.mountpoint, kBusyPatience);
  if (done) return {};
  if (done.error().code == Code::kBusy) {
    return Refusal{
        ExitCode::kFailed, fmt::format("{} is in use.", mount.mountpoint),
        fmt::format("'fuser -vm {}' shows by whom; leave it and try again.", mount.mountpoint)};
  }
  if (done.error().sys_errno == EPERM) {
    return Refusal{ExitCode::kPermission,
                   fmt::format("{} was not mounted by you.", mount.mountpoint),
                   "Run the same command with sudo."};
  }
  return Refusal{ExitCode::kFailed,
                 fmt::format("{} cannot be unmounted: {}.", mount.mountpoint,
                             std::strerror(done.error().sys_errno)),
                 ""};
}

// The daemon is gone: nothing of it is left to lose.
Outcome<void> remove_dead(const MountEntry& mount) {
  if (unmount(mount.mountpoint, std::chrono::milliseconds{0})) return {};
  const auto detached = detach(mount.mountpoint);
  if (detached) return {};
  return Refusal{ExitCode::kFailed,
                 fmt::format("The dead mount at {} cannot be removed: {}.", mount.mountpoint,
                             describe(detached.error())),
                 ""};
}

}  // namespace

Outcome<MountedPool> find_mounted_pool(const std::string& path) {
  const auto resolved = resolve_mountpoint(path);
  if (!resolved) return not_mounted(path);
  auto mount = mount_of(*resolved);
  if (!mount || mount->type != kMountType) return not_mounted(path);
  const RunningDaemons daemons = running_daemons();
  auto daemon = daemon_behind(mount->device, daemons);
  if (daemon) return MountedPool{.mount = std::move(*mount), .daemon = std::move(*daemon)};
  return refuse_unanswered(*mount, daemons);
}

std::vector<UnansweredMount> unanswered_mounts(const RunningDaemons& daemons) {
  std::vector<UnansweredMount> unanswered;
  for (MountEntry& mount : mount_table()) {
    if (mount.type != kMountType) continue;
    const bool answered = std::ranges::any_of(daemons.answering, [&](const RunningDaemon& daemon) {
      return daemon.device == mount.device || daemon.mountpoint == mount.mountpoint;
    });
    const bool listed = std::ranges::any_of(unanswered, [&](const UnansweredMount& other) {
      return other.mount.mountpoint == mount.mountpoint;
    });
    if (answered || listed) continue;
    Refusal why = refuse_unanswered(mount, daemons);
    // Looked at only where no daemon is silent: that one might keep us waiting.
    if (why.code == ExitCode::kNotMounted &&
        probe_mountpoint(mount.mountpoint).state != MountpointState::kDead) {
      continue;
    }
    unanswered.push_back({std::move(mount), std::move(why)});
  }
  return unanswered;
}

Outcome<void> sync_pool(const MountedPool& pool) {
  const UniqueFd root{::open(pool.mount.mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!root) {
    return Refusal{
        ExitCode::kFailed,
        fmt::format("{} cannot be synced: {}.", pool.mount.mountpoint, std::strerror(errno)),
        "'dynamicfs status' shows whether the pool is in trouble."};
  }
  return sync_through(root, pool.mount.mountpoint, pool.daemon);
}

Outcome<void> remount_pool(const std::string& mountpoint, const MountOptions& options) {
  const auto path = resolve_mountpoint(mountpoint);
  if (!path) return not_mounted(mountpoint);
  const auto mount = mounted_at(*path);
  if (!mount || mount->type != kMountType) return not_mounted(*path);
  const MountedPool pool = TRY(find_mounted_pool(*path));
  const auto ask = [&pool](const std::string& command) -> Outcome<Json> {
    auto client = TRY(ControlClient::connect(pool.daemon.socket));
    return client.ask(command);
  };
  if (!options.read_only) {
    const Json answer = TRY(ask("status"));
    const bool was_mounted_so = answer.value(Json::json_pointer("/status/daemon/read_only"), false);
    if (was_mounted_so) {
      return Refusal{ExitCode::kFailed,
                     fmt::format("The pool at {} was mounted with ro, and stays read-only.", *path),
                     fmt::format("'dynamicfs umount {}' and mount it again.", *path)};
    }
  }
  if (const auto done = remount(*mount, options.flags); !done) {
    const int why = done.error().sys_errno;
    if (why == EBUSY) {
      return Refusal{ExitCode::kFailed,
                     fmt::format("{} has files that are open for writing.", *path),
                     fmt::format("'fuser -vm {}' shows whose; close them and try again.", *path)};
    }
    if (why == EPERM) {
      return Refusal{ExitCode::kPermission, "Remounting needs root.",
                     "Run the same command with sudo."};
    }
    return Refusal{ExitCode::kFailed,
                   fmt::format("{} cannot be remounted: {}.", *path, std::strerror(why)), ""};
  }
  TRY(ask(fmt::format("{}{}", kAtimeCommand, options.flags)));
  return {};
}

Outcome<void> unmount_pool(const std::string& mountpoint) {
  const auto path = resolve_mountpoint(mountpoint);
  if (!path) return not_mounted(mountpoint);
  const auto mount = mounted_at(*path);
  if (!mount || mount->type != kMountType) return not_mounted(*path);
  const RunningDaemons daemons = running_daemons();
  const auto daemon = daemon_behind(mount->device, daemons);
  if (!daemon) {
    if (is_of_other_user(*mount)) return refuse_other_user(*mount);
    if (mount->user != 0 && !check_control_directory()) return refuse_unanswered(*mount, daemons);
    if (daemons.denied && ::geteuid() != 0) return refuse_unanswered(*mount, daemons);
    if (daemons.silent) return refuse_silent(mount->mountpoint);
    if (probe_mountpoint(*path).state == MountpointState::kDead) return remove_dead(*mount);
    TRY(unmount_only(*mount));
    if (mount->user == 0) return {};  // it is about to end anyway
    return Refusal{
        ExitCode::kFailed,
        fmt::format("{} is unmounted, but its daemon cannot be found, so nobody has waited until "
                    "everything is on the disks.",
                    mount->mountpoint),
        "Wait until no process 'dynamicfs' of yours is left before a disk is taken away. The "
        "daemon "
        "was started with another XDG_RUNTIME_DIR."};
  }

  // Asked before the mount goes, so that its last words cannot be missed.
  auto client = TRY(ControlClient::connect(daemon->socket));
  TRY(client.ask("await_exit"));
  const UniqueFd process = open_process(daemon->pid);
  TRY(unmount_only(*mount));
  for (const MountEntry& other : mount_table()) {
    // Bound to another place as well: the daemon goes on.
    if (other.device == mount->device) return sync_pool({.mount = other, .daemon = *daemon});
  }
  TRY(await_end(client, *mount, *daemon));
  auto words = client.next_line();
  if (!words) {
    return Refusal{
        ExitCode::kFailed, fmt::format("The daemon of {} ended before it was done.", *path),
        "What was synced is safe. Mount the pool again: it recovers by itself; the log in "
        "/var/log/dynamicfs says what happened."};
  }
  const auto left_behind = words->value("left_behind", std::vector<std::string>{});
  for (const std::string& disk : left_behind) {
    fmt::print(stderr,
               "dynamicfs: {} does not answer and was left behind. Process {} may stay until it "
               "answers or is unplugged.\n",
               printable(disk), daemon->pid);
  }
  // The kernel keeps a process for as long as one of its threads waits for a disk.
  if (process && left_behind.empty())
    wait_with_notice(process.get(), "Waiting for the daemon to end ...");
  if (const std::string error = words->value("error", ""); !error.empty()) {
    return Refusal{ExitCode::kFailed, error, "The log in /var/log/dynamicfs says more."};
  }
  return {};
}

}  // namespace dynamicfs::fs
