// Reading: copy the mappings of one instant, read the best copies, verify, fail over, repair.
#include <algorithm>
#include <cstring>
#include <span>
#include <tuple>

#include "base/assert.hpp"
#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"
#include "extent/write_path.hpp"

namespace dynamicfs::extent {

namespace {

constexpr unsigned kOptimisticTries = 3;
// Between two attempts to get away from a disk that keeps a read waiting.
constexpr Duration kPatienceMax = std::chrono::seconds{1};

ReadRound::Question question(const PoolView::DiskEntry& entry, const Fetch& fetch,
                             scheduler::IoClass io_class) {
  const Place& place = fetch.chunk->places[fetch.place];
  return {.disk = entry.disk,
          .io_class = io_class,
          .offset_bytes = PoolView::offset_of(entry, place.slot, fetch.block),
          .place = fetch.place};
}

// How much each disk has to do, with what this read adds.
class Loads {
 public:
  std::int64_t of(DiskId id, const scheduler::Disk& disk) {
    for (const auto& [known, load] : loads_) {
      if (known == id) return load;
    }
    std::int64_t load = 0;
    for (const scheduler::ClassMetrics& of_class : disk.metrics().classes) {
      load += of_class.queued.load(std::memory_order_relaxed) +
              of_class.in_flight.load(std::memory_order_relaxed);
    }
    loads_.emplace_back(id, load);
    return load;
  }
  void add(DiskId id) {
    for (auto& [known, load] : loads_) {
      if (known == id) ++load;
    }
  }

 private:
  std::vector<std::pair<DiskId, std::int64_t>> loads_;
};

// Chooses a copy that was not tried yet: not from a disk that may lack it, nor from one that does not
// answer in time, then from the one with least to do; equal ones share a sequential file in turns of
// 64 blocks. False if none is left.
bool choose_place(const PoolView& disks, Fetch& fetch, Loads& loads) {
  const std::span<const Place> places{fetch.chunk->places.data(), fetch.chunk->places.size()};
  bool found = false;
  std::tuple<bool, bool, std::int64_t> best;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::size_t place = (fetch.chunk->id.raw + fetch.block / 64 + i) % places.size();
    if ((fetch.tried >> place & 1) != 0) continue;
    const PoolView::DiskEntry* const entry = disks.find(places[place].disk);
    if (entry == nullptr || entry->disk == nullptr) continue;
    const std::tuple rank{
        may_lack(*entry, fetch.generation), entry->disk->latency().suspect(),
        places.size() > 1 ? loads.of(places[place].disk, *entry->disk) : std::int64_t{0}};
    if (found && rank >= best) continue;
    found = true;
    fetch.place = place;
    best = rank;
  }
  if (found) loads.add(places[fetch.place].disk);
  return found;
}

// Its disk does not answer in time, and those of as many other columns as it takes do.
bool answers_elsewhere(const PoolView& disks, const Fetch& fetch) {
  const ParityGroup* const group = fetch.chunk->group();
  if (group == nullptr) return false;
  const auto answers = [&](const Place& place) {
    const PoolView::DiskEntry* const entry = disks.find(place.disk);
    return entry != nullptr && entry->disk != nullptr && entry->stale_since.raw == 0 &&
           !entry->disk->latency().suspect();
  };
  const PoolView::DiskEntry* const own = disks.find(fetch.chunk->places[0].disk);
  if (own == nullptr || own->disk == nullptr || !own->disk->latency().suspect()) return false;
  const auto others = static_cast<std::size_t>(std::ranges::count_if(group->places, answers));
  return others >= group->data_columns();
}

}  // namespace

