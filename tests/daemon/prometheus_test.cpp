// Text for Prometheus: what it looks like. That the whole of it is valid a mount test tells.
#include "fs/prometheus.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "fs/metric_values.hpp"

namespace dynamicfs::fs {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST_SUITE("prometheus") {
  TEST_CASE("a family has one head, and its samples behind it, whenever they were added") {
    Exposition out;
    out.add({"a_total", "counter", "What a is"}, {{"disk", "0"}}, 1);
    out.add({"b", "gauge", "What b is"}, {}, -2.5);
    out.add({"a_total", "counter", "What a is"}, {{"disk", "1"}, {"class", "read"}}, 3e18);
    CHECK(out.text() ==
          "# HELP dynamicfs_a_total What a is\n"
          "# TYPE dynamicfs_a_total counter\n"
          "dynamicfs_a_total{disk=\"0\"} 1\n"
          "dynamicfs_a_total{disk=\"1\",class=\"read\"} 3e+18\n"
          "# HELP dynamicfs_b What b is\n"
          "# TYPE dynamicfs_b gauge\n"
          "dynamicfs_b -2.5\n");
  }

  TEST_CASE("values of labels and help are escaped") {
    Exposition out;
    out.add({"a", "gauge", "one\\\n\"two\""}, {{"path", "/mnt/\"a\"\\b\nc{d}"}}, 0);
    CHECK(has_line(out.text(), R"(# HELP dynamicfs_a one\\\n"two")"));
    CHECK(has_line(out.text(), R"(dynamicfs_a{path="/mnt/\"a\"\\b\nc{d}"} 0)"));
  }

  TEST_CASE("what is no number is written as Prometheus writes it") {
    Exposition out;
    out.add({"a", "gauge", ""}, {}, std::nan(""));
    out.add({"b", "gauge", ""}, {}, INFINITY);
    out.add({"c", "gauge", ""}, {}, -INFINITY);
    CHECK(has_line(out.text(), "dynamicfs_a NaN"));
    CHECK(has_line(out.text(), "dynamicfs_b +Inf"));
    CHECK(has_line(out.text(), "dynamicfs_c -Inf"));
  }

  TEST_CASE("buckets of a histogram count all that is not larger, in the unit of the name") {
    Histogram histogram;
    for (const int value : {1, 3, 1000, 1'000'000}) {
      histogram.record(static_cast<std::uint64_t>(value));
    }
    Exposition out;
    out.add_histogram({"wait_seconds", "histogram", "How long"}, {{"disk", "0"}},
                      histogram_json(histogram), {.first = 2, .last = 10, .unit = 1e-6});
    const std::string text = out.text();
    CHECK(has_line(text, R"(dynamicfs_wait_seconds_bucket{disk="0",le="3e-06"} 2)"));
    CHECK(has_line(text, R"(dynamicfs_wait_seconds_bucket{disk="0",le="0.000511"} 2)"));
    CHECK(has_line(text, R"(dynamicfs_wait_seconds_bucket{disk="0",le="0.001023"} 3)"));
    CHECK(has_line(text, R"(dynamicfs_wait_seconds_bucket{disk="0",le="+Inf"} 4)"));
    CHECK(has_line(text, R"(dynamicfs_wait_seconds_count{disk="0"} 4)"));
    CHECK(text.find("dynamicfs_wait_seconds_sum{disk=\"0\"} 1.001004\n") != text.npos);
    CHECK(text.find("le=\"1e-06\"") == text.npos);
  }

  TEST_CASE("a histogram that is empty has the same buckets") {
    Exposition out;
    out.add_histogram({"a", "histogram", ""}, {}, histogram_json(Histogram{}),
                      {.first = 1, .last = 2, .unit = 1});
    CHECK(has_line(out.text(), "dynamicfs_a_bucket{le=\"1\"} 0"));
    CHECK(has_line(out.text(), "dynamicfs_a_bucket{le=\"3\"} 0"));
    CHECK(has_line(out.text(), "dynamicfs_a_sum 0"));
  }

  TEST_CASE("metrics of several pools stand together, and one that is silent is not up") {
    const auto pool = [](const char* uuid, int reads) -> Json {
      return {{"pool", {{"uuid", uuid}, {"label", "a \"b\""}, {"state", "healthy"}}},
              {"disks", Json::array()},
              {"daemon", {{"mountpoint", "/srv/" + std::string{uuid}}}},
              {"fuse", Json::object()},
              {"metrics",
               {{"file_reads", reads},
                {"disk0_hot_read_waits", 5},
                {"group_commits_for_2_to_3", 6},
                {"fuse_requests_READ", 7},
                {"of_a_newer_daemon", 8}}},
              {"histograms", Json::object()}};
    };
    const Json silent = {{"pool", {{"state", "dead"}}}, {"daemon", {{"mountpoint", "/srv/c"}}}};
    const std::string text = prometheus_text(std::vector{pool("a", 1), pool("b", 2), silent});
    CHECK(text.find("dynamicfs_file_reads_total{pool=\"a\"} 1\n"
                    "dynamicfs_file_reads_total{pool=\"b\"} 2\n") != text.npos);
    CHECK(has_line(text,
                   R"(dynamicfs_disk_request_waits_total{pool="a",disk="0",class="hot_read"} 5)"));
    CHECK(
        has_line(text, R"(dynamicfs_group_commits_by_waiters_total{pool="a",waiters="2_to_3"} 6)"));
    CHECK(has_line(text, R"(dynamicfs_fuse_requests_total{pool="a",operation="READ"} 7)"));
    CHECK(has_line(text, R"(dynamicfs_up{mountpoint="/srv/a"} 1)"));
    CHECK(has_line(text, R"(dynamicfs_up{mountpoint="/srv/c"} 0)"));
    CHECK(text.find("newer") == text.npos);
  }
}

}  // namespace
}  // namespace dynamicfs::fs
