// O_DIRECT, aligned or not, and what it sees of cached data.
#include <sys/mman.h>

#include <cstring>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "direct";

// Memory that begins on a page.
char* pages() {
  void* const memory =
      ::mmap(nullptr, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(memory == MAP_FAILED ? -1 : 0, "mmap");
  return static_cast<char*>(memory);
}

CASE("aligned") {
  char* const memory = pages();
  for (const std::size_t offset : {0UL, 4096UL, 1UL << 20, (1UL << 20) - 4096}) {
    for (const std::size_t length : {4096UL, 8192UL, 65'536UL, 1UL << 20, (1UL << 20) + 4096}) {
      const About about{fmt::format("{} bytes at {}", length, offset)};
      const std::string name = fresh();
      const UniqueFd fd = opened(name, O_RDWR | O_CREAT | O_DIRECT);
      const std::string data = pattern(length);
      std::memcpy(memory, data.data(), length);
      expect(static_cast<long>(length),
             ::pwrite(fd.get(), memory, length, static_cast<off_t>(offset)), "are written");
      std::memset(memory, 0, length);
      expect(static_cast<long>(length),
             ::pread(fd.get(), memory, length, static_cast<off_t>(offset)), "are read");
      holds(data == std::string_view(memory, length), "are what was written");
      std::string wanted(offset, '\0');
      wanted += data;
      holds(contents(name) == wanted, "are what a buffered read shows");
      expect(0, ::pread(fd.get(), memory, 4096, static_cast<off_t>(offset + length)),
             "have nothing behind them");
    }
  }
}

CASE("not aligned") {
  char* const memory = pages();
  const std::string name = file_with(pattern(100'000));
  const UniqueFd fd = opened(name, O_RDWR | O_DIRECT);
  struct Part {
    const char* words;
    std::size_t address;
    std::size_t length;
    long offset;
  };
  constexpr Part kParts[] = {{"an odd length", 0, 100, 0},
                             {"an odd offset", 0, 4096, 7},
                             {"odd memory", 3, 4096, 0},
                             {"everything odd", 5, 777, 333}};
  const Otherwise no = on_xfs(EINVAL, "it wants sectors of 512 bytes");
  for (const Part& part : kParts) {
    works(::pread(fd.get(), memory + part.address, part.length, part.offset),
          fmt::format("read with {}", part.words), no);
    works(::pwrite(fd.get(), memory + part.address, part.length, part.offset),
          fmt::format("write with {}", part.words), no);
  }
  expect(100'000 % 4096, ::pread(fd.get(), memory, 4096, 98'304), "bytes read of the last block");
  works(::pread(fd.get(), memory, 512, 512), "read of a sector of 512 bytes");
  works(::pwrite(fd.get(), memory, 512, 512), "write of a sector of 512 bytes");
}

CASE("beside cached data") {
  char* const memory = pages();
  const std::string name = fresh();
  const UniqueFd cached = opened(name, O_RDWR | O_CREAT);
  const UniqueFd direct = opened(name, O_RDWR | O_DIRECT);
  const std::string first = pattern(16'384, 1);
  require(::write(cached.get(), first.data(), first.size()), "write");
  expect(16'384, ::pread(direct.get(), memory, 16'384, 0),
         "bytes that O_DIRECT reads of what was just written");
  holds(first == std::string_view(memory, 16'384), "O_DIRECT reads what is only in memory");
  const std::string second = pattern(8192, 2);
  std::memcpy(memory, second.data(), second.size());
  require(::pwrite(direct.get(), memory, 8192, 4096), "pwrite");
  std::string wanted = first;
  wanted.replace(4096, 8192, second);
  holds(contents(name) == wanted, "a buffered read sees what O_DIRECT wrote over cached data");
  void* const mapped = ::mmap(nullptr, 16'384, PROT_READ, MAP_SHARED, cached.get(), 0);
  require(mapped == MAP_FAILED ? -1 : 0, "mmap");
  holds(wanted == std::string_view(static_cast<char*>(mapped), 16'384), "a mapping sees it, too");
  std::memset(memory, 'z', 4096);
  require(::pwrite(direct.get(), memory, 4096, 0), "pwrite");
  holds(static_cast<char*>(mapped)[100] == 'z',
        "a mapping that was read before sees what O_DIRECT writes");
}

CASE("times and size") {
  char* const memory = pages();
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT | O_DIRECT);
  const Times times{name};
  require(::write(fd.get(), memory, 4096), "write");
  expect("mtime ctime", times.changed(), "a direct write changes");
  holds(times.are_now(), "a direct write gives the time of that moment");
  expect(4096, status(name).st_size, "the size after a direct write");
  expect(8, status(name).st_blocks, "the blocks after a direct write");
  const Times again{name};
  expect(4096, ::pread(fd.get(), memory, 4096, 0), "bytes of a direct read");
  expect("atime", again.changed(), "a direct read changes");
  const UniqueFd append = opened(name, O_WRONLY | O_DIRECT | O_APPEND);
  expect(4096, ::write(append.get(), memory, 4096), "bytes appended directly");
  expect(8192, status(name).st_size, "the size after appending directly");
}

}  // namespace
}  // namespace posix
