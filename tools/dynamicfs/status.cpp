#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "fs/control.hpp"
#include "fs/mounted_pool.hpp"
#include "fs/status.hpp"
#include "fs/status_screen.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

using fs::ExitCode;

constexpr const char* kFooter =
    R"(Exit code: 0 healthy, 1 degraded or another problem (everything works), 2 data at risk
(read-only, or files that cannot be read), 15 nothing is mounted, or a daemon is dead.
Of several pools the largest.
--json prints one object with MOUNTPOINT, and an array without.)";

constexpr std::chrono::seconds kPatience{30};

constexpr const char* kDiskFooter =
    R"(Latencies are from the request to the answer, of all requests since the mount: half were
quicker than p50, 99 of 100 than p99. "late" counts requests that a disk kept for longer than its
deadline. A disk that does so is suspect: what has a copy elsewhere is read there.

Exit code as that of 'dynamicfs status'.)";

struct Arguments {
  std::string mountpoint;
  bool disks = false;  // only these, at length
  bool metrics = false;
  bool json = false;
};

fs::Json shown_json(const fs::Json& status, const Arguments& arguments) {
  return arguments.disks ? status.value("disks", fs::Json::array()) : status;
}

fs::Outcome<fs::Json> ask(const std::string& socket) {
  auto client = TRY(fs::ControlClient::connect(socket));
  fs::Json answer = TRY(client.ask("status", kPatience));
  return answer.value("status", fs::Json::object());
}

void print(const fs::Json& status, const Arguments& arguments) {
  if (arguments.disks) {
    fmt::print("{}", fs::disk_screen(status));
    return;
  }
  fmt::print("{}", fs::status_screen(status));
  if (arguments.metrics) fmt::print("{}", fs::metrics_screen(status));
}

// In the shape of what a daemon answers, for programs that walk over all pools.
fs::Json unanswered_json(const fs::UnansweredMount& silent) {
  const bool dead = silent.why.code == ExitCode::kNotMounted;
  return {{"pool", {{"state", dead ? "dead" : "silent"}}},
          {"disks", fs::Json::array()},
          {"daemon",
           {{"mountpoint", silent.mount.mountpoint},
            {"device", silent.mount.device},
            {"disk", silent.mount.source}}},
          {"problems", fs::Json::array({silent.why.what + " " + silent.why.remedy})},
          {"damaged_files", fs::Json::array()}};
}

ExitCode status_of_all(const Arguments& arguments) {
  const fs::RunningDaemons daemons = fs::running_daemons();
  fs::Json all = fs::Json::array();
  std::vector<fs::Refusal> unanswered;
  bool denied = daemons.denied;
  ExitCode worst = ExitCode::kOk;
  for (const fs::RunningDaemon& daemon : daemons.answering) {
    auto status = ask(daemon.socket);
    if (!status) continue;  // it has ended meanwhile
    worst = std::max(worst, fs::exit_code_of(*status));
    all.push_back(std::move(*status));
  }
  const std::size_t answered = all.size();
  for (fs::UnansweredMount& silent : fs::unanswered_mounts(daemons)) {
    if (silent.why.code == ExitCode::kPermission) {
      denied = true;
      continue;
    }
    worst = std::max(worst, silent.why.code);
    all.push_back(unanswered_json(silent));
    unanswered.push_back(std::move(silent.why));
  }
  if (all.empty()) {
    if (denied) {
      return refuse({ExitCode::kPermission, "You may not ask the daemons that run here.",
                     "Run it with sudo."});
    }
    if (daemons.silent) {
      return refuse({ExitCode::kFailed, "A daemon runs here and does not answer.",
                     "Its log says what it is doing."});
    }
    if (arguments.json) fmt::print("[]\n");
    return refuse({ExitCode::kNotMounted, "No pool is mounted.",
                   "'dynamicfs mount DISK MOUNTPOINT' mounts one."});
  }
  if (arguments.json) {
    for (fs::Json& one : all) one = shown_json(one, arguments);
    fmt::print("{}\n", all.dump(2, ' ', false, fs::Json::error_handler_t::replace));
  } else {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i > 0) fmt::print("\n");
      if (i < answered) {
        print(all[i], arguments);
      } else {
        const fs::Refusal& why = unanswered[i - answered];
        fmt::print("{}\n  ! {}\n", why.what, why.remedy);
      }
    }
  }
  return worst;
}

ExitCode status(const Arguments& arguments) {
  if (arguments.mountpoint.empty()) return status_of_all(arguments);
  auto pool = fs::find_mounted_pool(arguments.mountpoint);
  if (!pool) return refuse(pool.error());
  auto answer = ask(pool->daemon.socket);
  if (!answer) return refuse(answer.error());
  if (arguments.json) {
    fmt::print(
        "{}\n",
        shown_json(*answer, arguments).dump(2, ' ', false, fs::Json::error_handler_t::replace));
  } else {
    print(*answer, arguments);
  }
  return fs::exit_code_of(*answer);
}

}  // namespace

void add_disk(CLI::App& app, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->disks = true;
  CLI::App* const disk = app.add_subcommand("disk", "Look at the disks of pools");
  disk->require_subcommand(1);
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
  command->add_flag("--metrics", arguments->metrics, "Also every counter, in groups");
  command->add_flag("--json", arguments->json, "Everything, for programs");
  command->footer(kFooter);
  command->callback([arguments, &action] { action = [arguments] { return status(*arguments); }; });
}

}  // namespace dynamicfs::tools
