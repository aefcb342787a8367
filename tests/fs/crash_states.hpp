// What may be left of a run when the power goes, state by state, and whether each is legal.
//
// A workload runs once, on disks that write down every request (recording_disk.hpp). Then, for each
// moment of that run, the disks are made as a power cut may leave them, the pool is mounted and its
// tree compared with a model. Legal is what the model was after some number of operations: not fewer
// than were durable for somebody who had been told so (INV-5), not more than had begun (INV-6).
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "base/log.hpp"
#include "tests/fs/operations.hpp"
#include "tests/fs/recording_disk.hpp"

namespace dynamicfs::test {

// One run, and what had been promised when.
struct Recording {
  SimPoolOptions options;
  std::uint64_t seed = 0;
  std::string text;                               // what was done
  std::vector<scheduler::SimulatedMedia> before;  // the disks when it began
  bool disk_was_away = false;                     // so that one may lack its copies
  Trace trace;
  std::vector<std::string> trees;  // trees[i]: the model after i operations
  struct Moment {
    std::uint32_t event;
    std::size_t operations;
  };
  std::vector<Moment> begun;    // so many operations had begun
  std::vector<Moment> durable;  // so many were durable for certain
  std::optional<Moment>
      shown;  // a mount has shown this state: from then on it is that and no other

  static std::size_t at(const std::vector<Moment>& moments, std::uint32_t event) {
    std::size_t operations = 0;
    for (const Moment& moment : moments) {
      if (moment.event <= event) operations = std::max(operations, moment.operations);
    }
    return operations;
  }
};

struct CrashCounts {
  std::uint64_t sequences = 0;
  std::uint64_t states = 0;      // different ones, mounted and compared
  std::uint64_t recovering = 0;  // of those: the power went again during recovery
  std::uint64_t degraded = 0;    // ... a disk was away
  std::uint64_t bad = 0;
  std::string first_bad;  // in words
};

class CrashStates {
 public:
  // Some `per_recording` states of one recording: all when there are fewer, else drawn.
  CrashStates(std::uint64_t seed, std::uint64_t per_recording)
      : generator_(seed), per_recording_(per_recording) {}

  void try_all(const Recording& recording) {
    ++counts.sequences;
    seen_.clear();
    enumerate(recording, per_recording_);
  }

  CrashCounts counts;

 private:
  void enumerate(const Recording& recording, std::uint64_t enough) {
    const std::uint64_t serial = ++serial_;
    // From the end: what is left is judged by the latest moment at which it can be left, when most
    // had been promised.
    std::vector<std::uint32_t> moments(recording.trace.now() + 1);
    for (std::uint32_t i = 0; i < moments.size(); ++i) moments[i] = recording.trace.now() - i;
    const std::uint64_t each = enough / moments.size() + 2;
    for (const std::uint32_t moment : moments) {
      std::vector<std::size_t> unsure;
      for (std::size_t i = 0; i < recording.trace.writes.size(); ++i) {
        const Trace::Write& write = recording.trace.writes[i];
        if (write.submitted <= moment && write.sure > moment) unsure.push_back(i);
      }
      const bool all = unsure.size() < 6 && (std::uint64_t{1} << unsure.size()) <= each;
      const std::uint64_t wanted = all ? std::uint64_t{1} << unsure.size() : each;
      for (std::uint64_t i = 0; i < wanted; ++i) {
        std::vector<bool> kept(recording.trace.writes.size());
        for (std::size_t k = 0; k < kept.size(); ++k)
          kept[k] = recording.trace.writes[k].sure <= moment;
        // Nothing and everything are always among them.
        const std::uint64_t bits = all || i == 0 ? i : i == 1 ? ~std::uint64_t{0} : generator_();
        for (std::size_t k = 0; k < unsure.size(); ++k)
          kept[unsure[k]] = (bits >> (k % 64) & 1) != 0;
        try_one(recording, serial, moment, kept, {});
      }
      for (const std::size_t torn : unsure) {
        std::vector<bool> kept(recording.trace.writes.size());
        const std::uint64_t bits = generator_() | generator_();
        for (std::size_t k = 0; k < kept.size(); ++k) {
          const Trace::Write& write = recording.trace.writes[k];
          kept[k] = write.sure <= moment || (write.submitted <= moment && (bits >> (k % 64) & 1));
        }
        kept[torn] = true;
        try_one(recording, serial, moment, kept, torn);
      }
    }
  }

  static std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    std::uint64_t x = a ^ (b + 0x9e3779b97f4a7c15 + (a << 6) + (a >> 2));
    x ^= x >> 31;
    return x * 0xbf58476d1ce4e5b9;
  }

