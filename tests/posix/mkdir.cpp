// mkdir(2).
#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "mkdir";

CASE("paths that lead nowhere") {
  path_errors("mkdir of", [](const char* path) -> Outcome { return ::mkdir(path, 0755); },
              {.makes_last = true});
  path_errors("mkdirat of",
              [](const char* path) -> Outcome { return ::mkdirat(AT_FDCWD, path, 0755); },
              {.makes_last = true});
}

CASE("names that are taken") {
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    fails(EEXIST, ::mkdir(name.c_str(), 0755), fmt::format("over {}", a(kind)));
    if (kind != Kind::kSymlink) {
      fails(EEXIST, ::mkdir((name + "/").c_str(), 0755),
            fmt::format("over {} with a slash behind it", a(kind)));
    }
  }
  fails(EEXIST, ::mkdir(".", 0755), "of .");
  fails(EEXIST, ::mkdir("..", 0755), "of ..");
  fails(EEXIST, ::mkdir("/", 0755), "of the root");
  require(::symlink("target", "ahead"), "a link");
  fails(EEXIST, ::mkdir("ahead/", 0755), "of a link that leads nowhere with a slash behind it");
  works(::mkdir("slash/", 0755), "with a slash behind the name");
  works(::mkdir("slashes///", 0755), "with slashes behind the name");
  fails(EBADF, ::mkdirat(-1, "name", 0755), "relative to no directory");
  const UniqueFd file = new_open_file();
  fails(ENOTDIR, ::mkdirat(file.get(), "name", 0755), "relative to a file");
}

CASE("modes") {
  for (const mode_t mask : {0000U, 0022U, 0077U, 0777U}) {
    ::umask(mask);
    for (const mode_t wanted : {0U, 0500U, 0700U, 0755U, 0777U, 01777U, 02777U, 04777U, 07777U}) {
      const std::string name = fresh();
      require(::mkdir(name.c_str(), wanted), "mkdir");
      expect(octal(wanted & ~mask & 01777), mode(name),
             fmt::format("the mode {} under umask {}", octal(wanted), octal(mask)));
    }
  }
}

CASE("what it makes") {
  const std::string parent = new_directory();
  expect(2, status(parent).st_nlink, "links of an empty directory");
  const Times times{parent};
  works(::mkdir((parent + "/child").c_str(), 0755), "of a new name");
  expect("mtime ctime", times.changed(), "the parent of a new directory");
  holds(times.are_now(), "the parent of a new directory has the time of that moment");
  expect(3, status(parent).st_nlink, "links of a directory with one below it");
  const struct stat child = status(parent + "/child");
  expect(2, child.st_nlink, "links of a new directory");
  holds(S_ISDIR(child.st_mode), "it is a directory");
  holds(status(parent + "/child/..").st_ino == status(parent).st_ino, ".. leads to the parent");
  holds(status(parent + "/child/.").st_ino == child.st_ino, ". leads to itself");
  for (int i = 0; i < 20; ++i) require(::mkdir((parent + "/" + fresh()).c_str(), 0755), "mkdir");
  expect(23, status(parent).st_nlink, "links of a directory with 21 below it");
  make(Kind::kFile, parent + "/file");
  expect(23, status(parent).st_nlink, "links of a directory with 21 below it and a file");
}

CASE("owner") {
  const std::string plain = new_directory(0777);
  const std::string shared = new_directory(0777);
  require(::chown(shared.c_str(), 0, kShared), "chown");
  require(::chmod(shared.c_str(), 02777), "chmod");
  {
    const As alice{kAlice, kAlices};
    works(::mkdir((plain + "/name").c_str(), 0755), "in a directory of another");
    works(::mkdir((shared + "/name").c_str(), 0755), "in a setgid directory");
  }
  expect(fmt::format("{}:{}", kAlice, kAlices), owner(plain + "/name"), "owner of a new directory");
  expect(fmt::format("{}:{}", kAlice, kShared), owner(shared + "/name"),
         "owner of a new directory in a setgid directory");
  expect("2755", mode(shared + "/name"), "a new directory in a setgid directory is setgid");
  expect("0755", mode(plain + "/name"), "a new directory in a plain directory is plain");
}

CASE("permission") {
  const std::string closed = new_directory(0755);
  make(Kind::kFile, closed + "/there");
  {
    const As alice{kAlice, kAlices};
    fails(EACCES, ::mkdir((closed + "/name").c_str(), 0755), "in a directory that is not writable");
    fails(EEXIST, ::mkdir((closed + "/there").c_str(), 0755),
          "over a file in a directory that is not writable");
  }
  const std::string gone = new_directory();
  const UniqueFd fd = opened(gone, O_RDONLY);
  remove(gone);
  fails(ENOENT, ::mkdirat(fd.get(), "name", 0755), "in a directory that was removed");
}

}  // namespace
}  // namespace posix
