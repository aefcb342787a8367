#include "fs/status.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <string_view>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "fs/scrub_screen.hpp"
#include "journal/run_set.hpp"

namespace dynamicfs::fs {
namespace {

using journal::DiskHealth;
using journal::DiskStatus;
using scheduler::ClassMetrics;
using scheduler::DiskKind;

double milliseconds(Duration duration) {
  return static_cast<double>(
             std::chrono::duration_cast<std::chrono::microseconds>(duration).count()) /
         1000;
}

double ratio(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

const char* kind_name(DiskKind kind) {
  switch (kind) {
    case DiskKind::kDirectory: return "directory";
    case DiskKind::kImageFile: return "image";
    case DiskKind::kBlockDevice: return "device";
    case DiskKind::kSimulated: return "simulated";
  }
  return "";
}

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Latencies and the like: how many, the middle, and the slow end.
void put_percentiles(Json& metrics, const std::string& name, const Histogram& histogram) {
  metrics[name + "_p50"] = histogram.percentile(0.5);
  metrics[name + "_p99"] = histogram.percentile(0.99);
}

void put_lock_metrics(Json& metrics, const extent::LockMetrics& locks) {
  const std::uint64_t acquisitions = locks.acquisitions.sum();
  const std::uint64_t contentions = locks.contentions.sum();
  metrics["lock_acquisitions"] = acquisitions;
  metrics["lock_contentions"] = contentions;
  metrics["lock_contention_ratio"] = ratio(contentions, acquisitions);
  put_percentiles(metrics, "lock_wait_ns", locks.wait_ns);
}

void put_store_metrics(Json& metrics, const extent::StoreMetrics& store) {
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
  metrics["unrecoverable_blocks"] = store.unrecoverable_blocks.sum();
  metrics["blocks_allocated"] = store.blocks_allocated.sum();
  metrics["blocks_freed"] = store.blocks_freed.sum();
  metrics["blocks_reused"] = store.blocks_reused.sum();
  metrics["chunks_opened"] = store.chunks_opened.sum();
  metrics["chunks_removed"] = store.chunks_removed.sum();
  metrics["space_drains"] = store.space_drains.sum();
  metrics["data_bytes_written"] = store.data_bytes_written.sum();
}

void put_journal_metrics(Json& metrics, const journal::Journal& journal) {
  const journal::JournalMetrics& counted = journal.metrics();
  const std::uint64_t commits = counted.group_commits.sum();
  const std::uint64_t operations = counted.group_commit_ops.sum();
  metrics["group_commits"] = commits;
  metrics["group_commit_ops"] = operations;
  metrics["group_commit_average"] = ratio(operations, commits);
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
  put_percentiles(metrics, "commit_latency_us", counted.commit_latency_us);
  put_percentiles(metrics, "group_commit_records", counted.batch_records);
  metrics["journal_appends"] = counted.appends.sum();
  metrics["journal_bytes"] = counted.batch_bytes.sum();
  metrics["journal_flushes"] = counted.flushes.sum();
  metrics["journal_reserve_waits"] = counted.reserve_waits.sum();
  metrics["journal_space_waits"] = counted.log_space_waits.sum();
  metrics["journal_used_bytes"] = journal.log_used_bytes();
  metrics["journal_capacity_bytes"] = journal.log_capacity_bytes();
}

void put_filesystem_metrics(Json& metrics, const FilesystemMetrics& counted) {
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
  put_percentiles(metrics, "file_fsync_latency_us", counted.fsync_latency_us);
  metrics["scrubs_started"] = counted.scrubs_started.sum();
  metrics["scrubs_finished"] = counted.scrubs_finished.sum();
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
  put_percentiles(metrics, "run_merge_ms", counted.run_merge_ms);
  metrics["inodes_loaded"] = counted.inodes_loaded.sum();
  metrics["inodes_evicted"] = counted.inodes_evicted.sum();
  put_percentiles(metrics, "checkpoint_ms", counted.checkpoint_ms);
}

// Returns the requests it has completed.
std::uint64_t put_disk_metrics(Json& metrics, const std::string& prefix,
                               const scheduler::DiskMetrics& disk) {
  std::uint64_t completed = 0;
  for (std::size_t i = 0; i < scheduler::kIoClasses; ++i) {
    const ClassMetrics& of_class = disk.classes[i];
    const std::string name = fmt::format("{}_{}_", prefix, scheduler::kIoClassNames[i]);
    metrics[name + "queued"] = of_class.queued.load(std::memory_order_relaxed);
    metrics[name + "in_flight"] = of_class.in_flight.load(std::memory_order_relaxed);
    metrics[name + "completed"] = of_class.completed.sum();
    metrics[name + "bytes"] = of_class.bytes.sum();
    metrics[name + "errors"] = of_class.errors.sum();
    metrics[name + "late"] = of_class.late.sum();
    put_percentiles(metrics, name + "latency_us", of_class.latency_us);
    completed += of_class.completed.sum();
  }
  metrics[prefix + "_device_reads"] = disk.reads.sum();
  metrics[prefix + "_device_writes"] = disk.writes.sum();
  metrics[prefix + "_device_flushes"] = disk.flushes.sum();
  metrics[prefix + "_device_read_bytes"] = disk.read_bytes.sum();
  metrics[prefix + "_device_written_bytes"] = disk.written_bytes.sum();
  metrics[prefix + "_write_batches"] = disk.write_batches.sum();
  metrics[prefix + "_write_batch_ops"] = disk.write_batch_ops.sum();
  metrics[prefix + "_system_calls"] = disk.system_calls.sum();
  metrics[prefix + "_polls"] = disk.polls.sum();
  metrics[prefix + "_wake_ups"] = disk.wake_ups.sum();
  metrics[prefix + "_depth"] = disk.depth.load(std::memory_order_relaxed);
  return completed;
}

void put_fuse_metrics(Json& metrics, const FuseSession& session, const FuseSession::State& state) {
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
  metrics["fuse_receive_waits"] = state.buffer_waits;
}

std::uint64_t errors_of(const scheduler::Disk& disk) {
  std::uint64_t errors = 0;
  for (const ClassMetrics& of_class : disk.metrics().classes) errors += of_class.errors.sum();
  return errors;
}

bool is_suspect(const scheduler::Disk* present) {
  return present != nullptr && present->latency().suspect();
}

Json disk_json(Filesystem& filesystem, const DiskStatus& disk, std::uint64_t used_bytes) {
  const scheduler::Disk* const present = filesystem.pool().disk(disk.record.id);
  Json out = {{"id", disk.record.id.raw},
              {"uuid", disk.record.uuid.text()},
              {"path", disk.record.path},
              {"kind", present != nullptr ? kind_name(present->kind()) : "unknown"},
              {"state", is_suspect(present) ? "suspect" : journal::disk_health_name(disk.health)},
              {"member", disk.member},
              {"size_bytes", disk.record.size_bytes},
              {"used_bytes", used_bytes}};
  if (!disk.reason.empty()) out["reason"] = disk.reason;
  if (present == nullptr) return out;
  std::int64_t queued = 0, in_flight = 0;
  std::uint64_t late = 0;
  Json latency = Json::object();
  for (std::size_t i = 0; i < scheduler::kIoClasses; ++i) {
    const ClassMetrics& of_class = present->metrics().classes[i];
    queued += of_class.queued.load(std::memory_order_relaxed);
    in_flight += of_class.in_flight.load(std::memory_order_relaxed);
    late += of_class.late.sum();
    if (of_class.completed.sum() == 0) continue;
    put_percentiles(latency, scheduler::kIoClassNames[i], of_class.latency_us);
  }
  out["queued"] = queued;
  out["in_flight"] = in_flight;
  out["depth"] = present->metrics().depth.load(std::memory_order_relaxed);
  out["errors"] = errors_of(*present);
  out["late"] = late;
  out["latency_us"] = std::move(latency);
  out["rotational"] = present->rotational();
  out["direct"] = present->direct();
  return out;
}

std::string disk_name(const DiskStatus& disk) {
  return fmt::format("Disk {} ({})", disk.record.id, disk.record.path);
}

std::string names_of(const std::vector<const DiskStatus*>& disks) {
  std::string out;
  for (const DiskStatus* const disk : disks) out += (out.empty() ? "" : ", ") + disk_name(*disk);
  return out;
}

// Which disks are away, and which were.
struct Absences {
  std::vector<const DiskStatus*> away;
  std::vector<const DiskStatus*> stale;
  // Something may lie on no disk that is here.
  bool too_many = false;
};

Absences absences(const std::vector<DiskStatus>& disks, const journal::Policy& policy) {
  Absences out;
  for (const DiskStatus& disk : disks) {
    if (disk.health == DiskHealth::kMissing || disk.health == DiskHealth::kFailed) {
      out.away.push_back(&disk);
    } else if (disk.health == DiskHealth::kStale) {
      out.stale.push_back(&disk);
    }
  }
  out.too_many = !out.away.empty() && !out.stale.empty() &&
                 out.away.size() + out.stale.size() > policy.tolerance();
  return out;
}

// One line each: what is wrong, and what to do about it.
Json problems_json(Filesystem& filesystem, bool chosen_read_only,
                   const std::vector<DiskStatus>& disks, const StatFs& space,
                   std::uint64_t degraded_chunks, const std::vector<std::string>& damaged) {
  Json problems = Json::array();
  if (chosen_read_only) {
    // What cannot be written is what was asked for.
  } else if (filesystem.pool().read_only()) {
    problems.push_back(
        "The pool is read-only: too many disks are gone, or none takes the journal any "
        "more. Unmount, connect the missing disks, and mount again.");
  } else if (filesystem.journal().stopped()) {
    problems.push_back(
        "The journal has stopped, nothing can be written any more. The log says why; "
        "unmount and mount again when the cause is gone.");
  }
  for (const DiskStatus& disk : disks) {
    switch (disk.health) {
      case DiskHealth::kHealthy: break;
      case DiskHealth::kMissing:
        problems.push_back(
            fmt::format("{} is missing. Connect it and mount again; if it has moved, name its "
                        "place with -o disk=PATH.",
                        disk_name(disk)));
        break;
      case DiskHealth::kFailed:
        problems.push_back(fmt::format(
            "{} has failed{}{}. Check its cables and its health, then unmount and mount again.",
            disk_name(disk), disk.reason.empty() ? "" : ": ", disk.reason));
        break;
      case DiskHealth::kStale:
        problems.push_back(
            fmt::format("{} was away and may lack what was written meanwhile. 'dynamicfs scrub "
                        "start' brings it there and ends this.",
                        disk_name(disk)));
        break;
    }
  }
  for (const DiskStatus& disk : disks) {
    const scheduler::Disk* const present = filesystem.pool().disk(disk.record.id);
    if (!is_suspect(present)) continue;
    if (!present->lateness().late) {
      problems.push_back(
          fmt::format("{} was late and answers again. It counts as suspect until it has been in "
                      "time for a while.",
                      disk_name(disk)));
      continue;
    }
    problems.push_back(fmt::format(
        "{} is suspect: it does not answer in time. What has a copy elsewhere is read there, the "
        "rest and every fsync wait. {}",
        disk_name(disk),
        filesystem.can_lose(disk.record.id)
            ? "When it has not answered for 30 s the pool goes on without it."
            : "Files have no other copy, so the pool waits for it, however long that takes."));
  }
  const Absences absent = absences(disks, filesystem.pool().policy());
  if (absent.too_many) {
    problems.push_back(fmt::format(
        "What was written while {} was away may lie on no disk that is here, and cannot "
        "be read then. It can again when {} is connected: mount with it, and run "
        "'dynamicfs scrub start'.",
        names_of(absent.stale), names_of(absent.away)));
  }
  if (absent.away.empty() && degraded_chunks != 0) {
    problems.push_back(
        fmt::format("Files written while a disk was away have fewer copies than the pool promises "
                    "({} chunks of 4 MiB). Copy those files anew to have all copies again.",
                    degraded_chunks));
  }
  for (const DiskStatus& disk : disks) {
    const scheduler::Disk* const present = filesystem.pool().disk(disk.record.id);
    const std::uint64_t errors = present == nullptr ? 0 : errors_of(*present);
    if (errors == 0) continue;
    problems.push_back(
        fmt::format("{} has refused {} request{} since the mount. Look into its health, with "
                    "smartctl for example; 'dynamicfs scrub start' finds what it has damaged.",
                    disk_name(disk), errors, errors == 1 ? "" : "s"));
  }
  if (!damaged.empty()) {
    problems.push_back(
        fmt::format("{} file{} can no longer be read completely; they are listed under damaged "
                    "files. Restore them "
                    "from a backup.",
                    damaged.size(), damaged.size() == 1 ? "" : "s"));
  }
  const std::size_t metadata_copies = filesystem.metadata_copies();
  const std::size_t here = filesystem.pool().healthy()->size();
  if (metadata_copies != 0 && metadata_copies < std::min<std::size_t>(2, here)) {
    problems.push_back(
        "The metadata has one copy only, for want of room. Make room on another disk, or delete "
        "files; the second copy is written by itself then.");
  }
  const std::size_t unreadable = filesystem.unreadable_runs();
  if (unreadable != 0) {
    problems.push_back(fmt::format(
        "Metadata is damaged on every disk that has it ({} run{}): what it tells of some "
        "files cannot be read. Everything else works. Copy what can be read to another "
        "pool, and restore the rest from a backup.",
        unreadable, unreadable == 1 ? "" : "s"));
  }
  const std::vector<DiskId> full = filesystem.store().full_disks();
  for (const DiskStatus& disk : disks) {
    if (std::ranges::find(full, disk.record.id) == full.end()) continue;
    problems.push_back(
        fmt::format("{} has no room: the file system under it is full. Make room there, or delete "
                    "files here.",
                    disk_name(disk)));
  }
  // A few percent: copying one more film must not be what finds out.
  if (space.total_bytes > 0 && space.available_bytes < space.total_bytes / 50) {
    problems.push_back(space.available_bytes == 0 ? "The pool is full. Delete files."
                                                  : "The pool is nearly full. Delete files.");
  }
  return problems;
}

Json fuse_json(const FuseSession::State& state, const MountFacts& facts) {
  const auto text_of = [](std::uint64_t flags) { return wire::flag_names(flags); };
  Json knobs = Json::object();
  for (const Knob& knob : facts.knobs)
    knobs[knob.name] = {{"before", knob.before}, {"now", knob.after}};
  return {{"library", state.library_version},
          {"protocol", fmt::format("{}.{}", state.offered.major, state.offered.minor)},
          {"features", text_of(state.answered.flags)},
          {"offered_and_not_used", text_of(state.offered.flags & ~state.answered.flags)},
          {"stateless_open", true},
          {"max_write_bytes", state.answered.max_write_bytes},
          {"max_readahead_bytes", state.answered.max_readahead_bytes},
          {"max_background", state.answered.max_background},
          {"congestion_threshold", state.answered.congestion_threshold},
          {"time_granularity_ns", state.answered.time_granularity_ns},
          {"readers", state.readers},
          {"receive_buffers_max", state.buffers_max},
          {"kernel", knobs}};
}

void put_run_metrics(Json& metrics, const journal::RunSet& runs) {
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

}  // namespace

Json build_status(Executor& executor, Filesystem& filesystem, const FuseSession& session,
                  const MountFacts& facts) {
  const journal::Superblock superblock = filesystem.pool().superblock();
  const std::vector<DiskStatus> disks = filesystem.pool().status();
  const extent::SpaceReport space = filesystem.store().space(superblock.policy);
  const StatFs usable = filesystem.statfs();
  const FuseSession::State fuse = session.state();
  const std::vector<std::string> damaged = block_on(executor, filesystem.damaged_files());
  const bool read_only = filesystem.pool().read_only() || facts.options.read_only;

  const bool damage = !damaged.empty() || absences(disks, filesystem.pool().policy()).too_many;
  const bool degraded = filesystem.pool().degraded() || space.degraded_chunks != 0;
  const char* const state = read_only  ? "read_only"
                            : damage   ? "damaged"
                            : degraded ? "degraded"
                                       : "healthy";

  Json status;
  status["pool"] = {{"uuid", superblock.pool.text()},
                    {"label", superblock.label},
                    {"state", state},
                    {"redundancy", superblock.policy.text()},
                    {"tolerates_lost_disks", superblock.policy.tolerance()},
                    {"epoch", superblock.epochs.empty() ? 0 : superblock.epochs.back().number.raw},
                    {"total_bytes", usable.total_bytes},
                    {"free_bytes", usable.free_bytes},
                    {"available_bytes", usable.available_bytes},
                    {"pending_bytes", space.pending_bytes},
                    {"promised_bytes", space.promised_bytes},
                    {"reserve_bytes", space.reserve_bytes},
                    {"degraded_chunks", space.degraded_chunks},
                    {"inodes", usable.files}};

  std::map<DiskId, std::uint64_t> used;
  for (const auto& [id, bytes] : space.used_by_disk) used[id] = bytes;
  status["disks"] = Json::array();
  for (const DiskStatus& disk : disks) {
    status["disks"].push_back(disk_json(filesystem, disk, used[disk.record.id]));
  }

  const BufferUse buffers = buffer_use();
  status["daemon"] = {{"pid", ::getpid()},
                      {"version", kProgramVersion},
                      {"mountpoint", facts.mountpoint},
                      {"device", facts.device},
                      {"read_only", facts.options.read_only},
                      {"writeback", facts.options.writeback},
                      {"workers_per_disk", facts.options.workers_per_disk},
                      {"depth", facts.options.queue.depth},
                      {"order", facts.options.queue.fifo ? "fifo" : "priority"},
                      {"background_percent", facts.options.queue.background_percent},
                      {"background_limit_percent", facts.options.queue.background_limit_percent},
                      {"write_batch_extents", facts.options.queue.write_batch_extents},
                      {"write_batch_bytes", facts.options.queue.write_batch_bytes},
                      {"write_memory_bytes", facts.options.write_memory_bytes},
                      {"read_memory_bytes", facts.options.read_memory_bytes},
                      {"metadata_memory_bytes", facts.options.metadata_memory_bytes},
                      {"readers", facts.options.readers},
                      {"commit_interval_s", facts.options.commit_interval.count() / 1'000'000'000},
                      {"group_commit_ops", facts.options.group_commit.ops},
                      {"group_commit_wait_us", facts.options.group_commit.wait.count() / 1000},
                      {"uptime_s", std::chrono::duration_cast<std::chrono::seconds>(
                                       std::chrono::steady_clock::now() - facts.since)
                                       .count()},
                      {"memory",
                       {{"resident_bytes", resident_bytes()},
                        {"buffers_in_use_bytes", buffers.in_use_bytes},
                        {"buffers_pooled_bytes", buffers.pooled_bytes},
                        {"metadata_bytes", filesystem.metadata_memory_bytes()}}}};
  status["fuse"] = fuse_json(fuse, facts);

  const MountReport& report = filesystem.mount_report();
  status["recovery"] = {{"took_ms", milliseconds(report.took)},
                        {"records_replayed", report.journal.records_replayed},
                        {"batches_replayed", report.journal.batches_replayed},
                        {"batches_repaired", report.journal.batches_repaired},
                        {"torn_tail", report.journal.torn_tail},
                        {"records_checked", report.journal.records_checked},
                        {"records_dropped", report.journal.records_dropped},
                        {"last_lsn", report.journal.last.raw},
                        {"inodes", report.inodes},
                        {"orphans_removed", report.orphans_removed},
                        {"runs", report.runs},
                        {"run_bytes", report.run_bytes}};
  status["scrub"] = scrub_json(filesystem.scrub_report());
  status["problems"] = problems_json(filesystem, facts.options.read_only, disks, usable,
                                     space.degraded_chunks, damaged);
  status["damaged_files"] = damaged;

  Json metrics;
  put_lock_metrics(metrics, filesystem.store().locks().metrics());
  put_store_metrics(metrics, filesystem.store().metrics());
  put_journal_metrics(metrics, filesystem.journal());
  put_filesystem_metrics(metrics, filesystem.metrics());
  metrics["file_hot_windows"] = filesystem.hot_windows();
  std::uint64_t completed = 0;
  for (const DiskStatus& disk : disks) {
    const scheduler::Disk* const present = filesystem.pool().disk(disk.record.id);
    if (present == nullptr) continue;
    completed +=
        put_disk_metrics(metrics, fmt::format("disk{}", disk.record.id), present->metrics());
  }
  metrics["io_ops_completed"] = completed;
  put_fuse_metrics(metrics, session, fuse);
  put_run_metrics(metrics, filesystem.runs());
  metrics["inodes"] = filesystem.inode_count();
  metrics["inodes_in_memory"] = filesystem.inodes_in_memory();
  metrics["metadata_memory_bytes"] = filesystem.metadata_memory_bytes();
  metrics["read_memory_bytes"] = filesystem.read_memory().in_use_bytes();
  metrics["read_memory_waits"] = filesystem.read_memory().waits();
  metrics["buffers_in_use_bytes"] = buffers.in_use_bytes;
  metrics["resident_bytes"] = resident_bytes();
  status["metrics"] = std::move(metrics);
  return status;
}

ExitCode exit_code_of(const Json& status) {
  const Json pool = status.value("pool", Json::object());
  const std::string state = pool.value("state", "");
  const bool chosen = status.value("daemon", Json::object()).value("read_only", false);
  if (!status.value("damaged_files", Json::array()).empty()) return ExitCode::kAtRisk;
  if (state == "damaged" || (state == "read_only" && !chosen)) return ExitCode::kAtRisk;
  const bool problems = !status.value("problems", Json::array()).empty();
  return state == "degraded" || problems ? ExitCode::kDegraded : ExitCode::kOk;
}

}  // namespace dynamicfs::fs
