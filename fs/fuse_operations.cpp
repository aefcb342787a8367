#define FUSE_USE_VERSION 312

#include "fs/fuse_operations.hpp"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include "base/assert.hpp"
#include "base/mutex.hpp"
#include "base/task.hpp"
#include "fs/fuse_request.hpp"
#include "fs/kernel_time.hpp"
#include "fs/posix_acl.hpp"

namespace dynamicfs::fs {

namespace {

// Tasks: one call on Filesystem, one answer.

Task<void> serve_lookup(Request request, InodeId parent, std::string name) {
  // An NFS server asks for "." of a number that may be gone: that is no name to remember as absent.
  const bool by_name = name != "." && name != "..";
  const auto found = co_await request.filesystem().lookup(parent, std::move(name));
  if (found) {
    request.entry(*found);
  } else if (by_name && found.error().code == Code::kNotFound) {
    request.no_entry();
  } else {
    request.fail(found.error());
  }
}

// For every operation that makes an inode, or a name of one.
Task<void> serve_made(Request request, Task<Result<Attributes>> making) {
  const auto made = co_await std::move(making);
  if (made) {
    request.entry(*made);
  } else {
    request.fail(made.error());
  }
}

Task<void> serve_attributes(Request request, Task<Result<Attributes>> asking) {
  const auto attributes = co_await std::move(asking);
  if (attributes) {
    request.attributes(*attributes);
  } else {
    request.fail(attributes.error());
  }
}

Task<void> serve_statx(Request request, InodeId inode) {
  const auto attributes = co_await request.filesystem().getattr(inode);
  if (attributes) {
    request.statx(*attributes);
  } else {
    request.fail(attributes.error());
  }
}

Task<void> serve_tmpfile(Request request, InodeId directory, std::uint32_t mode, Caller caller) {
  const auto made = co_await request.filesystem().tmpfile(directory, mode, caller);
  if (made) {
    request.opened(*made);
  } else {
    request.fail(made.error());
  }
}

Task<void> serve_done(Request request, Task<Result<void>> doing) {
  const auto done = co_await std::move(doing);
  request.ok_or_error(done);
}

Task<void> serve_readlink(Request request, InodeId inode) {
  const auto target = co_await request.filesystem().readlink(inode);
  if (target) {
    request.bytes(*target);
  } else {
    request.fail(target.error());
  }
}

Task<void> serve_read(Request request, InodeId inode, std::uint64_t offset, std::size_t size,
                      bool sets_atime) {
  const auto reply = co_await request.filesystem().read(inode, offset, size, sets_atime);
  if (reply) {
    request.bytes(reply->buffer.span().subspan(reply->begin, reply->size_bytes));
  } else {
    request.fail(reply.error());
  }
}

Task<void> serve_write(Request request, ReceiveBuffer buffer, InodeId inode, std::uint64_t offset,
                       std::span<std::byte> data, bool writeback, WriteOptions options,
                       [[maybe_unused]] extent::EpochTracker::Pin under_way) {
  const std::size_t spare = buffer.spare_behind(data);
  const auto done = co_await request.filesystem().write(inode, offset, data, spare, options);
  // Back before the answer: whoever waits for it may send the next one at once.
  buffer = {};
  if (done) {
    // Before the answer: until then the kernel holds on to the inode.
    if (writeback) request.wrote_cached(inode);
    request.written(data.size());
  } else {
    if (writeback && done.error().code == Code::kPermission) {
      request.refused_cached(inode, {.from = offset, .to = offset + data.size()});
    }
    request.fail(done.error());
  }
}

Task<void> serve_copy(Request request, InodeId source, std::uint64_t source_offset, InodeId target,
                      std::uint64_t target_offset, std::uint64_t size) {
  const WriteOptions options{.kernel_keeps_times = request.kernel_keeps_times()};
  const auto copied = co_await request.filesystem().copy_range(source, source_offset, target,
                                                               target_offset, size, options);
  if (copied) {
    request.written(*copied);
  } else {
    request.fail(copied.error());
  }
}

// The hole that an answer to LSEEK says is there; empty if it says there is data.
Task<ByteRange> told_hole(Filesystem& filesystem, InodeId inode, std::uint64_t offset,
                          SeekKind kind, Result<std::uint64_t> found) {
  ByteRange hole{.from = offset};
  if (kind == SeekKind::kData) {
    if (found) hole.to = *found;
    co_return hole;
  }
  if (!found) co_return hole;
  hole.from = *found;
  const auto data = co_await filesystem.seek(inode, *found, SeekKind::kData);
  if (data) hole.to = *data;
  co_return hole;
}

// There is a hole when the kernel has nothing dirty there: it is asked once for each. Where it cannot be
// asked we know no holes ("not implemented": the kernel takes all of a file for data from then on).
Task<void> serve_seek(Request request, InodeId inode, std::uint64_t offset, SeekKind kind) {
  ByteRange clean{.from = offset, .to = offset};
  while (true) {
    const auto found = co_await request.filesystem().seek(inode, offset, kind);
    // What is no answer is told as it is: "behind the last data" alone speaks of a hole.
    const bool speaks = found || found.error().code == Code::kNoDevice;
    ByteRange hole{.from = offset, .to = offset};
    if (speaks) {
      hole = co_await told_hole(request.filesystem(), inode, offset, kind, found);
    }
    const bool is_known = hole.from >= clean.from && hole.to <= clean.to;
    if (hole.from >= hole.to || is_known) {
      if (found) {
        request.seeked(*found);
      } else {
        request.fail(found.error());
      }
      co_return;
    }
    const bool flushed = co_await request.flush_pages(inode, hole);
    if (!flushed) co_return request.fail(ENOSYS);
    clean = hole;
  }
}

// The answer to getxattr and listxattr: the value, its size if none was asked for, or ERANGE.
void answer_sized(Request& request, const Result<std::string>& value, std::size_t size_max) {
  if (!value) {
    request.fail(value.error());
  } else if (size_max == 0) {
    request.xattr_size(value->size());
  } else if (value->size() > size_max) {
    request.fail(ERANGE);
  } else {
    request.bytes(*value);
  }
}

// The numbers come with the size of a long, but it is an int that is passed.
constexpr unsigned kGetFlags = FS_IOC_GETFLAGS;
constexpr unsigned kSetFlags = FS_IOC_SETFLAGS;
constexpr unsigned kGetVersion = FS_IOC_GETVERSION;
constexpr unsigned kGetExtendedFlags = FS_IOC_FSGETXATTR;
constexpr unsigned kSetExtendedFlags = FS_IOC_FSSETXATTR;
constexpr unsigned kGetLabel = FS_IOC_GETFSLABEL;

// FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR have numbers of their own for the same flags.
struct ExtendedFlag {
  std::uint32_t flag;
  std::uint32_t extended;
};
constexpr ExtendedFlag kExtendedFlags[] = {{kFlagImmutable, FS_XFLAG_IMMUTABLE},
                                           {kFlagAppendOnly, FS_XFLAG_APPEND},
                                           {kFlagNoDump, FS_XFLAG_NODUMP},
                                           {kFlagNoAtime, FS_XFLAG_NOATIME}};
static_assert(kFlagsAll == (FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL));

// Nothing: it asks for what there is not, as a project, which would be for quotas.
std::optional<std::uint32_t> flags_of(const fsxattr& extended) {
  std::uint32_t flags = 0;
  std::uint32_t left = extended.fsx_xflags;
  for (const ExtendedFlag& known : kExtendedFlags) {
    if ((left & known.extended) != 0) flags |= known.flag;
    left &= ~known.extended;
  }
  if (left != 0 || extended.fsx_projid != 0 || extended.fsx_extsize != 0 ||
      extended.fsx_cowextsize != 0) {
    return std::nullopt;
  }
  return flags;
}

Task<void> serve_flags(Request request, InodeId inode, bool extended) {
  const auto attributes = co_await request.filesystem().getattr(inode);
  if (!attributes) co_return request.fail(attributes.error());
  if (!extended) co_return request.ioctl(std::as_bytes(std::span{&attributes->flags, 1}));
  fsxattr answer{};
  for (const ExtendedFlag& known : kExtendedFlags) {
    if ((attributes->flags & known.flag) != 0) answer.fsx_xflags |= known.extended;
  }
  request.ioctl(std::as_bytes(std::span{&answer, 1}));
}

// What was written before a file is closed to changes is to be kept: the kernel hands it over first.
Task<void> serve_set_flags(Request request, InodeId inode, std::uint32_t flags) {
  const auto now = co_await request.filesystem().getattr(inode);
  // What is dirty would be refused when it comes.
  const bool wants_clean =
      (flags & (kFlagImmutable | kFlagAppendOnly)) != 0 && now.has_value() && S_ISREG(now->mode);
  if (wants_clean) {
    const bool flushed = co_await request.flush_pages(inode, {});
    if (!flushed) co_return request.fail(EBUSY);
  }
  const auto done = co_await request.filesystem().set_flags(inode, flags);
  if (done) {
    request.changed_time(inode);
    request.ioctl({});
  } else {
    request.fail(done.error());
  }
}

// Of names that each end in NUL those that anybody may know of.
std::string without_trusted(const std::string& names) {
  std::string out;
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end = names.find('\0', at) + 1;
    if (names.compare(at, 8, "trusted.") != 0) out.append(names, at, end - at);
    at = end;
  }
  return out;
}

Task<void> serve_getxattr(Request request, InodeId inode, std::string name, std::size_t size_max) {
  const auto value = co_await request.filesystem().getxattr(inode, std::move(name));
  answer_sized(request, value, size_max);
}

Task<void> serve_listxattr(Request request, InodeId inode, std::size_t size_max, bool privileged) {
  auto names = co_await request.filesystem().listxattr(inode);
  if (names.has_value() && !privileged) *names = without_trusted(*names);
  answer_sized(request, names, size_max);
}

// Directory entries as the kernel wants them, up to the size it has room for.
struct EntryWriter {
  Buffer buffer;
  std::size_t used = 0;
  bool plus = false;

