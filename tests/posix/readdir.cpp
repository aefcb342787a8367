// getdents64(2), readdir(3): what a directory holds, also while it changes.
#include <dirent.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "readdir";

using Stream = std::unique_ptr<DIR, int (*)(DIR*)>;

Stream stream(const std::string& path) {
  Stream opened{::opendir(path.c_str()), ::closedir};
  require(opened == nullptr ? -1 : 0, "opendir of " + path);
  return opened;
}

std::vector<std::string> names(DIR* from) {
  std::vector<std::string> all;
  while (const dirent* const entry = ::readdir(from)) all.emplace_back(entry->d_name);
  return all;
}

CASE("paths that lead nowhere") {
  // Not opendir: it looks at its path itself.
  path_errors("open with O_DIRECTORY of",
              [](const char* path) -> Outcome { return ::open(path, O_RDONLY | O_DIRECTORY); });
}

CASE("every kind of file") {
  const std::string directory = new_directory();
  std::map<std::string, Kind> made;
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, directory + "/" + name);
    made[name] = kind;
  }
  int found = 0;
  bool dot = false;
  bool dot_dot = false;
  const Stream all = stream(directory);
  while (const dirent* const entry = ::readdir(all.get())) {
    const std::string name = entry->d_name;
    if (name == ".") {
      dot = entry->d_ino == status(directory).st_ino && entry->d_type == DT_DIR;
    } else if (name == "..") {
      dot_dot = entry->d_ino == status(".").st_ino && entry->d_type == DT_DIR;
    } else {
      ++found;
      const Kind kind = made.at(name);
      holds(entry->d_type == IFTODT(type_bits(kind)), fmt::format("{} has its type", a(kind)));
      holds(entry->d_ino == status(directory + "/" + name).st_ino,
            fmt::format("{} has its number", a(kind)));
    }
  }
  expect(7, found, "names of seven files");
  holds(dot, ". is there");
  holds(dot_dot, ".. is there");
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kDirectory) continue;
    const std::string name = fresh();
    make(kind, name);
    DIR* const opened = ::opendir(name.c_str());
    fails(kind == Kind::kSymlink ? ENOENT : ENOTDIR, opened == nullptr ? -1 : 0,
          fmt::format("opendir of {}", a(kind)));
  }
}

CASE("many names") {
  for (const int count : {0, 1, 100, 2000}) {
    const About about{fmt::format("a directory of {}", count)};
    const std::string directory = new_directory();
    const UniqueFd fd = opened(directory, O_RDONLY | O_DIRECTORY);
    std::multiset<std::string> wanted = {".", ".."};
    for (int i = 0; i < count; ++i) {
      const std::string name =
          fmt::format("{}-{}", i, std::string(static_cast<std::size_t>(i % 200), 'n'));
      require(::mknodat(fd.get(), name.c_str(), S_IFREG | 0644, 0), "mknod");
      wanted.insert(name);
    }
    const Stream all = stream(directory);
    const auto first = names(all.get());
    holds(std::multiset<std::string>(first.begin(), first.end()) == wanted, "shows each name once");
    ::rewinddir(all.get());
    const auto second = names(all.get());
    holds(first == second, "shows them in the same order again");
    for (int i = 0; i < count; i += 2) {
      require(
          ::unlinkat(
              fd.get(),
              fmt::format("{}-{}", i, std::string(static_cast<std::size_t>(i % 200), 'n')).c_str(),
              0),
          "unlink");
    }
    ::rewinddir(all.get());
    expect(2 + count / 2, static_cast<long>(names(all.get()).size()),
           "shows half of it when the others are gone");
  }
}

