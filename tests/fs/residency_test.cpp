// Metadata that is not in memory: whatever is evicted, merged, loaded again or written twice, nobody
// sees a difference but in what it costs.
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

#include "base/log.hpp"
#include "journal/run_set.hpp"
#include "tests/fs/cold_metadata.hpp"
#include "tests/fs/operations.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using fs::FallocateMode;
using fs::RenameMode;
using fs::SeekKind;
using fs::XattrMode;

void compare_cold_with_model(std::uint64_t seed, SimPoolOptions options, int operations) {
  CAPTURE(seed);
  SimPool pool(seed, options);
  pool.format();
  REQUIRE(pool.mount().has_value());
  Model model;
  RandomOperations random(seed);
  std::uint64_t loaded = 0;
  std::uint64_t merges = 0;
  const auto count = [&] {
    loaded += pool.fs().metrics().inodes_loaded.sum();
    merges += pool.fs().metrics().run_merges.sum();
  };
  for (int i = 0; i < operations; ++i) {
    const RandomOperations::Outcome outcome = random.step(pool, model);
    INFO("operation ", i, ": ", outcome.text);
    REQUIRE(code_name(outcome.real) == code_name(outcome.model));
    if (random.pick(6) == 0) checkpoint(pool);
    if (random.pick(4) == 0) pool.fs().evict();
    if (i % 50 == 49) {
      REQUIRE(pool.dump().value() == model.dump());
    }
    if (i % 150 == 149) {
      check_whole(pool);
      count();
      if (i / 150 % 2 == 0) {
        remount(pool);
      } else {
        sync_and_cut(pool);
      }
      REQUIRE(pool.dump().value() == model.dump());
      check_whole(pool);
    }
  }
  count();
  CHECK(loaded > 0);
  if (options.small_run_bytes == 0) CHECK(merges > 0);
  CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
  CHECK(pool.fs().store().metrics().checksum_stale.sum() == 0);
}

// Names.

// Makes names "<prefix>0" ... in a directory, and forgets the kernel's references.
Task<Result<void>> make_files(fs::Filesystem* filesystem, InodeId directory, std::string prefix,
                              int count) {
  for (int i = 0; i < count; ++i) {
    CO_TRY_ASSIGN(
        const fs::Attributes made,
        co_await filesystem->mknod(directory, prefix + std::to_string(i), S_IFREG | 0644, 0, {}));
    filesystem->forget(made.inode, 1);
  }
  co_return {};
}

// A quarter of the files in one directory, the others in directories of a thousand.
void make_many(SimPool& pool, int files) {
  REQUIRE(pool.mkdir("large").has_value());
  REQUIRE(pool.run(make_files(&pool.fs(), pool.resolve("large").value(), "name", files / 4))
              .has_value());
  int left = files - files / 4;
  for (int i = 0; left > 0; ++i) {
    const std::string directory = "d" + std::to_string(i);
    const int here = std::min(left, 1000);
    REQUIRE(pool.mkdir(directory).has_value());
    REQUIRE(
        pool.run(make_files(&pool.fs(), pool.resolve(directory).value(), "f", here)).has_value());
    left -= here;
  }
}

std::uint64_t bytes_read(const SimPool& pool) {
  std::uint64_t bytes = 0;
  for (const scheduler::SimulatedDisk* disk : pool.disks) bytes += disk->metrics().read_bytes.sum();
  return bytes;
}

// Files with holes.

// Blocks that have been written, and the size.
struct SparseModel {
  std::map<std::uint64_t, std::string> blocks;
  std::uint64_t size = 0;

