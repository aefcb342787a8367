// Which part of the log is in use: arithmetic on batches, without I/O.
//
// The log is a ring of whole blocks. A batch never straddles its end: it goes to offset 0 when it
// does not fit into the rest, and recovery looks there too. Nothing from log_start on is
// overwritten.
//
// Locks  None: the owner guards it.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "journal/superblock.hpp"

namespace dynamicfs::journal {

// A batch that is durable.
struct LoggedBatch {
  BatchSequence sequence;
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
  Lsn last;  // as in its header
  std::uint32_t previous_crc = 0;
  std::uint32_t crc = 0;
};

class LogSpace {
 public:
  LogSpace(std::uint64_t capacity_bytes, LogPosition next)
      : capacity_bytes_(capacity_bytes), next_(next) {}

  // Where a batch of this size can go now; nothing if it would overwrite what is still needed.
  std::optional<std::uint64_t> place(std::uint64_t size_bytes) const;
  // `batch` lies where place() said, and is the next in sequence.
  void add(const LoggedBatch& batch);
  // Forgets batches before `position`.
  void trim(LogPosition position);
  // The first batch with a record later than `lsn`, or the place of the next batch.
  LogPosition position_after(Lsn lsn) const;

  // The next batch. Its offset is where it goes if it fits there.
  LogPosition next() const { return next_; }
  std::uint64_t used_bytes() const;
  std::uint64_t capacity_bytes() const { return capacity_bytes_; }
  std::size_t batches() const { return batches_.size(); }
  // What is still needed, oldest first.
  const std::deque<LoggedBatch>& needed() const { return batches_; }

 private:
  std::uint64_t capacity_bytes_;
  LogPosition next_;
  std::deque<LoggedBatch> batches_;
};

}  // namespace dynamicfs::journal
