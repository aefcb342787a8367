// Runs the suite in directories of one file system or several, and compares.
//
// Of each check one line is printed where it fails, and with several directories, where they differ.
// A failure that `--known` lists, with exactly what is seen, counts as passed; one it lists that does
// not happen is a failure, so that the list stays true.
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/posix/known.hpp"
#include "tests/posix/suite.hpp"

namespace posix {
namespace {

constexpr const char* kUsage =
    "usage: posix_suite [--only TEXT] [--known FILE] [--list-known] [LABEL=]DIRECTORY...\n"
    "\n"
    "Checks the file system of each DIRECTORY, at the same time, as root. LABEL is what it is "
    "called:\n"
    "xfs, dynamicfs, dynamicfs-acl. With several, prints where they differ.\n"
    "  --only TEXT    only cases whose \"group: title\" holds TEXT\n"
    "  --known FILE   differences that are known; see the beginning of that file\n"
    "  --list-known   prints each known difference that was met, with its reason\n";

struct Tested {
  std::string label;
  std::string directory;
  int report_fd = -1;
  pid_t pid = -1;
  int status = 0;
  std::string report = {};
  std::map<std::string, Record> checks;
};

struct Counts {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  int known = 0;
};

void start(Tested& tested, const std::string& only) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    fmt::print(stderr, "no pipe for results: {}\n", std::strerror(errno));
    std::exit(2);
  }
  tested.pid = ::fork();
  if (tested.pid == 0) {
    ::close(ends[0]);
    run_cases(tested.label, tested.directory, only, ends[1]);
    ::_exit(0);
  }
  ::close(ends[1]);
  tested.report_fd = ends[0];
}

// Reads all reports until those who write them have ended. (Not until the pipes are closed: a process
// that sleeps in the kernel may never close its end.)
void read_reports(std::vector<Tested>& all) {
  std::vector<pollfd> pipes;
  for (const Tested& tested : all) {
    ::fcntl(tested.report_fd, F_SETFL, O_NONBLOCK);
    pipes.push_back({.fd = tested.report_fd, .events = POLLIN, .revents = 0});
  }
  char buffer[65536];
  std::size_t left = all.size();
  while (left > 0) {
    ::poll(pipes.data(), pipes.size(), 50);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool ended =
          all[i].pid > 0 && ::waitpid(all[i].pid, &all[i].status, WNOHANG) == all[i].pid;
      ssize_t got = 0;
      while ((got = ::read(pipes[i].fd, buffer, sizeof buffer)) > 0) {
        all[i].report.append(buffer, static_cast<std::size_t>(got));
      }
      if (!ended) continue;
      all[i].pid = -1;
      pipes[i].events = 0;
      --left;
    }
  }
}

// Collects what was reported; broken cases and names that are there twice are counted at once.
void finish(Tested& tested, std::vector<Known>& known, Counts& counts) {
  const auto broken = [&](const std::string& name, const std::string& what) {
    ++counts.failed;
    fmt::print("FAIL {:<13} {}: {}\n", tested.label, name, what);
  };
  if (tested.status != 0) broken("the suite", "did not end by itself");
  for (Record& record : records_in(tested.report)) {
    if (record.kind == Record::Kind::kSkip) {
      ++counts.skipped;
      fmt::print("skip {:<13} {}\n", tested.label, record.name);
    } else if (record.kind == Record::Kind::kBroken) {
      Known* const one = known_for(known, tested.label, record.name);
      if (one != nullptr && matches(one->seen, record.seen)) {
        ++one->used;
        ++counts.known;
        continue;
      }
      broken(record.name, record.seen);
    } else if (!tested.checks.emplace(record.name, record).second) {
      broken(record.name, "two checks have this name");
    }
  }
}

