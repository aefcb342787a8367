// What the data path counts, for `status`.
#pragma once

#include "base/metrics.hpp"

namespace dynamicfs::extent {

struct AllocatorMetrics {
  Counter blocks_allocated;
  Counter blocks_freed;
  Counter blocks_reused;  // allocated, and used before
  Counter chunks_opened;
  Counter chunks_removed;
};

struct StoreMetrics : AllocatorMetrics {
  Counter reads_optimistic;      // file reads answered without a lock
  Counter read_retries;          // ... that had to look again because a change came between
  Counter read_fallbacks;        // ... that took the locks after three tries
  Counter read_failovers;        // pieces read from another copy than the first choice
  Counter hedges;                // pieces asked for at a second disk, the first being slow
  Counter hedges_won;            // ... that was the quicker one
  Counter hedges_refused;        // ... not done: more than one read in twenty
  Counter reads_left_behind;     // reads that ended before all they had asked
  Counter checksum_errors;       // copies of blocks that failed their checksum
  Counter checksum_stale;        // no good copy and a changed generation: must stay 0 (INV-3)
  Counter repairs;               // blocks rewritten on a disk where they were bad or missing
  Counter unrecoverable_blocks;  // no good copy was left
  Counter space_drains;          // pending space was drained before an answer of "no space"
  Counter data_bytes_written;    // by callers, before copies
  Counter parity_bytes_written;  // beside that, with it
  Counter blocks_reconstructed;  // of data that could not be read, from its row
  Counter chunks_moved;          // to other places
  Counter moved_bytes;           // written for that
  Counter made_anew_bytes;       // ... of what could not be read where it lay
  Counter parity_repairs;        // blocks of parity that a scrub has rewritten
};

}  // namespace dynamicfs::extent
