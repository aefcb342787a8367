#include "tests/posix/known.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string_view>

namespace posix {
namespace {

[[noreturn]] void refuse(const std::string& path, int line, std::string_view what) {
  fmt::print(stderr, "{}:{}: {}\n", path, line, what);
  std::exit(2);
}

std::string trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(' ');
  if (begin == text.npos) return {};
  return std::string{text.substr(begin, text.find_last_not_of(' ') - begin + 1)};
}

}  // namespace

// A star stands for any text; everything else for itself.
bool matches(const std::string& pattern, const std::string& text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = pattern.npos;
  std::size_t from = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<Known> read_known(const std::string& path) {
  static const std::set<std::string> kKinds = {"bug", "missing", "fuse", "choice"};
  std::ifstream file(path);
  if (!file) refuse(path, 0, "cannot be read");
  std::vector<Known> all;
  std::string kind;
  std::string reason;
  bool in_reason = false;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line[0] == '#') {
      in_reason = false;
      continue;
    }
    if (line[0] != ' ') {
      if (in_reason) {
        reason += " " + trimmed(line);
        continue;
      }
      const auto colon = line.find(": ");
      kind = line.substr(0, colon);
      if (colon == line.npos || !kKinds.contains(kind)) {
        refuse(path, number, "a reason begins with bug:, missing:, fuse: or choice:");
      }
      reason = trimmed(line.substr(colon + 2));
      in_reason = true;
      continue;
    }
    in_reason = false;
    const std::string text = trimmed(line);
    const auto space = text.find("  ");
    const auto arrow = text.rfind(" -> ");
    if (kind.empty() || space == text.npos || arrow == text.npos || arrow < space) {
      refuse(path, number, "a check is written: TARGET, two spaces, NAME -> SEEN");
    }
    all.push_back({.kind = kind,
                   .reason = reason,
                   .target = text.substr(0, space),
                   .name = trimmed(text.substr(space, arrow - space)),
                   .seen = trimmed(text.substr(arrow + 4)),
                   .line = number});
  }
  return all;
}

Known* known_for(std::vector<Known>& known, const std::string& label, const std::string& name) {
  for (Known& one : known) {
    if (matches(one.target, label) && matches(one.name, name)) return &one;
  }
  return nullptr;
}

}  // namespace posix
