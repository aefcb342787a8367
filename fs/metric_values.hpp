// The numbers behind the metrics, as JSON, and what has come to them between two looks.
#pragma once

#include <cstdint>
#include <string>

#include "base/metrics.hpp"
#include "fs/control.hpp"

namespace dynamicfs::fs {

// {"count": n, "sum": s, "buckets": [...]}: bucket 0 counts zeros, bucket b what is below 2^b and not
// below 2^(b-1); empty ones at the end are left out. `count` is the sum of the buckets, also while
// others record.
Json histogram_json(const Histogram& histogram);
// The largest value that bucket `index` holds.
std::uint64_t bucket_max(std::size_t index);
// As Histogram::percentile.
std::uint64_t percentile(const Json& histogram, double fraction);
// The mean of what was recorded; 0 if nothing was.
double mean(const Json& histogram);

// Puts what follows from others into `status`: the ratios, and the percentiles of its histograms,
// _p999 where it has its place.
void put_derived(Json& status);

// What has happened between two answers of one daemon: `now` with its counters and histograms less
// those of `before`, and ratios and percentiles of that alone. A null `before`, or one of another
// daemon, leaves everything since the mount.
Json interval(const Json& before, Json now);

// Metric `name` of a status; 0 if it has none.
double metric(const Json& status, const std::string& name);

// Member `key` of a part of a status; empty, or 0, if it has none.
std::string text_of(const Json& object, const char* key);
std::uint64_t number_of(const Json& object, const char* key);

}  // namespace dynamicfs::fs