void judge(const Tested& tested, std::vector<Known>& known, bool list_known, Counts& counts) {
  for (const auto& [name, record] : tested.checks) {
    Known* const one = known_for(known, tested.label, name);
    if (record.passed()) {
      if (one != nullptr) {
        ++counts.failed;
        fmt::print("FAIL {:<13} {}: no longer differs; line {} of the known differences\n",
                   tested.label, name, one->line);
      } else {
        ++counts.passed;
      }
      continue;
    }
    if (one != nullptr && matches(one->seen, record.seen)) {
      ++one->used;
      ++counts.passed;
      ++counts.known;
      if (list_known) {
        fmt::print("{:<7} {:<13} {} -> {}\n        ({})\n", one->kind, tested.label, name,
                   record.seen, one->reason);
      }
      continue;
    }
    ++counts.failed;
    fmt::print("FAIL {:<13} {} -> {}\n", tested.label, name, record.seen);
  }
}

void print_differences(const std::vector<Tested>& all) {
  std::set<std::string> names;
  for (const Tested& tested : all) {
    for (const auto& [name, record] : tested.checks) names.insert(name);
  }
  int differing = 0;
  int not_everywhere = 0;
  for (const std::string& name : names) {
    std::set<std::string> answers;
    std::string line;
    bool everywhere = true;
    for (const Tested& tested : all) {
      const auto found = tested.checks.find(name);
      everywhere = everywhere && found != tested.checks.end();
      if (found == tested.checks.end()) continue;
      answers.insert(found->second.seen);
      line += fmt::format("{}{} {}", line.empty() ? "" : ", ", tested.label, found->second.seen);
    }
    if (!everywhere) ++not_everywhere;
    if (answers.size() < 2) continue;
    ++differing;
    fmt::print("diff {}: {}\n", name, line);
  }
  fmt::print("{} checks differ; {} are not made everywhere, because what they need is not there\n",
             differing, not_everywhere);
}

int run(int count, char** words) {
  std::vector<Tested> all;
  std::string only;
  std::string known_path;
  bool list_known = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if ((word == "--only" || word == "--known") && i + 1 < count) {
      (word == "--only" ? only : known_path) = words[++i];
    } else if (word == "--list-known") {
      list_known = true;
    } else if (word.starts_with("-")) {
      fmt::print(stderr, "{}", kUsage);
      return 2;
    } else {
      const auto equals = word.find('=');
      all.push_back({.label = equals == word.npos ? word : word.substr(0, equals),
                     .directory = equals == word.npos ? word : word.substr(equals + 1),
                     .checks = {}});
    }
  }
  if (all.empty()) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  if (::geteuid() != 0) {
    fmt::print("skip all: root is needed\n0 passed, 0 failed, 1 skipped\n");
    return 0;
  }
  std::vector<Known> known;
  if (!known_path.empty()) known = read_known(known_path);
  // By group; last what other cases could notice.
  const auto late = [](const Case& one) {
    return std::string_view{one.group} == "space" || std::string_view{one.group} == "remount";
  };
  std::ranges::stable_sort(all_cases(), [&](const Case& one, const Case& other) {
    if (late(one) != late(other)) return late(other);
    return std::string_view{one.group} < std::string_view{other.group};
  });

  std::fflush(stdout);
  for (Tested& tested : all) start(tested, only);
  read_reports(all);
  Counts counts;
  for (Tested& tested : all) finish(tested, known, counts);
  if (all.size() > 1) print_differences(all);
  for (const Tested& tested : all) judge(tested, known, list_known, counts);
  for (const Known& one : known) {
    if (one.used != 0 || !only.empty()) continue;
    const bool tried = std::ranges::any_of(
        all, [&](const Tested& tested) { return matches(one.target, tested.label); });
    if (!tried) continue;
    ++counts.failed;
    fmt::print("FAIL known line {}: no check is {} on {}\n", one.line, one.name, one.target);
  }
  fmt::print("{} of them known to differ\n", counts.known);
  fmt::print("{} passed, {} failed, {} skipped\n", counts.passed, counts.failed, counts.skipped);
  return counts.failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace posix

int main(int count, char** words) { return posix::run(count, words); }
