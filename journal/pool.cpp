#include "journal/pool.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/buffer.hpp"
#include "base/log.hpp"
#include "journal/pool_impl.hpp"
#include "journal/superblock_io.hpp"

namespace dynamicfs::journal {
namespace {

// 0 means "not stale", so a disk that went away before the first record says 1: record 1 creates
// the root directory, which has no data.
Lsn stale_mark(Lsn last) { return Lsn{std::max<std::uint64_t>(last.raw, 1)}; }

// Forgets the oldest epochs when there are too many, but none that a batch of the log may carry.
void trim_history(Superblock& superblock) {
  auto& epochs = superblock.epochs;
  while (epochs.size() > kEpochsMax &&
         epochs[1].first_sequence <= superblock.manifest.log_start.sequence) {
    epochs.erase(epochs.begin());
  }
}

}  // namespace

const char* disk_health_name(DiskHealth health) {
  switch (health) {
    case DiskHealth::kHealthy: return "healthy";
    case DiskHealth::kMissing: return "missing";
    case DiskHealth::kFailed: return "failed";
    case DiskHealth::kOffline: return "offline";
    case DiskHealth::kStale: return "stale";
  }
  return "unknown";
}

Pool::Impl::Impl(Executor& executor_in, Superblock superblock_in, bool read_only_in)
    : executor(executor_in),
      opened_read_only(read_only_in),
      members_found(superblock_in.members),
      writing(executor_in),
      closing(executor_in),
      policy(superblock_in.policy.packed()),
      superblock(std::move(superblock_in)) {}

void Pool::Impl::take_seats(std::vector<std::unique_ptr<Seat>> taken) {
  LockGuard lock(mutex);
  for (auto& seat : taken) take_seat(std::move(seat));
  update();
}

void Pool::Impl::take_seat(std::unique_ptr<Seat> seat) {
  enter_seat(*seat);
  seats.push_back(std::move(seat));
}

void Pool::Impl::enter_seat(Seat& seat) {
  seat.usable.store(seat.disk.get(), std::memory_order_release);
  seat_by_id[seat.id.raw].store(&seat, std::memory_order_release);
}

void Pool::Impl::drop_seat(Seat& seat) {
  const DiskId id = seat.id;
  std::erase(superblock.members, id);
  std::erase_if(superblock.disks, [&](const DiskRecord& record) { return record.id == id; });
  const auto at = std::ranges::find(seats, &seat, &std::unique_ptr<Seat>::get);
  seat.usable.store(nullptr, std::memory_order_release);
  removed.push_back(std::move(*at));
  seats.erase(at);
}

std::vector<Seat*> Pool::Impl::all_seats() const {
  LockGuard lock(mutex);
  std::vector<Seat*> all;
  for (const auto& seat : seats) all.push_back(seat.get());
  return all;
}

std::vector<Seat*> Pool::Impl::all_seats_ever() const {
  LockGuard lock(mutex);
  std::vector<Seat*> all;
  for (const auto& seat : seats) all.push_back(seat.get());
  for (const auto& seat : removed) all.push_back(seat.get());
  return all;
}

void Pool::Impl::update() {
  auto here = std::make_shared<std::vector<DiskId>>();
  auto stay = std::make_shared<std::vector<DiskId>>();
  unsigned lost = 0;
  for (const auto& seat : seats) {
    if (seat->here()) {
      here->push_back(seat->id);
      if (!superblock.find(seat->id)->leaving) stay->push_back(seat->id);
    } else if (!superblock.find(seat->id)->spare) {
      ++lost;
    }
  }
  std::ranges::sort(*here);
  std::ranges::sort(*stay);
  healthy = std::move(here);
  staying = std::move(stay);
  const bool member_left = std::ranges::any_of(
      superblock.members, [this](DiskId id) { return seat(id) != nullptr && seat(id)->here(); });
  if (opened_read_only || lost > superblock.tolerance() || !member_left) {
    read_only.store(true, std::memory_order_release);
  }
}

LogEnd Pool::Impl::ask_log_end() {
  std::function<LogEnd()> source;
  {
    LockGuard lock(mutex);
    if (!log_source) return log_end;
    source = log_source;
  }
  return source();
}

bool Pool::Impl::note_failed(Seat& seat, Error cause) {
  // Asked before the disk leaves `healthy`: what is durable now was flushed on it, too.
  const Lsn last = ask_log_end().last;
  {
    LockGuard lock(mutex);
    if (!seat.here()) return false;
    changes.fetch_add(1, std::memory_order_seq_cst);
    seat.usable.store(nullptr, std::memory_order_release);
    const bool offline = cause.code == Code::kDiskOffline;
    seat.health = offline ? DiskHealth::kOffline : DiskHealth::kFailed;
    seat.reason = offline ? "" : describe(cause);
    seat.failed_after = last;
    update();
    losses.fetch_add(1, std::memory_order_acq_rel);
  }
  log_warning("disk {} ({}) {}: {}; {}", seat.id, seat.disk->path(),
              cause.code == Code::kDiskOffline ? "is left out" : "has failed", describe(cause),
              read_only.load(std::memory_order_acquire) ? "the pool is read-only now"
                                                        : "the pool goes on without it");
  // Not under the mutex: requests that end now resume their owners. Not later: a superblock write
  // that hangs on this very disk ends by it.
  seat.disk->fail();
  return true;
}

bool Pool::Impl::fold_failures() {
  bool folded = false;
  for (const auto& seat : seats) {
    if (seat->disk == nullptr || seat->here() || seat->failure_recorded) continue;
    DiskRecord& record = *superblock.find(seat->id);
    record.state = DiskState::kAway;
    if (record.stale_since.raw == 0) record.stale_since = stale_mark(seat->failed_after);
    std::erase(superblock.members, seat->id);
    seat->failure_recorded = true;
    folded = true;
  }
  return folded;
}

Task<void> Pool::Impl::record_failures() {
  {
    LockGuard lock(mutex);
    if (!begun) co_return;
  }
  const bool due = std::ranges::any_of(all_seats(), [](const Seat* seat) {
    return seat->disk != nullptr && !seat->here() && !seat->failure_recorded;
  });
  if (!due) co_return;
  const Result<void> stored = co_await store(Copies::kBoth);
  stored.ignore("only too much loss fails it, and read_only() says that");
}

// See "Epoch and commit" at the head of pool.hpp for the order of these steps.
void Pool::Impl::announce_epoch() {
  {
    LockGuard lock(mutex);
    EpochRecord epoch = superblock.epoch();
    ++epoch.number.raw;
    epoch.tag = executor.random();
    superblock.epochs.push_back(epoch);
    superblock.announced = true;
    changes.fetch_add(1, std::memory_order_seq_cst);
  }
  const LogEnd end = ask_log_end();
  LockGuard lock(mutex);
  EpochRecord& epoch = superblock.epochs.back();
  epoch.first_sequence = end.next;
  epoch.after = end.last;
  trim_history(superblock);
}

Task<Result<bool>> Pool::Impl::write_copies() {
  Superblock next;
  std::vector<Seat*> targets;
  {
    LockGuard lock(mutex);
    ++superblock.sequence;
    next = superblock;
    for (const auto& seat : seats) {
      if (seat->here()) targets.push_back(seat.get());
    }
  }
  scheduler::IoGroup group;
  for (Seat* const seat : targets) {
    next.this_disk = seat->id;
    CO_TRY_ASSIGN(const Bytes bytes, encode(next));
    Buffer& buffer = seat->superblock_memory;
    if (buffer.size() != bytes.size()) buffer = Buffer{bytes.size()};
    std::memcpy(buffer.data(), bytes.data(), bytes.size());
    group.write(*seat->disk, scheduler::IoClass::kCritical, superblock_offset(seat->next_copy),
                buffer.span(), true);
  }
  co_await group.run();
  bool all = true;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (group.error(i).code == Code::kOk) {
      targets[i]->next_copy ^= 1;
    } else {
      note_failed(*targets[i], group.error(i));
      all = false;
    }
  }
  co_return all;
}

