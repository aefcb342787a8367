// The table of handlers that libfuse calls, one per kind of request. Part of FuseSession.
#pragma once

struct fuse_lowlevel_ops;

#include "fs/receive_buffers.hpp"

namespace dynamicfs::fs {

// What a handler needs to know of the message it was called for and libfuse does not tell. Set by
// the reader for the time of the call.
struct Incoming {
  ReceiveBuffer* buffer = nullptr;  // a WRITE takes it over
  bool kill_suid_sgid = false;
  bool kill_sgid = false;  // along with a new ACL
};
extern thread_local Incoming incoming;

const fuse_lowlevel_ops& fuse_operations();

}  // namespace dynamicfs::fs
