// Data of files: read, write, truncate, fallocate, seek.
//
// Every change writes new blocks first, waits for nothing but the disks, then publishes: inside a
// ChangeScope, with the extent locks of the windows (and the inode's mutex when size or times
// change), it appends one record and swaps the mappings. A block that is only partly covered is
// read and merged beforehand; if its mapping changed until the publishing, the whole is done again.
//
// Invariant  Bytes of a block behind the end of the file are zeros on disk. So extending a file
//            reads nothing, and truncating to the middle of a block rewrites that block.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// mtime and ctime of writes advance in steps, like the coarse clock of kernel file systems at
// 250 Hz, so that most small overwrites need no attribute in their record.
constexpr std::int64_t kWriteTimeStepNs = 4'000'000;

bool has_data(const extent::MappingSet& seen) {
  return std::any_of(
      seen.mappings.begin(), seen.mappings.end(),
      [](const extent::Mapping& mapping) { return mapping.kind == extent::MappingKind::kData; });
}

Code refused_for_flags(Inode& inode) {
  inode.stamp_refused.store(true, std::memory_order_relaxed);
  return Code::kPermission;
}

bool is_block_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kBlockBytes == 0;
}

}  // namespace

Task<Result<ReadReply>> Filesystem::read(InodeId id, std::uint64_t offset_bytes,
                                         std::size_t size_bytes, bool sets_atime) {
  impl_->metrics.reads.add();
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  if (!inode->is_regular()) co_return inode->is_directory() ? Code::kIsDirectory : Code::kInvalid;
  const std::uint64_t file_bytes = inode->size_bytes.load(std::memory_order_acquire);
  ReadReply reply;
  if (offset_bytes >= file_bytes || size_bytes == 0) co_return reply;
  reply.size_bytes = std::min<std::uint64_t>(size_bytes, file_bytes - offset_bytes);
  reply.begin = offset_bytes % kBlockBytes;
  const FileBlock first{offset_bytes / kBlockBytes};
  const std::uint64_t blocks = ceil_div(reply.begin + reply.size_bytes, kBlockBytes);
  CO_TRY(co_await impl_->load_windows(*inode, first, blocks));
  const std::size_t buffer_bytes = align_up(reply.begin + reply.size_bytes, kBlockBytes);
  reply.memory = co_await impl_->read_memory.take(buffer_bytes);
  reply.buffer = Buffer{buffer_bytes};
  const bool hot =
      impl_->hot_windows.note(id, first, reply.buffer.size() / kBlockBytes, impl_->executor.now());
  if (hot) impl_->metrics.hot_reads.add();
  CO_TRY(
      co_await impl_->store->read(*inode->map, id, first, reply.buffer,
                                  hot ? scheduler::IoClass::kHotRead : scheduler::IoClass::kRead));
  impl_->metrics.read_bytes.add(reply.size_bytes);

  if (sets_atime) impl_->note_read(*inode);
  co_return reply;
}

Task<Result<void>> Filesystem::Impl::read_block(Inode& inode, FileBlock block, Buffer& into) {
  co_return co_await store->read(*inode.map, inode.id, block, into, scheduler::IoClass::kRead);
}

// The kernel hands over whole pages that appending has changed, with what stood there before: how much of it
// that is, and whether it is the same.
Task<Result<std::size_t>> Filesystem::Impl::already_there(InodeRef inode,
                                                          std::uint64_t offset_bytes,
                                                          std::span<const std::byte> data,
                                                          bool* same) {
  const std::uint64_t size = inode->size_bytes.load(std::memory_order_acquire);
  if (offset_bytes >= size) co_return std::size_t{0};
  const std::size_t there = std::min<std::uint64_t>(data.size(), size - offset_bytes);
  const FileBlock first{offset_bytes / kBlockBytes};
  const std::size_t begin = offset_bytes % kBlockBytes;
  Buffer old{align_up(begin + there, kBlockBytes)};
  CO_TRY(co_await load_windows(*inode, first, old.size() / kBlockBytes));
  CO_TRY(co_await store->read(*inode->map, inode->id, first, old, scheduler::IoClass::kRead));
  *same = std::memcmp(old.data() + begin, data.data(), there) == 0;
  co_return there;
}

