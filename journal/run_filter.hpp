// Which hashes a run may have: a blocked Bloom filter, sixteen bits for each.
//
// All probes of one hash fall into one cache line, so a look-up costs one miss of the cache.
// Method  Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", WEA 2007,
//         section 3.
// Format  man/format.md, "Run filter".
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace dynamicfs::journal {

class RunFilter {
 public:
  static constexpr std::size_t kLineBytes = 64;
  // With ten bits one look-up in fifty read a block in vain, of five runs; what the others cost is 2 MB
  // of memory for a million files.
  static constexpr std::uint64_t kBitsPerHash = 16;
  // As many bits of a hash as a line has in numbers of its bits. False positives: about 0.2 %.
  static constexpr unsigned kProbes = 6;

  RunFilter() = default;  // has nothing
  explicit RunFilter(std::span<const std::uint64_t> hashes);

  // Never false for a hash that is in it.
  bool may_have(std::uint64_t hash) const;
  // Whole lines, one after the other: what append() takes when the filter is read.
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span{lines_}); }
  void append(std::span<const std::byte> lines);

 private:
  struct alignas(kLineBytes) Line {
    std::array<std::uint64_t, kLineBytes / 8> words{};
  };
  std::vector<Line> lines_;
};

}  // namespace dynamicfs::journal
