#include "fs/rebuild.hpp"

#include <algorithm>
#include <ranges>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// So many for each disk that stays, by how many of them one reads at once. A worker that copies is at one disk at a time, reading
// or writing: with as many as disks they would wait for one another, for of a closed network of M equal servers N
// customers keep N / (N + M - 1) busy (Buzen 1973). More would only take memory, a MiB for each disk that one reads.
constexpr std::size_t kWorkersPerDisk = 6;
constexpr std::size_t kWorkersMin = 4;
constexpr std::size_t kWorkersMax = 24;
constexpr std::size_t kSample = 32;     // chunks that tell what the others of a disk are
constexpr unsigned kInVainAtOnce = 64;  // chunks that cannot be moved
// After a pass that could not do a thing.
constexpr Duration kAgainAfter = std::chrono::minutes{1};
// Disks are balanced when their use differs by no more than this, in percent of a disk. A guess: less is not worth moving.
constexpr double kBalanced = 0.02;

}  // namespace

Rebuild::Rebuild(Filesystem::Impl& parts) : fs_(parts) {}

bool Rebuild::begin() {
  return task_.begin(fs_.tasks, [this] { return go_on(); });
}

void Rebuild::end() { task_.end(fs_.tasks); }

bool Rebuild::go_on() const {
  return !fs_.closing.load(std::memory_order_acquire) && fs_.writable().has_value() &&
         !paused_.load(std::memory_order_relaxed);
}

bool Rebuild::is_due() const {
  if (fs_.store->misplaced_bytes() > 0 || fs_.pool->rebalancing()) return true;
  // What cannot be made of what is here keeps a disk in the pool.
  const std::vector<journal::DiskStatus> disks = fs_.pool->status();
  return std::ranges::any_of(disks, [&](const auto& disk) {
    return disk.record.leaving && !disk.record.spare && !fs_.store->has_chunks(disk.record.id);
  });
}

void Rebuild::tend() {
  give_up_lost();
  verify_if_due();
  const std::uint64_t changes = fs_.pool->changes();
  const bool new_disks = changes_seen_.exchange(changes) != changes;
  if (new_disks && std::ranges::none_of(fs_.pool->status(), [](const journal::DiskStatus& disk) {
        return disk.record.leaving;
      }))
    forget_cut_.store(true);
  if (!new_disks && !asked_.load() && fs_.executor.now() < again_at_.load()) return;
  if (!is_due() || !begin()) return;
  spawn(run());
}

// What was made anew is read back once everything is where it should be.
void Rebuild::verify_if_due() {
  const std::uint64_t made_anew = fs_.store->metrics().made_anew_bytes.sum();
  {
    LockGuard lock(mutex_);
    if (made_anew == made_anew_before_) return;
  }
  if (task_.active() || !go_on() || is_due()) return;
  // Not if one is under way, which may have passed it.
  if (!fs_.scrub->start(ScrubScope::kAll).has_value()) return;
  log_info("nothing is left to be moved; a scrub verifies what was made anew");
  LockGuard lock(mutex_);
  made_anew_before_ = made_anew;
}

// A disk that has been away for long, and can be done without.
void Rebuild::give_up_lost() {
  if (fs_.options.rebuild_after == Duration{0} || !fs_.writable().has_value()) return;
  const TimePoint now = fs_.executor.now();
  std::vector<DiskId> lost;
  {
    LockGuard lock(mutex_);
    for (const journal::DiskStatus& disk : fs_.pool->status()) {
      const bool away = disk.health == journal::DiskHealth::kMissing ||
                        disk.health == journal::DiskHealth::kFailed ||
                        disk.health == journal::DiskHealth::kOffline;
      if (!away || disk.record.leaving) {
        away_since_.erase(disk.record.id);
        told_.erase(disk.record.id);
        continue;
      }
      const auto [since, fresh] = away_since_.try_emplace(disk.record.id, now);
      if (now - since->second < fs_.options.rebuild_after) continue;
      since->second = now;  // and not again at once
      lost.push_back(disk.record.id);
    }
  }
  for (const DiskId disk : lost) {
    fs_.tasks.enter();
    spawn(mark_lost(disk));
  }
}

