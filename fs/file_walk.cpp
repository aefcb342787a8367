#include "fs/file_walk.hpp"

#include <algorithm>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {
namespace {

// Numbers of inodes read from the runs at a time.
constexpr std::size_t kNumbersAtOnce = 1024;
// What has been loaded of a file stays as long as somebody refers to it: after so many windows the walk
// lets go of it for a moment.
constexpr std::size_t kWindowsKept = 256;

}  // namespace

FileWalk::FileWalk(Filesystem::Impl& parts, std::function<void(InodeId, Error)> on_error)
    : fs_(parts), on_error_(std::move(on_error)), cursor_(parts.executor) {}

void FileWalk::begin(InodeId from) {
  end();
  if (from.raw > 1) fetched_to_ = InodeId{from.raw - 1};
  position_ = from.raw;
  in_memory_ = fs_.inodes.ids();
  std::ranges::sort(in_memory_);
  fetched_all_ = false;
  passed_ = 0;
}

double FileWalk::progress() const {
  const auto all = static_cast<double>(std::max<std::uint64_t>(1, fs_.inode_count.load()));
  return std::min(1.0, static_cast<double>(passed_.load()) / all);
}

void FileWalk::end() {
  in_memory_ = {};
  numbers_ = {};
  taken_ = 0;
  fetched_to_ = {};
  fetched_all_ = true;
  inode_ = {};
  go_on_with_ = {};
}

// The next numbers from the runs, with those in memory among them.
Task<void> FileWalk::fetch_numbers() {
  numbers_.clear();
  taken_ = 0;
  journal::RunCursor cursor{fs_.runs,
                            fs_.runs.runs(),
                            inode_prefix(InodeId{fetched_to_.raw + 1}),
                            {},
                            journal::RunCursor::Mode::kCached,
                            {},
                            scheduler::IoClass::kBackground};
  while (numbers_.size() < kNumbersAtOnce) {
    const Result<bool> more = co_await cursor.next();
    if (!more.has_value()) {
      on_error_(fetched_to_, more.error());
      fetched_all_ = true;  // where the next number would be cannot be told
    }
    if (!more.has_value() || !*more) break;
    const Result<Key> key = parse_key(cursor.key());
    if (key.has_value() && key->tag == KeyTag::kInode) numbers_.push_back(key->inode);
  }
  if (numbers_.size() < kNumbersAtOnce) fetched_all_ = true;
  const InodeId to = fetched_all_ ? InodeId{~std::uint64_t{0}} : numbers_.back();
  const auto from = std::ranges::upper_bound(in_memory_, fetched_to_);
  const auto end = std::ranges::upper_bound(in_memory_, to);
  numbers_.insert(numbers_.end(), from, end);
  std::ranges::sort(numbers_);
  const auto [twice, last] = std::ranges::unique(numbers_);
  numbers_.erase(twice, last);
  fetched_to_ = to;
}

// inode_ is the next file there is, or the one that was let go of; or none is left.
Task<void> FileWalk::open_next_inode() {
  windows_ = 0;
  if (go_on_with_.raw != 0) {
    const InodeId id = std::exchange(go_on_with_, InodeId{});
    const Result<InodeRef> found = co_await fs_.find(id);
    if (found.has_value()) {
      inode_ = *found;
      co_return;
    }
    if (found.error().code != Code::kStale) on_error_(id, found.error());
  }
  next_block_ = FileBlock{0};
  while (true) {
    if (taken_ == numbers_.size()) {
      if (fetched_all_) co_return;
      co_await fetch_numbers();
      continue;
    }
    const InodeId id = numbers_[taken_++];
    ++passed_;
    position_.store(id.raw, std::memory_order_release);
    const Result<InodeRef> found = co_await fs_.find(id);
    if (!found.has_value()) {
      if (found.error().code != Code::kStale) on_error_(id, found.error());
      continue;
    }
    if (!(*found)->map) continue;
    inode_ = *found;
    co_return;
  }
}

Task<std::optional<FileWalk::Piece>> FileWalk::next() {
  const AsyncMutex::Guard guard = co_await cursor_.acquire();
  while (true) {
    if (!inode_) co_await open_next_inode();
    if (!inode_) co_return std::nullopt;
    const Result<std::uint64_t> here_to = co_await fs_.load_some_windows(
        *inode_, next_block_.raw / kWindowBlocks, scheduler::IoClass::kBackground);
    if (!here_to.has_value()) {
      on_error_(inode_->id, here_to.error());
      inode_ = {};
      continue;
    }
    const std::optional<FileBlock> data = inode_->map->next_data(next_block_);
    if (!data || data->raw / kWindowBlocks >= *here_to) {
      next_block_ = FileBlock{*here_to * kWindowBlocks};
      if (*here_to == ~std::uint64_t{0}) inode_ = {};
      continue;
    }
    const std::uint64_t end = align_down(data->raw, kWindowBlocks) + kWindowBlocks;
    next_block_ = FileBlock{end};
    Piece piece{.inode = inode_, .first = *data, .count = end - data->raw};
    if (++windows_ == kWindowsKept) {
      go_on_with_ = inode_->id;
      inode_ = {};
    }
    co_return piece;
  }
}

}  // namespace dynamicfs::fs
