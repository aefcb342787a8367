// What the daemon tells its operator: one line per event, to stderr or, once it runs in the
// background, to its log file. Never on a hot path.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/result.hpp"

namespace dynamicfs {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kNothing };

void log_line(LogLevel level, std::string_view text);
// Lines below `level` are dropped. kInfo at start; tests set kError.
void set_log_level(LogLevel level);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

// "disk read (Input/output error), at 4096"
std::string describe(const Error& error);

}  // namespace dynamicfs
