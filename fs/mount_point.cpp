#include "fs/mount_point.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string_view>
#include <thread>

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

}  // namespace

// "36 35 98:0 /root /mountpoint options [optional fields] - type source super-options"
std::vector<MountEntry> mount_table() {
  std::vector<MountEntry> table;
  std::ifstream lines("/proc/self/mountinfo");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, mountpoint, word, type, source;
    words >> id >> parent >> device >> root >> mountpoint;
    while (words >> word && word != "-") {
    }
    words >> type >> source;
    if (words.fail()) continue;
    table.push_back({.device = device,
                     .mountpoint = unescaped(mountpoint),
                     .type = type,
                     .source = unescaped(source)});
  }
  return table;
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

Result<void> unmount(const std::string& mountpoint, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW) != 0) {
    if (errno == EINTR) continue;
    if (errno != EBUSY) return system_error(Code::kSystem, errno);
    if (std::chrono::steady_clock::now() >= deadline) return Code::kBusy;
    std::this_thread::sleep_for(std::chrono::milliseconds{50});
  }
  return {};
}

Result<void> detach(const std::string& mountpoint) {
  if (::umount2(mountpoint.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) {
    return system_error(Code::kSystem, errno);
  }
  return {};
}

}  // namespace dynamicfs::fs
