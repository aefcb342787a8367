// How the daemon, while it starts, speaks to the command that started it: warnings, then either
// "ready" or the reason why not.
//
// In the background that goes through a pipe, one JSON object per line; the command prints it and
// ends with the daemon's exit code.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

class StartReport {
 public:
  static StartReport to_stderr() { return StartReport{UniqueFd{}}; }
  static StartReport to_pipe(UniqueFd pipe) { return StartReport{std::move(pipe)}; }

  // stderr is the log from now on: what is said goes there too. Until then it is the terminal of
  // whoever waits for us, and says everything once.
  void log_is_open() { logging_ = true; }
  void warn(const std::string& text);
  // The tree can be used: whoever waits goes on, and hears nothing more.
  void ready();
  void refuse(const Refusal& refusal);

 private:
  explicit StartReport(UniqueFd pipe) : pipe_(std::move(pipe)) {}
  UniqueFd pipe_;
  bool logging_ = false;
};

struct StartPipe {
  UniqueFd read_end;
  UniqueFd write_end;
};
Result<StartPipe> make_start_pipe();

// In the child: a session of its own, nothing inherited but stderr (until the log is open) and
// `keep`.
void become_daemon(UniqueFd& keep);

// In the parent: prints warnings; returns when the daemon is ready, has refused, or has died.
Outcome<void> wait_for_start(UniqueFd pipe, pid_t daemon);

}  // namespace dynamicfs::fs
