// Clones: copy_file_range() that maps the source's blocks once more instead of copying what is in them.
//
// A step shares what lies in up to 16 windows of the target: under the extent locks of both ranges it
// copies the source's mappings, counts one more reference for each of their blocks, appends one record
// and replaces the target's windows. While those locks are held the source's mappings cannot go, so no
// block dies in between; and its data has been written before the record that mapped it first, which is
// in the log in front of this one. Nothing is read, written or allocated.
//
// Shared are whole blocks, so both offsets must have the same remainder. What is left at the two ends is
// copied by reading and writing, but the last block of the source goes along if the target ends there, too:
// behind the end of a file there are zeros.
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// At a time. A record has a checksum for each block, and is short enough for any journal however
// scattered they lie; a hundredth of a second of extent locks would be too long.
constexpr std::uint64_t kStepBlocks = 16 * kWindowBlocks;
// Every second block a hole: a header and a piece for each of the others.
constexpr std::uint64_t kShareBytesPerBlock = (5 + 19 + 8 + 4) / 2 + 1;
static_assert(kPutFixedBytes + kStepBlocks * kShareBytesPerBlock <= journal::kRecordBytesMax);
// The reader of requests that got this one is busy with it for some milliseconds for each GiB.
constexpr std::uint64_t kCloneBytesMax = kGiB;

// What of these mappings is data, moved so that `from` becomes `to`: neighbours in one.
std::vector<extent::ExtentPut> shares_of(const extent::MappingSet& set, FileBlock from,
                                         InodeId inode, FileBlock to) {
  std::vector<extent::ExtentPut> shares;
  std::uint64_t next = ~std::uint64_t{0};
  for (const extent::Mapping& mapping : set.mappings) {
    if (mapping.kind != extent::MappingKind::kData) continue;
    if (mapping.first.raw != next) {
      shares.emplace_back();
      shares.back().inode = inode;
      shares.back().first = FileBlock{mapping.first.raw - from.raw + to.raw};
    }
    extent::ExtentPut& share = shares.back();
    next = mapping.first.raw + mapping.count;
    const auto crcs = set.crcs.begin() + mapping.crc_index;
    share.crcs.insert(share.crcs.end(), crcs, crcs + mapping.count);
    if (!share.pieces.empty()) {
      extent::Piece& before = share.pieces.back();
      if (before.chunk == mapping.chunk && before.block + before.count == mapping.block) {
        before.count = static_cast<std::uint16_t>(before.count + mapping.count);
        continue;
      }
    }
    share.pieces.push_back(
        {.chunk = mapping.chunk, .block = mapping.block, .count = mapping.count});
  }
  return shares;
}

}  // namespace

struct Filesystem::Impl::CloneStep {
  InodeRef source;
  InodeRef target;
  FileBlock source_first;
  FileBlock target_first;
  std::uint64_t blocks = 0;
  // Where the copy ends in the two files if the last of the blocks is only partly asked for; else 0.
  std::uint64_t source_end_bytes = 0;
  std::uint64_t target_end_bytes = 0;
  WriteOptions options;
};