  bool add(fuse_req_t request, const DirectoryEntry& entry) {
    char name[kNameBytesMax + 1];
    DFS_ASSERT(entry.name.size() <= kNameBytesMax);
    std::memcpy(name, entry.name.data(), entry.name.size());
    name[entry.name.size()] = '\0';
    char* const at = reinterpret_cast<char*>(buffer.data()) + used;
    const std::size_t left = buffer.size() - used;
    const auto cookie = static_cast<off_t>(entry.next_cookie);
    std::size_t needed = 0;
    if (plus) {
      // Without attributes ("." and "..") the entry has number and type, and is no reference.
      fuse_entry_param known{};
      if (entry.attributes != nullptr) {
        known = entry_of(*entry.attributes);
      } else {
        known.attr.st_ino = entry.inode.raw;
        known.attr.st_mode = entry.type_bits;
      }
      needed = fuse_add_direntry_plus(request, at, left, name, &known, cookie);
    } else {
      struct stat known {};
      known.st_ino = entry.inode.raw;
      known.st_mode = entry.type_bits;
      needed = fuse_add_direntry(request, at, left, name, &known, cookie);
    }
    if (needed > left) return false;
    used += needed;
    return true;
  }
};

Task<void> serve_readdir(Request request, InodeId directory, std::uint64_t cookie,
                         EntryWriter writer, bool sets_atime) {
  DirectorySink sink = [&writer, raw = request.raw()](const DirectoryEntry& entry) {
    return writer.add(raw, entry);
  };
  const auto done = co_await request.filesystem().readdir(directory, cookie, writer.plus,
                                                          std::move(sink), sets_atime);
  if (done) {
    request.bytes(writer.buffer.span().first(writer.used));
  } else {
    request.fail(done.error());
  }
}

// Handlers: copy what the message holds, start the task, return.

void on_lookup(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  begin(raw, [&](Request request, Filesystem&) {
    spawn(serve_lookup(std::move(request), InodeId{parent}, name));
  });
}

void on_forget(fuse_req_t raw, fuse_ino_t inode, std::uint64_t references) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    filesystem.forget(InodeId{inode}, references);
    request.none();
  });
}

