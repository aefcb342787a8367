// What --watch shows, and how it comes onto a terminal.
#include "fs/watch_screen.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "fs/text_table.hpp"

namespace dynamicfs::fs {
namespace {

Json pool_at_work() {
  return {{"pool",
           {{"uuid", "0-1"},
            {"label", "photos"},
            {"state", "healthy"},
            {"redundancy", "replica:2"},
            {"total_bytes", 1000},
            {"free_bytes", 750}}},
          {"daemon", {{"mountpoint", "/srv/photos"}, {"uptime_s", 100}}},
          {"disks",
           {{{"id", 0}, {"state", "healthy"}, {"path", "/mnt/a"}, {"queued", 0}, {"in_flight", 32}},
            {{"id", 1}, {"state", "missing"}, {"path", "/mnt/b"}}}},
          {"problems", {"Disk 1 (/mnt/b) is missing. Connect it and mount again."}},
          {"metrics",
           {{"file_reads", 300},
            {"file_read_bytes", 300 * 4096},
            {"lock_contention_ratio", 0.25},
            {"lock_acquisitions", 5000},
            {"disk0_queued", 3},
            {"disk0_depth_max", 64},
            {"disk0_device_flushes", 5}}},
          {"histograms", Json::object()}};
}

// The line that holds `word`, without the spaces in front.
std::string line_with(const std::string& text, const std::string& word) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(word) != line.npos) return line.substr(line.find_first_not_of(' '));
  }
  return {};
}

TEST_SUITE("watch_screen") {
  TEST_CASE("counters are shown per second of what they have counted in") {
    const std::string last = watch_screen(pool_at_work(), {.seconds = 2});
    CHECK(line_with(last, "looked again").find("150  600 KiB/s") != std::string::npos);
    CHECK(line_with(last, "the last 2.0 s") != "");
    const std::string all = watch_screen(pool_at_work(), {});
    CHECK(line_with(all, "looked again").find("3.0  12.0 KiB/s") != std::string::npos);
    CHECK(line_with(all, "since the mount") != "");
  }

  TEST_CASE("bars, what is healthy, hints and problems are there") {
    const std::string screen = watch_screen(pool_at_work(), {.seconds = 2});
    CHECK(line_with(screen, "space") ==
          "space        [######------------------]  25 %  250 B of 1000 B");
    CHECK(line_with(screen, "contended").ends_with("0.2500 contended (! below 0.05)"));
    CHECK(line_with(screen, "! Of 100 extent locks 25") != "");
    CHECK(line_with(screen, "! Disk 1 (/mnt/b) is missing.") != "");
    CHECK(line_with(screen, "/mnt/a").starts_with("0  healthy  [###---] 32  3 of 64"));
    CHECK(line_with(screen, "/mnt/b").starts_with("1  missing  -"));
  }

  TEST_CASE("sentences are broken to the width") {
    const std::string screen = watch_screen(pool_at_work(), {.seconds = 2, .columns = 40});
    const std::string words = screen.substr(screen.find("  ! "));
    std::istringstream lines(words);
    for (std::string line; std::getline(lines, line);) CHECK(line.size() <= 40);
    CHECK(std::ranges::count(words, '!') == 2);
  }

  TEST_CASE("a daemon that says little is shown all the same") {
    CHECK(watch_screen(Json::object(), {}).find("pool") == 0);
  }

  TEST_CASE("lines and columns that a terminal has no room for are cut off") {
    CHECK(clipped("abcdef\nxy\nz\n", 3, 2) == "abc\nxy\n");
    CHECK(clipped("abc\n", 3, 0).empty());
    CHECK(clipped("abc\n", 3, 5) == "abc\n");
    CHECK(clipped("\u00e4\u20ac\U0001f4f7d\n", 3, 5) == "\u00e4\u20ac\U0001f4f7\n");
  }

  TEST_CASE("in place: home, every line cleared to its end, and all below") {
    CHECK(in_place("a\nb\n") == "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
  }

  TEST_CASE("a bar never draws something as nothing, nor more than all") {
    CHECK(bar(0, 10, 4) == "[----]");
    CHECK(bar(1, 1000, 4) == "[#---]");
    CHECK(bar(5, 10, 4) == "[##--]");
    CHECK(bar(20, 10, 4) == "[####]");
    CHECK(bar(0, 0, 4) == "[----]");
  }
}

}  // namespace
}  // namespace dynamicfs::fs
