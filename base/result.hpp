// Result<T>: a value or an Error, with the member names of std::expected so that it can be replaced
// by it later. Neither can be dropped silently.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <variant>

#include "base/assert.hpp"

namespace dynamicfs {

// What happened, at one kind of place; not an errno. fs/fuse_session maps codes to errno.
enum class Code : std::uint8_t {
  kOk = 0,
  // Disks and their scheduler.
  kDiskRead,   // the device answered a read with an error
  kDiskWrite,  // ... a write
  kDiskFlush,  // ... a flush: what was written since the last good flush may be lost
  kDiskGone,   // the disk is missing, failed or shut down; nothing was attempted
  kDiskHung,   // the device has not answered for LatencyWatch::kHungAfter
  kDiskOffline,  // the user has taken the disk offline
  kDiskRange,  // an offset behind the end of the volume
  kDiskOpen,   // opening a backing store failed; sys_errno says why
  // Bytes on disk.
  kFormatMagic,    // not ours at all
  kFormatVersion,  // ours, but written by a newer program
  kFormatInvalid,  // ours, checksum good, contents impossible: a bug or a forgery
  kChecksum,       // checksum mismatch
  kCorrupt,        // no good copy is left
  // Journal and pool.
  kJournalFull,
  kJournalStopped,  // an earlier failure made the pool read-only
  kNotInPool,
  kPoolBusy,     // another daemon holds the lock
  kPoolExists,   // the disk belongs to a pool already
  kDiskMissing,  // a member that is needed was not found
  kTooFewDisks,
  kSplitBrain,
  kReadOnly,
  // Space.
  kNoSpace,
  // The POSIX layer.
  kNotFound,
  kExists,
  kNotDirectory,
  kIsDirectory,
  kNotEmpty,
  kNameTooLong,
  kInvalid,
  kPermission,
  kAccess,
  kTooManyLinks,
  kFileTooBig,
  kNoAttribute,
  kStale,
  kNotSupported,
  kRange,
  kCrossDevice,
  kNoMemory,
  kBusy,
  kNoDevice,
  // Outside.
  kSystem,  // a system call failed; sys_errno says why
  kUsage,   // what the user asked for makes no sense; the message says what to do
  kShutdown,
};

std::string_view code_name(Code code);

// Small and copied freely. `detail` is the id or offset involved, where one helps the reader.
struct Error {
  Code code = Code::kOk;
  int sys_errno = 0;
  std::uint64_t detail = 0;

  constexpr bool operator==(const Error&) const = default;
};

constexpr Error error(Code code, std::uint64_t detail = 0) { return {code, 0, detail}; }
constexpr Error system_error(Code code, int sys_errno, std::uint64_t detail = 0) {
  return {code, sys_errno, detail};
}

template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, error) {          // NOLINT: implicit
    DFS_ASSERT(error.code != Code::kOk);
  }
  Result(Code code) : Result(Error{code}) {}  // NOLINT: implicit

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & {
    DFS_ASSERT(has_value());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    DFS_ASSERT(has_value());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    DFS_ASSERT(has_value());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  Error error() const {
    DFS_ASSERT(!has_value());
    return *std::get_if<1>(&state_);
  }
  T value_or(T other) const& { return has_value() ? value() : std::move(other); }
  // Drops the outcome on purpose; the reason is for the reader.
  void ignore(const char* /*reason*/) const {}

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() = default;
  Result(Error error) : error_(error) { DFS_ASSERT(error.code != Code::kOk); }  // NOLINT: implicit
  Result(Code code) : Result(Error{code}) {}                                    // NOLINT: implicit

  bool has_value() const { return error_.code == Code::kOk; }
  explicit operator bool() const { return has_value(); }
  void value() const { DFS_ASSERT(has_value()); }
  Error error() const {
    DFS_ASSERT(!has_value());
    return error_;
  }
  void ignore(const char* /*reason*/) const {}

 private:
  Error error_;
};

}  // namespace dynamicfs

#define DFS_CONCAT_(a, b) a##b
#define DFS_CONCAT(a, b) DFS_CONCAT_(a, b)

// Unwraps, or returns the error from the enclosing function. Not for coroutines.
#define TRY_(name, expression)                  \
  __extension__({                               \
    auto name = (expression);                   \
    if (!name.has_value()) return name.error(); \
    std::move(name).value();                    \
  })
#define TRY(expression) TRY_(DFS_CONCAT(try_, __COUNTER__), expression)

// The same for coroutines, as statements: g++ 12 breaks on co_await inside a statement expression.
#define CO_TRY_ASSIGN_(name, declaration, expression) \
  auto name = expression;                             \
  if (!name.has_value()) co_return name.error();      \
  declaration = std::move(name).value()
#define CO_TRY_ASSIGN(declaration, expression) \
  CO_TRY_ASSIGN_(DFS_CONCAT(co_try_, __COUNTER__), declaration, expression)
#define CO_TRY_(name, expression) \
  auto name = expression;         \
  if (!name.has_value()) co_return name.error()
#define CO_TRY(expression) CO_TRY_(DFS_CONCAT(co_try_, __COUNTER__), expression)
