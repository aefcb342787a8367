// Writes a run from entries that come from memory, mixed with older runs that it takes the place of.
#pragma once

#include <span>
#include <vector>

#include "journal/merged_entries.hpp"
#include "journal/run.hpp"

namespace dynamicfs::journal {

// What is added is newer than all of `older`: the rules are those of MergedEntries. With `to_bottom`
// nothing lies behind the older runs, and deletions are not written. `set` and `writer` outlive this.
//
// Threads  One coroutine at a time.
class RunMixer {
 public:
  RunMixer(RunSet& set, RunSet::Runs older, bool to_bottom, RunWriter& writer);

  // Ascending, as RunWriter wants it. Errors of the writer and of reading.
  Task<Result<void>> add(RunEntryKind kind, std::span<const std::byte> key,
                         std::span<const std::byte> value);
  // Writes what the older runs have behind the last entry added. The writer is not finished.
  Task<Result<void>> finish();

 private:
  Task<Result<bool>> look();
  Task<Result<void>> write_older_before(std::span<const std::byte> key);
  Task<Result<void>> write(RunEntryKind kind, std::span<const std::byte> key,
                           std::span<const std::byte> value);
  bool is_deleted(std::span<const std::byte> key);

  RunWriter& writer_;
  const bool to_bottom_;
  MergedEntries older_;
  bool at_entry_ = false;        // older_ shows one that has not been dealt with
  bool at_end_ = false;          // ... or has no more
  std::vector<Bytes> prefixes_;  // deleted; each begins with the one before it
};

}  // namespace dynamicfs::journal
