// What the daemon knows about itself and its pool, as the JSON object that `dynamicfs status`
// shows.
//
// Keys are part of the interface: scripts read them. Metrics are flat names with a number each, as
// dynamicfs(8) lists them.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/fuse_session.hpp"
#include "fs/kernel_knobs.hpp"
#include "fs/mount_options.hpp"

namespace dynamicfs::fs {

inline constexpr const char* kProgramVersion = "0.1.0";

// What belongs to this mount and is known to the daemon alone.
struct MountFacts {
  std::string mountpoint;
  std::string device;  // "0:45"
  MountOptions options;
  std::vector<Knob> knobs;
  std::chrono::steady_clock::time_point since;
};

// Takes no lock for longer than a copy; any thread.
// Blocks: not on a thread of the executor.
Json build_status(Executor& executor, Filesystem& filesystem, const FuseSession& session,
                  const MountFacts& facts);

// "healthy", "degraded", "read_only" and the problems decide it; see dynamicfs(8).
ExitCode exit_code_of(const Json& status);

}  // namespace dynamicfs::fs