Task<Result<void>> Filesystem::write(InodeId id, std::uint64_t offset_bytes,
                                     std::span<std::byte> data, std::size_t spare_bytes,
                                     WriteOptions options) {
  // The kernel asks for a megabyte at most; more is written window by window, each an operation of
  // its own.
  while (data.size() > kWindowBytes) {
    const std::size_t piece = kWindowBytes - offset_bytes % kWindowBytes;
    CO_TRY(co_await impl_->write(id, offset_bytes, data.first(piece), 0, options));
    offset_bytes += piece;
    data = data.subspan(piece);
  }
  co_return co_await impl_->write(id, offset_bytes, data, spare_bytes, options);
}

Task<Result<void>> Filesystem::Impl::write(InodeId id, std::uint64_t offset_bytes,
                                           std::span<std::byte> data, std::size_t spare_bytes,
                                           WriteOptions write_options) {
  CO_TRY(growable());
  CO_TRY_ASSIGN(const InodeRef inode, co_await find(id));
  if (!inode->is_regular()) co_return inode->is_directory() ? Code::kIsDirectory : Code::kInvalid;
  if (inode->has_flag(kFlagImmutable)) co_return refused_for_flags(*inode);
  if (inode->has_flag(kFlagAppendOnly)) {
    bool same = true;
    CO_TRY_ASSIGN(const std::size_t there,
                  co_await already_there(inode, offset_bytes, data, &same));
    offset_bytes += there;
    data = data.subspan(there);
    if (!same) {
      // What somebody else has appended to the same pages is not lost for that.
      if (!data.empty()) {
        CO_TRY(co_await write(id, offset_bytes, data, spare_bytes, write_options));
      }
      co_return refused_for_flags(*inode);
    }
  }
  if (data.empty()) co_return {};
  if (offset_bytes > kFileBytesMax || data.size() > kFileBytesMax - offset_bytes) {
    co_return Code::kFileTooBig;
  }
  const std::uint64_t end = offset_bytes + data.size();
  const FileBlock first{offset_bytes / kBlockBytes};
  const FileBlock last{(end - 1) / kBlockBytes};
  const std::uint64_t blocks = last.raw - first.raw + 1;
  const std::size_t head_bytes = offset_bytes % kBlockBytes;
  const std::size_t tail_bytes = end % kBlockBytes == 0 ? 0 : kBlockBytes - end % kBlockBytes;
  const bool in_place =
      head_bytes == 0 && is_block_aligned(data.data()) && spare_bytes >= tail_bytes;

  CO_TRY(co_await load_windows(*inode, first, blocks));

  // The blocks that go to disk: the caller's memory where it fits, else a copy.
  Buffer copy;
  std::span<std::byte> whole{data.data(), blocks * kBlockBytes};
  if (!in_place) {
    copy = Buffer{blocks * kBlockBytes};
    whole = copy.span();
    std::memcpy(whole.data() + head_bytes, data.data(), data.size());
    metrics.bytes_copied.add(data.size());
  }
  Buffer old_head;
  Buffer old_tail;
  extent::MappingSet seen_head;
  extent::MappingSet seen_tail;
  while (true) {
    seen_head.clear();
    seen_tail.clear();
    const bool one_block = first == last;
    if (head_bytes != 0) {
      inode->map->snapshot(first, 1, seen_head);
      if (has_data(seen_head)) {
        if (old_head.size() == 0) old_head = Buffer{kBlockBytes};
        CO_TRY(co_await read_block(*inode, first, old_head));
        std::memcpy(whole.data(), old_head.data(), head_bytes);
        metrics.merges.add();
      } else {
        std::memset(whole.data(), 0, head_bytes);
      }
    }
    if (tail_bytes != 0) {
      inode->map->snapshot(last, 1, seen_tail);
      std::byte* const tail = whole.data() + whole.size() - tail_bytes;
      // Behind the end of the file there are zeros, so only data in front of it must be kept.
      const bool keep =
          has_data(seen_tail) && end < inode->size_bytes.load(std::memory_order_acquire);
      if (!keep) {
        std::memset(tail, 0, tail_bytes);
      } else if (one_block && head_bytes != 0 && old_head.size() != 0 && has_data(seen_head)) {
        std::memcpy(tail, old_head.data() + kBlockBytes - tail_bytes, tail_bytes);
      } else {
        if (old_tail.size() == 0) old_tail = Buffer{kBlockBytes};
        CO_TRY(co_await read_block(*inode, last, old_tail));
        std::memcpy(tail, old_tail.data() + kBlockBytes - tail_bytes, tail_bytes);
        metrics.merges.add();
      }
      metrics.bytes_copied.add(tail_bytes);
    }

    extent::WriteHint hint;
    hint.inode = id;
    hint.first = first;
    hint.policy = policy_of(*inode);
    hint.replaced_blocks = replaced_blocks(*inode, first, blocks);
    if (hint.policy.whole_files) {
      CO_TRY_ASSIGN(hint.home, co_await home_of(*inode));
      hint.promised = is_promised(*inode, first, blocks);
    }
    CO_TRY_ASSIGN(const extent::Written written, co_await store->write(hint, whole));
    if (written.elsewhere) {
      CO_TRY(co_await note_spill(*inode, hint, written));
    }
    journal::Credit credit =
        co_await journal->reserve(1, kPutFixedBytes + blocks * kPutBytesPerBlock);

    extent::Freed freed;
    Lsn lsn;
    bool redo = false;
    bool published = false;
    // The flags count that the file has when the order of changes is decided.
    bool refused = false;
    bool to_compare = false;
    bool with_mutex = !write_options.kernel_keeps_times || write_options.kill_suid_sgid ||
                      end > inode->size_bytes.load(std::memory_order_acquire);
    const std::int64_t now = write_time_ns();
    while (!published && !redo) {
      const journal::ChangeScope scope(gate);
      modify(*inode);
      std::optional<LockGuard> attributes;
      if (with_mutex) attributes.emplace(inode->mutex);
      const auto extents = store->locks().lock(id, first, blocks);
      if (inode->removed.load(std::memory_order_acquire)) break;
      // Growing needs the mutex; the size may have shrunk since it was looked at.
      const bool grows = end > inode->size_bytes.load(std::memory_order_acquire);
      if (grows && !with_mutex) {
        with_mutex = true;
        continue;
      }
      refused = inode->has_flag(kFlagImmutable);
      to_compare = inode->has_flag(kFlagAppendOnly) &&
                   offset_bytes < inode->size_bytes.load(std::memory_order_acquire);
      if (refused || to_compare) break;
      redo = (head_bytes != 0 && !inode->map->unchanged(first, 1, seen_head)) ||
             (tail_bytes != 0 && !inode->map->unchanged(last, 1, seen_tail)) ||
             hint.policy != policy_of(*inode) || !is_at_home(*inode, hint.home, written) ||
             // A disk has gone: it may lie there alone, and is still in memory.
             written.losses != pool->losses();
      if (redo) break;
      RecordWriter record;
      if (with_mutex && note_written(*inode, end, now, write_options))
        record.inode_put(image_of(*inode));
      record.extent_put(id, first, written);
      lsn = append(credit, record, {inode.get()});
      inode->map->put(first, written.pieces, written.crcs, Generation{lsn.raw}, freed);
      store->publish(written);
      free_data(freed, lsn);
      published = true;
    }
    if (!published) {
      store->discard(written);
      if (refused) co_return refused_for_flags(*inode);
      if (to_compare) break;
      if (!redo) co_return error(Code::kStale, id.raw);
      metrics.merge_redos.add();
      continue;
    }
    metrics.writes.add();
    metrics.written_bytes.add(data.size());
    const bool in_copies = hint.policy.kind == journal::Policy::Kind::kErasure && !written.striped;
    if (freed.scattered || in_copies) compaction->note(id, first, blocks);
    co_return {};
  }
  co_return co_await write(id, offset_bytes, data, spare_bytes, write_options);
}

