// Operations on names: each finds the inodes it concerns and has in memory what it will look at
// (residency.cpp), locks them by ascending number, checks, appends one record and changes memory,
// without suspending in between.
#include <sys/stat.h>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"
#include "fs/posix_acl.hpp"

namespace dynamicfs::fs {
namespace {

// Of new inodes so many, some 30 KiB, come between two looks at what is in memory: a look takes a
// microsecond or two.
constexpr std::uint64_t kCreatesBetweenLooks = 64;

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
    const auto found = directory.directory->find(name);
    if (found) out.inode = found->entry->inode;
  }
  return out;
}

bool still_there(const Inode& directory, std::string_view name, InodeId inode)
    DFS_REQUIRES(directory.mutex) {
  if (directory.directory == nullptr) return false;
  const auto found = directory.directory->find(name);
  return (found ? found->entry->inode : InodeId{}) == inode;
}

// May a name be added to a directory, or taken from it; may this one be taken away. As Linux has it in
// fs/namei.c (may_create, may_delete), which does not know the flags of files on FUSE.
Result<void> may_add(const Inode& directory) {
  if (directory.has_flag(kFlagImmutable)) return Code::kPermission;
  return {};
}
Result<void> may_take(const Inode& directory, const Inode& inode) {
  constexpr std::uint32_t kEither = kFlagImmutable | kFlagAppendOnly;
  if (directory.has_flag(kEither) || inode.has_flag(kEither)) return Code::kPermission;
  return {};
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
  CO_TRY_ASSIGN(const InodeRef directory, co_await impl_->find(parent));
  const bool by_number = name == "." || name == "..";
  if (!by_number && name.size() <= kNameBytesMax) {
    CO_TRY(co_await impl_->load_name(*directory, name));
  }
  while (true) {
    InodeId id;
    {
      LockGuard lock(directory->mutex);
      if (name == ".") {
        // Of whatever kind: this is how the kernel finds the inode of a handle that it has forgotten.
        id = parent;
      } else if (directory->directory == nullptr) {
        co_return Code::kNotDirectory;
      } else if (name == "..") {
        id = parent == kRootInode ? kRootInode : directory->parent;
      } else {
        if (name.size() > kNameBytesMax) co_return Code::kNameTooLong;
        const auto found = directory->directory->find(name);
        if (!found) co_return Code::kNotFound;
        id = found->entry->inode;
      }
    }
    const Result<InodeRef> found = co_await impl_->find(id);
    if (!found.has_value() && (by_number || found.error().code != Code::kStale)) {
      co_return found.error();
    }
    // Removed between the two locks: the name is gone or names another now.
    if (!found.has_value()) {
      CO_TRY(impl_->missing(*directory, name, id));
      continue;
    }
    const InodeRef inode = *found;
    LockGuard lock(inode->mutex);
    if (inode->removed) {
      if (by_number) co_return Code::kStale;
      continue;
    }
    // The kernel asks for "." of what it does not have, so nobody has it open: a file without a name is
    // only still here because its FORGET is on the way.
    if (name == "." && inode->nlink == 0) co_return Code::kStale;
    ++inode->lookups;
    co_return inode->attributes();
  }
}

void Filesystem::forget(InodeId id, std::uint64_t references) {
  InodeRef inode = impl_->inodes.find(id);
  while (!inode) {
    // It may be loaded, or evicted, between two looks.
    if (impl_->inodes.forget_evicted(id, references)) return;
    inode = impl_->inodes.find(id);
    if (!inode && !impl_->inodes.is_evicted(id)) return;
  }
  bool last = false;
  {
    LockGuard lock(inode->mutex);
    inode->lookups -= std::min(inode->lookups, references);
    last = inode->lookups == 0 && inode->nlink == 0 && !inode->removed;
  }
  if (last) impl_->reap_soon(id);
}

