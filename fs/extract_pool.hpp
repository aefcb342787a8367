// `dynamicfs extract`: copies files out of a pool that is not mounted, and perhaps cannot be.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fs/control.hpp"
#include "fs/extract_tree.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

struct ExtractRequest {
  std::vector<std::string> disks;  // absolute; one at least
  std::string to;                  // absolute; empty: only list
  std::vector<std::string> only;   // paths in the pool; empty: everything
  bool search = true;              // look for disks that are not named, too
};

struct ExtractHooks {
  // Once, before anything is copied: how many bytes there are about (0: not known), and how many the
  // target has.
  std::function<void(std::uint64_t bytes, std::uint64_t free_bytes)> on_start;
  ExtractTree::Events events;
};

struct ExtractReport {
  std::string pool;  // UUID
  std::string label;
  std::string policy;
  std::string to;
  std::vector<journal::DiskStatus> disks;
  std::uint64_t bytes = 0;  // in files, about, also if only some are wanted
  ExtractCounts counts;
  NotKept not_kept;
  std::vector<std::string> problems;  // but for those told by on_loss
  std::vector<std::string> remarks;

  // kOk, kDegraded (remarks alone) or kAtRisk (problems, or something is missing).
  ExitCode exit_code() const;
  // Problems, remarks and a summary, to stand behind what on_loss has told.
  std::string screen() const;
  // Without that either.
  Json json() const;
};

// What on_loss was told, in a line, and for programs.
std::string loss_text(const ExtractLoss& loss);
Json loss_json(const ExtractLoss& loss);

// Recovers the pool in memory as far as that goes, changing nothing, and copies the tree. A refusal: it
// could not begin. Where the target has no more room it ends, which is a problem of the report.
Outcome<ExtractReport> extract_pool(const ExtractRequest& request, const ExtractHooks& hooks);

}  // namespace dynamicfs::fs
