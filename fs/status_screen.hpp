// The status of a pool for people: what `dynamicfs status` prints.
#pragma once

#include <cstdint>
#include <string>

#include "fs/control.hpp"

namespace dynamicfs::fs {

// The pool, its space, its disks, its problems. `status` is what build_status() makes.
std::string status_screen(const Json& status);
// Its first line: which pool, and how it is.
std::string pool_line(const Json& status);
// Each disk: its state, what waits for it, how quickly it answers, what it got wrong.
std::string disk_screen(const Json& status);
// Every metric with its value, in groups; beside some what is healthy, and hints where it is not.
std::string metrics_screen(const Json& status);
// "85 us", "1.2 ms", "3.4 s".
std::string latency_text(std::uint64_t latency_us);
// A number and a unit: "90 s", "3 min".
std::string duration_text(std::uint64_t seconds);

}  // namespace dynamicfs::fs
