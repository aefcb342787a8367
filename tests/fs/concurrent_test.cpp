// Many requests at once, in orders drawn from a seed, on simulated disks of random latency.
//
// Blocks say which file, which place and which version they are. A reader must never see a foreign
// or torn block, nor zeros where a write had been acknowledged when its read began; checksum
// failures caused by overwriting must not happen at all (INV-3).
#include <doctest/doctest.h>

#include <random>

#include "tests/fs/operations.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

constexpr std::uint64_t kFiles = 2;
constexpr std::uint64_t kBlocksPerFile = 300;  // over the edge of a window
constexpr std::uint64_t kWordsPerBlock = kBlockBytes / 8;

struct Shared {
  fs::Filesystem* filesystem = nullptr;
  SimExecutor* executor = nullptr;
  InodeId files[kFiles];
  std::uint64_t acknowledged[kFiles][kBlocksPerFile] = {};
  std::uint64_t next_version = 1;
  std::uint64_t problems = 0;
  int running = 0;
};

std::uint64_t word_of(std::uint64_t file, std::uint64_t block, std::uint64_t version,
                      std::uint64_t i) {
  return (file << 60) ^ (block << 44) ^ (version << 12) ^ i;
}

void fill(std::byte* at, std::uint64_t file, std::uint64_t block, std::uint64_t version) {
  for (std::uint64_t i = 0; i < kWordsPerBlock; ++i)
    store(at + 8 * i, word_of(file, block, version, i));
}

// The version of a whole, right block; 0 for zeros; nothing for anything else.
std::optional<std::uint64_t> version_of(const std::byte* at, std::uint64_t file,
                                        std::uint64_t block) {
  const std::uint64_t first = load<std::uint64_t>(at);
  const std::uint64_t version = first == 0 ? 0 : ((first ^ (file << 60) ^ (block << 44)) >> 12);
  for (std::uint64_t i = 0; i < kWordsPerBlock; ++i) {
    const std::uint64_t word = load<std::uint64_t>(at + 8 * i);
    if (word != (first == 0 ? 0 : word_of(file, block, version, i))) return std::nullopt;
  }
  return version;
}

Task<void> client(Shared* shared, std::uint64_t seed, int operations) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < operations; ++i) {
    const std::uint64_t file = random() % kFiles;
    const std::uint64_t first =
        random() % 4 == 0 ? 250 + random() % 12 : random() % (kBlocksPerFile - 8);
    const std::uint64_t count = 1 + random() % 8;
    const std::uint64_t kind = random() % 10;
    if (kind < 5) {
      const std::uint64_t version = shared->next_version++;
      Buffer data{count * kBlockBytes};
      for (std::uint64_t b = 0; b < count; ++b)
        fill(data.data() + b * kBlockBytes, file, first + b, version);
      const Result<void> wrote = co_await shared->filesystem->write(
          shared->files[file], first * kBlockBytes, data.span(), 0, {.kernel_keeps_times = true});
      if (!wrote.has_value()) ++shared->problems;
      // Concurrent writers of a block may have finished in either order, so what is certain is only
      // that some write is there.
      for (std::uint64_t b = 0; b < count; ++b) {
        shared->acknowledged[file][first + b] =
            std::max<std::uint64_t>(shared->acknowledged[file][first + b], 1);
      }
    } else if (kind < 9) {
      std::vector<std::uint64_t> floor(count);  // 1: some write has been acknowledged, 0: none
      for (std::uint64_t b = 0; b < count; ++b) floor[b] = shared->acknowledged[file][first + b];
      const auto reply = co_await shared->filesystem->read(shared->files[file], first * kBlockBytes,
                                                           count * kBlockBytes);
      if (!reply.has_value()) {
        ++shared->problems;
        continue;
      }
      for (std::uint64_t b = 0; (b + 1) * kBlockBytes <= reply->size_bytes; ++b) {
        const auto version = version_of(reply->buffer.data() + b * kBlockBytes, file, first + b);
        if (!version || *version < floor[b]) ++shared->problems;
      }
    } else {
      const Result<void> synced = co_await shared->filesystem->fsync(shared->files[file]);
      if (!synced.has_value()) ++shared->problems;
    }
    if (random() % 3 == 0) co_await shared->executor->yield();
  }
  --shared->running;
}