  void write(std::uint64_t offset, std::string_view text) {
    size = std::max(size, offset + text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      std::string& block = blocks[(offset + i) / kBlockBytes];
      if (block.empty()) block.assign(kBlockBytes, '\0');
      block[(offset + i) % kBlockBytes] = text[i];
    }
  }
  // Zeros; whole blocks become holes.
  void clear(std::uint64_t from, std::uint64_t end) {
    for (auto it = blocks.lower_bound(from / kBlockBytes);
         it != blocks.end() && it->first * kBlockBytes < end;) {
      const std::uint64_t begin = it->first * kBlockBytes;
      if (begin >= from && begin + kBlockBytes <= end) {
        it = blocks.erase(it);
        continue;
      }
      for (std::uint64_t i = std::max(begin, from); i < std::min(begin + kBlockBytes, end); ++i) {
        it->second[i - begin] = '\0';
      }
      ++it;
    }
  }
  void truncate(std::uint64_t to) {
    if (to < size) clear(to, align_up(std::max(size, to), kBlockBytes));
    size = to;
  }
  std::string read(std::uint64_t offset, std::uint64_t count) const {
    if (offset >= size) return {};
    std::string text(std::min(count, size - offset), '\0');
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto it = blocks.find((offset + i) / kBlockBytes);
      if (it != blocks.end()) text[i] = it->second[(offset + i) % kBlockBytes];
    }
    return text;
  }
  Result<std::uint64_t> seek(std::uint64_t offset, SeekKind kind) const {
    if (offset >= size) return Code::kNoDevice;
    std::uint64_t block = offset / kBlockBytes;
    if (kind == SeekKind::kData) {
      const auto it = blocks.lower_bound(block);
      if (it == blocks.end() || it->first * kBlockBytes >= size) return Code::kNoDevice;
      return std::max(offset, it->first * kBlockBytes);
    }
    while (blocks.contains(block)) ++block;
    return std::min(std::max(offset, block * kBlockBytes), size);
  }
};

Result<void> fallocate(SimPool& pool, const std::string& path, FallocateMode mode,
                       std::uint64_t offset, std::uint64_t size) {
  const InodeId inode = TRY(pool.resolve(path));
  return pool.run(pool.fs().fallocate(inode, mode, offset, size));
}

Result<std::string> get_attribute(SimPool& pool, const std::string& path, const std::string& name) {
  return pool.run(pool.fs().getxattr(TRY(pool.resolve(path)), name));
}

Result<void> set_attribute(SimPool& pool, const std::string& path, const std::string& name,
                           const std::string& value) {
  return pool.run(pool.fs().setxattr(TRY(pool.resolve(path)), name, value, XattrMode::kEither));
}

std::string listed(const std::map<std::string, std::string>& attributes) {
  std::string names;
  for (const auto& [name, value] : attributes) names += name + '\0';
  return names;
}

}  // namespace

