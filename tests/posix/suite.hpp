// What a check is made of, and how one is declared.
//
// A group (one file, one operation) is a row of cases; a case is a function that runs in a process and
// an empty directory of its own, as root, and makes checks. A check is a sentence with what POSIX and
// Linux want and what was seen: its name is the same on every file system, so that two of them can be
// compared. What a case changes of its process (user, limits, signals) ends with it.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <concepts>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posix {

// "ok", or the name of an errno.
std::string error_name(int number);

// How a system call ended. Made of its result, at once: errno must still be its own.
struct Outcome {
  int error = 0;

  template <std::integral T>
  Outcome(T result) : error(result < 0 ? errno : 0) {}  // NOLINT: that is what it is for
};

// What is seen or wanted, as text.
struct Value {
  std::string text;

  Value(std::string value) : text(std::move(value)) {}                  // NOLINT
  Value(const char* value) : text(value) {}                             // NOLINT
  Value(std::string_view value) : text(value) {}                        // NOLINT
  Value(std::integral auto value) : text(fmt::format("{}", +value)) {}  // NOLINT
};

// A file system that differs from what is wanted, and is the yardstick all the same: `why` says how
// that comes.
struct Otherwise {
  std::string_view target;
  std::string text;
  std::string_view why;
};
Otherwise on_xfs(int error, std::string_view why);
Otherwise on_xfs(Value seen, std::string_view why);

void fails(int error, Outcome seen, std::string_view sentence, const Otherwise& otherwise = {});
void works(Outcome seen, std::string_view sentence, const Otherwise& otherwise = {});
void expect(const Value& wanted, const Value& seen, std::string_view sentence,
            const Otherwise& otherwise = {});
void holds(bool seen, std::string_view sentence, const Otherwise& otherwise = {});

// Stands in front of every sentence while it lives.
class About {
 public:
  explicit About(std::string words);
  About(const About&) = delete;
  About& operator=(const About&) = delete;
  ~About();
};

// Ends the case: the machine lacks what it needs.
[[noreturn]] void skip(std::string_view ability);
// Ends the case as failed unless `done` succeeded: what a check needs could not be made.
void require(Outcome done, std::string_view what);

// The label of what is tested: "xfs", "dynamicfs".
const std::string& target();

struct Case {
  const char* group;
  const char* title;
  void (*run)();
};
std::vector<Case>& all_cases();

struct Registration {
  Registration(const char* group, const char* title, void (*run)()) {
    all_cases().push_back({group, title, run});
  }
};

#define POSIX_JOIN_(a, b) a##b
#define POSIX_JOIN(a, b) POSIX_JOIN_(a, b)
// A case of the group that `kGroup` names.
#define CASE(title)                                                       \
  static void POSIX_JOIN(case_, __LINE__)();                              \
  static const ::posix::Registration POSIX_JOIN(registration_, __LINE__){ \
      kGroup, title, POSIX_JOIN(case_, __LINE__)};                        \
  static void POSIX_JOIN(case_, __LINE__)()

// A check as it went.
struct Record {
  enum class Kind : char { kCheck = 'c', kSkip = 's', kBroken = 'b' };
  Kind kind = Kind::kCheck;
  std::string name;
  std::string wanted;
  std::string seen;
  std::string why;  // of an Otherwise that holds here

  bool passed() const { return kind == Kind::kCheck && wanted == seen; }
};

// Runs the cases whose "group: title" holds `only` in a new directory below `directory`, which is
// removed again, and writes what came of them to the pipe `report_fd`.
void run_cases(const std::string& label, const std::string& directory, std::string_view only,
               int report_fd);
// What was written to such a pipe.
std::vector<Record> records_in(std::string_view report);

}  // namespace posix
