#include "journal/run_filter.hpp"

#include <cstring>

#include "base/assert.hpp"
#include "base/hash.hpp"
#include "base/ids.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::uint64_t kLineBits = RunFilter::kLineBytes * 8;
constexpr unsigned kProbeBits = 9;
static_assert(1u << kProbeBits == kLineBits && RunFilter::kProbes * kProbeBits <= 64,
              "one word must be enough to draw every probe from");

// The upper half, scaled, chooses the line. Whoever gives the hashes need not have mixed them.
std::uint64_t line_of(std::uint64_t mixed, std::uint64_t lines) {
  return (mixed >> 32) * lines >> 32;
}

// Calls `each` with the word and the bit of every probe; stops when it says false.
template <class Each>
bool probe(std::uint64_t mixed, const Each& each) {
  std::uint64_t bits = mix(mixed);
  for (unsigned i = 0; i < RunFilter::kProbes; ++i, bits >>= kProbeBits) {
    const std::uint64_t bit = bits % kLineBits;
    if (!each(bit / 64, std::uint64_t{1} << bit % 64)) return false;
  }
  return true;
}

}  // namespace

RunFilter::RunFilter(std::span<const std::uint64_t> hashes)
    : lines_(ceil_div(hashes.size() * kBitsPerHash, kLineBits)) {
  for (const std::uint64_t hash : hashes) {
    const std::uint64_t mixed = mix(hash);
    auto& words = lines_[line_of(mixed, lines_.size())].words;
    probe(mixed, [&words](std::uint64_t word, std::uint64_t bit) {
      words[word] |= bit;
      return true;
    });
  }
}

bool RunFilter::may_have(std::uint64_t hash) const {
  if (lines_.empty()) return false;
  const std::uint64_t mixed = mix(hash);
  const auto& words = lines_[line_of(mixed, lines_.size())].words;
  return probe(
      mixed, [&words](std::uint64_t word, std::uint64_t bit) { return (words[word] & bit) != 0; });
}

void RunFilter::append(std::span<const std::byte> lines) {
  DFS_ASSERT(lines.size() % kLineBytes == 0);
  const std::size_t before = lines_.size();
  lines_.resize(before + lines.size() / kLineBytes);
  if (!lines.empty()) std::memcpy(lines_.data() + before, lines.data(), lines.size());
}

}  // namespace dynamicfs::journal
