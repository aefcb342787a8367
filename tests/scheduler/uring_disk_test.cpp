// The promises of scheduler/disk.hpp, kept on real storage: a directory, an image file and, for
// root, a loop device.
#include "scheduler/uring_disk.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <latch>
#include <random>
#include <set>
#include <thread>

#include <fmt/format.h>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "base/bytes.hpp"
#include "tests/base/dies.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::scheduler {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr std::uint64_t kVolumeBytes = 64 * kMiB;

struct TemporaryDirectory {
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "dynamicfs-disk-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const char* name) const { return (path / name).string(); }

  fs::path path;
};

// A block device over a file; empty() where that is not allowed.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& backing) {
    const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const UniqueFd file(::open(backing.c_str(), O_RDWR | O_CLOEXEC));
    if (!control || !file) return;
    // Somebody else may take the number between the two calls.
    for (int attempt = 0; attempt < 20 && !device_; ++attempt) {
      const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return;
      path_ = fmt::format("/dev/loop{}", number);
      UniqueFd device(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (!device) continue;
      loop_config config{};
      config.fd = static_cast<std::uint32_t>(file.get());
      config.block_size = 512;
      config.info.lo_flags = LO_FLAGS_DIRECT_IO;
      if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) device_ = std::move(device);
    }
  }
  ~LoopDevice() {
    if (device_) ::ioctl(device_.get(), LOOP_CLR_FD, 0);
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  bool empty() const { return !device_; }
  const std::string& path() const { return path_; }

 private:
  UniqueFd device_;
  std::string path_;
};

