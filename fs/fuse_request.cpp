#include "fs/fuse_request.hpp"

#include "fs/kernel_time.hpp"

namespace dynamicfs::fs {

thread_local Incoming incoming;
thread_local FuseRings::Entry* answering = nullptr;

namespace {

// Inode numbers are never reused, so they need no generation beside them.
constexpr std::uint64_t kInodeGeneration = 0;

}  // namespace

struct stat stat_of(const Attributes& attributes) {
  struct stat out {};
  out.st_ino = attributes.inode.raw;
  out.st_mode = attributes.mode;
  out.st_nlink = attributes.nlink;
  out.st_uid = attributes.uid;
  out.st_gid = attributes.gid;
  out.st_rdev = attributes.rdev;
  out.st_size = static_cast<off_t>(attributes.size_bytes);
  out.st_blocks = static_cast<blkcnt_t>(attributes.blocks_512);
  out.st_blksize = kBlockBytes;
  out.st_atim = timespec_of(attributes.atime_ns);
  out.st_mtim = timespec_of(attributes.mtime_ns);
  out.st_ctim = timespec_of(attributes.ctime_ns);
  return out;
}

fuse_entry_param entry_of(const Attributes& attributes) {
  fuse_entry_param entry{};
  entry.ino = attributes.inode.raw;
  entry.generation = kInodeGeneration;
  entry.attr = stat_of(attributes);
  entry.attr_timeout = kValidSeconds;
  entry.entry_timeout = kValidSeconds;
  return entry;
}

Caller caller_of(fuse_req_t request) {
  const fuse_ctx* const context = fuse_req_ctx(request);
  return {.uid = context->uid, .gid = context->gid, .umask = context->umask};
}

}  // namespace dynamicfs::fs
