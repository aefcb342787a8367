#include "tests/fuzz/shared_worker.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/hash.hpp"

namespace dynamicfs::fuzz {
namespace {

constexpr std::uint64_t kMagic = 0x6b636f6c42736664;  // "dfsBlock"
constexpr std::size_t kWords = kBlock / 8;
// A writer may be kept from going on for seconds, where there are few processors.
constexpr unsigned kAttemptsMax = 20'000;

bool is_zeros(const std::uint8_t* block) {
  return block[0] == 0 && std::memcmp(block, block + 1, kBlock - 1) == 0;
}

}  // namespace

SharedWorker::SharedWorker(const Options& options) : Worker(options) {
  const UniqueFd fd{::open(options_.memory.c_str(), O_RDWR | O_CREAT, 0600)};
  expect(fd.get() >= 0, "open of " + options_.memory);
  expect(::ftruncate(fd.get(), sizeof(Board)) == 0, "ftruncate of " + options_.memory);
  void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  expect(memory != MAP_FAILED, "mmap of " + options_.memory);
  board_ = static_cast<Board*>(memory);
  memory_ = static_cast<std::uint8_t*>(std::aligned_alloc(kBlock, kBlocks * kBlock));
  if (::mkdir(options_.root.c_str(), 0755) != 0 && errno != EEXIST) fail(options_.root, errno);
  for (unsigned file = 0; file < kFiles; ++file) {
    const UniqueFd made{::open(path(file).c_str(), O_RDWR | O_CREAT, 0644)};
    expect(made.get() >= 0, "creation of " + path(file));
    expect(::ftruncate(made.get(), kBase + kBlocks * kBlock) == 0, "truncate of " + path(file));
    expect(::fsync(made.get()) == 0, "fsync of " + path(file));
  }
  sync_directory(options_.root);
}

SharedWorker::~SharedWorker() {
  rest();
  std::free(memory_);
  ::munmap(board_, sizeof(Board));
}

std::uint64_t SharedWorker::now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

void SharedWorker::make_block(std::uint8_t* into, const Header& header) {
  std::memcpy(into, &header, sizeof header);
  const std::uint64_t fill = mix(mix(std::uint64_t{header.worker} << 32 | header.file) ^
                                 (std::uint64_t{header.block} << 32 | header.version));
  for (std::size_t word = sizeof(Header) / 8; word < kWords; ++word) {
    const std::uint64_t value = fill + word;
    std::memcpy(into + word * 8, &value, 8);
  }
}

SharedWorker::Header SharedWorker::header_of(const std::uint8_t* block) {
  Header header{};
  std::memcpy(&header, block, sizeof header);
  return header;
}

bool SharedWorker::is_whole(const std::uint8_t* block) {
  std::uint8_t wanted[kBlock];
  const Header header = header_of(block);
  make_block(wanted, header);
  return header.magic == kMagic && std::memcmp(block, wanted, kBlock) == 0;
}

// What the workers have done

void SharedWorker::begin(unsigned file, Blocks blocks, bool zeros) {
  for (unsigned block = blocks.first; block < blocks.first + blocks.count; ++block) {
    Slot& mine = slot(file, block, options_.worker);
    const std::uint32_t version = mine.started.load() + 1;
    if (zeros) mine.zeros_started.store(version);
    mine.started.store(version);
  }
}

void SharedWorker::end(unsigned file, Blocks blocks, bool zeros, std::uint64_t began_ns) {
  const std::uint64_t now = now_ns();
  for (unsigned block = blocks.first; block < blocks.first + blocks.count; ++block) {
    Slot& mine = slot(file, block, options_.worker);
    mine.changes.fetch_add(1);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    mine.done.version = mine.started.load();
    mine.done.begin_ns = began_ns;
    mine.done.end_ns = now;
    if (zeros) mine.done.zeros = mine.done.version;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    mine.changes.fetch_add(1);
  }
}

SharedWorker::Before SharedWorker::before(unsigned file, unsigned block) const {
  Before all;
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    const Slot& one = slot(file, block, worker);
    std::uint32_t changes = 0;
    do {
      changes = one.changes.load();
      std::atomic_thread_fence(std::memory_order_seq_cst);
      all[worker] = one.done;
      std::atomic_thread_fence(std::memory_order_seq_cst);
    } while (changes % 2 != 0 || changes != one.changes.load());
  }
  return all;
}

bool SharedWorker::is_being_written(unsigned file, unsigned block, const Before& before) const {
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    if (slot(file, block, worker).started.load() != before[worker].version) return true;
  }
  return false;
}

