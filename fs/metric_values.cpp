#include "fs/metric_values.hpp"

#include <algorithm>
#include <utility>

#include "fs/metric_list.hpp"

namespace dynamicfs::fs {
namespace {

double ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }

const Json& part_of(const Json& object, const char* key) {
  static const Json kNone = Json::object();
  const auto found = object.find(key);
  return found == object.end() ? kNone : *found;
}

std::uint64_t since(std::uint64_t now, std::uint64_t before) {
  return now > before ? now - before : 0;
}

void subtract(Json& histogram, const Json& before) {
  std::uint64_t count = 0;
  Json& buckets = histogram["buckets"];
  const Json& old = before["buckets"];
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const std::uint64_t was = i < old.size() ? old[i].get<std::uint64_t>() : 0;
    const std::uint64_t came = since(buckets[i].get<std::uint64_t>(), was);
    buckets[i] = came;
    count += came;
  }
  histogram["count"] = count;
  histogram["sum"] =
      since(histogram["sum"].get<std::uint64_t>(), before["sum"].get<std::uint64_t>());
}

}  // namespace

Json histogram_json(const Histogram& histogram) {
  std::uint64_t count = 0;
  std::vector<std::uint64_t> buckets(Histogram::kBuckets);
  for (std::size_t i = 0; i < buckets.size(); ++i) count += buckets[i] = histogram.bucket(i);
  while (!buckets.empty() && buckets.back() == 0) buckets.pop_back();
  return {{"count", count}, {"sum", histogram.sum()}, {"buckets", std::move(buckets)}};
}

std::uint64_t bucket_max(std::size_t index) { return (std::uint64_t{1} << index) - 1; }

std::uint64_t percentile(const Json& histogram, double fraction) {
  const auto count = histogram.at("count").get<double>();
  if (count == 0) return 0;
  double seen = 0;
  std::size_t index = 0;
  for (const Json& bucket : histogram.at("buckets")) {
    seen += bucket.get<double>();
    if (seen >= fraction * count) return bucket_max(index);
    ++index;
  }
  return 0;
}

double mean(const Json& histogram) {
  return ratio(histogram.value("sum", 0.0), histogram.value("count", 0.0));
}

void put_derived(Json& status) {
  Json& metrics = status["metrics"];
  for (const RatioInfo& info : kRatios) {
    const std::string part{info.part}, whole{info.whole};
    metrics[std::string{info.name}] = ratio(metric(status, part), metric(status, whole));
  }
  for (const auto& [name, histogram] : part_of(status, "histograms").items()) {
    metrics[name + "_p50"] = percentile(histogram, 0.5);
    metrics[name + "_p99"] = percentile(histogram, 0.99);
    if (const std::string rare = name + "_p999"; metrics.contains(rare)) {
      metrics[rare] = percentile(histogram, 0.999);
    }
  }
}

Json interval(const Json& before, Json now) {
  const auto started = [](const Json& status) { return part_of(status, "daemon").value("pid", 0); };
  if (!before.is_object() || started(before) != started(now) || !now.contains("metrics"))
    return now;
  const Json& old = part_of(before, "metrics");
  for (auto& [name, value] : now["metrics"].items()) {
    const auto known = find_metric(name);
    if (!known || known->info->kind != MetricKind::kCounter || !old.contains(name)) continue;
    value = since(value.get<std::uint64_t>(), old.at(name).get<std::uint64_t>());
  }
  const Json& old_histograms = part_of(before, "histograms");
  for (auto& [name, histogram] : now["histograms"].items()) {
    if (old_histograms.contains(name)) subtract(histogram, old_histograms.at(name));
  }
  put_derived(now);
  return now;
}

double metric(const Json& status, const std::string& name) {
  return part_of(status, "metrics").value(name, 0.0);
}

std::string text_of(const Json& object, const char* key) {
  return object.value(key, std::string{});
}

std::uint64_t number_of(const Json& object, const char* key) {
  return object.value(key, std::uint64_t{0});
}

}  // namespace dynamicfs::fs
