// What tests of faults ask of a pool again and again.
#pragma once

#include <doctest/doctest.h>

#include <optional>
#include <string>

#include "base/log.hpp"
#include "tests/fs/sim_pool.hpp"
#include "tests/support/done.hpp"

namespace dynamicfs::test {

// The tree makes sense, and exactly what files have is in use.
inline void check_whole(SimPool& pool) {
  const auto report = pool.run(pool.fs().check_tree());
  const std::string why = report.has_value() ? "" : describe(report.error());
  INFO(why);
  REQUIRE(report.has_value());
  const std::string first = report->problems.empty() ? "" : report->problems.front();
  INFO(first);
  CHECK(report->problem_count == 0);
  CHECK(pool.fs().store().live_blocks() + pool.fs().store().saved_blocks() == report->data_blocks);
  CHECK(pool.fs().store().saved_blocks() == report->saved_blocks);
}

inline void checkpoint(SimPool& pool) {
  const Result<void> result = pool.run(pool.fs().checkpoint());
  const std::string why = result.has_value() ? "" : describe(result.error());
  INFO(why);
  REQUIRE(result.has_value());
}

// The power goes without a word, and comes back.
inline void cut_and_mount(SimPool& pool, const std::vector<std::size_t>& away = {}) {
  pool.power_cut();
  const Result<void> mounted = pool.mount(away);
  INFO(pool.problem.text);
  REQUIRE(mounted.has_value());
}

// What is logged as an error meanwhile is meant.
struct Quiet {
  Quiet() { set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1}); }
  ~Quiet() { set_log_level(LogLevel::kError); }  // as main.cpp has it
};

}  // namespace dynamicfs::test
