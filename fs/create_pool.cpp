#include "fs/create_pool.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "base/log.hpp"
#include "base/unique_fd.hpp"
#include "fs/disk_search.hpp"
#include "fs/mount_options.hpp"
#include "journal/pool.hpp"
#include "scheduler/uring_disk.hpp"

namespace dynamicfs::fs {
namespace {

using journal::Policy;
using scheduler::Disk;
using scheduler::DiskKind;
using scheduler::VolumeTarget;

// Where every file system, partition table and volume manager leaves a mark.
constexpr std::uint64_t kHeadBytes = 128 * kKiB;
// Of the space that a directory's file system has now; the rest is for those who use it too.
constexpr std::uint64_t kDirectoryPercent = 90;

struct Plan {
  VolumeTarget target;
  std::uint64_t size_bytes = 0;
  bool make = false;     // the volume file is to be made
  bool replace = false;  // ... and an old one removed before
  bool wipe = false;     // what is there is to be erased
};

const char* kind_text(DiskKind kind) {
  switch (kind) {
    case DiskKind::kDirectory: return "directory";
    case DiskKind::kImageFile: return "image file";
    case DiskKind::kBlockDevice: return "block device";
    case DiskKind::kSimulated: return "simulated";
  }
  return "";
}

Outcome<Policy> chosen_policy(const CreateRequest& request) {
  const std::size_t disks = request.disks.size();
  Policy policy{.kind = Policy::Kind::kReplica,
                .copies_or_data = static_cast<std::uint8_t>(disks >= 2 ? 2 : 1),
                .parity = 0};
  if (!request.redundancy.empty()) {
    const auto parsed = Policy::parse(request.redundancy);
    if (!parsed) {
      return usage(
          fmt::format("'{}' is no redundancy that this version knows.", request.redundancy),
          "Write single, replica:N for N copies, or ec:K+M for M parts of parity to K of data, "
          "together at "
          "most 16: replica:2 or ec:4+2, for example. 'single,placement=file' keeps each file on "
          "one disk.");
    }
    policy = *parsed;
  }
  if (!request.placement.empty() && request.placement != "file" && request.placement != "spread") {
    return usage(fmt::format("'{}' is no placement.", request.placement),
                 "Write spread for files on all disks, or file for each file on one disk.");
  }
  if (request.placement == "file") {
    if (policy.spread() != Policy{}) {
      return usage(
          fmt::format("{} puts each file on several disks, and --placement file keeps it on one.",
                      policy.text()),
          "Say --redundancy single --placement file, or leave --placement away.");
    }
    policy.whole_files = true;
  }
  if (request.placement == "spread" && policy.whole_files) {
    return usage(fmt::format("{} and --placement spread contradict each other.", policy.text()),
                 "Leave one of them away.");
  }
  if (policy.width() > disks) {
    return Refusal{ExitCode::kTooFewDisks,
                   fmt::format("{} needs {} disks, and {} {} given.", policy.text(), policy.width(),
                               disks, disks == 1 ? "was" : "were"),
                   "Name more disks, or choose a lower redundancy."};
  }
  return policy;
}

// The length of the character that `text` begins with; 0 if that is no UTF-8, or is a control
// character.
std::size_t printable_bytes(std::string_view text) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned first = byte(0);
  if (first < 0x80) return first < 0x20 || first == 0x7f ? 0 : 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || length > text.size()) return 0;
  std::uint32_t character = first & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80U) return 0;
    character = character << 6 | (byte(i) & 0x3fU);
  }
  // U+0080 to U+009F are control characters; what follows is written too long, or not a character.
  const bool control = character < 0xa0;
  const bool too_long = character < (length == 3 ? 0x800U : length == 4 ? 0x10000U : 0U);
  const bool surrogate = character >= 0xd800 && character <= 0xdfff;
  return control || too_long || surrogate || character > 0x10ffff ? 0 : length;
}

