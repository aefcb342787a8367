// Clones: copies that share blocks, what becomes of them when one of the files changes, and who may
// have how many references when the power goes.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>

#include "fs/change_format.hpp"
#include "tests/fs/cold_metadata.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

struct Cloned : SimPool {
  explicit Cloned(SimPoolOptions options = {}) : SimPool(7, std::move(options)) {
    format();
    REQUIRE(mount().has_value());
    REQUIRE(create("a").has_value());
    REQUIRE(create("b").has_value());
  }
  void fill(std::size_t size) {
    text = pattern(size, size);
    REQUIRE(write("a", 0, text).has_value());
  }
  Result<void> clone() { return copy_range("a", 0, "b", 0, text.size()); }
  std::uint64_t shared() { return fs().store().shared_blocks(); }
  std::uint64_t saved() { return fs().store().saved_blocks(); }
  std::uint64_t live() { return fs().store().live_blocks(); }
  std::uint64_t data_written() { return fs().store().metrics().data_bytes_written.sum(); }
  std::uint64_t blocks_512(const std::string& path) { return stat(path)->blocks_512; }

  std::string text;
};

}  // namespace

TEST_SUITE("clones") {
  TEST_CASE_FIXTURE(Cloned,
                    "a copy takes no block, writes no data, and holds what the file holds") {
    fill(3 * kMiB + 1000);
    const std::uint64_t blocks = ceil_div(text.size(), kBlockBytes);
    const std::uint64_t before = data_written();
    REQUIRE(clone().has_value());
    CHECK(data_written() == before);
    CHECK(read("b").value() == text);
    CHECK(stat("b")->size_bytes == text.size());
    CHECK(blocks_512("b") == blocks * kBlockBytes / 512);
    CHECK(blocks_512("a") == blocks * kBlockBytes / 512);
    CHECK(live() == blocks);
    CHECK(shared() == blocks);
    CHECK(saved() == blocks);
    CHECK(fs().metrics().clones.sum() == 1);
    CHECK(fs().metrics().cloned_bytes.sum() == blocks * kBlockBytes);
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "neither file sees what is written to the other") {
    fill(2 * kMiB);
    REQUIRE(clone().has_value());
    std::string a = text;
    std::string b = text;
    const auto change = [&](const std::string& path, std::string& model, std::uint64_t at,
                            std::size_t size, char letter) {
      model.replace(at, size, std::string(size, letter));
      REQUIRE(write(path, at, std::string(size, letter)).has_value());
    };
    change("a", a, 100, 5000, 'A');
    change("b", b, 4000, 9000, 'B');
    change("b", b, kMiB - 10, 20, 'C');
    change("a", a, kMiB - kBlockBytes, kBlockBytes, 'D');
    for (int round = 0; round < 3; ++round) {
      CHECK(read("a").value() == a);
      CHECK(read("b").value() == b);
      check_whole(*this);
      if (round == 0) sync_and_cut(*this);
      if (round == 1) remount(*this);
    }
  }

  TEST_CASE_FIXTURE(Cloned, "blocks are free when the last of three files that have them is gone") {
    fill(kMiB + 5000);
    REQUIRE(clone().has_value());
    REQUIRE(create("c").has_value());
    REQUIRE(copy_range("b", 0, "c", 0, text.size()).has_value());
    const std::uint64_t blocks = ceil_div(text.size(), kBlockBytes);
    CHECK(shared() == blocks);
    CHECK(saved() == 2 * blocks);
    REQUIRE(unlink("a").has_value());
    CHECK(saved() == blocks);
    CHECK(read("c").value() == text);
    sync_and_cut(*this);
    CHECK(saved() == blocks);
    REQUIRE(unlink("b").has_value());
    CHECK(shared() == 0);
    CHECK(live() == blocks);
    CHECK(read("c").value() == text);
    check_whole(*this);
    REQUIRE(unlink("c").has_value());
    CHECK(live() == 0);
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "within a file, also within a window, and not onto itself") {
    fill(20 * kBlockBytes);
    std::string model = text;
    REQUIRE(copy_range("a", 0, "a", 10 * kBlockBytes, 10 * kBlockBytes).has_value());
    model.replace(10 * kBlockBytes, 10 * kBlockBytes, model.substr(0, 10 * kBlockBytes));
    CHECK(read("a").value() == model);
    CHECK(shared() == 10);
    CHECK(live() == 10);
    REQUIRE(copy_range("a", 0, "a", 40 * kMiB, 20 * kBlockBytes).has_value());
    CHECK(shared() == 10);
    CHECK(saved() == 30);
    for (const std::uint64_t to : {0, 1, 2, 5}) {
      CHECK(copy_range("a", 2 * kBlockBytes, "a", to * kBlockBytes, 4 * kBlockBytes).error().code ==
            Code::kInvalid);
    }
    check_whole(*this);
    // Blocks that one window names several times go one reference after the other.
    REQUIRE(truncate("a", 15 * kBlockBytes + 7).has_value());
    check_whole(*this);
    REQUIRE(truncate("a", 0).has_value());
    CHECK(live() == 0);
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "what the ends only have a part of is copied") {
    fill(10 * kBlockBytes + 100);
    const std::string before = pattern(99, 12 * kBlockBytes);
    REQUIRE(write("b", 0, before).has_value());
    std::string model = before;
    REQUIRE(copy_range("a", 300, "b", kBlockBytes + 300, 5 * kBlockBytes).has_value());
    model.replace(kBlockBytes + 300, 5 * kBlockBytes, text, 300, 5 * kBlockBytes);
    CHECK(read("b").value() == model);
    CHECK(shared() == 4);
    // The last block of the source has zeros behind its end, and the target goes on.
    REQUIRE(
        copy_range("a", 8 * kBlockBytes, "b", 8 * kBlockBytes, 2 * kBlockBytes + 100).has_value());
    model.replace(8 * kBlockBytes, 2 * kBlockBytes + 100, text, 8 * kBlockBytes);
    CHECK(read("b").value() == model);
    CHECK(shared() == 6);
    // Less than a block, anywhere in one.
    REQUIRE(copy_range("a", 10, "b", 10, 50).has_value());
    model.replace(10, 50, text, 10, 50);
    CHECK(read("b").value() == model);
    CHECK(copy_range("a", 0, "b", 1, 5 * kBlockBytes).error().code == Code::kNotSupported);
    CHECK(read("b").value() == model);
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "the last block of a file is shared if the copy ends there, too") {
    fill(2 * kBlockBytes + 100);
    REQUIRE(clone().has_value());
    CHECK(shared() == 3);
    // Behind the end of both there are zeros.
    REQUIRE(truncate("b", 3 * kBlockBytes).has_value());
    CHECK(read("b").value() == text + std::string(kBlockBytes - 100, '\0'));
    // The source goes on: a part of its last block is not asked for.
    REQUIRE(create("c").has_value());
    REQUIRE(copy_range("a", 0, "c", 0, 2 * kBlockBytes + 50).has_value());
    REQUIRE(truncate("c", 3 * kBlockBytes).has_value());
    CHECK(read("c").value() ==
          text.substr(0, 2 * kBlockBytes + 50) + std::string(kBlockBytes - 50, '\0'));
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "holes and what is reserved become holes, over data as well") {
    REQUIRE(write("a", 0, pattern(1, kBlockBytes)).has_value());
    REQUIRE(write("a", 3 * kMiB, pattern(2, kBlockBytes)).has_value());
    const InodeId a = *resolve("a");
    REQUIRE(run(fs().fallocate(a, fs::FallocateMode::kAllocate, 4 * kMiB, kMiB)).has_value());
    REQUIRE(write("b", 0, pattern(3, 5 * kMiB)).has_value());
    REQUIRE(copy_range("a", 0, "b", 0, 5 * kMiB).has_value());
    CHECK(read("b").value() == read("a").value());
    CHECK(blocks_512("b") == 2 * kBlockBytes / 512);
    CHECK(blocks_512("a") == (2 + 256) * kBlockBytes / 512);
    // Behind the end of the source, too.
    REQUIRE(copy_range("a", 100 * kMiB, "b", kMiB, 3 * kMiB).has_value());
    CHECK(blocks_512("b") == kBlockBytes / 512);
    // What was reserved of the target is promised to nobody any more.
    const InodeId b = *resolve("b");
    REQUIRE(run(fs().fallocate(b, fs::FallocateMode::kAllocate, kMiB, 2 * kMiB)).has_value());
    REQUIRE(copy_range("a", 0, "b", 0, 5 * kMiB).has_value());
    check_whole(*this);
    sync_and_cut(*this);
    CHECK(read("b").value() == read("a").value());
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "a copy of a copy over itself changes nothing") {
    fill(kMiB + 100);
    REQUIRE(clone().has_value());
    for (int i = 0; i < 3; ++i) {
      REQUIRE(clone().has_value());
      CHECK(saved() == ceil_div(text.size(), kBlockBytes));
    }
    sync_and_cut(*this);
    CHECK(read("b").value() == text);
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned, "is refused where a write is") {
    fill(5 * kBlockBytes);
    REQUIRE(mkdir("d").has_value());
    REQUIRE(symlink("s", "a").has_value());
    CHECK(copy_range("d", 0, "b", 0, 10).error().code == Code::kIsDirectory);
    CHECK(copy_range("a", 0, "d", 0, 10).error().code == Code::kIsDirectory);
    CHECK(copy_range("s", 0, "b", 0, 10).error().code == Code::kInvalid);
    CHECK(copy_range("a", 0, "b", (std::uint64_t{1} << 63) - kBlockBytes, 2 * kBlockBytes)
              .error()
              .code == Code::kFileTooBig);
    CHECK(copy_range("a", 0, "b", 0, 0).has_value());
    REQUIRE(unmount().has_value());
    REQUIRE(mount({}, true).has_value());
    CHECK(copy_range("a", 0, "b", 0, 10).error().code == Code::kReadOnly);
  }

  TEST_CASE_FIXTURE(Cloned, "stamps the target as a write does, and the source as a read does") {
    fill(5 * kBlockBytes);
    executor.run_for(std::chrono::seconds{1});
    const fs::Attributes a = *stat("a");
    const fs::Attributes b = *stat("b");
    REQUIRE(clone().has_value());
    CHECK(stat("b")->mtime_ns > b.mtime_ns);
    CHECK(stat("b")->ctime_ns > b.ctime_ns);
    CHECK(stat("a")->mtime_ns == a.mtime_ns);
    CHECK(stat("a")->ctime_ns == a.ctime_ns);
    CHECK(stat("a")->atime_ns > a.atime_ns);
  }

  TEST_CASE(
      "a pool without room for two takes a copy, and what is written to it then is new data") {
    Cloned pool{one_disk(64 * kMiB)};
    pool.fill(24 * kMiB);
    REQUIRE(pool.clone().has_value());
    CHECK(pool.read("b").value() == pool.text);
    // Overwriting gives nothing back, so it is not what the reserve is kept for.
    std::string model = pool.text;
    std::uint64_t written = 0;
    for (; written < pool.text.size(); written += kMiB) {
      const std::string text = pattern(written, kMiB);
      if (!pool.write("b", written, text).has_value()) break;
      model.replace(written, kMiB, text);
    }
    CHECK(written > 0);
    CHECK(written < pool.text.size());
    CHECK(pool.read("b").value() == model);
    CHECK(pool.read("a").value() == pool.text);
    // What a file has alone can be overwritten as ever, again and again.
    for (int i = 0; i < 20; ++i)
      REQUIRE(pool.write("b", 0, pattern(1, 64 * kBlockBytes)).has_value());
    REQUIRE(pool.unlink("b").has_value());
    check_whole(pool);
    CHECK(pool.read("a").value() == pool.text);
  }

  TEST_CASE("cold files: neither a copy nor a removal has their windows in memory") {
    Cloned pool{many_runs()};
    pool.fill(20 * kMiB + 10);
    REQUIRE(pool.write("b", 0, std::string(3 * kMiB, 'b')).has_value());
    const auto cold = [&] {
      checkpoint(pool);
      remount(pool);
    };
    cold();
    REQUIRE(pool.clone().has_value());
    cold();
    check_whole(pool);
    remount(pool);
    // Half of it is overwritten where the run says it is shared.
    REQUIRE(pool.write("a", kMiB, std::string(10 * kMiB, 'x')).has_value());
    CHECK(pool.read("b").value() == pool.text);
    cold();
    REQUIRE(pool.truncate("b", 5 * kMiB + 77).has_value());
    cold();
    REQUIRE(pool.unlink("a").has_value());
    CHECK(pool.shared() == 0);
    CHECK(pool.read("b").value() == pool.text.substr(0, 5 * kMiB + 77));
    check_whole(pool);
    cold();
    REQUIRE(pool.unlink("b").has_value());
    CHECK(pool.live() == 0);
    check_whole(pool);
  }

  TEST_CASE("references are in the run as of its instant, whatever happens while it is written") {
    Cloned pool{many_runs()};
    pool.fill(4 * kMiB);
    checkpoint(pool);
    for (int round = 0; round < 6; ++round) {
      CAPTURE(round);
      std::optional<Result<void>> done;
      spawn(keep(pool.fs().checkpoint(), &done));
      pool.executor.run_for(std::chrono::microseconds{300 * round});
      REQUIRE(pool.clone().has_value());
      REQUIRE(pool.write("a", 4096 * 5, std::string(10'000, 'x')).has_value());
      while (!done) REQUIRE(pool.executor.step());
      REQUIRE(done->has_value());
      sync_and_cut(pool);
      check_whole(pool);
      REQUIRE(pool.write("a", 0, pool.text).has_value());
      CHECK(pool.read("b").value() == pool.text);
      REQUIRE(pool.truncate("b", static_cast<std::uint64_t>(round) * kMiB / 3).has_value());
    }
  }

  TEST_CASE_FIXTURE(Cloned,
                    "scrub reads a shared block for each file, and mends a bad copy for both") {
    fill(kMiB);
    REQUIRE(clone().has_value());
    REQUIRE(run(fs().sync()).has_value());
    const auto scrub = [&] {
      struct Start {
        static Task<Result<void>> run(fs::Filesystem* fs) { co_return fs->start_scrub(); }
      };
      REQUIRE(run(Start::run(&fs())).has_value());
      while (fs().scrub_report().state == fs::ScrubState::kRunning)
        executor.run_for(std::chrono::milliseconds{1});
      return fs().scrub_report();
    };
    CHECK(scrub().counts.copies_bad == 0);
    CHECK(fs().scrub_report().counts.bytes == fs().scrub_report().total_bytes);
    // One copy of one block, which both files have.
    const extent::ChunkPut chunk = fs().store().chunks().back();
    const extent::Place place = chunk.places.front();
    const auto disk = fs().pool().status()[place.disk.raw].record;
    const std::uint64_t at = disk.first_slot_offset + place.slot.raw * kSlotBytes;
    Bytes bad(kBlockBytes, std::byte{0x5a});
    media[place.disk.raw]->write(at, bad);
    // For one of the files, or for both if it looks at them at the same time.
    const journal::ScrubCounts found = scrub().counts;
    CHECK(found.copies_bad >= 1);
    CHECK(found.copies_bad <= 2);
    CHECK(found.copies_repaired == found.copies_bad);
    CHECK(read("a").value() == text);
    CHECK(read("b").value() == text);
    CHECK(scrub().counts.copies_bad == 0);
  }

  TEST_CASE("compaction leaves what is shared where it is") {
    Cloned pool{one_disk(256 * kMiB)};
    pool.fill(kMiB);
    // No two neighbours lie together.
    for (std::uint64_t i = 0; i < 256; ++i)
      REQUIRE(pool.write("a", i * 37 % 256 * kBlockBytes,
                         pool.text.substr(i * 37 % 256 * kBlockBytes, kBlockBytes))
                  .has_value());
    REQUIRE(pool.clone().has_value());
    REQUIRE(pool.run(pool.fs().compact()).has_value());
    pool.executor.run_for(std::chrono::minutes{5});
    CHECK(pool.fs().metrics().compaction_bytes.sum() == 0);
    CHECK(pool.shared() == 256);
    REQUIRE(pool.unlink("b").has_value());
    REQUIRE(pool.run(pool.fs().compact()).has_value());
    CHECK(pool.fs().metrics().compaction_bytes.sum() == kMiB);
    CHECK(pool.read("a").value() == pool.text);
    check_whole(pool);
  }

  TEST_CASE_FIXTURE(Cloned, "an fsync of the copy makes what it shares durable") {
    fill(2 * kMiB + 10);
    REQUIRE(clone().has_value());
    REQUIRE(fsync("b").has_value());
    REQUIRE(fsync("").has_value());
    cut_and_mount(*this);
    CHECK(read("b").value() == text);
    check_whole(*this);
  }

  TEST_CASE_FIXTURE(Cloned,
                    "a record that shares what is nobody's: refused by a mount, told by check") {
    fill(3 * kBlockBytes);
    REQUIRE(run(fs().sync()).has_value());
    extent::ExtentPut share;
    share.inode = *resolve("b");
    for (const extent::ChunkPut& chunk : fs().store().chunks()) {
      share.pieces = {{.chunk = chunk.chunk, .block = 1000, .count = 1}};
    }
    share.crcs = {1};
    struct Append {
      static Task<int> run(fs::Filesystem* fs, Bytes record) {
        journal::Credit credit = co_await fs->journal().reserve(1, record.size());
        const Lsn lsn = fs->journal().append(credit, record);
        const Result<void> synced = co_await fs->journal().sync(lsn);
        REQUIRE(synced.has_value());
        co_return 0;
      }
    };
    fs::RecordWriter record;
    extent::encode_share(record.raw(), share);
    run(Append::run(&fs(), Bytes(record.bytes().begin(), record.bytes().end())));
    power_cut();
    CHECK(mount().error().code == Code::kFormatInvalid);
    options_.tolerant = true;
    REQUIRE(mount({}, true).has_value());
    const auto report = run(fs().check_tree());
    REQUIRE(report.has_value());
    CHECK(std::ranges::any_of(report->problems, [](const std::string& one) {
      return one.find("shares blocks that are nobody's") != std::string::npos;
    }));
  }

  // As a defect of ours might leave it.
  TEST_CASE_FIXTURE(Cloned, "check notices a reference too many, and one too few") {
    fill(10 * kBlockBytes);
    REQUIRE(clone().has_value());
    const auto problems = [&] { return run(fs().check_tree())->problem_count; };
    const auto [chunk, runs] = fs().store().shared().front();
    const extent::Piece one{.chunk = chunk, .block = runs.runs()[0].block, .count = 1};
    CHECK(problems() == 0);
    REQUIRE(fs().store().note_shared({&one, 1}).has_value());
    CHECK(problems() == 1);
    REQUIRE(fs().store().note_dead({&one, 1}).has_value());
    CHECK(problems() == 0);
    REQUIRE(fs().store().note_dead({&one, 1}).has_value());
    CHECK(problems() == 1);
    REQUIRE(fs().store().note_shared({&one, 1}).has_value());
    CHECK(problems() == 0);
  }

  TEST_CASE(
      "random clones among all else give what a model gives, through crashes and cold starts") {
    const std::uint64_t base = seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + seeds(8); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      SimPoolOptions options = many_runs();
      SimPool pool(seed, options);
      pool.format();
      REQUIRE(pool.mount().has_value());
      const std::vector<std::string> names{"a", "b", "c"};
      std::map<std::string, std::string> model;
      for (const std::string& name : names) {
        REQUIRE(pool.create(name).has_value());
        model[name];
      }
      const auto place = [&] {
        return random() % 2 == 0 ? random() % 40 * kBlockBytes
                                 : kMiB - 20'480 + random() % 10 * 4096;
      };
      for (int step = 0; step < 200; ++step) {
        const std::string& from = names[random() % names.size()];
        const std::string& to = names[random() % names.size()];
        switch (random() % 10) {
          case 0:
          case 1:
          case 2:
          case 3: {
            // Any two offsets in the same place of a block, any size.
            const std::uint64_t skew = random() % 2 == 0 ? 0 : random() % kBlockBytes;
            const std::uint64_t source = place() + skew;
            const std::uint64_t target = place() + skew;
            const std::uint64_t size = 1 + random() % 100'000;
            const std::uint64_t apart = source < target ? target - source : source - target;
            if (from == to && apart < size) break;
            REQUIRE(pool.copy_range(from, source, to, target, size).has_value());
            std::string text(size, '\0');
            const std::string& old = model[from];
            if (source < old.size()) {
              const std::string there = old.substr(source, size);
              text.replace(0, there.size(), there);
            }
            std::string& now = model[to];
            now.resize(std::max<std::size_t>(now.size(), target + size));
            now.replace(target, size, text);
            break;
          }
          case 4: {
            // All of it, to the end.
            if (from == to || model[from].empty()) break;
            REQUIRE(pool.truncate(to, 0).has_value());
            REQUIRE(pool.copy_range(from, 0, to, 0, model[from].size()).has_value());
            model[to] = model[from];
            break;
          }
          case 5:
          case 6: {
            const std::uint64_t at = place() + random() % 5000;
            const std::string text = pattern(random(), 1 + random() % 30'000);
            REQUIRE(pool.write(to, at, text).has_value());
            std::string& now = model[to];
            now.resize(std::max<std::size_t>(now.size(), at + text.size()));
            now.replace(at, text.size(), text);
            break;
          }
          case 7: {
            const std::uint64_t size = place() + random() % 5000;
            REQUIRE(pool.truncate(to, size).has_value());
            model[to].resize(size);
            break;
          }
          case 8: {
            const std::uint64_t at = place() + random() % 5000;
            const std::uint64_t size = 1 + random() % 60'000;
            REQUIRE(pool.run(pool.fs().fallocate(*pool.resolve(to), fs::FallocateMode::kPunchHole,
                                                 at, size))
                        .has_value());
            std::string& now = model[to];
            for (std::uint64_t i = at; i < std::min<std::uint64_t>(at + size, now.size()); ++i)
              now[i] = '\0';
            break;
          }
          default: {
            if (random() % 3 == 0) {
              REQUIRE(pool.unlink(to).has_value());
              REQUIRE(pool.create(to).has_value());
              model[to].clear();
            }
            if (random() % 2 == 0) checkpoint(pool);
            if (random() % 3 == 0) remount(pool);
            if (random() % 3 == 0) sync_and_cut(pool);
            check_whole(pool);
          }
        }
        if (step % 10 == 0) {
          for (const std::string& name : names) REQUIRE(pool.read(name).value() == model[name]);
        }
      }
      for (const std::string& name : names) {
        CHECK(pool.read(name).value() == model[name]);
        REQUIRE(pool.unlink(name).has_value());
      }
      CHECK(pool.fs().store().live_blocks() == 0);
      CHECK(pool.fs().store().saved_blocks() == 0);
      check_whole(pool);
      CHECK(pool.fs().store().metrics().checksum_errors.sum() == 0);
    }
  }
}

}  // namespace dynamicfs::test
