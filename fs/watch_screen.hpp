// The screen of `dynamicfs status --watch`: what a pool is doing now.
#pragma once

#include <cstddef>
#include <string>

#include "fs/control.hpp"

namespace dynamicfs::fs {

struct WatchOptions {
  // What the counters of `status` have counted in; 0: all since the mount.
  double seconds = 0;
  // Sentences are broken before they are longer than that.
  std::size_t columns = 100;
};

// `status` as build_status() or interval() makes it. Rates, bars of what is limited, what is healthy
// beside the figures, hints and problems.
std::string watch_screen(const Json& status, WatchOptions options);

// What fits on a terminal: so many lines, each of so many characters, the rest cut off.
std::string clipped(const std::string& text, std::size_t columns, std::size_t rows);
// `text` written over what a terminal shows, which is cleared where there is less now.
std::string in_place(const std::string& text);

}  // namespace dynamicfs::fs