Task<Result<void>> Pool::Impl::store(Copies copies) {
  while (true) {
    bool folded = false;
    {
      LockGuard lock(mutex);
      folded = fold_failures();
    }
    if (read_only.load(std::memory_order_acquire)) co_return Code::kReadOnly;
    if (folded) announce_epoch();

    Result<bool> written = co_await write_copies();
    if (written.has_value() && *written) {
      bool announced = false;
      {
        // Everybody who is left knows the epoch: now it may count.
        LockGuard lock(mutex);
        announced = std::exchange(superblock.announced, false);
      }
      if (!announced && copies == Copies::kOne) break;
      written = co_await write_copies();
      if (written.has_value() && *written) break;
    }
    if (!written.has_value()) {
      // What happened to the pool cannot be written down any more, so nothing else may be.
      log_error("the superblock is too large: the pool is read-only now");
      read_only.store(true, std::memory_order_release);
      co_return written.error();
    }
  }
  publish_log_set();
  co_return Result<void>{};
}

void Pool::Impl::publish_log_set() {
  LockGuard lock(mutex);
  if (!begun || (log_set != nullptr && log_set->epoch == superblock.epoch())) return;
  auto set = std::make_shared<LogSet>();
  set->epoch = superblock.epoch();
  for (const DiskId id : superblock.members) {
    set->members.push_back(LogSet::Member{id, seat(id)->disk.get()});
  }
  log_set = std::move(set);
}

