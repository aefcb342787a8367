// copy_file_range(2), sendfile(2), splice(2), and files that share their data (FICLONE).
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>

#include <algorithm>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "copy_range";

CASE("every offset and length") {
  const std::string all = pattern(200'000, 1);
  const std::string source = file_with(all);
  const UniqueFd in = opened(source, O_RDONLY);
  const std::string before = pattern(50'000, 2);
  for (const loff_t from : {0L, 1L, 4096L, 150'000L, 199'999L, 200'000L, 300'000L}) {
    for (const loff_t to : {0L, 5L, 4096L, 50'000L, 80'000L}) {
      for (const std::size_t length : {1UL, 4096UL, 10'000UL, 200'000UL}) {
        const About about{fmt::format("{} bytes from {} to {}", length, from, to)};
        const std::string name = file_with(before);
        const UniqueFd out = opened(name, O_RDWR);
        loff_t in_at = from;
        loff_t out_at = to;
        const std::size_t begin = std::min<std::size_t>(static_cast<std::size_t>(from), all.size());
        const std::size_t wanted = std::min(length, all.size() - begin);
        // A file system may copy less at a time.
        ssize_t got = 1;
        std::size_t left = length;
        while (left > 0 && got > 0) {
          got = ::copy_file_range(in.get(), &in_at, out.get(), &out_at, left, 0);
          if (got > 0) left -= static_cast<std::size_t>(got);
        }
        expect(static_cast<long>(wanted), static_cast<long>(length - left), "are copied");
        std::string text = before;
        if (wanted > 0) {
          text.resize(std::max(text.size(), static_cast<std::size_t>(to) + wanted), '\0');
          text.replace(static_cast<std::size_t>(to), wanted, all, begin, wanted);
        }
        holds(contents(name) == text, "are there, and the rest as it was");
        holds(in_at == from + static_cast<loff_t>(wanted) &&
                  out_at == to + static_cast<loff_t>(wanted),
              "move both offsets");
      }
    }
  }
}

CASE("a copy and its source change apart") {
  const std::string all = pattern(3 * 1024 * 1024 + 1000, 3);
  std::string one = all;
  std::string two = all;
  const std::string source = file_with(all);
  const std::string copy = fresh();
  const UniqueFd a = opened(source, O_RDWR);
  const UniqueFd b = opened(copy, O_RDWR | O_CREAT);
  const auto copy_all = [&] {
    loff_t in_at = 0;
    loff_t out_at = 0;
    while (in_at < static_cast<loff_t>(all.size())) {
      if (::copy_file_range(a.get(), &in_at, b.get(), &out_at, all.size(), 0) <= 0) break;
    }
    expect(static_cast<long>(all.size()), static_cast<long>(out_at), "bytes are copied");
  };
  // What the source has in the page cache and nowhere else is copied, too.
  const auto change = [](const UniqueFd& file, std::string& model, std::size_t at,
                         const std::string& text) {
    require(::pwrite(file.get(), text.data(), text.size(), static_cast<off_t>(at)), "pwrite");
    model.resize(std::max(model.size(), at + text.size()));
    model.replace(at, text.size(), text);
  };
  change(a, one, 5000, "just before the copy");
  two = one;
  copy_all();
  change(a, one, 4096, std::string(4096, 'A'));
  change(b, two, 100, std::string(9000, 'B'));
  change(b, two, all.size(), std::string(500, 'C'));
  change(a, one, all.size(), std::string(50, 'D'));
  require(::ftruncate(a.get(), 2'000'001), "ftruncate");
  one.resize(2'000'001);
  holds(contents(source) == one, "the source has its own changes alone");
  holds(contents(copy) == two, "the copy has its own changes alone");
  require(::fsync(b.get()), "fsync");
  require(::unlink(source.c_str()), "unlink");
  holds(contents(copy) == two, "the copy outlives its source");
}

CASE("blocks that a copy shares count for each file") {
  const std::string source = file_with(pattern(400'000));
  const UniqueFd in = opened(source, O_RDONLY);
  require(::fsync(in.get()), "fsync");
  const std::string copy = fresh();
  const UniqueFd out = opened(copy, O_RDWR | O_CREAT);
  loff_t at = 0;
  while (at < 400'000) {
    if (::copy_file_range(in.get(), &at, out.get(), nullptr, 400'000, 0) <= 0) break;
  }
  require(::fsync(out.get()), "fsync");
  holds(status(out).st_blocks * 512 >= 400'000, "the copy has blocks");
  holds(status(in).st_blocks * 512 >= 400'000, "the source has blocks");
}

CASE("positions and one file") {
  const std::string source = file_with(pattern(10'000));
  const UniqueFd in = opened(source, O_RDWR);
  const UniqueFd out = new_open_file();
  expect(4000, ::copy_file_range(in.get(), nullptr, out.get(), nullptr, 4000, 0),
         "bytes copied at the positions");
  expect(4000, ::lseek(in.get(), 0, SEEK_CUR), "the position of the source");
  expect(4000, ::lseek(out.get(), 0, SEEK_CUR), "the position of the copy");
  loff_t from = 0;
  loff_t to = 20'000;
  expect(5000, ::copy_file_range(in.get(), &from, in.get(), &to, 5000, 0),
         "bytes copied within a file");
  expect(25'000, status(in).st_size, "the size after copying within a file");
  from = 0;
  to = 100;
  fails(EINVAL, ::copy_file_range(in.get(), &from, in.get(), &to, 5000, 0), "onto itself");
  from = -5;
  fails(EOVERFLOW, ::copy_file_range(in.get(), &from, out.get(), nullptr, 10, 0),
        "from in front of the beginning (Linux)");
  const Times times{source};
  const std::string target = file_with("old");
  const Times changed{target};
  {
    const UniqueFd reader = opened(source, O_RDONLY);
    const UniqueFd writer = opened(target, O_WRONLY);
    require(::copy_file_range(reader.get(), nullptr, writer.get(), nullptr, 100, 0),
            "copy_file_range");
  }
  expect("mtime ctime", changed.changed(), "the target changes");
}

CASE("what cannot be copied") {
  const std::string source = file_with("text");
  const UniqueFd in = opened(source, O_RDONLY);
  const UniqueFd out = new_open_file();
  fails(EBADF, ::copy_file_range(-1, nullptr, out.get(), nullptr, 4, 0), "from no file");
  fails(EBADF, ::copy_file_range(in.get(), nullptr, in.get(), nullptr, 4, 0),
        "to a file that is open for reading");
  const UniqueFd write_only = opened(source, O_WRONLY);
  fails(EBADF, ::copy_file_range(write_only.get(), nullptr, out.get(), nullptr, 4, 0),
        "from a file that is open for writing");
  const UniqueFd append = opened(fresh(), O_WRONLY | O_CREAT | O_APPEND);
  fails(EBADF, ::copy_file_range(in.get(), nullptr, append.get(), nullptr, 4, 0),
        "to a file that is open with O_APPEND");
  const UniqueFd directory = opened(".", O_RDONLY);
  fails(EISDIR, ::copy_file_range(directory.get(), nullptr, out.get(), nullptr, 4, 0),
        "from a directory");
  fails(EINVAL, ::copy_file_range(in.get(), nullptr, out.get(), nullptr, 4, 1),
        "with flags that are none");
  require(::mkfifo("fifo", 0644), "mkfifo");
  const UniqueFd fifo = opened("fifo", O_RDWR);
  fails(EINVAL, ::copy_file_range(in.get(), nullptr, fifo.get(), nullptr, 4, 0), "to a FIFO");
  expect(0, ::copy_file_range(in.get(), nullptr, out.get(), nullptr, 0, 0),
         "bytes copied of nothing");
}

CASE("holes") {
  const UniqueFd in = new_open_file();
  require(::pwrite(in.get(), "begin", 5, 0), "pwrite");
  require(::pwrite(in.get(), "end", 3, 5 << 20), "pwrite");
  const std::string name = fresh();
  const UniqueFd out = opened(name, O_RDWR | O_CREAT);
  loff_t from = 0;
  loff_t to = 0;
  ssize_t got = 1;
  while (got > 0) got = ::copy_file_range(in.get(), &from, out.get(), &to, 100 << 20, 0);
  expect((5 << 20) + 3, status(name).st_size, "the size of the copy of a file with a hole");
  const std::string all = contents(name);
  holds(all.starts_with("begin") && all.ends_with("end"),
        "the copy of a file with a hole has its ends");
}

CASE("sendfile and splice") {
  const std::string all = pattern(300'000);
  const UniqueFd in = opened(file_with(all), O_RDONLY);
  const std::string name = fresh();
  const UniqueFd out = opened(name, O_RDWR | O_CREAT);
  off_t at = 0;
  while (at < 300'000 && ::sendfile(out.get(), in.get(), &at, 300'000) > 0) continue;
  holds(contents(name) == all, "sendfile from file to file");
  int ends[2];
  require(::pipe(ends), "pipe");
  const std::string spliced = fresh();
  const UniqueFd target = opened(spliced, O_RDWR | O_CREAT);
  loff_t from = 0;
  loff_t to = 0;
  while (to < 300'000) {
    const ssize_t got = ::splice(in.get(), &from, ends[1], nullptr, 65'536, 0);
    if (got <= 0) break;
    ssize_t left = got;
    while (left > 0) {
      const ssize_t put =
          ::splice(ends[0], nullptr, target.get(), &to, static_cast<std::size_t>(left), 0);
      if (put <= 0) break;
      left -= put;
    }
    if (left != 0) break;
  }
  holds(contents(spliced) == all, "splice through a pipe");
}

CASE("shared data") {
  const std::string all = pattern(100'000);
  const UniqueFd in = opened(file_with(all), O_RDWR);
  const std::string name = fresh();
  const UniqueFd out = opened(name, O_RDWR | O_CREAT);
  const Outcome cloned = ::ioctl(out.get(), FICLONE, in.get());
  works(cloned, "FICLONE");
  if (cloned.error != 0) return;
  holds(contents(name) == all, "FICLONE makes a copy");
  file_clone_range range{
      .src_fd = in.get(), .src_offset = 4096, .src_length = 8192, .dest_offset = 0};
  works(::ioctl(out.get(), FICLONERANGE, &range), "FICLONERANGE");
  require(::pwrite(in.get(), "changed", 7, 0), "pwrite");
  holds(contents(name).substr(0, 4) == all.substr(4096, 4),
        "a clone does not see what is written to the source");
  range.src_offset = 1;
  fails(EINVAL, ::ioctl(out.get(), FICLONERANGE, &range), "FICLONERANGE that is not aligned");
  fails(EXDEV, ::ioctl(out.get(), FICLONE, opened("/bin/sh", O_RDONLY).get()),
        "FICLONE from another file system");
  std::vector<std::uint64_t> memory((sizeof(file_dedupe_range) + sizeof(file_dedupe_range_info)) /
                                    8);
  auto* const same = reinterpret_cast<file_dedupe_range*>(memory.data());
  auto* const info = reinterpret_cast<file_dedupe_range_info*>(same + 1);
  const UniqueFd twin = opened(file_with(all), O_RDWR);
  const UniqueFd second = opened(file_with(all), O_RDWR);
  same->src_length = 65'536;
  same->dest_count = 1;
  info->dest_fd = second.get();
  works(::ioctl(twin.get(), FIDEDUPERANGE, same), "FIDEDUPERANGE");
  expect(FILE_DEDUPE_RANGE_SAME, info->status, "what FIDEDUPERANGE says of equal data");
}

}  // namespace
}  // namespace posix
