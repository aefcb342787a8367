#include "fs/check_pool.hpp"

#include <fmt/format.h>

#include <thread>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "fs/disk_search.hpp"
#include "fs/mount_options.hpp"
#include "fs/scrub_screen.hpp"
#include "fs/status_screen.hpp"
#include "fs/text_table.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::chrono::milliseconds kLook{100};

std::string times(std::uint64_t count, const char* one, const char* several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

Task<Result<void>> start(Filesystem* filesystem, ScrubScope scope) {
  co_return filesystem->start_scrub(scope);
}

void judge_disks(CheckReport& report) {
  for (const journal::DiskStatus& disk : report.disks) {
    if (disk.health == journal::DiskHealth::kHealthy) continue;
    report.remarks.push_back(fmt::format("Disk {} ({}) is {}{}{}.", disk.record.id,
                                         disk.record.path, journal::disk_health_name(disk.health),
                                         disk.reason.empty() ? "" : ": ", disk.reason));
    if (disk.health == journal::DiskHealth::kMissing)
      report.remarks.back() += " Connect it; if it has moved, name it as well.";
  }
}

void judge_recovery(CheckReport& report) {
  const journal::RecoveryReport& log = report.recovery.journal;
  if (log.batches_lacking != 0) {
    report.remarks.push_back(fmt::format(
        "{} of the journal {} not whole on every disk that keeps it; the next mount "
        "repairs that.",
        times(log.batches_lacking, "batch", "batches"), log.batches_lacking == 1 ? "is" : "are"));
  }
}

void judge_tree(CheckReport& report) {
  for (const std::string& problem : report.tree.problems)
    report.problems.push_back(fmt::format("The tree: {}.", problem));
  if (report.tree.problem_count > report.tree.problems.size()) {
    report.problems.push_back(
        fmt::format("The tree: {} more.", report.tree.problem_count - report.tree.problems.size()));
  }
  if (report.tree.thin_chunks != 0) {
    report.remarks.push_back(
        fmt::format("{} with fewer copies than the policy asks for, made while disks were away.",
                    times(report.tree.thin_chunks, "chunk was made", "chunks were made")));
  }
}

void judge_scrub(CheckReport& report, const std::vector<std::string>& damaged,
                 const std::vector<std::string>& cut_off) {
  const journal::ScrubCounts& counts = report.scrub.counts;
  if (counts.blocks_lost != 0) {
    report.problems.push_back(
        fmt::format("{} no good copy.", times(counts.blocks_lost, "block has", "blocks have")));
  }
  for (const std::string& file : damaged)
    report.problems.push_back(fmt::format("{} cannot be read as a whole.", printable(file)));
  if (report.scrub.errors != 0) {
    report.problems.push_back(
        fmt::format("{} could not be judged.", times(report.scrub.errors, "piece", "pieces")));
  }
  if (counts.blocks_unreadable != 0) {
    report.problems.push_back(
        fmt::format("{} no good copy here; a disk that is away may have one.",
                    times(counts.blocks_unreadable, "block has", "blocks have")));
    for (const std::string& file : cut_off)
      report.problems.push_back(fmt::format("{} needs a disk that is away.", printable(file)));
  }
  if (counts.copies_bad != 0) {
    const bool others = counts.blocks_lost == 0 && counts.blocks_unreadable == 0;
    report.remarks.push_back(fmt::format(
        "{} wrong or cannot be read{}", times(counts.copies_bad, "copy is", "copies are"),
        others ? "; others are good. 'dynamicfs scrub start' on the mounted pool rewrites them."
               : "."));
  }
  if (counts.copies_outdated != 0) {
    report.remarks.push_back(
        fmt::format("{} something while their disk was away; a scrub rewrites them.",
                    times(counts.copies_outdated, "copy missed", "copies missed")));
  }
  if (counts.copies_skipped != 0) {
    report.remarks.push_back(fmt::format("{} on disks that are away.",
                                         times(counts.copies_skipped, "copy lies", "copies lie")));
  }
}

// All disks of the pool, open and locked. `notes`: why a disk that is there counts as missing, too.
Outcome<std::unique_ptr<journal::Pool>> open_all(Executor& executor, const CheckRequest& request,
                                                 bool read_only, FoundDisks& found) {
  found = TRY(find_disks(
      executor,
      {.named = request.disk, .others = request.others, .queue = {}, .read_only = read_only}));
  auto opened = open_pool(executor, std::move(found.disks), read_only);
  if (opened) return std::move(*opened);
  Refusal refusal = opened.error();
  if (refusal.code == ExitCode::kDiskMissing) {
    refusal.remedy = "A disk that has moved can be named as well: dynamicfs check DISK DISK...";
    for (const std::string& note : found.notes) refusal.remedy += "\n           " + note;
  }
  return refusal;
}

Outcome<CheckReport> look(Executor& executor, const CheckRequest& request,
                          const std::function<void(const ScrubReport&)>& progress) {
  FoundDisks found;
  std::unique_ptr<journal::Pool> pool = TRY(open_all(executor, request, true, found));
  CheckReport report;
  report.pool = found.pool.text();
  report.label = found.label;
  for (const std::string& note : found.notes) report.remarks.push_back(note);
  report.data = request.data;
  const journal::Superblock superblock = pool->superblock();
  report.policy = superblock.policy.text();
  report.clean = superblock.clean;
  report.disks = pool->status();
  judge_disks(report);

  FilesystemOptions options;
  options.read_only = true;
  options.tolerant = true;
  auto mounted = block_on(executor, Filesystem::mount(executor, std::move(pool), options));
  if (!mounted) {
    // What has no record has no root either. Clean without a run: made, and not mounted yet.
    report.empty = mounted.error().code == Code::kReadOnly && superblock.clean &&
                   superblock.manifest.runs.empty();
    if (!report.empty) {
      report.problems.push_back(
          fmt::format("The metadata cannot be recovered: {}.", describe(mounted.error())));
    }
    return report;
  }
  Filesystem& filesystem = **mounted;
  report.recovery = filesystem.mount_report();
  judge_recovery(report);
  const Result<TreeReport> tree = block_on(executor, filesystem.check_tree());
  if (tree.has_value()) {
    report.tree = *tree;
  } else {
    report.problems.push_back(
        fmt::format("The metadata cannot be read: {}.", describe(tree.error())));
  }
  judge_tree(report);
  const auto started = block_on(
      executor, start(&filesystem, request.data ? ScrubScope::kAll : ScrubScope::kMetadata));
  started.ignore("nothing else could have started one");
  while ((report.scrub = filesystem.scrub_report()).state == ScrubState::kRunning) {
    std::this_thread::sleep_for(kLook);
    progress(report.scrub);
  }
  const std::vector<std::string> cut_off = block_on(executor, filesystem.cut_off_files());
  judge_scrub(report, block_on(executor, filesystem.damaged_files()), cut_off);
  const std::uint64_t unavailable = filesystem.store().unavailable_bytes();
  if (!request.data && unavailable != 0) {
    report.problems.push_back(
        fmt::format("{} of files lie only on disks that are away, and cannot be read without them. "
                    "--data names the files.",
                    size_text(unavailable)));
  }
  report.disks = filesystem.pool().status();
  const Result<void> unmounted = block_on(executor, filesystem.unmount());
  unmounted.ignore("nothing was written");
  return report;
}

// Derives anew what can be; with `read_only` nothing is written. A refusal says what is known then.
Outcome<RepairReport> repair(Executor& executor, const CheckRequest& request, bool read_only) {
  FoundDisks found;
  std::unique_ptr<journal::Pool> pool = TRY(open_all(executor, request, read_only, found));
  if (!read_only && pool->read_only()) {
    return failed("Nothing was repaired: the pool cannot be opened for writing.",
                  "A newer version of dynamicfs may be needed, or disks that can be written.");
  }
  FilesystemOptions options;
  options.read_only = read_only;
  options.tolerant = true;
  options.repair = true;
  auto mounted = block_on(executor, Filesystem::mount(executor, std::move(pool), options));
  if (!mounted && read_only) {
    return failed(
        fmt::format("Nothing was repaired: what there is cannot be brought into an order ({}).",
                    describe(mounted.error())),
        "Copy what can be read to another place ('dynamicfs extract' does it), or restore it from "
        "a backup.");
  }
  if (!mounted) {
    return failed(fmt::format("The repair could not be written: {}.", describe(mounted.error())),
                  "The tree is as it was, or repaired as a whole; run check again.");
  }
  RepairReport report = (*mounted)->repair_report();
  const Result<void> unmounted = block_on(executor, (*mounted)->unmount());
  unmounted.ignore("what was repaired is durable, and it is looked at again");
  return report;
}

// A line of the report.
std::string line(const Refusal& refusal) {
  std::string text = refusal.what + (refusal.remedy.empty() ? "" : " " + refusal.remedy);
  while (text.ends_with('.')) text.pop_back();
  return text;
}

// Nothing is written if the same, tried without writing, has not understood everything.
Outcome<RepairReport> repair_if_understood(Executor& executor, const CheckRequest& request) {
  RepairReport tried = TRY(repair(executor, request, true));
  if (!tried.left.empty() || tried.repaired.empty()) return tried;
  return repair(executor, request, false);
}

// Behind a repair.
Outcome<CheckReport> look_again(Executor& executor, const CheckRequest& request,
                                const std::vector<std::string>& repaired,
                                const std::function<void(const ScrubReport&)>& progress) {
  auto report = look(executor, request, progress);
  if (report) return report;
  Refusal refusal = report.error();
  refusal.what = "The repair is done, and it could not be looked at again: " + refusal.what;
  for (const std::string& what : repaired)
    refusal.remedy += "\n  repaired " + printable(what) + ".";
  return refusal;
}

// What cannot be read may name what seems to have no name: nothing is derived from the rest.
bool is_readable(const CheckReport& report) { return report.tree.directories != 0; }

}  // namespace

