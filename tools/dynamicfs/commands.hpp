// The subcommands of `dynamicfs`: each declares its arguments, and what to do when it is chosen.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>

#include "fs/refusal.hpp"

namespace dynamicfs::tools {

// Set by the chosen subcommand; main runs it once the whole line is understood.
using Action = std::function<fs::ExitCode()>;

void add_check(CLI::App& app, Action& action);
void add_create(CLI::App& app, Action& action);
void add_dump(CLI::App& app, Action& action);
void add_extract(CLI::App& app, Action& action);
void add_mount(CLI::App& app, Action& action);
void add_umount(CLI::App& app, Action& action);
void add_status(CLI::App& app, Action& action);
void add_disk(CLI::App& app, Action& action);
void add_disk_changes(CLI::App& disk, Action& action);  // all of it but `list`
void add_policy(CLI::App& app, Action& action);
void add_scrub(CLI::App& app, Action& action);
void add_sync(CLI::App& app, Action& action);

// `mount.dynamicfs DISK MOUNTPOINT [-sfnv] [-N namespace] [-t type] [-o options]`, as mount(8)
// calls it.
int mount_helper(int argc, char** argv);

// Refuses an empty word for `option`, as a variable that is not set leaves it: "The NAME is empty."
void refuse_empty(CLI::Option* option, const std::string& name);

// What is said of an -o without its word.
inline constexpr const char* kNeedsOptions = "-o needs a list of options, for example -o noatime.";

// Writes to stdout; what cannot be written is remembered for end_output().
void put_out(const std::string& text);
// `code`, or kFailed if not everything could be written, which is said.
fs::ExitCode end_output(fs::ExitCode code);

// Prints the sentence and its remedy to stderr.
fs::ExitCode refuse(const fs::Refusal& refusal);

}  // namespace dynamicfs::tools
