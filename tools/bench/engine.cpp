// The scheduler without FUSE: random 4 KiB reads of a device through UringDisk, so many at a time.
// tools/bench/engine runs it beside fio. The device is named by the environment (DYNAMICFS_DEVICE).

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <random>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "scheduler/uring_disk.hpp"
#include "tools/bench/cpu_time.hpp"

namespace dynamicfs {
namespace {

constexpr std::uint64_t kReadsEach = 2000;

Task<bool> reader(scheduler::Disk* disk, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Buffer buffer(kBlockBytes);
  const std::uint64_t blocks = disk->size_bytes() / kBlockBytes;
  scheduler::IoGroup group;
  for (std::uint64_t i = 0; i < kReadsEach; ++i) {
    group.clear();
    group.read(*disk, scheduler::IoClass::kRead, random() % blocks * kBlockBytes, buffer.span());
    co_await group.run();
    if (!group.result()) co_return false;
  }
  co_return true;
}

Task<bool> readers(scheduler::Disk* disk, std::uint64_t count, std::uint64_t seed) {
  std::vector<Task<bool>> all;
  for (std::uint64_t i = 0; i < count; ++i) all.push_back(reader(disk, seed * 1000 + i));
  const std::vector<bool> good = co_await when_all(std::move(all));
  co_return std::ranges::all_of(good, [](bool one) { return one; });
}

struct Opened {
  std::unique_ptr<Executor> executor;
  std::unique_ptr<scheduler::Disk> disk;
};

Opened open_device(benchmark::State& state) {
  Opened opened{make_thread_executor(), nullptr};
  const char* const device = std::getenv("DYNAMICFS_DEVICE");
  if (device == nullptr) {
    state.SkipWithError("DYNAMICFS_DEVICE names no device");
    return opened;
  }
  const auto target = scheduler::inspect_volume(device);
  if (target) {
    auto disk = scheduler::open_uring_disk(*opened.executor, *target, {.name = "bench"});
    if (disk) opened.disk = std::move(*disk);
  }
  if (opened.disk == nullptr) state.SkipWithError("the device cannot be opened");
  return opened;
}

void report(benchmark::State& state, double reads, double cpu_before,
            const scheduler::DiskMetrics& metrics) {
  state.counters["reads_per_s"] = benchmark::Counter(reads, benchmark::Counter::kIsRate);
  state.counters["cpu_us_per_read"] = (cpu_seconds() - cpu_before) * 1e6 / reads;
  state.counters["system_calls_per_read"] = static_cast<double>(metrics.system_calls.sum()) / reads;
  state.counters["wake_ups_per_read"] = static_cast<double>(metrics.wake_ups.sum()) / reads;
}

void random_reads(benchmark::State& state) {
  const Opened opened = open_device(state);
  if (opened.disk == nullptr) return;
  const auto depth = static_cast<std::uint64_t>(state.range(0));
  const double cpu_before = cpu_seconds();
  std::uint64_t round = 0;
  for ([[maybe_unused]] auto _ : state) {
    if (!block_on(*opened.executor, readers(opened.disk.get(), depth, ++round))) {
      return state.SkipWithError("a read failed");
    }
  }
  report(state, static_cast<double>(round * depth * kReadsEach), cpu_before,
         opened.disk->metrics());
}
BENCHMARK(random_reads)->Arg(1)->Arg(16)->Arg(64)->UseRealTime()->MinTime(3);

// One read at a time from a thread that is none of the disk's and waits for it: two hand-overs for
// each, of the request and of its answer. What a thread that receives requests could save by
// submitting them itself is one of them.
void reads_from_outside(benchmark::State& state) {
  const Opened opened = open_device(state);
  if (opened.disk == nullptr) return;
  std::mt19937_64 random(1);
  Buffer buffer(kBlockBytes);
  const std::uint64_t blocks = opened.disk->size_bytes() / kBlockBytes;
  const double cpu_before = cpu_seconds();
  std::uint64_t reads = 0;
  for ([[maybe_unused]] auto _ : state) {
    const std::uint64_t offset = random() % blocks * kBlockBytes;
    if (!block_on(*opened.executor, scheduler::read(*opened.disk, scheduler::IoClass::kRead, offset,
                                                    buffer.span()))) {
      return state.SkipWithError("a read failed");
    }
    ++reads;
  }
  report(state, static_cast<double>(reads), cpu_before, opened.disk->metrics());
}
BENCHMARK(reads_from_outside)->UseRealTime()->MinTime(3);

}  // namespace
}  // namespace dynamicfs

BENCHMARK_MAIN();
