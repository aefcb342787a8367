// Reading the log back after whatever happened.
//
// The members' copies are read side by side. For each sequence number any copy that is whole, names
// the batch before it and carries the epoch that the pool's history assigns to that sequence will
// do; a copy that lacks the batch is given it. The log ends where no copy has the next batch.
//
// Torn or rotten  One batch is in flight at a time, and it reaches every member before the next one
//                 starts. So at most the last batch can be torn, and a header of any later batch
//                 proves that the missing one was durable and has been damaged since: kCorrupt.
// What is trusted Data was flushed before the batch that names it was written (version 1), so a
//                 whole batch is true.
// Crash safety    Only copies that lack a batch are written, with bytes another copy has; all disks
//                 are flushed before the caller may use the result. A second recovery finds the
//                 same log.
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
  std::vector<DiskId> members;  // have all of them, durably
};

// Calls `apply` for every record behind the manifest's LSN. Errors: kCorrupt (detail: sequence),
// kReadOnly (too many disks failed meanwhile), what `apply` says. With a read-only pool nothing is
// written.
Task<Result<Recovered>> recover(Pool& pool, Journal::Apply apply);

}  // namespace dynamicfs::journal
