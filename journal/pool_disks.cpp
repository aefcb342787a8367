// Disks that come and go while the pool is open.

#include <algorithm>

#include "base/log.hpp"
#include "journal/membership.hpp"
#include "journal/pool_impl.hpp"

namespace dynamicfs::journal {
namespace {

// How long a disk may take that is not yet, or not any more, one of those that are watched.
constexpr Duration kDiskPatience = std::chrono::seconds{10};
constexpr Duration kZeroPatience = std::chrono::minutes{5};
constexpr Duration kPatienceStep = std::chrono::milliseconds{10};

struct Limited {
  std::atomic<bool> ended{false};
  Result<void> result;
};

Task<void> run_limited(std::shared_ptr<Limited> state, Task<Result<void>> io) {
  state->result = co_await std::move(io);
  state->ended.store(true, std::memory_order_release);
}

// What `io` says. A disk that takes longer is failed, which ends what it was asked.
Task<Result<void>> within_limit(Executor& executor, scheduler::Disk* disk, Task<Result<void>> io,
                                Duration limit) {
  const auto state = std::make_shared<Limited>();
  spawn(run_limited(state, std::move(io)));
  const TimePoint end = executor.now() + limit;
  while (!state->ended.load(std::memory_order_acquire)) {
    co_await executor.sleep(kPatienceStep);
    if (executor.now() >= end && !disk->failed()) disk->fail();
  }
  co_return state->result;
}

// What a disk that comes back says, once it has shown that it takes a flush: what completed before it went is durable.
Task<Result<void>> ask_returned(scheduler::Disk* disk, FoundSuperblock* out) {
  CO_TRY_ASSIGN(*out, co_await find_superblock(*disk));
  co_return co_await scheduler::flush(*disk, scheduler::IoClass::kCritical);
}

}  // namespace

Task<Result<DiskId>> Pool::add_disk(std::unique_ptr<scheduler::Disk> disk, bool spare) {
  Impl& impl = *impl_;
  // Nobody waits for a disk that is none of ours yet.
  DiskRecord record = new_record(impl.executor, DiskId{}, *disk);
  record.leaving = record.spare = spare;
  Result<void> done =
      co_await within_limit(impl.executor, disk.get(), check_new_disk(disk.get()), kDiskPatience);
  if (done.has_value()) {
    done = co_await within_limit(impl.executor, disk.get(), zero_journal(disk.get(), record),
                                 kZeroPatience);
  }
  if (done.has_value()) {
    const auto guard = co_await impl.writing.acquire();
    done = co_await impl.take_disk(&disk, &record);
  }
  impl.tell_listeners();
  co_await impl.let_go_of(&disk);
  CO_TRY(done);
  co_return record.id;
}

// With `writing` held. Takes the disk if it knows that it is part of the pool.
Task<Result<void>> Pool::Impl::take_disk(std::unique_ptr<scheduler::Disk>* disk,
                                         DiskRecord* record) {
  Superblock next;
  if (read_only.load(std::memory_order_acquire)) co_return Code::kReadOnly;
  {
    LockGuard lock(mutex);
    DFS_ASSERT(begun);
    next = superblock;
  }
  if (next.disks.size() == kDisksMax || next.next_disk.raw >= kDiskIdsMax)
    co_return error(Code::kInvalid, kDisksMax);
  record->id = next.next_disk;
  next.next_disk = DiskId{static_cast<std::uint16_t>(record->id.raw + 1)};
  next.disks.push_back(*record);
  next.this_disk = record->id;
  ++next.sequence;
  // It knows of itself, durably: whoever is found from now on, with it or without, agrees.
  CO_TRY_ASSIGN(const Bytes bytes, encode(next));
  CO_TRY(co_await within_limit(executor, disk->get(), write_superblock(disk->get(), bytes),
                               kDiskPatience));
  auto seat = std::make_unique<Seat>();
  seat->id = record->id;
  seat->first_slot_offset = record->first_slot_offset;
  seat->slots = record->slots;
  seat->disk = std::move(*disk);
  {
    LockGuard lock(mutex);
    superblock.next_disk = next.next_disk;
    superblock.disks.push_back(*record);
    take_seat(std::move(seat));
    update();
  }
  announce_epoch();
  co_return co_await store(Copies::kBoth);
}

Task<Result<void>> Pool::set_leaving(DiskId id, Leaving leaving) {
  Impl& impl = *impl_;
  Result<void> stored;
  {
    const auto guard = co_await impl.writing.acquire();
    if (read_only()) co_return Code::kReadOnly;
    {
      LockGuard lock(impl.mutex);
      DFS_ASSERT(impl.begun);
      DiskRecord* const record = impl.superblock.find(id);
      if (record == nullptr) co_return error(Code::kNotInPool, id.raw);
      // It has come back meanwhile.
      if (leaving == Leaving::kWhileAway && impl.seat(id)->here()) co_return Code::kBusy;
      const auto stay = std::ranges::count_if(*impl.staying, [&](DiskId one) { return one != id; });
      const unsigned width = impl.superblock.policy.width();
      if (leaving != Leaving::kNo && static_cast<std::size_t>(stay) < width)
        co_return error(Code::kTooFewDisks, width);
      record->leaving = leaving != Leaving::kNo;
      record->lost = leaving == Leaving::kWhileAway;
      record->spare = false;
      if (impl.going == id) impl.going = DiskId{kDiskIdsMax};
      // It may be needed for the log.
      impl.changes.fetch_add(1, std::memory_order_seq_cst);
      impl.update();  // who looks at the disks looks again
    }
    stored = co_await impl.store(Impl::Copies::kBoth);
  }
  impl.tell_listeners();
  co_return stored;
}

Task<Result<void>> Pool::remove_disk(DiskId id) {
  Impl& impl = *impl_;
  Result<void> stored;
  Seat* seat = nullptr;
  {
    const auto guard = co_await impl.writing.acquire();
    if (read_only()) co_return Code::kReadOnly;
    {
      LockGuard lock(impl.mutex);
      DFS_ASSERT(impl.begun);
      seat = impl.seat(id);  // another one if the disk has come back
      Superblock& superblock = impl.superblock;
      const DiskRecord* const record = superblock.find(id);
      if (record == nullptr) co_return error(Code::kNotInPool, id.raw);
      // It is to stay after all.
      if (!record->leaving || record->spare) co_return Code::kBusy;
      const bool keeps_log = std::ranges::any_of(superblock.members, [&](DiskId member) {
        return member != id && impl.seat(member)->here();
      });
      if (!keeps_log) co_return error(Code::kTooFewDisks, 1);
      if (std::exchange(impl.going, id) != id) impl.changes.fetch_add(1, std::memory_order_seq_cst);
      // Not before somebody keeps the log in its place, if there is somebody.
      const std::vector<DiskId>& members = superblock.members;
      const auto is_member = [&members](DiskId one) {
        return std::ranges::find(members, one) != members.end();
      };
      if (is_member(id) && !std::ranges::all_of(impl.members_to_be({}), is_member))
        co_return Code::kBusy;
      for (const RunRef& run : superblock.manifest.runs) {
        const bool named =
            std::ranges::any_of(run.copies, [&](const RunCopy& copy) { return copy.disk == id; });
        if (named) co_return Code::kBusy;
      }
      impl.drop_seat(*seat);
      impl.update();
    }
    impl.announce_epoch();
    stored = co_await impl.store(Impl::Copies::kBoth);
  }
  impl.tell_listeners();
  // Only now: a crash before leaves it in the pool. And with nothing held: nobody watches it any more.
  if (stored.has_value() && seat->disk != nullptr && !seat->disk->failed()) {
    const Result<void> wiped = co_await within_limit(
        impl.executor, seat->disk.get(),
        write_superblock(seat->disk.get(), Bytes(kSuperblockBytes)), kDiskPatience);
    if (wiped.has_value()) {
      // Whoever still reads there with an older look at the disks finds the data elsewhere.
      seat->disk->fail();
      co_await close_failed();
      const auto guard = co_await impl.closing.acquire();
      if (!seat->closed.load()) seat->disk->unlock();
    } else {
      log_warning("{} has left the pool, but its superblocks cannot be overwritten: {}",
                  seat->disk->path(), describe(wiped.error()));
    }
  }
  co_return stored;
}

Task<Result<void>> Pool::take_offline(DiskId id) {
  Impl& impl = *impl_;
  Seat* const seat = impl.seat(id);
  if (seat == nullptr) co_return error(Code::kNotInPool, id.raw);
  if (read_only()) co_return Code::kReadOnly;
  if (seat->disk == nullptr || !impl.note_failed(*seat, error(Code::kDiskOffline)))
    co_return error(Code::kDiskGone, id.raw);
  co_await settled();
  impl.tell_listeners();
  if (read_only()) co_return Code::kReadOnly;
  const TimePoint end = impl.executor.now() + kDiskPatience;
  while (!seat->closed.load()) {
    co_await close_failed();
    if (seat->closed.load()) break;
    if (impl.executor.now() >= end) co_return error(Code::kBusy, id.raw);
    co_await impl.executor.sleep(kPatienceStep);
  }
  co_return Result<void>{};
}

bool Pool::has_failed_open() const {
  return std::ranges::any_of(impl_->all_seats_ever(), [](const Seat* seat) {
    return seat->disk != nullptr && !seat->here() && seat->disk->failed() && !seat->closed.load();
  });
}

Task<void> Pool::close_failed() {
  const auto guard = co_await impl_->closing.acquire();
  // Their threads end here.
  co_await impl_->executor.leave_driver_thread();
  for (Seat* const seat : impl_->all_seats_ever()) {
    if (seat->disk == nullptr || seat->here() || !seat->disk->failed() || seat->closed.load())
      continue;
    if (seat->disk->close()) seat->closed.store(true);
  }
}

Task<Result<DiskId>> Pool::return_disk(std::unique_ptr<scheduler::Disk> disk) {
  Impl& impl = *impl_;
  FoundSuperblock found;
  // Nobody waits for a disk that is none of ours yet.
  Result<void> done = co_await within_limit(impl.executor, disk.get(),
                                            ask_returned(disk.get(), &found), kDiskPatience);
  if (done.has_value()) {
    const auto guard = co_await impl.writing.acquire();
    done = co_await impl.take_back(&disk, &found);
  }
  impl.tell_listeners();
  co_await impl.let_go_of(&disk);
  CO_TRY(done);
  co_return found.superblock.this_disk;
}

// One that was not taken, if there is one, goes here, or stays for as long as the kernel keeps it.
Task<void> Pool::Impl::let_go_of(std::unique_ptr<scheduler::Disk>* disk) {
  if (*disk == nullptr) co_return;
  if (!(*disk)->kept()) {
    // Its threads end here: not in one of them.
    co_await executor.leave_driver_thread();
    disk->reset();
    co_return;
  }
  (*disk)->fail();
  auto seat = std::make_unique<Seat>();
  seat->id = DiskId{kDiskIdsMax};
  seat->disk = std::move(*disk);
  LockGuard lock(mutex);
  removed.push_back(std::move(seat));
}

Result<void> Pool::Impl::may_return(const scheduler::Disk& disk, const FoundSuperblock& found) {
  const DiskId id = found.superblock.this_disk;
  const DiskRecord* const record = superblock.find(id);
  const DiskRecord* const own = found.superblock.find(id);
  if (found.superblock.pool != superblock.pool || record == nullptr || own == nullptr ||
      own->uuid != record->uuid) {
    return error(Code::kNotInPool, id.raw);
  }
  const Seat& before = *seat(id);
  if (before.here()) return error(Code::kBusy, id.raw);
  if (before.disk != nullptr && before.disk->kept()) return error(Code::kDiskHung, id.raw);
  if (!place_in_history(superblock, found.superblock.confirmed_epoch()))
    return error(Code::kSplitBrain, id.raw);
  if (disk.size_bytes() < record->first_slot_offset + std::uint64_t{record->slots} * kSlotBytes)
    return error(Code::kDiskRange, id.raw);
  return {};
}

// With `writing` held. Takes the disk if it may return.
Task<Result<void>> Pool::Impl::take_back(std::unique_ptr<scheduler::Disk>* disk,
                                         const FoundSuperblock* found) {
  // That it went is durable before it is here again.
  co_await record_failures();
  if (read_only.load(std::memory_order_acquire)) co_return Code::kReadOnly;
  const DiskId id = found->superblock.this_disk;
  {
    LockGuard lock(mutex);
    DFS_ASSERT(begun);
    CO_TRY(may_return(**disk, *found));
    DiskRecord& record = *superblock.find(id);
    auto seat = std::make_unique<Seat>();
    seat->id = id;
    seat->first_slot_offset = record.first_slot_offset;
    seat->slots = record.slots;
    seat->next_copy = found->copy ^ 1;
    seat->disk = std::move(*disk);
    // Also if nothing has been written meanwhile: what is being written now may have left it out.
    seat->health = DiskHealth::kStale;
    DFS_ASSERT(record.stale_since.raw != 0);
    record.path = stored_path(seat->disk->path());
    record.state = DiskState::kActive;
    if (std::exchange(record.lost, false)) record.leaving = false;
    log_info("disk {} ({}) is back", id, record.path);
    // Those who look at the one before still have it, as it was.
    const auto at = std::ranges::find(seats, id, [](const auto& one) { return one->id; });
    removed.push_back(std::move(*at));
    enter_seat(*seat);
    *at = std::move(seat);
    update();
  }
  announce_epoch();
  co_return co_await store(Copies::kBoth);
}

}  // namespace dynamicfs::journal
