#include "fs/status.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <map>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "base/log.hpp"
#include "fs/rebuild_screen.hpp"
#include "fs/scrub_screen.hpp"
#include "fs/status_metrics.hpp"
#include "fs/thresholds.hpp"

namespace dynamicfs::fs {
namespace {

using journal::DiskHealth;
using journal::DiskStatus;
using scheduler::ClassMetrics;
using scheduler::DiskKind;

double milliseconds_of(Duration duration) {
  return static_cast<double>(
             std::chrono::duration_cast<std::chrono::microseconds>(duration).count()) /
         1000;
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
              {"spare", disk.record.spare},
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
    latency[std::string{scheduler::kIoClassNames[i]} + "_p50"] =
        of_class.latency_us.percentile(0.5);
    latency[std::string{scheduler::kIoClassNames[i]} + "_p99"] =
        of_class.latency_us.percentile(0.99);
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
    if (disk.record.spare) continue;  // nothing lies there
    if (disk.health == DiskHealth::kMissing || disk.health == DiskHealth::kFailed ||
        disk.health == DiskHealth::kOffline) {
      out.away.push_back(&disk);
    } else if (disk.health == DiskHealth::kStale) {
      out.stale.push_back(&disk);
    }
  }
  out.too_many = !out.away.empty() && !out.stale.empty() &&
                 out.away.size() + out.stale.size() > policy.tolerance();
  return out;
}

std::string resync_text(const ResyncReport& resync) {
  return resync.running
             ? fmt::format(": {:.0f} % of the files are looked at", 100 * resync.progress)
             : "";
}

// One line each: what is wrong, and what to do about it.
Json problems_json(Filesystem& filesystem, bool chosen_read_only,
                   const std::vector<DiskStatus>& disks, const StatFs& space,
                   std::uint64_t degraded_chunks, std::uint64_t unavailable_bytes,
                   const std::vector<std::string>& damaged) {
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
  // Nothing is taken back by a pool that is read-only.
  const bool at_mount = filesystem.pool().read_only();
  const auto online = [&](const DiskStatus& disk, std::string_view more = "") {
    return at_mount ? std::string{"unmount and mount again"}
                    : fmt::format("'dynamicfs disk online MOUNTPOINT {}'{}", disk.record.id, more);
  };
  for (const DiskStatus& disk : disks) {
    switch (disk.health) {
      case DiskHealth::kHealthy: break;
      case DiskHealth::kMissing:
        problems.push_back(
            fmt::format("{} is missing. Connect it, then {}.", disk_name(disk),
                        online(disk, ", with its path behind that if it has moved")));
        break;
      case DiskHealth::kFailed:
        problems.push_back(fmt::format(
            "{} has failed{}{}. Check its cables and its health, then {}.", disk_name(disk),
            disk.reason.empty() ? "" : ": ", disk.reason, online(disk)));
        break;
      case DiskHealth::kOffline:
        problems.push_back(fmt::format("{} was taken offline. To take it back, {}.",
                                       disk_name(disk),
                                       at_mount ? online(disk) : "run " + online(disk)));
        break;
      case DiskHealth::kStale:
        problems.push_back(fmt::format(
            "{} was away and may lack what was written meanwhile. {}{}.", disk_name(disk),
            at_mount ? "It gets that when the pool is mounted for writing"
                     : "It gets that by itself",
            resync_text(filesystem.resync_report())));
        break;
    }
  }
  const RebuildReport rebuild = filesystem.rebuild_report();
  if (rebuild.stuck_chunks > 0 && !rebuild.running) {
    problems.push_back(fmt::format(
        "{} chunk{} of 4 MiB cannot be put where {} should be: {}. {}", rebuild.stuck_chunks,
        rebuild.stuck_chunks == 1 ? "" : "s", rebuild.stuck_chunks == 1 ? "it" : "they",
        describe(rebuild.obstacle),
        rebuild.obstacle.code == Code::kNoSpace
            ? "Add a disk ('dynamicfs disk add'), or remove files."
        : rebuild.obstacle.code == Code::kDiskRead
            ? "'dynamicfs scrub start' finds the files; remove them or restore them from a backup."
            : "It is tried again every minute."));
  }
  for (const DiskStatus& disk : disks) {
    const bool stays = !disk.record.leaving || disk.record.spare;
    if (stays || filesystem.pool().disk(disk.record.id) == nullptr || rebuild.due ||
        rebuild.running || !filesystem.store().has_chunks(disk.record.id))
      continue;
    problems.push_back(fmt::format(
        "{} cannot leave the pool: files there cannot be made whole on other disks without one of "
        "those that are away. Connect one of these, or remove the files ('dynamicfs check --data' "
        "names them, unmounted), or 'dynamicfs disk keep MOUNTPOINT {}'.",
        disk_name(disk), disk.record.id));
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
  if (unavailable_bytes != 0) {
    problems.push_back(fmt::format(
        "{} of files lie only on disks that are away, and cannot be read: {}. They can "
        "again when it is connected: mount with it. If it is dead, 'dynamicfs check "
        "--data' names the files, unmounted: remove them, or restore them from a backup.",
        size_text(unavailable_bytes), names_of(absent.away)));
  }
  const ReencodeReport reencoding = filesystem.reencode_report();
  if (reencoding.stuck_bytes > reencoding.cut_bytes) {
    problems.push_back(fmt::format(
        "{} are not protected as their policy asks yet, most likely for want of room. Add a "
        "disk with 'dynamicfs disk add', or remove files; the rest is done by itself then.",
        size_text(reencoding.stuck_bytes - reencoding.cut_bytes)));
  }
  if (reencoding.cut_bytes != 0) {
    problems.push_back(fmt::format(
        "{} of files that are to be kept on one disk lie on others than the rest of them, because "
        "no disk has room for all of such a file. Add a disk with 'dynamicfs disk add', or remove "
        "files: within a day they are put together then.",
        size_text(reencoding.cut_bytes)));
  }
  if (absent.away.empty() && degraded_chunks != 0) {
    problems.push_back(
        fmt::format("Files written while a disk was away have fewer copies than the pool promises "
                    "({} chunks of 4 MiB). The rest is made as soon as there are disks for it.",
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
  const std::size_t here = filesystem.pool().staying()->size();
  if (metadata_copies != 0 && metadata_copies < std::min<std::size_t>(2, here) &&
      !filesystem.pool().read_only()) {
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
          {"ring_queues", state.ring_queues},
          {"ring_entries", state.ring_entries},
          {"receive_buffers_max", state.buffers_max},
          {"kernel", knobs}};
}

}  // namespace

Json build_status(Executor& executor, Filesystem& filesystem, const FuseSession& session,
                  const MountFacts& facts) {
  const journal::Superblock superblock = filesystem.pool().superblock();
  const std::vector<DiskStatus> disks = filesystem.pool().status();
  const extent::SpaceReport space = filesystem.store().space(superblock.policy);
  const std::uint64_t unavailable = filesystem.store().unavailable_bytes();
  const StatFs usable = filesystem.statfs();
  const FuseSession::State fuse = session.state();
  const std::vector<std::string> damaged = block_on(executor, filesystem.damaged_files());
  const bool read_only = filesystem.pool().read_only() || facts.options.read_only;

  const bool damage = !damaged.empty() || filesystem.unreadable_runs() != 0 || unavailable != 0 ||
                      absences(disks, filesystem.pool().policy()).too_many;
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
                    {"unavailable_bytes", unavailable},
                    {"inodes", usable.files}};

  std::map<DiskId, std::uint64_t> used;
  for (const auto& [id, bytes] : space.used_by_disk) used[id] = bytes;
  status["disks"] = Json::array();
  for (const DiskStatus& disk : disks) {
    status["disks"].push_back(disk_json(filesystem, disk, used[disk.record.id]));
  }

  const BufferUse buffers = buffer_use();
  status["daemon"] = {
      {"pid", ::getpid()},
      {"version", kProgramVersion},
      {"mountpoint", facts.mountpoint},
      {"device", facts.device},
      {"read_only", facts.options.read_only},
      {"writeback", facts.options.writeback},
      {"acl", facts.options.acl},
      {"io_uring", facts.options.io_uring},
      {"allow_other", facts.options.allow_other},
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
      {"alarm", facts.options.alarm},
      {"scrub_every_days",
       std::chrono::duration_cast<std::chrono::hours>(facts.options.scrub_every).count() / 24},
      {"rebuild_after_min",
       std::chrono::duration_cast<std::chrono::minutes>(facts.options.rebuild_after).count()},
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
  status["recovery"] = {{"took_ms", milliseconds_of(report.took)},
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
  status["rebuild"] = rebuild_json(filesystem.rebuild_report(), filesystem.pool());
  const ReencodeReport reencoding = filesystem.reencode_report();
  const ResyncReport resync = filesystem.resync_report();
  status["resync"] = {{"running", resync.running},
                      {"progress_ratio", resync.progress},
                      {"rewritten_bytes", resync.rewritten_bytes}};
  status["reencoding"] = {{"pending", reencoding.pending},
                          {"running", reencoding.running},
                          {"progress_ratio", reencoding.progress},
                          {"moved_bytes", reencoding.moved_bytes},
                          {"stuck_bytes", reencoding.stuck_bytes}};
  status["problems"] = problems_json(filesystem, facts.options.read_only, disks, usable,
                                     space.degraded_chunks, unavailable, damaged);
  status["damaged_files"] = damaged;

  put_metrics(status, filesystem, session, facts.options);
  status["hints"] = hints(status);
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
