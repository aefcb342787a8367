// Files that change one operation after the other, and what a mount may find of them: the tree as it was
// after some number of the operations, not fewer than had been synced, and none of it of elsewhere.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {

// What must not be has happened.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ... if metadata need be readable.
struct Unreadable : Violation {
  using Violation::Violation;
};

// Contents by path; nothing is in it twice.
using Tree = std::map<std::string, std::shared_ptr<const std::string>>;

// Bytes from `seed`, quickly.
inline std::string bytes_of(std::uint64_t seed, std::size_t size) {
  std::string out(size, '\0');
  std::mt19937_64 random(seed);
  for (std::size_t at = 0; at < size; at += 8) {
    const std::uint64_t word = random() | 1;
    std::memcpy(out.data() + at, &word, std::min<std::size_t>(8, size - at));
  }
  return out;
}

// What is read of a file when some of it may be an error.
struct Found {
  std::string text;
  std::vector<std::uint64_t> bad;  // blocks, ascending; their bytes in `text` mean nothing

  bool may_be(const std::string& expected) const {
    if (text.size() != expected.size()) return false;
    std::size_t from = 0;
    for (const std::uint64_t block : bad) {
      if (text.compare(from, block * kBlockBytes - from, expected, from,
                       block * kBlockBytes - from) != 0)
        return false;
      from = std::min<std::size_t>(text.size(), (block + 1) * kBlockBytes);
    }
    return text.compare(from, std::string::npos, expected, from) == 0;
  }
};
using FoundTree = std::map<std::string, Found>;

inline bool may_be(const FoundTree& found, const Tree& tree) {
  if (found.size() != tree.size()) return false;
  auto it = found.begin();
  for (const auto& [path, text] : tree) {
    if (it->first != path || !it->second.may_be(*text)) return false;
    ++it;
  }
  return true;
}

// In words.
inline std::string difference(const FoundTree& found, const Tree& tree) {
  std::string out;
  for (const auto& [path, text] : tree) {
    const auto it = found.find(path);
    if (it == found.end()) {
      out += fmt::format("  {} ({} bytes) is not there\n", path, text->size());
    } else if (!it->second.may_be(*text)) {
      const std::string& is = it->second.text;
      std::size_t at = 0;
      while (at < std::min(is.size(), text->size()) && is[at] == (*text)[at]) ++at;
      out += fmt::format("  {} has {} bytes instead of {}, and differs from byte {} on ({} bad)\n",
                         path, is.size(), text->size(), at, it->second.bad.size());
    }
  }
  for (const auto& [path, text] : found)
    if (!tree.contains(path))
      out += fmt::format("  {} ({} bytes) is too much\n", path, text.text.size());
  return out;
}

class Timeline {
 public:
  Timeline() : states_{Tree{}} {}

  const Tree& now() const { return states_.back(); }
  std::size_t size() const { return states_.size(); }
  // An operation begins that makes this of it; take_back() if it has not happened for certain.
  void begin(Tree next) { states_.push_back(std::move(next)); }
  void take_back() { states_.pop_back(); }
  // Everything that has begun is durable.
  void sync() { sync(states_.size() - 1); }
  void sync(std::size_t operation) { synced_ = std::max(synced_, operation); }
  std::size_t newest() const { return states_.size() - 1; }

  // The one in which everything has happened, and nothing else.
  void check_now(const FoundTree& found, const std::string& where) const {
    if (!may_be(found, now())) throw Violation(where + ":\n" + difference(found, now()));
  }
  // After a mount: from now on it is what was found.
  void check_recovered(const FoundTree& found, const std::string& where) {
    std::vector<Tree> legal;
    for (std::size_t i = synced_; i < states_.size(); ++i) {
      if (may_be(found, states_[i]) && (legal.empty() || legal.back() != states_[i]))
        legal.push_back(states_[i]);
    }
    if (legal.empty()) {
      throw Violation(fmt::format(
          "{}: no state that there was since the last sync ({} of {}). From the "
          "synced one:\n{}from the newest:\n{}",
          where, synced_, newest(), difference(found, states_[synced_]), difference(found, now())));
    }
    states_ = std::move(legal);
    synced_ = 0;
  }
  // That are not as they were when all was synced.
  std::set<std::string> unsynced() const {
    std::set<std::string> paths;
    for (std::size_t i = synced_ + 1; i < states_.size(); ++i) {
      for (const auto& [path, text] : states_[i]) {
        const auto before = states_[i - 1].find(path);
        if (before == states_[i - 1].end() || before->second != text) paths.insert(path);
      }
    }
    return paths;
  }
  // There is one state that it can be.
  bool is_known() const { return states_.size() == 1; }

 private:
  std::vector<Tree> states_;  // [i]: after i operations
  std::size_t synced_ = 0;
};

// The whole tree as it is read. With `errors` a block that cannot be read is noted, else it is a violation, but in
// these files.
inline FoundTree read_tree(SimPool& pool, bool errors, const std::set<std::string>& but = {}) {
  FoundTree found;
  std::vector<std::string> directories{""};
  while (!directories.empty()) {
    const std::string directory = directories.back();
    directories.pop_back();
    const auto inode = pool.resolve(directory);
    if (!inode.has_value()) throw Unreadable("cannot find directory '" + directory + "'");
    std::vector<std::string> files;
    const auto listed =
        pool.run(pool.fs().readdir(*inode, 0, false, [&](const fs::DirectoryEntry& entry) {
          const std::string name{entry.name};
          if (name == "." || name == "..") return true;
          const std::string path = directory.empty() ? name : directory + "/" + name;
          (entry.type_bits == S_IFDIR ? directories : files).push_back(path);
          return true;
        }));
    if (!listed.has_value())
      throw Unreadable("cannot list '" + directory + "': " + describe(listed.error()));
    for (const std::string& path : files) {
      auto whole = pool.read(path);
      Found& file = found[path];
      if (whole.has_value()) {
        file.text = std::move(whole).value();
        continue;
      }
      if (!errors && !but.contains(path))
        throw Violation("cannot read " + path + ": " + describe(whole.error()));
      const auto attributes = pool.stat(path);
      if (!attributes.has_value()) throw Unreadable("cannot stat " + path);
      file.text.resize(attributes->size_bytes);
      for (std::uint64_t at = 0; at < file.text.size(); at += kBlockBytes) {
        const auto block = pool.read(path, at, kBlockBytes);
        if (!block.has_value()) {
          file.bad.push_back(at / kBlockBytes);
        } else {
          file.text.replace(at, block->size(), *block);
        }
      }
      if (file.bad.empty()) throw Violation("could not be read whole, but block by block: " + path);
    }
  }
  return found;
}

}  // namespace dynamicfs::test
