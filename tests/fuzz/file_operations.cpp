#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "tests/fuzz/file_worker.hpp"

namespace dynamicfs::fuzz {
namespace {

struct Mode {
  int flags;
  ChangeKind kind;
  bool keep_size;
  const char* name;
};
constexpr Mode kModes[] = {
    {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ChangeKind::kZero, true, "punch"},
    {FALLOC_FL_ZERO_RANGE, ChangeKind::kZero, false, "zero range"},
    {FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, ChangeKind::kZero, true, "zero range"},
    {0, ChangeKind::kExtend, false, "fallocate"},
    {FALLOC_FL_KEEP_SIZE, ChangeKind::kExtend, true, "fallocate"}};

}  // namespace

int FileWorker::open(unsigned file, Way way) {
  UniqueFd& fd = handles_[file].fds[way];
  if (!fd) {
    constexpr int kFlags[kWays] = {O_RDWR, O_RDWR | O_DIRECT, O_RDWR | O_APPEND};
    fd = UniqueFd{::open(path(file).c_str(), kFlags[way])};
    expect(fd.get() >= 0, "open of " + path(file));
  }
  return fd.get();
}

// Of the whole file and what it may become.
std::uint8_t* FileWorker::map(unsigned file) {
  std::uint8_t*& map = handles_[file].map;
  if (map == nullptr) {
    const int fd = open(file, kBuffered);
    void* memory = ::mmap(nullptr, kFileMax, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                          static_cast<off_t>(base(file)));
    expect(memory != MAP_FAILED, "mmap of " + path(file));
    map = static_cast<std::uint8_t*>(memory);
  }
  return map;
}

void FileWorker::close(unsigned file) {
  Handles& handles = handles_[file];
  if (handles.map != nullptr) ::munmap(handles.map, kFileMax);
  handles.map = nullptr;
  for (UniqueFd& fd : handles.fds) fd.reset();
}

void FileWorker::create(unsigned file) {
  begin({.kind = ChangeKind::kCreate, .file = file}, "open");
  const UniqueFd fd{::open(path(file).c_str(), O_RDWR | O_CREAT | O_EXCL, 0644)};
  expect(fd.get() >= 0, "creation of " + path(file));
  if (base(file) != 0) {
    expect(::ftruncate(fd.get(), static_cast<off_t>(base(file))) == 0, "truncate of " + path(file));
  }
  // What a kill takes is content, not the file itself; `exact` is about names as well.
  if (options_.crash && !options_.exact) expect(::fsync(fd.get()) == 0, "fsync of " + path(file));
}

void FileWorker::write_all(int fd, const Bytes& data, std::uint64_t at, const std::string& what) {
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t put =
        ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(at + done));
    expect(put > 0, what);
    done += static_cast<std::size_t>(put);
  }
}

void FileWorker::write(Rng& rng, unsigned file) {
  Range range = draw_write(rng, file, false);
  const std::uint64_t way = rng.below(4);
  const std::uint64_t size = bytes(file).size();
  const bool appends = way == 0 && size < kFileMax;
  if (appends) range = {size, std::min(range.length, kFileMax - size)};
  const int fd = open(file, appends ? kAppend : kBuffered);
  begin({.kind = ChangeKind::kWrite, .file = file, .at = range.at, .length = range.length},
        appends    ? "O_APPEND"
        : way == 1 ? "pwritev"
                   : "pwrite");
  Bytes data(range.length);
  fill(data, {.worker = options_.worker, .file = file, .step = step_}, range.at);
  if (appends) {
    std::size_t done = 0;
    while (done < data.size()) {
      const ssize_t put = ::write(fd, data.data() + done, data.size() - done);
      expect(put > 0, "append to " + path(file));
      done += static_cast<std::size_t>(put);
    }
  } else if (way == 1) {
    const std::size_t first = rng.below(data.size() + 1);
    iovec parts[2] = {{data.data(), first}, {data.data() + first, data.size() - first}};
    const ssize_t put = ::pwritev(fd, parts, 2, static_cast<off_t>(base(file) + range.at));
    expect(put >= 0, "pwritev to " + path(file));
    if (static_cast<std::size_t>(put) != data.size()) {
      if (!options_.crash) violated(file, fmt::format("pwritev wrote {}", put));
      const Bytes rest(data.begin() + put, data.end());
      write_all(fd, rest, base(file) + range.at + static_cast<std::uint64_t>(put), "pwritev");
    }
  } else {
    write_all(fd, data, base(file) + range.at, "write to " + path(file));
  }
}

