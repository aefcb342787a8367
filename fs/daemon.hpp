// The process behind one mount, from the first disk to the last flush.
//
// Start   disks found and locked, pool opened, tree recovered; only then the mount, the kernel's
//         INIT, the control socket; and only then does whoever started us hear that it is done.
// End     by umount(8), `dynamicfs umount`, SIGTERM or SIGINT: out of the tree, requests answered,
//         everything durable, pool marked clean, exit 0. In the reverse order of the start.
#pragma once

#include <string>

#include "fs/mount_options.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

struct MountRequest {
  std::string disk;  // any disk of the pool, as the user wrote it
  std::string mountpoint;
  MountOptions options;
  bool foreground = false;  // stay, and log to stderr
};

// Mounts the pool. In the foreground it returns when the pool is unmounted; else it leaves a daemon
// behind and returns as soon as the tree can be used. Warnings go to stderr. No thread may have
// been made before.
Outcome<void> mount_pool(const MountRequest& request);

}  // namespace dynamicfs::fs
