// The backing store of a disk as an open, locked file.
#pragma once

#include <cstdint>

#include "base/executor.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "scheduler/uring_disk.hpp"

namespace dynamicfs::scheduler {

struct OpenVolume {
  UniqueFd fd;
  std::uint64_t size_bytes = 0;  // whole blocks
  bool direct = false;           // O_DIRECT is on
  bool rotational = false;
  // What goes to the kernel at once; a longer transfer goes in pieces. A multiple of kBlockBytes.
  std::uint64_t transfer_bytes_max = 1 << 30;
  // The unit in which the backing file takes space ahead of writes; 0: it needs or allows none.
  std::uint64_t space_step_bytes = 0;
};

// Opens and locks; see open_uring_disk(). Blocks the calling thread for up to `lock_wait`.
Result<OpenVolume> open_volume(const VolumeTarget& target, bool read_only, Duration lock_wait);

}  // namespace dynamicfs::scheduler