TEST_SUITE("metadata out of memory, against the model") {
  TEST_CASE("with a run for every checkpoint, and eviction at any time, nobody sees a difference") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t i = 0; i < seeds(20); ++i) {
      compare_cold_with_model(first + i, many_runs(), 600);
    }
  }
  TEST_CASE("with no memory for metadata at all nobody sees a difference") {
    const std::uint64_t first = seed_from_environment(100);
    for (std::uint64_t i = 0; i < seeds(12); ++i) {
      SimPoolOptions options = many_runs();
      options.metadata_memory_bytes = 0;
      if (i % 2 == 1) options.small_run_bytes = kSlotBytes;
      compare_cold_with_model(first + i, options, 450);
    }
  }
  TEST_CASE("files with holes of any size are what they were") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(8); ++seed) {
      CAPTURE(seed);
      SimPool pool(seed, many_runs());
      pool.format();
      REQUIRE(pool.mount().has_value());
      REQUIRE(pool.create("f").has_value());
      SparseModel model;
      std::mt19937_64 random(seed);
      // Windows: neighbours, over the edges of the levels of the tree, far away.
      const std::uint64_t windows[] = {0, 1, 2, 10, 31, 32, 33, 600, 16'383, 16'384, 65'536};
      const auto place = [&] {
        const std::uint64_t window = windows[random() % std::size(windows)];
        const std::uint64_t edge = window * kWindowBytes + kWindowBytes / 2;
        return edge - kWindowBytes / 2 * (random() % 2) - random() % 3000 + random() % 9000 +
               (window == 0 ? 3000 : 0);
      };
      for (int i = 0; i < 250; ++i) {
        const std::uint64_t at = place();
        std::string what;
        switch (random() % 12) {
          case 0:
          case 1:
          case 2:
          case 3: {
            const std::string text(1 + random() % 12'000, static_cast<char>('a' + i % 26));
            what = fmt::format("write at {} bytes {}", at, text.size());
            REQUIRE(pool.write("f", at, text).has_value());
            model.write(at, text);
            break;
          }
          case 4: {
            what = fmt::format("truncate to {}", at);
            REQUIRE(pool.truncate("f", at).has_value());
            model.truncate(at);
            break;
          }
          case 5: {
            const std::uint64_t end = std::max(at + 1, place());
            what = fmt::format("punch {} to {}", at, end);
            REQUIRE(fallocate(pool, "f", FallocateMode::kPunchHole, at, end - at).has_value());
            model.clear(at, end);
            break;
          }
          case 6: {
            const std::uint64_t size = 1 + random() % (3 * kWindowBytes);
            const bool keep = random() % 2 == 0;
            what = fmt::format("zero at {} bytes {}", at, size);
            REQUIRE(fallocate(pool, "f",
                              keep ? FallocateMode::kZeroRangeKeepSize : FallocateMode::kZeroRange,
                              at, size)
                        .has_value());
            model.clear(at, at + size);
            if (!keep) model.size = std::max(model.size, at + size);
            break;
          }
          case 7: {
            const std::uint64_t size = 1 + random() % (3 * kWindowBytes);
            const bool keep = random() % 2 == 0;
            what = fmt::format("allocate at {} bytes {}", at, size);
            REQUIRE(fallocate(pool, "f", keep ? FallocateMode::kKeepSize : FallocateMode::kAllocate,
                              at, size)
                        .has_value());
            if (!keep) model.size = std::max(model.size, at + size);
            break;
          }
          case 8: make_cold(pool); break;
          case 9: checkpoint(pool); break;
          case 10: pool.fs().evict(); break;
          default: {
            if (random() % 4 != 0) break;
            if (random() % 2 == 0) {
              remount(pool);
            } else {
              sync_and_cut(pool);
            }
            break;
          }
        }
        CAPTURE(i);
        CAPTURE(what);
        REQUIRE(pool.stat("f")->size_bytes == model.size);
        const std::uint64_t from = place();
        const std::size_t size = random() % 8 == 0 ? 2 * kWindowBytes : 20'000;
        CAPTURE(from);
        REQUIRE(pool.read("f", from, size).value() == model.read(from, size));
        const InodeId inode = pool.resolve("f").value();
        if (random() % 4 == 0) {
          const auto kind = random() % 2 == 0 ? SeekKind::kData : SeekKind::kHole;
          const auto found = pool.run(pool.fs().seek(inode, from, kind));
          const auto wanted = model.seek(from, kind);
          REQUIRE(found.has_value() == wanted.has_value());
          if (found.has_value()) REQUIRE(*found == *wanted);
        }
      }
      make_cold(pool);
      for (const std::uint64_t window : windows) {
        const std::uint64_t from = window * kWindowBytes;
        CAPTURE(window);
        CHECK(pool.read("f", from, kWindowBytes).value() == model.read(from, kWindowBytes));
      }
      check_whole(pool);
      pool.fs().evict();
      REQUIRE(pool.unlink("f").has_value());
      CHECK(pool.fs().store().live_blocks() == 0);
      check_whole(pool);
    }
  }
  TEST_CASE("extended attributes of all sizes come back as they were set last") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(15); ++seed) {
      CAPTURE(seed);
      SimPool pool(seed, many_runs());
      pool.format();
      REQUIRE(pool.mount().has_value());
      std::mt19937_64 random(seed);
      const std::vector<std::string> paths{"a", "b", "d"};
      REQUIRE(pool.create("a").has_value());
      REQUIRE(pool.create("b").has_value());
      REQUIRE(pool.mkdir("d").has_value());
      std::map<std::string, std::map<std::string, std::string>> model;
      // One begins with another; one is longer than most.
      const std::vector<std::string> names{"user.a", "user.ab", "user.b",
                                           "user." + std::string(240, 'x')};
      for (int i = 0; i < 120; ++i) {
        const std::string& path = paths[random() % paths.size()];
        const std::string& name = names[random() % names.size()];
        switch (random() % 8) {
          case 0:
          case 1:
          case 2: {
            const std::size_t sizes[] = {0,     1, 200, 16 * kKiB - 1, 16 * kKiB, 16 * kKiB + 1,
                                         60'000};
            const std::string value(sizes[random() % std::size(sizes)],
                                    static_cast<char>('a' + i % 26));
            REQUIRE(set_attribute(pool, path, name, value).has_value());
            model[path][name] = value;
            break;
          }
          case 3: {
            const InodeId inode = pool.resolve(path).value();
            CHECK(pool.run(pool.fs().removexattr(inode, name)).has_value() ==
                  (model[path].erase(name) == 1));
            break;
          }
          case 4: make_cold(pool); break;
          case 5: pool.fs().evict(); break;
          case 6:
            if (random() % 5 == 0) remount(pool);
            break;
          default:
            if (random() % 5 == 0) sync_and_cut(pool);
            break;
        }
        CAPTURE(i);
        const InodeId inode = pool.resolve(path).value();
        CHECK(pool.run(pool.fs().listxattr(inode)).value() == listed(model[path]));
        for (const auto& [there, value] : model[path]) {
          REQUIRE(get_attribute(pool, path, there).value() == value);
        }
      }
      check_whole(pool);
    }
  }
}

