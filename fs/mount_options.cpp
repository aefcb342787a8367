#include "fs/mount_options.hpp"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace dynamicfs::fs {
namespace {

struct KernelFlag {
  std::string_view word;
  unsigned long set = 0;
  unsigned long clear = 0;
};
constexpr KernelFlag kKernelFlags[] = {
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},
    {"nodev", MS_NODEV, 0},
    {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC},
    {"noatime", MS_NOATIME, MS_RELATIME | MS_STRICTATIME},
    {"atime", 0, MS_NOATIME},
    {"relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME},
    {"strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME},
    {"nodiratime", MS_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME},
    {"sync", MS_SYNCHRONOUS, 0},
    {"async", 0, MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC, 0},
};
// For mount(8) and systemd, or already true of every mount we make.
constexpr std::string_view kIgnored[] = {"defaults",
                                         "auto",
                                         "noauto",
                                         "_netdev",
                                         "nofail",
                                         "user",
                                         "nouser",
                                         "users",
                                         "owner",
                                         "group",
                                         "default_permissions"};
constexpr std::string_view kIgnoredPrefixes[] = {"x-", "X-", "comment="};

constexpr int kWorkersMax = 16;
constexpr int kReadersMax = 32;
constexpr int kDepthMin = 2;
constexpr int kDepthMax = 256;
constexpr int kBackgroundPercentMax = 50;
// One write of a megabyte for each of some tasks; and more than anybody has.
constexpr std::uint64_t kMemoryMin = 8 * kMiB;
constexpr std::uint64_t kMemoryMax = 64 * kGiB;
constexpr int kWriteBatchExtentsMax = 256;
constexpr std::uint64_t kWriteBatchBytesMax = 16 * kMiB;
// A month: whoever wants more says 0, never.
constexpr std::int64_t kRebuildMinutesMax = 60 * 24 * 31;
constexpr std::int64_t kScrubDaysMax = 3650;
constexpr int kCommitSecondsMax = 300;
constexpr int kGroupCommitOpsMax = 16384;
constexpr int kGroupCommitMicrosecondsMax = 1'000'000;

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Outcome<std::int64_t> number_between(std::string_view name, std::string_view text, std::int64_t low,
                                     std::int64_t high, std::int64_t usual) {
  const auto value = parse_integer(text);
  if (!value || *value < low || *value > high) {
    return usage(
        fmt::format("The mount option {}={} is not a number from {} to {}.", name, text, low, high),
        fmt::format("Write for example -o {}={}.", name, usual));
  }
  return *value;
}

Outcome<std::uint64_t> size_between(std::string_view name, std::string_view text, std::uint64_t low,
                                    std::uint64_t high, std::uint64_t usual) {
  const auto bytes = parse_size(text);
  if (!bytes || *bytes < low || *bytes > high) {
    return usage(fmt::format("The mount option {}={} is not a size from {} to {}.", name, text,
                             size_text(low), size_text(high)),
                 fmt::format("Write for example -o {}={}M.", name, usual / kMiB));
  }
  return *bytes;
}

Outcome<std::uint64_t> memory_size(std::string_view name, std::string_view text,
                                   std::uint64_t usual) {
  return size_between(name, text, kMemoryMin, kMemoryMax, usual);
}

Outcome<void> parse_word(std::string_view word, MountOptions& options) {
  const MountOptions usual;
  for (const KernelFlag& flag : kKernelFlags) {
    if (word != flag.word) continue;
    options.flags = (options.flags & ~flag.clear) | flag.set;
    return {};
  }
  if (std::ranges::find(kIgnored, word) != std::end(kIgnored)) return {};
  for (const std::string_view prefix : kIgnoredPrefixes) {
    if (word.starts_with(prefix)) return {};
  }
  const std::size_t equals = word.find('=');
  const std::string_view name = word.substr(0, equals);
  const std::string_view value = equals == word.npos ? std::string_view{} : word.substr(equals + 1);
  if (name == "disk") {
    if (value.empty()) {
      return usage("The mount option disk= needs a path.", "Write for example -o disk=/dev/sdb.");
    }
    options.disks.push_back(absolute_path(std::string{value}));
    return {};
  }
  if (name == "alarm") {
    if (value.empty()) {
      return usage("The mount option alarm= needs the path of a program.",
                   "Write for example -o alarm=/usr/local/bin/pool-alarm.");
    }
    options.alarm = absolute_path(std::string{value});
    if (::access(options.alarm.c_str(), X_OK) != 0) {
      return usage(fmt::format("{} of alarm= is no program that can be run: {}.", options.alarm,
                               std::strerror(errno)),
                   "Make it executable: chmod +x.");
    }
    return {};
  }
  if (name == "writeback") {
    if (value != "on" && value != "off") {
      return usage(
          fmt::format("The mount option {} is neither writeback=on nor writeback=off.", word),
          "Write one of the two.");
    }
    options.writeback = value == "on";
    return {};
  }
  if (word == "allow_other") {
    options.allow_other = true;
    return {};
  }
  if (name == "uid" || name == "gid" || name == "umask") {
    return usage(
        fmt::format("The mount option {} makes no sense: files of a pool have owners.", word),
        "Leave it out; chown(1) and chmod(1) change owners and modes.");
  }
  if (word == "acl" || word == "noacl") {
    options.acl = word == "acl";
    return {};
  }
  if (word == "io_uring") {
    options.io_uring = true;
    return {};
  }
  if (name == "order") {
    if (value != "priority" && value != "fifo") {
      return usage(
          fmt::format("The mount option {} is neither order=priority nor order=fifo.", word),
          "Write one of the two.");
    }
    options.queue.fifo = value == "fifo";
    return {};
  }
  if (name == "workers") {
    options.workers_per_disk =
        static_cast<int>(TRY(number_between(name, value, 1, kWorkersMax, usual.workers_per_disk)));
    return {};
  }
  if (name == "depth") {
    options.queue.depth = static_cast<unsigned>(
        TRY(number_between(name, value, kDepthMin, kDepthMax, usual.queue.depth)));
    return {};
  }
  if (name == "background") {
    options.queue.background_percent = static_cast<unsigned>(
        TRY(number_between(name, value, 1, kBackgroundPercentMax, usual.queue.background_percent)));
    options.queue.background_limit_percent =
        std::max(options.queue.background_limit_percent, options.queue.background_percent);
    return {};
  }
  if (name == "background_limit") {
    options.queue.background_limit_percent = static_cast<unsigned>(
        TRY(number_between(name, value, 1, 100, usual.queue.background_limit_percent)));
    options.queue.background_percent =
        std::min(options.queue.background_percent, options.queue.background_limit_percent);
    return {};
  }
  if (name == "write_batch_extents") {
    options.queue.write_batch_extents = static_cast<std::size_t>(
        TRY(number_between(name, value, 1, kWriteBatchExtentsMax,
                           static_cast<std::int64_t>(usual.queue.write_batch_extents))));
    return {};
  }
  if (name == "write_batch_bytes") {
    options.queue.write_batch_bytes = TRY(
        size_between(name, value, kBlockBytes, kWriteBatchBytesMax, usual.queue.write_batch_bytes));
    return {};
  }
  if (name == "write_memory") {
    options.write_memory_bytes = TRY(memory_size(name, value, usual.write_memory_bytes));
    return {};
  }
  if (name == "read_memory") {
    options.read_memory_bytes = TRY(memory_size(name, value, usual.read_memory_bytes));
    return {};
  }
  if (name == "metadata_memory") {
    options.metadata_memory_bytes = TRY(memory_size(name, value, usual.metadata_memory_bytes));
    return {};
  }
  if (name == "readers") {
    options.readers =
        static_cast<unsigned>(TRY(number_between(name, value, 1, kReadersMax, usual.readers)));
    return {};
  }
  if (name == "commit_interval") {
    options.commit_interval = std::chrono::seconds{TRY(number_between(
        name, value, 1, kCommitSecondsMax,
        std::chrono::duration_cast<std::chrono::seconds>(usual.commit_interval).count()))};
    return {};
  }
  if (name == "scrub_every") {
    options.scrub_every =
        std::chrono::hours{24} *
        TRY(number_between(
            name, value, 0, kScrubDaysMax,
            std::chrono::duration_cast<std::chrono::hours>(usual.scrub_every).count() / 24));
    return {};
  }
  if (name == "rebuild_after") {
    options.rebuild_after = std::chrono::minutes{TRY(number_between(
        name, value, 0, kRebuildMinutesMax,
        std::chrono::duration_cast<std::chrono::minutes>(usual.rebuild_after).count()))};
    return {};
  }
  if (name == "group_commit_ops") {
    options.group_commit.ops = static_cast<std::size_t>(TRY(number_between(
        name, value, 1, kGroupCommitOpsMax, static_cast<std::int64_t>(usual.group_commit.ops))));
    return {};
  }
  if (name == "group_commit_wait") {
    options.group_commit.wait = std::chrono::microseconds{
        TRY(number_between(name, value, 0, kGroupCommitMicrosecondsMax, 0))};
    return {};
  }
  return usage(fmt::format("The mount option '{}' is unknown.", word),
               "'dynamicfs mount --help' lists the options there are.");
}

}  // namespace

std::uint64_t usual_write_memory_bytes() {
  struct sysinfo machine {};
  if (::sysinfo(&machine) != 0) return 128 * kMiB;
  std::uint64_t memory = std::uint64_t{machine.totalram} * machine.mem_unit;
  // Of a container, which sees its own group there.
  for (const char* limit :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::uint64_t bytes = 0;
    if (std::ifstream(limit) >> bytes) memory = std::min(memory, bytes);
  }
  return std::clamp(align_down(memory / 16, kMiB), 128 * kMiB, 512 * kMiB);
}

Outcome<void> parse_mount_options(std::string_view text, MountOptions& options) {
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    const std::string_view word = text.substr(0, comma);
    if (!word.empty()) TRY(parse_word(word, options));
    if (comma == text.npos) break;
    text.remove_prefix(comma + 1);
  }
  options.read_only = (options.flags & MS_RDONLY) != 0;
  return {};
}

