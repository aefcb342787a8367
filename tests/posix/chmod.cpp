// chmod(2), fchmod(2), fchmodat(2).
#include <sys/syscall.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "chmod";
// Newer (6.6) than the headers of Debian 12.
constexpr long kFchmodat2 = 452;

CASE("paths that lead nowhere") {
  path_errors("chmod of", [](const char* path) -> Outcome { return ::chmod(path, 0644); });
  path_errors("fchmodat of",
              [](const char* path) -> Outcome { return ::fchmodat(AT_FDCWD, path, 0644, 0); });
}

CASE("every mode of every kind") {
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kSymlink) continue;
    const About about{a(kind)};
    const std::string name = fresh();
    make(kind, name);
    for (const mode_t wanted : {0U, 0111U, 0222U, 0444U, 0600U, 0644U, 0755U, 0777U, 01000U, 01777U,
                                02000U, 02644U, 02755U, 04000U, 04755U, 06711U, 07000U, 07777U}) {
      require(::chmod(name.c_str(), wanted), "chmod");
      expect(octal(wanted), mode(name), "gets the mode");
    }
    holds((status(name).st_mode & S_IFMT) == type_bits(kind), "keeps its kind");
    require(::chmod(name.c_str(), 0170644), "chmod");
    expect("0644", mode(name), "ignores the kind in a mode");
    const Times times{name};
    works(::chmod(name.c_str(), 0640), "is changed");
    expect("ctime", times.changed(), "with a new mode has new");
    holds(times.are_now(), "has the ctime of that moment");
    const Times same{name};
    works(::chmod(name.c_str(), 0640), "gets the mode it has");
    expect("ctime", same.changed(), "with the mode it had has new");
    works(::fchmodat(AT_FDCWD, name.c_str(), 0600, 0), "is changed by fchmodat");
    expect("0600", mode(name), "has the mode of fchmodat");
    require(::chown(name.c_str(), kAlice, kAlices), "chown");
    {
      const As alice{kAlice, kAlices};
      works(::chmod(name.c_str(), 0660), "is changed by its owner");
    }
    require(::chmod(name.c_str(), 0666), "chmod");
    const As bob{kBob, kBobs, {kAlices}};
    fails(EPERM, ::chmod(name.c_str(), 0777), "is not changed by another, even one of its group");
  }
}

CASE("symbolic links") {
  const std::string file = new_file(0600);
  require(::symlink(file.c_str(), "link"), "a link");
  works(::chmod("link", 0640), "of a link");
  expect("0640", mode(file), "of a link changes what it leads to");
  expect("0777", mode("link"), "of a link leaves the link as it is");
  fails(EOPNOTSUPP, ::syscall(kFchmodat2, AT_FDCWD, "link", 0600, AT_SYMLINK_NOFOLLOW),
        "of a link itself");
  works(::syscall(kFchmodat2, AT_FDCWD, file.c_str(), 0604, AT_SYMLINK_NOFOLLOW),
        "with AT_SYMLINK_NOFOLLOW of a file");
  expect("0604", mode(file), "with AT_SYMLINK_NOFOLLOW sets");
  const UniqueFd path = opened(file, O_PATH);
  works(::syscall(kFchmodat2, path.get(), "", 0606, AT_EMPTY_PATH), "with AT_EMPTY_PATH");
  fails(EINVAL, ::syscall(kFchmodat2, AT_FDCWD, file.c_str(), 0600, 0x8000),
        "with flags that are none");
}

CASE("descriptors") {
  const std::string name = new_file();
  const UniqueFd fd = opened(name, O_RDONLY);
  works(::fchmod(fd.get(), 0751), "fchmod of a file that is open for reading");
  expect("0751", mode(name), "fchmod sets");
  fails(EBADF, ::fchmod(-1, 0644), "fchmod of no file");
  const UniqueFd writer = opened(name, O_WRONLY);
  works(::fchmod(fd.get(), 0), "fchmod to nothing");
  expect(1, ::write(writer.get(), "x", 1), "bytes written by who had it open before");
  const std::string directory = new_directory();
  const UniqueFd dir = opened(directory, O_RDONLY);
  works(::fchmod(dir.get(), 0700), "fchmod of a directory");
  expect("0700", mode(directory), "fchmod of a directory sets");
}

CASE("setgid of a group one is not in") {
  for (const Kind kind : {Kind::kFile, Kind::kDirectory, Kind::kFifo}) {
    for (const bool member : {false, true}) {
      const std::string name = fresh();
      make(kind, name);
      require(::chown(name.c_str(), kAlice, kShared), "chown");
      {
        const As alice{kAlice, kAlices,
                       member ? std::vector<gid_t>{kShared} : std::vector<gid_t>{}};
        works(::chmod(name.c_str(), 02755),
              fmt::format("02755 of {} by its owner, {}", a(kind),
                          member ? "of its group" : "not of its group"));
      }
      expect(member ? "2755" : "0755", mode(name),
             fmt::format("what 02755 of {} by its owner gives, {}", a(kind),
                         member ? "of its group" : "not of its group"));
    }
  }
  const std::string name = new_file();
  require(::chown(name.c_str(), kAlice, kAlices), "chown");
  const As alice{kAlice, kAlices};
  works(::chmod(name.c_str(), 04755), "setuid by the owner");
  expect("4755", mode(name), "setuid by the owner gives");
  works(::chmod(name.c_str(), 01644), "sticky file by the owner");
  expect("1644", mode(name), "sticky file by the owner gives");
}

}  // namespace
}  // namespace posix
