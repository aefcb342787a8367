// The allocator against models, in any order of things.
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

TEST_SUITE("allocator, against a model") {
  // What a mount needs: the chunks of the durable runs and the records behind them.
  TEST_CASE("what runs and log say of live blocks is what is live, whatever fails on the way") {
    struct Record {
      std::optional<ChunkPut> put = {};
      std::optional<ChunkRemove> remove = {};
      std::vector<Piece> live = {};
      std::vector<Piece> shared = {};
      std::vector<Piece> dead = {};
    };
    // References by block; also chunks without any.
    using Blocks = std::map<std::uint32_t, std::uint32_t>;
    using Live = std::map<std::uint32_t, Blocks>;
    const auto expand = [](const BlockBitmap& bitmap, const SharedBlocks& shared) {
      Blocks blocks;
      for (std::uint32_t i = 0; i < kSlotBlocks; ++i) {
        if (bitmap.test(i)) blocks[i] = 1;
      }
      for (const SharedRun& run : shared.runs()) {
        for (std::uint32_t i = run.block; i < run.block + std::uint32_t{run.count}; ++i) {
          REQUIRE(blocks.contains(i));
          blocks[i] = run.references;
        }
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
          REQUIRE(live.at(block.first).emplace(block.second, 1).second);
          changed[block.first] = era;
        }
        for (const Block& block : blocks_of(record.shared)) {
          ++live.at(block.first).at(block.second);
          changed[block.first] = era;
        }
        for (const Block& block : blocks_of(record.dead)) {
          Blocks& blocks = live.at(block.first);
          if (--blocks.at(block.second) == 0) blocks.erase(block.second);
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
          CHECK(std::ranges::equal(change.state->put.places,
                                   space->chunks.find(change.chunk)->places));
          CHECK(expand(change.state->live, change.state->shared) == now->second);
        }
        return found;
      };

      for (int step = 0; step < 1500; ++step) {
        switch (random() % 14) {
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
          case 12:
          case 13: {
            // A part of what there is, once more.
            if (published.empty()) break;
            std::vector<Piece> pieces = published[random() % published.size()];
            Piece& piece = pieces[random() % pieces.size()];
            const auto skipped = static_cast<std::uint16_t>(random() % piece.count);
            piece.block = static_cast<std::uint16_t>(piece.block + skipped);
            piece.count =
                static_cast<std::uint16_t>(1 + random() % (piece.count - std::uint32_t{skipped}));
            REQUIRE(space->allocator.share(pieces));
            append({.shared = pieces});
            published.push_back(std::move(pieces));
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
          live[id] = expand(state.live, state.shared);
          REQUIRE(space->allocator.load(state.put.chunk, state).has_value());
        }
        space->allocator.load_next_chunk(durable_next);
        for (const Record& record : log) {
          note(record);
          if (record.put) REQUIRE(space->allocator.replay(*record.put).has_value());
          if (record.remove) REQUIRE(space->allocator.replay(*record.remove).has_value());
          REQUIRE(space->allocator.note_live(record.live).has_value());
          REQUIRE(space->allocator.note_shared(record.shared).has_value());
          REQUIRE(space->allocator.note_dead(record.dead).has_value());
        }
        space->allocator.start();
        REQUIRE(live == before);
        changes();
        CHECK(space->allocator.next_chunk() == next_chunk);
        Live now;
        std::uint64_t blocks = 0;
        for (const auto& [id, bitmap] : space->allocator.live()) {
          const auto shares = space->allocator.shared();
          const auto at = std::ranges::find(shares, id, &std::pair<ChunkId, SharedBlocks>::first);
          now[id.raw] = expand(bitmap, at == shares.end() ? SharedBlocks{} : at->second);
          blocks += bitmap.count();
        }
        std::uint64_t shared = 0;
        std::uint64_t saved = 0;
        for (const auto& [id, chunk] : live) {
          for (const auto& [block, references] : chunk) {
            shared += references > 1 ? 1 : 0;
            saved += references - 1;
          }
        }
        CHECK(space->allocator.shared_blocks() == shared);
        CHECK(space->allocator.saved_blocks() == saved);
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
              const auto& places = space.chunks.find(ChunkId{block.first})->places;
              pending[block] = {time, lsn.raw, {places.begin(), places.end()}};
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