// Returns how many of the blocks are shared now: all, or all but the last if that is only partly asked
// for and would bring along what is not. kNotSupported: one cannot be shared any more, or is not as the target's
// policy asks.
Task<Result<std::uint64_t>> Filesystem::Impl::clone_step(CloneStep step) {
  Inode& source = *step.source;
  Inode& target = *step.target;
  CO_TRY(growable());
  CO_TRY(co_await load_windows(source, step.source_first, step.blocks));
  CO_TRY(co_await load_windows(target, step.target_first, step.blocks));
  journal::Credit credit =
      co_await journal->reserve(1, kPutFixedBytes + step.blocks * kShareBytesPerBlock);
  const std::int64_t now = write_time_ns();

  const journal::ChangeScope scope(gate);
  // Twice, so that a scrub that begins meanwhile sees one of them behind it.
  clone_steps.add();
  LockGuard attributes(target.mutex);
  modify_locked(target);
  const auto extents = store->locks().lock({source.id, step.source_first, step.blocks},
                                           {target.id, step.target_first, step.blocks});
  if (source.removed.load(std::memory_order_acquire)) co_return error(Code::kStale, source.id.raw);
  if (target.removed.load(std::memory_order_acquire)) co_return error(Code::kStale, target.id.raw);
  if (target.has_flag(kFlagImmutable | kFlagAppendOnly)) co_return Code::kPermission;
  std::uint64_t blocks = step.blocks;
  std::uint64_t end_bytes = (step.target_first.raw + blocks) * kBlockBytes;
  if (step.target_end_bytes != 0) {
    // Whoever writes behind the end of the source in its last block has that window's lock.
    if (source.size_bytes.load(std::memory_order_acquire) <= step.source_end_bytes &&
        target.size_bytes.load(std::memory_order_relaxed) <= step.target_end_bytes) {
      end_bytes = step.target_end_bytes;
    } else if (--blocks == 0) {
      co_return blocks;
    } else {
      end_bytes -= kBlockBytes;
    }
  }

  extent::MappingSet set;
  source.map->snapshot(step.source_first, blocks, set);
  const std::vector<extent::ExtentPut> shares =
      shares_of(set, step.source_first, target.id, step.target_first);
  // What is shared is protected in one way only. Before all is encoded anew, as the policies ask, some is not.
  const journal::Policy policy = policy_of(target);
  if (policy_of(source) != policy) co_return Code::kNotSupported;
  const std::uint32_t home = target.home.load(std::memory_order_acquire);
  if (policy.whole_files) {
    for (const extent::Mapping& mapping : set.mappings) {
      if (mapping.kind != extent::MappingKind::kData) continue;
      const std::optional<DiskId> disk = store->disk_of(mapping.chunk);
      if (!disk || disk->raw + std::uint32_t{1} != home) co_return Code::kNotSupported;
    }
  }
  if (pool->reencoding()) {
    for (const extent::Mapping& mapping : set.mappings) {
      if (mapping.kind != extent::MappingKind::kData) continue;
      const std::optional<journal::Policy> layout = store->layout(mapping.chunk);
      if (!layout || (*layout != policy && *layout != policy.of_copies()))
        co_return Code::kNotSupported;
    }
  }
  std::vector<extent::Piece> pieces;
  std::vector<extent::PutView> views;
  std::uint64_t shared = 0;
  for (const extent::ExtentPut& share : shares) {
    pieces.insert(pieces.end(), share.pieces.begin(), share.pieces.end());
    views.push_back({.first = share.first, .pieces = share.pieces, .crcs = share.crcs});
    shared += share.crcs.size();
  }
  if (!store->share(pieces)) co_return Code::kNotSupported;

  RecordWriter record;
  if (note_written(target, end_bytes, now, step.options)) record.inode_put(image_of(target));
  const bool clears = shared < blocks && target.map->holes(step.target_first, blocks) < blocks;
  if (clears) {
    extent::encode(
        record.raw(),
        extent::ExtentClear{.inode = target.id, .first = step.target_first, .count = blocks});
  }
  for (const extent::ExtentPut& share : shares) extent::encode_share(record.raw(), share);
  // Holes instead of holes.
  if (record.bytes().empty()) co_return blocks;
  const Lsn lsn = append(credit, record, {&target});
  extent::Freed freed;
  target.map->replace(step.target_first, blocks, views, Generation{lsn.raw}, freed);
  free_data(freed, lsn);
  clone_steps.add();
  metrics.cloned_bytes.add(shared * kBlockBytes);
  co_return blocks;
}

// Bytes within one block.
Task<Result<void>> Filesystem::Impl::copy_bytes(InodeRef source, std::uint64_t source_bytes,
                                                InodeRef target, std::uint64_t target_bytes,
                                                std::size_t size, WriteOptions write_options) {
  const FileBlock block{source_bytes / kBlockBytes};
  CO_TRY(co_await load_windows(*source, block, 1));
  Buffer buffer{kBlockBytes};
  CO_TRY(co_await read_block(*source, block, buffer));
  co_return co_await write(target->id, target_bytes,
                           buffer.span().subspan(source_bytes % kBlockBytes, size), 0,
                           write_options);
}

