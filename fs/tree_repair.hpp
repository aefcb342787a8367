// What can be derived again from file maps and names, which carry checksums and are trusted, and is
// made so: live blocks and references of chunks, counts, links, and names of what has none.
//
// It happens in memory, when recovery has ended and before anything is allocated or freed, and one
// checkpoint makes it durable: a crash leaves the pool as it was before or as it is afterwards. If anything
// is not understood (content that two files claim, maps that name what there is not, blocks of an inode
// that is no file) nothing is written: it may be what the rest means.
// FilesystemOptions::repair; `dynamicfs check --repair`.
#pragma once

#include <string>
#include <vector>

namespace dynamicfs::fs {

struct RepairReport {
  std::vector<std::string> repaired;  // a sentence each: what was wrong and what it is now
  // A sentence each: what is not understood, or why nothing could be tried; then nothing is repaired.
  std::vector<std::string> left;
};

// Where what has lost its name gets one, in the root directory: inode-N.
inline constexpr const char* kLostAndFound = "lost+found";

}  // namespace dynamicfs::fs