Outcome<void> check_label(std::string_view label) {
  if (label.size() > kLabelBytesMax) {
    return usage(fmt::format("A label has at most {} bytes, and this one has {}.", kLabelBytesMax,
                             label.size()),
                 "Choose a shorter label.");
  }
  while (!label.empty()) {
    const std::size_t length = printable_bytes(label.substr(0, 4));
    if (length == 0) {
      return usage("A label is one line of UTF-8 text, and this one has other bytes in it.",
                   "Leave out line ends, tabs and other control characters.");
    }
    label.remove_prefix(length);
  }
  return {};
}

// Whether anything is written where a file system, a partition table or a pool would begin.
Outcome<bool> is_blank(const VolumeTarget& target) {
  const UniqueFd file{::open(target.file.c_str(), O_RDONLY | O_CLOEXEC)};
  std::vector<char> head(kHeadBytes);
  const ssize_t got = file ? ::pread(file.get(), head.data(), head.size(), 0) : -1;
  if (got < 0) {
    return Refusal{errno == EACCES ? ExitCode::kPermission : ExitCode::kFailed,
                   fmt::format("{} cannot be read: {}.", target.path, std::strerror(errno)), ""};
  }
  return std::all_of(head.begin(), head.begin() + got, [](char byte) { return byte == 0; });
}

Outcome<VolumeTarget> inspect(const std::string& path) {
  auto target = scheduler::inspect_volume(path);
  if (target) return std::move(*target);
  const Error why = target.error();
  if (why.code == Code::kInvalid) {
    return usage(fmt::format("{} is neither a directory, a file nor a block device.", path),
                 "Give one of these as a disk.");
  }
  if (why.sys_errno == EACCES || why.sys_errno == EPERM) {
    return Refusal{ExitCode::kPermission, fmt::format("You may not open {}.", path),
                   "Run it with sudo."};
  }
  if (why.sys_errno == ENOENT || why.sys_errno == ENOTDIR) {
    return Refusal{ExitCode::kDiskMissing,
                   fmt::format("There is no {}, nor a directory to make it in.", path),
                   "Give an existing directory, file or block device."};
  }
  return Refusal{ExitCode::kFailed, fmt::format("{} cannot be used: {}.", path, describe(why)), ""};
}

// What the disk holds now must be nothing, or something that may be erased.
Outcome<void> check_content(Executor& executor, const CreateRequest& request, Plan& plan) {
  const std::string& path = plan.target.path;
  const auto probed = probe_disk(executor, path, Duration::zero());
  if (!probed && probed.error().code == ExitCode::kAlreadyMounted) {
    return Refusal{ExitCode::kAlreadyMounted,
                   fmt::format("{} is in use, perhaps by a mounted pool.", path),
                   "'dynamicfs status' lists the mounted pools and their disks."};
  }
  if (!probed && probed.error().code == ExitCode::kPermission) return probed.error();
  const bool blank = TRY(is_blank(plan.target));
  if (!probed && blank && plan.target.kind != DiskKind::kDirectory) return {};
  plan.wipe = true;
  plan.replace = plan.target.kind == DiskKind::kDirectory;
  plan.make = plan.replace;
  if (request.force) return {};
  if (probed || probed.error().code != ExitCode::kNotADisk) {
    return Refusal{
        ExitCode::kAlreadyInPool, fmt::format("{} is a disk of a pool already.", path),
        fmt::format("'dynamicfs mount {}' mounts that pool; --force erases the disk.", path)};
  }
  if (plan.replace) {
    return Refusal{
        ExitCode::kFailed,
        fmt::format("{} holds a {} that is not complete.", path, scheduler::kVolumeFileName),
        "If an interrupted create has left it, remove it or use --force."};
  }
  return Refusal{
      ExitCode::kFailed,
      fmt::format("{} is not empty: it may hold a file system or a partition table.", path),
      "If nothing on it is needed any more, --force erases it."};
}

