#include "tools/dynamicfs/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "fs/mount_options.hpp"
#include "fs/status_screen.hpp"

namespace dynamicfs::tools {

Progress::Progress(std::string done)
    : done_(std::move(done)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      started_(Clock::now()),
      shown_(started_) {}

void Progress::show(std::uint64_t bytes, std::uint64_t total_bytes) {
  const Clock::time_point now = Clock::now();
  const std::chrono::milliseconds pause{terminal_ ? 500 : 10'000};
  if (now - shown_ < pause || (bytes == 0 && total_bytes == 0)) return;
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const double rate = static_cast<double>(bytes) / std::max(seconds, 0.001);
  std::string text = fs::size_text(bytes);
  if (total_bytes != 0) text += " of " + fs::size_text(total_bytes);
  text += fmt::format(" {}, {}/s", done_, fs::size_text(static_cast<std::uint64_t>(rate)));
  if (total_bytes > bytes) {
    const auto left = static_cast<double>(total_bytes - bytes);
    text += fmt::format(
        ", {} left",
        fs::duration_text(static_cast<std::uint64_t>(left / std::max(rate, 1.0) + 0.5)));
  }
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r" : "", text, terminal_ ? "\x1b[K" : "\n");
  std::fflush(stderr);
  line_open_ = terminal_;
}

void Progress::end() {
  if (std::exchange(line_open_, false)) fmt::print(stderr, "\r\x1b[K");
}

}  // namespace dynamicfs::tools
