#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/mounted_pool.hpp"
#include "fs/status_screen.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

using fs::ExitCode;
using journal::Policy;

constexpr const char* kPolicyFooter =
    R"(POLICY is single, replica:N (N copies on different disks), ec:K+M (K parts of data and M of parity),
single,placement=file (each file whole on one disk: a lost disk takes no file but its own), or default: as the
pool has it.

What is made in a directory gets its policy. 'set' is for everything that is there, too, unless --only is
said; on the mountpoint it is the pool's, of all files that have none of their own. Data is written anew in the
background, gives way to everything else, and goes on by itself after a crash: 'dynamicfs status' shows
how far that is. It is an extended attribute, user.dynamicfs.policy: setfattr, rsync -X and tar --xattrs
know it.)";

struct Words {
  std::string policy;
  std::vector<std::string> paths;
  bool only = false;
  bool json = false;
};

fs::Refusal cannot(const std::string& path, const char* what, int why) {
  switch (why) {
    case ENOENT: return {ExitCode::kFailed, fmt::format("There is no {}.", path), ""};
    case EPERM:
    case EACCES:
      return {ExitCode::kPermission,
              fmt::format("{} of {} may not be {} by you.", "The policy", path, what),
              "Ask whoever owns it, or root."};
    case EROFS:
      return {ExitCode::kFailed, fmt::format("{} is on a pool that is read-only.", path),
              "'dynamicfs status' says why."};
    default:
      return {ExitCode::kFailed,
              fmt::format("The policy of {} cannot be {}: {}.", path, what, std::strerror(why)),
              ""};
  }
}

// Nothing: it has none of its own.
fs::Outcome<std::optional<std::string>> own_policy(const std::string& path) {
  char value[64];
  const std::string name{fs::kPolicyXattr};
  const ssize_t size = ::lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
  if (size >= 0) return std::optional{std::string{value, static_cast<std::size_t>(size)}};
  // A symlink, say, has no such attributes.
  if (errno == ENODATA || errno == EPERM || errno == ENOTSUP) return std::optional<std::string>{};
  return cannot(path, "read", errno);
}

fs::Outcome<fs::MountedPool> pool_of(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return cannot(path, "read", errno);
  auto found = fs::find_mounted_pool(path);
  return found;
}

bool is_mountpoint(const std::string& path, const fs::MountedPool& pool) {
  // A bind mount of a directory is none.
  struct stat info {};
  std::error_code ignored;
  return ::lstat(path.c_str(), &info) == 0 && info.st_ino == kRootInode.raw &&
         std::filesystem::equivalent(path, pool.mount.mountpoint, ignored);
}

fs::Outcome<fs::Json> show_one(const std::string& path) {
  const fs::MountedPool pool = TRY(pool_of(path));
  auto client = TRY(fs::ControlClient::connect(pool.daemon.socket));
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return cannot(path, "read", errno);
  fs::Json answer = TRY(client.ask_with({{"command", "policy_get"}, {"inode", info.st_ino}}));
  fs::Json shown = answer.value("policy", fs::Json::object());
  shown["path"] = path;
  return shown;
}

// Somebody who may not ask the daemon sees what the attribute says.
fs::Outcome<fs::Json> show_own(const std::string& path) {
  const std::optional<std::string> own = TRY(own_policy(path));
  return fs::Json{{"path", path}, {"policy", own.value_or("default")}, {"own", own.has_value()}};
}

