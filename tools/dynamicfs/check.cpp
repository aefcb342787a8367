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
    R"(Changes nothing, and needs the pool unmounted; 'dynamicfs scrub' checks a mounted one and repairs.
One disk is enough, it knows the others; name those that have moved.

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
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* const command =
      app.add_subcommand("check", "Verify an unmounted pool, without changing anything");
  refuse_empty(command->add_option("DISK", arguments->disks, "A disk of the pool, or several")
                   ->type_name("")
                   ->required(),
               "name of a disk");
  command->add_flag("--data", arguments->data, "Read all data too, in every copy");
  command->add_flag("--json", arguments->json, "Everything, for programs");
  command->footer(kCheckFooter);
  command->callback([arguments, &action] {
    action = [arguments] {
      fs::CheckRequest request;
      request.disk = fs::absolute_path(arguments->disks.front());
      for (std::size_t i = 1; i < arguments->disks.size(); ++i)
        request.others.push_back(fs::absolute_path(arguments->disks[i]));
      request.data = arguments->data;
      return check(request, arguments->json);
    };
  });
}

}  // namespace dynamicfs::tools
