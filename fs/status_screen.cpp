#include "fs/status_screen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/mount_options.hpp"
#include "fs/scrub_screen.hpp"

namespace dynamicfs::fs {
namespace {

std::string text(const Json& object, const char* key) { return object.value(key, std::string{}); }
std::uint64_t number(const Json& object, const char* key) {
  return object.value(key, std::uint64_t{0});
}

// Columns as wide as their widest cell; numbers to the right.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string print() const {
    std::vector<std::size_t> widths;
    for (const Column& column : columns_) widths.push_back(column.title.size());
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::vector<std::string> titles;
    for (const Column& column : columns_) titles.push_back(column.title);
    std::string out = print_row(titles, widths);
    for (const auto& row : rows_) out += print_row(row, widths);
    return out;
  }

 private:
  std::string print_row(const std::vector<std::string>& row,
                        const std::vector<std::size_t>& widths) const {
    std::string line = " ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += columns_[i].right ? fmt::format(" {:>{}}", row[i], widths[i])
                                : fmt::format(" {:<{}}", row[i], widths[i]);
      line += " ";
    }
    while (line.back() == ' ') line.pop_back();
    return line + "\n";
  }

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

std::string space_line(const Json& pool) {
  constexpr std::uint64_t kCells = 32;
  const std::uint64_t total = number(pool, "total_bytes");
  const std::uint64_t free = std::min(number(pool, "free_bytes"), total);
  const std::uint64_t used = total - free;
  const std::uint64_t percent = total == 0 ? 0 : used * 100 / total;
  // Something used is never drawn as nothing.
  const std::uint64_t cells =
      total == 0 || used == 0 ? 0 : std::clamp(used * kCells / total, std::uint64_t{1}, kCells);
  return fmt::format("  [{:#<{}}{:-<{}}] {} of {} used ({} %), {} available\n", "", cells, "",
                     kCells - cells, size_text(used), size_text(total), percent,
                     size_text(number(pool, "available_bytes")));
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
    table.add({fmt::format("{}", number(disk, "id")), text(disk, "state"), text(disk, "kind"),
               size_text(number(disk, "used_bytes")), size_text(number(disk, "size_bytes")),
               count("queued"), count("in_flight"), count("errors"),
               disk.value("member", false) ? "yes" : "no", text(disk, "path")});
  }
  return table.print();
}

// "85 us", "1.2 ms", "3.4 s"; "-" where nothing was measured.
std::string latency_text(const Json& disk, const char* key) {
  const Json latency = disk.value("latency_us", Json::object());
  if (!latency.contains(key)) return "-";
  const auto us = static_cast<double>(number(latency, key));
  if (us < 1000) return fmt::format("{:.0f} us", us);
  if (us < 10'000) return fmt::format("{:.1f} ms", us / 1e3);
  if (us < 1e6) return fmt::format("{:.0f} ms", us / 1e3);
  return fmt::format("{:.1f} s", us / 1e6);
}

// The first prefix that fits decides the group.
constexpr std::pair<std::string_view, std::string_view> kGroups[] = {
    {"lock_", "Extent locks"},
    {"read_memory_", "Memory"},
    {"read", "Reads and checksums"},
    {"checksum_", "Reads and checksums"},
    {"repairs", "Reads and checksums"},
    {"unrecoverable_", "Reads and checksums"},
    {"scrub", "Scrub"},
    {"block", "Space"},
    {"chunks_", "Space"},
    {"space_", "Space"},
    {"data_bytes_", "Space"},
    {"group_commit", "Journal"},
    {"commit_", "Journal"},
    {"journal_", "Journal"},
    {"checkpoint", "Metadata"},
    {"run", "Metadata"},
    {"inodes", "Metadata"},
    {"metadata_", "Metadata"},
    {"file_", "Files"},
    {"disk", "Disks"},
    {"io_", "Disks"},
    {"fuse_", "Requests of the kernel"},
};
constexpr std::string_view kGroupOrder[] = {
    "Extent locks", "Reads and checksums",    "Scrub", "Journal", "Metadata", "Files", "Space",
    "Disks",        "Requests of the kernel", "Memory"};

std::string_view group_of(std::string_view name) {
  for (const auto& [prefix, group] : kGroups) {
    if (name.starts_with(prefix)) return group;
  }
  return "Memory";
}

std::string value_text(const Json& value) {
  if (value.is_number_float()) return fmt::format("{:.4g}", value.get<double>());
  return value.dump();
}

}  // namespace

std::string duration_text(std::uint64_t seconds) {
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 7200) return fmt::format("{} min", seconds / 60);
  if (seconds < 172'800) return fmt::format("{} h", seconds / 3600);
  return fmt::format("{} days", seconds / 86'400);
}

std::string status_screen(const Json& status) {
  const Json pool = status.value("pool", Json::object());
  const Json daemon = status.value("daemon", Json::object());
  const std::string label = text(pool, "label");
  std::string state = text(pool, "state");
  std::ranges::replace(state, '_', '-');
  if (const std::size_t problems = status.value("problems", Json::array()).size();
      state == "healthy" && problems != 0) {
    state += fmt::format(" with {} problem{}", problems, problems == 1 ? "" : "s");
  }
  std::string out = fmt::format("pool {}{}: {}, {}\n", label.empty() ? "" : label + " ",
                                text(pool, "uuid"), state, text(pool, "redundancy"));
  out += fmt::format("  at {} for {}, daemon {}, {} in memory, {} files and directories\n",
                     text(daemon, "mountpoint"), duration_text(number(daemon, "uptime_s")),
                     number(daemon, "pid"),
                     size_text(number(daemon.value("memory", Json::object()), "resident_bytes")),
                     number(pool, "inodes"));
  out += space_line(pool);
  if (const std::string scrub = scrub_phrase(status.value("scrub", Json::object()));
      !scrub.empty()) {
    out += fmt::format("  scrub {}\n", scrub);
  }
  out += "\n" + disk_table(status.value("disks", Json::array()));
  const Json problems = status.value("problems", Json::array());
  if (!problems.empty()) out += "\nProblems\n";
  for (const Json& problem : problems) out += fmt::format("  ! {}\n", problem.get<std::string>());
  const Json damaged = status.value("damaged_files", Json::array());
  if (!damaged.empty()) out += "\nDamaged files\n";
  for (const Json& file : damaged) out += fmt::format("  {}\n", file.get<std::string>());
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
    table.add({count("id"), text(disk, "state"), text(disk, "kind"), count("queued"),
               count("in_flight"), count("depth"), latency_text(disk, "critical_p99"),
               latency_text(disk, "read_p50"), latency_text(disk, "read_p99"),
               latency_text(disk, "write_p50"), latency_text(disk, "write_p99"), count("late"),
               count("errors"), text(disk, "path")});
  }
  return table.print();
}

std::string metrics_screen(const Json& status) {
  const Json metrics = status.value("metrics", Json::object());
  std::size_t width = 0;
  for (const auto& [name, value] : metrics.items()) width = std::max(width, name.size());
  std::string out;
  for (const std::string_view group : kGroupOrder) {
    std::string lines;
    for (const auto& [name, value] : metrics.items()) {
      if (group_of(name) == group)
        lines += fmt::format("  {:<{}}  {}\n", name, width, value_text(value));
    }
    if (!lines.empty()) out += fmt::format("\n{}\n{}", group, lines);
  }
  return out;
}

}  // namespace dynamicfs::fs
