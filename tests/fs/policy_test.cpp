// Policies of files, directories and the pool, and what is encoded anew when they change.
#include <doctest/doctest.h>

#include <random>

#include "tests/fs/sim_pool.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::test;

namespace {

using journal::Policy;

Policy policy(std::string_view text) { return Policy::parse(text).value(); }

struct Library {
  explicit Library(std::uint64_t seed, std::string_view of_pool, std::size_t disks = 4,
                   std::uint64_t disk_bytes = 96 * kMiB)
      : pool(seed, options_of(of_pool, disks, disk_bytes)), random(seed) {
    pool.format();
    REQUIRE(pool.mount().has_value());
  }
  static SimPoolOptions options_of(std::string_view of_pool, std::size_t disks,
                                   std::uint64_t disk_bytes) {
    SimPoolOptions options;
    options.disk_bytes.assign(disks, disk_bytes);
    options.policy = policy(of_pool);
    return options;
  }
  Result<void> set(const std::string& path, std::string_view text) {
    return pool.run(pool.fs().setxattr(pool.resolve(path).value(), std::string{fs::kPolicyXattr},
                                       std::string{text}, fs::XattrMode::kEither, false));
  }
  fs::PolicyReport report(const std::string& path) {
    return pool.run(pool.fs().policy_report(pool.resolve(path).value())).value();
  }
  // Small ones and some that fill stripes.
  void add(const std::string& directory, int count) {
    for (int i = 0; i < count; ++i) {
      const std::string name = directory + "/f" + std::to_string(files.size());
      REQUIRE(pool.create(name).has_value());
      const std::size_t size = i % 4 == 3 ? 1'500'000 + random() % 1'000'000 : random() % 300'000;
      files[name] = pattern(random(), size);
      REQUIRE(pool.write(name, 0, files[name]).has_value());
    }
  }
  void change_one() {
    auto at = std::next(files.begin(), static_cast<std::ptrdiff_t>(random() % files.size()));
    std::string& text = at->second;
    if (text.empty()) return;
    const std::size_t from = random() % text.size();
    const std::string piece =
        pattern(random(), std::min<std::size_t>(text.size() - from, 1 + random() % 100'000));
    REQUIRE(pool.write(at->first, from, piece).has_value());
    text.replace(from, piece.size(), piece);
  }
  void check() {
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const auto read = pool.read(name);
      REQUIRE(read.has_value());
      CHECK((read.value() == text));
    }
    CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
    CHECK(pool.fs().store().metrics().unrecoverable_blocks.sum() == 0);
  }
  // Nothing lies otherwise than the policy of its file asks.
  void check_layouts() {
    by_layout.clear();
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const fs::PolicyReport known = report(name);
      for (const auto& [layout, bytes] : known.layouts) {
        CAPTURE(known.policy.text());
        CAPTURE(layout.text());
        const bool as_asked = layout == known.policy || layout == known.policy.of_copies();
        CHECK(as_asked);
        by_layout[layout.text()] += bytes;
      }
    }
  }
  void set_all(const std::string& directory, std::string_view text) {
    REQUIRE(set(directory, text).has_value());
    for (const auto& [name, content] : files)
      if (name.starts_with(directory + "/")) REQUIRE(set(name, text).has_value());
  }
  void settle(Duration most = std::chrono::minutes{30}) {
    const TimePoint end = pool.executor.now() + most;
    while (pool.fs().reencode_report().pending) {
      REQUIRE(pool.executor.now() < end);
      pool.executor.run_for(std::chrono::seconds{1});
    }
  }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }

  SimPool pool;
  std::mt19937_64 random;
  std::map<std::string, std::string> files;
  std::map<std::string, std::uint64_t> by_layout;  // bytes, as of the last check_layouts()
};

}  // namespace

