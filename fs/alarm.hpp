// Tells somebody when the state of a mounted pool changes: runs a command of theirs, for mail or a message.
//
// State    What the exit status of `dynamicfs status` says, the state of the pool, and that of each disk; figures are none. It is
//          looked at every few seconds, and is healthy when the watch begins, so a pool that is mounted degraded is told of.
// Command  One at a time, as the user of the daemon, in /: with the new state as its argument, what `status` says of the
//          pool as its input, and DYNAMICFS_MOUNTPOINT, DYNAMICFS_POOL, DYNAMICFS_LABEL, DYNAMICFS_STATE, DYNAMICFS_STATE_BEFORE and
//          DYNAMICFS_EXIT in its environment. What changes meanwhile is told when it has ended. It may not wait for the end
//          of the mount: that waits for nothing of it.
// Threads  One of its own. The source is called on it, and may wait for a disk.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "fs/status.hpp"

namespace dynamicfs::fs {

class Alarm {
 public:
  // `command`: the path of a program. `status`: as build_status().
  Alarm(std::string command, std::function<Json()> status);
  // Runs nothing any more.
  ~Alarm();
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

 private:
  void watch();
  void look();
  void tell(const Json& status, const std::string& state, const std::string& before);

  const std::string command_;
  const std::function<Json()> status_;
  // Of the thread.
  std::string key_;
  std::string state_ = "healthy";
  pid_t child_ = 0;  // 0: none

  std::mutex mutex_;  // leaf
  std::condition_variable stop_asked_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace dynamicfs::fs
