#include "fs/thresholds.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "fs/metric_values.hpp"

namespace dynamicfs::fs {
namespace {

// More than that on 256 locks is no accident: some window is what everybody wants.
constexpr double kContentionMax = 0.05;
constexpr double kAcquisitionsMin = 1000;
// What shares one trip to the disks when many wait for one.
constexpr double kCommitOpsMin = 5;
constexpr double kCommitsMin = 10;
// So many syncs wait at a time, on average: then a commit that takes along who has come meanwhile has
// more than kCommitOpsMin, also where half of them come too late for it.
constexpr double kSyncLoadMin = 2 * kCommitOpsMin;
// Of what is done, so much may have waited for memory or for the log.
constexpr double kWaitsMax = 0.01;

// By Little's law: what comes in a second, times how long each stays.
double syncs_waiting(const Json& status, double seconds) {
  const Json histograms = status.value("histograms", Json::object());
  const Json syncs = histograms.value("file_fsync_latency_us", Json::object());
  return seconds <= 0 ? 0 : syncs.value("sum", 0.0) / 1e6 / seconds;
}

struct Waits {
  const char* metric;
  const char* of;
  const char* hint;
};
constexpr Waits kWaits[] = {
    {"fuse_receive_waits", "file_writes",
     "All of write_memory was taken by writes, and every other request waited behind them. If the "
     "disks keep up at other times, -o write_memory= gives writes more."},
    {"read_memory_waits", "file_reads",
     "Reads waited because those under way had all of read_memory. -o read_memory= gives them "
     "more."},
    {"journal_space_waits", "group_commits",
     "Commits waited for a checkpoint to make room in the log: more is changed than the disks can "
     "take. Fewer changes at a time, or faster disks, end this."},
};

Threshold of_queue(const Json& status, const Json& disk) {
  const auto id = disk.value("id", std::uint64_t{0});
  const std::string name = fmt::format("disk{}_queued", id);
  const double queued = metric(status, name);
  const double limit = metric(status, fmt::format("disk{}_depth_max", id));
  return {
      .metric = name,
      .healthy = fmt::format("below {:.0f}", limit),
      .passed = queued >= limit,
      .hint = fmt::format("Disk {} ({}) has {:.0f} requests waiting, more than it takes at once. "
                          "If that lasts it is too slow for what is asked of it: 'dynamicfs "
                          "disk list' shows how long it takes.",
                          id, disk.value("path", ""), queued)};
}

}  // namespace

std::vector<Threshold> thresholds(const Json& status, double seconds) {
  std::vector<Threshold> all;
  const double contention = metric(status, "lock_contention_ratio");
  all.push_back(
      {.metric = "lock_contention_ratio",
       .healthy = fmt::format("below {}", kContentionMax),
       .passed =
           contention >= kContentionMax && metric(status, "lock_acquisitions") >= kAcquisitionsMin,
       .hint = fmt::format("Of 100 extent locks {:.0f} were taken already: writers change "
                           "the same MiB of a file at once. Let them write to "
                           "different files, or further apart.",
                           contention * 100)});
  const double operations = metric(status, "group_commit_average");
  const double waiting = syncs_waiting(status, seconds);
  all.push_back(
      {.metric = "group_commit_average",
       .healthy = fmt::format("above {} under load", kCommitOpsMin),
       .passed = waiting >= kSyncLoadMin && operations <= kCommitOpsMin &&
                 metric(status, "group_commits") >= kCommitsMin,
       .hint = fmt::format("{:.0f} syncs wait at a time, and a commit has {:.1f} operations "
                           "only. -o group_commit_wait=200 lets more of them share one.",
                           waiting, operations)});
  for (const Waits& waits : kWaits) {
    const double times = metric(status, waits.metric);
    all.push_back({.metric = waits.metric,
                   .healthy = fmt::format("below {:.0f} % of {}", kWaitsMax * 100, waits.of),
                   .passed = times > 0 && times >= kWaitsMax * metric(status, waits.of),
                   .hint = waits.hint});
  }
  all.push_back({.metric = "checksum_errors",
                 .healthy = "0",
                 .passed = metric(status, "checksum_errors") > 0,
                 .hint =
                     "Disks have returned wrong data; it was read from other copies where there "
                     "are any. 'dynamicfs scrub start' mends the rest; look into the health of "
                     "the disks, with smartctl for example."});
  all.push_back({.metric = "checksum_stale",
                 .healthy = "0",
                 .passed = metric(status, "checksum_stale") > 0,
                 .hint = "A read has found blocks that the map no longer knows: a defect of "
                         "dynamicfs. Please report it, with the log."});
  for (const Json& disk : status.value("disks", Json::array())) {
    if (disk.contains("queued")) all.push_back(of_queue(status, disk));
  }
  for (Threshold& one : all) {
    if (!one.passed) one.hint.clear();
  }
  return all;
}

Json hints(const Json& status) {
  const double uptime_s = status.value("daemon", Json::object()).value("uptime_s", 0.0);
  Json out = Json::array();
  for (Threshold& one : thresholds(status, std::max(uptime_s, 1.0))) {
    if (one.passed) out.push_back(std::move(one.hint));
  }
  return out;
}

}  // namespace dynamicfs::fs
