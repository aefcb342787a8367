#include "fs/compaction.hpp"

#include <algorithm>
#include <cstring>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "extent/parity_group.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// A window is scattered when reading it takes this many transfers: with pieces of 32 KiB on average
// a solid state disk needs twice the time for it, a spinning one a hundred times.
constexpr std::size_t kScattered = extent::kScatteredExtents;
// Nobody writes to a window any more when nobody has for so long.
constexpr Duration kQuiet = std::chrono::seconds{30};
// 16 GiB of scattered windows are remembered, in 1 MiB.
constexpr std::size_t kNotedMax = 16384;
// A sweep reads all maps: not more often than this, and rarely when the last one did not get on.
constexpr Duration kSweepInterval = std::chrono::minutes{1};
constexpr Duration kSweepIntervalObstructed = std::chrono::hours{1};
constexpr Duration kRestripeInterval = std::chrono::minutes{20};
// From a change of a policy to the sweep, and from one that has left something to the next.
constexpr Duration kReencodeDelay = std::chrono::seconds{2};
constexpr Duration kReencodeAgain = std::chrono::minutes{1};
constexpr Duration kReencodeAgainObstructed = std::chrono::minutes{10};
// While files are larger than the room of any disk: twice as long each time.
constexpr Duration kReencodeAgainMax = std::chrono::hours{24};
// How often a sweep looks whether there is anything left to do, in windows.
constexpr std::uint64_t kBetweenLooks = 256;

Generation newest_of(const extent::MappingSet& set) {
  Generation newest;
  for (const extent::Mapping& mapping : set.mappings) newest = std::max(newest, mapping.generation);
  return newest;
}

bool is_plain(const extent::Mapping& mapping) {
  return mapping.kind == extent::MappingKind::kData && mapping.encoding == extent::Encoding::kPlain;
}

}  // namespace

std::size_t Compaction::WindowHash::operator()(const Window& at) const {
  return mix(at.inode.raw) + at.window.raw;
}

// A sweep goes on behind what cannot be read; the scrub says what becomes of that.
Compaction::Compaction(Filesystem::Impl& parts)
    : fs_(parts), walk_(parts, [this](InodeId id, Error error) {
        ++unseen_;
        log_warning("compaction: inode {} is left as it is: {}", id.raw, describe(error));
      }) {}

void Compaction::note(InodeId inode, FileBlock first, std::uint64_t blocks) {
  const TimePoint now = fs_.executor.now();
  const std::uint64_t end = ceil_div(first.raw + blocks, kWindowBlocks);
  LockGuard lock(mutex_);
  for (std::uint64_t window = first.raw / kWindowBlocks; window < end; ++window) {
    if (noted_.size() < kNotedMax) noted_.try_emplace({inode, WindowId{window}}, now);
  }
}

bool Compaction::begin() {
  return task_.begin(fs_.tasks, [this] { return go_on(); });
}

void Compaction::end() { task_.end(fs_.tasks); }

bool Compaction::go_on() const {
  return !fs_.closing.load(std::memory_order_acquire) && fs_.growable().has_value() &&
         !fs_.journal->stopped() && (!fs_.pool->degraded() || is_making_room());
}

bool Compaction::is_making_room() const {
  return (making_room_.load() || sweeps_for_room_.load()) &&
         fs_.pool->staying()->size() >= fs_.pool->policy().width();
}

// What is not newer was there kQuiet ago, and has not changed since.
Generation Compaction::quiet_since() {
  const TimePoint now = fs_.executor.now();
  LockGuard lock(mutex_);
  if (now - sampled_at_ >= kQuiet) {
    sample_before_ = sample_;
    sample_ = Generation{fs_.journal->appended().raw};
    sampled_at_ = now;
  }
  return sample_before_;
}

void Compaction::note_policy(bool known) {
  ++policy_changes_;
  const TimePoint at = std::max(fs_.executor.now() + kReencodeDelay, reencode_not_before_.load());
  // Some time for others that come with it; never later than it would be.
  if (!known || reencode_at_.load() > at) reencode_at_.store(at);
}

void Compaction::note_scattered(bool known) {
  ++scattered_changes_;
  const Duration wait = known ? kReencodeAgainObstructed : kReencodeDelay;
  const TimePoint at = std::max(fs_.executor.now() + wait, reencode_not_before_.load());
  if (!known || reencode_at_.load() > at) reencode_at_.store(at);
}