void Pool::Impl::tell_listeners() {
  std::vector<std::function<void()>> to_call;
  {
    LockGuard lock(mutex);
    to_call = listeners;
  }
  for (const auto& listener : to_call) listener();
}

Pool::Pool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pool::~Pool() = default;

Task<Result<void>> Pool::begin(LogFound found) {
  Impl& impl = *impl_;
  if (read_only()) {
    if (impl.opened_read_only) co_return Result<void>{};
    co_return Code::kReadOnly;
  }
  Result<void> stored;
  {
    auto guard = co_await impl.writing.acquire();
    {
      LockGuard lock(impl.mutex);
      DFS_ASSERT(!impl.begun);
      Superblock& superblock = impl.superblock;
      const Lsn last = found.end.last;
      for (const auto& seat : impl.seats) {
        DiskRecord& record = *superblock.find(seat->id);
        if (!seat->here()) {
          record.state = DiskState::kAway;
          // It may lack data of a batch that was written beside its flush.
          if (record.stale_since.raw == 0) record.stale_since = stale_mark(found.certain);
          seat->failure_recorded = true;
          continue;
        }
        if (seat->old_epoch && record.stale_since.raw == 0) {
          // It missed what was recorded since the epoch after its own began.
          record.stale_since = stale_mark(superblock.epochs[*seat->old_epoch + 1].after);
        }
        if (record.stale_since >= stale_mark(last)) record.stale_since = Lsn{};
        if (std::exchange(record.lost, false)) record.leaving = false;
        record.state = DiskState::kActive;
        seat->health = record.stale_since.raw == 0 ? DiskHealth::kHealthy : DiskHealth::kStale;
      }
      superblock.members = found.members;
      std::erase_if(superblock.members, [&impl](DiskId id) { return !impl.seat(id)->here(); });
      superblock.lsn_floor = found.lsn_floor;
      superblock.clean = false;
      superblock.reader_min = superblock.writer_min = kFormatVersion;
      impl.log_end = found.end;
      impl.begun = true;
      impl.update();
    }
    // Also when nothing has changed: of two copies of a pool that were both mounted, each has an epoch
    // that the other does not know, so disks of one are not taken for disks of the other.
    impl.announce_epoch();
    stored = co_await impl.store(Impl::Copies::kBoth);
  }
  impl.tell_listeners();
  co_return stored;
}

Task<Result<void>> Pool::report_failure(DiskId id, Error cause, const scheduler::Disk* from) {
  Impl& impl = *impl_;
  Seat* const seat = impl.seat(id);
  DFS_ASSERT(seat != nullptr);
  const bool is_another = from != nullptr && seat->disk.get() != from;
  const bool fresh = seat->disk != nullptr && !is_another && impl.note_failed(*seat, cause);
  co_await settled();
  if (fresh) impl.tell_listeners();
  if (read_only()) co_return Code::kReadOnly;
  co_return Result<void>{};
}

Task<Result<void>> Pool::adopt_member(DiskId id, const scheduler::Disk* copied_to) {
  Impl& impl = *impl_;
  const auto guard = co_await impl.writing.acquire();
  {
    LockGuard lock(impl.mutex);
    std::vector<DiskId>& members = impl.superblock.members;
    const bool is_one = std::ranges::find(members, id) != members.end();
    if (is_one || disk(id) != copied_to) co_return error(Code::kBusy, id.raw);
    if (members.size() < kMembersMax) {
      members.push_back(id);
    } else {
      const auto going = std::ranges::find(members, impl.going);
      if (going == members.end()) co_return error(Code::kBusy, id.raw);
      *going = id;
    }
  }
  impl.announce_epoch();
  co_return co_await impl.store(Impl::Copies::kBoth);
}

