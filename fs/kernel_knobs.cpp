#include "fs/kernel_knobs.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/log.hpp"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace dynamicfs::fs {
namespace {

struct Setting {
  const char* name;
  const char* value;
};
constexpr Setting kSettings[] = {
    // One extent window, and one request of the largest size.
    {"read_ahead_kb", "1024"},
    // The kernel gives a FUSE mount 1 % of the dirty limit, which stalls writers for no reason of
    // ours: backpressure comes from the disks.
    {"max_ratio", "40"},
    {"strict_limit", "0"},
};

std::string read_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

bool write_word(const std::string& path, const char* value) {
  std::ofstream file(path);
  file << value << std::flush;
  return file.good();
}

}  // namespace

std::vector<Knob> raise_kernel_knobs(const std::string& device) {
  std::vector<Knob> knobs;
  const std::string directory = "/sys/class/bdi/" + device + "/";
  for (const Setting& setting : kSettings) {
    const std::string path = directory + setting.name;
    Knob knob{.name = setting.name, .before = read_word(path), .after = {}};
    if (knob.before != setting.value && ::geteuid() == 0 && !write_word(path, setting.value)) {
      log_warning("cannot set {} to {}: {}", path, setting.value, std::strerror(errno));
    }
    knob.after = read_word(path);
    knobs.push_back(std::move(knob));
  }
  return knobs;
}

std::vector<std::string> protect_from_memory_pressure() {
  std::vector<std::string> failures;
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) {
    failures.push_back(fmt::format("cannot become an I/O flusher: {}", std::strerror(errno)));
  }
  if (!write_word("/proc/self/oom_score_adj", "-900")) {
    failures.push_back(fmt::format("cannot lower oom_score_adj: {}", std::strerror(errno)));
  }
  return failures;
}

}  // namespace dynamicfs::fs