TEST_SUITE("what cold metadata costs") {
  TEST_CASE("a name is one block away, or two, and a name that does not exist none") {
    SimPool pool(1);
    pool.format();
    REQUIRE(pool.mount().has_value());
    make_many(pool, 20'000);
    checkpoint(pool);
    remount(pool);
    REQUIRE(pool.fs().runs().runs()->size() == 1);
    const auto& metrics = pool.fs().runs().metrics();
    const InodeId large = pool.resolve("large").value();
    const InodeId small = pool.resolve("d3").value();
    std::uint64_t total = 0;
    for (int i = 0; i < 100; ++i) {
      const bool in_large = i % 2 == 0;
      const std::string name =
          in_large ? "name" + std::to_string(i * 37) : "f" + std::to_string(i * 9);
      const std::uint64_t before = metrics.block_reads.sum();
      const auto found = pool.run(pool.fs().lookup(in_large ? large : small, name));
      REQUIRE(found.has_value());
      pool.fs().forget(found->inode, 1);
      const std::uint64_t reads = metrics.block_reads.sum() - before;
      CAPTURE(name);
      CHECK(reads <= 2);
      total += reads;
    }
    CHECK(total > 0);
    const std::uint64_t before = metrics.block_reads.sum();
    for (int i = 0; i < 1000; ++i) {
      const auto found = pool.run(pool.fs().lookup(large, "absent" + std::to_string(i)));
      REQUIRE(found.error().code == Code::kNotFound);
    }
    const std::uint64_t reads = metrics.block_reads.sum() - before;
    MESSAGE("100 cold names: ", total, " blocks read; 1000 absent names: ", reads);
    CHECK(reads < 50);
  }

  TEST_CASE("a mount reads next to nothing, and has next to nothing in memory") {
    std::uint64_t bytes[2] = {};
    std::uint64_t run_bytes[2] = {};
    const int files[2] = {2000, 20'000};
    for (int i = 0; i < 2; ++i) {
      SimPool pool(1);
      pool.format();
      REQUIRE(pool.mount().has_value());
      make_many(pool, files[i]);
      remount(pool);
      CHECK(pool.fs().inode_count() > static_cast<std::uint64_t>(files[i]));
      CHECK(pool.fs().inodes_in_memory() <= 2);
      bytes[i] = bytes_read(pool);
      run_bytes[i] = pool.fs().mount_report().run_bytes;
    }
    MESSAGE("a mount of 2000 files reads ", bytes[0], " bytes, of 20000 ", bytes[1], "; runs have ",
            run_bytes[0], " and ", run_bytes[1]);
    // Index and filter: a few bytes for each name and each file.
    CHECK(bytes[1] - bytes[0] < 18'000 * 2 * 4);
    CHECK(bytes[1] - bytes[0] < (run_bytes[1] - run_bytes[0]) / 10);
  }

  TEST_CASE("metadata takes the memory that it may take, whatever there is of it") {
    SimPoolOptions options;
    options.disk_bytes = {256 * kMiB, 256 * kMiB};
    options.metadata_memory_bytes = 2 * kMiB;
    const std::uint64_t slack = 256 * kKiB;
    SimPool pool(1, options);
    pool.format();
    REQUIRE(pool.mount().has_value());
    std::uint64_t most = 0;
    const auto at_rest = [&](const std::string& what) {
      CAPTURE(what);
      most = std::max(most, pool.fs().metadata_memory_bytes());
      pool.executor.run_for(std::chrono::seconds{15});
      CHECK(pool.fs().metadata_memory_bytes() <= options.metadata_memory_bytes + slack);
    };
    make_many(pool, 20'000);
    at_rest("made");
    for (int i = 0; i < 5000; i += 4) {
      REQUIRE(pool.write("large/name" + std::to_string(i), 0, "some data").has_value());
    }
    at_rest("written");
    const InodeId large = pool.resolve("large").value();
    for (int i = 0; i < 5000; ++i) {
      const auto found = pool.run(pool.fs().lookup(large, "name" + std::to_string(i)));
      REQUIRE(found.has_value());
      pool.fs().forget(found->inode, 1);
    }
    at_rest("looked up");
    // Reading changes the time of the last access, in memory.
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 5000; ++i) {
        const std::string name = "large/name" + std::to_string(i);
        REQUIRE(pool.read(name).value() == (i % 4 == 0 ? "some data" : ""));
        if (i % 4 == 0 && round == 0) {
          REQUIRE(pool.stat(name)->nlink == 1);
        }
      }
      at_rest("read");
    }
    for (int d = 0; d < 15; ++d) {
      const std::string path = "d" + std::to_string(d);
      for (int i = 0; i < 1000; ++i) {
        REQUIRE(pool.stat(path + "/f" + std::to_string(i)).has_value());
      }
    }
    at_rest("looked at");
    MESSAGE("at most ", most, " bytes before coming to rest");
    check_whole(pool);
  }

  TEST_CASE("a file of almost any size is punched and truncated as fast as its data is found") {
    SimPool pool(1);
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    REQUIRE(pool.write("f", std::uint64_t{1} << 60, "far").has_value());
    REQUIRE(pool.write("f", 5, "near").has_value());
    make_cold(pool);
    REQUIRE(fallocate(pool, "f", FallocateMode::kPunchHole, 0, std::uint64_t{1} << 60).has_value());
    CHECK(pool.read("f", 5, 4).value() == std::string(4, '\0'));
    CHECK(pool.read("f", std::uint64_t{1} << 60, 10).value() == "far");
    make_cold(pool);
    CHECK(fallocate(pool, "f", FallocateMode::kAllocate, 0, std::uint64_t{1} << 60).error().code ==
          Code::kNoSpace);
    make_cold(pool);
    REQUIRE(pool.truncate("f", 100).has_value());
    CHECK(pool.fs().store().live_blocks() == 0);
    check_whole(pool);
  }
}

TEST_SUITE("what the kernel refers to") {
  TEST_CASE("a reference outlives the inode in memory: the data stays until it is given back") {
    for (const bool cut : {false, true}) {
      CAPTURE(cut);
      SimPool pool(3, many_runs());
      pool.format();
      REQUIRE(pool.mount().has_value());
      const InodeId inode =
          pool.run(pool.fs().mknod(kRootInode, "f", S_IFREG | 0644, 0, {})).value().inode;
      const std::string text(3 * kWindowBytes, 'd');
      REQUIRE(pool.write("f", 0, text).has_value());
      make_cold(pool);
      CHECK(pool.fs().inodes_in_memory() == 1);  // the root
      REQUIRE(pool.unlink("f").has_value());
      CHECK(pool.run(SimPool::read_task(&pool.fs(), inode, 0, text.size())).value() == text);
      make_cold(pool);
      CHECK(pool.fs().inodes_in_memory() == 2);
      CHECK(pool.run(pool.fs().getattr(inode)).value().nlink == 0);
      CHECK(pool.fs().store().live_blocks() == text.size() / kBlockBytes);
      check_whole(pool);
      if (cut) {
        sync_and_cut(pool);
        CHECK(pool.fs().mount_report().orphans_removed == 1);
      } else {
        pool.fs().forget(inode, 1);
        pool.executor.run_for(std::chrono::seconds{1});
      }
      CHECK(pool.run(pool.fs().getattr(inode)).error().code == Code::kStale);
      CHECK(pool.fs().store().live_blocks() == 0);
      check_whole(pool);
      make_cold(pool);
      CHECK(pool.run(pool.fs().getattr(inode)).error().code == Code::kStale);
      remount(pool);
      CHECK(pool.dump().value().empty());
      CHECK(pool.fs().mount_report().orphans_removed == 0);
      check_whole(pool);
    }
  }

  TEST_CASE("references are counted through eviction and loading") {
    SimPool pool(4, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    const InodeId inode =
        pool.run(pool.fs().mknod(kRootInode, "f", S_IFREG | 0644, 0, {})).value().inode;
    REQUIRE(pool.write("f", 0, "data").has_value());
    make_cold(pool);
    REQUIRE(pool.run(pool.fs().lookup(kRootInode, "f")).has_value());  // a second one
    pool.fs().evict();
    pool.fs().forget(inode, 1);  // not in memory
    REQUIRE(pool.run(pool.fs().lookup(kRootInode, "f")).has_value());
    pool.fs().forget(inode, 1);  // in memory
    REQUIRE(pool.unlink("f").has_value());
    pool.executor.run_for(std::chrono::seconds{1});
    CHECK(pool.run(SimPool::read_task(&pool.fs(), inode, 0, 10)).value() == "data");
    pool.fs().forget(inode, 1);
    pool.executor.run_for(std::chrono::seconds{1});
    CHECK(pool.run(pool.fs().getattr(inode)).error().code == Code::kStale);
    CHECK(pool.fs().store().live_blocks() == 0);
    // All given back while it is not in memory: then the last name takes it along at once.
    const InodeId other =
        pool.run(pool.fs().mknod(kRootInode, "g", S_IFREG | 0644, 0, {})).value().inode;
    make_cold(pool);
    pool.fs().forget(other, 1);
    REQUIRE(pool.unlink("g").has_value());
    CHECK(pool.run(pool.fs().getattr(other)).error().code == Code::kStale);
    check_whole(pool);
  }

  TEST_CASE("a directory read in steps shows once each name that is there throughout") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
      CAPTURE(seed);
      SimPool pool(seed, many_runs());
      pool.format();
      REQUIRE(pool.mount().has_value());
      std::mt19937_64 random(seed);
      REQUIRE(pool.mkdir("d").has_value());
      const InodeId directory = pool.resolve("d").value();
      constexpr int kStay = 3000;
      REQUIRE(pool.run(make_files(&pool.fs(), directory, "stay", kStay)).has_value());
      REQUIRE(pool.run(make_files(&pool.fs(), directory, "go", 1500)).has_value());
      make_cold(pool);
      NamesRead read;
      int steps = 0;
      int come = 0;
      while (!read.end) {
        REQUIRE(pool.run(read_names(&pool.fs(), directory, 1 + random() % 150, &read)).has_value());
        for (int i = 0; i < 10; ++i) {
          if (random() % 2 == 0) {
            const std::string name = "d/go" + std::to_string(random() % 1500);
            pool.unlink(name).ignore("it may have gone before");
          } else {
            REQUIRE(pool.create("d/come" + std::to_string(come++)).has_value());
          }
        }
        if (random() % 4 == 0) checkpoint(pool);
        pool.fs().evict();
        ++steps;
      }
      CHECK(steps > 20);
      const std::set<std::string> once(read.names.begin(), read.names.end());
      CHECK(once.size() == read.names.size());
      int stayed = 0;
      for (const std::string& name : once) stayed += name.starts_with("stay") ? 1 : 0;
      CHECK(stayed == kStay);
      check_whole(pool);
    }
  }

  TEST_CASE("a directory is not moved below itself although those between are not in memory") {
    SimPool pool(5);
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (const char* path : {"a", "a/b", "a/b/c", "a/b/c/d", "e", "e/f"}) {
      REQUIRE(pool.mkdir(path).has_value());
    }
    const InodeId deep = pool.resolve("a/b/c/d").value();
    const InodeId inner = pool.resolve("a/b").value();
    make_cold(pool);
    CHECK(pool.fs().inodes_in_memory() == 1);
    // By numbers, as the kernel does: looking up paths would load what is between.
    const auto rename = [&](InodeId from, const char* name, InodeId to, const char* to_name,
                            RenameMode mode) {
      const auto result = pool.run(pool.fs().rename(from, name, to, to_name, mode));
      pool.fs().evict();
      return result.has_value() ? Code::kOk : result.error().code;
    };
    CHECK(rename(kRootInode, "a", deep, "x", RenameMode::kReplace) == Code::kInvalid);
    CHECK(rename(inner, "c", deep, "x", RenameMode::kReplace) == Code::kInvalid);
    CHECK(rename(kRootInode, "e", deep, "x", RenameMode::kReplace) == Code::kOk);
    make_cold(pool);
    CHECK(rename(deep, "x", kRootInode, "a", RenameMode::kExchange) == Code::kInvalid);
    CHECK(rename(kRootInode, "a", deep, "x", RenameMode::kExchange) == Code::kInvalid);
    CHECK(rename(deep, "x", kRootInode, "e", RenameMode::kReplace) == Code::kOk);
    make_cold(pool);
    CHECK(rename(inner, "c", kRootInode, "e", RenameMode::kExchange) == Code::kOk);
    remount(pool);
    CHECK(pool.resolve("e/d").value() == deep);
    CHECK(pool.resolve("a/b/c/f").has_value());
    check_whole(pool);
  }

  TEST_CASE("the last of several names takes the data along, whatever is in memory") {
    SimPool pool(6, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    const std::string text(2 * kWindowBytes + 5000, 'h');
    REQUIRE(pool.mkdir("d").has_value());
    REQUIRE(pool.create("f").has_value());
    REQUIRE(pool.write("f", 0, text).has_value());
    make_cold(pool);
    REQUIRE(pool.link("f", "d/g").has_value());
    REQUIRE(pool.link("d/g", "h").has_value());
    make_cold(pool);
    REQUIRE(pool.unlink("f").has_value());
    make_cold(pool);
    CHECK(pool.stat("h")->nlink == 2);
    make_cold(pool);
    CHECK(pool.read("d/g").value() == text);
    REQUIRE(pool.create("other").has_value());
    make_cold(pool);
    REQUIRE(pool.rename("other", "h").has_value());
    make_cold(pool);
    CHECK(pool.stat("d/g")->nlink == 1);
    CHECK(pool.fs().store().live_blocks() == ceil_div(text.size(), kBlockBytes));
    REQUIRE(pool.rename("h", "d/g").has_value());
    CHECK(pool.fs().store().live_blocks() == 0);
    sync_and_cut(pool);
    CHECK(pool.read("d/g").value().empty());
    check_whole(pool);
  }
}

}  // namespace dynamicfs::test
