// Compiled once for all subcommands: CLI11 alone takes longer than any of them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
