// The promises of scheduler/disk.hpp, kept on real storage: a directory, an image file and, for
// root, a loop device.
#include "scheduler/uring_disk.hpp"

#include <doctest/doctest.h>

#include "tests/base/dies.hpp"
#include "tests/scheduler/stores.hpp"

namespace dynamicfs::scheduler {
namespace {

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

  TEST_CASE("a write that flushes makes durable what was written before it, with one flush") {
    struct Run {
      static Task<Result<void>> one(Disk* disk, std::span<std::byte> data) {
        IoGroup group;
        group.write_and_flush(*disk, IoClass::kCritical, 0, data);
        co_await group.run();
        co_return group.result();
      }
      static Task<int> many(Disk* disk) {
        Buffer data(2 * kMiB);
        fill(data.span(), 0, 1);
        IoGroup group;
        for (std::uint64_t i = 0; i < 16; ++i) {
          group.write_and_flush(*disk, IoClass::kCritical, i * kMiB, data.span().first(kMiB));
          group.write(*disk, IoClass::kWrite, (16 + i) * kMiB / 4, data.span().first(kMiB / 4));
        }
        co_await group.run();
        co_return group.result().has_value() ? 0 : 1;
      }
    };
    on_each_kind([](const std::string& path) {
      for (const int workers : {1, 2}) {
        UringDiskOptions options = options_for_test();
        options.workers = workers;
        auto disk = open_at(path, options).value();
        Buffer buffer(kBlockBytes);
        fill(buffer.span(), 0, 0);
        CHECK(write(*disk, kBlockBytes, buffer.span()).has_value());
        CHECK(disk->needs_flush());
        CHECK(block_on(*executor, Run::one(disk.get(), buffer.span())).has_value());
        CHECK_FALSE(disk->needs_flush());
        CHECK(disk->metrics().writes.sum() == 2);
        CHECK(disk->metrics().flushes.sum() == 1);
        Buffer read_back(kBlockBytes);
        CHECK(read(*disk, 0, read_back.span()).has_value());
        CHECK(std::ranges::equal(read_back.span(), buffer.span()));
        CHECK(block_on(*executor, Run::many(disk.get())) == 0);
        CHECK(disk->metrics().flushes.sum() == 17);
        CHECK(block_on(*executor, Run::one(disk.get(), buffer.span())).has_value());
        CHECK_FALSE(disk->needs_flush());
      }
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
    const auto flushes = [&] { return device.statistic(16); };
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

  TEST_CASE("a request with a mutex held is a mistake of ours") {
    const TemporaryDirectory directory;
    create_at(directory / "image");
    auto disk = open_at(directory / "image").value();
    Buffer buffer(kBlockBytes);
    CHECK(test::aborts([&] {
      IoRequest request;
      request.data = buffer.data();
      request.size_bytes = buffer.size();
      request.on_complete = [](IoRequest&) {};
      Mutex mutex;
      const LockGuard lock(mutex);
      disk->submit(request);
    }));
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

  TEST_CASE("a disk that has failed can be closed, and opened anew while it lives on") {
    on_each_kind([](const std::string& path) {
      auto first = open_at(path).value();
      Buffer buffer(kBlockBytes);
      fill(buffer.span(), 1, 1);
      REQUIRE(write(*first, 0, buffer.span()).has_value());
      CHECK_FALSE(first->close());  // it has not failed
      first->fail();
      CHECK(first->close());
      const auto second = open_at(path);
      REQUIRE(second.has_value());
      CHECK(read(**second, 0, buffer.span()).has_value());
      CHECK(is_filled(buffer.span(), 1, 1));
      CHECK(read(*first, 0, buffer.span()).error().code == Code::kDiskGone);
      CHECK(first->close());
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
}

}  // namespace
}  // namespace dynamicfs::scheduler