Task<Result<std::uint64_t>> Filesystem::copy_range(InodeId source_id, std::uint64_t source_bytes,
                                                   InodeId target_id, std::uint64_t target_bytes,
                                                   std::uint64_t size_bytes, WriteOptions options) {
  CO_TRY(impl_->growable());
  CO_TRY_ASSIGN(const InodeRef source, co_await impl_->find(source_id));
  CO_TRY_ASSIGN(const InodeRef target, co_await impl_->find(target_id));
  for (const InodeRef& inode : {source, target}) {
    if (!inode->is_regular()) co_return inode->is_directory() ? Code::kIsDirectory : Code::kInvalid;
  }
  if (target->has_flag(kFlagImmutable | kFlagAppendOnly)) co_return Code::kPermission;
  if (source_bytes > kFileBytesMax || size_bytes > kFileBytesMax - source_bytes) {
    co_return Code::kInvalid;
  }
  if (target_bytes > kFileBytesMax || size_bytes > kFileBytesMax - target_bytes) {
    co_return Code::kFileTooBig;
  }
  const std::uint64_t apart =
      source_bytes < target_bytes ? target_bytes - source_bytes : source_bytes - target_bytes;
  if (source_id == target_id && apart < size_bytes) co_return Code::kInvalid;
  if (apart % kBlockBytes != 0) co_return Code::kNotSupported;
  // Shared blocks are protected in one way only: whoever asks copies them.
  if (impl_->policy_of(*source) != impl_->policy_of(*target)) co_return Code::kNotSupported;
  // To the end of a block, so that the next request begins with one.
  size_bytes = std::min(size_bytes, kCloneBytesMax - source_bytes % kBlockBytes);

  Result<std::uint64_t> outcome =
      co_await impl_->clone(source, source_bytes, target, target_bytes, size_bytes, options);
  if (outcome.has_value()) impl_->note_read(*source);
  co_return outcome;
}

// What is not in memory of the source's map, many reads at once: one after the other each would be a trip
// to a disk.
Task<void> Filesystem::Impl::load_source(InodeRef source, FileBlock first, std::uint64_t blocks) {
  if (!source->map->absent(first, blocks)) co_return;
  std::vector<Task<Result<void>>> loads;
  for (std::uint64_t at = 0; at < blocks; at += kStepBlocks) {
    loads.push_back(
        read_windows(*source, FileBlock{first.raw + at}, std::min(kStepBlocks, blocks - at)));
  }
  const std::vector<Result<void>> outcomes = co_await when_all(std::move(loads));
  for (const Result<void>& loaded : outcomes)
    loaded.ignore("the step that needs it meets it again");
}

// As much of it as can be had: an error when that is nothing.
Task<Result<std::uint64_t>> Filesystem::Impl::clone(InodeRef source, std::uint64_t source_bytes,
                                                    InodeRef target, std::uint64_t target_bytes,
                                                    std::uint64_t size_bytes,
                                                    WriteOptions write_options) {
  std::uint64_t done = 0;
  bool counted = false;
  if (policy_of(*target).whole_files) {
    // A file that has nothing yet goes where what it shares is; any other stays where it is.
    CO_TRY_ASSIGN(const DiskId with, co_await home_of(*source));
    if (!pin_home(*target, {}, with) && target->home.load(std::memory_order_acquire) == 0) {
      CO_TRY(co_await home_of(*target));
    }
  }
  co_await load_source(source, FileBlock{source_bytes / kBlockBytes},
                       ceil_div(source_bytes % kBlockBytes + size_bytes, kBlockBytes));
  while (done < size_bytes) {
    const std::uint64_t at = target_bytes + done;
    const std::uint64_t left = size_bytes - done;
    const std::uint64_t to_block = kBlockBytes - at % kBlockBytes;
    std::uint64_t shared = 0;
    if (at % kBlockBytes == 0) {
      CloneStep step;
      step.source = source;
      step.target = target;
      step.source_first = FileBlock{(source_bytes + done) / kBlockBytes};
      step.target_first = FileBlock{at / kBlockBytes};
      step.options = write_options;
      // To the edge of a window of the target, so that its extents are not cut elsewhere.
      const std::uint64_t room = kStepBlocks - step.target_first.raw % kWindowBlocks;
      step.blocks = std::min(ceil_div(left, kBlockBytes), room);
      if (step.blocks * kBlockBytes > left) {
        step.source_end_bytes = source_bytes + size_bytes;
        step.target_end_bytes = target_bytes + size_bytes;
      }
      const Result<std::uint64_t> blocks = co_await clone_step(step);
      if (!blocks.has_value()) {
        if (done == 0) co_return blocks.error();
        co_return done;
      }
      shared = std::min(*blocks * kBlockBytes, left);
      if (shared != 0 && !std::exchange(counted, true)) metrics.clones.add();
    }
    if (shared == 0) {
      const std::size_t bytes = std::min(left, to_block);
      const Result<void> copied =
          co_await copy_bytes(source, source_bytes + done, target, at, bytes, write_options);
      if (!copied.has_value()) {
        if (done == 0) co_return copied.error();
        co_return done;
      }
      shared = bytes;
    }
    done += shared;
  }
  co_return done;
}

}  // namespace dynamicfs::fs
