// Operations on names: each locks the inodes it concerns by ascending number, checks, appends one
// record and changes memory, without suspending in between.
#include <sys/stat.h>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// What a directory says of a name now; verified again once the inodes are locked.
struct Peek {
  bool is_directory = false;
  InodeId inode;  // 0: no such name
};

Peek peek(Inode& directory, std::string_view name) {
  LockGuard lock(directory.mutex);
  Peek out;
  out.is_directory = directory.directory != nullptr;
  if (out.is_directory) {
    const auto it = directory.directory->find(name);
    if (it != directory.directory->entries().end()) out.inode = it->second.inode;
  }
  return out;
}

bool still_there(const Inode& directory, std::string_view name, InodeId inode)
    DFS_REQUIRES(directory.mutex) {
  if (directory.directory == nullptr) return false;
  const auto it = directory.directory->find(name);
  if (it == directory.directory->entries().end()) return inode.raw == 0;
  return it->second.inode == inode;
}

void changed(Inode& directory, std::int64_t now) DFS_REQUIRES(directory.mutex) {
  directory.mtime_ns.store(now, std::memory_order_relaxed);
  directory.ctime_ns.store(now, std::memory_order_relaxed);
}

}  // namespace

Result<void> Filesystem::Impl::check_name(std::string_view name) {
  if (name.size() > kNameBytesMax) return Code::kNameTooLong;
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string_view::npos ||
      name.find('\0') != std::string_view::npos) {
    return Code::kInvalid;
  }
  return {};
}

Task<Result<Attributes>> Filesystem::lookup(InodeId parent, std::string name) {
  impl_->metrics.lookups.add();
  CO_TRY_ASSIGN(const InodeRef directory, impl_->find(parent));
  const bool by_number = name == "." || name == "..";
  while (true) {
    InodeId id;
    {
      LockGuard lock(directory->mutex);
      if (directory->directory == nullptr) co_return Code::kNotDirectory;
      if (name == ".") {
        id = parent;
      } else if (name == "..") {
        id = parent == kRootInode ? kRootInode : directory->parent;
      } else {
        if (name.size() > kNameBytesMax) co_return Code::kNameTooLong;
        const auto it = directory->directory->find(name);
        if (it == directory->directory->entries().end()) co_return Code::kNotFound;
        id = it->second.inode;
      }
    }
    const InodeRef inode = impl_->inodes.find(id);
    if (!inode || inode->removed) {
      // Removed between the two locks: the name is gone or names another now.
      if (by_number) co_return Code::kStale;
      continue;
    }
    LockGuard lock(inode->mutex);
    if (inode->removed) continue;
    ++inode->lookups;
    co_return inode->attributes();
  }
}

void Filesystem::forget(InodeId id, std::uint64_t references) {
  const InodeRef inode = impl_->inodes.find(id);
  if (!inode) return;
  bool last = false;
  {
    LockGuard lock(inode->mutex);
    inode->lookups -= std::min(inode->lookups, references);
    last = inode->lookups == 0 && inode->nlink == 0 && !inode->removed;
  }
  if (last) impl_->reap_soon(id);
}

