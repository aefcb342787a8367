#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <string>

#include "fs/control.hpp"
#include "fs/mounted_pool.hpp"
#include "fs/scrub_screen.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

using fs::ExitCode;

constexpr const char* kScrubFooter =
    R"(Exit code of status: 0 nothing is wrong, or all of it was repaired; 1 copies are left that are
bad or could not be read; 2 there are blocks without a good copy; 15 nothing is mounted.
A refusal (started twice, nothing to pause) is 3.

A scrub gives way to everything else; it ends when the pool is unmounted, and starts over.)";

constexpr const char* kScrubStatusFooter =
    R"(Exit code: 0 nothing is wrong, or all of it was repaired; 1 copies are left that are bad or
could not be read; 2 there are blocks without a good copy; 15 nothing is mounted.)";

constexpr std::chrono::seconds kScrubPatience{30};

fs::Outcome<fs::Json> ask(const std::string& mountpoint, const std::string& command,
                          fs::ControlClient::Patience patience) {
  const fs::MountedPool pool = TRY(fs::find_mounted_pool(mountpoint));
  auto client = TRY(fs::ControlClient::connect(pool.daemon.socket));
  return client.ask(command, patience);
}

ExitCode order(const std::string& mountpoint, const std::string& command) {
  // What is in flight must end before a cancelled scrub has ended: that takes what it takes.
  const fs::ControlClient::Patience patience =
      command == "scrub_cancel" ? fs::ControlClient::Patience{} : kScrubPatience;
  const auto answer = ask(mountpoint, command, patience);
  return answer ? ExitCode::kOk : refuse(answer.error());
}

ExitCode status(const std::string& mountpoint, bool json) {
  auto answer = ask(mountpoint, "scrub_status", kScrubPatience);
  if (!answer) return refuse(answer.error());
  const fs::Json scrub = answer.value().value("scrub", fs::Json::object());
  if (json) {
    fmt::print("{}\n", scrub.dump(2));
  } else {
    fmt::print("{}", fs::scrub_screen(scrub));
  }
  return fs::scrub_exit_code(scrub);
}

}  // namespace

void add_scrub(CLI::App& app, Action& action) {
  const auto mountpoint = std::make_shared<std::string>();
  const auto json = std::make_shared<bool>(false);
  CLI::App* const scrub =
      app.add_subcommand("scrub", "Read and verify every copy of everything, repair bad ones");
  scrub->require_subcommand(1);
  scrub->footer(kScrubFooter);
  const auto add = [&](const char* name, const char* what) {
    CLI::App* const command = scrub->add_subcommand(name, what);
    refuse_empty(command->add_option("MOUNTPOINT", *mountpoint, "Where the pool is mounted")
                     ->type_name("")
                     ->required(),
                 "mountpoint");
    return command;
  };
  const auto add_order = [&](const char* name, const char* what) {
    add(name, what)->callback([mountpoint, name, &action] {
      action = [mountpoint, name] { return order(*mountpoint, std::string{"scrub_"} + name); };
    });
  };
  add_order("start", "Begin; returns at once");
  CLI::App* const show = add("status", "Show how far it is and what it has found");
  show->add_flag("--json", *json, "Everything, for programs");
  show->footer(kScrubStatusFooter);
  show->callback([mountpoint, json, &action] {
    action = [mountpoint, json] { return status(*mountpoint, *json); };
  });
  add_order("pause", "Stop for now; what is in flight is finished");
  add_order("resume", "Go on after a pause");
  add_order("cancel", "End it; returns when it has ended");
}

}  // namespace dynamicfs::tools
