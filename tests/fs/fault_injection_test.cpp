// Silent faults, counted: bits that flip, writes that are lost and writes that go elsewhere, on data, parity, runs,
// superblocks and the log of one disk. All of them are found, and as many as there were; all are mended, and no
// reader ever sees one.
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

#include "extent/extent_format.hpp"
#include "journal/record_format.hpp"
#include "journal/run_format.hpp"
#include "journal/run_set.hpp"
#include "tests/fs/sim_pool.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using scheduler::IoOp;
using scheduler::IoRequest;

enum class Kind { kFlip, kLost, kMisdirected };
constexpr Kind kKinds[] = {Kind::kFlip, Kind::kLost, Kind::kMisdirected};
constexpr const char* kKindNames[] = {"flipped", "lost", "misdirected"};
constexpr const char* kRedundant[] = {"replica:2", "ec:2+1"};
constexpr int kInjectedFiles = 24;
// Of flips of one target in one run.
constexpr std::uint64_t kFlips = 60;

using Block = std::pair<std::size_t, std::uint64_t>;  // disk, and block of its volume

SimPoolOptions redundant(const std::string& policy) {
  SimPoolOptions options;
  options.policy = journal::Policy::parse(policy).value();
  options.disk_bytes.assign(options.policy.width(), 96 * kMiB);
  return options;
}

struct Injected {
  Injected(std::uint64_t seed, const std::string& policy)
      : pool(seed, redundant(policy)), random(seed * 7919 + 1) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < kInjectedFiles; ++i)
      REQUIRE(pool.create("f" + std::to_string(i)).has_value());
    victim = random() % pool.media.size();
    REQUIRE(pool.run(pool.fs().checkpoint()).has_value());
  }
  // Large ones under parity, if there is any, small ones in copies.
  std::string text(int file) const {
    const auto number = static_cast<std::uint64_t>(file);
    return pattern(1000 + number, file % 3 == 0 ? 200'000 + number * 3000 : 3000 + number * 700);
  }
  void write_files() {
    for (int i = 0; i < kInjectedFiles; ++i)
      REQUIRE(pool.write("f" + std::to_string(i), 0, text(i)).has_value());
  }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }
  void flush() {
    for (auto* const disk : pool.disks)
      REQUIRE(pool.run(scheduler::flush(*disk, scheduler::IoClass::kCritical)).has_value());
  }
  void check() {
    for (int i = 0; i < kInjectedFiles; ++i) {
      const auto read = pool.read("f" + std::to_string(i));
      REQUIRE(read.has_value());
      CHECK((read.value() == text(i)));
    }
  }
  fs::ScrubReport scrub() {
    REQUIRE(pool.fs().start_scrub().has_value());
    while (pool.fs().scrub_report().state == fs::ScrubState::kRunning)
      REQUIRE(pool.executor.step());
    return pool.fs().scrub_report();
  }
  // Every place at which something lives that a scrub judges by its own: copies of data, and parity of rows in use.
  std::set<Block> live() {
    extent::Store& store = pool.fs().store();
    std::set<Block> blocks;
    const auto add = [&](const auto& place, std::uint32_t block) {
      blocks.insert({place.disk.raw,
                     pool.fs().pool().slot_offset(place.disk, place.slot) / kBlockBytes + block});
    };
    const auto all = store.live();
    for (const extent::ChunkPut& put : store.chunks()) {
      const std::uint32_t columns = put.columns();
      std::set<std::uint32_t> rows;
      for (std::uint32_t column = 0; column < columns; ++column) {
        const ChunkId id{put.chunk.raw + column};
        const auto found = std::ranges::find(all, id, [](const auto& of) { return of.first; });
        if (found == all.end()) continue;
        for (std::uint32_t block = 0; block < kSlotBlocks; ++block) {
          if (!found->second.test(block)) continue;
          rows.insert(block);
          if (columns > 1) {
            add(put.places[column], block);
          } else {
            for (const auto& place : put.places) add(place, block);
          }
        }
      }
      for (std::size_t i = columns; columns > 1 && i < put.places.size(); ++i)
        for (const std::uint32_t row : rows) add(put.places[i], row);
    }
    return blocks;
  }
  void flip(const Block& block) {
    pool.media[block.first]->flip(block.second * kBlockBytes + random() % kBlockBytes,
                                  static_cast<unsigned>(random() % 8));
  }
  bool in_slots(const IoRequest& request) {
    return request.offset_bytes >= pool.fs().pool().slot_offset(DiskId{0}, SlotId{0});
  }

  SimPool pool;
  std::mt19937_64 random;
  std::size_t victim = 0;
};

