// A request of the kernel on its way through the daemon, as handlers and their tasks have it. Part of FuseSession.
#pragma once

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif

#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <string_view>
#include <utility>

#include "base/assert.hpp"
#include "base/bytes.hpp"
#include "base/mutex.hpp"
#include "fs/fuse_operations.hpp"
#include "fs/fuse_session.hpp"

namespace dynamicfs::fs {

// Nobody else changes the tree, so what the kernel knows stays true.
inline constexpr std::uint32_t kValidSeconds = 86400;

// Attributes as the kernel has them, and who asks.
struct stat stat_of(const Attributes& attributes);
fuse_entry_param entry_of(const Attributes& attributes);
Caller caller_of(fuse_req_t request);

// A request that waits for its one answer. Moves along with the task that works on it; one that
// dies unanswered, because there was no memory for its task, answers ENOMEM.
class Request {
 public:
  explicit Request(fuse_req_t request)
      : session_(static_cast<FuseSession*>(fuse_req_userdata(request))),
        request_(request),
        entry_(incoming.entry) {
    session_->started_.add();
  }
  Request(Request&& other) noexcept
      : session_(other.session_),
        request_(std::exchange(other.request_, nullptr)),
        entry_(other.entry_) {}
  Request& operator=(Request&&) = delete;
  ~Request() {
    if (request_ != nullptr) fail(ENOMEM);
  }

  Filesystem& filesystem() const { return session_->filesystem_; }
  bool kernel_keeps_times() const { return session_->kernel_keeps_times_; }
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
  void statx(const Attributes& attributes) { bytes(wire::statx_answer(attributes, kValidSeconds)); }
  // A file that is open from the start: as the kernel opens others without asking.
  void opened(const Attributes& attributes) {
    const fuse_entry_param entry = entry_of(attributes);
    fuse_file_info info{};
    info.keep_cache = 1;
    fuse_reply_create(take(), &entry, &info);
    finish();
  }
  void bytes(std::span<const std::byte> data) {
    fuse_reply_buf(take(), reinterpret_cast<const char*>(data.data()), data.size());
    finish();
  }
  void bytes(std::string_view text) { bytes(as_bytes(text)); }
  // Not an answer: the kernel may have to ask for the attributes of this file again.
  void wrote_cached(InodeId inode) {
    if (filesystem().attributes_outdated(inode)) session_->attributes_changed(inode);
  }
  // Nor this: the kernel keeps what it has written back, also when that is refused.
  void refused_cached(InodeId inode, ByteRange range) { session_->pages_refused(inode, range); }
  // Not an answer either: what the kernel has dirty there it hands over. False: it cannot be had to.
  Task<bool> flush_pages(InodeId inode, ByteRange range) {
    FuseSession& session = *session_;
    // On a ring we hold an entry meanwhile, and what is handed over needs one, too.
    const bool may_wait = session.flushing_.fetch_add(1) < session.flushes_max();
    bool flushed = false;
    if (may_wait) flushed = co_await session.writeback_->flush(inode, range);
    session.flushing_.fetch_sub(1);
    co_return flushed;
  }
  // Nor this: the kernel's own time of change is not true any more.
  void changed_time(InodeId inode) { session_->attributes_changed(inode); }
  void written(std::size_t size) {
    fuse_reply_write(take(), size);
    finish();
  }
  // Linux 5.13 and later look who may set flags of files before they ask us.
  bool kernel_checks_flags() const { return session_->kernel_checks_flags_; }
  void ioctl(std::span<const std::byte> answer) {
    fuse_reply_ioctl(take(), 0, answer.data(), answer.size());
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
    assert_no_mutex_held();
    answering = entry_;
    return std::exchange(request_, nullptr);
  }
  // Last: after it the session may be gone.
  void finish() {
    answering = nullptr;
    session_->finished_.add();
  }

  FuseSession* session_;
  fuse_req_t request_;
  FuseRings::Entry* entry_;
};

// Starts what `start` does with the request. Without memory for the task, the request answers
// ENOMEM as it dies, and that is all there is to do: the one place where bad_alloc is caught.
template <class Start>
void begin(fuse_req_t raw, Start start) noexcept {
  Request request{raw};
  Filesystem& filesystem = request.filesystem();
  try {
    start(std::move(request), filesystem);
  } catch (const std::bad_alloc&) {
  }
}

}  // namespace dynamicfs::fs
