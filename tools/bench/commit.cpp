// Durable operations per second in the engine, without FUSE, on disks in memory whose flushes and
// durable writes take as long as one says; beside them the same disk flushed once for each operation.
// And what the journal takes when nobody waits. tools/bench/commit prints it with ratios.
//
//   bench_commit durable SYNC_US WRITERS SECONDS single|replica:2 overwrite|hot|create|naive
//   bench_commit append THREADS SECONDS
// Prints one line of JSON.

#include <fmt/format.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tools/bench/cpu_time.hpp"
#include "tools/bench/memory_pool.hpp"

namespace dynamicfs {
namespace {

using std::chrono::microseconds;

Task<Result<void>> nothing() { co_return Result<void>{}; }

struct Load {
  fs::Filesystem& filesystem;
  std::atomic<bool> ended{false};
  std::atomic<std::uint64_t> done{0};
};

Task<Result<void>> write_block(Load* load, InodeId inode, std::uint64_t offset) {
  Buffer block(kBlockBytes);
  std::memset(block.data(), static_cast<int>(offset / kBlockBytes + 1), block.size());
  co_return co_await load->filesystem.write(inode, offset, block.span(), 0, {});
}

// Overwrites one block of `inode` again and again, durably each time.
Task<int> overwrite(Load* load, InodeId inode, std::uint64_t offset) {
  while (!load->ended.load(std::memory_order_relaxed)) {
    const Result<void> written = co_await write_block(load, inode, offset);
    must(written);
    const Result<void> synced = co_await load->filesystem.fsync(inode);
    must(synced);
    load->done.fetch_add(1, std::memory_order_relaxed);
  }
  co_return 0;
}

Task<int> create(Load* load, std::uint64_t writer) {
  for (std::uint64_t i = 0; !load->ended.load(std::memory_order_relaxed); ++i) {
    const std::string name = fmt::format("{}-{}", writer, i);
    auto result = co_await load->filesystem.mknod(kRootInode, name, S_IFREG | 0644, 0, {});
    const fs::Attributes made = must(std::move(result));
    const Result<void> synced = co_await load->filesystem.fsync(made.inode);
    must(synced);
    load->filesystem.forget(made.inode, 1);
    load->done.fetch_add(1, std::memory_order_relaxed);
  }
  co_return 0;
}

// What the engine is compared with: a write and a flush of its own for each operation.
Task<int> naive(Load* load, scheduler::Disk* disk, std::uint64_t offset) {
  Buffer block(kBlockBytes);
  std::memset(block.data(), 1, block.size());
  while (!load->ended.load(std::memory_order_relaxed)) {
    const Result<void> written =
        co_await scheduler::write(*disk, scheduler::IoClass::kWrite, offset, block.span());
    must(written);
    const Result<void> flushed = co_await scheduler::flush(*disk, scheduler::IoClass::kCritical);
    must(flushed);
    load->done.fetch_add(1, std::memory_order_relaxed);
  }
  co_return 0;
}

Task<int> all(std::vector<Task<int>> writers) {
  co_await when_all(std::move(writers));
  co_return 0;
}

int durable(microseconds sync, std::uint64_t writers, double seconds, const std::string& policy,
            const std::string& what) {
  MemoryPool machine(policy == "single" ? 1 : 2, sync, *journal::Policy::parse(policy));
  Load load{*machine.filesystem};
  auto spare = std::make_shared<Bytes>(64 * kMiB);
  SlowSyncDisk spare_disk(*machine.executor, "/memory/spare", spare, sync);
  std::vector<InodeId> files;
  const auto make_file = [&](std::uint64_t i) {
    const auto made = must(block_on(
        *machine.executor,
        load.filesystem.mknod(kRootInode, fmt::format("file-{}", i), S_IFREG | 0644, 0, {})));
    files.push_back(made.inode);
  };
  for (std::uint64_t i = 0; i < (what == "hot" ? 1 : writers); ++i) make_file(i);
  std::vector<Task<int>> tasks;
  for (std::uint64_t i = 0; i < writers; ++i) {
    if (what == "naive") {
      tasks.push_back(naive(&load, &spare_disk, i * kBlockBytes));
    } else if (what == "create") {
      tasks.push_back(create(&load, i));
    } else if (what == "hot") {
      tasks.push_back(overwrite(&load, files[0], i * kBlockBytes));
    } else {
      tasks.push_back(overwrite(&load, files[i], 0));
    }
  }
  const journal::JournalMetrics& metrics = machine.filesystem->journal().metrics();
  const std::uint64_t commits_before = metrics.group_commits.sum();
  const std::uint64_t waiters_before = metrics.group_commit_waiters.sum();
  const double cpu_before = cpu_seconds();
  const auto start = Clock::now();
  std::thread clock([&] {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    load.ended = true;
  });
  block_on(*machine.executor, all(std::move(tasks)));
  clock.join();
  const double took = std::chrono::duration<double>(Clock::now() - start).count();
  const double done = static_cast<double>(load.done.load());
  const double commits = static_cast<double>(metrics.group_commits.sum() - commits_before);
  const double waiters = static_cast<double>(metrics.group_commit_waiters.sum() - waiters_before);
  fmt::print(
      "{{\"operations_per_s\": {:.1f}, \"batch\": {:.2f}, \"commits_per_s\": {:.1f}, "
      "\"cpu_us\": {:.2f}}}\n",
      done / took, commits > 0 ? waiters / commits : 0.0, commits / took,
      (cpu_seconds() - cpu_before) * 1e6 / done);
  return 0;
}

Task<int> append_often(journal::Journal* journal, const std::atomic<bool>* ended,
                       std::atomic<std::uint64_t>* done) {
  constexpr std::uint32_t kAtOnce = 32;
  constexpr std::size_t kRecord = 64;
  Bytes record(kRecord);
  while (!ended->load(std::memory_order_relaxed)) {
    journal::Credit credit = co_await journal->reserve(kAtOnce, kAtOnce * kRecord);
    for (std::uint32_t i = 0; i < kAtOnce; ++i) journal->append(credit, record);
    done->fetch_add(kAtOnce, std::memory_order_relaxed);
  }
  co_return 0;
}

// Records of 64 bytes that nobody syncs: they leave the ring when it fills. A log of 64 MiB, trimmed
// as a checkpoint would.
int append(std::uint64_t threads, double seconds) {
  auto executor = make_thread_executor();
  auto media = std::make_shared<Bytes>(4096 * kMiB);
  auto disk = std::make_unique<SlowSyncDisk>(*executor, "/memory/0", media, microseconds{0});
  must(block_on(*executor, journal::Pool::format(*executor, {disk.get()}, {{}, "bench"})));
  journal::Pool::Opening opening;
  opening.disks.push_back(std::move(disk));
  auto pool =
      must(block_on(*executor, journal::Pool::open(*executor, std::move(opening), nullptr)));
  journal::Replay replay;
  replay.apply = [](Lsn, std::span<const std::byte>) { return nothing(); };
  auto log = must(block_on(*executor, journal::Journal::open(*executor, *pool, std::move(replay))));
  log->on_progress([&log] { log->trim(log->position_after(log->durable())); });
  std::atomic<bool> ended{false};
  std::atomic<std::uint64_t> done{0};
  std::vector<std::thread> all;
  const double cpu_before = cpu_seconds();
  const auto start = Clock::now();
  for (std::uint64_t i = 0; i < threads; ++i) {
    all.emplace_back([&] { block_on(*executor, append_often(log.get(), &ended, &done)); });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  const double took = std::chrono::duration<double>(Clock::now() - start).count();
  const double appended = static_cast<double>(done.load());
  ended = true;
  for (std::thread& thread : all) thread.join();
  fmt::print("{{\"appends_per_s\": {:.0f}, \"cpu_us\": {:.3f}}}\n", appended / took,
             (cpu_seconds() - cpu_before) * 1e6 / appended);
  must(block_on(*executor, log->sync(log->appended())));
  return 0;
}

int run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "durable" && argc == 7) {
    return durable(microseconds{std::strtol(argv[2], nullptr, 0)},
                   std::strtoull(argv[3], nullptr, 0), std::strtod(argv[4], nullptr), argv[5],
                   argv[6]);
  }
  if (mode == "append" && argc == 4)
    return append(std::strtoull(argv[2], nullptr, 0), std::strtod(argv[3], nullptr));
  fmt::print(stderr, "see the head of commit.cpp, or use tools/bench/commit\n");
  return 4;
}

}  // namespace
}  // namespace dynamicfs

int main(int argc, char** argv) { return dynamicfs::run(argc, argv); }
