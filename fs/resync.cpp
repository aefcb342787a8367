#include "fs/resync.hpp"

#include <algorithm>
#include <functional>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// As a scrub: windows that are looked at together.
constexpr std::size_t kResyncTasks = 4;
// After a pass that was cut short, and after one that has left something: then another disk has to come, as a rule.
constexpr Duration kAfterOneCutShort = std::chrono::minutes{1};
constexpr Duration kAfterOneThatLeftSomething = std::chrono::hours{1};
constexpr Duration kWritesStep = std::chrono::milliseconds{10};

}  // namespace

Resync::Resync(Filesystem::Impl& parts)
    : fs_(parts), walk_(parts, [this](InodeId inode, Error failure) {
        log_warning("resync: inode {}: {}", inode, describe(failure));
        ++failures_;
      }) {}

bool Resync::go_on() const {
  return !fs_.closing.load(std::memory_order_acquire) && fs_.writable().has_value() &&
         !fs_.scrub->is_active();
}

void Resync::tend() {
  const std::vector<journal::DiskStatus> disks = fs_.pool->status();
  const bool stale = std::ranges::any_of(disks, [](const journal::DiskStatus& disk) {
    return disk.health == journal::DiskHealth::kStale;
  });
  if (!stale) return;
  const std::uint64_t changes = fs_.pool->changes();
  if (changes_seen_.load() == changes && fs_.executor.now() < again_at_.load()) return;
  if (!task_.begin(fs_.tasks, [this] { return go_on(); })) return;
  changes_seen_.store(changes);
  spawn(run());
}

ResyncReport Resync::report() const {
  const bool running = task_.active();
  return {.running = running,
          .progress = running ? walk_.progress() : 0,
          .rewritten_bytes = fs_.metrics.resynced_bytes.sum()};
}

void Resync::count(const journal::ScrubCounts& found) {
  bad_ += found.copies_bad + found.copies_outdated;
  repaired_ += found.copies_repaired;
  failures_ += found.blocks_lost + found.blocks_unreadable + found.parity_skipped;
  fs_.metrics.resynced_bytes.add(found.copies_repaired * kBlockBytes);
}

// One of several that share the work. False: it is to end.
Task<bool> Resync::check_data() {
  while (go_on()) {
    const std::optional<FileWalk::Piece> piece = co_await walk_.next();
    if (!piece) co_return true;
    const auto found = co_await fs_.store->scrub(*piece->inode->map, piece->inode->id, piece->first,
                                                 piece->count, extent::ScrubOf::kMissed);
    if (found.has_value()) {
      count(*found);
    } else {
      ++failures_;
    }
  }
  co_return false;
}

Task<void> Resync::run() {
  co_await fs_.executor.leave_driver_thread();
  log_info("resync: disks that were away get what they have missed");
  const std::vector<const scheduler::Disk*> lacking = fs_.pool->stale_disks();
  // Of what was being written then, the walk would not see what is published behind it.
  const std::uint64_t mark = fs_.store->writes_mark();
  while (!fs_.store->writes_ended(mark) && go_on()) co_await fs_.executor.sleep(kWritesStep);
  const std::uint64_t clone_steps_before = fs_.clone_steps.sum();
  bad_ = repaired_ = failures_ = 0;
  walk_.begin();
  std::vector<Task<bool>> workers;
  for (std::size_t i = 0; i < kResyncTasks; ++i) workers.push_back(check_data());
  const std::vector<bool> ended = co_await when_all(std::move(workers));
  bool whole = std::ranges::all_of(ended, std::identity{});
  const bool all = whole;
  if (whole && fs_.store->has_doubtful()) {
    walk_.begin();
    while (whole) {
      const std::optional<FileWalk::Piece> piece = co_await walk_.next();
      if (!piece) break;
      fs_.store->note_doubtful(*piece->inode->map, piece->first, piece->count);
      whole = go_on();
    }
    if (whole) count(co_await fs_.store->scrub_doubtful());
  }
  walk_.end();
  // A clone may be where the walk had been when its original, which it had not come to, went.
  whole =
      whole && failures_ == 0 && repaired_ >= bad_ && fs_.clone_steps.sum() == clone_steps_before;
  // What was overwritten or removed before it was looked at must not come back after a power cut.
  if (whole) whole = (co_await fs_.journal->drain()).has_value();
  if (whole) whole = (co_await fs_.flush_disks()).has_value();
  if (whole && go_on()) {
    // All that they may lack has been verified; what is newer than this was written to all of them.
    const Result<void> marked = co_await fs_.pool->mark_whole(lacking);
    marked.ignore("the disks stay marked as they were");
    log_info("resync: {} MiB written; no disk lacks anything", repaired_ * kBlockBytes / kMiB);
  }
  again_at_.store(fs_.executor.now() +
                  (all && !whole ? kAfterOneThatLeftSomething : kAfterOneCutShort));
  task_.end(fs_.tasks);
}

ResyncReport Filesystem::resync_report() const { return impl_->resync->report(); }

}  // namespace dynamicfs::fs
