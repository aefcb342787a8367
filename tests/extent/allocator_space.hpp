// The allocator alone: no disks, no journal; reads are pins, records are a counter.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "extent/allocator.hpp"
#include "tests/support/plain_disk.hpp"

namespace dynamicfs::extent {

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
  Lsn append_moved(const ChunkPut& change) override {
    append(change);
    return Lsn{lsn};
  }
  std::uint64_t lsn = 0;
  std::vector<ChunkPut> puts;
  std::vector<ChunkRemove> removes;
};

using Block = std::pair<std::uint32_t, std::uint32_t>;  // chunk, block

inline constexpr journal::Policy kSingle{.copies_or_data = 1};
inline constexpr journal::Policy kTwo{.copies_or_data = 2};

struct Space {
  test::NoDisk disk;
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
  std::vector<Piece> move(std::uint32_t blocks, journal::Policy policy = kSingle) {
    std::vector<Piece> pieces;
    Allocator::Request request;
    request.policy = policy;
    request.blocks = blocks;
    request.moving = true;
    Allocator::Outcome outcome = allocator.allocate(request, nullptr, pieces);
    if (outcome == Allocator::Outcome::kNeedsChunk)
      outcome = allocator.allocate(request, &log, pieces);
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

inline std::vector<Block> blocks_of(const std::vector<Piece>& pieces) {
  std::vector<Block> blocks;
  for (const Piece& piece : pieces) {
    for (std::uint32_t i = 0; i < piece.count; ++i)
      blocks.emplace_back(piece.chunk.raw, piece.block + i);
  }
  return blocks;
}

}  // namespace dynamicfs::extent