std::int64_t Filesystem::Impl::write_time_ns() const {
  return static_cast<std::int64_t>(
      align_down(static_cast<std::uint64_t>(now_ns()), kWriteTimeStepNs));
}

bool Filesystem::Impl::note_written(Inode& inode, std::uint64_t end_bytes, std::int64_t now,
                                    WriteOptions write_options) {
  const bool grows = end_bytes > inode.size_bytes.load(std::memory_order_relaxed);
  bool changed = grows;
  if (grows) inode.size_bytes.store(end_bytes, std::memory_order_release);
  if (!write_options.kernel_keeps_times && (now > inode.mtime_ns.load(std::memory_order_relaxed) ||
                                            now > inode.ctime_ns.load(std::memory_order_relaxed))) {
    inode.mtime_ns.store(now, std::memory_order_relaxed);
    inode.ctime_ns.store(now, std::memory_order_relaxed);
    changed = true;
  }
  if (write_options.kill_suid_sgid && (inode.mode & (S_ISUID | S_ISGID)) != 0) {
    kill_suid_sgid(inode);
    changed = true;
  }
  return changed;
}

std::uint64_t Filesystem::Impl::replaced_blocks(const Inode& inode, FileBlock first,
                                                std::uint64_t blocks) const {
  const std::uint64_t mapped = blocks - inode.map->holes(first, blocks);
  if (mapped == 0 || store->shared_blocks() == 0) return mapped;
  extent::MappingSet set;
  inode.map->snapshot(first, blocks, set);
  std::uint64_t replaced = store->single_blocks(set);
  for (const extent::Mapping& mapping : set.mappings) {
    if (mapping.kind == extent::MappingKind::kReserved) replaced += mapping.count;
  }
  return replaced;
}

