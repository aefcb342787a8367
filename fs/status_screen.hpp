// The status of a pool for people: what `dynamicfs status` prints.
#pragma once

#include <cstdint>
#include <string>

#include "fs/control.hpp"

namespace dynamicfs::fs {

// The pool, its space, its disks, its problems. `status` is what build_status() makes.
std::string status_screen(const Json& status);
// Each disk: its state, what waits for it, how quickly it answers, what it got wrong.
std::string disk_screen(const Json& status);
// Every metric with its value, in groups.
std::string metrics_screen(const Json& status);
// A number and a unit: "90 s", "3 min".
std::string duration_text(std::uint64_t seconds);

}  // namespace dynamicfs::fs
