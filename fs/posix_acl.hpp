// POSIX.1e access control lists as Linux hands them over in extended attributes (version 2 of
// include/uapi/linux/posix_acl_xattr.h). The kernel checks permissions by them; ours is to keep the mode of
// a file and its list in step and to let new files inherit, as posix_acl(5) says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace dynamicfs::fs {

inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";

class PosixAcl {
 public:
  // kInvalid for anything but a complete list in the order that acl(5) asks for.
  static Result<PosixAcl> parse(std::string_view value);
  std::string encode() const;

  // The nine permission bits that stand for it: those of the owner, of the mask (or, without one, the
  // group) and of all others.
  std::uint32_t mode() const;
  // The mode says it all: nobody but owner, group and others is named, and there is no mask.
  bool is_minimal() const { return entries_.size() == 3; }
  // What chmod() does to an access list: afterwards mode() is `mode`.
  void chmod(std::uint32_t mode);
  // Of a directory's default list makes the access list of what is created there with `mode`: neither
  // grants afterwards what the other does not. Returns the permission bits that are left of `mode`.
  std::uint32_t inherit(std::uint32_t mode);

 private:
  enum Tag : std::uint16_t {
    kUserOwner = 0x01,
    kUser = 0x02,
    kGroupOwner = 0x04,
    kGroup = 0x08,
    kMask = 0x10,
    kOther = 0x20,
  };
  struct Entry {
    std::uint16_t tag = 0;
    std::uint16_t permissions = 0;
    std::uint32_t id = 0;
  };

  Entry& entry(Tag tag);
  const Entry* find(Tag tag) const;
  // The entry that the group bits of a mode stand for.
  Tag group_class() const { return find(kMask) != nullptr ? kMask : kGroupOwner; }

  std::vector<Entry> entries_;
};

}  // namespace dynamicfs::fs
