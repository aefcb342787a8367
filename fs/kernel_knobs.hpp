// What the kernel decides about our mount outside the FUSE protocol: readahead of 128 KiB, and how
// much may be dirty, 1 % of the limit for all file systems. Both are too little for a disk pool.
//
// But there must be a limit. The kernel queues what it writes back and what others read in one line,
// first come, first served; of what it writes back it counts everything against max_background, but
// lets only reads wait for that. So a mount may have no more dirty memory than it has buffers to
// receive it into: or every read from the disks waits behind a large fsync, for seconds on a slow disk.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dynamicfs::fs {

struct Knob {
  std::string name;  // "read_ahead_kb"
  std::string before;
  std::string after;  // what it holds now; equal to `before` where it could not be changed
};

// Whether the kernel lets us say how much of the mounted file system `device` ("0:45") may be dirty.
bool can_limit_dirty_memory(const std::string& device);

// Raises the settings of that file system in /sys/class/bdi. Only root can; what fails is logged once
// and left. Not inside a handler of INIT: the kernel holds locks
// there that writing to sysfs wants.
std::vector<Knob> raise_kernel_knobs(const std::string& device,
                                     std::optional<std::uint64_t> dirty_bytes_max);

// The kernel keeps the limit as a part of what all file systems may have, which follows the memory
// that is free: to be called every few seconds.
void hold_dirty_limit(const std::string& device, std::uint64_t dirty_bytes_max);

// Before any thread is made: allocations of this process do not wait for writeback through itself,
// and it is the last to be killed when memory runs out. Returns what could not be done, for the
// log.
std::vector<std::string> protect_from_memory_pressure();

}  // namespace dynamicfs::fs
