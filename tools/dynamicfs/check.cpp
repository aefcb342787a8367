#include <fmt/format.h>

#include <memory>

#include "base/log.hpp"
#include "fs/check_pool.hpp"
#include "fs/mount_options.hpp"
#include "tools/dynamicfs/commands.hpp"
#include "tools/dynamicfs/progress.hpp"

namespace dynamicfs::tools {
namespace {

constexpr const char* kCheckFooter =
    R"(Needs the pool unmounted, and changes nothing without --repair. One disk is enough, it knows the
others; name those that have moved.

--repair derives anew what follows from the maps and names of files: blocks in use, counts and links, names
in /lost+found for what has none. It removes names of files that do not exist. If there is anything that it
does not understand it repairs nothing, and says what that is: copy what can be read to another place then
('dynamicfs extract'). Otherwise it looks again; the exit code is that of what it finds then. It reads all
metadata, and does nothing while a disk is away. Bad copies are mended by 'dynamicfs scrub' on the mounted pool.

Exit code: 0 nothing is wrong; 1 everything can be read, not everything has all its copies;
2 something is lost, cannot be read or contradicts itself; 3 and above: it could not be looked at.)";

fs::ExitCode check(const fs::CheckRequest& request, bool json) {
  Progress progress{"checked"};
  set_log_level(LogLevel::kError);  // the report says the rest better
  auto report = fs::check_pool(request, [&progress](const fs::ScrubReport& scrub) {
    progress.show(scrub.counts.bytes, scrub.total_bytes);
  });
  progress.end();
  if (!report) return refuse(report.error());
  put_out(json ? report->json().dump(2, ' ', false, fs::Json::error_handler_t::replace) + "\n"
               : report->screen());
  return end_output(report->exit_code());
}

}  // namespace

void add_check(CLI::App& app, Action& action) {
  struct Arguments {
    std::vector<std::string> disks;
    bool data = false;
    bool json = false;
    bool repair = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* const command =
      app.add_subcommand("check", "Verify an unmounted pool; mend what contradicts itself");
  refuse_empty(command->add_option("DISK", arguments->disks, "A disk of the pool, or several")
                   ->type_name("")
                   ->required(),
               "name of a disk");
  command->add_flag("--data", arguments->data, "Read all data too, in every copy");
  command->add_flag("--repair", arguments->repair, "Mend what can be derived again");
  command->add_flag("--json", arguments->json, "Everything, for programs");
  command->footer(kCheckFooter);
  command->callback([arguments, &action] {
    action = [arguments] {
      fs::CheckRequest request;
      request.disk = fs::absolute_path(arguments->disks.front());
      for (std::size_t i = 1; i < arguments->disks.size(); ++i)
        request.others.push_back(fs::absolute_path(arguments->disks[i]));
      request.data = arguments->data;
      request.repair = arguments->repair;
      return check(request, arguments->json);
    };
  });
}

}  // namespace dynamicfs::tools
