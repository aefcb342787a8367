// `dynamicfs check`: whether an unmounted pool is as it should be. Changes nothing, unless it is to repair.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

struct CheckRequest {
  std::string disk;                 // absolute
  std::vector<std::string> others;  // where other disks are now, absolute
  bool data = false;                // read all data in every copy as well
  bool repair = false;  // mend what can be derived again (fs/tree_repair.hpp), then look again
};

// What was found. `problems` are contradictions and losses; `remarks` is what redundancy makes up for.
struct CheckReport {
  std::string pool;  // UUID
  std::string label;
  std::string policy;
  std::vector<journal::DiskStatus> disks;
  bool empty = false;  // never mounted: there is nothing but superblocks
  bool clean = false;  // unmounted in order
  MountReport recovery;
  TreeReport tree;
  ScrubReport scrub;
  bool data = false;
  std::vector<std::string> problems;
  std::vector<std::string> remarks;
  bool repair = false;  // it was asked for: everything else is as found afterwards
  std::vector<std::string> repaired;
  std::vector<std::string>
      left;  // what is not understood, or why it was not tried: nothing is repaired

  // kOk, kDegraded (remarks alone) or kAtRisk (problems, or a repair that was not done).
  ExitCode exit_code() const;
  std::string screen() const;
  Json json() const;
};

// Recovers the pool in memory as a read-only mount would, then compares everything with everything.
// `progress` is told from time to time while copies are read. A pool that cannot be recovered is a
// report with problems; refused is what could not be looked at: no disk of ours, in use, disks missing
// beyond what the policy tolerates. With `repair` the pool is opened for writing only if all that is wrong
// in the tree can be repaired.
Outcome<CheckReport> check_pool(const CheckRequest& request,
                                const std::function<void(const ScrubReport&)>& progress);

}  // namespace dynamicfs::fs
