// Whether a recovered tree makes sense: names, links, numbers, and who has which space.
//
// What a checksum cannot tell: metadata that is whole and contradicts itself. Data is the scrub's
// (fs/scrub.hpp), runs and superblocks too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dynamicfs::fs {

struct TreeReport {
  static constexpr std::size_t kProblemsMax = 100;

  std::uint64_t directories = 0;
  std::uint64_t files = 0;  // regular
  std::uint64_t others = 0;
  std::uint64_t names = 0;
  std::uint64_t orphans = 0;       // removed while open; the next mount for writing reclaims them
  std::uint64_t data_blocks = 0;   // of all files, copies not counted
  std::uint64_t saved_blocks = 0;  // how many of them are there once more already
  std::uint64_t chunks = 0;
  std::uint64_t thin_chunks = 0;  // made while disks were away: fewer copies than they should have
  std::uint64_t problem_count = 0;
  std::vector<std::string> problems;  // the first kProblemsMax of them, a sentence each

  void problem(std::string text) {
    if (problem_count++ < kProblemsMax) problems.push_back(std::move(text));
  }
};

}  // namespace dynamicfs::fs
