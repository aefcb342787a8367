// truncate(2), ftruncate(2).
#include <sys/resource.h>

#include <csignal>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "truncate";

CASE("paths that lead nowhere") {
  path_errors("truncate of", [](const char* path) -> Outcome { return ::truncate(path, 0); });
}

CASE("from any length to any length") {
  for (const long from : {0L, 1L, 4095L, 4096L, 4097L, 100'000L, 1L << 20, (1L << 20) + 5}) {
    for (const long to : {0L, 1L, 4095L, 4096L, 4097L, 65'536L, 1L << 20, (2L << 20) + 1}) {
      const About about{fmt::format("from {} to {}", from, to)};
      std::string wanted = pattern(static_cast<std::size_t>(from));
      const std::string name = file_with(wanted);
      works(::truncate(name.c_str(), to), "works");
      wanted.resize(static_cast<std::size_t>(to), '\0');
      holds(contents(name) == wanted, "keeps what is in front and adds zeros");
      expect(to, status(name).st_size, "gives the size");
    }
  }
}

CASE("shorter and longer again") {
  const std::string name = file_with(pattern(10'000));
  const UniqueFd fd = opened(name, O_RDWR);
  for (const long middle : {0L, 100L, 4096L, 5000L, 9999L}) {
    require(::pwrite(fd.get(), pattern(10'000).data(), 10'000, 0), "pwrite");
    require(::ftruncate(fd.get(), middle), "ftruncate");
    require(::ftruncate(fd.get(), 10'000), "ftruncate");
    std::string wanted = pattern(10'000).substr(0, static_cast<std::size_t>(middle));
    wanted.resize(10'000, '\0');
    holds(contents(name) == wanted, fmt::format("what was behind {} does not come back", middle));
  }
  expect(10'000, ::lseek(fd.get(), 0, SEEK_END), "the end");
  require(::ftruncate(fd.get(), 10), "ftruncate");
  expect(10'000, ::lseek(fd.get(), 0, SEEK_CUR), "the position stays");
  expect(1, ::write(fd.get(), "x", 1), "bytes written behind the new end");
  expect(10'001, status(name).st_size, "the size after a write behind the new end");
}

CASE("times") {
  for (const long to : {0L, 100L, 5000L, 10'000L}) {
    const std::string name = file_with(pattern(5000));
    const Times times{name};
    require(::truncate(name.c_str(), to), "truncate");
    expect(to == 5000 ? "none" : "mtime ctime", times.changed(),
           fmt::format("truncate of 5000 bytes to {} changes", to));
    holds(times.are_now(),
          fmt::format("truncate of 5000 bytes to {} gives the time of that moment", to));
    const std::string other = file_with(pattern(5000));
    const UniqueFd fd = opened(other, O_RDWR);
    const Times again{other};
    require(::ftruncate(fd.get(), to), "ftruncate");
    expect("mtime ctime", again.changed(),
           fmt::format("ftruncate of 5000 bytes to {} changes", to));
  }
}

CASE("what cannot be truncated") {
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    const int wanted = kind == Kind::kDirectory ? EISDIR : kind == Kind::kSymlink ? ENOENT : EINVAL;
    if (kind != Kind::kFile)
      fails(wanted, ::truncate(name.c_str(), 0), fmt::format("of {}", a(kind)));
  }
  const std::string name = new_file(0644);
  fails(EINVAL, ::truncate(name.c_str(), -1), "to less than nothing");
  const UniqueFd reader = opened(name, O_RDONLY);
  fails(EINVAL, ::ftruncate(reader.get(), 0), "of a file that is open for reading");
  const UniqueFd writer = opened(name, O_WRONLY);
  fails(EINVAL, ::ftruncate(writer.get(), -1), "of an open file to less than nothing");
  fails(EBADF, ::ftruncate(-1, 0), "of no file");
  const UniqueFd directory = opened(".", O_RDONLY);
  fails(EINVAL, ::ftruncate(directory.get(), 0), "of an open directory");
  const std::string closed = file_with("text", 0444);
  const As alice{kAlice, kAlices};
  fails(EACCES, ::truncate(closed.c_str(), 0), "without permission to write");
}

CASE("limits") {
  const std::string name = new_file();
  for (const int bits : {31, 32, 40, 43, 50, 59}) {
    works(::truncate(name.c_str(), 1L << bits), fmt::format("to 2^{}", bits));
    expect(1L << bits, status(name).st_size, fmt::format("the size after truncate to 2^{}", bits));
    expect(0, status(name).st_blocks, fmt::format("blocks of a hole of 2^{}", bits));
  }
  works(::truncate(name.c_str(), INT64_MAX), "to 2^63 - 1");
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{.rlim_cur = 10'000, .rlim_max = RLIM_INFINITY};
  require(::setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  const std::string small = new_file();
  works(::truncate(small.c_str(), 10'000), "to RLIMIT_FSIZE");
  fails(EFBIG, ::truncate(small.c_str(), 10'001), "beyond RLIMIT_FSIZE");
  expect(10'000, status(small).st_size, "the size after truncate beyond RLIMIT_FSIZE");
  works(::truncate(small.c_str(), 5), "to less than RLIMIT_FSIZE");
  const UniqueFd fd = opened(small, O_WRONLY);
  fails(EFBIG, ::ftruncate(fd.get(), 20'000), "ftruncate beyond RLIMIT_FSIZE");
}

CASE("RLIMIT_FSIZE sends a signal") {
  const std::string name = new_file();
  const rlimit limit{.rlim_cur = 100, .rlim_max = RLIM_INFINITY};
  require(::setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  fails(EINTR, in_child([&]() -> Outcome { return ::truncate(name.c_str(), 200); }),
        "beyond RLIMIT_FSIZE by a process that dies of signals");
}

}  // namespace
}  // namespace posix