// Writes the new contents of the blocks at the ends of an edit; what has been written when one
// fails is given back.
Task<Result<void>> Filesystem::Impl::prepare_edges(Inode& inode, Edit* plan) {
  Result<void> outcome;
  const bool truncates = plan->clear_count == ~std::uint64_t{0};
  plan->policy = policy_of(inode);
  for (Edit::Edge& edge : plan->edges) {
    inode.map->snapshot(edge.block, 1, edge.seen);
    if (!has_data(edge.seen)) continue;
    Buffer block{kBlockBytes};
    outcome = co_await read_block(inode, edge.block, block);
    if (!outcome.has_value()) break;
    std::memset(block.data() + edge.zero_from, 0, edge.zero_to - edge.zero_from);
    extent::WriteHint hint;
    hint.inode = inode.id;
    hint.first = edge.block;
    hint.policy = plan->policy;
    // A truncate may use what is kept for overwriting: it gives back more than that.
    hint.replaced_blocks = truncates ? 1 : replaced_blocks(inode, edge.block, 1);
    if (hint.policy.whole_files) {
      const Result<DiskId> home = co_await home_of(inode);
      if (!home.has_value()) {
        outcome = home.error();
        break;
      }
      hint.home = *home;
    }
    auto written = co_await store->write(hint, block.span());
    if (!written.has_value()) {
      outcome = written.error();
      break;
    }
    if (written->elsewhere) {
      outcome = co_await note_spill(inode, hint, *written);
      if (!outcome.has_value()) break;
    }
    edge.written = std::move(written).value();
    edge.home = hint.home;
    edge.mapped = true;
  }
  if (!outcome.has_value()) discard_edges(*plan);
  co_return outcome;
}

void Filesystem::Impl::discard_edges(const Edit& plan) {
  for (const Edit::Edge& edge : plan.edges) {
    if (edge.mapped) store->discard(edge.written);
  }
}

Task<Result<void>> Filesystem::Impl::walk_data(InodeId id, scheduler::IoClass io_class,
                                               std::function<bool(const extent::Mapping&)> look) {
  extent::MappingSet set;
  for (std::uint64_t window = 0; window != ~std::uint64_t{0};) {
    // Not held for longer: what somebody holds stays in memory with all windows that were loaded.
    CO_TRY_ASSIGN(const InodeRef inode, co_await find(id));
    if (!inode->is_regular()) break;
    const std::uint64_t from = window;
    CO_TRY_ASSIGN(window, co_await load_some_windows(*inode, window, io_class));
    const std::uint64_t end =
        std::min(window, ceil_div(inode->size_bytes.load(std::memory_order_acquire), kWindowBytes));
    for (std::uint64_t at = from; at < end; ++at) {
      const std::optional<FileBlock> data = inode->map->next_data(FileBlock{at * kWindowBlocks});
      if (!data || data->raw / kWindowBlocks >= end) break;
      at = data->raw / kWindowBlocks;
      set.clear();
      inode->map->snapshot(FileBlock{at * kWindowBlocks}, kWindowBlocks, set);
      for (const extent::Mapping& mapping : set.mappings) {
        if (mapping.kind == extent::MappingKind::kData && !look(mapping)) co_return Result<void>{};
      }
    }
  }
  co_return Result<void>{};
}