void on_forget_multi(fuse_req_t raw, std::size_t count, fuse_forget_data* forgets) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    for (std::size_t i = 0; i < count; ++i) {
      filesystem.forget(InodeId{forgets[i].ino}, forgets[i].nlookup);
    }
    request.none();
  });
}

void on_getattr(fuse_req_t raw, fuse_ino_t inode, fuse_file_info*) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    if (incoming.newer == wire::Newer::kStatx) {
      spawn(serve_statx(std::move(request), InodeId{inode}));
      return;
    }
    spawn(serve_attributes(std::move(request), filesystem.getattr(InodeId{inode})));
  });
}

void on_setattr(fuse_req_t raw, fuse_ino_t inode, struct stat* attr, int to_set, fuse_file_info*) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    const auto has = [&](int bit) { return (to_set & bit) != 0; };
    AttributeChange change;
    if (has(FUSE_SET_ATTR_MODE)) change.mode = attr->st_mode;
    if (has(FUSE_SET_ATTR_UID)) change.uid = attr->st_uid;
    if (has(FUSE_SET_ATTR_GID)) change.gid = attr->st_gid;
    if (has(FUSE_SET_ATTR_SIZE)) change.size_bytes = static_cast<std::uint64_t>(attr->st_size);
    if (has(FUSE_SET_ATTR_ATIME_NOW)) {
      change.atime_now = true;
    } else if (has(FUSE_SET_ATTR_ATIME)) {
      change.atime_ns = nanoseconds_of(attr->st_atim);
    }
    if (has(FUSE_SET_ATTR_MTIME_NOW)) {
      change.mtime_now = true;
    } else if (has(FUSE_SET_ATTR_MTIME)) {
      change.mtime_ns = nanoseconds_of(attr->st_mtim);
    }
    if (has(FUSE_SET_ATTR_CTIME)) change.ctime_ns = nanoseconds_of(attr->st_ctim);
    change.kill_suid_sgid = incoming.kill_suid_sgid;
    spawn(serve_attributes(std::move(request), filesystem.setattr(InodeId{inode}, change)));
  });
}

