#include "fs/kernel_writeback.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include "base/assert.hpp"

namespace dynamicfs::fs {
namespace {

// A handle of a file on FUSE, as fs/fuse/inode.c of Linux has it since 2.6.28: FILEID_INO64_GEN, with
// the halves of the node's number and its generation, which is 0 for all of ours.
constexpr int kHandleType = 0x81;
using HandleWords = std::array<std::uint32_t, 3>;

// This thread has a table of descriptors of its own afterwards, an empty one.
bool leave_descriptors() { return ::syscall(SYS_close_range, 0U, ~0U, CLOSE_RANGE_UNSHARE) == 0; }

}  // namespace

KernelWriteback::KernelWriteback(Executor& executor, std::string mountpoint, std::string device)
    : executor_(executor),
      mountpoint_(std::move(mountpoint)),
      device_(std::move(device)),
      thread_([this] { run(); }) {}

KernelWriteback::~KernelWriteback() { DFS_ASSERT(!thread_.joinable()); }

void KernelWriteback::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool KernelWriteback::add(const Job& job) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    jobs_.push_back(job);
  }
  changed_.notify_all();
  return true;
}

UniqueFd KernelWriteback::sync(const Job& job) const {
  const UniqueFd root{::open(mountpoint_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  struct stat there {};
  if (root.get() < 0 || ::fstat(root.get(), &there) != 0) return {};
  // Something else may be mounted over it.
  if (fmt::format("{}:{}", major(there.st_dev), minor(there.st_dev)) != device_) return {};
  const HandleWords words{static_cast<std::uint32_t>(job.inode.raw >> 32),
                          static_cast<std::uint32_t>(job.inode.raw), 0};
  alignas(file_handle) std::array<std::byte, sizeof(file_handle) + sizeof words> memory{};
  auto* const handle = new (memory.data()) file_handle;
  handle->handle_bytes = sizeof words;
  handle->handle_type = kHandleType;
  std::memcpy(memory.data() + sizeof(file_handle), words.data(), sizeof words);
  UniqueFd file{::open_by_handle_at(root.get(), handle, O_RDONLY | O_CLOEXEC)};
  if (file.get() < 0) return {};
  const bool has_end = job.range.to != ~std::uint64_t{0};
  const int done = ::sync_file_range(
      file.get(), static_cast<off64_t>(job.range.from),
      has_end ? static_cast<off64_t>(job.range.to - job.range.from) : 0,
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  // What could not be written stays in the map as it was, and whoever wrote it is told.
  if (done != 0 && errno != EIO && errno != ENOSPC) return {};
  return file;
}

void KernelWriteback::run() {
  ::pthread_setname_np(::pthread_self(), "fuse-writeback");
  const bool able = leave_descriptors();
  // It shares the table that we have now.
  std::thread closer{[this] { close_files(); }};
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) break;
      job = jobs_.front();
      jobs_.pop_front();
    }
    UniqueFd file = able ? sync(job) : UniqueFd{};
    *job.done = file.get() >= 0;
    // Not inside a DriverScope, so that it goes on elsewhere; and before the file is closed, which waits
    // for the lock that the kernel holds until LSEEK is answered.
    executor_.post(job.waiting);
    if (file.get() >= 0) close_soon(std::move(file));
  }
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  closer.join();
}

void KernelWriteback::close_soon(UniqueFd file) {
  {
    std::lock_guard lock(mutex_);
    to_close_.push_back(std::move(file));
  }
  changed_.notify_all();
}

void KernelWriteback::close_files() {
  ::pthread_setname_np(::pthread_self(), "fuse-close");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closing_ || !to_close_.empty(); });
    if (to_close_.empty()) return;
    UniqueFd file = std::move(to_close_.front());
    to_close_.pop_front();
    lock.unlock();
    file.reset();
    lock.lock();
  }
}

}  // namespace dynamicfs::fs
