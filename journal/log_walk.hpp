// One member's copy of the log as it stands, for `dump`: nothing is judged, repaired or believed.
#pragma once

#include <functional>
#include <optional>
#include <span>

#include "base/task.hpp"
#include "journal/pool.hpp"
#include "journal/record_format.hpp"

namespace dynamicfs::journal {

// Where the batches end on this member, and what stands there.
struct LogEndFound {
  LogPosition next;  // the batch that would come
  // A whole header there, of something else: an older batch, or one of another epoch.
  std::optional<BatchHeader> other;
  // A whole header of a later batch of this log near behind: the log does not end, it is damaged.
  std::optional<BatchHeader> later;
};

// `whole`: the frames match the checksum. `batch`: header and frames.
using BatchSeen =
    std::function<void(const BatchHeader& header, std::span<const std::byte> batch, bool whole)>;

// Calls `each` for every batch from the manifest's log position on whose header is the expected one.
// Errors: as the disk.
Task<Result<LogEndFound>> walk_log(Pool& pool, DiskId member, BatchSeen each);

}  // namespace dynamicfs::journal
