// Scrubbing: read every copy of a few mappings, verify each, repair the bad ones from a good one.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/assert.hpp"
#include "base/buffer.hpp"
#include "base/crc32c.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"

namespace dynamicfs::extent {
namespace {

// A bit for each copy of `fetch` that lies on a disk that was away when it was written.
std::uint64_t outdated_places(const PoolView& disks, const Fetch& fetch) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < fetch.chunk->places.size(); ++i) {
    const PoolView::DiskEntry* const entry = disks.find(fetch.chunk->places[i].disk);
    if (entry != nullptr && may_lack(*entry, fetch.generation)) bits |= std::uint64_t{1} << i;
  }
  return bits;
}

// A disk that is here, or for a column one of its group, was away when it was written.
bool is_missed(const PoolView& disks, const Fetch& fetch) {
  const auto lacks = [&](const Place& place) {
    const PoolView::DiskEntry* const entry = disks.find(place.disk);
    return entry != nullptr && entry->disk != nullptr && may_lack(*entry, fetch.generation);
  };
  const ParityGroup* const group = fetch.chunk->group();
  return group != nullptr ? std::ranges::any_of(group->places, lacks)
                          : std::ranges::any_of(fetch.chunk->places, lacks);
}

std::uint64_t count_of(std::uint64_t places, const Fetch& fetch) {
  return static_cast<std::uint64_t>(std::popcount(places)) * fetch.count;
}

}  // namespace

Task<Result<journal::ScrubCounts>> Store::Impl::scrub(const FileMap& map, InodeId inode,
                                                      FileBlock first, std::uint64_t count,
                                                      ScrubOf of) {
  DFS_ASSERT(count > 0);
  DFS_ASSERT(first.raw / kWindowBlocks == (first.raw + count - 1) / kWindowBlocks);
  journal::ScrubCounts counts;
  for (unsigned attempt = 1;; ++attempt) {
    bool changed = false;
    // What was found and mended stays so; what was looked at is looked at again.
    counts.blocks = counts.bytes = counts.copies_skipped = 0;
    counts.blocks_lost = counts.blocks_unreadable = 0;
    CO_TRY(co_await scrub_once(map, inode, first, count, of, &counts, &changed));
    if (!changed) co_return counts;
    if (attempt == kStaleTries) co_return error(Code::kCorrupt, first.raw);
  }
}

