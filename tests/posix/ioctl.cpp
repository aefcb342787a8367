// ioctl(2) of files: flags of inodes, where data lies, and requests that are none.
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "ioctl";

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
}

}  // namespace
}  // namespace posix