Task<Result<Attributes>> Filesystem::Impl::make(InodeId parent, std::string name,
                                                std::uint32_t mode, std::uint32_t rdev,
                                                std::string target, Caller caller) {
  CO_TRY(growable());
  CO_TRY(check_name(name));
  CO_TRY_ASSIGN(const InodeRef directory, find(parent));
  CO_TRY_ASSIGN(const InodeId id, co_await new_inode_id());
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes + target.size());

  const std::uint32_t type = mode & S_IFMT;
  const InodeRef inode{new Inode{id}};
  if (type == S_IFREG) inode->map = std::make_unique<extent::FileMap>(store->memory_epochs());

  const journal::ChangeScope scope(gate);
  const InodeLockSet locks{directory.get(), inode.get()};
  if (directory->directory == nullptr) co_return Code::kNotDirectory;
  if (directory->nlink == 0) co_return Code::kNotFound;
  if (directory->directory->find(name) != directory->directory->entries().end()) {
    co_return Code::kExists;
  }
  const std::optional<std::uint64_t> cookie = directory->directory->free_cookie(name);
  if (!cookie) co_return Code::kNoSpace;
  if (type == S_IFDIR && directory->nlink >= kLinksMax) co_return Code::kTooManyLinks;

  capture_locked(*directory);
  inode->captured.store(checkpoint_number.load(), std::memory_order_relaxed);
  const std::int64_t now = now_ns();
  inode->mode = mode;
  inode->nlink = 1;
  inode->uid = caller.uid;
  inode->gid = caller.gid;
  inode->rdev = rdev;
  inode->atime_ns = inode->mtime_ns = inode->ctime_ns = now;
  inode->btime_ns = now;
  if ((directory->mode & S_ISGID) != 0) {
    inode->gid = directory->gid;
    if (type == S_IFDIR) inode->mode |= S_ISGID;
  }
  if (type == S_IFDIR) {
    inode->directory = std::make_unique<Directory>();
    inode->nlink = 2;
    inode->parent = parent;
    ++directory->nlink;
  }
  inode->lookups = 1;
  changed(*directory, now);

  RecordWriter record;
  record.inode_put(image_of(*inode));
  if (type == S_IFLNK) {
    record.symlink_put(id, target);
    inode->symlink = std::make_unique<std::string>(std::move(target));
  }
  record.inode_put(image_of(*directory));
  record.entry_put(parent, *cookie, id, type, name);
  append(credit, record, {directory.get(), inode.get()});
  const Attributes attributes = inode->attributes();
  directory->directory->put(*cookie, {id, type, std::move(name)});
  inodes.insert(inode);
  metrics.creates.add();
  co_return attributes;
}

Task<Result<Attributes>> Filesystem::mknod(InodeId parent, std::string name, std::uint32_t mode,
                                           std::uint32_t rdev, Caller caller) {
  const std::uint32_t type = mode & S_IFMT;
  if (type == 0) mode |= S_IFREG;
  if (type == S_IFDIR || type == S_IFLNK) co_return Code::kInvalid;
  co_return co_await impl_->make(parent, std::move(name), mode, rdev, {}, caller);
}

Task<Result<Attributes>> Filesystem::mkdir(InodeId parent, std::string name, std::uint32_t mode,
                                           Caller caller) {
  co_return co_await impl_->make(parent, std::move(name), (mode & ~S_IFMT) | S_IFDIR, 0, {},
                                 caller);
}

Task<Result<Attributes>> Filesystem::symlink(InodeId parent, std::string name, std::string target,
                                             Caller caller) {
  if (target.empty()) co_return Code::kNotFound;
  if (target.size() > kSymlinkBytesMax) co_return Code::kNameTooLong;
  co_return co_await impl_->make(parent, std::move(name), S_IFLNK | 0777, 0, std::move(target),
                                 caller);
}

