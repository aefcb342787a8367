// What is left of a pool whose metadata is damaged, or on disks that are away: a read-only mount that
// goes on where others are refused (FilesystemOptions::salvage), and says of what it cannot be sure.
//
// Data needs none of this: it comes with the right checksum or not at all. Of metadata a part that
// cannot be read leaves room for two mistakes, and both are told. What is known may be outdated: an
// older run has a version, and a newer one may have had another. And what is not known may be there:
// a name, or a piece of a file, which is not the same as a hole.
//
// A run that is lost as a whole may have had anything. So while one is, an inode is read with all its
// names or all its map at once, and counted: the inode's record says how many names or blocks there are.
// When as many come from runs that no lost one is newer than, they are all there is, and nothing is
// in doubt.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace dynamicfs::fs {

// Of one inode, as far as it has been read: of a directory when all its names have been listed, of a
// file when all its data has been looked for (Filesystem::seek).
struct SalvageDoubt {
  bool outdated =
      false;  // attributes, size, links: a newer version may be lost, or that it was removed
  bool names = false;    // some may be missing, and of those listed some may have been removed
  bool changes = false;  // something that the log says of it could not be applied
  // Extended attributes, access control lists among them, may be missing; nothing else for that.
  bool attributes = false;
  // What older runs say of some windows is all that is known of them, and is what there is: those
  // parts may be older than others, or be holes.
  bool mixed = false;
  // Windows that nothing is known of, as [first, end), ascending and disjoint; perhaps beyond the
  // end of the file. What is mapped there all the same is from the log, and right; the rest is unknown,
  // not a hole.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> windows;

  bool any() const {
    return outdated || names || changes || attributes || mixed || !windows.empty();
  }
  void add_windows(std::uint64_t first, std::uint64_t end);
  // Those from `end` on are known.
  void cut_windows(std::uint64_t end);
};

// Of the pool as a whole, so far.
struct SalvageReport {
  std::uint64_t runs_lost = 0;  // what others say may be outdated by them
  std::uint64_t run_bytes_lost = 0;
  std::uint64_t blocks_lost = 0;  // of the other runs
  std::uint64_t chunks_lost =
      0;  // of which a part of the pool's state tells wrongly, or not at all
  bool space_map_damaged = false;

  bool any() const { return runs_lost + blocks_lost + chunks_lost != 0 || space_map_damaged; }
};

}  // namespace dynamicfs::fs
