// A task that is done already, for callbacks that may take their time and do not; and what others have come to.
#pragma once

#include <optional>
#include <utility>

#include "base/result.hpp"
#include "base/task.hpp"

namespace dynamicfs::test {

inline Task<Result<void>> done(Result<void> result = {}) { co_return result; }

// For spawn(): what the task has come to, once it has.
template <class T>
Task<void> keep(Task<T> task, std::optional<T>* result) {
  result->emplace(co_await std::move(task));
}

}  // namespace dynamicfs::test
