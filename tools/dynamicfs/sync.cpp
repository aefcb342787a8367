#include <fmt/format.h>

#include <memory>
#include <string>

#include "fs/control.hpp"
#include "fs/mounted_pool.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

fs::ExitCode sync(const std::string& mountpoint) {
  auto pool = fs::find_mounted_pool(mountpoint);
  if (!pool) return refuse(pool.error());
  if (const auto done = fs::sync_pool(*pool); !done) return refuse(done.error());
  return fs::ExitCode::kOk;
}

}  // namespace

void add_sync(CLI::App& app, Action& action) {
  const auto mountpoint = std::make_shared<std::string>();
  CLI::App* const command =
      app.add_subcommand("sync", "Return when everything written so far is on stable storage");
  refuse_empty(command->add_option("MOUNTPOINT", *mountpoint, "Where the pool is mounted")
                   ->type_name("")
                   ->required(),
               "mountpoint");
  command->footer(
      "sync(1) hands what is in the page cache to the pool, which makes it durable within\n"
      "commit_interval; this waits for that too.");
  command->callback([mountpoint, &action] { action = [mountpoint] { return sync(*mountpoint); }; });
}

}  // namespace dynamicfs::tools
