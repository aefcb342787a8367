// Several runs as one: of each key what the newest says, and nothing that it has deleted.
//
// Rules  Runs are ranked, the newest is 0. Of several entries of a key the one of the lowest rank
//        counts. A prefix deletion of rank r takes every entry of a rank above r whose key begins
//        with it, further prefix deletions included; of ranks up to r it takes none.
//        Deletions are entries here: what they stand for may lie in runs that are not among these.
// Damage Where the set tolerates it, a block that cannot be read has no entries, nor has a run that is
//        lost, and what older runs say of the keys that it may have had is in doubt: a newer version
//        may be lost, or a deletion.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "journal/run_set.hpp"

namespace dynamicfs::journal {

// Used by one coroutine at a time:
//
//   for (;;) {
//     const MergedEntries::Step step = entries.step();
//     if (step == MergedEntries::Step::kEnd) break;
//     if (step == MergedEntries::Step::kBlocks) { CO_TRY(co_await entries.load()); continue; }
//     ... entries.kind(), entries.key(), entries.value()
//   }
//
// so that an entry costs no coroutine.
class MergedEntries {
 public:
  enum class Source : std::uint8_t {
    kCached,  // a block at a time, through the cache of the set
    kStream,  // read ahead in large pieces, past the cache
  };
  enum class Step : std::uint8_t { kEntry, kEnd, kBlocks };

  // Entries of `runs` (newest first) with low <= key < high; empty `high`: to the end. A prefix
  // deletion below `low` is not seen. The runs are held; the set outlives this.
  MergedEntries(RunSet& set, RunSet::Runs runs, Bytes low, Bytes high, Source source,
                scheduler::IoClass io_class);
  ~MergedEntries();
  MergedEntries(const MergedEntries&) = delete;
  MergedEntries& operator=(const MergedEntries&) = delete;

  // The next entry, the end, or the need to load() first. Ascending; a prefix deletion comes before
  // another entry of its key.
  Step step();
  // Reads the blocks that step() lacks. After an error nothing more is to be had. kCorrupt (detail:
  // block).
  Task<Result<void>> load();

  // Of the entry that step() has found; valid until it is called again.
  RunEntryKind kind() const { return taken_->entries.kind(); }
  std::span<const std::byte> key() const { return taken_->entries.key(); }
  std::span<const std::byte> value() const { return taken_->entries.value(); }
  // A run newer than the one that it is from may have another version of it, or have deleted it.
  bool in_doubt() const;

  // Keys of which a block could not be read: low <= key < high; empty `high`: to the end. Of a run
  // that is lost as a whole these are all keys, and it is here from the beginning.
  struct Lost {
    Bytes low;
    Bytes high;
    std::size_t rank;
    bool whole_run;
  };
  const std::vector<Lost>& lost() const { return lost_; }

 private:
  // One run, and where we are in it.
  struct Input {
    std::shared_ptr<const Run> run;
    std::size_t rank = 0;
    std::uint64_t next_block = 0;
    std::uint64_t end_block = 0;
    std::optional<RunStream> stream;
    RunBlock block;
    RunEntries entries;
    bool above_low = false;
  };
  // A prefix that the current key begins with.
  struct Deleted {
    Bytes prefix;
    std::size_t rank;
  };

  static bool later(const Input* a, const Input* b);
  static bool same_item(const Input& a, const Input& b);
  Task<Result<void>> read_block(Input* input);
  void pass_over(Input* input);
  void advance(Input* input);
  Input* pop();
  bool survives(const Input& input);

  RunSet& set_;
  const Bytes low_;
  const Bytes high_;
  const scheduler::IoClass io_class_;
  std::vector<Input> inputs_;   // never resized: others point into it
  std::vector<Input*> ready_;   // have an entry; a heap, the first in order on top
  std::vector<Input*> hungry_;  // need a block before anything can be said
  std::vector<Lost> lost_;
  std::vector<Deleted> deleted_;  // each begins with the one before it, and is of a lower rank
  Input* taken_ = nullptr;        // neither ready nor hungry: its entry is shown
};

}  // namespace dynamicfs::journal