Task<Result<Attributes>> Filesystem::link(InodeId id, InodeId parent, std::string name) {
  CO_TRY(impl_->growable());
  CO_TRY(Impl::check_name(name));
  CO_TRY_ASSIGN(const InodeRef directory, impl_->find(parent));
  CO_TRY_ASSIGN(const InodeRef inode, impl_->find(id));
  journal::Credit credit = co_await impl_->journal->reserve(1, kNameRecordBytes);

  const journal::ChangeScope scope(impl_->gate);
  const InodeLockSet locks{directory.get(), inode.get()};
  if (directory->directory == nullptr) co_return Code::kNotDirectory;
  if (directory->nlink == 0) co_return Code::kNotFound;
  if (inode->is_directory()) co_return Code::kPermission;
  if (inode->removed || inode->nlink == 0) co_return Code::kNotFound;
  if (inode->nlink >= kLinksMax) co_return Code::kTooManyLinks;
  if (directory->directory->find(name) != directory->directory->entries().end()) {
    co_return Code::kExists;
  }
  const std::optional<std::uint64_t> cookie = directory->directory->free_cookie(name);
  if (!cookie) co_return Code::kNoSpace;

  impl_->capture_locked(*directory);
  impl_->capture_locked(*inode);
  const std::int64_t now = impl_->now_ns();
  ++inode->nlink;
  ++inode->lookups;
  inode->ctime_ns.store(now, std::memory_order_relaxed);
  changed(*directory, now);
  const std::uint32_t type = inode->mode & S_IFMT;
  RecordWriter record;
  record.inode_put(image_of(*inode));
  record.inode_put(image_of(*directory));
  record.entry_put(parent, *cookie, id, type, name);
  impl_->append(credit, record, {directory.get(), inode.get()});
  directory->directory->put(*cookie, {id, type, std::move(name)});
  co_return inode->attributes();
}

Task<Result<void>> Filesystem::Impl::remove_name(InodeId parent, std::string name,
                                                 bool want_directory) {
  CO_TRY(writable());
  if (name.size() > kNameBytesMax) co_return Code::kNameTooLong;
  CO_TRY_ASSIGN(const InodeRef directory, find(parent));
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  while (true) {
    const Peek seen = peek(*directory, name);
    if (!seen.is_directory) co_return Code::kNotDirectory;
    if (seen.inode.raw == 0) co_return Code::kNotFound;
    const InodeRef inode = inodes.find(seen.inode);
    if (!inode) continue;

    Lsn lsn;
    bool removed = false;
    {
      const journal::ChangeScope scope(gate);
      const InodeLockSet locks{directory.get(), inode.get()};
      if (inode->removed || !still_there(*directory, name, inode->id)) continue;
      if (want_directory && !inode->is_directory()) co_return Code::kNotDirectory;
      if (!want_directory && inode->is_directory()) co_return Code::kIsDirectory;
      if (want_directory && !inode->directory->empty()) co_return Code::kNotEmpty;

      capture_locked(*directory);
      capture_locked(*inode);
      const std::int64_t now = now_ns();
      const std::uint64_t cookie = directory->directory->find(name)->first;
      if (want_directory) {
        inode->nlink = 0;
        --directory->nlink;
      } else {
        --inode->nlink;
      }
      inode->ctime_ns.store(now, std::memory_order_relaxed);
      changed(*directory, now);
      RecordWriter record;
      record.entry_remove(parent, cookie);
      record.inode_put(image_of(*directory));
      removed = inode->nlink == 0 && inode->lookups == 0;
      if (removed) {
        remove_locked(record, *inode);
      } else {
        record.inode_put(image_of(*inode));
      }
      lsn = append(credit, record, {directory.get(), inode.get()});
      directory->directory->remove(cookie);
    }
    if (removed) release_data(*inode, lsn);
    metrics.unlinks.add();
    co_return {};
  }
}

Task<Result<void>> Filesystem::unlink(InodeId parent, std::string name) {
  co_return co_await impl_->remove_name(parent, std::move(name), false);
}
Task<Result<void>> Filesystem::rmdir(InodeId parent, std::string name) {
  co_return co_await impl_->remove_name(parent, std::move(name), true);
}

bool Filesystem::Impl::is_below(InodeId directory, InodeId ancestor) const {
  while (true) {
    if (directory == ancestor) return true;
    if (directory == kRootInode) return false;
    const InodeRef inode = inodes.find(directory);
    if (!inode) return false;
    LockGuard lock(inode->mutex);
    directory = inode->parent;
  }
}