ReencodeReport Compaction::report() const {
  ReencodeReport report;
  report.pending = fs_.pool->reencoding();
  report.running = reencoding_.load();
  report.progress = report.pending ? walk_.progress() : 1;
  report.moved_bytes = fs_.metrics.reencoded_bytes.sum();
  report.stuck_bytes = report.pending ? stuck_before_.load() * kBlockBytes : 0;
  report.cut_bytes = report.pending ? cut_before_.load() * kBlockBytes : 0;
  return report;
}

void Compaction::tend() {
  const Generation quiet = quiet_since();
  if (!begin()) return;
  const TimePoint now = fs_.executor.now();
  bool due = false;
  Purpose purpose;
  const bool degraded = fs_.pool->degraded();
  if (!degraded) making_room_.store(false);
  // There may be room now.
  const bool other_disks = cut_wait_ != Duration{0} && *fs_.pool->staying() != staying_before_;
  purpose.reencode =
      !degraded && fs_.pool->reencoding() && (other_disks || now >= reencode_at_.load());
  if (quiet.raw != 0) {
    if (!degraded) {
      LockGuard lock(mutex_);
      due = std::ranges::any_of(
          noted_, [&](const auto& noted) { return now - noted.second >= 2 * kQuiet; });
    }
    if (now >= sweep_again_at_.load()) {
      using extent::Drain;
      // Asked for again meanwhile, it is done again.
      purpose.for_room = degraded && making_room_.exchange(false);
      purpose.sparse =
          fs_.store->drain_sparse(purpose.for_room ? Drain::kForRoom : Drain::kWhenShort);
      sweep_again_at_.store(now + kSweepInterval);
    }
    // What was written before the mount, or was too much to be noted.
    if (!degraded && !purpose.any() && now >= restripe_at_.load() &&
        (striping(fs_.pool->policy()) || fs_.store->has_groups())) {
      purpose.restripe = fs_.store->copied_blocks() > copied_before_ + kWindowBlocks;
      restripe_at_.store(now + kRestripeInterval);
    }
  }
  if (!due && !purpose.any()) {
    end();
    return;
  }
  sweeps_for_room_.store(purpose.for_room && purpose.any());
  spawn(run(std::move(purpose)));
}

Task<void> Compaction::run(Purpose purpose) {
  co_await fs_.executor.leave_driver_thread();
  if (!fs_.pool->degraded()) co_await tend_noted();
  if (purpose.any()) co_await sweep(std::move(purpose), quiet_since());
  sweeps_for_room_.store(false);
  end();
}

Task<Result<void>> Compaction::compact() {
  if (fs_.pool->degraded() || !begin()) co_return Code::kBusy;
  // What has been freed lately counts as room.
  const Result<void> drained = co_await fs_.journal->drain();
  co_await fs_.store->reclaim();
  if (drained.has_value()) {
    Purpose purpose{.sparse = fs_.store->drain_sparse(extent::Drain::kAll)};
    purpose.reencode = fs_.pool->reencoding() && !fs_.pool->degraded();
    co_await sweep(std::move(purpose), Generation{fs_.journal->appended().raw});
  }
  end();
  co_return drained;
}

// Writes anew the noted windows that nobody has written to for a while.
Task<void> Compaction::tend_noted() {
  const Generation quiet = quiet_since();
  std::vector<Window> due;
  {
    LockGuard lock(mutex_);
    const TimePoint now = fs_.executor.now();
    for (auto& [window, since] : noted_) {
      if (now - since < 2 * kQuiet) continue;
      due.push_back(window);
      since = now;  // until it is done
    }
  }
  std::vector<Window> done;
  no_rows_ = false;
  stuck_.clear();
  for (const Window& at : due) {
    if (!go_on() || no_rows_) break;
    const FileBlock first{at.window.raw * kWindowBlocks};
    const Result<InodeRef> found = co_await fs_.find(at.inode);
    if (!found.has_value() || !(*found)->is_regular()) {
      done.push_back(at);
      continue;
    }
    const InodeRef inode = *found;
    const Result<void> loaded = co_await fs_.load_windows(*inode, first, kWindowBlocks);
    if (!loaded.has_value()) continue;
    extent::MappingSet set;
    inode->map->snapshot(first, kWindowBlocks, set);
    const bool quiet_now = newest_of(set) <= quiet;
    bool moved = false;
    bool waits = false;
    for (const Run& run : plan(set, fs_.policy_of(*inode), {}, quiet)) {
      moved |= co_await add(inode, run);
      // For more of its kind, until there is enough for a row.
      waits |= run.in_copies;
    }
    if (moved) fs_.metrics.compaction_windows.add();
    if (quiet_now && !waits) done.push_back(at);
  }
  const bool moved = co_await move_batches();
  if (moved) fs_.metrics.compaction_windows.add();
  LockGuard lock(mutex_);
  for (const Window& at : done) noted_.erase(at);
  // Shared, changed again, or not to be read: a write notes it anew, a sweep looks again.
  for (const Window& at : stuck_) noted_.erase(at);
}

