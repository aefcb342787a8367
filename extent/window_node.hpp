// One window of a file's map: an immutable sorted array of extents with their checksums, in a
// single piece of memory.
//
// Layout  header | first[count] | last[count] | padding to 8 | extent[count] | crc[crc_count]
//         The keys stand together in front: a search among 256 extents compares at most four cache
//         lines of them at once, then touches one line of the extent found. 18 bytes per extent, 4
//         per data block.
//         Without extents a window is known to be a hole.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "extent/extent_map.hpp"

namespace dynamicfs::extent {

// Without its key. Where an extent begins and ends in the window is in first[] and last[].
struct NodeExtent {
  Generation generation;
  ChunkId chunk;
  std::uint16_t block = 0;
  std::uint8_t crc_start = 0;  // how many data blocks the extents before it have: index into crc[]
  MappingKind kind = MappingKind::kData;
};
static_assert(sizeof(NodeExtent) == 16, "the memory per extent that man/architecture.md states");

class WindowNode {
 public:
  struct Counts {
    std::uint32_t extents = 0;
    std::uint32_t data_blocks = 0;
    std::uint32_t reserved_blocks = 0;
    std::uint32_t bytes = 0;
  };

  // Of its making; kStoredEra when it came from a run.
  std::uint64_t era() const { return era_; }
  std::size_t count() const { return count_; }
  bool is_hole() const { return count_ == 0; }
  std::span<const std::uint8_t> first() const { return {keys(), count_}; }
  std::span<const std::uint8_t> last() const { return {keys() + count_, count_}; }
  std::span<const NodeExtent> extents() const {
    return {reinterpret_cast<const NodeExtent*>(keys() + align_up(2 * count_, 8)), count_};
  }
  std::span<const std::uint32_t> crcs() const {
    return {reinterpret_cast<const std::uint32_t*>(extents().data() + count_), data_blocks_};
  }
  // Index of the first extent that ends at or behind `block`; count() if there is none.
  std::size_t find(std::uint8_t block) const {
    return count_ - count_from(keys() + count_, count_, block);
  }
  // Asks memory for all of it: a copy then waits once and not line by line.
  void prefetch_all() const {
    const auto* const begin = reinterpret_cast<const std::byte*>(this);
    for (std::size_t at = 64; at < bytes_; at += 64) __builtin_prefetch(begin + at);
  }

  static Counts counts(const WindowNode* node) {
    if (node == nullptr) return {};
    return {node->count_, node->data_blocks_, node->reserved_blocks_, node->bytes_};
  }
  static void destroy(const WindowNode* node);

 private:
  friend class WindowBuilder;
  WindowNode() = default;
  // How many of the ascending numbers are not less than `least`. All are looked at, without a branch
  // that depends on them: which way a binary search goes is a coin toss to the processor, and a wrong
  // guess costs as much as a dozen comparisons of 16 at once.
  static std::size_t count_from(const std::uint8_t* numbers, std::size_t count,
                                std::uint8_t least) {
#if defined(__SSE2__)
    const __m128i wanted = _mm_set1_epi8(static_cast<char>(least));
    __m128i found = _mm_setzero_si128();
    const auto at_least = [&](std::size_t i) {
      // Behind the last numbers are the extents, so there is something to read.
      const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers + i));
      return _mm_cmpeq_epi8(_mm_max_epu8(some, wanted), some);
    };
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) found = _mm_sub_epi8(found, at_least(i));
    if (i < count) {
      const __m128i left = _mm_set1_epi8(static_cast<char>(count - i));
      const __m128i index = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      found = _mm_sub_epi8(found, _mm_and_si128(at_least(i), _mm_cmplt_epi8(index, left)));
    }
    // At most 16 in each of the bytes.
    const __m128i sums = _mm_sad_epu8(found, _mm_setzero_si128());
    return static_cast<std::size_t>(_mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4));
#else
    return static_cast<std::size_t>(numbers + count -
                                    std::lower_bound(numbers, numbers + count, least));
#endif
  }
  const std::uint8_t* keys() const { return reinterpret_cast<const std::uint8_t*>(this + 1); }

  std::uint64_t era_ = 0;
  std::uint16_t count_ = 0;  // 0 to 256
  std::uint16_t data_blocks_ = 0;
  std::uint16_t reserved_blocks_ = 0;
  std::uint16_t bytes_ = 0;  // of this allocation
};
static_assert(sizeof(WindowNode) == 16);

// Puts a window together front to back.
class WindowBuilder {
 public:
  // What `node` (may be nullptr) has of blocks [from, to); cut extents keep their part.
  void copy(const WindowNode* node, std::uint32_t from, std::uint32_t to);
  // Blocks first..last, behind everything added so far. `crcs` is read for kData only.
  void add(std::uint32_t first, std::uint32_t last, NodeExtent extent, const std::uint32_t* crcs);
  bool is_hole() const { return count_ == 0; }
  std::size_t count() const { return count_; }
  // Throws std::bad_alloc.
  WindowNode* build(std::uint64_t era) const;
  // `node` with data extent `index` replaced by `extent`, of the same blocks, and its checksums. As
  // if it had been put together, at the cost of one copy.
  static WindowNode* replace(const WindowNode& node, std::size_t index, NodeExtent extent,
                             const std::uint32_t* crcs, std::uint64_t era);

 private:
  void copy_whole(const WindowNode& node, std::size_t begin, std::size_t end);
  NodeExtent* extents() { return reinterpret_cast<NodeExtent*>(extents_.data()); }

  std::uint32_t count_ = 0;
  std::uint32_t data_blocks_ = 0;
  std::uint32_t reserved_blocks_ = 0;
  // Not initialised: that would cost as much as the copying.
  std::array<std::uint8_t, kWindowBlocks> first_;
  std::array<std::uint8_t, kWindowBlocks> last_;
  alignas(NodeExtent) std::array<std::byte, kWindowBlocks * sizeof(NodeExtent)> extents_;
  std::array<std::uint32_t, kWindowBlocks> crcs_;
};

// As a window that is no hole is stored in a run: man/format.md, "Extent changes".
void encode_window(const WindowNode& node, Bytes& out);
// kFormatInvalid for anything encode_window() would not write, kNotSupported (detail: the encoding)
// for extents this program cannot read. The node is of kStoredEra.
Result<WindowNode*> decode_window(std::span<const std::byte> encoded);

}  // namespace dynamicfs::extent
