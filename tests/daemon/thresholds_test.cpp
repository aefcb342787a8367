// When a figure is not healthy.
#include "fs/thresholds.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "fs/status_screen.hpp"

namespace dynamicfs::fs {
namespace {

constexpr double kSeconds = 10;

// Whether `metric` passes its threshold in a status of these metrics, which has one disk.
Threshold threshold(const char* metric, Json metrics, double sync_seconds = 0) {
  const Json status = {
      {"metrics", std::move(metrics)},
      {"disks", {{{"id", 0}, {"path", "/mnt/a"}, {"queued", 0}}, {{"id", 1}, {"path", "gone"}}}},
      {"histograms", {{"file_fsync_latency_us", {{"sum", sync_seconds * 1e6}}}}}};
  const auto all = thresholds(status, kSeconds);
  const auto found = std::ranges::find(all, metric, &Threshold::metric);
  REQUIRE(found != all.end());
  CHECK(found->hint.empty() != found->passed);
  return *found;
}

TEST_SUITE("thresholds") {
  TEST_CASE("one lock in twenty that is contended is too much, if there are many") {
    const auto locks = [](double ratio, int count) {
      const Json metrics = {{"lock_contention_ratio", ratio}, {"lock_acquisitions", count}};
      return threshold("lock_contention_ratio", metrics);
    };
    CHECK_FALSE(locks(0.049, 100'000).passed);
    CHECK(locks(0.05, 100'000).passed);
    CHECK_FALSE(locks(0.5, 999).passed);
    CHECK(locks(0.5, 1000).hint.starts_with("Of 100 extent locks 50 were taken already"));
    CHECK(locks(0, 0).healthy == "below 0.05");
  }

  TEST_CASE("commits of few operations are unhealthy while many syncs wait, and only then") {
    const auto commits = [](double average, double sync_seconds, int count = 1000) {
      const Json metrics = {{"group_commit_average", average}, {"group_commits", count}};
      return threshold("group_commit_average", metrics, sync_seconds).passed;
    };
    // Ten seconds: a hundred seconds of waiting are ten who wait.
    CHECK(commits(5, 100));
    CHECK_FALSE(commits(5.1, 100));
    CHECK_FALSE(commits(1, 99));
    CHECK_FALSE(commits(1, 100, 9));
  }

  TEST_CASE("a queue as long as what its disk takes at once is too long") {
    const auto queue = [](int queued) {
      return threshold("disk0_queued", {{"disk0_queued", queued}, {"disk0_depth_max", 64}});
    };
    CHECK_FALSE(queue(63).passed);
    CHECK(queue(64).passed);
    CHECK(queue(64).hint.starts_with("Disk 0 (/mnt/a) has 64 requests waiting"));
    CHECK(queue(0).healthy == "below 64");
  }

  TEST_CASE("waiting for memory or the log is unhealthy from one in a hundred on") {
    for (const auto& [metric, of] : {std::pair{"fuse_receive_waits", "file_writes"},
                                     {"read_memory_waits", "file_reads"},
                                     {"journal_space_waits", "group_commits"}}) {
      CHECK_FALSE(threshold(metric, {{metric, 0}, {of, 0}}).passed);
      CHECK_FALSE(threshold(metric, {{metric, 9}, {of, 1000}}).passed);
      CHECK(threshold(metric, {{metric, 10}, {of, 1000}}).passed);
      CHECK(threshold(metric, {{metric, 1}, {of, 0}}).passed);
    }
  }

  TEST_CASE("one wrong block is one too many") {
    CHECK_FALSE(threshold("checksum_errors", {{"checksum_errors", 0}}).passed);
    CHECK(threshold("checksum_errors", {{"checksum_errors", 1}}).passed);
    CHECK(threshold("checksum_stale", {{"checksum_stale", 1}}).passed);
  }

  TEST_CASE("the list of metrics says what is healthy, and below a group what to do") {
    const Json status = {{"daemon", {{"uptime_s", 10}}},
                         {"metrics",
                          {{"lock_acquisitions", 1000},
                           {"lock_contention_ratio", 0.5},
                           {"lock_wait_ns_p99", 7},
                           {"lock_wait_ns_p999", 7},
                           {"checksum_errors", 0}}},
                         {"histograms", {{"lock_wait_ns", {{"buckets", {0, 0, 3, 1}}}}}}};
    CHECK(metrics_screen(status) ==
          "\nExtent locks\n"
          "  lock_acquisitions      1000\n"
          "  lock_contention_ratio  0.5  (! healthy below 0.05)\n"
          "  lock_wait_ns_p99       7\n"
          "  lock_wait_ns_p999      7\n"
          "    up to            3  [########################] 3\n"
          "    up to            7  [########----------------] 1\n"
          "  ! " +
              hints(status).front().get<std::string>() +
              "\n"
              "\nReads and checksums\n"
              "  checksum_errors        0  (healthy 0)\n");
  }
}

}  // namespace
}  // namespace dynamicfs::fs
