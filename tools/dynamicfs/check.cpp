#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "base/log.hpp"
#include "fs/check_pool.hpp"
#include "fs/mount_options.hpp"
#include "fs/status_screen.hpp"
#include "tools/dynamicfs/commands.hpp"

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

// How far it is: on a terminal one line that changes, else one every ten seconds.
class Progress {
 public:
  void show(const fs::ScrubReport& report) {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::milliseconds pause{terminal_ ? 500 : 10'000};
    if (now - shown_ < pause || report.total_bytes == 0) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(report.active).count();
    const double rate = static_cast<double>(report.counts.bytes) / std::max(seconds, 0.001);
    const auto left = static_cast<double>(report.total_bytes - report.counts.bytes);
    fmt::print(stderr, "{}{} of {} checked, {}/s, {} left{}", terminal_ ? "\r" : "",
               fs::size_text(report.counts.bytes), fs::size_text(report.total_bytes),
               fs::size_text(static_cast<std::uint64_t>(rate)),
               fs::duration_text(static_cast<std::uint64_t>(left / std::max(rate, 1.0) + 0.5)),
               terminal_ ? "\x1b[K" : "\n");
    std::fflush(stderr);
    line_open_ = terminal_;
  }
  void end() const {
    if (line_open_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  std::chrono::steady_clock::time_point shown_ = std::chrono::steady_clock::now();
  bool line_open_ = false;
};

fs::ExitCode check(const fs::CheckRequest& request, bool json) {
  Progress progress;
  set_log_level(LogLevel::kError);  // the report says the rest better
  auto report =
      fs::check_pool(request, [&progress](const fs::ScrubReport& scrub) { progress.show(scrub); });
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
