// A disk on real storage, driven by io_uring.
//
// Each disk has one queue (scheduler/io_queue, five classes) and a pool of workers named
// `io-<disk>-<n>`, each with an io_uring of its own. A request resumes its coroutine on the worker
// that reaped it, inside a DriverScope.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/executor.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "scheduler/disk.hpp"
#include "scheduler/io_queue.hpp"

namespace dynamicfs::scheduler {

// The name of the file we keep in a directory that serves as a disk.
inline constexpr const char* kVolumeFileName = "dynamicfs.volume";

struct VolumeTarget {
  std::string path;  // as the user gave it, made absolute
  std::string file;  // what is opened: the path, or the volume file inside the directory
  DiskKind kind = DiskKind::kImageFile;
  bool exists = false;           // the volume file or image is there already
  std::uint64_t size_bytes = 0;  // of the device or existing file; 0 if there is none
  std::uint64_t free_bytes = 0;  // of the file system that holds a directory or image
};

// Looks, changes nothing. Errors: kDiskOpen with the errno (ENOENT: nothing there and its parent is
// missing too), kInvalid for what is neither directory, regular file nor block device.
Result<VolumeTarget> inspect_volume(const std::string& path);

// Makes the volume file of a directory, or an image file, `size_bytes` long (sparse; space is taken
// in large steps as slots come into use). Fails with kDiskOpen/EEXIST if it exists. A block device
// needs none.
Result<void> create_volume_file(const VolumeTarget& target, std::uint64_t size_bytes);

struct UringDiskOptions {
  std::string name;  // for thread names: "0", "1", ...
  int workers = 2;
  IoQueueOptions queue = {};  // for all workers; whether the disk is rotational is found out
  bool read_only = false;
  // Seconds to wait for the lock of a killed daemon whose last requests are still in the kernel.
  Duration lock_wait{std::chrono::seconds{10}};
};

// Opens and locks (flock, exclusive; shared when read_only) the volume behind `target`; O_DIRECT
// where the store supports it. The lock belongs to the open file that the rings use, so it lasts
// until the last request of a killed daemon is gone. Errors: kPoolBusy when the lock is held,
// kDiskOpen with the errno.
// The destructor waits for everything in flight, joins the workers and asserts empty queues.
Result<std::unique_ptr<Disk>> open_uring_disk(Executor& executor, const VolumeTarget& target,
                                              const UringDiskOptions& options);

}  // namespace dynamicfs::scheduler
