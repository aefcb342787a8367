// Mounts for `extract`: pools that no other mount takes, with disks away, the log or the runs damaged.
// What is said without a doubt is right; what is missing is in doubt, or an error.
#include <doctest/doctest.h>

#include <bit>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "journal/run_set.hpp"
#include "tests/fs/cold_metadata.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

SimPoolOptions single_disks(std::size_t count) {
  return {.disk_bytes = std::vector<std::uint64_t>(count, 96 * kMiB),
          .policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = 1}};
}

Result<void> salvage_mount(SimPool& pool, const std::vector<std::size_t>& away = {}) {
  pool.set_salvage(true);
  return pool.mount(away);
}

// A tree of which this knows what should be in it.
class Tree {
 public:
  Tree(SimPool& pool, std::uint64_t seed) : pool_(pool), random_(seed) {
    for (int i = 0; i < kDirectories; ++i) REQUIRE(pool_.mkdir(directory(i)).has_value());
  }
  static std::string directory(int number) { return fmt::format("directory-{}", number); }

  void make(int count) {
    for (int i = 0; i < count; ++i) {
      const std::string path =
          fmt::format("{}/a-name-of-some-length-{}", directory(pick(kDirectories)), ++made_);
      REQUIRE(pool_.create(path).has_value());
      files_[path] = {};
      inodes_[path] = *pool_.resolve(path);
      write(path);
    }
  }
  void change(int count) {
    for (int i = 0; i < count; ++i) {
      const auto at = std::next(files_.begin(), pick(static_cast<int>(files_.size())));
      const std::string path = at->first;
      switch (pick(5)) {
        case 0: {
          REQUIRE(pool_.unlink(path).has_value());
          files_.erase(path);
          break;
        }
        case 1: {
          const std::string other =
              fmt::format("{}/another-name-{}", directory(pick(kDirectories)), ++made_);
          REQUIRE(pool_.rename(path, other).has_value());
          files_[other] = files_[path];
          inodes_[other] = inodes_[path];
          files_.erase(path);
          break;
        }
        case 2: {
          const std::uint64_t size = static_cast<std::uint64_t>(pick(2)) * 50;
          REQUIRE(pool_.truncate(path, size).has_value());
          files_[path].resize(size, '\0');
          if (pick(2) == 0) write(path);
          break;
        }
        default: write(path);
      }
    }
  }

  const std::map<std::string, std::string>& files() const { return files_; }
  InodeId inode(const std::string& path) const { return inodes_.at(path); }

 private:
  static constexpr int kDirectories = 4;

  int pick(int bound) { return static_cast<int>(random_() % static_cast<unsigned>(bound)); }
  // A few bytes, in one of three windows.
  void write(const std::string& path) {
    const std::size_t at = static_cast<std::size_t>(pick(20) == 0 ? pick(3) : 0) * kWindowBytes;
    const std::string text = pattern(random_(), 100);
    REQUIRE(pool_.write(path, at, text).has_value());
    std::string& content = files_[path];
    content.resize(std::max(content.size(), at + text.size()), '\0');
    content.replace(at, text.size(), text);
  }

  SimPool& pool_;
  std::mt19937_64 random_;
  std::map<std::string, std::string> files_;
  std::map<std::string, InodeId> inodes_;  // of removed ones too
  int made_ = 0;
};

// Looks at everything, and finds what is neither right nor in doubt.
class Verdict {
 public:
  explicit Verdict(SimPool& pool) : pool_(pool) {}

  void judge(const Tree& tree) {
    std::map<std::string, std::map<std::string, InodeId>> listed;
    for (const auto& [path, content] : tree.files()) {
      const std::string directory = path.substr(0, path.find('/'));
      if (!listed.contains(directory)) listed[directory] = list(directory);
      const auto found = listed[directory].find(path.substr(path.find('/') + 1));
      if (found == listed[directory].end()) {
        ++missing;
        if (!in_doubt(directory)) wrong.push_back(path + " is missing");
        // As extract does, without its name.
        if (unlisted_.contains(directory)) look(path, tree.inode(path), content);
      } else {
        look(path, found->second, content);
        listed[directory].erase(found);
      }
    }
    for (const auto& [directory, names] : listed) {
      for (const auto& [name, inode] : names) {
        if (!in_doubt(directory)) wrong.push_back(directory + "/" + name + " should not be there");
      }
    }
  }

