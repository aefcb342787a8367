#include <memory>
#include <string>
#include <vector>

#include "fs/daemon.hpp"
#include "fs/mount_options.hpp"
#include "fs/mounted_pool.hpp"
#include "tools/dynamicfs/commands.hpp"

namespace dynamicfs::tools {
namespace {

constexpr const char* kMountFooter = R"(Options for -o, separated by commas:
  ro                    change nothing, not even to recover
  nosuid nodev noexec noatime nodiratime sync ...   as for every mount
  remount               change those of the line above, and ro, of a pool that is mounted
  allow_other           others than who mounts may use the tree (for root that is always so)
  disk=PATH             where a disk of the pool is now, if it has moved (may be repeated)
  writeback=on|off      keep buffered writes in the page cache (on), or hand them over at once
  acl|noacl             access control lists are enforced and inherited, or cannot be set (noacl)
  commit_interval=N     what was written without fsync is durable after N seconds (5)
  alarm=PROGRAM         is run when the state of the pool or of a disk changes
  scrub_every=N         everything is verified every N days by itself (30; 0: never)
  rebuild_after=N       what a disk had that is away for N minutes is made anew on others (10; 0: never)
  group_commit_wait=N   an fsync waits N microseconds for others to share its trip (0)
  group_commit_ops=N    ... but not for more than N of them (64)
  workers=N             I/O threads per disk (2)
  depth=N               requests at each disk at once, at most (64)
  order=priority|fifo   who is served first at a disk; fifo is for measurements
  background=N          a scrub gets at least N percent of what a busy disk does (5)
  background_limit=N    ... and beyond that at most N percent of its time (20)
  write_batch_extents=N small writes that wait side by side at a disk become one of at most N (10)
  write_batch_bytes=SIZE  ... and of so many bytes (1M)
  write_memory=SIZE     of writes that wait; beyond that programs do (a sixteenth, up to 512M)
  read_memory=SIZE      of reads under way; beyond that they wait (256M)
  metadata_memory=SIZE  metadata in memory; beyond that what is not in use leaves it (256M)
  readers=N             threads that take requests from the kernel (2)
  io_uring              requests come through io_uring if the kernel offers that (Linux 6.14)

Examples:
  sudo dynamicfs mount /mnt/a /srv/pool
  sudo dynamicfs mount /dev/sdb /srv/pool -o disk=/dev/sdd,noatime
  dynamicfs mount disk.img ~/pool       for anybody, with fusermount3
In /etc/fstab:
  /mnt/a  /srv/pool  dynamicfs  defaults,nofail  0  0)";

fs::ExitCode mount(const std::string& disk, const std::string& mountpoint,
                   const std::vector<std::string>& words, bool foreground) {
  std::vector<std::string> lists = words;
  const bool remounts = fs::take_remount(lists);
  fs::MountRequest request{
      .disk = disk, .mountpoint = mountpoint, .options = {}, .foreground = foreground};
  if (disk.empty() || mountpoint.empty()) {
    return refuse({fs::ExitCode::kUsage,
                   disk.empty() ? "The name of the disk is empty." : "The mountpoint is empty.",
                   "A disk and a mountpoint are needed."});
  }
  for (const std::string& word : lists) {
    if (const auto parsed = fs::parse_mount_options(word, request.options); !parsed) {
      return refuse(parsed.error());
    }
  }
  if (remounts) {
    const auto remounted = fs::remount_pool(mountpoint, request.options);
    return remounted ? fs::ExitCode::kOk : refuse(remounted.error());
  }
  const auto mounted = fs::mount_pool(request);
  return mounted ? fs::ExitCode::kOk : refuse(mounted.error());
}

}  // namespace

void add_mount(CLI::App& app, Action& action) {
  struct Arguments {
    std::string disk, mountpoint, options;
    bool foreground = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* const command =
      app.add_subcommand("mount", "Mount a pool; returns when the tree can be used");
  command
      ->add_option("DISK", arguments->disk, "Any disk of the pool: directory, image file or device")
      ->type_name("")
      ->required();
  command->add_option("MOUNTPOINT", arguments->mountpoint, "An empty directory")
      ->type_name("")
      ->required();
  command->add_option("-o", arguments->options, "Mount options, see below")
      ->type_name("OPTIONS")
      ->join(',');
  command->add_flag("-f,--foreground", arguments->foreground,
                    "Stay in the foreground and log to stderr");
  command->footer(kMountFooter);
  command->callback([arguments, &action] {
    action = [arguments] {
      return mount(arguments->disk, arguments->mountpoint, {arguments->options},
                   arguments->foreground);
    };
  });
}

int mount_helper(int argc, char** argv) {
  std::vector<std::string> places;
  std::vector<std::string> options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool has_next = i + 1 < argc;
    if (word == "-o" && has_next) {
      options.emplace_back(argv[++i]);
    } else if (word == "-o") {
      return static_cast<int>(refuse({fs::ExitCode::kUsage, kNeedsOptions, ""}));
    } else if ((word == "-t" || word == "-N") && has_next) {
      ++i;  // the type is ours, and the namespace is the one we were called in
    } else if (word == "-s" || word == "-n" || word == "-v") {
      // Sloppy, no mtab, verbose: nothing to do differently.
    } else if (word == "-f") {
      return 0;  // a rehearsal
    } else if (word.starts_with("-o") && word.size() > 2) {
      options.push_back(word.substr(2));
    } else if (!word.starts_with("-")) {
      places.push_back(word);
    } else {
      return static_cast<int>(
          refuse({fs::ExitCode::kUsage, "The flag " + word + " is unknown.", ""}));
    }
  }
  if (places.size() != 2) {
    return static_cast<int>(refuse({fs::ExitCode::kUsage, "A disk and a mountpoint are needed.",
                                    "mount.dynamicfs DISK MOUNTPOINT [-o OPTIONS]"}));
  }
  return static_cast<int>(mount(places[0], places[1], options, false));
}

}  // namespace dynamicfs::tools
