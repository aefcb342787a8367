// link(2), linkat(2).
#include <fstream>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "link";

CASE("paths that lead nowhere") {
  path_errors("from", [](const char* path) -> Outcome { return ::link(path, "target"); });
  make(Kind::kFile, "source");
  path_errors("to", [](const char* path) -> Outcome { return ::link("source", path); },
              {.makes_last = true});
  path_errors("linkat from", [](const char* path) -> Outcome {
    return ::linkat(AT_FDCWD, path, AT_FDCWD, "target", 0);
  });
  path_errors("linkat with AT_SYMLINK_FOLLOW from", [](const char* path) -> Outcome {
    return ::linkat(AT_FDCWD, path, AT_FDCWD, "target", AT_SYMLINK_FOLLOW);
  });
}

CASE("every kind of file") {
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    const std::string directory = new_directory();
    const std::string other = directory + "/other";
    make(kind, name);
    if (kind == Kind::kDirectory) {
      fails(EPERM, ::link(name.c_str(), other.c_str()), "gets no second name");
      continue;
    }
    const Times times{name};
    const Times parent{directory};
    works(::link(name.c_str(), other.c_str()), "gets a second name");
    holds(status(name).st_ino == status(other).st_ino, "is the same under both");
    holds((status(other).st_mode & S_IFMT) == type_bits(kind), "keeps its kind");
    expect(2, status(name).st_nlink, "with two names has links");
    expect("ctime", times.changed(), "with a new name has new");
    expect("mtime ctime", parent.changed(), "in a directory changes of that");
    holds(times.are_now() && parent.are_now(), "has the times of that moment");
    works(::unlink(name.c_str()), "loses its first name");
    expect(1, status(other).st_nlink, "with one name left has links");
    for (const Kind taken : kAllKinds) {
      const std::string there = fresh();
      make(taken, there);
      fails(EEXIST, ::link(other.c_str(), there.c_str()), fmt::format("over {}", a(taken)));
    }
    fails(EEXIST, ::link(other.c_str(), other.c_str()), "over itself");
    if (kind == Kind::kFile || kind == Kind::kFifo) {
      require(::chmod(other.c_str(), 0613), "chmod");
      require(::link(other.c_str(), name.c_str()), "link");
      expect("0613", mode(name), "has its mode under both names");
    }
  }
}

CASE("data under two names") {
  const std::string one = file_with("first");
  const std::string two = fresh();
  require(::link(one.c_str(), two.c_str()), "link");
  const UniqueFd fd = opened(two, O_WRONLY | O_APPEND);
  require(::write(fd.get(), " second", 7), "write");
  expect("first second", contents(one), "what is written under one name is read under the other");
  expect(12, status(one).st_size, "the size under the other name");
}

CASE("names that are none") {
  const std::string file = new_file();
  const std::string directory = new_directory();
  fails(ENOTDIR, ::link((file + "/").c_str(), "new"), "of a file with a slash behind it");
  fails(ENOENT, ::link(file.c_str(), "new/"), "to a new name with a slash behind it");
  fails(EEXIST, ::link(file.c_str(), "."), "to .");
  fails(EEXIST, ::link(file.c_str(), ".."), "to ..");
  fails(EPERM, ::link(".", "new"), "of .");
  fails(EXDEV, ::link(file.c_str(), "/dev/posix-new"), "to another file system");
  fails(EXDEV, ::link("/proc/version", "new"), "from another file system");
  fails(EINVAL, ::linkat(AT_FDCWD, file.c_str(), AT_FDCWD, "new", 0x10000),
        "with flags that are none");
  fails(EBADF, ::linkat(-1, file.c_str(), AT_FDCWD, "new", 0), "from relative to no directory");
  fails(EBADF, ::linkat(AT_FDCWD, file.c_str(), -1, "new", 0), "to relative to no directory");
}

CASE("symbolic links") {
  const std::string file = new_file();
  require(::symlink(file.c_str(), "link"), "a link");
  works(::link("link", "hard"), "of a symbolic link");
  holds(S_ISLNK(status("hard").st_mode), "of a symbolic link is one");
  works(::linkat(AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW),
        "with AT_SYMLINK_FOLLOW");
  holds(status("followed").st_ino == status(file).st_ino,
        "with AT_SYMLINK_FOLLOW is of what the link leads to");
}

CASE("descriptors") {
  const UniqueFd path = opened(file_with("text"), O_PATH);
  works(::linkat(path.get(), "", AT_FDCWD, "new", AT_EMPTY_PATH), "with AT_EMPTY_PATH");
  expect("text", contents("new"), "what a name made with AT_EMPTY_PATH leads to");
  const std::string open = new_directory(0777);
  const As alice{kAlice, kAlices};
  fails(ENOENT, ::linkat(path.get(), "", AT_FDCWD, (open + "/new").c_str(), AT_EMPTY_PATH),
        "with AT_EMPTY_PATH of a file that another has opened");
}

CASE("many names") {
  const std::string file = new_file();
  const std::string directory = new_directory();
  int made = 0;
  for (; made < 3000; ++made) {
    if (::link(file.c_str(), fmt::format("{}/{}", directory, made).c_str()) != 0) break;
  }
  expect(3000, made, "names that a file gets");
  expect(3001, status(file).st_nlink, "links of a file with many names");
}

CASE("permission") {
  const std::string closed = new_directory(0755);
  const std::string open = new_directory(0777);
  make(Kind::kFile, open + "/theirs", 0666);
  make(Kind::kFile, open + "/secret", 0600);
  make(Kind::kFile, open + "/mine");
  require(::chown((open + "/mine").c_str(), kAlice, kAlices), "chown");
  std::ifstream setting("/proc/sys/fs/protected_hardlinks");
  int is_protected = 0;
  setting >> is_protected;
  const As alice{kAlice, kAlices};
  fails(EACCES, ::link((open + "/mine").c_str(), (closed + "/new").c_str()),
        "into a directory that is not writable");
  works(::link((open + "/mine").c_str(), (open + "/new").c_str()), "of one's own file");
  if (is_protected == 0) {
    works(::link((open + "/secret").c_str(), (open + "/other").c_str()), "of a file of another");
    return;
  }
  works(::link((open + "/theirs").c_str(), (open + "/other").c_str()),
        "of a file of another that may be written, with fs.protected_hardlinks");
  fails(EPERM, ::link((open + "/secret").c_str(), (open + "/third").c_str()),
        "of a file of another that may not be written, with fs.protected_hardlinks");
}

}  // namespace
}  // namespace posix
