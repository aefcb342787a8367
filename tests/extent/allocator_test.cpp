// The allocator alone: no disks, no journal; reads are pins, records are a counter.
#include "extent/allocator.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

namespace {

class NoDisk final : public scheduler::Disk {
 public:
  void submit(scheduler::IoRequest&) override { FAIL("no I/O here"); }
  std::uint64_t size_bytes() const override { return 0; }
  const std::string& path() const override { return path_; }
  scheduler::DiskKind kind() const override { return scheduler::DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override { return false; }
  const scheduler::DiskMetrics& metrics() const override { return metrics_; }
  void fail() override {}
  bool failed() const override { return false; }

 private:
  std::string path_ = "none";
  scheduler::DiskMetrics metrics_;
};

class CountingLog final : public ChunkLog {
 public:
  void append(const ChunkPut& change) override {
    ++lsn;
    puts.push_back(change);
  }
  Lsn append(const ChunkRemove& change) override {
    ++lsn;
    removes.push_back(change);
    return Lsn{lsn};
  }
  std::uint64_t lsn = 0;
  std::vector<ChunkPut> puts;
  std::vector<ChunkRemove> removes;
};

using Block = std::pair<std::uint32_t, std::uint32_t>;  // chunk, block

constexpr journal::Policy kSingle{.copies_or_data = 1};
constexpr journal::Policy kTwo{.copies_or_data = 2};

struct Space {
  NoDisk disk;
  ChunkTable chunks;
  ReadRegistry reads;
  AllocatorMetrics metrics;
  journal::Eras eras;
  Allocator allocator{chunks, reads, metrics, eras};
  CountingLog log;
  std::vector<std::uint32_t> sizes;

  void start(std::vector<std::uint32_t> slots) {
    sizes = std::move(slots);
    set_healthy(std::vector<bool>(sizes.size(), true));
    allocator.start();
  }
  void set_healthy(const std::vector<bool>& healthy) {
    auto view = std::make_shared<PoolView>();
    auto ids = std::make_shared<std::vector<DiskId>>();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (healthy[i]) ids->push_back(DiskId{static_cast<std::uint16_t>(i)});
      view->disks.push_back({.disk = healthy[i] ? &disk : nullptr,
                             .first_slot_offset = 0,
                             .slots = sizes[i],
                             .stale_since = {}});
    }
    view->healthy = ids;
    allocator.set_disks(view, {});
  }

  std::vector<Piece> allocate(std::uint32_t blocks, journal::Policy policy = kSingle,
                              std::uint64_t inode = 1, std::uint64_t first = 0,
                              std::uint32_t replaced = 0) {
    std::vector<Piece> pieces;
    Allocator::Request request;
    request.inode = InodeId{inode};
    request.first = FileBlock{first};
    request.policy = policy;
    request.blocks = blocks;
    request.replaced_blocks = replaced;
    Allocator::Outcome outcome = allocator.allocate(request, nullptr, pieces);
    if (outcome == Allocator::Outcome::kNeedsChunk) {
      CHECK(pieces.empty());
      outcome = allocator.allocate(request, &log, pieces);
    }
    CHECK(outcome != Allocator::Outcome::kNeedsChunk);
    if (outcome == Allocator::Outcome::kNoSpace) CHECK(pieces.empty());
    return pieces;
  }
  // What was written is published and freed by the next records.
  Lsn free(const std::vector<Piece>& pieces) {
    allocator.publish(pieces);
    const Lsn lsn{++log.lsn};
    allocator.free(pieces, lsn);
    return lsn;
  }
  void drain() {
    do {
      allocator.remove_empty(1000, log);
      allocator.advance(Lsn{log.lsn});
    } while (allocator.empty_chunks() > 0);
  }
  // Everything, the reserve included.
  std::vector<Piece> exhaust(journal::Policy policy = kSingle) {
    std::vector<Piece> all;
    fill(256, policy, &all);
    while (true) {
      const std::vector<Piece> pieces = allocate(1, policy, 1, 0, 1);
      if (pieces.empty()) return all;
      all.insert(all.end(), pieces.begin(), pieces.end());
    }
  }
  // Everything that fits, in steps of `step` and in the end block by block.
  std::uint64_t fill(std::uint32_t step, journal::Policy policy = kSingle,
                     std::vector<Piece>* all = nullptr) {
    std::uint64_t blocks = 0;
    for (std::uint64_t i = 0;; ++i) {
      const std::vector<Piece> pieces = allocate(step, policy, i % 17, i);
      if (pieces.empty()) {
        if (step == 1) return blocks;
        step = 1;
        continue;
      }
      for (const Piece& piece : pieces) blocks += piece.count;
      if (all != nullptr) all->insert(all->end(), pieces.begin(), pieces.end());
    }
  }
};

std::vector<Block> blocks_of(const std::vector<Piece>& pieces) {
  std::vector<Block> blocks;
  for (const Piece& piece : pieces) {
    for (std::uint32_t i = 0; i < piece.count; ++i)
      blocks.emplace_back(piece.chunk.raw, piece.block + i);
  }
  return blocks;
}

}  // namespace

