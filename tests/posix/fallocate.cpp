// fallocate(2): space that is reserved, holes, zeros.
#include <linux/falloc.h>

#include <climits>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "fallocate";
constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZero = FALLOC_FL_ZERO_RANGE;

struct Mode {
  const char* words;
  int flags;
};
constexpr Mode kModes[] = {{"0", 0},
                           {"KEEP_SIZE", kKeep},
                           {"PUNCH_HOLE", kPunch},
                           {"ZERO_RANGE", kZero},
                           {"ZERO_RANGE KEEP_SIZE", kZero | kKeep}};

CASE("every offset and length") {
  for (const Mode& mode : kModes) {
    for (const long offset : {0L, 1L, 4096L, 5000L, 49'999L, 50'000L, 70'000L}) {
      for (const long length : {1L, 4095L, 4096L, 10'000L, 100'000L}) {
        const About about{fmt::format("{}, {} bytes at {}", mode.words, length, offset)};
        std::string wanted = pattern(50'000);
        const std::string name = file_with(wanted);
        const UniqueFd fd = opened(name, O_RDWR);
        works(::fallocate(fd.get(), mode.flags, offset, length), "works");
        const bool clears = (mode.flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
        if ((mode.flags & kKeep) == 0 && offset + length > 50'000)
          wanted.resize(static_cast<std::size_t>(offset + length), '\0');
        for (long at = offset;
             clears && at < offset + length && at < static_cast<long>(wanted.size()); ++at)
          wanted[static_cast<std::size_t>(at)] = '\0';
        expect(static_cast<long>(wanted.size()), status(name).st_size, "gives the size");
        holds(contents(name) == wanted, "leaves the data it should");
      }
    }
  }
}

CASE("space") {
  const UniqueFd fd = new_open_file();
  works(::fallocate(fd.get(), 0, 0, 1 << 20), "of a MiB");
  expect(2048, status(fd).st_blocks, "blocks of a reserved MiB");
  works(::fallocate(fd.get(), kKeep, 1 << 20, 1 << 20), "of a MiB behind the end");
  expect(1 << 20, status(fd).st_size, "the size with a MiB reserved behind the end");
  expect(4096, status(fd).st_blocks, "blocks of two reserved MiB");
  works(::fallocate(fd.get(), kPunch, 4096, 8192), "of a hole in reserved space");
  expect(4080, status(fd).st_blocks, "blocks with a hole");
  works(::ftruncate(fd.get(), 1 << 20), "ftruncate to the size it has");
  expect(2032, status(fd).st_blocks, "blocks after ftruncate gave back what was behind the end");
  works(::ftruncate(fd.get(), 0), "ftruncate to nothing");
  expect(0, status(fd).st_blocks, "blocks of nothing");
  fails(ENOSPC, ::fallocate(fd.get(), 0, 0, 1L << 40), "of a TiB");
  expect(0, status(fd).st_size, "the size after a TiB was refused");
}

CASE("what cannot be allocated") {
  const std::string name = new_file();
  const UniqueFd fd = opened(name, O_RDWR);
  const UniqueFd reader = opened(name, O_RDONLY);
  for (const Mode& mode : kModes) {
    const About about{mode.words};
    fails(EINVAL, ::fallocate(fd.get(), mode.flags, 0, 0), "of nothing");
    fails(EINVAL, ::fallocate(fd.get(), mode.flags, -1, 1), "in front of the beginning");
    fails(EINVAL, ::fallocate(fd.get(), mode.flags, 0, -1), "of less than nothing");
    fails(EFBIG, ::fallocate(fd.get(), mode.flags, LONG_MAX, 1),
          "behind the last byte there can be");
    fails(EBADF, ::fallocate(reader.get(), mode.flags, 0, 1), "of a file that is open for reading");
    fails(EBADF, ::fallocate(-1, mode.flags, 0, 1), "of no file");
  }
  fails(EOPNOTSUPP, ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE, 0, 4096),
        "a hole without KEEP_SIZE");
  fails(EOPNOTSUPP, ::fallocate(fd.get(), kPunch | kZero, 0, 4096), "a hole and zeros");
  fails(EOPNOTSUPP, ::fallocate(fd.get(), 0x1000, 0, 4096), "with flags that are none");
  const UniqueFd directory = opened(".", O_RDONLY);
  fails(EBADF, ::fallocate(directory.get(), 0, 0, 1), "of a directory");
  require(::mkfifo("fifo", 0644), "mkfifo");
  const UniqueFd fifo = opened("fifo", O_RDWR);
  fails(ESPIPE, ::fallocate(fifo.get(), 0, 0, 1), "of a FIFO");
}

CASE("moving data") {
  std::string all = pattern(40'960);
  const std::string name = file_with(all);
  const UniqueFd fd = opened(name, O_RDWR);
  works(::fallocate(fd.get(), FALLOC_FL_UNSHARE_RANGE, 0, 4096), "UNSHARE_RANGE");
  const Outcome collapsed = ::fallocate(fd.get(), FALLOC_FL_COLLAPSE_RANGE, 4096, 8192);
  works(collapsed, "COLLAPSE_RANGE");
  const std::string other = file_with(all);
  const UniqueFd second = opened(other, O_RDWR);
  const Outcome inserted = ::fallocate(second.get(), FALLOC_FL_INSERT_RANGE, 4096, 8192);
  works(inserted, "INSERT_RANGE");
  if (collapsed.error != 0 || inserted.error != 0) return;
  expect(32'768, status(fd).st_size, "the size after COLLAPSE_RANGE");
  holds(contents(name) == all.substr(0, 4096) + all.substr(12'288),
        "COLLAPSE_RANGE takes out what it names");
  expect(49'152, status(second).st_size, "the size after INSERT_RANGE");
  holds(contents(other) == all.substr(0, 4096) + std::string(8192, '\0') + all.substr(4096),
        "INSERT_RANGE puts in zeros");
  fails(EINVAL, ::fallocate(second.get(), FALLOC_FL_COLLAPSE_RANGE, 100, 4096),
        "COLLAPSE_RANGE that is not aligned");
  fails(EINVAL, ::fallocate(second.get(), FALLOC_FL_INSERT_RANGE, 100, 4096),
        "INSERT_RANGE that is not aligned");
  fails(EINVAL, ::fallocate(second.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 1 << 20),
        "COLLAPSE_RANGE up to the end");
  fails(EINVAL, ::fallocate(second.get(), FALLOC_FL_INSERT_RANGE, 1 << 20, 4096),
        "INSERT_RANGE behind the end");
}

CASE("times") {
  for (const Mode& mode : kModes) {
    for (const long offset : {0L, 100'000L}) {
      const std::string name = file_with(pattern(50'000));
      const UniqueFd fd = opened(name, O_RDWR);
      const Times times{name};
      require(::fallocate(fd.get(), mode.flags, offset, 4096), "fallocate");
      const bool outside = offset > 50'000 && (mode.flags & kKeep) != 0;
      expect("mtime ctime", times.changed(),
             fmt::format("{} {} changes", mode.words,
                         outside       ? "behind the end"
                         : offset == 0 ? "within"
                                       : "that extends"));
    }
  }
}

CASE("a descriptor that appends") {
  const std::string name = file_with(pattern(5000));
  const UniqueFd fd = opened(name, O_WRONLY | O_APPEND);
  works(::fallocate(fd.get(), 0, 0, 10'000), "of a file that is open with O_APPEND");
  expect(10'000, status(name).st_size, "the size then");
  expect(0, ::posix_fallocate(fd.get(), 0, 20'000), "posix_fallocate");
  expect(20'000, status(name).st_size, "the size after posix_fallocate");
}

}  // namespace
}  // namespace posix
