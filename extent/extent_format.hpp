// Extent and chunk changes: bytes to struct and back. A journal record is a sequence of changes,
// each {type u8, length u32, body}; types 64 to 127 are ours, lower ones belong to fs/.
//
// Replaying is idempotent per record: a put replaces, a clear of nothing clears nothing.
//
// Format  man/format.md, "Extent changes".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "extent/block_bitmap.hpp"
#include "extent/extent_map.hpp"
#include "extent/shared_blocks.hpp"
#include "journal/superblock.hpp"

namespace dynamicfs::extent {

enum class ChangeType : std::uint8_t {
  kExtentPut = 64,
  kExtentClear = 65,
  kExtentReserve = 66,
  kChunkPut = 67,
  kChunkRemove = 68,
  kExtentShare = 69,  // an extent put of blocks that are live already: each has one reference more
};
inline constexpr std::uint8_t kExtentChangeFirst = 64;
inline constexpr std::uint8_t kExtentChangeLast = 127;

// The generation is the LSN of the record.
struct ExtentPut {
  InodeId inode;
  FileBlock first;
  Encoding encoding = Encoding::kPlain;
  std::vector<Piece> pieces;
  std::vector<std::uint32_t> crcs;
};
struct ExtentClear {
  InodeId inode;
  FileBlock first;
  std::uint64_t count = 0;
};
struct ExtentReserve {
  InodeId inode;
  FileBlock first;
  std::uint64_t count = 0;
};

// One place of a chunk: a slot on a disk.
struct Place {
  DiskId disk;
  SlotId slot;
  bool operator==(const Place&) const = default;
};
struct ChunkPut {
  ChunkId chunk;
  // replica(r) has r places of equal content, fewer if it was made while disks were away. ec(k,m) is a
  // parity group: k chunks, `chunk` and the ids behind it, and the places of all, then m of parity.
  journal::Policy layout;
  std::vector<Place> places;
  bool operator==(const ChunkPut&) const = default;
  // How many ids it gives a meaning.
  std::uint32_t columns() const {
    return layout.kind == journal::Policy::Kind::kErasure ? layout.copies_or_data : 1;
  }
};
struct ChunkRemove {
  ChunkId chunk;
};

// What a run has of a chunk, or of a column of a group, under its id: the blocks that mappings name, as of the run's LSN, and which of them
// several name.
struct ChunkState {
  ChunkPut put;
  BlockBitmap live;
  SharedBlocks shared;
  bool operator==(const ChunkState&) const = default;
};

// A chunk that the next run has to write.
struct ChunkChange {
  ChunkId chunk;
  std::optional<ChunkState> state;  // nothing: it was removed
};

// Each appends one whole change.
void encode(ByteWriter& out, InodeId inode, FileBlock first, std::span<const Piece> pieces,
            std::span<const std::uint32_t> crcs);  // an ExtentPut, without a copy
void encode_share(ByteWriter& out, const ExtentPut& share);
void encode(ByteWriter& out, const ExtentClear& change);
void encode(ByteWriter& out, const ExtentReserve& change);
void encode(ByteWriter& out, const ChunkPut& change);
void encode(ByteWriter& out, const ChunkRemove& change);

// Appends the value of a run's entry, which has no type and length.
void encode(ByteWriter& out, const ChunkState& state);

// `body` without type and length; that of a share is a put's. kFormatInvalid for anything that encode() would not write.
Result<ExtentPut> decode_extent_put(std::span<const std::byte> body);
Result<ExtentClear> decode_extent_clear(std::span<const std::byte> body);
Result<ExtentReserve> decode_extent_reserve(std::span<const std::byte> body);
Result<ChunkPut> decode_chunk_put(std::span<const std::byte> body);
Result<ChunkRemove> decode_chunk_remove(std::span<const std::byte> body);
Result<ChunkState> decode_chunk_state(std::span<const std::byte> value);

}  // namespace dynamicfs::extent
