// Which of the superblocks found tells the truth about the pool: decided from epochs alone.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <variant>

#include "journal/superblock.hpp"

namespace dynamicfs::journal {

// Two disks, as indexes, of which neither knows the other's confirmed epoch: mounted apart.
using SplitPair = std::pair<std::size_t, std::size_t>;

// Index of the newest: the one whose history contains every other's confirmed epoch; of several the
// one that was written last. `found` is not empty.
std::variant<std::size_t, SplitPair> newest_of(std::span<const Superblock* const> found);

// Place of this epoch in the history.
std::optional<std::size_t> place_in_history(const Superblock& superblock, const EpochRecord& epoch);

// The last epoch in the history of `newest` that `other` knows.
std::optional<std::size_t> last_known_epoch(const Superblock& newest, const Superblock& other);

}  // namespace dynamicfs::journal
