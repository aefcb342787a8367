// `dynamicfs status --watch`: the figures again and again, with what has come to them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "fs/refusal.hpp"

namespace dynamicfs::tools {

struct WatchArguments {
  std::string mountpoint;  // empty: every pool
  std::chrono::milliseconds period{2000};
  std::uint64_t count = 0;  // samples; 0: until it is stopped
  bool json = false;        // each an object (with a mountpoint) or an array, on a line of its own
};

// On a terminal a screen that is refreshed, else a block for each sample. Ends after `count` samples,
// or by SIGINT or SIGTERM, with the exit code of the last sample; when no daemon answers any more
// with that refusal.
fs::ExitCode watch(const WatchArguments& arguments);

}  // namespace dynamicfs::tools
