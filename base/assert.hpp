// DFS_ASSERT documents our own mistakes and stays in release builds. Anything that comes from a
// disk, the kernel, a user or another process is an Error, never an assertion.
#pragma once

namespace dynamicfs {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);
}

#define DFS_ASSERT(condition)                        \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::dynamicfs::assertion_failed(#condition, __FILE__, __LINE__))
