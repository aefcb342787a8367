// Which checkpoint has what.
//
// Everything modified carries the era of its modification. The checkpoint that begins at the end of
// era E writes all that carries an era <= E and is not installed. When its manifest is durable
// `installed` becomes E + 1; a checkpoint that fails leaves it as it is, so that the next one writes
// the same again and what has come since: nothing is cleared by serialising it.
//
// Invariant  installed <= current. Both only grow.
// Threads    `current` is raised inside ChangeGate::exclusively, so it is constant within a
//            ChangeScope.
#pragma once

#include <atomic>
#include <cstdint>

namespace dynamicfs::journal {

// The era of what came from a run and has not changed since.
inline constexpr std::uint64_t kStoredEra = 0;

struct Eras {
  std::atomic<std::uint64_t> current{1};
  // What carries an era below this is in the durable runs: clean.
  std::atomic<std::uint64_t> installed{1};

  bool is_clean(std::uint64_t era) const { return era < installed.load(std::memory_order_acquire); }
};

}  // namespace dynamicfs::journal
