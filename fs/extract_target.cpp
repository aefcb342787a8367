#include "fs/extract_target.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace dynamicfs::fs {
namespace {

Error last_error() { return system_error(Code::kSystem, errno); }

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using OpenDirectory = std::unique_ptr<DIR, CloseDirectory>;

OpenDirectory names_in(int fd) {
  const int again = ::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (again < 0) return nullptr;
  OpenDirectory directory{::fdopendir(again)};
  if (directory == nullptr) ::close(again);
  return directory;
}

// Something that is there already; empty: nothing. What a new ext4 has does not count.
std::string something_in(int fd) {
  const OpenDirectory directory = names_in(fd);
  if (directory == nullptr) return std::strerror(errno);
  while (const dirent* const entry = ::readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != ".." && name != "lost+found") return name;
  }
  return {};
}

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// The disk, a directory, that this one is, or is in; empty: none.
std::string disk_around(int fd, const std::vector<std::string>& disks) {
  UniqueFd at{::openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  struct stat here {};
  while (at && ::fstat(at.get(), &here) == 0) {
    for (const std::string& disk : disks) {
      struct stat of {};
      if (::stat(disk.c_str(), &of) == 0 && S_ISDIR(of.st_mode) && same_file(here, of)) return disk;
    }
    UniqueFd above{::openat(at.get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    struct stat parent {};
    if (!above || ::fstat(above.get(), &parent) != 0 || same_file(here, parent)) break;
    at = std::move(above);
  }
  return {};
}

Outcome<void> refuse_disk(int fd, const std::string& path, const std::vector<std::string>& disks) {
  const std::string disk = disk_around(fd, disks);
  if (disk.empty()) return {};
  return Refusal{ExitCode::kUsage, fmt::format("{} is in {}, a disk of the pool.", path, disk),
                 "Nothing is written to the disks of the pool; extract to another place."};
}

timespec time_of(std::int64_t ns) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const std::int64_t part = ((ns % kSecond) + kSecond) % kSecond;
  return {.tv_sec = (ns - part) / kSecond, .tv_nsec = part};
}

// A path to something in an open directory, for calls that know no descriptors. The last component is
// not followed by those that are used with it.
std::string path_in(int parent, const std::string& name) {
  return fmt::format("/proc/self/fd/{}/{}", parent, name);
}

}  // namespace

Outcome<std::unique_ptr<ExtractTarget>> ExtractTarget::open(const std::string& path,
                                                            const std::vector<std::string>& disks) {
  // Before anything is made.
  const std::string above = path.substr(0, path.find_last_not_of('/') + 1);
  const std::string parent = above.substr(0, above.find_last_of('/') + 1);
  const UniqueFd around{
      ::open(parent.empty() ? "." : parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (around) TRY(refuse_disk(around.get(), path, disks));
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return Refusal{ExitCode::kUsage,
                   fmt::format("{} cannot be made: {}.", path, std::strerror(errno)),
                   "Give a directory that is empty, or that does not exist yet in one that does."};
  }
  UniqueFd root{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!root) {
    return Refusal{ExitCode::kUsage,
                   fmt::format("{} cannot be used: {}.", path, std::strerror(errno)),
                   "Give a directory that is empty, or that does not exist yet."};
  }
  TRY(refuse_disk(root.get(), path, disks));
  if (const std::string name = something_in(root.get()); !name.empty()) {
    return Refusal{ExitCode::kUsage, fmt::format("{} is not empty: {} is in it.", path, name),
                   "Give a directory that is empty, or that does not exist yet."};
  }
  return std::unique_ptr<ExtractTarget>{new ExtractTarget{path, std::move(root)}};
}

ExtractTarget::~ExtractTarget() { remove_known(); }

std::uint64_t ExtractTarget::free_bytes() const {
  struct statvfs of {};
  if (::fstatvfs(root(), &of) != 0) return 0;
  return std::uint64_t{of.f_bavail} * of.f_frsize;
}

bool ExtractTarget::is_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= kNameBytesMax &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

bool ExtractTarget::is_end(const Error& error) {
  if (error.code == Code::kShutdown) return true;
  return error.code == Code::kSystem &&
         (error.sys_errno == ENOSPC || error.sys_errno == EDQUOT || error.sys_errno == EROFS ||
          error.sys_errno == EIO || error.sys_errno == ENODEV || error.sys_errno == ENOTCONN);
}

bool ExtractTarget::is_other_name(const Error& error) {
  return error.code == Code::kSystem &&
         (error.sys_errno == EEXIST || error.sys_errno == EINVAL || error.sys_errno == EILSEQ ||
          error.sys_errno == ENAMETOOLONG);
}

Result<UniqueFd> ExtractTarget::make_directory(int parent, const std::string& name) {
  DFS_ASSERT(is_name(name));
  if (::mkdirat(parent, name.c_str(), 0700) != 0) return last_error();
  UniqueFd fd{::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (!fd) return last_error();
  return fd;
}

Result<UniqueFd> ExtractTarget::make_file(int parent, const std::string& name) {
  DFS_ASSERT(is_name(name));
  UniqueFd fd{
      ::openat(parent, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)};
  if (!fd) return last_error();
  return fd;
}

Result<void> ExtractTarget::make_symlink(int parent, const std::string& name,
                                         const std::string& target) {
  DFS_ASSERT(is_name(name));
  if (::symlinkat(target.c_str(), parent, name.c_str()) != 0) return last_error();
  return {};
}

Result<void> ExtractTarget::make_special(int parent, const std::string& name, std::uint32_t mode,
                                         std::uint32_t rdev) {
  DFS_ASSERT(is_name(name));
  if (::mknodat(parent, name.c_str(), (mode & S_IFMT) | 0600, rdev) != 0) return last_error();
  return {};
}

Result<void> ExtractTarget::write(int file, std::uint64_t at, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = ::pwrite(file, data.data(), data.size(), static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return last_error();
    at += static_cast<std::uint64_t>(written);
    data = data.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Result<void> ExtractTarget::set_size(int file, std::uint64_t size_bytes) {
  if (::ftruncate(file, static_cast<off_t>(size_bytes)) != 0) return last_error();
  return {};
}

Result<void> ExtractTarget::close(UniqueFd file) {
  // Interrupted or not, it is closed.
  if (::close(file.release()) != 0 && errno != EINTR) return last_error();
  return {};
}

void ExtractTarget::remove(int parent, const std::string& name) {
  ::unlinkat(parent, name.c_str(), 0);
}

void ExtractTarget::set_xattrs(const std::string& path, const ExtractXattrs& xattrs,
                               const std::string& where) {
  for (const auto& [name, value] : xattrs) {
    if (::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0) != 0)
      not_kept_.xattrs.add(fmt::format("{} of {}: {}", name, where, std::strerror(errno)));
  }
}

void ExtractTarget::dress(int fd, const Attributes& attributes, const ExtractXattrs& xattrs,
                          const std::string& where) {
  std::uint32_t mode = attributes.mode & 07777;
  if (::fchown(fd, attributes.uid, attributes.gid) != 0) {
    not_kept_.owners.add(fmt::format("{}: {}", where, std::strerror(errno)));
    mode &= ~std::uint32_t{S_ISUID | S_ISGID};  // they would be somebody else's
  }
  for (const auto& [name, value] : xattrs) {
    if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0)
      not_kept_.xattrs.add(fmt::format("{} of {}: {}", name, where, std::strerror(errno)));
  }
  if (::fchmod(fd, mode) != 0)
    not_kept_.modes.add(fmt::format("{}: {}", where, std::strerror(errno)));
  const timespec times[] = {time_of(attributes.atime_ns), time_of(attributes.mtime_ns)};
  if (::futimens(fd, times) != 0)
    not_kept_.times.add(fmt::format("{}: {}", where, std::strerror(errno)));
}

void ExtractTarget::dress(int parent, const std::string& name, const Attributes& attributes,
                          const ExtractXattrs& xattrs, const std::string& where) {
  if (::fchownat(parent, name.c_str(), attributes.uid, attributes.gid, AT_SYMLINK_NOFOLLOW) != 0)
    not_kept_.owners.add(fmt::format("{}: {}", where, std::strerror(errno)));
  const std::string path = path_in(parent, name);
  set_xattrs(path, xattrs, where);
  // It has just been made and is no link, or has no mode.
  if ((attributes.mode & S_IFMT) != S_IFLNK &&
      ::fchmodat(parent, name.c_str(), attributes.mode & 07777, 0) != 0)
    not_kept_.modes.add(fmt::format("{}: {}", where, std::strerror(errno)));
  const timespec times[] = {time_of(attributes.atime_ns), time_of(attributes.mtime_ns)};
  if (::utimensat(parent, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
    not_kept_.times.add(fmt::format("{}: {}", where, std::strerror(errno)));
}

// Made with the first file that has several names; -1: it cannot be.
int ExtractTarget::known() {
  if (known_ || known_failed_) return known_.get();
  std::uint64_t random = 0;
  // A name that nothing in the pool has, so nothing is in the way of it and it is in nobody's.
  if (::getrandom(&random, sizeof random, 0) == sizeof random) {
    known_name_ = fmt::format(".dynamicfs-extract-{:016x}", random);
    Result<UniqueFd> made = make_directory(root(), known_name_);
    if (made.has_value()) known_ = std::move(made).value();
  }
  known_failed_ = !known_;
  return known_.get();
}

bool ExtractTarget::link_known(InodeId inode, int parent, const std::string& name,
                               const std::string& where) {
  if (!known_) return false;
  if (::linkat(known_.get(), fmt::format("{}", inode).c_str(), parent, name.c_str(), 0) == 0)
    return true;
  if (errno != ENOENT) not_kept_.links.add(fmt::format("{}: {}", where, std::strerror(errno)));
  return false;
}

void ExtractTarget::remember(InodeId inode, int parent, const std::string& name) {
  if (known() < 0) return;
  // What cannot be remembered is copied once more under its next name.
  if (::linkat(parent, name.c_str(), known_.get(), fmt::format("{}", inode).c_str(), 0) != 0)
    not_kept_.links.add(fmt::format("{}: {}", name, std::strerror(errno)));
}

Result<void> ExtractTarget::end() {
  remove_known();
  if (::syncfs(root()) != 0) return last_error();
  return {};
}

void ExtractTarget::remove_known() {
  if (!known_) return;
  if (const OpenDirectory directory = names_in(known_.get())) {
    while (const dirent* const entry = ::readdir(directory.get())) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") ::unlinkat(known_.get(), name.c_str(), 0);
    }
  }
  known_.reset();
  ::unlinkat(root(), known_name_.c_str(), AT_REMOVEDIR);
}

}  // namespace dynamicfs::fs
