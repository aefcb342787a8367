// The maps that say which blocks of a file are where: look-ups, publishes, allocation, memory; and the
// same look-ups in other stores. tools/bench/extent_bench builds and runs it.
//
// All cases run once in each round, the compared ones side by side, so that what the machine does
// besides meets all of them; the table at the end has medians over the rounds, and of ratios within a
// round. Where others use the machine, processor time says more than the clock does: it is what a
// thing costs, whoever had the processor in between. It leaves out waiting for a lock. A case runs for a fixed time on all its threads, so a thread that was kept waiting does not
// leave the others without work. A look-up is shorter than the clock can tell: 64 are timed together,
// and p50 and p99 are those of the mean of such a batch. Positions are drawn as one goes.
//
//   bench_extent [--quick] [--rounds=N] [--seconds=S] [--lines] [--benchmark_filter=REGEX]

#include <benchmark/benchmark.h>

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "base/hash.hpp"
#include "extent/read_plan.hpp"
#include "tools/bench/extent_files.hpp"
#include "tools/bench/extent_space.hpp"
#include "tools/bench/extent_table.hpp"

namespace dynamicfs::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kBatch = 64;

struct Options {
  bool quick = false;
  bool lines = false;
  int rounds = 0;
  double seconds = 0;
};
Options options;  // NOLINT: set by main() once

Figures figures;  // NOLINT: of the first thread of each case

// Positions in a file, and whatever else is drawn.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : state_(mix(seed)) {}
  // `end` is less than 2^32.
  std::uint64_t below(std::uint64_t end) {
    state_ += 0x9e3779b97f4a7c15;
    return (mix(state_) >> 32) * end >> 32;
  }

 private:
  std::uint64_t state_;
};

std::uint64_t seed_of(const benchmark::State& state) {
  static std::atomic<std::uint64_t> runs{0};
  return runs.fetch_add(1) * 64 + static_cast<std::uint64_t>(state.thread_index());
}

std::uint64_t thread_cpu_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(used.tv_nsec);
}

// What a thread has measured. One case runs at a time.
struct alignas(64) Lane {
  std::vector<std::uint32_t> batches_ns;
  Clock::time_point start;
  Clock::time_point end;
  std::uint64_t cpu_ns = 0;
};
std::array<Lane, 64> lanes;  // NOLINT: shared by the threads of a case on purpose

// Calls batch() again and again, for a fifth of the time unobserved, and files the figures under
// `name`. It does kBatch things, or `each`.
template <class F>
void measure(benchmark::State& state, const std::string& name, F batch, std::size_t each = kBatch) {
  Lane& lane = lanes[static_cast<std::size_t>(state.thread_index())];
  lane.batches_ns.clear();
  lane.batches_ns.reserve(1 << 18);
  const auto window =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  for ([[maybe_unused]] auto _ : state) {
    for (const auto begun = Clock::now(); Clock::now() - begun < window / 5;) batch();
    const std::uint64_t cpu_before = thread_cpu_ns();
    lane.start = Clock::now();
    auto before = lane.start;
    while (before - lane.start < window) {
      batch();
      const auto now = Clock::now();
      const auto took = static_cast<std::uint64_t>((now - before).count());
      lane.batches_ns.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(took, ~0u)));
      before = now;
    }
    lane.end = before;
    lane.cpu_ns = thread_cpu_ns() - cpu_before;
    state.SetIterationTime(std::chrono::duration<double>(lane.end - lane.start).count());
  }
  // All threads have left the loop.
  if (state.thread_index() != 0) return;
  std::vector<std::uint32_t> all;
  auto start = lanes[0].start;
  auto end = lanes[0].end;
  double cpu_ns = 0;
  for (int i = 0; i < state.threads(); ++i) {
    const Lane& one = lanes[static_cast<std::size_t>(i)];
    all.insert(all.end(), one.batches_ns.begin(), one.batches_ns.end());
    start = std::min(start, one.start);
    end = std::max(end, one.end);
    cpu_ns += static_cast<double>(one.cpu_ns);
  }
  const auto at = [&](double fraction) {
    const auto index = static_cast<std::size_t>(fraction * static_cast<double>(all.size() - 1));
    std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(index), all.end());
    return all[index] / static_cast<double>(each);
  };
  Figure figure;
  figure.rate =
      static_cast<double>(all.size() * each) / std::chrono::duration<double>(end - start).count();
  figure.cpu_ns = cpu_ns / static_cast<double>(all.size() * each);
  figure.p50_ns = at(0.5);
  figure.p99_ns = at(0.99);
  figures[{name, state.threads()}].push_back(figure);
  state.counters["per_s"] = figure.rate;
  state.counters["cpu_ns"] = figure.cpu_ns;
  state.counters["p50_ns"] = figure.p50_ns;
  state.counters["p99_ns"] = figure.p99_ns;
}

// Made by whoever comes first, kept to the end: every round finds the same.
template <class Key, class T>
class Kept {
 public:
  template <class F>
  T& get(const Key& key, F make) {
    const std::lock_guard lock(mutex_);
    auto& slot = kept_[key];
    if (slot == nullptr) slot = make();
    return *slot;
  }
  template <class F>
  void for_each(F each) {
    for (auto& [key, value] : kept_) each(key, *value);
  }
  void clear() { kept_.clear(); }

