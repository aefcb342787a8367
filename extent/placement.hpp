// On which disks the next chunk goes: arithmetic only.
//
// Three aims. Equal disks are used in turn, so that a sequential file lies on all of them; every two of them share
// about as many chunks as any other two, so that all others have the same part in it when one is rebuilt; and
// unequal disks fill in proportion, such that no space is left that another order could have used:
// usable(r = 2) = min(sum / 2, sum - largest).
//
// Method  Smooth weighted round robin (as in nginx), weighted by free slots: each choice adds to
// every
//         disk's credit what it has free and takes from the chosen ones. A choice that would leave
//         less than the best reachable number of chunks is corrected, see choose().
// Threads None of its own; the allocator's mutex.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace dynamicfs::extent {

// What happens when a disk leaves.
struct RoomWithout {
  std::uint64_t needed_bytes = 0;      // what has to go elsewhere, and can
  std::uint64_t room_bytes = 0;        // of that finds room on the disks that stay
  std::uint64_t own_bytes = 0;         // of that is for this disk, not for others that are leaving
  std::uint64_t unreadable_bytes = 0;  // data that lies there, and cannot be made of what is here
  unsigned widest = 0;                 // so many disks some chunk asks for
};

// Why sparse chunks are given up.
enum class Drain {
  kWhenShort,  // few slots are free, and so are as many as are worth it
  kForRoom,    // somebody needs slots that are not there: whatever gives back one
  kAll,        // however little there is to gain
};

struct Candidate {
  DiskId disk;
  std::uint64_t free_slots = 0;
};

// How many chunks of `width` slots on different disks fit in all.
std::uint64_t chunks_that_fit(std::span<const Candidate> disks, std::size_t width);

class Placement {
 public:
  // `width` different disks for one more chunk, or none when none fits. Afterwards exactly
  // chunks_that_fit() - 1 still fit. Deterministic.
  std::vector<DiskId> choose(std::span<const Candidate> disks, std::size_t width);

 private:
  struct Account {
    std::int64_t credit = 0;
    std::uint64_t chunks = 0;  // chosen for it, of late
    std::vector<std::uint64_t>
        shared;  // chunks chosen for both, by the id of the other, a lower one
  };
  Account& account_of(DiskId disk);
  std::uint64_t& shared_by(DiskId a, DiskId b);
  void forget_half();

  std::vector<Account> accounts_;  // by disk id
  std::size_t turn_ = 0;           // who is first among equals
};

}  // namespace dynamicfs::extent