std::string parent_of(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

// What making the pool would find out only after it has changed something.
Outcome<void> check_writable(const Plan& plan) {
  const VolumeTarget& target = plan.target;
  // A file that is to be made, or to be replaced, is an entry of its directory.
  const std::string at = plan.make ? parent_of(target.file) : target.file;
  int why = ::faccessat(AT_FDCWD, at.c_str(), W_OK, AT_EACCESS) == 0 ? 0 : errno;
  if (why == 0 && target.kind == DiskKind::kBlockDevice) {
    const UniqueFd device{::open(at.c_str(), O_RDONLY | O_CLOEXEC)};
    int read_only = 0;
    // Opening such a device for writing succeeds.
    if (device && ::ioctl(device.get(), BLKROGET, &read_only) == 0 && read_only != 0) why = EROFS;
  }
  if (why == 0) return {};
  if (why == EROFS) {
    return Refusal{ExitCode::kPermission, fmt::format("{} is read-only.", target.path),
                   "Make it writable, or choose another disk."};
  }
  if (why == EACCES && ::geteuid() != 0) {
    return Refusal{ExitCode::kPermission, fmt::format("You may not write to {}.", target.path),
                   "Run it with sudo."};
  }
  return Refusal{why == EACCES || why == EPERM ? ExitCode::kPermission : ExitCode::kFailed,
                 fmt::format("{} cannot be written: {}.", target.path, std::strerror(why)),
                 "Choose another disk."};
}

Outcome<Plan> plan_disk(Executor& executor, const CreateRequest& request, const std::string& path) {
  Plan plan{.target = TRY(inspect(path)),
            .size_bytes = 0,
            .make = false,
            .replace = false,
            .wipe = false};
  if (plan.target.exists) {
    TRY(check_content(executor, request, plan));
  } else {
    plan.make = true;
  }
  TRY(check_writable(plan));
  if (!plan.make) {
    plan.size_bytes = plan.target.size_bytes;
  } else if (request.size_bytes) {
    plan.size_bytes = *request.size_bytes;
  } else if (plan.target.kind == DiskKind::kDirectory) {
    plan.size_bytes = plan.target.free_bytes / 100 * kDirectoryPercent;
  } else {
    return usage(fmt::format("There is no {}, and nothing says how large it should be.", path),
                 "Give the size of new image files: --size 20G");
  }
  plan.size_bytes = align_down(plan.size_bytes, kBlockBytes);
  if (plan.size_bytes < journal::kVolumeBytesMin) {
    return usage(fmt::format("{} would have {}, and a disk needs at least {}.", path,
                             size_text(plan.size_bytes), size_text(journal::kVolumeBytesMin)),
                 "Give a larger one.");
  }
  return plan;
}

// Where a disk's bytes lie, whatever path leads there: a range of a file or of a device.
struct Place {
  bool block_device = false;
  std::uint64_t device = 0;  // of the file, or the device itself
  std::uint64_t inode = 0;   // of the file; of its directory while there is no file
  std::string name;          // only while there is no file
  std::uint64_t begin = 0;
  std::uint64_t end = std::numeric_limits<std::uint64_t>::max();

  bool overlaps(const Place& other) const {
    return block_device == other.block_device && device == other.device && inode == other.inode &&
           name == other.name && begin < other.end && other.begin < end;
  }
};

Place place_of(const VolumeTarget& target) {
  Place place;
  struct stat info {};
  const std::string at = target.exists ? target.file : parent_of(target.file);
  if (::stat(at.c_str(), &info) != 0) {
    place.name = target.file;
    return place;
  }
  if (!S_ISBLK(info.st_mode)) {
    place.device = info.st_dev;
    place.inode = info.st_ino;
    if (!target.exists) place.name = std::filesystem::path(target.file).filename().string();
    return place;
  }
  place.block_device = true;
  place.device = info.st_rdev;
  if (major(info.st_rdev) != LOOP_MAJOR) return place;
  const UniqueFd device{::open(at.c_str(), O_RDONLY | O_CLOEXEC)};
  loop_info64 behind{};
  if (!device || ::ioctl(device.get(), LOOP_GET_STATUS64, &behind) != 0) return place;
  // A device may itself lie behind a loop device.
  place.block_device = behind.lo_rdevice != 0;
  place.device = place.block_device ? behind.lo_rdevice : behind.lo_device;
  place.inode = place.block_device ? 0 : behind.lo_inode;
  place.begin = behind.lo_offset;
  place.end = behind.lo_offset + target.size_bytes;
  return place;
}

// The device that holds a disk's bytes, as far as it can be told: two of one device fail together.
std::string holder_of(const VolumeTarget& target) {
  struct stat info {};
  const std::string at =
      target.exists || target.kind != DiskKind::kImageFile ? target.path : parent_of(target.path);
  if (::stat(at.c_str(), &info) != 0) return target.path;
  const dev_t device = S_ISBLK(info.st_mode) ? info.st_rdev : info.st_dev;
  const std::string here = fmt::format("/sys/dev/block/{}:{}", major(device), minor(device));
  std::error_code error;
  const auto resolved = std::filesystem::canonical(here, error);
  if (error) return fmt::format("{}:{}", major(device), minor(device));
  // A partition lies inside the directory of its disk.
  const bool partition = std::filesystem::exists(resolved / "partition", error);
  return (partition ? resolved.parent_path() : resolved).string();
}

std::vector<std::string> warnings_for(const std::vector<Plan>& plans, const Policy& policy) {
  std::vector<std::string> warnings;
  if (plans.size() > 1 && policy.whole_files) {
    warnings.push_back(
        "Each file lies on one disk without a copy: when a disk dies, the files on it are gone. "
        "'replica:2' survives that.");
  } else if (plans.size() > 1 && policy.width() == 1) {
    warnings.push_back(
        "Files are spread over all disks without a copy: when one disk dies, nearly every file "
        "is damaged. 'replica:2' survives that; 'single,placement=file' loses the files of that "
        "disk alone.");
  }
  std::map<std::string, std::vector<const Plan*>> by_holder;
  for (const Plan& plan : plans) by_holder[holder_of(plan.target)].push_back(&plan);
  for (const auto& [holder, together] : by_holder) {
    if (together.size() < 2 || policy.width() < 2) continue;
    const bool erasure = policy.kind == Policy::Kind::kErasure;
    if (erasure && together.size() <= policy.tolerance()) continue;
    std::string names = together[0]->target.path;
    for (std::size_t i = 1; i < together.size(); ++i) {
      names += (i + 1 < together.size() ? ", " : " and ") + together[i]->target.path;
    }
    if (erasure) {
      warnings.push_back(
          fmt::format("{} lie on the same device: when it dies, more is gone than the {} of {} "
                      "can replace.",
                      names, policy.tolerance() == 1 ? "parity" : "parities", policy.text()));
      continue;
    }
    const std::size_t copies = policy.width();
    const std::size_t lost = std::min(together.size(), copies);
    warnings.push_back(fmt::format(
        "{} lie on the same device: when it dies, {} copies of a file may be gone.", names,
        lost < copies ? fmt::format("{} of {}", lost, copies)
        : copies == 2 ? "both"
                      : fmt::format("all {}", copies)));
  }
  for (const auto& [holder, together] : by_holder) {
    std::uint64_t made = 0, free = 0;
    for (const Plan* plan : together) {
      if (!plan->make) continue;
      made += plan->size_bytes;
      free = plan->target.free_bytes;
    }
    if (made <= free) continue;
    warnings.push_back(
        fmt::format("{} asks for {} of a file system that has {} free: when that is full, the "
                    "pool loses the disk.",
                    together[0]->target.path, size_text(made), size_text(free)));
  }
  return warnings;
}

// Removes what was made, unless all went well.
class MadeFiles {
 public:
  MadeFiles() = default;
  MadeFiles(const MadeFiles&) = delete;
  MadeFiles& operator=(const MadeFiles&) = delete;
  ~MadeFiles() {
    for (const std::string& file : files_) ::unlink(file.c_str());
  }
  void add(const std::string& file) { files_.push_back(file); }
  void keep() { files_.clear(); }

 private:
  std::vector<std::string> files_;
};

Task<Result<void>> erase_head(Disk* disk) {
  Buffer zeros{kHeadBytes};
  std::memset(zeros.data(), 0, zeros.size());
  auto written =
      co_await scheduler::write(*disk, scheduler::IoClass::kWrite, 0, zeros.span(), true);
  co_return written;
}

Outcome<std::unique_ptr<Disk>> make_disk(Executor& executor, const Plan& plan,
                                         const scheduler::UringDiskOptions& options,
                                         MadeFiles& made) {
  const std::string& path = plan.target.path;
  VolumeTarget target = plan.target;
  if (plan.make) {
    if (plan.replace && ::unlink(target.file.c_str()) != 0) {
      return Refusal{ExitCode::kFailed,
                     fmt::format("{} cannot be removed: {}.", target.file, std::strerror(errno)),
                     ""};
    }
    target.exists = false;
    const auto created = scheduler::create_volume_file(target, plan.size_bytes);
    if (!created) {
      const int why = created.error().sys_errno;
      return Refusal{why == EACCES || why == EPERM ? ExitCode::kPermission : ExitCode::kFailed,
                     fmt::format("{} cannot be made: {}.", target.file, describe(created.error())),
                     why == EACCES || why == EPERM ? "Run it with sudo." : ""};
    }
    made.add(target.file);
    target.exists = true;
    target.size_bytes = plan.size_bytes;
  }
  auto disk = scheduler::open_uring_disk(executor, target, options);
  if (!disk) {
    if (disk.error().code == Code::kPoolBusy || disk.error().sys_errno == EBUSY) {
      return Refusal{ExitCode::kAlreadyMounted, fmt::format("{} is in use.", path),
                     "Unmount what is on it first."};
    }
    const int why = disk.error().sys_errno;
    return Refusal{why == EACCES || why == EPERM ? ExitCode::kPermission : ExitCode::kFailed,
                   fmt::format("{} cannot be opened: {}.", path, describe(disk.error())), ""};
  }
  if (plan.wipe && !plan.make) {
    const auto erased = block_on(executor, erase_head(disk->get()));
    if (!erased) {
      return Refusal{ExitCode::kFailed,
                     fmt::format("{} cannot be written: {}.", path, describe(erased.error())), ""};
    }
  }
  return std::move(*disk);
}

// `disks` as they were planned.
Refusal refuse_format(const Error& error, const std::vector<Plan>& plans,
                      const std::vector<std::unique_ptr<Disk>>& disks) {
  const std::string path = error.detail < plans.size() ? plans[error.detail].target.path : "a disk";
  switch (error.code) {
    case Code::kPoolExists:
      return {ExitCode::kAlreadyInPool, fmt::format("{} is a disk of a pool already.", path), ""};
    case Code::kTooFewDisks:
      return {ExitCode::kTooFewDisks, "There are not enough disks for this redundancy.", ""};
    case Code::kFormatInvalid:
      return usage("The label is too long, or there are too many disks.",
                   "Choose a shorter label.");
    default: break;
  }
  // The error says what happened and at which offset; the disk knows that it happened there.
  for (const auto& disk : disks) {
    const auto& classes = disk->metrics().classes;
    const bool failed = std::ranges::any_of(classes, [](const scheduler::ClassMetrics& each) {
      return each.errors.sum() > 0 || each.no_space.sum() > 0;
    });
    if (!failed) continue;
    return {ExitCode::kFailed,
            fmt::format("The pool cannot be written to {}: {}.", disk->path(), describe(error)),
            error.sys_errno == ENOSPC
                ? "Make room there, or choose another disk."
                : "The kernel's log may say more ('dmesg'); choose another disk."};
  }
  return {ExitCode::kFailed, fmt::format("The pool cannot be written: {}.", describe(error)), ""};
}

}  // namespace

