// A pool under ec:K+M through its life: small files are packed into rows, disks go and come back, the power
// fails, and what is rotten is found.
#include <doctest/doctest.h>

#include <random>

#include "tests/fs/sim_pool.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;

namespace {

SimPoolOptions erasure(std::uint8_t data, std::uint8_t parity, std::uint64_t disk_bytes) {
  SimPoolOptions options;
  options.disk_bytes.assign(static_cast<std::size_t>(data + parity), disk_bytes);
  options.policy = {
      .kind = journal::Policy::Kind::kErasure, .copies_or_data = data, .parity = parity};
  return options;
}

// Some large files and many small ones.
struct StripedLibrary {
  explicit StripedLibrary(std::uint64_t seed, SimPoolOptions options = erasure(4, 2, 128 * kMiB))
      : pool(seed, std::move(options)) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    std::mt19937_64 random(seed);
    for (int i = 0; i < 3; ++i) add("large" + std::to_string(i), pattern(seed + i, 3 * kMiB + 777));
    for (int i = 0; i < 120; ++i)
      add("small" + std::to_string(i), pattern(seed + 100 + i, 1 + random() % 20'000));
  }
  void add(const std::string& name, std::string text) {
    REQUIRE(pool.create(name).has_value());
    REQUIRE(pool.write(name, 0, text).has_value());
    files[name] = std::move(text);
  }
  void check() {
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const auto read = pool.read(name);
      REQUIRE(read.has_value());
      CHECK((read.value() == text));
    }
  }
  // Of data: in rows, respectively in chunks of copies.
  std::pair<std::uint64_t, std::uint64_t> blocks() {
    std::uint64_t striped = 0;
    std::uint64_t copied = 0;
    for (const auto& [chunk, live] : pool.fs().store().live())
      (pool.fs().store().layout(chunk)->kind == journal::Policy::Kind::kErasure ? striped
                                                                                : copied) +=
          live.count();
    return {striped, copied};
  }
  void remount(const std::vector<std::size_t>& away = {}) {
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount(away).has_value());
  }
  std::uint64_t reconstructed() { return pool.fs().store().metrics().blocks_reconstructed.sum(); }
  fs::ScrubReport scrub() {
    REQUIRE(pool.fs().start_scrub().has_value());
    while (pool.fs().scrub_report().state == fs::ScrubState::kRunning)
      REQUIRE(pool.executor.step());
    return pool.fs().scrub_report();
  }
  void check_tree() { check_whole(pool); }

  SimPool pool;
  std::map<std::string, std::string> files;
};

}  // namespace