// Loses, or sends elsewhere, some of the writes to one disk, and knows what that has spoilt.
struct Saboteur {
  Saboteur(Injected& of, Kind how) : test(of), kind(how) {}
  // Of writes that `which` says yes to; `astray` is a part of the disk where nothing lives.
  void begin(std::function<bool(const IoRequest&)> which, std::uint64_t astray_bytes) {
    astray = astray_bytes;
    auto& faults = test.pool.disks[test.victim]->faults();
    const auto takes = [this, which](const IoRequest& request) {
      if (request.op != IoOp::kWrite || !which(request)) return false;
      ++writes;
      // Not once more what mends it.
      const bool hit = test.random() % 3 == 0 &&
                       !spoilt.contains({test.victim, request.offset_bytes / kBlockBytes});
      (hit ? spoil(request.offset_bytes, request.size_bytes) : note(request));
      return hit;
    };
    if (kind == Kind::kLost) {
      faults.lose = takes;
    } else {
      faults.misdirect = [this, takes](const IoRequest& request) {
        return takes(request) ? elsewhere(request) : request.offset_bytes;
      };
    }
  }
  void end() { test.pool.disks[test.victim]->faults() = {}; }

  // Where nothing lives, or over what was written before.
  std::uint64_t elsewhere(const IoRequest& request) {
    if (over_others && test.random() % 2 == 0) {
      for (const auto& [offset, size] : stored) {
        if (size < request.size_bytes || spoilt.contains({test.victim, offset / kBlockBytes}))
          continue;
        spoil(offset, request.size_bytes);
        return offset;
      }
    }
    return astray;
  }
  void note(const IoRequest& request) {
    stored.emplace_back(request.offset_bytes, request.size_bytes);
  }
  void spoil(std::uint64_t offset, std::uint64_t size) {
    for (std::uint64_t at = 0; at < size; at += kBlockBytes)
      spoilt.insert({test.victim, (offset + at) / kBlockBytes});
  }
  // Of what was spoilt that which lives.
  std::uint64_t spoilt_among(const std::set<Block>& live) const {
    return static_cast<std::uint64_t>(
        std::ranges::count_if(spoilt, [&](const Block& block) { return live.contains(block); }));
  }

  Injected& test;
  Kind kind;
  bool over_others = true;
  std::uint64_t astray = 0;
  std::uint64_t writes = 0;
  std::set<Block> spoilt;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> stored;
};

std::uint64_t spoil_data(Injected& test, Kind kind) {
  Saboteur saboteur(test, kind);
  if (kind != Kind::kFlip) {
    saboteur.begin([&](const IoRequest& request) { return test.in_slots(request); },
                   test.pool.media[test.victim]->size_bytes() - kMiB);
  }
  test.write_files();
  test.sync();
  if (kind != Kind::kFlip) {
    saboteur.end();
    test.flush();
    return saboteur.spoilt_among(test.live());
  }
  test.flush();
  std::vector<Block> here;
  for (const Block& block : test.live())
    if (block.first == test.victim) here.push_back(block);
  std::ranges::shuffle(here, test.random);
  REQUIRE(here.size() > kFlips);
  for (std::uint64_t i = 0; i < kFlips; ++i) test.flip(here[i]);
  return kFlips;
}

void check_sound(Injected& test) {
  const fs::ScrubReport again = test.scrub();
  CHECK(again.counts.copies_bad == 0);
  CHECK(again.counts.copies_repaired == 0);
  CHECK(again.errors == 0);
  test.check();
  check_whole(test.pool);
  // The disk that had them may be the one that is left to be read, and whatever is away is no loss.
  for (std::size_t away = 0; away < test.pool.media.size(); ++away) {
    REQUIRE(test.pool.unmount().has_value());
    REQUIRE(test.pool.mount({away}, true).has_value());
    test.check();
    CHECK(test.pool.fs().store().metrics().checksum_errors.sum() == 0);
  }
}