// Prepares the edges, then publishes the edit and `change` as one record. `*again` is set when the
// file changed meanwhile and the caller must plan anew.
Task<Result<void>> Filesystem::Impl::edit(InodeRef inode, Edit plan, AttributeChange change,
                                          bool* again) {
  *again = false;
  for (const Edit::Edge& edge : plan.edges) {
    CO_TRY(co_await load_windows(*inode, edge.block, 1));
  }
  if (plan.clear_count != 0) {
    CO_TRY(co_await load_windows(*inode, plan.clear_first, plan.clear_count));
  }
  if (plan.reserve_count != 0) {
    CO_TRY(co_await load_windows(*inode, plan.reserve_first, plan.reserve_count));
  }
  CO_TRY(co_await prepare_edges(*inode, &plan));
  journal::Credit credit =
      co_await journal->reserve(1, 3 * kPutFixedBytes + plan.edges.size() * kPutBytesPerBlock);

  extent::Freed freed;
  Lsn lsn;
  std::uint64_t reserved = 0;
  std::optional<Error> refusal;
  {
    const journal::ChangeScope scope(gate);
    LockGuard attributes(inode->mutex);
    modify_locked(*inode);
    // One guard over everything the edit touches: the order of records and of memory must agree
    // for every window.
    const bool to_end = plan.clear_count == ~std::uint64_t{0};
    std::uint64_t low = ~std::uint64_t{0};
    std::uint64_t high = 0;
    const auto cover = [&](std::uint64_t first, std::uint64_t count) {
      if (count == 0) return;
      low = std::min(low, first);
      high = std::max(high, first + count);
    };
    for (const Edit::Edge& edge : plan.edges) cover(edge.block.raw, 1);
    if (to_end) {
      // What is behind the end of the file only changes with the mutex, so locks up to there will do.
      const std::uint64_t end =
          ceil_div(inode->size_bytes.load(std::memory_order_relaxed), kBlockBytes);
      const std::uint64_t first = plan.clear_first.raw;
      cover(first, end > first ? end - first : 1);
    } else {
      cover(plan.clear_first.raw, plan.clear_count);
    }
    cover(plan.reserve_first.raw, plan.reserve_count);
    std::optional<extent::ExtentLocks::Guard> extents;
    if (high != 0) extents.emplace(store->locks().lock(inode->id, FileBlock{low}, high - low));
    if (inode->has_flag(plan.refused_by)) refusal = error(Code::kPermission);
    if (inode->removed.load(std::memory_order_acquire))
      refusal = error(Code::kStale, inode->id.raw);
    *again = refusal || plan.size_seen != inode->size_bytes.load(std::memory_order_relaxed);
    for (const Edit::Edge& edge : plan.edges) {
      *again |= !inode->map->unchanged(edge.block, 1, edge.seen);
      *again |= edge.mapped &&
                (plan.policy != policy_of(*inode) || !is_at_home(*inode, edge.home, edge.written) ||
                 edge.written.losses != pool->losses());
    }
    if (plan.reserve_count != 0 && plan.clear_count == 0) {
      *again |= inode->map->holes(plan.reserve_first, plan.reserve_count) > plan.promised_blocks;
    }
    if (!*again) {
      const std::int64_t now = now_ns();
      if (plan.new_size) inode->size_bytes.store(*plan.new_size, std::memory_order_release);
      if (plan.touch_mtime) {
        inode->mtime_ns.store(change.mtime_ns.value_or(now), std::memory_order_relaxed);
      }
      if (change.atime_ns) inode->atime_ns.store(*change.atime_ns, std::memory_order_relaxed);
      inode->ctime_ns.store(change.ctime_ns.value_or(now), std::memory_order_relaxed);
      if (change.kill_suid_sgid) kill_suid_sgid(*inode);
      RecordWriter record;
      record.inode_put(image_of(*inode));
      if (plan.clear_count != 0) {
        extent::encode(record.raw(), extent::ExtentClear{.inode = inode->id,
                                                         .first = plan.clear_first,
                                                         .count = plan.clear_count});
      }
      for (const Edit::Edge& edge : plan.edges) {
        if (edge.mapped) {
          record.extent_put(inode->id, edge.block, edge.written);
        }
      }
      if (plan.reserve_count != 0) {
        extent::encode(record.raw(), extent::ExtentReserve{.inode = inode->id,
                                                           .first = plan.reserve_first,
                                                           .count = plan.reserve_count});
      }
      lsn = append(credit, record, {inode.get()});
      const Generation generation{lsn.raw};
      if (plan.clear_count != 0) inode->map->clear(plan.clear_first, plan.clear_count, freed);
      for (const Edit::Edge& edge : plan.edges) {
        if (edge.mapped) {
          inode->map->put(edge.block, edge.written.pieces, edge.written.crcs, generation, freed);
          store->publish(edge.written);
        }
      }
      if (plan.reserve_count != 0) {
        reserved = inode->map->reserve(plan.reserve_first, plan.reserve_count, generation);
        reserved_blocks.fetch_add(reserved, std::memory_order_relaxed);
      }
      free_data(freed, lsn);
    }
  }
  if (*again) {
    discard_edges(plan);
    // What fails is given back by whoever promised it.
    if (refusal) co_return *refusal;
    if (plan.promised_blocks != 0) store->unpromise(plan.promised_blocks);
    co_return {};
  }
  if (plan.promised_blocks > reserved) store->unpromise(plan.promised_blocks - reserved);
  co_return {};
}

