#include "fs/status_screen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/metric_list.hpp"
#include "fs/metric_values.hpp"
#include "fs/mount_options.hpp"
#include "fs/rebuild_screen.hpp"
#include "fs/scrub_screen.hpp"
#include "fs/text_table.hpp"
#include "fs/thresholds.hpp"

namespace dynamicfs::fs {
namespace {

std::string space_line(const Json& pool) {
  const std::uint64_t total = number_of(pool, "total_bytes");
  const std::uint64_t used = total - std::min(number_of(pool, "free_bytes"), total);
  const std::uint64_t percent = total == 0 ? 0 : used * 100 / total;
  return fmt::format("  {} {} of {} used ({} %), {} available\n", bar(used, total, 32),
                     size_text(used), size_text(total), percent,
                     size_text(number_of(pool, "available_bytes")));
}

std::string disk_table(const Json& disks) {
  Table table({{"disk", true},
               {"state"},
               {"kind"},
               {"used", true},
               {"size", true},
               {"queued", true},
               {"in flight", true},
               {"errors", true},
               {"journal"},
               {"path"}});
  for (const Json& disk : disks) {
    const bool present = disk.contains("queued");
    const auto count = [&](const char* key) {
      return present ? fmt::format("{}", disk.value(key, std::int64_t{0})) : std::string{"-"};
    };
    const std::string state = text_of(disk, "state");
    const bool waits = disk.value("spare", false) && state == "healthy";
    table.add({fmt::format("{}", number_of(disk, "id")), waits ? "spare" : state,
               text_of(disk, "kind"), size_text(number_of(disk, "used_bytes")),
               size_text(number_of(disk, "size_bytes")), count("queued"), count("in_flight"),
               count("errors"), disk.value("member", false) ? "yes" : "no", text_of(disk, "path")});
  }
  return table.print();
}

// "-" where nothing was measured.
std::string latency_of(const Json& disk, const char* key) {
  const Json latency = disk.value("latency_us", Json::object());
  return latency.contains(key) ? latency_text(number_of(latency, key)) : "-";
}

constexpr std::string_view kGroupOrder[] = {"Extent locks",
                                            "Reads and checksums",
                                            "Disks that come and go",
                                            "Compaction",
                                            "Clones",
                                            "Scrub",
                                            "Journal",
                                            "Metadata",
                                            "Files",
                                            "Space",
                                            "Disks",
                                            "Requests of the kernel",
                                            "Memory"};

// Of a metric that this command does not know, because the daemon is newer, "Memory" is as good as any.
std::string_view group_of(std::string_view name) {
  auto metric = find_metric(name);
  if (!metric) metric = find_percentile(name);
  return metric ? metric->info->group : "Memory";
}

std::string value_text(const Json& value) {
  if (value.is_number_float()) return fmt::format("{:.4g}", value.get<double>());
  return value.dump();
}

// The buckets that are not empty: what each holds at most, how often, and a bar.
std::string histogram_lines(const Json& histogram) {
  std::uint64_t most = 0;
  for (const Json& bucket : histogram.at("buckets"))
    most = std::max(most, bucket.get<std::uint64_t>());
  std::string out;
  std::size_t index = 0;
  for (const Json& bucket : histogram.at("buckets")) {
    const auto count = bucket.get<std::uint64_t>();
    if (count > 0) {
      out +=
          fmt::format("    up to {:>12}  {} {}\n", bucket_max(index), bar(count, most, 24), count);
    }
    ++index;
  }
  return out;
}

// What the kernel and the daemon have agreed on, in lines of about a hundred columns.
std::string feature_lines(const Json& status) {
  std::string out, line = "  negotiated:";
  const Json fuse = status.value("fuse", Json::object());
  const Json features = fuse.value("features", Json::array());
  if (features.empty()) return {};
  for (const Json& feature : features) {
    const std::string name = feature.get<std::string>();
    if (line.size() + name.size() > 98) {
      out += line + "\n";
      line = "    ";
    }
    line += " " + name;
  }
  return out + line + "\n";
}

}  // namespace

std::string latency_text(std::uint64_t latency_us) {
  const auto us = static_cast<double>(latency_us);
  if (us < 1000) return fmt::format("{:.0f} us", us);
  if (us < 10'000) return fmt::format("{:.1f} ms", us / 1e3);
  if (us < 1e6) return fmt::format("{:.0f} ms", us / 1e3);
  return fmt::format("{:.1f} s", us / 1e6);
}

std::string duration_text(std::uint64_t seconds) {
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 7200) return fmt::format("{} min", seconds / 60);
  if (seconds < 172'800) return fmt::format("{} h", seconds / 3600);
  return fmt::format("{} days", seconds / 86'400);
}

std::string pool_line(const Json& status) {
  const Json pool = status.value("pool", Json::object());
  const std::string label = text_of(pool, "label");
  std::string state = text_of(pool, "state");
  std::ranges::replace(state, '_', '-');
  if (const std::size_t problems = status.value("problems", Json::array()).size();
      state == "healthy" && problems != 0) {
    state += fmt::format(" with {} problem{}", problems, problems == 1 ? "" : "s");
  }
  return fmt::format("pool {}{}: {}, {}\n", label.empty() ? "" : label + " ", text_of(pool, "uuid"),
                     state, text_of(pool, "redundancy"));
}

std::string status_screen(const Json& status) {
  const Json pool = status.value("pool", Json::object());
  const Json daemon = status.value("daemon", Json::object());
  std::string out = pool_line(status);
  out += fmt::format("  at {} for {}, daemon {}, {} in memory, {} files and directories\n",
                     text_of(daemon, "mountpoint"), duration_text(number_of(daemon, "uptime_s")),
                     number_of(daemon, "pid"),
                     size_text(number_of(daemon.value("memory", Json::object()), "resident_bytes")),
                     number_of(pool, "inodes"));
  out += space_line(pool);
  if (const std::string scrub = scrub_phrase(status.value("scrub", Json::object()));
      !scrub.empty()) {
    out += fmt::format("  scrub {}\n", scrub);
  }
  const Json rebuild = status.value("rebuild", Json::object());
  if (const std::string copying = rebuild_phrase(rebuild); !copying.empty())
    out += fmt::format("  copying {}\n", copying);
  const Json reencoding = status.value("reencoding", Json::object());
  if (reencoding.value("pending", false)) {
    out += fmt::format("  encoding anew what has another policy: {:.0f} % looked at, {} written\n",
                       100 * reencoding.value("progress_ratio", 0.0),
                       size_text(number_of(reencoding, "moved_bytes")));
  }
  out += "\n" + disk_table(status.value("disks", Json::array()));
  const Json problems = status.value("problems", Json::array());
  if (!problems.empty()) out += "\nProblems\n";
  for (const Json& problem : problems) out += fmt::format("  ! {}\n", problem.get<std::string>());
  const Json damaged = status.value("damaged_files", Json::array());
  if (!damaged.empty()) out += "\nDamaged files\n";
  for (const Json& file : damaged) out += fmt::format("  {}\n", printable(file.get<std::string>()));
  return out;
}

std::string disk_screen(const Json& status) {
  Table table({{"disk", true},
               {"state"},
               {"kind"},
               {"queued", true},
               {"at device", true},
               {"depth", true},
               {"journal p99", true},
               {"read p50", true},
               {"read p99", true},
               {"write p50", true},
               {"write p99", true},
               {"late", true},
               {"errors", true},
               {"path"}});
  for (const Json& disk : status.value("disks", Json::array())) {
    const auto count = [&](const char* key) {
      return disk.contains(key) ? disk.at(key).dump() : std::string{"-"};
    };
    table.add({count("id"), text_of(disk, "state"), text_of(disk, "kind"), count("queued"),
               count("in_flight"), count("depth"), latency_of(disk, "critical_p99"),
               latency_of(disk, "read_p50"), latency_of(disk, "read_p99"),
               latency_of(disk, "write_p50"), latency_of(disk, "write_p99"), count("late"),
               count("errors"), text_of(disk, "path")});
  }
  return table.print();
}

std::string metrics_screen(const Json& status) {
  const Json metrics = status.value("metrics", Json::object());
  const Json histograms = status.value("histograms", Json::object());
  std::size_t width = 0;
  for (const auto& [name, value] : metrics.items()) width = std::max(width, name.size());
  const double uptime_s = status.value("daemon", Json::object()).value("uptime_s", 0.0);
  const std::vector<Threshold> limits = thresholds(status, std::max(uptime_s, 1.0));
  std::string out;
  for (const std::string_view group : kGroupOrder) {
    std::string lines, hints;
    for (const auto& [name, value] : metrics.items()) {
      if (group_of(name) != group) continue;
      lines += fmt::format("  {:<{}}  {}", name, width, value_text(value));
      const auto limit = std::ranges::find(limits, name, &Threshold::metric);
      if (limit != limits.end()) {
        lines += fmt::format("  ({}healthy {})", limit->passed ? "! " : "", limit->healthy);
        if (limit->passed) hints += fmt::format("  ! {}\n", limit->hint);
      }
      lines += "\n";
      if (name == "lock_wait_ns_p999" && histograms.contains("lock_wait_ns")) {
        lines += histogram_lines(histograms.at("lock_wait_ns"));
      }
    }
    if (group == "Requests of the kernel") lines += feature_lines(status);
    if (!lines.empty()) out += fmt::format("\n{}\n{}{}", group, lines, hints);
  }
  return out;
}

}  // namespace dynamicfs::fs
