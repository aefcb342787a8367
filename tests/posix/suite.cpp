#include "tests/posix/suite.hpp"

#include <fcntl.h>
#include <fts.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

namespace posix {
namespace {

// Far beyond what any case takes: one that sleeps in the kernel.
constexpr int kCaseSecondsMax = 60;
constexpr char kFieldEnd = '\x1f';
constexpr char kRecordEnd = '\x1e';

// Of the process that runs a case.
std::string running_target;
std::string running_group;
std::vector<std::string> context;
int records_fd = -1;

struct Skipped : std::exception {};
struct Broken : std::exception {};

// One write(2) to a pipe, so that no limit of a file's size counts and records of a case and of its children do not mix.
void tell(const Record& record) {
  std::string line{static_cast<char>(record.kind)};
  for (const std::string* field : {&record.name, &record.wanted, &record.seen, &record.why}) {
    std::string text = *field;
    std::erase_if(text, [](char c) { return c == kFieldEnd || c == kRecordEnd; });
    line += text + kFieldEnd;
  }
  line += kRecordEnd;
  if (::write(records_fd, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    ::_exit(3);
}

std::string named(std::string_view sentence, std::string_view wanted) {
  std::string name = running_group + ": ";
  for (const std::string& words : context) name += words + " ";
  name += sentence;
  if (!wanted.empty()) name += ": " + std::string{wanted};
  return name;
}

void check(std::string name, std::string wanted, std::string seen, const Otherwise& otherwise) {
  Record record{
      .name = std::move(name), .wanted = std::move(wanted), .seen = std::move(seen), .why = {}};
  if (!otherwise.target.empty() && otherwise.target == running_target) {
    record.wanted = otherwise.text;
    record.why = otherwise.why;
  }
  tell(record);
}

void run_case(const Case& one, const std::string& directory) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  running_group = one.group;
  ::umask(022);
  if (::chdir(directory.c_str()) != 0) {
    tell({.kind = Record::Kind::kBroken,
          .name = named(one.title, {}),
          .wanted = {},
          .seen = "its directory cannot be entered",
          .why = {}});
    ::_exit(0);
  }
  try {
    one.run();
  } catch (const Skipped&) {
  } catch (const Broken&) {
  } catch (const std::exception& error) {
    tell({.kind = Record::Kind::kBroken,
          .name = named(one.title, {}),
          .wanted = {},
          .seen = error.what(),
          .why = {}});
  }
  // No destructor of a parent's, no buffer written twice.
  ::_exit(0);
}

// Waits for a child's end; says how it ended if that was not well.
std::string end_of(pid_t pid) {
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  pollfd ended{.fd = fd, .events = POLLIN, .revents = 0};
  std::string how;
  if (::poll(&ended, 1, kCaseSecondsMax * 1000) == 0) {
    how = fmt::format("no end after {} s", kCaseSecondsMax);
    ::kill(pid, SIGKILL);
    ::poll(&ended, 1, 5000);
  }
  ::close(fd);
  int status = 0;
  if (::waitpid(pid, &status, WNOHANG) == pid && how.empty()) {
    if (WIFSIGNALED(status)) how = fmt::format("died of signal {}", WTERMSIG(status));
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
      how = fmt::format("exited with {}", WEXITSTATUS(status));
    }
  }
  return how;
}

// Everything below and the directory itself; paths may be longer than PATH_MAX.
void remove_tree(std::string directory) {
  char* const roots[] = {directory.data(), nullptr};
  FTS* const walk = ::fts_open(roots, FTS_PHYSICAL | FTS_NOSTAT, nullptr);
  if (walk == nullptr) return;
  while (FTSENT* const entry = ::fts_read(walk)) {
    if (entry->fts_info == FTS_D) ::chmod(entry->fts_accpath, 0700);
    if (entry->fts_info == FTS_D || entry->fts_info == FTS_DNR) continue;
    if (entry->fts_info == FTS_DP) {
      ::rmdir(entry->fts_accpath);
    } else {
      ::unlink(entry->fts_accpath);
    }
  }
  ::fts_close(walk);
}

}  // namespace

std::string error_name(int number) {
  if (number == 0) return "ok";
  const char* const name = ::strerrorname_np(number);
  return name != nullptr ? name : fmt::format("errno {}", number);
}

Otherwise on_xfs(int error, std::string_view why) { return {"xfs", error_name(error), why}; }
Otherwise on_xfs(Value seen, std::string_view why) { return {"xfs", std::move(seen.text), why}; }

void fails(int error, Outcome seen, std::string_view sentence, const Otherwise& otherwise) {
  check(named(sentence, error_name(error)), error_name(error), error_name(seen.error), otherwise);
}

void works(Outcome seen, std::string_view sentence, const Otherwise& otherwise) {
  check(named(sentence, {}), "ok", error_name(seen.error), otherwise);
}

void expect(const Value& wanted, const Value& seen, std::string_view sentence,
            const Otherwise& otherwise) {
  check(named(sentence, wanted.text), wanted.text, seen.text, otherwise);
}

void holds(bool seen, std::string_view sentence, const Otherwise& otherwise) {
  check(named(sentence, {}), "yes", seen ? "yes" : "no", otherwise);
}

About::About(std::string words) { context.push_back(std::move(words)); }
About::~About() { context.pop_back(); }

void skip(std::string_view ability) {
  tell({.kind = Record::Kind::kSkip,
        .name = named(ability, {}),
        .wanted = {},
        .seen = {},
        .why = {}});
  throw Skipped{};
}

void require(Outcome done, std::string_view what) {
  if (done.error == 0) return;
  tell({.kind = Record::Kind::kBroken,
        .name = named(what, {}),
        .wanted = {},
        .seen = "cannot be made ready: " + error_name(done.error),
        .why = {}});
  throw Broken{};
}

const std::string& target() { return running_target; }

std::vector<Case>& all_cases() {
  static std::vector<Case> cases;
  return cases;
}

void run_cases(const std::string& label, const std::string& directory, std::string_view only,
               int report_fd) {
  running_target = label;
  records_fd = report_fd;
  std::string root = directory + "/posix-XXXXXX";
  if (::mkdtemp(root.data()) == nullptr || ::chmod(root.c_str(), 0755) != 0) {
    tell({.kind = Record::Kind::kBroken,
          .name = directory,
          .wanted = {},
          .seen = "no directory can be made there: " + error_name(errno),
          .why = {}});
    return;
  }
  int number = 0;
  for (const Case& one : all_cases()) {
    const std::string name = fmt::format("{}: {}", one.group, one.title);
    if (!only.empty() && name.find(only) == name.npos) continue;
    const std::string here = fmt::format("{}/{}-{}", root, one.group, ++number);
    ::mkdir(here.c_str(), 0755);
    const pid_t pid = ::fork();
    if (pid == 0) run_case(one, here);
    const auto started = std::chrono::steady_clock::now();
    const std::string how = end_of(pid);
    if (::getenv("POSIX_TIMES") != nullptr) {
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
      fmt::print(stderr, "{:7.3f} s  {:<13} {}\n", took.count(), label, name);
    }
    if (!how.empty()) {
      tell({.kind = Record::Kind::kBroken, .name = name, .wanted = {}, .seen = how, .why = {}});
    }
    remove_tree(here);
  }
  if (::rmdir(root.c_str()) != 0) {
    tell({.kind = Record::Kind::kBroken,
          .name = "all: what cases have made can be removed",
          .wanted = {},
          .seen = error_name(errno),
          .why = {}});
  }
}

std::vector<Record> records_in(std::string_view all) {
  std::vector<Record> records;
  std::size_t begin = 0;
  for (std::size_t end; (end = all.find(kRecordEnd, begin)) != all.npos; begin = end + 1) {
    Record record;
    record.kind = static_cast<Record::Kind>(all[begin++]);
    for (std::string* field : {&record.name, &record.wanted, &record.seen, &record.why}) {
      const std::size_t stop = all.find(kFieldEnd, begin);
      *field = all.substr(begin, stop - begin);
      begin = stop + 1;
    }
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace posix
