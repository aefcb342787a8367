// read(2), pread(2), readv(2): what was written, zeros where nothing was, and no more than there is.
#include <sys/uio.h>

#include <climits>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "read";

CASE("every offset and length") {
  const std::string all = pattern(1'200'000);
  const std::string name = file_with(all);
  const UniqueFd fd = opened(name, O_RDONLY);
  std::string buffer(1'300'000, '\0');
  for (const bool cached : {true, false}) {
    for (const std::size_t offset : {0UL, 1UL, 4095UL, 4096UL, 4097UL, 1'048'575UL, 1'048'576UL,
                                     1'199'999UL, 1'200'000UL, 5'000'000UL}) {
      for (const std::size_t length : {0UL, 1UL, 511UL, 4096UL, 4097UL, 131'072UL, 1'048'577UL}) {
        if (!cached) {
          require(::fsync(fd.get()), "fsync");
          require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
        }
        const About about{fmt::format("{} bytes at {}, {}", length, offset,
                                      cached ? "from memory" : "from the disk")};
        const std::size_t wanted = offset >= all.size() ? 0 : std::min(length, all.size() - offset);
        expect(static_cast<long>(wanted),
               ::pread(fd.get(), buffer.data(), length, static_cast<off_t>(offset)),
               "so many come");
        holds(offset >= all.size() || all.compare(offset, wanted, buffer, 0, wanted) == 0,
              "are what was written");
      }
    }
  }
}

CASE("holes") {
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT);
  require(::pwrite(fd.get(), "end", 3, 3'000'000), "pwrite");
  const std::string all = contents(name);
  expect(3'000'003, static_cast<long>(all.size()), "bytes of a file with a hole");
  holds(all.find_first_not_of('\0') == 3'000'000, "a hole is zeros");
  require(::ftruncate(fd.get(), 4'000'000), "ftruncate");
  char byte = 'x';
  expect(1, ::pread(fd.get(), &byte, 1, 3'999'999), "bytes read at the end of a hole");
  expect(0, byte, "the end of a hole");
  expect(0, ::pread(fd.get(), &byte, 1, 4'000'000), "bytes read at the end of the file");
}

CASE("positions and pieces") {
  const std::string name = file_with("0123456789");
  const UniqueFd fd = opened(name, O_RDONLY);
  char text[16] = {};
  expect(4, ::read(fd.get(), text, 4), "bytes read");
  expect(4, ::lseek(fd.get(), 0, SEEK_CUR), "the position behind them");
  expect(3, ::pread(fd.get(), text, 3, 7), "bytes of pread");
  expect(4, ::lseek(fd.get(), 0, SEEK_CUR), "the position after pread");
  expect(6, ::read(fd.get(), text, 16), "bytes up to the end");
  expect(0, ::read(fd.get(), text, 16), "bytes at the end");
  expect(10, ::lseek(fd.get(), 0, SEEK_CUR), "the position at the end");
  char one[3] = {};
  char two[16] = {};
  const iovec pieces[] = {{one, 2}, {two, 15}};
  expect(10, ::preadv(fd.get(), pieces, 2, 0), "bytes of preadv");
  expect("01", one, "the first piece");
  expect("23456789", two, "the second piece");
  fails(EINVAL, ::readv(fd.get(), pieces, IOV_MAX + 1), "readv of too many pieces");
  expect(0, ::readv(fd.get(), pieces, 0), "bytes of readv of no pieces");
  fails(EOPNOTSUPP, ::preadv2(fd.get(), pieces, 2, 0, 0x8000), "preadv2 with flags that are none");
  expect(10, ::preadv2(fd.get(), pieces, 2, 0, RWF_NOWAIT),
         "bytes of preadv2 with RWF_NOWAIT from memory");
}

CASE("what cannot be read") {
  const std::string name = file_with("text");
  const UniqueFd writer = opened(name, O_WRONLY);
  char byte = 0;
  fails(EBADF, ::read(writer.get(), &byte, 1), "of a file that is open for writing");
  fails(EBADF, ::read(-1, &byte, 1), "of no file");
  const UniqueFd directory = opened(".", O_RDONLY);
  fails(EISDIR, ::read(directory.get(), &byte, 1), "of a directory");
  const UniqueFd fd = opened(name, O_RDONLY);
  fails(EFAULT, ::read(fd.get(), const_cast<char*>(kBadAddress), 4), "to outside of memory");
  fails(EINVAL, ::pread(fd.get(), &byte, 1, -1), "in front of the file");
  expect(0, ::pread(fd.get(), &byte, 1, LONG_MAX - 1), "bytes at the last position there can be");
}

CASE("advice") {
  const UniqueFd fd = opened(file_with(pattern(10'000)), O_RDONLY);
  for (const int advice : {POSIX_FADV_NORMAL, POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM,
                           POSIX_FADV_NOREUSE, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED}) {
    expect(0, ::posix_fadvise(fd.get(), 0, 0, advice), fmt::format("posix_fadvise {}", advice));
  }
  expect(EINVAL, ::posix_fadvise(fd.get(), 0, 0, 99), "posix_fadvise that is none");
  works(::readahead(fd.get(), 0, 10'000), "readahead");
}

}  // namespace
}  // namespace posix
