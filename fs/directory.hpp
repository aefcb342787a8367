// The entries of one directory that are in memory, keyed by a hash of the name that is also the
// readdir cookie: stable while an entry exists, whatever comes and goes around it, also across a
// remount.
//
// Two names with one hash take neighbouring cookies, at most kProbes apart; finding looks at all of
// them, so removing one leaves no broken chain.
//
// Residency  A directory that no checkpoint has written is whole. Of another the runs may have more:
//            what is here, removed entries included, is newer than that. Loading adds what is not
//            here; only drop_clean() takes out what the runs have.
// Locks      The owner's: the mutex of the directory's inode.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/metrics.hpp"
#include "journal/era.hpp"

namespace dynamicfs::fs {

// Cookies of "." and ".."; names are behind them.
inline constexpr std::uint64_t kCookieDot = 1;
inline constexpr std::uint64_t kCookieDotDot = 2;
inline constexpr std::uint64_t kCookieFirst = 16;

struct Entry {
  InodeId inode;
  std::uint32_t type_bits = 0;  // S_IFMT part of the mode
  std::string name;
};

// What all directories of a pool share. Outlives them.
struct DirectoryContext {
  const journal::Eras& eras;
  Counter& memory_bytes;  // added to and subtracted from
};

class Directory {
 public:
  static constexpr std::uint64_t kProbes = 16;
  struct Found {
    std::uint64_t cookie = 0;
    const Entry* entry = nullptr;
  };

  // A new one; or one of which the runs have `count` entries.
  explicit Directory(DirectoryContext context) : context_(context) {}
  Directory(DirectoryContext context, std::uint64_t count)
      : context_(context), count_(count), stored_(true), whole_(count == 0) {}
  ~Directory();
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  // Where a name hashes to: [kCookieFirst, 2^63 - kProbes).
  static std::uint64_t cookie_of(std::string_view name);

  // Names that are in memory. find() of a name that is not says nothing unless knows().
  std::optional<Found> find(std::string_view name) const;
  // What is in memory decides about this name: whole, or the name is here.
  bool knows(std::string_view name) const { return whole_ || find(name).has_value(); }
  // A cookie for a name that does not exist; nothing if all its places are taken (sixteen names with
  // equal 63-bit hashes). The places are in memory.
  std::optional<std::uint64_t> free_cookie(std::string_view name) const;
  // The first entry at or behind `cookie`.
  std::optional<Found> next(std::uint64_t cookie) const;
  bool contains(std::uint64_t cookie) const;

  // Adds or replaces; what the cookie had before is in memory.
  void put(std::uint64_t cookie, Entry entry);
  void remove(std::uint64_t cookie);
  // All names there are, in memory or not.
  std::uint64_t count() const { return count_; }
  bool empty() const { return count_ == 0; }
  // Repair: all names are in memory, and so many they are.
  void set_count(std::uint64_t names) { count_ = names; }

  // Residency.

  bool is_whole() const { return whole_; }
  // All that the runs have is in memory.
  void set_whole() { whole_ = true; }
  // How far what the runs have from this cookie on is in memory: the first cookie of which that is not
  // known. `from` itself: nothing is.
  std::uint64_t known_to(std::uint64_t from) const;
  // All that the runs have with cookies in [from, to) is in memory. Of several such ranges the one
  // that the last call has made or continued is remembered; from the first cookie to ~0 is all.
  void note_loaded(std::uint64_t from, std::uint64_t to);
  // From the runs; does nothing if this cookie is in memory already.
  void load(std::uint64_t cookie, Entry entry);
  // A checkpoint is about to write it.
  void set_stored() { stored_ = true; }
  bool is_stored() const { return stored_; }
  // Everything that is not in the runs, ascending; nullptr: removed. Costs what is dirty, not what is
  // there.
  void for_each_dirty(const std::function<void(std::uint64_t cookie, const Entry*)>& each);
  // Takes out of memory what the runs have. Nobody refers to the inode.
  void drop_clean();

 private:
  struct Slot {
    Entry entry;
    std::uint64_t era = 0;
    bool removed = false;  // in the runs it may be there still
  };
  static std::uint64_t memory_of(const Slot& slot);
  void account(const Slot& slot, bool added);
  void modify(std::uint64_t cookie, Slot& slot);

  const DirectoryContext context_;
  std::map<std::uint64_t, Slot> slots_;
  std::vector<std::uint64_t> dirty_;  // cookies, some more than once, some clean by now
  std::uint64_t count_ = 0;
  std::uint64_t known_from_ = 0;
  std::uint64_t known_to_ = 0;
  bool stored_ = false;
  bool whole_ = true;
};

}  // namespace dynamicfs::fs
