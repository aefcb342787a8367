// What extent_bench has measured, as one reads it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tools/bench/extent_files.hpp"

namespace dynamicfs::bench {

struct Figure {
  double rate = 0;    // per second, all threads
  double cpu_ns = 0;  // processor time each
  double p50_ns = 0;
  double p99_ns = 0;
};
// By case and number of threads, one for each round.
using Figures = std::map<std::pair<std::string, int>, std::vector<Figure>>;

struct MapBytes {
  Shape shape;
  std::uint64_t extents;
  std::uint64_t counted;  // FileMap::memory_bytes()
  std::uint64_t heap;
};

std::vector<std::uint64_t> sizes(bool quick);
std::string case_name(const std::string& what, Shape shape, std::uint64_t extents);
void print_table(const Figures& figures, const std::vector<MapBytes>& bytes, bool quick);

}  // namespace dynamicfs::bench
