// Pools whose metadata is in many runs, and not in memory.
#pragma once

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "tests/fs/whole.hpp"

namespace dynamicfs::test {

// Every checkpoint a run of its own, so that runs are merged in the background. Each takes a slot at
// least, and that of one just replaced is free only behind a commit: there is room for some.
inline SimPoolOptions many_runs() {
  SimPoolOptions options;
  options.disk_bytes = {256 * kMiB, 256 * kMiB, 384 * kMiB};
  options.small_run_bytes = 0;
  return options;
}

inline void remount(SimPool& pool) {
  REQUIRE(pool.unmount().has_value());
  REQUIRE(pool.mount().has_value());
}

inline void sync_and_cut(SimPool& pool) {
  REQUIRE(pool.run(pool.fs().sync()).has_value());
  cut_and_mount(pool);
}

// Everything that can be out of memory is.
inline void make_cold(SimPool& pool) {
  checkpoint(pool);
  pool.fs().evict();
}

struct NamesRead {
  std::vector<std::string> names;
  std::uint64_t cookie = 0;
  bool end = false;
};

// At most `count` names from behind `read->cookie`.
inline Task<Result<void>> read_names(fs::Filesystem* filesystem, InodeId directory,
                                     std::size_t count, NamesRead* read) {
  std::size_t taken = 0;
  read->end = true;
  auto sink = [&](const fs::DirectoryEntry& entry) {
    if (taken == count) {
      read->end = false;
      return false;
    }
    ++taken;
    read->cookie = entry.next_cookie;
    if (entry.name != "." && entry.name != "..") read->names.emplace_back(entry.name);
    return true;
  };
  co_return co_await filesystem->readdir(directory, read->cookie, false, sink);
}

}  // namespace dynamicfs::test
