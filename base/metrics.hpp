// Counters, gauges and histograms that cost one relaxed add on a cache line few threads share.
//
// Each has kShards padded cells; a thread keeps to the cell of its number. Readers sum the cells,
// so a sum taken while writers run is a moment's view, never torn below a value seen before.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dynamicfs {

inline constexpr unsigned kShards = 16;

namespace detail {
inline constexpr unsigned kNoShard = ~0u;
// Initialised by the compiler: looking at it costs one load and no call.
extern constinit thread_local unsigned shard_of_this_thread;
unsigned choose_shard();
}  // namespace detail

// A small number of this thread, dense from 0 while threads are few; taken modulo kShards.
inline unsigned thread_shard() {
  const unsigned shard = detail::shard_of_this_thread;
  return shard != detail::kNoShard ? shard : detail::choose_shard();
}

class Counter {
 public:
  void add(std::uint64_t n = 1) {
    cells_[thread_shard()].value.fetch_add(n, std::memory_order_relaxed);
  }
  std::uint64_t sum() const {
    std::uint64_t total = 0;
    for (const Cell& cell : cells_) total += cell.value.load(std::memory_order_relaxed);
    return total;
  }

 private:
  struct alignas(64) Cell {
    std::atomic<std::uint64_t> value{0};
  };
  std::array<Cell, kShards> cells_;
};

// What there is of something: adds what comes and subtracts what goes. A sum taken meanwhile may
// have seen the one and not the other, so it may be negative for a moment.
class Gauge {
 public:
  void add(std::int64_t n) { cells_[thread_shard()].value.fetch_add(n, std::memory_order_relaxed); }
  std::int64_t sum() const {
    std::int64_t total = 0;
    for (const Cell& cell : cells_) total += cell.value.load(std::memory_order_relaxed);
    return total;
  }

 private:
  struct alignas(64) Cell {
    std::atomic<std::int64_t> value{0};
  };
  std::array<Cell, kShards> cells_;
};

// Powers of two: bucket b holds values in [2^(b-1), 2^b); bucket 0 holds 0. Percentiles are the
// upper bound of the bucket they fall in, so less than twice the true value; the last bucket takes
// whatever is larger. 7 KiB each.
class Histogram {
 public:
  static constexpr std::size_t kBuckets = 48;

  void record(std::uint64_t value) {
    // bit_width() returns an int or what it was given, depending on the library.
    const auto width = static_cast<std::size_t>(std::bit_width(value));
    const std::size_t bucket = width < kBuckets ? width : kBuckets - 1;
    Cell& cell = cells_[thread_shard()];
    cell.buckets[bucket].fetch_add(1, std::memory_order_relaxed);
    cell.sum.fetch_add(value, std::memory_order_relaxed);
  }
  std::uint64_t count() const {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) total += bucket(i);
    return total;
  }
  std::uint64_t sum() const {
    std::uint64_t total = 0;
    for (const Cell& cell : cells_) total += cell.sum.load(std::memory_order_relaxed);
    return total;
  }
  std::uint64_t bucket(std::size_t i) const {
    std::uint64_t total = 0;
    for (const Cell& cell : cells_) total += cell.buckets[i].load(std::memory_order_relaxed);
    return total;
  }
  // `fraction` in (0, 1]; 0 if nothing was recorded.
  std::uint64_t percentile(double fraction) const {
    const std::uint64_t total = count();
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      seen += bucket(i);
      if (total != 0 && static_cast<double>(seen) >= fraction * static_cast<double>(total)) {
        return i == 0 ? 0 : (std::uint64_t{1} << i) - 1;
      }
    }
    return 0;
  }

 private:
  struct alignas(64) Cell {
    std::array<std::atomic<std::uint64_t>, kBuckets> buckets{};
    std::atomic<std::uint64_t> sum{0};
  };
  std::array<Cell, kShards> cells_;
};

}  // namespace dynamicfs
