// What locks keep waiting, with threads: nobody waits for an operation that waits for a disk or for the
// journal, not even in the same directory; all directories are in the end what was done to them; a
// change of a file takes the locks of its windows and no others.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/blocking.hpp"
#include "fs/filesystem.hpp"
#include "tests/extent/memory_disk.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// What the disks that share this keep waiting, from any thread.
class Gate {
 public:
  enum class What { kNothing, kReads, kEverything };

  void close(What what) {
    const std::lock_guard lock(mutex_);
    what_ = what;
  }
  // What waits goes on, and nothing waits from now on.
  void open() {
    std::vector<std::pair<scheduler::Disk*, scheduler::IoRequest*>> going;
    {
      const std::lock_guard lock(mutex_);
      what_ = What::kNothing;
      going.swap(held_);
    }
    for (const auto& [device, request] : going) device->submit(*request);
  }
  bool hold(scheduler::Disk& device, scheduler::IoRequest& request) {
    const std::lock_guard lock(mutex_);
    if (what_ == What::kNothing) return false;
    if (what_ == What::kReads && request.op != scheduler::IoOp::kRead) return false;
    held_.emplace_back(&device, &request);
    came_.notify_all();
    return true;
  }
  // False if `ended` was set instead, and give_up() called.
  bool await_one(const std::atomic<bool>& ended) {
    std::unique_lock lock(mutex_);
    came_.wait(lock, [&] { return !held_.empty() || ended; });
    return !held_.empty();
  }
  void give_up() {
    const std::lock_guard lock(mutex_);
    came_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  What what_ = What::kNothing;
  std::vector<std::pair<scheduler::Disk*, scheduler::IoRequest*>> held_;
};

class GatedDisk final : public scheduler::Disk {
 public:
  GatedDisk(Executor& executor, Gate& gate) : device_(executor, "memory", 96 * kMiB), gate_(gate) {}

  void submit(scheduler::IoRequest& request) override {
    if (!gate_.hold(device_, request)) device_.submit(request);
  }
  std::uint64_t size_bytes() const override { return device_.size_bytes(); }
  const std::string& path() const override { return device_.path(); }
  scheduler::DiskKind kind() const override { return device_.kind(); }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return device_.needs_flush(); }
  const scheduler::DiskMetrics& metrics() const override { return device_.metrics(); }
  void fail() override {}
  bool failed() const override { return false; }

 private:
  MemoryDisk device_;
  Gate& gate_;
};

struct ThreadPool {
  ThreadPool() {
    std::vector<std::unique_ptr<scheduler::Disk>> disks;
    std::vector<scheduler::Disk*> plain;
    for (int i = 0; i < 2; ++i) {
      disks.push_back(std::make_unique<GatedDisk>(*executor, gate));
      plain.push_back(disks.back().get());
    }
    const journal::FormatOptions format{.policy = {.copies_or_data = 2}, .label = "test"};
    REQUIRE(run(journal::Pool::format(*executor, plain, format)).has_value());
    journal::Pool::Opening opening;
    opening.disks = std::move(disks);
    auto pool = run(journal::Pool::open(*executor, std::move(opening), nullptr));
    REQUIRE(pool.has_value());
    auto mounted = run(fs::Filesystem::mount(*executor, std::move(*pool), {}));
    REQUIRE(mounted.has_value());
    filesystem = std::move(*mounted);
  }
  ~ThreadPool() {
    gate.open();
    CHECK(run(filesystem->unmount()).has_value());
  }

  template <class T>
  T run(Task<T> task) {
    return block_on(*executor, std::move(task));
  }
  InodeId mkdir(const std::string& name) {
    const auto made = run(filesystem->mkdir(kRootInode, name, 0755, {}));
    REQUIRE(made.has_value());
    return made->inode;
  }
  Result<void> create(InodeId parent, const std::string& name) {
    const auto made = run(filesystem->mknod(parent, name, S_IFREG | 0644, 0, {}));
    if (!made.has_value()) return made.error();
    filesystem->forget(made->inode, 1);
    return {};
  }
  std::multiset<std::string> names(InodeId directory) {
    std::multiset<std::string> out;
    auto sink = [&out](const fs::DirectoryEntry& entry) {
      if (entry.name != "." && entry.name != "..") out.emplace(entry.name);
      return true;
    };
    REQUIRE(run(filesystem->readdir(directory, 0, false, sink)).has_value());
    return out;
  }

  Gate gate;
  std::unique_ptr<Executor> executor = make_thread_executor();
  std::unique_ptr<fs::Filesystem> filesystem;
};

}  // namespace

