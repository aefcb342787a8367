#include "tools/dynamicfs/watch.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "fs/metric_values.hpp"
#include "fs/watch_screen.hpp"
#include "tools/dynamicfs/commands.hpp"
#include "tools/dynamicfs/pools.hpp"

namespace dynamicfs::tools {
namespace {

using Clock = std::chrono::steady_clock;

// What SIGINT ends with: as a shell has it, until there is a sample.
volatile sig_atomic_t code_now = 128 + SIGINT;

// SIGINT and SIGTERM end the program where it waits, and nowhere else: a sample is printed whole.
class Signals {
 public:
  Signals() {
    struct sigaction action {};
    action.sa_handler = [](int) { ::_exit(code_now); };
    for (const int number : {SIGINT, SIGTERM}) {
      ::sigaction(number, &action, nullptr);
      ::sigaddset(&endings_, number);
    }
    // Interrupts the sleep, so that the screen is drawn anew.
    action.sa_handler = [](int) {};
    ::sigaction(SIGWINCH, &action, nullptr);
    sigset_t blocked = endings_;
    ::sigaddset(&blocked, SIGWINCH);
    ::sigprocmask(SIG_BLOCK, &blocked, &before_);
  }

  // False: the terminal has another size now.
  bool sleep(std::chrono::nanoseconds time) const {
    const auto left = std::max<std::int64_t>(time.count(), 0);
    const timespec wait{.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
    return ::ppoll(nullptr, 0, &wait, &before_) == 0;
  }
  // For what may take long.
  template <class Work>
  auto interruptible(Work work) const {
    ::sigprocmask(SIG_UNBLOCK, &endings_, nullptr);
    auto result = work();
    ::sigprocmask(SIG_BLOCK, &endings_, nullptr);
    return result;
  }

 private:
  sigset_t endings_{};
  sigset_t before_{};
};

struct Terminal {
  std::size_t columns = 80;
  std::size_t rows = 24;
};

// False: stdout is none, or one that cannot move its cursor.
bool is_terminal() {
  const char* const kind = std::getenv("TERM");
  return ::isatty(STDOUT_FILENO) == 1 && kind != nullptr && std::string_view{kind} != "dumb";
}

Terminal terminal_size() {
  Terminal terminal;
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    terminal = {.columns = size.ws_col, .rows = size.ws_row};
  }
  return terminal;
}

// What was seen of a pool the last time.
struct Seen {
  fs::Json status;
  Clock::time_point at;
};

class Watch {
 public:
  explicit Watch(const WatchArguments& arguments) : arguments_(arguments) {}

  fs::ExitCode run() {
    Clock::time_point next = Clock::now();
    for (std::uint64_t sample = 1;; ++sample) {
      auto pools = signals_.interruptible([this] { return ask_pools(arguments_.mountpoint); });
      if (!pools) return refuse(pools.error());
      code_now = static_cast<int>(pools->code);
      take(*pools);
      draw();
      if (const fs::ExitCode written = end_output(pools->code); written != pools->code)
        return written;
      if (pools->answered() == 0) return pools->code;
      if (sample == arguments_.count) return pools->code;
      next += arguments_.period;
      // After a daemon that took its time the samples do not follow each other the quicker.
      next = std::max(next, Clock::now());
      while (!signals_.sleep(next - Clock::now())) {
        if (!in_place()) continue;  // what has been printed stays
        draw();
        std::fflush(stdout);
      }
    }
  }

 private:
  bool in_place() const { return is_terminal_ && !arguments_.json; }

  // Keeps what draw() shows.
  void take(const Pools& pools) {
    const Clock::time_point now = Clock::now();
    pools_ = pools;
    shown_.clear();
    std::map<std::string, Seen> seen;
    for (std::size_t i = 0; i < pools.answered(); ++i) {
      const fs::Json& status = pools.all[i];
      const std::string uuid = status.at("pool").value("uuid", "");
      const auto before = seen_.find(uuid);
      const bool known = before != seen_.end();
      const double seconds =
          known ? std::chrono::duration<double>(now - before->second.at).count() : 0;
      shown_.push_back({fs::interval(known ? before->second.status : fs::Json{}, status), seconds});
      seen.emplace(uuid, Seen{status, now});
    }
    seen_ = std::move(seen);
  }

  void draw() {
    if (arguments_.json) {
      const fs::Json line =
          arguments_.mountpoint.empty() ? fs::Json(pools_.all) : pools_.all.front();
      put_out(line.dump(-1, ' ', false, fs::Json::error_handler_t::replace) + "\n");
      return;
    }
    const Terminal terminal = is_terminal_ ? terminal_size() : Terminal{.columns = 100, .rows = 0};
    std::string out;
    for (const auto& [status, seconds] : shown_) {
      if (!out.empty()) out += "\n";
      out += fs::watch_screen(status, {.seconds = seconds, .columns = terminal.columns});
    }
    for (const fs::Refusal& why : pools_.unanswered) {
      out += fmt::format("{}{}\n  ! {}\n", out.empty() ? "" : "\n", why.what, why.remedy);
    }
    if (is_terminal_) {
      // The cursor rests in the last line.
      put_out(fs::in_place(fs::clipped(out, terminal.columns, terminal.rows - 1)));
    } else {
      put_out((drawn_ ? "\n" : "") + out);
    }
    drawn_ = true;
  }

  const WatchArguments& arguments_;
  const bool is_terminal_ = is_terminal();
  const Signals signals_;
  Pools pools_;
  std::vector<std::pair<fs::Json, double>> shown_;  // and the seconds it counts
  std::map<std::string, Seen> seen_;                // by the pool's uuid
  bool drawn_ = false;
};

}  // namespace

fs::ExitCode watch(const WatchArguments& arguments) { return Watch{arguments}.run(); }

}  // namespace dynamicfs::tools