 private:
  std::mutex mutex_;
  std::map<Key, std::unique_ptr<T>> kept_;
};

using FileKey = std::tuple<Shape, std::uint64_t, bool>;             // `true`: is written to
Kept<FileKey, OurFile> files;                                       // NOLINT
Kept<std::tuple<std::string, Shape, std::uint64_t>, Other> others;  // NOLINT

OurFile& file(Shape shape, std::uint64_t count, bool written) {
  return files.get({shape, count, written},
                   [&] { return std::make_unique<OurFile>(shape, count); });
}

using Positions = std::array<std::uint64_t, kBatch>;
void draw(Draw& random, std::uint64_t end, Positions& out) {
  for (std::uint64_t& position : out) position = random.below(end);
}

void look_up(benchmark::State& state, const std::string& name, Shape shape, std::uint64_t count) {
  OurFile& in = file(shape, count, false);
  Draw random(seed_of(state));
  Positions positions;
  extent::MappingSet set;
  measure(state, name, [&] {
    draw(random, in.blocks, positions);
    for (const std::uint64_t block : positions) {
      set.clear();
      benchmark::DoNotOptimize(in.map.try_snapshot(FileBlock{block}, 1, set));
      benchmark::ClobberMemory();
    }
  });
}

// As a read of 4 KiB begins: registered for INV-3, the mappings in a plan of its own.
void plan_read(benchmark::State& state, const std::string& name, Shape shape, std::uint64_t count) {
  OurFile& in = file(shape, count, false);
  Draw random(seed_of(state));
  Positions positions;
  measure(state, name, [&] {
    draw(random, in.blocks, positions);
    for (const std::uint64_t block : positions) {
      extent::ReadPlan plan(in.reads);
      benchmark::DoNotOptimize(in.map.try_snapshot(FileBlock{block}, 1, plan.set));
      benchmark::ClobberMemory();
    }
  });
}

void look_up_elsewhere(benchmark::State& state, const std::string& name, const std::string& store,
                       Shape shape, std::uint64_t count) {
  Other& in = others.get({store, shape, count}, [&] {
    return make_other(store, [&](const EachExtent& each) { for_each_extent(shape, count, each); });
  });
  const std::uint64_t end =
      for_each_extent(shape, shape == Shape::kRandom ? count : 0, [](Extent) {});
  const std::uint64_t blocks = end != 0 ? end : count * kExtentBlocksMax;
  Draw random(seed_of(state));
  Positions positions;
  const std::unique_ptr<Reader> reader = in.reader();
  measure(state, name, [&] {
    draw(random, blocks, positions);
    benchmark::DoNotOptimize(reader->look_up(positions));
  });
}

// An extent of a regular file or a block of the other kind is replaced as it is, so that the map
// stays what it was.
std::uint32_t publish_one(OurFile& in, Shape shape, Draw& random) {
  const std::uint32_t blocks = shape == Shape::kBlocks ? 1 : kExtentBlocksMax;
  in.publish(random.below(in.extents) * blocks, blocks);
  return blocks;
}

void publish(benchmark::State& state, const std::string& name, Shape shape, std::uint64_t count) {
  OurFile& in = file(shape, count, true);
  Draw random(seed_of(state));
  measure(state, name, [&] {
    for (std::size_t i = 0; i < kBatch; ++i) publish_one(in, shape, random);
  });
}

void mixed(benchmark::State& state, const std::string& name, Shape shape, std::uint64_t count) {
  OurFile& in = file(shape, count, true);
  Draw random(seed_of(state));
  extent::MappingSet set;
  measure(state, name, [&] {
    for (std::size_t i = 0; i < kBatch; ++i) {
      if (random.below(5) == 0) {
        publish_one(in, shape, random);
      } else {
        set.clear();
        benchmark::DoNotOptimize(in.map.try_snapshot(FileBlock{random.below(in.blocks)}, 1, set));
        benchmark::ClobberMemory();
      }
    }
  });
}

// Time for each block; space that is full is replaced in between.
void allocate(benchmark::State& state, const std::string& name, std::uint32_t blocks) {
  static std::unique_ptr<Space> space;
  static std::vector<extent::Piece> pieces;
  if (state.thread_index() == 0) space = std::make_unique<Space>();
  std::uint64_t first = 0;
  measure(
      state, name,
      [&] {
        for (std::size_t i = 0; i < kBatch; ++i, first += blocks) {
          pieces.clear();
          if (!space->allocate(first, blocks, pieces)) {
            space = std::make_unique<Space>();
            break;
          }
        }
      },
      kBatch * blocks);
  space.reset();
}

// What the machine gives to threads that share nothing.
void arithmetic(benchmark::State& state, const std::string& name) {
  std::uint64_t value = seed_of(state);
  measure(state, name, [&] {
    for (std::size_t i = 0; i < kBatch; ++i) {
      for (int step = 0; step < 8; ++step) value = mix(value);
      benchmark::DoNotOptimize(value);
    }
  });
}

