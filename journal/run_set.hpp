// The runs of a mounted pool: where metadata is that is not in memory, and what of it is not even
// worth looking for.
//
// Of every run the index and the filter are in memory, so a look-up reads one block of each run that
// may have the key, and none of the others. Blocks read for look-ups are kept in a cache.
//
// Damage  A block of which no disk here has a good copy is an error to whoever needs it. For who only
//         wants to have what is left (tolerate_damage()) it counts as empty, and cursors tell of which
//         keys they therefore cannot be sure; an index that is damaged is made from the entries. A run
//         of which nothing can be read keeps its place among the others: any key may be in it.
// Slots  A run that a manifest has replaced is still read by whoever took a snapshot before. Its
//        slots may be given back when the last of them is gone: that is what on_retired() tells.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/executor.hpp"
#include "base/metrics.hpp"
#include "journal/run_filter.hpp"
#include "journal/run_index.hpp"
#include "journal/run_stream.hpp"

namespace dynamicfs::journal {

class RunSet;

// An open run: its index and filter in memory. Immutable; held by shared_ptr, and retired (see
// RunSet) when the last one goes, on that thread.
class Run {
 public:
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  const RunRef& ref() const { return ref_; }
  const RunIndex& index() const { return index_; }
  // No I/O. False: no key of this hash is in it, not even to be deleted.
  bool may_have(std::uint64_t hash) const { return filter_lost_ || filter_.may_have(hash); }
  // Nothing of it can be read (RunSet::tolerate_damage()): it may have any key.
  bool lost() const { return lost_; }
  std::uint64_t memory_bytes() const { return index_.memory_bytes() + filter_.bytes().size(); }
  // A block of it was met, since it was opened, of which no disk here has a good copy: it cannot be
  // merged. Any thread.
  bool unreadable() const { return unreadable_.load(std::memory_order_acquire); }
  void note_unreadable() const { unreadable_.store(true, std::memory_order_release); }

 private:
  friend class RunSet;
  struct Retirement;
  explicit Run(RunRef ref) : ref_(std::move(ref)) {}

  const RunRef ref_;
  RunIndex index_;
  RunFilter filter_;
  bool filter_lost_ = false;  // then any key may be in it
  bool lost_ = false;
  mutable std::atomic<bool> unreadable_{false};
  // Set when it is replaced, by one who holds the run: nobody reads it before the destructor.
  mutable std::weak_ptr<Retirement> retirement_;
};

struct RunSetMetrics {
  Counter block_reads;  // blocks that look-ups read from a disk; streams do not count
  Counter cache_hits;   // blocks that were there, or on their way
  Counter filter_negatives;
  Counter blocks_bad;  // copies that failed their checksum or could not be read, streams included
  Counter blocks_repaired;
};

// Threads  Every method from any thread.
// Locks    Leaf mutexes, never held across I/O or a call of somebody else's function.
class RunSet {
 public:
  using Runs = std::vector<std::shared_ptr<const Run>>;  // newest first

  // `cache_bytes` of blocks at most. The pool outlives the set, and the set every cursor and every
  // read of its own.
  RunSet(Executor& executor, Pool& pool, std::uint64_t cache_bytes);
  ~RunSet();

  // Called with the ref of a replaced run when nobody can read it any more, on any thread, perhaps
  // while that thread destroys what held the last snapshot: it must not wait. Set before open(). Not
  // called for runs that outlive the set.
  void on_retired(std::function<void(const RunRef&)> listener);

  // From now on, and before open(): see "Damage" above.
  void tolerate_damage();
  bool tolerates_damage() const;
  // Of which nothing can be read, as open() has found; what older runs say may be outdated by them.
  std::vector<RunRef> lost_runs() const;
  bool any_lost() const;
  // How many different blocks of entries cursors have met so far that cannot be read.
  std::uint64_t lost_blocks() const;
  void note_lost_block(const Run& run, std::uint64_t index);

  // Reads index and filter of every run of the manifest, all at once. kCorrupt (detail: block) when
  // a block of them has no good copy, kFormatInvalid when they contradict each other; then no run is
  // open. Once, before anything else.
  Task<Result<void>> open(Manifest manifest);
  // Opens a run just written: verifies its index and filter as they lie on the disks. Nobody finds
  // it before install(). Errors as open().
  Task<Result<std::shared_ptr<const Run>>> open_run(RunRef ref);

  // A snapshot: nothing in it is retired while it is held. Never null.
  std::shared_ptr<const Runs> runs() const;
  // `fresh` takes the place of the runs in `replaced`, which stand one behind the other in runs() in
  // this order; null: nothing does. With nothing replaced it is the newest. Called when the manifest
  // that says so is durable; one call at a time.
  void install(std::shared_ptr<const Run> fresh,
               std::span<const std::shared_ptr<const Run>> replaced);

  // Any run may have a key of this hash. No I/O.
  bool may_have(std::uint64_t hash) const;
  // Of the index and filter of the runs in use, and of the cache.
  std::uint64_t memory_bytes() const;
  const RunSetMetrics& metrics() const;

  // For cursors: block `index` of a run, from the cache or into it. All who ask for an absent block
  // at once share one read, in the class of the first. kCorrupt (detail: block).
  Task<Result<RunBlock>> block(std::shared_ptr<const Run> run, std::uint64_t index,
                               scheduler::IoClass io_class);
  // What a stream past the cache has met, and that a filter has spared a look-up a run.
  void count(const RunRepairs& repairs);
  void count_filter_negative();
  Pool& pool() const;

 private:
  struct Impl;
  Task<Result<void>> index_entries(Run* run);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dynamicfs::journal