Task<void> Compaction::sweep(Purpose purpose, Generation quiet) {
  moved_blocks_ = 0;
  no_rows_ = false;
  stuck_.clear();
  fs_.metrics.compaction_sweeps.add();
  const std::uint64_t held = fs_.store->draining_blocks();
  Changes before;
  {
    // Who is counted here has changed it.
    const AsyncMutex::Guard guard = co_await fs_.policy_mutex.acquire();
    before = changes();
  }
  misfit_blocks_.store(0);
  stuck_blocks_.store(0);
  cut_blocks_.store(0);
  unseen_.store(0);
  waiting_ = false;
  Gathering gathering;
  reencoding_.store(purpose.reencode);
  if (purpose.reencode) staying_before_ = *fs_.pool->staying();
  bool all = false;
  walk_.begin();
  for (std::uint64_t windows = 1; go_on(); ++windows) {
    if (purpose.only_sparse() && windows % kBetweenLooks == 0 &&
        fs_.store->draining_blocks() == 0) {
      break;
    }
    if (no_rows_ && purpose.sparse.empty() && !purpose.reencode) break;
    const std::optional<FileWalk::Piece> piece = co_await walk_.next();
    if (!piece) {
      all = true;
      break;
    }
    const journal::Policy policy = fs_.policy_of(*piece->inode);
    bool gathers = purpose.reencode && policy.whole_files;
    if (gathers && gathering.inode.get() != piece->inode.get())
      gathering = co_await gather(piece->inode);
    gathers &= !gathering.unseen;
    // Behind that: what is published for another home afterwards is not there.
    extent::MappingSet set;
    piece->inode->map->snapshot(piece->first, piece->count, set);
    for (const Run& run : plan(set, policy, purpose, quiet, gathers ? &gathering : nullptr)) {
      const bool moved = co_await add(piece->inode, run);
      if (!moved && !go_on()) break;
    }
  }
  gathering = {};
  const bool moved = co_await move_batches();
  if (!moved) batches_.clear();
  walk_.end();
  const std::uint64_t left = fs_.store->draining_blocks();
  // What is empty now goes before anything can be put there again.
  co_await fs_.store->reclaim();
  fs_.store->stop_draining();
  if (all && stuck_.empty() && !purpose.for_room) copied_before_ = fs_.store->copied_blocks();
  if (left > held / 2) sweep_again_at_.store(fs_.executor.now() + kSweepIntervalObstructed);
  log_info("compaction: {} MiB moved, {} of {} MiB out of {} sparse chunks",
           moved_blocks_ * kBlockBytes / kMiB, (held - std::min(held, left)) * kBlockBytes / kMiB,
           held * kBlockBytes / kMiB, purpose.sparse.size());
  if (purpose.reencode && all) co_await note_reencoded(before);
  reencoding_.store(false);
}

Task<Compaction::Gathering> Compaction::gather(InodeRef inode) {
  Gathering gathering{.inode = inode, .home = {}, .most = {}};
  const Result<Filesystem::Impl::Fit> fit = co_await fs_.where_it_fits(inode);
  if (fit.has_value()) {
    gathering.home = fit->home;
    gathering.most = fit->most;
  } else {
    ++unseen_;
    gathering.unseen = true;
  }
  co_return gathering;
}

