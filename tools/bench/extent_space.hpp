// The allocator alone, for extent_bench: no disks, no journal; records go nowhere.
#pragma once

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "extent/allocator.hpp"
#include "tests/support/plain_disk.hpp"

namespace dynamicfs::bench {

class NoLog final : public extent::ChunkLog {
 public:
  void append(const extent::ChunkPut&) override {}
  Lsn append(const extent::ChunkRemove&) override { return {}; }
};

// Four empty disks of 8 GiB each.
class Space {
 public:
  Space() {
    auto view = std::make_shared<extent::PoolView>();
    auto ids = std::make_shared<std::vector<DiskId>>();
    for (std::uint16_t i = 0; i < 4; ++i) {
      ids->push_back(DiskId{i});
      view->disks.push_back(
          {.disk = &disk_, .first_slot_offset = 0, .slots = 2048, .stale_since = {}});
    }
    view->healthy = ids;
    allocator_.set_disks(view, {});
    allocator_.start();
  }

  // As the write path does it; false when the space is full.
  bool allocate(std::uint64_t first, std::uint32_t blocks, std::vector<extent::Piece>& out) {
    extent::Allocator::Request request;
    request.inode = InodeId{1};
    request.first = FileBlock{first};
    request.policy = {.copies_or_data = 1};
    request.blocks = blocks;
    auto outcome = allocator_.allocate(request, nullptr, out);
    if (outcome == extent::Allocator::Outcome::kNeedsChunk) {
      outcome = allocator_.allocate(request, &log_, out);
    }
    return outcome == extent::Allocator::Outcome::kDone;
  }

 private:
  test::NoDisk disk_;
  extent::ChunkTable chunks_;
  extent::ReadRegistry reads_;
  extent::AllocatorMetrics metrics_;
  journal::Eras eras_;
  NoLog log_;
  extent::Allocator allocator_{chunks_, reads_, metrics_, eras_};
};

}  // namespace dynamicfs::bench
