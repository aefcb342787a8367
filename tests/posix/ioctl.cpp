// ioctl(2) of files: flags of inodes, where data lies, and requests that are none.
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>

#include <cstdio>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "ioctl";

// Of Linux 6.9.
#ifndef FS_IOC_GETFSUUID
struct fsuuid2 {
  std::uint8_t len;
  std::uint8_t uuid[16];
};
#define FS_IOC_GETFSUUID _IOR(0x15, 0, struct fsuuid2)
#endif

CASE("requests that are none") {
  const UniqueFd fd = opened(file_with("text"), O_RDWR);
  const UniqueFd directory = opened(".", O_RDONLY);
  termios terminal{};
  int number = 0;
  fails(ENOTTY, ::ioctl(fd.get(), TCGETS, &terminal), "TCGETS of a file");
  fails(ENOTTY, ::ioctl(directory.get(), TCGETS, &terminal), "TCGETS of a directory");
  fails(ENOTTY, ::ioctl(fd.get(), _IO('?', 99), 0), "a request that is none, of a file");
  fails(ENOTTY, ::ioctl(directory.get(), _IO('?', 99), 0),
        "a request that is none, of a directory");
  fails(EBADF, ::ioctl(-1, FIONREAD, &number), "of no file");
  works(::ioctl(fd.get(), FIONREAD, &number), "FIONREAD");
  expect(4, number, "bytes that FIONREAD says can be read");
  works(::ioctl(fd.get(), FIGETBSZ, &number), "FIGETBSZ");
  expect(4096, number, "the block size that FIGETBSZ says");
  works(::ioctl(fd.get(), FIOCLEX), "FIOCLEX");
  number = 1;
  works(::ioctl(fd.get(), FIONBIO, &number), "FIONBIO");
}

struct Flag {
  const char* words;
  int bit;
};

CASE("inode flags") {
  const std::string name = file_with("text");
  UniqueFd fd = opened(name, O_RDWR);
  int flags = 0;
  const Outcome asked = ::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags);
  works(asked, "FS_IOC_GETFLAGS");
  if (asked.error != 0) return;
  expect(0, flags, "flags of a new file");
  for (const Flag flag : {Flag{"FS_SYNC_FL", FS_SYNC_FL}, Flag{"FS_NOATIME_FL", FS_NOATIME_FL},
                          Flag{"FS_NODUMP_FL", FS_NODUMP_FL}}) {
    int set = flag.bit;
    works(::ioctl(fd.get(), FS_IOC_SETFLAGS, &set), fmt::format("{} is set", flag.words));
    require(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), "FS_IOC_GETFLAGS");
    holds((flags & flag.bit) != 0, fmt::format("{} is there", flag.words));
  }
  int immutable = FS_IMMUTABLE_FL;
  works(::ioctl(fd.get(), FS_IOC_SETFLAGS, &immutable), "FS_IMMUTABLE_FL is set");
  fails(EPERM, ::open(name.c_str(), O_WRONLY), "open for writing of an immutable file");
  fails(EPERM, ::unlink(name.c_str()), "unlink of an immutable file");
  fails(EPERM, ::rename(name.c_str(), "new"), "rename of an immutable file");
  fails(EPERM, ::link(name.c_str(), "new"), "link of an immutable file");
  fails(EPERM, ::chmod(name.c_str(), 0600), "chmod of an immutable file");
  fails(EPERM, ::chown(name.c_str(), 1, 1), "chown of an immutable file");
  fails(EPERM, ::truncate(name.c_str(), 0), "truncate of an immutable file");
  fails(EPERM, ::utimensat(AT_FDCWD, name.c_str(), nullptr, 0), "utimensat of an immutable file");
  int append = FS_APPEND_FL;
  works(::ioctl(fd.get(), FS_IOC_SETFLAGS, &append), "FS_APPEND_FL is set");
  fails(EPERM, ::open(name.c_str(), O_WRONLY), "open for writing of an append-only file");
  fails(EPERM, ::unlink(name.c_str()), "unlink of an append-only file");
  works(::open(name.c_str(), O_WRONLY | O_APPEND), "open for appending of an append-only file");
  int none = 0;
  works(::ioctl(fd.get(), FS_IOC_SETFLAGS, &none), "flags are taken away");
  const As alice{kAlice, kAlices};
  fails(EPERM, ::ioctl(fd.get(), FS_IOC_SETFLAGS, &none), "flags by another than the owner");
}

