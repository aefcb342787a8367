// Attributes of files and directories: mode, owner, times; and extended ones.
#include <sys/stat.h>

#include <algorithm>

#include "fs/filesystem.hpp"
#include "fs/filesystem_impl.hpp"
#include "fs/posix_acl.hpp"

namespace dynamicfs::fs {

Task<Result<Attributes>> Filesystem::getattr(InodeId id) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  LockGuard lock(inode->mutex);
  co_return inode->attributes();
}

void Filesystem::Impl::note_read(Inode& inode) {
  if (options.read_only || inode.has_flag(kFlagNoAtime)) return;
  const AtimeRules rules = atime_rules.load(std::memory_order_relaxed);
  const AtimeRule rule = inode.is_regular() ? rules.files : rules.directories;
  if (rule == AtimeRule::kNever) return;
  constexpr std::int64_t kDayNs = 86'400'000'000'000;
  const std::int64_t atime = inode.atime_ns.load(std::memory_order_relaxed);
  const std::int64_t now = now_ns();
  if (rule == AtimeRule::kRelative && atime > inode.mtime_ns.load(std::memory_order_relaxed) &&
      atime > inode.ctime_ns.load(std::memory_order_relaxed) && now - atime < kDayNs) {
    return;
  }
  const journal::ChangeScope scope(gate);
  LockGuard lock(inode.mutex);
  if (!inode.removed) modify_locked(inode);
  inode.atime_ns.store(now, std::memory_order_relaxed);
}

namespace {

// As Linux has it in fs/attr.c (may_setattr). A kernel with a writeback cache also sends times of its own,
// of what was written: before the file became immutable, or by appending.
Result<void> may_set(const Inode& inode, const AttributeChange& change) {
  const bool immutable = inode.has_flag(kFlagImmutable);
  if (!immutable && !inode.has_flag(kFlagAppendOnly)) return {};
  if (change.mode || change.uid || change.gid || change.size_bytes || change.atime_ns) {
    return Code::kPermission;
  }
  if (immutable && (change.atime_now || change.mtime_now || change.kill_suid_sgid)) {
    return Code::kPermission;
  }
  if (change.mtime_ns) {
    const bool from_before =
        change.ctime_ns && *change.ctime_ns <= inode.ctime_ns.load(std::memory_order_relaxed);
    const bool of_now = !immutable && change.ctime_ns == change.mtime_ns;
    if (!from_before && !of_now) return Code::kPermission;
  }
  return {};
}

// What the kernel sends of a file that it has stamped for a write.
bool is_stamp(const AttributeChange& change) {
  return change.mtime_ns && change.ctime_ns && !change.atime_ns && !change.atime_now &&
         !change.mtime_now && !change.mode && !change.uid && !change.gid && !change.size_bytes &&
         !change.kill_suid_sgid;
}

// As Linux has it in fs/xattr.c (xattr_permission).
Result<void> may_set_xattr(const Inode& inode) {
  if (inode.has_flag(kFlagImmutable | kFlagAppendOnly)) return Code::kPermission;
  return {};
}

}  // namespace

Task<Result<void>> Filesystem::set_flags(InodeId id, std::uint32_t flags) {
  CO_TRY(impl_->writable());
  if ((flags & ~kFlagsAll) != 0) co_return Code::kNotSupported;
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  journal::Credit credit = co_await impl_->journal->reserve(1, kNameRecordBytes);
  const journal::ChangeScope scope(impl_->gate);
  const InodeLockSet locks{inode.get()};
  // Writes that change no attribute hold these alone: each comes before the flags or sees them.
  const auto extents = impl_->lock_all_windows(*inode);
  if (inode->removed) co_return Code::kStale;
  if (!inode->is_regular() && !inode->is_directory()) co_return Code::kNotSupported;
  inode->stamp_refused.store(false, std::memory_order_relaxed);
  impl_->modify_locked(*inode);
  inode->flags.store(flags, std::memory_order_release);
  inode->ctime_ns = impl_->now_ns();
  RecordWriter record;
  record.inode_put(image_of(*inode));
  impl_->append(credit, record, {inode.get()});
  co_return {};
}

