// fsync(2), fdatasync(2), sync_file_range(2), syncfs(2), sync(2): that they are answered. What they promise
// is tried with crashes, not here.
#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "fsync";

CASE("every way") {
  const std::string name = fresh();
  const UniqueFd fd = opened(name, O_RDWR | O_CREAT);
  for (int round = 0; round < 3; ++round) {
    const About about{round == 0   ? "of an empty file,"
                      : round == 1 ? "of a file with data,"
                                   : "of a file without changes,"};
    if (round == 1) require(::write(fd.get(), "text", 4), "write");
    works(::fsync(fd.get()), "fsync");
    works(::fdatasync(fd.get()), "fdatasync");
    works(::sync_file_range(
              fd.get(), 0, 0,
              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER),
          "sync_file_range");
    works(::syncfs(fd.get()), "syncfs");
  }
  const UniqueFd reader = opened(name, O_RDONLY);
  works(::fsync(reader.get()), "fsync of a file that is open for reading");
  const UniqueFd directory = opened(".", O_RDONLY);
  works(::fsync(directory.get()), "fsync of a directory");
  works(::fdatasync(directory.get()), "fdatasync of a directory");
  works(::syncfs(directory.get()), "syncfs of a directory");
  const std::string gone = new_directory();
  const UniqueFd removed = opened(gone, O_RDONLY);
  remove(gone);
  works(::fsync(removed.get()), "fsync of a directory that was removed");
  ::sync();
  holds(true, "sync returns");
}

CASE("what cannot be synced") {
  fails(EBADF, ::fsync(-1), "fsync of no file");
  fails(EBADF, ::fdatasync(-1), "fdatasync of no file");
  fails(EBADF, ::syncfs(-1), "syncfs of no file");
  require(::mkfifo("fifo", 0644), "mkfifo");
  const UniqueFd fifo = opened("fifo", O_RDWR);
  fails(EINVAL, ::fsync(fifo.get()), "fsync of a FIFO");
  fails(EINVAL, ::fdatasync(fifo.get()), "fdatasync of a FIFO");
  fails(ESPIPE, ::sync_file_range(fifo.get(), 0, 0, 0), "sync_file_range of a FIFO");
  const UniqueFd file = new_open_file();
  fails(EINVAL, ::sync_file_range(file.get(), 0, 0, 0x100),
        "sync_file_range with flags that are none");
  fails(EINVAL, ::sync_file_range(file.get(), -1, 0, 0),
        "sync_file_range in front of the beginning");
}

CASE("blocks are there after it") {
  for (const int bytes : {1, 4096, 100'000}) {
    const std::string name = file_with(pattern(static_cast<std::size_t>(bytes)));
    const UniqueFd fd = opened(name, O_RDONLY);
    require(::fsync(fd.get()), "fsync");
    expect((bytes + 4095) / 4096 * 8, status(name).st_blocks,
           fmt::format("blocks of {} bytes", bytes));
    require(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    holds(contents(name) == pattern(static_cast<std::size_t>(bytes)),
          fmt::format("{} bytes are on the disk", bytes));
  }
}

}  // namespace
}  // namespace posix
