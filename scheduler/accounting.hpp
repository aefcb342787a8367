// What every kind of disk counts, at the three moments of a request's life: it is queued, the
// device has it, it is done.
#pragma once

#include <cerrno>
#include <chrono>

#include "base/assert.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::scheduler {

inline ClassMetrics& class_metrics(DiskMetrics& metrics, const IoRequest& request) {
  return metrics.classes[static_cast<std::size_t>(request.io_class)];
}

// Our own mistakes, refused where they are made. The range is not: an offset may come from damaged
// metadata, see in_range().
inline void assert_well_formed(const IoRequest& request) {
  assert_no_mutex_held();
  DFS_ASSERT(request.on_complete != nullptr);
  if (!moves_data(request.op)) return;
  DFS_ASSERT(request.size_bytes > 0 && request.size_bytes % kBlockBytes == 0);
  DFS_ASSERT(request.offset_bytes % kBlockBytes == 0);
  DFS_ASSERT(reinterpret_cast<std::uintptr_t>(request.data) % kBlockBytes == 0);
}

inline bool in_range(const IoRequest& request, std::uint64_t size_bytes) {
  return !moves_data(request.op) || (request.offset_bytes <= size_bytes &&
                                     request.size_bytes <= size_bytes - request.offset_bytes);
}

inline void note_queued(DiskMetrics& metrics, const IoRequest& request) {
  class_metrics(metrics, request).queued.fetch_add(1, std::memory_order_relaxed);
}

// The queue has given the request to the device.
inline void note_started(DiskMetrics& metrics, const IoRequest& request) {
  ClassMetrics& of_class = class_metrics(metrics, request);
  of_class.queued.fetch_sub(1, std::memory_order_relaxed);
  of_class.in_flight.fetch_add(1, std::memory_order_relaxed);
  if (request.held_back) of_class.waits.add();
  switch (request.op) {
    case IoOp::kRead:
      metrics.reads.add();
      metrics.read_bytes.add(request.size_bytes);
      break;
    case IoOp::kWrite:
      metrics.writes.add();
      metrics.written_bytes.add(request.size_bytes);
      if (request.flushes) {
        metrics.flushes.add();
      } else if (request.durable) {
        metrics.durable_writes.add();
      }
      break;
    case IoOp::kFlush: metrics.flushes.add(); break;
    case IoOp::kCheck: break;
  }
}

// `request.error` is final; to be called before on_complete, after which the request may be gone.
inline void note_completed(DiskMetrics& metrics, LatencyWatch& watch, const IoRequest& request,
                           TimePoint now) {
  ClassMetrics& of_class = class_metrics(metrics, request);
  of_class.in_flight.fetch_sub(1, std::memory_order_relaxed);
  if (request.error.code != Code::kOk) {
    // A host file system that is full is no error of the disk.
    (request.error.sys_errno == ENOSPC ? of_class.no_space : of_class.errors).add();
    return;
  }
  of_class.completed.add();
  if (moves_data(request.op)) of_class.bytes.add(request.size_bytes);
  const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(now - request.arrival);
  of_class.latency_us.record(waited.count() > 0 ? static_cast<std::uint64_t>(waited.count()) : 0);
  if (request.op != IoOp::kRead) return;
  if (request.io_class == IoClass::kHotRead || request.io_class == IoClass::kRead) {
    watch.read_completed(now - request.arrival);
  }
}

// The queue has said so of this completion.
inline void note_late(DiskMetrics& metrics, LatencyWatch& watch, const IoRequest& request,
                      TimePoint now) {
  class_metrics(metrics, request).late.add();
  watch.completed_late(now);
}

// Refused before it reached the device: out of range, or the disk is gone. `was_queued`:
// note_queued has counted it.
inline void note_refused(DiskMetrics& metrics, const IoRequest& request, bool was_queued) {
  ClassMetrics& of_class = class_metrics(metrics, request);
  if (was_queued) of_class.queued.fetch_sub(1, std::memory_order_relaxed);
  of_class.errors.add();
}

}  // namespace dynamicfs::scheduler