AtimeRules atime_rules(unsigned long flags) {
  AtimeRules rules;
  if ((flags & MS_RDONLY) != 0)
    return {.files = AtimeRule::kNever, .directories = AtimeRule::kNever};
  if ((flags & MS_STRICTATIME) != 0) rules.files = AtimeRule::kAlways;
  if ((flags & MS_NOATIME) != 0) rules.files = AtimeRule::kNever;
  rules.directories = (flags & MS_NODIRATIME) != 0 ? AtimeRule::kNever : rules.files;
  return rules;
}

bool take_remount(std::vector<std::string>& lists) {
  constexpr std::string_view kShown[] = {
      "user_id=", "group_id=", "rootmode=", "fd=", "subtype=", "max_read="};
  bool remount = false;
  for (std::string& list : lists) {
    std::string kept;
    for (std::size_t at = 0; at < list.size();) {
      const std::size_t end = std::min(list.find(',', at), list.size());
      const std::string_view word = std::string_view{list}.substr(at, end - at);
      at = end + 1;
      if (word == "remount") {
        remount = true;
      } else if (std::ranges::none_of(kShown,
                                      [&](auto shown) { return word.starts_with(shown); })) {
        kept += (kept.empty() ? "" : ",") + std::string{word};
      }
    }
    if (remount) list = kept;
  }
  return remount;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  // "G", "GB" and "GiB" all mean 2^30: a disk that is asked to be smaller than somebody meant does
  // no harm, one that is larger would.
  std::uint64_t unit = 1;
  const auto strip = [&](std::string_view suffix) {
    if (text.size() <= suffix.size() || !text.ends_with(suffix)) return false;
    text.remove_suffix(suffix.size());
    return true;
  };
  if (!strip("iB")) strip("B");
  if (text.empty()) return std::nullopt;
  switch (text.back()) {
    case 'k':
    case 'K': unit = kKiB; break;
    case 'm':
    case 'M': unit = kMiB; break;
    case 'g':
    case 'G': unit = kGiB; break;
    case 't':
    case 'T': unit = kTiB; break;
    default: break;
  }
  if (unit != 1) text.remove_suffix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (!std::isfinite(value) || value <= 0 || value * static_cast<double>(unit) >= 0x1p62)
    return std::nullopt;
  return static_cast<std::uint64_t>(value * static_cast<double>(unit));
}

std::string size_text(std::uint64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0 || value >= 99.95) return fmt::format("{:.0f} {}", value, kUnits[unit]);
  return fmt::format("{:.{}f} {}", value, value >= 9.995 ? 1 : 2, kUnits[unit]);
}

std::string absolute_path(const std::string& path) {
  namespace files = std::filesystem;
  std::error_code error;
  files::path absolute = files::absolute(path, error);
  // "a/.." is not nothing where a is a symbolic link; otherwise links are kept, since
  // /dev/disk/by-id/... is the name that stays true.
  const bool climbs =
      std::ranges::any_of(absolute, [](const files::path& part) { return part == ".."; });
  if (climbs && !error) absolute = files::weakly_canonical(absolute, error);
  std::string text = error ? path : absolute.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

}  // namespace dynamicfs::fs