std::uint64_t usable_bytes(std::vector<std::uint64_t> sizes, unsigned copies) {
  // With x bytes of data no disk holds more than x of the copies * x: the largest x for which the
  // disks, each counted up to x, have room. Disks larger than x are the first ones after sorting.
  std::ranges::sort(sizes, std::greater{});
  std::uint64_t rest = 0;
  for (const std::uint64_t size : sizes) rest += size;
  for (unsigned larger = 0; larger < copies && larger < sizes.size(); ++larger) {
    const std::uint64_t x = rest / (copies - larger);
    if (sizes[larger] <= x) return x;
    rest -= sizes[larger];
  }
  return 0;
}

Outcome<CreatedPool> create_pool(const CreateRequest& request) {
  if (request.disks.size() > journal::kDisksMax) {
    return usage(fmt::format("A pool has at most {} disks.", journal::kDisksMax), "Name fewer.");
  }
  TRY(check_label(request.label));
  const Policy policy = TRY(chosen_policy(request));
  const std::unique_ptr<Executor> executor = make_thread_executor();

  std::vector<Plan> plans;
  std::vector<Place> places;
  for (const std::string& path : request.disks) {
    Plan plan = TRY(plan_disk(*executor, request, absolute_path(path)));
    places.push_back(place_of(plan.target));
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const Plan& other = plans[i];
      if (!places[i].overlaps(places.back())) continue;
      return usage(fmt::format("{} and {} are the same disk.", other.target.path, plan.target.path),
                   "Name each disk once.");
    }
    plans.push_back(std::move(plan));
  }
  // Several directories of one file system share what it has free.
  std::map<std::string, std::uint64_t> sharers;
  for (const Plan& plan : plans) {
    if (plan.make && !request.size_bytes) ++sharers[holder_of(plan.target)];
  }
  for (Plan& plan : plans) {
    if (!plan.make || request.size_bytes) continue;
    plan.size_bytes = align_down(plan.size_bytes / sharers[holder_of(plan.target)], kBlockBytes);
    if (plan.size_bytes < journal::kVolumeBytesMin) {
      return usage(fmt::format("The file system of {} has no room for a disk of {}.",
                               plan.target.path, size_text(journal::kVolumeBytesMin)),
                   "Choose another place.");
    }
  }

  CreatedPool created;
  created.policy = policy;
  created.warnings = warnings_for(plans, policy);
  MadeFiles made;  // before the disks, so that they are closed when it removes files
  std::vector<std::unique_ptr<Disk>> disks;
  for (const Plan& plan : plans)
    disks.push_back(
        TRY(make_disk(*executor, plan, {.name = fmt::format("{}", disks.size())}, made)));
  std::vector<Disk*> pointers;
  for (const auto& disk : disks) pointers.push_back(disk.get());
  const auto pool = block_on(
      *executor,
      journal::Pool::format(*executor, pointers, {.policy = policy, .label = request.label}));
  if (!pool) return refuse_format(pool.error(), plans, disks);
  made.keep();

  created.pool = *pool;
  std::vector<std::uint64_t> room;
  for (const auto& disk : disks) {
    created.disks.push_back({disk->path(), kind_text(disk->kind()), disk->size_bytes()});
    room.push_back(disk->size_bytes() - journal::kJournalOffset -
                   journal::journal_bytes_for(disk->size_bytes()));
  }
  created.usable_bytes = usable_bytes(room, policy.width()) *
                         (policy.kind == Policy::Kind::kErasure ? policy.copies_or_data : 1);
  return created;
}

Outcome<std::unique_ptr<Disk>> make_new_disk(Executor& executor, const NewDiskRequest& request) {
  CreateRequest like;
  like.size_bytes = request.size_bytes;
  like.force = request.force;
  const Plan plan = TRY(plan_disk(executor, like, request.path));
  MadeFiles made;
  std::unique_ptr<Disk> disk = TRY(
      make_disk(executor, plan,
                {.name = request.name, .workers = request.workers, .queue = request.queue}, made));
  made.keep();
  return disk;
}

}  // namespace dynamicfs::fs
