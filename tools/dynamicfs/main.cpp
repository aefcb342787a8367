// dynamicfs: make, mount and look at pools of disks. See dynamicfs(8).

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "fs/status.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

constexpr const char* kDescription =
    "One directory tree over several disks, checksummed, with the redundancy you choose.";

constexpr const char* kMainFooter = R"(Examples:
  dynamicfs create /mnt/a /mnt/b /mnt/c      a pool of three directories, two copies of everything
  dynamicfs create --size 20G disk1.img      a pool in one image file
  sudo dynamicfs mount /mnt/a /srv/pool      one disk is enough, it knows the others
  sudo dynamicfs status                      every mounted pool, its space, its disks, its problems
  sudo dynamicfs disk list                   how each disk is doing: queues, latencies, errors
  sudo dynamicfs scrub start /srv/pool       verify everything, repair what is bad
  sudo dynamicfs umount /srv/pool            returns when everything is on the disks
  sudo dynamicfs check /mnt/a                verify a pool that is not mounted
  sudo dynamicfs extract --to /srv/out /mnt/a
                                             copy out what is left of a pool that is broken

Exit codes:
   0 done, healthy             4 wrong usage               10 pool is mounted already
   1 degraded, copies missing  5 not a dynamicfs disk      11 mountpoint cannot be used
   2 data at risk or damaged   6 disk is in a pool         12 FUSE is not available
   3 failed otherwise          7 a disk is missing         13 no permission
                               8 too few disks             14 written by another version
                               9 disks mounted apart       15 not mounted

'dynamicfs COMMAND --help' tells more about each; dynamicfs(8) tells all.)";

constexpr const char* kUsageRemedy = "'dynamicfs --help' shows how it is used.";

// What an option needs that stands at the end of the line, in more words than CLI11 has.
constexpr std::pair<std::string_view, std::string_view> kNeeds[] = {
    {"-o", kNeedsOptions},
    {"--redundancy", "--redundancy needs a value, for example --redundancy replica:2."},
    {"--size", "--size needs a value, for example --size 20G."},
    {"--label", "--label needs a value, for example --label photos."},
    {"--watch", "--watch needs seconds or nothing, for example --watch 2."},
    {"--to", "--to needs a directory, for example --to /srv/rescued."},
    {"--only", "--only needs a path in the pool, for example --only photos/2024."},
    {"--report", "--report needs the name of a file, for example --report lost.json."},
    {"--count", "--count needs a number, for example --count 10."},
};

std::string sentence_for(const CLI::ParseError& error) {
  const std::string_view what = error.what();  // "--size: 1 required TEXT missing"
  for (const auto& [option, needs] : kNeeds) {
    if (error.get_name() == "ArgumentMismatch" && what.substr(0, what.find(':')) == option)
      return std::string{needs};
  }
  return fmt::format("{}.", what);
}

// CLI11 would take the next word as the value of "--size=", be it a disk or another option.
std::string_view what_an_empty_value_needs(int argc, char** argv) {
  for (int i = 1; i < argc && std::string_view{argv[i]} != "--"; ++i) {
    for (const auto& [option, needs] : kNeeds) {
      if (argv[i] == std::string{option} + "=") return needs;
    }
  }
  return {};
}

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == path.npos ? path : path.substr(slash + 1);
}

int run(int argc, char** argv) {
  if (argc > 0 &&
      (base_name(argv[0]) == "mount.dynamicfs" || base_name(argv[0]) == "mount.fuse.dynamicfs")) {
    return mount_helper(argc, argv);
  }
  CLI::App app{kDescription, "dynamicfs"};
  app.footer(kMainFooter);
  app.set_version_flag("--version", std::string{"dynamicfs "} + fs::kProgramVersion);
  // Not required here: that complaint would come first, and hide the word that is wrong.
  app.require_subcommand(0, 1);
  app.get_formatter()->column_width(28);
  Action action;
  add_create(app, action);
  add_mount(app, action);
  add_umount(app, action);
  add_status(app, action);
  add_disk(app, action);
  add_policy(app, action);
  add_scrub(app, action);
  add_sync(app, action);
  add_check(app, action);
  add_dump(app, action);
  add_extract(app, action);
  if (const auto needs = what_an_empty_value_needs(argc, argv); !needs.empty()) {
    return static_cast<int>(refuse({fs::ExitCode::kUsage, std::string{needs}, kUsageRemedy}));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version come this way too, with code 0.
    if (error.get_exit_code() == 0) return app.exit(error);
    return static_cast<int>(refuse({fs::ExitCode::kUsage, sentence_for(error), kUsageRemedy}));
  }
  if (!action) {
    return static_cast<int>(refuse({fs::ExitCode::kUsage, "A command is missing.", kUsageRemedy}));
  }
  return static_cast<int>(action());
}

}  // namespace

void refuse_empty(CLI::Option* option, const std::string& name) {
  option->each([name](const std::string& word) {
    if (!word.empty()) return;
    throw CLI::ParseError(fmt::format("The {} is empty", name), CLI::ExitCodes::InvalidError);
  });
}

void put_out(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

fs::ExitCode end_output(fs::ExitCode code) {
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0) return code;
  return refuse({fs::ExitCode::kFailed,
                 errno == 0
                     ? "Not everything could be written."
                     : fmt::format("Not everything could be written: {}.", std::strerror(errno)),
                 ""});
}

fs::ExitCode refuse(const fs::Refusal& refusal) {
  fmt::print(stderr, "dynamicfs: {}\n", refusal.what);
  if (!refusal.remedy.empty()) fmt::print(stderr, "           {}\n", refusal.remedy);
  return refusal.code;
}

}  // namespace dynamicfs::tools

int main(int argc, char** argv) {
  try {
    return dynamicfs::tools::run(argc, argv);
  } catch (const std::exception& error) {
    // Of a library, and unforeseen; ours are values.
    fmt::print(stderr, "dynamicfs: unexpected: {}\n", error.what());
    return static_cast<int>(dynamicfs::fs::ExitCode::kFailed);
  }
}