std::string SharedWorker::judge_zeros(unsigned file, unsigned block, const Before& before,
                                      std::uint64_t read_ns) const {
  std::uint64_t newest_ns = 0;
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    if (before[worker].end_ns < read_ns) newest_ns = std::max(newest_ns, before[worker].begin_ns);
  }
  if (newest_ns == 0) return "";  // never written
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    const Done& done = before[worker];
    if (slot(file, block, worker).zeros_started.load() > done.version) return "";
    if (done.zeros != 0 && done.zeros == done.version && done.end_ns >= newest_ns) return "";
  }
  return "zeros, which no writer of the time has made";
}

std::string SharedWorker::judge(unsigned file, unsigned block, const std::uint8_t* content,
                                const Before& before, std::uint64_t read_ns) const {
  if (is_zeros(content)) return judge_zeros(file, block, before, read_ns);
  if (!is_whole(content)) {
    std::size_t at = 0;
    std::uint8_t wanted[kBlock];
    const Header first = header_of(content);
    make_block(wanted, first);
    while (at < kBlock && content[at] == wanted[at]) ++at;
    return fmt::format(
        "torn: it begins as version {} of worker {}, and is something else from byte {} on",
        first.version, first.worker, at);
  }
  const Header header = header_of(content);
  const std::string name = fmt::format("version {} of worker {} for block {} of file {}",
                                       header.version, header.worker, header.block, header.file);
  if (header.file != file || header.block != block || header.worker >= options_.workers)
    return "foreign: " + name;
  const Done& done = before[header.worker];
  if (header.version > slot(file, block, header.worker).started.load())
    return name + ", which it has not written yet";
  if (header.version < done.version)
    return fmt::format("old: {}, which has written version {} since", name, done.version);
  if (header.version > done.version) return "";  // it was being written meanwhile
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    const Done& other = before[worker];
    if (other.version != 0 && done.end_ns < other.begin_ns && other.end_ns < read_ns) {
      return fmt::format(
          "old: {}, replaced by version {} of worker {} {} us later and {} us before the read",
          name, other.version, worker, (other.begin_ns - done.end_ns) / 1000,
          (read_ns - other.end_ns) / 1000);
    }
  }
  return "";
}

std::string SharedWorker::judge_after_kill(unsigned file, unsigned block,
                                           const std::uint8_t* content) const {
  std::uint64_t newest_ns = 0;
  bool may_be_zeros = true;
  bool is_synced = true;
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    const Slot& one = slot(file, block, worker);
    newest_ns = std::max(newest_ns, one.durable.begin_ns);
    if (one.durable.version != 0) may_be_zeros = false;
    if (one.durable.version != one.started.load()) is_synced = false;
  }
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    const Slot& one = slot(file, block, worker);
    const std::uint32_t zeros = one.zeros_started.load();
    may_be_zeros = may_be_zeros || (zeros != 0 && zeros >= one.durable.version);
  }
  if (is_zeros(content)) return may_be_zeros ? "" : "zeros instead of what was synced";
  // The kernel may have handed over a page that was being written to.
  if (!is_whole(content)) return file == kDirectOnly || is_synced ? "torn" : "";
  const Header header = header_of(content);
  const std::string name = fmt::format("version {} of worker {} for block {} of file {}",
                                       header.version, header.worker, header.block, header.file);
  if (header.file != file || header.block != block || header.worker >= options_.workers)
    return "foreign: " + name;
  const Slot& writer = slot(file, block, header.worker);
  if (header.version > writer.started.load()) return name + ", which it has not written";
  if (header.version < writer.durable.version) {
    return fmt::format("lost: {}, version {} was synced", name, writer.durable.version);
  }
  const bool is_latest = header.version == writer.done.version;
  if (is_latest && writer.done.end_ns < newest_ns)
    return "lost: " + name + ", a later one of another worker was synced";
  return "";
}

SharedWorker::Turn::Turn(Board& board, unsigned file, Blocks blocks, bool alone)
    : writers_(&board.writers[file][blocks.first]), blocks_(blocks), alone_(alone) {
  for (; taken_ < blocks_.count; ++taken_) {
    int now = writers_[taken_].load();
    do {
      if (alone_ ? now != 0 : now < 0) return;
    } while (!writers_[taken_].compare_exchange_weak(now, alone_ ? -1 : now + 1));
  }
}

SharedWorker::Turn::~Turn() {
  while (taken_ > 0) writers_[--taken_].fetch_add(alone_ ? 1 : -1);
}

// Operations

SharedWorker::Blocks SharedWorker::draw(Rng& rng) const {
  // Few blocks, so that they meet.
  const auto first =
      static_cast<unsigned>(rng.chance(50) ? kBlocks / 2 - 4 + rng.below(8) : rng.below(kBlocks));
  const auto count =
      static_cast<unsigned>(rng.chance(60) ? 1 : rng.between(1, rng.chance(20) ? kBlocks : 8));
  return {first, std::min(count, kBlocks - first)};
}