TEST_SUITE("locks with threads") {
  TEST_CASE_FIXTURE(ThreadPool,
                    "while a create waits for a disk others go on, in its directory too") {
    const InodeId here = mkdir("here");
    const InodeId elsewhere = mkdir("elsewhere");
    // Several blocks of a run, so that not all names come with the directory. Afterwards only the runs
    // know them.
    for (int i = 0; i < 3000; ++i) REQUIRE(create(here, "old" + std::to_string(i)).has_value());
    REQUIRE(run(filesystem->checkpoint()).has_value());
    filesystem->evict();
    for (const InodeId id : {here, elsewhere}) REQUIRE(run(filesystem->getattr(id)).has_value());

    gate.close(Gate::What::kReads);
    std::atomic<bool> ended{false};
    std::thread waiting([&] {
      for (int i = 0; i < 100; ++i) {
        const Result<void> made = create(here, "old" + std::to_string(i));
        CHECK(made.error().code == Code::kExists);
      }
      ended = true;
      gate.give_up();
    });
    CHECK(gate.await_one(ended));
    for (int i = 0; i < 20; ++i) {
      CHECK(create(here, "new" + std::to_string(i)).has_value());
      CHECK(create(elsewhere, "new" + std::to_string(i)).has_value());
    }
    CHECK_FALSE(ended);
    gate.open();
    waiting.join();
    CHECK(names(here).size() == 3020);
    CHECK(names(elsewhere).size() == 20);
  }

  TEST_CASE_FIXTURE(ThreadPool, "while a directory is synced creates in it go on") {
    const InodeId here = mkdir("here");
    REQUIRE(create(here, "first").has_value());
    gate.close(Gate::What::kEverything);
    std::atomic<bool> ended{false};
    std::thread syncing([&] {
      CHECK(run(filesystem->fsync(here)).has_value());
      ended = true;
      gate.give_up();
    });
    CHECK(gate.await_one(ended));
    for (int i = 0; i < 20; ++i) CHECK(create(here, std::to_string(i)).has_value());
    CHECK_FALSE(ended);
    gate.open();
    syncing.join();
    CHECK(names(here).size() == 21);
  }

  TEST_CASE_FIXTURE(ThreadPool, "threads that change one directory and their own lose no name") {
    constexpr std::uint64_t kThreads = 4;
    const std::uint64_t rounds = scaled(300);
    const InodeId shared = mkdir("shared");
    std::vector<InodeId> own;
    for (std::uint64_t t = 0; t < kThreads; ++t) own.push_back(mkdir("own" + std::to_string(t)));
    std::atomic<std::uint64_t> failed{0};
    std::atomic<std::uint64_t> won{0};  // of names that all threads want
    std::vector<std::map<InodeId, std::set<std::string>>> made(kThreads);
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(t + 1);
        for (std::uint64_t i = 0; i < rounds; ++i) {
          const InodeId parent = random() % 2 == 0 ? shared : own[t];
          const InodeId other = parent == shared ? own[t] : shared;
          const std::string name = std::to_string(t) + "-" + std::to_string(i);
          if (!create(parent, name).has_value()) failed.fetch_add(1);
          std::set<std::string>& mine = made[t][parent];
          mine.insert(name);
          const std::string victim = *mine.begin();
          if (random() % 4 == 0) {
            if (!run(filesystem->unlink(parent, victim)).has_value()) failed.fetch_add(1);
            mine.erase(victim);
          } else if (random() % 4 == 0) {
            if (!run(filesystem->rename(parent, victim, other, victim, fs::RenameMode::kReplace))
                     .has_value()) {
              failed.fetch_add(1);
            }
            mine.erase(victim);
            made[t][other].insert(victim);
          }
          const Result<void> race = create(shared, "race" + std::to_string(i));
          if (race.has_value()) {
            won.fetch_add(1);
          } else if (race.error().code != Code::kExists) {
            failed.fetch_add(1);
          }
          if (i % 100 == 50 && !run(filesystem->checkpoint()).has_value()) failed.fetch_add(1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(failed == 0);
    CHECK(won == rounds);
    std::multiset<std::string> in_shared;
    for (std::uint64_t i = 0; i < rounds; ++i) in_shared.insert("race" + std::to_string(i));
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      const std::set<std::string>& mine = made[t][own[t]];
      CHECK(names(own[t]) == std::multiset<std::string>(mine.begin(), mine.end()));
      in_shared.insert(made[t][shared].begin(), made[t][shared].end());
    }
    CHECK(names(shared) == in_shared);
  }

  TEST_CASE_FIXTURE(ThreadPool, "a file is truncated and removed under the locks of its windows") {
    const Counter& taken = filesystem->store().locks().metrics().acquisitions;
    const auto locks_of = [&](std::size_t windows) {
      return std::min(windows, extent::kLockShards);
    };
    const auto make = [&](const std::string& name) {
      const auto made = run(filesystem->mknod(kRootInode, name, S_IFREG | 0644, 0, {}));
      REQUIRE(made.has_value());
      Buffer data{kBlockBytes};
      std::memset(data.data(), 1, data.size());
      for (std::uint64_t window = 0; window < 3; ++window) {
        REQUIRE(run(filesystem->write(made->inode, window * kWindowBytes, data.span(), 0, {}))
                    .has_value());
      }
      // Room behind the end of the file.
      REQUIRE(run(filesystem->fallocate(made->inode, fs::FallocateMode::kKeepSize, 8 * kWindowBytes,
                                        kWindowBytes))
                  .has_value());
      return made->inode;
    };
    const auto truncate = [&](InodeId inode, std::uint64_t size_bytes) {
      fs::AttributeChange change;
      change.size_bytes = size_bytes;
      const std::uint64_t before = taken.sum();
      REQUIRE(run(filesystem->setattr(inode, change)).has_value());
      return taken.sum() - before;
    };
    const InodeId cut = make("cut");
    CHECK(truncate(cut, kWindowBytes + 100) == locks_of(2));
    CHECK(run(filesystem->getattr(cut))->blocks_512 == 2 * kBlockBytes / 512);
    CHECK(truncate(cut, 0) == locks_of(2));
    CHECK(run(filesystem->getattr(cut))->blocks_512 == 0);
    const InodeId removed = make("removed");
    filesystem->forget(removed, 1);
    const std::uint64_t before = taken.sum();
    REQUIRE(run(filesystem->unlink(kRootInode, "removed")).has_value());
    CHECK(taken.sum() - before == locks_of(3));
  }
}

}  // namespace dynamicfs::test