Result<void> make_fetches(const ChunkTable& chunks, ReadPlan& plan) {
  const auto zero = [&](std::uint64_t from, std::uint64_t to) {
    if (plan.out.empty()) return;
    const auto bytes = plan.out.subspan(from * kBlockBytes, (to - from) * kBlockBytes);
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
  };
  std::uint64_t done = 0;
  for (const Mapping& mapping : plan.set.mappings) {
    if (mapping.kind != MappingKind::kData) continue;
    if (mapping.encoding != Encoding::kPlain) return Code::kNotSupported;
    const std::uint64_t at = mapping.first.raw - plan.first.raw;
    zero(done, at);
    done = at + mapping.count;
    if (!plan.fetches.empty()) {
      Fetch& before = plan.fetches.back();
      if (before.at + before.count == at && before.chunk->id == mapping.chunk &&
          before.block + before.count == mapping.block) {
        before.count += mapping.count;
        before.generation = std::max(before.generation, mapping.generation);
        continue;
      }
    }
    Fetch fetch;
    fetch.at = static_cast<std::uint32_t>(at);
    fetch.count = mapping.count;
    fetch.chunk = chunks.find(mapping.chunk);
    fetch.block = mapping.block;
    fetch.crc_index = mapping.crc_index;
    fetch.generation = mapping.generation;
    // note_live() has refused mappings without a chunk.
    if (fetch.chunk == nullptr) return error(Code::kFormatInvalid, mapping.chunk.raw);
    plan.fetches.push_back(fetch);
  }
  zero(done, plan.out.size() / kBlockBytes);
  return {};
}

Task<Result<void>> Store::Impl::read(const FileMap& map, InodeId inode, FileBlock first,
                                     Buffer& out, scheduler::IoClass io_class) {
  DFS_ASSERT(out.size() % kBlockBytes == 0);
  if (out.size() == 0) co_return Result<void>{};
  for (unsigned attempt = 1;; ++attempt) {
    bool changed = false;
    const auto result = co_await read_once(map, inode, first, out, io_class, &changed);
    if (!changed) co_return result;
    if (attempt == kStaleTries) co_return error(Code::kCorrupt, first.raw);
    metrics.read_retries.add();
  }
}

void Store::Impl::copy_mappings(const FileMap& map, InodeId inode, FileBlock first,
                                std::uint64_t count, MappingSet& set) {
  for (unsigned attempt = 0; attempt < kOptimisticTries; ++attempt) {
    if (map.try_snapshot(first, count, set)) {
      metrics.reads_optimistic.add();
      return;
    }
    metrics.read_retries.add();
  }
  metrics.read_fallbacks.add();
  const auto guard = locks.lock(inode, first, count);
  map.snapshot(first, count, set);
}

// Blocks of these copies are damaged: they failed their checksum and what they should have held is
// known, or known to be gone.
void Store::Impl::count_damage(const ReadPlan& plan, const Fetch& fetch, InodeId inode) {
  for (std::size_t i = 0; i < fetch.chunk->places.size(); ++i) {
    if ((fetch.mismatched >> i & 1) == 0) continue;
    metrics.checksum_errors.add(fetch.count);
    log_warning("disk {}: {} blocks of inode {} at block {} fail their checksum",
                fetch.chunk->places[i].disk, fetch.count, inode, plan.first.raw + fetch.at);
  }
}

// The checksums of what has arrived: good runs are done, bad ones go to `again`.
void Store::Impl::verify(const PoolView& disks, ReadPlan& plan, const Fetch& fetch, InodeId inode,
                         std::vector<Fetch>& again) {
  const std::uint64_t bit = std::uint64_t{1} << fetch.place;
  // A disk that was away lacks what was written meanwhile: no damage, but worth rewriting.
  const bool lacks = may_lack(*disks.find(fetch.chunk->places[fetch.place].disk), fetch.generation);
  plan.crcs.resize(fetch.count);
  crc32c_blocks(part(plan, fetch), plan.crcs);
  const auto is_good = [&](std::uint32_t block) {
    return plan.crcs[block] == plan.set.crcs[fetch.crc_index + block];
  };
  for (std::uint32_t from = 0; from < fetch.count;) {
    const bool good = is_good(from);
    std::uint32_t to = from + 1;
    while (to < fetch.count && is_good(to) == good) ++to;
    Fetch run = fetch;
    run.at += from;
    run.block += from;
    run.crc_index += from;
    run.count = to - from;
    from = to;
    if (!good) {
      run.bad |= bit;
      if (!lacks) run.mismatched |= bit;
      metrics.read_failovers.add();
      again.push_back(run);
      continue;
    }
    if (run.chunk->group() != nullptr) plan.done.push_back(run);
    if (run.bad != 0) {
      count_damage(plan, run, inode);
      plan.repairs.push_back(run);
    }
  }
}