TEST_SUITE("policies") {
  TEST_CASE("what is made in a directory has its policy, and takes it along") {
    Library library(seed_from_environment(1), "single");
    REQUIRE(library.pool.mkdir("photos").has_value());
    REQUIRE(library.pool.create("photos/before").has_value());
    REQUIRE(library.set("photos", "replica:3").has_value());
    REQUIRE(library.pool.mkdir("photos/2024").has_value());
    REQUIRE(library.pool.create("photos/2024/a").has_value());
    REQUIRE(library.pool.symlink("photos/link", "a").has_value());
    REQUIRE(library.pool.rename("photos/2024/a", "a").has_value());
    REQUIRE(library.pool.unmount().has_value());
    REQUIRE(library.pool.mount().has_value());
    CHECK(library.report("photos/before").policy == policy("single"));
    CHECK_FALSE(library.report("photos/before").own);
    CHECK(library.report("photos/2024").policy == policy("replica:3"));
    CHECK(library.report("a").policy == policy("replica:3"));
    CHECK(library.report("a").own);
    CHECK_FALSE(library.report("photos/link").own);
    // What is written is protected like that, and so is the metadata.
    REQUIRE(library.pool.write("a", 0, pattern(1, 200'000)).has_value());
    const fs::PolicyReport report = library.report("a");
    REQUIRE(report.layouts.size() == 1);
    CHECK(report.layouts[0].first == policy("replica:3"));
    CHECK(report.layouts[0].second == align_up(std::uint64_t{200'000}, kBlockBytes));
    CHECK(library.pool.fs().pool().tolerance() == 2);
    checkpoint(library.pool);
    library.pool.executor.run_for(std::chrono::minutes{1});
    CHECK(library.pool.fs().metadata_copies() == 3);
    check_whole(library.pool);
  }

  TEST_CASE("what cannot be is refused, and nothing has changed") {
    Library library(seed_from_environment(2), "replica:2", 3);
    REQUIRE(library.pool.mkdir("d").has_value());
    for (const char* const text : {"", "replica:0", "raid6", "ec:2", "replica:2 "})
      CHECK(library.set("d", text).error().code == Code::kInvalid);
    CHECK(library.set("d", "replica:4").error() == error(Code::kTooFewDisks, 4));
    CHECK(library.set("d", "ec:3+1").error() == error(Code::kTooFewDisks, 4));
    CHECK_FALSE(library.report("d").own);
    CHECK(library.pool.fs().pool().tolerance() == 1);
    CHECK(library.pool.run(library.pool.fs().set_policy(policy("ec:4+2"))).error() ==
          error(Code::kTooFewDisks, 6));
    CHECK(library.pool.fs().pool().policy() == policy("replica:2"));
    REQUIRE(library.set("d", "ec:2+1").has_value());
    library.add("d", 8);
    std::uint64_t missing = 0;
    CHECK(library.pool.run(library.pool.fs().remove_disk(DiskId{1}, &missing)).error() ==
          error(Code::kTooFewDisks, 3));
  }

  TEST_CASE("a change of policy encodes anew what there is, and only that") {
    const std::uint64_t seed = seed_from_environment(3);
    const std::pair<const char*, const char*> changes[] = {
        {"single", "replica:2"}, {"replica:3", "replica:2"}, {"replica:2", "ec:2+1"},
        {"ec:2+1", "single"},    {"ec:2+1", "ec:2+2"},       {"replica:2", "single"}};
    for (const auto& [from, to] : changes) {
      CAPTURE(from);
      CAPTURE(to);
      Library library(seed, from);
      REQUIRE(library.pool.mkdir("a").has_value());
      REQUIRE(library.pool.mkdir("b").has_value());
      library.add("a", 24);
      library.add("b", 8);
      library.sync();
      REQUIRE(library.pool.fs().reencode_report().moved_bytes == 0);
      library.set_all("a", to);
      CHECK(library.pool.fs().reencode_report().pending);
      library.settle();
      library.check();
      library.check_layouts();
      std::uint64_t in_b = 0;
      for (const auto& [name, text] : library.files)
        if (name.starts_with("b/")) in_b += align_up(text.size(), kBlockBytes);
      const std::uint64_t all = library.pool.fs().store().live_blocks() * kBlockBytes;
      // Under erasure coding what is too little for a row stays in copies.
      const bool stays = policy(from) == policy(to).of_copies();
      const std::uint64_t moved = library.pool.fs().metrics().reencoded_bytes.sum();
      CHECK(moved <= all - in_b);
      CHECK(moved + (stays ? kMiB : 0) >= all - in_b);
      CHECK_FALSE(library.pool.fs().pool().superblock().reencoding);
      // Small files, too, but for what is too little for a row.
      if (policy(to).kind == Policy::Kind::kErasure)
        CHECK(library.by_layout[to] + 2 * kMiB > all - in_b);
      check_whole(library.pool);
      REQUIRE(library.pool.unmount().has_value());
      REQUIRE(library.pool.mount().has_value());
      library.check();
      library.check_layouts();
      // Whatever is tended to by itself.
      library.pool.executor.run_for(std::chrono::minutes{3});
      library.check();
    }
  }

  TEST_CASE("what is cloned while it is encoded anew is as its policy asks") {
    const std::uint64_t first = seed_from_environment(11);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      Library library(seed, "single");
      REQUIRE(library.pool.mkdir("d").has_value());
      library.add("d", 12);
      library.set_all("d", "replica:2");
      for (int i = 0; library.pool.fs().reencode_report().pending; ++i) {
        REQUIRE(i < 10'000);
        const std::string from = "d/f" + std::to_string(library.random() % 12);
        const std::string to = "d/clone" + std::to_string(i % 40);
        const std::string text = library.files[from];
        if (!library.pool.resolve(to).has_value()) {
          REQUIRE(library.pool.create(to).has_value());
          const Result<void> shared = library.pool.copy_range(from, 0, to, 0, text.size());
          // As the kernel does when it is refused.
          if (!shared.has_value()) {
            CHECK(shared.error().code == Code::kNotSupported);
            REQUIRE(library.pool.write(to, 0, text).has_value());
          }
          library.files[to] = text;
        }
        library.pool.executor.run_for(std::chrono::milliseconds{library.random() % 200});
      }
      library.check();
      library.check_layouts();
      check_whole(library.pool);
    }
  }

  TEST_CASE("a directory's policy holds when the pool's becomes weaker") {
    Library library(seed_from_environment(12), "replica:2");
    REQUIRE(library.pool.mkdir("safe").has_value());
    REQUIRE(library.set("safe", "replica:2").has_value());
    library.add("safe", 8);
    REQUIRE(library.pool.run(library.pool.fs().set_policy(policy("single"))).has_value());
    library.settle();
    CHECK(library.pool.fs().pool().tolerance() == 1);
    REQUIRE(library.pool.unmount().has_value());
    REQUIRE(library.pool.mount({0}).has_value());
    CHECK_FALSE(library.pool.fs().pool().read_only());
    library.check();
    // And can be given to more while that disk is away.
    REQUIRE(library.pool.mkdir("more").has_value());
    CHECK(library.set("more", "replica:4").has_value());
    CHECK(library.set("more", "replica:5").error() == error(Code::kTooFewDisks, 5));
  }

  TEST_CASE(
      "fsync does not say that data is safe which a disk took along that the pool can do without") {
    Library library(seed_from_environment(15), "single");
    SimPool& pool = library.pool;
    REQUIRE(pool.mkdir("safe").has_value());
    REQUIRE(library.set("safe", "replica:2").has_value());
    REQUIRE(pool.mkdir("lone").has_value());
    library.add("lone", 8);
    library.sync();
    const std::map<std::string, std::string> durable = library.files;
    library.add("lone", 8);
    library.add("safe", 8);
    pool.disks[1]->fail();
    const auto is_there = [&](const std::string& name) { return pool.read(name).has_value(); };
    int told = 0;
    int gone_later = 0;
    for (const auto& [name, text] : library.files) {
      CAPTURE(name);
      if (durable.contains(name)) continue;
      const Result<void> synced = pool.fsync(name);
      CHECK(synced.has_value() == is_there(name));
      // It stays so, until what is lost is written anew.
      CHECK(pool.fsync(name).has_value() == synced.has_value());
      if (synced.has_value()) continue;
      CHECK(synced.error().code == Code::kDiskGone);
      CHECK_FALSE(name.starts_with("safe/"));
      ++told;
      REQUIRE(pool.write(name, 0, text).has_value());
      CHECK(pool.fsync(name).has_value());
    }
    CHECK_FALSE(pool.fs().pool().read_only());
    for (const auto& [name, text] : durable) {
      CHECK(pool.fsync(name).has_value());
      if (is_there(name)) continue;
      ++gone_later;
      library.files.erase(name);
    }
    CHECK(told > 0);
    CHECK(gone_later > 0);
    for (const auto& [name, text] : library.files) CHECK((pool.read(name).value() == text));
  }

  TEST_CASE("an empty promise of many copies keeps nobody from room that is there") {
    Library library(seed_from_environment(13), "replica:2", 3, 64 * kMiB);
    REQUIRE(library.pool.create("wide").has_value());
    REQUIRE(library.set("wide", "replica:3").has_value());
    REQUIRE(library.pool.create("image").has_value());
    const InodeId image = library.pool.resolve("image").value();
    REQUIRE(library.pool
                .run(library.pool.fs().fallocate(image, fs::FallocateMode::kAllocate, 0, 48 * kMiB,
                                                 false))
                .has_value());
    // Nothing says any more under which policy that was.
    REQUIRE(library.pool.unmount().has_value());
    REQUIRE(library.pool.mount().has_value());
    library.pool.fs().statfs();
    REQUIRE(library.pool.create("new").has_value());
    CHECK(library.pool.write("new", 0, pattern(3, 4 * kMiB)).has_value());
    for (std::uint64_t at = 0; at < 48 * kMiB; at += kMiB)
      REQUIRE(library.pool.write("image", at, pattern(at, kMiB)).has_value());
  }

  TEST_CASE("the pool's policy is that of all who have none of their own") {
    Library library(seed_from_environment(4), "single");
    REQUIRE(library.pool.mkdir("own").has_value());
    REQUIRE(library.set("own", "single").has_value());
    REQUIRE(library.pool.mkdir("any").has_value());
    library.add("own", 8);
    library.add("any", 8);
    REQUIRE(library.pool.run(library.pool.fs().set_policy(policy("replica:2"))).has_value());
    library.settle();
    CHECK(library.report("own/f0").policy == policy("single"));
    CHECK(library.report("any/f8").policy == policy("replica:2"));
    library.check_layouts();
    // Their own is taken away.
    for (const auto& [name, text] : library.files) {
      if (name.starts_with("own/")) {
        REQUIRE(library.pool
                    .run(library.pool.fs().removexattr(library.pool.resolve(name).value(),
                                                       std::string{fs::kPolicyXattr}))
                    .has_value());
      }
    }
    library.settle();
    CHECK(library.report("own/f0").policy == policy("replica:2"));
    library.check_layouts();
    library.check();
    // Any disk may go.
    REQUIRE(library.pool.unmount().has_value());
    REQUIRE(library.pool.mount({2}).has_value());
    library.check();
  }

  TEST_CASE("files that change and power cuts do not keep it from ending") {
    const std::uint64_t first = seed_from_environment(5);
    for (std::uint64_t seed = first; seed < first + seeds(8); ++seed) {
      CAPTURE(seed);
      Library library(seed, seed % 2 == 0 ? "single" : "replica:2");
      REQUIRE(library.pool.mkdir("d").has_value());
      library.add("d", 30);
      library.sync();
      const char* const to[] = {"ec:2+1", "replica:3", "ec:2+2"};
      library.set_all("d", to[seed % 3]);
      library.sync();
      for (int cut = 0; cut < 4; ++cut) {
        for (int i = 0; i < 6; ++i) {
          library.change_one();
          library.pool.executor.run_for(std::chrono::milliseconds{library.random() % 700});
        }
        library.sync();
        library.pool.executor.run_for(std::chrono::milliseconds{library.random() % 3000});
        cut_and_mount(library.pool);
        library.check();
      }
      if (seed % 4 == 0) library.set_all("d", "single");
      library.settle();
      library.check();
      library.check_layouts();
      check_whole(library.pool);
    }
  }

  TEST_CASE("what files share becomes their own, and copies to another policy share nothing") {
    Library library(seed_from_environment(6), "single");
    REQUIRE(library.pool.mkdir("d").has_value());
    REQUIRE(library.pool.mkdir("safe").has_value());
    REQUIRE(library.set("safe", "replica:2").has_value());
    library.add("d", 4);
    const std::string text = library.files["d/f3"];
    for (const char* const name : {"d/x", "d/y"}) {
      REQUIRE(library.pool.create(name).has_value());
      REQUIRE(library.pool.copy_range("d/f3", 0, name, 0, text.size()).has_value());
      library.files[name] = text;
    }
    CHECK(library.pool.fs().store().saved_blocks() > 0);
    REQUIRE(library.pool.create("safe/z").has_value());
    CHECK(library.pool.copy_range("d/f3", 0, "safe/z", 0, text.size()).error().code ==
          Code::kNotSupported);
    library.set_all("d", "replica:2");
    library.settle();
    library.check();
    library.check_layouts();
    check_whole(library.pool);
    CHECK(library.pool.fs().store().saved_blocks() == 0);
    // Now it may share.
    CHECK(library.pool.copy_range("d/f3", 0, "safe/z", 0, text.size()).has_value());
  }

  TEST_CASE(
      "a disk is lost: what has two copies is there, what has none is told, the rest goes on") {
    Library library(seed_from_environment(7), "single");
    REQUIRE(library.pool.mkdir("safe").has_value());
    REQUIRE(library.set("safe", "replica:2").has_value());
    REQUIRE(library.pool.mkdir("plain").has_value());
    library.add("safe", 20);
    library.add("plain", 20);
    checkpoint(library.pool);
    library.pool.executor.run_for(std::chrono::minutes{1});
    REQUIRE(library.pool.unmount().has_value());
    REQUIRE(library.pool.mount({1}).has_value());
    std::uint64_t lost = 0;
    for (const auto& [name, text] : library.files) {
      CAPTURE(name);
      const auto read = library.pool.read(name);
      if (name.starts_with("safe/")) REQUIRE(read.has_value());
      if (read.has_value()) CHECK((read.value() == text));
      lost += read.has_value() ? 0 : 1;
    }
    CHECK(lost > 0);
    CHECK(library.pool.fs().store().unavailable_bytes() > 0);
    REQUIRE(library.pool.create("safe/new").has_value());
    REQUIRE(library.pool.write("safe/new", 0, "still").has_value());
    REQUIRE(library.pool.unmount().has_value());
    REQUIRE(library.pool.mount().has_value());
    library.check();
    CHECK(library.pool.fs().store().unavailable_bytes() == 0);
  }

  TEST_CASE("what finds no room is told, and goes on when there is some") {
    Library library(seed_from_environment(8), "single", 2, 64 * kMiB);
    REQUIRE(library.pool.mkdir("d").has_value());
    REQUIRE(library.pool.mkdir("other").has_value());
    library.add("d", 48);
    for (int i = 0;; ++i) {
      const std::string name = "other/" + std::to_string(i);
      REQUIRE(library.pool.create(name).has_value());
      if (!library.pool.write(name, 0, pattern(7, 900'000)).has_value()) break;
    }
    library.set_all("d", "replica:2");
    library.pool.executor.run_for(std::chrono::minutes{3});
    CHECK(library.pool.fs().reencode_report().pending);
    CHECK(library.pool.fs().reencode_report().stuck_bytes > 0);
    library.check();
    for (int i = 0; library.pool.unlink("other/" + std::to_string(i)).has_value(); ++i) {
    }
    library.settle();
    CHECK(library.pool.fs().reencode_report().stuck_bytes == 0);
    library.check();
    library.check_layouts();
    check_whole(library.pool);
  }

  TEST_CASE("room that is promised stays promised when policies differ") {
    Library library(seed_from_environment(9), "single", 3, 64 * kMiB);
    REQUIRE(library.pool.create("safe").has_value());
    REQUIRE(library.set("safe", "replica:3").has_value());
    const InodeId safe = library.pool.resolve("safe").value();
    const std::uint64_t promised = 20 * kMiB;
    REQUIRE(library.pool
                .run(library.pool.fs().fallocate(safe, fs::FallocateMode::kAllocate, 0, promised,
                                                 false))
                .has_value());
    for (int i = 0;; ++i) {
      const std::string name = std::to_string(i);
      REQUIRE(library.pool.create(name).has_value());
      if (!library.pool.write(name, 0, pattern(7, 900'000)).has_value()) break;
    }
    // Overwriting takes no more of it.
    for (int i = 0; i < 100; ++i)
      library.pool.write(std::to_string(i % 40), 0, pattern(8, 900'000)).ignore("it may be full");
    for (std::uint64_t at = 0; at < promised; at += 512 * kKiB)
      REQUIRE(library.pool.write("safe", at, pattern(at, 512 * kKiB)).has_value());
    check_whole(library.pool);
  }
}