void set_flags(const UniqueFd& fd, int flags) {
  require(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), "FS_IOC_SETFLAGS");
}
int flags_of(const UniqueFd& fd) {
  int flags = 0;
  require(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), "FS_IOC_GETFLAGS");
  return flags;
}

CASE("immutable files") {
  const About about{"an immutable file"};
  const std::string name = file_with(pattern(10'000));
  const std::string other = file_with("other");
  require(::setxattr(name.c_str(), "user.there", "x", 1, 0), "setxattr");
  const UniqueFd fd = opened(name, O_RDONLY);
  {
    // Not synced: it is to be kept all the same.
    const UniqueFd writer = opened(name, O_RDWR);
    require(::pwrite(writer.get(), "BEFORE", 6, 0), "write");
    set_flags(fd, FS_IMMUTABLE_FL);
    works(::fsync(writer.get()), "fsync of what was written before a file became immutable");
  }
  require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
  expect("BEFORE", contents(name).substr(0, 6), "what was written before a file became immutable");
  fails(EPERM, ::setxattr(name.c_str(), "user.new", "x", 1, 0), "setxattr");
  fails(EPERM, ::removexattr(name.c_str(), "user.there"), "removexattr");
  fails(EPERM, ::rename(other.c_str(), name.c_str()), "rename onto it");
  fails(EPERM, ::renameat2(AT_FDCWD, name.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE),
        "RENAME_EXCHANGE of it");
  const timespec times[2] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}};
  fails(EPERM, ::utimensat(AT_FDCWD, name.c_str(), times, 0), "utimensat");
  works(::chmod(other.c_str(), 0600), "chmod of another file");
  {
    const As alice{kAlice, kAlices};
    int none = 0;
    fails(EPERM, ::ioctl(fd.get(), FS_IOC_SETFLAGS, &none), "taking the flag away by anybody");
  }
  set_flags(fd, 0);
  works(::unlink(name.c_str()), "unlink without the flag");
}

CASE("append-only files") {
  const About about{"an append-only file"};
  const std::string name = file_with("first");
  const UniqueFd fd = opened(name, O_RDONLY);
  set_flags(fd, FS_APPEND_FL);
  {
    const UniqueFd log = opened(name, O_WRONLY | O_APPEND);
    expect(5, ::write(log.get(), " then", 5), "bytes appended");
    works(::fsync(log.get()), "fsync of what was appended");
    fails(EPERM, ::ftruncate(log.get(), 0), "ftruncate");
  }
  require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
  expect("first then", contents(name), "what is in it");
  fails(EPERM, ::truncate(name.c_str(), 0), "truncate");
  fails(EPERM, ::chmod(name.c_str(), 0600), "chmod");
  fails(EPERM, ::rename(name.c_str(), "new"), "rename");
  fails(EPERM, ::link(name.c_str(), "new"), "link");
  fails(EPERM, ::setxattr(name.c_str(), "user.new", "x", 1, 0), "setxattr");
  works(::utimensat(AT_FDCWD, name.c_str(), nullptr, 0), "utimensat to now");
  set_flags(fd, 0);
}

CASE("flags of directories") {
  const std::string directory = new_directory();
  const std::string inside = directory + "/inside";
  make(Kind::kFile, inside);
  const std::string outside = file_with("outside");
  const UniqueFd fd = opened(directory, O_RDONLY);
  for (const Flag flag : {Flag{"immutable", FS_IMMUTABLE_FL}, Flag{"append-only", FS_APPEND_FL}}) {
    const About about{fmt::format("in an {} directory", flag.words)};
    set_flags(fd, flag.bit);
    fails(EPERM, ::unlink(inside.c_str()), "unlink");
    fails(EPERM, ::rename(inside.c_str(), "new"), "rename out of it");
    fails(EPERM, ::rename(inside.c_str(), (directory + "/other").c_str()), "rename within it");
    fails(EPERM, ::rename(directory.c_str(), "moved"), "rename of it");
    fails(EPERM, ::rmdir(directory.c_str()), "rmdir of it");
    fails(EPERM, ::chmod(directory.c_str(), 0700), "chmod of it");
    const bool adds = flag.bit == FS_APPEND_FL;
    const auto may_add = [&](Outcome done, const char* what) {
      if (adds) {
        works(done, what);
      } else {
        fails(EPERM, done, what);
      }
    };
    may_add(::open((directory + "/new").c_str(), O_CREAT | O_RDWR, 0644), "O_CREAT");
    may_add(::mkdir((directory + "/sub").c_str(), 0755), "mkdir");
    may_add(::symlink("to", (directory + "/link").c_str()), "symlink");
    may_add(::link(outside.c_str(), (directory + "/hard").c_str()), "link");
    may_add(::open(directory.c_str(), O_TMPFILE | O_RDWR, 0644), "O_TMPFILE");
    may_add(::rename(outside.c_str(), (directory + "/came").c_str()), "rename into it");
    works(::truncate(inside.c_str(), 100), "truncate of a file");
    set_flags(fd, 0);
  }
}