CASE("while it changes") {
  const std::string directory = new_directory();
  for (int i = 0; i < 1000; ++i) make(Kind::kFile, fmt::format("{}/stay{}", directory, i));
  for (int i = 0; i < 1000; ++i) make(Kind::kFile, fmt::format("{}/go{}", directory, i));
  const Stream all = stream(directory);
  std::multiset<std::string> seen;
  int number = 0;
  while (const dirent* const entry = ::readdir(all.get())) {
    const std::string name = entry->d_name;
    seen.insert(name);
    // Removes what was shown, adds others.
    if (name.starts_with("go")) require(::unlink((directory + "/" + name).c_str()), "unlink");
    if (number < 500) make(Kind::kFile, fmt::format("{}/new{}", directory, number++));
  }
  bool once = true;
  for (int i = 0; i < 1000; ++i)
    once = once && seen.count(fmt::format("stay{}", i)) == 1 &&
           seen.count(fmt::format("go{}", i)) == 1;
  holds(once, "each name that was there is shown once");
  bool not_twice = true;
  for (int i = 0; i < 500; ++i) not_twice = not_twice && seen.count(fmt::format("new{}", i)) <= 1;
  holds(not_twice, "a new name is shown once or not");
  ::rewinddir(all.get());
  expect(1502, static_cast<long>(names(all.get()).size()), "names afterwards");
  const Stream two = stream(directory);
  static_cast<void>(::readdir(two.get()));
  make(Kind::kFile, directory + "/late");
  ::rewinddir(two.get());
  const auto again = names(two.get());
  holds(std::ranges::find(again, "late") != again.end(), "rewinddir shows what is new");
}

CASE("positions") {
  const std::string directory = new_directory();
  for (int i = 0; i < 500; ++i) make(Kind::kFile, fmt::format("{}/{}", directory, i));
  const Stream all = stream(directory);
  std::vector<std::pair<long, std::string>> places;
  while (true) {
    const long at = ::telldir(all.get());
    const dirent* const entry = ::readdir(all.get());
    if (entry == nullptr) break;
    places.emplace_back(at, entry->d_name);
  }
  bool right = true;
  for (std::size_t i = places.size(); i-- > 0;) {
    ::seekdir(all.get(), places[i].first);
    const dirent* const entry = ::readdir(all.get());
    right = right && entry != nullptr && places[i].second == entry->d_name;
  }
  holds(right, "seekdir leads to where telldir was, for each name backwards");
  for (int i = 0; i < 250; ++i) remove(fmt::format("{}/{}", directory, i));
  right = true;
  for (const auto& [at, name] : places) {
    if (!exists(directory + "/" + name)) continue;
    ::seekdir(all.get(), at);
    const dirent* const entry = ::readdir(all.get());
    right = right && entry != nullptr && name == entry->d_name;
  }
  holds(right, "seekdir leads there when half of the names are gone");
}

CASE("getdents") {
  const std::string directory = new_directory();
  make(Kind::kFile, directory + "/" + std::string(255, 'n'));
  const UniqueFd fd = opened(directory, O_RDONLY | O_DIRECTORY);
  alignas(8) char buffer[4096];
  fails(EINVAL, ::syscall(SYS_getdents64, fd.get(), buffer, 10), "with room for no name");
  long total = 0;
  long got = 0;
  while ((got = ::syscall(SYS_getdents64, fd.get(), buffer, 300)) > 0) total += got;
  holds(total > 255, "with room for one name at a time");
  expect(0, got, "bytes at the end");
  fails(EBADF, ::syscall(SYS_getdents64, -1, buffer, sizeof buffer), "of no directory");
  const UniqueFd file = new_open_file();
  fails(ENOTDIR, ::syscall(SYS_getdents64, file.get(), buffer, sizeof buffer), "of a file");
  require(::lseek(fd.get(), 0, SEEK_SET), "lseek");
  fails(EFAULT, ::syscall(SYS_getdents64, fd.get(), kBadAddress, 4096), "to outside of memory");
  const std::string gone = new_directory();
  const UniqueFd removed = opened(gone, O_RDONLY | O_DIRECTORY);
  remove(gone);
  fails(ENOENT, ::syscall(SYS_getdents64, removed.get(), buffer, sizeof buffer),
        "of a directory that was removed");
}

CASE("times") {
  const std::string directory = new_directory();
  make(Kind::kFile, directory + "/name");
  const Times times{directory};
  expect(3, static_cast<long>(names(stream(directory).get()).size()), "names read");
  expect("atime", times.changed(), "reading a directory with an old atime changes");
}

}  // namespace
}  // namespace posix
