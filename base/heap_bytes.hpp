// What an allocation takes of memory, for those who count theirs.
#pragma once

#include <algorithm>
#include <cstddef>

#include "base/ids.hpp"

namespace dynamicfs {

// As glibc does it: a word beside what was asked for, in steps of 16 bytes, 32 at least.
constexpr std::size_t heap_bytes(std::size_t size) {
  return size == 0 ? 0 : std::max<std::size_t>(32, align_up(size + 8, 16));
}

}  // namespace dynamicfs
