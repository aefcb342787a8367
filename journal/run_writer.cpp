#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "base/waiters.hpp"
#include "journal/run_filter.hpp"
#include "journal/run_format.hpp"
#include "journal/run_index.hpp"

namespace dynamicfs::journal {

using scheduler::IoClass;
using scheduler::IoGroup;

// Shared with the write in flight: if the writer is given up meanwhile, the slots are given back
// only when no write can reach them any more.
struct RunWriter::Impl : std::enable_shared_from_this<RunWriter::Impl> {
  Impl(Pool& pool_in, SlotSource& slots_in, std::uint64_t run_id_in, RunFilterHash filter_in,
       IoClass io_class_in)
      : pool(pool_in),
        slots(slots_in),
        run_id(run_id_in),
        filter(std::move(filter_in)),
        io_class(io_class_in),
        pool_uuid(pool_in.uuid()) {}

  ~Impl() {
    if (kept) return;
    for (const RunCopy& copy : copies) slots.drop_run_slots(copy.disk, copy.slots);
    for (const RunCopy& copy : lost) slots.drop_run_slots(copy.disk, copy.slots);
  }

  Pool& pool;
  SlotSource& slots;
  const std::uint64_t run_id;
  const RunFilterHash filter;
  const IoClass io_class;
  const Uuid pool_uuid;

  std::vector<RunCopy> copies;
  std::map<DiskId, scheduler::Disk*> begun_on;  // as it was then
  std::vector<RunCopy> lost;                    // on disks that failed meanwhile
  bool kept = false;

  // Two pieces: one is filled while the other is written.
  std::array<Buffer, 2> pieces{Buffer{kRunPieceBytes}, Buffer{kRunPieceBytes}};
  std::size_t filling = 0;         // index of the piece being filled
  std::uint64_t piece_blocks = 0;  // whole blocks in it
  std::uint64_t blocks = 0;        // of the run, without the one being filled
  RunBlockHeader block;            // the one being filled
  Bytes last_key;
  RunEntryKind last_kind = RunEntryKind::kValue;
  bool any = false;
  RunIndex index;                     // of the blocks of entries begun
  std::vector<std::uint64_t> hashes;  // for the filter, whose size is known at the end

  std::optional<AsyncEvent> written;  // set when the write in flight has ended
  Result<void> write_result;

  std::span<std::byte> current_block() {
    return pieces[filling].span().subspan(piece_blocks * kRunBlockBytes, kRunBlockBytes);
  }

  // Takes the next slot on every disk, if the run has grown into one.
  Result<void> take_slots(std::uint64_t at) {
    if (at % kSlotBytes != 0) return {};
    for (RunCopy& copy : copies) {
      if (copy.slots.size() > at / kSlotBytes) continue;
      const std::optional<SlotId> slot = slots.take_run_slot(copy.disk);
      if (!slot) return error(Code::kNoSpace, copy.disk.raw);
      copy.slots.push_back(*slot);
    }
    return {};
  }

  // The disk of a copy, if it has been here since the run was begun: one that was away meanwhile may lack its beginning.
  scheduler::Disk* disk_of(const RunCopy& copy) const {
    scheduler::Disk* const disk = pool.disk(copy.disk);
    return disk == begun_on.at(copy.disk) ? disk : nullptr;
  }

  Task<Result<void>> drop_copy(DiskId disk, Error cause) {
    const auto it = std::ranges::find(copies, disk, &RunCopy::disk);
    if (it != copies.end()) {
      lost.push_back(std::move(*it));
      copies.erase(it);
    }
    CO_TRY(co_await pool.report_failure(disk, cause, begun_on.at(disk)));
    if (copies.empty()) co_return error(Code::kDiskGone, disk.raw);
    co_return Result<void>{};
  }

  Task<Result<void>> write_piece(std::span<const std::byte> bytes, std::uint64_t at) {
    CO_TRY(take_slots(at));
    IoGroup group;
    std::vector<std::pair<DiskId, Error>> failed;
    std::vector<DiskId> ids;
    for (const RunCopy& copy : copies) {
      scheduler::Disk* const disk = disk_of(copy);
      if (disk == nullptr) {
        failed.emplace_back(copy.disk, error(Code::kDiskGone));
        continue;
      }
      group.write(*disk, io_class, run_offset(pool, copy, at), bytes);
      ids.push_back(copy.disk);
    }
    co_await group.run();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (group.error(i).code != Code::kOk) failed.emplace_back(ids[i], group.error(i));
    }
    for (const auto& [disk, cause] : failed) {
      // A full host file system is no reason to give up a disk.
      if (cause.code == Code::kDiskWrite && cause.sys_errno == ENOSPC) {
        co_return system_error(Code::kNoSpace, ENOSPC, disk.raw);
      }
      CO_TRY(co_await drop_copy(disk, cause));
    }
    co_return Result<void>{};
  }

