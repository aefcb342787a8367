// Reading the log back after whatever happened.
//
// The members' copies are read side by side. For each sequence number any copy that is whole, names
// the batch before it and carries the epoch that the pool's history assigns to that sequence will
// do; a copy that lacks the batch is given it. The log ends where no copy has the next batch.
//
// Torn or rotten  One batch is in flight at a time, and it reaches every member before the next one
//                 starts. So at most the last batch can be torn, and a header of any later batch
//                 proves that the missing one was durable and has been damaged since: kCorrupt.
// What is trusted The data of a batch was flushed before the next one was written, so every batch
//                 but the last is true. The last may say that it was written beside the flush of its
//                 data (beside_flush). Then its records count up to the first whose data is not
//                 there: as nobody was told that any of them is durable, all behind it go with it.
//                 (If the batch was acknowledged and a block has rotted on every copy since, this
//                 is a mistake; a journal at rest ends with a batch without data, so it can happen
//                 only within commit_interval of the last change.) Precedent: ext4's
//                 journal_async_commit, whose checksums do not cover data; ours do.
// Crash safety    Copies that lack a batch are written, with bytes another copy has, and the last
//                 batch anew if it was cut; all disks are flushed before the caller may use the
//                 result. Until then no block is allocated, so a second recovery finds the same
//                 log, or cuts it at the same place.
#pragma once

#include <vector>

#include "base/result.hpp"
#include "base/task.hpp"
#include "journal/journal.hpp"
#include "journal/log_space.hpp"
#include "journal/pool.hpp"

namespace dynamicfs::journal {

struct Recovered {
  RecoveryReport report;             // without `took`
  std::vector<LoggedBatch> batches;  // from the manifest's log position on
  LogPosition next;
  Lsn certain;                  // LogFound::certain
  std::vector<DiskId> members;  // have all of them, durably
};

// Salvage  Whoever only wants to have what is left (Replay::salvage) gets the records up to the first
//          damage, which is reported. Disks that are no members count as well: a batch of theirs names
//          its epoch and the batch before it, so what an abandoned session has left there is not taken.

// Hands every record behind the manifest's LSN to `replay`. Errors: kCorrupt (detail: sequence),
// kReadOnly (too many disks failed meanwhile), what `replay` says. With a read-only pool nothing is
// written.
Task<Result<Recovered>> recover(Pool& pool, Replay replay);

}  // namespace dynamicfs::journal
