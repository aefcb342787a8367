// What figures are healthy, and what to do where they are not.
#pragma once

#include <string>
#include <vector>

#include "fs/control.hpp"

namespace dynamicfs::fs {

struct Threshold {
  std::string metric;
  std::string healthy;  // "below 0.05"
  bool passed = false;
  std::string hint;  // if passed: one sentence or two, what it means and what to do
};

// `status` counts what happened in `seconds`: since the mount, or as interval() makes it. A figure
// that too little stands behind passes nothing.
std::vector<Threshold> thresholds(const Json& status, double seconds);

// The hints alone, of everything since the mount.
Json hints(const Json& status);

}  // namespace dynamicfs::fs
