// What is being copied between disks, as JSON for programs, as text for people, and as an exit code for scripts.
#pragma once

#include <string>

#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

// Keys as dynamicfs(8) lists them. Rate and time left are absent while they are unknown.
Json rebuild_json(const RebuildReport& report, const journal::Pool& pool);

// What follows is for what rebuild_json() made.

// A few lines.
std::string rebuild_screen(const Json& rebuild);
// A part of a sentence: "running, 3.1 GiB left"; empty if everything is where it should be.
std::string rebuild_phrase(const Json& rebuild);
// kDegraded: something is still to be copied.
ExitCode rebuild_exit_code(const Json& rebuild);

}  // namespace dynamicfs::fs
