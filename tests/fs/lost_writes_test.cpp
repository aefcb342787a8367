// Disks that go while what they have just been given is not known yet, or not flushed.
#include <doctest/doctest.h>

#include <map>

#include "tests/fs/whole.hpp"

namespace dynamicfs::test {
namespace {

// A pool of three disks, of which one goes in the hand of a write: it has its copy, and is lost before the other disk
// has the other.
class InTheHand {
 public:
  explicit InTheHand(std::uint64_t seed) : pool(seed) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (scheduler::SimulatedDisk* const disk : pool.disks) {
      disk->faults().fail = [this, disk](const scheduler::IoRequest& request) {
        completes(*disk, request);
        return Code::kOk;
      };
    }
  }
  // The next write of file data whose second copy is there after `passed` others.
  void arm(unsigned passed = 0) {
    left_ = passed + 1;
    first_copies_.clear();
  }
  bool happened() const { return lost_ != nullptr; }
  // Nothing has been put into chunks that have a copy on the disk that went since it went.
  void check_left_alone() {
    REQUIRE(happened());
    CHECK(live_beside(lost_) <= live_then_);
  }
  // Of these it has nothing, so they are read without each of the others, too.
  void check_two_copies(const std::map<std::string, std::string>& files) {
    check_left_alone();
    const std::size_t gone = index_of(lost_);
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    for (std::size_t other = 0; other < 3; ++other) {
      if (other == gone) continue;
      CAPTURE(other);
      pool.power_cut();
      REQUIRE(pool.mount({gone}).has_value());
      pool.disks[other > gone ? other - 1 : other]->fail();
      for (const auto& [name, text] : files) {
        CAPTURE(name);
        const Result<std::string> read = pool.read(name);
        REQUIRE(read.has_value());
        CHECK((read.value() == text));
      }
    }
  }

 private:
  std::size_t index_of(const scheduler::SimulatedDisk* disk) const {
    return static_cast<std::size_t>(disk->path().back() - '0');
  }
  std::uint64_t live_beside(const scheduler::SimulatedDisk* disk) {
    std::uint64_t blocks = 0;
    const std::vector<extent::ChunkPut> chunks = pool.fs().store().chunks();
    for (const auto& [chunk, live] : pool.fs().store().live()) {
      const auto put = std::ranges::find(chunks, chunk, &extent::ChunkPut::chunk);
      DFS_ASSERT(put != chunks.end());
      const bool beside = std::ranges::any_of(
          put->places, [&](const auto& place) { return place.disk.raw == index_of(disk); });
      if (beside) blocks += live.count();
    }
    return blocks;
  }
  void completes(scheduler::SimulatedDisk& disk, const scheduler::IoRequest& request) {
    const DiskId id{static_cast<std::uint16_t>(index_of(&disk))};
    if (left_ == 0 || request.op != scheduler::IoOp::kWrite ||
        request.offset_bytes < pool.fs().pool().slot_offset(id, SlotId{0}))
      return;
    const auto [at, first] = first_copies_.try_emplace(request.data, &disk);
    if (first || at->second == &disk) return;
    scheduler::SimulatedDisk* const has_it = at->second;
    first_copies_.erase(at);
    if (--left_ != 0) return;
    lost_ = has_it;
    live_then_ = live_beside(has_it);
    spawn(lose(&pool.fs().pool(), DiskId{static_cast<std::uint16_t>(index_of(has_it))}));
  }
  static Task<void> lose(journal::Pool* pool, DiskId disk) {
    const Result<void> reported = co_await pool->report_failure(disk, error(Code::kDiskGone));
    reported.ignore("the pool goes on with two of three disks");
  }

  unsigned left_ = 0;  // writes until then; 0: none
  std::map<const std::byte*, scheduler::SimulatedDisk*> first_copies_;
  scheduler::SimulatedDisk* lost_ = nullptr;
  std::uint64_t live_then_ = 0;  // blocks in chunks that have a copy there

 public:
  SimPool pool;  // the last: what still runs when it goes uses the rest
};

void set_policy_of(SimPool& pool, const std::string& path, const std::string& policy) {
  REQUIRE(pool.run(pool.fs().setxattr(pool.resolve(path).value(), std::string{fs::kPolicyXattr},
                                      policy, fs::XattrMode::kEither, false))
              .has_value());
}

}  // namespace

