#include "journal/run_set.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "journal/run_cache.hpp"

namespace dynamicfs::journal {

using scheduler::IoClass;

namespace {

// Index and filter are read one behind the other, from both disks.
constexpr std::size_t kOpenPiecesAhead = 2;

}  // namespace

// What a replaced run still needs of its set. The set holds it, its runs only point to it.
struct Run::Retirement {
  Retirement(Executor& executor, std::uint64_t cache_bytes) : cache(executor, cache_bytes) {}
  RunCache cache;
  std::function<void(const RunRef&)> listener;

  void retire(const RunRef& ref) {
    cache.forget(ref.id);
    if (listener) listener(ref);
  }
};

Run::~Run() {
  if (const std::shared_ptr<Retirement> retirement = retirement_.lock()) retirement->retire(ref_);
}

struct RunSet::Impl {
  Impl(Executor& executor, Pool& pool_in, std::uint64_t cache_bytes)
      : pool(pool_in), retirement(std::make_shared<Run::Retirement>(executor, cache_bytes)) {}

  Pool& pool;
  const std::shared_ptr<Run::Retirement> retirement;
  RunSetMetrics metrics;
  std::atomic<bool> tolerates_damage{false};

  mutable Mutex mutex;
  std::vector<RunRef> lost_runs DFS_GUARDED_BY(mutex);
  std::atomic<bool> any_lost{false};  // constant behind open()
  std::set<std::pair<std::uint64_t, std::uint64_t>> lost_blocks DFS_GUARDED_BY(mutex);
  std::shared_ptr<const Runs> runs DFS_GUARDED_BY(mutex) = std::make_shared<const Runs>();

