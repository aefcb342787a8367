// One process of the fuzzer: it does operations in a mounted tree, keeps a model of what must be
// there, and compares.
//
// The tree goes away and comes back under a worker: between run() and whatever comes next it holds
// nothing open, so the pool can be unmounted; and its daemon may be killed at any time if the
// worker was told so (`crash`). What then must be true is said with each worker.
#pragma once

#include <cerrno>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>

#include "tests/fuzz/random.hpp"

namespace dynamicfs::fuzz {

struct Options {
  std::string root;  // the mounted tree
  std::uint64_t seed = 1;
  unsigned worker = 0;   // our number among those that share a directory
  unsigned workers = 1;  // how many these are
  std::string memory;    // a file that they share as memory
  bool crash = false;    // the daemon may be killed
  bool exact = false;    // only operations that the daemon sees one by one, see file_worker.hpp
  bool damaged = false;  // a defect on purpose, to see that it is noticed: see fuzz.cpp
  unsigned ballast = 0;  // files that are there to fill memory for metadata
};

// The tree is not what it may be. The text is the report.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The daemon was killed; what was under way may have happened or not.
struct DaemonGone {};

// As memcpy, where one side is a mapped file. A page that its daemon cannot give any more is a
// signal: then what was being copied ends there, and false is returned.
bool copy_mapped(void* to, const void* from, std::size_t length);

// The last operations on one thing, the newest at the end.
class OperationLog {
 public:
  void add(std::string line) {
    if (lines_.size() == kLines) lines_.pop_front();
    lines_.push_back(std::move(line));
  }
  std::string text() const {
    std::string all;
    for (const std::string& line : lines_) all += "  " + line + "\n";
    return all;
  }

 private:
  static constexpr std::size_t kLines = 400;
  std::deque<std::string> lines_;
};

class Worker {
 public:
  explicit Worker(const Options& options) : options_(options) {}
  virtual ~Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // One operation, or a few that belong together.
  virtual void step(Rng& rng) = 0;
  // Closes everything. Called after the last step before a pause, also after DaemonGone.
  virtual void rest() = 0;
  // Compares all there is with the model. Nobody else changes anything meanwhile.
  virtual void verify() = 0;
  // After a kill and a new mount: compares what came back with what may have, and goes on from it.
  // The workers of a directory come one after the other.
  virtual void recover() = 0;

  std::uint64_t steps() const { return step_; }
  void run_step() {
    Rng rng(options_.seed, step_);
    try {
      step(rng);
    } catch (...) {
      ++step_;
      throw;
    }
    ++step_;
  }

 protected:
  // For a call that must succeed: throws what `error` means.
  [[noreturn]] void fail(const std::string& what, int error) const {
    if (is_gone(error)) throw DaemonGone{};
    throw Violation(what + ": " + error_text(error));
  }
  void expect(bool succeeded, const std::string& what) const {
    if (!succeeded) fail(what, errno);
  }
  // Whether a killed daemon explains the error. EIO is what fsync makes of writeback that failed, ECANCELED
  // what io_uring makes of a request that it was just to hand over.
  bool is_gone(int error) const {
    return options_.crash && (error == ENOTCONN || error == ECONNABORTED || error == EIO ||
                              error == ENODEV || error == ECANCELED);
  }
  static std::string error_text(int error);
  // For a read or write that did less than it was asked for. If the daemon may have been killed
  // under it, `rest` is what doing the rest gave, and must tell so.
  [[noreturn]] void fail_short(const std::string& what, long rest) const {
    if (options_.crash && rest < 0) fail(what, errno);
    throw Violation(what);
  }
  // Makes what was done in a directory, and its own name, durable.
  void sync_directory(const std::string& path) const;

  const Options options_;
  std::uint64_t step_ = 0;
};

}  // namespace dynamicfs::fuzz
