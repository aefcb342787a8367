#include "fs/prometheus.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "fs/metric_list.hpp"
#include "fs/metric_values.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::string_view kPrefix = "dynamicfs_";

// Backslash and line feed, and in the value of a label the quote.
std::string escaped(std::string_view text, bool quoted) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\\\";
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '"' && quoted) {
      out += "\\\"";
    } else {
      out += c;
    }
  }
  return out;
}

std::string label_list(const Exposition::Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    out += fmt::format("{}{}=\"{}\"", out.empty() ? "{" : ",", name, escaped(value, true));
  }
  return out.empty() ? out : out + "}";
}

// As short as it can be without a change: 3, 0.001023, 1e+20.
std::string number_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

// The unit of a name in the unit of Prometheus, and what is between the fastest and the slowest that
// makes a difference.
Exposition::Buckets buckets_of(std::string_view name) {
  if (name.ends_with("_ns")) return {.first = 8, .last = 30, .unit = 1e-9};  // 255 ns to 1 s
  if (name.ends_with("_us")) return {.first = 4, .last = 25, .unit = 1e-6};  // 15 us to 34 s
  if (name.ends_with("_ms")) return {.first = 0, .last = 20, .unit = 1e-3};  // 0 to 17 min
  return {.first = 1, .last = 14, .unit = 1};
}

const char* type_of(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter: return "counter";
    case MetricKind::kGauge:
    case MetricKind::kRatio: return "gauge";
    case MetricKind::kHistogram: return "histogram";
  }
  return "untyped";
}

// A family, and the label that its entry in the list may carry: `name{label="value"}`.
struct ListedFamily {
  Exposition::Family family;
  Exposition::Labels labels;
};

ListedFamily family_of(const Metric& metric, const std::string& pool) {
  std::string_view name = metric.info->prometheus;
  ListedFamily out{.family = {.type = type_of(metric.info->kind), .help = metric.info->help},
                   .labels = {{"pool", pool}}};
  if (!metric.disk.empty()) out.labels.emplace_back("disk", metric.disk);
  if (!metric.io_class.empty()) out.labels.emplace_back("class", metric.io_class);
  if (!metric.operation.empty()) out.labels.emplace_back("operation", metric.operation);
  if (const std::size_t brace = name.find('{'); brace != name.npos) {
    const std::string_view label = name.substr(brace + 1, name.size() - brace - 3);
    const std::size_t quote = label.find('"');
    out.labels.emplace_back(label.substr(0, quote - 1), label.substr(quote + 1));
    name = name.substr(0, brace);
  }
  out.family.name = name;
  return out;
}

void add_states(Exposition& out, const Exposition::Family& family, const Exposition::Labels& labels,
                std::span<const char* const> states, const std::string& state) {
  for (const char* const one : states) {
    Exposition::Labels with = labels;
    with.emplace_back("state", one);
    out.add(family, with, state == one ? 1 : 0);
  }
}

void add_pool(Exposition& out, const Json& status) {
  const Json& pool = status.at("pool");
  const Json& daemon = status.at("daemon");
  const Exposition::Labels labels = {{"pool", text_of(pool, "uuid")}};
  constexpr std::array kStates = {"healthy", "degraded", "damaged", "read_only"};
  out.add({"pool_info", "gauge", "What the pool is; always 1"},
          {{"pool", text_of(pool, "uuid")},
           {"label", text_of(pool, "label")},
           {"redundancy", text_of(pool, "redundancy")},
           {"mountpoint", text_of(daemon, "mountpoint")},
           {"version", text_of(daemon, "version")}},
          1);
  add_states(out, {"pool_state", "gauge", "1 for the state that the pool is in"}, labels, kStates,
             text_of(pool, "state"));
  const auto add = [&](const char* name, const char* help, const Json& from, const char* key) {
    out.add({name, "gauge", help}, labels, from.value(key, 0.0));
  };
  add("pool_size_bytes", "Room for files", pool, "total_bytes");
  add("pool_free_bytes", "Of that, free", pool, "free_bytes");
  add("pool_available_bytes", "Of that, for everybody", pool, "available_bytes");
  add("pool_unavailable_bytes", "Of files: only on disks that are away", pool, "unavailable_bytes");
  add("pool_degraded_chunks", "Chunks with fewer copies than they should have", pool,
      "degraded_chunks");
  add("uptime_seconds", "Since the mount", daemon, "uptime_s");
  const auto add_count = [&](const char* name, const char* help, const char* key) {
    out.add({name, "gauge", help}, labels,
            static_cast<double>(status.value(key, Json::array()).size()));
  };
  add_count("pool_problems", "Problems that status names", "problems");
  add_count("pool_hints", "Figures that are not healthy", "hints");
  add_count("pool_damaged_files", "Files that cannot be read completely", "damaged_files");
  const Json fuse = status.value("fuse", Json::object());
  for (const Json& feature : fuse.value("features", Json::array())) {
    out.add({"fuse_feature", "gauge", "Negotiated with the kernel; always 1"},
            {{"pool", text_of(pool, "uuid")}, {"feature", feature.get<std::string>()}}, 1);
  }
}

