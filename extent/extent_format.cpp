#include "extent/extent_format.hpp"

#include <algorithm>
#include <limits>

#include "base/assert.hpp"

namespace dynamicfs::extent {
namespace {

void put_header(ByteWriter& out, ChangeType type, std::size_t body_bytes) {
  out.put(static_cast<std::uint8_t>(type));
  out.put(static_cast<std::uint32_t>(body_bytes));
}

void put_body(ByteWriter& out, const ChunkPut& change) {
  out.put(change.chunk);
  out.put(change.layout.kind_on_disk());
  out.put(change.layout.copies_or_data);
  out.put(change.layout.parity);
  DFS_ASSERT(std::in_range<std::uint8_t>(change.places.size()));
  out.put(static_cast<std::uint8_t>(change.places.size()));
  for (const Place& place : change.places) {
    out.put(place.disk);
    out.put(place.slot);
  }
}

// Which blocks of a chunk are live.
enum class LiveForm : std::uint8_t { kNone = 0, kAll = 1, kBitmap = 2 };

LiveForm form_of(const BlockBitmap& live) {
  if (live.is_clear(0, kSlotBlocks)) return LiveForm::kNone;
  return live.is_set(0, kSlotBlocks) ? LiveForm::kAll : LiveForm::kBitmap;
}

bool in_file(FileBlock first, std::uint64_t count) {
  return count > 0 && first.raw < kFileBlocksEnd && count <= kFileBlocksEnd - first.raw;
}

// Leaves what follows it in `reader`.
Result<ChunkPut> get_chunk_put(ByteReader& reader) {
  ChunkPut put;
  put.chunk = reader.get<ChunkId>();
  const auto kind = reader.get<std::uint8_t>();
  const auto copies_or_data = reader.get<std::uint8_t>();
  const auto parity = reader.get<std::uint8_t>();
  const std::size_t places = reader.get<std::uint8_t>();
  if (!reader.ok() || reader.left() < places * 6) return Code::kFormatInvalid;
  const auto layout = journal::Policy::from_disk(kind, copies_or_data, parity);
  if (!layout || copies_or_data > journal::kDisksMax) return Code::kFormatInvalid;
  put.layout = *layout;
  const bool erasure = put.layout.kind == journal::Policy::Kind::kErasure;
  if (put.chunk.raw == 0 || places == 0 || places > put.layout.width()) return Code::kFormatInvalid;
  if (erasure && (places < put.layout.width() || put.layout.width() > journal::kColumnsMax ||
                  put.chunk.raw > std::numeric_limits<std::uint32_t>::max() - put.columns())) {
    return Code::kFormatInvalid;
  }
  for (std::size_t i = 0; i < places; ++i) {
    Place place;
    place.disk = reader.get<DiskId>();
    place.slot = reader.get<SlotId>();
    const bool twice = std::any_of(put.places.begin(), put.places.end(),
                                   [&](const Place& other) { return other.disk == place.disk; });
    if (twice) return Code::kFormatInvalid;
    put.places.push_back(place);
  }
  return put;
}

void put_extent(ByteWriter& out, ChangeType type, InodeId inode, FileBlock first,
                std::span<const Piece> pieces, std::span<const std::uint32_t> crcs) {
  put_header(out, type, 19 + pieces.size() * 8 + crcs.size() * 4);
  out.put(inode);
  out.put(first);
  out.put(static_cast<std::uint8_t>(Encoding::kPlain));
  DFS_ASSERT(std::in_range<std::uint16_t>(pieces.size()));
  out.put(static_cast<std::uint16_t>(pieces.size()));
  std::size_t blocks = 0;
  for (const Piece& piece : pieces) {
    out.put(piece.chunk);
    out.put(piece.block);
    out.put(piece.count);
    blocks += piece.count;
  }
  DFS_ASSERT(blocks == crcs.size());
  out.put_bytes(std::as_bytes(crcs));
}

}  // namespace

void encode(ByteWriter& out, InodeId inode, FileBlock first, std::span<const Piece> pieces,
            std::span<const std::uint32_t> crcs) {
  put_extent(out, ChangeType::kExtentPut, inode, first, pieces, crcs);
}

void encode_share(ByteWriter& out, const ExtentPut& share) {
  put_extent(out, ChangeType::kExtentShare, share.inode, share.first, share.pieces, share.crcs);
}

void encode(ByteWriter& out, const ExtentClear& change) {
  put_header(out, ChangeType::kExtentClear, 24);
  out.put(change.inode);
  out.put(change.first);
  out.put(change.count);
}

void encode(ByteWriter& out, const ExtentReserve& change) {
  put_header(out, ChangeType::kExtentReserve, 24);
  out.put(change.inode);
  out.put(change.first);
  out.put(change.count);
}

void encode(ByteWriter& out, const ChunkPut& change) {
  put_header(out, ChangeType::kChunkPut, 8 + change.places.size() * 6);
  put_body(out, change);
}

void encode(ByteWriter& out, const ChunkRemove& change) {
  put_header(out, ChangeType::kChunkRemove, 4);
  out.put(change.chunk);
}

void encode(ByteWriter& out, const ChunkState& state) {
  put_body(out, state.put);
  const LiveForm form = form_of(state.live);
  out.put(static_cast<std::uint8_t>(form));
  if (form == LiveForm::kBitmap) {
    for (const std::uint64_t word : state.live.words()) out.put(word);
  }
  if (state.shared.empty()) return;
  out.put(static_cast<std::uint16_t>(state.shared.runs().size()));
  for (const SharedRun& run : state.shared.runs()) {
    out.put(run.block);
    out.put(run.count);
    out.put(run.references);
  }
}

Result<ExtentPut> decode_extent_put(std::span<const std::byte> body) {
  ByteReader reader(body);
  ExtentPut put;
  put.inode = reader.get<InodeId>();
  put.first = reader.get<FileBlock>();
  const auto encoding = reader.get<std::uint8_t>();
  const std::size_t pieces = reader.get<std::uint16_t>();
  if (!reader.ok() || pieces == 0 || reader.left() < pieces * 8) return Code::kFormatInvalid;
  if (encoding != static_cast<std::uint8_t>(Encoding::kPlain)) {
    return error(Code::kNotSupported, encoding);
  }
  put.pieces.reserve(pieces);
  std::uint64_t blocks = 0;
  for (std::size_t i = 0; i < pieces; ++i) {
    Piece piece;
    piece.chunk = reader.get<ChunkId>();
    piece.block = reader.get<std::uint16_t>();
    piece.count = reader.get<std::uint16_t>();
    if (piece.count == 0 || piece.block + std::uint32_t{piece.count} > kSlotBlocks) {
      return Code::kFormatInvalid;
    }
    blocks += piece.count;
    put.pieces.push_back(piece);
  }
  if (!in_file(put.first, blocks) || reader.left() != blocks * 4) return Code::kFormatInvalid;
  put.crcs.reserve(blocks);
  for (std::uint64_t i = 0; i < blocks; ++i) put.crcs.push_back(reader.get<std::uint32_t>());
  return put;
}

Result<ExtentClear> decode_extent_clear(std::span<const std::byte> body) {
  ByteReader reader(body);
  ExtentClear clear;
  clear.inode = reader.get<InodeId>();
  clear.first = reader.get<FileBlock>();
  clear.count = reader.get<std::uint64_t>();
  if (!reader.ok() || !reader.at_end()) return Code::kFormatInvalid;
  const bool to_end = clear.count == ~std::uint64_t{0} && clear.first.raw <= kFileBlocksEnd;
  if (!to_end && !in_file(clear.first, clear.count)) return Code::kFormatInvalid;
  return clear;
}

Result<ExtentReserve> decode_extent_reserve(std::span<const std::byte> body) {
  ByteReader reader(body);
  ExtentReserve reserve;
  reserve.inode = reader.get<InodeId>();
  reserve.first = reader.get<FileBlock>();
  reserve.count = reader.get<std::uint64_t>();
  if (!reader.ok() || !reader.at_end() || !in_file(reserve.first, reserve.count)) {
    return Code::kFormatInvalid;
  }
  return reserve;
}

Result<ChunkPut> decode_chunk_put(std::span<const std::byte> body) {
  ByteReader reader(body);
  ChunkPut put = TRY(get_chunk_put(reader));
  if (!reader.at_end()) return Code::kFormatInvalid;
  return put;
}

Result<ChunkRemove> decode_chunk_remove(std::span<const std::byte> body) {
  ByteReader reader(body);
  const ChunkRemove remove{.chunk = reader.get<ChunkId>()};
  if (!reader.ok() || !reader.at_end() || remove.chunk.raw == 0) return Code::kFormatInvalid;
  return remove;
}

Result<ChunkState> decode_chunk_state(std::span<const std::byte> value) {
  ByteReader reader(value);
  ChunkState state;
  state.put = TRY(get_chunk_put(reader));
  const auto form = static_cast<LiveForm>(reader.get<std::uint8_t>());
  if (form == LiveForm::kAll) state.live.set(0, kSlotBlocks);
  if (form == LiveForm::kBitmap) {
    BlockBitmap::Words words;
    for (std::uint64_t& word : words) word = reader.get<std::uint64_t>();
    state.live = BlockBitmap{words};
  }
  if (!reader.ok() || form != form_of(state.live)) return Code::kFormatInvalid;
  if (reader.at_end()) return state;
  std::vector<SharedRun> shared(reader.get<std::uint16_t>());
  for (SharedRun& run : shared) {
    run.block = reader.get<std::uint16_t>();
    run.count = reader.get<std::uint16_t>();
    run.references = reader.get<std::uint32_t>();
  }
  if (!reader.ok() || !reader.at_end() || shared.empty() || !SharedBlocks::is_proper(shared)) {
    return Code::kFormatInvalid;
  }
  for (const SharedRun& run : shared) {
    if (!state.live.is_set(run.block, run.count)) return Code::kFormatInvalid;
  }
  state.shared = SharedBlocks{shared};
  return state;
}

}  // namespace dynamicfs::extent
