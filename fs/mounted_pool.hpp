// A mounted pool from outside: what the command does with one.
#pragma once

#include <string>
#include <vector>

#include "fs/control.hpp"
#include "fs/mount_options.hpp"
#include "fs/mount_point.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

struct MountedPool {
  MountEntry mount;
  RunningDaemon daemon;
};

// The pool mounted at `path` or above it. kNotMounted; kPermission if its daemon may not be asked.
Outcome<MountedPool> find_mounted_pool(const std::string& path);

// A mount of ours whose daemon says nothing, and what find_mounted_pool() would say about it.
struct UnansweredMount {
  MountEntry mount;
  Refusal why;
};
// `daemons`: who answers now. A mount that is only beginning or ending is left out.
std::vector<UnansweredMount> unanswered_mounts(const RunningDaemons& daemons);

// What the page cache holds is handed over, and everything is durable.
Outcome<void> sync_pool(const MountedPool& pool);

// What the kernel keeps of a mount (ro, noatime ...) becomes as `options` say. What the daemon was started with
// stays, read-only included: then it is refused.
Outcome<void> remount_pool(const std::string& mountpoint, const MountOptions& options);

// Unmounts and waits until the daemon has written everything and ended. A dead mount is removed.
Outcome<void> unmount_pool(const std::string& mountpoint);

}  // namespace dynamicfs::fs