ExitCode get(const Words& words) {
  ExitCode code = ExitCode::kOk;
  fs::Json all = fs::Json::array();
  for (const std::string& path : words.paths) {
    auto shown = show_one(path);
    if (!shown && shown.error().code == ExitCode::kPermission) shown = show_own(path);
    if (!shown) {
      code = refuse(shown.error());
      continue;
    }
    if (words.json) {
      all.push_back(*shown);
      continue;
    }
    std::string line = fmt::format("{:<11} {}", shown->value("policy", ""), path);
    if (!shown->value("own", false)) line += " (as the pool has it)";
    std::string otherwise;
    for (const fs::Json& layout : shown->value("layouts", fs::Json::array())) {
      if (!layout.value("as_asked", true))
        otherwise += fmt::format("{}{} still {}", otherwise.empty() ? "" : ", ",
                                 fs::size_text(layout.value("bytes", std::uint64_t{0})),
                                 layout.value("policy", ""));
    }
    if (!otherwise.empty()) line += ": " + otherwise;
    std::string where;
    const fs::Json disks = shown->value("disks", fs::Json::array());
    for (const fs::Json& disk : disks) {
      const auto id = disk.value("disk", 0);
      where += fmt::format("{}{}{}", where.empty() ? "" : ", ", id,
                           disk.value("here", true) ? "" : " (away)");
    }
    if (!where.empty()) line += fmt::format(": on disk{} {}", disks.size() == 1 ? "" : "s", where);
    put_out(line + "\n");
  }
  if (words.json) put_out(all.dump(2, ' ', false, fs::Json::error_handler_t::replace) + "\n");
  return end_output(code);
}

fs::Refusal too_few(const std::string& policy, const std::string& path) {
  const std::optional<Policy> known = Policy::parse(policy);
  return {ExitCode::kTooFewDisks,
          fmt::format("{} takes {} disks, and the pool of {} has fewer that stay.", policy,
                      known ? known->width() : 0, path),
          "Add some with 'dynamicfs disk add', or choose another policy."};
}

// Whether anything has changed.
fs::Outcome<bool> set_one(const std::string& path, const std::string& policy) {
  const std::string name{fs::kPolicyXattr};
  if (policy == "default") {
    if (::lremovexattr(path.c_str(), name.c_str()) == 0) return true;
    if (errno == ENODATA) return false;
  } else {
    // Each change says that there may be something to encode anew: none is made without need.
    auto own = own_policy(path);
    if (own && own.value() == policy) return false;
    if (::lsetxattr(path.c_str(), name.c_str(), policy.data(), policy.size(), 0) == 0) return true;
    if (errno == EINVAL) return too_few(policy, path);
  }
  return cannot(path, "set", errno);
}

// What has been recorded up to the policy of `path` is on disk then: records are in order. If nothing has changed
// now, an interrupted command may have changed it before.
fs::Outcome<void> make_durable(const std::string& path, fs::Outcome<fs::MountedPool>& pool) {
  if (path.empty()) return pool ? fs::sync_pool(pool.value()) : fs::Outcome<void>{};
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)};
  // Who may not open it has its policy in some seconds.
  if (!fd && errno == EACCES) return {};
  if (!fd || ::fsync(fd.get()) != 0) return cannot(path, "written", errno);
  return {};
}

struct Tally {
  std::string last;  // that has changed
  std::uint64_t done = 0;
  std::uint64_t failed = 0;
};

// Whatever is below a directory of the same pool, and it.
fs::Outcome<void> set_below(const std::string& root, const std::string& policy, Tally* tally) {
  namespace stdfs = std::filesystem;
  std::error_code error;
  struct stat top {};
  if (::lstat(root.c_str(), &top) != 0) return cannot(root, "set", errno);
  // First, so that what is made meanwhile has it.
  if (TRY(set_one(root, policy))) tally->last = root;
  ++tally->done;
  if (!S_ISDIR(top.st_mode)) return {};
  stdfs::recursive_directory_iterator at{root, stdfs::directory_options::skip_permission_denied,
                                         error};
  const stdfs::recursive_directory_iterator end;
  while (!error && at != end) {
    const std::string path = at->path().string();
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
      // It has gone meanwhile.
    } else if (info.st_dev != top.st_dev) {
      at.disable_recursion_pending();  // something else is mounted there
    } else if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) {
      if (auto set = set_one(path, policy)) {
        ++tally->done;
        if (*set) tally->last = path;
      } else if (::lstat(path.c_str(), &info) == 0) {
        if (tally->failed++ == 0) refuse(set.error());
      }
      if (S_ISDIR(info.st_mode) && ::access(path.c_str(), R_OK | X_OK) != 0) {
        if (tally->failed++ == 0) refuse(cannot(path, "looked into", errno));
      }
    }
    at.increment(error);
  }
  if (error) return cannot(root, "set everywhere", error.value());
  return {};
}

