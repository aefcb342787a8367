#include "fs/tree_check.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <map>
#include <unordered_map>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"
#include "fs/mapped_blocks.hpp"
#include "fs/tree_facts.hpp"

namespace dynamicfs::fs {
namespace {

// What the names say of an inode.
struct Named {
  std::uint32_t names = 0;
  std::uint32_t subdirectories = 0;
  InodeId parent;  // of the last name found
};

// A bit for each type that names say an inode has.
std::uint32_t type_bit(std::uint32_t type_bits) { return 1U << (type_bits >> 12 & 15); }

class TreeCheck {
 public:
  TreeCheck(Filesystem::Impl& fs, const std::vector<InodeRef>& all) : fs_(fs), all_(all) {}

  TreeReport run() {
    ids_ = fs_.inodes.ids();
    std::ranges::sort(ids_);
    for (const InodeId id : ids_) read_directory(id);
    for (const InodeId id : ids_) check_inode(id);
    check_reachable();
    check_space();
    check_contested();
    for (const std::string& text : fs_.load_problems) report_.problem(text);
    for (const std::string& text : fs_.stored_problems) report_.problem(text);
    return std::move(report_);
  }

 private:
  void read_directory(InodeId id) {
    const InodeRef inode = fs_.inodes.find(id);
    LockGuard lock(inode->mutex);
    if (!inode->directory) return;
    const Directory& directory = *inode->directory;
    std::uint64_t names = 0;
    for (auto at = directory.next(0); at; at = directory.next(at->cookie + 1)) {
      const Entry& entry = *at->entry;
      ++report_.names;
      ++names;
      const auto found = directory.find(entry.name);
      if (!found || found->cookie != at->cookie) {
        report_.problem(
            fmt::format("directory {} has the name '{}' where it cannot be found", id, entry.name));
      }
      if (!fs_.check_name(entry.name).has_value() || entry.name == "." || entry.name == "..") {
        report_.problem(fmt::format("directory {} has an entry without a proper name", id));
      }
      if (!fs_.inodes.find(entry.inode)) {
        report_.problem(fmt::format("'{}' in directory {} is inode {}, which does not exist",
                                    entry.name, id, entry.inode));
        continue;
      }
      Named& named = named_[entry.inode.raw];
      ++named.names;
      named.parent = id;
      if (entry.type_bits == S_IFDIR) ++named_[id.raw].subdirectories;
      types_[entry.inode.raw] |= type_bit(entry.type_bits);
    }
    if (names != directory.count()) {
      report_.problem(fmt::format("directory {} has {} names and says it has {}", id, names,
                                  directory.count()));
    }
  }

  void check_inode(InodeId id) {
    const InodeRef inode = fs_.inodes.find(id);
    LockGuard lock(inode->mutex);
    const std::uint32_t type = inode->mode & S_IFMT;
    const auto at = named_.find(id.raw);
    const Named named = at == named_.end() ? Named{} : at->second;
    const auto typed = types_.find(id.raw);
    const std::uint32_t others = typed == types_.end() ? 0 : typed->second & ~type_bit(type);
    if (others != 0) {
      const auto said = static_cast<std::uint32_t>(std::countr_zero(others)) << 12;
      report_.problem(
          fmt::format("inode {} is a {}, its name says {}", id, type_word(type), type_word(said)));
    }
    if (id.raw >= fs_.inode_limit_logged.load()) {
      report_.problem(fmt::format("inode {} has a number that may be given again", id));
    }
    if (inode->is_directory() != (inode->directory != nullptr) ||
        (type == S_IFREG) != inode->is_regular() ||
        (type == S_IFLNK) != (inode->symlink != nullptr)) {
      report_.problem(
          fmt::format("inode {} is a {} and has not what that needs", id, type_word(type)));
    }
    if (inode->nlink == 0) {
      ++report_.orphans;
      if (!is_orphan(id))
        report_.problem(fmt::format("inode {} has no links and is not listed for removal", id));
      if (named.names != 0) report_.problem(fmt::format("inode {} has names and no links", id));
    }
    if (type == S_IFDIR) {
      ++report_.directories;
      check_directory(id, *inode, named);
    } else {
      ++(type == S_IFREG ? report_.files : report_.others);
      if (inode->nlink != named.names) {
        report_.problem(
            fmt::format("inode {} has {} links and {} names", id, inode->nlink, named.names));
      }
    }
    if (inode->map) check_file(id, *inode->map, inode->size_bytes.load());
  }

  void check_directory(InodeId id, const Inode& inode, const Named& named)
      DFS_REQUIRES(inode.mutex) {
    const bool root = id == kRootInode;
    if (inode.nlink != 0 && inode.nlink != 2 + named.subdirectories) {
      report_.problem(fmt::format("directory {} has {} links and {} directories in it", id,
                                  inode.nlink, named.subdirectories));
    }
    if (inode.nlink == 0 && !inode.directory->empty()) {
      report_.problem(fmt::format("directory {} is removed and not empty", id));
    }
    if (inode.nlink != 0 && !root && named.names != 1) {
      report_.problem(fmt::format("directory {} has {} names", id, named.names));
    }
    if (named.names == 1 && inode.parent != named.parent) {
      report_.problem(fmt::format("directory {} is in directory {} and says it is in {}", id,
                                  named.parent, inode.parent));
    }
    if (root && (named.names != 0 || inode.parent != kRootInode))
      report_.problem("the root directory lies in another one");
  }