// What the machine's memory gives: steps from one cache line to the next, each at a random place of
// as much memory as the map of so many regular extents takes, each known only after the one before.
void chase(benchmark::State& state, const std::string& name, std::uint64_t count) {
  struct alignas(64) Line {
    std::uint32_t next = 0;
  };
  static std::vector<Line> ring;  // of one thread at a time
  static std::uint64_t made_for = 0;
  if (made_for != count) {
    ring.assign(count * 34 / sizeof(Line), {});
    made_for = count;
    std::vector<std::uint32_t> order(ring.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
    for (std::size_t i = 0; i < order.size(); ++i) {
      ring[order[i]].next = order[(i + 1) % order.size()];
    }
  }
  std::uint32_t at = 0;
  measure(state, name, [&] {
    for (std::size_t i = 0; i < kBatch; ++i) at = ring[at].next;
    benchmark::DoNotOptimize(at);
  });
  ring = {};
  made_for = 0;
}

template <class F>
void add(const std::string& name, const std::vector<int>& threads, F run) {
  auto* const made = benchmark::RegisterBenchmark(
      name.c_str(), [name, run](benchmark::State& state) { run(state, name); });
  made->Iterations(1)->UseManualTime();
  for (const int count : threads) made->Threads(count);
}

void add_all() {
  const std::vector<int> some{1, 2, 64};
  const std::vector<int> all = options.quick ? some : std::vector<int>{1, 2, 4, 8, 16, 64};
  add("arithmetic", all, arithmetic);
  for (const Shape shape : {Shape::kRegular, Shape::kRandom}) {
    for (std::uint64_t count : sizes(options.quick)) {
      const bool compared = count == 100'000 || count == 1'000'000;
      if (shape == Shape::kRegular) {
        add(fmt::format("chase/{}", count), {1},
            [=](auto& state, auto& name) { chase(state, name, count); });
      }
      for (const int threads : all) {
        add(case_name("look_up", shape, count), {threads},
            [=](auto& state, auto& name) { look_up(state, name, shape, count); });
        if (!compared || std::ranges::find(some, threads) == some.end()) continue;
        for (const std::string& store : other_names()) {
          add(case_name(store, shape, count), {threads}, [=](auto& state, auto& name) {
            look_up_elsewhere(state, name, store, shape, count);
          });
        }
      }
    }
    for (std::uint64_t count : {100'000u, 1'000'000u}) {
      add(case_name("plan_read", shape, count), some,
          [=](auto& state, auto& name) { plan_read(state, name, shape, count); });
    }
  }
  for (const Shape shape : {Shape::kRegular, Shape::kBlocks}) {
    for (std::uint64_t count : {100'000u, 1'000'000u}) {
      add(case_name("publish", shape, count), all,
          [=](auto& state, auto& name) { publish(state, name, shape, count); });
      add(case_name("mixed", shape, count), some,
          [=](auto& state, auto& name) { mixed(state, name, shape, count); });
    }
  }
  for (std::uint32_t blocks : {1u, 4u, 256u}) {
    add(fmt::format("allocate/{}", blocks), {1},
        [=](auto& state, auto& name) { allocate(state, name, blocks); });
  }
}

class Quiet final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

int run(int argc, char** argv) {
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--quick") {
      options.quick = true;
    } else if (word == "--lines") {
      options.lines = true;
    } else if (word.starts_with("--rounds=")) {
      options.rounds = std::atoi(argv[i] + 9);
    } else if (word.starts_with("--seconds=")) {
      options.seconds = std::atof(argv[i] + 10);
    } else {
      rest.push_back(argv[i]);
    }
  }
  if (options.rounds <= 0) options.rounds = options.quick ? 3 : 5;
  if (options.seconds <= 0) options.seconds = options.quick ? 0.05 : 0.2;
  int words = static_cast<int>(rest.size());
  benchmark::Initialize(&words, rest.data());
  if (benchmark::ReportUnrecognizedArguments(words, rest.data())) return 4;
  for (const std::string& name : absent_names()) fmt::print("left out, not installed: {}\n", name);
  add_all();
  benchmark::ConsoleReporter lines(benchmark::ConsoleReporter::OO_Tabular);
  Quiet quiet;
  for (int round = 0; round < options.rounds; ++round) {
    fmt::print(stderr, "round {} of {}\n", round + 1, options.rounds);
    benchmark::RunSpecifiedBenchmarks(options.lines
                                          ? static_cast<benchmark::BenchmarkReporter*>(&lines)
                                          : static_cast<benchmark::BenchmarkReporter*>(&quiet));
  }
  std::vector<MapBytes> bytes;
  files.for_each([&](const FileKey& key, OurFile& one) {
    if (std::get<2>(key)) return;
    bytes.push_back({std::get<0>(key), one.extents, one.map.memory_bytes(), one.heap});
  });
  // Before the libraries take their own leave.
  others.clear();
  files.clear();
  print_table(figures, bytes, options.quick);
  return 0;
}

}  // namespace
}  // namespace dynamicfs::bench

int main(int argc, char** argv) { return dynamicfs::bench::run(argc, argv); }
