#include "fs/disk_orders.hpp"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include <fmt/format.h>

#include "base/log.hpp"
#include "fs/create_pool.hpp"
#include "fs/disk_search.hpp"
#include "scheduler/uring_disk.hpp"

namespace dynamicfs::fs {
namespace {

// For a lock that its holder is about to let go of.
constexpr Duration kReturnPatience = std::chrono::seconds{5};

Refusal refuse_return(const std::string& path, Error why) {
  switch (why.code) {
    case Code::kBusy:
      return usage(fmt::format("{} is disk {}, which is here already.", path, why.detail),
                   "'dynamicfs status' shows which are not.");
    case Code::kDiskHung:
      return {ExitCode::kFailed,
              fmt::format("Disk {} has not answered all that it was asked before it went, and may "
                          "still carry it out.",
                          why.detail),
              "Wait and try again, or unmount the pool and mount it."};
    case Code::kNotInPool:
      return {ExitCode::kUsage, fmt::format("{} is no disk of this pool.", path),
              "'dynamicfs disk add' makes it one. It may have been removed, or everything on it "
              "was made anew elsewhere "
              "while it was away."};
    case Code::kSplitBrain:
      return {ExitCode::kFailed,
              fmt::format("{} was mounted without the others meanwhile, so it does not belong to "
                          "them any more.",
                          path),
              "Copy what only it has before it is used for something else."};
    case Code::kDiskRange:
      return {
          ExitCode::kFailed, fmt::format("{} is smaller than it was.", path),
          "Give it the size it had, or remove the disk from the pool: 'dynamicfs disk remove'."};
    case Code::kReadOnly:
      return {ExitCode::kFailed, "The pool is read-only.",
              "Unmount it, connect the disks, and mount it again."};
    default: return {ExitCode::kFailed, fmt::format("{}: {}.", path, describe(why)), ""};
  }
}

}  // namespace

bool DiskOrders::takes(const std::string& command) {
  static const std::set<std::string> kOrders = {
      "disk_add",        "disk_remove",    "disk_keep",     "disk_offline",  "disk_online",
      "rebalance_start", "rebalance_stop", "rebuild_pause", "rebuild_resume"};
  return kOrders.contains(command);
}

void DiskOrders::answer(const Json& request, ControlReply reply) {
  const std::string command = request["command"].get<std::string>();
  if (command == "disk_add") {
    add(request, std::move(reply));
  } else if (command == "disk_online") {
    opening_.fetch_add(1);
    std::thread([this, path = request.value("path", ""), reply = std::move(reply)]() mutable {
      open_returned(path, std::move(reply));
      opening_.fetch_sub(1);
    }).detach();
  } else {
    outstanding_.fetch_add(1);
    DriverScope scope(executor_);
    spawn(follow(command, find_disk(request.value("disk", "")), std::move(reply)));
  }
}

// What the user calls a disk: its number, or the path by which the pool knows it.
std::optional<DiskId> DiskOrders::find_disk(const std::string& named) const {
  for (const journal::DiskStatus& disk : filesystem_.pool().status()) {
    if (disk.record.path == named || fmt::format("{}", disk.record.id) == named)
      return disk.record.id;
  }
  return std::nullopt;
}

// Whether this file, or the directory it would be in, is in the tree that we serve: a disk there would wait for
// itself.
bool DiskOrders::is_in_tree(const std::string& path) const {
  struct stat info {};
  const std::string parent = std::filesystem::path(path).parent_path().string();
  if (::stat(path.c_str(), &info) != 0 && ::stat(parent.c_str(), &info) != 0) return false;
  return facts_.device == fmt::format("{}:{}", major(info.st_dev), minor(info.st_dev));
}

// On the server's thread: the pool may be as slow as the new disk is.
void DiskOrders::add(const Json& request, ControlReply reply) {
  NewDiskRequest wanted;
  wanted.path = request.value("path", "");
  if (is_in_tree(wanted.path)) {
    reply.refuse(usage(fmt::format("{} is in the pool itself.", wanted.path),
                       "Give a disk that is not in the tree it is to hold."));
    return;
  }
  if (request.contains("size")) wanted.size_bytes = request.value("size", std::uint64_t{0});
  wanted.force = request.value("force", false);
  wanted.name = fmt::format("{}", filesystem_.pool().superblock().next_disk);
  wanted.workers = facts_.options.workers_per_disk;
  wanted.queue = facts_.options.queue;
  auto disk = make_new_disk(executor_, wanted);
  if (!disk) {
    reply.refuse(disk.error());
    return;
  }
  // It may be slow, and others may ask meanwhile.
  outstanding_.fetch_add(1);
  DriverScope scope(executor_);
  spawn(answer_added(std::move(*disk), request.value("spare", false), std::move(reply)));
}

Task<void> DiskOrders::answer_added(std::unique_ptr<scheduler::Disk> disk, bool spare,
                                    ControlReply reply) {
  const auto added = co_await filesystem_.add_disk(std::move(disk), spare);
  if (added) {
    reply.send({{"ok", true}, {"disk", added->raw}, {"spare", spare}});
  } else if (added.error().code == Code::kReadOnly) {
    reply.refuse("the pool is read-only");
  } else if (added.error().code == Code::kInvalid) {
    reply.refuse("the pool has as many disks as it can have");
  } else {
    reply.refuse(describe(added.error()));
  }
  outstanding_.fetch_sub(1);
}

void DiskOrders::stop() {
  LockGuard lock(mutex_);
  stopped_ = true;
}

// In a thread of its own. The command has looked at it already, so it answers, as a rule.
void DiskOrders::open_returned(const std::string& path, ControlReply reply) {
  auto probed = probe_disk(executor_, path, kReturnPatience);
  if (!probed) {
    reply.refuse(probed.error());
    return;
  }
  auto disk = scheduler::open_uring_disk(executor_, probed->target,
                                         {.name = fmt::format("{}", probed->superblock.this_disk),
                                          .workers = facts_.options.workers_per_disk,
                                          .queue = facts_.options.queue,
                                          .lock_wait = kReturnPatience});
  if (!disk) {
    reply.refuse(refuse_return(path, disk.error()));
    return;
  }
  {
    LockGuard lock(mutex_);
    if (stopped_) return;
    outstanding_.fetch_add(1);
  }
  DriverScope scope(executor_);
  spawn(answer_returned(std::move(*disk), std::move(reply)));
}

Task<void> DiskOrders::answer_returned(std::unique_ptr<scheduler::Disk> disk, ControlReply reply) {
  const std::string path = disk->path();
  const auto returned = co_await filesystem_.return_disk(std::move(disk));
  if (returned) {
    reply.send({{"ok", true}, {"disk", returned->raw}});
  } else {
    reply.refuse(refuse_return(path, returned.error()));
  }
  outstanding_.fetch_sub(1);
}

Task<void> DiskOrders::follow(std::string command, std::optional<DiskId> disk, ControlReply reply) {
  Result<void> done;
  std::uint64_t missing_bytes = 0;
  if (command == "disk_remove") {
    done = Code::kNotInPool;
    if (disk) {
      done = co_await filesystem_.remove_disk(*disk, &missing_bytes);
    }
  } else if (command == "disk_keep") {
    done = Code::kNotInPool;
    if (disk) {
      done = co_await filesystem_.keep_disk(*disk);
    }
  } else if (command == "disk_offline") {
    done = Code::kNotInPool;
    if (disk) {
      done = co_await filesystem_.take_offline(*disk);
    }
  } else if (command == "rebalance_start" || command == "rebalance_stop") {
    done = co_await filesystem_.rebalance(command == "rebalance_start");
  } else {
    filesystem_.pause_rebuild(command == "rebuild_pause");
  }
  if (done) {
    reply.send({{"ok", true}});
  } else {
    const auto refuse = [&](ExitCode code, std::string what, std::string remedy) {
      reply.refuse(Refusal{code, std::move(what), std::move(remedy)});
    };
    switch (done.error().code) {
      case Code::kNotInPool:
        refuse(ExitCode::kUsage, "This pool has no such disk.",
               "'dynamicfs status' lists its disks with their numbers.");
        break;
      case Code::kTooFewDisks:
        if (command == "disk_offline") {
          refuse(ExitCode::kTooFewDisks, "What is on it cannot be done without just now.",
                 "It has files of which there is no other copy ('dynamicfs policy' sets how many "
                 "there are), or another disk is away or not whole yet: see 'dynamicfs status'. "
                 "'dynamicfs umount' lets go of all disks.");
          break;
        }
        refuse(
            ExitCode::kTooFewDisks,
            fmt::format(
                "What is on it has to lie on {} different disks, and without that one there would "
                "be fewer.",
                done.error().detail),
            "Add a disk first: 'dynamicfs disk add'.");
        break;
      case Code::kNoSpace:
        refuse(ExitCode::kFailed,
               fmt::format("The other disks have no room for what is on it: {} MiB are missing.",
                           ceil_div(missing_bytes, kMiB)),
               "Add a disk ('dynamicfs disk add'), or remove files.");
        break;
      case Code::kReadOnly:
        refuse(ExitCode::kFailed, "The pool is read-only.",
               "'dynamicfs status' says what is missing, if anything is: connect that, and mount "
               "the pool for writing.");
        break;
      case Code::kDiskGone:
        refuse(ExitCode::kUsage, "That disk is not here.", "'dynamicfs status' shows which are.");
        break;
      case Code::kBusy:
        refuse(
            ExitCode::kFailed,
            "The disk is offline, but does not answer what it was asked before, so it stays open.",
            "It can be unplugged; what it is part of cannot be unmounted before it answers.");
        break;
      default: refuse(ExitCode::kFailed, describe(done.error()) + ".", "");
    }
  }
  outstanding_.fetch_sub(1);
}

}  // namespace dynamicfs::fs
