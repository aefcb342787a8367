// unlink(2): a name goes; the file goes with its last name and its last user.
#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "unlink";

CASE("paths that lead nowhere") {
  path_errors("unlink of", [](const char* path) -> Outcome { return ::unlink(path); });
  path_errors("unlinkat of",
              [](const char* path) -> Outcome { return ::unlinkat(AT_FDCWD, path, 0); });
}

CASE("every kind of file") {
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    make(kind, name);
    if (kind == Kind::kDirectory) {
      fails(EISDIR, ::unlink(name.c_str()), "is not unlinked");
      fails(EISDIR, ::unlink((name + "/").c_str()), "is not unlinked with a slash behind it");
      fails(EISDIR, ::unlinkat(AT_FDCWD, name.c_str(), 0), "is not unlinked by unlinkat");
      continue;
    }
    fails(ENOTDIR, ::unlink((name + "/").c_str()), "with a slash behind it");
    fails(ENOTDIR, ::unlinkat(AT_FDCWD, name.c_str(), AT_REMOVEDIR), "as a directory");
    works(::unlink(name.c_str()), "is unlinked");
    fails(ENOENT, ::unlink(name.c_str()), "that is unlinked already");
    struct stat info {};
    fails(ENOENT, ::lstat(name.c_str(), &info), "is not there afterwards");
    make(kind, name);
    works(::unlinkat(AT_FDCWD, name.c_str(), 0), "is unlinked by unlinkat");
  }
}

CASE("one of several names") {
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kDirectory) continue;
    const About about{a(kind)};
    const std::string name = fresh();
    const std::string other = fresh();
    make(kind, name);
    require(::linkat(AT_FDCWD, name.c_str(), AT_FDCWD, other.c_str(), 0), "a second name");
    const Times times{other};
    works(::unlink(name.c_str()), "with two names loses one");
    expect(1, status(other).st_nlink, "with one of two names gone has one link");
    expect("ctime", times.changed(), "with one of two names gone has a new ctime only");
    holds(times.are_now(), "with one of two names gone has the ctime of that moment");
  }
}

CASE("times of the directory") {
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kDirectory) continue;
    const std::string directory = new_directory();
    const std::string name = directory + "/name";
    make(kind, name);
    const Times times{directory};
    require(::unlink(name.c_str()), "unlink");
    expect("mtime ctime", times.changed(), fmt::format("a directory that loses {}", a(kind)));
    const Times again{directory};
    fails(ENOENT, ::unlink(name.c_str()), fmt::format("of {} again", a(kind)));
    expect("none", again.changed(), fmt::format("a directory that refuses to lose {}", a(kind)));
  }
}

CASE("a file that is open") {
  const std::string name = file_with("still here");
  const UniqueFd fd = opened(name, O_RDWR);
  works(::unlink(name.c_str()), "of an open file");
  expect(0, status(fd).st_nlink, "links of an open file without a name");
  char text[16] = {};
  expect(10, ::pread(fd.get(), text, sizeof text, 0), "bytes read from a file without a name");
  expect("still here", text, "a file without a name keeps its data");
  expect(4, ::pwrite(fd.get(), "more", 4, 10), "bytes written to a file without a name");
  expect(14, status(fd).st_size, "the size of a file without a name that was written to");
  works(::ftruncate(fd.get(), 3), "ftruncate of a file without a name");
  expect(3, status(fd).st_size, "the size of a file without a name that was truncated");
  works(::fchmod(fd.get(), 0600), "fchmod of a file without a name");
  expect("0600", octal(status(fd).st_mode), "the mode of a file without a name");
  works(::fchown(fd.get(), kAlice, kAlices), "fchown of a file without a name");
  works(::fsync(fd.get()), "fsync of a file without a name");
  const std::string proc = fmt::format("/proc/self/fd/{}", fd.get());
  fails(ENOENT, ::linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, "back", AT_SYMLINK_FOLLOW),
        "a file without a name gets none again");
  make(Kind::kFile, name);
  holds(status(name).st_ino != status(fd).st_ino, "a new file of that name is another file");
  const UniqueFd again{::open(proc.c_str(), O_RDONLY)};
  works(again.get(), "a file without a name can be opened through /proc");
}

CASE("names that are none") {
  const std::string directory = new_directory();
  fails(EISDIR, ::unlink("."), "of .");
  fails(EISDIR, ::unlink(".."), "of ..");
  fails(EISDIR, ::unlink((directory + "/.").c_str()), "of . in a directory");
  fails(EISDIR, ::unlink("/"), "of the root");
  fails(EINVAL, ::unlinkat(AT_FDCWD, directory.c_str(), 0x40000000), "with flags that are none");
  fails(EBADF, ::unlinkat(-1, "name", 0), "relative to no directory");
  const UniqueFd file = new_open_file();
  fails(ENOTDIR, ::unlinkat(file.get(), "name", 0), "relative to a file");
}

CASE("symbolic links") {
  const std::string file = new_file();
  const std::string directory = new_directory();
  require(::symlink(file.c_str(), "to-file"), "a link");
  require(::symlink(directory.c_str(), "to-directory"), "a link");
  fails(ENOTDIR, ::unlink("to-directory/"), "of a link to a directory with a slash behind it");
  works(::unlink("to-file"), "of a link to a file");
  holds(exists(file), "of a link leaves the file");
  works(::unlink("to-directory"), "of a link to a directory");
  holds(exists(directory), "of a link leaves the directory");
}

CASE("permission") {
  const std::string closed = new_directory(0755);
  const std::string open = new_directory(0777);
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kDirectory) continue;
    const About about{a(kind)};
    make(kind, closed + "/name");
    make(kind, open + "/name", 0);
    {
      const As alice{kAlice, kAlices};
      fails(EACCES, ::unlink((closed + "/name").c_str()), "in a directory that is not writable");
      works(::unlink((open + "/name").c_str()),
            "without permission, in a directory that is writable");
      fails(ENOENT, ::unlink((closed + "/absent").c_str()),
            "that is absent from a directory that is not writable");
    }
    remove(closed + "/name");
  }
  require(::chmod(closed.c_str(), 0722), "chmod");
  make(Kind::kFile, closed + "/name");
  const As alice{kAlice, kAlices};
  fails(EACCES, ::unlink((closed + "/name").c_str()),
        "in a directory that may be written, not searched");
}

}  // namespace
}  // namespace posix
