#include "fs/metric_list.hpp"

#include <algorithm>

#include "scheduler/disk.hpp"

namespace dynamicfs::fs {
namespace {

using enum MetricKind;

// In the order of the screen.
constexpr MetricInfo kMetrics[] = {
    {"lock_shards", "Extent locks", kGauge, "lock_shards", "Extent locks there are"},
    {"lock_acquisitions", "Extent locks", kCounter, "lock_acquisitions_total",
     "Extent locks taken"},
    {"lock_contentions", "Extent locks", kCounter, "lock_contentions_total",
     "Extent locks that somebody else held"},
    {"lock_contention_ratio", "Extent locks", kRatio, "lock_contention_ratio",
     "Contentions per acquisition since the mount"},
    {"lock_wait_ns", "Extent locks", kHistogram, "lock_wait_seconds",
     "How long a contended extent lock was waited for"},
    {"reads_optimistic", "Reads and checksums", kCounter, "reads_optimistic_total",
     "File reads answered without a lock"},
    {"read_retries", "Reads and checksums", kCounter, "read_retries_total",
     "Reads that looked again because a change came between"},
    {"read_fallbacks", "Reads and checksums", kCounter, "read_fallbacks_total",
     "Reads that took the locks after three tries"},
    {"read_failovers", "Reads and checksums", kCounter, "read_failovers_total",
     "Pieces read from another copy than the first choice"},
    {"read_hedges", "Reads and checksums", kCounter, "read_hedges_total",
     "Pieces asked for at a second disk because the first was slow"},
    {"read_hedges_won", "Reads and checksums", kCounter, "read_hedges_won_total",
     "Pieces where the second disk was the quicker one"},
    {"read_hedges_refused", "Reads and checksums", kCounter, "read_hedges_refused_total",
     "Pieces not asked for twice: one read in twenty was reached"},
    {"reads_left_behind", "Reads and checksums", kCounter, "reads_left_behind_total",
     "Reads that ended before all they had asked"},
    {"checksum_errors", "Reads and checksums", kCounter, "checksum_errors_total",
     "Copies of blocks that failed their checksum"},
    {"checksum_stale", "Reads and checksums", kCounter, "checksum_stale_total",
     "Reads of another generation than the map says; must stay 0"},
    {"repairs", "Reads and checksums", kCounter, "repairs_total",
     "Copies of blocks rewritten because they were bad or missing"},
    {"blocks_reconstructed", "Reads and checksums", kCounter, "blocks_reconstructed_total",
     "Blocks computed from the rest of their rows, because they could not be read"},
    {"parity_repairs", "Reads and checksums", kCounter, "parity_repairs_total",
     "Blocks of parity that scrubs have found wrong and written anew"},
    {"unrecoverable_blocks", "Reads and checksums", kCounter, "unrecoverable_blocks_total",
     "Blocks of which no good copy was left"},
    {"chunks_moved", "Disks that come and go", kCounter, "chunks_moved_total",
     "Chunks that have got other places"},
    {"moved_bytes", "Disks that come and go", kCounter, "moved_bytes_total",
     "Bytes written to other places of chunks"},
    {"made_anew_bytes", "Disks that come and go", kCounter, "made_anew_bytes_total",
     "Of the bytes moved: what could not be read where it lay"},
    {"misplaced_bytes", "Disks that come and go", kGauge, "misplaced_bytes",
     "Places of chunks that are still to be made, in bytes"},
    {"compaction_windows", "Compaction", kCounter, "compaction_windows_total",
     "Fragmented MiB of files that were written anew in one piece"},
    {"compaction_sweeps", "Compaction", kCounter, "compaction_sweeps_total",
     "Sweeps through all files to empty sparse chunks"},
    {"reencoded_bytes", "Compaction", kCounter, "reencoded_bytes_total",
     "Bytes written anew because their policy is another"},
    {"spilled_bytes", "Compaction", kCounter, "spilled_bytes_total",
     "Bytes of files that are kept on one disk, written to another for want of room"},
    {"compaction_bytes", "Compaction", kCounter, "compaction_moved_bytes_total",
     "Bytes that compaction has moved, copies not counted"},
    {"clones", "Clones", kCounter, "clones_total", "Copies of files that shared blocks"},
    {"cloned_bytes", "Clones", kCounter, "cloned_bytes_total", "Bytes that they shared"},
    {"shared_blocks", "Clones", kGauge, "shared_blocks",
     "Blocks that more than one place of files has"},
    {"saved_blocks", "Clones", kGauge, "saved_blocks",
     "Blocks that it would take more if each place had its own, copies not counted"},
    {"scrubs_started", "Scrub", kCounter, "scrubs_started_total", "Scrubs started"},
    {"scrubs_finished", "Scrub", kCounter, "scrubs_finished_total",
     "Scrubs that came to their end"},
    {"resynced_bytes", "Scrub", kCounter, "resynced_bytes_total",
     "Bytes written to disks that had been away when they were written first"},
    {"scrub_progress_ratio", "Scrub", kGauge, "scrub_progress_ratio",
     "How much the scrub that runs, or the last one, has checked"},
    {"scrub_bytes", "Scrub", kCounter, "scrub_checked_bytes_total",
     "Bytes that scrubs have checked, copies not counted"},
    {"scrub_read_bytes", "Scrub", kCounter, "scrub_read_bytes_total",
     "Bytes that scrubs have read, in all copies"},
    {"scrub_bad_copies", "Scrub", kCounter, "scrub_bad_copies_total",
     "Copies of blocks that scrubs found bad"},
    {"scrub_outdated_copies", "Scrub", kCounter, "scrub_outdated_copies_total",
     "Copies that missed a write while their disk was away"},
    {"scrub_repaired_copies", "Scrub", kCounter, "scrub_repaired_copies_total",
     "Copies that scrubs have rewritten"},
    {"scrub_skipped_copies", "Scrub", kCounter, "scrub_skipped_copies_total",
     "Copies not read because their disk is gone"},
    {"scrub_lost_blocks", "Scrub", kCounter, "scrub_lost_blocks_total",
     "Blocks of which scrubs found no good copy"},
    {"group_commits", "Journal", kCounter, "group_commits_total",
     "Batches of the journal made durable"},
    {"group_commit_ops", "Journal", kCounter, "group_commit_ops_total", "Operations in them"},
    {"group_commit_average", "Journal", kRatio, "group_commit_ops_average",
     "Operations per commit since the mount"},
    {"group_commit_waiters", "Journal", kCounter, "group_commit_waiters_total",
     "Syncs that commits were for"},
    {"group_commits_for_1", "Journal", kCounter, "group_commits_by_waiters_total{waiters=\"1\"}",
     "Commits by how many syncs waited for them"},
    {"group_commits_for_2_to_3", "Journal", kCounter,
     "group_commits_by_waiters_total{waiters=\"2_to_3\"}",
     "Commits by how many syncs waited for them"},
    {"group_commits_for_4_to_7", "Journal", kCounter,
     "group_commits_by_waiters_total{waiters=\"4_to_7\"}",
     "Commits by how many syncs waited for them"},
    {"group_commits_for_8_to_15", "Journal", kCounter,
     "group_commits_by_waiters_total{waiters=\"8_to_15\"}",
     "Commits by how many syncs waited for them"},
    {"group_commits_for_16_to_31", "Journal", kCounter,
     "group_commits_by_waiters_total{waiters=\"16_to_31\"}",
     "Commits by how many syncs waited for them"},
    {"group_commits_for_32_to_63", "Journal", kCounter,
     "group_commits_by_waiters_total{waiters=\"32_to_63\"}",
     "Commits by how many syncs waited for them"},
    {"group_commits_for_64_or_more", "Journal", kCounter,
     "group_commits_by_waiters_total{waiters=\"64_or_more\"}",
     "Commits by how many syncs waited for them"},
    {"group_commit_settles", "Journal", kCounter, "group_commit_settles_total",
     "Commits that waited for company"},
    {"commit_latency_us", "Journal", kHistogram, "commit_latency_seconds",
     "How long a commit took"},
    {"group_commit_records", "Journal", kHistogram, "group_commit_records", "Records in a commit"},
    {"journal_appends", "Journal", kCounter, "journal_appends_total", "Records appended"},
    {"journal_bytes", "Journal", kCounter, "journal_written_bytes_total",
     "Bytes of commits, copies not counted"},
    {"journal_flushes", "Journal", kCounter, "journal_flushes_total",
     "Flushes of data disks for commits"},
    {"journal_reserve_waits", "Journal", kCounter, "journal_reserve_waits_total",
     "Operations that waited for room among what is not committed"},
    {"journal_space_waits", "Journal", kCounter, "journal_space_waits_total",
     "Commits that waited for a checkpoint to free the log"},
    {"journal_used_bytes", "Journal", kGauge, "journal_used_bytes", "What of the log is in use"},
    {"journal_capacity_bytes", "Journal", kGauge, "journal_capacity_bytes", "What the log holds"},
    {"journal_members_replaced", "Journal", kCounter, "journal_members_replaced_total",
     "Disks that took the place of one that kept the journal"},
    {"checkpoints", "Metadata", kCounter, "checkpoints_total", "Checkpoints written"},
    {"checkpoint_inodes", "Metadata", kCounter, "checkpoint_inodes_total",
     "Inodes that checkpoints found modified"},
    {"checkpoint_ms", "Metadata", kHistogram, "checkpoint_duration_seconds",
     "How long a checkpoint took"},
    {"run_merges", "Metadata", kCounter, "run_merges_total", "Merges of runs in the background"},
    {"run_merge_bytes", "Metadata", kCounter, "run_merge_bytes_total",
     "Bytes they wrote, copies not counted"},
    {"run_merge_ms", "Metadata", kHistogram, "run_merge_duration_seconds", "How long a merge took"},
    {"runs", "Metadata", kGauge, "runs", "Tables of metadata on the disks"},
    {"run_bytes", "Metadata", kGauge, "run_bytes", "Their size, copies not counted"},
    {"run_block_reads", "Metadata", kCounter, "run_block_reads_total",
     "Blocks of runs that look-ups read from a disk"},
    {"run_cache_hits", "Metadata", kCounter, "run_cache_hits_total",
     "Blocks of runs that were in the cache"},
    {"run_filter_negatives", "Metadata", kCounter, "run_filter_negatives_total",
     "Runs that a filter has spared a look-up"},
    {"run_blocks_bad", "Metadata", kCounter, "run_blocks_bad_total",
     "Copies of blocks of runs that were bad"},
    {"run_blocks_repaired", "Metadata", kCounter, "run_blocks_repaired_total",
     "Copies of blocks of runs that were rewritten"},
    {"run_memory_bytes", "Metadata", kGauge, "run_memory_bytes",
     "Memory of the indexes, filters and cache of runs"},
    {"inodes", "Metadata", kGauge, "inodes", "Files, directories and the like"},
    {"inodes_in_memory", "Metadata", kGauge, "inodes_in_memory", "Of those, in memory"},
    {"inodes_loaded", "Metadata", kCounter, "inodes_loaded_total", "Inodes read from the disks"},
    {"inodes_evicted", "Metadata", kCounter, "inodes_evicted_total", "Inodes that left memory"},
    {"metadata_memory_bytes", "Metadata", kGauge, "metadata_memory_bytes",
     "What metadata takes of memory"},
    {"metadata_memory_bytes_max", "Metadata", kGauge, "metadata_memory_limit_bytes",
     "What it may take on average"},
    {"file_lookups", "Files", kCounter, "file_lookups_total", "Names looked up"},
    {"file_creates", "Files", kCounter, "file_creates_total",
     "Files, directories and the like made"},
    {"file_unlinks", "Files", kCounter, "file_unlinks_total", "Names removed"},
    {"file_renames", "Files", kCounter, "file_renames_total", "Names changed"},
    {"file_setattrs", "Files", kCounter, "file_setattrs_total", "Changes of attributes"},
    {"file_readdirs", "Files", kCounter, "file_readdirs_total", "Steps of reading a directory"},
    {"file_reads", "Files", kCounter, "file_reads_total", "Reads"},
    {"file_hot_reads", "Files", kCounter, "file_hot_reads_total",
     "Reads of windows that are read often"},
    {"file_read_bytes", "Files", kCounter, "file_read_bytes_total", "Bytes read"},
    {"file_writes", "Files", kCounter, "file_writes_total", "Writes"},
    {"file_written_bytes", "Files", kCounter, "file_written_bytes_total", "Bytes written"},
    {"file_bytes_copied", "Files", kCounter, "file_copied_bytes_total",
     "Bytes copied in memory for writes that are not aligned"},
    {"file_merges", "Files", kCounter, "file_merges_total",
     "Writes that had to read a block first"},
    {"file_merge_redos", "Files", kCounter, "file_merge_redos_total",
     "... and once more, because it had changed meanwhile"},
    {"file_fsyncs", "Files", kCounter, "file_fsyncs_total", "fsync and fdatasync"},
    {"file_fsync_latency_us", "Files", kHistogram, "file_fsync_latency_seconds",
     "How long they took"},
    {"file_hot_windows", "Files", kGauge, "file_hot_windows",
     "Windows (1 MiB) that are read often now"},
    {"blocks_allocated", "Space", kCounter, "blocks_allocated_total", "Blocks (4 KiB) allocated"},
    {"blocks_freed", "Space", kCounter, "blocks_freed_total", "Blocks freed"},
    {"blocks_reused", "Space", kCounter, "blocks_reused_total",
     "Blocks allocated that had been used before"},
    {"chunks_opened", "Space", kCounter, "chunks_opened_total", "Chunks (4 MiB) opened"},
    {"chunks_removed", "Space", kCounter, "chunks_removed_total", "Chunks given back"},
    {"space_drains", "Space", kCounter, "space_drains_total",
     "Times space to be freed was waited for before an answer of no space"},
    {"space_map_bytes", "Space", kGauge, "space_map_bytes",
     "What is in memory of chunks and slots, free or not"},
    {"data_bytes_written", "Space", kCounter, "data_written_bytes_total",
     "Bytes of data written, copies not counted"},
    {"parity_bytes_written", "Space", kCounter, "parity_written_bytes_total",
     "Bytes of parity written with it"},
    {"io_ops_completed", "Disks", kCounter, "io_ops_completed_total",
     "Requests completed at all disks"},
    {"disks_suspected", "Disks", kCounter, "disks_suspected_total", "Times a disk became suspect"},
    {"disks_hung", "Disks", kCounter, "disks_hung_total",
     "Disks given up because they no longer answered"},
    {"fuse_requests_total", "Requests of the kernel", kCounter, "", "Requests of the kernel"},
    {"fuse_in_flight", "Requests of the kernel", kGauge, "fuse_in_flight_requests",
     "Requests of the kernel that are not answered yet"},
    {"fuse_receive_buffers", "Requests of the kernel", kGauge, "fuse_receive_buffers",
     "Buffers of 1 MiB made for requests"},
    {"fuse_receive_buffers_in_use", "Requests of the kernel", kGauge, "fuse_receive_buffers_in_use",
     "Of those, in use"},
    {"fuse_receive_buffers_max", "Requests of the kernel", kGauge, "fuse_receive_buffers_limit",
     "How many there may be"},
    {"fuse_receive_waits", "Requests of the kernel", kCounter, "fuse_receive_waits_total",
     "Times no request was taken for want of a buffer"},
    {"fuse_ring_requests", "Requests of the kernel", kCounter, "fuse_ring_requests_total",
     "Requests that came by io_uring"},
    {"fuse_ring_answers_handed_over", "Requests of the kernel", kCounter,
     "fuse_ring_answers_handed_over_total",
     "Answers that were handed to the thread of their io_uring queue by another one"},
    {"fuse_seek_syncs", "Requests of the kernel", kCounter, "fuse_seek_syncs_total",
     "Times the kernel was asked for what it had dirty, before a range was called a hole"},
    {"read_memory_bytes", "Memory", kGauge, "read_memory_bytes",
     "Memory of reads that are under way"},
    {"read_memory_bytes_max", "Memory", kGauge, "read_memory_limit_bytes", "What they may take"},
    {"read_memory_waits", "Memory", kCounter, "read_memory_waits_total",
     "Reads that waited for memory"},
    {"buffers_in_use_bytes", "Memory", kGauge, "buffers_in_use_bytes", "Memory of buffers in use"},
    {"buffers_pooled_bytes", "Memory", kGauge, "buffers_pooled_bytes",
     "Memory of buffers kept for reuse"},
    {"resident_bytes", "Memory", kGauge, "resident_bytes", "Memory of the daemon"},
};

// Behind "disk<number>_".
constexpr MetricInfo kOfDisk[] = {
    {"device_reads", "Disks", kCounter, "disk_device_reads_total", "Reads given to the device"},
    {"device_writes", "Disks", kCounter, "disk_device_writes_total", "Writes given to the device"},
    {"device_flushes", "Disks", kCounter, "disk_device_flushes_total",
     "Flushes given to the device, behind writes too"},
    {"device_durable_writes", "Disks", kCounter, "disk_device_durable_writes_total",
     "Of the writes those that are durable when done, which is a flush each, not counted as one"},
    {"device_read_bytes", "Disks", kCounter, "disk_device_read_bytes_total",
     "Bytes of reads given to the device"},
    {"device_written_bytes", "Disks", kCounter, "disk_device_written_bytes_total",
     "Bytes of writes given to the device"},
    {"write_batches", "Disks", kCounter, "disk_write_batches_total",
     "Writes that were several requests, side by side"},
    {"write_batch_ops", "Disks", kCounter, "disk_write_batch_ops_total",
     "Write requests that were part of a batch"},
    {"system_calls", "Disks", kCounter, "disk_system_calls_total",
     "System calls of its workers for requests"},
    {"polls", "Disks", kCounter, "disk_polls_total",
     "Looks for a completion without sleeping, a system call each"},
    {"wake_ups", "Disks", kCounter, "disk_wake_ups_total", "Times a sleeping worker was woken"},
    {"hedges", "Disks", kCounter, "disk_hedges_total",
     "Reads asked for elsewhere as well because this disk was slow"},
    {"queued", "Disks", kGauge, "", "Requests that wait for it"},
    {"depth", "Disks", kGauge, "disk_depth_requests",
     "Requests it is given at once while several classes compete"},
    {"depth_max", "Disks", kGauge, "disk_depth_limit_requests",
     "Requests it is given at once at most"},
};

// Behind "disk<number>_<class>_".
constexpr MetricInfo kOfClass[] = {
    {"queued", "Disks", kGauge, "disk_queued_requests", "Requests that wait for the disk"},
    {"in_flight", "Disks", kGauge, "disk_in_flight_requests", "Requests that the device has"},
    {"completed", "Disks", kCounter, "disk_requests_completed_total", "Requests done"},
    {"bytes", "Disks", kCounter, "disk_requests_bytes_total", "Bytes they moved"},
    {"errors", "Disks", kCounter, "disk_request_errors_total", "Requests that failed"},
    {"no_space", "Disks", kCounter, "disk_no_space_total",
     "Requests refused because the file system under the disk is full"},
    {"late", "Disks", kCounter, "disk_late_requests_total",
     "Requests at the device for longer than the deadline"},
    {"waits", "Disks", kCounter, "disk_request_waits_total",
     "Requests held back because the device had as many as it may"},
    {"latency_us", "Disks", kHistogram, "disk_request_latency_seconds",
     "From the request to the answer"},
};

constexpr MetricInfo kOfOperation = {"fuse_requests_", "Requests of the kernel", kCounter,
                                     "fuse_requests_total", "Requests of the kernel by kind"};

template <std::size_t N>
const MetricInfo* find_in(const MetricInfo (&list)[N], std::string_view name) {
  const auto found = std::ranges::find(list, name, &MetricInfo::name);
  return found == std::end(list) ? nullptr : &*found;
}

std::optional<Metric> find_of_disk(std::string_view name) {
  constexpr std::string_view kPrefix = "disk";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const std::size_t digits = name.find_first_not_of("0123456789");
  if (digits == 0 || digits == name.npos || name[digits] != '_') return std::nullopt;
  Metric metric{.disk = name.substr(0, digits)};
  const std::string_view key = name.substr(digits + 1);
  metric.info = find_in(kOfDisk, key);
  for (const std::string_view io_class : scheduler::kIoClassNames) {
    if (metric.info != nullptr) break;
    if (!key.starts_with(io_class) || key.size() <= io_class.size()) continue;
    metric.info = find_in(kOfClass, key.substr(io_class.size() + 1));
    metric.io_class = io_class;
  }
  if (metric.info == nullptr) return std::nullopt;
  return metric;
}

}  // namespace

const RatioInfo kRatios[] = {
    {"lock_contention_ratio", "lock_contentions", "lock_acquisitions"},
    {"group_commit_average", "group_commit_ops", "group_commits"},
};

std::optional<Metric> find_metric(std::string_view name) {
  if (const MetricInfo* const info = find_in(kMetrics, name)) return Metric{.info = info};
  if (name.starts_with(kOfOperation.name)) {
    return Metric{.info = &kOfOperation, .operation = name.substr(kOfOperation.name.size())};
  }
  return find_of_disk(name);
}

std::optional<Metric> find_percentile(std::string_view name) {
  for (const std::string_view percentile : {"_p50", "_p99", "_p999"}) {
    if (!name.ends_with(percentile)) continue;
    auto metric = find_metric(name.substr(0, name.size() - percentile.size()));
    if (metric && metric->info->kind == kHistogram) return metric;
  }
  return std::nullopt;
}

}  // namespace dynamicfs::fs