Task<Result<void>> Filesystem::Impl::truncate(InodeRef inode, std::uint64_t size_bytes,
                                              AttributeChange change) {
  if (size_bytes > kFileBytesMax) co_return Code::kFileTooBig;
  while (true) {
    Edit plan;
    plan.size_seen = inode->size_bytes.load(std::memory_order_acquire);
    plan.new_size = size_bytes;
    plan.refused_by = kFlagImmutable | kFlagAppendOnly;
    // Also at the size it has: what is reserved behind the end goes.
    if (size_bytes <= plan.size_seen) {
      plan.clear_first = FileBlock{ceil_div(size_bytes, kBlockBytes)};
      plan.clear_count = ~std::uint64_t{0};
      if (size_bytes < plan.size_seen && size_bytes % kBlockBytes != 0) {
        Edit::Edge edge;
        edge.block = FileBlock{size_bytes / kBlockBytes};
        edge.zero_from = size_bytes % kBlockBytes;
        edge.zero_to = kBlockBytes;
        plan.edges.push_back(std::move(edge));
      }
    }
    bool again = false;
    CO_TRY(co_await edit(inode, std::move(plan), change, &again));
    if (!again) co_return {};
  }
}

Task<Result<void>> Filesystem::fallocate(InodeId id, FallocateMode mode, std::uint64_t offset_bytes,
                                         std::uint64_t size_bytes, bool kernel_keeps_times) {
  co_return co_await impl_->fallocate(id, mode, offset_bytes, size_bytes, kernel_keeps_times);
}

