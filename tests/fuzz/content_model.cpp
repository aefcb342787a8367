#include "tests/fuzz/content_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace dynamicfs::fuzz {
namespace {

// 0xa, worker (6 bits), file (6), step (28), place in words (20).
std::uint64_t word(const Stamp& stamp, std::uint64_t place) {
  return 0xaULL << 60 | std::uint64_t{stamp.worker & 63} << 54 |
         std::uint64_t{stamp.file & 63} << 48 | (stamp.step & 0xfffffff) << 20 | (place & 0xfffff);
}

const char* name_of(ChangeKind kind) {
  switch (kind) {
    case ChangeKind::kWrite: return "write";
    case ChangeKind::kTruncate: return "truncate";
    case ChangeKind::kZero: return "zero";
    case ChangeKind::kExtend: return "extend";
    case ChangeKind::kCopy: return "copy";
    case ChangeKind::kRename: return "rename";
    case ChangeKind::kExchange: return "exchange";
    case ChangeKind::kRemove: return "remove";
    case ChangeKind::kCreate: return "create";
  }
  return "?";
}

}  // namespace

void fill(std::span<std::uint8_t> into, const Stamp& stamp, std::uint64_t at) {
  std::size_t done = 0;
  while (done < into.size()) {
    const std::uint64_t place = at + done;
    const std::uint64_t value = word(stamp, place / 8);
    const std::size_t skip = place % 8;
    const std::size_t count = std::min(8 - skip, into.size() - done);
    std::memcpy(into.data() + done, reinterpret_cast<const std::uint8_t*>(&value) + skip, count);
    done += count;
  }
}

std::string claim(const Bytes& bytes, std::uint64_t at) {
  if (at >= bytes.size()) return "the end of the file";
  const std::uint64_t start = at / 8 * 8;
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data() + start, std::min<std::uint64_t>(8, bytes.size() - start));
  if (bytes[at] == 0 && (value >> 60) != 0xa) return "zeros";
  if (value >> 60 != 0xa) return fmt::format("a mixture {:016x}", value);
  return fmt::format("what step {} of worker {} wrote to file {} at {}", value >> 20 & 0xfffffff,
                     value >> 54 & 63, value >> 48 & 63, (value & 0xfffff) * 8);
}

std::string Change::text() const {
  std::string text = fmt::format("{} file {}", name_of(kind), file);
  switch (kind) {
    case ChangeKind::kTruncate: text += fmt::format(" to {}", at); break;
    case ChangeKind::kRename:
    case ChangeKind::kExchange: text += fmt::format(" with file {}", other); break;
    case ChangeKind::kRemove:
    case ChangeKind::kCreate: break;
    case ChangeKind::kCopy:
      text += fmt::format(" at {} + {} from file {} at {}", at, length, other, other_at);
      break;
    case ChangeKind::kWrite:
    case ChangeKind::kZero:
    case ChangeKind::kExtend: text += fmt::format(" at {} + {}", at, length); break;
  }
  return keep_size ? text + ", size kept" : text;
}

void ContentModel::apply(const Change& change) {
  std::optional<Bytes>& file = files[change.file];
  const std::uint64_t end = change.at + change.length;
  switch (change.kind) {
    case ChangeKind::kWrite:
      if (end > file->size()) file->resize(end);
      fill(std::span{*file}.subspan(change.at, change.length), change.stamp, change.at);
      break;
    case ChangeKind::kTruncate: file->resize(change.at); break;
    case ChangeKind::kZero: {
      if (!change.keep_size && end > file->size()) file->resize(end);
      const std::uint64_t stop = std::min<std::uint64_t>(end, file->size());
      if (change.at < stop) std::fill(file->begin() + change.at, file->begin() + stop, 0);
      break;
    }
    case ChangeKind::kExtend:
      if (!change.keep_size && end > file->size()) file->resize(end);
      break;
    case ChangeKind::kCopy: {
      const Bytes& from = *files[change.other];
      const Bytes piece(from.begin() + change.other_at,
                        from.begin() + change.other_at + change.length);
      if (end > file->size()) file->resize(end);
      std::ranges::copy(piece, file->begin() + change.at);
      break;
    }
    case ChangeKind::kRename:
      files[change.other] = std::move(file);
      file.reset();
      break;
    case ChangeKind::kExchange: std::swap(file, files[change.other]); break;
    case ChangeKind::kRemove: file.reset(); break;
    case ChangeKind::kCreate: file.emplace(); break;
  }
}

std::string difference(const std::optional<Bytes>& found, const std::optional<Bytes>& wanted) {
  if (found == wanted) return "";
  if (!found) return "it does not exist";
  if (!wanted) return "it exists";
  const std::uint64_t both = std::min(found->size(), wanted->size());
  const auto at = static_cast<std::uint64_t>(
      std::mismatch(found->begin(), found->begin() + both, wanted->begin()).first - found->begin());
  std::uint64_t count = 0;
  for (std::uint64_t i = at; i < both; ++i) count += (*found)[i] != (*wanted)[i];
  std::string text = found->size() == wanted->size()
                         ? ""
                         : fmt::format("{} bytes instead of {}, ", found->size(), wanted->size());
  return text +
         fmt::format(
             "first at {} (window {}, block {} of it, byte {}): {} instead of {}; {} bytes differ",
             at, at / kWindow, at % kWindow / kBlock, at % kBlock, claim(*found, at),
             claim(*wanted, at), count);
}

}  // namespace dynamicfs::fuzz
