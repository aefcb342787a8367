#include "base/log.hpp"

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <ctime>
#include <string>

namespace dynamicfs {
namespace {

std::atomic<LogLevel> log_level{LogLevel::kInfo};

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
    case LogLevel::kNothing: break;
  }
  return "";
}

}  // namespace

void set_log_level(LogLevel level) { log_level = level; }

void log_line(LogLevel level, std::string_view text) {
  if (level < log_level.load(std::memory_order_relaxed)) return;
  std::timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  std::tm parts{};
  ::localtime_r(&now.tv_sec, &parts);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &parts);
  const std::string line =
      fmt::format("{}.{:03} {} {}\n", stamp, now.tv_nsec / 1'000'000, level_name(level), text);
  // One write per line keeps lines of several threads whole; there is nowhere to report a failure.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

std::string describe(const Error& error) {
  std::string text{code_name(error.code)};
  if (error.sys_errno != 0) text += fmt::format(" ({})", std::strerror(error.sys_errno));
  if (error.detail != 0) text += fmt::format(", at {}", error.detail);
  return text;
}

}  // namespace dynamicfs
