#include "extent/placement.hpp"

#include <algorithm>
#include <limits>

#include "base/assert.hpp"

namespace dynamicfs::extent {
namespace {

constexpr std::uint64_t kRemembered = 512;  // chunks of a disk

}  // namespace

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

Placement::Account& Placement::account_of(DiskId disk) {
  if (disk.raw >= accounts_.size()) accounts_.resize(disk.raw + std::size_t{1});
  return accounts_[disk.raw];
}

std::uint64_t& Placement::shared_by(DiskId a, DiskId b) {
  std::vector<std::uint64_t>& shared = account_of(std::max(a, b)).shared;
  const std::size_t other = std::min(a, b).raw;
  if (other >= shared.size()) shared.resize(other + 1);
  return shared[other];
}

// What was long ago, with other disks maybe, is not to be made up for.
void Placement::forget_half() {
  for (Account& account : accounts_) {
    account.chunks /= 2;
    for (std::uint64_t& chunks : account.shared) chunks /= 2;
  }
}

std::vector<DiskId> Placement::choose(std::span<const Candidate> disks, std::size_t width) {
  const std::uint64_t fit = chunks_that_fit(disks, width);
  if (fit == 0) return {};

  struct Seat {
    DiskId disk;
    std::int64_t credit = 0;
    std::size_t turn = 0;
    bool critical = false;  // has at least as many free slots as chunks are still to come
    double shared = 0;      // chunks with those that are chosen
  };
  std::int64_t total = 0;
  for (const Candidate& disk : disks) total += static_cast<std::int64_t>(disk.free_slots);
  std::uint64_t reachable = 0;
  std::vector<Seat> seats;
  for (std::size_t i = 0; i < disks.size(); ++i) {
    const Candidate& disk = disks[i];
    reachable += std::min(disk.free_slots, fit);
    std::int64_t& credit = account_of(disk.disk).credit;
    credit += static_cast<std::int64_t>(disk.free_slots * width);
    if (disk.free_slots == 0) continue;
    seats.push_back({.disk = disk.disk,
                     .credit = credit,
                     .turn = (i + disks.size() - turn_ % disks.size()) % disks.size(),
                     .critical = disk.free_slots >= fit});
  }
  ++turn_;
  std::sort(seats.begin(), seats.end(), [](const Seat& a, const Seat& b) {
    return a.credit != b.credit ? a.credit > b.credit : a.turn < b.turn;
  });
  // Behind the first, each chunk that a disk shares with the chosen ones beyond the part of its chunks that others share with
  // them counts as much credit as a disk of mean room gains by one choice of width 1; all of them at most as much as being
  // chosen costs: a disk is passed over for a round, not for ever, so that each gets its part of the chunks whatever they
  // can have in common.
  const double mean = static_cast<double>(total) / static_cast<double>(disks.size());
  const auto share = [this](const Seat& seat) {
    return seat.shared / std::max<double>(1, static_cast<double>(account_of(seat.disk).chunks));
  };
  for (std::size_t next = 1; next < width; ++next) {
    const auto rest = seats.begin() + static_cast<std::ptrdiff_t>(next);
    double least = std::numeric_limits<double>::infinity();
    for (auto seat = rest; seat != seats.end(); ++seat) {
      seat->shared += static_cast<double>(shared_by(seat->disk, seats[next - 1].disk));
      least = std::min(least, share(*seat));
    }
    const auto worth = [&](const Seat& seat) {
      const double excess = seat.shared - least * static_cast<double>(account_of(seat.disk).chunks);
      return static_cast<double>(seat.credit) - std::min(excess * mean, static_cast<double>(total));
    };
    const auto best = std::max_element(
        rest, seats.end(), [&](const Seat& a, const Seat& b) { return worth(a) < worth(b); });
    std::rotate(rest, best, best + 1);  // the others keep their order
  }

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

  bool full = false;
  std::vector<DiskId> chosen;
  for (std::size_t i = 0; i < width; ++i) {
    for (const DiskId other : chosen) ++shared_by(seats[i].disk, other);
    chosen.push_back(seats[i].disk);
    Account& account = account_of(seats[i].disk);
    account.credit -= total;
    full |= ++account.chunks == kRemembered;
  }
  if (full) forget_half();
  // A disk that takes part in every chunk gains all the time; nobody saves up more than a round.
  for (const Candidate& disk : disks) {
    std::int64_t& credit = account_of(disk.disk).credit;
    credit = std::clamp(credit, -total, total);
  }
  return chosen;
}

}  // namespace dynamicfs::extent