void add_disks(Exposition& out, const Json& status) {
  const std::string pool = text_of(status.at("pool"), "uuid");
  constexpr std::array kStates = {"healthy", "suspect", "missing", "failed", "offline", "stale"};
  for (const Json& disk : status.value("disks", Json::array())) {
    const Exposition::Labels labels = {{"pool", pool}, {"disk", disk.at("id").dump()}};
    Exposition::Labels info = labels;
    for (const char* const key : {"uuid", "path", "kind"})
      info.emplace_back(key, text_of(disk, key));
    out.add({"disk_info", "gauge", "What the disk is; always 1"}, info, 1);
    add_states(out, {"disk_state", "gauge", "1 for the state that the disk is in"}, labels, kStates,
               text_of(disk, "state"));
    out.add({"disk_size_bytes", "gauge", "Size of the disk"}, labels,
            disk.value("size_bytes", 0.0));
    out.add({"disk_used_bytes", "gauge", "Of that, in use"}, labels, disk.value("used_bytes", 0.0));
  }
}

void add_metrics(Exposition& out, const Json& status) {
  const std::string pool = text_of(status.at("pool"), "uuid");
  for (const auto& [name, value] : status.at("metrics").items()) {
    const auto metric = find_metric(name);
    if (!metric || metric->info->prometheus.empty()) continue;
    const ListedFamily listed = family_of(*metric, pool);
    out.add(listed.family, listed.labels, value.get<double>());
  }
  const Json histograms = status.value("histograms", Json::object());
  for (const auto& [name, histogram] : histograms.items()) {
    const auto metric = find_metric(name);
    if (!metric) continue;
    const ListedFamily listed = family_of(*metric, pool);
    out.add_histogram(listed.family, listed.labels, histogram, buckets_of(name));
  }
}

}  // namespace

std::string& Exposition::samples_of(const Family& family) {
  const auto found = places_.find(family.name);
  if (found != places_.end()) return families_[found->second].second;
  places_.emplace(family.name, families_.size());
  families_.emplace_back(fmt::format("# HELP {0}{1} {2}\n# TYPE {0}{1} {3}\n", kPrefix, family.name,
                                     escaped(family.help, false), family.type),
                         std::string{});
  return families_.back().second;
}

void Exposition::add(const Family& family, const Labels& labels, double value) {
  samples_of(family) +=
      fmt::format("{}{}{} {}\n", kPrefix, family.name, label_list(labels), number_text(value));
}

void Exposition::add_histogram(const Family& family, const Labels& labels, const Json& histogram,
                               const Buckets& buckets) {
  std::string& out = samples_of(family);
  const Json& counts = histogram.at("buckets");
  const auto add_bucket = [&](const std::string& le, std::uint64_t count) {
    Labels with = labels;
    with.emplace_back("le", le);
    out += fmt::format("{}{}_bucket{} {}\n", kPrefix, family.name, label_list(with), count);
  };
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i <= buckets.last; ++i) {
    if (i < counts.size()) seen += counts[i].get<std::uint64_t>();
    // What is recorded is whole numbers: below 2^i is at most 2^i - 1.
    const auto max = static_cast<double>((std::uint64_t{1} << i) - 1);
    if (i >= buckets.first) add_bucket(fmt::format("{:.10g}", max * buckets.unit), seen);
  }
  const auto count = histogram.at("count").get<std::uint64_t>();
  add_bucket("+Inf", count);
  out += fmt::format("{}{}_sum{} {}\n", kPrefix, family.name, label_list(labels),
                     number_text(histogram.at("sum").get<double>() * buckets.unit));
  out += fmt::format("{}{}_count{} {}\n", kPrefix, family.name, label_list(labels), count);
}

std::string Exposition::text() const {
  std::string out;
  for (const auto& [head, samples] : families_) out += head + samples;
  return out;
}

std::string prometheus_text(std::span<const Json> pools) {
  Exposition out;
  for (const Json& status : pools) {
    out.add({"up", "gauge", "1 if the daemon of the mount answers"},
            {{"mountpoint", text_of(status.at("daemon"), "mountpoint")}},
            status.contains("metrics") ? 1 : 0);
  }
  for (const Json& status : pools) {
    if (!status.contains("metrics")) continue;
    add_pool(out, status);
    add_disks(out, status);
    add_metrics(out, status);
  }
  return out.text();
}

}  // namespace dynamicfs::fs