// No copy that is here is good.
void Store::Impl::give_up(const PoolView& disks, const FileMap& map, ReadPlan& plan,
                          const Fetch& fetch, InodeId inode) {
  if (fetch.mismatched != 0 &&
      !map.unchanged(FileBlock{plan.first.raw + fetch.at}, fetch.count, plan.set)) {
    // Two things at once: every copy fails and the file has been changed. Blocks were reused
    // although this read had registered, most likely.
    log_error("inode {}: {} blocks at block {} were reused while they were read", inode,
              fetch.count, plan.first.raw + fetch.at);
    metrics.checksum_stale.add(fetch.count);
    plan.changed = true;
    return;
  }
  count_damage(plan, fetch, inode);
  std::size_t away = 0;
  const auto count_away = [&](const auto& places) {
    // As this read has seen them: one that has come back since was away for it.
    for (const Place& place : places) {
      const PoolView::DiskEntry* const entry = disks.find(place.disk);
      const bool seen = entry != nullptr && entry->disk != nullptr;
      away += !seen || pool.disk(place.disk) != entry->disk ? 1 : 0;
    }
  };
  if (fetch.chunk->group() != nullptr) {
    count_away(fetch.chunk->group()->places);
  } else {
    count_away(fetch.chunk->places);
  }
  if (away != 0) {
    log_warning("inode {}: {} blocks at block {} have no good copy on the disks that are here",
                inode, fetch.count, plan.first.raw + fetch.at);
  }
  for (std::uint32_t i = 0; i < fetch.count; ++i) {
    const FileBlock block{plan.first.raw + fetch.at + i};
    // A copy that is away may be good: that is not called corrupt.
    if (away == 0) plan.lost.push_back(block);
    if (plan.failure.code != Code::kCorrupt) {
      plan.failure = error(away == 0 ? Code::kCorrupt : Code::kDiskGone, block.raw);
    }
  }
}

// Asks another copy of each piece that its disk has kept us waiting for, as far as the budget goes.
void Store::Impl::hedge(const PoolView& disks, ReadPlan& plan, ReadRound& round,
                        scheduler::IoClass io_class) {
  Loads loads;
  for (const std::size_t piece : round.undecided()) {
    Fetch fetch = plan.fetches[piece];
    bool all_suspect = true;
    for (const ReadRound::Asked& asked : round.asked(piece)) {
      fetch.tried |= std::uint64_t{1} << asked.place;
      all_suspect &= asked.ended || asked.disk->latency().suspect();
    }
    bool found = false;
    while (!found && choose_place(disks, fetch, loads)) {
      // Since the view was taken.
      const scheduler::Disk& disk = *disks.find(fetch.chunk->places[fetch.place].disk)->disk;
      found = !disk.failed();
      fetch.tried |= std::uint64_t{1} << fetch.place;
    }
    if (!found) continue;
    const Place& place = fetch.chunk->places[fetch.place];
    const PoolView::DiskEntry& entry = *disks.find(place.disk);
    if (!all_suspect && !hedges.spend()) {
      metrics.hedges_refused.add();
      continue;
    }
    // Late, and safe: as long as one disk of the chunk is pinned its blocks are not reused.
    plan.pins.pin(place.disk);
    metrics.hedges.add();
    for (const ReadRound::Asked& asked : round.asked(piece)) {
      if (!asked.ended) asked.disk->latency().hedged();
    }
    const std::size_t bytes = fetch.count * kBlockBytes;
    round.ask_also(piece, question(entry, fetch, io_class), bytes);
  }
}

// Takes the memory back from the round. If a request is left behind, which may write to it at any
// time, copies what is there of other rounds and of holes, and leaves it to the round.
void Store::Impl::take_back(ReadPlan& plan, ReadRound& round, Buffer& out) {
  if (round.memory_is_free()) {
    out = round.take_memory();
    return;
  }
  metrics.reads_left_behind.add();
  const std::span<const std::byte> old = plan.out;
  out = Buffer{old.size()};
  plan.out = out.span();
  std::vector<const Fetch*> fetches;
  for (const Fetch& fetch : plan.fetches) fetches.push_back(&fetch);
  std::ranges::sort(fetches, {}, &Fetch::at);
  std::size_t done = 0;
  const auto copy_until = [&](std::size_t end) {
    std::memcpy(out.data() + done, old.data() + done, end - done);
  };
  for (const Fetch* const fetch : fetches) {
    copy_until(fetch->at * kBlockBytes);
    done = (std::size_t{fetch->at} + fetch->count) * kBlockBytes;
  }
  copy_until(old.size());
}

