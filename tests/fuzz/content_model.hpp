// What the files of one worker hold, in memory, and how an operation changes that.
//
// What is written says where it belongs: each aligned word of eight bytes names its worker, file,
// step and place, so wrong bytes tell whether they are old, of another file, or somewhere else's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dynamicfs::fuzz {

using Bytes = std::vector<std::uint8_t>;

inline constexpr std::uint64_t kBlock = 4096;
inline constexpr std::uint64_t kWindow = 1 << 20;
// Three windows, so that an operation can lie in one, over an edge, or over a whole one.
inline constexpr std::uint64_t kFileMax = 3 * kWindow;

struct Stamp {
  unsigned worker = 0;
  unsigned file = 0;
  std::uint64_t step = 0;
};

// The bytes that `stamp` writes from `at` on.
void fill(std::span<std::uint8_t> into, const Stamp& stamp, std::uint64_t at);

// Words for a message: what the bytes around `at` claim to be.
std::string claim(const Bytes& bytes, std::uint64_t at);

enum class ChangeKind {
  kWrite,
  kTruncate,
  kZero,
  kExtend,
  kCopy,
  kRename,
  kExchange,
  kRemove,
  kCreate
};

struct Change {
  ChangeKind kind = ChangeKind::kWrite;
  unsigned file = 0;
  unsigned other = 0;    // kCopy: from where; kRename, kExchange: to where
  std::uint64_t at = 0;  // kTruncate: the new size
  std::uint64_t length = 0;
  std::uint64_t other_at = 0;
  bool keep_size = false;
  Stamp stamp = {};

  std::string text() const;
};

// A file that does not exist has no value.
struct ContentModel {
  std::vector<std::optional<Bytes>> files;

  void apply(const Change& change);
  bool operator==(const ContentModel&) const = default;
};

// The first byte in which two contents differ and what stands there, or "" if they are the same.
std::string difference(const std::optional<Bytes>& found, const std::optional<Bytes>& wanted);

}  // namespace dynamicfs::fuzz