Task<Result<Attributes>> Filesystem::setattr(InodeId id, AttributeChange change) {
  impl_->metrics.setattrs.add();
  CO_TRY(impl_->writable());
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  if (const Result<void> may = may_set(*inode, change); !may.has_value()) {
    // Whoever closes the file next, a reader perhaps, would be told of it.
    const bool follows = is_stamp(change) && inode->stamp_refused.exchange(false);
    if (!follows) co_return may.error();
    co_return co_await getattr(id);
  }
  const AttributeChange asked = change;
  const std::int64_t now = impl_->now_ns();
  if (change.atime_now) change.atime_ns = now;
  if (change.mtime_now) change.mtime_ns = now;
  if (change.size_bytes) {
    if (!inode->is_regular()) co_return Code::kInvalid;
    CO_TRY(co_await impl_->truncate(inode, *change.size_bytes, change));
    if (!change.mode && !change.uid && !change.gid) co_return co_await getattr(id);
  }
  for (std::size_t acl_bytes = 0;;) {
    journal::Credit credit = co_await impl_->journal->reserve(1, kNameRecordBytes + acl_bytes);
    const journal::ChangeScope scope(impl_->gate);
    const InodeLockSet locks{inode.get()};
    if (inode->removed) co_return Code::kStale;
    CO_TRY(may_set(*inode, asked));
    const std::string* const acl = change.mode ? Impl::find_xattr(*inode, kAccessAcl) : nullptr;
    if (acl != nullptr && acl->size() > acl_bytes) {
      acl_bytes = acl->size();
      continue;
    }
    impl_->modify_locked(*inode);
    const bool owner_changes = change.uid || change.gid;
    if ((owner_changes || change.kill_suid_sgid) && !inode->is_directory()) {
      Impl::kill_suid_sgid(*inode);
    }
    RecordWriter record;
    if (change.mode) {
      inode->mode = (inode->mode & S_IFMT) | (*change.mode & 07777);
      if (acl != nullptr) impl_->chmod_acl(*inode, *acl, record);
    }
    if (change.uid) inode->uid = *change.uid;
    if (change.gid) inode->gid = *change.gid;
    if (change.atime_ns) inode->atime_ns = *change.atime_ns;
    if (change.mtime_ns) inode->mtime_ns = *change.mtime_ns;
    inode->ctime_ns = change.ctime_ns.value_or(now);
    record.inode_put(image_of(*inode));
    impl_->append(credit, record, {inode.get()});
    co_return inode->attributes();
  }
}

bool Filesystem::attributes_outdated(InodeId id) {
  const InodeRef inode = impl_->inodes.find(id);
  return !inode || inode->attributes_answered.exchange(false, std::memory_order_seq_cst);
}

void Filesystem::set_atime_rules(AtimeRules rules) { impl_->atime_rules.store(rules); }

bool Filesystem::keeps_acls() const { return impl_->options.acl; }

bool Filesystem::has_xattrs(InodeId id) {
  const InodeRef inode = impl_->inodes.find(id);
  return !inode || inode->has_xattrs.load(std::memory_order_acquire);
}

void Filesystem::Impl::put_xattr(Inode& inode, std::string name, std::string value) {
  if (!inode.xattrs) inode.xattrs = std::make_unique<XattrMap>();
  (*inode.xattrs)[std::move(name)] = std::move(value);
  inode.xattrs_era = eras.current.load(std::memory_order_relaxed);
  inode.note_xattrs(metadata_memory);
}

void Filesystem::Impl::remove_xattr(Inode& inode, const std::string& name) {
  if (!inode.xattrs) return;
  inode.xattrs->erase(name);
  inode.xattrs_era = eras.current.load(std::memory_order_relaxed);
  inode.note_xattrs(metadata_memory);
}

const std::string* Filesystem::Impl::find_xattr(const Inode& inode, std::string_view name) {
  if (!inode.xattrs) return nullptr;
  const auto found = inode.xattrs->find(name);
  return found != inode.xattrs->end() ? &found->second : nullptr;
}

// The mode has been set: its list follows.
void Filesystem::Impl::chmod_acl(Inode& inode, const std::string& value, RecordWriter& record) {
  Result<PosixAcl> acl = PosixAcl::parse(value);
  if (!acl.has_value()) return;  // of a time when nobody looked at what was set
  acl->chmod(inode.mode);
  std::string changed = acl->encode();
  record.xattr_put(inode.id, kAccessAcl, changed);
  put_xattr(inode, std::string{kAccessAcl}, std::move(changed));
}

bool Filesystem::Impl::inherit_acl(Inode& inode, const std::string& value) {
  Result<PosixAcl> acl = PosixAcl::parse(value);
  if (!acl.has_value()) return false;
  if (inode.is_directory()) put_xattr(inode, std::string{kDefaultAcl}, value);
  inode.mode = (inode.mode & ~std::uint32_t{0777}) | acl->inherit(inode.mode & 0777);
  if (!acl->is_minimal()) put_xattr(inode, std::string{kAccessAcl}, acl->encode());
  return true;
}

Task<Result<std::string>> Filesystem::getxattr(InodeId id, std::string name) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  if (!inode->has_xattrs.load(std::memory_order_acquire)) co_return Code::kNoAttribute;
  LockGuard lock(inode->mutex);
  const std::string* const value = Impl::find_xattr(*inode, name);
  if (value == nullptr) co_return Code::kNoAttribute;
  co_return *value;
}

