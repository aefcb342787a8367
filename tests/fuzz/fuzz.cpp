// A process of the model-checking fuzzer: one worker on one directory, told by lines on standard
// input what to do, answering each with a line on standard output.
//
//   run SECONDS   does random steps for so long        ok STEPS, or gone STEPS if the daemon died
//   steps N       does steps up to number N            likewise
//   verify        compares everything with the model   ok STEPS
//   recover       looks what a kill has left           ok STEPS
//
// After each it has nothing open. What is wrong is `FAIL` and a line, then the whole report, and
// the end. tests/mount/fuzz.py runs several of these on a pool; by hand, on any directory:
//
//   printf 'steps 20000\nverify\n' | fuzz files --root /mnt/pool/one --seed 7
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "tests/fuzz/common_worker.hpp"
#include "tests/fuzz/file_worker.hpp"
#include "tests/fuzz/name_worker.hpp"
#include "tests/fuzz/shared_worker.hpp"

namespace dynamicfs::fuzz {
namespace {

std::unique_ptr<Worker> make_worker(const std::string& role, const Options& options) {
  if (role == "files") return std::make_unique<FileWorker>(options);
  if (role == "shared") return std::make_unique<SharedWorker>(options);
  if (role == "names") return std::make_unique<NameWorker>(options);
  if (role == "common") return std::make_unique<CommonWorker>(options);
  return nullptr;
}

// Steps until `is_over()`; false if the daemon went away before.
template <class IsOver>
bool run(Worker& worker, IsOver is_over) {
  bool gone = false;
  try {
    while (!is_over()) worker.run_step();
  } catch (const DaemonGone&) {
    gone = true;
  }
  worker.rest();
  return !gone;
}

void obey(Worker& worker, const std::string& line) {
  std::istringstream words{line};
  std::string command;
  double number = 0;
  words >> command >> number;
  bool is_there = true;
  if (command == "run") {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>{number};
    is_there = run(worker, [end] { return std::chrono::steady_clock::now() >= end; });
  } else if (command == "steps") {
    is_there =
        run(worker, [&worker, number] { return static_cast<double>(worker.steps()) >= number; });
  } else if (command == "verify") {
    worker.verify();
  } else if (command == "recover") {
    worker.recover();
  } else {
    throw Violation("no such command: " + line);
  }
  fmt::print("{} {}\n", is_there ? "ok" : "gone", worker.steps());
  std::fflush(stdout);
}

int serve(const std::string& role, const Options& options) {
  try {
    const std::unique_ptr<Worker> worker = make_worker(role, options);
    fmt::print("ok 0\n");
    std::fflush(stdout);
    std::string line;
    while (std::getline(std::cin, line)) obey(*worker, line);
    return 0;
  } catch (const DaemonGone&) {
    fmt::print("FAIL the daemon is gone\n");
  } catch (const std::exception& error) {
    fmt::print("FAIL {}\n", error.what());
  }
  std::fflush(stdout);
  return 1;
}

}  // namespace
}  // namespace dynamicfs::fuzz

int main(int argc, char** argv) {
  dynamicfs::fuzz::Options options;
  std::string role;
  CLI::App app{"One process of the model-checking fuzzer"};
  app.add_option("role", role, "files, shared, names or common")
      ->required()
      ->check(CLI::IsMember({"files", "shared", "names", "common"}));
  app.add_option("--root", options.root, "the directory to work in; made if it is not there")
      ->required();
  app.add_option("--seed", options.seed, "of all choices");
  app.add_option("--worker", options.worker, "our number among those who share the directory");
  app.add_option("--workers", options.workers, "how many they are")->check(CLI::Range(1, 8));
  app.add_option("--memory", options.memory, "a file that they share as memory (shared, common)");
  app.add_option("--ballast", options.ballast, "files beside, to fill memory for metadata (names)");
  app.add_flag("--crash", options.crash, "the daemon may be killed");
  app.add_flag("--exact", options.exact, "only what the daemon is handed one by one (files)");
  app.add_flag("--damaged", options.damaged,
               "do a wrong thing now and then, which must be noticed");
  CLI11_PARSE(app, argc, argv);
  return dynamicfs::fuzz::serve(role, options);
}