Task<Result<void>> Filesystem::Impl::rename(InodeId from_parent, std::string from_name,
                                            InodeId to_parent, std::string to_name,
                                            RenameMode mode) {
  CO_TRY(writable());
  CO_TRY(check_name(from_name));
  CO_TRY(check_name(to_name));
  CO_TRY_ASSIGN(const InodeRef from, find(from_parent));
  CO_TRY_ASSIGN(const InodeRef to, find(to_parent));
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  while (true) {
    const Peek seen_a = peek(*from, from_name);
    const Peek seen_b = peek(*to, to_name);
    if (!seen_a.is_directory || !seen_b.is_directory) co_return Code::kNotDirectory;
    if (seen_a.inode.raw == 0) co_return Code::kNotFound;
    if (mode == RenameMode::kExchange && seen_b.inode.raw == 0) co_return Code::kNotFound;
    if (mode == RenameMode::kNoReplace && seen_b.inode.raw != 0) co_return Code::kExists;
    const InodeRef a = inodes.find(seen_a.inode);
    const InodeRef b = seen_b.inode.raw != 0 ? inodes.find(seen_b.inode) : InodeRef{};
    if (!a || (seen_b.inode.raw != 0 && !b)) continue;

    Lsn lsn;
    bool removed = false;
    {
      const journal::ChangeScope scope(gate);
      // The tree above does not change while a directory finds out whether it would move below
      // itself: every other such move waits here.
      const bool moves = from_parent != to_parent;
      std::optional<LockGuard> moving;
      if (moves) {
        moving.emplace(rename_mutex);
        if (is_below(to_parent, a->id)) co_return Code::kInvalid;
        if (b && mode == RenameMode::kExchange && is_below(from_parent, b->id)) {
          co_return Code::kInvalid;
        }
      }
      const InodeLockSet locks{from.get(), to.get(), a.get(), b.get()};
      if (a->removed || (b && b->removed) || !still_there(*from, from_name, a->id) ||
          !still_there(*to, to_name, b ? b->id : InodeId{})) {
        continue;
      }
      if (to->nlink == 0) co_return Code::kNotFound;
      if (a.get() == b.get()) co_return {};  // two names of one file: POSIX does nothing
      const bool a_directory = a->is_directory();
      const bool b_directory = b && b->is_directory();
      if (b && mode == RenameMode::kReplace) {
        if (a_directory && !b_directory) co_return Code::kNotDirectory;
        if (!a_directory && b_directory) co_return Code::kIsDirectory;
        if (b_directory && !b->directory->empty()) co_return Code::kNotEmpty;
      }
      const std::uint64_t from_cookie = from->directory->find(from_name)->first;
      std::uint64_t to_cookie = 0;
      if (b) {
        to_cookie = to->directory->find(to_name)->first;
      } else {
        const std::optional<std::uint64_t> cookie = to->directory->free_cookie(to_name);
        if (!cookie) co_return Code::kNoSpace;
        to_cookie = *cookie;
      }
      if (moves && a_directory && !b_directory && to->nlink >= kLinksMax) {
        co_return Code::kTooManyLinks;
      }

      capture_locked(*from);
      capture_locked(*to);
      capture_locked(*a);
      if (b) capture_locked(*b);
      const std::int64_t now = now_ns();
      const std::uint32_t a_type = a->mode & S_IFMT;
      const std::uint32_t b_type = b ? b->mode & S_IFMT : 0;
      const bool exchange = mode == RenameMode::kExchange;
      // Links of the two directories: ".." of what moves, and of what goes away.
      if (a_directory && moves) {
        --from->nlink;
        ++to->nlink;
        a->parent = to_parent;
      }
      if (b_directory) {
        if (exchange && moves) {
          --to->nlink;
          ++from->nlink;
          b->parent = from_parent;
        }
        if (!exchange) --to->nlink;
      }
      a->ctime_ns.store(now, std::memory_order_relaxed);
      changed(*from, now);
      changed(*to, now);
      RecordWriter record;
      if (exchange) {
        record.entry_put(from_parent, from_cookie, b->id, b_type, from_name);
      } else {
        record.entry_remove(from_parent, from_cookie);
      }
      record.entry_put(to_parent, to_cookie, a->id, a_type, to_name);
      record.inode_put(image_of(*from));
      if (moves) record.inode_put(image_of(*to));
      record.inode_put(image_of(*a));
      if (b) {
        b->ctime_ns.store(now, std::memory_order_relaxed);
        if (!exchange) b->nlink = b_directory ? 0 : b->nlink - 1;
        removed = b->nlink == 0 && b->lookups == 0;
        if (removed) {
          remove_locked(record, *b);
        } else {
          record.inode_put(image_of(*b));
        }
      }
      lsn = append(credit, record, {from.get(), to.get(), a.get(), b.get()});
      if (exchange) {
        from->directory->put(from_cookie, {b->id, b_type, from_name});
      } else {
        from->directory->remove(from_cookie);
      }
      to->directory->put(to_cookie, {a->id, a_type, to_name});
    }
    if (removed) release_data(*b, lsn);
    metrics.renames.add();
    co_return {};
  }
}

