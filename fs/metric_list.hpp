// Every metric by name: where the screen shows it, what Prometheus calls it, what it means.
//
// A metric of one disk is named disk<number>_<key>, of one class of requests at it
// disk<number>_<class>_<key>; requests of the kernel are fuse_requests_<operation>. A histogram has
// two names in "metrics", <name>_p50 and <name>_p99, and its buckets in "histograms". The wait
// for contended locks has <name>_p999 too.
//
// A new one is counted where the work is done, put into the answer in status_metrics.cpp, named here,
// and documented in man/status.schema.json and dynamicfs(8); the mount tests miss it where it lacks.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace dynamicfs::fs {

enum class MetricKind {
  kCounter,    // since the mount, only grows
  kGauge,      // as it is now
  kRatio,      // of two counters
  kHistogram,  // as base/metrics.hpp has it
};

struct MetricInfo {
  std::string_view name;
  std::string_view group;  // its heading on the screen
  MetricKind kind;
  // Behind "dynamicfs_", perhaps with labels of its own. The unit there is seconds or bytes.
  std::string_view prometheus;
  std::string_view help;
};

struct RatioInfo {
  std::string_view name, part, whole;
};
// All of kind kRatio.
extern const RatioInfo kRatios[2];

// A name, understood.
struct Metric {
  const MetricInfo* info = nullptr;
  std::string_view disk{};      // "0"; empty: of the pool
  std::string_view io_class{};  // "hot_read"
  std::string_view operation{};
};
// The views look into `name`. nullopt: there is no such metric.
std::optional<Metric> find_metric(std::string_view name);
// Of a histogram, by one of its percentiles.
std::optional<Metric> find_percentile(std::string_view name);

}  // namespace dynamicfs::fs
