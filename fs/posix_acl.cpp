#include "fs/posix_acl.hpp"

#include <algorithm>

#include "base/assert.hpp"
#include "base/bytes.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::uint32_t kVersion = 2;
constexpr std::size_t kHeaderBytes = 4;
constexpr std::size_t kEntryBytes = 8;
constexpr std::uint32_t kNoId = ~std::uint32_t{0};

}  // namespace

Result<PosixAcl> PosixAcl::parse(std::string_view value) {
  if (value.size() < kHeaderBytes || (value.size() - kHeaderBytes) % kEntryBytes != 0)
    return Code::kInvalid;
  ByteReader in{as_bytes(value)};
  if (in.get<std::uint32_t>() != kVersion) return Code::kNotSupported;
  PosixAcl acl;
  for (std::size_t left = (value.size() - kHeaderBytes) / kEntryBytes; left > 0; --left) {
    Entry entry;
    entry.tag = in.get<std::uint16_t>();
    entry.permissions = in.get<std::uint16_t>();
    entry.id = in.get<std::uint32_t>();
    if (entry.permissions > 7) return Code::kInvalid;
    const bool named = entry.tag == kUser || entry.tag == kGroup;
    if (!named) entry.id = kNoId;
    if (!acl.entries_.empty()) {
      const std::uint16_t before = acl.entries_.back().tag;
      if (entry.tag < before || (entry.tag == before && !named)) return Code::kInvalid;
    }
    acl.entries_.push_back(entry);
  }
  for (const Entry& entry : acl.entries_) {
    switch (entry.tag) {
      case kUserOwner:
      case kUser:
      case kGroupOwner:
      case kGroup:
      case kMask:
      case kOther: break;
      default: return Code::kInvalid;
    }
  }
  for (const Tag tag : {kUserOwner, kGroupOwner, kOther}) {
    if (acl.find(tag) == nullptr) return Code::kInvalid;
  }
  const bool names = acl.find(kUser) != nullptr || acl.find(kGroup) != nullptr;
  if (names && acl.find(kMask) == nullptr) return Code::kInvalid;
  return acl;
}

std::string PosixAcl::encode() const {
  Bytes bytes;
  ByteWriter out{bytes};
  out.put(kVersion);
  for (const Entry& entry : entries_) {
    out.put(entry.tag);
    out.put(entry.permissions);
    out.put(entry.id);
  }
  return std::string{as_text(bytes)};
}

const PosixAcl::Entry* PosixAcl::find(Tag tag) const {
  const auto found = std::ranges::find(entries_, tag, &Entry::tag);
  return found != entries_.end() ? &*found : nullptr;
}

PosixAcl::Entry& PosixAcl::entry(Tag tag) {
  const auto found = std::ranges::find(entries_, tag, &Entry::tag);
  DFS_ASSERT(found != entries_.end());
  return *found;
}

std::uint32_t PosixAcl::mode() const {
  return static_cast<std::uint32_t>(find(kUserOwner)->permissions << 6 |
                                    find(group_class())->permissions << 3 |
                                    find(kOther)->permissions);
}

void PosixAcl::chmod(std::uint32_t mode) {
  entry(kUserOwner).permissions = mode >> 6 & 7;
  entry(group_class()).permissions = mode >> 3 & 7;
  entry(kOther).permissions = mode & 7;
}

std::uint32_t PosixAcl::inherit(std::uint32_t mode) {
  chmod(mode & this->mode());
  return this->mode();
}

}  // namespace dynamicfs::fs
