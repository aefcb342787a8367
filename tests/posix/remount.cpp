// mount(2) with MS_REMOUNT: the whole file system becomes read-only, and writable again.
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "remount";

// The directory that the suite was given, two above, if something is mounted there.
std::string mount_point() {
  const std::string up = "../..";
  return status(up).st_dev != status(up + "/..").st_dev ? up : "";
}

CASE("read-only and back") {
  const std::string point = mount_point();
  if (point.empty()) skip("read-only and back: the directory is no mount point");
  const std::string name = file_with("before");
  {
    const UniqueFd writer = opened(name, O_RDWR);
    fails(EBUSY, ::mount(nullptr, point.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr),
          "while a file is open for writing");
  }
  require(::pwrite(opened(name, O_WRONLY).get(), "BEFORE", 6, 0), "write");
  works(::mount(nullptr, point.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), "to read-only");
  struct statvfs info {};
  require(::statvfs(".", &info), "statvfs");
  holds((info.f_flag & ST_RDONLY) != 0, "statvfs says so");
  fails(EROFS, ::open(name.c_str(), O_WRONLY), "open for writing");
  fails(EROFS, ::open("new", O_CREAT | O_RDWR, 0644), "O_CREAT");
  fails(EROFS, ::mkdir("new", 0755), "mkdir");
  fails(EROFS, ::unlink(name.c_str()), "unlink");
  expect("BEFORE", contents(name), "what was written before is read");
  works(::mount(nullptr, point.c_str(), nullptr, MS_REMOUNT, nullptr), "to writable");
  works(::open("new", O_CREAT | O_RDWR, 0644), "O_CREAT when it is writable");
  require(::statvfs(".", &info), "statvfs");
  holds((info.f_flag & ST_RDONLY) == 0, "statvfs says that it is writable");
}

}  // namespace
}  // namespace posix
