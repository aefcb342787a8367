#include "fs/disk_search.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "fs/control.hpp"
#include "journal/pool.hpp"

namespace dynamicfs::fs {
namespace {

constexpr Duration kLockPatience{std::chrono::seconds{10}};

bool same_file(const std::string& a, const std::string& b) {
  struct stat of_a {
  }, of_b{};
  if (::stat(a.c_str(), &of_a) != 0 || ::stat(b.c_str(), &of_b) != 0) return false;
  if (S_ISBLK(of_a.st_mode) && S_ISBLK(of_b.st_mode)) return of_a.st_rdev == of_b.st_rdev;
  return of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

Refusal refuse_open(const std::string& path, const Error& error) {
  switch (error.sys_errno) {
    case ENOENT:
    case ENOTDIR:
      return {ExitCode::kDiskMissing, fmt::format("There is no {}.", path),
              "Connect the disk, or name another disk of the pool."};
    case EACCES:
    case EPERM:
      return {ExitCode::kPermission, fmt::format("You may not open {}.", path),
              "Run it with sudo."};
    case EROFS:
      return {ExitCode::kPermission, fmt::format("{} is read-only.", path),
              "Mount with -o ro to look at what is on it."};
    default:
      return {ExitCode::kFailed, fmt::format("{} cannot be opened: {}.", path, describe(error)),
              ""};
  }
}

Refusal refuse_superblock(const std::string& path, const Error& error) {
  switch (error.code) {
    case Code::kFormatMagic:
      return {
          ExitCode::kNotADisk, fmt::format("{} is not a dynamicfs disk.", path),
          "If it was one, name another disk of its pool. 'dynamicfs create' makes a new pool, and "
          "erases what it is given."};
    case Code::kFormatVersion:
      if (error.detail < journal::kFormatVersionOldest) {
        return {
            ExitCode::kNewerFormat,
            fmt::format("{} was written by an older dynamicfs (format {}, this program reads "
                        "formats {} to {}).",
                        path, error.detail, journal::kFormatVersionOldest, journal::kFormatVersion),
            "Mount it with that version, and copy what is on it to a new pool."};
      }
      return {ExitCode::kNewerFormat,
              fmt::format(
                  "{} was written by a newer dynamicfs (format {}, this program reads up to {}).",
                  path, error.detail, journal::kFormatVersion),
              "Mount it with that version or a later one."};
    case Code::kChecksum:
    case Code::kFormatInvalid:
      return {ExitCode::kFailed, fmt::format("Both superblocks of {} are damaged.", path),
              "Name another disk of the pool; it may be able to do without this one."};
    default:
      return {ExitCode::kFailed, fmt::format("{} cannot be read: {}.", path, describe(error)), ""};
  }
}

Refusal refuse_busy(const std::string& path) {
  return {ExitCode::kAlreadyMounted, fmt::format("{} is in use by another process.", path),
          "'fuser -v' with that path shows which."};
}

// The daemon that has this disk in its pool, if one is alive and answers.
std::optional<RunningDaemon> daemon_of(const std::string& path) {
  RunningDaemons daemons = running_daemons();
  for (RunningDaemon& daemon : daemons.answering) {
    for (const std::string& disk : daemon.disks) {
      if (disk == path || same_file(disk, path)) return std::move(daemon);
    }
  }
  return std::nullopt;
}

// Waits for the lock of a daemon that was killed and whose last requests are still in the kernel,
// but not for one that is alive and well.
Outcome<ProbedDisk> probe_patiently(Executor& executor, const std::string& path) {
  auto probed = probe_disk(executor, path, Duration::zero());
  if (probed || probed.error().code != ExitCode::kAlreadyMounted) return probed;
  if (const auto daemon = daemon_of(path)) {
    return Refusal{
        ExitCode::kAlreadyMounted,
        fmt::format("The pool of {} is mounted at {} already.", path, daemon->mountpoint),
        fmt::format("Use it there, or 'dynamicfs umount {}' first.", daemon->mountpoint)};
  }
  return probe_disk(executor, path, kLockPatience);
}

}  // namespace

Outcome<ProbedDisk> probe_disk(Executor& executor, const std::string& path, Duration lock_wait) {
  auto target = scheduler::inspect_volume(path);
  if (!target) {
    if (target.error().code == Code::kInvalid) {
      return Refusal{ExitCode::kNotADisk,
                     fmt::format("{} is neither a directory, a file nor a block device.", path),
                     "Give one of these as a disk."};
    }
    return refuse_open(path, target.error());
  }
  if (!target->exists) {
    if (target->kind == scheduler::DiskKind::kDirectory) {
      return refuse_superblock(path, error(Code::kFormatMagic));
    }
    return refuse_open(path, system_error(Code::kDiskOpen, ENOENT));
  }
  // Less than a block, as an empty file or a loop device without one: too little to be opened as a
  // disk, and so none of ours.
  if (target->size_bytes == 0) return refuse_superblock(path, error(Code::kFormatMagic));
  auto disk = scheduler::open_uring_disk(executor, *target,
                                         {.name = "probe",
                                          .workers = 1,
                                          .queue = {.depth = 4},
                                          .read_only = true,
                                          .lock_wait = lock_wait});
  if (!disk) {
    if (disk.error().code == Code::kPoolBusy) return refuse_busy(path);
    return refuse_open(path, disk.error());
  }
  auto superblock = block_on(executor, journal::read_superblock(**disk));
  if (!superblock) return refuse_superblock(path, superblock.error());
  return ProbedDisk{.target = std::move(*target), .superblock = std::move(*superblock)};
}

Outcome<FoundDisks> find_disks(Executor& executor, const DiskSearch& search) {
  FoundDisks found;
  std::vector<ProbedDisk> probed;
  std::optional<Refusal> refused;
  std::vector<std::string> named{search.named};
  named.insert(named.end(), search.others.begin(), search.others.end());
  for (const std::string& path : named) {
    // The same disk named twice would wait for its own lock.
    const bool again = std::ranges::any_of(
        probed, [&](const ProbedDisk& other) { return same_file(other.target.path, path); });
    if (again) continue;
    auto one = probe_patiently(executor, path);
    if (!one && search.lenient && one.error().code != ExitCode::kAlreadyMounted) {
      found.notes.push_back(one.error().what);
      if (!refused) refused = one.error();
      continue;
    }
    ProbedDisk other = TRY(std::move(one));
    if (probed.empty()) {
      found.pool = other.superblock.pool;
      found.label = other.superblock.label;
    }
    if (other.superblock.pool != found.pool) {
      return Refusal{
          ExitCode::kUsage,
          fmt::format("{} and {} belong to different pools.", probed.front().target.path, path),
          "Mount one pool at a time."};
    }
    probed.push_back(std::move(other));
  }
  if (probed.empty()) return *refused;

  // What they remember: a disk that was away may not know of one that was added since, so the
  // records of everything found count.
  std::map<Uuid, std::string> remembered;
  std::map<Uuid, bool> tried;
  const auto learn_from = [&](const ProbedDisk& disk) {
    for (const journal::DiskRecord& record : disk.superblock.disks) {
      remembered.try_emplace(record.uuid, record.path);
    }
    if (const auto* own = disk.superblock.find(disk.superblock.this_disk)) tried[own->uuid] = true;
  };
  for (const ProbedDisk& disk : probed) learn_from(disk);
  for (bool more = search.search; more;) {
    more = false;
    for (const auto& [uuid, path] : std::map{remembered}) {
      if (tried[uuid]) continue;
      tried[uuid] = true;
      more = true;
      auto other = probe_patiently(executor, path);
      if (!other) {
        found.notes.push_back(
            fmt::format("looking for disk {}: {}", uuid.text(), other.error().what));
        if (other.error().code != ExitCode::kAlreadyMounted) continue;
        // In use by this very pool, or has its place been given to another one meanwhile?
        const auto daemon = daemon_of(path);
        if (daemon && daemon->pool != found.pool.text()) continue;
        return other.error();
      }
      const auto* own = other->superblock.find(other->superblock.this_disk);
      if (other->superblock.pool != found.pool || own == nullptr || own->uuid != uuid) {
        found.notes.push_back(
            fmt::format("looking for disk {}: {} is another disk", uuid.text(), path));
        continue;
      }
      learn_from(*other);
      probed.push_back(std::move(*other));
    }
  }

  for (const auto& [uuid, path] : remembered) found.known_paths.push_back(path);
  for (const ProbedDisk& disk : probed) {
    auto opened = scheduler::open_uring_disk(executor, disk.target,
                                             {.name = fmt::format("{}", disk.superblock.this_disk),
                                              .workers = search.workers_per_disk,
                                              .queue = search.queue,
                                              .read_only = search.read_only,
                                              .lock_wait = kLockPatience});
    if (!opened) {
      if (opened.error().code == Code::kPoolBusy) return refuse_busy(disk.target.path);
      const Refusal refusal = refuse_open(disk.target.path, opened.error());
      if (!search.lenient) return refusal;
      found.notes.push_back(refusal.what);
      continue;
    }
    found.disks.push_back(std::move(*opened));
  }
  return found;
}

Outcome<std::unique_ptr<journal::Pool>> open_pool(
    Executor& executor, std::vector<std::unique_ptr<scheduler::Disk>> disks, bool read_only,
    bool salvage) {
  journal::Pool::Problem problem;
  auto pool = block_on(
      executor,
      journal::Pool::open(executor,
                          {.disks = std::move(disks), .read_only = read_only, .salvage = salvage},
                          &problem));
  if (pool) return std::move(*pool);
  ExitCode code = ExitCode::kFailed;
  switch (pool.error().code) {
    case Code::kSplitBrain: code = ExitCode::kSplitBrain; break;
    case Code::kDiskMissing: code = ExitCode::kDiskMissing; break;
    case Code::kFormatMagic: code = ExitCode::kNotADisk; break;
    case Code::kFormatVersion: code = ExitCode::kNewerFormat; break;
    case Code::kNotInPool: code = ExitCode::kUsage; break;
    default: break;
  }
  if (problem.text.empty())
    problem.text = fmt::format("The pool cannot be opened: {}.", describe(pool.error()));
  return Refusal{code, problem.text, {}};
}

}  // namespace dynamicfs::fs
