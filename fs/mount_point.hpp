// The kernel's table of mounts, and our entry in it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace dynamicfs::fs {

// What `mount` shows as the type.
inline constexpr const char* kMountType = "fuse.dynamicfs";

struct MountEntry {
  std::string device;  // "0:45": names the mounted file system whatever its path
  std::string mountpoint;
  std::string type;
  std::string source;
  unsigned user = 0;  // who mounted it, of a FUSE mount
};

// As this process sees them, in the order they were mounted. Touches no mount.
std::vector<MountEntry> mount_table();
// In another mount namespace: the first process that is there, by number.
struct MountHolder {
  pid_t pid = 0;
  std::string name;
  std::string mountpoint;  // as that process sees it
};
// Who else has this file system mounted, one for each namespace whose processes we may look at.
std::vector<MountHolder> mount_holders(const std::string& device);
// An open file of a file system that others have mounted in namespaces of theirs; none if there is no such, or it is
// not for us to open.
UniqueFd open_held(const std::string& device);
// The topmost mount exactly at `path` (absolute, no symbolic links), of whatever type.
std::optional<MountEntry> mounted_at(const std::string& path);

// A path without symbolic links, "." or "..", made without touching what is mounted there: only the
// directory that holds it is resolved, so it works for a mount whose daemon is dead.
Result<std::string> resolve_mountpoint(const std::string& path);

enum class MountpointState : std::uint8_t {
  kUsable,
  kAbsent,
  kNotDirectory,
  kNotEmpty,
  kDead,        // a mount whose daemon is gone
  kMounted,     // a living dynamicfs is mounted there
  kUnreadable,  // sys_errno of the probe says why
};
struct MountpointProbe {
  MountpointState state = MountpointState::kUsable;
  int sys_errno = 0;
};
MountpointProbe probe_mountpoint(const std::string& path);

// Errors: kSystem with the errno of open(2).
Result<UniqueFd> open_fuse_device();

struct MountPlan {
  std::string source;
  std::string mountpoint;
  unsigned long flags = 0;  // MS_RDONLY ... of mount(2)
  bool allow_other = true;
};
// From here on the kernel sends requests to `device`. Errors: kSystem with the errno of mount(2).
Result<void> mount_fuse(const UniqueFd& device, const MountPlan& plan);

// What fusermount3 had to say.
struct HelperSays {
  bool missing = false;  // there is none
  std::string text;
};
// The same for those who are not root: fusermount3 opens the device and mounts it. Errors: kSystem.
Result<UniqueFd> mount_by_helper(const MountPlan& plan, HelperSays* said);
// The flags of a mount that there is become these. Errors: kSystem with the errno of mount(2).
Result<void> remount(const MountEntry& mount, unsigned long flags);

// For those who are not root, through fusermount3 as well:

// Unmounts; waits up to `patience` for a mount that is busy. Errors: kBusy, kSystem.
Result<void> unmount(const std::string& mountpoint, std::chrono::milliseconds patience);
// Takes the mount out of the tree at once; whoever has a file open there keeps it.
Result<void> detach(const std::string& mountpoint);

}  // namespace dynamicfs::fs
