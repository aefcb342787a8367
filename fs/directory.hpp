// The entries of one directory, keyed by a hash of the name that is also the readdir cookie: stable
// while an entry exists, whatever comes and goes around it, also across a remount.
//
// Two names with one hash take neighbouring cookies, at most kProbes apart; finding looks at all of
// them, so removing one leaves no broken chain.
//
// Locks  The owner's: the mutex of the directory's inode.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.hpp"

namespace dynamicfs::fs {

// Cookies of "." and ".."; names are behind them.
inline constexpr std::uint64_t kCookieDot = 1;
inline constexpr std::uint64_t kCookieDotDot = 2;
inline constexpr std::uint64_t kCookieFirst = 16;

struct Entry {
  InodeId inode;
  std::uint32_t type_bits = 0;  // S_IFMT part of the mode
  std::string name;
};

class Directory {
 public:
  using Entries = std::map<std::uint64_t, Entry>;

  // Where a name hashes to: [kCookieFirst, 2^63 - kProbes).
  static std::uint64_t cookie_of(std::string_view name);

  Entries::const_iterator find(std::string_view name) const;
  // A cookie for a name that is not here; nothing if all its places are taken (sixteen names with
  // equal 63-bit hashes).
  std::optional<std::uint64_t> free_cookie(std::string_view name) const;
  // Adds or replaces.
  void put(std::uint64_t cookie, Entry entry) { entries_[cookie] = std::move(entry); }
  void remove(std::uint64_t cookie) { entries_.erase(cookie); }
  const Entries& entries() const { return entries_; }
  bool empty() const { return entries_.empty(); }

 private:
  static constexpr std::uint64_t kProbes = 16;
  Entries entries_;
};

}  // namespace dynamicfs::fs
