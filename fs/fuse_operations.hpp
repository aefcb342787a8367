// The table of handlers that libfuse calls, one per kind of request. Part of FuseSession.
#pragma once

struct fuse_lowlevel_ops;

#include "fs/fuse_rings.hpp"
#include "fs/fuse_wire.hpp"
#include "fs/receive_buffers.hpp"

namespace dynamicfs::fs {

// What a handler needs to know of the message it was called for and libfuse does not tell. Set by
// the reader for the time of the call.
struct Incoming {
  ReceiveBuffer* buffer = nullptr;    // a WRITE takes it over
  FuseRings::Entry* entry = nullptr;  // of the ring that it came by; else it came by /dev/fuse
  bool kill_suid_sgid = false;
  bool kill_sgid = false;  // along with a new ACL
  wire::Newer newer = wire::Newer::kNone;
};
extern thread_local Incoming incoming;

// What belongs to the request that this thread is just answering.
extern thread_local FuseRings::Entry* answering;

const fuse_lowlevel_ops& fuse_operations();

}  // namespace dynamicfs::fs