  RunCache& cache() { return retirement->cache; }
};

RunSet::RunSet(Executor& executor, Pool& pool, std::uint64_t cache_bytes)
    : impl_(std::make_unique<Impl>(executor, pool, cache_bytes)) {}

RunSet::~RunSet() = default;

void RunSet::on_retired(std::function<void(const RunRef&)> listener) {
  impl_->retirement->listener = std::move(listener);
}

void RunSet::tolerate_damage() { impl_->tolerates_damage.store(true); }
bool RunSet::tolerates_damage() const { return impl_->tolerates_damage.load(); }

std::vector<RunRef> RunSet::lost_runs() const {
  LockGuard lock(impl_->mutex);
  return impl_->lost_runs;
}

bool RunSet::any_lost() const { return impl_->any_lost.load(std::memory_order_acquire); }

std::uint64_t RunSet::lost_blocks() const {
  LockGuard lock(impl_->mutex);
  return impl_->lost_blocks.size();
}

void RunSet::note_lost_block(const Run& run, std::uint64_t index) {
  LockGuard lock(impl_->mutex);
  impl_->lost_blocks.emplace(run.ref().id, index);
}

Task<Result<void>> RunSet::open(Manifest manifest) {
  std::vector<Task<Result<std::shared_ptr<const Run>>>> opening;
  for (const RunRef& ref : manifest.runs) opening.push_back(open_run(ref));
  std::vector<Result<std::shared_ptr<const Run>>> opened = co_await when_all(std::move(opening));
  auto runs = std::make_shared<Runs>();
  std::vector<RunRef> lost;
  for (std::size_t i = 0; i < opened.size(); ++i) {
    if (opened[i].has_value()) {
      runs->push_back(std::move(opened[i]).value());
      continue;
    }
    if (!tolerates_damage()) co_return opened[i].error();
    lost.push_back(manifest.runs[i]);
    std::shared_ptr<Run> run{new Run{manifest.runs[i]}};
    run->filter_lost_ = run->lost_ = true;
    runs->push_back(std::move(run));
  }
  impl_->any_lost.store(!lost.empty(), std::memory_order_release);
  LockGuard lock(impl_->mutex);
  impl_->lost_runs = std::move(lost);
  DFS_ASSERT(impl_->runs->empty());
  impl_->runs = std::move(runs);
  co_return Result<void>{};
}

Task<Result<std::shared_ptr<const Run>>> RunSet::open_run(RunRef ref) {
  if (ref.copies.empty() || ref.entry_blocks + ref.index_blocks > ref.blocks()) {
    co_return error(Code::kFormatInvalid);
  }
  std::shared_ptr<Run> run{new Run{std::move(ref)}};
  const std::uint64_t entry_blocks = run->ref_.entry_blocks;
  const std::uint64_t filter_begin = entry_blocks + run->ref_.index_blocks;
  RunStream stream{impl_->pool,        run->ref_,          entry_blocks,
                   run->ref_.blocks(), IoClass::kCritical, kOpenPiecesAhead};
  Result<void> failure;
  for (std::uint64_t index = entry_blocks; !stream.at_end(); ++index) {
    const Result<RunBlock> block = co_await stream.next();
    if (!block.has_value()) {
      failure = block.error();
      break;
    }
    if (index >= filter_begin) {
      if (block->payload.size() % RunFilter::kLineBytes != 0) {
        failure = error(Code::kFormatInvalid, index);
        break;
      }
      run->filter_.append(block->payload);
      continue;
    }
    RunEntries separators{block->payload, block->entries};
    while (separators.next()) run->index_.add(separators.key());
  }
  count(stream.repairs());
  if (failure.has_value() && run->index_.size() != entry_blocks)
    failure = error(Code::kFormatInvalid, entry_blocks);
  if (!failure.has_value() && tolerates_damage()) failure = co_await index_entries(run.get());
  CO_TRY(failure);
  run->index_.shrink_to_fit();
  co_return std::shared_ptr<const Run>{std::move(run)};
}

// The index of a run whose own cannot be read, and no filter. Of a block that cannot be read either it
// is known which keys it may have: those behind the block before it.
Task<Result<void>> RunSet::index_entries(Run* run) {
  run->index_ = RunIndex{};
  run->filter_ = RunFilter{};
  run->filter_lost_ = true;
  RunStream stream{impl_->pool,        run->ref_,       0, run->ref_.entry_blocks,
                   IoClass::kCritical, kOpenPiecesAhead};
  bool any = false;
  Bytes last;  // a key of the block before; then something behind it
  while (!stream.at_end()) {
    const Result<RunBlock> block = co_await stream.next();
    if (!block.has_value()) {
      stream.skip();
      run->index_.add(last);
      last.push_back(std::byte{0});
      continue;
    }
    any = true;
    RunEntries entries{block->payload, block->entries};
    bool first = true;
    while (entries.next()) {
      if (std::exchange(first, false))
        run->index_.add(
            run->index_.size() == 0 ? Bytes{} : Bytes{entries.key().begin(), entries.key().end()});
      last.assign(entries.key().begin(), entries.key().end());
    }
    if (first) co_return error(Code::kFormatInvalid, run->index_.size());
    last.push_back(std::byte{0});
  }
  count(stream.repairs());
  if (!any) co_return error(Code::kCorrupt);
  co_return Result<void>{};
}

std::shared_ptr<const RunSet::Runs> RunSet::runs() const {
  LockGuard lock(impl_->mutex);
  return impl_->runs;
}

void RunSet::install(std::shared_ptr<const Run> fresh,
                     std::span<const std::shared_ptr<const Run>> replaced) {
  for (const auto& run : replaced) run->retirement_ = impl_->retirement;
  auto next = std::make_shared<Runs>();
  // Destroyed without the lock: with it may go what it has replaced.
  std::shared_ptr<const Runs> before = runs();
  const auto place = replaced.empty() ? before->begin() : std::ranges::find(*before, replaced[0]);
  const auto behind = place + static_cast<std::ptrdiff_t>(replaced.size());
  DFS_ASSERT(before->end() - place >= static_cast<std::ptrdiff_t>(replaced.size()));
  DFS_ASSERT(std::equal(replaced.begin(), replaced.end(), place));
  next->assign(before->begin(), place);
  if (fresh != nullptr) next->push_back(std::move(fresh));
  next->insert(next->end(), behind, before->end());
  LockGuard lock(impl_->mutex);
  DFS_ASSERT(impl_->runs == before);
  impl_->runs = std::move(next);
}

bool RunSet::may_have(std::uint64_t hash) const {
  const std::shared_ptr<const Runs> runs = this->runs();
  return std::ranges::any_of(*runs, [hash](const auto& run) { return run->may_have(hash); });
}

std::uint64_t RunSet::memory_bytes() const {
  std::uint64_t bytes = impl_->cache().memory_bytes();
  const std::shared_ptr<const Runs> runs = this->runs();
  for (const auto& run : *runs) bytes += run->memory_bytes();
  return bytes;
}

const RunSetMetrics& RunSet::metrics() const { return impl_->metrics; }

Task<Result<RunBlock>> RunSet::block(std::shared_ptr<const Run> run, std::uint64_t index,
                                     IoClass io_class) {
  const RunCache::Key key{run->ref().id, index};
  const RunCache::Claim claim = impl_->cache().claim(key);
  if (!claim.mine) {
    impl_->metrics.cache_hits.add();
    if (claim.block) co_return *claim.block;
    co_await claim.flight->done.wait();
    co_return claim.flight->result;
  }
  impl_->metrics.block_reads.add();
  RunRepairs repairs;
  // Copies take turns, so that all their disks serve and damage on either is met.
  const Result<RunBlock> result = co_await read_run_block(
      impl_->pool, &run->ref(), index, index % run->ref().copies.size(), io_class, &repairs);
  count(repairs);
  impl_->cache().settle(key, claim.flight, result);
  co_return result;
}

void RunSet::count(const RunRepairs& repairs) {
  impl_->metrics.blocks_bad.add(repairs.bad);
  impl_->metrics.blocks_repaired.add(repairs.repaired);
}

void RunSet::count_filter_negative() { impl_->metrics.filter_negatives.add(); }

Pool& RunSet::pool() const { return impl_->pool; }

}  // namespace dynamicfs::journal
