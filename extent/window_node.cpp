#include "extent/window_node.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "base/assert.hpp"
#include "journal/era.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::size_t node_bytes(std::size_t count, std::size_t data_blocks) {
  return sizeof(WindowNode) + align_up(2 * count, 8) + count * sizeof(NodeExtent) +
         data_blocks * sizeof(std::uint32_t);
}
static_assert(node_bytes(kWindowBlocks, kWindowBlocks) < 65536, "WindowNode::bytes_ has 16 bits");

}  // namespace

void WindowNode::destroy(const WindowNode* node) { std::free(const_cast<WindowNode*>(node)); }

void WindowBuilder::add(std::uint32_t first, std::uint32_t last, NodeExtent extent,
                        const std::uint32_t* crcs) {
  const std::uint32_t blocks = last - first + 1;
  first_[count_] = static_cast<std::uint8_t>(first);
  last_[count_] = static_cast<std::uint8_t>(last);
  extent.crc_start = static_cast<std::uint8_t>(data_blocks_);
  if (extent.kind == MappingKind::kData) {
    std::memcpy(crcs_.data() + data_blocks_, crcs, blocks * sizeof(std::uint32_t));
    data_blocks_ += blocks;
  } else {
    reserved_blocks_ += blocks;
  }
  ::new (extents() + count_) NodeExtent(extent);
  ++count_;
}

// Extents [begin, end) of the node as they are: in a fragmented window nearly all of an overwrite.
void WindowBuilder::copy_whole(const WindowNode& node, std::size_t begin, std::size_t end) {
  if (begin >= end) return;
  const std::size_t count = end - begin;
  std::memcpy(first_.data() + count_, node.first().data() + begin, count);
  std::memcpy(last_.data() + count_, node.last().data() + begin, count);
  const auto from = node.extents();
  const std::size_t crc_begin = from[begin].crc_start;
  const std::size_t crc_end = end < node.count() ? from[end].crc_start : node.crcs().size();
  std::memcpy(crcs_.data() + data_blocks_, node.crcs().data() + crc_begin,
              (crc_end - crc_begin) * sizeof(std::uint32_t));
  std::uninitialized_copy_n(from.data() + begin, count, extents() + count_);
  const auto moved = static_cast<std::uint8_t>(data_blocks_ - crc_begin);
  if (moved != 0) {
    for (std::size_t i = 0; i < count; ++i) {
      NodeExtent& extent = extents()[count_ + i];
      extent.crc_start = static_cast<std::uint8_t>(extent.crc_start + moved);
    }
  }
  if (WindowNode::counts(&node).reserved_blocks != 0) {
    for (std::size_t i = begin; i < end; ++i) {
      if (from[i].kind == MappingKind::kReserved) {
        reserved_blocks_ += node.last()[i] - node.first()[i] + 1u;
      }
    }
  }
  data_blocks_ += static_cast<std::uint32_t>(crc_end - crc_begin);
  count_ += static_cast<std::uint32_t>(count);
}

void WindowBuilder::copy(const WindowNode* node, std::uint32_t from, std::uint32_t to) {
  if (node == nullptr || from >= to) return;
  const auto firsts = node->first();
  const auto lasts = node->last();
  const auto add_cut = [&](std::size_t i) {
    const std::uint32_t first = std::max<std::uint32_t>(firsts[i], from);
    const std::uint32_t last = std::min<std::uint32_t>(lasts[i], to - 1);
    NodeExtent extent = node->extents()[i];
    const std::uint32_t skipped = first - firsts[i];
    const std::uint32_t* const crcs = node->crcs().data() + extent.crc_start + skipped;
    if (extent.kind == MappingKind::kData) {
      extent.block = static_cast<std::uint16_t>(extent.block + skipped);
    }
    add(first, last, extent, crcs);
  };
  std::size_t begin = node->find(static_cast<std::uint8_t>(from));
  if (begin == node->count() || firsts[begin] >= to) return;
  if (firsts[begin] < from) add_cut(begin++);
  // Behind the last extent that ends before `to`; what follows it may be cut.
  const std::size_t end =
      to < kWindowBlocks ? node->find(static_cast<std::uint8_t>(to - 1)) : node->count();
  if (begin < end) copy_whole(*node, begin, end);
  const std::size_t next = std::max(begin, end);
  if (next < node->count() && firsts[next] < to) add_cut(next);
}