// A file system of its own; empty() where that is not allowed.
class Mounted {
 public:
  // `command` mounts something at `mountpoint`.
  Mounted(std::string mountpoint, const std::string& command) : mountpoint_(std::move(mountpoint)) {
    fs::create_directory(mountpoint_);
    mounted_ = std::system(fmt::format("({}) >/dev/null 2>&1", command).c_str()) == 0;
  }
  ~Mounted() {
    if (mounted_) ::umount2(mountpoint_.c_str(), MNT_DETACH);
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  bool empty() const { return !mounted_; }

 private:
  const std::string mountpoint_;
  bool mounted_ = false;
};

UringDiskOptions options_for_test() {
  return {.name = "t",
          .workers = 2,
          .queue = {.depth = 32},
          .read_only = false,
          .lock_wait = Duration{0}};
}

std::unique_ptr<Executor> executor = make_thread_executor();

Result<std::unique_ptr<Disk>> open_at(const std::string& path,
                                      UringDiskOptions options = options_for_test()) {
  const VolumeTarget target = TRY(inspect_volume(path));
  return open_uring_disk(*executor, target, options);
}

void create_at(const std::string& path, std::uint64_t size_bytes = kVolumeBytes) {
  create_volume_file(inspect_volume(path).value(), size_bytes).value();
}

Result<void> write(Disk& disk, std::uint64_t offset, std::span<const std::byte> from,
                   bool durable = false) {
  return block_on(*executor, scheduler::write(disk, IoClass::kWrite, offset, from, durable));
}
Result<void> read(Disk& disk, std::uint64_t offset, std::span<std::byte> into) {
  return block_on(*executor, scheduler::read(disk, IoClass::kRead, offset, into));
}
Result<void> flush(Disk& disk) {
  return block_on(*executor, scheduler::flush(disk, IoClass::kCritical));
}

// Content that names its place and version, so that a misplaced block shows.
void fill(std::span<std::byte> block, std::uint64_t number, std::uint64_t version) {
  std::mt19937_64 random(number * 1'000'003 + version);
  for (std::size_t at = 0; at < block.size(); at += 8) {
    const std::uint64_t word = random();
    std::memcpy(block.data() + at, &word, 8);
  }
}
bool is_filled(std::span<const std::byte> block, std::uint64_t number, std::uint64_t version) {
  Bytes expected(block.size());
  fill(expected, number, version);
  return std::ranges::equal(block, expected);
}

// Each kind of store in turn; a kind that this machine does not allow is passed over.
template <class Body>
void on_each_kind(Body body) {
  const TemporaryDirectory directory;
  SUBCASE("directory") {
    create_at(directory.path.string());
    body(directory.path.string());
  }
  SUBCASE("image file") {
    create_at(directory / "image");
    body(directory / "image");
  }
  SUBCASE("block device") {
    create_at(directory / "backing");
    const LoopDevice device(directory / "backing");
    if (device.empty()) {
      MESSAGE("no loop device here");
      return;
    }
    body(device.path());
  }
  SUBCASE("directory without direct I/O") {
    const std::string mountpoint = directory / "mounted";
    const Mounted memory(mountpoint, fmt::format("mount -t ramfs none {}", mountpoint));
    if (memory.empty()) {
      MESSAGE("no file system can be mounted here");
      return;
    }
    create_at(mountpoint);
    body(mountpoint);
  }
}

TEST_SUITE("uring_disk") {
  TEST_CASE("what is written is read back, also by the next who opens the disk") {
    on_each_kind([](const std::string& path) {
      Buffer written(kMiB);
      fill(written.span(), 1, 1);
      {
        auto disk = open_at(path).value();
        CHECK(disk->size_bytes() == kVolumeBytes);
        CHECK(disk->path() == path);
        CHECK(write(*disk, 5 * kBlockBytes, written.span()).has_value());
        CHECK(write(*disk, kVolumeBytes - kMiB, written.span()).has_value());
        Buffer got(kMiB);
        CHECK(read(*disk, 5 * kBlockBytes, got.span()).has_value());
        CHECK(is_filled(got.span(), 1, 1));
        CHECK(flush(*disk).has_value());
      }
      auto disk = open_at(path).value();
      Buffer got(kMiB);
      CHECK(read(*disk, kVolumeBytes - kMiB, got.span()).has_value());
      CHECK(is_filled(got.span(), 1, 1));
    });
  }

  TEST_CASE("what was never written reads as zeros") {
    on_each_kind([](const std::string& path) {
      auto disk = open_at(path).value();
      Buffer got(kBlockBytes);
      std::memset(got.data(), 1, got.size());
      CHECK(read(*disk, 7 * kBlockBytes, got.span()).has_value());
      CHECK(std::ranges::all_of(got.span(), [](std::byte b) { return b == std::byte{0}; }));
    });
  }

  TEST_CASE("random I/O from eight threads: every block is the version its thread wrote last") {
    on_each_kind([](const std::string& path) {
      const std::uint64_t seed = test::seed_from_environment(1);
      CAPTURE(seed);
      auto disk = open_at(path).value();
      std::atomic<int> wrong{0};
      const auto work = [&](std::uint64_t thread) {
        constexpr std::uint64_t kBlocks = 256;  // of this thread's own
        std::mt19937_64 random(seed * 100 + thread);
        std::vector<std::uint64_t> version(kBlocks, 0);
        for (std::uint64_t round = 1; round <= test::scaled(60); ++round) {
          // A group of writes to distinct blocks, then reads of a group of any.
          std::set<std::uint64_t> blocks;
          while (blocks.size() < 8) blocks.insert(random() % kBlocks);
          std::vector<Buffer> buffers;
          IoGroup group;
          for (const std::uint64_t block : blocks) {
            buffers.emplace_back(kBlockBytes);
            version[block] = round;
            fill(buffers.back().span(), thread * kBlocks + block, round);
            group.write(*disk, IoClass::kWrite, (thread * kBlocks + block) * kBlockBytes,
                        buffers.back().span(), random() % 16 == 0);
          }
          if (random() % 8 == 0) group.flush(*disk, IoClass::kCritical);
          struct Run {
            static Task<Result<void>> run(IoGroup* all) {
              co_await all->run();
              co_return all->result();
            }
          };
          if (!block_on(*executor, Run::run(&group))) ++wrong;
          for (int i = 0; i < 4; ++i) {
            const std::uint64_t block = random() % kBlocks;
            Buffer got(kBlockBytes);
            if (!read(*disk, (thread * kBlocks + block) * kBlockBytes, got.span())) ++wrong;
            const bool right = version[block] == 0 ? got.data()[0] == std::byte{0}
                                                   : is_filled(got.span(), thread * kBlocks + block,
                                                               version[block]);
            if (!right) ++wrong;
          }
        }
      };
      std::vector<std::jthread> threads;
      for (std::uint64_t t = 0; t < 8; ++t) threads.emplace_back(work, t);
      threads.clear();
      CHECK(wrong == 0);
      for (const ClassMetrics& of_class : disk->metrics().classes) {
        CHECK(of_class.queued == 0);
        CHECK(of_class.in_flight == 0);
        CHECK(of_class.errors.sum() == 0);
      }
    });
  }

  TEST_CASE("a thousand coroutines at once, on one worker or four, at depth 1 or 32") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    struct Run {
      static Task<Result<void>> one(Disk* disk, std::uint64_t number) {
        Buffer buffer(kBlockBytes);
        fill(buffer.span(), number, 1);
        CO_TRY(
            co_await scheduler::write(*disk, IoClass::kWrite, number * kBlockBytes, buffer.span()));
        std::memset(buffer.data(), 0, buffer.size());
        CO_TRY(
            co_await scheduler::read(*disk, IoClass::kRead, number * kBlockBytes, buffer.span()));
        if (!is_filled(buffer.span(), number, 1)) co_return error(Code::kChecksum, number);
        if (number % 50 == 0) {
          CO_TRY(co_await scheduler::flush(*disk, IoClass::kCritical));
        }
        co_return Result<void>{};
      }
      static Task<int> all(Disk* disk) {
        std::vector<Task<Result<void>>> tasks;
        for (std::uint64_t i = 0; i < 1000; ++i) tasks.push_back(one(disk, i));
        const auto results = co_await when_all(std::move(tasks));
        int failed = 0;
        for (const auto& result : results) failed += result ? 0 : 1;
        co_return failed;
      }
    };
    for (const int workers : {1, 4}) {
      for (const unsigned depth : {1U, 32U}) {
        CAPTURE(workers);
        CAPTURE(depth);
        UringDiskOptions options = options_for_test();
        options.workers = workers;
        options.queue.depth = depth;
        auto disk = open_at(directory / "image", options).value();
        CHECK(block_on(*executor, Run::all(disk.get())) == 0);
      }
    }
  }