  std::vector<std::string> wrong;
  std::size_t right = 0;
  std::size_t missing = 0;
  std::size_t doubtful = 0;

 private:
  std::map<std::string, InodeId> list(const std::string& directory) {
    std::map<std::string, InodeId> names;
    const auto id = pool_.resolve(directory);
    if (!id.has_value()) {
      unlisted_.insert(directory);
      return names;
    }
    directories_[directory] = *id;
    const Result<void> read = pool_.run(read_all(&pool_.fs(), *id, &names));
    if (!read.has_value()) unlisted_.insert(directory);
    return names;
  }
  static Task<Result<void>> read_all(fs::Filesystem* filesystem, InodeId id,
                                     std::map<std::string, InodeId>* names) {
    const auto sink = [names](const fs::DirectoryEntry& entry) {
      if (entry.name != "." && entry.name != "..") (*names)[std::string{entry.name}] = entry.inode;
      return true;
    };
    co_return co_await filesystem->readdir(id, 0, false, sink);
  }
  bool in_doubt(const std::string& directory) {
    if (unlisted_.contains(directory)) return true;
    fs::SalvageDoubt doubt = pool_.fs().salvage_doubt(directories_.at(directory));
    doubt.attributes = false;
    return doubt.any();
  }

  void look(const std::string& path, InodeId id, const std::string& content) {
    const auto attributes = pool_.run(pool_.fs().getattr(id));
    if (!attributes.has_value()) {
      ++missing;
      return;
    }
    // As extract does: all data is looked for, then what is unknown is known.
    std::uint64_t at = 0;
    std::map<std::uint64_t, std::uint64_t> data;
    while (true) {
      const auto found = pool_.run(pool_.fs().seek(id, at, fs::SeekKind::kData));
      if (!found.has_value()) break;
      at = *pool_.run(pool_.fs().seek(id, *found, fs::SeekKind::kHole));
      data[*found] = at;
      if (at >= attributes->size_bytes) break;
    }
    const fs::SalvageDoubt doubt = pool_.fs().salvage_doubt(id);
    if (doubt.outdated || doubt.changes || doubt.mixed || !doubt.windows.empty()) ++doubtful;
    if (doubt.outdated || doubt.changes || doubt.mixed) return;
    if (attributes->size_bytes != content.size())
      return wrong.push_back(path + " has another size");
    std::string expected = content;
    for (const auto& [first, end] : doubt.windows) {
      const std::size_t from = first * kWindowBytes;
      const std::size_t to =
          end > content.size() / kWindowBytes ? content.size() : end * kWindowBytes;
      for (std::size_t i = from; i < to; ++i) {
        const auto behind = data.upper_bound(i);
        if (behind == data.begin() || std::prev(behind)->second <= i) expected[i] = '\0';
      }
    }
    const auto found = read(id, attributes->size_bytes);
    if (!found.has_value()) {  // where the chunk lies is lost too: an error, no wrong content
      ++missing;
      return;
    }
    if (*found != expected) return wrong.push_back(path + " has other content");
    ++right;
  }

