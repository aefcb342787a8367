#include "journal/run_mixer.hpp"

#include <utility>

namespace dynamicfs::journal {

RunMixer::RunMixer(RunSet& set, RunSet::Runs older, bool to_bottom, RunWriter& writer)
    : writer_(writer),
      to_bottom_(to_bottom),
      older_(set, std::move(older), {}, {}, MergedEntries::Source::kStream,
             scheduler::IoClass::kCritical) {}

// Whether older_ shows an entry.
Task<Result<bool>> RunMixer::look() {
  while (!at_entry_ && !at_end_) {
    const MergedEntries::Step step = older_.step();
    if (step == MergedEntries::Step::kBlocks) {
      CO_TRY(co_await older_.load());
      continue;
    }
    at_entry_ = step == MergedEntries::Step::kEntry;
    at_end_ = !at_entry_;
  }
  co_return at_entry_;
}

// Keys come in order, so a prefix that this one does not begin with has had its time.
bool RunMixer::is_deleted(std::span<const std::byte> key) {
  while (!prefixes_.empty() && !key_begins_with(key, prefixes_.back())) prefixes_.pop_back();
  return !prefixes_.empty();
}

Task<Result<void>> RunMixer::write(RunEntryKind kind, std::span<const std::byte> key,
                                   std::span<const std::byte> value) {
  if (to_bottom_ && kind != RunEntryKind::kValue) co_return Result<void>{};
  co_return co_await writer_.add(kind, key, value);
}

Task<Result<void>> RunMixer::write_older_before(std::span<const std::byte> key) {
  while (true) {
    CO_TRY_ASSIGN(const bool there, co_await look());
    if (!there || !key_less(older_.key(), key)) co_return Result<void>{};
    at_entry_ = false;
    if (is_deleted(older_.key())) continue;
    CO_TRY(co_await write(older_.kind(), older_.key(), older_.value()));
  }
}

Task<Result<void>> RunMixer::add(RunEntryKind kind, std::span<const std::byte> key,
                                 std::span<const std::byte> value) {
  CO_TRY(co_await write_older_before(key));
  const bool prefix = kind == RunEntryKind::kPrefixDeletion;
  // Of the same key an older prefix deletion alone goes on counting: for what is behind.
  while (!prefix) {
    CO_TRY_ASSIGN(const bool there, co_await look());
    if (!there || key_less(key, older_.key())) break;
    at_entry_ = false;
    if (older_.kind() != RunEntryKind::kPrefixDeletion || is_deleted(key)) continue;
    CO_TRY(co_await write(older_.kind(), older_.key(), {}));
  }
  is_deleted(key);
  if (prefix) prefixes_.emplace_back(key.begin(), key.end());
  co_return co_await write(kind, key, value);
}

Task<Result<void>> RunMixer::finish() {
  while (true) {
    CO_TRY_ASSIGN(const bool there, co_await look());
    if (!there) co_return Result<void>{};
    at_entry_ = false;
    if (is_deleted(older_.key())) continue;
    CO_TRY(co_await write(older_.kind(), older_.key(), older_.value()));
  }
}

}  // namespace dynamicfs::journal
