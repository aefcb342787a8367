#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "fs/control.hpp"
#include "fs/disk_search.hpp"
#include "fs/mount_options.hpp"
#include "fs/mounted_pool.hpp"
#include "fs/rebuild_screen.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

using fs::ExitCode;

constexpr const char* kDiskChangesFooter =
    R"(DISK is a directory, an image file or a block device for 'add', and the number or the path of a disk,
as 'dynamicfs status' shows them, for the others.

What has to be copied is copied in the background, gives way to everything else, and goes on by itself after
a crash or an unmount; 'dynamicfs disk status' shows how far it is. A disk that is removed may be taken
away when it is not in 'dynamicfs status' any more.)";

// The daemon lets go of a disk as soon as it has seen that it failed.
constexpr Duration kLockPatience = std::chrono::seconds{3};

struct Words {
  std::string mountpoint;
  std::string disk;
  std::string next;
  std::string size;
  bool force = false;
  bool spare = false;
  bool json = false;
};

fs::Outcome<fs::Json> ask_of(const Words& words, const fs::Json& request) {
  const fs::MountedPool pool = TRY(fs::find_mounted_pool(words.mountpoint));
  auto client = TRY(fs::ControlClient::connect(pool.daemon.socket));
  return client.ask_with(request);
}

// As the daemon knows it: a number, or a path that is absolute.
std::string named(const std::string& disk) {
  const bool number = !disk.empty() && disk.find_first_not_of("0123456789") == std::string::npos;
  return number ? disk : fs::absolute_path(disk);
}

ExitCode order_of(const Words& words, const fs::Json& request) {
  const auto answer = ask_of(words, request);
  return answer ? ExitCode::kOk : refuse(answer.error());
}

fs::Outcome<std::string> ask_to_add(const Words& words, const std::string& path) {
  fs::Json request{{"command", "disk_add"},
                   {"path", fs::absolute_path(path)},
                   {"force", words.force},
                   {"spare", words.spare}};
  if (!words.size.empty()) {
    const auto size = fs::parse_size(words.size);
    if (!size) {
      return fs::usage(fmt::format("{} is no size.", words.size), "Say it like this: --size 500G");
    }
    request["size"] = *size;
  }
  fs::Json answer = TRY(ask_of(words, request));
  if (words.spare && !answer.value("spare", false)) {
    fmt::print(stderr,
               "dynamicfs: the pool was mounted by an older dynamicfs, which knows no spares: it "
               "is a disk like the others.\n");
  }
  return fmt::format("{}", answer.value("disk", 0));
}

ExitCode add_new(const Words& words) {
  auto added = ask_to_add(words, words.disk);
  if (!added) return refuse(added.error());
  if (words.spare) {
    fmt::print(
        "{} is disk {} of the pool, a spare: it takes the place of the next disk that is lost.\n",
        words.disk, *added);
    return ExitCode::kOk;
  }
  fmt::print(
      "{} is disk {} of the pool.\nWhat is there already stays where it is; to spread it: "
      "dynamicfs disk "
      "rebalance {}\n",
      words.disk, *added, words.mountpoint);
  return ExitCode::kOk;
}

ExitCode remove_one(const Words& words) {
  const auto answer = ask_of(words, {{"command", "disk_remove"}, {"disk", named(words.disk)}});
  if (!answer) return refuse(answer.error());
  fmt::print(
      "What is on disk {} goes to the others now. How far that is: dynamicfs disk status {}\n",
      words.disk, words.mountpoint);
  return ExitCode::kOk;
}

ExitCode bring_online(const Words& words) {
  // Where it is now, or was last.
  std::string path = words.next;
  if (path.empty()) {
    auto answer = ask_of(words, {{"command", "status"}});
    if (!answer) return refuse(answer.error());
    const std::string disk = named(words.disk);
    path = disk;
    const fs::Json status = answer->value("status", fs::Json::object());
    for (const fs::Json& one : status.value("disks", fs::Json::array())) {
      const bool is_it =
          fmt::format("{}", one.value("id", -1)) == disk || one.value("path", "") == disk;
      if (!is_it) continue;
      path = one.value("path", "");
      const std::string state = one.value("state", "");
      if (state != "missing" && state != "failed" && state != "offline") {
        return refuse(fs::usage(
            fmt::format("{} is disk {}, which is here already.", path, one.value("id", 0)),
            "'dynamicfs status' shows which are not."));
      }
    }
  }
  path = fs::absolute_path(path);
  // Here, and not in the daemon: what does not answer keeps whoever opens it.
  const auto executor = make_thread_executor();
  auto probed = fs::probe_disk(*executor, path, kLockPatience);
  if (!probed) return refuse(probed.error());
  const std::string found = fmt::format("{}", probed->superblock.this_disk);
  if (words.disk != found && words.disk.find_first_not_of("0123456789") == std::string::npos) {
    return refuse(fs::usage(fmt::format("{} is disk {}, not disk {}.", path, found, words.disk),
                            "'dynamicfs status' shows their numbers."));
  }
  auto answer = ask_of(words, {{"command", "disk_online"}, {"path", path}});
  if (!answer) return refuse(answer.error());
  fmt::print("Disk {} is here again. What it has missed it gets by itself: dynamicfs status {}\n",
             answer->value("disk", 0), words.mountpoint);
  return ExitCode::kOk;
}

