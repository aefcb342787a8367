// stat(2), fstat(2), lstat(2), fstatat(2): what a file is.
#include <climits>
#include <set>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "stat";

CASE("paths that lead nowhere") {
  struct stat info {};
  path_errors("stat of", [&](const char* path) -> Outcome { return ::stat(path, &info); });
  path_errors("lstat of", [&](const char* path) -> Outcome { return ::lstat(path, &info); });
  path_errors("fstatat of",
              [&](const char* path) -> Outcome { return ::fstatat(AT_FDCWD, path, &info, 0); });
  path_errors("chdir to", [](const char* path) -> Outcome { return ::chdir(path); });
}

CASE("every kind of file") {
  std::set<ino_t> numbers;  // of what is there
  const dev_t device = status(".").st_dev;
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    timespec before{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &before);
    make(kind, name);
    const struct stat info = status(name);
    timespec after{};
    ::clock_gettime(CLOCK_REALTIME, &after);
    holds((info.st_mode & S_IFMT) == type_bits(kind), "has its kind");
    holds(info.st_dev == device, "is on the device of its directory");
    holds(info.st_ino != 0 && !numbers.contains(info.st_ino), "has a number of its own");
    expect(kind == Kind::kDirectory ? 2 : 1, info.st_nlink, "has links");
    expect("0:0", owner(name), "belongs to");
    if (kind == Kind::kSymlink) expect(7, info.st_size, "has the size of its target");
    if (kind != Kind::kDirectory && kind != Kind::kSymlink) {
      expect(0, info.st_size, "has the size");
      expect(0, info.st_blocks, "has blocks");
    }
    expect(4096, info.st_blksize, "has the block size");
    for (const timespec& time : {info.st_atim, info.st_mtim, info.st_ctim}) {
      const bool early = time.tv_sec < before.tv_sec ||
                         (time.tv_sec == before.tv_sec && time.tv_nsec < before.tv_nsec);
      const bool late = time.tv_sec > after.tv_sec ||
                        (time.tv_sec == after.tv_sec && time.tv_nsec > after.tv_nsec);
      if (early || late) holds(false, "has a time when it was not made");
    }
    holds(info.st_atim.tv_sec == info.st_mtim.tv_sec &&
              info.st_atim.tv_nsec == info.st_mtim.tv_nsec &&
              info.st_ctim.tv_sec == info.st_mtim.tv_sec &&
              info.st_ctim.tv_nsec == info.st_mtim.tv_nsec,
          "has three times that are one");
    struct stat again {};
    works(::fstatat(AT_FDCWD, name.c_str(), &again, AT_SYMLINK_NOFOLLOW), "by fstatat");
    holds(again.st_ino == info.st_ino, "is the same by fstatat");
    const UniqueFd path = opened(name, O_PATH | O_NOFOLLOW);
    works(::fstatat(path.get(), "", &again, AT_EMPTY_PATH), "with AT_EMPTY_PATH");
    holds(again.st_ino == info.st_ino, "is the same with AT_EMPTY_PATH");
    if (kind != Kind::kDirectory) {
      fails(kind == Kind::kSymlink ? ENOENT : ENOTDIR, ::lstat((name + "/.").c_str(), &again),
            "with /. behind it");
    }
    const ino_t number = info.st_ino;
    remove(name);
    make(kind, name);
    holds(status(path).st_ino == number, "that was unlinked is still what was opened");
    numbers.insert(status(name).st_ino);
    holds(status(name).st_ino != number, "made again has another number while the old one is open");
  }
}

