#include "journal/log_space.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace dynamicfs::journal {

std::optional<std::uint64_t> LogSpace::place(std::uint64_t size_bytes) const {
  DFS_ASSERT(size_bytes <= capacity_bytes_);
  const std::uint64_t head = next_.offset;
  if (batches_.empty()) return head + size_bytes <= capacity_bytes_ ? head : 0;
  const std::uint64_t tail = batches_.front().offset;
  // The head is behind the tail when the log has wrapped, and on it when the log is full.
  if (head <= tail) {
    if (head + size_bytes <= tail) return head;
    return std::nullopt;
  }
  if (head + size_bytes <= capacity_bytes_) return head;
  if (size_bytes <= tail) return 0;
  return std::nullopt;
}

void LogSpace::add(const LoggedBatch& batch) {
  DFS_ASSERT(batch.sequence == next_.sequence && batch.previous_crc == next_.previous_crc);
  batches_.push_back(batch);
  next_ = {.sequence = BatchSequence{batch.sequence.raw + 1},
           .offset = batch.offset + batch.size_bytes,
           .previous_crc = batch.crc};
}

void LogSpace::trim(LogPosition position) {
  DFS_ASSERT(position.sequence <= next_.sequence);
  while (!batches_.empty() && batches_.front().sequence < position.sequence) batches_.pop_front();
}

LogPosition LogSpace::position_after(Lsn lsn) const {
  // Batches are in the order of their LSNs.
  const auto first = std::ranges::partition_point(
      batches_, [lsn](const LoggedBatch& batch) { return batch.last <= lsn; });
  if (first == batches_.end()) return next_;
  return {
      .sequence = first->sequence, .offset = first->offset, .previous_crc = first->previous_crc};
}

std::uint64_t LogSpace::used_bytes() const {
  if (batches_.empty()) return 0;
  const std::uint64_t head = next_.offset;
  const std::uint64_t tail = batches_.front().offset;
  return head > tail ? head - tail : capacity_bytes_ - tail + head;
}

}  // namespace dynamicfs::journal
