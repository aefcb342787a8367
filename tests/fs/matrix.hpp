// One run of the matrix: a pool under some policy, disks that are lost at some moment of what it does, and
// the daemon killed or the power cut anywhere. All of it follows from a seed.
//
// Expected  Within what the policy tolerates: every mount succeeds, what is read is the tree as it was after some number of
//           operations, not fewer than were synced; `check` is clean; in the end all redundancy is there again.
//           Beyond it: what is read is right or an error, and when the disks are back all of it is.
// Weak      A disk is, from the moment it is lost until everything is whole again, also when it is back: it lacks what
//           was written meanwhile.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <set>

#include <fmt/ranges.h>

#include "extent/extent_format.hpp"
#include "journal/superblock.hpp"
#include "tests/fs/matrix_tree.hpp"
#include "tests/support/done.hpp"

namespace dynamicfs::test {

enum class Moment : std::uint8_t {
  kIdle,
  kWriting,
  kRebuild,
  kDrain,
  kReencode,
  kCheckpoint,
  kCount
};
inline constexpr const char* kMomentNames[] = {"idle",  "writing",   "rebuild",
                                               "drain", "re-encode", "checkpoint"};
inline constexpr const char* kMatrixPolicies[] = {"single", "replica:2", "replica:3", "ec:2+1",
                                                  "ec:4+2"};

// What the seeds have come to, so that a test can see that everything has been tried.
struct MatrixCounts {
  std::map<std::string, std::uint64_t> runs;  // by policy and moment
  std::uint64_t lost = 0;                     // disks, in the middle of something
  std::uint64_t seconds = 0;                  // ... while another was weak, within the tolerance
  std::uint64_t beyond = 0;                   // ... and more than is tolerated
  std::uint64_t missing = 0;                  // disks that did not come back with the power
  std::uint64_t stale = 0;                    // disks that came back
  std::uint64_t kills = 0;
  std::uint64_t cuts = 0;
  std::uint64_t recoveries_cut = 0;
  std::uint64_t rebuilt = 0;  // disks that have left, lost or drained
  std::uint64_t without = 0;  // mounts without as many disks as are tolerated, in the end
};

class MatrixRun {
 public:
  MatrixRun(std::uint64_t seed, MatrixCounts& counts)
      : seed_(seed), counts_(counts), random_(seed * 0x9e3779b97f4a7c15 + 1) {
    choose();
  }
  ~MatrixRun() { pool_.reset(); }
  MatrixRun(const MatrixRun&) = delete;
  MatrixRun& operator=(const MatrixRun&) = delete;

  // Throws Violation.
  void run();
  // What was chosen and done so far.
  const std::string& story() const { return story_; }

 private:
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  static constexpr std::size_t kBytesMax = 5 * kMiB;

  struct Doom {  // of a disk
    std::size_t disk = 0;
    std::uint64_t at = kNever;  // device operations of all disks
    bool by_errors = false;
    bool done = false;
  };
  struct Stop {
    std::uint64_t at = kNever;
    bool kill = false;
    bool done = false;
  };

  // Choices.
  void choose();
  std::uint64_t draw(std::uint64_t below) { return random_() % below; }
  bool chance(unsigned percent) { return draw(100) < percent; }
  template <class... A>
  void say(fmt::format_string<A...> format, A&&... arguments) {
    story_ += fmt::format(format, std::forward<A>(arguments)...) + "\n";
  }
  [[noreturn]] void fail(const std::string& why) const { throw Violation(why); }
  void need(const Result<void>& result, const char* what) const {
    if (!result.has_value()) fail(fmt::format("{}: {}", what, describe(result.error())));
  }

  // Disks.
  void make_pool();
  void tick();
  void strike(Doom& doom);
  void stop_now();
  void doom(std::size_t disk, std::uint64_t after);
  void stop_after(std::uint64_t operations);
  std::uint64_t some_operations();
  DiskId id(std::size_t disk) const { return ids_.at(disk); }
  unsigned tolerance() const;  // of data, whatever is being encoded anew
  // Data may be missing now.
  bool beyond() const;
  std::vector<std::size_t> candidates() const;  // disks that are here and not weak
  std::size_t pick(const std::vector<std::size_t>& from) { return from.at(draw(from.size())); }
  void lose(std::size_t disk);
  bool is_leaving(std::size_t disk);
  void add_disk();
  // Those that are no part of the pool (any more), as the newest superblock has it.
  std::vector<std::size_t> strangers();
  void mount_again();
  // False: refused, because disks are missing, and more than is tolerated.
  bool try_mount();
  void mount_without_all();
  // What is left of a daemon that has been stopped goes.
  void leave();
  void note_left();

  // Operations.
  void step(const std::string& name, Tree next, const std::function<Result<void>()>& real);
  void operate();
  void write(const std::string& name);
  void sync(const std::string& name);
  std::string any_name();
  std::string any_file();
  void wait(Duration time) { pool_->executor.run_for(time); }
  void verify(const char* where);
  void remove_what_is_gone();
  std::optional<FoundTree> look(const char* where);
  void verify_recovered(const char* where);
  void check_whole_now(const char* where);

  // The run.
  void fill();
  void begin_moment();
  void act();
  void end_in_time();
  void settle();
  bool is_whole();
  std::string state();
  // There are disks enough for all policies, and for `more` to be lost.
  void make_possible(std::size_t more);
  void set_policy_of(const std::string& path, const std::string& policy);
  void prove_redundancy();
  void check_scrub();
  void check_slots(const char* where);
  void check_empty();

  const std::uint64_t seed_;
  MatrixCounts& counts_;
  std::mt19937_64 random_;
  std::string story_;

  std::string policy_;
  std::vector<journal::Policy> in_force_;  // and those that some data may still be under
  Moment moment_ = Moment::kIdle;
  std::vector<std::uint64_t> sizes_;
  bool own_directory_ = false;  // safe/ is replica:2

  std::unique_ptr<SimPool> pool_;
  std::map<std::size_t, scheduler::SimulatedDisk*> device_;  // by index, of this mount
  std::map<std::size_t, DiskId> ids_;
  std::set<std::size_t> gone_;     // lost, and not back
  std::set<std::size_t> stale_;    // back, and something may be missing there
  std::set<std::size_t> lacking_;  // of these and those: the pool has gone on without it
  std::set<std::size_t> left_;     // the pool
  // More was lost than is tolerated of some files, and the pool goes on, as its metadata and other files tolerate it. What
  // changed since the last sync may have been on that disk alone, perhaps in its cache, and be gone for good; a
  // sync behind that succeeds all the same, and is not counted here.
  bool risky_ = false;
  std::set<std::string> at_risk_;  // those files, at the next mount
  std::uint64_t operations_ = 0;
  std::vector<Doom> dooms_;
  Stop stop_;
  bool live_ = false;        // mounted, and the daemon lives
  bool live_known_ = false;  // has been once
  Timeline timeline_;
  std::map<std::string, std::size_t> changed_by_;
  std::uint64_t text_ = 0;
  std::deque<std::optional<Result<void>>> background_;
};

}  // namespace dynamicfs::test
