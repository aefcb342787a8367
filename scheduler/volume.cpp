#include "scheduler/volume.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fmt/format.h>

#include "base/buffer.hpp"
#include "base/ids.hpp"
#include "base/log.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// A guess: short beside a start, long beside what it costs to look.
constexpr milliseconds kLockPoll{50};

Error open_error() { return system_error(Code::kDiskOpen, errno); }

Result<std::uint64_t> free_bytes_at(const std::string& path) {
  struct statvfs of {};
  if (::statvfs(path.c_str(), &of) != 0) return open_error();
  return static_cast<std::uint64_t>(of.f_bavail) * of.f_frsize;
}

Result<std::uint64_t> device_bytes(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return open_error();
  std::uint64_t size = 0;
  if (::ioctl(fd.get(), BLKGETSIZE64, &size) != 0) return open_error();
  return align_down(size, kBlockBytes);
}

std::string parent_of(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

// What the device behind a store says of itself in sysfs; `otherwise` when it says nothing, as for
// network and memory file systems.
std::uint64_t device_limit(dev_t device, const char* name, std::uint64_t otherwise) {
  // A partition has no queue of its own; its directory lies inside that of the whole device.
  for (const char* up : {"", "../"}) {
    std::ifstream file(
        fmt::format("/sys/dev/block/{}:{}/{}queue/{}", major(device), minor(device), up, name));
    std::uint64_t value = 0;
    if (file >> value) return value;
  }
  return otherwise;
}

// The longest transfer that is one request to the device, if each 4 KiB of its memory lie by themselves.
// A longer one has to be split, which the kernel does not do without blocking: the ring tries, gives
// up, and hands the whole to a kernel thread.
std::uint64_t transfer_bytes_max(dev_t device) {
  constexpr std::uint64_t kNoLimit = 1 << 20;  // in KiB, and in pages
  const std::uint64_t sectors_kib = device_limit(device, "max_sectors_kb", kNoLimit);
  const std::uint64_t pages = device_limit(device, "max_segments", kNoLimit);
  return std::max(kBlockBytes,
                  align_down(std::min(sectors_kib * 1024, pages * kBlockBytes), kBlockBytes));
}

// Whether O_DIRECT works can be told only by a transfer: overlay and some network file systems take
// the flag and refuse the read, and devices with sectors above 4 KiB refuse our alignment.
bool direct_read_works(int fd) {
  Buffer block(kBlockBytes);
  while (true) {
    const ssize_t got = ::pread(fd, block.data(), kBlockBytes, 0);
    if (got >= 0 || errno != EINTR) return got >= 0 || errno != EINVAL;
  }
}

// 64 MiB keep a file in few extents, a sixteenth keeps small test volumes sparse.
std::uint64_t space_step(std::uint64_t size_bytes) {
  const std::uint64_t sixteenth = align_down(size_bytes / 16, kBlockBytes);
  return std::max(4 * kMiB, std::min(64 * kMiB, sixteenth));
}

bool takes_space_ahead(int fd) {
  struct statfs of {};
  if (::fstatfs(fd, &of) != 0) return false;
  // On tmpfs space is memory, and taking it ahead only fills that with zeros early.
  return of.f_type != TMPFS_MAGIC && of.f_type != RAMFS_MAGIC;
}

enum class LockState { kTaken, kHeldByAnother, kFailed };

LockState try_lock(int fd, bool read_only) {
  while (::flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    return errno == EWOULDBLOCK ? LockState::kHeldByAnother : LockState::kFailed;
  }
  return LockState::kTaken;
}

// For a device that O_EXCL refuses: whether one of us holds it, or a mount, RAID and the like.
bool held_by_lock(const std::string& file, bool read_only) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  return fd && try_lock(fd.get(), read_only) == LockState::kHeldByAnother;
}

// The open and locked file, waiting for another holder until the deadline.
Result<UniqueFd> open_locked(const VolumeTarget& target, bool read_only, Duration lock_wait) {
  int flags = O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR);
  // The kernel's own claim on a device, so that what is mounted or part of a RAID is refused. A
  // reader changes nothing and may stand beside other readers.
  if (target.kind == DiskKind::kBlockDevice && !read_only) flags |= O_EXCL;
  const auto deadline = steady_clock::now() + lock_wait;
  int strangers = 0;  // how often the device was taken and not by one of us
  while (true) {
    UniqueFd fd(::open(target.file.c_str(), flags | O_DIRECT));
    if (!fd && errno == EINVAL) fd = UniqueFd(::open(target.file.c_str(), flags));
    if (!fd) {
      const int open_errno = errno;
      if (open_errno == EINTR) continue;
      if (open_errno != EBUSY) return system_error(Code::kDiskOpen, open_errno);
      strangers = held_by_lock(target.file, read_only) ? 0 : strangers + 1;
    } else {
      strangers = 0;
      switch (try_lock(fd.get(), read_only)) {
        case LockState::kTaken: return fd;
        case LockState::kFailed: return open_error();
        case LockState::kHeldByAnother: break;
      }
    }
    fd.reset();
    const bool late = steady_clock::now() >= deadline;
    // Several looks, because another of us may stand between its open and its lock.
    if (strangers > 3 || (late && strangers > 0)) return system_error(Code::kDiskOpen, EBUSY);
    if (late) return error(Code::kPoolBusy);
    std::this_thread::sleep_for(kLockPoll);
  }
}

}  // namespace