  TEST_CASE("needs_flush is true from a write that is not durable to the next flush") {
    on_each_kind([](const std::string& path) {
      auto disk = open_at(path).value();
      Buffer buffer(kBlockBytes);
      fill(buffer.span(), 0, 0);
      CHECK_FALSE(disk->needs_flush());
      CHECK(write(*disk, 0, buffer.span(), true).has_value());
      CHECK_FALSE(disk->needs_flush());
      CHECK(write(*disk, 0, buffer.span()).has_value());
      CHECK(disk->needs_flush());
      CHECK(flush(*disk).has_value());
      CHECK_FALSE(disk->needs_flush());
      CHECK(disk->metrics().writes.sum() == 2);
      CHECK(disk->metrics().flushes.sum() == 1);
    });
  }

  TEST_CASE("a durable write and a flush reach the device as such, a plain write does not") {
    const TemporaryDirectory directory;
    create_at(directory / "backing");
    const LoopDevice device(directory / "backing");
    if (device.empty()) {
      MESSAGE("no loop device here");
      return;
    }
    // The sixteenth number of a block device's statistics: flushes it completed.
    const auto flushes = [&] {
      std::ifstream file("/sys/block/" + fs::path(device.path()).filename().string() + "/stat");
      std::uint64_t value = 0;
      for (int i = 0; i < 16; ++i) file >> value;
      return value;
    };
    auto disk = open_at(device.path()).value();
    Buffer buffer(kBlockBytes);
    const std::uint64_t at_start = flushes();
    CHECK(write(*disk, 0, buffer.span()).has_value());
    CHECK(flushes() == at_start);
    CHECK(write(*disk, 0, buffer.span(), true).has_value());
    const std::uint64_t after_durable = flushes();
    CHECK(after_durable > at_start);
    CHECK(flush(*disk).has_value());
    CHECK(flushes() > after_durable);
  }

