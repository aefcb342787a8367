// What the runs of a pool say together of a range of keys.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "journal/merged_entries.hpp"

namespace dynamicfs::journal {

// Live entries with low <= key < high of a snapshot, ascending, each key once: its newest version,
// deletions applied. A prefix deletion is honoured only if it is not below `low`: whoever needs
// those begins with the prefix. `high` empty: to the end.
//
// Threads  One coroutine at a time. It may be destroyed between two calls of next(), not within one.
class RunCursor {
 public:
  enum class Mode : std::uint8_t {
    kCached,  // short look-ups: single blocks through the cache, no more than the range asks for
    kStream,  // walks over a lot: pieces of 1 MiB, read ahead, past the cache
  };

  // With `hash`, which every key of the range must have, runs whose filter excludes it are not
  // touched. The set outlives the cursor; of the snapshot the runs that are read are held.
  RunCursor(RunSet& set, std::shared_ptr<const RunSet::Runs> runs, Bytes low, Bytes high, Mode mode,
            std::optional<std::uint64_t> hash = {},
            scheduler::IoClass io_class = scheduler::IoClass::kCritical);

  // Goes on to the next entry; false: there is none. Does not suspend where no block has to be
  // read. kCorrupt (detail: block); then the cursor is of no use any more.
  Task<Result<bool>> next();
  // Valid until the next call of next().
  std::span<const std::byte> key() const { return entries_.key(); }
  std::span<const std::byte> value() const { return entries_.value(); }
  // Where the set tolerates damage: see MergedEntries.
  bool in_doubt() const { return entries_.in_doubt(); }
  const std::vector<MergedEntries::Lost>& lost() const { return entries_.lost(); }

 private:
  MergedEntries entries_;
};

}  // namespace dynamicfs::journal