Outcome<CheckReport> check_pool(const CheckRequest& request,
                                const std::function<void(const ScrubReport&)>& progress) {
  const std::unique_ptr<Executor> executor = make_thread_executor();
  CheckReport report = TRY(look(*executor, request, progress));
  report.repair = request.repair;
  if (!request.repair || report.empty) return report;
  if (!is_readable(report)) {
    report.left.push_back(
        "nothing is repaired, because not all metadata can be recovered: what is missing may name "
        "the rest; connect disks that are away, or copy what can be read to another place "
        "('dynamicfs extract' does it), or restore it from a backup");
    return report;
  }
  if (report.tree.problem_count == 0) return report;
  auto repairs = repair_if_understood(*executor, request);
  if (!repairs) {
    report.left.push_back(line(repairs.error()));
    return report;
  }
  if (!repairs->repaired.empty())
    report = TRY(look_again(*executor, request, repairs->repaired, progress));
  report.repair = true;
  report.repaired = std::move(repairs->repaired);
  report.left = std::move(repairs->left);
  return report;
}

ExitCode CheckReport::exit_code() const {
  if (!problems.empty() || !left.empty()) return ExitCode::kAtRisk;
  return remarks.empty() ? ExitCode::kOk : ExitCode::kDegraded;
}

std::string CheckReport::screen() const {
  std::string out =
      fmt::format("Pool {}, {}, {}\n", label.empty() ? pool : fmt::format("{} ({})", label, pool),
                  policy, times(disks.size(), "disk", "disks"));
  for (const journal::DiskStatus& disk : disks) {
    out += fmt::format("  disk {}  {}  {}, {}{}\n", disk.record.id, disk.record.path,
                       size_text(disk.record.size_bytes), journal::disk_health_name(disk.health),
                       disk.member ? ", keeps the journal" : "");
  }
  if (empty) {
    out += "It has not been mounted yet: there is nothing in it.\n";
  } else if (problems.empty() || tree.directories != 0) {
    const journal::RecoveryReport& log = recovery.journal;
    out += fmt::format(
        "  journal   {} in {}{}{}\n", times(log.records_replayed, "record", "records"),
        times(log.batches_replayed, "batch", "batches"),
        clean ? ", unmounted in order" : ", not unmounted in order",
        log.torn_tail ? ", the last one not whole (cut off by the crash, or damaged since)" : "");
    if (log.records_dropped != 0) {
      out += fmt::format(
          "            the last {} without their data (not on the disks when the power went, or "
          "damaged since)\n",
          times(log.records_dropped, "record is", "records are"));
    }
    out += fmt::format("  metadata  {} in {}\n", size_text(recovery.run_bytes),
                       times(recovery.runs, "run", "runs"));
    out += fmt::format(
        "  tree      {}, {}, {}, {}{}\n", times(tree.directories, "directory", "directories"),
        times(tree.files, "file", "files"), times(tree.others, "other", "others"),
        times(tree.names, "name", "names"),
        tree.orphans == 0 ? ""
                          : fmt::format(", {} still to be reclaimed",
                                        times(tree.orphans, "removed file", "removed files")));
    out += fmt::format(
        "  data      {} in {}{}{}\n",
        size_text((tree.data_blocks - tree.saved_blocks) * kBlockBytes),
        times(tree.chunks, "chunk", "chunks"),
        tree.saved_blocks == 0
            ? ""
            : fmt::format(", {} saved by clones", size_text(tree.saved_blocks * kBlockBytes)),
        data
            ? fmt::format(", every copy that is here read ({})", size_text(scrub.counts.read_bytes))
            : ", not read (--data reads it)");
  }
  for (const std::string& what : repaired) out += fmt::format("repaired {}.\n", printable(what));
  for (const std::string& problem : problems) out += fmt::format("PROBLEM  {}\n", problem);
  for (const std::string& what : left) out += fmt::format("left     {}.\n", printable(what));
  for (const std::string& remark : remarks) out += fmt::format("note     {}\n", remark);
  if (exit_code() == ExitCode::kAtRisk) {
    out += "Something is lost, cannot be read or contradicts itself.\n";
  } else if (!remarks.empty()) {
    out += "Everything can be read; not everything has all its copies.\n";
  } else {
    out += "Nothing is wrong.\n";
  }
  return out;
}