Task<Result<void>> Store::Impl::read_once(const FileMap& map, InodeId inode, FileBlock first,
                                          Buffer& out, scheduler::IoClass io_class, bool* changed) {
  ReadPlan plan(reads);
  plan.first = first;
  plan.out = out.span();
  copy_mappings(map, inode, first, out.size() / kBlockBytes, plan.set);
  // Behind that: a mapping may be newer than a disk.
  const std::shared_ptr<const PoolView> disks = look();
  CO_TRY(make_fetches(chunks, plan));

  Loads loads;
  std::vector<Fetch> again;
  while (true) {
    std::erase_if(plan.fetches, [&](Fetch& fetch) {
      if (choose_place(*disks, fetch, loads) && !answers_elsewhere(*disks, fetch)) return false;
      if (fetch.chunk->group() != nullptr) {
        // Whether its disk is here or not: its blocks stay as long as that is pinned.
        plan.pins.pin(fetch.chunk->places[0].disk);
        plan.dark.push_back(fetch);
      } else {
        give_up(*disks, map, plan, fetch, inode);
      }
      return true;
    });
    if (plan.fetches.empty()) break;
    const auto round = std::make_shared<ReadRound>(executor, std::move(out), plan.fetches.size());
    Duration patience{0};
    for (const Fetch& fetch : plan.fetches) {
      const Place& place = fetch.chunk->places[fetch.place];
      const PoolView::DiskEntry& entry = *disks->find(place.disk);
      plan.pins.pin(place.disk);
      round->add(question(entry, fetch, io_class), part(plan, fetch));
      if (fetch.chunk->places.size() > 1) {
        patience = std::max(patience, Hedges::patience_with(*entry.disk));
      }
    }
    // Nothing has suspended since the mappings were copied.
    plan.pins.arrived();
    round->start();
    if (patience > Duration{0}) {
      hedges.earn();
      hedges.watch(round, executor.now() + patience);
    }
    while (!co_await round->wait()) {
      hedge(*disks, plan, *round, io_class);
      patience = std::min(2 * patience, kPatienceMax);
      hedges.watch(round, executor.now() + patience);
    }

    take_back(plan, *round, out);
    again.clear();
    for (std::size_t i = 0; i < plan.fetches.size(); ++i) {
      Fetch& fetch = plan.fetches[i];
      const std::vector<ReadRound::Asked> asked = round->asked(i);
      const ReadRound::Asked* answer = nullptr;
      for (const ReadRound::Asked& one : asked) {
        if (!one.ended) continue;
        if (one.error.code == Code::kOk) {
          if (answer == nullptr) answer = &one;
          continue;  // a second good answer is asked for again if the first turns out bad
        }
        fetch.tried |= std::uint64_t{1} << one.place;
        fetch.place = one.place;
        co_await note_read_failure(fetch, *one.disk, one.error);
        metrics.read_failovers.add();
      }
      if (answer == nullptr) {
        again.push_back(fetch);
        continue;
      }
      if (answer != asked.data()) metrics.hedges_won.add();
      fetch.place = answer->place;
      fetch.tried |= std::uint64_t{1} << answer->place;
      const std::span<std::byte> into = part(plan, fetch);
      if (answer->received.data() != into.data()) {
        std::memcpy(into.data(), answer->received.data(), into.size());
      }
      verify(*disks, plan, fetch, inode, again);
    }
    plan.fetches.swap(again);
  }

  // Nothing has suspended since the mappings were copied, or this was said above.
  plan.pins.arrived();
  std::vector<Fetch> lost;
  for (const Fetch& fetch : plan.dark) {
    co_await reconstruct(disks, &plan, fetch, inode, io_class, &lost);
  }
  for (Fetch& fetch : lost) {
    // Its disk was passed over because it does not answer in time: now it has to.
    const PoolView::DiskEntry* const own = disks->find(fetch.chunk->places[0].disk);
    if (fetch.tried == 0 && own != nullptr && own->disk != nullptr) {
      const auto direct = std::make_shared<Buffer>(fetch.count * kBlockBytes);
      const Result<void> answer = co_await scheduler::read(
          *own->disk, io_class, PoolView::offset_of(*own, fetch.chunk->places[0].slot, fetch.block),
          direct->span(), direct);
      fetch.place = 0;
      fetch.tried = 1;
      if (answer.has_value()) {
        std::memcpy(part(plan, fetch).data(), direct->data(), direct->size());
        again.clear();
        verify(*disks, plan, fetch, inode, again);
        for (const Fetch& bad : again) give_up(*disks, map, plan, bad, inode);
        continue;
      }
      co_await note_read_failure(fetch, *own->disk, answer.error());
    }
    give_up(*disks, map, plan, fetch, inode);
  }
  if (!plan.repairs.empty()) co_await repair(disks, plan);
  *changed = plan.changed;
  if (plan.changed) co_return error(Code::kCorrupt, first.raw);
  tell_lost(plan, inode);
  if (plan.failure.code != Code::kOk) co_return plan.failure;
  co_return Result<void>{};
}

