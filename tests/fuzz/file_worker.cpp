// The choices of FileWorker, its checks, and what it knows after a kill. The operations themselves
// are in file_operations.cpp.
#include "tests/fuzz/file_worker.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace dynamicfs::fuzz {
namespace {

constexpr std::size_t kDirectMemory = kFileMax + kBlock;
// Beyond that an fsync ends what has to be remembered.
constexpr std::size_t kChangesMax = 250;
constexpr std::uint64_t kStatesMax = 8192;

}  // namespace

FileWorker::FileWorker(const Options& options) : Worker(options) {
  model_.files.resize(kFiles);
  direct_memory_ = static_cast<std::uint8_t*>(std::aligned_alloc(kBlock, kDirectMemory));
  if (::mkdir(options_.root.c_str(), 0755) != 0) fail(options_.root, errno);
  probe_modes();
  for (unsigned file = 0; file < kFiles; ++file) create(file);
  sync_directory(options_.root);
  settle_all();
}

FileWorker::~FileWorker() {
  rest();
  std::free(direct_memory_);
}

// One file begins far behind a hole, so that its windows have large numbers.
std::uint64_t FileWorker::base(unsigned file) const {
  const bool has_base = file == kFiles - 1 && !options_.exact;
  return has_base ? (1ULL << 40) + 3 * kWindow : 0;
}

