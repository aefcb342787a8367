#include "extent/extent_map.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "base/assert.hpp"
#include "extent/map_tree.hpp"
#include "extent/window_node.hpp"

namespace dynamicfs::extent {
namespace {

// The end of the range, at most the end of any file.
constexpr std::uint64_t range_end(FileBlock first, std::uint64_t count) {
  if (first.raw >= kFileBlocksEnd) return first.raw;
  return count > kFileBlocksEnd - first.raw ? kFileBlocksEnd : first.raw + count;
}

// One window's part of a range.
struct Part {
  std::uint64_t window;
  std::uint32_t from;  // blocks [from, to) of the window
  std::uint32_t to;
};
constexpr Part part_of(std::uint64_t window, std::uint64_t first, std::uint64_t end) {
  const std::uint64_t start = window * kWindowBlocks;
  return {.window = window,
          .from = static_cast<std::uint32_t>(first > start ? first - start : 0),
          .to = static_cast<std::uint32_t>(std::min(end - start, kWindowBlocks))};
}
constexpr std::uint64_t window_of(std::uint64_t block) { return block / kWindowBlocks; }

// Calls each(mapping, crcs) for what `node` has in the part, cut to it.
template <class F>
void visit(const WindowNode* node, const Part& part, F each) {
  if (node == nullptr) return;
  const auto firsts = node->first();
  const auto lasts = node->last();
  const auto extents = node->extents();
  const std::uint32_t* const crcs = node->crcs().data();
  for (std::size_t i = node->find(static_cast<std::uint8_t>(part.from)); i < node->count(); ++i) {
    if (firsts[i] >= part.to) break;
    const std::uint32_t first = std::max<std::uint32_t>(firsts[i], part.from);
    const std::uint32_t end = std::min<std::uint32_t>(lasts[i] + 1u, part.to);
    const NodeExtent& extent = extents[i];
    const std::uint32_t skipped = first - firsts[i];
    const bool data = extent.kind == MappingKind::kData;
    Mapping mapping;
    mapping.first = FileBlock{part.window * kWindowBlocks + first};
    mapping.count = static_cast<std::uint16_t>(end - first);
    mapping.kind = extent.kind;
    mapping.block = static_cast<std::uint16_t>(extent.block + (data ? skipped : 0));
    mapping.chunk = extent.chunk;
    mapping.generation = extent.generation;
    each(mapping, data ? crcs + extent.crc_start + skipped : nullptr);
  }
}

// What `node` has of blocks [from, to) of its window, copied to the end of `out`. What every read
// does, so it is written out, all in registers: visit() would make each mapping on the stack, and
// copying in one piece what was stored field by field waits for the stores.
[[gnu::noinline]] void append(const WindowNode* node, std::uint64_t window, std::uint32_t from,
                              std::uint32_t to, MappingSet& out) {
  if (node == nullptr) return;
  const std::size_t count = node->count();
  const std::uint8_t* const firsts = node->first().data();
  const std::uint8_t* const lasts = node->last().data();
  const NodeExtent* const extents = node->extents().data();
  const std::uint32_t* const crcs = node->crcs().data();
  for (std::size_t i = node->find(static_cast<std::uint8_t>(from)); i < count; ++i) {
    const std::uint32_t extent_first = firsts[i];
    if (extent_first >= to) break;
    const std::uint32_t first = std::max(extent_first, from);
    const std::uint32_t blocks = std::min<std::uint32_t>(lasts[i] + 1u, to) - first;
    const NodeExtent& extent = extents[i];
    Mapping& mapping = out.mappings.emplace_back();
    mapping.first = FileBlock{window * kWindowBlocks + first};
    mapping.count = static_cast<std::uint16_t>(blocks);
    mapping.kind = extent.kind;
    mapping.block = extent.block;
    mapping.chunk = extent.chunk;
    mapping.generation = extent.generation;
    if (extent.kind == MappingKind::kData) {
      const std::uint32_t skipped = first - extent_first;
      mapping.block = static_cast<std::uint16_t>(extent.block + skipped);
      mapping.crc_index = static_cast<std::uint32_t>(out.crcs.size());
      out.crcs.append(crcs + extent.crc_start + skipped, blocks);
    }
  }
}
void append(const WindowNode* node, const Part& part, MappingSet& out) {
  append(node, part.window, part.from, part.to, out);
}

// The data extent that has exactly these blocks, if there is one.
std::optional<std::size_t> extent_of(const WindowNode* node, const Part& part) {
  if (node == nullptr) return std::nullopt;
  const std::size_t i = node->find(static_cast<std::uint8_t>(part.from));
  if (i == node->count() || node->first()[i] != part.from || node->last()[i] + 1u != part.to ||
      node->extents()[i].kind != MappingKind::kData) {
    return std::nullopt;
  }
  return i;
}

void free_part(const WindowNode* node, const Part& part, Freed& freed) {
  visit(node, part, [&](const Mapping& mapping, const std::uint32_t*) {
    if (mapping.kind == MappingKind::kReserved) {
      freed.reserved_blocks += mapping.count;
      return;
    }
    if (!freed.pieces.empty()) {
      Piece& before = freed.pieces.back();
      if (before.chunk == mapping.chunk && before.block + before.count == mapping.block) {
        before.count = static_cast<std::uint16_t>(before.count + mapping.count);
        return;
      }
    }
    freed.pieces.push_back(
        {.chunk = mapping.chunk, .block = mapping.block, .count = mapping.count});
  });
}
}  // namespace

// Brackets a change that readers must see whole although it replaces more than one node.
class FileMap::ChangeOfSeveral {
 public:
  explicit ChangeOfSeveral(Spread* spread) : spread_(spread) {
    if (spread_ != nullptr) spread_->begun.fetch_add(1, std::memory_order_seq_cst);
  }
  ~ChangeOfSeveral() {
    if (spread_ != nullptr) spread_->finished.fetch_add(1, std::memory_order_seq_cst);
  }
  ChangeOfSeveral(const ChangeOfSeveral&) = delete;
  ChangeOfSeveral& operator=(const ChangeOfSeveral&) = delete;

