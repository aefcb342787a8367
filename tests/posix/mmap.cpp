// mmap(2), msync(2): memory that is a file.
#include <sys/mman.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "mmap";

// A mapping with one owner.
class Mapping {
 public:
  Mapping(int fd, std::size_t bytes, int protection, int flags, off_t offset = 0)
      : bytes_(bytes),
        memory_(::mmap(nullptr, bytes, protection, flags, fd, offset)),
        error_(memory_ == MAP_FAILED ? errno : 0) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (error_ == 0) ::munmap(memory_, bytes_);
  }
  Outcome outcome() const {
    errno = error_;
    return error_ == 0 ? 0 : -1;
  }
  char* data() const {
    require(outcome(), "mmap");
    return static_cast<char*>(memory_);
  }
  std::string_view text() const { return {data(), bytes_}; }

 private:
  std::size_t bytes_;
  void* memory_;
  int error_;
};

// The signal that a child dies of, or 0.
int dies_of(const std::function<void()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    work();
    ::_exit(0);
  }
  int ended = 0;
  ::waitpid(pid, &ended, 0);
  return WIFSIGNALED(ended) ? WTERMSIG(ended) : 0;
}

void touch(const volatile char* byte) { static_cast<void>(*byte == 0); }

CASE("shared") {
  const std::string all = pattern(20'000);
  const std::string name = file_with(all);
  const UniqueFd fd = opened(name, O_RDWR);
  const Mapping one{fd.get(), 20'000, PROT_READ | PROT_WRITE, MAP_SHARED};
  const Mapping two{fd.get(), 20'000, PROT_READ, MAP_SHARED};
  holds(one.text() == all, "a mapping shows the file");
  std::memcpy(one.data() + 5000, "changed", 7);
  holds(two.text().substr(5000, 7) == "changed", "another mapping sees a change");
  expect("changed", contents(name).substr(5000, 7), "read sees a change of a mapping");
  require(::pwrite(fd.get(), "written", 7, 9000), "pwrite");
  expect("written", two.text().substr(9000, 7), "a mapping sees a write");
  works(::msync(one.data(), 20'000, MS_SYNC), "msync with MS_SYNC");
  works(::msync(one.data(), 20'000, MS_ASYNC), "msync with MS_ASYNC");
  works(::msync(one.data(), 20'000, MS_INVALIDATE), "msync with MS_INVALIDATE");
  fails(EINVAL, ::msync(one.data() + 1, 100, MS_SYNC), "msync of an odd address");
  fails(EINVAL, ::msync(one.data(), 100, MS_SYNC | MS_ASYNC), "msync with MS_SYNC and MS_ASYNC");
  expect(20'000, status(name).st_size, "the size");
  expect(0, dies_of([&] { std::memcpy(one.data(), "child", 5); }),
         "signals of a child that writes");
  expect("child", two.text().substr(0, 5), "a mapping sees what a child writes");
}

CASE("private") {
  const std::string all = pattern(20'000);
  const std::string name = file_with(all);
  const UniqueFd fd = opened(name, O_RDONLY);
  const Mapping mapping{fd.get(), 20'000, PROT_READ | PROT_WRITE, MAP_PRIVATE};
  std::memcpy(mapping.data() + 5000, "changed", 7);
  holds(contents(name) == all, "a change stays in the process");
  const UniqueFd writer = opened(name, O_RDWR);
  require(::pwrite(writer.get(), "written", 7, 5000), "pwrite");
  expect("changed", mapping.text().substr(5000, 7),
         "a page that was changed is no longer the file");
}

CASE("the end of the file") {
  const std::string name = file_with(pattern(5000));
  const UniqueFd fd = opened(name, O_RDWR);
  const Mapping mapping{fd.get(), 16'384, PROT_READ | PROT_WRITE, MAP_SHARED};
  expect(0, mapping.data()[5000], "the byte behind the end");
  expect(0, mapping.data()[8191], "the last byte of the last page");
  expect(SIGBUS, dies_of([&] { touch(mapping.data() + 8192); }),
         "the signal of a read behind the last page");
  expect(SIGBUS, dies_of([&] { mapping.data()[12'288] = 'x'; }),
         "the signal of a write behind the last page");
  std::memset(mapping.data() + 5000, 'x', 100);
  require(::msync(mapping.data(), 8192, MS_SYNC), "msync");
  expect(5000, status(name).st_size, "the size after writing behind the end in the last page");
  require(::ftruncate(fd.get(), 16'384), "ftruncate");
  const std::string grown = contents(name);
  holds(grown.find_first_not_of('\0', 5000) == grown.npos,
        "what was written behind the end does not appear when the file grows");
  mapping.data()[12'288] = 'y';
  expect("y", contents(name).substr(12'288, 1), "a page that the file has grown to can be written");
  require(::ftruncate(fd.get(), 100), "ftruncate");
  expect(SIGBUS, dies_of([&] { touch(mapping.data() + 4096); }),
         "the signal of a read behind what was truncated");
  expect(0, mapping.data()[100], "the byte behind what was truncated");
}

CASE("holes and new files") {
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT);
  require(::ftruncate(fd.get(), 10 << 20), "ftruncate");
  {
    const Mapping mapping{fd.get(), 10 << 20, PROT_READ | PROT_WRITE, MAP_SHARED};
    holds(mapping.text().find_first_not_of('\0') == std::string_view::npos, "a hole is zeros");
    for (std::size_t at = 0; at < 10 << 20; at += 1 << 20)
      std::memcpy(mapping.data() + at, "page", 4);
    require(::msync(mapping.data(), 10 << 20, MS_SYNC), "msync");
  }
  require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
  const std::string all = contents(name);
  bool right = true;
  for (std::size_t at = 0; at < 10 << 20; at += 1 << 20)
    right = right && all.compare(at, 4, "page") == 0;
  holds(right, "what was written to holes is read from the disk");
  holds(status(name).st_blocks < 2000, "pages that were not written have no blocks");
}

CASE("times") {
  const std::string name = file_with(pattern(8192));
  const UniqueFd fd = opened(name, O_RDWR);
  require(::fsync(fd.get()), "fsync");
  const Times times{name};
  const Mapping mapping{fd.get(), 8192, PROT_READ | PROT_WRITE, MAP_SHARED};
  mapping.data()[10] = 'x';
  require(::msync(mapping.data(), 8192, MS_SYNC), "msync");
  const std::string seen = times.changed();
  holds(seen.find("mtime ctime") != seen.npos,
        "a write to a mapping and msync change mtime and ctime");
  holds(times.are_now(), "to that moment");
}

CASE("what cannot be mapped") {
  const std::string name = file_with(pattern(5000));
  const UniqueFd reader = opened(name, O_RDONLY);
  const UniqueFd writer = opened(name, O_WRONLY);
  const UniqueFd both = opened(name, O_RDWR);
  const UniqueFd directory = opened(".", O_RDONLY);
  const auto map = [](const UniqueFd& fd, int protection, int flags, off_t offset = 0) {
    return Mapping{fd.get(), 4096, protection, flags, offset}.outcome();
  };
  fails(EACCES, map(reader, PROT_READ | PROT_WRITE, MAP_SHARED),
        "shared for writing, of a file that is open for reading");
  works(map(reader, PROT_READ | PROT_WRITE, MAP_PRIVATE),
        "private for writing, of a file that is open for reading");
  fails(EACCES, map(writer, PROT_READ, MAP_SHARED), "of a file that is open for writing");
  fails(EACCES, map(writer, PROT_WRITE, MAP_SHARED),
        "for writing, of a file that is open for writing only");
  works(map(both, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED),
        "for everything, of a file that is open for both");
  fails(ENODEV, map(directory, PROT_READ, MAP_SHARED), "of a directory");
  fails(EINVAL, map(both, PROT_READ, MAP_SHARED, 100), "from an odd offset");
  works(map(both, PROT_READ, MAP_SHARED, 1 << 20), "from behind the end");
  fails(EBADF, Mapping(-1, 4096, PROT_READ, MAP_SHARED).outcome(), "of no file");
  fails(EINVAL, Mapping(both.get(), 0, PROT_READ, MAP_SHARED).outcome(), "of nothing");
  fails(EOPNOTSUPP, map(both, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC), "with MAP_SYNC");
  const Mapping mapping{reader.get(), 4096, PROT_READ, MAP_SHARED};
  fails(EACCES, ::mprotect(mapping.data(), 4096, PROT_READ | PROT_WRITE),
        "mprotect for writing, of a file that is open for reading");
}

CASE("longer than the descriptor and the name") {
  const std::string name = file_with("still mapped");
  UniqueFd fd = opened(name, O_RDWR);
  const Mapping mapping{fd.get(), 12, PROT_READ | PROT_WRITE, MAP_SHARED};
  fd.reset();
  std::memcpy(mapping.data(), "STILL", 5);
  expect("STILL mapped", contents(name), "a mapping outlives its descriptor");
  require(::unlink(name.c_str()), "unlink");
  expect("STILL mapped", mapping.text(), "a mapping outlives its name");
  works(::msync(mapping.data(), 12, MS_SYNC), "msync of a file without a name");
}

CASE("parts of a file") {
  const std::string all = pattern(100'000);
  const UniqueFd fd = opened(file_with(all), O_RDWR);
  for (const long page : {0L, 1L, 7L, 23L}) {
    const Mapping mapping{fd.get(), 4096, PROT_READ | PROT_WRITE, MAP_SHARED, page * 4096};
    holds(
        mapping.text() == std::string_view{all}.substr(static_cast<std::size_t>(page) * 4096, 4096),
        fmt::format("page {} is what it should be", page));
  }
  const Mapping mapping{fd.get(), 8192, PROT_READ, MAP_SHARED};
  works(::madvise(mapping.data(), 8192, MADV_DONTNEED), "madvise with MADV_DONTNEED");
  holds(mapping.text() == std::string_view{all}.substr(0, 8192),
        "what madvise has dropped comes back");
  works(::mlock(mapping.data(), 8192), "mlock");
}

}  // namespace
}  // namespace posix
