// A pool that keeps sorted runs, and slots for them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "journal/run_cursor.hpp"
#include "journal/run_format.hpp"
#include "journal/run_set.hpp"
#include "tests/journal/sim_pool.hpp"

namespace dynamicfs::test {

// Gives slots from the front of each disk and checks that none is given back twice.
class CountingSlots final : public journal::SlotSource {
 public:
  std::optional<SlotId> take_run_slot(DiskId disk) override {
    auto& taken = taken_[disk];
    if (taken.size() >= slots_max) return std::nullopt;
    // Not in order, as in a disk that has been used.
    std::uint32_t number = 0;
    while (std::ranges::find(taken, SlotId{number ^ 1}) != taken.end()) ++number;
    taken.push_back(SlotId{number ^ 1});
    return taken.back();
  }
  void drop_run_slots(DiskId disk, std::span<const SlotId> slots) override {
    for (const SlotId slot : slots) CHECK(std::erase(taken_[disk], slot) == 1);
  }
  std::size_t taken(unsigned disk) {
    return taken_[DiskId{static_cast<std::uint16_t>(disk)}].size();
  }

  std::size_t slots_max = 8;

 private:
  std::map<DiskId, std::vector<SlotId>> taken_;
};

using Entries = std::map<std::string, std::string>;

// Keys belong together if their first eight bytes are the same; shorter ones are in no filter.
inline std::optional<std::uint64_t> hash_of_group(std::span<const std::byte> key) {
  if (key.size() < 8) return std::nullopt;
  return load<std::uint64_t>(key.data());
}

struct RunPool : SimPool {
  explicit RunPool(std::size_t disk_count, std::uint64_t seed = 9,
                   std::uint64_t disk_bytes = 64 * kMiB)
      : SimPool(seed, options(disk_count, disk_bytes)) {
    REQUIRE(format().has_value());
    REQUIRE(boot().has_value());
  }
  static Options options(std::size_t disk_count, std::uint64_t disk_bytes) {
    Options out = replicas(disk_count);
    out.disk_bytes.assign(disk_count, disk_bytes);
    return out;
  }
  static std::vector<DiskId> two() { return {DiskId{0}, DiskId{1}}; }

  static Task<Result<journal::RunRef>> write(journal::RunWriter& writer, const Entries& entries) {
    for (const auto& [key, value] : entries) {
      CO_TRY(co_await writer.add(as_bytes(key), as_bytes(value)));
    }
    auto finished = co_await writer.finish();
    co_return finished;
  }
  Result<journal::RunRef> write_run(const Entries& entries, std::vector<DiskId> on = two(),
                                    std::uint64_t run_id = 42) {
    journal::RunWriter writer{*pool, slots, run_id, std::move(on), hash_of_group};
    return executor.run(write(writer, entries));
  }
  Result<journal::RunReadReport> read_run(const journal::RunRef& run) {
    found.clear();
    return executor.run(
        journal::read_run(*pool, run,
                          [this](journal::RunEntryKind kind, std::span<const std::byte> key,
                                 std::span<const std::byte> value) -> Result<void> {
                            CHECK(kind == journal::RunEntryKind::kValue);
                            if (!found.empty()) CHECK(found.rbegin()->first < as_text(key));
                            found.emplace_hint(found.end(), as_text(key), as_text(value));
                            return {};
                          }));
  }
  std::uint64_t place(const journal::RunRef& run, std::size_t copy, std::uint64_t at) {
    return journal::run_offset(*pool, run.copies[copy], at);
  }

  CountingSlots slots;
  Entries found;
};

// What one run says: of keys, nothing meaning deleted, and of prefixes that it deletes.
struct Layer {
  std::map<std::string, std::optional<std::string>> keys;
  std::set<std::string> prefixes;
};
using Layers = std::vector<Layer>;  // newest first

// What layers say together of low <= key < high, as a cursor that begins with `low` should: it does
// not know of prefixes below.
inline Entries live(const Layers& layers, const std::string& low = "",
                    const std::string& high = "") {
  Entries entries;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    for (const std::string& prefix : layer->prefixes) {
      if (prefix < low) continue;
      std::erase_if(entries, [&](const auto& entry) { return entry.first.starts_with(prefix); });
    }
    for (const auto& [key, value] : layer->keys) {
      if (value) {
        entries[key] = *value;
      } else {
        entries.erase(key);
      }
    }
  }
  std::erase_if(entries, [&](const auto& entry) {
    return entry.first < low || (!high.empty() && entry.first >= high);
  });
  return entries;
}

// A pool with an open set of runs, and what those should say.
struct RunSetPool : RunPool {
  using Mode = journal::RunCursor::Mode;
  using RunPointer = std::shared_ptr<const journal::Run>;

