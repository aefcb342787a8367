// A pool of files that are known, on disks each of which may be lost without the others.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/fs/sim_pool.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {

inline constexpr std::string_view kWhole = "single,placement=file";

struct Shelves {
  explicit Shelves(std::uint64_t seed, std::vector<std::uint64_t> disks,
                   std::string_view policy = kWhole)
      : pool(seed, options_of(std::move(disks), policy)), random(seed) {
    pool.format();
    REQUIRE(pool.mount().has_value());
  }
  static SimPoolOptions options_of(std::vector<std::uint64_t> disks, std::string_view policy) {
    SimPoolOptions options;
    options.disk_bytes = std::move(disks);
    options.policy = journal::Policy::parse(policy).value();
    return options;
  }
  std::string add(std::size_t size) {
    const std::string name = "f" + std::to_string(made++);
    REQUIRE(pool.create(name).has_value());
    files[name] = pattern(random(), size);
    REQUIRE(pool.write(name, 0, files[name]).has_value());
    return name;
  }
  void add_some(int count, std::size_t largest) {
    for (int i = 0; i < count; ++i) add(i % 3 == 0 ? random() % 6000 : random() % largest);
  }
  void write(const std::string& name, std::size_t from, const std::string& piece) {
    REQUIRE(pool.write(name, from, piece).has_value());
    std::string& text = files[name];
    if (text.size() < from + piece.size()) text.resize(from + piece.size());
    text.replace(from, piece.size(), piece);
  }
  std::string any() {
    return std::next(files.begin(), static_cast<std::ptrdiff_t>(random() % files.size()))->first;
  }
  void change_one() {
    const std::string name = any();
    std::string& text = files[name];
    switch (random() % 8) {
      case 0: {
        const std::size_t size = random() % (text.size() + 50'000);
        REQUIRE(pool.truncate(name, size).has_value());
        text.resize(size);
        break;
      }
      case 1: {
        const std::string to = "f" + std::to_string(made++);
        REQUIRE(pool.create(to).has_value());
        // As the kernel does when it is refused.
        const Result<void> shared = pool.copy_range(name, 0, to, 0, text.size());
        if (!shared.has_value()) {
          CHECK(shared.error().code == Code::kNotSupported);
          REQUIRE(pool.write(to, 0, text).has_value());
        }
        files[to] = text;
        break;
      }
      case 2: {
        REQUIRE(pool.unlink(name).has_value());
        files.erase(name);
        add(random() % 200'000);
        break;
      }
      default: {
        const std::size_t from = random() % (text.size() + 20'000);
        write(name, from, pattern(random(), 1 + random() % (random() % 3 == 0 ? 300'000 : 9'000)));
      }
    }
  }
  void check() {
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const auto read = pool.read(name, 0, 128 * kMiB);
      REQUIRE(read.has_value());
      CHECK((read.value() == text));
    }
    CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
    CHECK(pool.fs().store().metrics().unrecoverable_blocks.sum() == 0);
  }
  std::vector<DiskId> disks_of(const std::string& name) {
    const fs::PolicyReport report =
        pool.run(pool.fs().policy_report(pool.resolve(name).value())).value();
    CHECK(report.policy.text() == kWhole);
    std::vector<DiskId> disks;
    for (const auto& [disk, bytes] : report.disks) disks.push_back(disk);
    return disks;
  }
  // Each lies on one disk, in chunks of such files. Returns which, of those that have data.
  std::map<std::string, DiskId> check_whole_files() {
    std::map<std::string, DiskId> homes;
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      const fs::PolicyReport report =
          pool.run(pool.fs().policy_report(pool.resolve(name).value())).value();
      CHECK(report.disks.size() <= 1);
      CHECK(report.layouts.size() <= 1);
      for (const auto& [layout, bytes] : report.layouts) CHECK(layout.text() == kWhole);
      if (!report.disks.empty()) homes[name] = report.disks.front().first;
    }
    return homes;
  }
  Result<void> set(const std::string& path, std::string_view text) {
    return pool.run(pool.fs().setxattr(pool.resolve(path).value(), std::string{fs::kPolicyXattr},
                                       std::string{text}, fs::XattrMode::kEither, false));
  }
  // Until everything is where it should be, and as it should be.
  void settle(Duration most = std::chrono::minutes{60}) {
    const TimePoint end = pool.executor.now() + most;
    const auto leaving = [](const auto& disk) { return disk.record.leaving; };
    while (pool.fs().reencode_report().pending || pool.fs().rebuild_report().left_bytes != 0 ||
           pool.fs().rebuild_report().rebalancing ||
           std::ranges::any_of(pool.fs().pool().status(), leaving)) {
      REQUIRE(pool.executor.now() < end);
      pool.executor.run_for(std::chrono::seconds{1});
    }
  }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }
  std::uint64_t used_bytes() {
    std::uint64_t used = 0;
    for (const auto& [disk, bytes] :
         pool.fs().store().space(pool.fs().pool().policy()).used_by_disk)
      used += bytes;
    return used;
  }

  SimPool pool;
  std::mt19937_64 random;
  std::map<std::string, std::string> files;
  int made = 0;
};

inline std::vector<std::uint64_t> disks_alike(std::size_t count, std::uint64_t bytes) {
  return std::vector<std::uint64_t>(count, bytes);
}

}  // namespace dynamicfs::test
