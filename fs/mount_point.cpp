#include "fs/mount_point.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string_view>
#include <thread>
#include <utility>

namespace dynamicfs::fs {
namespace {

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      const auto digit = [&](std::size_t at) { return text[at] - '0'; };
      out += static_cast<char>(digit(i + 1) * 64 + digit(i + 2) * 8 + digit(i + 3));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool is_empty_directory(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory{::opendir(path.c_str()), ::closedir};
  if (!directory) return false;
  while (const dirent* const entry = ::readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") return false;
  }
  return true;
}

struct HelperFlag {
  unsigned long flag;
  std::string_view word;
};
// nosuid and nodev it adds itself.
constexpr HelperFlag kHelperFlags[] = {{MS_RDONLY, "ro"},
                                       {MS_NOEXEC, "noexec"},
                                       {MS_NOATIME, "noatime"},
                                       {MS_SYNCHRONOUS, "sync"},
                                       {MS_DIRSYNC, "dirsync"}};

// Runs fusermount3 to its end and returns its exit status. `descriptor`: where it is to send the device to, or -1.
int run_helper(std::vector<std::string> words, int descriptor, HelperSays* said) {
  constexpr const char* kHelper = "fusermount3";
  words.insert(words.begin(), kHelper);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::string told = fmt::format("_FUSE_COMMFD={}", descriptor);
  std::string language = "LC_ALL=C";
  std::vector<char*> surroundings{told.data(), language.data()};
  for (char** word = environ; *word != nullptr; ++word) surroundings.push_back(*word);
  surroundings.push_back(nullptr);

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return -1;
  UniqueFd output{ends[0]};
  UniqueFd input{ends[1]};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_adddup2(&actions, input.get(), STDERR_FILENO);
  // Onto itself: it stays open there.
  if (descriptor >= 0) ::posix_spawn_file_actions_adddup2(&actions, descriptor, descriptor);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child = -1;
  const int failed =
      ::posix_spawnp(&child, kHelper, &actions, &attributes, arguments.data(), surroundings.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  input.reset();
  if (failed != 0) {
    said->missing = failed == ENOENT;
    return -1;
  }
  char buffer[512];
  for (ssize_t got; (got = ::read(output.get(), buffer, sizeof buffer)) > 0;)
    said->text.append(buffer, static_cast<std::size_t>(got));
  while (!said->text.empty() && (said->text.back() == '\n' || said->text.back() == '.'))
    said->text.pop_back();
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

UniqueFd receive_descriptor(const UniqueFd& socket) {
  char byte = 0;
  iovec piece{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> memory{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = memory.data();
  message.msg_controllen = memory.size();
  if (::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC) <= 0) return {};
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return {};
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
  return UniqueFd{descriptor};
}

// 0, or why not.
int unmount_once(const std::string& mountpoint, int flags) {
  if (::umount2(mountpoint.c_str(), flags) == 0) return 0;
  if (errno != EPERM || ::geteuid() == 0) return errno;
  HelperSays said;
  std::vector<std::string> words{"-u", "--", mountpoint};
  if ((flags & MNT_DETACH) != 0) words.insert(words.begin(), "-z");
  if (run_helper(std::move(words), -1, &said) == 0) return 0;
  return said.text.find("busy") != std::string::npos ? EBUSY : EPERM;
}

}  // namespace

namespace {

// "36 35 98:0 /root /mountpoint options [optional fields] - type source super-options"
std::vector<MountEntry> mount_table_of(const std::string& process) {
  std::vector<MountEntry> table;
  std::ifstream lines("/proc/" + process + "/mountinfo");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, mountpoint, word, type, source, options;
    words >> id >> parent >> device >> root >> mountpoint;
    while (words >> word && word != "-") {
    }
    words >> type >> source;
    if (words.fail()) continue;
    words >> options;
    unsigned user = 0;
    if (const std::size_t at = options.find("user_id="); at != options.npos)
      std::from_chars(options.data() + at + 8, options.data() + options.size(), user);
    table.push_back({.device = device,
                     .mountpoint = unescaped(mountpoint),
                     .type = type,
                     .source = unescaped(source),
                     .user = user});
  }
  return table;
}

// "mnt:[4026531841]", or "" if it is not for us to know.
std::string mount_namespace_of(const std::string& process) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/" + process + "/ns/mnt", error).string();
}

}  // namespace

std::vector<MountEntry> mount_table() { return mount_table_of("self"); }

std::vector<MountHolder> mount_holders(const std::string& device) {
  std::set<pid_t> processes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    const auto [end, why] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (why == std::errc{} && end == name.data() + name.size()) processes.insert(pid);
  }
  std::vector<MountHolder> holders;
  std::set<std::string> seen = {"", mount_namespace_of("self")};
  for (const pid_t pid : processes) {
    const std::string process = std::to_string(pid);
    const std::string names = mount_namespace_of(process);
    if (seen.contains(names)) continue;
    for (MountEntry& mount : mount_table_of(process)) {
      if (mount.device != device) continue;
      MountHolder holder{.pid = pid, .name = {}, .mountpoint = std::move(mount.mountpoint)};
      std::ifstream named("/proc/" + process + "/comm");
      std::getline(named, holder.name);
      holders.push_back(std::move(holder));
      seen.insert(names);  // not before: of a process in a chroot not all mounts can be seen
      break;
    }
  }
  return holders;
}

UniqueFd open_held(const std::string& device) {
  for (const MountHolder& holder : mount_holders(device)) {
    const std::string path = fmt::format("/proc/{}/root{}", holder.pid, holder.mountpoint);
    // The path is the holder's: what it leads to is looked at before it is opened.
    const UniqueFd found{::open(path.c_str(), O_PATH | O_CLOEXEC)};
    struct stat info {};
    if (!found || ::fstat(found.get(), &info) != 0) continue;
    if (fmt::format("{}:{}", major(info.st_dev), minor(info.st_dev)) != device) continue;
    if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) continue;
    UniqueFd there{::open(fmt::format("/proc/self/fd/{}", found.get()).c_str(),
                          O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)};
    if (there) return there;
  }
  return {};
}

