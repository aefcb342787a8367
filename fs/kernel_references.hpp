// How often the kernel refers to inodes that are not in memory.
//
// The kernel keeps every file it has looked at for as long as it has room, so there may be as many of
// these as files: a walk over a million leaves a million, nearly all with one reference or two. A byte
// each, in pages of neighbouring numbers, is some 4 bytes for files that were made one after the other,
// and some 60 for one that is alone.
//
// Locks  The owner's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <unordered_map>

namespace dynamicfs::fs {

class KernelReferences {
 public:
  // A page with what the map and the allocator add.
  static constexpr std::uint64_t kPageBytes = 64;

  // 0: forgotten.
  void set(std::uint64_t index, std::uint64_t count) {
    const auto [it, fresh] = pages_.try_emplace(index / kPageSize);
    std::uint8_t& cell = it->second[index % kPageSize];
    if (cell == kMany) many_.erase(index);
    if (count >= kMany) many_[index] = count;
    cell = static_cast<std::uint8_t>(count < kMany ? count : kMany);
    if (count == 0 && it->second == Page{}) pages_.erase(it);
  }
  std::uint64_t count(std::uint64_t index) const {
    const auto it = pages_.find(index / kPageSize);
    if (it == pages_.end()) return 0;
    const std::uint8_t cell = it->second[index % kPageSize];
    return cell == kMany ? many_.at(index) : cell;
  }
  std::size_t pages() const { return pages_.size(); }

 private:
  static constexpr std::size_t kPageSize = 16;
  static constexpr std::uint8_t kMany = std::numeric_limits<std::uint8_t>::max();  // see many_
  using Page = std::array<std::uint8_t, kPageSize>;

  std::unordered_map<std::uint64_t, Page> pages_;
  std::unordered_map<std::uint64_t, std::uint64_t> many_;
};

}  // namespace dynamicfs::fs