 private:
  Spread* spread_;
};

FileMap::FileMap(MapContext& context) : context_(context) {}

FileMap::FileMap(MapContext& context, Stored stored)
    : context_(context),
      data_blocks_(stored.data_blocks),
      reserved_blocks_(stored.reserved_blocks),
      stored_(true) {}

FileMap::~FileMap() {
  const std::uintptr_t root = root_.load(std::memory_order_acquire);
  context_.bytes.add(-static_cast<std::int64_t>(memory_bytes() - sizeof *this));
  if ((root & kSpreadTag) == 0) {
    WindowNode::destroy(reinterpret_cast<WindowNode*>(root));
    return;
  }
  const std::unique_ptr<Spread> tree(spread());
  const std::uintptr_t top = tree->top.load(std::memory_order_acquire);
  Inner::destroy(Spread::inner(top), Spread::height(top) - 1);
}

void FileMap::set_stored() {
  if (is_stored()) return;
  set_whole();
  stored_.store(true, std::memory_order_release);
}

FileMap::Spread* FileMap::spread() const {
  const std::uintptr_t root = root_.load(std::memory_order_acquire);
  return (root & kSpreadTag) != 0 ? reinterpret_cast<Spread*>(root & ~kSpreadTag) : nullptr;
}

// A file that grows out of its first window gets a tree. The writer of window 0 may be replacing
// its node meanwhile: whichever compare-and-swap of root_ comes second sees the first.
FileMap::Spread& FileMap::make_spread() {
  if (Spread* const present = spread()) return *present;
  auto fresh = std::make_unique<Spread>(context_.bytes);
  Inner* const leaf = Inner::create(0);
  fresh->top.store(Spread::tagged(leaf, 1), std::memory_order_relaxed);
  fresh->note_dirty(0);  // or it is found to be clean
  const std::uint64_t tree_bytes = sizeof(Spread) + Inner::bytes(0);
  const EpochTracker::Pin pin = context_.memory.pin();
  std::uintptr_t root = root_.load(std::memory_order_acquire);
  while ((root & kSpreadTag) == 0) {
    auto* const node = reinterpret_cast<WindowNode*>(root);
    const WindowNode::Counts counts = WindowNode::counts(node);
    leaf->slot(0).store(node, std::memory_order_relaxed);
    fresh->extents.store(counts.extents, std::memory_order_relaxed);
    fresh->bytes.store(tree_bytes + counts.bytes, std::memory_order_relaxed);
    if (root_.compare_exchange_strong(root,
                                      reinterpret_cast<std::uintptr_t>(fresh.get()) | kSpreadTag,
                                      std::memory_order_acq_rel)) {
      context_.bytes.add(static_cast<std::int64_t>(tree_bytes));
      return *fresh.release();
    }
  }
  std::free(leaf);
  return *spread();
}

// For the window's writer, or inside a pin.
const WindowNode* FileMap::load(std::uint64_t window) const {
  const std::uintptr_t root = root_.load(std::memory_order_acquire);
  if ((root & kSpreadTag) == 0)
    return window == 0 ? reinterpret_cast<const WindowNode*>(root) : nullptr;
  const Slot* const slot = reinterpret_cast<Spread*>(root & ~kSpreadTag)->find(window);
  return slot != nullptr ? static_cast<const WindowNode*>(slot->load(std::memory_order_acquire))
                         : nullptr;
}

bool FileMap::is_dirty(const WindowNode* node) const {
  return node != nullptr && !context_.eras.is_clean(node->era());
}

std::optional<WindowId> FileMap::absent(FileBlock first, std::uint64_t count) const {
  const std::uint64_t end = range_end(first, count);
  if (is_whole() || first.raw >= end) return std::nullopt;
  const std::uint64_t window_last = window_of(end - 1);
  for (std::uint64_t window = window_of(first.raw); window <= window_last; ++window) {
    if (load(window) == nullptr) return WindowId{window};
  }
  return std::nullopt;
}

// `old` is what the builder began with. Beside us nobody replaces anything, but somebody who looked
// the window up before the map was known to be whole may note that it is a hole.
void FileMap::publish(std::uint64_t window, const WindowNode* old, const WindowBuilder& builder) {
  publish(window, old,
          builder.is_hole() && !is_stored()
              ? nullptr
              : builder.build(context_.eras.current.load(std::memory_order_acquire)));
}

// `fresh` may be nullptr: a hole.
void FileMap::publish(std::uint64_t window, const WindowNode* old, WindowNode* fresh) {
  DFS_ASSERT(old != nullptr || is_whole());  // what the runs have would be lost
  const auto finish = [&] {
    const WindowNode::Counts before = WindowNode::counts(old);
    const WindowNode::Counts after = WindowNode::counts(fresh);
    move_counter(data_blocks_, before.data_blocks, after.data_blocks);
    move_counter(reserved_blocks_, before.reserved_blocks, after.reserved_blocks);
    if (before.bytes != after.bytes) {
      context_.bytes.add(std::int64_t{after.bytes} - std::int64_t{before.bytes});
    }
    if (old != nullptr) context_.memory.retire(const_cast<WindowNode*>(old), before.bytes);
  };
  const auto take = [&](const WindowNode* before) {
    DFS_ASSERT(before == old || (old == nullptr && before->is_hole()));
    old = before;
  };
  if (window == 0 && spread() == nullptr) {
    auto expected = reinterpret_cast<std::uintptr_t>(old);
    while ((expected & kSpreadTag) == 0) {
      take(reinterpret_cast<const WindowNode*>(expected));
      if (root_.compare_exchange_strong(expected, reinterpret_cast<std::uintptr_t>(fresh),
                                        std::memory_order_acq_rel)) {
        finish();
        return;
      }
    }
  }
  Spread& tree = make_spread();
  Slot& slot = tree.make(window);
  // A dirty window is in the list already.
  if (fresh != nullptr && !is_dirty(old)) tree.note_dirty(window);
  {
    // A window that becomes empty looks to a reader of several windows as if it had never been
    // filled, so the emptying is announced like a change of several.
    const ChangeOfSeveral announced(fresh == nullptr || fresh->is_hole() ? &tree : nullptr);
    take(static_cast<const WindowNode*>(slot.exchange(fresh, std::memory_order_acq_rel)));
  }
  tree.count(old, fresh);
  finish();
}

// Puts a node from the runs where none is, or destroys it.
void FileMap::add_stored(std::uint64_t window, WindowNode* node) {
  const auto bytes = std::int64_t{WindowNode::counts(node).bytes};
  if (window == 0 && spread() == nullptr) {
    std::uintptr_t expected = 0;
    if (root_.compare_exchange_strong(expected, reinterpret_cast<std::uintptr_t>(node),
                                      std::memory_order_acq_rel)) {
      context_.bytes.add(bytes);
      return;
    }
    if ((expected & kSpreadTag) == 0) {
      WindowNode::destroy(node);
      return;
    }
  }
  Spread& tree = make_spread();
  void* expected = nullptr;
  if (!tree.make(window).compare_exchange_strong(expected, node, std::memory_order_acq_rel)) {
    WindowNode::destroy(node);
    return;
  }
  tree.count(nullptr, node);
  context_.bytes.add(bytes);
}

// The first window at or behind `from` that is in memory, nullptr if there is none. Inside a pin.
const WindowNode* FileMap::next_window(std::uint64_t from, std::uint64_t* found) const {
  Spread* const tree = spread();
  if (tree == nullptr) {
    *found = 0;
    return from == 0 ? load(0) : nullptr;
  }
  const std::uintptr_t top = tree->top.load(std::memory_order_acquire);
  const unsigned height = Spread::height(top);
  std::uint64_t window = from;
  while (window < windows_below(height)) {
    Inner* at = Spread::inner(top);
    unsigned level = height - 1;
    while (true) {
      // Along this inner node to its next child; none: on behind all that it covers.
      const std::size_t children = std::size_t{1} << level_bits(level);
      std::size_t i = Inner::index(window, level);
      void* child = nullptr;
      for (; i < children; ++i) {
        child = at->slot(i).load(std::memory_order_acquire);
        if (child != nullptr) break;
        // The next sibling begins at a multiple of what one child covers.
        window = ((window >> level_shift(level)) + 1) << level_shift(level);
      }
      if (child == nullptr) break;
      if (level == 0) {
        *found = window;
        return static_cast<const WindowNode*>(child);
      }
      at = static_cast<Inner*>(child);
      --level;
    }
  }
  return nullptr;
}

// Calls each(node, part) for the windows in memory with a part in [first, end). Inside a pin.
template <class F>
void FileMap::for_nodes(FileBlock first, std::uint64_t end, F each) const {
  if (first.raw >= end) return;
  std::uint64_t window = window_of(first.raw);
  const std::uint64_t window_last = window_of(end - 1);
  if (window == window_last) {
    if (const WindowNode* const node = load(window)) each(node, part_of(window, first.raw, end));
    return;
  }
  while (const WindowNode* const node = next_window(window, &window)) {
    if (window > window_last) break;
    each(node, part_of(window, first.raw, end));
    ++window;
  }
}

void FileMap::snapshot(FileBlock first, std::uint64_t count, MappingSet& out) const {
  const EpochTracker::Pin pin = context_.memory.pin();
  for_nodes(first, range_end(first, count),
            [&](const WindowNode* node, const Part& part) { append(node, part, out); });
}

// Method: collect twice (Afek et al., "Atomic snapshots of shared memory", 1993). A node that is
// there both times was there in between: it cannot be freed and come again inside the pin.
bool FileMap::try_snapshot(FileBlock first, std::uint64_t count, MappingSet& out) const {
  const std::uint64_t end = range_end(first, count);
  if (first.raw >= end) return true;
  const std::uint64_t window_first = window_of(first.raw);
  const std::uint64_t window_last = window_of(end - 1);
  const EpochTracker::Pin pin = context_.memory.pin();
  if (window_first == window_last) {
    append(load(window_first), window_first, first.raw % kWindowBlocks,
           static_cast<std::uint32_t>(end - window_first * kWindowBlocks), out);
    return true;
  }
  // Loaded once: beside a writer that is making the tree, window 0 of the tree without the rest of it
  // would be a change half done.
  const std::uintptr_t root = root_.load(std::memory_order_acquire);
  if ((root & kSpreadTag) == 0) {
    if (window_first != 0) return true;
    append(reinterpret_cast<const WindowNode*>(root), part_of(0, first.raw, end), out);
    return true;
  }
  const auto* const tree = reinterpret_cast<const Spread*>(root & ~kSpreadTag);
  const std::uint64_t finished = tree->finished.load(std::memory_order_seq_cst);
  const std::uint64_t begun = tree->begun.load(std::memory_order_seq_cst);
  if (begun != finished) return false;
  const std::size_t mappings_before = out.mappings.size();
  const std::size_t crcs_before = out.crcs.size();
  // One request covers two or three windows as a rule.
  std::vector<const WindowNode*> nodes;
  nodes.reserve(window_last - window_first + 1);
  for (std::uint64_t window = window_first; window <= window_last; ++window) {
    nodes.push_back(load(window));
    append(nodes.back(), part_of(window, first.raw, end), out);
  }
  bool same = true;
  for (std::size_t i = 0; i < nodes.size(); ++i) same &= load(window_first + i) == nodes[i];
  same &= tree->begun.load(std::memory_order_seq_cst) == begun;
  if (!same) {
    out.mappings.shrink(mappings_before);
    out.crcs.shrink(crcs_before);
  }
  return same;
}

bool FileMap::unchanged(FileBlock first, std::uint64_t count, const MappingSet& seen) const {
  const std::uint64_t end = range_end(first, count);
  const EpochTracker::Pin pin = context_.memory.pin();
  auto next = std::find_if(seen.mappings.begin(), seen.mappings.end(), [&](const Mapping& mapping) {
    return mapping.first.raw + mapping.count > first.raw;
  });
  bool same = true;
  for_nodes(first, end, [&](const WindowNode* node, const Part& part) {
    visit(node, part, [&](const Mapping& now, const std::uint32_t*) {
      if (next == seen.mappings.end() || !same) {
        same = false;
        return;
      }
      // What was seen may reach over the range on both sides.
      const std::uint64_t seen_first = std::max(next->first.raw, first.raw);
      const std::uint64_t seen_end = std::min<std::uint64_t>(next->first.raw + next->count, end);
      const std::uint64_t skipped =
          next->kind == MappingKind::kData ? seen_first - next->first.raw : 0;
      same = now.first.raw == seen_first && now.first.raw + now.count == seen_end &&
             now.kind == next->kind && now.chunk == next->chunk &&
             now.block == next->block + skipped && now.generation == next->generation;
      ++next;
    });
  });
  return same && (next == seen.mappings.end() || next->first.raw >= end);
}

std::optional<FileBlock> FileMap::next_data(FileBlock from) const {
  const EpochTracker::Pin pin = context_.memory.pin();
  std::uint64_t window = window_of(from.raw);
  while (const WindowNode* const node = next_window(window, &window)) {
    std::optional<FileBlock> found;
    visit(node, part_of(window, from.raw, kFileBlocksEnd),
          [&](const Mapping& mapping, const std::uint32_t*) {
            if (!found && mapping.kind == MappingKind::kData) found = mapping.first;
          });
    if (found) return found;
    ++window;
  }
  return std::nullopt;
}

FileBlock FileMap::next_hole(FileBlock from) const {
  const EpochTracker::Pin pin = context_.memory.pin();
  FileBlock at = from;
  while (at.raw < kFileBlocksEnd) {
    const std::uint64_t window = window_of(at.raw);
    visit(load(window), part_of(window, at.raw, kFileBlocksEnd),
          [&](const Mapping& mapping, const std::uint32_t*) {
            if (mapping.first == at && mapping.kind == MappingKind::kData) at.raw += mapping.count;
          });
    if (window_of(at.raw) == window) break;
  }
  return at;
}

void FileMap::put(FileBlock first, std::span<const Piece> pieces,
                  std::span<const std::uint32_t> crcs, Generation generation, Freed& freed) {
  const std::uint64_t end = first.raw + crcs.size();
  DFS_ASSERT(!crcs.empty() && end <= kFileBlocksEnd);
  const std::uint64_t window_last = window_of(end - 1);
  const bool several = window_of(first.raw) != window_last;
  const ChangeOfSeveral announced(several ? &make_spread() : nullptr);
  std::size_t piece = 0;
  std::uint32_t piece_used = 0;
  const std::uint32_t* next_crc = crcs.data();
  for (std::uint64_t window = window_of(first.raw); window <= window_last; ++window) {
    const Part part = part_of(window, first.raw, end);
    const WindowNode* const old = load(window);
    if (old != nullptr) old->prefetch_all();
    // Where one extent takes the place of another, as in a file that is overwritten in pieces of one
    // size, the rest is copied as it lies.
    if (const std::optional<std::size_t> same = extent_of(old, part);
        same && piece < pieces.size() && pieces[piece].count - piece_used >= part.to - part.from) {
      const Piece& source = pieces[piece];
      WindowNode* const fresh =
          WindowBuilder::replace(*old, *same,
                                 {.generation = generation,
                                  .chunk = source.chunk,
                                  .block = static_cast<std::uint16_t>(source.block + piece_used)},
                                 next_crc, context_.eras.current.load(std::memory_order_acquire));
      next_crc += part.to - part.from;
      piece_used += part.to - part.from;
      if (piece_used == source.count) {
        ++piece;
        piece_used = 0;
      }
      free_part(old, part, freed);
      publish(window, old, fresh);
      continue;
    }
    WindowBuilder builder;
    builder.copy(old, 0, part.from);
    for (std::uint32_t block = part.from; block < part.to;) {
      DFS_ASSERT(piece < pieces.size() && pieces[piece].count > piece_used);
      const Piece& source = pieces[piece];
      const std::uint32_t blocks =
          std::min<std::uint32_t>(part.to - block, source.count - piece_used);
      builder.add(block, block + blocks - 1,
                  {.generation = generation,
                   .chunk = source.chunk,
                   .block = static_cast<std::uint16_t>(source.block + piece_used)},
                  next_crc);
      next_crc += blocks;
      block += blocks;
      piece_used += blocks;
      if (piece_used == source.count) {
        ++piece;
        piece_used = 0;
      }
    }
    builder.copy(old, part.to, kWindowBlocks);
    freed.scattered |=
        builder.count() >= kScatteredExtents && WindowNode::counts(old).extents < kScatteredExtents;
    free_part(old, part, freed);
    publish(window, old, builder);
  }
  DFS_ASSERT(piece == pieces.size());
}

void FileMap::replace(FileBlock first, std::uint64_t count, std::span<const PutView> shares,
                      Generation generation, Freed& freed) {
  const std::uint64_t end = range_end(first, count);
  DFS_ASSERT(first.raw < end);
  const std::uint64_t window_last = window_of(end - 1);
  const bool several = window_of(first.raw) != window_last;
  const ChangeOfSeveral announced(several ? &make_spread() : nullptr);
  std::size_t share = 0;
  std::size_t piece = 0;
  std::uint32_t piece_used = 0;
  std::uint64_t share_used = 0;
  for (std::uint64_t window = window_of(first.raw); window <= window_last; ++window) {
    const Part part = part_of(window, first.raw, end);
    const std::uint64_t start = window * kWindowBlocks;
    const WindowNode* const old = load(window);
    WindowBuilder builder;
    builder.copy(old, 0, part.from);
    while (share < shares.size()) {
      const PutView& from = shares[share];
      const std::uint64_t block = from.first.raw + share_used;
      if (block >= start + part.to) break;
      const Piece& source = from.pieces[piece];
      const auto blocks = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(start + part.to - block, source.count - piece_used));
      const auto at = static_cast<std::uint32_t>(block - start);
      builder.add(at, at + blocks - 1,
                  {.generation = generation,
                   .chunk = source.chunk,
                   .block = static_cast<std::uint16_t>(source.block + piece_used)},
                  from.crcs.data() + share_used);
      share_used += blocks;
      piece_used += blocks;
      if (piece_used == source.count) {
        ++piece;
        piece_used = 0;
      }
      if (share_used == from.crcs.size()) {
        DFS_ASSERT(piece == from.pieces.size());
        ++share;
        share_used = 0;
        piece = 0;
      }
    }
    builder.copy(old, part.to, kWindowBlocks);
    if (builder.is_hole() && (old == nullptr || old->is_hole())) continue;
    free_part(old, part, freed);
    publish(window, old, builder);
  }
  DFS_ASSERT(share == shares.size());
}

