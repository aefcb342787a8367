// How far something that takes minutes or hours is: on a terminal one line that changes, else one every
// ten seconds. To stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dynamicfs::tools {

class Progress {
 public:
  // `done`: a word for what has been done with the bytes, such as "checked".
  explicit Progress(std::string done);
  // Often: it says nothing more often than is good. `total_bytes` 0: not known.
  void show(std::uint64_t bytes, std::uint64_t total_bytes);
  // Clears the line, for something else to be said.
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  const std::string done_;
  const bool terminal_;
  const Clock::time_point started_;
  Clock::time_point shown_;
  bool line_open_ = false;
};

}  // namespace dynamicfs::tools
