#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <optional>
#include <string>

#include "fs/prometheus.hpp"
#include "fs/status.hpp"
#include "fs/status_screen.hpp"
#include "tools/dynamicfs/commands.hpp"
#include "tools/dynamicfs/pools.hpp"
#include "tools/dynamicfs/watch.hpp"

namespace dynamicfs::tools {
namespace {

using fs::ExitCode;

constexpr const char* kStatusFooter =
    R"(Exit code: 0 healthy, 1 degraded or another problem (everything works), 2 data at risk
(read-only, or files that cannot be read), 15 nothing is mounted, or a daemon is dead.
Of several pools the largest.
--json prints one object with MOUNTPOINT, and an array without; with --watch one on each line.
--watch shows rates until Ctrl-C, or --count samples, every SECONDS (2 if not said).)";

constexpr const char* kDiskFooter =
    R"(Latencies are from the request to the answer, of all requests since the mount: half were
quicker than p50, 99 of 100 than p99. "late" counts requests that a disk kept for longer than its
deadline. A disk that does so is suspect: what has a copy elsewhere is read there.

Exit code as that of 'dynamicfs status'.)";

constexpr const char* kUsualPeriod = "2";
constexpr double kPeriodMin_s = 0.1;
constexpr double kPeriodMax_s = 86'400;

struct Arguments {
  std::string mountpoint;
  bool disks = false;  // only these, at length
  bool metrics = false;
  bool json = false;
  bool prometheus = false;
  std::string watch;  // seconds; empty: no
  std::uint64_t count = 0;
};

fs::Json shown_json(const fs::Json& status, const Arguments& arguments) {
  return arguments.disks ? status.value("disks", fs::Json::array()) : status;
}

void print_json(const Pools& pools, const Arguments& arguments) {
  fs::Json out = fs::Json::array();
  for (const fs::Json& one : pools.all) out.push_back(shown_json(one, arguments));
  if (!arguments.mountpoint.empty()) out = fs::Json(out.front());
  put_out(out.dump(2, ' ', false, fs::Json::error_handler_t::replace) + "\n");
}

std::string screen(const fs::Json& status, const Arguments& arguments) {
  if (arguments.disks) return fs::disk_screen(status);
  return fs::status_screen(status) + (arguments.metrics ? fs::metrics_screen(status) : "");
}

void print(const Pools& pools, const Arguments& arguments) {
  for (std::size_t i = 0; i < pools.all.size(); ++i) {
    if (i > 0) put_out("\n");
    if (i < pools.answered()) {
      put_out(screen(pools.all[i], arguments));
    } else {
      const fs::Refusal& why = pools.unanswered[i - pools.answered()];
      put_out(fmt::format("{}\n  ! {}\n", why.what, why.remedy));
    }
  }
}

ExitCode status(const Arguments& arguments) {
  auto pools = ask_pools(arguments.mountpoint);
  if (!pools) {
    const bool none = arguments.mountpoint.empty() && pools.error().code == ExitCode::kNotMounted;
    if (none && arguments.json) put_out("[]\n");
    return refuse(pools.error());
  }
  if (arguments.json) {
    print_json(*pools, arguments);
  } else if (arguments.prometheus) {
    put_out(fs::prometheus_text(pools->all));
  } else {
    print(*pools, arguments);
  }
  return end_output(pools->code);
}

std::optional<double> number_of(const std::string& word) {
  double value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

ExitCode watch_status(Arguments arguments) {
  auto seconds = number_of(arguments.watch);
  if (!seconds && arguments.mountpoint.empty()) {
    // "--watch /srv/pool": the value may be left out, so the word behind it was meant otherwise.
    arguments.mountpoint = arguments.watch;
    seconds = number_of(kUsualPeriod);
  }
  if (!seconds || !(*seconds >= kPeriodMin_s && *seconds <= kPeriodMax_s)) {
    return refuse({ExitCode::kUsage,
                   fmt::format("--watch takes seconds, {} to {}, and not {}.", kPeriodMin_s,
                               kPeriodMax_s, arguments.watch),
                   "Write for example --watch 2."});
  }
  return watch({.mountpoint = arguments.mountpoint,
                .period = std::chrono::milliseconds{static_cast<std::int64_t>(*seconds * 1000)},
                .count = arguments.count,
                .json = arguments.json});
}

}  // namespace

void add_disk(CLI::App& app, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->disks = true;
  CLI::App* const disk =
      app.add_subcommand("disk", "Show, add, remove, replace and balance the disks of pools");
  disk->require_subcommand(1);
  add_disk_changes(*disk, action);
  CLI::App* const list =
      disk->add_subcommand("list", "Show each disk: state, queue, latencies, errors");
  refuse_empty(list->add_option("MOUNTPOINT", arguments->mountpoint,
                                "Where the pool is mounted; without it, every pool")
                   ->type_name(""),
               "mountpoint");
  list->add_flag("--json", arguments->json, "Everything, for programs");
  list->footer(kDiskFooter);
  list->callback([arguments, &action] { action = [arguments] { return status(*arguments); }; });
}

void add_status(CLI::App& app, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* const command =
      app.add_subcommand("status", "Show pools: state, space, disks, problems");
  refuse_empty(command
                   ->add_option("MOUNTPOINT", arguments->mountpoint,
                                "Where the pool is mounted; without it, every pool")
                   ->type_name(""),
               "mountpoint");
  CLI::Option* const metrics = command->add_flag(
      "--metrics", arguments->metrics, "Also every counter, in groups, and what is healthy");
  CLI::Option* const json =
      command->add_flag("--json", arguments->json, "Everything, for programs");
  CLI::Option* const prometheus = command->add_flag(
      "--prometheus", arguments->prometheus, "Every counter in the text format of Prometheus");
  CLI::Option* const watching =
      command->add_option("--watch", arguments->watch, "Rates, again and again")
          ->type_name("[SECONDS]")
          ->expected(0, 1)
          ->default_str("");
  command->add_option("--count", arguments->count, "End after so many samples")
      ->type_name("N")
      ->check(CLI::Range(1, 1'000'000'000))
      ->needs(watching);
  prometheus->excludes(metrics)->excludes(json)->excludes(watching);
  watching->excludes(metrics);
  command->footer(kStatusFooter);
  command->callback([arguments, watching, &action] {
    if (watching->count() > 0 && arguments->watch.empty()) arguments->watch = kUsualPeriod;
    action = [arguments] {
      return arguments->watch.empty() ? status(*arguments) : watch_status(*arguments);
    };
  });
}

}  // namespace dynamicfs::tools
