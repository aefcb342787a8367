#include "fs/tree_repair.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"
#include "fs/mapped_blocks.hpp"
#include "fs/tree_facts.hpp"

namespace dynamicfs::fs {
namespace {

constexpr const char* kNothingRepaired =
    "nothing was repaired, because of that: what is not understood may be of what seems to be "
    "nobody's. Copy what can be read to another place ('dynamicfs extract' does it), or restore it "
    "from a backup; do not delete or overwrite files that are named here before that";

// How many mappings name each block of a chunk.
using References = std::array<std::uint32_t, kSlotBlocks>;

References references(const extent::BlockBitmap& live, const extent::SharedBlocks& shared) {
  References out{};
  for (std::uint32_t block = 0; block < kSlotBlocks; ++block) out[block] = live.test(block) ? 1 : 0;
  for (const extent::SharedRun& run : shared.runs()) {
    for (std::uint32_t i = 0; i < run.count; ++i) out[run.block + i] = run.references;
  }
  return out;
}

// Chunks. What the maps name counts.
class SpaceRepair {
 public:
  SpaceRepair(Filesystem::Impl& fs, const std::vector<InodeRef>& all, const InodePaths& paths)
      : fs_(fs), all_(all), paths_(paths) {}

  // What it was and what it is to be; `report` gets what the maps cannot be right about.
  void plan(RepairReport& report) {
    for (auto& [chunk, live] : fs_.store->live()) chunks_[chunk.raw].before.blocks = live;
    for (auto& [chunk, shared] : fs_.store->shared()) chunks_[chunk.raw].before.shared = shared;
    for (const InodeRef& inode : all_) {
      if (inode->map) count(*inode, report);
    }
    // Also where the counts agree: a chunk may say that such a block is shared.
    find_contested(report);
    std::erase_if(chunks_, [](const auto& entry) {
      const State& state = entry.second;
      return state.before.blocks == state.after.blocks && state.before.shared == state.after.shared;
    });
  }
  void carry_out(RepairReport& report) {
    for (const auto& [id, state] : chunks_) {
      fs_.store->recount(ChunkId{id}, state.after.blocks, state.after.shared);
      report.repaired.push_back(text(ChunkId{id}, state));
    }
  }

 private:
  struct State {
    MappedBlocks before;
    MappedBlocks after;
  };

  void count(const Inode& inode, RepairReport& report) {
    bool foreign = false;
    inode.map->for_each([&](const extent::Mapping& mapping) {
      if (mapping.kind != extent::MappingKind::kData) return;
      const auto at = chunks_.find(mapping.chunk.raw);
      if (at == chunks_.end() || mapping.block + mapping.count > kSlotBlocks) {
        foreign = true;
        return;
      }
      at->second.after.add(mapping.block, mapping.count);
    });
    if (!foreign) return;
    report.left.push_back(
        fmt::format("{} has blocks of a chunk that does not exist: where they are is not known",
                    paths_.text(inode.id)));
  }

  // Blocks that several mappings name are shared if all of them have the same checksum. Otherwise they
  // were given to one file while another had them.
  void find_contested(RepairReport& report) const {
    const auto shared = [this](ChunkId chunk) -> const extent::SharedBlocks* {
      const auto at = chunks_.find(chunk.raw);
      return at == chunks_.end() || at->second.after.shared.empty() ? nullptr
                                                                    : &at->second.after.shared;
    };
    for (const Contested& one : contested_blocks(all_, shared))
      report.left.push_back(one.text(paths_));
  }

  static std::string text(ChunkId id, const State& state) {
    const References before = references(state.before.blocks, state.before.shared);
    const References after = references(state.after.blocks, state.after.shared);
    std::uint32_t freed = 0;
    std::uint32_t taken = 0;
    std::uint32_t counted = 0;
    for (std::uint32_t block = 0; block < kSlotBlocks; ++block) {
      if (before[block] == after[block]) continue;
      ++(after[block] == 0 ? freed : before[block] == 0 ? taken : counted);
    }
    std::string out;
    const auto say = [&out](std::uint32_t blocks, const char* what) {
      if (blocks != 0) out += fmt::format("{}{} blocks {}", out.empty() ? "" : ", ", blocks, what);
    };
    say(freed, "that no file has are free");
    say(taken, "that files have are in use");
    say(counted, "are counted as often as files have them");
    return fmt::format("chunk {}: {}", id, out);
  }

