// The workers of a disk: batches, wake-ups, pace, what they do when it fails, hangs or closes.
#include "scheduler/worker.hpp"

#include <doctest/doctest.h>

#include "tests/base/dies.hpp"
#include "tests/scheduler/stores.hpp"

namespace dynamicfs::scheduler {
namespace {

TEST_SUITE("uring_disk workers") {
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
        // Every other one among few places, so that writes lie side by side.
        const std::uint64_t offset = random() % (number % 2 == 0 ? 4000 : 24) * kBlockBytes;
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
        while (before != answered.load() || !disk->kept()) {
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

  TEST_CASE("adjacent requests that wait together are one request of the device") {
    const TemporaryDirectory directory;
    create_at(directory / "backing");
    const LoopDevice device(directory / "backing");
    if (device.empty()) {
      MESSAGE("no loop device here");
      return;
    }
    const auto writes = [&] { return device.statistic(5); };
    UringDiskOptions options = options_for_test();
    options.workers = 1;
    auto disk = open_at(device.path(), options).value();
    struct Run {
      static Task<Result<void>> run(Disk* on, std::span<std::byte> from) {
        // The first goes alone, because the worker sleeps; the others wait for it, or for the next
        // time round.
        for (int round = 0; round < 10; ++round) {
          IoGroup group;
          for (std::uint64_t i = 0; i < 16; ++i) {
            group.write(*on, IoClass::kWrite, i * kBlockBytes,
                        from.subspan(i * kBlockBytes, kBlockBytes));
          }
          co_await group.run();
          CO_TRY(group.result());
        }
        co_return Result<void>{};
      }
    };
    Buffer buffer(16 * kBlockBytes);
    const std::uint64_t before = writes();
    CHECK(block_on(*executor, Run::run(disk.get(), buffer.span())).has_value());
    CHECK(disk->metrics().writes.sum() == 160);
    CHECK(writes() - before <= 40);  // 10 rounds, and what the first was torn into
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

}  // namespace
}  // namespace dynamicfs::scheduler