void on_readlink(fuse_req_t raw, fuse_ino_t inode) {
  begin(raw, [&](Request request, Filesystem&) {
    spawn(serve_readlink(std::move(request), InodeId{inode}));
  });
}

void on_mknod(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_made(std::move(request),
                     filesystem.mknod(InodeId{parent}, name, mode, static_cast<std::uint32_t>(rdev),
                                      caller_of(raw))));
  });
}

void on_mkdir(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_made(std::move(request),
                     filesystem.mkdir(InodeId{parent}, name, mode, caller_of(raw))));
  });
}

void on_symlink(fuse_req_t raw, const char* target, fuse_ino_t parent, const char* name) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_made(std::move(request),
                     filesystem.symlink(InodeId{parent}, name, target, caller_of(raw))));
  });
}

void on_link(fuse_req_t raw, fuse_ino_t inode, fuse_ino_t parent, const char* name) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_made(std::move(request), filesystem.link(InodeId{inode}, InodeId{parent}, name)));
  });
}

void on_unlink(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_done(std::move(request), filesystem.unlink(InodeId{parent}, name)));
  });
}

void on_rmdir(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_done(std::move(request), filesystem.rmdir(InodeId{parent}, name)));
  });
}

void on_rename(fuse_req_t raw, fuse_ino_t from_parent, const char* from_name, fuse_ino_t to_parent,
               const char* to_name, unsigned flags) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    RenameMode mode = RenameMode::kReplace;
    std::optional<Caller> whiteout;
    if ((flags & RENAME_WHITEOUT) != 0) whiteout = caller_of(raw);
    switch (flags & ~static_cast<unsigned>(RENAME_WHITEOUT)) {
      case 0: break;
      case RENAME_NOREPLACE: mode = RenameMode::kNoReplace; break;
      case RENAME_EXCHANGE: mode = RenameMode::kExchange; break;
      default: return request.fail(EINVAL);
    }
    spawn(serve_done(std::move(request),
                     filesystem.rename(InodeId{from_parent}, from_name, InodeId{to_parent}, to_name,
                                       mode, whiteout)));
  });
}

