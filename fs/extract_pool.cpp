#include "fs/extract_pool.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "fs/disk_search.hpp"
#include "fs/mount_options.hpp"
#include "fs/text_table.hpp"

namespace dynamicfs::fs {
namespace {

// A line of text names so many ranges at most; JSON names them all.
constexpr std::size_t kRangesShown = 64;

std::string how_many(std::uint64_t count, const char* one, const char* several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

// An open directory for each level of the tree takes a descriptor.
void allow_many_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void judge_disks(ExtractReport& report, journal::Pool& pool) {
  const std::vector<DiskId> members = pool.superblock().members;
  std::size_t here = 0;
  bool member_here = false;
  bool member_away = false;
  for (const journal::DiskStatus& disk : report.disks) {
    const bool member = std::ranges::find(members, disk.record.id) != members.end();
    if (disk.health == journal::DiskHealth::kMissing) {
      member_away = member_away || member;
    } else {
      member_here = member_here || member;
      ++here;
    }
    if (disk.health != journal::DiskHealth::kHealthy) {
      report.remarks.push_back(fmt::format(
          "Disk {} ({}) is {}{}{}.", disk.record.id, printable(disk.record.path),
          journal::disk_health_name(disk.health), disk.reason.empty() ? "" : ": ", disk.reason));
    }
    const scheduler::Disk* const open = pool.disk(disk.record.id);
    if (open != nullptr && open->size_bytes() < disk.record.size_bytes) {
      report.remarks.push_back(fmt::format(
          "Disk {} ({}) is shorter than it was, {} instead of {}: what lay behind that is missing.",
          disk.record.id, printable(disk.record.path), size_text(open->size_bytes()),
          size_text(disk.record.size_bytes)));
    }
  }
  if (!member_here) report.remarks.push_back("No disk that kept the newest journal is here.");
  // A mount needs a member, and can do without as many as the tolerance says.
  if (member_away && here <= pool.tolerance()) {
    report.remarks.push_back(
        "The disks that are missing may have been used without those that are here: then what "
        "comes out is older than what they have.");
  }
}

void judge_metadata(ExtractReport& report, Filesystem& filesystem) {
  const journal::RecoveryReport& log = filesystem.mount_report().journal;
  if (log.damaged.raw != 0) {
    report.problems.push_back(
        fmt::format("The journal cannot be read from batch {} on: changes since then are lost, "
                    "synced ones too, and what comes out is as it was before them.",
                    log.damaged));
  }
  if (log.records_failed != 0) {
    report.problems.push_back(fmt::format(
        "{} of the journal could not be applied, because metadata that they change is lost.",
        how_many(log.records_failed, "record", "records")));
  }
  if (log.records_dropped != 0) {
    const bool whole = std::ranges::all_of(report.disks, [&](const journal::DiskStatus& disk) {
      const scheduler::Disk* const open = filesystem.pool().disk(disk.record.id);
      return disk.health == journal::DiskHealth::kHealthy && open != nullptr &&
             open->size_bytes() >= disk.record.size_bytes;
    });
    // With a disk gone the data may have been there, and the changes acknowledged.
    (whole ? report.remarks : report.problems)
        .push_back(fmt::format(
            "The last {} of the journal came without their data, as after a power cut, and "
            "count for nothing{}.",
            how_many(log.records_dropped, "record", "records"),
            whole ? "" : ": files that were synced last may be missing, or as they were before"));
  }
  const SalvageReport salvage = filesystem.salvage_report();
  if (salvage.runs_lost != 0) {
    report.problems.push_back(fmt::format(
        "{} of metadata, {}, cannot be read: what that makes doubtful is named above, and in "
        "directories named there files may be missing that are not.",
        how_many(salvage.runs_lost, "run", "runs"), size_text(salvage.run_bytes_lost)));
  }
  if (salvage.blocks_lost != 0) {
    report.problems.push_back(
        fmt::format("{} of metadata cannot be read; what that concerns is named above.",
                    how_many(salvage.blocks_lost, "block", "blocks")));
  }
  if (salvage.space_map_damaged || salvage.chunks_lost != 0) {
    report.problems.push_back(
        "Where some of the data lies is not known; files that have it are named above.");
  }
}

void judge_copies(ExtractReport& report, Filesystem& filesystem) {
  const std::uint64_t bad = filesystem.store().metrics().checksum_errors.sum();
  if (bad != 0 && report.counts.partial == 0) {
    report.remarks.push_back(
        fmt::format("{} wrong checksums were met; other copies were good.", bad));
  }
}

void judge_target(ExtractReport& report) {
  const auto say = [&report](const NotKept::Kind& kind, const char* what) {
    if (kind.count == 0) return;
    report.remarks.push_back(
        fmt::format("{} {}. The first: {}.", kind.count, what, printable(kind.first)));
  };
  say(report.not_kept.owners, "times an owner could not be kept (that takes root)");
  say(report.not_kept.xattrs, "extended attributes could not be kept");
  say(report.not_kept.modes, "times a mode could not be kept");
  say(report.not_kept.times, "times a time could not be kept");
  say(report.not_kept.links, "hard links became files of their own");
  if (report.counts.nameless != 0) {
    report.remarks.push_back(
        fmt::format("{} whose names are lost came out in the directory 'dynamicfs-nameless'.",
                    how_many(report.counts.nameless, "thing", "things")));
  }
}

// Disks that were here at the beginning, and are not now.
void judge_failures(ExtractReport& report, const std::vector<journal::DiskStatus>& now) {
  for (std::size_t i = 0; i < now.size(); ++i) {
    if (now[i].health != journal::DiskHealth::kFailed) continue;
    report.problems.push_back(
        fmt::format("Disk {} ({}) has failed meanwhile: {}. What is missing may come out when it "
                    "is connected again.",
                    now[i].record.id, printable(now[i].record.path), now[i].reason));
  }
}

// What is only there once it has been read.
void judge(ExtractReport& report, Filesystem& filesystem) {
  judge_metadata(report, filesystem);
  judge_copies(report, filesystem);
  judge_target(report);
}

void tell_end(ExtractReport& report, const Error& why, const std::string& at) {
  const std::string rest =
      fmt::format("{} and what would have come behind that is not there", printable(at));
  if (why.code == Code::kShutdown) {
    report.problems.push_back(fmt::format("It was interrupted: {}.", rest));
    return;
  }
  report.problems.push_back(
      fmt::format("{} takes no more ({}): {}. Begin again with an empty directory that has more "
                  "room.",
                  printable(report.to), std::strerror(why.sys_errno), rest));
}

void run_tree(Executor& executor, Filesystem& filesystem, ExtractTarget* target,
              const ExtractRequest& request, const ExtractHooks& hooks, ExtractReport& report) {
  const extent::Store& store = filesystem.store();
  report.bytes = (store.live_blocks() + store.saved_blocks()) * kBlockBytes;
  if (target != nullptr) {
    hooks.on_start(request.only.empty() ? report.bytes : 0, target->free_bytes());
  }
  ExtractTree tree{executor, filesystem, target, request.only, hooks.events};
  const Result<void> walked = tree.run();
  report.counts = tree.counts();
  if (target != nullptr) {
    const Result<void> kept = target->end();
    if (!kept.has_value()) {
      report.problems.push_back(fmt::format(
          "{} could not write everything that it had taken ({}): compare what came out, "
          "or begin again with another place.",
          printable(report.to), std::strerror(kept.error().sys_errno)));
    }
    report.not_kept = target->not_kept();
  }
  if (!walked.has_value()) tell_end(report, walked.error(), tree.at());
}

}  // namespace

Outcome<ExtractReport> extract_pool(const ExtractRequest& request, const ExtractHooks& hooks) {
  allow_many_files();
  ::umask(0);
  const std::unique_ptr<Executor> executor = make_thread_executor();
  FoundDisks found =
      TRY(find_disks(*executor, {.named = request.disks.front(),
                                 .others = {request.disks.begin() + 1, request.disks.end()},
                                 .queue = {},
                                 .read_only = true,
                                 .lenient = true,
                                 .search = request.search}));
  ExtractReport report;
  report.pool = found.pool.text();
  report.label = found.label;
  report.to = request.to;
  report.remarks = found.notes;
  std::vector<std::string> places = found.known_paths;
  places.insert(places.end(), request.disks.begin(), request.disks.end());

  auto opened = open_pool(*executor, std::move(found.disks), true, true);
  if (!opened) {
    Refusal refusal = opened.error();
    if (refusal.code == ExitCode::kSplitBrain) {
      refusal.what = "The disks were mounted apart, and do not agree any more.";
      refusal.remedy =
          "Extract each side by itself, with --no-search and its disks alone, to two directories.";
    }
    return refusal;
  }
  std::unique_ptr<journal::Pool> pool = std::move(*opened);
  const journal::Superblock superblock = pool->superblock();
  report.policy = superblock.policy.text();
  report.disks = pool->status();
  judge_disks(report, *pool);

  std::unique_ptr<ExtractTarget> target;
  if (!request.to.empty()) target = TRY(ExtractTarget::open(request.to, places));

  FilesystemOptions options;
  options.read_only = true;
  options.tolerant = true;
  options.salvage = true;
  auto mounted = block_on(*executor, Filesystem::mount(*executor, std::move(pool), options));
  if (!mounted) {
    const bool empty = mounted.error().code == Code::kReadOnly && superblock.clean &&
                       superblock.manifest.runs.empty();
    if (empty) {
      report.remarks.push_back("The pool has not been mounted yet: there is nothing in it.");
    } else {
      report.problems.push_back(
          fmt::format("Nothing of the metadata can be read ({}): which files there were is lost.",
                      describe(mounted.error())));
    }
    return report;
  }
  Filesystem& filesystem = **mounted;
  run_tree(*executor, filesystem, target.get(), request, hooks, report);
  judge_failures(report, filesystem.pool().status());
  report.disks = filesystem.pool().status();
  judge(report, filesystem);
  block_on(*executor, filesystem.unmount()).ignore("nothing was written");
  return report;
}

ExitCode ExtractReport::exit_code() const {
  const bool lost = counts.missing + counts.partial + counts.doubtful + counts.attributes != 0;
  if (lost || !problems.empty()) return ExitCode::kAtRisk;
  return remarks.empty() ? ExitCode::kOk : ExitCode::kDegraded;
}

std::string ExtractReport::screen() const {
  std::string out;
  for (const std::string& problem : problems) out += fmt::format("PROBLEM  {}\n", problem);
  for (const std::string& remark : remarks) out += fmt::format("note     {}\n", remark);
  out += fmt::format("Pool {}, {}, {}\n",
                     label.empty() ? pool : fmt::format("{} ({})", printable(label), pool), policy,
                     how_many(disks.size(), "disk", "disks"));
  out += fmt::format("{}: {}, {}, {}, {}{}\n",
                     to.empty() ? "Listed" : fmt::format("Copied to {}", printable(to)),
                     how_many(counts.directories, "directory", "directories"),
                     how_many(counts.files, "file", "files"),
                     how_many(counts.links, "further name", "further names"),
                     how_many(counts.others, "other", "others"),
                     to.empty() ? "; whether their data can be read was not tried"
                                : ", " + size_text(counts.bytes));
  if (counts.missing + counts.partial + counts.doubtful != 0) {
    out += fmt::format(
        "Of these {} incomplete ({} missing), {} in doubt; {} did not come out at all.\n",
        how_many(counts.partial, "file is", "files are"), size_text(counts.lost_bytes),
        how_many(counts.doubtful, "is", "are"), counts.missing);
  }
  if (counts.attributes != 0) {
    out += fmt::format(
        "Of {}, else whole, extended attributes may be missing (--report names them).\n",
        how_many(counts.attributes, "thing", "things"));
  }
  if (exit_code() == ExitCode::kAtRisk) {
    out += "Something could not be recovered: the lines above say what.\n";
  } else if (exit_code() == ExitCode::kDegraded) {
    out += fmt::format("{}, but for what the notes say.\n",
                       to.empty() ? "All names are there" : "Everything came out");
  } else {
    out += to.empty() ? "All names are there.\n" : "Everything came out.\n";
  }
  return out;
}

Json ExtractReport::json() const {
  Json listed = Json::array();
  for (const journal::DiskStatus& disk : disks) {
    listed.push_back({{"id", disk.record.id.raw},
                      {"path", disk.record.path},
                      {"state", journal::disk_health_name(disk.health)},
                      {"journal", disk.member}});
  }
  return {{"pool", pool},
          {"label", label},
          {"policy", policy},
          {"to", to},
          {"disks", listed},
          {"directories", counts.directories},
          {"files", counts.files},
          {"further_names", counts.links},
          {"others", counts.others},
          {"copied_bytes", counts.bytes},
          {"missing", counts.missing},
          {"incomplete", counts.partial},
          {"doubtful", counts.doubtful},
          {"attributes", counts.attributes},
          {"lost_bytes", counts.lost_bytes},
          {"nameless", counts.nameless},
          {"problems", problems},
          {"remarks", remarks},
          {"exit_code", static_cast<int>(exit_code())}};
}

std::string loss_text(const ExtractLoss& loss) {
  const std::string path = printable(loss.path);
  if (loss.kind == ExtractLoss::Kind::kMissing)
    return fmt::format("MISSING  {}: {}.", path, loss.why);
  if (loss.kind != ExtractLoss::Kind::kPartial)
    return fmt::format("DOUBT    {}: {}.", path, loss.why);
  std::string ranges;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < loss.ranges.size(); ++i) {
    const auto& [from, end] = loss.ranges[i];
    bytes += end - from;
    if (i < kRangesShown) ranges += fmt::format("{}{}-{}", i == 0 ? "" : ", ", from, end - 1);
  }
  if (loss.ranges.size() > kRangesShown) {
    ranges += fmt::format(" and {} more (--report names them)", loss.ranges.size() - kRangesShown);
  }
  return fmt::format("PARTIAL  {}: {} of {} bytes are missing, holes instead: bytes {}: {}.", path,
                     bytes, loss.size_bytes, ranges, loss.why);
}

Json loss_json(const ExtractLoss& loss) {
  static constexpr const char* kKinds[] = {"missing", "incomplete", "doubtful", "attributes"};
  Json out = {{"path", loss.path},
              {"kind", kKinds[static_cast<std::size_t>(loss.kind)]},
              {"why", loss.why}};
  if (loss.kind != ExtractLoss::Kind::kPartial) return out;
  out["size_bytes"] = loss.size_bytes;
  Json ranges = Json::array();
  for (const auto& [from, end] : loss.ranges)
    ranges.push_back({{"offset", from}, {"length", end - from}});
  out["missing_ranges"] = ranges;
  return out;
}

}  // namespace dynamicfs::fs