  explicit RunSetPool(std::uint64_t seed = 9, std::uint64_t cache_bytes = 4 * kMiB)
      : RunPool(2, seed, 512 * kMiB),
        set(std::make_unique<journal::RunSet>(executor, *pool, cache_bytes)) {
    slots.slots_max = 100;
    set->on_retired([this](const journal::RunRef& run) {
      retired.push_back(run.id);
      for (const journal::RunCopy& copy : run.copies) slots.drop_run_slots(copy.disk, copy.slots);
    });
  }
  ~RunSetPool() { executor.run_until_idle(); }
  RunSetPool(const RunSetPool&) = delete;
  RunSetPool& operator=(const RunSetPool&) = delete;

  journal::RunWriter writer() { return {*pool, slots, next_run++, two(), hash_of_group}; }
  static Task<Result<journal::RunRef>> write(journal::RunWriter& writer, const Layer& layer) {
    auto prefix = layer.prefixes.begin();
    for (const auto& [key, value] : layer.keys) {
      for (; prefix != layer.prefixes.end() && *prefix <= key; ++prefix) {
        CO_TRY(co_await writer.add_prefix_deletion(as_bytes(*prefix)));
      }
      if (value) {
        CO_TRY(co_await writer.add(as_bytes(key), as_bytes(*value)));
      } else {
        CO_TRY(co_await writer.add_deletion(as_bytes(key)));
      }
    }
    for (; prefix != layer.prefixes.end(); ++prefix) {
      CO_TRY(co_await writer.add_prefix_deletion(as_bytes(*prefix)));
    }
    auto finished = co_await writer.finish();
    co_return finished;
  }
  journal::RunRef write(const Layer& layer) {
    journal::RunWriter made = writer();
    return executor.run(write(made, layer)).value();
  }
  RunPointer open(const journal::RunRef& run) { return executor.run(set->open_run(run)).value(); }
  // The newest run from now on says this.
  RunPointer add(Layer layer) {
    RunPointer run = open(write(layer));
    set->install(run, {});
    layers.insert(layers.begin(), std::move(layer));
    return run;
  }
  // As after a mount.
  Result<void> open_anew(std::uint64_t cache_bytes = 4 * kMiB) {
    journal::Manifest manifest;
    manifest.next_run = next_run;
    for (const auto& run : *set->runs()) manifest.runs.push_back(run->ref());
    set = std::make_unique<journal::RunSet>(executor, *pool, cache_bytes);
    return executor.run(set->open(manifest));
  }

  static Task<Result<Entries>> collect(journal::RunCursor& cursor) {
    Entries entries;
    for (;;) {
      CO_TRY_ASSIGN(const bool more, co_await cursor.next());
      if (!more) co_return entries;
      const std::string key{as_text(cursor.key())};
      if (!entries.empty()) CHECK(entries.rbegin()->first < key);
      entries.emplace_hint(entries.end(), key, as_text(cursor.value()));
    }
  }
  static Bytes bytes_of(std::string_view text) {
    const auto bytes = as_bytes(text);
    return {bytes.begin(), bytes.end()};
  }
  Result<Entries> range(std::string_view low, std::string_view high, Mode mode = Mode::kCached,
                        std::optional<std::uint64_t> hash = {}) {
    journal::RunCursor cursor{*set, set->runs(), bytes_of(low), bytes_of(high), mode, hash};
    return executor.run(collect(cursor));
  }
  // A point look-up.
  Result<Entries> look_up(const std::string& key) {
    return range(key, key + '\0', Mode::kCached, hash_of_group(as_bytes(key)));
  }
  std::uint64_t device_reads() const {
    return disks[0]->metrics().reads.sum() + disks[1]->metrics().reads.sum();
  }

  std::unique_ptr<journal::RunSet> set;
  std::uint64_t next_run = 1;
  Layers layers;
  std::vector<std::uint64_t> retired;
};

// Keys of a few groups, with suffixes of which one is often a prefix of another.
struct RandomLayers {
  explicit RandomLayers(std::uint64_t seed) : random(seed) {}

  std::size_t below(std::size_t bound) { return random() % bound; }
  static std::string group(std::size_t number) { return fmt::format("group{:03}", number); }
  std::string key() {
    std::string out = group(below(6));
    for (std::size_t i = below(6); i > 0; --i) out += static_cast<char>('a' + below(3));
    return out;
  }
  Layer layer() {
    Layer out;
    const std::size_t keys = below(400);
    for (std::size_t i = 0; i < keys; ++i) {
      if (below(4) == 0) {
        out.keys[key()] = std::nullopt;
      } else {
        out.keys[key()] =
            std::string(below(below(8) == 0 ? 9000 : 200), static_cast<char>('A' + below(26)));
      }
    }
    for (std::size_t i = below(5); i > 0; --i) out.prefixes.insert(key());
    return out;
  }

  std::mt19937_64 random;
};

}  // namespace dynamicfs::test