std::uint64_t FileMap::reserve(FileBlock first, std::uint64_t count, Generation generation) {
  const std::uint64_t end = range_end(first, count);
  if (first.raw >= end) return 0;
  std::uint64_t reserved = 0;
  const std::uint64_t window_last = window_of(end - 1);
  for (std::uint64_t window = window_of(first.raw); window <= window_last; ++window) {
    const Part part = part_of(window, first.raw, end);
    const WindowNode* const old = load(window);
    const std::uint64_t reserved_before = reserved;
    WindowBuilder builder;
    builder.copy(old, 0, part.from);
    std::uint32_t block = part.from;
    const auto fill_to = [&](std::uint32_t to) {
      if (block >= to) return;
      builder.add(block, to - 1,
                  {.generation = generation, .chunk = {}, .kind = MappingKind::kReserved}, nullptr);
      reserved += to - block;
    };
    visit(old, part, [&](const Mapping& mapping, const std::uint32_t*) {
      const auto start = static_cast<std::uint32_t>(mapping.first.raw % kWindowBlocks);
      fill_to(start);
      builder.copy(old, start, start + mapping.count);
      block = start + mapping.count;
    });
    fill_to(part.to);
    if (reserved == reserved_before) continue;
    builder.copy(old, part.to, kWindowBlocks);
    publish(window, old, builder);
  }
  return reserved;
}

