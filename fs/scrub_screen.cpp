#include "fs/scrub_screen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>

#include "fs/metric_values.hpp"
#include "fs/mount_options.hpp"
#include "fs/status_screen.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

const char* state_name(ScrubState state) {
  switch (state) {
    case ScrubState::kIdle: return "idle";
    case ScrubState::kRunning: return "running";
    case ScrubState::kPaused: return "paused";
    case ScrubState::kFinished: return "finished";
    case ScrubState::kCancelled: return "cancelled";
  }
  return "";
}

std::string time_text(std::int64_t unix_s) {
  const std::time_t time = unix_s;
  std::tm local{};
  ::localtime_r(&time, &local);
  char text[32];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
  return {text, length};
}

std::string count_text(std::uint64_t count, const char* one, const char* several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

std::uint64_t percent_of(const Json& scrub) {
  const std::uint64_t total = number_of(scrub, "total_bytes");
  const std::uint64_t checked = number_of(scrub, "checked_bytes");
  if (total == 0) return scrub.value("state", "") == "finished" ? 100 : 0;
  return checked * 100 / total;
}

}  // namespace

Json scrub_json(const ScrubReport& report) {
  const journal::ScrubCounts& counts = report.counts;
  Json out = {{"state", state_name(report.state)},
              {"checked_bytes", counts.bytes},
              {"total_bytes", report.total_bytes},
              {"read_bytes", counts.read_bytes},
              {"bad_copies", counts.copies_bad},
              {"outdated_copies", counts.copies_outdated},
              {"repaired_copies", counts.copies_repaired},
              {"skipped_copies", counts.copies_skipped},
              {"unrecoverable_blocks", counts.blocks_lost},
              {"unreadable_blocks", counts.blocks_unreadable},
              {"errors", report.errors},
              {"read_only", report.read_only},
              {"last_unix_s", report.last_unix_s},
              {"due_unix_s", report.due_unix_s}};
  if (report.started_ns != 0) out["started_unix_s"] = report.started_ns / kNanosecondsPerSecond;
  if (report.ended_ns != 0) out["ended_unix_s"] = report.ended_ns / kNanosecondsPerSecond;
  const double active_s = std::chrono::duration<double>(report.active).count();
  out["active_s"] = active_s;
  if (counts.bytes != 0 && active_s > 0) {
    const double rate = static_cast<double>(counts.bytes) / active_s;
    out["rate_bytes_per_s"] = static_cast<std::uint64_t>(rate);
    if (report.state == ScrubState::kRunning || report.state == ScrubState::kPaused) {
      const auto left = static_cast<double>(report.total_bytes - counts.bytes);
      out["left_s"] = static_cast<std::uint64_t>(left / rate + 0.5);
    }
  }
  return out;
}

std::string scrub_phrase(const Json& scrub) {
  const std::string state = scrub.value("state", "idle");
  if (state == "idle") return {};
  if (state == "finished") {
    return fmt::format("finished {}", time_text(scrub.value("ended_unix_s", std::int64_t{0})));
  }
  return fmt::format("{}, {} % checked", state, percent_of(scrub));
}

std::string scrub_screen(const Json& scrub) {
  const std::string state = scrub.value("state", "idle");
  if (state == "idle") {
    const std::int64_t last = scrub.value("last_unix_s", std::int64_t{0});
    const std::int64_t due = scrub.value("due_unix_s", std::int64_t{0});
    return fmt::format(
        "scrub: none since the pool was mounted{}{}\n",
        last == 0 ? ", nor before" : fmt::format("; the last ended {}", time_text(last)),
        due == 0 ? "" : fmt::format("; the next begins {}", time_text(due)));
  }
  std::string out = fmt::format("scrub: {}, started {}", state,
                                time_text(scrub.value("started_unix_s", std::int64_t{0})));
  if (scrub.contains("ended_unix_s")) {
    out += fmt::format(", ended {}", time_text(scrub["ended_unix_s"].get<std::int64_t>()));
  }
  out += fmt::format("\n  {} of {} checked ({} %), in every copy",
                     size_text(number_of(scrub, "checked_bytes")),
                     size_text(number_of(scrub, "total_bytes")), percent_of(scrub));
  if (scrub.contains("rate_bytes_per_s")) {
    out += fmt::format(", {}/s", size_text(number_of(scrub, "rate_bytes_per_s")));
  }
  if (state == "running" && scrub.contains("left_s")) {
    out += fmt::format(", {} left", duration_text(number_of(scrub, "left_s")));
  }
  out += fmt::format("\n  {}, {} repaired, {}\n",
                     count_text(number_of(scrub, "bad_copies"), "bad copy", "bad copies"),
                     number_of(scrub, "repaired_copies"),
                     count_text(number_of(scrub, "unrecoverable_blocks"),
                                "block without a good copy", "blocks without a good copy"));
  const auto note = [&](const char* key, const char* one, const char* several) {
    if (const std::uint64_t count = number_of(scrub, key); count != 0) {
      out += "  " + count_text(count, one, several) + "\n";
    }
  };
  note("outdated_copies", "copy missed something while its disk was away",
       "copies missed something while their disk was away");
  note("skipped_copies", "copy skipped: its disk is gone", "copies skipped: their disk is gone");
  note("unreadable_blocks", "block has no good copy here; a disk that is away may have one",
       "blocks have no good copy here; a disk that is away may have one");
  note("errors", "piece could not be checked; the log says why",
       "pieces could not be checked; the log says why");
  if (number_of(scrub, "unrecoverable_blocks") != 0) {
    out += "  'dynamicfs status' names the damaged files.\n";
  }
  if (scrub.value("read_only", false)) out += "  The pool is read-only: nothing was repaired.\n";
  return out;
}

ExitCode scrub_exit_code(const Json& scrub) {
  if (number_of(scrub, "unrecoverable_blocks") != 0) return ExitCode::kAtRisk;
  const bool left = number_of(scrub, "repaired_copies") <
                    number_of(scrub, "bad_copies") + number_of(scrub, "outdated_copies");
  const bool unseen = number_of(scrub, "skipped_copies") != 0 || number_of(scrub, "errors") != 0;
  return left || unseen ? ExitCode::kDegraded : ExitCode::kOk;
}

}  // namespace dynamicfs::fs