Task<Result<void>> Store::Impl::scrub_once(const FileMap& map, InodeId inode, FileBlock first,
                                           std::uint64_t count, ScrubOf of,
                                           journal::ScrubCounts* counts, bool* changed) {
  ReadPlan plan(reads);
  plan.first = first;
  plan.repair_class = scheduler::IoClass::kBackground;
  map.snapshot(first, count, plan.set);
  // Behind that: a mapping may be newer than a disk.
  const std::shared_ptr<const PoolView> disks = look();
  CO_TRY(make_fetches(chunks, plan));
  if (of == ScrubOf::kMissed)
    std::erase_if(plan.fetches, [&](const Fetch& fetch) { return !is_missed(*disks, fetch); });
  if (plan.fetches.empty()) co_return Result<void>{};

  // A buffer per copy. A disk that fails may still write to its own, so good blocks are gathered for
  // repairs in another.
  std::size_t width = 0;
  for (const Fetch& fetch : plan.fetches) width = std::max(width, fetch.chunk->places.size());
  const Fetch& last = plan.fetches.back();
  const std::size_t size_bytes = std::size_t{last.at + last.count} * kBlockBytes;
  std::vector<std::shared_ptr<Buffer>> copies;
  for (std::size_t i = 0; i < width; ++i) copies.push_back(std::make_shared<Buffer>(size_bytes));
  Buffer gathered;  // all that is good, if parity is to be verified with it; else what repairs need
  const bool striped = std::ranges::any_of(
      plan.fetches, [](const Fetch& fetch) { return fetch.chunk->group() != nullptr; });
  if (striped) {
    gathered = Buffer(size_bytes);
    plan.out = gathered.span();
  }
  const auto bytes_of = [&copies](const Fetch& fetch, std::size_t place) {
    return copies[place]->span().subspan(fetch.at * kBlockBytes, fetch.count * kBlockBytes);
  };

  struct Request {
    std::size_t fetch;
    std::size_t place;
  };
  std::vector<Request> requests;
  scheduler::IoGroup group;
  for (std::size_t i = 0; i < plan.fetches.size(); ++i) {
    const Fetch& fetch = plan.fetches[i];
    for (std::size_t at = 0; at < fetch.chunk->places.size(); ++at) {
      const Place& place = fetch.chunk->places[at];
      // Those that are gone too: whatever is here or not, the chunk stays while we look at it.
      plan.pins.pin(place.disk);
      const PoolView::DiskEntry* const entry = disks->find(place.disk);
      if (entry == nullptr || entry->disk == nullptr) continue;
      group.read(*entry->disk, scheduler::IoClass::kBackground,
                 PoolView::offset_of(*entry, place.slot, fetch.block), bytes_of(fetch, at),
                 copies[at]);
      requests.push_back({.fetch = i, .place = at});
    }
  }
  // Nothing has suspended since the mappings were copied.
  plan.pins.arrived();
  co_await group.run();

  // `tried`: what arrived, or could not be read. The rest is gone.
  std::vector<std::uint64_t> arrived(plan.fetches.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Fetch& fetch = plan.fetches[requests[i].fetch];
    fetch.place = requests[i].place;
    if (group.error(i).code == Code::kOk) {
      arrived[requests[i].fetch] |= std::uint64_t{1} << fetch.place;
      counts->read_bytes += fetch.count * kBlockBytes;
    } else {
      co_await note_read_failure(fetch, group.disk(i), group.error(i));
    }
  }

  std::vector<std::uint64_t> good;  // per block, a bit per copy
  for (std::size_t i = 0; i < plan.fetches.size(); ++i) {
    Fetch& fetch = plan.fetches[i];
    fetch.tried = arrived[i] | fetch.bad;
    counts->blocks += fetch.count;
    counts->bytes += fetch.count * kBlockBytes;
    counts->copies_skipped +=
        (fetch.chunk->places.size() - static_cast<std::size_t>(std::popcount(fetch.tried))) *
        fetch.count;
    good.assign(fetch.count, 0);
    plan.crcs.resize(fetch.count);
    for (std::size_t place = 0; place < fetch.chunk->places.size(); ++place) {
      if ((arrived[i] >> place & 1) == 0) continue;
      crc32c_blocks(bytes_of(fetch, place), plan.crcs);
      for (std::uint32_t block = 0; block < fetch.count; ++block) {
        if (plan.crcs[block] == plan.set.crcs[fetch.crc_index + block])
          good[block] |= std::uint64_t{1} << place;
      }
    }
    const std::uint64_t outdated = outdated_places(*disks, fetch);
    for (std::uint32_t from = 0; from < fetch.count;) {
      std::uint32_t to = from + 1;
      while (to < fetch.count && good[to] == good[from]) ++to;
      Fetch run = fetch;
      run.at += from;
      run.block += from;
      run.crc_index += from;
      run.count = to - from;
      run.bad = fetch.tried & ~good[from];
      run.mismatched = arrived[i] & ~good[from] & ~outdated;
      const std::uint64_t good_places = good[from];
      from = to;
      if (run.bad != 0 && gathered.size() == 0) {
        gathered = Buffer(size_bytes);
        plan.out = gathered.span();
      }
      if (good_places != 0 && run.chunk->group() != nullptr) {
        std::memcpy(part(plan, run).data(), bytes_of(run, 0).data(), part(plan, run).size());
        plan.done.push_back(run);
      }
      if (good_places == 0) {
        std::vector<Fetch> lost{run};
        if (run.chunk->group() != nullptr) {
          lost.clear();
          co_await reconstruct(disks, &plan, run, inode, scheduler::IoClass::kBackground, &lost);
        }
        for (const Fetch& one : lost) {
          const std::size_t lost_before = plan.lost.size();
          const bool changed_before = std::exchange(plan.changed, false);
          give_up(*disks, map, plan, one, inode);
          const bool changed_now = std::exchange(plan.changed, plan.changed || changed_before);
          if (changed_now) continue;
          (plan.lost.size() != lost_before ? counts->blocks_lost : counts->blocks_unreadable) +=
              one.count;
        }
      } else if (run.bad != 0) {
        count_damage(plan, run, inode);
        const auto place = static_cast<std::size_t>(std::countr_zero(good_places));
        std::memcpy(part(plan, run).data(), bytes_of(run, place).data(), part(plan, run).size());
        plan.repairs.push_back(run);
      }
      counts->copies_bad += count_of(run.bad & ~outdated, run);
      counts->copies_outdated += count_of(run.bad & outdated, run);
    }
  }

  if (!plan.repairs.empty()) {
    const std::uint64_t repaired = co_await repair(disks, plan);
    counts->copies_repaired += repaired;
  }
  if (striped && !plan.changed) co_await scrub_parity(disks, &plan, plan.fetches, counts);
  *changed = plan.changed;
  if (!plan.changed) tell_lost(plan, inode);
  co_return Result<void>{};
}

}  // namespace dynamicfs::extent