WindowNode* WindowBuilder::build(std::uint64_t era) const {
  const std::size_t bytes = node_bytes(count_, data_blocks_);
  void* const memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  auto* const node = ::new (memory) WindowNode;
  node->era_ = era;
  node->count_ = static_cast<std::uint16_t>(count_);
  node->data_blocks_ = static_cast<std::uint16_t>(data_blocks_);
  node->reserved_blocks_ = static_cast<std::uint16_t>(reserved_blocks_);
  node->bytes_ = static_cast<std::uint16_t>(bytes);
  auto* const keys = reinterpret_cast<std::uint8_t*>(node + 1);
  std::memcpy(keys, first_.data(), count_);
  std::memcpy(keys + count_, last_.data(), count_);
  auto* const extents = reinterpret_cast<NodeExtent*>(keys + align_up(2 * count_, 8));
  std::uninitialized_copy_n(reinterpret_cast<const NodeExtent*>(extents_.data()), count_, extents);
  std::memcpy(static_cast<void*>(extents + count_), crcs_.data(),
              data_blocks_ * sizeof(std::uint32_t));
  return node;
}

WindowNode* WindowBuilder::replace(const WindowNode& node, std::size_t index, NodeExtent extent,
                                   const std::uint32_t* crcs, std::uint64_t era) {
  void* const memory = std::malloc(node.bytes_);
  if (memory == nullptr) throw std::bad_alloc();
  std::memcpy(memory, &node, node.bytes_);
  auto* const fresh = static_cast<WindowNode*>(memory);
  fresh->era_ = era;
  // The places of all parts are those of the other node.
  const auto place = [&](const void* part) {
    return static_cast<std::byte*>(memory) +
           (static_cast<const std::byte*>(part) - reinterpret_cast<const std::byte*>(&node));
  };
  const NodeExtent& old = node.extents()[index];
  extent.crc_start = old.crc_start;
  ::new (place(&old)) NodeExtent(extent);
  const std::size_t blocks = node.last()[index] - node.first()[index] + std::size_t{1};
  std::memcpy(place(node.crcs().data() + old.crc_start), crcs, blocks * sizeof(std::uint32_t));
  return fresh;
}

void encode_window(const WindowNode& node, Bytes& out) {
  ByteWriter writer(out);
  writer.put(static_cast<std::uint16_t>(node.count()));
  for (std::size_t i = 0; i < node.count(); ++i) {
    const NodeExtent& extent = node.extents()[i];
    writer.put(node.first()[i]);
    writer.put(node.last()[i]);
    writer.put(static_cast<std::uint8_t>(extent.kind));
    writer.put(static_cast<std::uint8_t>(Encoding::kPlain));
    writer.put(extent.chunk);
    writer.put(extent.block);
    writer.put(extent.generation);
  }
  for (const std::uint32_t crc : node.crcs()) writer.put(crc);
}

Result<WindowNode*> decode_window(std::span<const std::byte> encoded) {
  struct Entry {
    std::uint8_t first, last;
    NodeExtent extent;
  };
  ByteReader reader(encoded);
  const std::size_t count = reader.get<std::uint16_t>();
  if (count == 0 || count > kWindowBlocks) return Code::kFormatInvalid;
  std::array<Entry, kWindowBlocks> entries;
  std::size_t data_blocks = 0;
  for (std::size_t i = 0; i < count; ++i) {
    Entry& entry = entries[i];
    entry.first = reader.get<std::uint8_t>();
    entry.last = reader.get<std::uint8_t>();
    const auto kind = reader.get<std::uint8_t>();
    const auto encoding = reader.get<std::uint8_t>();
    entry.extent.chunk = reader.get<ChunkId>();
    entry.extent.block = reader.get<std::uint16_t>();
    entry.extent.generation = reader.get<Generation>();
    if (!reader.ok() || entry.first > entry.last || kind > 1) return Code::kFormatInvalid;
    if (i > 0 && entry.first <= entries[i - 1].last) return Code::kFormatInvalid;
    if (encoding != static_cast<std::uint8_t>(Encoding::kPlain)) {
      return error(Code::kNotSupported, encoding);
    }
    const std::uint32_t blocks = entry.last - entry.first + 1u;
    entry.extent.kind = static_cast<MappingKind>(kind);
    if (entry.extent.kind == MappingKind::kData) {
      if (entry.extent.block + blocks > 65536) return Code::kFormatInvalid;
      data_blocks += blocks;
    } else if (entry.extent.chunk.raw != 0 || entry.extent.block != 0) {
      return Code::kFormatInvalid;
    }
  }
  if (reader.left() != data_blocks * sizeof(std::uint32_t)) return Code::kFormatInvalid;
  std::array<std::uint32_t, kWindowBlocks> crcs;
  for (std::size_t i = 0; i < data_blocks; ++i) crcs[i] = reader.get<std::uint32_t>();
  WindowBuilder builder;
  const std::uint32_t* next_crc = crcs.data();
  for (std::size_t i = 0; i < count; ++i) {
    const Entry& entry = entries[i];
    builder.add(entry.first, entry.last, entry.extent, next_crc);
    if (entry.extent.kind == MappingKind::kData) next_crc += entry.last - entry.first + 1;
  }
  return builder.build(journal::kStoredEra);
}

}  // namespace dynamicfs::extent