Task<void> Compaction::note_reencoded(Changes before) {
  const std::uint64_t left = misfit_blocks_.load();
  const std::uint64_t stuck = stuck_blocks_.load();
  stuck_before_.store(stuck);
  cut_before_.store(cut_blocks_.load());
  const TimePoint soon = fs_.executor.now() + kReencodeAgain;
  reencode_not_before_.store(soon);
  const AsyncMutex::Guard guard = co_await fs_.policy_mutex.acquire();
  reencode_at_.store(soon);
  if (policy_changes_.load() != before.policies || !go_on()) co_return;
  const bool changed = changes() != before;
  if (!changed && left == 0 && unseen_.load() == 0) {
    cut_wait_ = Duration{0};
    // Before that is durable a crash would bring the old places back.
    const Result<void> drained = co_await fs_.journal->drain();
    if (!drained.has_value()) co_return;
    const Result<void> noted = co_await fs_.pool->set_reencoding(false);
    noted.ignore("it is looked at again the next time");
    log_info("everything is protected as its policy asks");
    co_return;
  }
  // The rest has changed while it was moved.
  if (waiting_) reencode_at_.store(fs_.executor.now() + kReencodeAgainObstructed);
  if (stuck == 0 && unseen_.load() == 0) {
    cut_wait_ = Duration{0};
    co_return;
  }
  const Duration wait = next_look(left, stuck);
  if (moved_blocks_ > left) co_return;
  reencode_at_.store(fs_.executor.now() + (changed ? kReencodeAgainObstructed : wait));
}

Duration Compaction::next_look(std::uint64_t left, std::uint64_t stuck) {
  if (unseen_.load() != 0 || cut_blocks_.load() != stuck) {
    cut_wait_ = Duration{0};
    log_warning("{} MiB cannot be protected as their policy asks yet: it is tried again",
                ceil_div(left * kBlockBytes, kMiB));
    return kReencodeAgainObstructed;
  }
  if (cut_wait_ == Duration{0}) {
    log_warning(
        "no disk has room for all of some files that are to lie on one: {} MiB of them lie "
        "elsewhere than the rest",
        ceil_div(stuck * kBlockBytes, kMiB));
  }
  cut_wait_ = std::clamp<Duration>(cut_wait_ * 2, kReencodeAgainObstructed, kReencodeAgainMax);
  return cut_wait_;
}

bool Compaction::is_astray(const extent::Mapping& mapping, const Gathering& gathering) {
  const std::optional<DiskId> disk = fs_.store->disk_of(mapping.chunk);
  if (!disk || disk == gathering.home) return false;
  if (fs_.store->is_leaving(*disk)) {
    waiting_ = true;
    misfit_blocks_ += mapping.count;
    return false;
  }
  if (gathering.home) return true;
  if (disk == gathering.most) return false;
  note_cut(mapping.count);
  return false;
}

void Compaction::note_cut(std::uint64_t blocks) {
  misfit_blocks_ += blocks;
  stuck_blocks_ += blocks;
  cut_blocks_ += blocks;
}

std::vector<Compaction::Run> Compaction::plan(const extent::MappingSet& set, journal::Policy policy,
                                              const Purpose& purpose, Generation quiet,
                                              const Gathering* gathering) {
  std::vector<Run> whole;     // by blocks of the file
  std::vector<Run> selected;  // likewise, of what has to go
  const extent::Mapping* before = nullptr;
  bool before_selected = false;
  const bool is_quiet = newest_of(set) <= quiet;
  const bool stripes = striping(policy);
  for (const extent::Mapping& mapping : set.mappings) {
    if (!is_plain(mapping)) {
      before = nullptr;
      continue;
    }
    const bool follows =
        before != nullptr && before->first.raw + before->count == mapping.first.raw;
    const bool lies_behind =
        follows && before->chunk == mapping.chunk && before->block + before->count == mapping.block;
    const bool sparse_here = std::ranges::binary_search(purpose.sparse, mapping.chunk);
    const std::optional<journal::Policy> layout = fs_.store->layout(mapping.chunk);
    const bool astray =
        gathering != nullptr && layout && *layout == policy && is_astray(mapping, *gathering);
    const bool fits = !layout || *layout == policy;
    const bool is_copies = layout && *layout == policy.of_copies();
    const bool copies_here =
        !purpose.for_room && !fits && is_copies && stripes && (is_quiet || purpose.reencode);
    // There is no better place for it.
    const bool cut_here =
        gathering != nullptr && !gathering->home && layout && *layout == policy.spread();
    if (cut_here) note_cut(mapping.count);
    const bool misfit_here = !purpose.for_room && (astray || (!fits && !is_copies && !cut_here));
    const bool here = sparse_here || copies_here || misfit_here;
    const auto note = [&](Run& run) {
      run.count += mapping.count;
      run.must_go |= sparse_here;
      run.in_copies |= copies_here;
      run.misfit |= misfit_here;
    };
    if (!follows) whole.push_back({.first = mapping.first});
    note(whole.back());
    whole.back().places += lies_behind ? 0 : 1;
    if (here) {
      if (!follows || !before_selected) selected.push_back({.first = mapping.first});
      note(selected.back());
    }
    before_selected = here;
    before = &mapping;
  }
  std::size_t places = 1;
  for (const Run& run : whole) places += run.places - 1;
  if (purpose.for_room || places < kScattered || !is_quiet) return selected;
  std::erase_if(whole,
                [](const Run& run) { return run.places == 1 && !run.at_once() && !run.in_copies; });
  return whole;
}

