// The tree of windows of a file with more than one: private to extent_map.cpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "base/mutex.hpp"
#include "extent/extent_map.hpp"
#include "extent/window_node.hpp"

namespace dynamicfs::extent {

// A level of the tree is chosen by this many bits of the window index, the lowest first.
inline constexpr unsigned kLeafBits = 5;
inline constexpr unsigned kUpperBits = 9;
inline constexpr unsigned kHeightMax = 6;
inline constexpr unsigned level_bits(unsigned level) { return level == 0 ? kLeafBits : kUpperBits; }
inline constexpr unsigned level_shift(unsigned level) {
  return level == 0 ? 0 : kLeafBits + (level - 1) * kUpperBits;
}
// How many windows a tree of this height has room for.
inline constexpr std::uint64_t windows_below(unsigned height) {
  return std::uint64_t{1} << level_shift(height);
}
static_assert(windows_below(kHeightMax) >= kFileBlocksEnd / kWindowBlocks);

inline constexpr std::uintptr_t kSpreadTag = 1;
inline constexpr std::uintptr_t kHeightMask = 7;
static_assert(kHeightMax <= kHeightMask);

// Wraps around on purpose; an overwrite leaves most counters as they are.
inline void move_counter(std::atomic<std::uint64_t>& total, std::uint64_t from, std::uint64_t to) {
  if (from != to) total.fetch_add(to - from, std::memory_order_relaxed);
}

inline void sort_unique(std::vector<std::uint64_t>& windows) {
  std::sort(windows.begin(), windows.end());
  windows.erase(std::unique(windows.begin(), windows.end()), windows.end());
}

// One level of the tree: 32 or 512 children. At the lowest level they are WindowNode*, else Inner*.
struct FileMap::Inner {
  static std::size_t bytes(unsigned level) {
    return (std::size_t{1} << level_bits(level)) * sizeof(Slot);
  }
  static Inner* create(unsigned level) {
    void* const memory = std::aligned_alloc(64, bytes(level));
    if (memory == nullptr) throw std::bad_alloc();
    auto* const slots = static_cast<Slot*>(memory);
    for (std::size_t i = 0; i < std::size_t{1} << level_bits(level); ++i)
      ::new (slots + i) Slot{nullptr};
    return reinterpret_cast<Inner*>(slots);
  }
  // Everything below too.
  static void destroy(Inner* inner, unsigned level) {
    for (std::size_t i = 0; i < std::size_t{1} << level_bits(level); ++i) {
      void* const child = inner->slot(i).load(std::memory_order_relaxed);
      if (child == nullptr) continue;
      if (level == 0) {
        WindowNode::destroy(static_cast<WindowNode*>(child));
      } else {
        destroy(static_cast<Inner*>(child), level - 1);
      }
    }
    std::free(inner);
  }
  Slot& slot(std::size_t index) { return reinterpret_cast<Slot*>(this)[index]; }
  static std::size_t index(std::uint64_t window, unsigned level) {
    return (window >> level_shift(level)) & ((std::size_t{1} << level_bits(level)) - 1);
  }
};

struct FileMap::Spread {
  explicit Spread(Gauge& all_bytes_in) : all_bytes(all_bytes_in) {}

  // The topmost Inner, with the height in its low bits.
  std::atomic<std::uintptr_t> top;
  // Changes over several windows, begun and finished. While they differ, or when `begun` has moved,
  // a reader of several windows may see such a change half done.
  std::atomic<std::uint64_t> begun{0};
  std::atomic<std::uint64_t> finished{0};
  std::atomic<std::uint64_t> extents{0};
  std::atomic<std::uint64_t> bytes{0};
  Gauge& all_bytes;
  // Every window that is not clean; and some that are, until for_each_dirty() takes them out. One
  // that is changed again before that is here twice.
  mutable Mutex dirty_mutex;
  std::vector<std::uint64_t> dirty DFS_GUARDED_BY(dirty_mutex);

