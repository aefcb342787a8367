// Records of the journal and entries of runs in words, for `dump`.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "journal/run.hpp"

namespace dynamicfs::fs {

// The changes of one record, a line each, each with `indent` in front.
std::string record_text(std::span<const std::byte> record, std::string_view indent);
// An entry of a run: one line; several for a window of a file.
std::string run_entry_text(journal::RunEntryKind kind, std::span<const std::byte> key,
                           std::span<const std::byte> value);

}  // namespace dynamicfs::fs
