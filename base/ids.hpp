// Identifiers as types, so that an inode number cannot be passed where a chunk is meant.
//
// `.raw` is for formats and logs; arithmetic is written where it is meant, on `.raw`.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

#include <fmt/format.h>

namespace dynamicfs {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint64_t kTiB = 1024 * kGiB;

// The unit of space, of checksums and of redirect-on-write.
inline constexpr std::uint64_t kBlockBytes = 4 * kKiB;
// What one extent lock covers, and the largest extent: one FUSE WRITE of the largest default size.
inline constexpr std::uint64_t kWindowBlocks = 256;
inline constexpr std::uint64_t kWindowBytes = kWindowBlocks * kBlockBytes;
// The unit of space on a disk.
inline constexpr std::uint64_t kSlotBytes = 4 * kMiB;
inline constexpr std::uint64_t kSlotBlocks = kSlotBytes / kBlockBytes;

template <class Tag, class Rep>
struct Id {
  using Raw = Rep;
  Rep raw = 0;

  constexpr Id() = default;
  constexpr explicit Id(Rep value) : raw(value) {}
  constexpr auto operator<=>(const Id&) const = default;
};

using InodeId = Id<struct InodeTag, std::uint64_t>;
using DiskId = Id<struct DiskTag, std::uint16_t>;
using ChunkId = Id<struct ChunkTag, std::uint32_t>;
// Index of a slot within one volume, from 0 at the first byte behind the journal region.
using SlotId = Id<struct SlotTag, std::uint32_t>;
// Sequence number of a journal record, from 1. 0 means "none".
using Lsn = Id<struct LsnTag, std::uint64_t>;
// The LSN of the record that published an extent.
using Generation = Id<struct GenerationTag, std::uint64_t>;
using BatchSequence = Id<struct BatchSequenceTag, std::uint64_t>;
using Epoch = Id<struct EpochTag, std::uint64_t>;
// Index of a 4 KiB block of a file, and of a 1 MiB window of a file.
using FileBlock = Id<struct FileBlockTag, std::uint64_t>;
using WindowId = Id<struct WindowTag, std::uint64_t>;

inline constexpr InodeId kRootInode{1};

constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t unit) {
  return value - value % unit;
}
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t unit) {
  return align_down(value + unit - 1, unit);
}
constexpr std::uint64_t ceil_div(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit;
}

}  // namespace dynamicfs

template <class Tag, class Rep>
struct std::hash<dynamicfs::Id<Tag, Rep>> {
  std::size_t operator()(const dynamicfs::Id<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>{}(id.raw);
  }
};

template <class Tag, class Rep>
struct fmt::formatter<dynamicfs::Id<Tag, Rep>> : fmt::formatter<Rep> {
  template <class Context>
  auto format(const dynamicfs::Id<Tag, Rep>& id, Context& context) const {
    return fmt::formatter<Rep>::format(id.raw, context);
  }
};