TEST_SUITE("erasure coding") {
  TEST_CASE("small files are packed into rows when nobody has written to them for a while") {
    const std::uint64_t seed = seed_from_environment(1);
    CAPTURE(seed);
    StripedLibrary library(seed);
    const auto [striped, copied] = library.blocks();
    CHECK(striped >= 3 * 768);
    CHECK(copied > 250);
    library.pool.executor.run_for(std::chrono::minutes{4});
    const auto [striped_now, copied_now] = library.blocks();
    CHECK(copied_now < 16);
    CHECK(striped_now + copied_now == striped + copied);
    library.check();
    library.check_tree();
    // And nothing moves any more.
    const std::uint64_t moved = library.pool.fs().metrics().compaction_bytes.sum();
    library.pool.executor.run_for(std::chrono::minutes{10});
    CHECK(library.pool.fs().metrics().compaction_bytes.sum() == moved);
    library.remount({0, 3});
    library.check();
    CHECK(library.reconstructed() > 0);
  }

  TEST_CASE(
      "with as many disks away as there is parity everything is read and written, and comes back") {
    const std::uint64_t seed = seed_from_environment(2);
    CAPTURE(seed);
    StripedLibrary library(seed);
    library.pool.executor.run_for(std::chrono::minutes{4});
    library.remount({1, 4});
    library.check();
    CHECK(library.reconstructed() > 0);
    library.add("written without two disks", pattern(seed, 2 * kMiB));
    REQUIRE(library.pool.write("large0", kMiB - 100, std::string(300'000, 'n')).has_value());
    library.files["large0"].replace(kMiB - 100, 300'000, std::string(300'000, 'n'));
    library.check();
    library.remount();
    library.check();
    const fs::ScrubReport report = library.scrub();
    CHECK(report.counts.blocks_lost == 0);
    library.remount({0, 2});
    library.check();
    library.check_tree();
  }

  TEST_CASE("what a power cut leaves is right with every disk, and without any") {
    const std::uint64_t first = seed_from_environment(3);
    for (std::uint64_t seed = first; seed < first + 6; ++seed) {
      CAPTURE(seed);
      StripedLibrary library(seed, erasure(2, 1, 96 * kMiB));
      REQUIRE(library.pool.run(library.pool.fs().sync()).has_value());
      std::mt19937_64 random(seed);
      // Not durable: any of it may be there or not, but what is there is right.
      for (int i = 0; i < 20; ++i) {
        const std::string name = "small" + std::to_string(random() % 120);
        REQUIRE(library.pool.write(name, 0, pattern(random(), 40'000)).has_value());
        library.files.erase(name);
      }
      library.pool.power_cut();
      REQUIRE(library.pool.mount().has_value());
      library.check();
      library.check_tree();
      const fs::ScrubReport report = library.scrub();
      CHECK(report.counts.copies_bad == 0);
      library.remount({seed % 3});
      library.check();
    }
  }

  TEST_CASE("a scrub mends data and parity of a disk that rots, and nobody reads a wrong byte") {
    const std::uint64_t seed = seed_from_environment(4);
    CAPTURE(seed);
    StripedLibrary library(seed);
    library.pool.executor.run_for(std::chrono::minutes{4});
    library.remount();
    scheduler::SimulatedMedia& media = *library.pool.media[2];
    const journal::Superblock superblock = library.pool.fs().pool().superblock();
    const std::uint64_t begin = superblock.disks[2].first_slot_offset;
    std::mt19937_64 random(seed);
    for (std::uint64_t at = begin; at < media.size_bytes(); at += kBlockBytes)
      media.flip(at + random() % kBlockBytes, static_cast<unsigned>(random() % 8));
    library.check();
    const fs::ScrubReport report = library.scrub();
    CHECK(report.counts.blocks_lost == 0);
    CHECK(report.counts.copies_repaired > 0);
    const fs::ScrubReport again = library.scrub();
    CHECK(again.counts.copies_bad == 0);
    library.remount({0, 5});
    library.check();
  }

  TEST_CASE("groups whose rows all hold a little are emptied, too") {
    const std::uint64_t seed = seed_from_environment(5);
    CAPTURE(seed);
    SimPool pool(seed, erasure(4, 2, 128 * kMiB));
    pool.format();
    REQUIRE(pool.mount().has_value());
    const auto name = [](std::uint64_t i) { return "f" + std::to_string(i); };
    constexpr std::uint64_t kFiles = 320;
    for (std::uint64_t i = 0; i < kFiles; ++i) {
      REQUIRE(pool.create(name(i)).has_value());
      REQUIRE(pool.write(name(i), 0, pattern(seed + i, kMiB)).has_value());
    }
    // What is left of each is the first column.
    for (std::uint64_t i = 0; i < kFiles; ++i)
      REQUIRE(pool.truncate(name(i), kMiB / 4).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::size_t chunks = pool.fs().store().chunks().size();
    REQUIRE(pool.run(pool.fs().compact()).has_value());
    pool.executor.run_for(std::chrono::minutes{1});
    CHECK(pool.fs().store().chunks().size() + 6 < chunks);
    REQUIRE(pool.unmount().has_value());
    REQUIRE(pool.mount({2, 4}).has_value());
    for (std::uint64_t i = 0; i < kFiles; ++i)
      REQUIRE((pool.read(name(i)).value() == pattern(seed + i, kMiB).substr(0, kMiB / 4)));
    check_whole(pool);
  }

  TEST_CASE("where no group finds room small files stay what they are, and are not moved about") {
    const std::uint64_t seed = seed_from_environment(6);
    CAPTURE(seed);
    // The third disk has room for a few slots, the others go on without it.
    SimPoolOptions options = erasure(2, 1, 128 * kMiB);
    options.disk_bytes[2] = 40 * kMiB;
    SimPool pool(seed, options);
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 2000; ++i) {
      const std::string name = "f" + std::to_string(i);
      REQUIRE(pool.create(name).has_value());
      REQUIRE(pool.write(name, 0, pattern(seed, 28 * kKiB)).has_value());
    }
    pool.executor.run_for(std::chrono::hours{1});
    const std::uint64_t moved = pool.fs().metrics().compaction_bytes.sum();
    CHECK(moved > 0);
    CHECK(pool.fs().store().copied_blocks() > 4000);
    pool.executor.run_for(std::chrono::hours{2});
    CHECK(pool.fs().metrics().compaction_bytes.sum() == moved);
    check_whole(pool);
  }
}
