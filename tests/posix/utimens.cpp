// utimensat(2), futimens(3): times that are set.
#include <sys/syscall.h>
#include <climits>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "utimens";

std::string shown(const timespec& time) {
  return fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec);
}

CASE("paths that lead nowhere") {
  path_errors("utimensat of", [](const char* path) -> Outcome {
    // Past glibc, which refuses what the kernel takes for a descriptor.
    return ::syscall(SYS_utimensat, AT_FDCWD, path, nullptr, 0);
  });
  path_errors("utimensat with AT_SYMLINK_NOFOLLOW of", [](const char* path) -> Outcome {
    return ::syscall(SYS_utimensat, AT_FDCWD, path, nullptr, AT_SYMLINK_NOFOLLOW);
  });
}

CASE("every kind of file") {
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    make(kind, name);
    const timespec times[] = {{1'111'111'111, 123'456'789}, {1'222'222'222, 987'654'321}};
    const struct stat before = status(name);
    pause();
    works(::utimensat(AT_FDCWD, name.c_str(), times, AT_SYMLINK_NOFOLLOW), "gets times");
    const struct stat after = status(name);
    expect("1111111111.123456789", shown(after.st_atim), "has the atime");
    expect("1222222222.987654321", shown(after.st_mtim), "has the mtime");
    holds(shown(after.st_ctim) != shown(before.st_ctim), "has a new ctime");
    for (const bool now : {true, false}) {
      const Times old{name};
      const timespec one[] = {{0, UTIME_OMIT}, {0, now ? UTIME_NOW : UTIME_OMIT}};
      require(::utimensat(AT_FDCWD, name.c_str(), one, AT_SYMLINK_NOFOLLOW), "utimensat");
      expect(now ? "mtime ctime" : "none", old.changed(),
             now ? "with mtime now, atime omitted" : "with both omitted");
      const Times other{name};
      const timespec two[] = {{0, now ? UTIME_NOW : UTIME_OMIT}, {5, 5}};
      require(::utimensat(AT_FDCWD, name.c_str(), two, AT_SYMLINK_NOFOLLOW), "utimensat");
      expect(now ? "atime mtime ctime" : "mtime ctime", other.changed(),
             now ? "with atime now, mtime set" : "with atime omitted, mtime set");
    }
    const Times touched{name};
    works(::utimensat(AT_FDCWD, name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW), "is touched");
    expect("atime mtime ctime", touched.changed(), "when touched changes");
    holds(touched.are_now(), "has the times of that moment");
  }
}

CASE("values") {
  const std::string name = new_file();
  for (const long seconds : {-2147483647L, -1L, 0L, 1L, 2147483647L, 2147483648L, 4294967295L,
                             4294967296L, 8589934592L}) {
    for (const long nanoseconds : {0L, 1L, 999'999'999L}) {
      const timespec times[] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
      require(::utimensat(AT_FDCWD, name.c_str(), times, 0), "utimensat");
      const std::string wanted = shown(times[0]);
      expect(wanted, shown(status(name).st_atim), "atime");
      expect(wanted, shown(status(name).st_mtim), "mtime");
    }
  }
  for (const long nanoseconds : {-1L, 1'000'000'000L, LONG_MAX, LONG_MIN}) {
    const timespec first[] = {{5, nanoseconds}, {5, 5}};
    const timespec second[] = {{5, 5}, {5, nanoseconds}};
    fails(EINVAL, ::utimensat(AT_FDCWD, name.c_str(), first, 0),
          fmt::format("atime with {} nanoseconds", nanoseconds));
    fails(EINVAL, ::utimensat(AT_FDCWD, name.c_str(), second, 0),
          fmt::format("mtime with {} nanoseconds", nanoseconds));
  }
}

struct Wish {
  const char* words;
  timespec time;
};

CASE("of whom, by whom") {
  constexpr Wish kWishes[] = {
      {"now", {0, UTIME_NOW}}, {"omitted", {0, UTIME_OMIT}}, {"set", {1000, 1000}}};
  struct Actor {
    const char* words;
    uid_t uid;
    gid_t gid;
  };
  constexpr Actor kActors[] = {{"the owner", kAlice, kAlices},
                               {"one who may write", kBob, kShared},
                               {"one who may not", kBob, kBobs},
                               {"root", 0, 0}};
  for (const Kind kind : {Kind::kFile, Kind::kDirectory, Kind::kFifo}) {
    for (const Actor& actor : kActors) {
      const std::string name = fresh();
      make(kind, name);
      require(::chown(name.c_str(), kAlice, kShared), "chown");
      require(::chmod(name.c_str(), 0464), "chmod");
      const bool owner = actor.uid == kAlice || actor.uid == 0;
      const bool writer = actor.gid == kShared;
      const As somebody{actor.uid, actor.gid};
      const About about{fmt::format("of {} by {}", a(kind), actor.words)};
      for (const Wish& atime : kWishes) {
        for (const Wish& mtime : kWishes) {
          const timespec times[] = {atime.time, mtime.time};
          const bool both_now = atime.time.tv_nsec == UTIME_NOW && mtime.time.tv_nsec == UTIME_NOW;
          const bool both_omitted =
              atime.time.tv_nsec == UTIME_OMIT && mtime.time.tv_nsec == UTIME_OMIT;
          const Outcome seen = ::utimensat(AT_FDCWD, name.c_str(), times, 0);
          const std::string words = fmt::format("atime {}, mtime {}", atime.words, mtime.words);
          if (owner || both_omitted || (both_now && writer)) {
            works(seen, words);
          } else {
            fails(both_now ? EACCES : EPERM, seen, words);
          }
        }
      }
    }
  }
}

CASE("descriptors and links") {
  const std::string name = new_file();
  const timespec times[] = {{10, 20}, {30, 40}};
  const UniqueFd fd = opened(name, O_RDONLY);
  works(::futimens(fd.get(), times), "futimens");
  expect("30.000000040", shown(status(name).st_mtim), "futimens sets");
  fails(EBADF, ::futimens(-1, times), "futimens of no file");
  require(::symlink(name.c_str(), "link"), "a link");
  const timespec other[] = {{50, 60}, {70, 80}};
  works(::utimensat(AT_FDCWD, "link", other, 0), "of a link");
  expect("70.000000080", shown(status(name).st_mtim), "of a link sets those of what it leads to");
  fails(EINVAL, ::utimensat(AT_FDCWD, name.c_str(), times, 0x8000), "with flags that are none");
  works(::utimensat(fd.get(), "", other, AT_EMPTY_PATH), "with AT_EMPTY_PATH");
  fails(EFAULT,
        ::utimensat(AT_FDCWD, name.c_str(), reinterpret_cast<const timespec*>(kBadAddress), 0),
        "times outside of memory");
}

CASE("times survive what comes after") {
  const std::string name = file_with(pattern(100'000));
  const timespec times[] = {{10, 20}, {30, 40}};
  UniqueFd fd = opened(name, O_RDWR);
  require(::write(fd.get(), "x", 1), "write");
  require(::futimens(fd.get(), times), "futimens");
  require(::fsync(fd.get()), "fsync");
  expect("30.000000040", shown(status(name).st_mtim),
         "an mtime that was set after a write, after fsync");
  require(::pwrite(fd.get(), "y", 1, 50'000), "write");
  require(::futimens(fd.get(), times), "futimens");
  fd.reset();
  expect("30.000000040", shown(status(name).st_mtim),
         "an mtime that was set after a write, after close");
  expect("10.000000020", shown(status(name).st_atim), "an atime that was set");
}

}  // namespace
}  // namespace posix
