// Differences from the wanted that are known, with a reason for each (the file known_differences).
#pragma once

#include <string>
#include <vector>

#include "tests/posix/suite.hpp"

namespace posix {

struct Known {
  std::string kind;  // bug, missing, fuse or choice
  std::string reason;
  std::string target;  // a pattern of labels
  std::string name;    // a pattern of checks
  std::string seen;    // a pattern of what is seen instead
  int line = 0;
  int used = 0;
};

// Reads `path`; on a mistake in it says which and ends the program.
std::vector<Known> read_known(const std::string& path);
// The entry for this check on `label`, or nullptr.
Known* known_for(std::vector<Known>& known, const std::string& label, const std::string& name);
bool matches(const std::string& pattern, const std::string& text);

}  // namespace posix