Task<void> namer(Shared* shared, std::uint64_t seed, int operations) {
  std::mt19937_64 random(seed);
  fs::Filesystem& filesystem = *shared->filesystem;
  for (int i = 0; i < operations; ++i) {
    const std::string a = "n" + std::to_string(random() % 6);
    const std::string b = "n" + std::to_string(random() % 6);
    switch (random() % 5) {
      case 0: {
        const auto made = co_await filesystem.mknod(kRootInode, a, S_IFREG | 0644, 0, {});
        if (made.has_value()) filesystem.forget(made->inode, 1);
        break;
      }
      case 1: {
        const auto made = co_await filesystem.mkdir(kRootInode, a, 0755, {});
        if (made.has_value()) filesystem.forget(made->inode, 1);
        break;
      }
      case 2: {
        const auto done = co_await filesystem.rename(
            kRootInode, a, kRootInode, b,
            random() % 3 == 0 ? fs::RenameMode::kExchange : fs::RenameMode::kReplace);
        done.ignore("any outcome is right");
        break;
      }
      case 3: {
        const auto done = co_await filesystem.unlink(kRootInode, a);
        done.ignore("any outcome is right");
        break;
      }
      default: {
        const auto done = co_await filesystem.rmdir(kRootInode, a);
        done.ignore("any outcome is right");
        break;
      }
    }
    if (random() % 3 == 0) co_await shared->executor->yield();
    if (random() % 20 == 0) {
      const auto done = co_await filesystem.checkpoint();
      if (!done.has_value()) ++shared->problems;
    }
    if (random() % 10 == 0) filesystem.evict();
  }
  --shared->running;
}

}  // namespace

TEST_SUITE("concurrent requests") {
  TEST_CASE("readers see whole, own, not outdated blocks; what was synced survives a cut") {
    const std::uint64_t first = seed_from_environment(1);
    for (std::uint64_t i = 0; i < seeds(30); ++i) {
      const std::uint64_t seed = first + i;
      CAPTURE(seed);
      SimPoolOptions options;
      if (seed % 2 == 0) {
        // Every checkpoint a run of its own: they are merged meanwhile.
        options.disk_bytes = {256 * kMiB, 256 * kMiB, 384 * kMiB};
        options.small_run_bytes = 0;
      }
      SimPool pool(seed, options);
      pool.format();
      REQUIRE(pool.mount().has_value());
      Shared shared;
      shared.filesystem = &pool.fs();
      shared.executor = &pool.executor;
      for (std::uint64_t f = 0; f < kFiles; ++f) {
        const std::string name = "file" + std::to_string(f);
        REQUIRE(pool.create(name).has_value());
        shared.files[f] = pool.resolve(name).value();
      }
      shared.running = 12;
      for (std::uint64_t c = 0; c < 8; ++c) spawn(client(&shared, seed * 100 + c, 60));
      for (std::uint64_t c = 0; c < 4; ++c) spawn(namer(&shared, seed * 200 + c, 60));
      while (shared.running > 0) REQUIRE(pool.executor.step());
      CHECK(shared.problems == 0);
      const auto& metrics = pool.fs().store().metrics();
      CHECK(metrics.checksum_errors.sum() == 0);
      CHECK(metrics.checksum_stale.sum() == 0);
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      const std::string synced = pool.dump().value();
      pool.power_cut();
      REQUIRE(pool.mount().has_value());
      CHECK(pool.dump().value() == synced);
    }
  }
}

}  // namespace dynamicfs::test