Task<Result<void>> Filesystem::rename(InodeId from_parent, std::string from_name, InodeId to_parent,
                                      std::string to_name, RenameMode mode) {
  co_return co_await impl_->rename(from_parent, std::move(from_name), to_parent, std::move(to_name),
                                   mode);
}

Task<Result<std::string>> Filesystem::readlink(InodeId id) {
  CO_TRY_ASSIGN(const InodeRef inode, impl_->find(id));
  LockGuard lock(inode->mutex);
  if (inode->symlink == nullptr) co_return Code::kInvalid;
  co_return *inode->symlink;
}

Task<Result<void>> Filesystem::readdir(InodeId id, std::uint64_t cookie, bool plus,
                                       DirectorySink sink) {
  impl_->metrics.readdirs.add();
  CO_TRY_ASSIGN(const InodeRef directory, impl_->find(id));
  // Copied in small groups, because the attributes of a child need its own mutex, which may not be
  // taken under the directory's (a child's number may be the smaller one).
  struct Copy {
    std::uint64_t cookie;
    Entry entry;
  };
  constexpr std::size_t kGroup = 64;
  while (true) {
    std::vector<Copy> group;
    {
      LockGuard lock(directory->mutex);
      if (directory->directory == nullptr) co_return Code::kNotDirectory;
      if (cookie < kCookieDot) group.push_back({kCookieDot, {id, S_IFDIR, "."}});
      if (cookie < kCookieDotDot) {
        const InodeId parent = id == kRootInode ? kRootInode : directory->parent;
        group.push_back({kCookieDotDot, {parent, S_IFDIR, ".."}});
      }
      const auto& entries = directory->directory->entries();
      for (auto it = entries.upper_bound(cookie); it != entries.end() && group.size() < kGroup;
           ++it) {
        group.push_back({it->first, it->second});
      }
    }
    if (group.empty()) co_return {};
    for (const Copy& copy : group) {
      DirectoryEntry out;
      out.name = copy.entry.name;
      out.inode = copy.entry.inode;
      out.type_bits = copy.entry.type_bits;
      out.next_cookie = copy.cookie;
      cookie = copy.cookie;
      Attributes attributes;
      if (plus && copy.cookie >= kCookieFirst) {
        const InodeRef child = impl_->inodes.find(copy.entry.inode);
        if (!child) continue;
        {
          LockGuard lock(child->mutex);
          if (child->removed) continue;
          attributes = child->attributes();
          ++child->lookups;  // before the sink: the kernel may use the entry at once
        }
        out.attributes = &attributes;
      }
      if (!sink(out)) {
        if (out.attributes != nullptr) forget(copy.entry.inode, 1);
        co_return {};
      }
    }
  }
}

}  // namespace dynamicfs::fs