  bool is_orphan(InodeId id) const {
    LockGuard lock(fs_.orphans_mutex);
    return fs_.orphans.contains(id.raw);
  }

  // Every directory with a name leads to the root: no circle apart from the tree.
  void check_reachable() {
    if (!fs_.inodes.find(kRootInode)) return report_.problem("there is no root directory");
    std::unordered_map<std::uint64_t, bool> leads;
    leads[kRootInode.raw] = true;
    for (const InodeId id : ids_) {
      std::vector<std::uint64_t> way;
      bool orphan = false;
      std::uint64_t at = id.raw;
      while (!leads.contains(at)) {
        leads[at] = false;  // until the way has ended: meeting it again is a circle
        way.push_back(at);
        const auto named = named_.find(at);
        orphan = named == named_.end() || named->second.names == 0;
        if (orphan) break;
        at = named->second.parent.raw;
      }
      const bool good = leads[at] || orphan;
      for (const std::uint64_t step : way) leads[step] = good;
      if (!good) report_.problem(fmt::format("inode {} cannot be reached from the root", id));
    }
  }

  // What the windows of all files name is what chunks have, block by block, as often as they say.
  void check_file(InodeId id, const extent::FileMap& map, std::uint64_t size_bytes) {
    std::uint64_t data = 0;
    std::uint64_t reserved = 0;
    bool foreign = false;
    bool behind_end = false;
    const std::uint64_t end = ceil_div(size_bytes, kBlockBytes);
    map.for_each([&](const extent::Mapping& mapping) {
      // Whoever changes what is behind the end of a file holds its mutex and not its extent locks.
      behind_end |=
          mapping.kind == extent::MappingKind::kData && mapping.first.raw + mapping.count > end;
      (mapping.kind == extent::MappingKind::kData ? data : reserved) += mapping.count;
      if (mapping.kind != extent::MappingKind::kData || foreign) return;
      if (mapping.block + mapping.count > kSlotBlocks) {
        foreign = true;
        return;
      }
      mapped_[mapping.chunk.raw].add(mapping.block, mapping.count);
    });
    if (behind_end) report_.problem(fmt::format("inode {} has data behind its end", id));
    if (foreign) report_.problem(fmt::format("inode {} has blocks that are not its own", id));
    if (data != map.data_blocks() || reserved != map.reserved_blocks()) {
      report_.problem(fmt::format("inode {} has {} blocks and {} reserved ones, and says {} and {}",
                                  id, data, reserved, map.data_blocks(), map.reserved_blocks()));
    }
    report_.data_blocks += data;
    reserved_ += reserved;
  }

  // Chunks may say that such blocks are shared.
  void check_contested() {
    const std::vector<Contested> found =
        contested_blocks(all_, [this](ChunkId chunk) -> const extent::SharedBlocks* {
          const auto at = mapped_.find(chunk.raw);
          return at == mapped_.end() || at->second.shared.empty() ? nullptr : &at->second.shared;
        });
    if (found.empty()) return;
    const InodePaths paths{all_};
    for (const Contested& one : found) report_.problem(one.text(paths));
  }

  // That no slot is two chunks' recovery has seen to.
  void check_space() {
    for (const extent::ChunkPut& chunk : fs_.store->chunks()) {
      ++report_.chunks;
      if (chunk.places.size() < chunk.layout.width()) ++report_.thin_chunks;
    }
    std::unordered_map<std::uint32_t, bool> known;
    std::unordered_map<std::uint32_t, extent::SharedBlocks> counted;
    for (auto& [chunk, shared] : fs_.store->shared()) counted[chunk.raw] = std::move(shared);
    const MappedBlocks nothing;
    for (const auto& [chunk, live] : fs_.store->live()) {
      known[chunk.raw] = true;
      const auto at = mapped_.find(chunk.raw);
      const MappedBlocks& mapped = at == mapped_.end() ? nothing : at->second;
      if (live != mapped.blocks) {
        report_.problem(fmt::format(
            "chunk {} has blocks in use that no file has, or the other way round", chunk));
      } else if (counted[chunk.raw] != mapped.shared) {
        report_.problem(fmt::format(
            "chunk {} has blocks that files name more often than it says, or less", chunk));
      }
      report_.saved_blocks += mapped.shared.saved();
    }
    for (const auto& [chunk, mapped] : mapped_) {
      if (!known.contains(chunk))
        report_.problem(fmt::format("chunk {} is named by a file and does not exist", chunk));
    }
    if (reserved_ != fs_.reserved_blocks.load()) {
      report_.problem(fmt::format("files have {} reserved blocks, the pool says {}", reserved_,
                                  fs_.reserved_blocks.load()));
    }
    if (ids_.size() != fs_.inode_count.load()) {
      report_.problem(fmt::format("there are {} inodes, the pool says {}", ids_.size(),
                                  fs_.inode_count.load()));
    }
  }

  Filesystem::Impl& fs_;
  const std::vector<InodeRef>& all_;
  TreeReport report_;
  std::vector<InodeId> ids_;
  std::unordered_map<std::uint64_t, Named> named_;
  std::unordered_map<std::uint64_t, std::uint32_t> types_;  // that the names say
  std::unordered_map<std::uint32_t, MappedBlocks> mapped_;  // by chunk
  std::uint64_t reserved_ = 0;
};

}  // namespace

Task<Result<TreeReport>> Filesystem::check_tree() {
  CO_TRY_ASSIGN(const std::vector<InodeRef> all, co_await impl_->load_everything());
  co_return TreeCheck(*impl_, all).run();
}

}  // namespace dynamicfs::fs