  static Task<void> write_in_background(std::shared_ptr<Impl> impl,
                                        std::span<const std::byte> bytes, std::uint64_t at) {
    impl->write_result = co_await impl->write_piece(bytes, at);
    impl->written->set();
  }

  Task<Result<void>> wait_for_write() {
    if (!written) co_return Result<void>{};
    co_await written->wait();
    written.reset();
    co_return write_result;
  }

  // Hands the filled piece to the disks, once those before it have it.
  Task<Result<void>> start_write() {
    CO_TRY(co_await wait_for_write());
    const std::uint64_t size_bytes = piece_blocks * kRunBlockBytes;
    const std::uint64_t at = blocks * kRunBlockBytes - size_bytes;
    const std::span<const std::byte> bytes = pieces[filling].span().first(size_bytes);
    filling ^= 1;
    piece_blocks = 0;
    written.emplace(pool.executor());
    spawn(write_in_background(shared_from_this(), bytes, at));
    co_return Result<void>{};
  }

  void seal(bool last) {
    block.pool = pool_uuid;
    block.run_id = run_id;
    block.index = blocks;
    block.last = last;
    seal_run_block(current_block(), block);
    const RunBlockKind kind = block.kind;
    block = {};
    block.kind = kind;
    ++blocks;
    ++piece_blocks;
  }

  // Seals the block being filled; from now on one of this kind is.
  Task<Result<void>> next_block(RunBlockKind kind) {
    seal(false);
    block.kind = kind;
    if (piece_blocks * kRunBlockBytes == kRunPieceBytes) {
      CO_TRY(co_await start_write());
    }
    co_return Result<void>{};
  }

  std::size_t room_bytes() const { return kRunPayloadBytesMax - block.payload_bytes; }

  void put(RunEntryKind kind, std::span<const std::byte> key, std::span<const std::byte> value) {
    const std::size_t size_bytes = run_entry_bytes(key.size(), value.size());
    put_run_entry(current_block().subspan(kRunBlockHeaderBytes + block.payload_bytes, size_bytes),
                  kind, key, value);
    block.payload_bytes += static_cast<std::uint32_t>(size_bytes);
    ++block.entries;
  }

  void note_separator(std::span<const std::byte> key) {
    if (!any) {
      index.add({});
      return;
    }
    const auto differ = std::ranges::mismatch(last_key, key).in2 - key.begin();
    index.add(key.first(static_cast<std::size_t>(differ) + 1));
  }

  void note_hash(std::span<const std::byte> key) {
    if (!filter) return;
    const std::optional<std::uint64_t> hash = filter(key);
    if (hash && (hashes.empty() || hashes.back() != *hash)) hashes.push_back(*hash);
  }

  Task<Result<void>> write_index() {
    CO_TRY(co_await next_block(RunBlockKind::kIndex));
    for (std::size_t i = 0; i < index.size(); ++i) {
      const std::span<const std::byte> key = index.key(i);
      if (run_entry_bytes(key.size(), 0) > room_bytes()) {
        CO_TRY(co_await next_block(RunBlockKind::kIndex));
      }
      put(RunEntryKind::kValue, key, {});
    }
    co_return Result<void>{};
  }

  Task<Result<void>> write_filter() {
    const RunFilter built{hashes};
    hashes = {};
    static_assert(kRunPayloadBytesMax % RunFilter::kLineBytes == 0);
    for (std::span<const std::byte> rest = built.bytes(); !rest.empty();) {
      CO_TRY(co_await next_block(RunBlockKind::kFilter));
      const std::size_t size_bytes = std::min(rest.size(), kRunPayloadBytesMax);
      std::memcpy(current_block().data() + kRunBlockHeaderBytes, rest.data(), size_bytes);
      block.payload_bytes = static_cast<std::uint32_t>(size_bytes);
      rest = rest.subspan(size_bytes);
    }
    co_return Result<void>{};
  }

