// What both the check and the repair of a tree look at and say.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "extent/shared_blocks.hpp"
#include "fs/inode_table.hpp"

namespace dynamicfs::fs {

// "file", "directory", "thing of no type" and so on; of S_IFMT.
const char* type_word(std::uint32_t type_bits);

// The names that inodes have in the directories of a tree that is in memory as a whole, as they are when this is
// made.
class InodePaths {
 public:
  explicit InodePaths(const std::vector<InodeRef>& all);

  // "inode 12 (/d/x)"; without a path if it has none.
  std::string text(InodeId id) const;

 private:
  // By inode: the directory and the name in it, of several names the last one found.
  std::unordered_map<std::uint64_t, std::pair<InodeId, std::string>> names_;
};

// A chunk with a block that two mappings name with different checksums: it was given to one file while
// another had it, so one of them is damaged.
struct Contested {
  ChunkId chunk;
  InodeId first;
  InodeId second;

  std::string text(const InodePaths& paths) const;
};

// One for each such chunk. `shared`: the blocks of a chunk that mappings name more than once; nullptr if
// none are.
std::vector<Contested> contested_blocks(
    const std::vector<InodeRef>& all,
    const std::function<const extent::SharedBlocks*(ChunkId)>& shared);

}  // namespace dynamicfs::fs
