// The allocator alone, rule by rule.
#include "extent/allocator.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/extent/allocator_space.hpp"
#include "tests/support/seed.hpp"

using namespace dynamicfs;
using namespace dynamicfs::extent;

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
      "where conflicts are tolerated a slot may be given twice, and chunks in use be removed") {
    sizes = {10, 10};
    set_healthy({true, true});
    allocator.tolerate_conflicts();
    const ChunkPut stale{
        .chunk = ChunkId{5}, .layout = kSingle, .places = {{DiskId{0}, SlotId{3}}}};
    ChunkPut current = stale;
    current.chunk = ChunkId{6};
    BlockBitmap live;
    live.set(0, 10);
    REQUIRE(allocator.load(stale.chunk, {stale, live, {}}).has_value());
    REQUIRE(allocator.load(current.chunk, {current, live, {}}).has_value());
    CHECK(allocator.knows(current.chunk));
    CHECK_FALSE(allocator.knows(ChunkId{7}));
    ChunkPut moved = current;
    moved.places[0] = {DiskId{1}, SlotId{4}};
    CHECK(allocator.replay(moved).has_value());
    CHECK(allocator.replay(current).has_value());
    CHECK(allocator.replay(ChunkRemove{.chunk = stale.chunk}).has_value());
    CHECK(allocator.replay(ChunkRemove{.chunk = ChunkId{9}}).has_value());
    // What is no place at all is none here either.
    ChunkPut nowhere{.chunk = ChunkId{7}, .layout = kSingle, .places = {{DiskId{0}, SlotId{10}}}};
    CHECK(allocator.replay(nowhere).error() == error(Code::kFormatInvalid, 7));
    nowhere.places[0] = {DiskId{7}, SlotId{0}};
    CHECK(allocator.load(nowhere.chunk, {nowhere, {}, {}}).error() ==
          error(Code::kFormatInvalid, 7));
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
    CHECK(allocator.load(one.chunk, {one, {}, {}}).error() == error(Code::kFormatInvalid, 5));
    ChunkPut moved = one;
    moved.places[0] = {DiskId{1}, SlotId{4}};
    CHECK(allocator.replay(moved).has_value());
    CHECK(allocator.replay(one).has_value());
    moved.layout = kTwo;
    CHECK(allocator.replay(moved).error() == error(Code::kFormatInvalid, 5));
    moved.layout = one.layout;
    moved.places.clear();
    CHECK(allocator.replay(moved).error() == error(Code::kFormatInvalid, 5));
    const auto refused = [&](const ChunkPut& put) {
      const Error expected = error(Code::kFormatInvalid, put.chunk.raw);
      return allocator.load(put.chunk, {put, {}, {}}).error() == expected &&
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
    CHECK_FALSE(note(&Allocator::note_shared, 5, 150, 2));
    CHECK_FALSE(note(&Allocator::note_shared, 5, 99, 1));
    CHECK_FALSE(note(&Allocator::note_shared, 5, 100, 0));
    CHECK_FALSE(note(&Allocator::note_shared, 4, 100, 1));
    CHECK(note(&Allocator::note_shared, 5, 140, 11));
    CHECK(allocator.shared_blocks() == 11);
    CHECK(note(&Allocator::note_dead, 5, 140, 11));
    CHECK(allocator.shared_blocks() == 0);
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

  // All slots taken, and in every other chunk but a few blocks left.
  struct Thinned : Space {
    Thinned() {
      start({40});
      exhaust_and_thin();
    }
    void exhaust_and_thin() {
      std::vector<Piece> all = exhaust();
      kept_for_runs = free_blocks();
      allocator.publish(all);
      std::map<std::uint32_t, std::uint32_t> kept;
      std::vector<Piece> gone;
      for (const Piece& piece : all) {
        if (piece.chunk.raw % 2 == 0 && kept[piece.chunk.raw] >= 200) {
          gone.push_back(piece);
        } else {
          kept[piece.chunk.raw] += piece.count;
        }
      }
      allocator.free(gone, Lsn{++log.lsn});
      drain();
    }
    std::uint64_t free_blocks() const { return allocator.space(kSingle).free_blocks; }
    std::uint64_t kept_for_runs = 0;
  };

  TEST_CASE_FIXTURE(Thinned, "sparse chunks are given up when slots are short, and filled last") {
    const std::uint64_t before = free_blocks();
    const std::vector<ChunkId> sparse = allocator.drain_sparse(Drain::kWhenShort);
    REQUIRE(sparse.size() >= 4);
    CHECK(std::ranges::is_sorted(sparse));
    CHECK(free_blocks() == before);
    const auto is_sparse = [&](const Piece& piece) {
      return std::ranges::binary_search(sparse, piece.chunk);
    };
    // What is moved has no place there, whatever the disks do meanwhile.
    set_healthy({true});
    std::uint64_t moved = 0;
    for (auto pieces = move(16); !pieces.empty(); pieces = move(16)) {
      for (const Piece& piece : pieces) {
        REQUIRE(!is_sparse(piece));
        moved += piece.count;
      }
    }
    // What is new has, as the last resort.
    const std::vector<Piece> rest = exhaust();
    CHECK(std::ranges::all_of(rest, is_sparse));
    std::uint64_t blocks = 0;
    for (const Piece& piece : rest) blocks += piece.count;
    CHECK(moved + blocks == before - kept_for_runs);
    CHECK(free_blocks() == kept_for_runs);
  }

  TEST_CASE_FIXTURE(Thinned, "a chunk that has been emptied is removed, and its slots are free") {
    const std::vector<ChunkId> sparse = allocator.drain_sparse(Drain::kWhenShort);
    REQUIRE(!sparse.empty());
    const std::size_t removed = log.removes.size();
    std::vector<Piece> held;
    for (const auto& [id, live] : allocator.live()) {
      if (!std::ranges::binary_search(sparse, id)) continue;
      for (std::uint32_t block = 0; block < kSlotBlocks; ++block) {
        if (!live.is_set(block, 1)) continue;
        held.push_back({.chunk = id, .block = static_cast<std::uint16_t>(block), .count = 1});
      }
    }
    const auto there = move(static_cast<std::uint32_t>(std::min<std::size_t>(held.size(), 256)));
    REQUIRE(!there.empty());
    allocator.publish(there);
    allocator.free(held, Lsn{++log.lsn});
    drain();
    CHECK(log.removes.size() == removed + sparse.size());
    allocator.stop_draining();
    CHECK(allocator.drain_sparse(Drain::kWhenShort).empty());
  }

  TEST_CASE_FIXTURE(Space, "a chunk that is sparse but for what is pending takes no part") {
    start({40});
    const std::vector<Piece> all = exhaust();
    allocator.publish(all);
    std::vector<Piece> gone;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].chunk.raw % 2 == 0 && i % 4 != 0) gone.push_back(all[i]);
    }
    allocator.free(gone, Lsn{++log.lsn});
    CHECK(allocator.has_pending());
    CHECK(allocator.drain_sparse(Drain::kAll).empty());
    CHECK(allocate(1, kSingle, 1, 0, 1).empty());
    allocator.stop_draining();
    drain();
    CHECK_FALSE(exhaust().empty());
  }

  TEST_CASE_FIXTURE(Thinned, "what is being moved is space that comes back") {
    drain();
    CHECK_FALSE(allocator.has_pending());
    const std::vector<Piece> pieces = move(16);
    REQUIRE(!pieces.empty());
    CHECK(allocator.has_pending());
    allocator.discard(pieces);
    allocator.note_moved(16);
    CHECK_FALSE(allocator.has_pending());
  }

  TEST_CASE_FIXTURE(Space, "nothing is given up while there are slots, unless it is asked for") {
    start({100});
    std::vector<Piece> all;
    for (int i = 0; i < 40; ++i) {
      const std::vector<Piece> pieces =
          allocate(256, kSingle, 1, static_cast<std::uint64_t>(i) * 256);
      all.insert(all.end(), pieces.begin(), pieces.end());
    }
    allocator.publish(all);
    std::vector<Piece> gone;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i % 4 != 0) gone.push_back(all[i]);
    }
    allocator.free(gone, Lsn{++log.lsn});
    drain();
    CHECK(allocator.drain_sparse(Drain::kWhenShort).empty());
    CHECK(!allocator.drain_sparse(Drain::kAll).empty());
  }

  TEST_CASE_FIXTURE(Space, "a shared block is free when its last mapping is gone, and not before") {
    start({10, 10});
    const std::vector<Piece> pieces = allocate(40);
    allocator.publish(pieces);
    CHECK(allocator.share(pieces));
    const Piece& all = pieces.front();
    const Piece middle{
        .chunk = all.chunk, .block = static_cast<std::uint16_t>(all.block + 10), .count = 20};
    CHECK(allocator.share({&middle, 1}));
    CHECK(allocator.live_blocks() == 40);
    CHECK(allocator.shared_blocks() == 40);
    CHECK(allocator.saved_blocks() == 60);
    CHECK(allocator.is_shared(pieces));
    CHECK(allocator.single_blocks(pieces) == 0);
    const auto pending = [&] { return allocator.space(kSingle).pending_blocks; };
    // A range that is mapped twice, in one go.
    const std::vector<Piece> twice{middle, middle};
    allocator.free(twice, Lsn{++log.lsn});
    CHECK(pending() == 0);
    CHECK(allocator.shared_blocks() == 20);
    allocator.free(pieces, Lsn{++log.lsn});
    CHECK(pending() == 20);
    CHECK(allocator.live_blocks() == 20);
    CHECK(allocator.shared_blocks() == 0);
    CHECK(allocator.saved_blocks() == 0);
    for (const std::uint16_t first : {0, 30}) {
      const Piece end{
          .chunk = all.chunk, .block = static_cast<std::uint16_t>(all.block + first), .count = 10};
      CHECK(allocator.single_blocks({&end, 1}) == 10);
      allocator.free({&end, 1}, Lsn{++log.lsn});
    }
    CHECK(pending() == 40);
    CHECK(allocator.live_blocks() == 0);
  }

  TEST_CASE_FIXTURE(Space,
                    "a block is free when all records that took mappings of it are durable") {
    start({10, 10});
    const std::vector<Piece> pieces = allocate(8);
    allocator.publish(pieces);
    CHECK(allocator.share(pieces));
    // The younger record comes first: threads are free to.
    allocator.free(pieces, Lsn{log.lsn + 20});
    allocator.free(pieces, Lsn{log.lsn + 10});
    const auto pending = [&] { return allocator.space(kSingle).pending_blocks; };
    log.lsn += 10;
    drain();
    CHECK(pending() == 8);
    log.lsn += 10;
    drain();
    CHECK(pending() == 0);
  }

  TEST_CASE_FIXTURE(Space,
                    "what can have no more references is not shared, nor what came before it") {
    start({10});
    const std::vector<Piece> pieces = allocate(8);
    allocator.publish(pieces);
    Piece nowhere = pieces.front();
    nowhere.block = static_cast<std::uint16_t>(nowhere.block + 4);  // the last four are not live
    const std::vector<Piece> both{pieces.front(), nowhere};
    CHECK_FALSE(allocator.share(both));
    CHECK(allocator.shared_blocks() == 0);
    CHECK(allocator.live_blocks() == 8);
  }

  TEST_CASE_FIXTURE(Thinned, "a chunk that shares a block is not given up") {
    const auto gives_up = [&] {
      std::vector<ChunkId> given_up = allocator.drain_sparse(Drain::kAll);
      allocator.stop_draining();
      return given_up;
    };
    const std::vector<ChunkId> sparse = gives_up();
    REQUIRE(!sparse.empty());
    std::vector<Piece> shared;
    for (const auto& [id, live] : allocator.live()) {
      if (!std::ranges::binary_search(sparse, id)) continue;
      const auto block = static_cast<std::uint16_t>(next_set(live.words(), 0));
      shared.push_back({.chunk = id, .block = block, .count = 1});
    }
    REQUIRE(allocator.share(shared));
    for (const ChunkId id : gives_up()) CHECK_FALSE(std::ranges::binary_search(sparse, id));
    allocator.free(shared, Lsn{++log.lsn});
    CHECK(gives_up().size() == sparse.size());
  }
}
