// Names of one process: everything that can be done to a tree of files, directories, symlinks and
// links, each answer compared with the model's, errors as well. After fsstress (SGI, 1997).
//
// Killed daemon  All operations are handed over one by one. What comes back must be the tree as it
//                was after one of them, or after the one that was under way, and none earlier than
//                the last one on any directory whose fsync has returned since (INV-5, INV-6).
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "tests/fuzz/name_model.hpp"
#include "tests/fuzz/worker.hpp"

namespace dynamicfs::fuzz {

class NameWorker final : public Worker {
 public:
  explicit NameWorker(const Options& options);

  void step(Rng& rng) override;
  void rest() override { listing_ = {}; }
  void verify() override;
  void recover() override;

 private:
  static constexpr std::size_t kNodesMax = 250;

  // A directory that is being listed while it changes.
  struct Listing {
    UniqueFd fd;
    int directory = -1;
    std::map<std::string, int>
        always;  // names that have been there all the time, as inodes of the model
    std::map<std::string, bool> ever;  // names that have been there at any time
    std::map<std::string, int> seen;   // how often since the start or the last seek
    std::vector<std::pair<std::string, std::int64_t>> cookies;
  };

  NameChange draw(Rng& rng) const;
  std::string draw_name(Rng& rng, int directory) const;
  int call(const NameChange& change) const;
  std::string full(int directory, const std::string& name) const;
  void look_at_one(Rng& rng);
  void list(Rng& rng);
  void note_for_listing();
  void note(const NameChange& change);
  void sync(int directory);
  void make_ballast();
  void check_ballast(std::uint64_t number) const;
  void look_at_ballast(Rng& rng);
  std::string ballast_path(std::uint64_t number) const;
  [[noreturn]] void violated(const std::string& what) const;

  NameModel model_;
  NameModel settled_;  // what is durable
  std::vector<NameChange> since_;
  std::uint64_t settled_count_ = 0;       // how many changes are in `settled_`
  std::map<int, std::uint64_t> changed_;  // how many there were with the last in a directory
  OperationLog log_;
  Listing listing_;
  std::vector<std::uint64_t> ballast_;  // what each file says
};

}  // namespace dynamicfs::fuzz