void Filesystem::Impl::set_up(Inode& inode, const Inode& directory, std::uint32_t mode,
                              const Caller& caller, const std::string* acl) {
  const std::uint32_t type = mode & S_IFMT;
  inode.mode = mode;
  inode.uid = caller.uid;
  inode.gid = caller.gid;
  inode.btime_ns = now_ns();
  inode.atime_ns = inode.mtime_ns = inode.ctime_ns = inode.btime_ns;
  if (type == S_IFREG || type == S_IFDIR) {
    inode.flags = directory.flags & (kFlagNoDump | kFlagNoAtime);
  }
  if ((directory.mode & S_ISGID) != 0) {
    inode.gid = directory.gid;
    if (type == S_IFDIR) inode.mode |= S_ISGID;
  }
  if (type == S_IFREG || type == S_IFDIR) {
    if (const std::string* const policy = find_xattr(directory, kPolicyXattr))
      put_xattr(inode, std::string{kPolicyXattr}, *policy);
  }
  if ((acl == nullptr || !inherit_acl(inode, *acl)) && type != S_IFLNK) {
    inode.mode &= ~(caller.umask & 0777);
  }
}

Task<Result<Attributes>> Filesystem::Impl::make(InodeId parent, std::string name,
                                                std::uint32_t mode, std::uint32_t rdev,
                                                std::string target, Caller caller) {
  CO_TRY(growable());
  CO_TRY(check_name(name));
  CO_TRY_ASSIGN(const InodeRef directory, co_await find(parent));
  CO_TRY(co_await load_name(*directory, name, true));
  CO_TRY_ASSIGN(const InodeId id, co_await new_inode_id());
  if (id.raw % kCreatesBetweenLooks == 0) look_at_memory();
  const std::uint32_t type = mode & S_IFMT;
  const InodeRef inode{new Inode{id}};
  if (type == S_IFREG) inode->map = std::make_unique<extent::FileMap>(store->map_context());

  for (std::size_t acl_bytes = 0;;) {
    journal::Credit credit =
        co_await journal->reserve(1, kNameRecordBytes + target.size() + 2 * acl_bytes);
    const journal::ChangeScope scope(gate);
    const InodeLockSet locks{directory.get(), inode.get()};
    if (directory->directory == nullptr) co_return Code::kNotDirectory;
    if (directory->nlink == 0) co_return Code::kNotFound;
    if (directory->directory->find(name)) co_return Code::kExists;
    CO_TRY(may_add(*directory));
    const std::optional<std::uint64_t> cookie = directory->directory->free_cookie(name);
    if (!cookie) co_return Code::kNoSpace;
    if (type == S_IFDIR && directory->nlink >= kLinksMax) co_return Code::kTooManyLinks;
    const std::string* const acl =
        options.acl && type != S_IFLNK ? find_xattr(*directory, kDefaultAcl) : nullptr;
    if (acl != nullptr && acl->size() > acl_bytes) {
      acl_bytes = acl->size();
      continue;
    }

    modify_locked(*directory);
    modify_new(*inode);
    inode->nlink = 1;
    inode->rdev = rdev;
    set_up(*inode, *directory, mode, caller, acl);
    if (type == S_IFDIR) {
      inode->directory = std::make_unique<Directory>(directory_context());
      inode->nlink = 2;
      inode->parent = parent;
      ++directory->nlink;
    }
    inode->lookups = 1;
    changed(*directory, inode->btime_ns);

    RecordWriter record;
    record.inode_put(image_of(*inode));
    if (inode->xattrs) {
      for (const auto& [attribute, value] : *inode->xattrs) record.xattr_put(id, attribute, value);
    }
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
    ++inode_count;
    metrics.creates.add();
    co_return attributes;
  }
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

// One record: the inode, an orphan from the start. So a crash leaves one that the next mount removes, or
// nothing.
Task<Result<Attributes>> Filesystem::tmpfile(InodeId parent, std::uint32_t mode, Caller caller) {
  Impl& impl = *impl_;
  CO_TRY(impl.growable());
  CO_TRY_ASSIGN(const InodeRef directory, co_await impl.find(parent));
  CO_TRY_ASSIGN(const InodeId id, co_await impl.new_inode_id());
  if (id.raw % kCreatesBetweenLooks == 0) impl.look_at_memory();
  const InodeRef inode{new Inode{id}};
  inode->map = std::make_unique<extent::FileMap>(impl.store->map_context());

  for (std::size_t acl_bytes = 0;;) {
    journal::Credit credit = co_await impl.journal->reserve(1, kNameRecordBytes + 2 * acl_bytes);
    const journal::ChangeScope scope(impl.gate);
    const InodeLockSet locks{directory.get(), inode.get()};
    if (directory->directory == nullptr) co_return Code::kNotDirectory;
    CO_TRY(may_add(*directory));
    const std::string* const acl =
        impl.options.acl ? Impl::find_xattr(*directory, kDefaultAcl) : nullptr;
    if (acl != nullptr && acl->size() > acl_bytes) {
      acl_bytes = acl->size();
      continue;
    }
    impl.modify_new(*inode);
    impl.set_up(*inode, *directory, S_IFREG | (mode & 07777), caller, acl);
    inode->lookups = 1;
    RecordWriter record;
    record.inode_put(image_of(*inode));
    if (inode->xattrs) {
      for (const auto& [attribute, value] : *inode->xattrs) record.xattr_put(id, attribute, value);
    }
    impl.append(credit, record, {inode.get()});
    impl.note_orphan(*inode);
    const Attributes attributes = inode->attributes();
    impl.inodes.insert(inode);
    ++impl.inode_count;
    impl.metrics.creates.add();
    co_return attributes;
  }
}

Task<Result<Attributes>> Filesystem::link(InodeId id, InodeId parent, std::string name) {
  CO_TRY(impl_->growable());
  CO_TRY(Impl::check_name(name));
  CO_TRY_ASSIGN(const InodeRef directory, co_await impl_->find(parent));
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  CO_TRY(co_await impl_->load_name(*directory, name, true));
  journal::Credit credit = co_await impl_->journal->reserve(1, kNameRecordBytes);

  const journal::ChangeScope scope(impl_->gate);
  const InodeLockSet locks{directory.get(), inode.get()};
  if (directory->directory == nullptr) co_return Code::kNotDirectory;
  if (directory->nlink == 0) co_return Code::kNotFound;
  if (inode->is_directory() || inode->has_flag(kFlagImmutable | kFlagAppendOnly)) {
    co_return Code::kPermission;
  }
  CO_TRY(may_add(*directory));
  if (inode->removed) co_return Code::kNotFound;
  if (inode->nlink >= kLinksMax) co_return Code::kTooManyLinks;
  if (directory->directory->find(name)) co_return Code::kExists;
  const std::optional<std::uint64_t> cookie = directory->directory->free_cookie(name);
  if (!cookie) co_return Code::kNoSpace;

  impl_->modify_locked(*directory);
  impl_->modify_locked(*inode);
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
  impl_->note_orphan(*inode);
  directory->directory->put(*cookie, {id, type, std::move(name)});
  co_return inode->attributes();
}

Task<Result<void>> Filesystem::Impl::remove_name(InodeId parent, std::string name,
                                                 bool want_directory) {
  CO_TRY(writable());
  if (name.size() > kNameBytesMax) co_return Code::kNameTooLong;
  CO_TRY_ASSIGN(const InodeRef directory, co_await find(parent));
  CO_TRY(co_await load_name(*directory, name));
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  while (true) {
    const Peek seen = peek(*directory, name);
    if (!seen.is_directory) co_return Code::kNotDirectory;
    if (seen.inode.raw == 0) co_return Code::kNotFound;
    const Result<InodeRef> found = co_await find(seen.inode);
    if (!found.has_value() && found.error().code != Code::kStale) co_return found.error();
    if (!found.has_value()) {
      CO_TRY(missing(*directory, name, seen.inode));
      continue;
    }
    const InodeRef inode = *found;
    if (inode->map) {
      CO_TRY(co_await load_if_last(*inode));
    }
    {
      const journal::ChangeScope scope(gate);
      const InodeLockSet locks{directory.get(), inode.get()};
      if (inode->removed || !still_there(*directory, name, inode->id)) continue;
      CO_TRY(may_take(*directory, *inode));
      if (want_directory && !inode->is_directory()) co_return Code::kNotDirectory;
      if (!want_directory && inode->is_directory()) co_return Code::kIsDirectory;
      if (want_directory && !inode->directory->empty()) co_return Code::kNotEmpty;

      const bool removed = inode->lookups == 0 && (want_directory || inode->nlink == 1);
      if (removed && inode->map && !inode->map->is_whole()) continue;
      const auto extents = lock_all_windows(*inode);
      modify_locked(*directory);
      modify_locked(*inode);
      const std::int64_t now = now_ns();
      const std::uint64_t cookie = directory->directory->find(name)->cookie;
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
      if (removed) {
        remove_locked(record, *inode);
      } else {
        record.inode_put(image_of(*inode));
        note_orphan(*inode);
      }
      const Lsn lsn = append(credit, record, {directory.get(), inode.get()});
      directory->directory->remove(cookie);
      if (removed) release_data(*inode, lsn);
    }
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

std::optional<bool> Filesystem::Impl::is_below(InodeId directory, InodeId ancestor) const {
  while (true) {
    if (directory == ancestor) return true;
    if (directory == kRootInode) return false;
    const InodeRef inode = inodes.find(directory);
    if (!inode) return std::nullopt;
    LockGuard lock(inode->mutex);
    if (inode->removed) return false;
    directory = inode->parent;
  }
}

Task<Result<std::vector<InodeRef>>> Filesystem::Impl::ancestors(InodeId directory) {
  std::vector<InodeRef> all;
  while (directory != kRootInode) {
    CO_TRY_ASSIGN(InodeRef inode, co_await find(directory));
    {
      LockGuard lock(inode->mutex);
      directory = inode->parent;
    }
    all.push_back(std::move(inode));
  }
  co_return all;
}

// The last name of a file with data takes the data along: all of its windows must be in memory.
Task<Result<void>> Filesystem::Impl::load_if_last(Inode& inode) {
  {
    LockGuard lock(inode.mutex);
    if (inode.nlink > 1 || inode.lookups != 0 || inode.map->is_whole()) co_return Result<void>{};
  }
  co_return co_await load_windows(inode, FileBlock{0}, ~std::uint64_t{0});
}

// The inode of a name was not found. If the name still says so it never will be.
Result<void> Filesystem::Impl::missing(Inode& directory, std::string_view name, InodeId inode) {
  LockGuard lock(directory.mutex);
  if (!directory.removed && still_there(directory, name, inode) && !inodes.find(inode)) {
    log_error("'{}' in directory {} is inode {}, which does not exist", name, directory.id, inode);
    return error(Code::kFormatInvalid, inode.raw);
  }
  return {};
}

Task<Result<void>> Filesystem::Impl::rename(InodeId from_parent, std::string from_name,
                                            InodeId to_parent, std::string to_name, RenameMode mode,
                                            std::optional<Caller> whiteout) {
  CO_TRY(writable());
  if (whiteout && mode == RenameMode::kExchange) co_return Code::kInvalid;
  CO_TRY(check_name(from_name));
  CO_TRY(check_name(to_name));
  CO_TRY_ASSIGN(const InodeRef from, co_await find(from_parent));
  CO_TRY_ASSIGN(const InodeRef to, co_await find(to_parent));
  CO_TRY(co_await load_name(*from, from_name));
  CO_TRY(co_await load_name(*to, to_name, true));
  const bool moves = from_parent != to_parent;
  InodeRef left;  // in place of the old name
  if (whiteout) {
    CO_TRY(growable());
    CO_TRY_ASSIGN(const InodeId id, co_await new_inode_id());
    left = InodeRef{new Inode{id}};
  }
  journal::Credit credit = co_await journal->reserve(1, kNameRecordBytes);
  while (true) {
    const Peek seen_a = peek(*from, from_name);
    const Peek seen_b = peek(*to, to_name);
    if (!seen_a.is_directory || !seen_b.is_directory) co_return Code::kNotDirectory;
    if (seen_a.inode.raw == 0) co_return Code::kNotFound;
    if (mode == RenameMode::kExchange && seen_b.inode.raw == 0) co_return Code::kNotFound;
    if (mode == RenameMode::kNoReplace && seen_b.inode.raw != 0) co_return Code::kExists;
    const Result<InodeRef> found_a = co_await find(seen_a.inode);
    if (!found_a.has_value() && found_a.error().code != Code::kStale) co_return found_a.error();
    if (!found_a.has_value()) {
      CO_TRY(missing(*from, from_name, seen_a.inode));
      continue;
    }
    const InodeRef a = *found_a;
    InodeRef b;
    if (seen_b.inode.raw != 0) {
      const Result<InodeRef> found_b = co_await find(seen_b.inode);
      if (!found_b.has_value() && found_b.error().code != Code::kStale) co_return found_b.error();
      if (!found_b.has_value()) {
        CO_TRY(missing(*to, to_name, seen_b.inode));
        continue;
      }
      b = *found_b;
      if (b->map && mode == RenameMode::kReplace) {
        CO_TRY(co_await load_if_last(*b));
      }
    }
    // Referred to, so that they are in memory below.
    std::vector<InodeRef> above_to;
    std::vector<InodeRef> above_from;
    if (moves) {
      CO_TRY_ASSIGN(above_to, co_await ancestors(to_parent));
      CO_TRY_ASSIGN(above_from, co_await ancestors(from_parent));
    }

    {
      const journal::ChangeScope scope(gate);
      // The tree above does not change while a directory finds out whether it would move below
      // itself: every other such move waits here.
      std::optional<LockGuard> moving;
      if (moves) {
        moving.emplace(rename_mutex);
        const std::optional<bool> a_above = is_below(to_parent, a->id);
        const std::optional<bool> b_above = b && mode == RenameMode::kExchange
                                                ? is_below(from_parent, b->id)
                                                : std::optional{false};
        if (!a_above || !b_above) continue;  // moved meanwhile, to below what is not in memory
        if (*a_above || *b_above) co_return Code::kInvalid;
      }
      const InodeLockSet locks{from.get(), to.get(), a.get(), b.get(), left.get()};
      if (a->removed || (b && b->removed) || !still_there(*from, from_name, a->id) ||
          !still_there(*to, to_name, b ? b->id : InodeId{})) {
        continue;
      }
      if (to->nlink == 0) co_return Code::kNotFound;
      if (a.get() == b.get()) co_return {};  // two names of one file: POSIX does nothing
      CO_TRY(may_take(*from, *a));
      CO_TRY(may_add(*to));
      if (b) {
        CO_TRY(may_take(*to, *b));
      }
      const bool a_directory = a->is_directory();
      const bool b_directory = b && b->is_directory();
      if (b && mode == RenameMode::kReplace) {
        if (a_directory && !b_directory) co_return Code::kNotDirectory;
        if (!a_directory && b_directory) co_return Code::kIsDirectory;
        if (b_directory && !b->directory->empty()) co_return Code::kNotEmpty;
      }
      const bool replaces = b && mode == RenameMode::kReplace;
      const bool removed = replaces && b->lookups == 0 && (b_directory || b->nlink == 1);
      if (removed && b->map && !b->map->is_whole()) continue;
      const std::uint64_t from_cookie = from->directory->find(from_name)->cookie;
      std::uint64_t to_cookie = 0;
      if (b) {
        to_cookie = to->directory->find(to_name)->cookie;
      } else {
        const std::optional<std::uint64_t> cookie = to->directory->free_cookie(to_name);
        if (!cookie) co_return Code::kNoSpace;
        to_cookie = *cookie;
      }
      if (moves && a_directory && !b_directory && to->nlink >= kLinksMax) {
        co_return Code::kTooManyLinks;
      }

      std::optional<extent::ExtentLocks::Guard> extents;
      if (removed) extents.emplace(lock_all_windows(*b));
      modify_locked(*from);
      modify_locked(*to);
      modify_locked(*a);
      if (b) modify_locked(*b);
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
      if (left) {
        modify_new(*left);
        left->nlink = 1;
        set_up(*left, *from, S_IFCHR, *whiteout, nullptr);
        record.inode_put(image_of(*left));
        record.entry_put(from_parent, from_cookie, left->id, S_IFCHR, from_name);
      } else if (exchange) {
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
        if (removed) {
          remove_locked(record, *b);
        } else {
          record.inode_put(image_of(*b));
          note_orphan(*b);
        }
      }
      const Lsn lsn = append(credit, record, {from.get(), to.get(), a.get(), b.get(), left.get()});
      if (left) {
        from->directory->put(from_cookie, {left->id, S_IFCHR, from_name});
        inodes.insert(left);
        ++inode_count;
      } else if (exchange) {
        from->directory->put(from_cookie, {b->id, b_type, from_name});
      } else {
        from->directory->remove(from_cookie);
      }
      to->directory->put(to_cookie, {a->id, a_type, to_name});
      if (removed) release_data(*b, lsn);
    }
    metrics.renames.add();
    co_return {};
  }
}

Task<Result<void>> Filesystem::rename(InodeId from_parent, std::string from_name, InodeId to_parent,
                                      std::string to_name, RenameMode mode,
                                      std::optional<Caller> whiteout) {
  co_return co_await impl_->rename(from_parent, std::move(from_name), to_parent, std::move(to_name),
                                   mode, whiteout);
}

Task<Result<std::string>> Filesystem::readlink(InodeId id) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  LockGuard lock(inode->mutex);
  if (inode->symlink == nullptr) co_return Code::kInvalid;
  co_return *inode->symlink;
}

Task<Result<void>> Filesystem::readdir(InodeId id, std::uint64_t cookie, bool plus,
                                       DirectorySink sink, bool sets_atime) {
  impl_->metrics.readdirs.add();
  CO_TRY_ASSIGN(const InodeRef directory, co_await impl_->find(id));
  {
    LockGuard lock(directory->mutex);
    if (directory->directory == nullptr) co_return Code::kNotDirectory;
  }
  if (sets_atime) impl_->note_read(*directory);
  // Copied in small groups, because the attributes of a child need its own mutex, which may not be
  // taken under the directory's (a child's number may be the smaller one).
  struct Copy {
    std::uint64_t cookie;
    Entry entry;
  };
  constexpr std::size_t kGroup = 64;
  bool given = false;         // the sink has taken something
  std::uint64_t here_to = 0;  // names with cookies in front of this one are in memory
  while (true) {
    std::vector<Copy> group;
    if (cookie + 1 >= here_to) {
      const Result<std::uint64_t> loaded = co_await impl_->load_entries(*directory, cookie + 1);
      // Behind entries that the kernel gets an error would be lost, and their references with it: the
      // next call meets it first.
      if (!loaded.has_value() && given) co_return {};
      CO_TRY_ASSIGN(here_to, loaded);
    }
    {
      LockGuard lock(directory->mutex);
      if (cookie < kCookieDot) group.push_back({kCookieDot, {id, S_IFDIR, "."}});
      if (cookie < kCookieDotDot) {
        const InodeId parent = id == kRootInode ? kRootInode : directory->parent;
        group.push_back({kCookieDotDot, {parent, S_IFDIR, ".."}});
      }
      auto found = directory->directory->next(cookie + 1);
      while (found && found->cookie < here_to && group.size() < kGroup) {
        group.push_back({found->cookie, *found->entry});
        found = directory->directory->next(found->cookie + 1);
      }
    }
    if (group.empty()) {
      if (here_to == ~std::uint64_t{0}) co_return {};
      cookie = here_to - 1;  // what was there has been removed meanwhile
      continue;
    }
    for (const Copy& copy : group) {
      DirectoryEntry out;
      out.name = copy.entry.name;
      out.inode = copy.entry.inode;
      out.type_bits = copy.entry.type_bits;
      out.next_cookie = copy.cookie;
      cookie = copy.cookie;
      Attributes attributes;
      if (plus && copy.cookie >= kCookieFirst) {
        const Result<InodeRef> child = co_await impl_->find(copy.entry.inode);
        if (!child.has_value() && child.error().code == Code::kStale) continue;
        // An inode that cannot be read still has its name here; who looks it up gets the error.
        if (child.has_value()) {
          LockGuard lock((*child)->mutex);
          if ((*child)->removed) continue;
          attributes = (*child)->attributes();
          ++(*child)->lookups;  // before the sink: the kernel may use the entry at once
          out.attributes = &attributes;
        }
      }
      if (!sink(out)) {
        if (out.attributes != nullptr) forget(copy.entry.inode, 1);
        co_return {};
      }
      given = true;
    }
  }
}

}  // namespace dynamicfs::fs
