// Checks a history of concurrent reads, writes and removals of cells for linearizability: whether all
// operations could have happened one after another, each at some moment between its call and its
// answer, so that every read saw, in all its cells together, what was there at its moment.
//
// Method  Every write has a version of its own, so a read says which write it saw (the "unique values"
//         case of Gibbons and Korach 1997). What must come before what is a graph: real time, a write
//         before who saw it, and, for any other change of a cell that was seen, either before the write
//         or behind the read, as soon as one of both is excluded. A cycle is a violation. The rules are
//         applied until nothing new follows. What remains undecided is not searched: the check misses
//         some violations, and never reports one that is none.
// Zeros   Who removed what is not to be seen. A read of zeros needs a removal, or the beginning, that no
//         write certainly lies behind; if there is just one, that is whom it saw.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace dynamicfs::test {

class History {
 public:
  static constexpr std::uint64_t kToEnd = ~std::uint64_t{0};

  // Cells [first, first + count) of one object.
  struct Operation {
    enum class Kind { kRead, kWrite, kRemove } kind = Kind::kRead;
    std::uint64_t first = 0;
    std::uint64_t count = 0;  // kToEnd: all behind
    std::uint64_t called = 0;
    std::uint64_t answered = 0;
    std::uint64_t version = 0;        // kWrite: not 0, and no other's
    std::vector<std::uint64_t> seen;  // kRead: the version in each cell, 0 for zeros

    bool covers(std::uint64_t cell) const { return cell >= first && cell - first < count; }
  };

  void add(Operation operation) { operations_.push_back(std::move(operation)); }
  std::size_t size() const { return operations_.size(); }

  // Nothing if the history may be right, else what is wrong with it.
  std::optional<std::string> problem() {
    reach_.assign(operations_.size(), std::vector<std::uint64_t>(words(), 0));
    for (std::size_t a = 0; a < operations_.size(); ++a) {
      for (std::size_t b = 0; b < operations_.size(); ++b) {
        if (certainly_before(a, b)) set(a, b);
      }
    }
    std::unordered_map<std::uint64_t, std::size_t> writers;
    for (std::size_t i = 0; i < operations_.size(); ++i) {
      if (operations_[i].kind == Operation::Kind::kWrite)
        writers.emplace(operations_[i].version, i);
    }
    // Each read, with whom it saw in which cell.
    struct Sight {
      std::size_t read;
      std::size_t writer;
      std::uint64_t cell;
    };
    std::vector<Sight> sights;
    for (std::size_t r = 0; r < operations_.size(); ++r) {
      const Operation& read = operations_[r];
      for (std::size_t i = 0; i < read.seen.size(); ++i) {
        const std::uint64_t cell = read.first + i;
        if (read.seen[i] == 0) {
          const auto [possible, removal] = who_removed(r, cell);
          if (possible == 0)
            return fmt::format("{} saw zeros in cell {}, which had been written", name(r), cell);
          if (possible > 1 || !removal) continue;
          sights.push_back({r, *removal, cell});
          if (!order(*removal, r)) return cycle(*removal, r, cell);
          continue;
        }
        const auto writer = writers.find(read.seen[i]);
        if (writer == writers.end() || !operations_[writer->second].covers(cell)) {
          return fmt::format("{} saw version {} in cell {}, which nobody wrote there", name(r),
                             read.seen[i], cell);
        }
        sights.push_back({r, writer->second, cell});
        if (!order(writer->second, r)) return cycle(writer->second, r, cell);
      }
    }
    for (bool more = true; more;) {
      more = false;
      for (const Sight& sight : sights) {
        for (std::size_t m = 0; m < operations_.size(); ++m) {
          if (m == sight.writer || operations_[m].kind == Operation::Kind::kRead ||
              !operations_[m].covers(sight.cell)) {
            continue;
          }
          if (before(m, sight.read) && !before(m, sight.writer)) {
            if (!order(m, sight.writer)) return cycle(m, sight.writer, sight.cell);
            more = true;
          }
          if (before(sight.writer, m) && !before(sight.read, m)) {
            if (!order(sight.read, m)) return cycle(sight.read, m, sight.cell);
            more = true;
          }
        }
      }
    }
    return std::nullopt;
  }

 private:
  std::size_t words() const { return (operations_.size() + 63) / 64; }
  bool before(std::size_t a, std::size_t b) const {
    return (reach_[a][b / 64] >> (b % 64) & 1) != 0;
  }
  void set(std::size_t a, std::size_t b) { reach_[a][b / 64] |= std::uint64_t{1} << (b % 64); }
  bool certainly_before(std::size_t a, std::size_t b) const {
    return operations_[a].answered < operations_[b].called;
  }

  // From now on a is before b, and so is all that is before a; false if b is before a already.
  bool order(std::size_t a, std::size_t b) {
    if (before(a, b)) return true;
    if (a == b || before(b, a)) return false;
    for (std::size_t x = 0; x < operations_.size(); ++x) {
      if (x != a && !before(x, a)) continue;
      set(x, b);
      for (std::size_t w = 0; w < words(); ++w) reach_[x][w] |= reach_[b][w];
    }
    return true;
  }

  // How many may have left the zeros that a read saw, the beginning included; the last of them.
  std::pair<std::size_t, std::optional<std::size_t>> who_removed(std::size_t r,
                                                                 std::uint64_t cell) const {
    // Whether some write lies certainly behind `from` and before the read.
    const auto written_since = [&](std::uint64_t from) {
      return std::any_of(operations_.begin(), operations_.end(), [&](const Operation& write) {
        return write.kind == Operation::Kind::kWrite && write.covers(cell) && write.called > from &&
               write.answered < operations_[r].called;
      });
    };
    std::size_t possible = written_since(0) ? 0 : 1;
    std::optional<std::size_t> last;
    for (std::size_t m = 0; m < operations_.size(); ++m) {
      const Operation& removal = operations_[m];
      if (removal.kind != Operation::Kind::kRemove || !removal.covers(cell) ||
          removal.called > operations_[r].answered || written_since(removal.answered)) {
        continue;
      }
      ++possible;
      last = m;
    }
    return {possible, last};
  }

  std::string name(std::size_t i) const {
    static constexpr const char* kNames[] = {"read", "write", "removal"};
    const Operation& o = operations_[i];
    std::string text =
        fmt::format("{} {} of [{}, +{}) during {} to {}", kNames[static_cast<int>(o.kind)], i,
                    o.first, static_cast<std::int64_t>(o.count), o.called, o.answered);
    if (o.kind == Operation::Kind::kWrite) text += fmt::format(", version {}", o.version);
    return text;
  }
  std::string cycle(std::size_t a, std::size_t b, std::uint64_t cell) const {
    return fmt::format("cell {}: {} must be before {}, and behind it", cell, name(a), name(b));
  }

  std::vector<Operation> operations_;
  std::vector<std::vector<std::uint64_t>> reach_;  // bit b of row a: a is before b
};

}  // namespace dynamicfs::test