void FileMap::clear(FileBlock first, std::uint64_t count, Freed& freed) {
  const std::uint64_t end = range_end(first, count);
  if (first.raw >= end) return;
  const std::uint64_t window_last = window_of(end - 1);
  const ChangeOfSeveral announced(window_of(first.raw) != window_last ? spread() : nullptr);
  std::uint64_t window = window_of(first.raw);
  while (true) {
    const WindowNode* old = nullptr;
    {
      // The way down may lead past windows of others; the window found is ours.
      const EpochTracker::Pin pin = context_.memory.pin();
      old = next_window(window, &window);
    }
    if (old == nullptr || window > window_last) break;
    if (!old->is_hole()) {
      const Part part = part_of(window, first.raw, end);
      WindowBuilder builder;
      builder.copy(old, 0, part.from);
      builder.copy(old, part.to, kWindowBlocks);
      free_part(old, part, freed);
      publish(window, old, builder);
    }
    ++window;
  }
}

std::uint64_t FileMap::holes(FileBlock first, std::uint64_t count) const {
  const std::uint64_t end = range_end(first, count);
  if (first.raw >= end) return 0;
  std::uint64_t mapped = 0;
  const EpochTracker::Pin pin = context_.memory.pin();
  for_nodes(first, end, [&](const WindowNode* node, const Part& part) {
    visit(node, part,
          [&](const Mapping& mapping, const std::uint32_t*) { mapped += mapping.count; });
  });
  return end - first.raw - mapped;
}

