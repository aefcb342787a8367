// rename(2), renameat2(2).
#include <linux/fs.h>
#include <sys/syscall.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "rename";

Outcome rename_with(const std::string& from, const std::string& to, unsigned flags) {
  return ::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
}
Outcome rename_to(const std::string& from, const std::string& to) {
  return ::rename(from.c_str(), to.c_str());
}

CASE("paths that lead nowhere") {
  path_errors("from", [](const char* path) -> Outcome { return ::rename(path, "target"); });
  make(Kind::kFile, "source");
  path_errors("to", [](const char* path) -> Outcome { return ::rename("source", path); },
              {.makes_last = true});
  path_errors("with RENAME_NOREPLACE from", [](const char* path) -> Outcome {
    return ::syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, "target", RENAME_NOREPLACE);
  });
  path_errors("with RENAME_EXCHANGE from", [](const char* path) -> Outcome {
    return ::syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, "source", RENAME_EXCHANGE);
  });
  path_errors("with RENAME_EXCHANGE to", [](const char* path) -> Outcome {
    return ::syscall(SYS_renameat2, AT_FDCWD, "source", AT_FDCWD, path, RENAME_EXCHANGE);
  });
}

// What the kinds want of an ordinary rename.
int wanted_of(Kind from, Kind to) {
  if (from == Kind::kDirectory && to != Kind::kDirectory) return ENOTDIR;
  if (from != Kind::kDirectory && to == Kind::kDirectory) return EISDIR;
  return 0;
}

CASE("every kind onto every kind") {
  for (const Kind from : kAllKinds) {
    for (const Kind to : kAllKinds) {
      const About about{fmt::format("{} onto {}", a(from), a(to))};
      const std::string one = fresh();
      const std::string other = fresh();
      make(from, one);
      make(to, other);
      const ino_t first = status(one).st_ino;
      const ino_t second = status(other).st_ino;
      fails(EEXIST, rename_with(one, other, RENAME_NOREPLACE), "with RENAME_NOREPLACE");
      works(rename_with(one, other, RENAME_EXCHANGE), "with RENAME_EXCHANGE");
      holds(status(one).st_ino == second && status(other).st_ino == first, "changes places");
      works(rename_with(one, other, RENAME_EXCHANGE), "with RENAME_EXCHANGE again");
      const int wanted = wanted_of(from, to);
      if (wanted != 0) {
        fails(wanted, rename_to(one, other), "is refused");
        holds(status(one).st_ino == first && status(other).st_ino == second, "stays when refused");
        continue;
      }
      works(rename_to(one, other), "replaces it");
      holds(!exists(one) && status(other).st_ino == first, "is what is there then");
    }
  }
}

CASE("every kind to a new name") {
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string from = new_directory();
    const std::string to = new_directory();
    make(kind, from + "/name");
    const ino_t number = status(from + "/name").st_ino;
    {
      const Times source{from};
      const Times destination{to};
      const Times self{from + "/name"};
      works(rename_to(from + "/name", to + "/name"), "to another directory");
      expect("mtime ctime", source.changed(), "the directory it leaves");
      expect("mtime ctime", destination.changed(), "the directory it comes to");
      holds(number == status(to + "/name").st_ino, "keeps its number");
    }
    const Times self{to + "/name"};
    const Times directory{to};
    works(rename_with(to + "/name", to + "/other", RENAME_NOREPLACE),
          "in its directory with RENAME_NOREPLACE");
    expect("mtime ctime", directory.changed(), "the directory it stays in");
    holds(!exists(to + "/name") && exists(to + "/other"), "has the new name only");
    fails(ENOENT, rename_with(to + "/other", to + "/absent", RENAME_EXCHANGE),
          "RENAME_EXCHANGE with a name that is absent");
  }
}

