// What can be derived again from file maps and names, which carry checksums and are trusted, and is
// made so: live blocks and references of chunks, counts, links, and names of what has none.
//
// It happens in memory, when recovery has ended and before anything is allocated or freed, and one
// checkpoint makes it durable: a crash leaves the pool as it was before or as it is afterwards. What is
// not understood stays as it is: content that two files claim, maps that name what there is not.
// FilesystemOptions::repair; `dynamicfs check --repair`.
#pragma once

#include <string>
#include <vector>

namespace dynamicfs::fs {

struct RepairReport {
  std::vector<std::string> repaired;  // a sentence each: what was wrong and what it is now
  std::vector<std::string> left;      // a sentence each: what is wrong, and why it stays
};

// Where what has lost its name gets one, in the root directory: inode-N.
inline constexpr const char* kLostAndFound = "lost+found";

}  // namespace dynamicfs::fs