CASE("size and blocks") {
  for (const std::size_t bytes : {0UL, 1UL, 511UL, 512UL, 4096UL, 4097UL, 40'960UL, 1'000'000UL}) {
    const std::string name = file_with(pattern(bytes));
    const UniqueFd fd = opened(name, O_RDWR);
    require(::fsync(fd.get()), "fsync");
    const struct stat info = status(name);
    expect(static_cast<long>(bytes), info.st_size, "the size");
    const long blocks =
        static_cast<long>((bytes + kBlockBytes - 1) / kBlockBytes * (kBlockBytes / 512));
    expect(blocks, info.st_blocks, fmt::format("blocks of {} synced bytes", bytes));
  }
  const std::string sparse = new_file();
  const UniqueFd fd = opened(sparse, O_RDWR);
  require(::pwrite(fd.get(), "x", 1, 50 << 20), "pwrite");
  require(::fsync(fd.get()), "fsync");
  holds(status(sparse).st_blocks < 2 * 2048, "a hole has no blocks");
}

CASE("flags and buffers") {
  const std::string name = new_file();
  struct stat info {};
  fails(EBADF, ::fstat(-1, &info), "fstat of no file");
  fails(EBADF, ::fstatat(-1, name.c_str(), &info, 0), "fstatat relative to no directory");
  const UniqueFd file = opened(name, O_RDONLY);
  fails(ENOTDIR, ::fstatat(file.get(), "name", &info, 0), "fstatat relative to a file");
  fails(EINVAL, ::fstatat(AT_FDCWD, name.c_str(), &info, 0x8000),
        "fstatat with flags that are none");
  fails(ENOTDIR, ::stat((name + "/").c_str(), &info), "stat of a file with a slash behind it");
  works(::stat(".", &info), "stat of .");
  works(::stat("..", &info), "stat of ..");
  const std::string closed = new_directory(0700);
  make(Kind::kFile, closed + "/in");
  const std::string secret = new_file(0);
  const As alice{kAlice, kAlices};
  works(::stat(secret.c_str(), &info), "stat of a file that permits nothing");
  works(::stat(closed.c_str(), &info), "stat of a directory that permits nothing");
  fails(EACCES, ::stat((closed + "/in").c_str(), &info),
        "stat in a directory that permits nothing");
  fails(EACCES, ::chdir(closed.c_str()), "chdir to a directory that permits nothing");
}

CASE("times of what is read") {
  // relatime: an atime that is not newer than mtime and ctime is set.
  const std::string name = file_with("text");
  const Times times{name};
  expect("text", contents(name), "what is read");
  expect("atime", times.changed(), "read of a file with an old atime changes");
  const struct stat first = status(name);
  pause();
  expect("text", contents(name), "what is read again");
  const struct stat second = status(name);
  holds(first.st_atim.tv_nsec == second.st_atim.tv_nsec,
        "read again does not change the atime (relatime)");
  const std::string uncached = file_with("text");
  const Times late{uncached};
  {
    const UniqueFd fd = opened(uncached, O_RDONLY);
    require(::fsync(fd.get()), "fsync");
    require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
  }
  expect("text", contents(uncached), "what is read of a file that no memory holds");
  expect("atime", late.changed(), "read of a file that no memory holds changes");
  const std::string empty = new_file();
  const Times nothing{empty};
  expect("", contents(empty), "what is read of an empty file");
  expect("atime", nothing.changed(), "read of an empty file changes");
  const std::string other = file_with("text");
  const Times quiet{other};
  {
    const UniqueFd fd = opened(other, O_RDONLY | O_NOATIME);
    char text[4];
    expect(4, ::read(fd.get(), text, 4), "bytes read with O_NOATIME");
  }
  expect("none", quiet.changed(), "read with O_NOATIME changes");
  const std::string last = file_with("text");
  const Times unseen{last};
  {
    const UniqueFd fd = opened(last, O_RDONLY | O_NOATIME);
    require(::fsync(fd.get()), "fsync");
    require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    char text[4];
    expect(4, ::read(fd.get(), text, 4), "bytes read with O_NOATIME that no memory holds");
  }
  expect("none", unseen.changed(), "read with O_NOATIME of a file that no memory holds changes");
}

}  // namespace
}  // namespace posix