Task<void> Rebuild::mark_lost(DiskId disk) {
  if (fs_.pool->disk(disk) != nullptr) {  // it has just come back
    fs_.tasks.leave();
    co_return;
  }
  const extent::RoomWithout without = fs_.store->room_without(disk);
  const bool in_vain = without.own_bytes == 0 && without.unreadable_bytes != 0;
  // What is written from now on is to be as safe as the policy says, and the metadata on two disks.
  const std::size_t least = std::max<std::size_t>(2, fs_.pool->policy().width());
  if (!in_vain || fs_.pool->staying()->size() < least) co_await use_spare(disk);
  if (in_vain) {
    tell_in_vain(disk, without.unreadable_bytes);
  } else if (may_be_made_anew(disk)) {
    const Result<void> marked =
        co_await fs_.pool->set_leaving(disk, journal::Pool::Leaving::kWhileAway);
    if (marked.has_value() && without.unreadable_bytes == 0) {
      log_warning("disk {} is lost: what it had is made anew on the others", disk);
    } else if (marked.has_value()) {
      log_warning(
          "disk {} is lost: what others have copies or parity of is made anew; {} MiB lie on it "
          "alone, and are here again when it is",
          disk, ceil_div(without.unreadable_bytes, kMiB));
    }
  }
  fs_.tasks.leave();
}

Task<void> Rebuild::use_spare(DiskId instead_of) {
  const std::vector<journal::DiskStatus> disks = fs_.pool->status();
  const auto spare = std::ranges::find_if(disks, [](const journal::DiskStatus& one) {
    return one.record.spare && one.health == journal::DiskHealth::kHealthy;
  });
  if (spare == disks.end()) co_return;
  const Result<void> used =
      co_await fs_.pool->set_leaving(spare->record.id, journal::Pool::Leaving::kNo);
  if (used.has_value())
    log_warning("disk {}, a spare, takes the place of disk {}", spare->record.id, instead_of);
}

// Once while it is away.
void Rebuild::tell_in_vain(DiskId disk, std::uint64_t bytes) {
  {
    LockGuard lock(mutex_);
    if (!told_.insert(disk).second) return;
  }
  log_warning(
      "disk {} is lost, and nothing of what it had can be made anew: {} MiB lie on it alone, and "
      "are here again when it is",
      disk, ceil_div(bytes, kMiB));
}

bool Rebuild::may_be_made_anew(DiskId disk) const {
  if (fs_.pool->staying()->size() < fs_.pool->policy().width()) return false;
  const extent::RoomWithout without = fs_.store->room_without(disk);
  if (without.room_bytes >= without.needed_bytes) return true;
  log_warning(
      "disk {} is lost, and what it had is not made anew: that takes {} MiB more. Files are packed "
      "closer to make "
      "room; add a disk if it stays",
      disk, (without.needed_bytes - without.room_bytes) / kMiB);
  fs_.compaction->make_room();
  return false;
}

void Rebuild::pause(bool on) {
  paused_.store(on, std::memory_order_relaxed);
  if (!on) begin_soon();
}

void Rebuild::begin_soon() {
  // If it is under way it may have looked before there was anything to do: then tend() begins it again.
  asked_.store(true);
  if (is_due() && begin()) spawn(run());
}