Json CheckReport::json() const {
  Json repairs = nullptr;
  if (repair) repairs = {{"repaired", repaired}, {"left", left}};
  Json listed = Json::array();
  for (const journal::DiskStatus& disk : disks) {
    listed.push_back({{"id", disk.record.id.raw},
                      {"path", disk.record.path},
                      {"size_bytes", disk.record.size_bytes},
                      {"state", journal::disk_health_name(disk.health)},
                      {"journal", disk.member}});
  }
  const journal::RecoveryReport& log = recovery.journal;
  return {{"pool", pool},
          {"label", label},
          {"policy", policy},
          {"disks", listed},
          {"empty", empty},
          {"clean", clean},
          {"journal",
           {{"records", log.records_replayed},
            {"batches", log.batches_replayed},
            {"batches_lacking", log.batches_lacking},
            {"torn_tail", log.torn_tail},
            {"records_checked", log.records_checked},
            {"records_dropped", log.records_dropped}}},
          {"tree",
           {{"directories", tree.directories},
            {"files", tree.files},
            {"others", tree.others},
            {"names", tree.names},
            {"orphans", tree.orphans},
            {"data_bytes", (tree.data_blocks - tree.saved_blocks) * kBlockBytes},
            {"saved_bytes", tree.saved_blocks * kBlockBytes},
            {"chunks", tree.chunks}}},
          {"data_read", data},
          {"copies", scrub_json(scrub)},
          {"problems", problems},
          {"remarks", remarks},
          {"repair", repairs},
          {"exit_code", static_cast<int>(exit_code())}};
}

}  // namespace dynamicfs::fs
