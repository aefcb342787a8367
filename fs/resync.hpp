// Brings disks that were away what they have missed, in the background class, by itself.
//
// Method   A walk through all maps (fs/file_walk.hpp) that verifies, in every copy, only what is newer than the moment a
//          disk that is here went away, and rewrites what is bad there, as a scrub does. When that has found nothing it could
//          not mend, no disk lacks anything any more, and the superblock says so. A crash begins it anew: what it has
//          rewritten is right by then and costs reading only.
// Beside   A scrub that is started does all of this, so it ends this.
// Threads  Every method may be called from any thread.
// Locks    None; the walk has its own.
#pragma once

#include <atomic>
#include <cstdint>

#include "fs/background_task.hpp"
#include "fs/file_walk.hpp"
#include "fs/filesystem.hpp"

namespace dynamicfs::fs {

class Resync {
 public:
  // `parts` outlives this, and waits for its tasks before it goes.
  explicit Resync(Filesystem::Impl& parts);

  // Starts it if a disk that is here may lack something. Called every commit interval, inside a DriverScope.
  void tend();
  ResyncReport report() const;

 private:
  bool go_on() const;
  Task<void> run();
  Task<bool> check_data();
  void count(const journal::ScrubCounts& found);

  Filesystem::Impl& fs_;
  SoleTask task_;
  std::atomic<TimePoint> again_at_{TimePoint{}};
  std::atomic<std::uint64_t> changes_seen_{0};  // of the pool, when it was tried last
  // Of this pass.
  std::atomic<std::uint64_t> bad_{0};
  std::atomic<std::uint64_t> repaired_{0};
  std::atomic<std::uint64_t> failures_{0};  // what could not be judged or mended
  FileWalk walk_;                           // shared by the workers
};

}  // namespace dynamicfs::fs
