#include "fs/tree_check.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// What the names say of an inode.
struct Named {
  std::uint32_t names = 0;
  std::uint32_t subdirectories = 0;
  InodeId parent;  // of the last name found
};

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

class TreeCheck {
 public:
  explicit TreeCheck(Filesystem::Impl& fs) : fs_(fs) {}

  TreeReport run() {
    ids_ = fs_.inodes.ids();
    std::ranges::sort(ids_);
    for (const InodeId id : ids_) read_directory(id);
    for (const InodeId id : ids_) check_inode(id);
    check_reachable();
    count_chunks();
    for (const std::string& text : fs_.load_problems) report_.problem(text);
    return std::move(report_);
  }

 private:
  void read_directory(InodeId id) {
    const InodeRef inode = fs_.inodes.find(id);
    LockGuard lock(inode->mutex);
    if (!inode->directory) return;
    for (const auto& [cookie, entry] : inode->directory->entries()) {
      ++report_.names;
      const auto found = inode->directory->find(entry.name);
      if (found == inode->directory->entries().end() || found->first != cookie) {
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
      types_[entry.inode.raw] = entry.type_bits;
    }
  }

  void check_inode(InodeId id) {
    const InodeRef inode = fs_.inodes.find(id);
    LockGuard lock(inode->mutex);
    const std::uint32_t type = inode->mode & S_IFMT;
    const auto at = named_.find(id.raw);
    const Named named = at == named_.end() ? Named{} : at->second;
    const auto typed = types_.find(id.raw);
    if (typed != types_.end() && typed->second != type) {
      report_.problem(fmt::format("inode {} is a {}, its name says {}", id, type_word(type),
                                  type_word(typed->second)));
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
    if (inode->map) report_.data_blocks += inode->map->data_blocks();
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

  // That no slot is two chunks', and no block two files', recovery has seen to.
  void count_chunks() {
    for (const extent::ChunkPut& chunk : fs_.store->chunks()) {
      ++report_.chunks;
      if (chunk.places.size() < chunk.layout.width()) ++report_.thin_chunks;
    }
  }

  Filesystem::Impl& fs_;
  TreeReport report_;
  std::vector<InodeId> ids_;
  std::unordered_map<std::uint64_t, Named> named_;
  std::unordered_map<std::uint64_t, std::uint32_t> types_;
};

}  // namespace

TreeReport Filesystem::check_tree() { return TreeCheck{*impl_}.run(); }

}  // namespace dynamicfs::fs
