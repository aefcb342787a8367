#include "fs/status_metrics.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <string_view>

#include "base/buffer.hpp"
#include "fs/metric_values.hpp"
#include "journal/run_set.hpp"

namespace dynamicfs::fs {
namespace {

using scheduler::ClassMetrics;

// Its percentiles get their places, put_derived() their values.
void put_histogram(Json& status, const std::string& name, const Histogram& histogram) {
  status["metrics"][name + "_p50"] = 0;
  status["metrics"][name + "_p99"] = 0;
  status["histograms"][name] = histogram_json(histogram);
}

double progress(const ScrubReport& scrub) {
  if (scrub.total_bytes == 0) return scrub.state == ScrubState::kFinished ? 1 : 0;
  return static_cast<double>(scrub.counts.bytes) / static_cast<double>(scrub.total_bytes);
}

void put_lock(Json& status, const extent::LockMetrics& locks) {
  Json& metrics = status["metrics"];
  metrics["lock_shards"] = extent::kLockShards;
  metrics["lock_acquisitions"] = locks.acquisitions.sum();
  metrics["lock_contentions"] = locks.contentions.sum();
  metrics["lock_contention_ratio"] = 0.0;
  put_histogram(status, "lock_wait_ns", locks.wait_ns);
  metrics["lock_wait_ns_p999"] = 0;
}

void put_store(Json& status, const extent::StoreMetrics& store) {
  Json& metrics = status["metrics"];
  metrics["reads_optimistic"] = store.reads_optimistic.sum();
  metrics["read_retries"] = store.read_retries.sum();
  metrics["read_fallbacks"] = store.read_fallbacks.sum();
  metrics["read_failovers"] = store.read_failovers.sum();
  metrics["read_hedges"] = store.hedges.sum();
  metrics["read_hedges_won"] = store.hedges_won.sum();
  metrics["read_hedges_refused"] = store.hedges_refused.sum();
  metrics["reads_left_behind"] = store.reads_left_behind.sum();
  metrics["checksum_errors"] = store.checksum_errors.sum();
  metrics["checksum_stale"] = store.checksum_stale.sum();
  metrics["repairs"] = store.repairs.sum();
  metrics["blocks_reconstructed"] = store.blocks_reconstructed.sum();
  metrics["parity_repairs"] = store.parity_repairs.sum();
  metrics["chunks_moved"] = store.chunks_moved.sum();
  metrics["moved_bytes"] = store.moved_bytes.sum();
  metrics["made_anew_bytes"] = store.made_anew_bytes.sum();
  metrics["unrecoverable_blocks"] = store.unrecoverable_blocks.sum();
  metrics["blocks_allocated"] = store.blocks_allocated.sum();
  metrics["blocks_freed"] = store.blocks_freed.sum();
  metrics["blocks_reused"] = store.blocks_reused.sum();
  metrics["chunks_opened"] = store.chunks_opened.sum();
  metrics["chunks_removed"] = store.chunks_removed.sum();
  metrics["space_drains"] = store.space_drains.sum();
  metrics["data_bytes_written"] = store.data_bytes_written.sum();
  metrics["parity_bytes_written"] = store.parity_bytes_written.sum();
}

void put_journal(Json& status, const journal::Journal& journal) {
  const journal::JournalMetrics& counted = journal.metrics();
  Json& metrics = status["metrics"];
  metrics["group_commits"] = counted.group_commits.sum();
  metrics["group_commit_ops"] = counted.group_commit_ops.sum();
  metrics["group_commit_average"] = 0.0;
  metrics["group_commit_waiters"] = counted.group_commit_waiters.sum();
  for (std::size_t i = 0; i < counted.commits_by_waiters.size(); ++i) {
    const unsigned from = 1U << i;
    const bool last = i + 1 == counted.commits_by_waiters.size();
    metrics[last     ? fmt::format("group_commits_for_{}_or_more", from)
            : i == 0 ? std::string{"group_commits_for_1"}
                     : fmt::format("group_commits_for_{}_to_{}", from, 2 * from - 1)] =
        counted.commits_by_waiters[i].sum();
  }
  metrics["journal_members_replaced"] = counted.members_replaced.sum();
  metrics["group_commit_settles"] = counted.settle_waits.sum();
  put_histogram(status, "commit_latency_us", counted.commit_latency_us);
  put_histogram(status, "group_commit_records", counted.batch_records);
  metrics["journal_appends"] = counted.appends.sum();
  metrics["journal_bytes"] = counted.batch_bytes.sum();
  metrics["journal_flushes"] = counted.flushes.sum();
  metrics["journal_reserve_waits"] = counted.reserve_waits.sum();
  metrics["journal_space_waits"] = counted.log_space_waits.sum();
  metrics["journal_used_bytes"] = journal.log_used_bytes();
  metrics["journal_capacity_bytes"] = journal.log_capacity_bytes();
}

void put_filesystem(Json& status, const FilesystemMetrics& counted, const ScrubReport& scrub) {
  Json& metrics = status["metrics"];
  metrics["file_lookups"] = counted.lookups.sum();
  metrics["file_creates"] = counted.creates.sum();
  metrics["file_unlinks"] = counted.unlinks.sum();
  metrics["file_renames"] = counted.renames.sum();
  metrics["file_setattrs"] = counted.setattrs.sum();
  metrics["file_readdirs"] = counted.readdirs.sum();
  metrics["file_reads"] = counted.reads.sum();
  metrics["file_hot_reads"] = counted.hot_reads.sum();
  metrics["file_read_bytes"] = counted.read_bytes.sum();
  metrics["file_writes"] = counted.writes.sum();
  metrics["file_written_bytes"] = counted.written_bytes.sum();
  metrics["file_bytes_copied"] = counted.bytes_copied.sum();
  metrics["file_merges"] = counted.merges.sum();
  metrics["file_merge_redos"] = counted.merge_redos.sum();
  metrics["file_fsyncs"] = counted.fsyncs.sum();
  put_histogram(status, "file_fsync_latency_us", counted.fsync_latency_us);
  metrics["compaction_windows"] = counted.compaction_windows.sum();
  metrics["compaction_sweeps"] = counted.compaction_sweeps.sum();
  metrics["reencoded_bytes"] = counted.reencoded_bytes.sum();
  metrics["spilled_bytes"] = counted.spilled_bytes.sum();
  metrics["compaction_bytes"] = counted.compaction_bytes.sum();
  metrics["clones"] = counted.clones.sum();
  metrics["cloned_bytes"] = counted.cloned_bytes.sum();
  metrics["scrubs_started"] = counted.scrubs_started.sum();
  metrics["scrubs_finished"] = counted.scrubs_finished.sum();
  metrics["resynced_bytes"] = counted.resynced_bytes.sum();
  metrics["scrub_progress_ratio"] = progress(scrub);
  metrics["scrub_bytes"] = counted.scrub_bytes.sum();
  metrics["scrub_read_bytes"] = counted.scrub_read_bytes.sum();
  metrics["scrub_bad_copies"] = counted.scrub_copies_bad.sum();
  metrics["scrub_outdated_copies"] = counted.scrub_copies_outdated.sum();
  metrics["scrub_repaired_copies"] = counted.scrub_copies_repaired.sum();
  metrics["scrub_skipped_copies"] = counted.scrub_copies_skipped.sum();
  metrics["scrub_lost_blocks"] = counted.scrub_blocks_lost.sum();
  metrics["disks_suspected"] = counted.disks_suspected.sum();
  metrics["disks_hung"] = counted.disks_hung.sum();
  metrics["checkpoints"] = counted.checkpoints.sum();
  metrics["checkpoint_inodes"] = counted.checkpoint_inodes.sum();
  metrics["run_merges"] = counted.run_merges.sum();
  metrics["run_merge_bytes"] = counted.run_merge_bytes.sum();
  put_histogram(status, "run_merge_ms", counted.run_merge_ms);
  metrics["inodes_loaded"] = counted.inodes_loaded.sum();
  metrics["inodes_evicted"] = counted.inodes_evicted.sum();
  put_histogram(status, "checkpoint_ms", counted.checkpoint_ms);
}

// Returns the requests it has completed.
std::uint64_t put_disk(Json& status, const std::string& prefix, const scheduler::Disk& present,
                       unsigned depth_max) {
  const scheduler::DiskMetrics& disk = present.metrics();
  Json& metrics = status["metrics"];
  std::uint64_t completed = 0;
  std::int64_t queued = 0;
  for (std::size_t i = 0; i < scheduler::kIoClasses; ++i) {
    const ClassMetrics& of_class = disk.classes[i];
    const std::string name = fmt::format("{}_{}_", prefix, scheduler::kIoClassNames[i]);
    const std::int64_t waiting = of_class.queued.load(std::memory_order_relaxed);
    queued += waiting;
    metrics[name + "queued"] = waiting;
    metrics[name + "in_flight"] = of_class.in_flight.load(std::memory_order_relaxed);
    metrics[name + "completed"] = of_class.completed.sum();
    metrics[name + "bytes"] = of_class.bytes.sum();
    metrics[name + "errors"] = of_class.errors.sum();
    metrics[name + "no_space"] = of_class.no_space.sum();
    metrics[name + "late"] = of_class.late.sum();
    metrics[name + "waits"] = of_class.waits.sum();
    put_histogram(status, name + "latency_us", of_class.latency_us);
    completed += of_class.completed.sum();
  }
  metrics[prefix + "_device_reads"] = disk.reads.sum();
  metrics[prefix + "_device_writes"] = disk.writes.sum();
  metrics[prefix + "_device_flushes"] = disk.flushes.sum();
  metrics[prefix + "_device_durable_writes"] = disk.durable_writes.sum();
  metrics[prefix + "_device_read_bytes"] = disk.read_bytes.sum();
  metrics[prefix + "_device_written_bytes"] = disk.written_bytes.sum();
  metrics[prefix + "_write_batches"] = disk.write_batches.sum();
  metrics[prefix + "_write_batch_ops"] = disk.write_batch_ops.sum();
  metrics[prefix + "_system_calls"] = disk.system_calls.sum();
  metrics[prefix + "_polls"] = disk.polls.sum();
  metrics[prefix + "_wake_ups"] = disk.wake_ups.sum();
  metrics[prefix + "_hedges"] = present.latency().hedges();
  metrics[prefix + "_queued"] = queued;
  metrics[prefix + "_depth"] = disk.depth.load(std::memory_order_relaxed);
  metrics[prefix + "_depth_max"] = depth_max;
  return completed;
}

void put_fuse(Json& metrics, const FuseSession& session) {
  const FuseSession::State state = session.state();
  std::uint64_t total = 0;
  std::map<std::string_view, std::uint64_t> by_name;
  for (unsigned opcode = 0; opcode < wire::kOpcodes; ++opcode) {
    by_name[wire::opcode_name(opcode)] += session.requests(opcode);
    total += session.requests(opcode);
  }
  for (const auto& [name, count] : by_name) {
    if (count > 0) metrics[fmt::format("fuse_requests_{}", name)] = count;
  }
  metrics["fuse_requests_total"] = total;
  metrics["fuse_in_flight"] = state.in_flight;
  metrics["fuse_receive_buffers"] = state.buffers_made;
  metrics["fuse_receive_buffers_in_use"] = state.buffers_out;
  metrics["fuse_receive_buffers_max"] = state.buffers_max;
  metrics["fuse_receive_waits"] = state.buffer_waits;
  metrics["fuse_ring_requests"] = state.ring_requests;
  metrics["fuse_ring_answers_handed_over"] = state.ring_answers_handed_over;
  metrics["fuse_seek_syncs"] = state.seek_syncs;
}

void put_runs(Json& metrics, const journal::RunSet& runs) {
  const journal::RunSetMetrics& counted = runs.metrics();
  std::uint64_t bytes = 0;
  const auto all = runs.runs();
  for (const auto& run : *all) bytes += run->ref().bytes;
  metrics["runs"] = all->size();
  metrics["run_bytes"] = bytes;
  metrics["run_block_reads"] = counted.block_reads.sum();
  metrics["run_cache_hits"] = counted.cache_hits.sum();
  metrics["run_filter_negatives"] = counted.filter_negatives.sum();
  metrics["run_blocks_bad"] = counted.blocks_bad.sum();
  metrics["run_blocks_repaired"] = counted.blocks_repaired.sum();
  metrics["run_memory_bytes"] = runs.memory_bytes();
}

void put_memory(Json& metrics, const Filesystem& filesystem, const MountOptions& options) {
  metrics["inodes"] = filesystem.inode_count();
  metrics["inodes_in_memory"] = filesystem.inodes_in_memory();
  metrics["metadata_memory_bytes"] = filesystem.metadata_memory_bytes();
  metrics["metadata_memory_bytes_max"] = options.metadata_memory_bytes;
  metrics["read_memory_bytes"] = filesystem.read_memory().in_use_bytes();
  metrics["read_memory_bytes_max"] = options.read_memory_bytes;
  metrics["read_memory_waits"] = filesystem.read_memory().waits();
  const BufferUse buffers = buffer_use();
  metrics["buffers_in_use_bytes"] = buffers.in_use_bytes;
  metrics["buffers_pooled_bytes"] = buffers.pooled_bytes;
  metrics["resident_bytes"] = resident_bytes();
}

}  // namespace

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

void put_metrics(Json& status, Filesystem& filesystem, const FuseSession& session,
                 const MountOptions& options) {
  status["metrics"] = Json::object();
  status["histograms"] = Json::object();
  put_lock(status, filesystem.store().locks().metrics());
  put_store(status, filesystem.store().metrics());
  put_journal(status, filesystem.journal());
  put_filesystem(status, filesystem.metrics(), filesystem.scrub_report());
  status["metrics"]["space_map_bytes"] = filesystem.store().space_map_bytes();
  status["metrics"]["misplaced_bytes"] = filesystem.store().misplaced_bytes();
  status["metrics"]["shared_blocks"] = filesystem.store().shared_blocks();
  status["metrics"]["saved_blocks"] = filesystem.store().saved_blocks();
  status["metrics"]["file_hot_windows"] = filesystem.hot_windows();
  std::uint64_t completed = 0;
  for (const journal::DiskStatus& disk : filesystem.pool().status()) {
    const scheduler::Disk* const present = filesystem.pool().disk(disk.record.id);
    if (present == nullptr) continue;
    const std::string prefix = fmt::format("disk{}", disk.record.id);
    completed += put_disk(status, prefix, *present, options.queue.depth);
  }
  Json& metrics = status["metrics"];
  metrics["io_ops_completed"] = completed;
  put_fuse(metrics, session);
  put_runs(metrics, filesystem.runs());
  put_memory(metrics, filesystem, options);
  put_derived(status);
}

}  // namespace dynamicfs::fs