bool Compaction::striping(journal::Policy policy) const {
  return policy.kind == journal::Policy::Kind::kErasure &&
         fs_.pool->staying()->size() >= policy.width();
}

Task<bool> Compaction::add(InodeRef inode, Run run) {
  const journal::Policy policy = fs_.policy_of(*inode);
  if (run.misfit) misfit_blocks_ += run.count;
  auto at = std::ranges::find(batches_, policy, &Batch::policy);
  if (at == batches_.end()) at = batches_.insert(at, Batch{.policy = policy, .parts = {}});
  Batch full;
  if (at->blocks + run.count > kWindowBlocks)
    full = std::exchange(*at, Batch{.policy = policy, .parts = {}});
  at->blocks += run.count;
  at->parts.push_back({.inode = std::move(inode), .run = run, .seen = {}});
  // Copies are moved one by one: neighbours in the batch are none in a file.
  Batch whole;
  if (!striping(policy) || at->blocks == kWindowBlocks)
    whole = std::exchange(*at, Batch{.policy = policy, .parts = {}});
  bool moved = co_await move_batch(std::move(full));
  moved |= co_await move_batch(std::move(whole));
  co_return moved;
}

void Compaction::leave(std::span<const Moving> parts) {
  for (const Moving& part : parts) {
    stuck_blocks_ += part.run.misfit ? part.run.count : 0;
    stuck_.push_back({part.inode->id, WindowId{part.run.first.raw / kWindowBlocks}});
  }
}

Task<bool> Compaction::move_batches() {
  bool moved = false;
  for (Batch& batch : std::exchange(batches_, {})) moved |= co_await move_batch(std::move(batch));
  co_return moved;
}

// Writes what is in the batch to one place and publishes each part of it that is still what it was. Leaves
// everything where it is if there is too little for a row of every column.
Task<bool> Compaction::move_batch(Batch batch) {
  if (batch.parts.empty()) co_return false;
  const bool stripes = striping(batch.policy);
  const std::uint64_t least =
      stripes ? extent::kStripeBlocks * std::uint64_t{batch.policy.copies_or_data} : 1;
  const auto at_once = [](const Moving& part) { return part.run.at_once(); };
  if (!go_on() || (batch.blocks < least && std::ranges::none_of(batch.parts, at_once)))
    co_return false;
  Buffer data{batch.blocks * kBlockBytes};
  std::vector<Moving> parts;
  std::uint64_t blocks = 0;
  for (Moving part : batch.parts) {
    const auto into = data.span().subspan(blocks * kBlockBytes, part.run.count * kBlockBytes);
    const bool whole = co_await read(&part, into);
    if (!whole) {
      stuck_.push_back({part.inode->id, WindowId{part.run.first.raw / kWindowBlocks}});
      continue;
    }
    blocks += part.run.count;
    parts.push_back(std::move(part));
  }
  const bool must_go = std::ranges::any_of(parts, at_once);
  if (parts.empty() || (blocks < least && !must_go)) co_return false;
  extent::WriteHint hint;
  hint.inode = parts.front().inode->id;
  hint.first = parts.front().run.first;
  hint.policy = batch.policy;
  hint.io_class = scheduler::IoClass::kBackground;
  hint.moving = true;
  hint.in_one_piece = !must_go;
  hint.rows_only = stripes && !must_go;
  if (batch.policy.whole_files) {
    const Result<std::optional<DiskId>> home = co_await fs_.home_to_move(*parts.front().inode);
    if (home.has_value()) hint.home = *home;
    if (!hint.home) {
      leave(parts);
      co_return false;
    }
  }
  const Result<extent::Written> written =
      co_await fs_.store->write(hint, data.span().first(blocks * kBlockBytes));
  if (!written.has_value()) {
    no_rows_ |= hint.rows_only;
    for (const Moving& part : parts) stuck_blocks_ += part.run.misfit ? part.run.count : 0;
    co_return false;
  }
  // Else the record could be durable, what it replaces be gone, and the new place be lost with its disk.
  if (batch.policy.tolerance() == 0) {
    const Result<void> durable = co_await fs_.store->flush(*written);
    if (!durable.has_value()) {
      fs_.store->discard(*written);
      fs_.store->note_moved(*written);
      for (const Moving& part : parts) stuck_blocks_ += part.run.misfit ? part.run.count : 0;
      co_return false;
    }
  }
  std::uint64_t at = 0;
  bool moved = false;
  for (const Moving& part : parts) {
    const extent::Written mine = extent::part_of(*written, at, part.run.count);
    at += part.run.count;
    journal::Credit credit =
        co_await fs_.journal->reserve(1, kPutFixedBytes + part.run.count * kPutBytesPerBlock);
    const bool published = publish(part, hint, mine, credit);
    if (!published) fs_.store->discard(mine);
    fs_.store->note_moved(mine);
    if (!published) continue;
    moved = true;
    moved_blocks_ += part.run.count;
    fs_.metrics.compaction_bytes.add(part.run.count * kBlockBytes);
    if (part.run.misfit) misfit_blocks_ -= part.run.count;
    if (!part.run.misfit && !(reencoding_.load() && part.run.in_copies)) continue;
    fs_.metrics.reencoded_bytes.add(part.run.count * kBlockBytes);
  }
  co_return moved;
}

