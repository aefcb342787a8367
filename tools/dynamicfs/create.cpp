#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "fs/create_pool.hpp"
#include "fs/mount_options.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

constexpr const char* kCreateFooter =
    R"(A DISK is a directory on any file system (one file in it becomes the disk; whatever else is in
there stays), an image file, or a block device. Disks may differ in size.

Examples:
  dynamicfs create /mnt/a /mnt/b /mnt/c            two copies of everything, on any two of three
  dynamicfs create --redundancy single /mnt/a      one disk, no copy
  dynamicfs create --redundancy single --placement file /mnt/a /mnt/b
                                                   no copy, but each file whole on one disk
  dynamicfs create --size 20G a.img b.img          two new image files of 20 GiB
  sudo dynamicfs create /dev/sdb /dev/sdc          whole devices; refused if they hold anything)";

fs::ExitCode create(const fs::CreateRequest& given, const std::string& size) {
  fs::CreateRequest request = given;
  if (!size.empty()) {
    request.size_bytes = fs::parse_size(size);
    if (!request.size_bytes) {
      return refuse({fs::ExitCode::kUsage, fmt::format("'{}' is not a size.", size),
                     "Write for example 500M, 20G or 1.5T (units of 1024)."});
    }
  }
  auto created = fs::create_pool(request);
  if (!created) return refuse(created.error());
  for (const std::string& warning : created->warnings)
    fmt::print(stderr, "dynamicfs: warning: {}\n", warning);
  fmt::print("Pool {} is ready: {}, {} for your files.\n",
             request.label.empty() ? created->pool.text()
                                   : fmt::format("{} ({})", request.label, created->pool.text()),
             created->policy.text(), fs::size_text(created->usable_bytes));
  std::size_t width = 0;
  for (const auto& disk : created->disks) width = std::max(width, disk.path.size());
  for (std::size_t i = 0; i < created->disks.size(); ++i) {
    const auto& disk = created->disks[i];
    fmt::print("  disk {}  {:<{}}  {}, {}\n", i, disk.path, width, disk.kind,
               fs::size_text(disk.size_bytes));
  }
  fmt::print("Mount it with\n  sudo dynamicfs mount {} MOUNTPOINT\n", created->disks.front().path);
  return fs::ExitCode::kOk;
}

}  // namespace

void add_create(CLI::App& app, Action& action) {
  struct Arguments {
    fs::CreateRequest request;
    std::string size;
  };
  const auto arguments = std::make_shared<Arguments>();
  fs::CreateRequest& request = arguments->request;
  CLI::App* const command = app.add_subcommand("create", "Make a new pool of disks");
  refuse_empty(
      command->add_option("DISK", request.disks, "Directories, image files or block devices")
          ->type_name("")
          ->required(),
      "name of a disk");
  refuse_empty(
      command->add_option(
          "--redundancy", request.redundancy,
          "single, replica:N for N copies on N disks, or ec:K+M for M parts of parity to K of data "
          "(default: replica:2 from two disks on)"),
      "redundancy");
  refuse_empty(command->add_option(
                   "--placement", request.placement,
                   "With single: spread (over all disks, the default), or file (each file whole on "
                   "one disk, so that a lost disk takes its own files alone)"),
               "placement");
  refuse_empty(
      command->add_option(
          "--size", arguments->size,
          "Size of each directory's disk or new image file (default: 90 % of what is free there)"),
      "size");
  command->add_option("--label", request.label, "A name for people, at most 64 bytes");
  command->add_flag("--force", request.force, "Erase what the disks hold, be it another pool");
  command->footer(kCreateFooter);
  command->callback([arguments, &action] {
    action = [arguments] { return create(arguments->request, arguments->size); };
  });
}

}  // namespace dynamicfs::tools