TEST_SUITE("lost writes") {
  TEST_CASE("a write in whose hand a disk goes has two copies on those that stay") {
    const Quiet quiet;
    for (unsigned at = 0; at < 8; ++at) {
      CAPTURE(at);
      InTheHand test(at + 1);
      test.arm(at);
      std::map<std::string, std::string> files;
      for (unsigned i = 0; i < 8; ++i) {
        const std::string name = fmt::format("f{}", i);
        const std::string text = pattern(i, 100'000);
        REQUIRE(test.pool.create(name).has_value());
        REQUIRE(test.pool.write(name, 0, text).has_value());
        if (i >= at) files[name] = text;
      }
      test.check_two_copies(files);
    }
  }

  TEST_CASE("the edge of a file that is made shorter has two copies, too") {
    const Quiet quiet;
    InTheHand test(21);
    const std::string text = pattern(5, 5000);
    REQUIRE(test.pool.create("f").has_value());
    REQUIRE(test.pool.write("f", 0, text).has_value());
    test.arm();
    REQUIRE(test.pool.truncate("f", 2001).has_value());
    test.check_two_copies({{"f", text.substr(0, 2001)}});
  }

  TEST_CASE("what compaction has in its hand when a disk goes stays where it is") {
    const Quiet quiet;
    for (std::uint64_t seed = 31; seed < 35; ++seed) {
      CAPTURE(seed);
      InTheHand test(seed);
      std::map<std::string, std::string> files;
      REQUIRE(test.pool.mkdir("once").has_value());
      set_policy_of(test.pool, "once", "single");
      for (unsigned i = 0; i < 12; ++i) {
        const std::string name = fmt::format("once/f{}", i);
        files[name] = pattern(i, 40'000);
        REQUIRE(test.pool.create(name).has_value());
        REQUIRE(test.pool.write(name, 0, files[name]).has_value());
      }
      REQUIRE(test.pool.run(test.pool.fs().sync()).has_value());
      test.arm();
      for (const auto& [name, text] : files) set_policy_of(test.pool, name, "replica:2");
      test.pool.executor.run_for(std::chrono::minutes{2});
      test.check_left_alone();
    }
  }

  TEST_CASE("fsync tells of what was not flushed on a disk that went, until it is written anew") {
    const Quiet quiet;
    SimPool pool(41);
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.mkdir("once").has_value());
    set_policy_of(pool, "once", "single");
    std::vector<std::string> names;
    for (unsigned i = 0; i < 9; ++i) {
      names.push_back(fmt::format("{}f{}", i < 6 ? "once/" : "", i));
      REQUIRE(pool.create(names.back()).has_value());
      REQUIRE(pool.write(names.back(), 0, pattern(i, 300'000)).has_value());
      // Of these nothing is lost that somebody was told is there.
      if (i % 2 == 0) {
        REQUIRE(pool.fsync(names.back()).has_value());
      }
    }
    for (unsigned i = 1; i < 9; i += 2)
      REQUIRE(pool.write(names[i], 0, pattern(i + 100, 300'000)).has_value());
    REQUIRE(
        pool.run(pool.fs().pool().report_failure(DiskId{0}, error(Code::kDiskGone))).has_value());
    unsigned told = 0;
    for (unsigned i = 0; i < 9; ++i) {
      CAPTURE(names[i]);
      const bool there = pool.read(names[i]).has_value();
      const Result<void> synced = pool.fsync(names[i]);
      CHECK(synced.has_value() == (there || i % 2 == 0));
      if (synced.has_value()) continue;
      ++told;
      CHECK(code_name(synced.error().code) == code_name(Code::kDiskGone));
      CHECK_FALSE(pool.fsync(names[i]).has_value());
      REQUIRE(pool.write(names[i], 0, pattern(i + 200, 300'000)).has_value());
      CHECK(pool.fsync(names[i]).has_value());
      CHECK(pool.read(names[i]).value() == pattern(i + 200, 300'000));
    }
    CHECK(told > 0);
  }
}

}  // namespace dynamicfs::test