void FileWorker::write_direct(Rng& rng, unsigned file) {
  // FUSE takes direct writes that are aligned to nothing, too; the merging is then the daemon's.
  Range range = draw_write(rng, file, !(direct_to_a_byte_ && rng.chance(25)));
  if (options_.exact) {
    // One request, in one window.
    const std::uint64_t room = kWindow - range.at % kWindow;
    range.length = std::min({range.length, room, kWindow / 2});
  }
  const int fd = open(file, kDirect);
  begin({.kind = ChangeKind::kWrite, .file = file, .at = range.at, .length = range.length},
        "direct");
  const std::span data{direct_memory_, range.length};
  fill(data, {.worker = options_.worker, .file = file, .step = step_}, range.at);
  if (options_.damaged && rng.chance(20)) data.back() ^= 1;
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t put = ::pwrite(fd, data.data() + done, data.size() - done,
                                 static_cast<off_t>(base(file) + range.at + done));
    expect(put > 0, "direct write to " + path(file));
    done += static_cast<std::size_t>(put);
  }
}

void FileWorker::write_mapped(Rng& rng, unsigned file) {
  const std::uint64_t size = bytes(file).size();
  if (size == 0) return;
  Range range{draw_place(rng, size - 1), draw_length(rng)};
  range.length = std::min(range.length, size - range.at);
  std::uint8_t* const memory = map(file);
  begin({.kind = ChangeKind::kWrite, .file = file, .at = range.at, .length = range.length}, "mmap");
  Bytes data(range.length);
  fill(data, {.worker = options_.worker, .file = file, .step = step_}, range.at);
  if (!copy_mapped(memory + range.at, data.data(), data.size()))
    fail("SIGBUS in " + path(file), EIO);
  if (rng.chance(40)) {
    const std::uint64_t start = range.at / kBlock * kBlock;
    expect(::msync(memory + start, range.end() - start, MS_SYNC) == 0, "msync of " + path(file));
  }
}

void FileWorker::truncate(Rng& rng, unsigned file) {
  std::uint64_t size = draw_place(rng, kFileMax);
  const std::uint64_t way = rng.below(8);
  if (way == 0) size = 0;
  if (way < 5) size = std::min<std::uint64_t>(size, bytes(file).size());
  const auto target = static_cast<off_t>(base(file) + size);
  const bool opens = way == 0 && base(file) == 0;
  begin({.kind = ChangeKind::kTruncate, .file = file, .at = size}, opens ? "O_TRUNC" : "truncate");
  if (opens) {
    expect(UniqueFd{::open(path(file).c_str(), O_WRONLY | O_TRUNC)}.get() >= 0,
           "O_TRUNC of " + path(file));
  } else if (rng.chance(50)) {
    expect(::truncate(path(file).c_str(), target) == 0, "truncate of " + path(file));
  } else {
    expect(::ftruncate(open(file, kBuffered), target) == 0, "ftruncate of " + path(file));
  }
}

