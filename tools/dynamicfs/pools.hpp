// What the daemons of mounted pools answer to the question how they are.
#pragma once

#include <string>
#include <vector>

#include "fs/control.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::tools {

struct Pools {
  // Those that answer, then mounts whose daemon is dead or silent, in the same shape.
  std::vector<fs::Json> all;
  std::vector<fs::Refusal> unanswered;  // what is to be said of the latter
  std::size_t answered() const { return all.size() - unanswered.size(); }
  // The largest of all.
  fs::ExitCode code = fs::ExitCode::kOk;
};

// Of the pool at `mountpoint`, or of every pool if that is empty; kNotMounted if there is none.
fs::Outcome<Pools> ask_pools(const std::string& mountpoint);

}  // namespace dynamicfs::tools