  Filesystem::Impl& fs_;
  const std::vector<InodeRef>& all_;
  const InodePaths& paths_;
  std::map<std::uint32_t, State> chunks_;  // in the end those that are to change
};

// Names, links and counts. What the directories have counts.
class NameRepair {
 public:
  NameRepair(Filesystem::Impl& fs, std::vector<InodeRef> all, const InodePaths& paths,
             RepairReport& report)
      : fs_(fs), paths_(paths), all_(std::move(all)), report_(report) {
    for (const InodeRef& inode : all_) by_id_[inode->id.raw] = inode;
  }

  void run() {
    for (const InodeRef& inode : all_) look_at_entries(*inode);
    for (const auto& [id, name] : lost_names_) drop_lost_name(id, name);
    grant_numbers();
    for (const InodeRef& inode : all_) keep_one_name(*inode);
    open_circles();
    adopt_nameless();
    for (const InodeRef& inode : all_) set_links(*inode);
    for (const InodeRef& inode : all_) set_counts(*inode);
    set_sums();
  }

 private:
  struct Name {
    InodeId directory;
    std::uint64_t cookie = 0;
    std::string text;
  };

  template <class... Args>
  void repaired(fmt::format_string<Args...> format, Args&&... args) {
    report_.repaired.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void left(fmt::format_string<Args...> format, Args&&... args) {
    report_.left.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  InodeRef inode_of(InodeId id) const {
    const auto at = by_id_.find(id.raw);
    return at == by_id_.end() ? InodeRef{} : at->second;
  }
  static std::uint32_t type_of(Inode& inode) {
    LockGuard lock(inode.mutex);
    return inode.mode & S_IFMT;
  }

  // Entries.

  void put(Inode& directory, std::uint64_t cookie, Entry entry) {
    LockGuard lock(directory.mutex);
    fs_.modify_locked(directory);
    directory.directory->put(cookie, std::move(entry));
  }
  void drop(Inode& directory, std::uint64_t cookie) {
    LockGuard lock(directory.mutex);
    fs_.modify_locked(directory);
    directory.directory->remove(cookie);
  }
  // Of an inode, which has others, or gets one.
  void drop_name(InodeId id, const Name& name) {
    drop(*inode_of(name.directory), name.cookie);
    std::erase_if(names_[id.raw], [&](const Name& one) {
      return one.directory == name.directory && one.cookie == name.cookie;
    });
  }

  void look_at_entries(Inode& directory) {
    std::vector<std::pair<std::uint64_t, Entry>> entries;
    {
      LockGuard lock(directory.mutex);
      highest_ = std::max(highest_, directory.id.raw);
      if (!directory.directory) return;
      for (auto at = directory.directory->next(0); at;
           at = directory.directory->next(at->cookie + 1)) {
        entries.emplace_back(at->cookie, *at->entry);
      }
      set_name_count(directory, entries.size());
    }
    for (auto& [cookie, entry] : entries) look_at_entry(directory, cookie, std::move(entry));
  }

  void set_name_count(Inode& directory, std::uint64_t names) DFS_REQUIRES(directory.mutex) {
    const std::uint64_t said = directory.directory->count();
    if (said == names) return;
    fs_.modify_locked(directory);
    directory.directory->set_count(names);
    repaired("directory {} said that it had {} names: {}", directory.id, said, names);
  }

  void look_at_entry(Inode& directory, std::uint64_t cookie, Entry entry) {
    const InodeRef inode = inode_of(entry.inode);
    if (!inode) {
      drop(directory, cookie);
      return repaired(
          "the name '{}' in directory {} is removed: it was inode {}, which does not exist",
          entry.name, directory.id, entry.inode);
    }
    const std::uint32_t type = type_of(*inode);
    if (entry.type_bits != type) {
      if (says_what_is_lost(*inode, entry.type_bits)) {
        names_[entry.inode.raw].push_back({directory.id, cookie, entry.name});
        return left("{} is a {}, its name '{}' says {}: one of both is damaged",
                    paths_.text(entry.inode), type_word(type), entry.name,
                    type_word(entry.type_bits));
      }
      entry.type_bits = type;
      put(directory, cookie, entry);
      repaired("the name '{}' in directory {} says of what type inode {} is", entry.name,
               directory.id, entry.inode);
    }
    std::optional<std::uint64_t> place;
    if (fs_.check_name(entry.name).has_value()) place = put_in_place(directory, cookie, entry);
    const Name name{directory.id, place.value_or(cookie), entry.name};
    names_[entry.inode.raw].push_back(name);
    if (!place) lost_names_.emplace_back(entry.inode, name);
  }

  // What the name says has content of a kind that the inode does not have: if its type is wrong, and
  // not the name, that content is there and nobody's.
  static bool says_what_is_lost(const Inode& inode, std::uint32_t type_bits) {
    return (type_bits == S_IFREG && !inode.map) || (type_bits == S_IFDIR && !inode.directory);
  }

  // Where the name is to be found; returns where it is, nothing if another has its place.
  std::optional<std::uint64_t> put_in_place(Inode& directory, std::uint64_t cookie,
                                            const Entry& entry) {
    std::optional<std::uint64_t> place;
    {
      LockGuard lock(directory.mutex);
      const auto found = directory.directory->find(entry.name);
      if (found && found->cookie == cookie) return cookie;
      if (!found) place = directory.directory->free_cookie(entry.name);
    }
    if (!place) return std::nullopt;
    drop(directory, cookie);
    put(directory, *place, entry);
    repaired("the name '{}' in directory {} can be found", entry.name, directory.id);
    return place;
  }

  // No program can say the name, or says another's with it. An inode that has no other is nameless then,
  // and gets one.
  void drop_lost_name(InodeId id, const Name& name) {
    if (type_of(*inode_of(id)) == S_IFDIR && names_[id.raw].size() > 1) {
      return left(
          "directory {} has {} names, one of them '{}' in directory {}, which cannot be used", id,
          names_[id.raw].size(), name.text, name.directory);
    }
    drop_name(id, name);
    repaired("the name '{}' of inode {} in directory {} is removed: no program can find it",
             name.text, id, name.directory);
  }

  // A number that somebody has is not given again.
  void grant_numbers() {
    const std::uint64_t limit = fs_.inode_limit_logged.load();
    if (highest_ < limit) return;
    fs_.inode_limit_logged = highest_ + 1;
    fs_.next_inode = std::max(fs_.next_inode.load(), highest_ + 1);
    repaired("numbers of inodes up to {} are not given again", highest_);
  }

  // Directories.

  // Of several that name where a directory says it is; of the root none.
  void keep_one_name(Inode& inode) {
    const std::vector<Name> names = names_[inode.id.raw];
    const bool root = inode.id == kRootInode;
    if (type_of(inode) != S_IFDIR || names.size() < (root ? 1 : 2)) return;
    const InodeId parent = parent_of(inode);
    const auto in_parent = std::ranges::count(names, parent, &Name::directory);
    if (!root && in_parent != 1) {
      return left(
          "directory {} has {} names, and says it is in directory {}: which of them is right is "
          "not "
          "known",
          inode.id, names.size(), parent);
    }
    for (const Name& name : names) {
      if (!root && name.directory == parent) continue;
      drop_name(inode.id, name);
      repaired("the name '{}' in directory {} is removed: directory {} is in {}", name.text,
               name.directory, inode.id, parent);
    }
  }

  static InodeId parent_of(Inode& inode) {
    LockGuard lock(inode.mutex);
    return inode.parent;
  }

  // Directories that lie in each other: the one with the smallest number is taken out, and then has
  // no name.
  void open_circles() {
    std::unordered_set<std::uint64_t> done{kRootInode.raw};
    for (const InodeRef& inode : all_) {
      std::vector<std::uint64_t> way;
      std::uint64_t at = inode->id.raw;
      while (done.insert(at).second) {
        way.push_back(at);
        const auto named = names_.find(at);
        if (named == names_.end() || named->second.empty()) break;
        at = named->second.back().directory.raw;
      }
      const auto circle = std::ranges::find(way, at);
      const auto named = names_.find(at);
      if (circle == way.end() || named == names_.end() || named->second.empty()) continue;
      const InodeId first{*std::min_element(circle, way.end())};
      const std::vector<Name> names = names_[first.raw];
      if (names.size() == 1) drop_name(first, names.front());
    }
  }

  // What has no name.

  void adopt_nameless() {
    for (const InodeRef& inode : std::vector<InodeRef>(all_)) {
      if (inode->id == kRootInode || !names_[inode->id.raw].empty()) continue;
      const bool listed = is_listed(inode->id);
      bool removed = false;
      {
        LockGuard lock(inode->mutex);
        removed = inode->nlink == 0 &&
                  (listed ? !inode->directory || inode->directory->empty() : is_empty(*inode));
      }
      if (!removed) {
        adopt(*inode);
      } else if (!listed) {
        list_for_removal(inode->id);
      }
    }
  }

  bool is_listed(InodeId id) const {
    LockGuard lock(fs_.orphans_mutex);
    return fs_.orphans.contains(id.raw);
  }

  // Nothing is lost with it. What has lost its last name is listed with that, so an inode that is not
  // listed was not removed.
  static bool is_empty(const Inode& inode) DFS_REQUIRES(inode.mutex) {
    if (inode.directory) return inode.directory->empty();
    if (!inode.map) return inode.symlink == nullptr;
    bool data = false;
    inode.map->for_each(
        [&](const extent::Mapping& one) { data |= one.kind == extent::MappingKind::kData; });
    return !data && inode.size_bytes.load() == 0;
  }

  void list_for_removal(InodeId id) {
    LockGuard lock(fs_.orphans_mutex);
    fs_.orphans.insert(id.raw);
    repaired("inode {} is empty and has neither links nor a name: the next mount removes it", id);
  }

  void adopt(Inode& inode) {
    const InodeRef home = lost_and_found();
    std::string name = fmt::format("inode-{}", inode.id);
    for (int again = 1; is_taken(*home, name); ++again)
      name = fmt::format("inode-{}-{}", inode.id, again);
    if (add_name(*home, inode, name)) {
      repaired("inode {} had no name in the tree: /{}/{}", inode.id, home_name_, name);
    } else {
      left("inode {} has no name, and there is no place for one", inode.id);
    }
  }

  static bool is_taken(Inode& directory, const std::string& name) {
    LockGuard lock(directory.mutex);
    return directory.directory->find(name).has_value();
  }

  bool add_name(Inode& directory, Inode& inode, const std::string& name) {
    std::optional<std::uint64_t> cookie;
    {
      LockGuard lock(directory.mutex);
      cookie = directory.directory->free_cookie(name);
    }
    if (!cookie) return false;
    put(directory, *cookie, {inode.id, type_of(inode), name});
    names_[inode.id.raw].push_back({directory.id, *cookie, name});
    moved_.insert({directory.id.raw, inode.id.raw});
    return true;
  }

  // Made when it is needed first.
  InodeRef lost_and_found() {
    if (home_) return home_;
    Inode& root = *inode_of(kRootInode);
    home_name_ = kLostAndFound;
    for (int again = 1;; ++again) {
      InodeId found;
      {
        LockGuard lock(root.mutex);
        const auto entry = root.directory->find(home_name_);
        if (!entry) break;
        found = entry->entry->inode;
      }
      if (is_private(*inode_of(found))) return home_ = inode_of(found);
      home_name_ = fmt::format("{}-{}", kLostAndFound, again);
    }
    home_ = make_directory();
    DFS_ASSERT(add_name(root, *home_, home_name_));
    return home_;
  }

  // Root's, for nobody else: what is put there may have been in a directory that kept others out.
  static bool is_private(Inode& inode) {
    LockGuard lock(inode.mutex);
    return inode.directory && inode.uid == 0 && (inode.mode & 07777) == 0700;
  }
  InodeRef make_directory() {
    const InodeId id{std::max(fs_.next_inode.load(), fs_.inode_limit_logged.load())};
    fs_.next_inode = id.raw + 1;
    fs_.inode_limit_logged = id.raw + 1;
    InodeRef inode{new Inode{id}};
    {
      LockGuard lock(inode->mutex);
      fs_.modify_new(*inode);
      inode->mode = S_IFDIR | 0700;
      inode->nlink = 2;
      inode->parent = kRootInode;
      inode->directory = std::make_unique<Directory>(fs_.directory_context());
      inode->btime_ns = fs_.now_ns();
      inode->atime_ns = inode->mtime_ns = inode->ctime_ns = inode->btime_ns;
    }
    fs_.inodes.insert(inode);
    ++fs_.inode_count;
    ++made_;
    all_.push_back(inode);
    by_id_[id.raw] = inode;
    return inode;
  }

  // Counts.

  void set_links(Inode& inode) {
    const std::vector<Name>& names = names_[inode.id.raw];
    const bool is_directory = type_of(inode) == S_IFDIR;
    const bool moved = moved_.contains(inode.id.raw);  // it has been told
    std::uint64_t links = names.size();
    if (is_directory)
      links = names.empty() && inode.id != kRootInode ? 0 : 2 + subdirectories(inode);
    LockGuard lock(inode.mutex);
    // What has no name now found no place for one.
    if (names.empty() && inode.nlink != 0 && inode.id != kRootInode) return;
    if (is_directory && (names.size() == 1 || inode.id == kRootInode)) {
      const InodeId parent = names.empty() ? kRootInode : names.front().directory;
      if (inode.parent != parent) {
        fs_.modify_locked(inode);
        if (!moved)
          repaired("directory {} said that it was in directory {}: it is in {}", inode.id,
                   inode.parent, parent);
        inode.parent = parent;
      }
    }
    if (inode.nlink == links) return;
    fs_.modify_locked(inode);
    if (!moved) repaired("inode {} had {} links: {}", inode.id, inode.nlink, links);
    inode.nlink = static_cast<std::uint32_t>(links);
    fs_.note_orphan(inode);
  }

  std::uint64_t subdirectories(Inode& directory) {
    LockGuard lock(directory.mutex);
    std::uint64_t count = 0;
    for (auto at = directory.directory->next(0); at;
         at = directory.directory->next(at->cookie + 1)) {
      count += at->entry->type_bits == S_IFDIR ? 1 : 0;
    }
    return count;
  }

  void set_counts(Inode& inode) {
    leave_incomplete(inode);
    if (!inode.map) return;
    extent::FileMap::Stored counted;
    std::uint64_t end = 0;
    inode.map->for_each([&](const extent::Mapping& mapping) {
      const bool data = mapping.kind == extent::MappingKind::kData;
      (data ? counted.data_blocks : counted.reserved_blocks) += mapping.count;
      if (data) end = mapping.first.raw + mapping.count;
    });
    reserved_ += counted.reserved_blocks;
    LockGuard lock(inode.mutex);
    if (end > ceil_div(inode.size_bytes.load(), kBlockBytes)) {
      left("{} has data behind its end: which of both is right is not known",
           paths_.text(inode.id));
    }
    if (counted.data_blocks < inode.map->data_blocks()) {
      left(
          "{} has {} blocks, and said that it had {}: part of it may be lost, and reads as zeros; "
          "compare it with a backup",
          paths_.text(inode.id), counted.data_blocks, inode.map->data_blocks());
    }
    if (counted.data_blocks == inode.map->data_blocks() &&
        counted.reserved_blocks == inode.map->reserved_blocks()) {
      return;
    }
    fs_.modify_locked(inode);
    repaired("inode {} said that it had {} blocks and {} reserved ones: {} and {}", inode.id,
             inode.map->data_blocks(), inode.map->reserved_blocks(), counted.data_blocks,
             counted.reserved_blocks);
    inode.map->set_counts(counted);
  }

  void leave_incomplete(Inode& inode) {
    LockGuard lock(inode.mutex);
    const std::uint32_t type = inode.mode & S_IFMT;
    const bool of_a_type = type == S_IFREG || type == S_IFDIR || type == S_IFLNK ||
                           type == S_IFCHR || type == S_IFBLK || type == S_IFIFO ||
                           type == S_IFSOCK;
    if (of_a_type && (type == S_IFLNK) == (inode.symlink != nullptr)) return;
    left("{} is a {} and has not what that needs, or what another needs", paths_.text(inode.id),
         type_word(type));
  }

  void set_sums() {
    if (reserved_ != fs_.reserved_blocks.load()) {
      repaired("the pool said that files had {} reserved blocks: {}", fs_.reserved_blocks.load(),
               reserved_);
      fs_.reserved_blocks = reserved_;
    }
    if (all_.size() != fs_.inode_count.load()) {
      repaired("the pool said that there were {} inodes: {}", fs_.inode_count.load() - made_,
               all_.size() - made_);
      fs_.inode_count = all_.size();
    }
  }

  Filesystem::Impl& fs_;
  const InodePaths& paths_;
  std::vector<InodeRef> all_;  // ascending, and what is made
  RepairReport& report_;
  std::unordered_map<std::uint64_t, InodeRef> by_id_;
  std::unordered_map<std::uint64_t, std::vector<Name>> names_;  // by inode
  std::vector<std::pair<InodeId, Name>> lost_names_;            // that nobody can use
  std::unordered_set<std::uint64_t> moved_;                     // got a name, or a name in it
  InodeRef home_;
  std::string home_name_;
  std::uint64_t made_ = 0;     // inodes
  std::uint64_t highest_ = 0;  // number of an inode that is there
  std::uint64_t reserved_ = 0;
};

}  // namespace

// All or nothing: as long as something is not understood, what nobody has may be what that one means. An
// error: not everything can be read. With an error, or something left, nothing is written.
Task<Result<void>> Filesystem::Impl::repair_tree() {
  for (const journal::DiskStatus& disk : pool->status()) {
    if (disk.health == journal::DiskHealth::kHealthy) continue;
    const bool stale = disk.health == journal::DiskHealth::kStale;
    repairs.left.push_back(fmt::format(
        "nothing is repaired while disk {} ({}) is {}: what only it has would be taken for lost; "
        "{}",
        disk.record.id, disk.record.path, journal::disk_health_name(disk.health),
        stale ? "mount the pool until the disk has caught up"
              : "connect it, or name it as well if it has moved; if it is gone for good, mount the "
                "pool and take it out with 'dynamicfs disk remove'"));
  }
  if (!repairs.left.empty()) co_return Result<void>{};
  CO_TRY_ASSIGN(const std::vector<InodeRef> all, co_await load_everything());
  const InodeRef root = inodes.find(kRootInode);
  if (!root || !root->directory) co_return error(Code::kFormatInvalid, kRootInode.raw);
  repairs.left = stored_problems;
  const InodePaths paths{all};
  SpaceRepair space(*this, all, paths);
  space.plan(repairs);
  NameRepair(*this, all, paths, repairs).run();
  if (!repairs.left.empty()) {
    // What is changed in memory by now is never written.
    repairs.repaired.clear();
    repairs.left.emplace_back(kNothingRepaired);
    co_return Result<void>{};
  }
  space.carry_out(repairs);
  if (!load_problems.empty()) {
    repairs.repaired.emplace_back(
        "what the log says and the chunks contradict is written down as the files have it");
  }
  if (!options.read_only) {
    for (const std::string& what : repairs.repaired) log_warning("repair: {}", what);
  }
  co_return Result<void>{};
}

const RepairReport& Filesystem::repair_report() const { return impl_->repairs; }

}  // namespace dynamicfs::fs