std::optional<MountEntry> mounted_at(const std::string& path) {
  std::optional<MountEntry> found;
  for (MountEntry& entry : mount_table()) {
    if (entry.mountpoint == path) found = std::move(entry);
  }
  return found;
}

Result<std::string> resolve_mountpoint(const std::string& path) {
  std::string rest = path;
  while (rest.size() > 1 && rest.back() == '/') rest.pop_back();
  if (rest.empty()) return system_error(Code::kSystem, ENOENT);
  const std::size_t slash = rest.rfind('/');
  std::string parent = slash == std::string::npos ? "." : rest.substr(0, slash + 1);
  const std::string name = slash == std::string::npos ? rest : rest.substr(slash + 1);
  const bool plain = !name.empty() && name != "." && name != "..";
  const std::string resolving = plain ? parent : rest;
  char buffer[PATH_MAX];
  if (::realpath(resolving.c_str(), buffer) == nullptr) return system_error(Code::kSystem, errno);
  if (!plain) return std::string{buffer};
  const std::string joined =
      std::string{buffer} == "/" ? "/" + name : std::string{buffer} + "/" + name;
  // The mountpoint itself may be reached by a symbolic link; lstat answers from the directory
  // above unless something is mounted there, and then it is no link.
  struct stat info {};
  if (::lstat(joined.c_str(), &info) == 0 && S_ISLNK(info.st_mode)) {
    if (::realpath(joined.c_str(), buffer) == nullptr) return system_error(Code::kSystem, errno);
    return std::string{buffer};
  }
  return joined;
}

