#include "fs/start_report.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>

#include "base/log.hpp"
#include "fs/control.hpp"

namespace dynamicfs::fs {
namespace {

void write_line(const UniqueFd& pipe, const Json& line) {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  // A command that was interrupted needs no answer.
  [[maybe_unused]] const auto written = ::write(pipe.get(), text.data(), text.size());
}

void print_warning(const std::string& text) {
  fmt::print(stderr, "dynamicfs: warning: {}\n", text);
}

Outcome<void> read_line(const Json& line, bool* ready) {
  if (line.contains("warning")) {
    print_warning(line["warning"].get<std::string>());
  } else if (line.contains("refusal")) {
    return Refusal{static_cast<ExitCode>(line.value("code", static_cast<int>(ExitCode::kFailed))),
                   line["refusal"].get<std::string>(), line.value("remedy", "")};
  } else {
    *ready = line.contains("ready");
  }
  return {};
}

}  // namespace

void StartReport::warn(const std::string& text) {
  if (logging_) log_warning("{}", text);
  if (pipe_) write_line(pipe_, {{"warning", text}});
}

void StartReport::ready() {
  if (pipe_) write_line(pipe_, {{"ready", true}});
  pipe_.reset();
}

void StartReport::refuse(const Refusal& refusal) {
  if (logging_) log_error("{} {}", refusal.what, refusal.remedy);
  if (pipe_) {
    write_line(pipe_, {{"refusal", refusal.what},
                       {"remedy", refusal.remedy},
                       {"code", static_cast<int>(refusal.code)}});
  }
}

Result<StartPipe> make_start_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_error(Code::kSystem, errno);
  return StartPipe{.read_end = UniqueFd{ends[0]}, .write_end = UniqueFd{ends[1]}};
}

void become_daemon(UniqueFd& keep) {
  ::setsid();
  [[maybe_unused]] const int moved = ::chdir("/");
  const int null = ::open("/dev/null", O_RDWR);
  if (null >= 0) {
    ::dup2(null, STDIN_FILENO);
    ::dup2(null, STDOUT_FILENO);
  }
  // A pipe that somebody waits for the end of must not stay open for as long as we live.
  constexpr int kKept = STDERR_FILENO + 1;
  if (keep.get() != kKept) {
    ::dup2(keep.get(), kKept);
    keep = UniqueFd{kKept};
  }
  ::fcntl(kKept, F_SETFD, FD_CLOEXEC);
  ::close_range(kKept + 1, ~0U, 0);
}

Outcome<void> wait_for_start(UniqueFd pipe, pid_t daemon) {
  std::string received;
  bool ready = false;
  while (true) {
    char buffer[4096];
    const ssize_t got = ::read(pipe.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    received.append(buffer, static_cast<std::size_t>(got));
    for (std::size_t end; (end = received.find('\n')) != received.npos;
         received.erase(0, end + 1)) {
      const Json line = Json::parse(received.substr(0, end), nullptr, false);
      if (line.is_object()) TRY(read_line(line, &ready));
    }
  }
  if (ready) return {};
  int status = 0;
  ::waitpid(daemon, &status, 0);
  return Refusal{
      ExitCode::kFailed,
      WIFSIGNALED(status)
          ? fmt::format("The daemon was killed by signal {} while it started.", WTERMSIG(status))
          : "The daemon ended while it started, without a word.",
      "Its log in /var/log/dynamicfs may say why; --foreground shows it at once."};
}

}  // namespace dynamicfs::fs
