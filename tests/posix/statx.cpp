// statx(2): attributes that stat does not have, and what is asked for.
#include <linux/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "statx";
// Newer than the headers of Debian 12.
constexpr unsigned kMountIdUnique = 0x4000;

struct Answer {
  struct statx info {};
  Outcome outcome;
};

Answer ask(const std::string& path, unsigned mask, int flags = AT_SYMLINK_NOFOLLOW) {
  Answer answer{.outcome = 0};
  answer.outcome = ::syscall(SYS_statx, AT_FDCWD, path.c_str(), flags, mask, &answer.info);
  return answer;
}

std::string shown(const statx_timestamp& time) {
  return fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec);
}

CASE("paths that lead nowhere") {
  path_errors("of", [](const char* path) -> Outcome {
    struct statx info {};
    return ::syscall(SYS_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, &info);
  });
}

CASE("every kind of file") {
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    make(kind, name);
    const Answer all = ask(name, STATX_BASIC_STATS | STATX_BTIME);
    const struct stat known = status(name);
    works(all.outcome, "can be asked");
    holds((all.info.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS, "has all that stat has");
    holds(all.info.stx_mode == known.st_mode, "has the mode that stat shows");
    holds(all.info.stx_ino == known.st_ino, "has the number that stat shows");
    holds(all.info.stx_nlink == known.st_nlink, "has the links that stat shows");
    holds(all.info.stx_size == static_cast<std::uint64_t>(known.st_size),
          "has the size that stat shows");
    holds(all.info.stx_blocks == static_cast<std::uint64_t>(known.st_blocks),
          "has the blocks that stat shows");
    holds(all.info.stx_mtime.tv_nsec == known.st_mtim.tv_nsec, "has the mtime that stat shows");
    for (const unsigned bit :
         {STATX_TYPE, STATX_MODE, STATX_NLINK, STATX_UID, STATX_GID, STATX_ATIME, STATX_MTIME,
          STATX_CTIME, STATX_INO, STATX_SIZE, STATX_BLOCKS}) {
      holds((ask(name, bit).info.stx_mask & bit) == bit,
            fmt::format("answers {:#x} when that is asked", bit));
    }
    holds((all.info.stx_mask & STATX_BTIME) != 0, "has a time of birth");
  }
}

CASE("the time of birth stays") {
  for (const Kind kind : kAllKinds) {
    const About about{fmt::format("of {}", a(kind))};
    const std::string name = fresh();
    make(kind, name);
    const auto birth = [&](const std::string& path) {
      const Answer answer = ask(path, STATX_BTIME);
      return (answer.info.stx_mask & STATX_BTIME) != 0 ? shown(answer.info.stx_btime) : "no btime";
    };
    // That there is none is said once.
    if (birth(name) == "no btime") continue;
    const struct stat made = status(name);
    holds(birth(name) == fmt::format("{}.{:09}", made.st_mtim.tv_sec, made.st_mtim.tv_nsec),
          "it is when it was made");
    const Times times{name};
    holds(birth(name) == fmt::format("{}.{:09}", made.st_mtim.tv_sec, made.st_mtim.tv_nsec),
          "it stays when times are set");
    require(::lchown(name.c_str(), 1, 1), "lchown");
    require(::rename(name.c_str(), (name + "x").c_str()), "rename");
    holds(birth(name + "x") == fmt::format("{}.{:09}", made.st_mtim.tv_sec, made.st_mtim.tv_nsec),
          "it stays with a new owner and name");
  }
}

CASE("flags") {
  const std::string name = file_with("text");
  for (const int flags : {AT_STATX_SYNC_AS_STAT, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC}) {
    const Answer answer = ask(name, STATX_BASIC_STATS, flags);
    works(answer.outcome, fmt::format("with sync flags {:#x}", flags));
    expect(4, answer.info.stx_size, fmt::format("the size with sync flags {:#x}", flags));
  }
  fails(EINVAL, ask(name, STATX_BASIC_STATS, AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC).outcome,
        "with both sync flags");
  fails(EINVAL, ask(name, STATX_BASIC_STATS, 0x80000).outcome, "with flags that are none");
  fails(EINVAL, ask(name, 0x80000000).outcome, "with a mask that is reserved");
  works(ask(name, 0).outcome, "with an empty mask");
  const UniqueFd fd = opened(name, O_RDONLY);
  struct statx info {};
  works(::syscall(SYS_statx, fd.get(), "", AT_EMPTY_PATH, STATX_SIZE, &info), "with AT_EMPTY_PATH");
  expect(4, info.stx_size, "the size with AT_EMPTY_PATH");
  fails(EFAULT, ::syscall(SYS_statx, AT_FDCWD, name.c_str(), 0, STATX_SIZE, kBadAddress),
        "to outside of memory");
  fails(EBADF, ::syscall(SYS_statx, -1, "name", 0, STATX_SIZE, &info), "relative to no directory");
  require(::symlink("nowhere", "link"), "a link");
  works(ask("link", STATX_BASIC_STATS, AT_SYMLINK_NOFOLLOW).outcome, "of a link itself");
  fails(ENOENT, ask("link", STATX_BASIC_STATS, 0).outcome, "of what a link leads to");
}

CASE("mounts and devices") {
  const std::string name = new_file();
  const Answer id = ask(name, STATX_MNT_ID);
  holds((id.info.stx_mask & STATX_MNT_ID) != 0, "there is a number of the mount");
  const Answer unique = ask(name, kMountIdUnique);
  holds((unique.info.stx_mask & kMountIdUnique) != 0, "there is a unique number of the mount");
  const struct stat known = status(name);
  const Answer answer = ask(name, STATX_BASIC_STATS);
  holds(makedev(answer.info.stx_dev_major, answer.info.stx_dev_minor) == known.st_dev,
        "it is on the device that stat shows");
  require(::mknod("device", S_IFCHR | 0600, makedev(7, 8)), "mknod");
  const Answer device = ask("device", STATX_BASIC_STATS);
  expect("7:8", fmt::format("{}:{}", device.info.stx_rdev_major, device.info.stx_rdev_minor),
         "the number of a device");
  holds((answer.info.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0,
        "it is known whether it is the root of a mount");
  const Answer direct = ask(name, STATX_DIOALIGN);
  holds((direct.info.stx_mask & STATX_DIOALIGN) != 0, "there is an alignment for O_DIRECT");
}

}  // namespace
}  // namespace posix
