#include <fmt/format.h>

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "base/log.hpp"
#include "fs/extract_pool.hpp"
#include "fs/mount_options.hpp"
#include "fs/text_table.hpp"
#include "tools/dynamicfs/commands.hpp"
#include "tools/dynamicfs/progress.hpp"

namespace dynamicfs::tools {
namespace {

constexpr const char* kExtractFooter =
    R"(For a pool that cannot be mounted any more: disks are gone, or too much is damaged. It needs the pool
unmounted, writes nothing to its disks, and works with however few of them are left. Name those that have
moved; the others are found. What comes out has the right checksum. What does not come out, or only in
parts, is named, file by file, with the bytes that are missing: there the copy has holes.

Exit code: 0 everything came out; 1 everything came out, though disks or copies are missing;
2 something could not be recovered, or may be outdated; 3 and above: it could not begin.)";

// Everything that was told, as one JSON object, written as it comes.
class ReportFile {
 public:
  // False: it cannot be written; errno says why.
  bool open(const std::string& path) {
    path_ = path;
    // New: what is there already may be a disk.
    file_.reset(std::fopen(path.c_str(), "wxe"));
    if (file_ != nullptr) fmt::print(file_.get(), "{{\"files\": [");
    return file_ != nullptr;
  }
  void add(const fs::ExtractLoss& loss) {
    if (file_ == nullptr) return;
    fmt::print(file_.get(), "{}\n  {}", first_ ? "" : ",", text(fs::loss_json(loss)));
    first_ = false;
  }
  // False: not everything could be written.
  bool end(const fs::ExtractReport& report) {
    if (file_ == nullptr) return true;
    fmt::print(file_.get(), "\n], \"summary\": {}}}\n", text(report.json()));
    const bool written = std::fflush(file_.get()) == 0 && std::ferror(file_.get()) == 0;
    file_.reset();
    return written;
  }
  // It has not begun: the name is free for the next time.
  void discard() {
    if (file_ == nullptr) return;
    file_.reset();
    std::remove(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  static std::string text(const fs::Json& json) {
    return json.dump(-1, ' ', false, fs::Json::error_handler_t::replace);
  }
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  bool first_ = true;
};

volatile std::sig_atomic_t interrupted = 0;

// The first signal ends it in order, with its report; the second at once, should a disk hang.
void let_interrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
}

void tell_start(std::uint64_t bytes, std::uint64_t free_bytes) {
  if (bytes == 0 || free_bytes == 0 || free_bytes >= bytes) return;
  fmt::print(stderr,
             "dynamicfs: there are about {} to copy and {} free: {} are missing, unless the target "
             "compresses.\n           It ends when there is no more room.\n",
             fs::size_text(bytes), fs::size_text(free_bytes), fs::size_text(bytes - free_bytes));
}

fs::ExitCode extract(const fs::ExtractRequest& request, const std::string& report_path) {
  set_log_level(LogLevel::kNothing);  // the report says it better
  ReportFile file;
  if (!report_path.empty() && !file.open(report_path)) {
    const int why = errno;
    return refuse(
        {fs::ExitCode::kUsage,
         fmt::format("{} cannot be written: {}.", report_path, std::strerror(why)),
         why == EEXIST ? "Give the report a name that nothing has: it replaces nothing." : ""});
  }
  Progress progress{"copied"};
  std::uint64_t total_bytes = 0;
  fs::ExtractHooks hooks;
  hooks.on_start = [&](std::uint64_t bytes, std::uint64_t free_bytes) {
    total_bytes = bytes;
    tell_start(bytes, free_bytes);
  };
  hooks.events.on_loss = [&](const fs::ExtractLoss& loss) {
    file.add(loss);
    // Of nearly everything, as a rule: those are counted.
    if (loss.kind == fs::ExtractLoss::Kind::kAttributes) return;
    progress.end();
    put_out(fs::loss_text(loss) + "\n");
  };
  hooks.events.on_name = [&](const std::string& path, const fs::Attributes& attributes) {
    if (!request.to.empty()) return;
    const bool directory = (attributes.mode & S_IFMT) == S_IFDIR;
    put_out(fmt::format("{:>15}  {}{}\n", directory ? 0 : attributes.size_bytes,
                        fs::printable(path), directory ? "/" : ""));
  };
  hooks.events.on_progress = [&](const fs::ExtractCounts& counts) {
    if (!request.to.empty()) progress.show(counts.bytes, total_bytes);
  };
  hooks.events.stop = [] { return interrupted != 0; };
  let_interrupt();
  auto report = fs::extract_pool(request, hooks);
  progress.end();
  if (!report) {
    file.discard();
    return refuse(report.error());
  }
  put_out(report->screen());
  const fs::ExitCode code = end_output(report->exit_code());
  if (file.end(*report)) return code;
  return refuse({fs::ExitCode::kFailed,
                 fmt::format("Not all of the report could be written to {}.", file.path()), ""});
}

// Whether a path has a part that leads up: such a path names nothing in a pool.
bool leads_up(const std::string& path) { return ("/" + path + "/").find("/../") != path.npos; }

}  // namespace

void add_extract(CLI::App& app, Action& action) {
  struct Arguments {
    std::vector<std::string> disks;
    std::vector<std::string> only;
    std::string to;
    std::string report;
    bool list = false;
    bool no_search = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* const command = app.add_subcommand(
      "extract", "Copy files out of a pool that is broken, changing nothing on its disks");
  refuse_empty(command->add_option("DISK", arguments->disks, "A disk of the pool, or several")
                   ->type_name("")
                   ->required(),
               "name of a disk");
  refuse_empty(
      command
          ->add_option("--to", arguments->to, "An empty directory elsewhere, or one that is made")
          ->type_name("DIRECTORY"),
      "name of the directory");
  refuse_empty(command
                   ->add_option("--only", arguments->only,
                                "This file or directory of the pool alone; may be repeated")
                   ->type_name("PATH")
                   ->expected(1)
                   ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll),
               "path");
  command->add_flag("--list", arguments->list, "Name what would come out, and copy nothing");
  refuse_empty(command
                   ->add_option("--report", arguments->report,
                                "Write what could not be recovered to this file, as JSON")
                   ->type_name("FILE"),
               "name of the file");
  command->add_flag("--no-search", arguments->no_search, "Use no disks but those that are named");
  command->footer(kExtractFooter);
  command->callback([arguments, &action] {
    action = [arguments] {
      if (arguments->list == !arguments->to.empty()) {
        return refuse({fs::ExitCode::kUsage,
                       arguments->list ? "--list copies nothing, so --to makes no sense with it."
                                       : "Where to is missing.",
                       "Give an empty directory with --to, or --list to see what there is."});
      }
      if (std::ranges::any_of(arguments->only, leads_up)) {
        return refuse({fs::ExitCode::kUsage, "A path in the pool cannot have '..' in it.",
                       "Give it as it is seen from the root of the pool."});
      }
      fs::ExtractRequest request;
      for (const std::string& disk : arguments->disks)
        request.disks.push_back(fs::absolute_path(disk));
      if (!arguments->to.empty()) request.to = fs::absolute_path(arguments->to);
      request.only = arguments->only;
      request.search = !arguments->no_search;
      return extract(request, arguments->report);
    };
  });
}

}  // namespace dynamicfs::tools
