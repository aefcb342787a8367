// Overlapping reads, writes, truncates and holes, aligned to nothing, at once: there must be one order
// of all of them in which each saw what it saw (tests/support/linearizability.hpp). In simulation, where
// a seed gives the order back, and with real threads.
#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <thread>

#include "base/blocking.hpp"
#include "tests/extent/memory_disk.hpp"
#include "tests/fs/sim_pool.hpp"
#include "tests/support/linearizability.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using Operation = History::Operation;
using Kind = Operation::Kind;

// Cells of a file lie on both sides of the edge between two windows.
constexpr std::uint64_t kCellBytes = 512;
constexpr std::uint64_t kCells = 160;
constexpr std::uint64_t kFrom = kWindowBytes - kCells / 2 * kCellBytes;

std::uint64_t offset_of(std::uint64_t cell) { return kFrom + cell * kCellBytes; }

std::uint64_t word_of(InodeId inode, std::uint64_t cell, std::uint64_t version) {
  return inode.raw << 48 ^ cell << 32 ^ version;
}

// One file, and what was done to it.
struct Subject {
  fs::Filesystem* filesystem = nullptr;
  InodeId inode;
  std::atomic<std::uint64_t> clock{1};
  std::atomic<std::uint64_t> version{1};
  std::mutex mutex;
  History history;                    // all below by `mutex`
  std::vector<std::string> problems;  // what no order explains

  void note(Operation operation) {
    std::lock_guard lock(mutex);
    history.add(std::move(operation));
  }
  void complain(std::string what) {
    std::lock_guard lock(mutex);
    problems.push_back(std::move(what));
  }
};

Task<Result<void>> write_cells(Subject* subject, InodeId into, Operation* operation,
                               std::uint64_t spare_bytes) {
  const std::size_t bytes = operation->count * kCellBytes;
  // As the kernel hands it over: behind what does not begin with a block there is nothing to align.
  const std::size_t skew = offset_of(operation->first) % kBlockBytes == 0 ? 0 : 128;
  Buffer buffer{align_up(skew + bytes, kBlockBytes)};
  for (std::size_t i = 0; i < bytes; i += 8) {
    const std::uint64_t cell = operation->first + i / kCellBytes;
    store(buffer.data() + skew + i, word_of(subject->inode, cell, operation->version));
  }
  const std::size_t room = buffer.size() - skew - bytes;
  co_return co_await subject->filesystem->write(
      into, offset_of(operation->first), buffer.span().subspan(skew, bytes),
      std::min<std::size_t>(room, spare_bytes), {.kernel_keeps_times = true});
}

// A write as well, if it is of whole blocks: of what another file had there first.
Task<Result<void>> clone_cells(Subject* subject, InodeId from, Operation* operation) {
  CO_TRY(co_await write_cells(subject, from, operation, 0));
  const std::uint64_t bytes = operation->count * kCellBytes;
  operation->called = subject->clock.fetch_add(1);
  CO_TRY_ASSIGN(const std::uint64_t done,
                co_await subject->filesystem->copy_range(
                    from, offset_of(operation->first), subject->inode, offset_of(operation->first),
                    bytes, {.kernel_keeps_times = true}));
  if (done != bytes) co_return Code::kRange;
  co_return Result<void>{};
}

Task<Result<void>> read_cells(Subject* subject, Operation* operation) {
  CO_TRY_ASSIGN(const fs::ReadReply reply,
                co_await subject->filesystem->read(subject->inode, offset_of(operation->first),
                                                   operation->count * kCellBytes));
  for (std::uint64_t at = 0; at + kCellBytes <= reply.size_bytes; at += kCellBytes) {
    const std::byte* const data = reply.buffer.data() + reply.begin + at;
    const std::uint64_t cell = operation->first + at / kCellBytes;
    const auto first = load<std::uint64_t>(data);
    for (std::size_t i = 8; i < kCellBytes; i += 8) {
      if (load<std::uint64_t>(data + i) == first) continue;
      subject->complain(fmt::format("cell {} is torn", cell));
      break;
    }
    operation->seen.push_back(first == 0 ? 0 : first ^ word_of(subject->inode, cell, 0));
  }
  co_return Result<void>{};
}