  static std::uintptr_t tagged(Inner* inner, unsigned height) {
    return reinterpret_cast<std::uintptr_t>(inner) | height;
  }
  static Inner* inner(std::uintptr_t top) { return reinterpret_cast<Inner*>(top & ~kHeightMask); }
  static unsigned height(std::uintptr_t top) { return static_cast<unsigned>(top & kHeightMask); }

  // nullptr if no inner node leads there.
  Slot* find(std::uint64_t window) const {
    const std::uintptr_t now = top.load(std::memory_order_acquire);
    const unsigned levels = height(now);
    if (window >= windows_below(levels)) return nullptr;
    Inner* at = inner(now);
    for (unsigned level = levels - 1; level > 0; --level) {
      at = static_cast<Inner*>(
          at->slot(Inner::index(window, level)).load(std::memory_order_acquire));
      if (at == nullptr) return nullptr;
    }
    return &at->slot(Inner::index(window, 0));
  }

  Slot& make(std::uint64_t window) {
    std::uintptr_t now = top.load(std::memory_order_acquire);
    while (window >= windows_below(height(now))) {
      const unsigned level = height(now);
      Inner* const above = Inner::create(level);
      above->slot(0).store(inner(now), std::memory_order_relaxed);
      if (top.compare_exchange_strong(now, tagged(above, level + 1), std::memory_order_acq_rel)) {
        add_bytes(Inner::bytes(level));
        now = tagged(above, level + 1);
      } else {
        std::free(above);  // somebody else was first; `now` is theirs
      }
    }
    Inner* at = inner(now);
    for (unsigned level = height(now) - 1; level > 0; --level) {
      Slot& slot = at->slot(Inner::index(window, level));
      void* child = slot.load(std::memory_order_acquire);
      if (child == nullptr) {
        Inner* const fresh = Inner::create(level - 1);
        if (slot.compare_exchange_strong(child, fresh, std::memory_order_acq_rel)) {
          add_bytes(Inner::bytes(level - 1));
          child = fresh;
        } else {
          std::free(fresh);
        }
      }
      at = static_cast<Inner*>(child);
    }
    return at->slot(Inner::index(window, 0));
  }

  void add_bytes(std::uint64_t count) {
    bytes.fetch_add(count, std::memory_order_relaxed);
    all_bytes.add(static_cast<std::int64_t>(count));
  }
  void count(const WindowNode* old, const WindowNode* fresh) {
    const WindowNode::Counts before = WindowNode::counts(old);
    const WindowNode::Counts after = WindowNode::counts(fresh);
    move_counter(extents, before.extents, after.extents);
    move_counter(bytes, before.bytes, after.bytes);
  }

  // Removes the windows for which drop(node) is true, with the inner nodes that become empty, and
  // returns true if nothing is left below; `at` itself is the caller's. Nobody else may look.
  template <class F>
  bool prune(Inner* at, unsigned level, F drop) {
    bool empty = true;
    for (std::size_t i = 0; i < std::size_t{1} << level_bits(level); ++i) {
      Slot& slot = at->slot(i);
      void* const child = slot.load(std::memory_order_relaxed);
      if (child == nullptr) continue;
      if (level == 0 ? !drop(static_cast<const WindowNode*>(child))
                     : !prune(static_cast<Inner*>(child), level - 1, drop)) {
        empty = false;
        continue;
      }
      slot.store(nullptr, std::memory_order_relaxed);
      if (level == 0) {
        count(static_cast<const WindowNode*>(child), nullptr);
        WindowNode::destroy(static_cast<const WindowNode*>(child));
      } else {
        bytes.fetch_sub(Inner::bytes(level - 1), std::memory_order_relaxed);
        std::free(child);
      }
    }
    return empty;
  }

  void note_dirty(std::uint64_t window) {
    LockGuard lock(dirty_mutex);
    // A window that is filled and cleared in turns must not fill the list.
    if (dirty.size() == dirty.capacity()) {
      sort_unique(dirty);
      dirty.reserve(std::max<std::size_t>(8, 2 * dirty.size()));
    }
    dirty.push_back(window);
  }
};

}  // namespace dynamicfs::extent
