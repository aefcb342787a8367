#include <memory>
#include <string>

#include "fs/mounted_pool.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

fs::ExitCode umount(const std::string& mountpoint) {
  const auto done = fs::unmount_pool(mountpoint);
  return done ? fs::ExitCode::kOk : refuse(done.error());
}

}  // namespace

void add_umount(CLI::App& app, Action& action) {
  const auto mountpoint = std::make_shared<std::string>();
  CLI::App* const command =
      app.add_subcommand("umount", "Unmount a pool; returns when everything is on the disks");
  refuse_empty(command->add_option("MOUNTPOINT", *mountpoint, "Where the pool is mounted")
                   ->type_name("")
                   ->required(),
               "mountpoint");
  command->footer("umount(8) works too, but returns while the daemon is still writing.");
  command->callback(
      [mountpoint, &action] { action = [mountpoint] { return umount(*mountpoint); }; });
}

}  // namespace dynamicfs::tools