  TEST_CASE("a range behind the end is kDiskRange and nothing is attempted") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    auto disk = open_at(directory / "image").value();
    Buffer buffer(2 * kBlockBytes);
    const std::uint64_t last = kVolumeBytes - kBlockBytes;
    CHECK(write(*disk, last, buffer.span().first(kBlockBytes)).has_value());
    CHECK(write(*disk, last, buffer.span()).error() == error(Code::kDiskRange, last));
    CHECK(read(*disk, kVolumeBytes, buffer.span()).error().code == Code::kDiskRange);
    CHECK(read(*disk, ~std::uint64_t{0} - kBlockBytes + 1, buffer.span()).error().code ==
          Code::kDiskRange);
    CHECK(disk->metrics().reads.sum() == 0);
    CHECK(disk->metrics().writes.sum() == 1);
  }

  TEST_CASE("an unaligned request is a mistake of ours") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    auto disk = open_at(directory / "image").value();
    Buffer buffer(2 * kBlockBytes);
    const auto dies = [&](std::uint64_t offset, std::size_t skip, std::size_t size) {
      return test::aborts([&] {
        IoRequest request;
        request.offset_bytes = offset;
        request.data = buffer.data() + skip;
        request.size_bytes = size;
        request.on_complete = [](IoRequest&) {};
        disk->submit(request);  // does not get as far as a thread, of which the child has none
      });
    };
    CHECK(dies(512, 0, kBlockBytes));
    CHECK(dies(0, 512, kBlockBytes));
    CHECK(dies(0, 0, 512));
    CHECK(dies(0, 0, 0));
  }

  TEST_CASE("the file behind is cut short: a read there is kDiskRead, never silent zeros") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    auto disk = open_at(directory / "image").value();
    REQUIRE(::truncate((directory / "image").c_str(), 10 * kBlockBytes) == 0);
    Buffer buffer(4 * kBlockBytes);
    CHECK(read(*disk, 20 * kBlockBytes, buffer.span()).error() ==
          system_error(Code::kDiskRead, EIO, 20 * kBlockBytes));
    // The first half is there: what came short is asked for again, and then nothing comes.
    CHECK(read(*disk, 8 * kBlockBytes, buffer.span()).error() ==
          system_error(Code::kDiskRead, EIO, 8 * kBlockBytes));
    CHECK(read(*disk, 6 * kBlockBytes, buffer.span()).has_value());
    CHECK(disk->metrics().classes[static_cast<std::size_t>(IoClass::kRead)].errors.sum() == 2);
  }

  TEST_CASE("a write that the store refuses is kDiskWrite with its errno, and only that write") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    auto disk = open_at(directory / "image").value();
    Buffer buffer(kBlockBytes);
    // A limit on file sizes makes the kernel refuse, for root as for anybody.
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = kMiB, .rlim_max = before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const auto within = write(*disk, 0, buffer.span());
    const auto beyond = write(*disk, 2 * kMiB, buffer.span());
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, handler);
    CHECK(within.has_value());
    REQUIRE_FALSE(beyond.has_value());
    CHECK(beyond.error() == system_error(Code::kDiskWrite, EFBIG, 2 * kMiB));
    CHECK(write(*disk, 2 * kMiB, buffer.span()).has_value());
  }

  TEST_CASE("on a full host file system writes to new places are ENOSPC, old places still work") {
    const TemporaryDirectory directory;
    // One that allocates ahead, so that both ways to learn of it are gone through.
    const std::string image = directory / "host";
    std::ofstream(image).close();
    fs::resize_file(image, 40 * kMiB);
    const Mounted host(directory / "mounted",
                       fmt::format("mkfs.ext4 -q -F -O ^has_journal {0} && mount -o loop {0} {1}",
                                   image, directory / "mounted"));
    if (host.empty()) {
      MESSAGE("no file system can be made and mounted here");
      return;
    }
    create_at(directory / "mounted", 256 * kMiB);
    auto disk = open_at(directory / "mounted").value();
    Buffer buffer(kMiB);
    fill(buffer.span(), 1, 1);
    std::uint64_t offset = 0;
    Result<void> result;
    while (offset < 256 * kMiB && (result = write(*disk, offset, buffer.span()))) offset += kMiB;
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == system_error(Code::kDiskWrite, ENOSPC, offset));
    // To the last megabyte, though space was asked for in steps of sixteen.
    CHECK(offset > 24 * kMiB);
    CHECK(write(*disk, 0, buffer.span(), true).has_value());
    CHECK(flush(*disk).has_value());
    CHECK(read(*disk, offset - kMiB, buffer.span()).has_value());
    CHECK(is_filled(buffer.span(), 1, 1));
  }

  TEST_CASE("the space of a volume file is taken in steps, where it is written") {
    const TemporaryDirectory directory;
    create_at(directory.path.string(), kGiB);
    const auto used = [&] {
      struct stat of {};
      REQUIRE(::stat((directory / kVolumeFileName).c_str(), &of) == 0);
      return static_cast<std::uint64_t>(of.st_blocks) * 512;
    };
    CHECK(used() < kMiB);
    auto disk = open_at(directory.path.string()).value();
    Buffer buffer(kBlockBytes);
    CHECK(read(*disk, 0, buffer.span()).has_value());
    CHECK(used() < kMiB);
    fill(buffer.span(), 1, 1);
    CHECK(write(*disk, 0, buffer.span()).has_value());
    const std::uint64_t first = used();
    if (first < 64 * kMiB) {
      MESSAGE("this file system does not allocate ahead");
      return;
    }
    CHECK(first < 65 * kMiB);
    CHECK(write(*disk, 10 * kMiB, buffer.span()).has_value());
    CHECK(used() == first);
    // The last block takes the last piece, not everything before it.
    CHECK(write(*disk, kGiB - kBlockBytes, buffer.span()).has_value());
    CHECK(used() < 130 * kMiB);
    // A write across two pieces takes both.
    Buffer large(kMiB);
    CHECK(write(*disk, 3 * 64 * kMiB - kMiB / 2, large.span()).has_value());
    CHECK(used() >= 256 * kMiB);
    CHECK(used() < 260 * kMiB);
    struct stat of {};
    REQUIRE(::stat((directory / kVolumeFileName).c_str(), &of) == 0);
    CHECK(of.st_size == static_cast<off_t>(kGiB));
    CHECK(read(*disk, 0, buffer.span()).has_value());
    CHECK(is_filled(buffer.span(), 1, 1));
  }

  TEST_CASE("a second open of the same volume is kPoolBusy, and works after the first has closed") {
    on_each_kind([](const std::string& path) {
      auto first = open_at(path).value();
      const auto second = open_at(path);
      REQUIRE_FALSE(second.has_value());
      CHECK(second.error().code == Code::kPoolBusy);
      UringDiskOptions reader = options_for_test();
      reader.read_only = true;
      const auto beside = open_at(path, reader);
      REQUIRE_FALSE(beside.has_value());
      CHECK(beside.error().code == Code::kPoolBusy);
      first.reset();
      CHECK(open_at(path).has_value());
    });
  }

  TEST_CASE("an open waits for a lock that is given back in time") {
    on_each_kind([](const std::string& path) {
      auto first = open_at(path).value();
      std::jthread closer([&] {
        std::this_thread::sleep_for(milliseconds{120});
        first.reset();
      });
      UringDiskOptions patient = options_for_test();
      patient.lock_wait = std::chrono::seconds{10};
      CHECK(open_at(path, patient).has_value());
    });
  }

  TEST_CASE("readers share a volume, keep writers out and cannot write") {
    on_each_kind([](const std::string& path) {
      UringDiskOptions reader = options_for_test();
      reader.read_only = true;
      auto first = open_at(path, reader).value();
      auto second = open_at(path, reader).value();
      Buffer buffer(kBlockBytes);
      CHECK(read(*first, 0, buffer.span()).has_value());
      CHECK(read(*second, 0, buffer.span()).has_value());
      CHECK(write(*second, 0, buffer.span()).error() == system_error(Code::kDiskWrite, EBADF, 0));
      const auto writer = open_at(path);
      REQUIRE_FALSE(writer.has_value());
      CHECK(writer.error().code == Code::kPoolBusy);
    });
  }

  TEST_CASE("a device that somebody else claims, as a mount does, is refused with EBUSY") {
    const TemporaryDirectory directory;
    create_at(directory / "backing");
    const LoopDevice device(directory / "backing");
    if (device.empty()) return;
    const UniqueFd claimed(::open(device.path().c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
    REQUIRE(claimed);
    const auto refused = open_at(device.path());
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error() == system_error(Code::kDiskOpen, EBUSY));
  }

  TEST_CASE("fail() refuses what waits and what comes; what the device has ends by itself") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    auto disk = open_at(directory / "image").value();
    struct Run {
      static Task<Code> one(Disk* on, std::uint64_t number) {
        Buffer buffer(kBlockBytes);
        const auto result =
            co_await scheduler::read(*on, IoClass::kRead, number * kBlockBytes, buffer.span());
        co_return result ? Code::kOk : result.error().code;
      }
      static Task<std::vector<Code>> many(Disk* on) {
        std::vector<Task<Code>> tasks;
        for (std::uint64_t i = 0; i < 2000; ++i) tasks.push_back(one(on, i));
        std::vector<Code> codes = co_await when_all(std::move(tasks));
        co_return codes;
      }
    };
    std::jthread failer([&] {
      while (disk->metrics().reads.sum() < 100) std::this_thread::yield();
      disk->fail();
    });
    const std::vector<Code> codes = block_on(*executor, Run::many(disk.get()));
    failer.join();
    CHECK(std::ranges::count(codes, Code::kOk) + std::ranges::count(codes, Code::kDiskGone) ==
          2000);
    CHECK(std::ranges::count(codes, Code::kOk) >= 1);
    CHECK(disk->failed());
    Buffer buffer(kBlockBytes);
    CHECK(read(*disk, 0, buffer.span()).error() == error(Code::kDiskGone));
    CHECK(flush(*disk).error() == error(Code::kDiskGone));
  }

  // 64 submitters, each with one request at a time; `answered` counts, and every request is answered
  // exactly once or the coroutine would be resumed while it runs.
  struct Stress {
    static Task<Code> one(Disk* disk, std::uint64_t number, std::atomic<std::uint64_t>* answered) {
      std::mt19937_64 random(number);
      Buffer buffer(16 * kKiB);
      std::memset(buffer.data(), 0x5a, buffer.size());
      while (true) {
        IoGroup group;
        const std::uint64_t offset = random() % 4000 * kBlockBytes;
        const auto data = buffer.span().first((1 + random() % 4) * kBlockBytes);
        const auto io_class = static_cast<IoClass>(random() % kIoClasses);
        switch (random() % 8) {
          case 0: group.flush(*disk, io_class); break;
          case 1: group.check(*disk, io_class); break;
          case 2: group.write(*disk, io_class, offset, data, true); break;
          case 3:
          case 4: group.write(*disk, io_class, offset, data); break;
          default: group.read(*disk, io_class, offset, data);
        }
        co_await group.run();
        answered->fetch_add(1);
        if (!group.result()) co_return group.error(0).code;
      }
    }
    static Task<std::vector<Code>> many(Disk* disk, std::uint64_t first,
                                        std::atomic<std::uint64_t>* answered) {
      std::vector<Task<Code>> tasks;
      for (std::uint64_t i = 0; i < 16; ++i) tasks.push_back(one(disk, first + i, answered));
      std::vector<Code> codes = co_await when_all(std::move(tasks));
      co_return codes;
    }
    // Until the disk is failed by `meanwhile`; all must have been told that it is gone.
    static void run(Disk& disk, std::uint64_t seed,
                    const std::function<void(const std::atomic<std::uint64_t>&)>& meanwhile) {
      std::atomic<std::uint64_t> answered{0};
      std::vector<std::future<std::vector<Code>>> submitters;
      for (std::uint64_t t = 0; t < 4; ++t) {
        submitters.push_back(std::async(std::launch::async, [&, t] {
          return block_on(*executor, many(&disk, seed * 100 + t * 16, &answered));
        }));
      }
      meanwhile(answered);
      for (auto& submitter : submitters) {
        for (const Code code : submitter.get()) CHECK(code == Code::kDiskGone);
      }
      for (const ClassMetrics& of_class : disk.metrics().classes) {
        CHECK(of_class.queued.load() == 0);
        CHECK(of_class.in_flight.load() == 0);
      }
    }
  };

  TEST_CASE("a disk fails under 64 submitters: each request is answered once, none is forgotten") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    const std::uint64_t seed = test::seed_from_environment(1);
    for (std::uint64_t round = 0; round < test::scaled(150); ++round) {
      UringDiskOptions options = options_for_test();
      options.workers = 1 + static_cast<int>(round % 3);
      options.queue.depth = round % 4 == 0 ? 2 : 32;
      auto disk = open_at(directory / "image", options).value();
      Stress::run(*disk, seed + round, [&](const std::atomic<std::uint64_t>& answered) {
        while (answered.load() < (seed + round) * 37 % 500) std::this_thread::yield();
        disk->fail();
      });
    }
  }

  TEST_CASE("a disk hangs and returns under 64 submitters, hangs again, and is failed") {
    const TemporaryDirectory directory;
    // A frozen file system keeps writes and answers nothing.
    const std::string image = directory / "host";
    std::ofstream(image).close();
    fs::resize_file(image, 100 * kMiB);
    const std::string mountpoint = directory / "mounted";
    const Mounted host(
        mountpoint, fmt::format("mkfs.ext4 -q -F {0} && mount -o loop {0} {1}", image, mountpoint));
    if (host.empty()) {
      MESSAGE("no file system can be made and mounted here");
      return;
    }
    create_at(mountpoint);
    const UniqueFd root(::open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto disk = open_at(mountpoint).value();
    // Whatever ends this: the disk's end waits for the file system.
    struct Thaw {
      int root;
      ~Thaw() { ::ioctl(root, FITHAW, 0); }
    };
    const Thaw thaw{root.get()};
    bool kept = false;
    Stress::run(*disk, test::seed_from_environment(1), [&](const auto& answered) {
      const auto wait_for_more = [&] {
        const std::uint64_t enough = answered.load() + 200;
        while (answered.load() < enough) std::this_thread::yield();
      };
      for (int round = 0; round < 5; ++round) {
        wait_for_more();
        REQUIRE(::ioctl(root.get(), FIFREEZE, 0) == 0);
        // All are stuck, sooner or later: nothing is answered for a while.
        std::uint64_t before = ~std::uint64_t{0};
        while (before != answered.load()) {
          before = answered.load();
          std::this_thread::sleep_for(milliseconds{50});
        }
        if (round == 4) break;
        REQUIRE(::ioctl(root.get(), FITHAW, 0) == 0);
      }
      disk->fail();
      kept = disk->kept();
    });
    // All have been answered while the kernel still had what it had.
    CHECK(kept);
  }

  TEST_CASE("the destructor lets everything that is queued finish first") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    struct Pending {
      IoRequest request;
      Buffer buffer{kBlockBytes};
      std::atomic<int>* completed = nullptr;
    };
    for (const unsigned depth : {1U, 4U}) {
      std::atomic<int> completed{0};
      std::vector<Pending> all(500);
      UringDiskOptions options = options_for_test();
      options.queue.depth = depth;
      auto disk = open_at(directory / "image", options).value();
      for (std::size_t i = 0; i < all.size(); ++i) {
        Pending& pending = all[i];
        pending.completed = &completed;
        pending.request.op = IoOp::kWrite;
        pending.request.io_class = i % 2 == 0 ? IoClass::kWrite : IoClass::kBackground;
        pending.request.offset_bytes = i * kBlockBytes;
        pending.request.data = pending.buffer.data();
        pending.request.size_bytes = kBlockBytes;
        pending.request.owner = &pending;
        pending.request.on_complete = [](IoRequest& done) {
          ++*static_cast<Pending*>(done.owner)->completed;
        };
        disk->submit(pending.request);
      }
      disk.reset();
      CHECK(completed == 500);
      for (const Pending& pending : all) CHECK(pending.request.error == Error{});
    }
  }

  TEST_CASE("the workers are named after their disk") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    UringDiskOptions options = options_for_test();
    options.name = "17";
    options.workers = 3;
    auto disk = open_at(directory / "image", options).value();
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator("/proc/self/task")) {
      std::ifstream file(entry.path() / "comm");
      std::string name;
      std::getline(file, name);
      if (name.starts_with("io-")) names.insert(name);
    }
    CHECK(names == std::set<std::string>{"io-17-0", "io-17-1", "io-17-2"});
  }

  TEST_CASE("background that waits for its pace alone starts though nothing else comes") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    for (const int workers : {1, 2}) {
      UringDiskOptions options = options_for_test();
      options.workers = workers;
      options.queue.background_limit_percent = 1;  // 99 times as long as it takes
      auto disk = open_at(directory / "image", options).value();
      struct Run {
        static Task<Result<void>> run(Disk* on, std::span<std::byte> into) {
          for (int round = 0; round < 20; ++round) {
            CO_TRY(co_await scheduler::read(*on, IoClass::kRead, 0, into));
            CO_TRY(co_await scheduler::read(*on, IoClass::kBackground, 0, into));
          }
          co_return Result<void>{};
        }
      };
      Buffer buffer(kBlockBytes);
      CHECK(block_on(*executor, Run::run(disk.get(), buffer.span())).has_value());
      // And from a thread that is none of the disk's, while all workers sleep.
      for (int round = 0; round < 20; ++round) {
        CHECK(read(*disk, 0, buffer.span()).has_value());
        CHECK(block_on(*executor, scheduler::read(*disk, IoClass::kBackground, 0, buffer.span()))
                  .has_value());
      }
    }
  }

  TEST_CASE("a transfer goes to the kernel in pieces that the device takes at once") {
    const TemporaryDirectory directory;
    create_at(directory / "backing");
    const LoopDevice device(directory / "backing");
    if (device.empty()) {
      MESSAGE("no loop device here");
      return;
    }
    std::ofstream("/sys/block/" + fs::path(device.path()).filename().string() +
                  "/queue/max_sectors_kb")
        << 64;
    auto disk = open_at(device.path()).value();
    Buffer out(kMiB);
    Buffer in(kMiB);
    fill(out.span(), 1, 1);
    CHECK(write(*disk, kMiB, out.span()).has_value());
    const std::uint64_t before = disk->metrics().system_calls.sum();
    CHECK(read(*disk, kMiB, in.span()).has_value());
    CHECK(disk->metrics().system_calls.sum() - before >= 16);
    CHECK(disk->metrics().reads.sum() == 1);
    CHECK(is_filled(in.span(), 1, 1));
  }

  TEST_CASE("a batch is one system call and one wake-up, not one for each request") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    UringDiskOptions options = options_for_test();
    options.workers = 1;
    options.queue.depth = 64;
    auto disk = open_at(directory / "image", options).value();
    struct Run {
      // Resumes on the worker; what it submits there needs no wake-up.
      static Task<Result<void>> run(Disk* on, std::span<std::byte> into, std::uint64_t* wake_ups) {
        IoGroup group;
        for (int round = 0; round < 100; ++round) {
          group.clear();
          for (std::uint64_t i = 0; i < 32; ++i) {
            group.read(*on, IoClass::kRead, i * kBlockBytes,
                       into.subspan(i * kBlockBytes, kBlockBytes));
          }
          co_await group.run();
          CO_TRY(group.result());
          // The first round was submitted by the test's own thread.
          if (round == 0) *wake_ups = on->metrics().wake_ups.sum();
        }
        co_return Result<void>{};
      }
    };
    Buffer buffer(32 * kBlockBytes);
    std::uint64_t first_round = 0;
    CHECK(block_on(*executor, Run::run(disk.get(), buffer.span(), &first_round)).has_value());
    CHECK(disk->metrics().reads.sum() == 3200);
    CHECK(disk->metrics().wake_ups.sum() == first_round);
    // At worst the device answers one by one.
    CHECK(disk->metrics().system_calls.sum() <= 3300);
  }
}

