// The kernel's side of the FUSE protocol, as far as libfuse keeps it from its callers: which
// request a received message is, the bits of FUSE_HANDLE_KILLPRIV_V2, the reply to INIT, and requests
// that libfuse does not know yet.
//
// libfuse before 3.17 never sends FUSE_PARALLEL_DIROPS, however much it is wanted, cannot ask for
// FUSE_HANDLE_KILLPRIV_V2, and no version hands over the "clear suid and sgid" bits that the kernel
// then sets on requests. All of it stands in the raw message, which is ours before libfuse sees it.
// Threads  Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fs/filesystem.hpp"

namespace dynamicfs::fs::wire {

// What stands before the payload of a WRITE: fuse_in_header and fuse_write_in.
inline constexpr std::size_t kWriteHeaderBytes = 80;
// The number of opcodes we have a name for; every larger one counts as this.
inline constexpr unsigned kOpcodes = 64;

struct Head {
  unsigned opcode = 0;
  std::uint64_t unique = 0;
};
// `message` is at least as long as the kernel's header: receiving checks that.
Head head_of(std::span<const std::byte> message);
bool is_init(const Head& head);
bool is_interrupt(const Head& head);
// "lookup", "write" ...; "other" for what is not known.
const char* opcode_name(unsigned opcode);

// The request says: clear the suid bit, and the sgid bit of an executable, along with this.
bool kills_suid_sgid(const Head& head, std::span<const std::byte> message);

// With FUSE_SETXATTR_EXT, which libfuse before 3.17 does not know: takes out of a SETXATTR what that adds, and
// leaves other messages as they are. True: the sgid bit is to be cleared with the new ACL.
bool take_setxattr_extension(const Head& head, std::span<std::byte>& message);

// Requests that libfuse 3.14 would refuse. It gets each as the one that begins with the same structure, of
// an older name; whoever handles that learns which it was, and answers it as the kernel expects.
enum class Newer : std::uint8_t {
  kNone,
  kStatx,  // as GETATTR: what statx(2) tells beyond stat(2). Once refused, it is asked for no more
  kTmpfile,  // as CREATE, with a name that means nothing
};
Newer pass_as_older(const Head& head, std::span<std::byte> message);
// What follows the header of the answer to STATX: all that is known, whatever was asked for, because the
// kernel keeps it.
std::vector<std::byte> statx_answer(const Attributes& attributes, std::uint64_t valid_seconds);

// What the kernel offers in INIT, and what it was given.
struct Init {
  unsigned major = 0;
  unsigned minor = 0;
  std::uint64_t flags = 0;
  unsigned max_readahead_bytes = 0;
  unsigned max_write_bytes = 0;       // of the reply only
  unsigned max_background = 0;        // of the reply only
  unsigned congestion_threshold = 0;  // of the reply only
  unsigned time_granularity_ns = 0;   // of the reply only
  unsigned max_pages = 0;             // of the reply only
};
Init init_offer(std::span<const std::byte> message);
// Adds to the reply (what stands behind its header) the bits that libfuse does not send, each only
// if it was offered, and returns the whole of it. `io_uring`: also FUSE_OVER_IO_URING.
Init complete_init_reply(const Init& offer, bool io_uring, std::span<std::byte> reply);
// It is Linux 5.13 or later, which looks at who may set the flags of a file (fs/ioctl.c, vfs_fileattr_set).
bool checks_flags(const Init& offered);
// FUSE_SETXATTR_EXT was accepted.
bool extends_setxattr(const Init& answered);
// FUSE_OVER_IO_URING was accepted.
bool over_io_uring(const Init& answered);
// "writeback_cache", ... for every bit that is set and known.
std::vector<std::string> flag_names(std::uint64_t flags);

// The reply "not implemented, never ask again", 16 bytes.
std::vector<std::byte> refusal_of(const Head& head);

}  // namespace dynamicfs::fs::wire