// Which modes of fallocate are not to be had here, and how direct writes must be aligned.
void FileWorker::probe_modes() {
  const std::string name = options_.root + "/probe";
  const UniqueFd fd{::open(name.c_str(), O_RDWR | O_CREAT, 0644)};
  expect(fd.get() >= 0, "creation of " + name);
  for (std::size_t number = 0; number < std::size(kModes); ++number) {
    const bool works = ::fallocate(fd.get(), kModes[number].flags, 0, kBlock) == 0;
    expect(works || errno == EOPNOTSUPP, kModes[number].name);
    if (!works) unsupported_modes_ |= 1 << number;
  }
  const UniqueFd direct{::open(name.c_str(), O_RDWR | O_DIRECT)};
  direct_to_a_byte_ = ::pwrite(direct.get(), direct_memory_, 1, 1) == 1;
  expect(::unlink(name.c_str()) == 0, "unlink of " + name);
}

void FileWorker::allocate(Rng& rng, unsigned file) {
  // Half of them are holes.
  const std::size_t number = rng.chance(40) ? 0 : rng.below(std::size(kModes));
  const Mode& mode = kModes[number];
  const Range range = draw_write(rng, file, rng.chance(40));
  if ((unsupported_modes_ >> number & 1) != 0) return;
  const int fd = open(file, options_.exact ? kDirect : kBuffered);
  const auto at = static_cast<off_t>(base(file) + range.at);
  const auto length = static_cast<off_t>(range.length);
  begin({.kind = mode.kind,
         .file = file,
         .at = range.at,
         .length = range.length,
         .keep_size = mode.keep_size},
        mode.name);
  expect(::fallocate(fd, mode.flags, at, length) == 0,
         fmt::format("{} of {}", mode.name, path(file)));
}

void FileWorker::copy(Rng& rng, unsigned file) {
  const auto other = static_cast<unsigned>(rng.below(kFiles));
  if (!model_.files[other] || bytes(other).empty()) return;
  const std::uint64_t size = bytes(other).size();
  Range from{draw_place(rng, size - 1), draw_length(rng)};
  // Whole blocks can be shared, and also what lies behind the first edge of one if both offsets are at
  // the same place of theirs.
  const bool aligned = rng.chance(50);
  const bool same_place = aligned || rng.chance(50);
  if (aligned) from.at = from.at / kBlock * kBlock;
  std::uint64_t to = draw_place(rng, std::min<std::uint64_t>(bytes(file).size(), kFileMax - 1));
  if (same_place) to = to / kBlock * kBlock + from.at % kBlock;
  if (to >= kFileMax) return;
  if (rng.chance(30)) from.length = size;  // to the end
  from.length = std::min({from.length, size - from.at, kFileMax - to});
  // Within a file the ranges may not overlap.
  if (file == other && from.at < to + from.length && to < from.end()) return;
  const int in = open(other, kBuffered);
  const int out = open(file, kBuffered);
  begin({.kind = ChangeKind::kCopy,
         .file = file,
         .other = other,
         .at = to,
         .length = from.length,
         .other_at = from.at},
        "copy_file_range");
  loff_t in_at = static_cast<loff_t>(base(other) + from.at);
  loff_t out_at = static_cast<loff_t>(base(file) + to);
  std::uint64_t left = from.length;
  while (left > 0) {
    const ssize_t got = ::copy_file_range(in, &in_at, out, &out_at, left, 0);
    expect(got >= 0, "copy_file_range to " + path(file));
    if (got == 0)
      violated(file, fmt::format("copy_file_range stopped {} bytes before its end", left));
    left -= static_cast<std::uint64_t>(got);
  }
}

void FileWorker::rename(Rng& rng, unsigned file) {
  const auto other = static_cast<unsigned>(rng.below(kFiles));
  // The file behind the hole keeps its place.
  if (file == other || base(file) != base(other)) return;
  const bool exchanges = model_.files[other] && rng.chance(50);
  check_orphan(rng);
  if (!exchanges && model_.files[other] && !options_.crash) {
    orphan_.fd = UniqueFd{::dup(open(other, kBuffered))};
    orphan_.bytes = bytes(other);
  }
  begin({.kind = exchanges ? ChangeKind::kExchange : ChangeKind::kRename,
         .file = file,
         .other = other},
        "renameat2");
  expect(::renameat2(AT_FDCWD, path(file).c_str(), AT_FDCWD, path(other).c_str(),
                     exchanges ? RENAME_EXCHANGE : 0) == 0,
         "rename of " + path(file));
  std::swap(handles_[file], handles_[other]);
  if (!exchanges) close(file);
}

