#include "fs/kernel_knobs.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>

#include "base/log.hpp"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace dynamicfs::fs {
namespace {

// Linux 6.2 and later.
constexpr std::string_view kDirtyLimit = "max_bytes";

std::string read_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

bool write_word(const std::string& path, const std::string& value) {
  std::ofstream file(path);
  file << value << std::flush;
  return file.good();
}

std::string knob_path(const std::string& device, std::string_view name) {
  return fmt::format("/sys/class/bdi/{}/{}", device, name);
}

}  // namespace

bool can_limit_dirty_memory(const std::string& device) {
  return ::access(knob_path(device, kDirtyLimit).c_str(), W_OK) == 0;
}

std::vector<Knob> raise_kernel_knobs(const std::string& device,
                                     std::optional<std::uint64_t> dirty_bytes_max) {
  std::vector<Knob> knobs;
  const auto set = [&](std::string_view name, const std::string& value) {
    const std::string path = knob_path(device, name);
    Knob knob{.name = std::string{name}, .before = read_word(path), .after = {}};
    errno = 0;
    const bool done = knob.before == value || (::geteuid() == 0 && write_word(path, value));
    if (!done && errno != 0 && name != kDirtyLimit) {
      log_warning("cannot set {} to {}: {}", path, value, std::strerror(errno));
    }
    knob.after = read_word(path);
    knobs.push_back(std::move(knob));
    return done;
  };
  // One extent window, and one request of the largest size.
  set("read_ahead_kb", "1024");
  if (dirty_bytes_max && set(kDirtyLimit, std::to_string(*dirty_bytes_max))) {
    set("strict_limit", "1");
    return knobs;
  }
  // Refused where it is more than all file systems may have together now: then that is the limit.
  set("max_ratio", "40");
  set("strict_limit", "0");
  return knobs;
}

void hold_dirty_limit(const std::string& device, std::uint64_t dirty_bytes_max) {
  std::uint64_t now = 0;
  if (!(std::ifstream(knob_path(device, kDirtyLimit)) >> now)) return;
  if (now >= dirty_bytes_max - dirty_bytes_max / 10 &&
      now <= dirty_bytes_max + dirty_bytes_max / 10) {
    return;
  }
  if (write_word(knob_path(device, kDirtyLimit), std::to_string(dirty_bytes_max))) {
    write_word(knob_path(device, "strict_limit"), "1");
  }
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
