#include <fmt/format.h>

#include <memory>

#include "base/log.hpp"
#include "fs/dump_pool.hpp"
#include "fs/mount_options.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

constexpr const char* kDumpFooter =
    R"(For people, and its form may change. Changes nothing, and needs the pool unmounted.
Exit code: 0, or 2 if something was damaged.)";

fs::ExitCode dump(const fs::DumpRequest& request) {
  set_log_level(LogLevel::kError);
  auto done = fs::dump_pool(request, put_out);
  return done ? end_output(*done) : refuse(done.error());
}

}  // namespace

void add_dump(CLI::App& app, Action& action) {
  CLI::App* const command =
      app.add_subcommand("dump", "Print what stands on the disks of an unmounted pool");
  command->require_subcommand(1);
  command->footer(kDumpFooter);
  const auto add = [&](const char* name, const char* words, fs::DumpWhat what) {
    const auto disks = std::make_shared<std::vector<std::string>>();
    CLI::App* const part = command->add_subcommand(name, words);
    refuse_empty(part->add_option("DISK", *disks, "A disk of the pool, or several")
                     ->type_name("")
                     ->required(),
                 "name of a disk");
    part->callback([disks, what, &action] {
      action = [disks, what] {
        fs::DumpRequest request;
        request.what = what;
        request.disk = fs::absolute_path(disks->front());
        for (std::size_t i = 1; i < disks->size(); ++i)
          request.others.push_back(fs::absolute_path((*disks)[i]));
        return dump(request);
      };
    });
  };
  add("superblocks", "Who belongs to the pool, epochs, where the metadata is",
      fs::DumpWhat::kSuperblocks);
  add("journal", "Every batch and every record", fs::DumpWhat::kJournal);
  add("run", "Every entry of the checkpoint", fs::DumpWhat::kRun);
}

}  // namespace dynamicfs::tools
