#include "fs/rebuild_screen.hpp"

#include <fmt/format.h>

#include <chrono>

#include "base/log.hpp"
#include "fs/metric_values.hpp"
#include "fs/mount_options.hpp"
#include "fs/status_screen.hpp"

namespace dynamicfs::fs {
namespace {

const char* rebuild_state(const RebuildReport& report) {
  if (!report.due) return "idle";
  if (report.paused) return "paused";
  return report.running || report.stuck_chunks == 0 ? "running" : "waiting";
}

}  // namespace

Json rebuild_json(const RebuildReport& report, const journal::Pool& pool) {
  Json leaving = Json::array();
  for (const journal::DiskStatus& disk : pool.status()) {
    if (disk.record.leaving && !disk.record.spare)
      leaving.push_back(
          {{"disk", disk.record.id.raw}, {"path", disk.record.path}, {"lost", disk.record.lost}});
  }
  Json out{{"state", rebuild_state(report)},
           {"left_bytes", report.left_bytes},
           {"moved_bytes", report.moved_bytes},
           {"rebalancing", report.rebalancing},
           {"leaving", std::move(leaving)},
           {"stuck_chunks", report.stuck_chunks},
           {"obstacle", report.stuck_chunks == 0 ? std::string{} : describe(report.obstacle)}};
  const auto seconds = std::chrono::duration<double>(report.took).count();
  if (seconds >= 1 && report.moved_bytes > 0) {
    const double rate = static_cast<double>(report.moved_bytes) / seconds;
    out["bytes_per_s"] = static_cast<std::uint64_t>(rate);
    out["time_left_s"] = static_cast<std::uint64_t>(static_cast<double>(report.left_bytes) / rate);
  }
  return out;
}

std::string rebuild_phrase(const Json& rebuild) {
  const std::string state = rebuild.value("state", "idle");
  if (state == "idle") return "";
  std::string out = state;
  if (const std::uint64_t left = number_of(rebuild, "left_bytes"); left > 0)
    out += fmt::format(", {} left", size_text(left));
  if (rebuild.value("rebalancing", false)) out += ", balancing";
  if (rebuild.contains("bytes_per_s"))
    out += fmt::format(", {}/s", size_text(number_of(rebuild, "bytes_per_s")));
  if (rebuild.contains("time_left_s") && number_of(rebuild, "left_bytes") > 0)
    out += fmt::format(", about {} to go", duration_text(number_of(rebuild, "time_left_s")));
  if (const std::uint64_t stuck = number_of(rebuild, "stuck_chunks"); stuck > 0)
    out += fmt::format("; {} chunk{} cannot be moved now: {}", stuck, stuck == 1 ? "" : "s",
                       rebuild.value("obstacle", ""));
  return out;
}

std::string rebuild_screen(const Json& rebuild) {
  const std::string phrase = rebuild_phrase(rebuild);
  const Json leaving = rebuild.value("leaving", Json::array());
  if (phrase.empty() && leaving.empty()) return "Everything is where it should be.\n";
  std::string out =
      phrase.empty()
          ? "copying: nothing more can be copied now; 'dynamicfs status' says what is in the way\n"
          : fmt::format("copying: {}\n", phrase);
  for (const Json& disk : leaving) {
    out += fmt::format("  disk {} ({}) {}\n", disk.value("disk", 0), disk.value("path", ""),
                       disk.value("lost", false) ? "is lost: what it had is made anew on the others"
                                                 : "is leaving the pool");
  }
  return out;
}

ExitCode rebuild_exit_code(const Json& rebuild) {
  const bool done =
      rebuild.value("state", "idle") == "idle" && rebuild.value("leaving", Json::array()).empty();
  return done ? ExitCode::kOk : ExitCode::kDegraded;
}

}  // namespace dynamicfs::fs