Task<Result<void>> Filesystem::setxattr(InodeId id, std::string name, std::string value,
                                        XattrMode mode, bool kill_sgid) {
  CO_TRY(impl_->growable());
  if (name.empty() || name.size() > kNameBytesMax) co_return Code::kRange;
  if (value.size() > kXattrValueBytesMax) co_return Code::kTooManyLinks;
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  std::optional<std::uint32_t> permissions;  // that the mode gets
  bool stored = true;
  if (name == kAccessAcl || name == kDefaultAcl) {
    if (!impl_->options.acl) co_return Code::kNotSupported;
    CO_TRY_ASSIGN(const PosixAcl acl, PosixAcl::parse(value));
    if (name == kAccessAcl) {
      permissions = acl.mode();
      stored = !acl.is_minimal();
    } else if (!inode->is_directory()) {
      co_return Code::kAccess;
    }
  }
  std::optional<AsyncMutex::Guard> policies;
  if (name == kPolicyXattr) {
    const std::optional<journal::Policy> policy = journal::Policy::parse(value);
    if (!policy) co_return Code::kInvalid;
    {
      // Nothing is made ready for what is refused below.
      const InodeLockSet locks{inode.get()};
      CO_TRY(may_set_xattr(*inode));
      const bool there = Impl::find_xattr(*inode, name) != nullptr;
      if (mode == XattrMode::kCreate && there) co_return Code::kExists;
      if (mode == XattrMode::kReplace && !there) co_return Code::kNoAttribute;
    }
    policies.emplace(co_await impl_->policy_mutex.acquire());
    CO_TRY(co_await impl_->prepare_for_policy(*inode, *policy));
  }
  bool other_policy = false;
  {
    journal::Credit credit =
        co_await impl_->journal->reserve(1, kNameRecordBytes + name.size() + value.size());
    const journal::ChangeScope scope(impl_->gate);
    const InodeLockSet locks{inode.get()};
    if (inode->removed) co_return Code::kStale;
    CO_TRY(may_set_xattr(*inode));
    const bool there = Impl::find_xattr(*inode, name) != nullptr;
    if (mode == XattrMode::kCreate && there) co_return Code::kExists;
    if (mode == XattrMode::kReplace && !there) co_return Code::kNoAttribute;
    if (!there) {
      std::size_t list_bytes = name.size() + 1;
      if (inode->xattrs) {
        for (const auto& [other, ignored] : *inode->xattrs) list_bytes += other.size() + 1;
      }
      if (list_bytes > kXattrListBytesMax) co_return Code::kNoSpace;
    }
    impl_->modify_locked(*inode);
    inode->ctime_ns = impl_->now_ns();
    if (permissions) inode->mode = (inode->mode & ~std::uint32_t{0777}) | *permissions;
    if (permissions && kill_sgid) inode->mode &= ~std::uint32_t{S_ISGID};
    RecordWriter record;
    if (stored) record.xattr_put(id, name, value);
    if (!stored && there) record.xattr_remove(id, name);
    record.inode_put(image_of(*inode));
    impl_->append(credit, record, {inode.get()});
    const journal::Policy before = impl_->policy_of(*inode);
    if (stored) {
      impl_->put_xattr(*inode, std::move(name), std::move(value));
    } else {
      impl_->remove_xattr(*inode, name);
    }
    other_policy = impl_->policy_of(*inode) != before;
  }
  if (other_policy) co_return co_await impl_->note_policy_set(*inode);
  co_return {};
}

Task<Result<void>> Filesystem::removexattr(InodeId id, std::string name) {
  CO_TRY(impl_->writable());
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  std::optional<AsyncMutex::Guard> policies;
  if (name == kPolicyXattr) {
    policies.emplace(co_await impl_->policy_mutex.acquire());
    CO_TRY(co_await impl_->prepare_for_policy(*inode, std::nullopt));
  }
  bool other_policy = false;
  {
    journal::Credit credit = co_await impl_->journal->reserve(1, kNameRecordBytes);
    const journal::ChangeScope scope(impl_->gate);
    const InodeLockSet locks{inode.get()};
    if (inode->removed) co_return Code::kStale;
    CO_TRY(may_set_xattr(*inode));
    if (Impl::find_xattr(*inode, name) == nullptr) co_return Code::kNoAttribute;
    impl_->modify_locked(*inode);
    inode->ctime_ns = impl_->now_ns();
    RecordWriter record;
    record.xattr_remove(id, name);
    record.inode_put(image_of(*inode));
    impl_->append(credit, record, {inode.get()});
    const journal::Policy before = impl_->policy_of(*inode);
    impl_->remove_xattr(*inode, name);
    other_policy = impl_->policy_of(*inode) != before;
  }
  if (other_policy) co_return co_await impl_->note_policy_set(*inode);
  co_return {};
}

Task<Result<std::string>> Filesystem::listxattr(InodeId id) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  LockGuard lock(inode->mutex);
  std::string names;
  if (inode->xattrs) {
    for (const auto& [name, value] : *inode->xattrs) {
      names += name;
      names += '\0';
    }
  }
  co_return names;
}

}  // namespace dynamicfs::fs