Task<void> Rebuild::run() {
  co_await fs_.executor.leave_driver_thread();
  {
    LockGuard lock(mutex_);
    if (since_ == TimePoint{}) {
      since_ = fs_.executor.now();
      bytes_before_ = fs_.store->metrics().moved_bytes.sum();
    }
  }
  bool idle = false;
  while (go_on() && !idle) {
    asked_.store(false);
    Plan plan = make_plan();
    const bool to_balance = plan.misplaced.empty();
    const Result<void> told = co_await note_cut_files(plan.misplaced);
    if (!told.has_value()) break;
    const std::size_t count = worker_count(plan);
    {
      LockGuard lock(mutex_);
      idle = to_balance && plan.givers.empty();
      plan_ = std::move(plan);
      moved_ = waits_ = 0;
      stuck_ = 0;
      obstacle_ = {};
    }
    std::vector<Task<Result<void>>> workers;
    for (std::size_t i = 0; i < count; ++i) workers.push_back(work());
    const std::vector<Result<void>> ended = co_await when_all(std::move(workers));
    for (const Result<void>& one : ended) one.ignore("what could not be moved is counted");
    bool balanced = false;
    {
      LockGuard lock(mutex_);
      idle |= moved_ == 0;
      // As far as no two copies may lie on one disk.
      balanced = to_balance && moved_ == 0 && waits_ == 0;
    }
    if (balanced && go_on() && fs_.pool->rebalancing()) {
      const Result<void> noted = co_await fs_.pool->set_rebalancing(false);
      noted.ignore("it is found balanced again the next time");
      log_info("the disks are balanced");
    }
    // What was left is free soon, and the chunks that were empty go.
    const Result<void> drained = co_await fs_.journal->drain();
    drained.ignore("the journal says so itself");
    co_await fs_.store->reclaim();
  }
  if (go_on()) co_await let_go();
  const bool left = is_due();
  {
    LockGuard lock(mutex_);
    if (!left) since_ = {};
    plan_ = {};
  }
  again_at_.store(left && idle ? fs_.executor.now() + kAgainAfter : TimePoint{});
  end();
}

std::size_t Rebuild::worker_count(const Plan& plan) const {
  std::size_t read_at_once = 1;
  const auto look = [&](ChunkId chunk) {
    const std::optional<journal::Policy> layout = fs_.store->layout(chunk);
    if (layout && layout->kind == journal::Policy::Kind::kErasure)
      read_at_once = std::max<std::size_t>(read_at_once, layout->copies_or_data);
  };
  std::ranges::for_each(plan.misplaced, look);
  for (const Giver& giver : plan.givers)
    std::ranges::for_each(giver.chunks | std::views::take(kSample), look);
  const std::size_t wanted = kWorkersPerDisk * fs_.pool->staying()->size() / read_at_once;
  return std::clamp(wanted, kWorkersMin, kWorkersMax);
}

Task<Result<void>> Rebuild::work() {
  unsigned in_vain = 0;
  while (go_on()) {
    std::optional<Step> step;
    {
      LockGuard lock(mutex_);
      step = next_step();
    }
    // To balance: those who are at the last chunks go on with others, if these cannot be moved.
    if (!step) break;
    const Result<bool> moved =
        co_await fs_.store->move_chunk(step->chunk, step->off, step->off.has_value());
    const bool done = moved.has_value() && *moved;
    {
      LockGuard lock(mutex_);
      if (step->off && !done) ++std::ranges::find(plan_.givers, *step->off, &Giver::disk)->to_give;
      moved_ += done ? 1 : 0;
      if (!moved.has_value() && moved.error().code == Code::kBusy) {
        ++waits_;
      } else if (!moved.has_value()) {
        ++stuck_;
        obstacle_ = moved.error();
      }
    }
    // It may have waited for nothing.
    if (!done && ++in_vain % kInVainAtOnce == 0) co_await fs_.executor.yield();
  }
  co_return Result<void>{};
}

std::optional<Rebuild::Step> Rebuild::next_step() {
  if (plan_.next < plan_.misplaced.size())
    return Step{.chunk = plan_.misplaced[plan_.next++], .off = {}};
  for (Giver& giver : plan_.givers) {
    if (giver.to_give == 0 || giver.next == giver.chunks.size()) continue;
    --giver.to_give;
    return Step{.chunk = giver.chunks[giver.next++], .off = giver.disk};
  }
  return std::nullopt;
}

