// Small writes that wait together and lie side by side: one write to the kernel, and each still learns
// what became of itself.
#include <doctest/doctest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "tests/scheduler/stores.hpp"

namespace dynamicfs::scheduler {
namespace {

bool on_a_worker() {
  char name[16] = {};
  return ::pthread_getname_np(::pthread_self(), name, sizeof name) == 0 &&
         std::string_view{name}.starts_with("io-");
}

// Blocks [first, first + count) as one write each, submitted by the only worker while it resumes: it
// finds all of them the next time it looks.
struct Rounds {
  static Task<std::vector<Error>> run(Disk* disk, std::uint64_t first, std::uint64_t count,
                                      std::span<std::byte> from, std::uint64_t step = 1) {
    IoGroup group;
    while (!on_a_worker()) {  // a check may have ended before anybody waits for it
      group.clear();
      group.check(*disk, IoClass::kCritical);
      co_await group.run();
    }
    group.clear();
    for (std::uint64_t i = 0; i < count; ++i) {
      group.write(*disk, IoClass::kWrite, (first + i * step) * kBlockBytes,
                  from.subspan(i * kBlockBytes, kBlockBytes));
    }
    co_await group.run();
    std::vector<Error> errors;
    for (std::uint64_t i = 0; i < count; ++i) errors.push_back(group.error(i));
    co_return errors;
  }
};

struct Store {
  explicit Store(std::size_t extents = 10, std::size_t bytes = kMiB) {
    create_at(directory / "image");
    UringDiskOptions options = options_for_test();
    options.workers = 1;
    options.queue.depth = 64;
    options.queue.fifo = true;  // however slow the device, all go at once
    options.queue.write_batch_extents = extents;
    options.queue.write_batch_bytes = bytes;
    disk = open_at(directory / "image", options).value();
    Buffer zeros{4 * kMiB};
    std::memset(zeros.data(), 0, zeros.size());
    // The space is there: who waits for that is not gathered.
    REQUIRE(write(*disk, 0, zeros.span()).has_value());
  }
  std::vector<Error> rounds(std::uint64_t first, std::uint64_t count, std::span<std::byte> from,
                            std::uint64_t step = 1) {
    return block_on(*executor, Rounds::run(disk.get(), first, count, from, step));
  }
  std::uint64_t batches() const { return disk->metrics().write_batches.sum(); }
  std::uint64_t batched() const { return disk->metrics().write_batch_ops.sum(); }

  TemporaryDirectory directory;
  std::unique_ptr<Disk> disk;
};

// The kernel refuses what lies behind, for root as for anybody.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::uint64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

bool all_good(const std::vector<Error>& errors) {
  return std::ranges::all_of(errors, [](const Error& error) { return error.code == Code::kOk; });
}

TEST_SUITE("uring_disk write batches") {
  TEST_CASE("neighbours that wait together are one write, up to the limit of their number") {
    Store store;
    Buffer buffer(25 * kBlockBytes);
    fill(buffer.span(), 3, 1);
    CHECK(all_good(store.rounds(100, 25, buffer.span())));
    CHECK(store.batches() == 3);
    CHECK(store.batched() == 25);
    Buffer back(25 * kBlockBytes);
    CHECK(read(*store.disk, 100 * kBlockBytes, back.span()).has_value());
    CHECK(std::memcmp(back.data(), buffer.data(), buffer.size()) == 0);
    // The device was asked for 25, as far as everybody else is concerned.
    CHECK(store.disk->metrics().writes.sum() == 26);
    CHECK(store.disk->needs_flush());
  }

  TEST_CASE("and up to the limit of their bytes; with a limit of one each goes by itself") {
    Store four{10, 4 * kBlockBytes};
    Store one{1};
    Buffer buffer(8 * kBlockBytes);
    CHECK(all_good(four.rounds(0, 8, buffer.span())));
    CHECK(four.batches() == 2);
    CHECK(four.batched() == 8);
    CHECK(all_good(one.rounds(0, 8, buffer.span())));
    CHECK(one.batches() == 0);
  }

  TEST_CASE("what is not adjacent stays apart, and lands where it belongs") {
    Store store;
    Buffer buffer(16 * kBlockBytes);
    fill(buffer.span(), 5, 1);
    CHECK(all_good(store.rounds(10, 16, buffer.span(), 2)));
    CHECK(store.batches() == 0);
    for (std::uint64_t i = 0; i < 16; ++i) {
      Buffer back(kBlockBytes);
      CHECK(read(*store.disk, (10 + 2 * i) * kBlockBytes, back.span()).has_value());
      CHECK(std::memcmp(back.data(), buffer.data() + i * kBlockBytes, kBlockBytes) == 0);
    }
  }

  TEST_CASE("when the store takes a part of a batch, only the writes behind it fail") {
    Store store;
    Buffer buffer(8 * kBlockBytes);
    fill(buffer.span(), 7, 1);
    const std::uint64_t first = kMiB / kBlockBytes - 5;
    std::vector<Error> errors;
    {
      const FileSizeLimit limit{kMiB};
      errors = store.rounds(first, 8, buffer.span());
    }
    REQUIRE(errors.size() == 8);
    CHECK(store.batches() == 1);
    for (std::uint64_t i = 0; i < 8; ++i) {
      CAPTURE(i);
      const Error expected =
          i < 5 ? Error{} : system_error(Code::kDiskWrite, EFBIG, (first + i) * kBlockBytes);
      CHECK(errors[i] == expected);
    }
    Buffer back(5 * kBlockBytes);
    CHECK(read(*store.disk, first * kBlockBytes, back.span()).has_value());
    CHECK(std::memcmp(back.data(), buffer.data(), back.size()) == 0);
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