Result<VolumeTarget> inspect_volume(const std::string& path) {
  VolumeTarget target;
  std::error_code ignored;
  target.path = std::filesystem::absolute(path, ignored).lexically_normal().string();
  if (target.path.size() > 1 && target.path.back() == '/') target.path.pop_back();
  target.file = target.path;

  struct stat of {};
  if (path.empty() || ::stat(target.path.c_str(), &of) != 0) {
    if (path.empty()) errno = ENOENT;
    // An image file that is to be made needs at least the directory it goes to; a name with a
    // slash at its end means a directory that is missing.
    if (errno != ENOENT || path.empty() || path.back() == '/') return open_error();
    struct stat parent {};
    if (::stat(parent_of(target.path).c_str(), &parent) != 0) return open_error();
    if (!S_ISDIR(parent.st_mode)) return system_error(Code::kDiskOpen, ENOTDIR);
    target.free_bytes = TRY(free_bytes_at(parent_of(target.path)));
    return target;
  }
  if (S_ISBLK(of.st_mode)) {
    target.kind = DiskKind::kBlockDevice;
    target.exists = true;
    target.size_bytes = TRY(device_bytes(target.file));
    return target;
  }
  target.free_bytes = TRY(free_bytes_at(target.path));
  if (S_ISDIR(of.st_mode)) {
    target.kind = DiskKind::kDirectory;
    target.file = (std::filesystem::path(target.path) / kVolumeFileName).string();
    if (::stat(target.file.c_str(), &of) != 0) {
      if (errno != ENOENT) return open_error();
      return target;
    }
  }
  if (!S_ISREG(of.st_mode)) return error(Code::kInvalid);
  target.exists = true;
  target.size_bytes = align_down(static_cast<std::uint64_t>(of.st_size), kBlockBytes);
  return target;
}

Result<void> create_volume_file(const VolumeTarget& target, std::uint64_t size_bytes) {
  if (target.kind == DiskKind::kBlockDevice) return {};
  if (size_bytes == 0 || size_bytes % kBlockBytes != 0) return error(Code::kInvalid, size_bytes);
  // For the owner alone: what is in the pool may not be readable by everybody who can see the disk.
  const UniqueFd fd(::open(target.file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return open_error();
  const std::string parent = parent_of(target.file);
  const UniqueFd directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0 ||
      ::fsync(fd.get()) != 0 || ::fsync(directory.get()) != 0) {
    const Error why = open_error();
    ::unlink(target.file.c_str());
    return why;
  }
  return {};
}

Result<OpenVolume> open_volume(const VolumeTarget& target, bool read_only, Duration lock_wait) {
  OpenVolume volume;
  volume.fd = TRY(open_locked(target, read_only, lock_wait));
  const int fd = volume.fd.get();

  struct stat of {};
  if (::fstat(fd, &of) != 0) return open_error();
  std::uint64_t size = static_cast<std::uint64_t>(of.st_size);
  if (S_ISBLK(of.st_mode)) {
    if (::ioctl(fd, BLKGETSIZE64, &size) != 0) return open_error();
  } else if (!S_ISREG(of.st_mode)) {
    return error(Code::kInvalid);
  }
  volume.size_bytes = align_down(size, kBlockBytes);
  if (volume.size_bytes == 0) return system_error(Code::kDiskOpen, ENOSPC);

  const int flags = ::fcntl(fd, F_GETFL);
  volume.direct = (flags & O_DIRECT) != 0 && direct_read_works(fd);
  if (!volume.direct) {
    // On the same open file, which already carries the lock.
    if (::fcntl(fd, F_SETFL, flags & ~O_DIRECT) != 0) return open_error();
    log_info("{}: the store refuses direct I/O; going through the page cache", target.path);
    // After a write back that failed the cache may hold what the store does not.
    if (!read_only && ::fdatasync(fd) != 0) return open_error();
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  const dev_t device = S_ISBLK(of.st_mode) ? of.st_rdev : of.st_dev;
  volume.rotational = device_limit(device, "rotational", 0) == 1;
  if (volume.direct) volume.transfer_bytes_max = transfer_bytes_max(device);
  if (S_ISREG(of.st_mode) && !read_only && takes_space_ahead(fd)) {
    volume.space_step_bytes = space_step(volume.size_bytes);
  }
  return volume;
}

}  // namespace dynamicfs::scheduler