CASE("flags that are inherited") {
  const std::string directory = new_directory();
  const UniqueFd fd = opened(directory, O_RDONLY);
  set_flags(fd, FS_NODUMP_FL | FS_NOATIME_FL);
  const UniqueFd file = opened(directory + "/file", O_CREAT | O_RDWR);
  require(::mkdir((directory + "/sub").c_str(), 0755), "mkdir");
  const UniqueFd sub = opened(directory + "/sub", O_RDONLY);
  expect(FS_NODUMP_FL | FS_NOATIME_FL, flags_of(file), "flags of a new file");
  expect(FS_NODUMP_FL | FS_NOATIME_FL, flags_of(sub), "flags of a new directory");
  set_flags(fd, FS_APPEND_FL);
  const UniqueFd other = opened(directory + "/other", O_CREAT | O_RDWR);
  expect(0, flags_of(other), "flags of a new file in an append-only directory");
  set_flags(fd, 0);
}

CASE("files without times of access") {
  const std::string name = file_with("text");
  set_flags(opened(name, O_RDONLY), FS_NOATIME_FL);
  const Times times{name};
  expect("text", contents(name), "what is read");
  expect("none", times.changed(), "reading changes");
}

CASE("flags by another request") {
  const UniqueFd fd = opened(file_with("text"), O_RDWR);
  set_flags(fd, FS_NODUMP_FL);
  fsxattr attributes{};
  require(::ioctl(fd.get(), FS_IOC_FSGETXATTR, &attributes), "FS_IOC_FSGETXATTR");
  holds((attributes.fsx_xflags & FS_XFLAG_NODUMP) != 0, "FS_IOC_FSGETXATTR shows a flag");
  attributes.fsx_xflags = FS_XFLAG_NOATIME;
  works(::ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes), "FS_IOC_FSSETXATTR of a flag");
  expect(FS_NOATIME_FL, flags_of(fd), "FS_IOC_GETFLAGS afterwards");
  struct statx info {};
  set_flags(fd, FS_NODUMP_FL);
  require(::statx(fd.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &info), "statx");
  holds((info.stx_attributes & STATX_ATTR_NODUMP) != 0, "statx shows a flag");
}

CASE("extended flags") {
  const UniqueFd fd = opened(file_with("text"), O_RDWR);
  fsxattr attributes{};
  const Outcome asked = ::ioctl(fd.get(), FS_IOC_FSGETXATTR, &attributes);
  works(asked, "FS_IOC_FSGETXATTR");
  if (asked.error != 0) return;
  attributes.fsx_projid = 42;
  works(::ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes), "FS_IOC_FSSETXATTR");
  require(::ioctl(fd.get(), FS_IOC_FSGETXATTR, &attributes), "FS_IOC_FSGETXATTR");
  expect(42, attributes.fsx_projid, "the project that was set");
}

CASE("where data lies") {
  const std::string name = file_with(pattern(100'000));
  const UniqueFd fd = opened(name, O_RDONLY);
  require(::fsync(fd.get()), "fsync");
  std::vector<std::uint64_t> memory((sizeof(fiemap) + 10 * sizeof(fiemap_extent)) / 8);
  auto* const map = reinterpret_cast<fiemap*>(memory.data());
  map->fm_length = FIEMAP_MAX_OFFSET;
  map->fm_extent_count = 10;
  works(::ioctl(fd.get(), FS_IOC_FIEMAP, map), "FS_IOC_FIEMAP");
  int block = 0;
  works(::ioctl(fd.get(), FIBMAP, &block), "FIBMAP");
}

CASE("the file system") {
  const UniqueFd directory = opened(".", O_RDONLY);
  char label[FSLABEL_MAX] = {};
  works(::ioctl(directory.get(), FS_IOC_GETFSLABEL, label), "FS_IOC_GETFSLABEL");
  int version = 0;
  const UniqueFd fd = new_open_file();
  works(::ioctl(fd.get(), FS_IOC_GETVERSION, &version), "FS_IOC_GETVERSION");
  fsuuid2 id{};
  works(::ioctl(directory.get(), FS_IOC_GETFSUUID, &id), "FS_IOC_GETFSUUID");
}

}  // namespace
}  // namespace posix