Task<Result<void>> remove_cells(Subject* subject, Operation* operation, bool zeros) {
  if (operation->count == History::kToEnd) {
    fs::AttributeChange change;
    change.size_bytes = offset_of(operation->first);
    CO_TRY(co_await subject->filesystem->setattr(subject->inode, change));
    co_return Result<void>{};
  }
  co_return co_await subject->filesystem->fallocate(
      subject->inode, zeros ? fs::FallocateMode::kZeroRangeKeepSize : fs::FallocateMode::kPunchHole,
      offset_of(operation->first), operation->count * kCellBytes);
}

// Everything but the operations on cells: what happens beside them in a pool that is used.
Task<Result<void>> disturb(Subject* subject, std::uint64_t what) {
  if (what == 0) co_return co_await subject->filesystem->checkpoint();
  if (what == 1) co_return co_await subject->filesystem->sync();
  if (what == 2) {
    const Result<void> done = co_await subject->filesystem->compact();
    done.ignore("another client may have begun one");
    co_return Result<void>{};
  }
  subject->filesystem->evict();
  co_return Result<void>{};
}

Task<Result<void>> client(Executor* executor, Subject* subject, std::uint64_t seed,
                          std::uint64_t operations) {
  std::mt19937_64 random(seed);
  CO_TRY_ASSIGN(
      const fs::Attributes own,
      co_await subject->filesystem->mknod(kRootInode, fmt::format("{} of {}", seed, subject->inode),
                                          S_IFREG | 0644, 0, {}));
  for (std::uint64_t i = 0; i < operations; ++i) {
    Operation operation;
    operation.first = random() % kCells;
    operation.count = 1 + random() % (random() % 3 == 0 ? 64 : 12);
    operation.count = std::min(operation.count, kCells - operation.first);
    if (random() % 3 == 0) {  // whole blocks
      operation.first = align_down(operation.first, kBlockBytes / kCellBytes);
      operation.count =
          std::min(align_up(operation.count, kBlockBytes / kCellBytes), kCells - operation.first);
    }
    const std::uint64_t choice = random() % 20;
    if (choice == 19) {
      CO_TRY(co_await disturb(subject, random() % 6));
      continue;
    }
    operation.kind = choice < 8 ? Kind::kWrite : choice < 16 ? Kind::kRead : Kind::kRemove;
    operation.version = operation.kind == Kind::kWrite ? subject->version.fetch_add(1) : 0;
    if (operation.kind == Kind::kRemove && choice == 18) operation.count = History::kToEnd;
    operation.called = subject->clock.fetch_add(1);
    Result<void> done;
    switch (operation.kind) {
      case Kind::kWrite:
        if ((operation.first | operation.count) % (kBlockBytes / kCellBytes) == 0) {
          done = co_await clone_cells(subject, own.inode, &operation);
        } else {
          done = co_await write_cells(subject, subject->inode, &operation, random() % 8192);
        }
        break;
      case Kind::kRead: done = co_await read_cells(subject, &operation); break;
      case Kind::kRemove: done = co_await remove_cells(subject, &operation, choice == 16); break;
    }
    operation.answered = subject->clock.fetch_add(1);
    if (!done.has_value()) co_return done;
    subject->note(std::move(operation));
    if (random() % 3 == 0) co_await executor->yield();
  }
  subject->filesystem->forget(own.inode, 1);
  co_return Result<void>{};
}

struct Running {
  int clients = 0;
  std::vector<Error> errors;
};

Task<void> simulated_client(Executor* executor, Subject* subject, std::uint64_t seed,
                            Running* running) {
  const Result<void> result = co_await client(executor, subject, seed, 30);
  if (!result.has_value()) running->errors.push_back(result.error());
  --running->clients;
}

std::string all_of(const std::vector<std::string>& problems) {
  std::string text;
  for (const std::string& one : problems) text += one + "\n";
  return text;
}