  Result<std::string> read(InodeId id, std::uint64_t size) {
    const fs::ReadReply reply = TRY(pool_.run(pool_.fs().read(id, 0, size, false)));
    const auto bytes = reply.buffer.span().subspan(reply.begin, reply.size_bytes);
    return std::string{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  SimPool& pool_;
  std::map<std::string, InodeId> directories_;
  std::set<std::string> unlisted_;
};

std::vector<journal::RunRef> runs_of(SimPool& pool) {
  return pool.fs().pool().superblock().manifest.runs;
}

using Media = std::vector<std::shared_ptr<scheduler::SimulatedMedia>>;

Media copy_of(const Media& media) {
  Media copies;
  for (const auto& one : media)
    copies.push_back(std::make_shared<scheduler::SimulatedMedia>(one->clone()));
  return copies;
}

// Where every copy of every block of the runs lies, told by the pool as long as it is mounted.
struct RunBlocks {
  explicit RunBlocks(SimPool& pool) {
    for (const journal::RunRef& run : runs_of(pool)) {
      for (std::uint64_t block = 0; block < run.blocks(); ++block) {
        auto& copies = places[{run.id, block}];
        for (const journal::RunCopy& copy : run.copies) {
          copies.emplace_back(copy.disk.raw, journal::run_offset(pool.fs().pool(), copy,
                                                                 block * journal::kRunBlockBytes));
        }
      }
      entry_blocks[run.id] = run.entry_blocks;
    }
  }
  void lose(Media& media, std::uint64_t run) const {
    for (const auto& [block, copies] : places)
      if (block.first == run) spoil(media, run, block.second);
  }
  void spoil(Media& media, std::uint64_t run, std::uint64_t block) const {
    for (const auto& [disk, offset] : places.at({run, block})) media[disk]->flip(offset + 100, 3);
  }
  std::map<std::pair<std::uint64_t, std::uint64_t>,
           std::vector<std::pair<std::size_t, std::uint64_t>>>
      places;
  std::map<std::uint64_t, std::uint64_t> entry_blocks;
};

}  // namespace

TEST_SUITE("salvage") {
  TEST_CASE("with more disks away than the policy tolerates only this mount goes on, read-only") {
    const Quiet quiet;
    SimPool pool(21, single_disks(3));
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 30; ++i) {
      REQUIRE(pool.create(fmt::format("f{}", i)).has_value());
      REQUIRE(pool.write(fmt::format("f{}", i), 0, pattern(i, 40'000)).has_value());
    }
    REQUIRE(pool.unmount().has_value());
    int read = 0;
    for (std::size_t away = 0; away < 3; ++away) {
      pool.set_salvage(false);
      CHECK(pool.mount({away}).error().code == Code::kDiskMissing);
      REQUIRE(salvage_mount(pool, {away}).has_value());
      CHECK(pool.create("new").error().code == Code::kReadOnly);
      for (int i = 0; i < 30; ++i) {
        const auto text = pool.read(fmt::format("f{}", i));
        if (text.has_value()) {
          CHECK(*text == pattern(i, 40'000));
          ++read;
        } else {
          CHECK(text.error().code == Code::kDiskGone);
        }
      }
      CHECK_FALSE(pool.fs().salvage_report().any());
      REQUIRE(pool.unmount().has_value());
    }
    CHECK(read > 30);  // each file is missing once or twice
    CHECK(read <= 60);
  }

  TEST_CASE(
      "without a member of the newest epoch the runs are all there is, and the log is told as "
      "lost") {
    const Quiet quiet;
    SimPool pool(22, {.disk_bytes = std::vector<std::uint64_t>(4, 96 * kMiB),
                      .policy = {.kind = journal::Policy::Kind::kReplica, .copies_or_data = 3}});
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("old").has_value());
    checkpoint(pool);
    REQUIRE(pool.create("new").has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::vector<DiskId> members = pool.fs().pool().members();
    REQUIRE(members.size() == 3);
    const auto copies = runs_of(pool).front().copies;
    std::vector<std::size_t> away;
    for (const DiskId id : members) away.push_back(id.raw);
    const bool has_run = std::ranges::any_of(copies, [&](const journal::RunCopy& copy) {
      return std::ranges::find(members, copy.disk) == members.end();
    });
    pool.power_cut();
    CHECK_FALSE(pool.mount(away).has_value());
    REQUIRE(salvage_mount(pool, away).has_value());
    CHECK(pool.fs().mount_report().journal.damaged.raw != 0);
    CHECK(pool.resolve("old").has_value() == has_run);
    CHECK(pool.fs().salvage_report().runs_lost == (has_run ? 0 : 1));
    CHECK_FALSE(pool.resolve("new").has_value());
  }

  TEST_CASE(
      "a journal damaged in the middle is replayed up to there, and after an orderly unmount "
      "nothing is lost") {
    const Quiet quiet;
    SimPool pool(23, single_disks(1));
    pool.format();
    REQUIRE(pool.mount().has_value());
    for (int i = 0; i < 20; ++i) {
      REQUIRE(pool.create(fmt::format("f{}", i)).has_value());
      REQUIRE(pool.run(pool.fs().sync()).has_value());
    }
    pool.power_cut();
    // Batches of 4 KiB, one behind the other.
    const Media whole = copy_of(pool.media);
    std::size_t least = 20;
    for (std::uint64_t block = 0; block < 20; ++block) {
      pool.media = copy_of(whole);
      pool.media[0]->flip(journal::kJournalOffset + block * kBlockBytes + 200, 1);
      const Result<void> mounted = salvage_mount(pool);
      if (!mounted.has_value()) {  // as if it had never been mounted: not even a root directory
        CHECK(mounted.error().code == Code::kReadOnly);
        CHECK(block < 2);
        least = 0;
        continue;
      }
      std::size_t there = 0;
      while (there < 20 && pool.resolve(fmt::format("f{}", there)).has_value()) ++there;
      for (std::size_t i = there; i < 20; ++i)
        CHECK_FALSE(pool.resolve(fmt::format("f{}", i)).has_value());
      const bool damaged = pool.fs().mount_report().journal.damaged.raw != 0;
      CAPTURE(block);
      CAPTURE(there);
      CHECK((damaged || there == 20));
      least = std::min(least, there);
      REQUIRE(pool.unmount().has_value());
    }
    CHECK(least < 5);
    pool.media = whole;
    pool.set_salvage(false);
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.unmount().has_value());
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(pool.fs().mount_report().journal.damaged.raw == 0);
    CHECK(pool.resolve("f19").has_value());
  }

  TEST_CASE("whatever metadata is damaged, what is not in doubt is right") {
    const Quiet quiet;
    const std::uint64_t seed = seed_from_environment(24);
    CAPTURE(seed);
    SimPool pool(seed, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    Tree tree(pool, seed);
    tree.make(1200);
    checkpoint(pool);
    for (int round = 0; round < 2; ++round) {
      tree.change(60);
      tree.make(20);
      checkpoint(pool);
    }
    // What the log changes is looked up when it is replayed, and in doubt already for that.
    SUBCASE("with changes in the log") { tree.change(40); }
    SUBCASE("with everything in the runs") {}
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const RunBlocks blocks(pool);
    REQUIRE(blocks.entry_blocks.size() == 3);
    pool.power_cut();
    const Media whole = copy_of(pool.media);
    std::mt19937_64 random(seed);
    std::size_t in_doubt = 0;
    std::size_t missing = 0;
    std::size_t right = 0;
    for (std::uint64_t attempt = 0; attempt < scaled(40); ++attempt) {
      pool.media = copy_of(whole);
      // First each block of each run alone, also those of index and filter; then some together.
      std::string spoiled;
      const std::size_t count = attempt < blocks.places.size() ? 1 : 1 + random() % 3;
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t which = count == 1 ? attempt : random() % blocks.places.size();
        const auto& [run, block] =
            std::next(blocks.places.begin(), static_cast<long>(which % blocks.places.size()))
                ->first;
        blocks.spoil(pool.media, run, block);
        spoiled += fmt::format("block {} of run {} ({} of entries), ", block, run,
                               blocks.entry_blocks.at(run));
      }
      CAPTURE(spoiled);
      REQUIRE(salvage_mount(pool).has_value());
      Verdict verdict(pool);
      verdict.judge(tree);
      const std::string first = verdict.wrong.empty() ? "" : verdict.wrong.front();
      INFO(verdict.wrong.size(), " of ", tree.files().size(), " wrong: ", first);
      CHECK(verdict.wrong.empty());
      in_doubt += verdict.doubtful;
      missing += verdict.missing;
      right += verdict.right;
      pool.power_cut();
    }
    // It was not for nothing, and not everything is given up.
    CHECK(in_doubt > 0);
    CHECK(missing > 100);
    CHECK(right > missing);
  }

  TEST_CASE("of a file whose newer windows are lost neither the older ones come nor holes") {
    const Quiet quiet;
    constexpr std::uint64_t kWindows = 3000;
    constexpr auto kNotChanged = [](std::uint64_t window) { return window % 4 == 3; };
    SimPool pool(26, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    const auto write_all = [&](char letter, bool all) {
      for (std::uint64_t window = 0; window < kWindows; ++window) {
        if (!all && kNotChanged(window)) continue;
        REQUIRE(
            pool.write("f", window * kWindowBytes, std::string(kBlockBytes, letter)).has_value());
      }
    };
    write_all('a', true);
    checkpoint(pool);
    write_all('b', false);
    checkpoint(pool);
    const journal::RunRef newest = runs_of(pool).front();
    REQUIRE(runs_of(pool).size() == 2);
    REQUIRE(newest.entry_blocks >= 3);
    const RunBlocks blocks(pool);
    REQUIRE(pool.unmount().has_value());
    blocks.spoil(pool.media, newest.id, 1);
    REQUIRE(salvage_mount(pool).has_value());
    const InodeId id = *pool.resolve("f");
    std::vector<bool> data(kWindows);
    std::uint64_t at = 0;
    while (true) {
      const auto found = pool.run(pool.fs().seek(id, at, fs::SeekKind::kData));
      if (!found.has_value()) break;
      data[*found / kWindowBytes] = true;
      at = *found + kBlockBytes;
      if (at >= (kWindows - 1) * kWindowBytes + kBlockBytes) break;
    }
    const fs::SalvageDoubt doubt = pool.fs().salvage_doubt(id);
    CHECK_FALSE(doubt.outdated);
    std::vector<bool> in_doubt(kWindows);
    for (const auto& [from, end] : doubt.windows) {
      for (std::uint64_t window = from; window < end; ++window) in_doubt[window] = true;
    }
    std::uint64_t lost = 0;
    std::uint64_t doubted_in_vain = 0;
    for (std::uint64_t window = 0; window < kWindows; ++window) {
      CAPTURE(window);
      CHECK(in_doubt[window] != data[window]);
      lost += in_doubt[window];
      doubted_in_vain += in_doubt[window] && kNotChanged(window);
      if (!data[window]) continue;
      const auto text = pool.read("f", window * kWindowBytes, 1);
      REQUIRE(text.has_value());
      CHECK(*text == (kNotChanged(window) ? "a" : "b"));
    }
    CHECK(lost > 300);
    CHECK(lost < kWindows / 2);
    // The filter knows most of those that were not changed.
    CHECK(doubted_in_vain < 20);
  }

  TEST_CASE("a file of which attributes are lost is in doubt, and the others are there") {
    const Quiet quiet;
    SimPool pool(27, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    const InodeId id = *pool.resolve("f");
    for (int i = 0; i < 80; ++i) {
      const auto set = pool.run(pool.fs().setxattr(id, fmt::format("user.{:02}", i),
                                                   pattern(i, 1000), fs::XattrMode::kEither));
      REQUIRE(set.has_value());
    }
    checkpoint(pool);
    const journal::RunRef run = runs_of(pool).front();
    REQUIRE(run.entry_blocks >= 3);
    const RunBlocks blocks(pool);
    REQUIRE(pool.unmount().has_value());
    blocks.spoil(pool.media, run.id, 1);
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(*pool.run(pool.fs().getxattr(id, "user.00")) == pattern(0, 1000));
    CHECK_FALSE(pool.run(pool.fs().getxattr(id, "user.50")).has_value());
    CHECK(pool.fs().salvage_doubt(id).outdated);
    CHECK_FALSE(pool.fs().salvage_doubt(kRootInode).outdated);
  }

  TEST_CASE("a run of which nothing is left is told, and what the others know is there") {
    const Quiet quiet;
    SimPool pool(25, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("old").has_value());
    REQUIRE(pool.write("old", 0, "old content").has_value());
    checkpoint(pool);
    REQUIRE(pool.create("new").has_value());
    checkpoint(pool);
    const std::vector<journal::RunRef> runs = runs_of(pool);
    REQUIRE(runs.size() == 2);
    const RunBlocks blocks(pool);
    REQUIRE(pool.unmount().has_value());
    for (std::uint64_t block = 0; block < runs[0].blocks(); ++block)
      blocks.spoil(pool.media, runs[0].id, block);
    CHECK(pool.mount().error().code == Code::kCorrupt);
    REQUIRE(salvage_mount(pool).has_value());
    CHECK(pool.fs().salvage_report().runs_lost == 1);
    CHECK(*pool.read("old") == "old content");
    CHECK_FALSE(pool.resolve("new").has_value());
  }

  TEST_CASE("whatever runs are lost, what is not in doubt is right") {
    const Quiet quiet;
    const std::uint64_t seed = seed_from_environment(28);
    CAPTURE(seed);
    SimPool pool(seed, many_runs());
    pool.format();
    REQUIRE(pool.mount().has_value());
    Tree tree(pool, seed);
    tree.make(300);
    checkpoint(pool);
    for (int round = 0; round < 2; ++round) {
      tree.change(80);
      tree.make(30);
      checkpoint(pool);
    }
    SUBCASE("with changes in the log") {
      tree.change(60);
      tree.make(20);
    }
    SUBCASE("with everything in the runs") {}
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const std::vector<journal::RunRef> runs = runs_of(pool);
    REQUIRE(runs.size() == 3);
    const RunBlocks blocks(pool);
    pool.power_cut();
    const Media whole = copy_of(pool.media);
    for (unsigned lost = 1; lost < 8; ++lost) {
      CAPTURE(lost);  // bit 0: the newest
      pool.media = copy_of(whole);
      for (std::size_t i = 0; i < 3; ++i)
        if ((lost >> i & 1) != 0) blocks.lose(pool.media, runs[i].id);
      REQUIRE(salvage_mount(pool).has_value());
      CHECK(pool.fs().salvage_report().runs_lost == static_cast<unsigned>(std::popcount(lost)));
      for (const bool evicted : {false, true}) {
        CAPTURE(evicted);
        if (evicted) pool.fs().evict();
        Verdict verdict(pool);
        verdict.judge(tree);
        const std::string first = verdict.wrong.empty() ? "" : verdict.wrong.front();
        INFO(verdict.wrong.size(), " of ", tree.files().size(), " wrong: ", first);
        CHECK(verdict.wrong.empty());
        CHECK(verdict.doubtful + verdict.missing > 0);
        // With the newest run here some files are there, and known to be.
        if (lost == 2 || lost == 4) CHECK(verdict.right > 20);
      }
      pool.power_cut();
    }
  }

  // Three runs; what is where is said by the tests. Each mounts without one of them.
  struct Layers {
    Layers() {
      pool.format();
      REQUIRE(pool.mount().has_value());
    }
    void file(const std::string& path, char letter, std::uint64_t windows = 1) {
      if (!pool.resolve(path).has_value()) REQUIRE(pool.create(path).has_value());
      for (std::uint64_t i = 0; i < windows; ++i) {
        REQUIRE(pool.write(path, i * kWindowBytes, std::string(kBlockBytes, letter)).has_value());
      }
    }
    void touch(const std::string& path) {
      fs::AttributeChange change;
      change.mtime_ns = 1;
      REQUIRE(pool.run(pool.fs().setattr(*pool.resolve(path), change)).has_value());
    }
    // `rank` 0: the newest. What the log has stays.
    void lose(std::size_t rank) {
      REQUIRE(pool.run(pool.fs().sync()).has_value());
      const std::vector<journal::RunRef> runs = runs_of(pool);
      const RunBlocks blocks(pool);
      pool.power_cut();
      blocks.lose(pool.media, runs.at(rank).id);
      REQUIRE(salvage_mount(pool).has_value());
      CHECK(pool.fs().salvage_report().runs_lost == 1);
    }
    fs::SalvageDoubt doubt(const std::string& path) {
      const Result<InodeId> id = pool.resolve(path);
      REQUIRE(id.has_value());
      REQUIRE(pool.run(pool.fs().getattr(*id)).has_value());
      return pool.fs().salvage_doubt(*id);
    }
    // But for what extended attributes it may have had.
    bool whole(const std::string& path) {
      fs::SalvageDoubt found = doubt(path);
      found.attributes = false;
      return !found.any();
    }
    const Quiet quiet;
    SimPool pool{29, many_runs()};
  };

  TEST_CASE("the oldest run is lost: data and names that only it had are told, the rest is whole") {
    Layers layers;
    SimPool& pool = layers.pool;
    REQUIRE(pool.mkdir("old").has_value());
    REQUIRE(pool.mkdir("untouched").has_value());
    for (const char* name : {"old/partly", "old/anew", "old/cut", "old/kept", "old/sparse"})
      layers.file(name, 'a', 3);
    checkpoint(pool);
    REQUIRE(pool.write("old/partly", kWindowBytes, "b").has_value());
    layers.file("old/anew", 'b', 3);
    REQUIRE(pool.truncate("old/cut", 0).has_value());
    REQUIRE(pool.truncate("old/cut", 5 * kWindowBytes).has_value());
    layers.touch("old/kept");
    REQUIRE(pool.truncate("old/sparse", 0).has_value());
    REQUIRE(pool.write("old/sparse", 4 * kWindowBytes, "b").has_value());
    REQUIRE(pool.mkdir("new").has_value());
    layers.file("new/file", 'c', 2);
    REQUIRE(pool.create("old/empty").has_value());
    checkpoint(pool);
    layers.file("logged", 'd');
    REQUIRE(pool.write("old/empty", 0, "late").has_value());
    std::map<std::string, InodeId> ids;
    for (const char* name : {"old", "old/partly", "old/anew", "old/cut", "old/kept", "old/sparse",
                             "old/empty", "untouched", "new", "new/file", "logged"})
      ids[name] = *pool.resolve(name);
    layers.lose(1);
    const auto doubt = [&](const char* name) {
      REQUIRE(pool.run(pool.fs().getattr(ids.at(name))).has_value());
      return pool.fs().salvage_doubt(ids.at(name));
    };
    const auto windows = [&](const char* name) { return doubt(name).windows; };
    using Windows = decltype(fs::SalvageDoubt::windows);
    CHECK(windows("old/partly") == Windows{{0, 1}, {2, ~std::uint64_t{0}}});
    CHECK(windows("old/kept") == Windows{{0, ~std::uint64_t{0}}});
    for (const char* name : {"old/anew", "old/cut", "old/sparse", "old/empty", "new", "new/file"}) {
      CAPTURE(name);
      CHECK(windows(name).empty());
      CHECK_FALSE(doubt(name).outdated);
      CHECK_FALSE(doubt(name).mixed);
      CHECK_FALSE(doubt(name).names);
    }
    // Names that were not written again are lost with the run; which ones it had is not known.
    CHECK(doubt("old").names);
    CHECK(pool.fs().salvage_doubt(kRootInode).names);
    CHECK_FALSE(pool.run(pool.fs().getattr(ids.at("untouched"))).has_value());
    CHECK_FALSE(doubt("logged").any());
    CHECK(*pool.read("new/file", 0, 1) == "c");
    CHECK(*pool.read("logged", 0, 1) == "d");
  }

  TEST_CASE("the newest run is lost: what older ones have may be outdated, and each file is told") {
    Layers layers;
    SimPool& pool = layers.pool;
    REQUIRE(pool.mkdir("d").has_value());
    for (const char* name : {"d/same", "d/changed", "d/removed", "d/grown", "d/logged"})
      layers.file(name, 'a', 2);
    checkpoint(pool);
    layers.file("d/changed", 'b', 1);
    layers.file("d/grown", 'b', 6);
    REQUIRE(pool.unlink("d/removed").has_value());
    REQUIRE(pool.create("d/made").has_value());
    checkpoint(pool);
    layers.touch("d/grown");
    REQUIRE(pool.write("d/logged", 0, std::string(kBlockBytes, 'c')).has_value());
    layers.file("d/new", 'd', 2);
    REQUIRE(pool.write("d/made", 0, "late").has_value());
    const InodeId made = *pool.resolve("d/made");
    const InodeId lost_name = *pool.resolve("d/grown");
    layers.lose(0);
    CHECK(layers.doubt("d").names);
    for (const char* name : {"d/same", "d/changed", "d/removed", "d/logged"}) {
      CAPTURE(name);
      CHECK(layers.doubt(name).outdated);
      CHECK(layers.doubt(name).mixed);
      // The version that is there is complete: it has no holes that are not told.
      CHECK((layers.doubt(name).windows.empty() || layers.doubt(name).windows.front().first >= 2));
    }
    CHECK(*pool.read("d/same", kWindowBytes, 1) == "a");
    CHECK(*pool.read("d/logged", 0, 1) == "c");
    // The log says how long it was.
    CHECK(pool.run(pool.fs().getattr(lost_name))->size_bytes == 5 * kWindowBytes + kBlockBytes);
    CHECK(layers.doubt("d/grown").windows == decltype(fs::SalvageDoubt::windows){{2, 6}});
    // Of what only the log knows all the rest is unknown; what the log has made is whole.
    REQUIRE(pool.run(pool.fs().getattr(made)).has_value());
    CHECK_FALSE(pool.fs().salvage_doubt(made).windows.empty());
    CHECK_FALSE(layers.doubt("d/new").any());
    CHECK(*pool.read("d/new", kWindowBytes, 1) == "d");
  }

  TEST_CASE(
      "a run in the middle is lost: a file is not put together of two versions without a word") {
    Layers layers;
    SimPool& pool = layers.pool;
    for (const char* name : {"mixed", "sure", "cut"}) layers.file(name, 'a', 3);
    for (const char* name : {"left", "gone"}) REQUIRE(pool.create(name).has_value());
    checkpoint(pool);
    REQUIRE(pool.write("mixed", kWindowBytes, std::string(kBlockBytes, 'b')).has_value());
    REQUIRE(pool.truncate("cut", 0).has_value());
    REQUIRE(pool.unlink("gone").has_value());
    checkpoint(pool);
    REQUIRE(pool.write("mixed", 0, std::string(kBlockBytes, 'c')).has_value());
    layers.file("sure", 'c', 3);
    layers.file("cut", 'c', 1);
    REQUIRE(pool.create("late").has_value());
    checkpoint(pool);
    layers.lose(1);
    CHECK(layers.doubt("mixed").mixed);
    CHECK_FALSE(layers.doubt("mixed").outdated);
    CHECK(layers.whole("sure"));
    // Windows of a version before are not taken for it: those that are sure are all there are.
    CHECK(layers.whole("cut"));
    const auto cut = pool.read("cut", 0, kBlockBytes);
    REQUIRE(cut.has_value());
    CHECK(*cut == std::string(kBlockBytes, 'c'));
    CHECK(pool.fs().salvage_doubt(kRootInode).names);
    CHECK(pool.resolve("late").has_value());
    CHECK(layers.doubt("left").outdated);
  }

  TEST_CASE(
      "the only run is lost: what the log has comes without its names, and nothing is silent") {
    Layers layers;
    SimPool& pool = layers.pool;
    layers.file("old", 'a', 2);
    REQUIRE(pool.symlink("link", "where").has_value());
    checkpoint(pool);
    const InodeId old = *pool.resolve("old");
    const InodeId link = *pool.resolve("link");
    REQUIRE(pool.write("old", 0, std::string(kBlockBytes, 'b')).has_value());
    layers.touch("link");
    layers.file("new", 'c', 2);
    SUBCASE("with a log") {
      layers.lose(0);
      CHECK(pool.fs().salvage_doubt(kRootInode).names);
      CHECK_FALSE(pool.resolve("old").has_value());
      CHECK_FALSE(layers.doubt("new").any());
      CHECK(pool.fs().salvage_doubt(old).windows == decltype(fs::SalvageDoubt::windows){{0, 2}});
      CHECK_FALSE(pool.run(pool.fs().readlink(link)).has_value());
    }
    SUBCASE("removed by the log") {
      REQUIRE(pool.unlink("old").has_value());
      layers.lose(0);
      CHECK(pool.run(pool.fs().getattr(old)).error().code == Code::kStale);
    }
  }

  TEST_CASE(
      "extended attributes that a lost run may have had are in doubt, those written since are "
      "not") {
    Layers layers;
    SimPool& pool = layers.pool;
    const auto set = [&](const char* path, const char* value) {
      REQUIRE(pool.run(pool.fs().setxattr(*pool.resolve(path), "user.note", value,
                                          fs::XattrMode::kEither))
                  .has_value());
    };
    REQUIRE(pool.create("kept").has_value());
    REQUIRE(pool.create("anew").has_value());
    set("kept", "old");
    set("anew", "old");
    checkpoint(pool);
    layers.touch("kept");
    set("anew", "new");
    const InodeId kept = *pool.resolve("kept");
    const InodeId anew = *pool.resolve("anew");
    checkpoint(pool);
    layers.lose(1);
    REQUIRE(pool.run(pool.fs().getattr(kept)).has_value());
    CHECK(pool.fs().salvage_doubt(kept).attributes);
    CHECK_FALSE(pool.fs().salvage_doubt(kept).outdated);
    CHECK(*pool.run(pool.fs().getxattr(anew, "user.note")) == "new");
    CHECK_FALSE(pool.fs().salvage_doubt(anew).any());
  }

  TEST_CASE("a doubt about windows is kept as ranges that do not touch") {
    fs::SalvageDoubt doubt;
    for (const auto& [from, end] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
             {5, 6}, {1, 2}, {6, 8}, {3, 3}, {2, 3}, {20, 30}, {22, 25}, {7, 9}}) {
      doubt.add_windows(from, end);
    }
    CHECK(doubt.windows ==
          std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}, {5, 9}, {20, 30}});
    CHECK(doubt.any());
    doubt.cut_windows(7);
    CHECK(doubt.windows == std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}, {5, 7}});
    doubt.cut_windows(3);
    CHECK(doubt.windows == std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}});
    doubt.cut_windows(0);
    CHECK_FALSE(doubt.any());
  }
}

}  // namespace dynamicfs::test
