#include "fs/watch_screen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "fs/metric_values.hpp"
#include "fs/mount_options.hpp"
#include "fs/scrub_screen.hpp"
#include "fs/status_screen.hpp"
#include "fs/text_table.hpp"
#include "fs/thresholds.hpp"

namespace dynamicfs::fs {
namespace {

// A metric that counts bytes or things; gauges may be below zero for a moment.
std::uint64_t count(const Json& status, const std::string& name) {
  return static_cast<std::uint64_t>(std::max(metric(status, name), 0.0));
}

std::string rate_text(double per_second) {
  return fmt::format("{:.{}f}", per_second, per_second > 0 && per_second < 9.95 ? 1 : 0);
}

std::string bytes_rate_text(double per_second) {
  return size_text(static_cast<std::uint64_t>(std::llround(per_second))) + "/s";
}

// What of something limited is in use.
std::string level_line(const char* name, std::uint64_t part, std::uint64_t whole,
                       const std::string& words) {
  const std::uint64_t percent = whole == 0 ? 0 : part * 100 / whole;
  return fmt::format("  {:<12} {} {:>3} %  {}\n", name, bar(part, whole, 24), percent, words);
}

std::string bytes_level(const char* name, std::uint64_t part, std::uint64_t whole) {
  return level_line(name, part, whole, fmt::format("{} of {}", size_text(part), size_text(whole)));
}

std::string levels(const Json& status) {
  const Json pool = status.value("pool", Json::object());
  const auto total = pool.value("total_bytes", std::uint64_t{0});
  const auto free = std::min(pool.value("free_bytes", std::uint64_t{0}), total);
  const std::uint64_t buffers = count(status, "fuse_receive_buffers_in_use");
  const std::uint64_t buffers_max = count(status, "fuse_receive_buffers_max");
  return bytes_level("space", total - free, total) +
         bytes_level("log", count(status, "journal_used_bytes"),
                     count(status, "journal_capacity_bytes")) +
         bytes_level("metadata", count(status, "metadata_memory_bytes"),
                     count(status, "metadata_memory_bytes_max")) +
         bytes_level("read memory", count(status, "read_memory_bytes"),
                     count(status, "read_memory_bytes_max")) +
         level_line("write memory", buffers, buffers_max,
                    fmt::format("{} of {} buffers of 1 MiB", buffers, buffers_max));
}

// The figures of one pool, by name, each per second.
class Rates {
 public:
  Rates(const Json& status, double seconds) : status_(status), seconds_(seconds) {}
  double operator()(const std::string& name) const { return metric(status_, name) / seconds_; }
  std::string latency(const std::string& name) const {
    return (*this)(name) == 0 ? "-" : latency_text(count(status_, name));
  }