void check(Subject& subject) {
  INFO(all_of(subject.problems));
  CHECK(subject.problems.empty());
  const std::string problem = subject.history.problem().value_or("");
  CHECK(problem == "");
}

Operation read_of(std::uint64_t called, std::uint64_t answered, std::uint64_t first,
                  std::vector<std::uint64_t> seen) {
  Operation operation;
  operation.first = first;
  operation.count = seen.size();
  operation.called = called;
  operation.answered = answered;
  operation.seen = std::move(seen);
  return operation;
}

Operation change_of(Kind kind, std::uint64_t called, std::uint64_t answered, std::uint64_t first,
                    std::uint64_t count, std::uint64_t version) {
  Operation operation;
  operation.kind = kind;
  operation.first = first;
  operation.count = count;
  operation.called = called;
  operation.answered = answered;
  operation.version = version;
  return operation;
}

std::string verdict(std::vector<Operation> operations) {
  History history;
  for (Operation& operation : operations) history.add(std::move(operation));
  return history.problem().value_or("");
}

}  // namespace

TEST_SUITE("linearizability") {
  TEST_CASE("the check believes what one order explains, and nothing else") {
    const auto write = [](std::uint64_t called, std::uint64_t answered, std::uint64_t first,
                          std::uint64_t count, std::uint64_t version) {
      return change_of(Kind::kWrite, called, answered, first, count, version);
    };
    const auto remove = [](std::uint64_t called, std::uint64_t answered, std::uint64_t first,
                           std::uint64_t count) {
      return change_of(Kind::kRemove, called, answered, first, count, 0);
    };
    CHECK(verdict({write(1, 2, 0, 2, 1), read_of(3, 4, 0, {1, 1}), read_of(5, 6, 2, {0})}) == "");
    CHECK(verdict({write(1, 5, 0, 2, 1), read_of(2, 3, 0, {0, 0}), read_of(4, 6, 0, {1, 1})}) ==
          "");
    // An old version, and one that is seen before and behind another.
    CHECK(verdict({write(1, 2, 0, 1, 1), write(3, 4, 0, 1, 2), read_of(5, 6, 0, {1})}) != "");
    CHECK(verdict({write(1, 9, 0, 1, 1), write(2, 10, 0, 1, 2), read_of(3, 4, 0, {1}),
                   read_of(5, 6, 0, {2}), read_of(7, 8, 0, {1})}) != "");
    // A write that is seen in one cell and not in the other.
    CHECK(verdict({write(1, 2, 0, 2, 1), write(3, 6, 0, 2, 2), read_of(4, 5, 0, {2, 1})}) != "");
    // Two readers that disagree about the order of two writes.
    CHECK(verdict({write(1, 20, 0, 1, 1), write(2, 21, 1, 1, 2), read_of(3, 4, 0, {1, 0}),
                   read_of(5, 6, 0, {1, 2})}) == "");
    CHECK(verdict({write(1, 2, 0, 2, 1), write(3, 20, 0, 1, 2), write(4, 21, 1, 1, 3),
                   read_of(5, 6, 0, {2, 1}), read_of(7, 8, 0, {1, 3})}) != "");
    // Nobody's version, and one from the future.
    CHECK(verdict({read_of(1, 2, 0, {7})}) != "");
    CHECK(verdict({read_of(1, 2, 0, {1}), write(3, 4, 0, 1, 1)}) != "");
    // Zeros: from the beginning, by a removal, and by nobody.
    CHECK(verdict({write(1, 2, 0, 1, 1), remove(3, 4, 0, History::kToEnd),
                   read_of(5, 6, 0, {0})}) == "");
    CHECK(verdict({write(1, 2, 0, 1, 1), read_of(5, 6, 0, {0})}) != "");
    CHECK(verdict({remove(1, 2, 0, 1), write(3, 4, 0, 1, 1), read_of(5, 6, 0, {0})}) != "");
    CHECK(verdict({write(1, 2, 0, 1, 1), remove(3, 9, 0, 1), read_of(4, 5, 0, {0}),
                   read_of(6, 7, 0, {1})}) != "");
  }

  TEST_CASE("in simulation, whatever the order of requests, all operations have one order") {
    const std::uint64_t first = seed_from_environment(1);
    std::uint64_t redone = 0;
    std::uint64_t cloned = 0;
    const char* const asked = std::getenv("DYNAMICFS_HISTORIES");  // tools/soak
    const std::uint64_t histories =
        asked != nullptr ? std::strtoull(asked, nullptr, 10) : seeds(100);
    for (std::uint64_t seed = first; seed < first + histories; ++seed) {
      CAPTURE(seed);
      SimPoolOptions options;
      options.disk_bytes = {96 * kMiB, 64 * kMiB, 64 * kMiB};
      SimPool pool(seed, options);
      pool.format();
      REQUIRE(pool.mount().has_value());
      REQUIRE(pool.create("f").has_value());
      Subject subject;
      subject.filesystem = &pool.fs();
      subject.inode = pool.resolve("f").value();
      Running running{.clients = 6, .errors = {}};
      for (std::uint64_t c = 0; c < 6; ++c)
        spawn(simulated_client(&pool.executor, &subject, seed * 100 + c, &running));
      while (running.clients > 0) REQUIRE(pool.executor.step());
      CHECK(running.errors.empty());
      check(subject);
      const extent::StoreMetrics& metrics = pool.fs().store().metrics();
      CHECK(metrics.checksum_errors.sum() == 0);
      CHECK(metrics.checksum_stale.sum() == 0);
      redone += pool.fs().metrics().merge_redos.sum();
      cloned += pool.fs().metrics().clones.sum();
      const auto tree = pool.run(pool.fs().check_tree());
      REQUIRE(tree.has_value());
      CHECK(tree->problems == std::vector<std::string>{});
    }
    // It is about what comes between an operation's looks.
    if (histories >= 50) CHECK(redone > 0);
    CHECK(cloned > 0);
  }

  TEST_CASE("with threads all operations have one order") {
    const std::unique_ptr<Executor> executor = make_thread_executor();
    std::vector<std::unique_ptr<scheduler::Disk>> disks;
    std::vector<scheduler::Disk*> plain;
    for (int i = 0; i < 2; ++i) {
      disks.push_back(std::make_unique<MemoryDisk>(*executor, "memory", 96 * kMiB));
      plain.push_back(disks.back().get());
    }
    const journal::FormatOptions format{.policy = {.copies_or_data = 2}, .label = "test"};
    REQUIRE(block_on(*executor, journal::Pool::format(*executor, plain, format)).has_value());
    journal::Pool::Opening opening;
    opening.disks = std::move(disks);
    journal::Pool::Problem problem;
    auto pool = block_on(*executor, journal::Pool::open(*executor, std::move(opening), &problem));
    REQUIRE(pool.has_value());
    auto mounted = block_on(*executor, fs::Filesystem::mount(*executor, std::move(*pool), {}));
    REQUIRE(mounted.has_value());
    fs::Filesystem& filesystem = **mounted;
    for (std::uint64_t round = 0; round < scaled(12); ++round) {
      CAPTURE(round);
      const auto made = block_on(
          *executor, filesystem.mknod(kRootInode, std::to_string(round), S_IFREG | 0644, 0, {}));
      REQUIRE(made.has_value());
      Subject subject;
      subject.filesystem = &filesystem;
      subject.inode = made->inode;
      std::atomic<int> failed{0};
      std::vector<std::thread> threads;
      for (std::uint64_t c = 0; c < 6; ++c) {
        threads.emplace_back([&, c] {
          const auto result =
              block_on(*executor, client(executor.get(), &subject, round * 100 + c, scaled(40)));
          if (!result.has_value()) failed.fetch_add(1);
        });
      }
      for (std::thread& thread : threads) thread.join();
      CHECK(failed == 0);
      check(subject);
      filesystem.forget(made->inode, 1);
    }
    CHECK(filesystem.store().metrics().checksum_errors.sum() == 0);
    CHECK(filesystem.store().metrics().checksum_stale.sum() == 0);
    CHECK(block_on(*executor, filesystem.unmount()).has_value());
    mounted->reset();
  }
}

}  // namespace dynamicfs::test