MountpointProbe probe_mountpoint(const std::string& path) {
  // ENOTCONN: the daemon behind it has died. ECONNABORTED: its connection was aborted.
  const auto is_dead = [](int error) { return error == ENOTCONN || error == ECONNABORTED; };
  const auto entry = mounted_at(path);
  if (entry && entry->type == kMountType) {
    // Not stat: the kernel answers that from what it remembers, for a day after the daemon's death.
    struct statvfs space {};
    if (::statvfs(path.c_str(), &space) != 0 && is_dead(errno))
      return {MountpointState::kDead, errno};
    return {MountpointState::kMounted, 0};
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (is_dead(errno)) return {MountpointState::kDead, errno};
    if (errno == ENOENT) return {MountpointState::kAbsent, errno};
    if (errno == ENOTDIR) return {MountpointState::kNotDirectory, errno};
    return {MountpointState::kUnreadable, errno};
  }
  if (!S_ISDIR(info.st_mode)) return {MountpointState::kNotDirectory, 0};
  if (!is_empty_directory(path)) return {MountpointState::kNotEmpty, 0};
  return {};
}

Result<UniqueFd> open_fuse_device() {
  UniqueFd device{::open("/dev/fuse", O_RDWR | O_CLOEXEC)};
  if (!device) return system_error(Code::kSystem, errno);
  return device;
}

Result<void> mount_fuse(const UniqueFd& device, const MountPlan& plan) {
  // default_permissions: the kernel checks modes and owners, and asks us nothing to do it.
  const std::string data =
      fmt::format("fd={},rootmode=40000,user_id={},group_id={},default_permissions{}", device.get(),
                  ::getuid(), ::getgid(), plan.allow_other ? ",allow_other" : "");
  if (::mount(plan.source.c_str(), plan.mountpoint.c_str(), kMountType, plan.flags, data.c_str()) !=
      0) {
    return system_error(Code::kSystem, errno);
  }
  return {};
}

Result<void> remount(const MountEntry& mount, unsigned long flags) {
  // What else FUSE was mounted with stays: the kernel ignores it here.
  if (::mount(mount.source.c_str(), mount.mountpoint.c_str(), kMountType, flags | MS_REMOUNT, "") !=
      0) {
    return system_error(Code::kSystem, errno);
  }
  return {};
}

Result<UniqueFd> mount_by_helper(const MountPlan& plan, HelperSays* said) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return system_error(Code::kSystem, errno);
  }
  UniqueFd ours{ends[0]};
  UniqueFd theirs{ends[1]};
  // fusermount3 takes commas behind a backslash for what they are.
  std::string options = "subtype=dynamicfs,default_permissions,fsname=";
  for (const char letter : plan.source) {
    if (letter == ',' || letter == '\\') options += '\\';
    options += letter;
  }
  for (const HelperFlag& known : kHelperFlags) {
    if ((plan.flags & known.flag) != 0) options += "," + std::string{known.word};
  }
  if (plan.allow_other) options += ",allow_other";
  const int code = run_helper({"-o", options, "--", plan.mountpoint}, theirs.get(), said);
  theirs.reset();
  if (code != 0) return system_error(Code::kSystem, EPERM);
  UniqueFd device = receive_descriptor(ours);
  if (!device) return system_error(Code::kSystem, EPROTO);
  return device;
}

Result<void> unmount(const std::string& mountpoint, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (int why = unmount_once(mountpoint, UMOUNT_NOFOLLOW)) {
    if (why == EINTR) continue;
    if (why != EBUSY) return system_error(Code::kSystem, why);
    if (std::chrono::steady_clock::now() >= deadline) return Code::kBusy;
    std::this_thread::sleep_for(std::chrono::milliseconds{50});
  }
  return {};
}

Result<void> detach(const std::string& mountpoint) {
  const int why = unmount_once(mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
  if (why != 0) return system_error(Code::kSystem, why);
  return {};
}

}  // namespace dynamicfs::fs
