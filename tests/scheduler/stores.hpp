// Real stores for tests of disks: directories, image files, loop devices, file systems of their own.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <latch>
#include <random>
#include <set>
#include <thread>

#include <fmt/format.h>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "base/bytes.hpp"
#include "scheduler/uring_disk.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::scheduler {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

inline constexpr std::uint64_t kVolumeBytes = 64 * kMiB;

struct TemporaryDirectory {
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "dynamicfs-disk-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const char* name) const { return (path / name).string(); }

  fs::path path;
};

// A block device over a file; empty() where that is not allowed.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& backing) {
    const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const UniqueFd file(::open(backing.c_str(), O_RDWR | O_CLOEXEC));
    if (!control || !file) return;
    // Somebody else may take the number between the two calls.
    for (int attempt = 0; attempt < 20 && !device_; ++attempt) {
      const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return;
      path_ = fmt::format("/dev/loop{}", number);
      UniqueFd device(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (!device) continue;
      loop_config config{};
      config.fd = static_cast<std::uint32_t>(file.get());
      config.block_size = 512;
      config.info.lo_flags = LO_FLAGS_DIRECT_IO;
      if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) device_ = std::move(device);
    }
  }
  ~LoopDevice() {
    if (device_) ::ioctl(device_.get(), LOOP_CLR_FD, 0);
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  bool empty() const { return !device_; }
  const std::string& path() const { return path_; }
  // The n-th number of the device's statistics (Linux, block/stat): 5 writes, 16 flushes completed.
  std::uint64_t statistic(int n) const {
    std::ifstream file("/sys/block/" + fs::path(path_).filename().string() + "/stat");
    std::uint64_t value = 0;
    for (int i = 0; i < n; ++i) file >> value;
    return value;
  }

 private:
  UniqueFd device_;
  std::string path_;
};

// A file system of its own; empty() where that is not allowed.
class Mounted {
 public:
  // `command` mounts something at `mountpoint`.
  Mounted(std::string mountpoint, const std::string& command) : mountpoint_(std::move(mountpoint)) {
    fs::create_directory(mountpoint_);
    mounted_ = std::system(fmt::format("({}) >/dev/null 2>&1", command).c_str()) == 0;
  }
  ~Mounted() {
    if (mounted_) ::umount2(mountpoint_.c_str(), MNT_DETACH);
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  bool empty() const { return !mounted_; }

 private:
  const std::string mountpoint_;
  bool mounted_ = false;
};

inline UringDiskOptions options_for_test() {
  return {.name = "t",
          .workers = 2,
          .queue = {.depth = 32},
          .read_only = false,
          .lock_wait = Duration{0}};
}

inline std::unique_ptr<Executor> executor = make_thread_executor();

inline Result<std::unique_ptr<Disk>> open_at(const std::string& path,
                                             UringDiskOptions options = options_for_test()) {
  const VolumeTarget target = TRY(inspect_volume(path));
  return open_uring_disk(*executor, target, options);
}

inline void create_at(const std::string& path, std::uint64_t size_bytes = kVolumeBytes) {
  create_volume_file(inspect_volume(path).value(), size_bytes).value();
}

inline Result<void> write(Disk& disk, std::uint64_t offset, std::span<const std::byte> from,
                          bool durable = false) {
  return block_on(*executor, scheduler::write(disk, IoClass::kWrite, offset, from, durable));
}
inline Result<void> read(Disk& disk, std::uint64_t offset, std::span<std::byte> into) {
  return block_on(*executor, scheduler::read(disk, IoClass::kRead, offset, into));
}
inline Result<void> flush(Disk& disk) {
  return block_on(*executor, scheduler::flush(disk, IoClass::kCritical));
}

// Content that names its place and version, so that a misplaced block shows.
inline void fill(std::span<std::byte> block, std::uint64_t number, std::uint64_t version) {
  std::mt19937_64 random(number * 1'000'003 + version);
  for (std::size_t at = 0; at < block.size(); at += 8) {
    const std::uint64_t word = random();
    std::memcpy(block.data() + at, &word, 8);
  }
}
inline bool is_filled(std::span<const std::byte> block, std::uint64_t number,
                      std::uint64_t version) {
  Bytes expected(block.size());
  fill(expected, number, version);
  return std::ranges::equal(block, expected);
}

// Each kind of store in turn; a kind that this machine does not allow is passed over.
template <class Body>
void on_each_kind(Body body) {
  const TemporaryDirectory directory;
  SUBCASE("directory") {
    create_at(directory.path.string());
    body(directory.path.string());
  }
  SUBCASE("image file") {
    create_at(directory / "image");
    body(directory / "image");
  }
  SUBCASE("block device") {
    create_at(directory / "backing");
    const LoopDevice device(directory / "backing");
    if (device.empty()) {
      MESSAGE("no loop device here");
      return;
    }
    body(device.path());
  }
  SUBCASE("directory without direct I/O") {
    const std::string mountpoint = directory / "mounted";
    const Mounted memory(mountpoint, fmt::format("mount -t ramfs none {}", mountpoint));
    if (memory.empty()) {
      MESSAGE("no file system can be mounted here");
      return;
    }
    create_at(mountpoint);
    body(mountpoint);
  }
}

}  // namespace dynamicfs::scheduler
