// What a read-only mount refuses (EROFS), and what nodev, noexec and nosuid do.
#include <linux/fs.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "readonly";

CASE("what is refused") {
  for (const Kind kind : kAllKinds) make(kind, fmt::format("of{}", static_cast<int>(kind)));
  const std::string text = file_with("text");
  require(::rename(text.c_str(), "file"), "rename");
  require(::setxattr("file", "user.name", "value", 5, 0), "setxattr");
  make(Kind::kDirectory, "directory");
  make(Kind::kDirectory, "empty");
  make_read_only_view();
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fmt::format("ro/of{}", static_cast<int>(kind));
    const std::string other = "ro/new";
    fails(EROFS, kind == Kind::kDirectory ? ::rmdir(name.c_str()) : ::unlink(name.c_str()),
          "removed");
    fails(EROFS, ::rename(name.c_str(), other.c_str()), "renamed");
    if (kind != Kind::kDirectory)
      fails(EROFS, ::linkat(AT_FDCWD, name.c_str(), AT_FDCWD, other.c_str(), 0), "linked");
    fails(EROFS, ::lchown(name.c_str(), 1, 1), "chown");
    if (kind != Kind::kSymlink) fails(EROFS, ::chmod(name.c_str(), 0600), "chmod");
    fails(EROFS, ::utimensat(AT_FDCWD, name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW), "utimensat");
    fails(EROFS, ::lsetxattr(name.c_str(), "trusted.name", "x", 1, 0), "setxattr");
    fails(EROFS, ::lremovexattr(name.c_str(), "trusted.name"), "removexattr");
  }
  fails(EROFS, ::open("ro/new", O_CREAT | O_RDWR, 0644), "O_CREAT of a new name");
  fails(EROFS, ::open("ro/file", O_WRONLY), "open for writing");
  fails(EROFS, ::open("ro/file", O_RDWR), "open for both");
  fails(EROFS, ::open("ro/file", O_WRONLY | O_TRUNC), "O_TRUNC");
  fails(EROFS, ::open("ro/directory", O_TMPFILE | O_RDWR, 0644), "O_TMPFILE");
  fails(EROFS, ::truncate("ro/file", 0), "truncate");
  fails(EROFS, ::mkdir("ro/new", 0755), "mkdir");
  fails(EROFS, ::mknod("ro/new", S_IFREG | 0644, 0), "mknod of a file");
  fails(EROFS, ::mkfifo("ro/new", 0644), "mkfifo");
  fails(EROFS, ::symlink("x", "ro/new"), "symlink");
  fails(EROFS, ::access("ro/file", W_OK), "access with W_OK");
  fails(EROFS, ::syscall(SYS_renameat2, AT_FDCWD, "ro/file", AT_FDCWD, "ro/of0", RENAME_EXCHANGE),
        "RENAME_EXCHANGE");
  fails(EEXIST, ::mkdir("ro/directory", 0755), "mkdir of a name that is there");
  fails(EXDEV, ::rename("file", "ro/new"), "rename from the same file system mounted otherwise");
  fails(EROFS, ::link("file", "ro/new"), "link from the same file system mounted otherwise");
  works(::open("ro/file", O_RDONLY), "open for reading");
  works(::open("ro/file", O_RDONLY | O_CREAT, 0644),
        "O_CREAT of a file that is there, for reading");
  expect("text", contents("ro/file"), "what is read");
  char value[8];
  expect(5, ::getxattr("ro/file", "user.name", value, sizeof value), "bytes of getxattr");
  works(::access("ro/file", R_OK), "access with R_OK");
  const UniqueFd fifo{::open("ro/of3", O_RDWR)};
  works(fifo.get(), "open of a FIFO for writing");
  struct statvfs info {};
  require(::statvfs("ro", &info), "statvfs");
  holds((info.f_flag & ST_RDONLY) != 0, "statvfs says that it is read-only");
  const Times times{"file"};
  expect("text", contents("ro/file"), "what is read again");
  expect("none", times.changed(), "reading changes");
}

CASE("nodev, noexec, nosuid") {
  require(::mknod("null", S_IFCHR | 0666, makedev(1, 3)), "mknod");
  const std::string script = file_with("#!/bin/true\n", 0755);
  require(::unshare(CLONE_NEWNS), "a mount namespace");
  require(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "private mounts");
  make(Kind::kDirectory, "view");
  require(::mount(".", "view", nullptr, MS_BIND, nullptr), "a bind mount");
  works(::open("view/null", O_RDWR), "open of a device");
  works(in_child([&]() -> Outcome { return ::execl(("view/" + script).c_str(), "x", nullptr); }),
        "execve");
  require(::mount(nullptr, "view", nullptr, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOEXEC | MS_NOSUID,
                  nullptr),
          "remount");
  fails(EACCES, ::open("view/null", O_RDWR), "open of a device with nodev");
  fails(EACCES,
        in_child([&]() -> Outcome { return ::execl(("view/" + script).c_str(), "x", nullptr); }),
        "execve with noexec");
  fails(EACCES, ::access(("view/" + script).c_str(), X_OK), "access with X_OK with noexec");
  works(::open(("view/" + script).c_str(), O_RDWR), "open of a program with noexec");
}

}  // namespace
}  // namespace posix