// The copy at `fetch.place` could not be read.
Task<void> Store::Impl::note_read_failure(Fetch& fetch, const scheduler::Disk& disk,
                                          Error failure) {
  const DiskId id = fetch.chunk->places[fetch.place].disk;
  if (failure.code == Code::kDiskGone) {
    const auto outcome = co_await pool.report_failure(id, failure, &disk);
    outcome.ignore("the other copies decide");
    co_return;
  }
  log_warning("disk {} ({}): {}", id, disk.path(), describe(failure));
  if (failure.code == Code::kDiskRead) fetch.bad |= std::uint64_t{1} << fetch.place;
}

void Store::Impl::tell_lost(const ReadPlan& plan, InodeId inode) {
  if (plan.lost.empty()) return;
  metrics.unrecoverable_blocks.add(plan.lost.size());
  std::function<void(InodeId, FileBlock)> listener;
  {
    LockGuard lock(view_mutex);
    listener = unrecoverable;
  }
  for (const FileBlock block : plan.lost) {
    log_error("inode {}: block {} has no good copy left", inode, block);
    if (listener) listener(inode, block);
  }
}

// Rewrites the bad copies with what was read from good ones, inside the pins of the read, so that
// the blocks still belong to the mapping. Returns how many blocks of copies that were.
Task<std::uint64_t> Store::Impl::repair(std::shared_ptr<const PoolView> disks, ReadPlan& plan) {
  if (pool.read_only()) co_return 0;
  struct Target {
    DiskId disk;
    std::uint32_t blocks;
  };
  scheduler::IoGroup group;
  std::vector<Target> targets;
  for (const Fetch& fetch : plan.repairs) {
    for (std::size_t i = 0; i < fetch.chunk->places.size(); ++i) {
      if ((fetch.bad >> i & 1) == 0) continue;
      const Place& place = fetch.chunk->places[i];
      if (pool.disk(place.disk) == nullptr) continue;
      const PoolView::DiskEntry& entry = *disks->find(place.disk);
      plan.pins.pin(place.disk);
      group.write(*entry.disk, plan.repair_class,
                  PoolView::offset_of(entry, place.slot, fetch.block), part(plan, fetch));
      targets.push_back({.disk = place.disk, .blocks = fetch.count});
    }
  }
  co_await group.run();
  std::uint64_t repaired = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const Error failure = group.error(i);
    if (failure.code == Code::kOk) {
      metrics.repairs.add(targets[i].blocks);
      repaired += targets[i].blocks;
      log_warning("disk {} ({}): rewrote {} bad blocks from another copy", targets[i].disk,
                  group.disk(i).path(), targets[i].blocks);
      continue;
    }
    if (is_host_full(failure)) continue;  // what was never stored there stays missing
    const auto outcome = co_await pool.report_failure(targets[i].disk, failure, &group.disk(i));
    outcome.ignore("the read has its data");
  }
  co_return repaired;
}

}  // namespace dynamicfs::extent
