// Several runs become one: when, and how.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "journal/run_set.hpp"

namespace dynamicfs::journal {

// Which runs to merge now: [first, second) of the runs whose sizes are given, newest first; nothing
// if they are well as they are.
//
// Rule  The group begins with the newest run and takes the next one while that is at most four times
//       as large as all newer ones together. It is merged if it has four runs, or if there are more
//       than kRunsMax / 2; then it has at least four whatever their sizes.
// Cost  A run that is not the newest joins a group only behind others that have a quarter of its
//       size, so its entries come to lie in a run at least 5/4 as large (less what is deleted or
//       superseded, which is never written again). As the newest a run is merged at most once: what
//       a merge makes is too small for the run behind it, which stopped that merge, until a newer
//       run comes. So of n bytes written in checkpoints of c bytes each, every byte is written again
//       at most 1 + log(n / c) / log(5/4) times; mostly far less, since equal runs go together by
//       fours. The exception for too many runs needs sizes that span a factor of 4^12.
// Reads With checkpoints of about equal size, beside at most three runs that wait each is more than
//       three times as large as all newer ones together, so there are about log(n / c) / log(4).
// After O'Neil et al. 1996; the form is that of the size-tiered compaction of Cassandra and of
//       RocksDB's universal compaction, which compares a run with the sum of the newer ones, too.
std::optional<std::pair<std::size_t, std::size_t>> choose_merge(
    std::span<const std::uint64_t> bytes_newest_first);

// Writes what `inputs` say together into `writer`, and finishes it. They are adjacent runs of the
// set, newest first. Deletions stay, for the runs behind; `to_bottom`: there are none behind, and
// deletions go. Streams in the background class. `go_on`, if given, is asked now and then; false: kShutdown.
// Errors of the writer and of reading, too; then the writer is of no use any more. `set` and `writer`
// outlive it.
Task<Result<RunRef>> merge_runs(RunSet& set, RunSet::Runs inputs, bool to_bottom, RunWriter& writer,
                                std::function<bool()> go_on = {});

}  // namespace dynamicfs::journal
