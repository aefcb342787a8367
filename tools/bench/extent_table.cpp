#include "tools/bench/extent_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "fs/inode_table.hpp"

namespace dynamicfs::bench {
namespace {

// What the targets were written for; more are not made use of here.
constexpr int kProcessors = 2;
constexpr std::uint64_t kSmallFiles = 1'000'000;
constexpr std::array<std::uint64_t, 4> kSizes{10'000, 100'000, 1'000'000, 10'000'000};

std::string short_of(std::uint64_t count) {
  return count >= 1'000'000 ? fmt::format("{} M", count / 1'000'000)
                            : fmt::format("{} K", count / 1000);
}

std::optional<double> median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Table {
 public:
  explicit Table(const Figures& figures) : figures_(figures) {}

  std::optional<double> of(const std::string& name, int threads, double Figure::*what) const {
    std::vector<double> values;
    for (const Figure& figure : rounds(name, threads)) values.push_back(figure.*what);
    return median(values);
  }
  std::optional<double> rate(const std::string& name, int threads) const {
    return of(name, threads, &Figure::rate);
  }
  // Of rates, within a round.
  std::optional<double> ratio(const std::string& name, int threads, const std::string& to,
                              int to_threads) const {
    const auto above = rounds(name, threads);
    const auto below = rounds(to, to_threads);
    std::vector<double> values;
    for (std::size_t i = 0; i < std::min(above.size(), below.size()); ++i) {
      values.push_back(above[i].rate / below[i].rate);
    }
    return median(values);
  }
  // The same by processor time: how much less one of the former costs than one of the latter.
  std::optional<double> thrift(const std::string& name, int threads, const std::string& to,
                               int to_threads) const {
    const auto above = rounds(name, threads);
    const auto below = rounds(to, to_threads);
    std::vector<double> values;
    for (std::size_t i = 0; i < std::min(above.size(), below.size()); ++i) {
      values.push_back(below[i].cpu_ns / above[i].cpu_ns);
    }
    return median(values);
  }
  // Processor time on one thread.
  std::optional<double> ns(const std::string& name) const { return of(name, 1, &Figure::cpu_ns); }
  std::vector<int> threads(const std::string& name) const {
    std::vector<int> found;
    for (const auto& [key, rounds] : figures_) {
      if (key.first == name) found.push_back(key.second);
    }
    return found;
  }

  // A target: nothing is said of what was not measured.
  void at_most(const std::string& what, std::optional<double> value, double limit,
               const char* unit) const {
    if (!value) return;
    const bool met = *value <= limit;
    fmt::print("  {:<8} {}: {:.2f}{}, at most {:.2f}\n", verdict(met, *value, limit), what, *value,
               unit, limit);
  }
  void at_least(const std::string& what, std::optional<double> value, double limit,
                const char* unit) const {
    if (!value) return;
    const bool met = *value >= limit;
    fmt::print("  {:<8} {}: {:.2f}{}, at least {:.2f}\n", verdict(met, *value, limit), what, *value,
               unit, limit);
  }
  // Of rates; `share` divides them. Where the machine was not ours alone, by processor time.
  void scales(const std::string& what, const std::string& name, int threads, int to_threads,
              double share, double limit) const {
    const auto clock = ratio(name, threads, name, to_threads);
    const auto cost = thrift(name, threads, name, to_threads);
    if (!clock || !cost) return;
    const double by_clock = *clock / share;
    // What threads cost does not fall with their number: only the efficiency can be told from it.
    const double by_cost = *cost * static_cast<double>(std::min(threads, kProcessors)) /
                           std::min(to_threads, kProcessors) / share;
    const std::string said =
        by_clock < limit && by_cost >= limit ? "met*" : verdict(by_clock >= limit, by_clock, limit);
    fmt::print("  {:<8} {}: {:.2f} by the clock, {:.2f} by processor time, at least {:.2f}\n", said,
               what, by_clock, by_cost, limit);
  }

 private:
  std::vector<Figure> rounds(const std::string& name, int threads) const {
    const auto found = figures_.find({name, threads});
    return found == figures_.end() ? std::vector<Figure>{} : found->second;
  }
  static std::string verdict(bool met, double value, double limit) {
    return met ? "met" : fmt::format("{:+.0f} %", (value / limit - 1) * 100);
  }
  const Figures& figures_;
};

void print_look_ups(const Table& table, Shape shape, std::uint64_t count) {
  const std::string name = case_name("look_up", shape, count);
  const auto ns = table.ns(name);
  if (!ns) return;
  fmt::print("  {:>6}: {:6.1f} ns (p50 {:6.1f}, p99 {:6.1f});", short_of(count), *ns,
             *table.of(name, 1, &Figure::p50_ns), *table.of(name, 1, &Figure::p99_ns));
  for (const int threads : table.threads(name)) {
    if (threads == 1) continue;
    fmt::print(" {:2} threads {:5.1f} M/s (p50 {:.0f}, p99 {:.0f});", threads,
               *table.rate(name, threads) / 1e6, *table.of(name, threads, &Figure::p50_ns),
               *table.of(name, threads, &Figure::p99_ns));
  }
  if (const auto two = table.ratio(name, 2, name, 1)) fmt::print(" 2 of 1: {:.2f}", *two);
  if (const auto many = table.ratio(name, 64, name, 2)) fmt::print(", 64 of 2: {:.2f}", *many);
  if (const auto plan = table.ns(case_name("plan_read", shape, count))) {
    fmt::print("; as a read begins {:.1f} ns", *plan);
  }
  fmt::print("\n");
}

void print_others(const Table& table, Shape shape, std::uint64_t count) {
  const std::string ours = case_name("look_up", shape, count);
  fmt::print("  {:>6}, {}:", short_of(count), name_of(shape));
  for (const std::string& store : other_names()) {
    const std::string name = case_name(store, shape, count);
    if (const auto ns = table.ns(name)) fmt::print(" {} {:.0f} ns,", store, *ns);
    for (const int threads : {1, 2, 64}) {
      const auto ahead = table.ratio(ours, threads, name, threads);
      if (ahead) fmt::print("{}{:.1f}", threads == 1 ? " ratio " : " / ", *ahead);
    }
    fmt::print(";");
  }
  fmt::print("\n");
}

void print_rates(const Table& table, const std::string& what, const std::string& name) {
  const auto one = table.rate(name, 1);
  if (!one) return;
  fmt::print("  {}: {:.2f} M/s, {:.1f} ns of processor (p50 {:.1f}, p99 {:.1f})", what, *one / 1e6,
             *table.ns(name), *table.of(name, 1, &Figure::p50_ns),
             *table.of(name, 1, &Figure::p99_ns));
  for (const int threads : table.threads(name)) {
    if (threads == 1) continue;
    fmt::print("; {} threads {:.2f} M/s", threads, *table.rate(name, threads) / 1e6);
  }
  fmt::print("\n");
}

void print_targets(const Table& table) {
  const auto machine = table.ratio("arithmetic", 2, "arithmetic", 1);
  const auto crowd = table.ratio("arithmetic", 64, "arithmetic", 2);
  fmt::print(
      "targets; met*: by processor time, where the clock says how much others took (what the "
      "machine gave to threads that share nothing: 2 of 1 thread {:.2f}, "
      "64 of 2 {:.2f})\n",
      machine.value_or(0), crowd.value_or(0));
  for (const Shape shape : {Shape::kRegular, Shape::kRandom}) {
    const std::string kind = name_of(shape);
    table.at_most(kind + ", 100 K", table.ns(case_name("look_up", shape, 100'000)), 50, " ns");
    table.at_most(kind + ", 1 M", table.ns(case_name("look_up", shape, 1'000'000)), 100, " ns");
    for (std::size_t i = 1; i < kSizes.size(); ++i) {
      table.at_most(
          fmt::format("{}, {} beside {}, time", kind, short_of(kSizes[i]), short_of(kSizes[i - 1])),
          table.thrift(case_name("look_up", shape, kSizes[i - 1]), 1,
                       case_name("look_up", shape, kSizes[i]), 1),
          shape == Shape::kRegular ? 1.5 : 2.0, " times");
    }
    for (const std::uint64_t count : kSizes) {
      const std::string name = case_name("look_up", shape, count);
      const std::string what = fmt::format("{}, {}, ", kind, short_of(count));
      table.scales(what + "2 threads, efficiency", name, 2, 1, 2, 0.95);
      table.scales(what + "64 threads beside 2", name, 64, 2, 1, 0.95);
    }
    for (const std::uint64_t count : {100'000u, 1'000'000u}) {
      for (const std::string& store : other_names()) {
        std::optional<double> least;
        for (const int threads : {1, 2, 64}) {
          const auto ahead = table.ratio(case_name("look_up", shape, count), threads,
                                         case_name(store, shape, count), threads);
          if (ahead) least = std::min(*ahead, least.value_or(*ahead));
        }
        table.at_least(fmt::format("{}, {}, beside {}, least of 1, 2, 64 threads", kind,
                                   short_of(count), store),
                       least, 1, " times");
      }
    }
  }
  for (const Shape shape : {Shape::kRegular, Shape::kBlocks}) {
    for (const std::uint64_t count : {100'000u, 1'000'000u}) {
      const std::string what = fmt::format("{}, {}", name_of(shape), short_of(count));
      const std::string both = case_name("mixed", shape, count);
      table.scales("mixed, " + what + ", 2 threads beside 1", both, 2, 1, 1, 1.8);
      const std::string name = case_name("publish", shape, count);
      if (const auto rate = table.rate(name, 1)) {
        table.at_least("publishes, " + what, *rate / 1e6, 1, " M/s");
      }
      table.scales("publishes, " + what + ", 2 threads beside 1", name, 2, 1, 1, 1);
      table.scales("publishes, " + what + ", 64 threads beside 2", name, 64, 2, 1, 0.95);
    }
  }
  table.at_most("allocation, block by block", table.ns("allocate/1"), 50, " ns");
}

// A million files of one block, as they are in memory while they are in use.
void print_small_files() {
  journal::Eras eras;
  extent::MapContext context{eras};
  const std::uint64_t before = heap_bytes();
  std::uint64_t counted = 0;
  {
    fs::InodeTable table;
    extent::Freed freed;
    for (std::uint64_t i = 0; i < kSmallFiles; ++i) {
      auto* const inode = new fs::Inode(InodeId{i + 2});
      inode->map = std::make_unique<extent::FileMap>(context);
      inode->map->put(FileBlock{0}, {{OurFile::piece_of(i, 1)}}, {kCrcs.data(), 1},
                      Generation{i + 1}, freed);
      counted += sizeof *inode + inode->map->memory_bytes();
      table.insert(fs::InodeRef(inode));
    }
    fmt::print(
        "  {} files of one block: {:.0f} bytes each counted, {:.0f} with what malloc() and "
        "the table take ({} of the inode, {} of its map)\n",
        short_of(kSmallFiles), static_cast<double>(counted) / static_cast<double>(kSmallFiles),
        static_cast<double>(heap_bytes() - before) / static_cast<double>(kSmallFiles),
        sizeof(fs::Inode), counted / kSmallFiles - sizeof(fs::Inode));
  }
}

}  // namespace

std::vector<std::uint64_t> sizes(bool quick) {
  return {kSizes.begin(), kSizes.end() - (quick ? 1 : 0)};
}

std::string case_name(const std::string& what, Shape shape, std::uint64_t extents) {
  return fmt::format("{}/{}/{}", what, name_of(shape), extents);
}

void print_table(const Figures& figures, const std::vector<MapBytes>& bytes, bool quick) {
  const Table table(figures);
  fmt::print(
      "look-ups of one block at random positions of a file; p50 and p99 of the means of 64\n");
  for (const Shape shape : {Shape::kRegular, Shape::kRandom}) {
    fmt::print(" {} extents ({} in a window)\n", name_of(shape),
               shape == Shape::kRegular ? "64" : "about 73");
    for (const std::uint64_t count : sizes(quick)) print_look_ups(table, shape, count);
  }
  fmt::print(" one step after the other through as much memory, ns each:");
  for (const std::uint64_t count : sizes(quick)) {
    if (const auto ns = table.ns(fmt::format("chase/{}", count))) {
      fmt::print(" {} {:.0f};", short_of(count), *ns);
    }
  }
  fmt::print("\n");
  fmt::print("beside others (theirs on one thread; ours to theirs with 1 / 2 / 64 threads)\n");
  for (const Shape shape : {Shape::kRegular, Shape::kRandom}) {
    for (const std::uint64_t count : {100'000u, 1'000'000u}) print_others(table, shape, count);
  }
  fmt::print("publishes, and 80 % look-ups with 20 % publishes, in one file\n");
  for (const Shape shape : {Shape::kRegular, Shape::kBlocks}) {
    for (const std::uint64_t count : {100'000u, 1'000'000u}) {
      const std::string what = fmt::format("{} ({} in a window), {}", name_of(shape),
                                           shape == Shape::kRegular ? 64 : 256, short_of(count));
      print_rates(table, "publish, " + what, case_name("publish", shape, count));
      print_rates(table, "mixed, " + what, case_name("mixed", shape, count));
    }
  }
  fmt::print("allocation, for each block of 4 KiB\n");
  for (const std::uint32_t blocks : {1u, 4u, 256u}) {
    print_rates(table, fmt::format("{} at once", blocks), fmt::format("allocate/{}", blocks));
  }
  fmt::print("memory\n");
  for (const MapBytes& one : bytes) {
    const auto each = [&](std::uint64_t all) {
      return static_cast<double>(all) / static_cast<double>(one.extents);
    };
    fmt::print("  {}, {}: {:.1f} bytes for each extent counted, {:.1f} with what malloc() adds\n",
               name_of(one.shape), short_of(one.extents), each(one.counted), each(one.heap));
  }
  if (!bytes.empty() && figures.contains({"arithmetic", 1})) print_small_files();
  print_targets(table);
}

}  // namespace dynamicfs::bench
