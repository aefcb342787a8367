// What a file that is written through the page cache may hold after its daemon was killed.
//
// The kernel hands pages over when it likes, so nothing is known of their order. What must hold for
// each block is that it is as the model had it at some moment since the last fsync that returned,
// that moment included; and for the size, that it lies between the smallest and the largest since.
// A block whose last change was being made while the kernel copied it may have its beginning from
// after that change and its end from before: the only mixture there may be.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/fuzz/content_model.hpp"

namespace dynamicfs::fuzz {

class BlockHistory {
 public:
  // Before a change of [at, end), and after it.
  void before(const Bytes& bytes, std::uint64_t at, std::uint64_t end);
  void after(const Bytes& bytes, std::uint64_t at, std::uint64_t end);

  // An fsync has returned: what `bytes` holds is the only state.
  void settle(const Bytes& bytes);

  // What in `found` cannot be, or "". `latest` is the model as of the last change.
  std::string check(const Bytes& found, const Bytes& latest) const;

  std::uint64_t states() const { return states_count_; }

 private:
  static Bytes block(const Bytes& bytes, std::uint64_t number);

  std::map<std::uint64_t, std::vector<Bytes>> states_;
  std::uint64_t states_count_ = 0;
  std::uint64_t size_min_ = 0;
  std::uint64_t size_max_ = 0;
};

}  // namespace dynamicfs::fuzz
