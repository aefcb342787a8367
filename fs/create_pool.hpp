// `dynamicfs create`: everything is checked before anything is changed, and what fails half way
// leaves no file behind that was not there before.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/executor.hpp"
#include "base/uuid.hpp"
#include "fs/refusal.hpp"
#include "journal/superblock.hpp"
#include "scheduler/uring_disk.hpp"

namespace dynamicfs::fs {

// A label stands in a line of `status`. The format would take more.
inline constexpr std::size_t kLabelBytesMax = 64;

struct CreateRequest {
  std::vector<std::string> disks;           // directories, image files, block devices
  std::string redundancy;                   // "single", "replica:2"; empty: the default
  std::string placement;                    // "spread", "file"; empty: as `redundancy` says
  std::optional<std::uint64_t> size_bytes;  // of directories and new image files
  std::string label;                        // see kLabelBytesMax
  bool force = false;                       // erase what the disks hold
};

struct CreatedPool {
  struct DiskLine {
    std::string path;
    std::string kind;
    std::uint64_t size_bytes = 0;
  };
  Uuid pool;
  journal::Policy policy;
  std::vector<DiskLine> disks;
  std::uint64_t usable_bytes = 0;
  std::vector<std::string> warnings;  // true and not in the way
};

Outcome<CreatedPool> create_pool(const CreateRequest& request);

// A disk for a pool that is mounted: looked at as for a new pool, made or erased if the request says so, and open
// for the pool's use.
struct NewDiskRequest {
  std::string path;  // absolute
  std::optional<std::uint64_t> size_bytes;
  bool force = false;
  std::string name;  // of its threads
  int workers = 2;
  scheduler::IoQueueOptions queue = {};
};
Outcome<std::unique_ptr<scheduler::Disk>> make_new_disk(Executor& executor,
                                                        const NewDiskRequest& request);

// What `copies` copies of everything leave for the user on disks of these sizes: no two copies on
// one disk.
std::uint64_t usable_bytes(std::vector<std::uint64_t> sizes, unsigned copies);

}  // namespace dynamicfs::fs