  Task<Result<void>> flush_copies() {
    IoGroup group;
    std::vector<std::pair<DiskId, Error>> failed;
    std::vector<DiskId> ids;
    for (const RunCopy& copy : copies) {
      scheduler::Disk* const disk = disk_of(copy);
      if (disk == nullptr) {
        failed.emplace_back(copy.disk, error(Code::kDiskGone));
        continue;
      }
      group.flush(*disk, io_class);
      ids.push_back(copy.disk);
    }
    co_await group.run();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (group.error(i).code != Code::kOk) failed.emplace_back(ids[i], group.error(i));
    }
    for (const auto& [disk, cause] : failed) {
      CO_TRY(co_await drop_copy(disk, cause));
    }
    co_return Result<void>{};
  }
};

RunWriter::RunWriter(Pool& pool, SlotSource& slots, std::uint64_t run_id, std::vector<DiskId> disks,
                     RunFilterHash filter, IoClass io_class)
    : impl_(std::make_shared<Impl>(pool, slots, run_id, std::move(filter), io_class)) {
  DFS_ASSERT(run_id != 0 && !disks.empty());
  for (const DiskId disk : disks) {
    impl_->copies.push_back(RunCopy{disk, {}});
    impl_->begun_on[disk] = pool.disk(disk);
  }
}

RunWriter::~RunWriter() = default;

Task<Result<void>> RunWriter::add(std::span<const std::byte> key,
                                  std::span<const std::byte> value) {
  return add(RunEntryKind::kValue, key, value);
}
Task<Result<void>> RunWriter::add_deletion(std::span<const std::byte> key) {
  return add(RunEntryKind::kDeletion, key, {});
}
Task<Result<void>> RunWriter::add_prefix_deletion(std::span<const std::byte> prefix) {
  return add(RunEntryKind::kPrefixDeletion, prefix, {});
}

Task<Result<void>> RunWriter::add(RunEntryKind kind, std::span<const std::byte> key,
                                  std::span<const std::byte> value) {
  Impl& impl = *impl_;
  DFS_ASSERT(key.size() + value.size() <= kRunEntryBytesMax);
  DFS_ASSERT(kind != RunEntryKind::kPrefixDeletion || key.size() <= kRunPrefixBytesMax);
  // The key of the prefix deletion that was added last.
  const bool same = impl.any && key_order(impl.last_key, key) == 0;
  if (same) {
    DFS_ASSERT(impl.last_kind == RunEntryKind::kPrefixDeletion);
    DFS_ASSERT(kind != RunEntryKind::kPrefixDeletion);
  } else {
    DFS_ASSERT(!impl.any || key_less(impl.last_key, key));
  }
  if (run_entry_bytes(key.size(), value.size()) > impl.room_bytes()) {
    if (same) {
      // A key is looked for in one block only, so both go to the next.
      impl.block.payload_bytes -= static_cast<std::uint32_t>(run_entry_bytes(key.size(), 0));
      --impl.block.entries;
    }
    CO_TRY(co_await impl.next_block(RunBlockKind::kEntries));
    if (same) {
      impl.index.add(key);
      impl.put(RunEntryKind::kPrefixDeletion, key, {});
    }
  }
  if (impl.block.entries == 0) impl.note_separator(key);
  impl.put(kind, key, value);
  impl.note_hash(key);
  impl.last_key.assign(key.begin(), key.end());
  impl.last_kind = kind;
  impl.any = true;
  co_return Result<void>{};
}

Task<Result<RunRef>> RunWriter::finish() {
  Impl& impl = *impl_;
  if (!impl.any) impl.index.add({});
  RunRef run;
  run.id = impl.run_id;
  run.entry_blocks = impl.index.size();
  CO_TRY(co_await impl.write_index());
  run.index_blocks = impl.blocks + 1 - run.entry_blocks;
  CO_TRY(co_await impl.write_filter());
  impl.seal(true);
  CO_TRY(co_await impl.start_write());
  CO_TRY(co_await impl.wait_for_write());
  CO_TRY(co_await impl.flush_copies());
  run.bytes = impl.blocks * kRunBlockBytes;
  run.copies = impl.copies;
  impl.kept = true;
  for (const RunCopy& copy : impl.lost) impl.slots.drop_run_slots(copy.disk, copy.slots);
  impl.lost.clear();
  co_return run;
}

Task<void> RunWriter::abandon() {
  const Result<void> written = co_await impl_->wait_for_write();
  written.ignore("nobody needs the run any more");
}

}  // namespace dynamicfs::journal