// False: somebody has changed it since it was planned, or shares it, or it cannot be read.
Task<bool> Compaction::read(Moving* moving, std::span<std::byte> into) {
  const Run& run = moving->run;
  Inode& inode = *moving->inode;
  const Result<void> loaded = co_await fs_.load_windows(inode, run.first, run.count);
  if (!loaded.has_value()) co_return false;
  inode.map->snapshot(run.first, run.count, moving->seen);
  // What is a hole now stays one.
  std::uint64_t next = run.first.raw;
  for (const extent::Mapping& mapping : moving->seen.mappings) {
    if (mapping.first.raw != next || !is_plain(mapping)) co_return false;
    next += mapping.count;
  }
  if (next != run.first.raw + run.count) co_return false;
  // Another file keeps the blocks where they are: these would be a second copy of them.
  if (!run.misfit && fs_.store->is_shared(moving->seen)) co_return false;
  Buffer data{run.count * kBlockBytes};
  const Result<void> read = co_await fs_.store->read(*inode.map, inode.id, run.first, data,
                                                     scheduler::IoClass::kBackground);
  if (!read.has_value()) {
    // It cannot be protected in any way: the scrub says what becomes of it.
    if (run.misfit && read.error().code == Code::kCorrupt) {
      misfit_blocks_ -= run.count;
    } else if (run.misfit) {
      stuck_blocks_ += run.count;
    }
    co_return false;
  }
  std::memcpy(into.data(), data.data(), data.size());
  co_return true;
}

bool Compaction::publish(const Moving& moving, const extent::WriteHint& hint,
                         const extent::Written& written, journal::Credit& credit) {
  const journal::Policy policy = hint.policy;
  const Run& run = moving.run;
  Inode& inode = *moving.inode;
  const journal::ChangeScope scope(fs_.gate);
  fs_.modify(inode);
  const auto extents = fs_.store->locks().lock(inode.id, run.first, run.count);
  if (inode.removed.load(std::memory_order_acquire) ||
      !inode.map->unchanged(run.first, run.count, moving.seen) || fs_.policy_of(inode) != policy ||
      !Filesystem::Impl::is_at_home(inode, hint.home, written) ||
      written.losses != fs_.pool->losses() ||  // it may lie on a disk that has gone
      (!run.misfit && fs_.store->is_shared(moving.seen))) {
    return false;
  }
  // The mappings are there, so their chunks are.
  std::size_t copies = 0;
  for (const extent::Mapping& mapping : moving.seen.mappings)
    copies = std::max(copies, fs_.store->copies(mapping.chunk));
  copies = std::min<std::size_t>(copies, policy.tolerance() + 1);
  const bool as_many = std::ranges::all_of(written.pieces, [&](const extent::Piece& piece) {
    return fs_.store->copies(piece.chunk) >= copies;
  });
  if (!as_many) return false;
  RecordWriter record;
  record.extent_put(inode.id, run.first, written);
  const Lsn lsn = fs_.append(credit, record, {&inode});
  extent::Freed freed;
  inode.map->put(run.first, written.pieces, written.crcs, Generation{lsn.raw}, freed);
  fs_.store->publish(written);
  fs_.free_data(freed, lsn);
  return true;
}

Task<Result<void>> Filesystem::compact() { co_return co_await impl_->compaction->compact(); }

}  // namespace dynamicfs::fs
