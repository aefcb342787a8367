// A task that is done already, for callbacks that may take their time and do not.
#pragma once

#include "base/result.hpp"
#include "base/task.hpp"

namespace dynamicfs::test {

inline Task<Result<void>> done(Result<void> result = {}) { co_return result; }

}  // namespace dynamicfs::test
