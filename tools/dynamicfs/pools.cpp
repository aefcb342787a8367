#include "tools/dynamicfs/pools.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "fs/mounted_pool.hpp"
#include "fs/status.hpp"

namespace dynamicfs::tools {
namespace {

using fs::ExitCode;

constexpr std::chrono::seconds kPatience{30};

fs::Outcome<fs::Json> ask(const std::string& socket) {
  auto client = TRY(fs::ControlClient::connect(socket));
  fs::Json answer = TRY(client.ask("status", kPatience));
  return answer.value("status", fs::Json::object());
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

void add(Pools& pools, fs::Json status) {
  pools.code = std::max(pools.code, fs::exit_code_of(status));
  pools.all.push_back(std::move(status));
}

fs::Outcome<Pools> ask_all() {
  Pools pools;
  const fs::RunningDaemons daemons = fs::running_daemons();
  std::optional<fs::Refusal> denied;
  if (daemons.denied) {
    denied = fs::Refusal{ExitCode::kPermission, "You may not ask the daemons that run here.",
                         "Run it with sudo."};
  }
  for (const fs::RunningDaemon& daemon : daemons.answering) {
    auto status = ask(daemon.socket);
    if (status) add(pools, std::move(*status));  // else it has ended meanwhile
  }
  for (fs::UnansweredMount& silent : fs::unanswered_mounts(daemons)) {
    if (silent.why.code == ExitCode::kPermission) {
      denied = std::move(silent.why);
      continue;
    }
    pools.code = std::max(pools.code, silent.why.code);
    pools.all.push_back(unanswered_json(silent));
    pools.unanswered.push_back(std::move(silent.why));
  }
  if (!pools.all.empty()) return pools;
  if (denied) return *denied;
  if (daemons.silent) {
    return fs::Refusal{ExitCode::kFailed, "A daemon runs here and does not answer.",
                       "Its log says what it is doing."};
  }
  return fs::Refusal{ExitCode::kNotMounted, "No pool is mounted.",
                     "'dynamicfs mount DISK MOUNTPOINT' mounts one."};
}

}  // namespace

fs::Outcome<Pools> ask_pools(const std::string& mountpoint) {
  if (mountpoint.empty()) return ask_all();
  const fs::MountedPool pool = TRY(fs::find_mounted_pool(mountpoint));
  Pools pools;
  add(pools, TRY(ask(pool.daemon.socket)));
  return pools;
}

}  // namespace dynamicfs::tools