Task<Result<void>> Rebuild::note_cut_files(std::span<const ChunkId> chunks) {
  const bool cuts = std::ranges::any_of(chunks, [&](ChunkId chunk) {
    const std::optional<journal::Policy> layout = fs_.store->layout(chunk);
    return layout && layout->whole_files;
  });
  if (!cuts) co_return Result<void>{};
  // Once for all that leave: while anything of such a file is left on one of them, no sweep finds the file in its place.
  std::vector<DiskId> leaving;
  for (const journal::DiskStatus& disk : fs_.pool->status()) {
    if (disk.record.leaving) leaving.push_back(disk.record.id);
  }
  if (forget_cut_.exchange(false)) noted_cut_for_.reset();
  if (leaving == noted_cut_for_) co_return Result<void>{};
  CO_TRY(co_await fs_.note_scattered_files());
  noted_cut_for_ = std::move(leaving);
  co_return Result<void>{};
}

// Misplaced chunks first; then, if that is wanted, what the fuller disks have more than the mean.
Rebuild::Plan Rebuild::make_plan() const {
  Plan plan;
  plan.misplaced = fs_.store->misplaced_chunks();
  if (!plan.misplaced.empty() || !fs_.pool->rebalancing()) return plan;
  std::uint64_t used = 0;
  std::uint64_t total = 0;
  const extent::SpaceReport space = fs_.store->space(fs_.pool->policy());
  std::map<DiskId, std::pair<std::uint64_t, std::uint64_t>> slots;  // used, and all
  for (const DiskId disk : *fs_.pool->staying()) {
    const auto at =
        std::ranges::find(space.used_by_disk, disk, &std::pair<DiskId, std::uint64_t>::first);
    const std::uint64_t here = at == space.used_by_disk.end() ? 0 : at->second / kSlotBytes;
    slots[disk] = {here, fs_.pool->slot_count(disk)};
    used += here;
    total += fs_.pool->slot_count(disk);
  }
  if (total == 0) return plan;
  const double mean = static_cast<double>(used) / static_cast<double>(total);
  for (const auto& [disk, of] : slots) {
    const double more = static_cast<double>(of.first) - mean * static_cast<double>(of.second);
    if (more < 1 || more < kBalanced * static_cast<double>(of.second)) continue;
    std::vector<ChunkId> here = fs_.store->chunks_on(disk);
    // Some of the chunks that a whole file lies in would go, and others not.
    std::erase_if(here, [&](ChunkId chunk) {
      const std::optional<journal::Policy> layout = fs_.store->layout(chunk);
      return layout && layout->whole_files;
    });
    plan.givers.push_back({.disk = disk,
                           .to_give = static_cast<std::uint64_t>(more),
                           .chunks = std::move(here),
                           .next = 0});
  }
  return plan;
}

// Disks that are leaving and on which nothing lies any more, as of a checkpoint.
Task<void> Rebuild::let_go() {
  for (const journal::DiskStatus& disk : fs_.pool->status()) {
    const DiskId id = disk.record.id;
    if (!disk.record.leaving || disk.record.spare || !fs_.store->chunks_on(id).empty()) continue;
    if (!fs_.store->close_if_unused(id)) {
      // A run has a copy there: merged, it is written to the others. Or a slot is not free yet.
      fs_.run_thin.store(fs_.run_is_thin());
      fs_.merge_again_at.store({});
      fs_.merge_if_due();
      continue;
    }
    // What the next mount reads must not name the disk, and nothing is put there from now on.
    const Result<void> written = co_await fs_.checkpoint();
    if (!written.has_value()) {
      log_warning("disk {} is empty and stays for now: no checkpoint can be written: {}", id,
                  describe(written.error()));
      co_return;
    }
    if (!fs_.store->close_if_unused(id)) continue;
    fs_.pool->let_log_go(id);
    const Result<void> given = co_await fs_.journal->settle_members();
    if (!given.has_value()) co_return;  // the journal has stopped, and said so
    const Result<void> removed = co_await fs_.pool->remove_disk(id);
    if (removed.has_value()) {
      log_info("disk {} ({}) has left the pool", id, disk.record.path);
      continue;
    }
    changes_seen_.store(fs_.pool->changes());  // let_log_go() is one: not at once again
    log_warning("disk {} ({}) cannot leave the pool: {}", id, disk.record.path,
                describe(removed.error()));
  }
}

