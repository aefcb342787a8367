// statfs(2), statvfs(3): how much there is, and that it is true.
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <cstdlib>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "statfs";
constexpr long kMiB = 1 << 20;

struct statfs space() {
  struct statfs info {};
  require(::statfs(".", &info), "statfs");
  return info;
}

CASE("paths that lead nowhere") {
  path_errors("of", [](const char* path) -> Outcome {
    struct statfs info {};
    return ::statfs(path, &info);
  });
}

CASE("what it says") {
  const struct statfs info = space();
  expect(4096, info.f_bsize, "the block size");
  expect(4096, info.f_frsize, "the fragment size");
  expect(255, info.f_namelen, "the longest name");
  holds(info.f_blocks > 0 && info.f_bfree <= info.f_blocks, "no more is free than there is");
  holds(info.f_bavail <= info.f_bfree, "no more is available than is free");
  holds(info.f_files > 0 && info.f_ffree <= info.f_files,
        "no more files are free than there can be");
  for (const Kind kind :
       {Kind::kFile, Kind::kDirectory, Kind::kFifo, Kind::kSocket, Kind::kCharacter}) {
    const std::string name = fresh();
    make(kind, name);
    struct statfs other {};
    works(::statfs(name.c_str(), &other), fmt::format("of {}", a(kind)));
    holds(other.f_blocks == info.f_blocks, fmt::format("of {} says the same", a(kind)));
  }
  struct statfs open {};
  const UniqueFd fd = new_open_file();
  works(::fstatfs(fd.get(), &open), "fstatfs");
  fails(EBADF, ::fstatfs(-1, &open), "fstatfs of no file");
  struct statvfs whole {};
  works(::statvfs(".", &whole), "statvfs");
  holds(whole.f_blocks == info.f_blocks && whole.f_namemax == 255, "statvfs says the same");
  expect(0, static_cast<long>(whole.f_flag & ST_RDONLY), "it is not read-only");
  fails(EFAULT, ::statfs(".", reinterpret_cast<struct statfs*>(const_cast<char*>(kBadAddress))),
        "to outside of memory");
}

CASE("space that is used and given back") {
  // Beside what else is done meanwhile: within 2 of 20 MiB.
  const auto near = [](long blocks, long mib) {
    return std::labs(blocks * 4096 - mib * kMiB) <= 2 * kMiB;
  };
  ::sync();
  // What cases before this one have removed may still be on its way back.
  struct statfs before = space();
  for (int i = 0; i < 50; ++i) {
    for (int j = 0; j < 8; ++j) pause();
    const struct statfs now = space();
    if (now.f_bfree == before.f_bfree) break;
    before = now;
  }
  const std::string name = file_with(pattern(20 * kMiB));
  UniqueFd fd = opened(name, O_RDWR);
  require(::fsync(fd.get()), "fsync");
  holds(near(static_cast<long>(before.f_bfree) - static_cast<long>(space().f_bfree), 20),
        "20 MiB that are written are no longer free");
  holds(std::labs(static_cast<long>(before.f_blocks) - static_cast<long>(space().f_blocks)) == 0,
        "there is as much in all");
  require(::unlink(name.c_str()), "unlink");
  holds(near(static_cast<long>(before.f_bfree) - static_cast<long>(space().f_bfree), 20),
        "20 MiB of an open file without a name are not free");
  fd.reset();
  bool back = false;
  for (int i = 0; i < 200 && !back; ++i) {
    back = near(static_cast<long>(before.f_bfree) - static_cast<long>(space().f_bfree), 0);
    if (!back) pause();
  }
  holds(back, "20 MiB are free again when the file is closed");
  const UniqueFd reserved = new_open_file();
  require(::fallocate(reserved.get(), 0, 0, 20 * kMiB), "fallocate");
  holds(near(static_cast<long>(before.f_bfree) - static_cast<long>(space().f_bfree), 20),
        "20 MiB that are reserved are no longer free");
  require(::ftruncate(reserved.get(), 0), "ftruncate");
  const UniqueFd sparse = new_open_file();
  require(::ftruncate(sparse.get(), 20 * kMiB), "ftruncate");
  holds(near(static_cast<long>(before.f_bfree) - static_cast<long>(space().f_bfree), 0),
        "20 MiB of a hole are free");
}

}  // namespace
}  // namespace posix
