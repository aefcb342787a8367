// Policies x moments at which disks are lost x stops of the daemon: see matrix.hpp.
#include "tests/fs/matrix.hpp"

#include <doctest/doctest.h>

#include <chrono>

#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

// The thread sanitizer finds nothing in a simulation, and all sanitizers are slow.
#if defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kMatrixRuns = 30;
#elif defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kMatrixRuns = 90;
#else
constexpr std::uint64_t kMatrixRuns = 600;
#endif

std::uint64_t number_from_environment(const char* name, std::uint64_t fallback) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

}  // namespace

TEST_SUITE("matrix") {
  TEST_CASE(
      "whatever disks are lost, whenever, and whenever it stops, data and redundancy are right") {
    std::optional<Quiet> quiet;
    if (std::getenv("DYNAMICFS_MATRIX_STORY") == nullptr) {
      quiet.emplace();
    } else {
      set_log_level(LogLevel::kInfo);
    }
    const std::uint64_t first = seed_from_environment(1);
    const std::uint64_t runs = number_from_environment("DYNAMICFS_MATRIX_RUNS", kMatrixRuns);
    const bool talks = std::getenv("DYNAMICFS_MATRIX_STORY") != nullptr;
    const auto begun = std::chrono::steady_clock::now();
    MatrixCounts counts;
    std::uint64_t bad = 0;
    for (std::uint64_t seed = first; seed < first + runs; ++seed) {
      CAPTURE(seed);
      MatrixRun run(seed, counts);
      try {
        run.run();
        if (talks) MESSAGE("seed ", seed, "\n", run.story());
      } catch (const Violation& violation) {
        ++bad;
        FAIL_CHECK("seed ", seed, ": ", std::string{violation.what()}, "\n", run.story());
      }
      if (bad == 60) break;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    MESSAGE(runs, " runs from seed ", first, ", ", bad, " bad, in ", took.count(),
            " s: ", counts.lost, " disks lost in the middle of something, ", counts.seconds,
            " of them while another was, ", counts.beyond, " beyond what is tolerated; ",
            counts.missing, " missing when the power came back, ", counts.stale, " back stale, ",
            counts.rebuilt, " left the pool; ", counts.kills, " kills, ", counts.cuts,
            " power cuts, ", counts.recoveries_cut, " of recoveries; ", counts.without,
            " mounts without as many disks as are tolerated; ", counts.told,
            " fsyncs of files of which something is lost");
    CHECK(bad == 0);
    if (runs < 200) return;
    CHECK(counts.runs.size() ==
          std::size(kMatrixPolicies) * static_cast<std::size_t>(Moment::kCount));
    for (const std::uint64_t count :
         {counts.lost, counts.seconds, counts.beyond, counts.missing, counts.stale, counts.kills,
          counts.cuts, counts.recoveries_cut, counts.rebuilt, counts.without})
      CHECK(count > 0);
  }

  TEST_CASE("seeds that have found something once") {
    const Quiet quiet;
    MatrixCounts counts;
    for (const std::uint64_t seed :
         {47u, 256u, 485u, 797u, 1007u, 2578u, 6999u, 23400u, 23435u, 32091u, 101395u, 1041899772u,
          1041913692u, 1041934482u, 2026120247u}) {
      CAPTURE(seed);
      MatrixRun run(seed, counts);
      std::string what;
      try {
        run.run();
      } catch (const Violation& violation) {
        what = violation.what();
      }
      INFO(what);
      INFO(run.story());
      CHECK(what.empty());
    }
  }
}

}  // namespace dynamicfs::test
