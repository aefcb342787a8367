#include "fs/directory.hpp"

namespace dynamicfs::fs {

std::uint64_t Directory::cookie_of(std::string_view name) {
  // FNV-1a, then the finaliser of MurmurHash3: every bit of the name reaches every bit we keep.
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
  hash ^= hash >> 33;
  constexpr std::uint64_t kRange = (std::uint64_t{1} << 63) - kProbes - kCookieFirst;
  return kCookieFirst + hash % kRange;
}

Directory::Entries::const_iterator Directory::find(std::string_view name) const {
  const std::uint64_t cookie = cookie_of(name);
  for (auto it = entries_.lower_bound(cookie); it != entries_.end() && it->first < cookie + kProbes;
       ++it) {
    if (it->second.name == name) return it;
  }
  return entries_.end();
}

std::optional<std::uint64_t> Directory::free_cookie(std::string_view name) const {
  const std::uint64_t first = cookie_of(name);
  for (std::uint64_t cookie = first; cookie < first + kProbes; ++cookie) {
    if (!entries_.contains(cookie)) return cookie;
  }
  return std::nullopt;
}

}  // namespace dynamicfs::fs
