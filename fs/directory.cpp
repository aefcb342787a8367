#include "fs/directory.hpp"

#include <algorithm>
#include <utility>

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

Directory::~Directory() {
  for (const auto& [cookie, slot] : slots_) account(slot, false);
}

// What the allocator adds to a node of the map, roughly; short names are within the string.
std::uint64_t Directory::memory_of(const Slot& slot) {
  constexpr std::uint64_t kNodeBytes = 56;
  constexpr std::size_t kNameInside = 15;
  const std::size_t name = slot.entry.name.size();
  return sizeof(Slot) + kNodeBytes + (name > kNameInside ? name + kNameInside : 0);
}

void Directory::account(const Slot& slot, bool added) {
  const std::uint64_t bytes = memory_of(slot);
  context_.memory_bytes.add(added ? bytes : ~bytes + 1);
}

std::optional<Directory::Found> Directory::find(std::string_view name) const {
  const std::uint64_t cookie = cookie_of(name);
  for (auto it = slots_.lower_bound(cookie); it != slots_.end() && it->first < cookie + kProbes;
       ++it) {
    if (!it->second.removed && it->second.entry.name == name) {
      return Found{it->first, &it->second.entry};
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> Directory::free_cookie(std::string_view name) const {
  const std::uint64_t first = cookie_of(name);
  for (std::uint64_t cookie = first; cookie < first + kProbes; ++cookie) {
    if (!contains(cookie)) return cookie;
  }
  return std::nullopt;
}

bool Directory::contains(std::uint64_t cookie) const {
  const auto it = slots_.find(cookie);
  return it != slots_.end() && !it->second.removed;
}

std::optional<Directory::Found> Directory::next(std::uint64_t cookie) const {
  for (auto it = slots_.lower_bound(cookie); it != slots_.end(); ++it) {
    if (!it->second.removed) return Found{it->first, &it->second.entry};
  }
  return std::nullopt;
}

void Directory::modify(std::uint64_t cookie, Slot& slot) {
  const std::uint64_t now = context_.eras.current.load(std::memory_order_relaxed);
  if (slot.era != now) dirty_.push_back(cookie);
  slot.era = now;
}

void Directory::put(std::uint64_t cookie, Entry entry) {
  const auto [it, fresh] = slots_.try_emplace(cookie);
  Slot& slot = it->second;
  if (fresh || slot.removed) ++count_;
  if (!fresh) account(slot, false);
  slot.entry = std::move(entry);
  slot.removed = false;
  account(slot, true);
  modify(cookie, slot);
}

void Directory::remove(std::uint64_t cookie) {
  const auto it = slots_.find(cookie);
  if (it == slots_.end() || it->second.removed) return;
  --count_;
  account(it->second, false);
  if (!stored_) {
    slots_.erase(it);
    return;
  }
  it->second.removed = true;
  it->second.entry = {};
  account(it->second, true);
  modify(cookie, it->second);
}

void Directory::load(std::uint64_t cookie, Entry entry) {
  const auto [it, fresh] = slots_.try_emplace(cookie);
  if (!fresh) return;
  it->second.entry = std::move(entry);
  account(it->second, true);
}

void Directory::for_each_dirty(
    const std::function<void(std::uint64_t cookie, const Entry*)>& each) {
  std::ranges::sort(dirty_);
  const auto [from, end] = std::ranges::unique(dirty_);
  dirty_.erase(from, end);
  std::erase_if(dirty_, [this](std::uint64_t cookie) {
    const auto it = slots_.find(cookie);
    return it == slots_.end() || context_.eras.is_clean(it->second.era);
  });
  for (const std::uint64_t cookie : dirty_) {
    const Slot& slot = slots_.at(cookie);
    each(cookie, slot.removed ? nullptr : &slot.entry);
  }
}

std::uint64_t Directory::known_to(std::uint64_t from) const {
  if (whole_) return ~std::uint64_t{0};
  return from >= known_from_ && from < known_to_ ? known_to_ : from;
}

void Directory::note_loaded(std::uint64_t from, std::uint64_t to) {
  if (from < known_from_ || from > known_to_) {
    known_from_ = from;
    known_to_ = to;
  }
  known_to_ = std::max(known_to_, to);
  whole_ = whole_ || (known_from_ <= kCookieFirst && known_to_ == ~std::uint64_t{0});
}

void Directory::drop_clean() {
  if (!stored_) return;
  known_from_ = known_to_ = 0;
  for (auto it = slots_.begin(); it != slots_.end();) {
    if (!context_.eras.is_clean(it->second.era)) {
      ++it;
      continue;
    }
    if (!it->second.removed) whole_ = false;
    account(it->second, false);
    it = slots_.erase(it);
  }
}

}  // namespace dynamicfs::fs
