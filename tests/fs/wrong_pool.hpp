// A pool with a tree in it, whose metadata is made wrong in memory and unmounted in order, as a defect or bad memory
// might have left it.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>

#include "fs/filesystem_impl.hpp"
#include "tests/fs/whole.hpp"

namespace dynamicfs::test {

using Inside = fs::Filesystem::Impl;
using Tamper = std::function<void(Inside&)>;

inline SimPoolOptions under_parity() {
  SimPoolOptions options;
  options.policy = *journal::Policy::parse("ec:2+1");
  return options;
}

inline bool any_says(const std::vector<std::string>& texts, const std::string& text) {
  return std::ranges::any_of(
      texts, [&](const std::string& one) { return one.find(text) != std::string::npos; });
}

inline std::string joined(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) out += "\n  " + text;
  return out;
}

struct Wrong : SimPool {
  explicit Wrong(SimPoolOptions options = {}) : SimPool(11, std::move(options)) {
    format();
    REQUIRE(mount().has_value());
    REQUIRE(mkdir("d").has_value());
    REQUIRE(mkdir("d/e").has_value());
    for (const char* name : {"f", "g", "d/x", "d/e/y"}) {
      REQUIRE(create(name).has_value());
      REQUIRE(write(name, 0, pattern(name[0], 200'000)).has_value());
    }
    REQUIRE(create("c").has_value());
    REQUIRE(copy_range("f", 0, "c", 0, 200'000).has_value());
    REQUIRE(link("f", "h").has_value());
    REQUIRE(symlink("s", "f").has_value());
    dir = *resolve("d");
    inner = *resolve("d/e");
    file = *resolve("f");
    other = *resolve("g");
    copy = *resolve("c");
    good = *dump();
    REQUIRE(unmount().has_value());
  }

  // Everything is in memory when `change` is called.
  void tamper(Tamper change) {
    std::vector<std::unique_ptr<scheduler::Disk>> opened;
    for (std::size_t i = 0; i < media.size(); ++i) {
      opened.push_back(std::make_unique<scheduler::SimulatedDisk>(executor, fmt::format("sim{}", i),
                                                                  media[i], 7000 + i));
    }
    const Result<void> done =
        executor.run(tamper_task(&executor, std::move(opened), std::move(change)));
    REQUIRE(done.has_value());
    executor.run_until_idle();
  }
  static Task<Result<void>> tamper_task(SimExecutor* executor,
                                        std::vector<std::unique_ptr<scheduler::Disk>> opened,
                                        Tamper change) {
    journal::Pool::Opening opening;
    opening.disks = std::move(opened);
    journal::Pool::Problem problem;
    CO_TRY_ASSIGN(auto pool, co_await journal::Pool::open(*executor, std::move(opening), &problem));
    auto inside = std::make_unique<Inside>(*executor, std::move(pool), fs::FilesystemOptions{});
    CO_TRY(co_await inside->load());
    CO_TRY_ASSIGN(const auto all, co_await inside->load_everything());
    change(*inside);
    CO_TRY(co_await inside->unmount());
    inside->link->cut();
    inside->watch_link->cut();
    co_return Result<void>{};
  }

  static Task<int> append(fs::Filesystem* fs, Bytes record) {
    journal::Credit credit = co_await fs->journal().reserve(1, record.size());
    const Result<void> synced = co_await fs->journal().sync(fs->journal().append(credit, record));
    REQUIRE(synced.has_value());
    co_return 0;
  }

  // What `check` finds.
  std::vector<std::string> problems() {
    options_.tolerant = true;
    REQUIRE(mount({}, true).has_value());
    const auto report = run(fs().check_tree());
    REQUIRE(report.has_value());
    REQUIRE(unmount().has_value());
    options_.tolerant = false;
    return report->problems;
  }
  Result<fs::RepairReport> repair(const std::vector<std::size_t>& away = {}) {
    options_.tolerant = options_.repair = true;
    const Result<void> mounted = mount(away);
    options_.tolerant = options_.repair = false;
    if (!mounted.has_value()) return mounted.error();
    fs::RepairReport report = fs().repair_report();
    const Result<void> unmounted = unmount();
    if (!unmounted.has_value()) return unmounted.error();
    return report;
  }
  // Wrong, found, mended, and all as it was; returns the tree.
  std::string mended(const Tamper& change, const std::string& found, const std::string& done) {
    tamper(change);
    const std::vector<std::string> before = problems();
    INFO("found", joined(before));
    CHECK(any_says(before, found));
    const auto report = repair();
    REQUIRE(report.has_value());
    INFO("repaired", joined(report->repaired), "\nleft", joined(report->left));
    CHECK(any_says(report->repaired, done));
    CHECK(report->left.empty());
    const std::vector<std::string> after = problems();
    INFO("found afterwards", joined(after));
    CHECK(after.empty());
    return works();
  }
  journal::Manifest manifest() {
    options_.tolerant = true;
    REQUIRE(mount({}, true).has_value());
    const journal::Manifest now = fs().pool().superblock().manifest;
    REQUIRE(unmount().has_value());
    options_.tolerant = false;
    return now;
  }
  // Wrong, found, not understood: nothing is repaired, and the runs are those that there were.
  void untouched(const Tamper& change, const std::string& found, const std::string& why) {
    tamper(change);
    not_understood(found, why);
  }
  void not_understood(const std::string& found, const std::string& why) {
    const std::vector<std::string> before = problems();
    INFO("found", joined(before));
    CHECK(any_says(before, found));
    const journal::Manifest runs = manifest();
    const auto report = repair();
    REQUIRE(report.has_value());
    INFO("repaired", joined(report->repaired), "\nleft", joined(report->left));
    CHECK(report->repaired.empty());
    CHECK(any_says(report->left, why));
    CHECK(any_says(report->left, "nothing was repaired"));
    CHECK((manifest() == runs));
    CHECK(problems() == before);
  }
  // A mount shows the tree, takes changes and gives back what is removed; then there is still nothing wrong.
  std::string works() {
    REQUIRE(mount().has_value());
    const std::string tree = *dump();
    REQUIRE(create("new").has_value());
    REQUIRE(write("new", 0, pattern(99, 3 * kMiB)).has_value());
    CHECK(*read("new") == pattern(99, 3 * kMiB));
    REQUIRE(unlink("new").has_value());
    check_whole(*this);
    REQUIRE(unmount().has_value());
    CHECK(problems().empty());
    return tree;
  }

  static std::vector<extent::Piece> pieces(Inside& inside, InodeId id) {
    std::vector<extent::Piece> out;
    inside.inodes.find(id)->map->for_each([&](const extent::Mapping& mapping) {
      out.push_back({.chunk = mapping.chunk, .block = mapping.block, .count = mapping.count});
    });
    return out;
  }
  // Blocks at the end of the last chunk, which nobody has come to.
  static std::vector<extent::Piece> nobodys(Inside& inside) {
    return {{.chunk = inside.store->live().back().first, .block = 1000, .count = 5}};
  }
  template <class F>
  static void with(Inside& inside, InodeId id, F change) {
    const fs::InodeRef inode = inside.inodes.find(id);
    LockGuard lock(inode->mutex);
    inside.modify_locked(*inode);
    change(*inode);
  }
  static void put_name(Inside& inside, InodeId in, const std::string& name, InodeId inode,
                       std::uint32_t type) {
    with(inside, in, [&](fs::Inode& directory) {
      directory.directory->put(fs::Directory::cookie_of(name), {inode, type, name});
    });
  }
  static void drop_name(Inside& inside, InodeId in, const std::string& name) {
    with(inside, in, [&](fs::Inode& directory) {
      directory.directory->remove(directory.directory->find(name)->cookie);
    });
  }

  // Its key goes with the next checkpoint, and not those of its content.
  static void lose_head(Inside& inside, InodeId id) {
    const std::uint64_t era = inside.eras.current.load();
    with(inside, id, [&](fs::Inode& inode) { inode.captured.store(era); });
    spawn(put_aside(&inside, id, era));
  }
  // What the checkpoint of this era is to write of the inode, which it takes for captured.
  static Task<void> put_aside(Inside* inside, InodeId id, std::uint64_t era) {
    while (inside->eras.current.load() == era)
      co_await inside->executor.sleep(std::chrono::microseconds{1});
    Bytes image;
    ByteWriter out(image);
    out.put(static_cast<std::uint8_t>(journal::RunEntryKind::kDeletion));
    out.put_sized<std::uint16_t>(std::span<const std::byte>{fs::make_key(id, fs::KeyTag::kInode)});
    out.put_sized<std::uint32_t>(std::span<const std::byte>{});
    LockGuard lock(inside->images_mutex);
    inside->images.emplace(id.raw, std::move(image));
  }
  static void set_mode(Inside& inside, InodeId id, std::uint32_t mode) {
    with(inside, id, [&](fs::Inode& inode) { inode.mode = mode; });
  }
  // Two blocks of `g` are those of `c` as well, which has its own checksums for them, and nobody has what `c` had;
  // returns them.
  extent::Piece contest(Inside& inside) const {
    const extent::Piece piece{.chunk = pieces(inside, other)[0].chunk,
                              .block = pieces(inside, other)[0].block,
                              .count = 2};
    const std::vector<std::uint32_t> crcs{1, 2};
    extent::Freed freed;
    with(inside, copy, [&](fs::Inode& inode) {
      inode.map->put(FileBlock{0}, {&piece, 1}, crcs, Generation{1}, freed);
    });
    REQUIRE(inside.store->note_dead(freed.pieces).has_value());
    return piece;
  }
  // The log says it, and then the power goes.
  void log(fs::RecordWriter& record) {
    REQUIRE(mount().has_value());
    run(append(&fs(), Bytes(record.bytes().begin(), record.bytes().end())));
    power_cut();
  }

  InodeId dir, inner, file, other, copy;
  std::string good;
};

struct WrongUnderParity : Wrong {
  WrongUnderParity() : Wrong(under_parity()) {}
};

}  // namespace dynamicfs::test
