// rmdir(2).
#include <sched.h>
#include <sys/mount.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "rmdir";

CASE("paths that lead nowhere") {
  path_errors("rmdir of", [](const char* path) -> Outcome { return ::rmdir(path); });
  path_errors("unlinkat with AT_REMOVEDIR of",
              [](const char* path) -> Outcome { return ::unlinkat(AT_FDCWD, path, AT_REMOVEDIR); });
}

CASE("every kind of file") {
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    if (kind == Kind::kDirectory) {
      works(::rmdir(name.c_str()), "of an empty directory");
      holds(!exists(name), "it is gone");
      continue;
    }
    fails(ENOTDIR, ::rmdir(name.c_str()), fmt::format("of {}", a(kind)));
    fails(ENOTDIR, ::unlinkat(AT_FDCWD, name.c_str(), AT_REMOVEDIR),
          fmt::format("by unlinkat of {}", a(kind)));
    const std::string full = new_directory();
    make(kind, full + "/name");
    fails(ENOTEMPTY, ::rmdir(full.c_str()), fmt::format("of a directory with {} in it", a(kind)));
  }
  const std::string full = new_directory();
  make(Kind::kDirectory, full + "/name");
  fails(ENOTEMPTY, ::rmdir(full.c_str()), "of a directory with a directory in it");
}

CASE("names that are none") {
  const std::string parent = new_directory();
  make(Kind::kDirectory, parent + "/child");
  fails(EINVAL, ::rmdir((parent + "/child/.").c_str()), "of .");
  fails(ENOTEMPTY, ::rmdir((parent + "/child/..").c_str()), "of ..");
  fails(EBUSY, ::rmdir("/"), "of the root");
  works(::rmdir((parent + "/child/").c_str()), "with a slash behind the name");
  require(::symlink(parent.c_str(), "link"), "a link");
  fails(ENOTDIR, ::rmdir("link"), "of a link to a directory");
  fails(ENOTDIR, ::rmdir("link/"), "of a link to a directory with a slash behind it");
}

CASE("what it leaves") {
  const std::string parent = new_directory();
  make(Kind::kDirectory, parent + "/child");
  const UniqueFd child = opened(parent + "/child", O_RDONLY | O_DIRECTORY);
  const Times times{parent};
  works(::rmdir((parent + "/child").c_str()), "of a directory that is open");
  expect("mtime ctime", times.changed(), "the parent of a removed directory");
  expect(2, status(parent).st_nlink, "links of the parent of a removed directory");
  expect(0, status(child).st_nlink, "links of a removed directory");
  fails(ENOENT, ::openat(child.get(), "name", O_CREAT | O_RDWR, 0644),
        "O_CREAT in a removed directory");
  fails(ENOENT, ::mknodat(child.get(), "name", S_IFIFO | 0644, 0), "mknod in a removed directory");
  fails(ENOENT, ::symlinkat("x", child.get(), "name"), "symlink in a removed directory");
  fails(ENOENT, ::openat(child.get(), "name", O_RDONLY), "open in a removed directory");
  const std::string file = new_file();
  fails(ENOENT, ::linkat(AT_FDCWD, file.c_str(), child.get(), "name", 0),
        "link into a removed directory");
  fails(ENOENT, ::renameat(AT_FDCWD, file.c_str(), child.get(), "name"),
        "rename into a removed directory");
  const std::string here = new_directory();
  require(::chdir(here.c_str()), "chdir");
  works(::rmdir(("../" + here).c_str()), "of the directory one is in");
  fails(ENOENT, ::open("name", O_CREAT | O_RDWR, 0644),
        "O_CREAT where one is, when that is removed");
  char path[64];
  fails(ENOENT, ::getcwd(path, sizeof path) == nullptr ? -1 : 0,
        "getcwd where one is, when that is removed");
}

CASE("a mount point") {
  require(::unshare(CLONE_NEWNS), "a mount namespace");
  require(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "private mounts");
  const std::string point = new_directory();
  require(::mount("posix", point.c_str(), "tmpfs", 0, nullptr), "a mount");
  fails(EBUSY, ::rmdir(point.c_str()), "of a mount point");
  fails(EBUSY, ::rename(point.c_str(), "elsewhere"), "rename of a mount point");
  require(::umount(point.c_str()), "umount");
  works(::rmdir(point.c_str()), "of what was a mount point");
}

CASE("permission") {
  const std::string closed = new_directory(0755);
  make(Kind::kDirectory, closed + "/name");
  const std::string open = new_directory(0777);
  make(Kind::kDirectory, open + "/name", 0);
  const As alice{kAlice, kAlices};
  fails(EACCES, ::rmdir((closed + "/name").c_str()), "in a directory that is not writable");
  works(::rmdir((open + "/name").c_str()), "of a directory of another that permits nothing");
}

}  // namespace
}  // namespace posix