void SharedWorker::step(Rng& rng) {
  const auto file = static_cast<unsigned>(rng.below(kFiles));
  const Blocks blocks = draw(rng);
  const std::uint64_t choice = rng.below(100);
  if (choice < 42) return write(rng, file, blocks);
  if (choice < 46) return punch(file, blocks);
  if (choice < 49) return sync(file);
  if (choice < 50) return rest();
  read(rng, file, blocks);
}

void SharedWorker::write(Rng& rng, unsigned file, Blocks blocks) {
  const std::uint64_t way = file == kDirectOnly ? 0
                            : file == kCached   ? rng.between(1, 2)
                                                : rng.below(3);
  const std::uint64_t at = blocks.first * kBlock;
  const std::size_t length = blocks.count * kBlock;
  const int fd = open(file, way == 0);
  std::uint8_t* const target = way == 2 ? map(file) : nullptr;
  const Turn turn{*board_, file, blocks, way == 2};
  if (!turn) return;
  begin(file, blocks, false);
  for (unsigned i = 0; i < blocks.count; ++i) {
    const unsigned block = blocks.first + i;
    make_block(memory_ + i * kBlock,
               {.magic = kMagic,
                .worker = options_.worker,
                .file = file,
                .block = block,
                .version = slot(file, block, options_.worker).started.load()});
  }
  if (options_.damaged && rng.chance(20)) memory_[length - 1] ^= 1;
  const char* const names[] = {"direct", "pwrite", "mmap"};
  logs_[file].add(fmt::format("step {}: write of blocks {} + {} ({})", step_, blocks.first,
                              blocks.count, names[way]));
  const std::uint64_t began_ns = now_ns();
  if (way == 2) {
    if (!copy_mapped(target + at, memory_, length)) fail("SIGBUS in " + path(file), EIO);
    if (rng.chance(40))
      expect(::msync(target + at, length, MS_SYNC) == 0, "msync of " + path(file));
  } else {
    const ssize_t put = ::pwrite(fd, memory_, length, static_cast<off_t>(kBase + at));
    expect(put >= 0, "write to " + path(file));
    const auto done = static_cast<std::size_t>(put);
    if (done != length) {
      const ssize_t rest =
          ::pwrite(fd, memory_ + done, length - done, static_cast<off_t>(kBase + at + done));
      fail_short(fmt::format("a write of {} to {} wrote {}", length, path(file), put),
                 rest < 0 ? rest : ::fsync(fd));
    }
  }
  end(file, blocks, false, began_ns);
}

void SharedWorker::punch(unsigned file, Blocks blocks) {
  const int fd = open(file, file == kDirectOnly);
  const Turn turn{*board_, file, blocks, false};
  if (!turn) return;
  begin(file, blocks, true);
  logs_[file].add(
      fmt::format("step {}: punch of blocks {} + {}", step_, blocks.first, blocks.count));
  const std::uint64_t began_ns = now_ns();
  expect(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(kBase + blocks.first * kBlock),
                     static_cast<off_t>(blocks.count * kBlock)) == 0,
         "punch of " + path(file));
  end(file, blocks, true, began_ns);
}

void SharedWorker::read(Rng& rng, unsigned file, Blocks blocks) {
  const std::uint64_t way = file == kDirectOnly ? 0
                            : file == kCached   ? rng.between(1, 2)
                                                : rng.below(3);
  const std::size_t length = blocks.count * kBlock;
  const auto at = static_cast<off_t>(kBase + blocks.first * kBlock);
  const int fd = open(file, way == 0);
  const std::uint8_t* const source = way == 2 ? map(file) : nullptr;
  if (way != 0 && rng.chance(20)) ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  // A page that is being copied into is read again.
  for (unsigned attempt = 0;; ++attempt) {
    if (attempt > 0) ::usleep(200);
    std::vector<Before> befores;
    for (unsigned i = 0; i < blocks.count; ++i) befores.push_back(before(file, blocks.first + i));
    const std::uint64_t read_ns = now_ns();
    if (way == 2) {
      if (!copy_mapped(memory_, source + blocks.first * kBlock, length))
        fail("SIGBUS in " + path(file), EIO);
    } else {
      const ssize_t got = ::pread(fd, memory_, length, at);
      expect(got >= 0, "read of " + path(file));
      const auto done = static_cast<std::size_t>(got);
      if (done != length) {
        fail_short(fmt::format("a read of {} of {} got {}", length, path(file), got),
                   ::pread(fd, memory_, length - done, at + static_cast<off_t>(done)));
      }
    }
    bool again = false;
    for (unsigned i = 0; i < blocks.count; ++i) {
      const unsigned block = blocks.first + i;
      const std::uint8_t* const content = memory_ + i * kBlock;
      const std::string wrong = judge(file, block, content, befores[i], read_ns);
      if (wrong.empty()) continue;
      const bool excused =
          file != kDirectOnly && !is_whole(content) && is_being_written(file, block, befores[i]);
      if (!excused || attempt == kAttemptsMax) {
        const char* const names[] = {"a direct read", "a read", "a read of mapped memory"};
        violated(file, block, fmt::format("{} found {}", names[way], wrong));
      }
      again = true;
    }
    if (!again) return;
  }
}

