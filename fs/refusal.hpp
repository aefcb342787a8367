// What the command says and how it ends when it does not do what it was asked: one sentence that
// names the thing, one with the remedy, and an exit code that scripts can rely on.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/assert.hpp"

namespace dynamicfs::fs {

// Documented in dynamicfs(8); never renumbered.
enum class ExitCode : int {
  kOk = 0,
  kDegraded = 1,  // status: working, a disk is away
  kAtRisk = 2,    // status: read-only, or data was lost
  kFailed = 3,
  kUsage = 4,
  kNotADisk = 5,
  kAlreadyInPool = 6,
  kDiskMissing = 7,
  kTooFewDisks = 8,
  kSplitBrain = 9,
  kAlreadyMounted = 10,
  kMountpoint = 11,
  kNoFuse = 12,
  kPermission = 13,
  kNewerFormat = 14,
  kNotMounted = 15,
  kMountHeld = 16,  // umount: gone here, in another mount namespace it is not
};

struct Refusal {
  ExitCode code = ExitCode::kFailed;
  std::string what;    // a whole sentence
  std::string remedy;  // another one; empty where there is none
};

inline Refusal failed(std::string what, std::string remedy = {}) {
  return {ExitCode::kFailed, std::move(what), std::move(remedy)};
}
inline Refusal usage(std::string what, std::string remedy) {
  return {ExitCode::kUsage, std::move(what), std::move(remedy)};
}

// A value or a Refusal, with the member names of Result, so TRY works.
template <class T>
class [[nodiscard]] Outcome {
 public:
  // NOLINTBEGIN(google-explicit-constructor): a function returns either
  Outcome(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Outcome(Refusal refusal) : state_(std::in_place_index<1>, std::move(refusal)) {}
  // NOLINTEND(google-explicit-constructor)

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & {
    DFS_ASSERT(has_value());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    DFS_ASSERT(has_value());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  T* operator->() { return &value(); }
  const Refusal& error() const {
    DFS_ASSERT(!has_value());
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<T, Refusal> state_;
};

template <>
class [[nodiscard]] Outcome<void> {
 public:
  Outcome() = default;
  Outcome(Refusal refusal) : refusal_(std::move(refusal)), refused_(true) {}  // NOLINT: implicit

  bool has_value() const { return !refused_; }
  explicit operator bool() const { return has_value(); }
  void value() const { DFS_ASSERT(has_value()); }
  const Refusal& error() const {
    DFS_ASSERT(!has_value());
    return refusal_;
  }

 private:
  Refusal refusal_;
  bool refused_ = false;
};

}  // namespace dynamicfs::fs