CASE("directories") {
  make(Kind::kDirectory, "empty");
  make(Kind::kDirectory, "full");
  for (const Kind kind : kAllKinds) {
    const std::string name = std::string{"full/"} + fresh();
    make(kind, name);
    fails(ENOTEMPTY, rename_to("empty", "full"),
          fmt::format("onto a directory with {} in it", a(kind)),
          on_xfs(EEXIST, "POSIX permits either"));
    remove(name);
  }
  make(Kind::kFile, "full/file");
  works(rename_to("full", "empty"), "of a directory that is not empty onto an empty one");
  holds(exists("empty/file"), "a directory takes along what is in it");
  make(Kind::kDirectory, "empty/below");
  fails(EINVAL, rename_to("empty", "empty/below/name"), "of a directory into itself");
  fails(EINVAL, rename_to("empty", "empty/name"), "of a directory directly into itself");
  fails(EINVAL, rename_with("empty", "empty/below", RENAME_EXCHANGE),
        "RENAME_EXCHANGE of a directory with one below it");
  fails(EINVAL, rename_with("empty/below", "empty", RENAME_EXCHANGE),
        "RENAME_EXCHANGE of a directory with one above it");
  fails(ENOTEMPTY, rename_to("empty/below", "empty"), "of a directory onto one above it");
  make(Kind::kDirectory, "place");
  works(rename_to("empty/below", "place/below"), "of a directory to another parent");
  expect(2, status("empty").st_nlink, "links of the parent that a directory has left");
  expect(3, status("place").st_nlink, "links of the parent that a directory has come to");
  holds(status("place/below/..").st_ino == status("place").st_ino,
        ".. of a directory that has moved");
  make(Kind::kDirectory, "empty/other");
  make(Kind::kFile, "file");
  works(rename_with("file", "place/below", RENAME_EXCHANGE),
        "RENAME_EXCHANGE of a file and a directory in two places");
  expect(2, status("place").st_nlink, "links of a parent that has got a file for a directory");
  holds(status("file/..").st_ino == status(".").st_ino, ".. of a directory that was exchanged");
}

CASE("names that are none") {
  make(Kind::kFile, "file");
  make(Kind::kDirectory, "directory");
  for (const char* const name : {".", "..", "directory/.", "directory/.."}) {
    fails(EBUSY, ::rename(name, "new"), fmt::format("of {}", name));
    fails(EBUSY, ::rename("directory", name), fmt::format("to {}", name));
  }
  fails(ENOTDIR, ::rename("file/", "new"), "of a file with a slash behind it");
  fails(ENOTDIR, ::rename("file", "new/"), "of a file to a new name with a slash behind it");
  works(::rename("directory/", "moved/"), "of a directory with slashes behind the names");
  fails(EINVAL, rename_with("file", "new", 0x100), "with flags that are none");
  fails(EINVAL, rename_with("file", "new", RENAME_NOREPLACE | RENAME_EXCHANGE),
        "with RENAME_NOREPLACE and RENAME_EXCHANGE");
  fails(EINVAL, rename_with("file", "new", RENAME_WHITEOUT | RENAME_EXCHANGE),
        "with RENAME_WHITEOUT and RENAME_EXCHANGE");
  fails(EXDEV, ::rename("file", "/proc/name"), "to another file system");
  fails(EBADF, ::renameat(-1, "file", AT_FDCWD, "new"), "from relative to no directory");
  fails(EBADF, ::renameat(AT_FDCWD, "file", -1, "new"), "to relative to no directory");
}

CASE("one file under two names") {
  make(Kind::kFile, "one");
  require(::link("one", "two"), "link");
  const Times times{"one"};
  works(::rename("one", "two"), "onto another name of the same file");
  holds(exists("one") && exists("two"), "onto another name of the same file leaves both");
  expect(2, status("one").st_nlink, "links of a file renamed onto itself");
  expect("none", times.changed(), "a file renamed onto itself");
  works(::rename("one", "one"), "onto itself");
  fails(EEXIST, rename_with("one", "one", RENAME_NOREPLACE), "onto itself with RENAME_NOREPLACE");
  works(rename_with("one", "two", RENAME_EXCHANGE), "RENAME_EXCHANGE of two names of a file");
}

