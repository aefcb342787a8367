// Directories in which several processes make, link, move and remove the same names. Who wins is
// not known, but that somebody does: each call succeeds or says why with an error that the others
// explain; as many names are there in the end as were made and not removed; every name leads
// somewhere; link counts are right; and a listing shows what stays exactly once.
//
// Killed daemon  All but the number of names must hold.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "tests/fuzz/worker.hpp"

namespace dynamicfs::fuzz {

class CommonWorker final : public Worker {
 public:
  explicit CommonWorker(const Options& options);
  ~CommonWorker() override;

  void step(Rng& rng) override;
  void rest() override {}
  void verify() override;
  void recover() override;

 private:
  static constexpr unsigned kDirectories = 3;
  static constexpr unsigned kKept = 20;
  static constexpr unsigned kNames = 10;

  std::string directory(unsigned number) const;
  std::string kept(unsigned number) const;
  std::string draw_path(Rng& rng) const;
  void list(unsigned number) const;
  // Looks at all names, and says how many there are without those that stay.
  std::int64_t count_names() const;
  [[noreturn]] void violated(const std::string& what) const;

  std::atomic<std::int64_t>* names_ = nullptr;  // in memory that all share
  OperationLog log_;
};

}  // namespace dynamicfs::fuzz