std::uint64_t FileMap::extents() const {
  const EpochTracker::Pin pin = context_.memory.pin();
  const Spread* const tree = spread();
  return tree != nullptr ? tree->extents.load(std::memory_order_relaxed)
                         : WindowNode::counts(load(0)).extents;
}

std::uint64_t FileMap::memory_bytes() const {
  const EpochTracker::Pin pin = context_.memory.pin();
  const Spread* const tree = spread();
  return sizeof *this + (tree != nullptr ? tree->bytes.load(std::memory_order_relaxed)
                                         : WindowNode::counts(load(0)).bytes);
}

Result<void> FileMap::load_window(WindowId window, std::span<const std::byte> encoded) {
  if (window.raw >= kFileBlocksEnd / kWindowBlocks) {
    return error(Code::kFormatInvalid, window.raw);
  }
  if (load(window.raw) == nullptr) add_stored(window.raw, TRY(decode_window(encoded)));
  return {};
}

void FileMap::note_hole(WindowId window) {
  if (load(window.raw) != nullptr) return;
  WindowBuilder empty;
  add_stored(window.raw, empty.build(journal::kStoredEra));
}

void FileMap::for_each_dirty(
    const std::function<void(WindowId, std::optional<std::span<const std::byte>>)>& each) {
  std::vector<std::uint64_t> windows{0};
  if (Spread* const tree = spread()) {
    LockGuard lock(tree->dirty_mutex);
    sort_unique(tree->dirty);
    std::erase_if(tree->dirty, [&](std::uint64_t window) { return !is_dirty(load(window)); });
    windows = tree->dirty;
  }
  Bytes encoded;
  for (const std::uint64_t window : windows) {
    const WindowNode* const node = load(window);
    if (!is_dirty(node)) continue;
    if (node->is_hole()) {
      each(WindowId{window}, std::nullopt);
      continue;
    }
    encoded.clear();
    encode_window(*node, encoded);
    each(WindowId{window}, encoded);
  }
}