// "There is no such request": the kernel does without it from then on. See FuseSession.
void on_open(fuse_req_t raw, fuse_ino_t, fuse_file_info*) {
  begin(raw, [](Request request, Filesystem&) { request.fail(ENOSYS); });
}
void on_create(fuse_req_t raw, fuse_ino_t parent, const char*, mode_t mode, fuse_file_info*) {
  begin(raw, [&](Request request, Filesystem&) {
    if (incoming.newer != wire::Newer::kTmpfile) return request.fail(ENOSYS);
    spawn(serve_tmpfile(std::move(request), InodeId{parent}, mode, caller_of(raw)));
  });
}
void on_flush(fuse_req_t raw, fuse_ino_t, fuse_file_info*) {
  begin(raw, [](Request request, Filesystem&) { request.fail(ENOSYS); });
}
// Of a file or directory that was opened before the kernel had learned that.
void on_release(fuse_req_t raw, fuse_ino_t, fuse_file_info*) {
  begin(raw, [](Request request, Filesystem&) { request.ok(); });
}

void on_read(fuse_req_t raw, fuse_ino_t inode, std::size_t size, off_t offset,
             fuse_file_info* info) {
  begin(raw, [&](Request request, Filesystem&) {
    const bool sets_atime = (info->flags & O_NOATIME) == 0;
    spawn(serve_read(std::move(request), InodeId{inode}, static_cast<std::uint64_t>(offset), size,
                     sets_atime));
  });
}

void on_write(fuse_req_t raw, fuse_ino_t inode, const char* data, std::size_t size, off_t offset,
              fuse_file_info* info) {
  auto under_way = FuseSession::begin_write(raw);
  begin(raw, [&](Request request, Filesystem&) {
    // It lies in the receive buffer, which is ours, so it may be written to.
    const std::span<std::byte> payload{reinterpret_cast<std::byte*>(const_cast<char*>(data)),
                                       size};  // NOLINT
    const WriteOptions options{.kernel_keeps_times = request.kernel_keeps_times(),
                               .kill_suid_sgid = incoming.kill_suid_sgid};
    const bool writeback = info->writepage != 0;
    spawn(serve_write(std::move(request), std::move(*incoming.buffer), InodeId{inode},
                      static_cast<std::uint64_t>(offset), payload, writeback, options,
                      std::move(under_way)));
  });
}

void on_fsync(fuse_req_t raw, fuse_ino_t inode, int /*data_only*/, fuse_file_info*) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    spawn(serve_done(std::move(request), filesystem.fsync(InodeId{inode})));
  });
}

void begin_readdir(fuse_req_t raw, fuse_ino_t inode, std::size_t size, off_t cookie,
                   const fuse_file_info* info, bool plus) {
  begin(raw, [&](Request request, Filesystem&) {
    const bool sets_atime = (info->flags & O_NOATIME) == 0;
    EntryWriter writer{.buffer = Buffer{size}, .used = 0, .plus = plus};
    spawn(serve_readdir(std::move(request), InodeId{inode}, static_cast<std::uint64_t>(cookie),
                        std::move(writer), sets_atime));
  });
}
void on_readdir(fuse_req_t raw, fuse_ino_t inode, std::size_t size, off_t cookie,
                fuse_file_info* info) {
  begin_readdir(raw, inode, size, cookie, info, false);
}
void on_readdirplus(fuse_req_t raw, fuse_ino_t inode, std::size_t size, off_t cookie,
                    fuse_file_info* info) {
  begin_readdir(raw, inode, size, cookie, info, true);
}

void on_statfs(fuse_req_t raw, fuse_ino_t) {
  begin(raw, [](Request request, Filesystem& filesystem) {
    const StatFs space = filesystem.statfs();
    struct statvfs answer {};
    answer.f_bsize = kBlockBytes;
    answer.f_frsize = kBlockBytes;
    answer.f_blocks = space.total_bytes / kBlockBytes;
    answer.f_bfree = space.free_bytes / kBlockBytes;
    answer.f_bavail = space.available_bytes / kBlockBytes;
    // Inodes are limited by space alone: at worst, each takes a block.
    answer.f_ffree = answer.f_bfree;
    answer.f_favail = answer.f_bavail;
    answer.f_files = space.files + answer.f_ffree;
    answer.f_namemax = kNameBytesMax;
    request.statfs(answer);
  });
}

