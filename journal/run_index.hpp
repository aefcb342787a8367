// Which block of a run has a key: the keys that separate its blocks of entries.
//
// Block i has keys from key(i) on and below key(i + 1). A separator is the shortest prefix of a
// block's first key that is larger than all keys before it, and empty for the first block: enough to
// find a block, and short where keys share little.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "journal/run.hpp"

namespace dynamicfs::journal {

class RunIndex {
 public:
  // Separators ascend strictly.
  void add(std::span<const std::byte> separator) {
    keys_.insert(keys_.end(), separator.begin(), separator.end());
    ends_.push_back(keys_.size());
  }
  std::size_t size() const { return ends_.size(); }
  std::span<const std::byte> key(std::size_t block) const {
    const std::uint64_t begin = block == 0 ? 0 : ends_[block - 1];
    return std::span{keys_}.subspan(begin, ends_[block] - begin);
  }
  // The only block that can have `key`.
  std::size_t block_of(std::span<const std::byte> key) const {
    const std::size_t larger =
        first_where([&](std::size_t i) { return key_less(key, this->key(i)); });
    return larger == 0 ? 0 : larger - 1;
  }
  // The first block without a key below `key`; size() if there is none.
  std::size_t end_of(std::span<const std::byte> key) const {
    return first_where([&](std::size_t i) { return !key_less(this->key(i), key); });
  }
  std::uint64_t memory_bytes() const {
    return keys_.capacity() + ends_.capacity() * sizeof(std::uint64_t);
  }
  void shrink_to_fit() {
    keys_.shrink_to_fit();
    ends_.shrink_to_fit();
  }

 private:
  // By bisection: `holds` is false for some blocks and then true for all others.
  template <class Holds>
  std::size_t first_where(const Holds& holds) const {
    std::size_t begin = 0;
    std::size_t end = size();
    while (begin < end) {
      const std::size_t middle = begin + (end - begin) / 2;
      if (holds(middle)) {
        end = middle;
      } else {
        begin = middle + 1;
      }
    }
    return begin;
  }

  Bytes keys_;  // one behind the other
  std::vector<std::uint64_t> ends_;
};

}  // namespace dynamicfs::journal
