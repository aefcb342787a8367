#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "scheduler/simulated_disk.hpp"

namespace dynamicfs::scheduler {

SimulatedMedia::Block SimulatedMedia::make_block(std::span<const std::byte> bytes) {
  DFS_ASSERT(bytes.size() == kBlockBytes);
  // A region that is formatted with zeros costs no memory.
  const bool zeros =
      bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, kBlockBytes - 1) == 0;
  return zeros ? nullptr : std::make_shared<const Bytes>(bytes.begin(), bytes.end());
}

SimulatedMedia::Block SimulatedMedia::block(std::uint64_t index) const {
  const auto it = blocks_.find(index);
  return it == blocks_.end() ? nullptr : it->second;
}

void SimulatedMedia::put(std::uint64_t index, Block content) {
  if (content == nullptr) {
    blocks_.erase(index);
  } else {
    blocks_[index] = std::move(content);
  }
}

void SimulatedMedia::read(std::uint64_t offset_bytes, std::span<std::byte> into) const {
  DFS_ASSERT(offset_bytes <= size_bytes_ && into.size() <= size_bytes_ - offset_bytes);
  while (!into.empty()) {
    const std::uint64_t within = offset_bytes % kBlockBytes;
    const std::size_t piece = std::min<std::size_t>(into.size(), kBlockBytes - within);
    const Block from = block(offset_bytes / kBlockBytes);
    if (from == nullptr) {
      std::memset(into.data(), 0, piece);
    } else {
      std::memcpy(into.data(), from->data() + within, piece);
    }
    offset_bytes += piece;
    into = into.subspan(piece);
  }
}

void SimulatedMedia::write(std::uint64_t offset_bytes, std::span<const std::byte> from) {
  DFS_ASSERT(offset_bytes <= size_bytes_ && from.size() <= size_bytes_ - offset_bytes);
  while (!from.empty()) {
    const std::uint64_t index = offset_bytes / kBlockBytes;
    const std::uint64_t within = offset_bytes % kBlockBytes;
    const std::size_t piece = std::min<std::size_t>(from.size(), kBlockBytes - within);
    const Block old = block(index);
    Bytes changed = old == nullptr ? Bytes(kBlockBytes) : *old;
    std::memcpy(changed.data() + within, from.data(), piece);
    put(index, make_block(changed));
    offset_bytes += piece;
    from = from.subspan(piece);
  }
}

void SimulatedMedia::flip(std::uint64_t offset_bytes, unsigned bit) {
  std::byte value{};
  read(offset_bytes, {&value, 1});
  value ^= std::byte{1} << (bit % 8);
  write(offset_bytes, {&value, 1});
}

}  // namespace dynamicfs::scheduler
