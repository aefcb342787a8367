// What the kernel decides about our mount outside the FUSE protocol, and too cautiously for a disk
// pool: readahead of 128 KiB, and 1 % of the dirty limit for all of it.
#pragma once

#include <string>
#include <vector>

namespace dynamicfs::fs {

struct Knob {
  std::string name;  // "read_ahead_kb"
  std::string before;
  std::string after;  // what it holds now; equal to `before` where it could not be changed
};

// Raises the settings of the mounted file system `device` ("0:45") in /sys/class/bdi. Only root
// can; what fails is logged once and left. Not inside a handler of INIT: the kernel holds locks
// there that writing to sysfs wants.
std::vector<Knob> raise_kernel_knobs(const std::string& device);

// Before any thread is made: allocations of this process do not wait for writeback through itself,
// and it is the last to be killed when memory runs out. Returns what could not be done, for the
// log.
std::vector<std::string> protect_from_memory_pressure();

}  // namespace dynamicfs::fs
