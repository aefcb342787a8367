// The two copies of the superblock on one disk: which is newer, which to overwrite next.
#pragma once

#include <cstdint>

#include "base/result.hpp"
#include "base/task.hpp"
#include "journal/superblock.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::journal {

inline constexpr unsigned kSuperblockCopies = 2;
constexpr std::uint64_t superblock_offset(unsigned copy) { return copy * kSuperblockBytes; }

struct FoundSuperblock {
  Superblock superblock;
  unsigned copy = 0;  // 0: A, 1: B
};

// Errors as read_superblock().
Task<Result<FoundSuperblock>> find_superblock(scheduler::Disk& disk);

}  // namespace dynamicfs::journal