Task<Result<void>> Pool::commit_manifest(Manifest manifest) {
  Impl& impl = *impl_;
  auto guard = co_await impl.writing.acquire();
  Superblock next = superblock();
  // It would be refused when it is read.
  for (const RunRef& run : manifest.runs) DFS_ASSERT(run.id != 0 && run.id < manifest.next_run);
  next.manifest = manifest;
  next.this_disk = next.disks.front().id;
  // A disk that has left the pool since the run was begun: no superblock that names it would be read.
  for (const RunRef& run : manifest.runs) {
    for (const RunCopy& copy : run.copies) {
      if (next.find(copy.disk) == nullptr) co_return error(Code::kNotInPool, copy.disk.raw);
    }
  }
  // Too many runs for a superblock: nothing is written, the old checkpoint stands.
  CO_TRY(encode(next));
  {
    LockGuard lock(impl.mutex);
    DFS_ASSERT(impl.begun);
    impl.superblock.manifest = std::move(manifest);
  }
  const Result<void> stored = co_await impl.store(Impl::Copies::kBoth);
  co_return stored;
}

std::vector<const scheduler::Disk*> Pool::stale_disks() const {
  LockGuard lock(impl_->mutex);
  std::vector<const scheduler::Disk*> stale;
  for (const auto& seat : impl_->seats) {
    if (seat->here() && seat->health == DiskHealth::kStale) stale.push_back(seat->disk.get());
  }
  return stale;
}

Task<Result<void>> Pool::mark_whole(std::vector<const scheduler::Disk*> verified) {
  Impl& impl = *impl_;
  bool changed = false;
  Result<void> stored;
  {
    auto guard = co_await impl.writing.acquire();
    {
      LockGuard lock(impl.mutex);
      DFS_ASSERT(impl.begun);
      for (const auto& seat : impl.seats) {
        if (!seat->here() || seat->health != DiskHealth::kStale) continue;
        if (std::ranges::find(verified, seat->disk.get()) == verified.end()) continue;
        impl.superblock.find(seat->id)->stale_since = Lsn{};
        seat->health = DiskHealth::kHealthy;
        changed = true;
      }
      if (changed) impl.update();
    }
    if (!changed) co_return Result<void>{};
    stored = co_await impl.store(Impl::Copies::kBoth);
  }
  impl.tell_listeners();
  co_return stored;
}

bool Pool::is_leaving(DiskId id) const {
  LockGuard lock(impl_->mutex);
  const DiskRecord* const record = impl_->superblock.find(id);
  return record != nullptr && record->leaving;
}

Task<Result<void>> Pool::mark_clean() {
  Impl& impl = *impl_;
  auto guard = co_await impl.writing.acquire();
  {
    LockGuard lock(impl.mutex);
    DFS_ASSERT(impl.begun);
    impl.superblock.clean = true;
  }
  const Result<void> stored = co_await impl.store(Impl::Copies::kOne);
  co_return stored;
}

Task<Result<unsigned>> Pool::Impl::bad_copies(Seat& seat, scheduler::IoClass io_class) const {
  const auto buffer = std::make_shared<Buffer>(kSuperblockCopies * kSuperblockBytes);
  const auto copy_of = [&](unsigned copy) {
    return buffer->span().subspan(superblock_offset(copy), kSuperblockBytes);
  };
  scheduler::IoGroup group;
  for (unsigned copy = 0; copy < kSuperblockCopies; ++copy) {
    group.read(*seat.disk, io_class, superblock_offset(copy), copy_of(copy), buffer);
  }
  co_await group.run();
  unsigned bad = 0;
  for (unsigned copy = 0; copy < kSuperblockCopies; ++copy) {
    const Error failure = group.error(copy);
    if (failure.code == Code::kDiskGone) co_return failure;
    bool good = false;
    if (failure.code == Code::kOk) {
      const Result<Superblock> decoded = decode(copy_of(copy));
      LockGuard lock(mutex);
      // The two newest have been written to each disk that is here, one to each place: an older one
      // says that a write has been lost.
      const bool written = begun && !read_only.load(std::memory_order_acquire);
      good = decoded.has_value() && decoded->pool == superblock.pool &&
             decoded->this_disk == seat.id &&
             (!written || decoded->sequence + 1 >= superblock.sequence);
    }
    if (!good) bad |= 1U << copy;
  }
  co_return bad;
}

