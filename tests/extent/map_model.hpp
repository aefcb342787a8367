// The simplest model of a file's map there is: one entry per block.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <random>

#include "extent/extent_map.hpp"

namespace dynamicfs::extent {

struct ModelBlock {
  MappingKind kind = MappingKind::kData;
  std::uint32_t chunk = 0;
  std::uint32_t block = 0;
  std::uint64_t generation = 0;
  std::uint32_t crc = 0;
  bool operator==(const ModelBlock&) const = default;
};
using Model = std::map<std::uint64_t, ModelBlock>;

// One entry per block, so that how a range is cut into mappings does not matter.
inline Model expand(const MappingSet& set) {
  Model out;
  for (const Mapping& mapping : set.mappings) {
    REQUIRE(mapping.count > 0);
    for (std::uint32_t i = 0; i < mapping.count; ++i) {
      const bool data = mapping.kind == MappingKind::kData;
      const bool fresh = out.emplace(mapping.first.raw + i,
                                     ModelBlock{.kind = mapping.kind,
                                                .chunk = mapping.chunk.raw,
                                                .block = data ? mapping.block + i : 0,
                                                .generation = mapping.generation.raw,
                                                .crc = data ? set.crcs[mapping.crc_index + i] : 0})
                             .second;
      REQUIRE(fresh);
    }
  }
  return out;
}

inline Model slice(const Model& model, std::uint64_t first, std::uint64_t count) {
  const auto end = count > ~first ? model.end() : model.lower_bound(first + count);
  return Model(model.lower_bound(first), end);
}

inline MappingSet snapshot(const FileMap& map, std::uint64_t first, std::uint64_t count) {
  MappingSet set;
  map.snapshot(FileBlock{first}, count, set);
  return set;
}

// A map and its model, changed together.
struct Twins {
  journal::Eras eras;
  MapContext context{eras};
  FileMap map{context};
  Model model;
  std::uint64_t generation = 0;
  std::uint32_t next_chunk = 1;

