#include "extent/placement.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace dynamicfs::extent {

// The largest n with sum of min(free, n) >= width * n: a disk has at most one slot of each chunk,
// and filling always the disks with most left reaches the bound.
std::uint64_t chunks_that_fit(std::span<const Candidate> disks, std::size_t width) {
  if (width == 0 || disks.size() < width) return 0;
  std::uint64_t sum = 0;
  for (const Candidate& disk : disks) sum += disk.free_slots;
  std::uint64_t low = 0;
  std::uint64_t high = sum / width;
  while (low < high) {
    const std::uint64_t n = high - (high - low) / 2;
    std::uint64_t reachable = 0;
    for (const Candidate& disk : disks) reachable += std::min(disk.free_slots, n);
    if (reachable >= width * n) {
      low = n;
    } else {
      high = n - 1;
    }
  }
  return low;
}

Placement::Credit& Placement::credit_of(DiskId disk) {
  if (disk.raw >= credits_.size()) credits_.resize(disk.raw + std::size_t{1});
  return credits_[disk.raw];
}

std::vector<DiskId> Placement::choose(std::span<const Candidate> disks, std::size_t width) {
  const std::uint64_t fit = chunks_that_fit(disks, width);
  if (fit == 0) return {};

  struct Seat {
    DiskId disk;
    std::int64_t credit = 0;
    std::size_t turn = 0;
    bool critical = false;  // has at least as many free slots as chunks are still to come
  };
  std::int64_t total = 0;
  for (const Candidate& disk : disks) total += static_cast<std::int64_t>(disk.free_slots);
  std::uint64_t reachable = 0;
  bool level = true;
  std::int64_t first_credit = 0;
  std::vector<Seat> seats;
  for (std::size_t i = 0; i < disks.size(); ++i) {
    const Candidate& disk = disks[i];
    reachable += std::min(disk.free_slots, fit);
    Credit& credit = credit_of(disk.disk);
    if (i == 0) first_credit = credit.credit;
    level &= credit.credit == first_credit;
    credit.credit += static_cast<std::int64_t>(disk.free_slots * width);
    if (disk.free_slots == 0) continue;
    seats.push_back({.disk = disk.disk,
                     .credit = credit.credit,
                     .turn = i,
                     .critical = disk.free_slots >= fit});
  }
  // Among equals the turn begins one disk further in each round, so that over time every pair of
  // neighbours shares chunks and a lost disk is rebuilt from several others.
  if (level) ++rotation_;
  for (Seat& seat : seats) {
    seat.turn =
        (seat.turn + disks.size() - (rotation_ + disks.size() - 1) % disks.size()) % disks.size();
  }
  std::sort(seats.begin(), seats.end(), [](const Seat& a, const Seat& b) {
    return a.credit != b.credit ? a.credit > b.credit : a.turn < b.turn;
  });

  // With fit chunks to come, sum of min(free, fit) exceeds what they take by `slack`. Each critical
  // disk that is left out now costs one of it; when more would be left out than that, critical ones
  // come in for the last of the others.
  const std::uint64_t slack = reachable - fit * width;
  auto out = static_cast<std::uint64_t>(
      std::count_if(seats.begin() + static_cast<std::ptrdiff_t>(width), seats.end(),
                    [](const Seat& seat) { return seat.critical; }));
  std::size_t give_way = width;
  std::size_t come_in = width;
  while (out > slack) {
    while (!seats[come_in].critical) ++come_in;
    do {
      DFS_ASSERT(give_way > 0);
      --give_way;
    } while (seats[give_way].critical);
    std::swap(seats[give_way], seats[come_in]);
    ++come_in;
    --out;
  }

  std::vector<DiskId> chosen;
  for (std::size_t i = 0; i < width; ++i) {
    chosen.push_back(seats[i].disk);
    credit_of(seats[i].disk).credit -= total;
  }
  // A disk that takes part in every chunk gains all the time; nobody saves up more than a round.
  for (const Candidate& disk : disks) {
    Credit& credit = credit_of(disk.disk);
    credit.credit = std::clamp(credit.credit, -total, total);
  }
  return chosen;
}

}  // namespace dynamicfs::extent