void SharedWorker::sync(unsigned file) {
  const int fd = open(file, file == kDirectOnly);
  std::array<Done, kBlocks> mine;
  for (unsigned block = 0; block < kBlocks; ++block)
    mine[block] = slot(file, block, options_.worker).done;
  expect(::fsync(fd) == 0, "fsync of " + path(file));
  for (unsigned block = 0; block < kBlocks; ++block)
    slot(file, block, options_.worker).durable = mine[block];
  logs_[file].add(fmt::format("step {}: fsync", step_));
}

void SharedWorker::verify() {
  for (unsigned file = 0; file < kFiles; ++file) {
    sync(file);
    ::posix_fadvise(open(file, false), 0, 0, POSIX_FADV_DONTNEED);
    Rng rng(options_.seed, ~step_);
    read(rng, file, {0, kBlocks});
  }
  rest();
}

// The first looks and writes everything anew, so that whatever was being written before is old.
void SharedWorker::recover() {
  if (options_.worker != 0) return;
  for (unsigned file = 0; file < kFiles; ++file) {
    const int fd = open(file, true);
    const ssize_t got = ::pread(fd, memory_, kBlocks * kBlock, kBase);
    expect(got >= 0, "read of " + path(file));
    if (got != kBlocks * kBlock)
      violated(file, 0, fmt::format("after the kill it ends {} bytes behind its first block", got));
    for (unsigned block = 0; block < kBlocks; ++block) {
      const std::string wrong = judge_after_kill(file, block, memory_ + block * kBlock);
      if (!wrong.empty()) violated(file, block, "after the kill it holds " + wrong);
    }
    const std::uint64_t now = now_ns();
    for (auto& slots : board_->slots[file]) {
      for (Slot& one : slots) {
        one.done = {.version = one.started.load(), .zeros = 0, .begin_ns = now, .end_ns = now};
        one.zeros_started.store(0);
      }
    }
    const Blocks all{0, kBlocks};
    begin(file, all, false);
    for (unsigned block = 0; block < kBlocks; ++block) {
      make_block(memory_ + block * kBlock, {.magic = kMagic,
                                            .worker = 0,
                                            .file = file,
                                            .block = block,
                                            .version = slot(file, block, 0).started.load()});
    }
    const std::uint64_t began_ns = now_ns();
    const ssize_t put = ::pwrite(fd, memory_, kBlocks * kBlock, kBase);
    expect(put == kBlocks * kBlock, "write to " + path(file));
    end(file, all, false, began_ns);
    logs_[file].add("a kill, and a new mount; all written anew");
    sync(file);
  }
  rest();
}

void SharedWorker::rest() {
  for (unsigned file = 0; file < kFiles; ++file) {
    if (maps_[file] != nullptr) ::munmap(maps_[file], kBlocks * kBlock);
    maps_[file] = nullptr;
    for (UniqueFd& fd : fds_[file]) fd.reset();
  }
}

void SharedWorker::violated(unsigned file, unsigned block, const std::string& what) const {
  std::string state;
  for (unsigned worker = 0; worker < options_.workers; ++worker) {
    const Slot& one = slot(file, block, worker);
    state += fmt::format("  worker {}: version {} begun, {} ended, {} durable\n", worker,
                         one.started.load(), one.done.version, one.durable.version);
  }
  throw Violation(fmt::format(
      "worker {}, {}, step {}, block {}: {}\nthe block now:\n{}our last operations:\n{}",
      options_.worker, path(file), step_, block, what, state, logs_[file].text()));
}

std::string SharedWorker::path(unsigned file) const {
  const char* const names[] = {"direct", "cached", "every-way"};
  return fmt::format("{}/{}", options_.root, names[file]);
}

int SharedWorker::open(unsigned file, bool direct) {
  UniqueFd& fd = fds_[file][direct ? 1 : 0];
  if (!fd) fd = UniqueFd{::open(path(file).c_str(), O_RDWR | (direct ? O_DIRECT : 0))};
  expect(fd.get() >= 0, "open of " + path(file));
  return fd.get();
}

std::uint8_t* SharedWorker::map(unsigned file) {
  if (maps_[file] == nullptr) {
    void* memory = ::mmap(nullptr, kBlocks * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED,
                          open(file, false), kBase);
    expect(memory != MAP_FAILED, "mmap of " + path(file));
    maps_[file] = static_cast<std::uint8_t*>(memory);
  }
  return maps_[file];
}

}  // namespace dynamicfs::fuzz