Task<ScrubCounts> Pool::scrub_superblocks() {
  Impl& impl = *impl_;
  ScrubCounts counts;
  std::uint64_t bad_copies = 0;
  for (Seat* const seat : impl.all_seats()) {
    ++counts.blocks;
    counts.bytes += kSuperblockBytes;
    Result<unsigned> bad = Code::kDiskGone;
    if (seat->here()) {
      bad = co_await impl.bad_copies(*seat, scheduler::IoClass::kBackground);
      if (!bad.has_value()) {
        const Result<void> reported =
            co_await report_failure(seat->id, bad.error(), seat->disk.get());
        reported.ignore("its copies are skipped");
      }
    }
    if (bad.has_value() && *bad != 0) {
      // It may have been in the middle of being written: looked at again when that is impossible.
      auto guard = co_await impl.writing.acquire();
      if (seat->here()) bad = co_await impl.bad_copies(*seat, scheduler::IoClass::kCritical);
      // The first of the two that are going to be written is not the only good one.
      if (bad.has_value() && (*bad == 1 || *bad == 2)) seat->next_copy = *bad - 1;
    }
    if (!bad.has_value()) {
      counts.copies_skipped += kSuperblockCopies;
      continue;
    }
    counts.read_bytes += kSuperblockCopies * kSuperblockBytes;
    const auto found = static_cast<std::uint64_t>(std::popcount(*bad));
    if (found == 0) continue;
    bad_copies += found;
    log_warning("disk {} ({}): {} copies of the superblock are damaged", seat->id,
                seat->disk->path(), found);
  }
  counts.copies_bad = bad_copies;
  if (bad_copies != 0 && !read_only()) {
    auto guard = co_await impl.writing.acquire();
    const Result<void> stored = co_await impl.store(Impl::Copies::kBoth);
    if (stored.has_value()) counts.copies_repaired = bad_copies;
  }
  co_return counts;
}

Task<void> Pool::settled() {
  // Whoever announces an epoch holds this until the epoch is durable.
  auto guard = co_await impl_->writing.acquire();
  co_await impl_->record_failures();
}

void Pool::set_path(DiskId id, std::string path) {
  LockGuard lock(impl_->mutex);
  DiskRecord* const record = impl_->superblock.find(id);
  if (record != nullptr) record->path = stored_path(std::move(path));
}

Executor& Pool::executor() const { return impl_->executor; }

Superblock Pool::superblock() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock;
}

Uuid Pool::uuid() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock.pool;
}

Policy Pool::policy() const {
  return Policy::unpacked(impl_->policy.load(std::memory_order_acquire));
}

unsigned Pool::tolerance() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock.tolerance();
}

unsigned Pool::data_tolerance() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock.data_tolerance();
}

EpochRecord Pool::epoch() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock.epoch();
}

std::uint64_t Pool::changes() const { return impl_->changes.load(std::memory_order_seq_cst); }

std::shared_ptr<const LogSet> Pool::log_set() const {
  LockGuard lock(impl_->mutex);
  return impl_->log_set;
}

scheduler::Disk* Pool::disk(DiskId id) const {
  const Seat* const seat = impl_->seat(id);
  return seat == nullptr ? nullptr : seat->usable.load(std::memory_order_acquire);
}

std::shared_ptr<const std::vector<DiskId>> Pool::healthy() const {
  LockGuard lock(impl_->mutex);
  return impl_->healthy;
}

std::shared_ptr<const std::vector<DiskId>> Pool::staying() const {
  LockGuard lock(impl_->mutex);
  return impl_->staying;
}

std::vector<DiskId> Pool::members() const {
  LockGuard lock(impl_->mutex);
  std::vector<DiskId> members;
  for (const DiskId id : impl_->superblock.members) {
    if (impl_->seat(id)->here()) members.push_back(id);
  }
  return members;
}

std::vector<DiskId> Pool::members_found() const { return impl_->members_found; }

std::vector<DiskId> Pool::members_to_be(std::span<const scheduler::Disk* const> without) const {
  LockGuard lock(impl_->mutex);
  return impl_->members_to_be(without);
}

