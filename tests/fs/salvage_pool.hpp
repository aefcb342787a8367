// Pools of which metadata is lost, and what should be said of them.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "journal/run_set.hpp"
#include "tests/fs/cold_metadata.hpp"

namespace dynamicfs::test {

inline Result<void> salvage_mount(SimPool& pool, const std::vector<std::size_t>& away = {}) {
  pool.set_salvage(true);
  return pool.mount(away);
}

// A tree of which this knows what should be in it.
class SalvageTree {
 public:
  SalvageTree(SimPool& pool, std::uint64_t seed) : pool_(pool), random_(seed) {
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
class SalvageVerdict {
 public:
  explicit SalvageVerdict(SimPool& pool) : pool_(pool) {}

  void judge(const SalvageTree& tree) {
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

inline std::vector<journal::RunRef> runs_of(SimPool& pool) {
  return pool.fs().pool().superblock().manifest.runs;
}

using MediaCopy = std::vector<std::shared_ptr<scheduler::SimulatedMedia>>;

inline MediaCopy copy_of(const MediaCopy& media) {
  MediaCopy copies;
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
  void lose(MediaCopy& media, std::uint64_t run) const {
    for (const auto& [block, copies] : places)
      if (block.first == run) spoil(media, run, block.second);
  }
  void spoil(MediaCopy& media, std::uint64_t run, std::uint64_t block) const {
    for (const auto& [disk, offset] : places.at({run, block})) media[disk]->flip(offset + 100, 3);
  }
  std::map<std::pair<std::uint64_t, std::uint64_t>,
           std::vector<std::pair<std::size_t, std::uint64_t>>>
      places;
  std::map<std::uint64_t, std::uint64_t> entry_blocks;
};

}  // namespace dynamicfs::test
