#include "base/assert.hpp"

#include <cstdio>
#include <cstdlib>

namespace dynamicfs {

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "dynamicfs: internal error: %s:%d: %s does not hold\n", file, line,
               condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace dynamicfs