 private:
  const Json& status_;
  const double seconds_;
};

std::string healthy(const std::vector<Threshold>& limits, const std::string& name) {
  const auto limit = std::ranges::find(limits, name, &Threshold::metric);
  if (limit == limits.end()) return {};
  return fmt::format(" ({}{})", limit->passed ? "! " : "", limit->healthy);
}

std::string work_table(const Json& status, const Rates& rate,
                       const std::vector<Threshold>& limits) {
  Table table({{""},
               {"per s", true},
               {"bytes", true},
               {"p50", true},
               {"p99", true},
               {"(what is healthy)"}});
  const auto add = [&](const char* name, double per_second, const std::string& bytes,
                       const std::string& latency, const std::string& words) {
    const bool timed = !latency.empty();
    table.add({name, rate_text(per_second), bytes, timed ? rate.latency(latency + "_p50") : "",
               timed ? rate.latency(latency + "_p99") : "", words});
  };
  add("requests", rate("fuse_requests_total"), "", "",
      fmt::format("{} in flight", count(status, "fuse_in_flight")));
  add("reads", rate("file_reads"), bytes_rate_text(rate("file_read_bytes")), "",
      fmt::format("{} looked again", rate_text(rate("read_retries"))));
  add("writes", rate("file_writes"), bytes_rate_text(rate("file_written_bytes")), "", "");
  add("syncs", rate("file_fsyncs"), "", "file_fsync_latency_us", "");
  add("commits", rate("group_commits"), bytes_rate_text(rate("journal_bytes")), "commit_latency_us",
      fmt::format("{:.1f} operations each{}", metric(status, "group_commit_average"),
                  healthy(limits, "group_commit_average")));
  add("names",
      rate("file_lookups") + rate("file_creates") + rate("file_unlinks") + rate("file_renames"), "",
      "",
      fmt::format("{} made, {} removed", rate_text(rate("file_creates")),
                  rate_text(rate("file_unlinks"))));
  add("locks", rate("lock_acquisitions"), "", "",
      fmt::format("{:.4f} contended{}", metric(status, "lock_contention_ratio"),
                  healthy(limits, "lock_contention_ratio")));
  return table.print();
}

std::string disk_rates(const Json& status, const Rates& rate) {
  Table table({{"disk", true},
               {"state"},
               {"at device"},
               {"queued", true},
               {"read", true},
               {"written", true},
               {"flush/s", true},
               {"read p99", true},
               {"write p99", true},
               {"errors", true},
               {"path"}});
  for (const Json& disk : status.value("disks", Json::array())) {
    const std::string id = disk.at("id").dump();
    const std::string prefix = fmt::format("disk{}_", id);
    if (!disk.contains("queued")) {
      table.add({id, text_of(disk, "state"), "-", "-", "-", "-", "-", "-", "-", "-",
                 text_of(disk, "path")});
      continue;
    }
    const std::uint64_t depth = count(status, prefix + "depth_max");
    const auto here = static_cast<std::uint64_t>(std::max(disk.value("in_flight", 0), 0));
    table.add({id, text_of(disk, "state"), fmt::format("{} {}", bar(here, depth, 6), here),
               fmt::format("{} of {}", count(status, prefix + "queued"), depth),
               bytes_rate_text(rate(prefix + "device_read_bytes")),
               bytes_rate_text(rate(prefix + "device_written_bytes")),
               rate_text(rate(prefix + "device_flushes")),
               rate.latency(prefix + "read_latency_us_p99"),
               rate.latency(prefix + "write_latency_us_p99"), disk.value("errors", Json{0}).dump(),
               text_of(disk, "path")});
  }
  return table.print();
}

// "  ! ", and the words in lines of at most `columns`.
std::string paragraph(std::string_view words, std::size_t columns) {
  std::string out, line = "  !";
  while (!words.empty()) {
    const std::size_t end = std::min(words.find(' '), words.size());
    if (line.size() + 1 + end > columns && line.size() > 3) {
      out += line + "\n";
      line = "   ";
    }
    line += fmt::format(" {}", words.substr(0, end));
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return out + line + "\n";
}

}  // namespace

std::string watch_screen(const Json& status, WatchOptions options) {
  const Json daemon = status.value("daemon", Json::object());
  const auto uptime_s = daemon.value("uptime_s", std::uint64_t{0});
  const double seconds =
      options.seconds > 0 ? options.seconds : std::max(static_cast<double>(uptime_s), 1.0);
  const Rates rate(status, seconds);
  const std::vector<Threshold> limits = thresholds(status, seconds);
  std::string out = pool_line(status);
  out += fmt::format("  at {} for {}, {} in memory; {}\n", text_of(daemon, "mountpoint"),
                     duration_text(uptime_s), size_text(count(status, "resident_bytes")),
                     options.seconds > 0 ? fmt::format("the last {:.1f} s", options.seconds)
                                         : "averages since the mount");
  if (const std::string scrub = scrub_phrase(status.value("scrub", Json::object()));
      !scrub.empty()) {
    out += fmt::format("  scrub {}\n", scrub);
  }
  out += "\n" + levels(status) + "\n" + work_table(status, rate, limits) + "\n" +
         disk_rates(status, rate);
  std::string words;
  for (const Threshold& limit : limits) {
    if (limit.passed) words += paragraph(limit.hint, options.columns);
  }
  for (const Json& problem : status.value("problems", Json::array())) {
    words += paragraph(problem.get<std::string>(), options.columns);
  }
  return words.empty() ? out : out + "\n" + words;
}

std::string clipped(const std::string& text, std::size_t columns, std::size_t rows) {
  std::string out;
  std::size_t column = 0;
  for (const char c : text) {
    if (rows == 0) break;
    if (c == '\n') {
      --rows;
      column = 0;
      out += c;
      continue;
    }
    // The bytes that continue a character of UTF-8 take no place of their own.
    const bool continues = (static_cast<unsigned char>(c) & 0xC0) == 0x80;
    if (!continues) ++column;
    if (column <= columns) out += c;
  }
  return out;
}

std::string in_place(const std::string& text) {
  constexpr const char* kHome = "\x1b[H";
  constexpr const char* kClearLine = "\x1b[K";
  constexpr const char* kClearBelow = "\x1b[J";
  std::string out = kHome;
  for (const char c : text) {
    if (c == '\n') out += kClearLine;
    out += c;
  }
  return out + kClearBelow;
}

}  // namespace dynamicfs::fs