CASE("what is replaced") {
  make(Kind::kFile, "new");
  make(Kind::kFile, "old");
  require(::link("old", "older"), "link");
  const UniqueFd held = opened("old", O_RDWR);
  const Times replaced{"older"};
  const Times moved{"new"};
  works(::rename("new", "old"), "onto a file that is open and has another name");
  expect(1, status("older").st_nlink, "links of a file that was replaced");
  expect("ctime", replaced.changed(), "a file that was replaced and has another name");
  holds(status(held).st_ino == status("older").st_ino, "who has it open keeps the replaced file");
  require(::unlink("older"), "unlink");
  expect(0, status(held).st_nlink, "links of a file that was replaced and unlinked");
  expect(3, ::write(held.get(), "abc", 3), "bytes written to a file that was replaced");
  make(Kind::kDirectory, "directory");
  make(Kind::kDirectory, "empty");
  const UniqueFd empty = opened("empty", O_RDONLY);
  works(::rename("directory", "empty"), "onto an empty directory that is open");
  expect(0, status(empty).st_nlink, "links of a directory that was replaced");
}

CASE("the ctime of what moves") {
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    const std::string other = fresh();
    make(kind, name);
    struct stat before = status(name);
    pause();
    require(::rename(name.c_str(), other.c_str()), "rename");
    const struct stat after = status(other);
    holds(after.st_ctim.tv_sec > before.st_ctim.tv_sec ||
              after.st_ctim.tv_nsec != before.st_ctim.tv_nsec,
          fmt::format("{} has a new ctime", a(kind)));
    holds(after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
              after.st_mtim.tv_nsec == before.st_mtim.tv_nsec,
          fmt::format("{} has its old mtime", a(kind)));
  }
}

CASE("whiteouts") {
  for (const Kind kind : kAllKinds) {
    const About about{fmt::format("RENAME_WHITEOUT of {}", a(kind))};
    const std::string name = fresh();
    const std::string other = fresh();
    make(kind, name);
    const Outcome renamed = rename_with(name, other, RENAME_WHITEOUT);
    works(renamed, "works");
    if (renamed.error != 0) continue;
    holds(exists(other), "gives it the new name");
    struct stat info {};
    holds(::lstat(name.c_str(), &info) == 0 && S_ISCHR(info.st_mode) && info.st_rdev == 0,
          "leaves a character device 0:0");
  }
  const std::string open = new_directory(0777);
  make(Kind::kFile, open + "/name");
  require(::chown((open + "/name").c_str(), kAlice, kAlices), "chown");
  const As alice{kAlice, kAlices};
  works(rename_with(open + "/name", open + "/other", RENAME_WHITEOUT),
        "RENAME_WHITEOUT by anybody");
}

CASE("permission") {
  const std::string closed = new_directory(0755);
  const std::string open = new_directory(0777);
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    make(kind, closed + "/name");
    make(kind, open + "/name");
    const As alice{kAlice, kAlices};
    fails(EACCES, rename_to(closed + "/name", open + "/new"),
          "out of a directory that is not writable");
    fails(EACCES, rename_to(open + "/name", closed + "/new"),
          "into a directory that is not writable");
    fails(EACCES, rename_to(closed + "/name", closed + "/new"),
          "in a directory that is not writable");
    fails(EACCES, rename_with(closed + "/name", open + "/name", RENAME_EXCHANGE),
          "exchanged with one in a directory that is not writable");
    works(rename_to(open + "/name", open + "/new"), "of another, in a directory that is writable");
    ::seteuid(0);
    remove(closed + "/name");
    remove(open + "/new");
  }
  make(Kind::kDirectory, open + "/theirs", 0755);
  make(Kind::kDirectory, open + "/place", 0777);
  const As alice{kAlice, kAlices};
  fails(EACCES, rename_to(open + "/theirs", open + "/place/theirs"),
        "of a directory that is not writable to another parent");
}

}  // namespace
}  // namespace posix