ExitCode set_of_pool(const fs::MountedPool& pool, const Words& words) {
  if (words.policy == "default") {
    return refuse({ExitCode::kUsage, "The pool itself has to have a policy.",
                   "Say which: single, replica:N, ec:K+M or single,placement=file."});
  }
  auto client = fs::ControlClient::connect(pool.daemon.socket);
  if (!client) return refuse(client.error());
  const auto answer = client->ask_with({{"command", "policy_set"}, {"policy", words.policy}});
  if (!answer) return refuse(answer.error());
  put_out(fmt::format(
      "The pool is {} now. What there is without a policy of its own is written anew in the "
      "background: dynamicfs status {}\n",
      words.policy, pool.mount.mountpoint));
  return ExitCode::kOk;
}

ExitCode set_on(const std::string& path, const Words& words) {
  auto pool = pool_of(path);
  // Somebody who may not ask the daemon may have a policy for their files all the same.
  if (!pool && pool.error().code != ExitCode::kPermission) return refuse(pool.error());
  if (pool && is_mountpoint(path, *pool)) return set_of_pool(*pool, words);
  Tally tally;
  if (words.only) {
    auto set = set_one(path, words.policy);
    if (!set) return refuse(set.error());
    if (*set) tally.last = path;
  } else if (const auto set = set_below(path, words.policy, &tally); !set) {
    return refuse(set.error());
  }
  if (const auto durable = make_durable(tally.last, pool); !durable) return refuse(durable.error());
  if (words.only) return ExitCode::kOk;
  if (tally.done == 1) {
    put_out(fmt::format("{} is {} now.\n", path, words.policy));
  } else {
    put_out(
        fmt::format("{}: {} files and directories are {} now.\n", path, tally.done, words.policy));
  }
  if (tally.failed == 0) return ExitCode::kOk;
  return refuse({ExitCode::kFailed, fmt::format("{} could not be changed.", tally.failed),
                 "Call it again when the cause is gone: what has it already is left alone."});
}

ExitCode set(const Words& words) {
  if (words.policy != "default" && !Policy::parse(words.policy)) {
    return refuse({ExitCode::kUsage, fmt::format("{} is no policy.", words.policy),
                   "Say single, replica:N, ec:K+M, single,placement=file or default."});
  }
  ExitCode code = ExitCode::kOk;
  for (const std::string& path : words.paths) {
    const ExitCode one = set_on(path, words);
    if (one != ExitCode::kOk) code = one;
  }
  return end_output(code);
}

}  // namespace

void add_policy(CLI::App& app, Action& action) {
  const auto words = std::make_shared<Words>();
  CLI::App* const policy =
      app.add_subcommand("policy", "Show or change how files and directories are protected");
  policy->require_subcommand(1);
  policy->footer(kPolicyFooter);
  const auto with_paths = [&](CLI::App* command) {
    refuse_empty(command->add_option("PATH", words->paths, "Files or directories of mounted pools")
                     ->type_name("")
                     ->required(),
                 "path");
  };
  CLI::App* const show = policy->add_subcommand("get", "Show the policy of files and directories");
  with_paths(show);
  show->add_flag("--json", words->json, "Everything, for programs");
  show->callback([words, &action] { action = [words] { return get(*words); }; });
  CLI::App* const change = policy->add_subcommand("set", "Change it, of what is below, too");
  refuse_empty(change
                   ->add_option("POLICY", words->policy,
                                "single, replica:N, ec:K+M, single,placement=file or default")
                   ->type_name("")
                   ->required(),
               "policy");
  with_paths(change);
  change->add_flag("--only", words->only,
                   "Of a directory: only for what is made in it from now on");
  change->callback([words, &action] { action = [words] { return set(*words); }; });
  for (CLI::App* const one : {show, change}) one->footer(kPolicyFooter);
}

}  // namespace dynamicfs::tools