// Why an attribute of this name is not kept, or 0. The kernel looks at who may use a namespace, and
// leaves it to us which there are. Names of "system." are its own to interpret; that ACLs are not kept
// makes cp and tar fall back to mode bits.
int xattr_refusal(const Filesystem& filesystem, std::string_view name) {
  if (name == kAccessAcl || name == kDefaultAcl) return filesystem.keeps_acls() ? 0 : EOPNOTSUPP;
  for (const std::string_view space : {"user.", "trusted.", "security."}) {
    if (name.starts_with(space)) return name == space ? EINVAL : 0;
  }
  return EOPNOTSUPP;
}

void on_getxattr(fuse_req_t raw, fuse_ino_t inode, const char* name, std::size_t size) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    if (const int refusal = xattr_refusal(filesystem, name); refusal != 0) {
      request.fail(refusal);
    } else if (!filesystem.has_xattrs(InodeId{inode})) {
      // The kernel asks for security.capability before it lets a file be changed.
      request.fail(ENODATA);
    } else {
      spawn(serve_getxattr(std::move(request), InodeId{inode}, name, size));
    }
  });
}

void on_setxattr(fuse_req_t raw, fuse_ino_t inode, const char* name, const char* value,
                 std::size_t size, int flags) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    if (const int refusal = xattr_refusal(filesystem, name); refusal != 0)
      return request.fail(refusal);
    if (size > kXattrValueBytesMax) return request.fail(E2BIG);
    XattrMode mode = XattrMode::kEither;
    if (flags == XATTR_CREATE) mode = XattrMode::kCreate;
    if (flags == XATTR_REPLACE) mode = XattrMode::kReplace;
    spawn(serve_done(std::move(request),
                     filesystem.setxattr(InodeId{inode}, name, std::string(value, size), mode,
                                         incoming.kill_sgid)));
  });
}

void on_listxattr(fuse_req_t raw, fuse_ino_t inode, std::size_t size) {
  begin(raw, [&](Request request, Filesystem&) {
    // Root stands for CAP_SYS_ADMIN, which the kernel does not tell.
    const bool privileged = fuse_req_ctx(raw)->uid == 0;
    spawn(serve_listxattr(std::move(request), InodeId{inode}, size, privileged));
  });
}

void on_removexattr(fuse_req_t raw, fuse_ino_t inode, const char* name) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    if (const int refusal = xattr_refusal(filesystem, name); refusal != 0)
      return request.fail(refusal);
    // The kernel removes security.capability whenever an owner changes.
    if (!filesystem.has_xattrs(InodeId{inode})) return request.fail(ENODATA);
    spawn(serve_done(std::move(request), filesystem.removexattr(InodeId{inode}, name)));
  });
}

void on_fallocate(fuse_req_t raw, fuse_ino_t inode, int flags, off_t offset, off_t length,
                  fuse_file_info*) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    FallocateMode mode = FallocateMode::kAllocate;
    switch (flags) {
      case 0: break;
      case FALLOC_FL_KEEP_SIZE: mode = FallocateMode::kKeepSize; break;
      case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE: mode = FallocateMode::kPunchHole; break;
      case FALLOC_FL_ZERO_RANGE: mode = FallocateMode::kZeroRange; break;
      case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        mode = FallocateMode::kZeroRangeKeepSize;
        break;
      default: request.fail(EOPNOTSUPP); return;
    }
    const bool kernel_keeps_times = request.kernel_keeps_times();
    spawn(serve_done(std::move(request),
                     filesystem.fallocate(InodeId{inode}, mode, static_cast<std::uint64_t>(offset),
                                          static_cast<std::uint64_t>(length), kernel_keeps_times)));
  });
}

// The kernel has written back what is dirty of the source there, has cleared suid and sgid of the target
// as before any change, and copies through its page cache what we say cannot be shared.
void on_copy_file_range(fuse_req_t raw, fuse_ino_t source, off_t source_offset, fuse_file_info*,
                        fuse_ino_t target, off_t target_offset, fuse_file_info*, std::size_t size,
                        int flags) {
  begin(raw, [&](Request request, Filesystem&) {
    if (flags != 0 || source_offset < 0 || target_offset < 0) return request.fail(EINVAL);
    spawn(serve_copy(std::move(request), InodeId{source}, static_cast<std::uint64_t>(source_offset),
                     InodeId{target}, static_cast<std::uint64_t>(target_offset), size));
  });
}