std::vector<DiskId> Pool::Impl::members_to_be(
    std::span<const scheduler::Disk* const> without) const {
  const auto is_one = [](const std::vector<DiskId>& members, DiskId id) {
    return std::ranges::find(members, id) != members.end();
  };
  std::vector<DiskId> wanted;
  for (const DiskId id : superblock.members) {
    if (seat(id)->here() && id != going) wanted.push_back(id);
  }
  for (const bool leaving : {false, true}) {
    for (const DiskId id : *healthy) {
      const DiskRecord& record = *superblock.find(id);
      const bool may = record.leaving == leaving && !(leaving && record.spare) &&
                       record.journal_bytes >= superblock.log_bytes &&
                       std::ranges::find(without, seat(id)->disk.get()) == without.end();
      if (may && !is_one(superblock.members, id)) wanted.push_back(id);
    }
  }
  if (is_one(superblock.members, going) && seat(going)->here()) wanted.push_back(going);
  if (wanted.size() > kMembersMax) wanted.resize(kMembersMax);
  return wanted;
}

void Pool::let_log_go(DiskId id) {
  LockGuard lock(impl_->mutex);
  impl_->going = id;
  impl_->changes.fetch_add(1, std::memory_order_seq_cst);
}

std::vector<DiskStatus> Pool::status() const {
  LockGuard lock(impl_->mutex);
  std::vector<DiskStatus> disks;
  for (const auto& seat : impl_->seats) {
    DiskStatus& status = disks.emplace_back();
    status.record = *impl_->superblock.find(seat->id);
    status.health = seat->health;
    status.member = seat->here() && std::ranges::find(impl_->superblock.members, seat->id) !=
                                        impl_->superblock.members.end();
    status.reason = seat->reason;
  }
  return disks;
}

bool Pool::degraded() const {
  LockGuard lock(impl_->mutex);
  return std::ranges::any_of(impl_->seats,
                             [](const auto& seat) { return seat->health != DiskHealth::kHealthy; });
}

std::uint32_t Pool::losses() const { return impl_->losses.load(std::memory_order_acquire); }

std::optional<Lsn> Pool::durable_at_loss(DiskId id) const {
  LockGuard lock(impl_->mutex);
  const auto at = std::ranges::find(impl_->seats, id, [](const auto& seat) { return seat->id; });
  if (at == impl_->seats.end() || (*at)->here()) return std::nullopt;
  const bool gone_since =
      (*at)->health == DiskHealth::kFailed || (*at)->health == DiskHealth::kOffline;
  return gone_since ? std::optional{(*at)->failed_after} : std::nullopt;
}

bool Pool::can_lose(DiskId id) const {
  LockGuard lock(impl_->mutex);
  const DiskRecord* const record = impl_->superblock.find(id);
  if (record == nullptr) return false;
  std::size_t lost = 0;  // of the others
  for (const auto& seat : impl_->seats) {
    const bool counts = seat->id != id && !impl_->superblock.find(seat->id)->spare;
    lost += counts && seat->health != DiskHealth::kHealthy ? 1 : 0;
  }
  if (!record->spare && lost >= impl_->superblock.tolerance()) return false;
  return std::ranges::any_of(impl_->superblock.members, [&](DiskId member) {
    return member != id && impl_->seat(member) != nullptr && impl_->seat(member)->here();
  });
}

bool Pool::read_only() const { return impl_->read_only.load(std::memory_order_acquire); }

std::vector<std::string> Pool::kept_disks() {
  std::vector<std::string> kept;
  const std::vector<Seat*> seats = impl_->all_seats_ever();
  for (const Seat* const seat : seats) {
    if (seat->disk != nullptr && seat->disk->kept()) kept.push_back(seat->disk->path());
  }
  if (kept.empty()) return kept;
  for (const Seat* const seat : seats) {
    if (seat->disk != nullptr && !seat->disk->kept()) seat->disk->unlock();
  }
  return kept;
}

std::uint64_t Pool::slot_offset(DiskId id, SlotId slot) const {
  return impl_->seat(id)->first_slot_offset + std::uint64_t{slot.raw} * kSlotBytes;
}

std::uint32_t Pool::slot_count(DiskId id) const { return impl_->seat(id)->slots; }

void Pool::on_change(std::function<void()> listener) {
  LockGuard lock(impl_->mutex);
  impl_->listeners.push_back(std::move(listener));
}

void Pool::set_log_source(std::function<LogEnd()> source) {
  // The last answer of the one that goes stays valid: nothing is appended without a journal.
  const LogEnd end = impl_->ask_log_end();
  LockGuard lock(impl_->mutex);
  impl_->log_end = end;
  impl_->log_source = std::move(source);
}

}  // namespace dynamicfs::journal
