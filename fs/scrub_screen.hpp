// A scrub as JSON for programs, as text for people, and as an exit code for scripts.
#pragma once

#include <string>

#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

// Keys as dynamicfs(8) lists them. Times are seconds since 1970; a key whose value is unknown (rate,
// time left, end) is absent.
Json scrub_json(const ScrubReport& report);

// What follows is for what scrub_json() made.

// A few lines.
std::string scrub_screen(const Json& scrub);
// A part of a sentence: "running, 31 % checked"; empty if there was none.
std::string scrub_phrase(const Json& scrub);
// kAtRisk: blocks without a good copy. kDegraded: copies that are bad, outdated or could not be read
// are left.
ExitCode scrub_exit_code(const Json& scrub);

}  // namespace dynamicfs::fs
