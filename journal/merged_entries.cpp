#include "journal/merged_entries.hpp"

#include <algorithm>

namespace dynamicfs::journal {
namespace {

// Pieces of one run in memory or on their way: with kRunsMax runs 48 MiB, and a run alone still
// keeps two disks busy.
constexpr std::size_t kMergePiecesAhead = 2;

bool is_prefix(const RunEntries& entries) {
  return entries.kind() == RunEntryKind::kPrefixDeletion;
}

}  // namespace

MergedEntries::MergedEntries(RunSet& set, RunSet::Runs runs, Bytes low, Bytes high, Source source,
                             scheduler::IoClass io_class)
    : set_(set),
      low_(std::move(low)),
      high_(std::move(high)),
      io_class_(io_class),
      inputs_(runs.size()) {
  for (std::size_t rank = 0; rank < runs.size(); ++rank) {
    Input& input = inputs_[rank];
    input.rank = rank;
    input.run = std::move(runs[rank]);
    if (input.run->lost()) {
      lost_.push_back({.low = {}, .high = {}, .rank = rank, .whole_run = true});
      continue;
    }
    const RunIndex& index = input.run->index();
    input.next_block = index.block_of(low_);
    input.end_block = high_.empty() ? index.size() : index.end_of(high_);
    if (input.next_block >= input.end_block) continue;
    if (source == Source::kStream) {
      input.stream.emplace(set.pool(), input.run->ref(), input.next_block, input.end_block,
                           io_class, kMergePiecesAhead);
    }
    hungry_.push_back(&input);
  }
}

MergedEntries::~MergedEntries() {
  for (const Input& input : inputs_) {
    if (input.stream) set_.count(input.stream->repairs());
  }
}

// Whether `a` comes after `b`: the heap has the first in order on top.
bool MergedEntries::later(const Input* a, const Input* b) {
  const auto order = key_order(a->entries.key(), b->entries.key());
  if (order != 0) return order > 0;
  if (is_prefix(a->entries) != is_prefix(b->entries)) return is_prefix(b->entries);
  return a->rank > b->rank;
}

// A prefix deletion and another entry of its key are two things: both may be needed.
bool MergedEntries::same_item(const Input& a, const Input& b) {
  return is_prefix(a.entries) == is_prefix(b.entries) &&
         key_order(a.entries.key(), b.entries.key()) == 0;
}

Task<Result<void>> MergedEntries::read_block(Input* input) {
  Result<RunBlock> block = error(Code::kShutdown);
  if (input->stream) {
    block = co_await input->stream->next();
  } else {
    block = co_await set_.block(input->run, input->next_block, io_class_);
  }
  if (!block.has_value()) {
    if (block.error().code == Code::kCorrupt) input->run->note_unreadable();
    if (block.error().code != Code::kCorrupt || !set_.tolerates_damage()) co_return block.error();
    pass_over(input);
    co_return Result<void>{};
  }
  input->block = std::move(*block);
  ++input->next_block;
  input->entries = RunEntries{input->block.payload, input->block.entries};
  co_return Result<void>{};
}

// As if the block that cannot be read were empty.
void MergedEntries::pass_over(Input* input) {
  const RunIndex& index = input->run->index();
  const std::span<const std::byte> low = index.key(input->next_block);
  Lost lost{.low = {low.begin(), low.end()}, .high = {}, .rank = input->rank, .whole_run = false};
  if (input->next_block + 1 < index.size()) {
    const std::span<const std::byte> high = index.key(input->next_block + 1);
    lost.high.assign(high.begin(), high.end());
  }
  lost_.push_back(std::move(lost));
  set_.note_lost_block(*input->run, input->next_block);
  if (input->stream) input->stream->skip();
  input->block = {};
  input->entries = {};
  ++input->next_block;
}

bool MergedEntries::in_doubt() const {
  return std::ranges::any_of(lost_, [&](const Lost& lost) {
    return lost.rank < taken_->rank && !key_less(key(), lost.low) &&
           (lost.high.empty() || key_less(key(), lost.high));
  });
}

Task<Result<void>> MergedEntries::load() {
  const std::vector<Input*> hungry = std::exchange(hungry_, {});
  if (hungry.size() == 1) {
    CO_TRY(co_await read_block(hungry.front()));
  } else {
    std::vector<Task<Result<void>>> reading;
    for (Input* const input : hungry) reading.push_back(read_block(input));
    const std::vector<Result<void>> outcomes = co_await when_all(std::move(reading));
    for (const Result<void>& outcome : outcomes) {
      CO_TRY(outcome);
    }
  }
  for (Input* const input : hungry) advance(input);
  co_return Result<void>{};
}

// Goes on to the next entry in the range: then the input is ready. Or it is hungry, or through.
void MergedEntries::advance(Input* input) {
  while (input->entries.next()) {
    const std::span<const std::byte> key = input->entries.key();
    if (!input->above_low && key_less(key, low_)) continue;
    input->above_low = true;
    if (!high_.empty() && !key_less(key, high_)) return;
    ready_.push_back(input);
    std::ranges::push_heap(ready_, later);
    return;
  }
  if (input->next_block < input->end_block) hungry_.push_back(input);
}

MergedEntries::Input* MergedEntries::pop() {
  std::ranges::pop_heap(ready_, later);
  Input* const input = ready_.back();
  ready_.pop_back();
  return input;
}

bool MergedEntries::survives(const Input& input) {
  const std::span<const std::byte> key = input.entries.key();
  while (!deleted_.empty() && !key_begins_with(key, deleted_.back().prefix)) deleted_.pop_back();
  const bool prefix = is_prefix(input.entries);
  // The last one has the lowest rank of all, so it alone decides. A prefix deletion that adds
  // nothing to it is as good as deleted.
  if (!deleted_.empty()) {
    const std::size_t rank = deleted_.back().rank;
    if (rank < input.rank || (prefix && rank == input.rank)) return false;
  }
  if (prefix) deleted_.push_back({Bytes{key.begin(), key.end()}, input.rank});
  return true;
}

MergedEntries::Step MergedEntries::step() {
  if (taken_ != nullptr) advance(std::exchange(taken_, nullptr));
  // Nothing can be said of the first key while one input does not show what it has.
  while (hungry_.empty()) {
    if (ready_.empty()) return Step::kEnd;
    Input* const first = pop();
    while (!ready_.empty() && same_item(*first, *ready_.front())) advance(pop());
    if (survives(*first)) {
      taken_ = first;
      return Step::kEntry;
    }
    advance(first);
  }
  return Step::kBlocks;
}

}  // namespace dynamicfs::journal