RebuildReport Rebuild::report() const {
  RebuildReport report;
  report.left_bytes = fs_.store->misplaced_bytes();
  report.rebalancing = fs_.pool->rebalancing();
  report.paused = paused_.load(std::memory_order_relaxed);
  report.running = task_.active();
  report.due = is_due();
  LockGuard lock(mutex_);
  if (since_ != TimePoint{}) {
    report.moved_bytes = fs_.store->metrics().moved_bytes.sum() - bytes_before_;
    report.took = fs_.executor.now() - since_;
  }
  // Those that were met may be gone, or cannot be read any more.
  if (!report.due) return report;
  report.stuck_chunks = stuck_;
  report.obstacle = obstacle_;
  return report;
}

// Filesystem.

Task<Result<DiskId>> Filesystem::add_disk(std::unique_ptr<scheduler::Disk> disk, bool spare) {
  CO_TRY(impl_->writable());
  co_return co_await impl_->pool->add_disk(std::move(disk), spare);
}

Task<Result<void>> Filesystem::take_offline(DiskId disk) {
  journal::Pool& pool = *impl_->pool;
  CO_TRY(impl_->writable());
  if (pool.disk(disk) == nullptr) {
    const std::vector<journal::DiskStatus> disks = pool.status();
    const auto known = [&](const auto& status) { return status.record.id == disk; };
    co_return error(std::ranges::any_of(disks, known) ? Code::kDiskGone : Code::kNotInPool,
                    disk.raw);
  }
  if (!can_lose(disk)) co_return error(Code::kTooFewDisks, disk.raw);
  // What is there already need not be looked for when it is back.
  CO_TRY(co_await impl_->journal->drain());
  if (!can_lose(disk)) co_return error(Code::kTooFewDisks, disk.raw);
  co_return co_await pool.take_offline(disk);
}

Task<Result<DiskId>> Filesystem::return_disk(std::unique_ptr<scheduler::Disk> disk) {
  CO_TRY(impl_->writable());
  co_return co_await impl_->pool->return_disk(std::move(disk));
}

Task<Result<void>> Filesystem::remove_disk(DiskId disk, std::uint64_t* missing_bytes) {
  const journal::Pool& pool = *impl_->pool;
  CO_TRY(impl_->writable());
  const std::vector<journal::DiskStatus> disks = pool.status();
  const auto known = [&](const auto& status) { return status.record.id == disk; };
  if (std::ranges::none_of(disks, known)) co_return error(Code::kNotInPool, disk.raw);
  const auto stay = std::ranges::count_if(*pool.staying(), [&](DiskId id) { return id != disk; });
  const extent::RoomWithout without = impl_->store->room_without(disk);
  const unsigned width = std::max(pool.policy().width(), without.widest);
  if (static_cast<std::size_t>(stay) < width) co_return error(Code::kTooFewDisks, width);
  *missing_bytes = without.needed_bytes - without.room_bytes;
  if (*missing_bytes != 0) co_return Code::kNoSpace;
  CO_TRY(co_await impl_->pool->set_leaving(disk, journal::Pool::Leaving::kYes));
  impl_->rebuild->begin_soon();
  co_return Result<void>{};
}

Task<Result<void>> Filesystem::keep_disk(DiskId disk) {
  co_return co_await impl_->pool->set_leaving(disk, journal::Pool::Leaving::kNo);
}

Task<Result<void>> Filesystem::rebalance(bool on) {
  CO_TRY(impl_->writable());
  CO_TRY(co_await impl_->pool->set_rebalancing(on));
  impl_->rebuild->begin_soon();
  co_return Result<void>{};
}

void Filesystem::pause_rebuild(bool on) { impl_->rebuild->pause(on); }
RebuildReport Filesystem::rebuild_report() const { return impl_->rebuild->report(); }

}  // namespace dynamicfs::fs