Task<Result<void>> Filesystem::Impl::fallocate(InodeId id, FallocateMode mode,
                                               std::uint64_t offset_bytes, std::uint64_t size_bytes,
                                               bool kernel_keeps_times) {
  CO_TRY(writable());
  CO_TRY_ASSIGN(const InodeRef inode, co_await find(id));
  if (!inode->is_regular()) co_return inode->is_directory() ? Code::kIsDirectory : Code::kNoDevice;
  const bool adds = mode == FallocateMode::kAllocate || mode == FallocateMode::kKeepSize;
  const std::uint32_t refused_by = kFlagImmutable | (adds ? 0 : kFlagAppendOnly);
  if (inode->has_flag(refused_by)) co_return Code::kPermission;
  if (size_bytes == 0) co_return Code::kInvalid;
  if (offset_bytes > kFileBytesMax || size_bytes > kFileBytesMax - offset_bytes) {
    co_return Code::kFileTooBig;
  }
  const std::uint64_t end = offset_bytes + size_bytes;
  const bool zeroes = mode == FallocateMode::kPunchHole || mode == FallocateMode::kZeroRange ||
                      mode == FallocateMode::kZeroRangeKeepSize;
  const bool reserves = mode != FallocateMode::kPunchHole;
  const bool grows = mode == FallocateMode::kAllocate || mode == FallocateMode::kZeroRange;
  const FileBlock outer_first{offset_bytes / kBlockBytes};
  const std::uint64_t outer_count = ceil_div(end, kBlockBytes) - outer_first.raw;
  CO_TRY(co_await load_windows(*inode, outer_first, outer_count));
  while (true) {
    Edit plan;
    plan.size_seen = inode->size_bytes.load(std::memory_order_acquire);
    if (grows && end > plan.size_seen) plan.new_size = end;
    plan.refused_by = refused_by;
    // A kernel that keeps the times stamps it and tells us, perhaps before it asks for this.
    plan.touch_mtime = !kernel_keeps_times;
    if (zeroes) {
      const std::uint64_t inner_first = ceil_div(offset_bytes, kBlockBytes);
      const std::uint64_t inner_end = end / kBlockBytes;
      const auto add_edge = [&](std::uint64_t block, std::size_t from, std::size_t to) {
        Edit::Edge edge;
        edge.block = FileBlock{block};
        edge.zero_from = from;
        edge.zero_to = to;
        plan.edges.push_back(std::move(edge));
      };
      if (inner_first > inner_end) {  // within one block
        add_edge(outer_first.raw, offset_bytes % kBlockBytes, end % kBlockBytes);
      } else {
        if (offset_bytes % kBlockBytes != 0) {
          add_edge(outer_first.raw, offset_bytes % kBlockBytes, kBlockBytes);
        }
        if (end % kBlockBytes != 0) add_edge(inner_end, 0, end % kBlockBytes);
        plan.clear_first = FileBlock{inner_first};
        plan.clear_count = inner_end - inner_first;
      }
    }
    if (reserves) {
      plan.reserve_first = outer_first;
      plan.reserve_count = outer_count;
      // Cleared blocks become reserved ones, so everything in the range may need a promise.
      plan.promised_blocks = zeroes ? outer_count : inode->map->holes(outer_first, outer_count);
      CO_TRY(co_await store->promise(plan.promised_blocks, policy_of(*inode)));
    }
    bool again = false;
    const std::uint64_t promised = plan.promised_blocks;
    const Result<void> edited = co_await edit(inode, std::move(plan), {}, &again);
    if (!edited.has_value()) {
      if (promised != 0) store->unpromise(promised);
      co_return edited.error();
    }
    if (!again) co_return {};
  }
}

Task<Result<std::uint64_t>> Filesystem::seek(InodeId id, std::uint64_t offset_bytes,
                                             SeekKind kind) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  if (!inode->is_regular()) co_return Code::kInvalid;
  const std::uint64_t file_bytes = inode->size_bytes.load(std::memory_order_acquire);
  if (offset_bytes >= file_bytes) co_return Code::kNoDevice;  // ENXIO
  const FileBlock from{offset_bytes / kBlockBytes};
  // What the map says counts up to the window that everything is in memory in front of.
  FileBlock at = from;
  while (true) {
    const std::uint64_t window = at.raw / kWindowBlocks;
    CO_TRY_ASSIGN(const std::uint64_t here_to, co_await impl_->load_some_windows(*inode, window));
    const std::optional<FileBlock> next =
        kind == SeekKind::kData ? inode->map->next_data(at) : inode->map->next_hole(at);
    if (next && next->raw / kWindowBlocks < here_to) {
      const std::uint64_t found = next->raw * kBlockBytes;
      if (kind == SeekKind::kData && found >= file_bytes) co_return Code::kNoDevice;
      co_return std::max(std::min(found, file_bytes), offset_bytes);
    }
    if (here_to == ~std::uint64_t{0}) co_return Code::kNoDevice;
    at = FileBlock{here_to * kWindowBlocks};
  }
}

}  // namespace dynamicfs::fs
