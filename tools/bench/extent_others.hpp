// What extent_bench is compared with: other ordered stores that hold the same extents.
//
// All are asked what a file system asks: which extent has this block? The key is the last block of
// an extent, so that one seek to the first key at or behind the block answers; the value is what a
// mapping says, with its checksums, and is copied out. Where a store offers a choice it is set up to
// be quick: files in memory, nothing synced, no locks where nobody writes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dynamicfs::bench {

inline constexpr std::uint32_t kExtentBlocksMax = 4;

// An extent of a file.
struct Extent {
  std::uint64_t first = 0;
  std::uint32_t count = 0;
};
using EachExtent = std::function<void(Extent)>;

// Of one thread.
class Reader {
 public:
  virtual ~Reader() = default;
  // Looks the blocks up one after the other, each for itself: with a lock or a transaction of its
  // own where the store needs one to see the newest state. Returns a sum over what was found.
  virtual std::uint64_t look_up(std::span<const std::uint64_t> blocks) = 0;
};

class Other {
 public:
  virtual ~Other() = default;
  virtual std::unique_ptr<Reader> reader() = 0;
};

// Those this program was built with.
std::vector<std::string> other_names();
// And without.
std::vector<std::string> absent_names();
// `each` calls what it is given for every extent, ascending. Throws std::runtime_error.
std::unique_ptr<Other> make_other(const std::string& name,
                                  const std::function<void(const EachExtent&)>& each);

}  // namespace dynamicfs::bench
