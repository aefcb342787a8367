// What the command asks of the disks of a mounted pool: `dynamicfs disk ...`, answered by the daemon.
//
// Threads  answer() is called on the control server's thread and may take as long as a new disk; the answer comes from any
//          thread. A disk that comes back is opened in a thread of its own, which it may keep.
// Locks    None.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/executor.hpp"
#include "base/mutex.hpp"
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
  // Nothing begins any more.
  void stop();
  // A disk that was to come back has not been opened yet; its thread may use this for as long as it takes.
  bool is_opening() const { return opening_.load() != 0; }
  void answer(const Json& request, ControlReply reply);

 private:
  std::optional<DiskId> find_disk(const std::string& named) const;
  bool is_in_tree(const std::string& path) const;
  void add(const Json& request, ControlReply reply);
  Task<void> answer_added(std::unique_ptr<scheduler::Disk> disk, bool spare, ControlReply reply);
  void open_returned(const std::string& path, ControlReply reply);
  Task<void> answer_returned(std::unique_ptr<scheduler::Disk> disk, ControlReply reply);
  Task<void> follow(std::string command, std::optional<DiskId> disk, ControlReply reply);

  Executor& executor_;
  Filesystem& filesystem_;
  const MountFacts& facts_;
  std::atomic<int>& outstanding_;
  std::atomic<int> opening_{0};
  Mutex mutex_;
  bool stopped_ DFS_GUARDED_BY(mutex_) = false;
};

}  // namespace dynamicfs::fs
