#define FUSE_USE_VERSION 312

#include "fs/fuse_operations.hpp"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "base/assert.hpp"
#include "base/mutex.hpp"
#include "base/task.hpp"
#include "fs/fuse_session.hpp"

namespace dynamicfs::fs {

thread_local Incoming incoming;

namespace {

// Nobody else changes the tree, so what the kernel knows stays true.
constexpr double kValidSeconds = 86400;
// Inode numbers are never reused, so they need no generation beside them.
constexpr std::uint64_t kInodeGeneration = 0;

constexpr std::uint64_t kNanosecondsPerSecond = 1'000'000'000;

timespec timespec_of(std::int64_t ns) {
  // Rounded down, so that times before 1970 keep nanoseconds in [0, 1e9).
  const auto per_second = static_cast<std::int64_t>(kNanosecondsPerSecond);
  std::int64_t seconds = ns / per_second;
  std::int64_t rest = ns % per_second;
  if (rest < 0) {
    rest += per_second;
    --seconds;
  }
  return {.tv_sec = seconds, .tv_nsec = rest};
}

// Times that do not fit (before 1678, after 2262) become the nearest that do.
std::int64_t nanoseconds_of(const timespec& time) {
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(time.tv_sec, static_cast<std::int64_t>(kNanosecondsPerSecond), &ns) ||
      __builtin_add_overflow(ns, time.tv_nsec, &ns)) {
    return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
  }
  return ns;
}

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
  return {.uid = context->uid, .gid = context->gid};
}

}  // namespace

// A request that waits for its one answer. Moves along with the task that works on it; one that
// dies unanswered, because there was no memory for its task, answers ENOMEM.
class Request {
 public:
  explicit Request(fuse_req_t request)
      : session_(static_cast<FuseSession*>(fuse_req_userdata(request))), request_(request) {
    session_->started_.add();
  }
  Request(Request&& other) noexcept
      : session_(other.session_), request_(std::exchange(other.request_, nullptr)) {}
  Request& operator=(Request&&) = delete;
  ~Request() {
    if (request_ != nullptr) fail(ENOMEM);
  }

  Filesystem& filesystem() const { return session_->filesystem_; }
  fuse_req_t raw() const { return request_; }

  void fail(int number) {
    fuse_reply_err(take(), number);
    finish();
  }
  void fail(const Error& error) { fail(errno_of(error)); }
  void ok() { fail(0); }
  void ok_or_error(const Result<void>& result) { fail(result ? 0 : errno_of(result.error())); }
  void entry(const Attributes& attributes) {
    const fuse_entry_param entry = entry_of(attributes);
    fuse_reply_entry(take(), &entry);
    finish();
  }
  // "There is no such name, and there will be none until you make it."
  void no_entry() {
    fuse_entry_param entry{};
    entry.entry_timeout = kValidSeconds;
    fuse_reply_entry(take(), &entry);
    finish();
  }
  void attributes(const Attributes& attributes) {
    const struct stat attr = stat_of(attributes);
    fuse_reply_attr(take(), &attr, kValidSeconds);
    finish();
  }
  void bytes(std::span<const std::byte> data) {
    fuse_reply_buf(take(), reinterpret_cast<const char*>(data.data()), data.size());
    finish();
  }
  void bytes(std::string_view text) { bytes(as_bytes(text)); }
  void written(std::size_t size) {
    fuse_reply_write(take(), size);
    finish();
  }
  void statfs(const struct statvfs& answer) {
    fuse_reply_statfs(take(), &answer);
    finish();
  }
  void xattr_size(std::size_t size) {
    fuse_reply_xattr(take(), size);
    finish();
  }
  void seeked(std::uint64_t offset) {
    fuse_reply_lseek(take(), static_cast<off_t>(offset));
    finish();
  }
  void none() {
    fuse_reply_none(take());
    finish();
  }

 private:
  fuse_req_t take() {
    DFS_ASSERT(request_ != nullptr);
    DFS_ASSERT(Mutex::held_by_this_thread() == 0);  // INV-1
    return std::exchange(request_, nullptr);
  }
  // Last: after it the session may be gone.
  void finish() { session_->finished_.add(); }

  FuseSession* session_;
  fuse_req_t request_;
};

namespace {

// ---- Tasks: one call on Filesystem, one answer ------------------------------------------------------

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

Task<void> serve_read(Request request, InodeId inode, std::uint64_t offset, std::size_t size) {
  const auto reply = co_await request.filesystem().read(inode, offset, size);
  if (reply) {
    request.bytes(reply->buffer.span().subspan(reply->begin, reply->size_bytes));
  } else {
    request.fail(reply.error());
  }
}

Task<void> serve_write(Request request, ReceiveBuffer buffer, InodeId inode, std::uint64_t offset,
                       std::span<std::byte> data, WriteOptions options) {
  const std::size_t spare = buffer.spare_behind(data);
  const auto done = co_await request.filesystem().write(inode, offset, data, spare, options);
  // Back before the answer: whoever waits for it may send the next one at once.
  buffer = {};
  if (done) {
    request.written(data.size());
  } else {
    request.fail(done.error());
  }
}

Task<void> serve_seek(Request request, InodeId inode, std::uint64_t offset, SeekKind kind) {
  const auto found = co_await request.filesystem().seek(inode, offset, kind);
  if (found) {
    request.seeked(*found);
  } else {
    request.fail(found.error());
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

Task<void> serve_getxattr(Request request, InodeId inode, std::string name, std::size_t size_max) {
  const auto value = co_await request.filesystem().getxattr(inode, std::move(name));
  answer_sized(request, value, size_max);
}

Task<void> serve_listxattr(Request request, InodeId inode, std::size_t size_max) {
  const auto names = co_await request.filesystem().listxattr(inode);
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
                         EntryWriter writer) {
  DirectorySink sink = [&writer, raw = request.raw()](const DirectoryEntry& entry) {
    return writer.add(raw, entry);
  };
  const auto done =
      co_await request.filesystem().readdir(directory, cookie, writer.plus, std::move(sink));
  if (done) {
    request.bytes(writer.buffer.span().first(writer.used));
  } else {
    request.fail(done.error());
  }
}

// ---- Handlers: copy what the message holds, start the task, return ----------------------------------

// Starts what `start` does with the request. Without memory for the task, the request answers
// ENOMEM as it dies, and that is all there is to do: the one place where bad_alloc is caught.
template <class Start>
void begin(fuse_req_t raw, Start start) noexcept {
  Request request{raw};
  try {
    start(std::move(request));
  } catch (const std::bad_alloc&) {
  }
}

Filesystem& filesystem_of(fuse_req_t request) {
  return Request::filesystem_of(request);
}

}  // namespace
}  // namespace dynamicfs::fs
