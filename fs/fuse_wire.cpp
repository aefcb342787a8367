#include "fs/fuse_wire.hpp"

#include <linux/fuse.h>
#include <linux/stat.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "fs/kernel_time.hpp"

namespace dynamicfs::fs::wire {
namespace {

// Of include/uapi/linux/fuse.h as it is since Linux 6.6, which Debian 12 does not have.
constexpr std::uint32_t kStatxOpcode = 52;
struct StatxTime {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;
  std::int32_t reserved = 0;
};
struct StatxOut {
  std::uint64_t valid_seconds = 0;
  std::uint32_t valid_nanoseconds = 0;
  std::uint32_t flags = 0;
  std::uint64_t spare[2] = {};
  std::uint32_t mask = 0;
  std::uint32_t block_bytes = 0;
  std::uint64_t attributes = 0;
  std::uint32_t nlink = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint16_t mode = 0;
  std::uint16_t spare_mode = 0;
  std::uint64_t inode = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t blocks_512 = 0;
  std::uint64_t attributes_mask = 0;
  StatxTime atime;
  StatxTime btime;
  StatxTime ctime;
  StatxTime mtime;
  std::uint32_t rdev_major = 0;
  std::uint32_t rdev_minor = 0;
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::uint64_t spare_end[14] = {};
};
static_assert(sizeof(StatxOut) == 32 + 256, "the kernel would not take the answer");

StatxTime statx_time(std::int64_t ns) {
  const timespec time = timespec_of(ns);
  return {.seconds = time.tv_sec, .nanoseconds = static_cast<std::uint32_t>(time.tv_nsec)};
}

static_assert(sizeof(fuse_in_header) + sizeof(fuse_write_in) == kWriteHeaderBytes,
              "the payload of a WRITE would not lie on a block boundary");

// A copy of the structure behind the header; zeros where the message is shorter.
template <class T>
T body_of(std::span<const std::byte> message) {
  T body{};
  if (message.size() > sizeof(fuse_in_header)) {
    const auto rest = message.subspan(sizeof(fuse_in_header));
    std::memcpy(&body, rest.data(), rest.size() < sizeof body ? rest.size() : sizeof body);
  }
  return body;
}

constexpr auto kOpcodeNames = [] {
  std::array<const char*, kOpcodes> names{};
  for (const char*& name : names) name = "other";
  names[FUSE_LOOKUP] = "lookup";
  names[FUSE_FORGET] = "forget";
  names[FUSE_GETATTR] = "getattr";
  names[FUSE_SETATTR] = "setattr";
  names[FUSE_READLINK] = "readlink";
  names[FUSE_SYMLINK] = "symlink";
  names[FUSE_MKNOD] = "mknod";
  names[FUSE_MKDIR] = "mkdir";
  names[FUSE_UNLINK] = "unlink";
  names[FUSE_RMDIR] = "rmdir";
  names[FUSE_RENAME] = "rename";
  names[FUSE_LINK] = "link";
  names[FUSE_OPEN] = "open";
  names[FUSE_READ] = "read";
  names[FUSE_WRITE] = "write";
  names[FUSE_STATFS] = "statfs";
  names[FUSE_RELEASE] = "release";
  names[FUSE_FSYNC] = "fsync";
  names[FUSE_SETXATTR] = "setxattr";
  names[FUSE_GETXATTR] = "getxattr";
  names[FUSE_LISTXATTR] = "listxattr";
  names[FUSE_REMOVEXATTR] = "removexattr";
  names[FUSE_FLUSH] = "flush";
  names[FUSE_INIT] = "init";
  names[FUSE_OPENDIR] = "opendir";
  names[FUSE_READDIR] = "readdir";
  names[FUSE_RELEASEDIR] = "releasedir";
  names[FUSE_FSYNCDIR] = "fsyncdir";
  names[FUSE_GETLK] = "getlk";
  names[FUSE_SETLK] = "setlk";
  names[FUSE_SETLKW] = "setlkw";
  names[FUSE_ACCESS] = "access";
  names[FUSE_CREATE] = "create";
  names[FUSE_INTERRUPT] = "interrupt";
  names[FUSE_BMAP] = "bmap";
  names[FUSE_DESTROY] = "destroy";
  names[FUSE_IOCTL] = "ioctl";
  names[FUSE_POLL] = "poll";
  names[FUSE_NOTIFY_REPLY] = "notify_reply";
  names[FUSE_BATCH_FORGET] = "batch_forget";
  names[FUSE_FALLOCATE] = "fallocate";
  names[FUSE_READDIRPLUS] = "readdirplus";
  names[FUSE_RENAME2] = "rename2";
  names[FUSE_LSEEK] = "lseek";
  names[FUSE_COPY_FILE_RANGE] = "copy_file_range";
  names[FUSE_SYNCFS] = "syncfs";
  names[FUSE_TMPFILE] = "tmpfile";
  names[kStatxOpcode] = "statx";
  names[53] = "copy_file_range_64";  // Linux 6.18
  return names;
}();

// Linux 6.14; newer than the headers of Debian 12.
constexpr std::uint64_t kOverIoUring = std::uint64_t{1} << 41;

struct FlagName {
  std::uint64_t flag;
  const char* name;
};
constexpr FlagName kFlagNames[] = {
    {FUSE_ASYNC_READ, "async_read"},
    {FUSE_POSIX_LOCKS, "posix_locks"},
    {FUSE_ATOMIC_O_TRUNC, "atomic_o_trunc"},
    {FUSE_EXPORT_SUPPORT, "export_support"},
    {FUSE_BIG_WRITES, "big_writes"},
    {FUSE_DONT_MASK, "dont_mask"},
    {FUSE_SPLICE_WRITE, "splice_write"},
    {FUSE_SPLICE_MOVE, "splice_move"},
    {FUSE_SPLICE_READ, "splice_read"},
    {FUSE_FLOCK_LOCKS, "flock_locks"},
    {FUSE_HAS_IOCTL_DIR, "ioctl_dir"},
    {FUSE_AUTO_INVAL_DATA, "auto_inval_data"},
    {FUSE_DO_READDIRPLUS, "readdirplus"},
    {FUSE_READDIRPLUS_AUTO, "readdirplus_auto"},
    {FUSE_ASYNC_DIO, "async_dio"},
    {FUSE_WRITEBACK_CACHE, "writeback_cache"},
    {FUSE_NO_OPEN_SUPPORT, "no_open"},
    {FUSE_PARALLEL_DIROPS, "parallel_dirops"},
    {FUSE_HANDLE_KILLPRIV, "handle_killpriv"},
    {FUSE_POSIX_ACL, "posix_acl"},
    {FUSE_ABORT_ERROR, "abort_error"},
    {FUSE_MAX_PAGES, "max_pages"},
    {FUSE_CACHE_SYMLINKS, "cache_symlinks"},
    {FUSE_NO_OPENDIR_SUPPORT, "no_opendir"},
    {FUSE_EXPLICIT_INVAL_DATA, "explicit_inval_data"},
    {FUSE_HANDLE_KILLPRIV_V2, "handle_killpriv_v2"},
    {FUSE_SETXATTR_EXT, "setxattr_ext"},
    {FUSE_INIT_EXT, "init_ext"},
    {std::uint64_t{1} << 32, "security_ctx"},
    {std::uint64_t{1} << 34, "create_supp_group"},
    {std::uint64_t{1} << 35, "has_expire_only"},
    {std::uint64_t{1} << 36, "direct_io_allow_mmap"},
    {std::uint64_t{1} << 37, "passthrough"},
    {std::uint64_t{1} << 38, "no_export_support"},
    {std::uint64_t{1} << 39, "has_resend"},
    {std::uint64_t{1} << 40, "allow_idmap"},
    {kOverIoUring, "over_io_uring"},
    {std::uint64_t{1} << 42, "request_timeout"},
};

}  // namespace

Head head_of(std::span<const std::byte> message) {
  fuse_in_header header{};
  std::memcpy(&header, message.data(),
              message.size() < sizeof header ? message.size() : sizeof header);
  return {.opcode = header.opcode, .unique = header.unique};
}

bool is_init(const Head& head) { return head.opcode == FUSE_INIT; }
bool is_interrupt(const Head& head) { return head.opcode == FUSE_INTERRUPT; }

const char* opcode_name(unsigned opcode) {
  return opcode < kOpcodes ? kOpcodeNames[opcode] : "other";
}

bool kills_suid_sgid(const Head& head, std::span<const std::byte> message) {
  switch (head.opcode) {
    case FUSE_WRITE:
      return (body_of<fuse_write_in>(message).write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
    case FUSE_SETATTR: {
      // One that changes nothing, or with the kernel's own ctime nothing else, is what is left of the
      // kernel's own clearing of the bits, before fallocate and in a chown that names nobody, after
      // KILLPRIV_V2 has told it that clearing is our business.
      const std::uint32_t valid = body_of<fuse_setattr_in>(message).valid;
      return (valid & FATTR_KILL_SUIDGID) != 0 ||
             (valid & ~(FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME)) == 0u;
    }
    case FUSE_OPEN:
      return (body_of<fuse_open_in>(message).open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
    case FUSE_CREATE:
      return (body_of<fuse_create_in>(message).open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
    default: return false;
  }
}

bool take_setxattr_extension(const Head& head, std::span<std::byte>& message) {
  constexpr std::size_t kBegins = offsetof(fuse_setxattr_in, setxattr_flags);
  constexpr std::size_t kBytes = sizeof(fuse_setxattr_in) - kBegins;
  constexpr std::size_t kAt = sizeof(fuse_in_header) + kBegins;
  if (head.opcode != FUSE_SETXATTR || message.size() < kAt + kBytes) return false;
  const bool kill =
      (body_of<fuse_setxattr_in>(message).setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
  const auto rest = message.subspan(kAt + kBytes);
  std::memmove(message.data() + kAt, rest.data(), rest.size());
  message = message.first(message.size() - kBytes);
  const auto length = static_cast<std::uint32_t>(message.size());
  static_assert(offsetof(fuse_in_header, len) == 0);
  std::memcpy(message.data(), &length, sizeof length);
  return kill;
}

Newer pass_as_older(const Head& head, std::span<std::byte> message) {
  std::uint32_t older = 0;
  Newer newer = Newer::kNone;
  switch (head.opcode) {
    case kStatxOpcode:
      older = FUSE_GETATTR;
      newer = Newer::kStatx;
      break;
    case FUSE_TMPFILE:
      older = FUSE_CREATE;
      newer = Newer::kTmpfile;
      break;
    default: return Newer::kNone;
  }
  std::memcpy(message.data() + offsetof(fuse_in_header, opcode), &older, sizeof older);
  return newer;
}

std::vector<std::byte> statx_answer(const Attributes& attributes, std::uint64_t valid_seconds) {
  StatxOut out;
  out.valid_seconds = valid_seconds;
  out.mask = STATX_BASIC_STATS | STATX_BTIME;
  out.block_bytes = kBlockBytes;
  out.nlink = attributes.nlink;
  out.uid = attributes.uid;
  out.gid = attributes.gid;
  out.mode = static_cast<std::uint16_t>(attributes.mode);
  out.inode = attributes.inode.raw;
  out.size_bytes = attributes.size_bytes;
  out.blocks_512 = attributes.blocks_512;
  out.atime = statx_time(attributes.atime_ns);
  out.btime = statx_time(attributes.btime_ns);
  out.ctime = statx_time(attributes.ctime_ns);
  out.mtime = statx_time(attributes.mtime_ns);
  constexpr std::uint64_t kFlagsTold = kFlagImmutable | kFlagAppendOnly | kFlagNoDump;
  static_assert(kFlagsTold == (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP));
  out.attributes = attributes.flags & kFlagsTold;
  out.attributes_mask = kFlagsTold;
  // As the kernel packs a device's number into 32 bits.
  out.rdev_major = attributes.rdev >> 8 & 0xFFF;
  out.rdev_minor = (attributes.rdev & 0xFF) | (attributes.rdev >> 12 & 0xFFF00);
  const auto bytes = std::as_bytes(std::span{&out, 1});
  return {bytes.begin(), bytes.end()};
}

Init init_offer(std::span<const std::byte> message) {
  const auto offer = body_of<fuse_init_in>(message);
  std::uint64_t flags = offer.flags;
  if ((flags & FUSE_INIT_EXT) != 0) flags |= std::uint64_t{offer.flags2} << 32;
  return {.major = offer.major,
          .minor = offer.minor,
          .flags = flags,
          .max_readahead_bytes = offer.max_readahead};
}

Init complete_init_reply(const Init& offer, bool io_uring, std::span<std::byte> reply) {
  fuse_init_out out{};
  if (reply.size() < sizeof out) return {};  // a kernel from before 2015: nothing to add to
  std::memcpy(&out, reply.data(), sizeof out);
  // With KILLPRIV_V2 the kernel sets S_NOSEC on inodes and so stops asking for security.capability
  // before every write.
  constexpr std::uint32_t kAdded = FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2;
  out.flags |= kAdded & static_cast<std::uint32_t>(offer.flags);
  if ((out.flags & FUSE_POSIX_ACL) != 0) {
    out.flags |= FUSE_SETXATTR_EXT & static_cast<std::uint32_t>(offer.flags);
  }
  if (io_uring && (offer.flags & kOverIoUring) != 0) {
    out.flags |= FUSE_INIT_EXT;
    out.flags2 |= static_cast<std::uint32_t>(kOverIoUring >> 32);
  }
  std::memcpy(reply.data(), &out, sizeof out);
  std::uint64_t flags = out.flags;
  if ((flags & FUSE_INIT_EXT) != 0) flags |= std::uint64_t{out.flags2} << 32;
  return {.major = out.major,
          .minor = out.minor,
          .flags = flags,
          .max_readahead_bytes = out.max_readahead,
          .max_write_bytes = out.max_write,
          .max_background = out.max_background,
          .congestion_threshold = out.congestion_threshold,
          .time_granularity_ns = out.time_gran,
          .max_pages = out.max_pages};
}

bool over_io_uring(const Init& answered) { return (answered.flags & kOverIoUring) != 0; }
bool checks_flags(const Init& offered) { return (offered.flags & FUSE_SETXATTR_EXT) != 0; }

bool extends_setxattr(const Init& answered) { return (answered.flags & FUSE_SETXATTR_EXT) != 0; }

std::vector<std::string> flag_names(std::uint64_t flags) {
  std::vector<std::string> names;
  for (const FlagName& known : kFlagNames) {
    if ((flags & known.flag) != 0) names.emplace_back(known.name);
  }
  return names;
}

std::vector<std::byte> refusal_of(const Head& head) {
  const fuse_out_header header{
      .len = sizeof(fuse_out_header), .error = -ENOSYS, .unique = head.unique};
  const auto bytes = std::as_bytes(std::span{&header, 1});
  return {bytes.begin(), bytes.end()};
}

}  // namespace dynamicfs::fs::wire
