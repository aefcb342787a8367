// From the one disk that a user names to all disks of its pool.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/executor.hpp"
#include "base/uuid.hpp"
#include "fs/refusal.hpp"
#include "journal/pool.hpp"
#include "journal/superblock.hpp"
#include "scheduler/io_queue.hpp"
#include "scheduler/uring_disk.hpp"

namespace dynamicfs::fs {

// What stands at a path, looked at without changing anything. A disk without a superblock of ours
// is kNotADisk. `lock_wait`: how long to wait for somebody who has the disk open.
struct ProbedDisk {
  scheduler::VolumeTarget target;
  journal::Superblock superblock;
};
Outcome<ProbedDisk> probe_disk(Executor& executor, const std::string& path, Duration lock_wait);

struct DiskSearch {
  std::string named;                // absolute
  std::vector<std::string> others;  // -o disk=PATH, absolute
  int workers_per_disk = 2;
  scheduler::IoQueueOptions queue = {};
  bool read_only = false;
  // For who only wants to have what is left: a named disk that cannot be used is a note, unless none can
  // or one is in use; and where the superblocks say that others are is looked only if `search`.
  bool lenient = false;
  bool search = true;
};
struct FoundDisks {
  Uuid pool;
  std::string label;
  // Every path that the superblocks know, whether the disk is there or not.
  std::vector<std::string> known_paths;
  // Open and locked. Disks that were not found, or do not belong here, are simply absent: whether
  // the pool can do without them is Pool::open's to judge.
  std::vector<std::unique_ptr<scheduler::Disk>> disks;
  // What was looked for and not found, for the log.
  std::vector<std::string> notes;
};
// Looks at the named disk, at `others`, and where the superblocks say that the remaining disks were
// last seen. What the user named must be a disk of one pool; what is only remembered need not be
// there.
Outcome<FoundDisks> find_disks(Executor& executor, const DiskSearch& search);

// Opens the pool of these disks; nothing is written yet. `salvage`: Pool::Opening::salvage. The refusal names the disks and what to do.
Outcome<std::unique_ptr<journal::Pool>> open_pool(
    Executor& executor, std::vector<std::unique_ptr<scheduler::Disk>> disks, bool read_only,
    bool salvage = false);

}  // namespace dynamicfs::fs