bool FileMap::has_dirty() const {
  Spread* const tree = spread();
  if (tree == nullptr) return is_dirty(load(0));
  LockGuard lock(tree->dirty_mutex);
  return std::ranges::any_of(tree->dirty,
                             [&](std::uint64_t window) { return is_dirty(load(window)); });
}

void FileMap::for_each_window(
    const std::function<void(WindowId, std::span<const std::byte>)>& each) const {
  Bytes encoded;
  std::uint64_t window = 0;
  while (const WindowNode* const node = next_window(window, &window)) {
    if (!node->is_hole()) {
      encoded.clear();
      encode_window(*node, encoded);
      each(WindowId{window}, encoded);
    }
    ++window;
  }
}

std::uint64_t FileMap::drop_clean() {
  if (!is_stored()) return 0;
  whole_.store(false, std::memory_order_release);
  const std::uint64_t before = memory_bytes();
  if (Spread* const tree = spread()) {
    const std::uintptr_t top = tree->top.load(std::memory_order_acquire);
    const bool empty = tree->prune(Spread::inner(top), Spread::height(top) - 1,
                                   [&](const WindowNode* node) { return !is_dirty(node); });
    if (empty) {
      std::free(Spread::inner(top));
      std::unique_ptr<Spread>(tree).reset();
      root_.store(0, std::memory_order_release);
    }
  } else if (const WindowNode* const node = load(0); node != nullptr && !is_dirty(node)) {
    WindowNode::destroy(node);
    root_.store(0, std::memory_order_release);
  }
  const std::uint64_t freed = before - memory_bytes();
  context_.bytes.add(-static_cast<std::int64_t>(freed));
  return freed;
}

void FileMap::for_each(const std::function<void(const Mapping&)>& each) const {
  std::uint64_t window = 0;
  while (const WindowNode* const node = next_window(window, &window)) {
    visit(node, part_of(window, 0, kFileBlocksEnd),
          [&](const Mapping& mapping, const std::uint32_t*) { each(mapping); });
    ++window;
  }
}

}  // namespace dynamicfs::extent