  void put(std::uint64_t first, std::vector<Piece> pieces) {
    ++generation;
    std::vector<std::uint32_t> crcs;
    Model fresh;
    std::uint64_t block = first;
    for (const Piece& piece : pieces) {
      for (std::uint32_t i = 0; i < piece.count; ++i) {
        crcs.push_back(static_cast<std::uint32_t>(generation * 1000 + crcs.size()));
        fresh[block++] = {MappingKind::kData, piece.chunk.raw, piece.block + i, generation,
                          crcs.back()};
      }
    }
    Freed freed;
    map.put(FileBlock{first}, pieces, crcs, Generation{generation}, freed);
    expect_freed(freed, first, crcs.size());
    for (const auto& [at, value] : fresh) model[at] = value;
  }
  void put(std::uint64_t first, std::uint16_t count) {
    put(first, {{.chunk = ChunkId{next_chunk++}, .block = 7, .count = count}});
  }
  // What data is mapped in [source, source + count) is mapped at `first`, too, and nothing else there.
  void clone(std::uint64_t source, std::uint64_t first, std::uint64_t count) {
    ++generation;
    struct Share {
      std::uint64_t first;
      std::vector<Piece> pieces;
      std::vector<std::uint32_t> crcs;
    };
    std::vector<Share> shares;
    Model fresh;
    std::uint64_t next = ~std::uint64_t{0};
    for (const auto& [at, block] : slice(model, source, count)) {
      if (block.kind != MappingKind::kData) continue;
      if (at != next) shares.push_back({.first = at - source + first, .pieces = {}, .crcs = {}});
      next = at + 1;
      Share& share = shares.back();
      share.crcs.push_back(block.crc);
      ModelBlock& here = fresh[at - source + first] = block;
      here.generation = generation;
      const bool follows =
          !share.pieces.empty() && share.pieces.back().chunk.raw == block.chunk &&
          share.pieces.back().block + share.pieces.back().count == static_cast<int>(block.block);
      if (follows) {
        ++share.pieces.back().count;
      } else {
        share.pieces.push_back({.chunk = ChunkId{block.chunk},
                                .block = static_cast<std::uint16_t>(block.block),
                                .count = 1});
      }
    }
    std::vector<PutView> views;
    for (const Share& share : shares)
      views.push_back({FileBlock{share.first}, share.pieces, share.crcs});
    Freed freed;
    map.replace(FileBlock{first}, count, views, Generation{generation}, freed);
    expect_freed(freed, first, count);
    std::erase_if(model, [&](const auto& entry) {
      return entry.first >= first && entry.first < first + count;
    });
    model.insert(fresh.begin(), fresh.end());
  }
  void clear(std::uint64_t first, std::uint64_t count) {
    Freed freed;
    map.clear(FileBlock{first}, count, freed);
    expect_freed(freed, first, count);
    std::erase_if(model, [&](const auto& entry) {
      return entry.first >= first && (count > ~first || entry.first < first + count);
    });
  }
  void reserve(std::uint64_t first, std::uint64_t count) {
    ++generation;
    std::uint64_t taken = 0;
    for (std::uint64_t block = first; block < first + count; ++block) {
      taken += model.emplace(block, ModelBlock{MappingKind::kReserved, 0, 0, generation, 0}).second;
    }
    CHECK(map.holes(FileBlock{first}, count) == taken);
    CHECK(map.reserve(FileBlock{first}, count, Generation{generation}) == taken);
    CHECK(map.holes(FileBlock{first}, count) == 0);
  }
  void expect_freed(const Freed& freed, std::uint64_t first, std::uint64_t count) const {
    std::multimap<std::uint32_t, std::uint32_t> expected;
    std::uint64_t reserved = 0;
    for (const auto& [at, block] : slice(model, first, count)) {
      if (block.kind == MappingKind::kData) {
        expected.emplace(block.chunk, block.block);
      } else {
        ++reserved;
      }
    }
    std::multimap<std::uint32_t, std::uint32_t> got;
    for (const Piece& piece : freed.pieces) {
      for (std::uint32_t i = 0; i < piece.count; ++i) got.emplace(piece.chunk.raw, piece.block + i);
    }
    CHECK(freed.reserved_blocks == reserved);
    CHECK(std::multimap<std::uint32_t, std::uint32_t>(got) == expected);
  }

  void check_all() const {
    REQUIRE(expand(snapshot(map, 0, ~std::uint64_t{0})) == model);
    std::uint64_t data = 0;
    for (const auto& [at, block] : model) data += block.kind == MappingKind::kData;
    CHECK(map.data_blocks() == data);
    CHECK(map.reserved_blocks() == model.size() - data);
    std::uint64_t extents = 0;
    map.for_each([&](const Mapping&) { ++extents; });
    CHECK(map.extents() == extents);
  }
  void check_range(std::uint64_t first, std::uint64_t count) const {
    const MappingSet seen = snapshot(map, first, count);
    REQUIRE(expand(seen) == slice(model, first, count));
    CHECK(map.unchanged(FileBlock{first}, count, seen));
    MappingSet at_once;
    REQUIRE(map.try_snapshot(FileBlock{first}, count, at_once));
    CHECK(expand(at_once) == slice(model, first, count));
  }
  void check_seek(std::uint64_t from) const {
    auto at = model.lower_bound(from);
    while (at != model.end() && at->second.kind != MappingKind::kData) ++at;
    const std::optional<FileBlock> data = map.next_data(FileBlock{from});
    REQUIRE(data.has_value() == (at != model.end()));
    if (data) CHECK(data->raw == at->first);
    std::uint64_t hole = from;
    while (true) {
      const auto here = model.find(hole);
      if (here == model.end() || here->second.kind != MappingKind::kData) break;
      ++hole;
    }
    CHECK(map.next_hole(FileBlock{from}).raw == hole);
  }
};

inline constexpr std::uint64_t kTiBBlocks = kTiB / kBlockBytes;

}  // namespace dynamicfs::extent
