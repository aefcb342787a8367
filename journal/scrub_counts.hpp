// What a scrub has looked at and found, added up piece by piece.
#pragma once

#include <cstdint>

namespace dynamicfs::journal {

// A *block* is what has one checksum: 4 KiB of a file, 32 KiB of a run, the superblock of one disk.
struct ScrubCounts {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;       // of those blocks, counted once however many copies there are
  std::uint64_t read_bytes = 0;  // of all copies
  std::uint64_t copies_bad =
      0;  // fail their checksum or cannot be read, and should have been right
  std::uint64_t copies_outdated = 0;    // missed while their disk was away
  std::uint64_t copies_repaired = 0;    // of both: rewritten from a good one
  std::uint64_t copies_skipped = 0;     // their disk is gone
  std::uint64_t parity_skipped = 0;     // of these: parity that a disk that is here may lack
  std::uint64_t blocks_lost = 0;        // all disks are here and no copy is good
  std::uint64_t blocks_unreadable = 0;  // no copy that is here is good; one that is away may be

  void add(const ScrubCounts& more) {
    blocks += more.blocks;
    bytes += more.bytes;
    read_bytes += more.read_bytes;
    copies_bad += more.copies_bad;
    copies_outdated += more.copies_outdated;
    copies_repaired += more.copies_repaired;
    copies_skipped += more.copies_skipped;
    parity_skipped += more.parity_skipped;
    blocks_lost += more.blocks_lost;
    blocks_unreadable += more.blocks_unreadable;
  }
  bool operator==(const ScrubCounts&) const = default;
};

}  // namespace dynamicfs::journal