void FileWorker::remove(Rng& rng, unsigned file) {
  check_orphan(rng);
  if (!options_.crash) {
    orphan_.fd = UniqueFd{::dup(open(file, kBuffered))};
    orphan_.bytes = bytes(file);
    if (base(file) != 0) orphan_ = {};
  }
  begin({.kind = ChangeKind::kRemove, .file = file}, "unlink");
  expect(::unlink(path(file).c_str()) == 0, "unlink of " + path(file));
  close(file);
}

// Without a name it is still a file.
void FileWorker::check_orphan(Rng& rng) {
  if (!orphan_.fd) return;
  Bytes& wanted = orphan_.bytes;
  const int fd = orphan_.fd.get();
  if (rng.chance(50)) {
    Bytes data(rng.between(1, 50'000));
    const std::uint64_t at = rng.below(wanted.size() + 1);
    fill(data, {.worker = options_.worker, .file = 63, .step = step_}, at);
    write_all(fd, data, at, "write to a file without a name");
    wanted.resize(std::max<std::uint64_t>(wanted.size(), at + data.size()));
    std::ranges::copy(data, wanted.begin() + static_cast<std::ptrdiff_t>(at));
  }
  if (rng.chance(50)) {
    expect(::fsync(fd) == 0, "fsync of a file without a name");
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  Bytes found(wanted.size() + 1);
  std::size_t done = 0;
  while (true) {
    const ssize_t got =
        ::pread(fd, found.data() + done, found.size() - done, static_cast<off_t>(done));
    expect(got >= 0, "read of a file without a name");
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  found.resize(done);
  const std::string wrong = difference(found, wanted);
  if (!wrong.empty()) {
    throw Violation(fmt::format("worker {}, step {}: a file without a name: {}", options_.worker,
                                step_, wrong));
  }
  orphan_ = {};
}

void FileWorker::read(Rng& rng, unsigned file) {
  const Range range = draw_read(rng, file);
  Bytes found(range.length);
  const int fd = open(file, kBuffered);
  const ssize_t got =
      ::pread(fd, found.data(), found.size(), static_cast<off_t>(base(file) + range.at));
  expect(got >= 0, "read of " + path(file));
  const std::uint64_t size = bytes(file).size();
  const std::uint64_t wanted = range.at < size ? std::min(range.length, size - range.at) : 0;
  const auto done = static_cast<std::uint64_t>(got);
  if (done < wanted && options_.crash) {
    fail_short(
        "a read of " + path(file),
        ::pread(fd, found.data(), wanted - done, static_cast<off_t>(base(file) + range.at + done)));
  }
  if (done != wanted) {
    violated(file, fmt::format("a read of {} bytes at {} got {}, the file has {}", range.length,
                               range.at, got, size));
  }
  if (wanted > 0) check_read(file, found.data(), {range.at, wanted}, "a read");
}

void FileWorker::read_direct(Rng& rng, unsigned file) {
  Range range = draw_read(rng, file);
  if (!direct_to_a_byte_) range.length = (range.length + kBlock - 1) / kBlock * kBlock;
  if (!direct_to_a_byte_ || rng.chance(75)) range.at = range.at / kBlock * kBlock;
  const int fd = open(file, kDirect);
  const std::uint64_t size = bytes(file).size();
  const std::uint64_t wanted = range.at < size ? std::min(range.length, size - range.at) : 0;
  std::uint64_t done = 0;
  while (done < range.length) {
    const ssize_t got = ::pread(fd, direct_memory_ + done, range.length - done,
                                static_cast<off_t>(base(file) + range.at + done));
    expect(got >= 0, "direct read of " + path(file));
    if (got == 0) break;
    done += static_cast<std::uint64_t>(got);
  }
  if (done != wanted) {
    violated(file, fmt::format("a direct read of {} bytes at {} got {}, the file has {}",
                               range.length, range.at, done, size));
  }
  if (wanted > 0) check_read(file, direct_memory_, {range.at, wanted}, "a direct read");
}

void FileWorker::read_mapped(Rng& rng, unsigned file) {
  const std::uint64_t size = bytes(file).size();
  if (size == 0) return;
  Range range{draw_place(rng, size - 1), draw_length(rng)};
  range.length = std::min(range.length, size - range.at);
  const std::uint8_t* const memory = map(file);
  Bytes found(range.length);
  if (!copy_mapped(found.data(), memory + range.at, range.length))
    fail("SIGBUS in " + path(file), EIO);
  check_read(file, found.data(), range, "a read of mapped memory");
}

// A hole may be called data. Data may not be called a hole.
void FileWorker::seek(unsigned file) {
  const int fd = open(file, kBuffered);
  const Bytes& wanted = bytes(file);
  std::uint64_t at = 0;
  while (at < wanted.size()) {
    const off_t data = ::lseek(fd, static_cast<off_t>(base(file) + at), SEEK_DATA);
    expect(data >= 0 || errno == ENXIO, "SEEK_DATA in " + path(file));
    const std::uint64_t begin =
        data < 0 ? wanted.size() : static_cast<std::uint64_t>(data) - base(file);
    if (begin < at || begin > wanted.size())
      violated(file, fmt::format("SEEK_DATA at {} says {}", at, begin));
    const auto lost = std::find_if(wanted.begin() + at, wanted.begin() + begin,
                                   [](auto byte) { return byte != 0; });
    if (lost != wanted.begin() + begin) {
      violated(file, fmt::format("SEEK_DATA at {} says {}, there is data at {}", at, begin,
                                 lost - wanted.begin()));
    }
    if (begin == wanted.size()) break;
    const off_t hole = ::lseek(fd, static_cast<off_t>(base(file) + begin), SEEK_HOLE);
    expect(hole >= 0, "SEEK_HOLE in " + path(file));
    at = static_cast<std::uint64_t>(hole) - base(file);
    if (at <= begin || at > wanted.size())
      violated(file, fmt::format("SEEK_HOLE at {} says {}", begin, at));
  }
  struct stat info {};
  expect(::fstat(fd, &info) == 0, "fstat of " + path(file));
  if (static_cast<std::uint64_t>(info.st_size) != base(file) + wanted.size()) {
    violated(file,
             fmt::format("its size is {} instead of {}", info.st_size, base(file) + wanted.size()));
  }
}

void FileWorker::sync(Rng& rng, unsigned file) {
  if (!model_.files[file]) return;
  const int fd = open(file, options_.exact ? kDirect : kBuffered);
  expect((rng.chance(50) ? ::fsync(fd) : ::fdatasync(fd)) == 0, "fsync of " + path(file));
  logs_[file].add(fmt::format("step {}: fsync", step_));
  if (options_.exact) {
    // The log has an order: what came before the file's last change is durable with it, whichever
    // file it concerns.
    if (options_.crash) settle_until(changed_[file]);
  } else {
    histories_[file].settle(bytes(file));
  }
}

void FileWorker::drop_cache(unsigned file) {
  const int fd = open(file, kBuffered);
  // What is dirty stays, so it is written first; nothing is promised for that.
  ::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE_AND_WAIT);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  logs_[file].add(fmt::format("step {}: cache dropped", step_));
}

}  // namespace dynamicfs::fuzz
