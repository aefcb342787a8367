// Every figure that the parts of a running daemon count, collected for `status`.
#pragma once

#include "fs/control.hpp"
#include "fs/filesystem.hpp"
#include "fs/fuse_session.hpp"
#include "fs/mount_options.hpp"

namespace dynamicfs::fs {

// Puts "metrics" and "histograms", by the names of metric_list.hpp. Any thread.
void put_metrics(Json& status, Filesystem& filesystem, const FuseSession& session,
                 const MountOptions& options);
// What this process has in memory.
std::uint64_t resident_bytes();

}  // namespace dynamicfs::fs
