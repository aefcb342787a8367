#include "fs/scrub.hpp"

#include <algorithm>
#include <functional>

#include "base/log.hpp"
#include "fs/filesystem_impl.hpp"
#include "journal/run_format.hpp"

namespace dynamicfs::fs {
namespace {

// Pieces in flight, each a window in every copy: with four of two copies 8 MiB, which keeps the
// quarter of a device's queue busy that background requests may have. More copies, fewer pieces.
constexpr std::size_t kBytesInFlight = 8 * kMiB;
constexpr std::size_t kScrubWorkersMax = 4;
// How often it is noted how far a scrub is: a superblock is written for it.
constexpr Duration kWritesPause = std::chrono::milliseconds{10};
constexpr Duration kNoteEvery = std::chrono::minutes{5};
constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

// Files that need a disk which is away; a MiB or so.
constexpr std::size_t kCutOffMax = 100'000;

}  // namespace

Scrub::Scrub(Filesystem::Impl& parts)
    : fs_(parts), walk_(parts, [this](InodeId inode, Error failure) { fail(inode, failure); }) {}

Result<void> Scrub::start(ScrubScope scope) { return start(scope, InodeId{}); }

void Scrub::tend() {
  if (fs_.options.read_only || !fs_.writable().has_value()) return;
  InodeId to_note;
  {
    LockGuard lock(mutex_);
    if (active_) {
      if (scope_ != ScrubScope::kAll || stopping_ || fs_.executor.now() < note_at_) return;
      note_at_ = fs_.executor.now() + kNoteEvery;
      to_note = std::exchange(position_before_, position());
    }
  }
  if (to_note.raw != 0) {
    fs_.tasks.enter();
    spawn(note_position(to_note));
    return;
  }
  // A disk that lacks something gets that first: a scrub of the rest could not say that it is whole.
  const std::vector<journal::DiskStatus> disks = fs_.pool->status();
  const auto is_stale = [](const journal::DiskStatus& disk) {
    return disk.health == journal::DiskHealth::kStale;
  };
  if (is_active() || std::ranges::any_of(disks, is_stale)) return;
  const InodeId under_way = fs_.pool->superblock().scrub.next;
  const std::uint64_t due = due_unix_s();
  const auto now = static_cast<std::uint64_t>(fs_.now_ns() / kNanosecondsPerSecond);
  if (under_way.raw == 0 && (due == 0 || now < due)) return;
  log_info("scrub: {}", under_way.raw != 0 ? "goes on where it was" : "it is time for one");
  start(ScrubScope::kAll, under_way)
      .ignore("somebody else has started one, or the pool is closing");
}

Task<void> Scrub::note_position(InodeId at) {
  (co_await fs_.pool->note_scrub(at)).ignore("it begins further back then");
  fs_.tasks.leave();
}

// The second walk, for doubtful parity, begins anew: what the first has seen counts.
InodeId Scrub::position() const {
  return std::max(walk_.position(), InodeId{first_walk_to_.load(std::memory_order_acquire)});
}

std::uint64_t Scrub::due_unix_s() const {
  const auto every = std::chrono::duration_cast<std::chrono::seconds>(fs_.options.scrub_every);
  if (every.count() == 0) return 0;
  const journal::Superblock superblock = fs_.pool->superblock();
  return std::max(superblock.scrub.ended_unix_s, superblock.created_unix_s) +
         static_cast<std::uint64_t>(every.count());
}

Result<void> Scrub::start(ScrubScope scope, InodeId from) {
  fs_.tasks.enter();  // before the look at `closing`: unmount sets that, then waits for tasks
  if (fs_.closing.load(std::memory_order_acquire)) {
    fs_.tasks.leave();
    return Code::kShutdown;
  }
  bool busy = false;
  {
    LockGuard lock(mutex_);
    busy = active_;
    if (!busy) {
      active_ = true;
      scope_ = scope;
      from_ = from;
      position_before_ = from;
      note_at_ = fs_.executor.now() + kNoteEvery;
      stopping_ = false;
      resumed_ = nullptr;
      ended_ = std::make_shared<AsyncEvent>(fs_.executor);
      report_ = {};
      cut_off_.clear();
      report_.state = ScrubState::kRunning;
      report_.started_ns = fs_.now_ns();
      report_.read_only = fs_.pool->read_only();
      running_since_ = fs_.executor.now();
    }
  }
  if (busy) {
    fs_.tasks.leave();
    return Code::kBusy;
  }
  fs_.metrics.scrubs_started.add();
  log_info("scrub: started");
  spawn(run());
  return {};
}

Result<void> Scrub::pause() {
  LockGuard lock(mutex_);
  if (!active_ || stopping_ || report_.state != ScrubState::kRunning) return Code::kInvalid;
  report_.active += fs_.executor.now() - running_since_;
  report_.state = ScrubState::kPaused;
  resumed_ = std::make_shared<AsyncEvent>(fs_.executor);
  return {};
}

Result<void> Scrub::resume() {
  {
    LockGuard lock(mutex_);
    if (!active_ || stopping_ || report_.state != ScrubState::kPaused) return Code::kInvalid;
  }
  wake();
  return {};
}

// Whoever waits in go_on() looks again; a pause is over.
void Scrub::wake() {
  std::shared_ptr<AsyncEvent> resumed;
  {
    LockGuard lock(mutex_);
    if (!active_ || report_.state != ScrubState::kPaused) return;
    report_.state = ScrubState::kRunning;
    running_since_ = fs_.executor.now();
    resumed = std::exchange(resumed_, nullptr);
  }
  resumed->set();
}

Task<Result<void>> Scrub::cancel() {
  std::shared_ptr<AsyncEvent> ended;
  {
    LockGuard lock(mutex_);
    if (!active_) co_return Code::kInvalid;
    stopping_ = true;
    ended = ended_;
  }
  wake();
  co_await ended->wait();
  co_return Result<void>{};
}

void Scrub::close() {
  {
    LockGuard lock(mutex_);
    if (!active_) return;
    stopping_ = true;
  }
  wake();
}

ScrubReport Scrub::report() const {
  LockGuard lock(mutex_);
  ScrubReport report = report_;
  if (report.state == ScrubState::kRunning) {
    report.active += fs_.executor.now() - running_since_;
  }
  // Files grow and shrink meanwhile.
  report.total_bytes = std::max(report.total_bytes, report.counts.bytes);
  report.last_unix_s = fs_.pool->superblock().scrub.ended_unix_s;
  report.due_unix_s = due_unix_s();
  return report;
}

bool Scrub::is_active() const {
  LockGuard lock(mutex_);
  return active_;
}

Task<bool> Scrub::go_on() {
  while (true) {
    std::shared_ptr<AsyncEvent> resumed;
    {
      LockGuard lock(mutex_);
      if (stopping_ || fs_.closing.load(std::memory_order_acquire)) {
        stopping_ = true;
        co_return false;
      }
      if (report_.state != ScrubState::kPaused) co_return true;
      resumed = resumed_;
    }
    co_await resumed->wait();
  }
}

void Scrub::note_cut_off(InodeId inode) {
  LockGuard lock(mutex_);
  if (cut_off_.size() < kCutOffMax) cut_off_.insert(inode);
}

std::vector<InodeId> Scrub::cut_off() const {
  LockGuard lock(mutex_);
  return {cut_off_.begin(), cut_off_.end()};
}

void Scrub::count(const journal::ScrubCounts& found) {
  {
    LockGuard lock(mutex_);
    report_.counts.add(found);
  }
  FilesystemMetrics& metrics = fs_.metrics;
  metrics.scrub_bytes.add(found.bytes);
  metrics.scrub_read_bytes.add(found.read_bytes);
  metrics.scrub_copies_bad.add(found.copies_bad);
  metrics.scrub_copies_outdated.add(found.copies_outdated);
  metrics.scrub_copies_repaired.add(found.copies_repaired);
  metrics.scrub_copies_skipped.add(found.copies_skipped);
  metrics.scrub_blocks_lost.add(found.blocks_lost + found.blocks_unreadable);
}

// How much there is.
void Scrub::survey() {
  ScrubScope scope{};
  InodeId from;
  {
    LockGuard lock(mutex_);
    scope = scope_;
    from = from_;
  }
  std::uint64_t bytes = 0;
  for (const auto& run : *fs_.runs.runs()) bytes += run->ref().bytes;
  if (scope == ScrubScope::kAll) {
    walk_.begin(from);
    // A shared block is met once for each file that has it.
    bytes += (fs_.store->live_blocks() + fs_.store->saved_blocks()) * kBlockBytes;
  }
  LockGuard lock(mutex_);
  report_.total_bytes = bytes;
}

// The snapshot keeps the slots of its runs from being reused.
Task<void> Scrub::check_runs() {
  const std::shared_ptr<const journal::RunSet::Runs> runs = fs_.runs.runs();
  for (const auto& run : *runs) {
    for (std::uint64_t at = 0; at < run->ref().bytes; at += journal::kRunPieceBytes) {
      const bool wanted = co_await go_on();
      if (!wanted) co_return;
      count(co_await journal::scrub_run_piece(*fs_.pool, run->ref(), at));
    }
  }
}

void Scrub::fail(InodeId inode, Error failure) {
  log_error("scrub: inode {}: {}", inode, describe(failure));
  LockGuard lock(mutex_);
  ++report_.errors;
}

// One of several that share the work.
Task<bool> Scrub::check_data() {
  while (true) {
    const bool wanted = co_await go_on();
    if (!wanted) co_return false;
    const std::optional<FileWalk::Piece> piece = co_await walk_.next();
    if (!piece) co_return true;
    const auto found =
        co_await fs_.store->scrub(*piece->inode->map, piece->inode->id, piece->first, piece->count);
    if (found.has_value()) {
      count(*found);
      if (found->blocks_unreadable != 0) note_cut_off(piece->inode->id);
    } else {
      fail(piece->inode->id, found.error());
    }
  }
}

// Another walk, through the maps alone.
Task<void> Scrub::check_doubtful() {
  first_walk_to_ = walk_.position().raw;
  walk_.end();
  walk_.begin();
  while (const std::optional<FileWalk::Piece> piece = co_await walk_.next()) {
    fs_.store->note_doubtful(*piece->inode->map, piece->first, piece->count);
    const bool wanted = co_await go_on();
    if (!wanted) co_return;
  }
  count(co_await fs_.store->scrub_doubtful());
}

Task<void> Scrub::run() {
  co_await fs_.executor.leave_driver_thread();
  const std::uint64_t clone_steps_before = fs_.clone_steps.sum();
  const std::vector<const scheduler::Disk*> lacking = fs_.pool->stale_disks();
  // Of what is being written now, the walk does not see what is published behind it.
  const std::uint64_t being_written = fs_.store->writes_mark();
  const auto unseen = [&] { return !lacking.empty() && !fs_.store->writes_ended(being_written); };
  while (unseen() && co_await go_on()) co_await fs_.executor.sleep(kWritesPause);
  first_walk_to_ = 0;
  survey();
  const bool everything = [this] {
    LockGuard lock(mutex_);
    return scope_ == ScrubScope::kAll && !report_.read_only;
  }();
  bool wanted = co_await go_on();
  if (wanted) {
    journal::ScrubCounts found = co_await fs_.pool->scrub_superblocks();
    found.bytes = 0;  // little, and not part of the total
    count(found);
  }
  // Behind those: this writes them.
  journal::ScrubMark mark = fs_.pool->superblock().scrub;
  if (everything && mark.next.raw == 0) {
    mark.next = kRootInode;
    (co_await fs_.pool->set_scrub(mark)).ignore("it does not go on after an unmount then");
  }
  co_await check_runs();
  wanted = co_await go_on();
  if (wanted) {
    const std::size_t width = std::max<std::size_t>(1, fs_.pool->policy().width());
    std::vector<Task<bool>> workers;
    for (std::size_t i = 0;
         i < std::clamp<std::size_t>(kBytesInFlight / (width * kWindowBytes), 1, kScrubWorkersMax);
         ++i) {
      workers.push_back(check_data());
    }
    const std::vector<bool> ended = co_await when_all(std::move(workers));
    if (std::ranges::all_of(ended, std::identity{}) && fs_.store->has_doubtful())
      co_await check_doubtful();
  }

  bool repaired = false;
  bool whole = false;
  {
    LockGuard lock(mutex_);
    const journal::ScrubCounts& counts = report_.counts;
    repaired = counts.copies_repaired != 0;
    whole = !stopping_ && scope_ == ScrubScope::kAll && from_ <= kRootInode &&
            report_.errors == 0 && counts.blocks_lost == 0 && counts.blocks_unreadable == 0 &&
            counts.parity_skipped == 0 &&
            counts.copies_repaired >= counts.copies_bad + counts.copies_outdated;
  }
  if (whole && fs_.clone_steps.sum() != clone_steps_before) {
    // The original may be gone before the walk came to it, and the clone be where it had been.
    log_info(
        "scrub: clones were made meanwhile; a disk that was away counts as whole after the next "
        "one");
    whole = false;
  }
  if (whole && !fs_.pool->read_only()) {
    // What was overwritten or removed before it was looked at must not come back after a power cut.
    whole = (co_await fs_.journal->drain()).has_value();
  }
  if (repaired || whole) {
    // What is called repaired stays so.
    const Result<void> flushed = co_await fs_.flush_disks();
    whole = whole && flushed.has_value();
  }
  if (whole && !fs_.pool->read_only()) {
    // All that is older than the scrub has been read from every disk that is here; what is newer was
    // written to all of them (or is a clone, see above).
    const Result<void> marked = co_await fs_.pool->mark_whole(lacking);
    marked.ignore("the disks stay marked as they were");
  }

  if (everything) {
    const bool interrupted = fs_.closing.load(std::memory_order_acquire);
    bool stopped = false;
    {
      LockGuard lock(mutex_);
      stopped = stopping_;
    }
    // Whoever calls it off means all of it.
    mark.next = stopped && interrupted ? std::max(position(), kRootInode) : InodeId{};
    if (!stopped)
      mark.ended_unix_s = static_cast<std::uint64_t>(fs_.now_ns() / kNanosecondsPerSecond);
    (co_await fs_.pool->set_scrub(mark)).ignore("it is done again at the next mount");
  }
  walk_.end();
  std::shared_ptr<AsyncEvent> ended;
  ScrubReport report;
  {
    LockGuard lock(mutex_);
    if (report_.state == ScrubState::kRunning) {
      report_.active += fs_.executor.now() - running_since_;
    }
    report_.state = stopping_ ? ScrubState::kCancelled : ScrubState::kFinished;
    report_.ended_ns = fs_.now_ns();
    if (!stopping_) report_.total_bytes = report_.counts.bytes;
    active_ = false;
    ended = ended_;
    report = report_;
  }
  const bool finished = report.state == ScrubState::kFinished;
  if (finished) fs_.metrics.scrubs_finished.add();
  log_info("scrub: {}; {} MiB checked, {} bad copies, {} outdated, {} repaired, {} blocks lost",
           finished ? "finished" : "cancelled", report.counts.bytes / kMiB,
           report.counts.copies_bad, report.counts.copies_outdated, report.counts.copies_repaired,
           report.counts.blocks_lost);
  ended->set();
  fs_.tasks.leave();
}

Result<void> Filesystem::start_scrub(ScrubScope scope) { return impl_->scrub->start(scope); }
Result<void> Filesystem::pause_scrub() { return impl_->scrub->pause(); }
Result<void> Filesystem::resume_scrub() { return impl_->scrub->resume(); }
Task<Result<void>> Filesystem::cancel_scrub() { co_return co_await impl_->scrub->cancel(); }
ScrubReport Filesystem::scrub_report() const { return impl_->scrub->report(); }

}  // namespace dynamicfs::fs