std::uint64_t FileWorker::draw_length(Rng& rng) const {
  switch (rng.below(8)) {
    case 0:
    case 1: return rng.between(1, 300);
    case 2:
    case 3: return rng.between(1, 5 * kBlock);
    case 4: return rng.between(1, 8) * kBlock;
    case 5:
    case 6: return rng.between(1, 150'000);
    default: return rng.between(1, kWindow + kWindow / 4);
  }
}

// 0 to `limit`, often near an edge of a block or of a window.
std::uint64_t FileWorker::draw_place(Rng& rng, std::uint64_t limit) const {
  const std::uint64_t any = rng.below(limit + 1);
  switch (rng.below(6)) {
    case 0: return any / kBlock * kBlock;
    case 1: return std::min(any / kBlock * kBlock + rng.below(16), limit);
    case 2: return std::min((any + kWindow / 2) / kWindow * kWindow, limit);
    case 3: {
      const std::uint64_t edge = (any + kWindow / 2) / kWindow * kWindow;
      return std::min(edge - std::min(edge, rng.below(3 * kBlock)), limit);
    }
    case 4: return limit - std::min(limit, rng.below(2 * kBlock));
    default: return any;
  }
}

FileWorker::Range FileWorker::draw_write(Rng& rng, unsigned file, bool aligned) const {
  // Behind the end now and then, which leaves a hole.
  const std::uint64_t reach = bytes(file).size() + (rng.chance(10) ? 100'000 : 0);
  Range range{draw_place(rng, std::min(reach, kFileMax - 1)), draw_length(rng)};
  if (aligned) {
    const std::uint64_t unit = rng.chance(30) ? 512 : kBlock;
    range.at = range.at / unit * unit;
    range.length = (range.length + unit - 1) / unit * unit;
  }
  range.length = std::min(range.length, kFileMax - range.at);
  return range;
}

FileWorker::Range FileWorker::draw_read(Rng& rng, unsigned file) const {
  const std::uint64_t at = draw_place(rng, bytes(file).size() + kBlock);
  return {at, rng.chance(3) ? kFileMax : draw_length(rng)};
}

void FileWorker::step(Rng& rng) {
  if (options_.crash) {
    std::uint64_t states = 0;
    for (const BlockHistory& history : histories_) states += history.states();
    if (since_.size() > kChangesMax || states > kStatesMax) {
      for (unsigned file = 0; file < kFiles; ++file) sync(rng, file);
      return;
    }
  }
  const auto file = static_cast<unsigned>(rng.below(kFiles));
  if (!model_.files[file]) {
    create(file);
  } else if (options_.exact) {
    step_exact(rng, file);
  } else {
    step_mixed(rng, file);
  }
}

void FileWorker::step_exact(Rng& rng, unsigned file) {
  const std::uint64_t choice = rng.below(100);
  if (choice < 45) return write_direct(rng, file);
  if (choice < 55) return truncate(rng, file);
  if (choice < 70) return allocate(rng, file);
  if (choice < 76) return rename(rng, file);
  if (choice < 79) return remove(rng, file);
  if (choice < 83) return sync(rng, file);
  if (choice < 85) return close(file);
  read_direct(rng, file);
}

void FileWorker::step_mixed(Rng& rng, unsigned file) {
  const std::uint64_t choice = rng.below(100);
  if (choice < 18) return write(rng, file);
  if (choice < 26) return write_direct(rng, file);
  if (choice < 34) return write_mapped(rng, file);
  if (choice < 40) return truncate(rng, file);
  if (choice < 48) return allocate(rng, file);
  if (choice < 53) return copy(rng, file);
  if (choice < 65) return read(rng, file);
  if (choice < 73) return read_direct(rng, file);
  if (choice < 80) return read_mapped(rng, file);
  if (choice < 84) return seek(file);
  if (choice < 88) return sync(rng, file);
  if (choice < 93) return drop_cache(file);
  if (choice < 95) return close(file);
  if (options_.crash) return read(rng, file);
  if (choice < 98) return rename(rng, file);
  remove(rng, file);
}

// What is known

FileWorker::Range FileWorker::touched(const Change& change) const {
  const std::uint64_t size = bytes(change.file).size();
  if (change.kind != ChangeKind::kTruncate) return {change.at, change.length};
  const std::uint64_t low = std::min(size, change.at);
  return {low, std::max(size, change.at) - low};
}

void FileWorker::begin(Change change, const char* way) {
  change.stamp = {.worker = options_.worker, .file = change.file, .step = step_};
  logs_[change.file].add(fmt::format("step {}: {} ({})", step_, change.text(), way));
  const bool two = change.kind == ChangeKind::kRename || change.kind == ChangeKind::kExchange;
  if (two) logs_[change.other].add(fmt::format("step {}: {}", step_, change.text()));
  if (options_.crash && options_.exact) {
    since_.push_back(change);
    if (two) std::swap(changed_[change.file], changed_[change.other]);
    if (!two) changed_[change.file] = settled_count_ + since_.size();
  }
  if (options_.crash && !options_.exact && change.kind != ChangeKind::kCreate) {
    BlockHistory& history = histories_[change.file];
    const Range range = touched(change);
    history.before(bytes(change.file), range.at, range.end());
    model_.apply(change);
    history.after(bytes(change.file), range.at, range.end());
  } else {
    model_.apply(change);
  }
}

void FileWorker::settle_until(std::uint64_t count) {
  while (settled_count_ < count) {
    settled_.apply(since_.front());
    since_.erase(since_.begin());
    ++settled_count_;
  }
}

void FileWorker::settle_all() {
  settled_count_ += since_.size();
  since_.clear();
  if (options_.exact) settled_ = model_;
  for (unsigned file = 0; file < kFiles; ++file) {
    if (model_.files[file]) histories_[file].settle(bytes(file));
  }
}

void FileWorker::check_read(unsigned file, const std::uint8_t* data, const Range& range,
                            const char* way) {
  const Bytes& wanted = bytes(file);
  if (std::equal(data, data + range.length, wanted.begin() + range.at)) return;
  Bytes found = wanted;
  std::copy_n(data, range.length, found.begin() + range.at);
  violated(file, fmt::format("{} of {} bytes at {} is wrong: {}", way, range.length, range.at,
                             difference(found, wanted)));
}

void FileWorker::violated(unsigned file, const std::string& what) const {
  throw Violation(fmt::format("{}, step {}: {}\nits last operations:\n{}", place(file), step_, what,
                              logs_[file].text()));
}

std::string FileWorker::place(unsigned file) const {
  const std::string shift = base(file) == 0 ? "" : fmt::format(" (from byte {} on)", base(file));
  return fmt::format("worker {}, file {}{}", options_.worker, path(file), shift);
}

// The tree

std::string FileWorker::path(unsigned file) const {
  return fmt::format("{}/file-{}", options_.root, file);
}

// Of the range that the model has; no value if there is no such file.
std::optional<Bytes> FileWorker::load(unsigned file) {
  const UniqueFd fd{::open(path(file).c_str(), O_RDONLY)};
  if (!fd && errno == ENOENT) return std::nullopt;
  expect(fd.get() >= 0, "open of " + path(file));
  struct stat info {};
  expect(::fstat(fd.get(), &info) == 0, "fstat of " + path(file));
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size < base(file) || size > base(file) + 2 * kFileMax) {
    violated(file, fmt::format("its size is {}", size));
  }
  Bytes content(size - base(file));
  std::uint64_t done = 0;
  while (done < content.size()) {
    const ssize_t got = ::pread(fd.get(), content.data() + done, content.size() - done,
                                static_cast<off_t>(base(file) + done));
    expect(got >= 0, "read of " + path(file));
    if (got == 0)
      violated(file, fmt::format("it ends at {}, its size is {}", done, content.size()));
    done += static_cast<std::uint64_t>(got);
  }
  return content;
}

void FileWorker::rest() {
  for (unsigned file = 0; file < kFiles; ++file) close(file);
  orphan_ = {};
}

void FileWorker::verify() {
  Rng rng(options_.seed, ~step_);
  for (unsigned file = 0; file < kFiles; ++file) {
    if (model_.files[file]) {
      sync(rng, file);
      drop_cache(file);
    }
    const std::string wrong = difference(load(file), model_.files[file]);
    if (!wrong.empty()) violated(file, "at the end: " + wrong);
    if (model_.files[file]) seek(file);
  }
  rest();
}

void FileWorker::recover() {
  ContentModel found;
  for (unsigned file = 0; file < kFiles; ++file) found.files.push_back(load(file));
  if (!options_.exact) {
    for (unsigned file = 0; file < kFiles; ++file) {
      if (!found.files[file]) violated(file, "after the kill: it does not exist");
      const std::string wrong = histories_[file].check(*found.files[file], bytes(file));
      if (!wrong.empty()) violated(file, "after the kill: " + wrong);
    }
  } else {
    ContentModel state = settled_;
    unsigned same_max = 0;
    std::string wrong;
    for (std::size_t count = 0;; ++count) {
      unsigned same = 0;
      for (unsigned file = 0; file < kFiles; ++file) same += state.files[file] == found.files[file];
      if (same == kFiles) break;
      if (wrong.empty() || same >= same_max) {
        same_max = same;
        wrong = fmt::format("nearest is the state after {} of {} operations since the last fsync",
                            count, since_.size());
        for (unsigned file = 0; file < kFiles; ++file) {
          const std::string here = difference(found.files[file], state.files[file]);
          if (!here.empty()) wrong += fmt::format("; file {}: {}", file, here);
        }
      }
      if (count == since_.size()) {
        std::string operations;
        for (const Change& change : since_) {
          operations += fmt::format("  step {}: {}\n", change.stamp.step, change.text());
        }
        throw Violation(
            fmt::format("worker {}, after the kill the files of {} are as at no moment: {}\n"
                        "operations since the last fsync:\n{}",
                        options_.worker, options_.root, wrong, operations));
      }
      state.apply(since_[count]);
    }
  }
  model_ = found;
  // What was seen after a recovery stays.
  settle_all();
  for (OperationLog& log : logs_) log.add("a kill, and a new mount");
}

}  // namespace dynamicfs::fuzz
