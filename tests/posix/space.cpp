// A file system that is full (ENOSPC): what was there stays, what is removed makes room. Runs last, and only
// where that is small.
#include <sys/vfs.h>

#include <cstring>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "space";
constexpr long kBytesMax = 1L << 30;
constexpr std::size_t kPiece = 1 << 20;

struct statfs space() {
  struct statfs info {};
  require(::statfs(".", &info), "statfs");
  return info;
}

// Fills what is free in pieces of `bytes`; returns how much that was. Direct, so that each write is told.
long fill(const UniqueFd& fd, std::size_t bytes, Outcome* end) {
  alignas(kBlockBytes) static char data[kPiece];
  std::memset(data, 'f', sizeof data);
  long total = 0;
  while (true) {
    const ssize_t got = ::write(fd.get(), data, bytes);
    *end = got;
    if (got < 0) return total;
    total += got;
  }
}

CASE("full") {
  if (static_cast<long>(space().f_bavail) * space().f_bsize > kBytesMax)
    skip("full: more than 1 GiB is free");
  const std::string kept = file_with(pattern(100'000, 3));
  make(Kind::kDirectory, "directory");
  make(Kind::kFile, "directory/file");
  const UniqueFd hole = new_open_file();
  require(::ftruncate(hole.get(), 10 << 20), "ftruncate");
  const UniqueFd buffered = opened("buffered", O_RDWR | O_CREAT);
  const UniqueFd next = opened("next", O_RDWR | O_CREAT | O_SYNC);
  const long free = static_cast<long>(space().f_bavail) * 4096;
  const UniqueFd big = opened("big", O_RDWR | O_CREAT | O_DIRECT);
  Outcome end = 0;
  long total = fill(big, kPiece, &end);
  fails(ENOSPC, end, "write of a MiB");
  total += fill(big, kBlockBytes, &end);
  fails(ENOSPC, end, "write of a block");
  holds(total == status(big).st_size, "the size is what could be written");
  holds(total > free * 9 / 10, "nine tenths of what was said to be available could be written");
  fails(ENOSPC, ::fallocate(hole.get(), 0, 0, 10 << 20), "fallocate");
  expect(10 << 20, status(hole).st_size, "the size of a file that got no space");
  const UniqueFd synchronous{
      ::open(fmt::format("/proc/self/fd/{}", hole.get()).c_str(), O_RDWR | O_SYNC)};
  const std::string data = pattern(kPiece);
  fails(ENOSPC, ::pwrite(synchronous.get(), data.data(), kPiece, 0), "write to a hole");
  // A buffered write is refused at once or by fsync.
  Outcome wrote = ::pwrite(buffered.get(), data.data(), kPiece, 0);
  if (wrote.error == 0) wrote = ::fsync(buffered.get());
  fails(ENOSPC, wrote, "a buffered write, or the fsync behind it");
  fails(ENOSPC, ::write(next.get(), data.data(), kPiece), "a synchronous write");
  expect(0, status("next").st_size, "the size of a file of which a synchronous write was refused");
  require(::ftruncate(next.get(), 0), "ftruncate");
  require(::lseek(next.get(), 0, SEEK_SET), "lseek");
  holds(contents(kept) == pattern(100'000, 3), "what was there is there");
  works(::truncate("directory/file", 0), "truncate to nothing");
  works(::unlink("directory/file"), "unlink");
  works(::rmdir("directory"), "rmdir");
  works(::chmod(kept.c_str(), 0600), "chmod");
  works(::rename(kept.c_str(), "kept"), "rename");
  works(::ftruncate(big.get(), total / 2), "truncate to half");
  require(::fsync(big.get()), "fsync");
  expect(static_cast<long>(kPiece), ::write(next.get(), data.data(), kPiece),
         "bytes written when there is room again");
  holds(contents("next") == data, "they are there");
  works(::unlink("big"), "unlink of the big file");
}

}  // namespace
}  // namespace posix
