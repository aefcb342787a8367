// Clones beside everything else: others that clone, cut and remove the same files, no room, disks that are away or
// hold something wrong.
#include <doctest/doctest.h>

#include <optional>
#include <random>
#include <vector>

#include "tests/fs/cold_metadata.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using Copied = Result<std::uint64_t>;

struct Pair : SimPool {
  explicit Pair(std::uint64_t seed = 7, SimPoolOptions options = {})
      : SimPool(seed, std::move(options)) {
    format();
    REQUIRE(mount().has_value());
    REQUIRE(create("a").has_value());
    REQUIRE(create("b").has_value());
  }
  std::uint64_t promised() { return fs().store().space(fs().pool().policy()).promised_bytes; }
};

// Several of these at once on two files of one letter each.
Task<void> disturb(SimPool* pool, std::uint64_t seed, int* running) {
  std::mt19937_64 random(seed);
  fs::Filesystem& fs = pool->fs();
  for (int step = 0; step < 12; ++step) {
    const std::string from = random() % 2 == 0 ? "a" : "b";
    const std::string to = from == "a" ? "b" : "a";
    const auto source = co_await SimPool::resolve_task(&fs, from);
    const auto target = co_await SimPool::resolve_task(&fs, to);
    if (!source.has_value() || !target.has_value()) continue;
    const std::uint64_t at = random() % 600 * kBlockBytes;
    switch (random() % 8) {
      case 0: {
        fs::AttributeChange change;
        change.size_bytes = at + random() % kBlockBytes;
        const auto cut = co_await fs.setattr(*target, change);
        cut.has_value();
        break;
      }
      case 1: {
        // The name stands for another file then; who clones the old one meanwhile has it to the end.
        const auto gone = co_await fs.unlink(kRootInode, to);
        const auto made = co_await fs.mknod(kRootInode, to, S_IFREG | 0644, 0, {});
        if (made.has_value()) fs.forget(made->inode, 1);
        gone.has_value();
        break;
      }
      case 2: {
        const char letter = from[0];
        const auto wrote = co_await SimPool::write_task(
            &fs, *source, at + random() % 5000, std::string(1 + random() % 400'000, letter));
        wrote.has_value();
        break;
      }
      default: {
        const std::uint64_t skew = random() % 3 == 0 ? random() % kBlockBytes : 0;
        const std::uint64_t size = 1 + random() % (3 * kMiB);
        const Copied copied =
            co_await fs.copy_range(*source, at + skew, *target, at + skew, size, {});
        if (copied.has_value() && *copied > size) DFS_ASSERT(false);
      }
    }
  }
  --*running;
}

bool only_letters(const std::string& text) {
  return text.find_first_not_of(std::string("ab\0", 3)) == std::string::npos;
}

}  // namespace

TEST_SUITE("clones and faults") {
  TEST_CASE(
      "each way at once, with cuts, removals and writes: every count is exact, also after a "
      "crash") {
    const std::uint64_t base = seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + seeds(12); ++seed) {
      CAPTURE(seed);
      Pair pool{seed, many_runs()};
      REQUIRE(pool.write("a", 0, std::string(2 * kMiB + 777, 'a')).has_value());
      REQUIRE(pool.write("b", 0, std::string(2 * kMiB + 99, 'b')).has_value());
      int running = 6;
      for (std::uint64_t i = 0; i < 6; ++i) spawn(disturb(&pool, seed * 100 + i, &running));
      if (seed % 2 == 0) {
        std::optional<Result<void>> done;
        spawn(keep(pool.fs().checkpoint(), &done));
        while (!done) REQUIRE(pool.executor.step());
        CHECK(done->has_value());
      }
      while (running > 0) REQUIRE(pool.executor.step());
      // What lost its last name meanwhile is removed in the background.
      pool.executor.run_for(std::chrono::seconds{1});
      check_whole(pool);
      CHECK(only_letters(pool.read("a").value()));
      CHECK(only_letters(pool.read("b").value()));
      const std::string a = pool.read("a").value();
      const std::string b = pool.read("b").value();
      sync_and_cut(pool);
      check_whole(pool);
      CHECK(pool.read("a").value() == a);
      CHECK(pool.read("b").value() == b);
      REQUIRE(pool.unlink("a").has_value());
      REQUIRE(pool.unlink("b").has_value());
      CHECK(pool.fs().store().live_blocks() == 0);
      CHECK(pool.fs().store().saved_blocks() == 0);
      CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
    }
  }

  TEST_CASE("a source that is removed during a clone: the target has a beginning of it, or all") {
    for (int at = 0; at < 12; ++at) {
      CAPTURE(at);
      Pair pool{static_cast<std::uint64_t>(at + 1), many_runs()};
      // Both ends are copied, so it waits for the disks between its steps.
      const std::string text = pattern(1, 20 * kMiB);
      REQUIRE(pool.write("a", 0, text).has_value());
      make_cold(pool);
      std::optional<Copied> copied;
      spawn(keep(
          pool.fs().copy_range(*pool.resolve("a"), 5, *pool.resolve("b"), 5, text.size() - 10, {}),
          &copied));
      pool.executor.run_for(std::chrono::microseconds{100 * at * at});
      REQUIRE(pool.unlink("a").has_value());
      pool.executor.run_for(std::chrono::seconds{1});
      REQUIRE(copied.has_value());
      const std::uint64_t done = copied->has_value() ? **copied : 0;
      std::string expected(done == 0 ? 0 : 5 + done, '\0');
      if (done != 0) expected.replace(5, done, text, 5, done);
      CHECK(pool.read("b").value() == expected);
      check_whole(pool);
      REQUIRE(pool.unlink("b").has_value());
      CHECK(pool.fs().store().live_blocks() == 0);
    }
  }

  TEST_CASE(
      "without room for an end that is copied it is as long as it says, and the rest as it was") {
    Pair pool{7, one_disk(64 * kMiB)};
    const std::string text = pattern(1, 3 * kMiB);
    REQUIRE(pool.write("a", 0, text).has_value());
    // The target is a hole where the copy goes: what is not shared has to be new.
    const std::string there = pattern(2, kMiB);
    REQUIRE(pool.write("b", 3 * kMiB, there).has_value());
    REQUIRE(pool.create("full").has_value());
    for (std::uint64_t at = 0;
         pool.write("full", at, std::string(16 * kBlockBytes, 'f')).has_value();) {
      at += 16 * kBlockBytes;
    }
    while (pool.write("full", pool.stat("full")->size_bytes, std::string(kBlockBytes, 'f'))
               .has_value()) {
    }
    const InodeId a = *pool.resolve("a");
    const InodeId b = *pool.resolve("b");
    std::string model = std::string(3 * kMiB, '\0') + there;
    // The first end: nothing.
    const Copied none = pool.run(pool.fs().copy_range(a, 100, b, 100, 2 * kMiB, {}));
    REQUIRE_FALSE(none.has_value());
    CHECK(none.error().code == Code::kNoSpace);
    CHECK(pool.read("b").value() == model);
    // The last one: all but that.
    const Copied most =
        pool.run(pool.fs().copy_range(a, 0, b, 0, 2 * kMiB + kBlockBytes + 100, {}));
    REQUIRE(most.has_value());
    CHECK(*most == 2 * kMiB + kBlockBytes);
    model.replace(0, *most, text, 0, *most);
    CHECK(pool.read("b").value() == model);
    check_whole(pool);
    sync_and_cut(pool);
    CHECK(pool.read("b").value() == model);
    check_whole(pool);
  }

  TEST_CASE(
      "over what is reserved, in a pool that is full: the promise is given back, and kept "
      "elsewhere") {
    Pair pool{7, one_disk(64 * kMiB)};
    const std::string text = pattern(1, 4 * kMiB);
    REQUIRE(pool.write("a", 0, text).has_value());
    const InodeId b = *pool.resolve("b");
    std::uint64_t reserved = 4 * kMiB;
    using fs::FallocateMode::kAllocate;
    REQUIRE(pool.run(pool.fs().fallocate(b, kAllocate, 0, reserved)).has_value());
    while (pool.run(pool.fs().fallocate(b, kAllocate, reserved, kMiB)).has_value())
      reserved += kMiB;
    CHECK(pool.promised() == reserved);
    REQUIRE(pool.create("c").has_value());
    CHECK(pool.write("c", 0, std::string(2 * kMiB, 'c')).error().code == Code::kNoSpace);
    REQUIRE(pool.copy_range("a", 0, "b", 0, text.size()).has_value());
    CHECK(pool.promised() == reserved - text.size());
    CHECK(pool.read("b", 0, text.size()).value() == text);
    check_whole(pool);
    // What was not cloned over can be written as was promised, and what was given back is there for others.
    for (std::uint64_t at = text.size(); at < reserved; at += kMiB)
      REQUIRE(pool.write("b", at, std::string(kMiB, 'w')).has_value());
    CHECK(pool.promised() == 0);
    CHECK(pool.write("c", 0, std::string(2 * kMiB, 'c')).has_value());
    check_whole(pool);
  }

  TEST_CASE("made while a disk is away: whole when it is back, and without any other one") {
    Pair pool;
    const std::string text = pattern(1, 2 * kMiB + 300);
    REQUIRE(pool.write("a", 0, text).has_value());
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount({1}).has_value());
    REQUIRE(pool.copy_range("a", 0, "b", 0, text.size()).has_value());
    std::string changed = text;
    changed.replace(kMiB, 10'000, std::string(10'000, 'x'));
    REQUIRE(pool.write("a", kMiB, std::string(10'000, 'x')).has_value());
    sync_and_cut(pool);
    CHECK(pool.read("a").value() == changed);
    CHECK(pool.read("b").value() == text);
    check_whole(pool);
    struct Start {
      static Task<Result<void>> run(fs::Filesystem* fs) { co_return fs->start_scrub(); }
    };
    for (int round = 0; round < 2; ++round) {
      REQUIRE(pool.run(Start::run(&pool.fs())).has_value());
      while (pool.fs().scrub_report().state == fs::ScrubState::kRunning)
        pool.executor.run_for(std::chrono::milliseconds{1});
    }
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    for (std::size_t away = 0; away < 3; ++away) {
      CAPTURE(away);
      REQUIRE(pool.unmount().has_value());
      REQUIRE(pool.mount({away}, true).has_value());
      const auto a = pool.read("a");
      const auto b = pool.read("b");
      REQUIRE(a.has_value());
      REQUIRE(b.has_value());
      CHECK(*a == changed);
      CHECK(*b == text);
    }
  }

  TEST_CASE("a read of one file mends what two share, for both") {
    SimPoolOptions options;
    options.disk_bytes = {64 * kMiB, 64 * kMiB};
    Pair pool{7, options};
    const std::string text = pattern(1, kMiB);
    REQUIRE(pool.write("a", 0, text).has_value());
    REQUIRE(pool.copy_range("a", 0, "b", 0, text.size()).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const extent::ChunkPut chunk = pool.fs().store().chunks().back();
    // The copy that is asked while nothing else goes on.
    const std::uint64_t before = pool.disks[0]->metrics().reads.sum();
    REQUIRE(pool.read("a").value() == text);
    const std::uint16_t asked = pool.disks[0]->metrics().reads.sum() > before ? 0 : 1;
    const extent::Place place =
        chunk.places[0].disk.raw == asked ? chunk.places[0] : chunk.places[1];
    const auto disk = pool.fs().pool().status()[place.disk.raw].record;
    pool.media[place.disk.raw]->write(disk.first_slot_offset + place.slot.raw * kSlotBytes,
                                      Bytes(3 * kBlockBytes, std::byte{0x5a}));
    // Should it be another one by chance, then the next time.
    for (int i = 0; i < 100 && pool.fs().store().metrics().repairs.sum() == 0; ++i)
      CHECK(pool.read("a").value() == text);
    CHECK(pool.fs().store().metrics().repairs.sum() > 0);
    pool.executor.run_for(std::chrono::seconds{1});
    const std::uint64_t errors = pool.fs().store().metrics().checksum_errors.sum();
    for (int i = 0; i < 50; ++i) CHECK(pool.read("b").value() == text);
    CHECK(pool.fs().store().metrics().checksum_errors.sum() == errors);
    REQUIRE(pool.unmount().has_value());
    // The copy that was bad is the only one now.
    REQUIRE(pool.mount({std::size_t{1} - place.disk.raw}).has_value());
    CHECK(pool.read("b").value() == text);
    CHECK(pool.read("a").value() == text);
    check_whole(pool);
  }
}

}  // namespace dynamicfs::test