TEST_SUITE("allocator") {
  TEST_CASE_FIXTURE(Space,
                    "a large sequential file uses all disks in turn, each write in one piece") {
    start({100, 100, 100, 100});
    std::map<DiskId, int> writes;
    for (std::uint64_t i = 0; i < 64; ++i) {
      const std::vector<Piece> pieces = allocate(256, kSingle, 1, i * 256);
      REQUIRE(pieces.size() == 1);
      CHECK(pieces[0].count == 256);
      ++writes[chunks.find(pieces[0].chunk)->places[0].disk];
    }
    CHECK(writes.size() == 4);
    for (const auto& [where, count] : writes) CHECK(count == 16);
    CHECK(log.puts.size() == 16);
  }

  TEST_CASE_FIXTURE(Space,
                    "small writes of one file lie next to each other, of different files apart") {
    start({100, 100});
    std::vector<Piece> before = allocate(4, kSingle, 1, 0);
    for (std::uint64_t i = 1; i < 60; ++i) {
      const std::vector<Piece> pieces = allocate(4, kSingle, 1, 4 * i);
      CHECK(pieces[0].chunk == before[0].chunk);
      CHECK(pieces[0].block == before[0].block + 4);
      before = pieces;
    }
    std::set<std::uint32_t> used;
    for (std::uint64_t inode = 1; inode < 30; ++inode)
      used.insert(allocate(1, kSingle, inode)[0].chunk.raw);
    CHECK(used.size() >= 2);
  }

  TEST_CASE_FIXTURE(Space,
                    "what large writes leave at the end of a chunk is filled by small ones") {
    start({20});
    const std::vector<Piece> large = allocate(257);
    allocate(257);
    allocate(257);
    allocate(257);  // does not fit behind the others: a new chunk
    CHECK(log.puts.size() == 2);
    const std::vector<Piece> small = allocate(8);
    CHECK(log.puts.size() == 2);
    CHECK(small[0].chunk == large[0].chunk);
    CHECK(small[0].block == 3 * 257);
  }

  TEST_CASE_FIXTURE(Space, "a copy is never on the same disk as another") {
    start({100, 50, 20});
    fill(256, kTwo);
    for (const ChunkPut& chunk : log.puts) {
      REQUIRE(chunk.places.size() == 2);
      CHECK(chunk.places[0].disk != chunk.places[1].disk);
    }
  }

  TEST_CASE("exactly what the report calls free without the reserve can be written, in any step") {
    for (const std::uint32_t step : {1u, 3u, 15u, 16u, 100u, 256u, 257u}) {
      for (const auto& sizes :
           {std::vector<std::uint32_t>{8}, {8, 8}, {30, 9, 14}, {60, 8, 8, 8}}) {
        for (const journal::Policy policy : {kSingle, kTwo}) {
          if (policy == kTwo && sizes.size() < 2) continue;
          Space space;
          space.start(sizes);
          const Allocator::Space report = space.allocator.space(policy);
          CHECK(report.free_blocks == report.usable_blocks);
          CHECK(report.reserve_blocks > 0);
          CAPTURE(step);
          CAPTURE(sizes.size());
          std::vector<Piece> all;
          CHECK(space.fill(step, policy, &all) == report.free_blocks - report.reserve_blocks);
          const std::vector<Block> blocks = blocks_of(all);
          CHECK(std::set<Block>(blocks.begin(), blocks.end()).size() == blocks.size());
          const Allocator::Space full = space.allocator.space(policy);
          CHECK(full.free_blocks == full.reserve_blocks);
          // And it all comes back.
          space.free(all);
          space.drain();
          CHECK(space.allocator.space(policy).free_blocks == report.free_blocks);
          CHECK(space.allocator.space(policy).pending_blocks == 0);
        }
      }
    }
  }

  TEST_CASE_FIXTURE(Space, "a full pool still replaces blocks and still writes its metadata") {
    start({10, 10});
    std::vector<Piece> all;
    fill(64, kTwo, &all);
    CHECK(allocate(1, kTwo).empty());
    // Overwriting again and again, each time freeing what was there.
    for (int round = 0; round < 200; ++round) {
      const std::vector<Piece> fresh = allocate(16, kTwo, 1, 0, 16);
      REQUIRE_FALSE(fresh.empty());
      free(fresh);
      drain();
      CHECK(allocate(1, kTwo).empty());
    }
    for (const std::uint16_t id : {std::uint16_t{0}, std::uint16_t{1}}) {
      CHECK(allocator.take_run_slot(DiskId{id}).has_value());
      CHECK(allocator.take_run_slot(DiskId{id}).has_value());
    }
  }

  TEST_CASE_FIXTURE(Space, "the slots of the current run are kept for the next one, too") {
    start({40, 40});
    const std::uint64_t before =
        allocator.space(kTwo).free_blocks - allocator.space(kTwo).reserve_blocks;
    std::vector<journal::RunCopy> run{{.disk = DiskId{0}, .slots = {}},
                                      {.disk = DiskId{1}, .slots = {}}};
    for (journal::RunCopy& copy : run) {
      for (int i = 0; i < 6; ++i) copy.slots.push_back(*allocator.take_run_slot(copy.disk));
    }
    allocator.adopt_run(run);
    const Allocator::Space report = allocator.space(kTwo);
    CHECK(report.free_blocks - report.reserve_blocks <= before - 6 * kSlotBlocks);
    std::vector<Piece> all;
    fill(256, kTwo, &all);
    for (int i = 0; i < 7; ++i) CHECK(allocator.take_run_slot(DiskId{0}).has_value());
    for (int i = 0; i < 7; ++i) CHECK(allocator.take_run_slot(DiskId{1}).has_value());
    allocator.retire_run(run);
    CHECK(allocator.space(kTwo).pending_blocks == 12 * kSlotBlocks);
    drain();
    CHECK(allocator.space(kTwo).pending_blocks == 0);
  }

  TEST_CASE_FIXTURE(Space, "promised space is there for who was promised it, and for nobody else") {
    start({12});
    const Allocator::Space report = allocator.space(kSingle);
    const std::uint64_t room = report.free_blocks - report.reserve_blocks;
    CHECK_FALSE(allocator.promise(room + 1, kSingle));
    REQUIRE(allocator.promise(room - 10, kSingle));
    CHECK(allocator.space(kSingle).free_blocks == report.free_blocks - (room - 10));
    CHECK(fill(3) == 10);
    CHECK(allocate(1).empty());
    std::uint64_t left = room - 10;
    while (left > 0) {
      const auto step = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, 200));
      REQUIRE_FALSE(allocate(step, kSingle, 1, 0, step).empty());
      allocator.unpromise(step);
      left -= step;
    }
    CHECK(allocate(1).empty());
  }

  TEST_CASE_FIXTURE(
      Space, "freed blocks are reused when covered, not before, and not while a read holds on") {
    start({12});
    const std::vector<Piece> all = exhaust();
    auto arriving = reads.arrivals().pin();
    const Lsn lsn = free({all[3]});
    CHECK_FALSE(allocator.advance(Lsn{lsn.raw - 1}));
    CHECK(allocate(1, kSingle, 1, 0, 1).empty());
    CHECK_FALSE(allocator.advance(lsn));
    CHECK(allocate(1, kSingle, 1, 0, 1).empty());
    auto reading = reads.disk(0).pin();
    arriving.reset();
    CHECK_FALSE(allocator.advance(lsn));
    CHECK_FALSE(allocator.advance(lsn));
    CHECK(allocate(1, kSingle, 1, 0, 1).empty());
    reading.reset();
    CHECK(allocator.advance(lsn));
    const std::vector<Piece> again = allocate(1, kSingle, 1, 0, 1);
    REQUIRE_FALSE(again.empty());
    CHECK(again[0].chunk == all[3].chunk);
    CHECK(metrics.blocks_reused.sum() == 1);
  }

  TEST_CASE_FIXTURE(Space, "a hung disk keeps only its own blocks from being reused") {
    start({12, 12});
    const std::vector<Piece> all = exhaust();
    const auto hung = reads.disk(0).pin();
    const Lsn lsn = free(all);
    for (int i = 0; i < 4; ++i) {
      // Reads come and go meanwhile.
      const auto other = reads.disk(1).pin();
      allocator.advance(lsn);
    }
    allocator.advance(lsn);
    const std::vector<Piece> fresh = allocate(256);
    REQUIRE_FALSE(fresh.empty());
    for (int i = 0; i < 20; ++i) {
      for (const Piece& piece : allocate(256))
        CHECK(chunks.find(piece.chunk)->places[0].disk == DiskId{1});
    }
  }

  TEST_CASE_FIXTURE(Space,
                    "an empty chunk is removed; its slots wait for the removal to be covered") {
    start({20, 20});
    std::vector<Piece> pieces;
    for (int i = 0; i < 12; ++i) {
      const auto more = allocate(256, kTwo);
      pieces.insert(pieces.end(), more.begin(), more.end());
    }
    const std::size_t opened = log.puts.size();
    const Lsn freed = free(pieces);
    allocator.remove_empty(100, log);
    REQUIRE(log.removes.size() >= 1);
    CHECK(log.removes.size() <= opened);
    // The chunk is still found by who reads from it.
    CHECK(chunks.find(log.removes[0].chunk) != nullptr);
    for (const ChunkPut& chunk : allocator.chunks()) CHECK(chunk.chunk != log.removes[0].chunk);
    allocator.advance(freed);
    CHECK(chunks.find(log.removes[0].chunk) != nullptr);
    allocator.advance(Lsn{log.lsn});
    CHECK(chunks.find(log.removes[0].chunk) == nullptr);
    // Ids are not used again.
    for (int i = 0; i < 20; ++i) allocate(256, kTwo);
    std::set<std::uint32_t> ids;
    for (const ChunkPut& chunk : log.puts) CHECK(ids.insert(chunk.chunk.raw).second);
  }

  TEST_CASE_FIXTURE(Space, "chunks of a lost disk take no new blocks, and new ones do without it") {
    start({30, 30, 30});
    for (std::uint64_t i = 0; i < 12; ++i) {
      allocate(256, kTwo, 1, i * 256);
      allocate(3, kTwo, i, 0);
    }
    CHECK(allocator.space(kTwo).degraded_chunks == 0);
    set_healthy({true, false, true});
    std::size_t hit = 0;
    for (const ChunkPut& chunk : log.puts) {
      hit += std::any_of(chunk.places.begin(), chunk.places.end(),
                         [](const Place& place) { return place.disk == DiskId{1}; });
    }
    CHECK(hit > 0);
    CHECK(allocator.space(kTwo).degraded_chunks == hit);
    std::vector<Piece> all;
    const Allocator::Space report = allocator.space(kTwo);
    CHECK(fill(64, kTwo, &all) == report.free_blocks - report.reserve_blocks);
    for (const Piece& piece : all) {
      for (const Place& place : chunks.find(piece.chunk)->places) CHECK(place.disk != DiskId{1});
    }
    // With one disk left, one copy has to do.
    set_healthy({false, false, true});
    free(all);
    drain();
    const std::size_t before = log.puts.size();
    REQUIRE_FALSE(allocate(256, kTwo).empty());
    REQUIRE(log.puts.size() > before);
    CHECK(log.puts.back().places.size() == 1);
    CHECK(log.puts.back().layout == kTwo);
    CHECK(allocator.space(kTwo).degraded_chunks > 0);
    // When the others are back, that chunk is not filled further.
    set_healthy({true, true, true});
    const ChunkId thin = log.puts.back().chunk;
    std::vector<Piece> more;
    fill(64, kTwo, &more);
    for (const Piece& piece : more) CHECK(piece.chunk != thin);
  }

  TEST_CASE_FIXTURE(
      Space,
      "recovery refuses a slot given twice, a block mapped twice, and what is out of range") {
    sizes = {10, 10};
    set_healthy({true, true});
    const ChunkPut one{.chunk = ChunkId{5}, .layout = kSingle, .places = {{DiskId{0}, SlotId{3}}}};
    ChunkPut other = one;
    other.chunk = ChunkId{6};
    REQUIRE(allocator.replay(one).has_value());
    CHECK(allocator.replay(one).has_value());
    CHECK(allocator.load({one, {}}).error() == error(Code::kFormatInvalid, 5));
    ChunkPut moved = one;
    moved.places[0].slot = SlotId{4};
    CHECK(allocator.replay(moved).error() == error(Code::kFormatInvalid, 5));
    const auto refused = [&](const ChunkPut& put) {
      const Error expected = error(Code::kFormatInvalid, put.chunk.raw);
      return allocator.load({put, {}}).error() == expected &&
             allocator.replay(put).error() == expected;
    };
    CHECK(refused(other));
    other.places[0].slot = SlotId{10};
    CHECK(refused(other));
    other.places[0] = {DiskId{7}, SlotId{0}};
    CHECK(refused(other));
    CHECK(allocator.replay(ChunkRemove{.chunk = ChunkId{9}}).error().code == Code::kFormatInvalid);
    using Note = Result<void> (Allocator::*)(std::span<const Piece>);
    const auto note = [&](Note how, std::uint32_t chunk, std::uint16_t block, std::uint16_t count) {
      const Piece piece{.chunk = ChunkId{chunk}, .block = block, .count = count};
      const Result<void> noted = (allocator.*how)({&piece, 1});
      if (!noted.has_value()) CHECK(noted.error() == error(Code::kFormatInvalid, chunk));
      return noted.has_value();
    };
    CHECK(note(&Allocator::note_live, 5, 100, 50));
    CHECK(note(&Allocator::note_live, 5, 150, 11));
    CHECK_FALSE(note(&Allocator::note_live, 5, 149, 1));
    CHECK_FALSE(note(&Allocator::note_live, 5, 90, 20));
    CHECK_FALSE(note(&Allocator::note_live, 5, 1000, 25));
    CHECK_FALSE(note(&Allocator::note_live, 5, 7, 0));
    CHECK_FALSE(note(&Allocator::note_live, 4, 0, 1));
    CHECK_FALSE(note(&Allocator::note_dead, 5, 99, 2));
    CHECK_FALSE(note(&Allocator::note_dead, 5, 155, 10));
    CHECK_FALSE(note(&Allocator::note_dead, 4, 0, 1));
    CHECK(note(&Allocator::note_dead, 5, 151, 10));
    CHECK_FALSE(note(&Allocator::note_dead, 5, 151, 1));
    CHECK(allocator.live_blocks() == 51);
    CHECK(allocator.replay(ChunkRemove{.chunk = ChunkId{5}}).error().code == Code::kFormatInvalid);
    allocator.start();
    const std::vector<Piece> all = exhaust();
    const std::vector<Block> blocks = blocks_of(all);
    for (std::uint32_t i = 100; i <= 150; ++i) {
      CHECK(std::find(blocks.begin(), blocks.end(), Block{5, i}) == blocks.end());
    }
    CHECK(std::find(blocks.begin(), blocks.end(), Block{5, 99}) != blocks.end());
    for (const ChunkPut& chunk : log.puts) CHECK(chunk.chunk.raw > 9);
  }

  TEST_CASE_FIXTURE(Space,
                    "a chunk of another policy that nothing needs gives its slots to this one") {
    start({10, 10});
    std::vector<Piece> all;
    fill(256, kSingle, &all);
    CHECK(allocate(256, kTwo).empty());
    free(all);
    CHECK(allocate(256, kTwo).empty());
    drain();
    CHECK_FALSE(allocate(256, kTwo).empty());
  }

  TEST_CASE_FIXTURE(Space, "several runs are written at once; each is kept or given back alone") {
    start({40, 40});
    const auto used = [&](std::size_t on) { return allocator.space(kTwo).used_slots[on].second; };
    const auto take = [&](int slots) {
      std::vector<journal::RunCopy> run{{.disk = DiskId{0}, .slots = {}},
                                        {.disk = DiskId{1}, .slots = {}}};
      for (journal::RunCopy& copy : run) {
        for (int i = 0; i < slots; ++i) copy.slots.push_back(*allocator.take_run_slot(copy.disk));
      }
      return run;
    };
    const std::vector<journal::RunCopy> small = take(1);
    const std::vector<journal::RunCopy> checkpoint = take(2);
    const std::vector<journal::RunCopy> merge = take(4);
    CHECK(used(0) == 7);
    allocator.adopt_run(checkpoint);
    for (const journal::RunCopy& copy : small) allocator.drop_run_slots(copy.disk, copy.slots);
    CHECK(used(0) == 6);
    allocator.adopt_run(merge);
    allocator.retire_run(checkpoint);
    CHECK(allocator.space(kTwo).pending_blocks == 4 * kSlotBlocks);
    CHECK(used(1) == 4);
    drain();
    CHECK(allocator.space(kTwo).pending_blocks == 0);
    // The slots given back, the lowest first; never one of the run that stays.
    CHECK(take(3)[0].slots == std::vector<SlotId>{SlotId{0}, SlotId{1}, SlotId{2}});
    CHECK(take(1)[1].slots == std::vector<SlotId>{SlotId{7}});
  }

  TEST_CASE_FIXTURE(Space, "a full pool has room to merge all of its runs beside a checkpoint") {
    start({60, 60});
    std::vector<journal::RunCopy> runs{{.disk = DiskId{0}, .slots = {}},
                                       {.disk = DiskId{1}, .slots = {}}};
    for (journal::RunCopy& copy : runs) {
      for (int i = 0; i < 9; ++i) copy.slots.push_back(*allocator.take_run_slot(copy.disk));
    }
    allocator.adopt_run(runs);
    fill(256, kTwo);
    for (int i = 0; i < 9 + 2; ++i) CHECK(allocator.take_run_slot(DiskId{0}).has_value());
    CHECK(allocate(1, kTwo).empty());
  }

  // What a mount needs: the chunks of the durable runs and the records behind them.
  TEST_CASE("what runs and log say of live blocks is what is live, whatever fails on the way") {
    struct Record {
      std::optional<ChunkPut> put = {};
      std::optional<ChunkRemove> remove = {};
      std::vector<Piece> live = {};
      std::vector<Piece> dead = {};
    };
    using Live = std::map<std::uint32_t, std::set<std::uint32_t>>;  // also chunks without any
    const auto expand = [](const BlockBitmap& bitmap) {
      std::set<std::uint32_t> blocks;
      for (std::uint32_t i = 0; i < kSlotBlocks; ++i) {
        if (bitmap.test(i)) blocks.insert(i);
      }
      return blocks;
    };
    const std::uint64_t base = test::seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + test::seeds(20); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      const std::vector<std::uint32_t> sizes{30, 20, 20};
      auto space = std::make_unique<Space>();
      space->start(sizes);

      Live live;
      std::map<std::uint32_t, std::uint64_t> changed;  // chunk: era of its last change
      std::vector<std::vector<Piece>> written;
      std::vector<std::vector<Piece>> published;
      std::vector<Record> log;  // behind the durable runs
      std::map<std::uint32_t, ChunkState> durable;
      std::uint32_t durable_next = 1;
      std::size_t puts = 0;
      std::size_t removes = 0;
      struct Checkpoint {
        std::uint64_t era;
        std::size_t records;
        std::vector<ChunkChange> changes;
        std::uint32_t next;
      };
      std::optional<Checkpoint> running;

      const auto note = [&](const Record& record) {
        const std::uint64_t era = space->eras.current.load();
        if (record.put) {
          live[record.put->chunk.raw];
          changed[record.put->chunk.raw] = era;
        }
        if (record.remove) {
          REQUIRE(live.at(record.remove->chunk.raw).empty());
          live.erase(record.remove->chunk.raw);
          changed[record.remove->chunk.raw] = era;
        }
        for (const Block& block : blocks_of(record.live)) {
          REQUIRE(live.at(block.first).insert(block.second).second);
          changed[block.first] = era;
        }
        for (const Block& block : blocks_of(record.dead)) {
          REQUIRE(live.at(block.first).erase(block.second) == 1);
          changed[block.first] = era;
        }
      };
      const auto append = [&](Record record) {
        note(record);
        log.push_back(std::move(record));
      };
      const auto append_chunks = [&] {
        for (; puts < space->log.puts.size(); ++puts) append({.put = space->log.puts[puts]});
        for (; removes < space->log.removes.size(); ++removes)
          append({.remove = space->log.removes[removes]});
      };
      const auto take_any = [&](std::vector<std::vector<Piece>>& from) {
        std::swap(from[random() % from.size()], from.back());
        std::vector<Piece> pieces = std::move(from.back());
        from.pop_back();
        return pieces;
      };

      // What the next run has to write, as it should be.
      const auto changes = [&] {
        std::vector<ChunkChange> found = space->allocator.chunk_changes();
        std::erase_if(changed,
                      [&](const auto& entry) { return space->eras.is_clean(entry.second); });
        REQUIRE(found.size() == changed.size());
        auto expected = changed.begin();
        for (const ChunkChange& change : found) {
          CHECK(change.chunk.raw == (expected++)->first);
          const auto now = live.find(change.chunk.raw);
          REQUIRE(change.state.has_value() == (now != live.end()));
          if (!change.state) continue;
          CHECK(change.state->put.chunk == change.chunk);
          CHECK(change.state->put.places == space->chunks.find(change.chunk)->places);
          CHECK(expand(change.state->live) == now->second);
        }
        return found;
      };

      for (int step = 0; step < 1500; ++step) {
        switch (random() % 12) {
          case 0:
          case 1:
          case 2:
            written.push_back(
                space->allocate(static_cast<std::uint32_t>(random() % 4 == 0 ? 1 + random() % 257
                                                                             : 1 + random() % 9),
                                random() % 2 == 0 ? kTwo : kSingle, random() % 5, random() % 5000));
            append_chunks();
            if (written.back().empty()) written.pop_back();
            break;
          case 3:
          case 4:
            if (written.empty()) break;
            published.push_back(take_any(written));
            space->allocator.publish(published.back());
            append({.live = published.back()});
            break;
          case 5:
            if (!written.empty()) space->allocator.discard(take_any(written));
            break;
          case 6:
          case 7:
          case 8: {
            if (published.empty()) break;
            const std::vector<Piece> pieces = take_any(published);
            space->allocator.free(pieces, Lsn{++space->log.lsn});
            append({.dead = pieces});
            break;
          }
          case 9:
            space->allocator.remove_empty(random() % 4, space->log);
            append_chunks();
            space->allocator.advance(Lsn{space->log.lsn - std::min(space->log.lsn, random() % 20)});
            break;
          case 10: {
            if (running) break;
            running = Checkpoint{.era = space->eras.current.load(),
                                 .records = log.size(),
                                 .changes = changes(),
                                 .next = space->allocator.next_chunk()};
            ++space->eras.current;
            break;
          }
          default: {
            if (!running) break;
            if (random() % 2 == 0) {
              for (const ChunkChange& change : running->changes) {
                durable.erase(change.chunk.raw);
                if (change.state) durable[change.chunk.raw] = *change.state;
              }
              durable_next = running->next;
              log.erase(log.begin(), log.begin() + static_cast<std::ptrdiff_t>(running->records));
              space->eras.installed = running->era + 1;
            }
            running.reset();
          }
        }
        if (step % 25 == 0) changes();
        if (step % 300 != 299) continue;

        // The power goes and comes back. What was being written is gone; what was mapped is not.
        const std::uint32_t next_chunk = space->allocator.next_chunk();
        const Live before = std::exchange(live, {});
        changed.clear();
        written.clear();
        running.reset();
        puts = removes = 0;
        space = std::make_unique<Space>();
        space->sizes = sizes;
        space->set_healthy(std::vector<bool>(sizes.size(), true));
        space->log.lsn = 10'000;
        for (const auto& [id, state] : durable) {
          live[id] = expand(state.live);
          REQUIRE(space->allocator.load(state).has_value());
        }
        space->allocator.load_next_chunk(durable_next);
        for (const Record& record : log) {
          note(record);
          if (record.put) REQUIRE(space->allocator.replay(*record.put).has_value());
          if (record.remove) REQUIRE(space->allocator.replay(*record.remove).has_value());
          REQUIRE(space->allocator.note_live(record.live).has_value());
          REQUIRE(space->allocator.note_dead(record.dead).has_value());
        }
        space->allocator.start();
        REQUIRE(live == before);
        changes();
        CHECK(space->allocator.next_chunk() == next_chunk);
        Live now;
        std::uint64_t blocks = 0;
        for (const auto& [id, bitmap] : space->allocator.live()) {
          now[id.raw] = expand(bitmap);
          blocks += bitmap.count();
        }
        CHECK(now == live);
        CHECK(space->allocator.live_blocks() == blocks);
      }
      // All the rest is free: what is not live can be had.
      std::set<Block> got;
      for (const Block& block : blocks_of(space->exhaust())) {
        CHECK(got.insert(block).second);
        if (live.contains(block.first)) CHECK_FALSE(live[block.first].contains(block.second));
      }
    }
  }

  // Blocks have one of four states; the model knows which of them a new write may get.
  TEST_CASE("no block is handed out twice or too early, whatever the order of things") {
    const std::uint64_t base = test::seed_from_environment(1);
    for (std::uint64_t seed = base; seed < base + test::seeds(20); ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(seed);
      Space space;
      const std::vector<std::vector<std::uint32_t>> shapes = {{9}, {12, 8}, {20, 9, 9, 10}};
      space.start(shapes[random() % shapes.size()]);
      const std::size_t disks = space.sizes.size();
      std::vector<bool> healthy(disks, true);

      struct Read {
        std::uint64_t began;
        std::optional<ReadPins> pins;
        std::set<std::uint16_t> asked;  // empty: still arriving, may aim anywhere
      };
      struct Freed {
        std::uint64_t at;
        std::uint64_t lsn;
        std::vector<Place> places;
      };
      std::vector<Read> reads;
      std::map<Block, Freed> pending;
      std::set<Block> live;
      std::vector<std::vector<Piece>> files;
      std::uint64_t covered = 0;
      std::uint64_t time = 0;

      for (int step = 0; step < 3000; ++step) {
        ++time;
        switch (random() % 10) {
          case 0:
          case 1:
          case 2:
          case 3: {
            const auto blocks = static_cast<std::uint32_t>(random() % 3 == 0 ? 1 + random() % 257
                                                                             : 1 + random() % 20);
            const journal::Policy policy = disks > 1 && random() % 2 == 0 ? kTwo : kSingle;
            const std::uint32_t replaced = random() % 4 == 0 ? blocks : 0;
            const std::vector<Piece> pieces =
                space.allocate(blocks, policy, random() % 5, random() % 5000, replaced);
            for (const Block& block : blocks_of(pieces)) {
              REQUIRE(live.insert(block).second);
              const auto was = pending.find(block);
              if (was == pending.end()) continue;
              REQUIRE(was->second.lsn <= covered);
              for (const Read& read : reads) {
                if (read.began > was->second.at) continue;
                REQUIRE_FALSE(read.asked.empty());
                for (const Place& place : was->second.places)
                  REQUIRE_FALSE(read.asked.contains(place.disk.raw));
              }
              pending.erase(was);
            }
            for (const Piece& piece : pieces) {
              const Chunk& chunk = *space.chunks.find(piece.chunk);
              CHECK(chunk.stage != ChunkStage::kRemoved);
              for (const Place& place : chunk.places) CHECK(healthy[place.disk.raw]);
            }
            if (!pieces.empty()) files.push_back(pieces);
            break;
          }
          case 4:
          case 5:
          case 6: {
            if (files.empty()) break;
            std::swap(files[random() % files.size()], files.back());
            const std::vector<Piece> pieces = files.back();
            files.pop_back();
            if (random() % 8 == 0) {
              space.allocator.discard(pieces);
              for (const Block& block : blocks_of(pieces)) live.erase(block);
              break;
            }
            const Lsn lsn = space.free(pieces);
            for (const Block& block : blocks_of(pieces)) {
              live.erase(block);
              pending[block] = {time, lsn.raw, space.chunks.find(ChunkId{block.first})->places};
            }
            break;
          }
          case 7:
            if (random() % 2 == 0) covered += random() % (space.log.lsn - covered + 1);
            if (random() % 3 == 0) space.allocator.remove_empty(1 + random() % 3, space.log);
            space.allocator.advance(Lsn{covered});
            break;
          case 8:
            if (reads.size() < 6) {
              reads.push_back({.began = time, .pins = ReadPins{space.reads}, .asked = {}});
            } else {
              Read& read = reads[random() % reads.size()];
              if (!read.asked.empty()) break;
              for (std::size_t i = 0; i < 1 + random() % 2; ++i) {
                const auto disk = static_cast<std::uint16_t>(random() % disks);
                read.pins->pin(DiskId{disk});
                read.asked.insert(disk);
              }
              read.pins->arrived();
            }
            break;
          default:
            if (!reads.empty() && random() % 2 == 0) {
              std::swap(reads[random() % reads.size()], reads.back());
              reads.pop_back();
            }
            if (disks > 1 && random() % 40 == 0) {
              const std::size_t i = random() % disks;
              healthy[i] = !healthy[i];
              if (std::find(healthy.begin(), healthy.end(), true) == healthy.end())
                healthy[i] = true;
              space.set_healthy(healthy);
            }
        }
      }
      // Nothing has leaked: when all is given back, all is free.
      reads.clear();
      space.set_healthy(std::vector<bool>(disks, true));
      for (const auto& file : files) space.free(file);
      space.drain();
      space.drain();
      const Allocator::Space end = space.allocator.space(kSingle);
      CHECK(end.pending_blocks == 0);
      CHECK(end.promised_blocks == 0);
      // What open chunks of the other policy hold is the only difference.
      std::uint64_t held = 0;
      for (const ChunkPut& chunk : space.allocator.chunks()) {
        if (chunk.layout == kTwo || chunk.places.size() != 1)
          held += chunk.places.size() * kSlotBlocks;
      }
      CHECK(end.free_blocks + held == end.usable_blocks);
    }
  }
}