ExitCode replace_one(const Words& words) {
  auto added = ask_to_add(words, words.next);
  if (!added) return refuse(added.error());
  fmt::print("{} is disk {} of the pool.\n", words.next, *added);
  return remove_one(words);
}

ExitCode show_moves(const Words& words) {
  const fs::Json request{{"command", "status"}};
  auto answer = ask_of(words, request);
  if (!answer) return refuse(answer.error());
  const fs::Json rebuild =
      answer.value().value("status", fs::Json::object()).value("rebuild", fs::Json::object());
  if (words.json) {
    fmt::print("{}\n", rebuild.dump(2));
  } else {
    fmt::print("{}", fs::rebuild_screen(rebuild));
  }
  return fs::rebuild_exit_code(rebuild);
}

}  // namespace

void add_disk_changes(CLI::App& disk, Action& action) {
  const auto words = std::make_shared<Words>();
  disk.footer(kDiskChangesFooter);
  const auto make = [&](const char* name, const char* what, ExitCode (*run)(const Words&)) {
    CLI::App* const command = disk.add_subcommand(name, what);
    refuse_empty(command->add_option("MOUNTPOINT", words->mountpoint, "Where the pool is mounted")
                     ->type_name("")
                     ->required(),
                 "mountpoint");
    command->callback([words, run, &action] { action = [words, run] { return run(*words); }; });
    return command;
  };
  const auto with_disk = [&](CLI::App* command, const char* name, std::string& word,
                             const char* what) {
    refuse_empty(command->add_option(name, word, what)->type_name("")->required(), "disk");
  };
  const auto with_size = [&](CLI::App* command) {
    command
        ->add_option("--size", words->size, "Of a directory or a new image file: how much to use")
        ->type_name("SIZE");
    command->add_flag("--force", words->force, "Erase what is on it");
  };
  CLI::App* const add = make("add", "Make a disk part of the pool", &add_new);
  with_disk(add, "DISK", words->disk, "The new disk");
  with_size(add);
  add->add_flag("--spare", words->spare, "Put nothing on it before another disk is lost");
  CLI::App* const remove = make(
      "remove", "Move what is on a disk to the others, then let it go; also of one that is away",
      &remove_one);
  with_disk(remove, "DISK", words->disk, "Its number or path");
  CLI::App* const replace = make("replace", "Add one disk and remove another", &replace_one);
  with_disk(replace, "DISK", words->disk, "The old one: its number or path");
  with_disk(replace, "NEW", words->next, "The new disk");
  with_size(replace);
  CLI::App* const keep =
      make("keep", "Call a removal off, or put a spare to use", [](const Words& given) {
        return order_of(given, {{"command", "disk_keep"}, {"disk", named(given.disk)}});
      });
  with_disk(keep, "DISK", words->disk, "Its number or path");
  CLI::App* const offline = make(
      "offline", "Let go of a disk for a while, if the others suffice", [](const Words& given) {
        return order_of(given, {{"command", "disk_offline"}, {"disk", named(given.disk)}});
      });
  with_disk(offline, "DISK", words->disk, "Its number or path");
  CLI::App* const online =
      make("online", "Take a disk back that is offline, missing or failed", &bring_online);
  with_disk(online, "DISK", words->disk, "Its number or path");
  online->add_option("PATH", words->next, "Where it is now, if it has moved")->type_name("");
  CLI::App* const rebalance =
      make("rebalance", "Move data from fuller disks to emptier ones", [](const Words& given) {
        return order_of(given, {{"command", given.force ? "rebalance_stop" : "rebalance_start"}});
      });
  rebalance->add_flag("--stop", words->force, "Leave it as it is now");
  make("pause", "Copy nothing for now, until 'resume' or the next mount", [](const Words& given) {
    return order_of(given, {{"command", "rebuild_pause"}});
  });
  make("resume", "Go on after a pause", [](const Words& given) {
    return order_of(given, {{"command", "rebuild_resume"}});
  });
  CLI::App* const status =
      make("status", "Show what is being copied, and how far that is", &show_moves);
  status->add_flag("--json", words->json, "Everything, for programs");
  status->footer(
      "Exit code: 0 nothing is to be copied; 1 something still is, or a disk is to leave and "
      "cannot; 15 nothing is mounted.");
}

}  // namespace dynamicfs::tools
