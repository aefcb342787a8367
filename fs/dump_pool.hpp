// `dynamicfs dump`: what stands on the disks of an unmounted pool, in words. Changes nothing, and
// shows what is damaged as far as it can be read.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fs/refusal.hpp"

namespace dynamicfs::fs {

enum class DumpWhat {
  kSuperblocks,  // both copies on every disk
  kJournal,      // every batch of every member; the records of the first
  kRun,          // every entry
};

struct DumpRequest {
  DumpWhat what = DumpWhat::kSuperblocks;
  std::string disk;                 // absolute
  std::vector<std::string> others;  // absolute
};

// Hands the text over piece by piece. kOk, or kAtRisk if something was damaged.
Outcome<ExitCode> dump_pool(const DumpRequest& request,
                            const std::function<void(const std::string&)>& print);

}  // namespace dynamicfs::fs