// Metadata of many blocks of a run.
void add_metadata(Injected& test) {
  for (int i = 0; i < 500; ++i) {
    const std::string name = "m" + std::to_string(i);
    REQUIRE(test.pool.symlink(name, pattern(static_cast<std::uint64_t>(i), 3000)).has_value());
  }
}

// Where on the victim they lie.
std::vector<std::uint64_t> run_blocks(Injected& test) {
  std::vector<std::uint64_t> offsets;
  fs::Filesystem& filesystem = test.pool.fs();
  for (const journal::RunRef& run : filesystem.pool().superblock().manifest.runs) {
    for (const journal::RunCopy& copy : run.copies) {
      if (copy.disk.raw != test.victim) continue;
      for (std::uint64_t at = 0; at < run.bytes; at += journal::kRunBlockBytes)
        offsets.push_back(journal::run_offset(filesystem.pool(), copy, at));
    }
  }
  return offsets;
}

}  // namespace

TEST_SUITE("injected faults") {
  TEST_CASE("of data and parity on one disk: a scrub finds and mends as many as there are") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(1);
    std::uint64_t all = 0;
    for (const Kind kind : kKinds) {
      for (const char* const policy : kRedundant) {
        for (std::uint64_t seed = first; seed < first + seeds(2); ++seed) {
          CAPTURE(std::string{kKindNames[static_cast<int>(kind)]});
          CAPTURE(std::string{policy});
          CAPTURE(seed);
          Injected test(seed, policy);
          const std::uint64_t injected = spoil_data(test, kind);
          CHECK(injected > 20);
          all += injected;
          const fs::ScrubReport report = test.scrub();
          CHECK(report.counts.copies_bad == injected);
          CHECK(report.counts.copies_repaired == injected);
          CHECK(report.counts.blocks_lost == 0);
          check_sound(test);
        }
      }
    }
    MESSAGE(all, " faults of data");
  }

  TEST_CASE(
      "of data on one disk: readers see none, and what reads mend a scrub does not find any more") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(11);
    std::uint64_t met_by_reads = 0;
    for (const Kind kind : kKinds) {
      for (const char* const policy : kRedundant) {
        for (std::uint64_t seed = first; seed < first + seeds(2); ++seed) {
          CAPTURE(std::string{kKindNames[static_cast<int>(kind)]});
          CAPTURE(std::string{policy});
          CAPTURE(seed);
          Injected test(seed, policy);
          const std::uint64_t injected = spoil_data(test, kind);
          for (int i = 0; i < 3; ++i) test.check();
          const std::uint64_t met = test.pool.fs().store().metrics().checksum_errors.sum();
          met_by_reads += met;
          CHECK(test.pool.fs().store().metrics().repairs.sum() == met);
          const fs::ScrubReport report = test.scrub();
          CHECK(met + report.counts.copies_bad == injected);
          CHECK(report.counts.copies_repaired == report.counts.copies_bad);
          check_sound(test);
        }
      }
    }
    CHECK(met_by_reads > 0);
  }

  TEST_CASE("of runs on one disk: all are found and mended, by who opens them or a scrub") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(21);
    std::uint64_t all = 0;
    for (const Kind kind : kKinds) {
      for (const char* const policy : kRedundant) {
        CAPTURE(std::string{kKindNames[static_cast<int>(kind)]});
        CAPTURE(std::string{policy});
        CAPTURE(first);
        Injected test(first, policy);
        test.write_files();
        add_metadata(test);
        // Of three disks two have the runs; which, only the checkpoint knows.
        test.victim = 0;
        Saboteur saboteur(test, kind);
        saboteur.over_others = false;
        if (kind != Kind::kFlip) {
          saboteur.begin([&](const IoRequest& request) { return test.in_slots(request); },
                         test.pool.media[0]->size_bytes() - 2 * kMiB);
        }
        checkpoint(test.pool);
        if (kind != Kind::kFlip) saboteur.end();
        test.flush();
        std::vector<std::uint64_t> blocks = run_blocks(test);
        REQUIRE(blocks.size() > 40);
        std::uint64_t injected = 0;
        if (kind == Kind::kFlip) {
          std::ranges::shuffle(blocks, test.random);
          for (; injected < 30; ++injected) {
            test.pool.media[0]->flip(blocks[injected] + test.random() % journal::kRunBlockBytes,
                                     static_cast<unsigned>(test.random() % 8));
          }
        } else {
          for (const std::uint64_t block : blocks) {
            bool hit = false;
            for (std::uint64_t at = 0; at < journal::kRunBlockBytes; at += kBlockBytes)
              hit |= saboteur.spoilt.contains({0, (block + at) / kBlockBytes});
            injected += hit ? 1 : 0;
          }
        }
        CHECK(injected > 0);
        all += injected;
        const std::string before = test.pool.dump().value();
        const auto& metrics = test.pool.fs().runs().metrics();
        const std::uint64_t met = metrics.blocks_bad.sum();
        CHECK(metrics.blocks_repaired.sum() == met);
        const fs::ScrubReport report = test.scrub();
        CHECK(met + report.counts.copies_bad == injected);
        CHECK(report.counts.copies_repaired == report.counts.copies_bad);
        REQUIRE(test.pool.unmount().has_value());
        REQUIRE(test.pool.mount({1}, true).has_value());
        CHECK(test.pool.dump().value() == before);
        check_sound(test);
      }
    }
    MESSAGE(all, " faults of runs");
  }

  TEST_CASE("of superblocks: a scrub finds each that is damaged, or was not written") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(31);
    for (const char* const policy : kRedundant) {
      for (const Kind kind : kKinds) {
        for (std::uint64_t seed = first; seed < first + seeds(6); ++seed) {
          CAPTURE(std::string{kKindNames[static_cast<int>(kind)]});
          CAPTURE(std::string{policy});
          CAPTURE(seed);
          Injected test(seed, policy);
          test.write_files();
          test.sync();
          test.flush();
          std::uint64_t injected = 0;
          if (kind == Kind::kFlip) {
            const std::uint64_t size =
                journal::encode(test.pool.fs().pool().superblock()).value().size();
            for (const auto& medium : test.pool.media) {
              medium->flip(test.random() % 2 * journal::kSuperblockBytes + test.random() % size,
                           static_cast<unsigned>(test.random() % 8));
              ++injected;
            }
          } else {
            auto& faults = test.pool.disks[test.victim]->faults();
            const auto takes = [&](const IoRequest& request) {
              const bool hit = request.op == IoOp::kWrite && injected == 0 &&
                               request.offset_bytes < journal::kJournalOffset;
              injected += hit ? 1 : 0;
              return hit;
            };
            // The place of the other copy is one that it may go to.
            const std::uint64_t astray = seed % 2 == 0
                                             ? journal::kJournalOffset / 2
                                             : test.pool.media[test.victim]->size_bytes() - kMiB;
            if (kind == Kind::kLost) {
              faults.lose = takes;
            } else {
              faults.misdirect = [&, astray](const IoRequest& request) {
                if (!takes(request)) return request.offset_bytes;
                if (seed % 3 != 0) return astray;
                return request.offset_bytes == 0 ? std::uint64_t{journal::kSuperblockBytes} : 0;
              };
            }
            REQUIRE(test.pool.run(test.pool.fs().pool().set_rebalancing(true)).has_value());
            faults = {};
          }
          REQUIRE(injected > 0);
          const fs::ScrubReport report = test.scrub();
          CHECK(report.counts.copies_bad == injected);
          CHECK(report.counts.copies_repaired == injected);
          check_sound(test);
        }
      }
    }
  }

  TEST_CASE("of the log on one disk: the next mount finds and mends as many as there are") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(41);
    std::uint64_t all = 0;
    for (const char* const policy : kRedundant) {
      for (const Kind kind : kKinds) {
        for (std::uint64_t seed = first; seed < first + seeds(3); ++seed) {
          CAPTURE(std::string{kKindNames[static_cast<int>(kind)]});
          CAPTURE(std::string{policy});
          CAPTURE(seed);
          Injected test(seed, policy);
          Saboteur saboteur(test, kind);
          saboteur.over_others = false;
          std::set<std::uint64_t> batches;
          const auto in_log = [&](const IoRequest& request) {
            if (request.offset_bytes < journal::kJournalOffset || test.in_slots(request))
              return false;
            batches.insert(request.offset_bytes);
            return true;
          };
          if (kind == Kind::kFlip) {
            test.pool.disks[test.victim]->faults().lose = [&](const IoRequest& request) {
              if (request.op == IoOp::kWrite) in_log(request);
              return false;
            };
          } else {
            saboteur.begin(in_log, journal::kJournalOffset + 5 * kMiB);
          }
          for (int i = 0; i < kInjectedFiles; ++i) {
            REQUIRE(test.pool.write("f" + std::to_string(i), 0, test.text(i)).has_value());
            test.sync();
          }
          saboteur.end();
          test.flush();
          std::uint64_t injected = 0;
          for (const std::uint64_t offset : batches) {
            if (kind != Kind::kFlip) {
              injected += saboteur.spoilt.contains({test.victim, offset / kBlockBytes}) ? 1 : 0;
              continue;
            }
            if (test.random() % 2 == 0) continue;
            Bytes head(kBlockBytes);
            test.pool.media[test.victim]->read(offset, head);
            const auto header = journal::get_header(head);
            REQUIRE(header.has_value());
            // What is behind the records says nothing.
            const std::uint64_t size = journal::kBatchHeaderBytes + header->payload_bytes;
            test.pool.media[test.victim]->flip(offset + test.random() % size,
                                               static_cast<unsigned>(test.random() % 8));
            ++injected;
          }
          CHECK(injected > 3);
          all += injected;
          cut_and_mount(test.pool);
          CHECK(test.pool.fs().mount_report().journal.batches_repaired == injected);
          test.check();
          cut_and_mount(test.pool);
          CHECK(test.pool.fs().mount_report().journal.batches_repaired == 0);
          check_sound(test);
        }
      }
    }
    MESSAGE(all, " faults of the log");
  }

  TEST_CASE("without a good copy: an error that names the file, never wrong bytes") {
    const Quiet quiet;
    const std::uint64_t first = seed_from_environment(51);
    for (const char* const policy : kRedundant) {
      for (std::uint64_t seed = first; seed < first + seeds(3); ++seed) {
        CAPTURE(std::string{policy});
        CAPTURE(seed);
        Injected test(seed, policy);
        test.write_files();
        test.sync();
        test.flush();
        // One block of data each, and of what it could be made of so much that it cannot be.
        std::uint64_t injected = 0;
        const auto live = test.pool.fs().store().live();
        for (const extent::ChunkPut& put : test.pool.fs().store().chunks()) {
          const auto found =
              std::ranges::find(live, put.chunk, [](const auto& of) { return of.first; });
          for (std::uint32_t block = 0; block < kSlotBlocks; ++block) {
            if (!found->second.test(block) || test.random() % 20 != 0) continue;
            const std::size_t last = put.places.size() - 1;
            for (const std::size_t at : {std::size_t{0}, last}) {
              test.flip({put.places[at].disk.raw, test.pool.fs().pool().slot_offset(
                                                      put.places[at].disk, put.places[at].slot) /
                                                          kBlockBytes +
                                                      block});
            }
            ++injected;
          }
        }
        CHECK(injected > 5);
        std::set<std::string> damaged;
        const auto read_all = [&] {
          std::uint64_t errors = 0;
          for (int i = 0; i < kInjectedFiles; ++i) {
            const std::string name = "f" + std::to_string(i);
            const std::string text = test.text(i);
            for (std::size_t at = 0; at < text.size(); at += kBlockBytes) {
              const auto read = test.pool.read(name, at, kBlockBytes);
              if (read.has_value()) {
                CHECK((read.value() == text.substr(at, kBlockBytes)));
              } else {
                CHECK(read.error().code == Code::kCorrupt);
                damaged.insert("/" + name);
                ++errors;
              }
            }
          }
          return errors;
        };
        CHECK(read_all() == injected);
        const auto named = test.pool.run(test.pool.fs().damaged_files());
        CHECK(std::set<std::string>(named.begin(), named.end()) == damaged);
        for (int i = 0; i < 2; ++i) {
          const fs::ScrubReport report = test.scrub();
          CHECK(report.counts.blocks_lost == injected);
          CHECK(read_all() == injected);
        }
      }
    }
  }
}

}  // namespace dynamicfs::test
