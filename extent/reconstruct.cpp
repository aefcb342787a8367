// Data that cannot be read where it lies, computed from the rest of its rows.
#include <algorithm>
#include <cstring>
#include <optional>

#include "base/assert.hpp"
#include "base/crc32c.hpp"
#include "extent/read_plan.hpp"
#include "extent/store_impl.hpp"

namespace dynamicfs::extent {
namespace {

// A column of the rows that are needed, other than the one that is missing.
struct Source {
  std::size_t column = 0;
  const Place* place = nullptr;
  const PoolView::DiskEntry* entry = nullptr;
  std::shared_ptr<Buffer> memory;
  std::byte* bytes = nullptr;  // null: not here
};

// More choices of columns than this are not tried for a block: this thread has other reads to serve.
constexpr unsigned kChoicesMax = 500;

// Which of its sources to take for a block: `count` of them, any choice once.
class Choices {
 public:
  Choices(std::size_t from, std::size_t count) : chosen_(from, false) {
    std::fill_n(chosen_.begin(), count, true);
  }
  bool next() {
    return ++tried_ < kChoicesMax && std::prev_permutation(chosen_.begin(), chosen_.end());
  }
  bool operator[](std::size_t i) const { return chosen_[i]; }

 private:
  std::vector<bool> chosen_;
  unsigned tried_ = 0;
};

}  // namespace

// Fills the part of `plan->out` that is `fetch`'s. What was found bad on a disk and is right now goes to the
// repairs; what cannot be had to `lost`.
Task<void> Store::Impl::reconstruct(std::shared_ptr<const PoolView> disks, ReadPlan* plan,
                                    Fetch fetch, InodeId inode, scheduler::IoClass io_class,
                                    std::vector<Fetch>* lost) {
  const ParityGroup& group = *fetch.chunk->group();
  const std::size_t missing = fetch.chunk->column();
  const std::size_t data = group.data_columns();
  const std::size_t bytes = fetch.count * kBlockBytes;

  std::vector<Source> sources;
  for (std::size_t column = 0; column < group.width(); ++column) {
    if (column == missing) continue;
    Source source;
    source.column = column;
    source.place = &group.places[column];
    source.entry = disks->find(source.place->disk);
    source.bytes = find_read(*plan, group, column, fetch.block, fetch.count);
    const bool here = source.entry != nullptr && source.entry->disk != nullptr;
    if (here || source.bytes != nullptr) sources.push_back(std::move(source));
  }
  // What is here first, then disks that answer and have been here all the time.
  std::ranges::stable_sort(sources, {}, [](const Source& source) {
    if (source.bytes != nullptr) return 0;
    return 1 + (source.entry->stale_since.raw != 0 ? 1 : 0) +
           (source.entry->disk->latency().suspect() ? 2 : 0);
  });

  // As many as it takes, and another for each that cannot be read.
  std::size_t have = 0;
  std::size_t next = 0;
  const auto fetch_more = [&](std::size_t wanted, scheduler::IoGroup& io,
                              std::vector<std::size_t>& asked) {
    for (; next < sources.size() && have + asked.size() < wanted; ++next) {
      Source& source = sources[next];
      if (source.bytes != nullptr) {
        ++have;
        continue;
      }
      source.memory = std::make_shared<Buffer>(bytes);
      io.read(*source.entry->disk, io_class,
              PoolView::offset_of(*source.entry, source.place->slot, fetch.block),
              source.memory->span(), source.memory);
      asked.push_back(next);
    }
  };
  std::vector<std::uint32_t> crcs(fetch.count);
  const std::span<std::byte> into = part(*plan, fetch);
  const auto is_good = [&](std::uint32_t block) {
    return crcs[block] == plan->set.crcs[fetch.crc_index + block];
  };
  std::vector<bool> good(fetch.count, false);
  std::size_t good_count = 0;
  // First from as many columns as there are of data; if that is wrong, another column may be, so all.
  for (const std::size_t wanted : {data, group.width() - 1}) {
    while (have < std::min(wanted, sources.size())) {
      scheduler::IoGroup io;
      std::vector<std::size_t> asked;
      fetch_more(wanted, io, asked);
      if (asked.empty()) break;
      co_await io.run();
      for (std::size_t i = 0; i < asked.size(); ++i) {
        Source& source = sources[asked[i]];
        if (io.error(i).code == Code::kOk) {
          source.bytes = source.memory->data();
          ++have;
          continue;
        }
        if (io.error(i).code == Code::kDiskGone) {
          const auto reported =
              co_await pool.report_failure(source.place->disk, io.error(i), &io.disk(i));
          reported.ignore("the other columns decide");
        }
      }
    }
    std::vector<const Source*> arrived;
    for (const Source& source : sources) {
      if (source.bytes != nullptr) arrived.push_back(&source);
    }
    if (arrived.size() < data) break;
    Choices choices(arrived.size(), data);
    do {
      std::vector<std::size_t> given;
      std::vector<std::byte*> columns(group.width());
      for (std::size_t i = 0; i < arrived.size(); ++i) {
        if (!choices[i]) continue;
        given.push_back(arrived[i]->column);
        columns[arrived[i]->column] = arrived[i]->bytes;
      }
      // All at once first, then what is still wrong, block by block.
      const std::size_t wanted_column[] = {missing};
      if (good_count == 0) {
        columns[missing] = into.data();
        group.codec->reconstruct(bytes, given, wanted_column, columns);
        crc32c_blocks(into, crcs);
        for (std::uint32_t block = 0; block < fetch.count; ++block) good[block] = is_good(block);
      } else {
        for (std::uint32_t block = 0; block < fetch.count; ++block) {
          if (good[block]) continue;
          std::vector<std::byte*> at = columns;
          for (const std::size_t column : given) at[column] += block * kBlockBytes;
          at[missing] = into.data() + block * kBlockBytes;
          group.codec->reconstruct(kBlockBytes, given, wanted_column, at);
          crc32c_blocks(into.subspan(block * kBlockBytes, kBlockBytes),
                        std::span{crcs}.subspan(block, 1));
          good[block] = is_good(block);
        }
      }
      good_count = static_cast<std::size_t>(std::ranges::count(good, true));
    } while (good_count < fetch.count && arrived.size() > data && choices.next());
    if (good_count == fetch.count) break;
  }

  for (std::uint32_t from = 0; from < fetch.count;) {
    std::uint32_t to = from + 1;
    while (to < fetch.count && good[to] == good[from]) ++to;
    Fetch run = fetch;
    run.at += from;
    run.block += from;
    run.crc_index += from;
    run.count = to - from;
    const bool right = good[from];
    from = to;
    if (!right) {
      lost->push_back(run);
      continue;
    }
    metrics.blocks_reconstructed.add(run.count);
    plan->done.push_back(run);
    if (run.bad == 0) continue;
    count_damage(*plan, run, inode);
    plan->repairs.push_back(run);
  }
}

}  // namespace dynamicfs::extent
