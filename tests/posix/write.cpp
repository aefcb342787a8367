// write(2), pwrite(2), writev(2), pwritev2(2): data comes in, at any offset and in any piece.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <climits>
#include <csignal>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "write";

constexpr std::size_t kOffsets[] = {
    0, 1, 100, 4095, 4096, 4097, 65'535, 65'536, (1 << 20) - 1, 1 << 20, (1 << 20) + 4096};
constexpr std::size_t kLengths[] = {1, 511, 4095, 4096, 4097, 8192, 131'073, (1 << 20) + 1};

struct Way {
  const char* words;
  int flags;
};
constexpr Way kWays[] = {{"buffered", 0}, {"O_SYNC", O_SYNC}, {"O_DSYNC", O_DSYNC}};

CASE("every offset and length") {
  const std::string before = pattern(70'000, 1);
  for (const Way& way : kWays) {
    for (const std::size_t offset : kOffsets) {
      for (const std::size_t length : kLengths) {
        const About about{fmt::format("{}, {} bytes at {}", way.words, length, offset)};
        const std::string name = file_with(before);
        std::string wanted = before;
        const std::string data = pattern(length, 7);
        wanted.resize(std::max(wanted.size(), offset + length), '\0');
        wanted.replace(offset, length, data);
        const UniqueFd fd = opened(name, O_RDWR | way.flags);
        expect(static_cast<long>(length),
               ::pwrite(fd.get(), data.data(), length, static_cast<off_t>(offset)), "are written");
        holds(contents(name) == wanted, "are read back, with the rest as it was");
      }
    }
  }
}

CASE("positions") {
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT);
  expect(5, ::write(fd.get(), "first", 5), "bytes written");
  expect(5, ::lseek(fd.get(), 0, SEEK_CUR), "the position behind what was written");
  expect(3, ::pwrite(fd.get(), "abc", 3, 100), "bytes of pwrite");
  expect(5, ::lseek(fd.get(), 0, SEEK_CUR), "the position after pwrite");
  expect(0, ::write(fd.get(), "x", 0), "bytes of a write of nothing");
  const UniqueFd copy{::dup(fd.get())};
  expect(2, ::write(copy.get(), "!!", 2), "bytes written to a duplicate");
  expect(7, ::lseek(fd.get(), 0, SEEK_CUR), "the position that duplicates share");
  const UniqueFd other = opened(name, O_RDWR);
  expect(0, ::lseek(other.get(), 0, SEEK_CUR), "the position of another open");
  expect(103, status(name).st_size, "the size");
}

CASE("appending") {
  const std::string name = file_with("begin");
  const UniqueFd one = opened(name, O_WRONLY | O_APPEND);
  const UniqueFd two = opened(name, O_WRONLY | O_APPEND);
  expect(2, ::write(one.get(), "11", 2), "bytes that one appends");
  expect(2, ::write(two.get(), "22", 2), "bytes that another appends");
  expect(2, ::write(one.get(), "33", 2), "bytes that the first appends again");
  expect("begin112233", contents(name), "appended text");
  expect(0, ::lseek(one.get(), 0, SEEK_SET), "a position that was set");
  expect(1, ::write(one.get(), "4", 1), "bytes appended after that");
  expect("begin1122334", contents(name), "appended text ignores the position");
  expect(1, ::pwrite(one.get(), "5", 1, 0), "bytes of pwrite with O_APPEND");
  expect("begin11223345", contents(name), "pwrite with O_APPEND appends (Linux)");
  char byte = '6';
  const iovec piece{.iov_base = &byte, .iov_len = 1};
  const UniqueFd plain = opened(name, O_RDWR);
  expect(1, ::pwritev2(plain.get(), &piece, 1, 0, RWF_APPEND), "bytes of pwritev2 with RWF_APPEND");
  expect("begin112233456", contents(name), "pwritev2 with RWF_APPEND appends");
  require(::fcntl(plain.get(), F_SETFL, O_APPEND), "fcntl");
  expect(1, ::write(plain.get(), "7", 1), "bytes written after O_APPEND was set");
  expect("begin1122334567", contents(name), "O_APPEND that is set later appends");
  // Of many writers each appends whole lines.
  const std::string shared = new_file();
  for (int child = 0; child < 4; ++child) {
    if (::fork() == 0) {
      const UniqueFd fd{::open(shared.c_str(), O_WRONLY | O_APPEND)};
      const std::string line(99, static_cast<char>('a' + child));
      for (int i = 0; i < 50; ++i) {
        if (::write(fd.get(), (line + "\n").data(), 100) != 100) ::_exit(1);
      }
      ::_exit(0);
    }
  }
  for (int child = 0; child < 4; ++child) {
    require(in_child([] { return Outcome{0}; }), "a child");
  }
  while (::wait(nullptr) > 0) continue;
  const std::string all = contents(shared);
  bool whole = all.size() == 4 * 50 * 100;
  for (std::size_t at = 0; whole && at < all.size(); at += 100) {
    whole = all.find_first_not_of(all[at], at) == at + 99 && all[at + 99] == '\n';
  }
  holds(whole, "four processes append 50 lines each, and all are whole");
}

CASE("pieces") {
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT);
  std::string parts[] = {"one", "", "three", pattern(5000)};
  iovec pieces[4];
  for (int i = 0; i < 4; ++i) pieces[i] = {.iov_base = parts[i].data(), .iov_len = parts[i].size()};
  expect(5008, ::writev(fd.get(), pieces, 4), "bytes of writev");
  holds(contents(name) == "onethree" + parts[3], "writev writes the pieces in order");
  expect(5008, ::pwritev(fd.get(), pieces, 4, 10'000), "bytes of pwritev");
  expect(15'008, status(name).st_size, "the size after pwritev");
  expect(0, ::writev(fd.get(), pieces, 0), "bytes of writev of no pieces");
  fails(EINVAL, ::writev(fd.get(), pieces, IOV_MAX + 1), "writev of too many pieces");
  fails(EINVAL, ::writev(fd.get(), pieces, -1), "writev of less than no pieces");
  fails(EOPNOTSUPP, ::pwritev2(fd.get(), pieces, 1, 0, 0x8000),
        "pwritev2 with flags that are none");
  works(::pwritev2(fd.get(), pieces, 1, 0, RWF_DSYNC), "pwritev2 with RWF_DSYNC");
  works(::pwritev2(fd.get(), pieces, 1, 0, RWF_SYNC), "pwritev2 with RWF_SYNC");
}

CASE("what cannot be written") {
  const std::string name = new_file();
  const UniqueFd reader = opened(name, O_RDONLY);
  fails(EBADF, ::write(reader.get(), "x", 1), "to a file that is open for reading");
  fails(EBADF, ::write(-1, "x", 1), "to no file");
  const UniqueFd directory = opened(".", O_RDONLY);
  fails(EBADF, ::write(directory.get(), "x", 1), "to a directory");
  const UniqueFd fd = opened(name, O_RDWR);
  fails(EFAULT, ::write(fd.get(), kBadAddress, 10), "from outside of memory");
  expect(0, status(name).st_size, "the size after a write from outside of memory");
  fails(EINVAL, ::pwrite(fd.get(), "x", 1, -1), "in front of the file");
  fails(EINVAL, ::pwrite(fd.get(), "x", 1, LONG_MAX), "behind the last byte there can be");
  // The second page is not there.
  void* const memory =
      ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(::munmap(static_cast<char*>(memory) + 4096, 4096), "munmap");
  const ssize_t got = ::pwrite(fd.get(), memory, 8192, 0);
  holds(got == 4096 || (got == -1 && errno == EFAULT),
        "half of it outside of memory: what is there is written, or EFAULT");
}

CASE("times") {
  const std::string name = file_with("text");
  for (const char* const way : {"of a byte", "of nothing", "that overwrites", "that appends"}) {
    const UniqueFd fd = opened(name, O_WRONLY);
    const Times times{name};
    if (way == std::string_view{"that appends"}) ::lseek(fd.get(), 0, SEEK_END);
    require(::write(fd.get(), "abcd",
                    way == std::string_view{"of nothing"}  ? 0
                    : way == std::string_view{"of a byte"} ? 1
                                                           : 4),
            "write");
    expect(way == std::string_view{"of nothing"} ? "none" : "mtime ctime", times.changed(),
           fmt::format("a write {} changes", way));
    holds(times.are_now(), fmt::format("a write {} gives the time of that moment", way));
    require(::fsync(fd.get()), "fsync");
    expect(way == std::string_view{"of nothing"} ? "none" : "mtime ctime", times.changed(),
           fmt::format("a write {} and fsync change", way));
  }
}

CASE("RLIMIT_FSIZE") {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{.rlim_cur = 10'000, .rlim_max = RLIM_INFINITY};
  require(::setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  for (const int flags : {0, O_SYNC, O_APPEND}) {
    const About about{flags == 0 ? "buffered" : flags == O_SYNC ? "O_SYNC" : "O_APPEND"};
    const std::string name = fresh();
    const UniqueFd fd = opened(name, O_RDWR | O_CREAT | flags);
    const std::string data = pattern(20'000);
    expect(9'000, ::write(fd.get(), data.data(), 9'000), "bytes within the limit");
    expect(1'000, ::write(fd.get(), data.data(), 5'000), "bytes up to the limit");
    fails(EFBIG, ::write(fd.get(), data.data(), 1), "behind the limit");
    expect(10'000, status(name).st_size, "the size at the limit");
    if (flags == 0) {
      fails(EFBIG, ::pwrite(fd.get(), data.data(), 10, 50'000), "far behind the limit");
      expect(10, ::pwrite(fd.get(), data.data(), 10, 0), "bytes at the beginning");
      fails(EFBIG, ::fallocate(fd.get(), 0, 0, 20'000), "fallocate behind the limit");
    }
  }
  ::signal(SIGXFSZ, SIG_DFL);
  fails(EINTR, in_child([]() -> Outcome {
          const UniqueFd fd{::open("killer", O_RDWR | O_CREAT, 0644)};
          return ::pwrite(fd.get(), "x", 1, 20'000);
        }),
        "behind the limit by a process that dies of signals");
}

CASE("far away") {
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT);
  for (const int bits : {31, 32, 33, 40, 43, 44, 52, 59, 61, 62}) {
    const off_t offset = (1L << bits) - 3;
    expect(6, ::pwrite(fd.get(), "across", 6, offset),
           fmt::format("bytes written across 2^{}", bits));
    char text[7] = {};
    expect(6, ::pread(fd.get(), text, 6, offset), fmt::format("bytes read across 2^{}", bits));
    expect("across", text, fmt::format("what is read across 2^{}", bits));
    expect(offset + 6, status(name).st_size, fmt::format("the size with data across 2^{}", bits));
    works(::fsync(fd.get()), fmt::format("fsync of data across 2^{}", bits));
  }
}

}  // namespace
}  // namespace posix
