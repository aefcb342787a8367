// The names of metrics, and what has come to their values between two looks.
#include "fs/metric_values.hpp"

#include <doctest/doctest.h>

#include "fs/metric_list.hpp"

namespace dynamicfs::fs {
namespace {

// What a daemon answers that has done so much.
Json answer(int pid, std::uint64_t locks, std::uint64_t contentions, const Histogram& syncs) {
  return {{"daemon", {{"pid", pid}}},
          {"metrics",
           {{"lock_acquisitions", locks},
            {"lock_contentions", contentions},
            {"fuse_in_flight", 7},
            {"disk0_read_completed", 10 * locks}}},
          {"histograms", {{"file_fsync_latency_us", histogram_json(syncs)}}}};
}

TEST_SUITE("metric_values") {
  TEST_CASE("a name tells the disk, the class and the operation it is of") {
    CHECK(find_metric("lock_acquisitions")->disk.empty());
    CHECK(find_metric("disk12_device_writes")->disk == "12");
    const auto of_class = find_metric("disk0_hot_read_latency_us");
    REQUIRE(of_class);
    CHECK(of_class->io_class == "hot_read");
    CHECK(of_class->info->kind == MetricKind::kHistogram);
    CHECK(find_metric("disk0_read_bytes")->io_class == "read");
    CHECK(find_metric("disk0_queued")->io_class.empty());
    CHECK(find_metric("fuse_requests_LOOKUP")->operation == "LOOKUP");
    CHECK(find_metric("fuse_requests_total")->operation.empty());
  }

  TEST_CASE("a percentile is known by its histogram, and what is none is not known") {
    CHECK(find_percentile("commit_latency_us_p99")->info->name == "commit_latency_us");
    CHECK(find_percentile("lock_wait_ns_p999")->info->name == "lock_wait_ns");
    CHECK(find_percentile("disk3_write_latency_us_p50")->disk == "3");
    for (const char* const name : {"", "disk", "disk0", "disk0_", "disk_read_bytes", "disk0_read",
                                   "disk0_slow_bytes", "commit_latency_us_p99", "locks"}) {
      CHECK_FALSE(find_metric(name));
    }
    for (const char* const name : {"_p50", "lock_acquisitions_p50", "commit_latency_us_p98"}) {
      CHECK_FALSE(find_percentile(name));
    }
  }

  TEST_CASE("a histogram as JSON has what was recorded, and no empty end") {
    Histogram histogram;
    CHECK(histogram_json(histogram) == Json{{"count", 0}, {"sum", 0}, {"buckets", Json::array()}});
    for (const int value : {0, 1, 3, 3}) histogram.record(static_cast<std::uint64_t>(value));
    const Json json = histogram_json(histogram);
    CHECK(json == Json{{"count", 4}, {"sum", 7}, {"buckets", {1, 1, 2}}});
    for (const double fraction : {0.25, 0.5, 0.75, 0.99, 1.0}) {
      CHECK(percentile(json, fraction) == histogram.percentile(fraction));
    }
  }

  TEST_CASE("between two looks counters count what came, gauges are as they are now") {
    Histogram syncs;
    syncs.record(1'000'000);
    const Json before = answer(1, 100, 50, syncs);
    syncs.record(3);
    syncs.record(3);
    const Json came = interval(before, answer(1, 300, 60, syncs));
    CHECK(metric(came, "lock_acquisitions") == 200);
    CHECK(metric(came, "lock_contention_ratio") == doctest::Approx(0.05));
    CHECK(metric(came, "disk0_read_completed") == 2000);
    CHECK(metric(came, "fuse_in_flight") == 7);
    CHECK(came["histograms"]["file_fsync_latency_us"]["count"] == 2);
    CHECK(came["histograms"]["file_fsync_latency_us"]["sum"] == 6);
    CHECK(metric(came, "file_fsync_latency_us_p99") == 3);
  }

  TEST_CASE("one in a thousand is told where it has its place") {
    Histogram waits;
    for (int i = 0; i < 998; ++i) waits.record(1);
    for (int i = 0; i < 2; ++i) waits.record(100);
    Json status = {
        {"metrics", {{"lock_wait_ns_p999", 0}}},
        {"histograms",
         {{"lock_wait_ns", histogram_json(waits)}, {"commit_latency_us", histogram_json(waits)}}}};
    put_derived(status);
    CHECK(metric(status, "lock_wait_ns_p99") == 1);
    CHECK(metric(status, "lock_wait_ns_p999") == 127);
    CHECK_FALSE(status["metrics"].contains("commit_latency_us_p999"));
  }

  TEST_CASE("nothing is taken from the figures of another daemon, nor where there were none") {
    const Json now = answer(2, 300, 60, {});
    CHECK(interval(answer(1, 100, 50, {}), now) == now);
    CHECK(interval({}, now) == now);
  }
}

}  // namespace
}  // namespace dynamicfs::fs
