// lseek(2): positions, data and holes.
#include <climits>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "seek";
constexpr long kMiB = 1 << 20;

CASE("positions") {
  const UniqueFd fd = opened(file_with(pattern(100)), O_RDWR);
  expect(10, ::lseek(fd.get(), 10, SEEK_SET), "SEEK_SET");
  expect(15, ::lseek(fd.get(), 5, SEEK_CUR), "SEEK_CUR forwards");
  expect(5, ::lseek(fd.get(), -10, SEEK_CUR), "SEEK_CUR backwards");
  expect(100, ::lseek(fd.get(), 0, SEEK_END), "SEEK_END");
  expect(90, ::lseek(fd.get(), -10, SEEK_END), "in front of the end");
  expect(1100, ::lseek(fd.get(), 1000, SEEK_END), "behind the end");
  fails(EINVAL, ::lseek(fd.get(), -1, SEEK_SET), "in front of the beginning");
  fails(EINVAL, ::lseek(fd.get(), -101, SEEK_END), "from the end in front of the beginning");
  expect(1100, ::lseek(fd.get(), 0, SEEK_CUR), "a refused seek stays where it was");
  fails(EINVAL, ::lseek(fd.get(), 0, 17), "from somewhere that is none");
  fails(EBADF, ::lseek(-1, 0, SEEK_SET), "in no file");
  expect(100, status(fd).st_size, "the size after seeking behind the end");
  works(::lseek(fd.get(), 1L << 60, SEEK_SET), "to 2^60");
  expect(LONG_MAX, ::lseek(fd.get(), LONG_MAX, SEEK_SET), "to the last position there can be");
  fails(EINVAL, ::lseek(fd.get(), 1, SEEK_CUR), "behind the last position there can be (Linux)");
}

CASE("data and holes") {
  const UniqueFd fd = new_open_file();
  require(::pwrite(fd.get(), pattern(static_cast<std::size_t>(kMiB)).data(), kMiB, 2 * kMiB),
          "pwrite");
  require(::pwrite(fd.get(), pattern(4096).data(), 4096, 8 * kMiB), "pwrite");
  require(::ftruncate(fd.get(), 10 * kMiB), "ftruncate");
  for (const bool synced : {false, true}) {
    if (synced) require(::fsync(fd.get()), "fsync");
    const About about{synced ? "of a synced file," : "of a file that is in memory,"};
    expect(2 * kMiB, ::lseek(fd.get(), 0, SEEK_DATA), "data from the beginning");
    expect(0, ::lseek(fd.get(), 0, SEEK_HOLE), "a hole from the beginning");
    expect(2 * kMiB + 5, ::lseek(fd.get(), 2 * kMiB + 5, SEEK_DATA), "data from within data");
    expect(3 * kMiB, ::lseek(fd.get(), 2 * kMiB + 5, SEEK_HOLE), "a hole from within data");
    expect(8 * kMiB, ::lseek(fd.get(), 3 * kMiB, SEEK_DATA), "data from behind data");
    expect(8 * kMiB + 4096, ::lseek(fd.get(), 8 * kMiB, SEEK_HOLE), "a hole behind the last data");
    fails(ENXIO, ::lseek(fd.get(), 9 * kMiB, SEEK_DATA), "data behind the last data");
    expect(9 * kMiB, ::lseek(fd.get(), 9 * kMiB, SEEK_HOLE), "a hole in the last hole");
    fails(ENXIO, ::lseek(fd.get(), 10 * kMiB, SEEK_DATA), "data at the end");
    fails(ENXIO, ::lseek(fd.get(), 10 * kMiB, SEEK_HOLE), "a hole at the end");
    fails(ENXIO, ::lseek(fd.get(), 11 * kMiB, SEEK_DATA), "data behind the end");
    fails(ENXIO, ::lseek(fd.get(), -1, SEEK_DATA), "data in front of the beginning");
    fails(ENXIO, ::lseek(fd.get(), -1, SEEK_HOLE), "a hole in front of the beginning");
  }
}

CASE("small and empty files") {
  const UniqueFd empty = new_open_file();
  fails(ENXIO, ::lseek(empty.get(), 0, SEEK_DATA), "data of an empty file");
  fails(ENXIO, ::lseek(empty.get(), 0, SEEK_HOLE), "a hole of an empty file");
  const UniqueFd full = opened(file_with(pattern(10'000)), O_RDWR);
  expect(0, ::lseek(full.get(), 0, SEEK_DATA), "data of a full file");
  expect(10'000, ::lseek(full.get(), 0, SEEK_HOLE), "the hole behind a full file");
  expect(9'999, ::lseek(full.get(), 9'999, SEEK_DATA), "data in the last byte");
  expect(10'000, ::lseek(full.get(), 9'999, SEEK_HOLE), "the hole behind the last byte");
  require(::fsync(full.get()), "fsync");
  require(::fallocate(full.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096),
          "fallocate");
  expect(4096, ::lseek(full.get(), 0, SEEK_HOLE), "a punched hole");
  expect(8192, ::lseek(full.get(), 4096, SEEK_DATA), "data behind a punched hole");
  const UniqueFd reserved = new_open_file();
  require(::fallocate(reserved.get(), 0, 0, 65'536), "fallocate");
  fails(ENXIO, ::lseek(reserved.get(), 0, SEEK_DATA), "data where space was reserved");
  expect(0, ::lseek(reserved.get(), 0, SEEK_HOLE), "a hole where space was reserved");
  const UniqueFd directory = opened(".", O_RDONLY);
  works(::lseek(directory.get(), 0, SEEK_SET), "of a directory to its beginning");
}

}  // namespace
}  // namespace posix
