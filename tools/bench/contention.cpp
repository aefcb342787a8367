// What locks cost in the engine, without FUSE: threads that read and write, or create, in one pool in
// memory whose disks answer at once. Next to nothing but memory is worked on, so locks meet far more
// often than through a mount. tools/bench/contention prints it, for several builds in turn.
//
//   bench_contention data THREADS SECONDS single|replica:2 many|large|hot|edge
//     4 KiB at random, half reads, half overwrites: each thread a file of its own of 2 MiB, all one file
//     of 256 MiB, all one file of 1 MiB, which is one window; edge: 8 KiB over the edges of the windows
//     of one file of 17 MiB.
//   bench_contention create THREADS SECONDS DIRECTORIES
//     Thread t makes empty files in directory t modulo DIRECTORIES.
// Prints one line of JSON.

#include <sys/stat.h>

#include <random>

#include "tools/bench/cpu_time.hpp"
#include "tools/bench/memory_pool.hpp"

namespace dynamicfs {
namespace {

struct Shape {
  bool shared = true;  // one file for all threads
  std::uint64_t places = 0;
  std::uint64_t first_bytes = 0;  // of place 0
  std::uint64_t step_bytes = kBlockBytes;
  std::uint64_t request_bytes = kBlockBytes;

  std::uint64_t offset_of(std::uint64_t place) const { return first_bytes + place * step_bytes; }
  std::uint64_t file_bytes() const { return offset_of(places - 1) + request_bytes; }
};

Shape shape_of(const std::string& name) {
  if (name == "many") return {.shared = false, .places = 2 * kMiB / kBlockBytes};
  if (name == "large") return {.places = 256 * kMiB / kBlockBytes};
  if (name == "hot") return {.places = kWindowBytes / kBlockBytes};
  return {.places = 16,
          .first_bytes = kWindowBytes - kBlockBytes,
          .step_bytes = kWindowBytes,
          .request_bytes = 2 * kBlockBytes};
}

// Runs work(thread) on so many threads until the time is over; it returns how much it has done.
struct Outcome {
  double per_s = 0;
  double cpu_us = 0;
};
template <class F>
Outcome run_threads(std::uint64_t threads, double seconds, F work) {
  std::atomic<bool> ended{false};
  std::atomic<std::uint64_t> done{0};
  std::vector<std::thread> all;
  const double cpu_before = cpu_seconds();
  const auto start = Clock::now();
  for (std::uint64_t t = 0; t < threads; ++t) {
    all.emplace_back([&, t] { done.fetch_add(work(t, ended)); });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  ended = true;
  for (std::thread& thread : all) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - start).count();
  const auto count = static_cast<double>(done.load());
  return {count / took, (cpu_seconds() - cpu_before) * 1e6 / count};
}

InodeId make_file(MemoryPool& pool, InodeId parent, const std::string& name, std::uint32_t mode) {
  const std::uint32_t type = mode & S_IFMT;
  const fs::Attributes made = must(block_on(
      *pool.executor, type == S_IFDIR ? pool.filesystem->mkdir(parent, name, mode, {})
                                      : pool.filesystem->mknod(parent, name, mode, 0, {})));
  return made.inode;
}

void write_at(MemoryPool& pool, InodeId inode, std::uint64_t offset, std::span<std::byte> data) {
  // As the kernel does it that keeps the times itself: no inode's mutex for an overwrite.
  must(block_on(*pool.executor,
                pool.filesystem->write(inode, offset, data, 0, {.kernel_keeps_times = true})));
}

void fill(MemoryPool& pool, InodeId inode, std::uint64_t size_bytes) {
  Buffer data(kWindowBytes);
  std::memset(data.data(), 1, data.size());
  for (std::uint64_t at = 0; at < size_bytes; at += data.size()) {
    write_at(pool, inode, at, data.span().first(std::min(data.size(), size_bytes - at)));
  }
}

int data(std::uint64_t threads, double seconds, const std::string& policy, const Shape& shape) {
  MemoryPool pool(policy == "single" ? 1 : 2, {}, *journal::Policy::parse(policy));
  std::vector<InodeId> files;
  for (std::uint64_t t = 0; t < (shape.shared ? 1 : threads); ++t) {
    files.push_back(make_file(pool, kRootInode, fmt::format("file-{}", t), S_IFREG | 0644));
    fill(pool, files.back(), shape.file_bytes());
  }
  const extent::LockMetrics& locks = pool.filesystem->store().locks().metrics();
  const extent::StoreMetrics& store = pool.filesystem->store().metrics();
  const std::uint64_t acquisitions = locks.acquisitions.sum();
  const std::uint64_t contentions = locks.contentions.sum();
  const Outcome outcome =
      run_threads(threads, seconds, [&](std::uint64_t t, const std::atomic<bool>& ended) {
        std::mt19937_64 random(t);
        const InodeId inode = files[shape.shared ? 0 : t];
        Buffer block(shape.request_bytes);
        std::memset(block.data(), static_cast<int>(t), block.size());
        std::uint64_t done = 0;
        for (; !ended.load(std::memory_order_relaxed); ++done) {
          const std::uint64_t bits = random();
          const std::uint64_t offset = shape.offset_of((bits >> 1) % shape.places);
          if (bits % 2 == 0) {
            write_at(pool, inode, offset, block.span());
          } else {
            must(block_on(*pool.executor, pool.filesystem->read(inode, offset, block.size())));
          }
        }
        return done;
      });
  std::string waits;
  for (std::size_t i = 0; i < Histogram::kBuckets; ++i) {
    waits += fmt::format("{}{}", i == 0 ? "" : ", ", locks.wait_ns.bucket(i));
  }
  fmt::print(
      "{{\"requests_per_s\": {:.1f}, \"cpu_us\": {:.2f}, \"lock_shards\": {}, "
      "\"lock_acquisitions\": {}, \"lock_contentions\": {}, \"wait_buckets\": [{}], "
      "\"read_retries\": {}, \"read_fallbacks\": {}, \"checksum_errors\": {}, "
      "\"checksum_stale\": {}}}\n",
      outcome.per_s, outcome.cpu_us, extent::kLockShards, locks.acquisitions.sum() - acquisitions,
      locks.contentions.sum() - contentions, waits, store.read_retries.sum(),
      store.read_fallbacks.sum(), store.checksum_errors.sum(), store.checksum_stale.sum());
  return 0;
}

int create(std::uint64_t threads, double seconds, std::uint64_t directories) {
  MemoryPool pool(1, {}, {});
  std::vector<InodeId> parents;
  for (std::uint64_t i = 0; i < directories; ++i) {
    parents.push_back(make_file(pool, kRootInode, fmt::format("d{}", i), S_IFDIR | 0755));
  }
  const Outcome outcome =
      run_threads(threads, seconds, [&](std::uint64_t t, const std::atomic<bool>& ended) {
        std::uint64_t done = 0;
        for (; !ended.load(std::memory_order_relaxed); ++done) {
          const InodeId made = make_file(pool, parents[t % directories],
                                         fmt::format("{}-{}", t, done), S_IFREG | 0644);
          pool.filesystem->forget(made, 1);
        }
        return done;
      });
  fmt::print("{{\"creates_per_s\": {:.1f}, \"cpu_us\": {:.2f}}}\n", outcome.per_s, outcome.cpu_us);
  return 0;
}

int run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 0); };
  if (mode == "data" && argc == 6) {
    return data(number(2), std::strtod(argv[3], nullptr), argv[4], shape_of(argv[5]));
  }
  if (mode == "create" && argc == 5) {
    return create(number(2), std::strtod(argv[3], nullptr), number(4));
  }
  fmt::print(stderr, "see the head of contention.cpp, or use tools/bench/contention\n");
  return 2;
}

}  // namespace
}  // namespace dynamicfs

int main(int argc, char** argv) { return dynamicfs::run(argc, argv); }
