#include "fs/tree_facts.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <map>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// Who named a block first, and with which checksum.
struct BlockClaim {
  InodeId inode;
  std::uint32_t crc = 0;
};

}  // namespace

const char* type_word(std::uint32_t type_bits) {
  switch (type_bits) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symbolic link";
    case S_IFCHR: return "character device";
    case S_IFBLK: return "block device";
    case S_IFIFO: return "pipe";
    case S_IFSOCK: return "socket";
    default: return "thing of no type";
  }
}

InodePaths::InodePaths(const std::vector<InodeRef>& all) {
  for (const InodeRef& inode : all) {
    LockGuard lock(inode->mutex);
    if (!inode->directory) continue;
    for (auto at = inode->directory->next(0); at; at = inode->directory->next(at->cookie + 1))
      names_.insert_or_assign(at->entry->inode.raw, std::pair{inode->id, at->entry->name});
  }
}

std::string InodePaths::text(InodeId id) const {
  std::string path;
  constexpr int kDepthMax = 10'000;  // directories may lie in each other
  InodeId at = id;
  for (int depth = 0; at != kRootInode && depth < kDepthMax; ++depth) {
    const auto named = names_.find(at.raw);
    if (named == names_.end()) break;
    path = "/" + named->second.second + path;
    at = named->second.first;
  }
  if (at != kRootInode) return fmt::format("inode {}", id);
  return fmt::format("inode {} ({})", id, path.empty() ? "/" : path);
}

std::string Contested::text(const InodePaths& paths) const {
  return fmt::format(
      "chunk {} has a block that {} and {} have with different contents: one of them is damaged",
      chunk, paths.text(first), paths.text(second));
}

std::vector<Contested> contested_blocks(
    const std::vector<InodeRef>& all,
    const std::function<const extent::SharedBlocks*(ChunkId)>& shared) {
  std::unordered_map<std::uint64_t, BlockClaim> claims;  // by chunk and block
  std::map<std::uint32_t, Contested> out;
  extent::MappingSet set;
  const auto claim = [&](const Inode& inode, const extent::Mapping& mapping) {
    if (mapping.kind != extent::MappingKind::kData) return;
    const extent::SharedBlocks* const blocks = shared(mapping.chunk);
    if (blocks == nullptr || !blocks->any(mapping.block, mapping.count)) return;
    set.clear();
    inode.map->snapshot(mapping.first, mapping.count, set);
    for (const extent::Mapping& part : set.mappings) {
      if (part.kind != extent::MappingKind::kData) continue;
      for (std::uint32_t i = 0; i < part.count; ++i) {
        const std::uint64_t block = std::uint64_t{part.chunk.raw} * kSlotBlocks + part.block + i;
        const BlockClaim mine{.inode = inode.id, .crc = set.crcs[part.crc_index + i]};
        const auto [first, fresh] = claims.emplace(block, mine);
        if (fresh || first->second.crc == mine.crc) continue;
        out.emplace(
            part.chunk.raw,
            Contested{.chunk = part.chunk, .first = first->second.inode, .second = mine.inode});
      }
    }
  };
  for (const InodeRef& inode : all) {
    if (!inode->map) continue;
    inode->map->for_each([&](const extent::Mapping& mapping) { claim(*inode, mapping); });
  }
  std::vector<Contested> list;
  list.reserve(out.size());
  for (const auto& [chunk, one] : out) list.push_back(one);
  return list;
}

}  // namespace dynamicfs::fs
