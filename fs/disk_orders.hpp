// What the command asks of the disks of a mounted pool: `dynamicfs disk ...`, answered by the daemon.
//
// Threads  answer() is called on the control server's thread and may take as long as the disk that it opens; the answer comes
//          from any thread.
// Locks    None.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/executor.hpp"
#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/status.hpp"

namespace dynamicfs::fs {

class DiskOrders {
 public:
  // All outlive this. `outstanding` counts the answers that are still to be given: before it is zero none of them may go.
  DiskOrders(Executor& executor, Filesystem& filesystem, const MountFacts& facts,
             std::atomic<int>& outstanding)
      : executor_(executor), filesystem_(filesystem), facts_(facts), outstanding_(outstanding) {}

  static bool takes(const std::string& command);
  void answer(const Json& request, ControlReply reply);

 private:
  std::optional<DiskId> find_disk(const std::string& named) const;
  bool is_in_tree(const std::string& path) const;
  void add(const Json& request, ControlReply reply);
  Task<void> answer_added(std::unique_ptr<scheduler::Disk> disk, bool spare, ControlReply reply);
  void bring_online(const std::string& path, ControlReply reply);
  Task<void> answer_returned(std::unique_ptr<scheduler::Disk> disk, ControlReply reply);
  Task<void> follow(std::string command, std::optional<DiskId> disk, ControlReply reply);

  Executor& executor_;
  Filesystem& filesystem_;
  const MountFacts& facts_;
  std::atomic<int>& outstanding_;
};

}  // namespace dynamicfs::fs
