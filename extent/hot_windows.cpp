#include "extent/hot_windows.hpp"

#include <algorithm>
#include <chrono>

#include "base/assert.hpp"
#include "base/hash.hpp"

namespace dynamicfs::extent {
namespace {

// A score of 1 is one whole window.
constexpr std::uint32_t kOne = 4096;
constexpr std::uint32_t kHotScore = 7 * kOne / 4;  // twice within seconds, some of it decayed
constexpr std::uint32_t kRandomRead = kOne / 8;
constexpr std::uint32_t kScoreMax = (1U << 24) - 1;
// Time is kept in ticks; the score is halved once for every kHalfLifeTicks, and in between linearly.
constexpr Duration kTick = std::chrono::milliseconds{250};
constexpr std::uint32_t kHalfLifeTicks = 40;

// A cell: 24 bits of score, 16 of the tick it is as of, 8 of where the last read ended (a block of
// the window, 256 as 0), 16 that tell windows of one cell apart.
struct Cell {
  std::uint32_t score = 0;
  std::uint16_t tick = 0;
  std::uint8_t end = 0;
  std::uint16_t tag = 0;
};

Cell unpack(std::uint64_t bits) {
  return {.score = static_cast<std::uint32_t>(bits & kScoreMax),
          .tick = static_cast<std::uint16_t>(bits >> 24),
          .end = static_cast<std::uint8_t>(bits >> 40),
          .tag = static_cast<std::uint16_t>(bits >> 48)};
}

std::uint64_t pack(const Cell& cell) {
  return std::uint64_t{cell.score} | std::uint64_t{cell.tick} << 24 |
         std::uint64_t{cell.end} << 40 | std::uint64_t{cell.tag} << 48;
}

std::uint16_t tick_of(TimePoint now) {
  return static_cast<std::uint16_t>(now.since_origin / kTick);
}

// The score after it has aged from its tick to this one. Ticks wrap after four and a half hours;
// what is that old may look young, and is worn down like any other.
std::uint32_t aged(const Cell& cell, std::uint16_t tick) {
  const std::uint32_t ticks = static_cast<std::uint16_t>(tick - cell.tick);
  const std::uint32_t halvings = ticks / kHalfLifeTicks;
  if (halvings >= 24) return 0;
  const std::uint32_t halved = cell.score >> halvings;
  return halved - halved / 2 * (ticks % kHalfLifeTicks) / kHalfLifeTicks;
}

}  // namespace

HotWindows::HotWindows() : cells_(std::make_unique<std::atomic<std::uint64_t>[]>(kCells)) {}

bool HotWindows::note(InodeId inode, FileBlock first, std::uint64_t count, TimePoint now) {
  DFS_ASSERT(count > 0);
  const std::uint16_t tick = tick_of(now);
  const std::uint64_t end = first.raw + count;
  bool all_hot = true;
  for (std::uint64_t at = first.raw; at < end;) {
    const std::uint64_t window = at / kWindowBlocks;
    const std::uint64_t stop = std::min(end, (window + 1) * kWindowBlocks);
    const std::uint64_t hash = mix(mix(inode.raw) + window);
    std::atomic<std::uint64_t>& slot = cells_[hash % kCells];
    const auto tag = static_cast<std::uint16_t>(hash >> 48);

    Cell cell = unpack(slot.load(std::memory_order_relaxed));
    cell.score = aged(cell, tick);
    cell.tick = tick;
    const bool goes_on = cell.tag == tag && cell.end == at % kWindowBlocks;
    auto read = static_cast<std::uint32_t>((stop - at) * kOne / kWindowBlocks);
    if (!goes_on) read = std::max(read, kRandomRead);
    if (cell.tag == tag) {
      cell.score = std::min(cell.score + read, kScoreMax);
      cell.end = static_cast<std::uint8_t>(stop % kWindowBlocks);
    } else if (cell.score > read) {
      cell.score -= read;
    } else {
      cell.score = read - cell.score;
      cell.tag = tag;
      cell.end = static_cast<std::uint8_t>(stop % kWindowBlocks);
    }
    slot.store(pack(cell), std::memory_order_relaxed);
    all_hot = all_hot && cell.tag == tag && cell.score >= kHotScore;
    at = stop;
  }
  return all_hot;
}

std::size_t HotWindows::hot(TimePoint now) const {
  const std::uint16_t tick = tick_of(now);
  return static_cast<std::size_t>(
      std::count_if(cells_.get(), cells_.get() + kCells, [tick](const auto& slot) {
        return aged(unpack(slot.load(std::memory_order_relaxed)), tick) >= kHotScore;
      }));
}

}  // namespace dynamicfs::extent