void on_lseek(fuse_req_t raw, fuse_ino_t inode, off_t offset, int whence, fuse_file_info*) {
  begin(raw, [&](Request request, Filesystem&) {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return request.fail(EINVAL);
    if (offset < 0) return request.fail(ENXIO);
    spawn(serve_seek(std::move(request), InodeId{inode}, static_cast<std::uint64_t>(offset),
                     whence == SEEK_DATA ? SeekKind::kData : SeekKind::kHole));
  });
}

// What there is, where the kernel asks us at all; each answer has the size that it wants. What does not make
// sense here stays "no such request": see man/architecture.md.
void on_ioctl(fuse_req_t raw, fuse_ino_t number, unsigned what, void*, fuse_file_info*, unsigned,
              const void* in, std::size_t in_bytes, std::size_t out_bytes) {
  begin(raw, [&](Request request, Filesystem& filesystem) {
    const InodeId inode{number};
    const bool sets = what == kSetFlags || what == kSetExtendedFlags;
    // Before Linux 5.13 nobody has looked who asks.
    if (sets && !request.kernel_checks_flags()) return request.fail(ENOTTY);
    std::uint32_t flags = 0;
    fsxattr extended{};
    switch (what) {
      case kGetFlags:
        if (out_bytes < sizeof flags) return request.fail(EINVAL);
        spawn(serve_flags(std::move(request), inode, false));
        return;
      case kGetExtendedFlags:
        if (out_bytes < sizeof extended) return request.fail(EINVAL);
        spawn(serve_flags(std::move(request), inode, true));
        return;
      case kSetFlags:
        if (in_bytes < sizeof flags) return request.fail(EINVAL);
        std::memcpy(&flags, in, sizeof flags);
        spawn(serve_set_flags(std::move(request), inode, flags));
        return;
      case kSetExtendedFlags: {
        if (in_bytes < sizeof extended) return request.fail(EINVAL);
        std::memcpy(&extended, in, sizeof extended);
        const auto wanted = flags_of(extended);
        if (!wanted) return request.fail(EOPNOTSUPP);
        spawn(serve_set_flags(std::move(request), inode, *wanted));
        return;
      }
      case kGetVersion:
        // Of a number that is never given to another file there is one generation.
        request.ioctl(std::as_bytes(std::span{&flags, 1}));
        return;
      case kGetLabel: {
        std::array<char, FSLABEL_MAX> label{};
        const std::string text = filesystem.pool().superblock().label;
        text.copy(label.data(), label.size() - 1);
        if (out_bytes < label.size()) return request.fail(EINVAL);
        request.ioctl(std::as_bytes(std::span{label}));
        return;
      }
      default: request.fail(ENOTTY);
    }
  });
}

}  // namespace

void on_init(void* session, fuse_conn_info* connection) {
  static_cast<FuseSession*>(session)->negotiate(connection);
}

const fuse_lowlevel_ops& fuse_operations() {
  static const fuse_lowlevel_ops operations = [] {
    fuse_lowlevel_ops table{};
    table.init = on_init;
    table.lookup = on_lookup;
    table.forget = on_forget;
    table.forget_multi = on_forget_multi;
    table.getattr = on_getattr;
    table.setattr = on_setattr;
    table.readlink = on_readlink;
    table.mknod = on_mknod;
    table.mkdir = on_mkdir;
    table.symlink = on_symlink;
    table.link = on_link;
    table.unlink = on_unlink;
    table.rmdir = on_rmdir;
    table.rename = on_rename;
    table.open = on_open;
    table.create = on_create;
    table.flush = on_flush;
    table.release = on_release;
    table.opendir = on_open;
    table.releasedir = on_release;
    table.read = on_read;
    table.write = on_write;
    table.fsync = on_fsync;
    table.fsyncdir = on_fsync;
    table.readdir = on_readdir;
    table.readdirplus = on_readdirplus;
    table.statfs = on_statfs;
    table.getxattr = on_getxattr;
    table.setxattr = on_setxattr;
    table.listxattr = on_listxattr;
    table.removexattr = on_removexattr;
    table.fallocate = on_fallocate;
    table.lseek = on_lseek;
    table.copy_file_range = on_copy_file_range;
    table.ioctl = on_ioctl;
    return table;
  }();
  return operations;
}

}  // namespace dynamicfs::fs