  // The bytes of `write` that reached the medium; the rest is what was there.
  static Bytes tear(const scheduler::SimulatedMedia& medium, const Trace::Write& write,
                    std::uint64_t random) {
    const std::size_t unit = random % 2 == 0 ? 512 : kBlockBytes;
    const std::size_t units = write.blocks.size() * kBlockBytes / unit;
    Bytes out(write.blocks.size() * kBlockBytes);
    medium.read(write.offset_bytes, out);
    const bool prefix = random / 2 % 2 == 0;
    const std::size_t end = random / 4 % (units + 1);
    for (std::size_t i = 0; i < units; ++i) {
      const bool there = prefix ? i < end : mix(random, i) % 2 == 0;
      if (!there) continue;
      const Bytes zeros(kBlockBytes);
      const auto& block = write.blocks[i * unit / kBlockBytes];
      const Bytes& from = block == nullptr ? zeros : *block;
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(i * unit % kBlockBytes), unit,
                  out.begin() + static_cast<std::ptrdiff_t>(i * unit));
    }
    return out;
  }

  void try_one(const Recording& recording, std::uint64_t serial, std::uint32_t moment,
               const std::vector<bool>& kept, std::optional<std::size_t> torn) {
    const std::uint64_t random = generator_();
    std::uint64_t signature = mix(serial, torn ? mix(*torn, random) : 0);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (kept[i]) signature = mix(signature, i + 1);
    }
    if (!seen_.insert(signature).second) return;

    std::vector<scheduler::SimulatedMedia> left = recording.before;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (!kept[i]) continue;
      const Trace::Write& write = recording.trace.writes[i];
      scheduler::SimulatedMedia& medium = left[write.disk];
      if (torn == i) {
        medium.write(write.offset_bytes, tear(medium, write, random));
      } else {
        for (std::size_t k = 0; k < write.blocks.size(); ++k)
          medium.put(write.offset_bytes / kBlockBytes + k, write.blocks[k]);
      }
    }
    ++counts.states;
    // Now and then the power goes again before the pool is mounted, and now and then a disk that the
    // policy allows to be lost does not come back.
    const bool again = depth_ == 0 && counts.states % 97 == 0;
    std::vector<std::size_t> away;
    if (depth_ == 0 && left.size() > 1 && counts.states % 5 == 0) {
      away.push_back(random % left.size());
      ++counts.degraded;
    }
    Recording second;  // outlives the pool, whose disks write to it to the end
    SimPool pool(recording.seed, recording.options);
    if (again) {
      second = recording;
      second.text += ", mount";
      second.before = left;
      second.disk_was_away = !away.empty();
      second.trace.forget();
      second.begun = {{0, Recording::at(recording.begun, moment)}};
      second.durable = {{0, Recording::at(recording.durable, moment)}};
      pool.wrap = [&second](std::unique_ptr<scheduler::SimulatedDisk> disk, std::size_t index) {
        return std::make_unique<RecordingDisk>(std::move(disk), index, second.trace);
      };
    }
    for (std::size_t i = 0; i < left.size(); ++i) *pool.media[i] = std::move(left[i]);
    const bool legal = judge(recording, moment, pool, away, again ? &second : nullptr);
    if (!again || !legal) return;
    ++depth_;
    const std::uint64_t before = counts.states;
    enumerate(second, 40);
    counts.recovering += counts.states - before;
    --depth_;
  }

  static std::uint64_t bad_copies(SimPool& pool) {
    struct Start {
      static Task<Result<void>> run(fs::Filesystem* fs) { co_return fs->start_scrub(); }
    };
    if (!pool.run(Start::run(&pool.fs())).has_value()) return 1;
    while (pool.fs().scrub_report().state == fs::ScrubState::kRunning)
      pool.executor.run_for(std::chrono::milliseconds{1});
    return pool.fs().scrub_report().counts.copies_bad;
  }

  // Mounts what is left and compares; true if it is legal. What a mount has shown stays: `second`, the
  // recording of this one, is told.
  bool judge(const Recording& recording, std::uint32_t moment, SimPool& pool,
             const std::vector<std::size_t>& away, Recording* second) {
    std::size_t least = Recording::at(recording.durable, moment);
    std::size_t most = Recording::at(recording.begun, moment);
    if (recording.shown && moment >= recording.shown->event)
      least = most = recording.shown->operations;
    const Result<void> mounted = pool.mount(away);
    const std::uint32_t shown = second != nullptr ? second->trace.now() : 0;
    std::optional<std::size_t> is;
    std::string what;
    if (!mounted.has_value()) {
      what =
          fmt::format("it cannot be mounted: {} {}", describe(mounted.error()), pool.problem.text);
    } else if (const Result<std::string> found = pool.dump(); !found.has_value()) {
      what = fmt::format("it cannot be read: {}", describe(found.error()));
    } else {
      for (std::size_t i = least; i <= most; ++i) {
        if (recording.trees[i] == *found) is = i;
      }
      if (!is) {
        what = fmt::format("durable, operation {}:\n{}newest, operation {}:\n{}found:\n{}", least,
                           recording.trees[least], most, recording.trees[most], *found);
      } else if (const auto tree = pool.run(pool.fs().check_tree()); !tree.has_value()) {
        what = fmt::format("check cannot read: {}", describe(tree.error()));
      } else if (tree->problem_count != 0) {
        what = fmt::format("check says: {}", tree->problems.front());
      } else if (away.empty() && !recording.disk_was_away) {
        // The dump has read one copy of each block; now and then all of them are looked at.
        std::uint64_t wrong = pool.fs().store().metrics().checksum_errors.sum();
        if (wrong == 0 && counts.states % 4 == 0) wrong = bad_copies(pool);
        if (wrong != 0) what = "a copy of a block is wrong";
      }
    }
    if (what.empty()) {
      if (second != nullptr) second->shown = Recording::Moment{shown, *is};
      return true;
    }
    if (counts.bad++ == 0) {
      counts.first_bad =
          fmt::format("{}\nseed {}, power gone after event {} of {}{}:\n{}", recording.text,
                      recording.seed, moment, recording.trace.now(),
                      away.empty() ? "" : fmt::format(", disk {} away", away[0]), what);
    }
    return false;
  }

  std::mt19937_64 generator_;
  const std::uint64_t per_recording_;
  unsigned depth_ = 0;
  std::uint64_t serial_ = 0;  // of enumerations: the same writes by number are others
  std::unordered_set<std::uint64_t> seen_;
};

}  // namespace dynamicfs::test