TEST_SUITE("volume") {
  TEST_CASE("inspecting changes nothing and tells a directory, a file and what is missing apart") {
    const TemporaryDirectory directory;
    const auto empty = inspect_volume(directory.path.string()).value();
    CHECK(empty.kind == DiskKind::kDirectory);
    CHECK(empty.path == directory.path.string());
    CHECK(empty.file == directory / kVolumeFileName);
    CHECK_FALSE(empty.exists);
    CHECK(empty.size_bytes == 0);
    CHECK(empty.free_bytes > 0);
    CHECK(fs::is_empty(directory.path));

    const auto image = inspect_volume(directory / "new image").value();
    CHECK(image.kind == DiskKind::kImageFile);
    CHECK_FALSE(image.exists);
    CHECK(image.free_bytes > 0);
    CHECK(fs::is_empty(directory.path));

    CHECK(inspect_volume(directory / "missing/image").error() ==
          system_error(Code::kDiskOpen, ENOENT));
    CHECK(inspect_volume(directory / "missing/").error() == system_error(Code::kDiskOpen, ENOENT));
    CHECK(inspect_volume("").error() == system_error(Code::kDiskOpen, ENOENT));
    CHECK(inspect_volume("/dev/null").error() == error(Code::kInvalid));
    std::ofstream(directory / "file") << "x";
    CHECK(inspect_volume(directory / "file/below").error().code == Code::kDiskOpen);
  }

  TEST_CASE("a name with a slash at its end and a relative one mean the same disk") {
    const TemporaryDirectory directory;
    CHECK(inspect_volume(directory / "").value().path == directory.path.string());
    const std::string relative = fs::relative(directory.path).string();
    CHECK(inspect_volume(relative).value().path == directory.path.string());
  }

  TEST_CASE("a volume file is made once, sparse, for its owner alone") {
    const TemporaryDirectory directory;
    const auto target = inspect_volume(directory.path.string()).value();
    CHECK(create_volume_file(target, kVolumeBytes).has_value());
    struct stat of {};
    REQUIRE(::stat(target.file.c_str(), &of) == 0);
    CHECK(of.st_size == static_cast<off_t>(kVolumeBytes));
    CHECK(of.st_blocks * 512 < static_cast<off_t>(kMiB));
    CHECK((of.st_mode & 0777) == 0600);
    CHECK(create_volume_file(target, kVolumeBytes).error() ==
          system_error(Code::kDiskOpen, EEXIST));
    const auto again = inspect_volume(directory.path.string()).value();
    CHECK(again.exists);
    CHECK(again.size_bytes == kVolumeBytes);
  }

  TEST_CASE("a size that is not whole blocks is refused and nothing is left behind") {
    const TemporaryDirectory directory;
    const auto target = inspect_volume(directory.path.string()).value();
    CHECK(create_volume_file(target, 0).error().code == Code::kInvalid);
    CHECK(create_volume_file(target, 5000).error().code == Code::kInvalid);
    // More than any file system here takes.
    CHECK(create_volume_file(target, std::uint64_t{1} << 62).error().code == Code::kDiskOpen);
    CHECK(fs::is_empty(directory.path));
  }

  TEST_CASE("opening what is not there or not ours to open is kDiskOpen with its errno") {
    const TemporaryDirectory directory;
    CHECK(open_at(directory / "image").error() == system_error(Code::kDiskOpen, ENOENT));
    CHECK(open_at(directory.path.string()).error() == system_error(Code::kDiskOpen, ENOENT));
    std::ofstream(directory / "empty").close();
    CHECK(open_at(directory / "empty").error().code == Code::kDiskOpen);
  }

  TEST_CASE("a file of odd length is a volume of whole blocks") {
    const TemporaryDirectory directory;
    std::ofstream(directory / "odd") << std::string(3 * kBlockBytes + 100, 'x');
    auto disk = open_at(directory / "odd").value();
    CHECK(disk->size_bytes() == 3 * kBlockBytes);
    Buffer buffer(3 * kBlockBytes);
    CHECK(read(*disk, 0, buffer.span()).has_value());
  }

  TEST_CASE(
      "direct() says what the open file is, and a store without direct I/O is used as it is") {
    on_each_kind([](const std::string& path) {
      auto disk = open_at(path).value();
      const std::string file = inspect_volume(path).value().file;
      bool found = false;
      for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        if (fs::read_symlink(entry.path(), gone) != file) continue;
        const int flags = ::fcntl(std::stoi(entry.path().filename().string()), F_GETFL);
        found = found || ((flags & O_DIRECT) != 0) == disk->direct();
      }
      CHECK(found);
      if (disk->kind() == DiskKind::kBlockDevice) CHECK(disk->direct());
      if (path.ends_with("mounted")) CHECK_FALSE(disk->direct());
    });
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
