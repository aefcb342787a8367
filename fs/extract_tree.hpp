// Copies the tree of a mounted pool, as far as it can be read, into a directory; or lists it.
//
// Names are read and made as it goes, so memory does not grow with their number but by a bit for each
// inode. What cannot be read is told, file by file, and so is what may be outdated.
//
// Directories are walked depth first, and get their owner, mode and times when they are complete. Inodes that
// no name leads to because metadata is lost come last, into a directory of their own.
//
// Threads  One, which waits for each answer (block_on).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/executor.hpp"
#include "fs/extract_target.hpp"
#include "fs/filesystem.hpp"

namespace dynamicfs::fs {

// Something that did not come out as it should. `path` as the pool has it, with '/' in front.
struct ExtractLoss {
  enum class Kind {
    kMissing,   // nothing of it came out
    kPartial,   // `ranges` of the file are holes
    kDoubtful,  // it came out, and may be older than what was last synced, or incomplete
    // Extended attributes of it may be missing, and nothing else. Where a run is lost that may be so of
    // nearly everything.
    kAttributes,
  };
  Kind kind = Kind::kMissing;
  std::string path;
  std::string why;
  std::uint64_t size_bytes = 0;                                 // of a file
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // bytes [first, end)
};

struct ExtractCounts {
  std::uint64_t directories = 0;
  std::uint64_t files = 0;  // regular, also those that are incomplete
  std::uint64_t links = 0;  // further names of files
  std::uint64_t others = 0;
  std::uint64_t bytes = 0;  // of data, copied
  std::uint64_t missing = 0;
  std::uint64_t partial = 0;
  std::uint64_t doubtful = 0;
  std::uint64_t attributes = 0;  // else whole
  std::uint64_t lost_bytes = 0;  // of files that are incomplete
  std::uint64_t nameless = 0;    // came out under a name that was made up
};

class ExtractTree {
 public:
  struct Events {
    std::function<void(const ExtractLoss&)> on_loss;
    // Each name that comes out, also for the list.
    std::function<void(const std::string& path, const Attributes&)> on_name;
    std::function<void(const ExtractCounts&)> on_progress;
    // Asked often: whether to end early. Empty: never.
    std::function<bool()> stop;
  };

  // `target` null: nothing is copied. `only`: paths in the pool; empty: everything.
  ExtractTree(Executor& executor, Filesystem& filesystem, ExtractTarget* target,
              const std::vector<std::string>& only, Events events);

  // An error: the target took no more, or kShutdown: it was to stop. Where it was is at(), and of that
  // nothing is left.
  Result<void> run();
  const ExtractCounts& counts() const { return counts_; }
  const std::string& at() const { return path_; }

  struct Name {
    std::string name;
    InodeId inode;
    std::uint32_t type_bits = 0;  // S_IFMT part of what it says; 0: nothing
  };

 private:
  // A tree of the paths that are wanted.
  struct Only {
    std::map<std::string, Only> children;
    bool all = false;
  };
  struct Frame {
    InodeId id;
    Attributes attributes;
    const Only* only = nullptr;  // null: everything below
    UniqueFd fd;
    std::size_t path_bytes = 0;  // of the path above it
    std::uint64_t cookie = 0;
    bool listed = false;  // all names have been in `names`
    std::vector<Name> names;
    std::size_t next = 0;
  };

  template <class T>
  T wait(Task<T> task);
  int fd_of(const Frame& frame) const;
  Result<void> walk(std::size_t depth);
  void list(Frame& frame);
  void list_wanted(Frame& frame);
  // `type_bits`: what the name says that it is; 0: nothing.
  Result<void> take(int parent, std::string name, InodeId inode, const Only* only,
                    std::uint32_t type_bits = 0);
  // A directory, whose path is path_; that of the one it is in has `path_bytes`.
  Result<void> enter(int parent, const std::string& name, std::size_t path_bytes, Frame frame);
  void leave();
  void dress_root();
  Result<void> take_file(int parent, const std::string& name, InodeId id,
                         const Attributes& attributes);
  // Something that is no directory, under this name.
  Result<void> take_one(int parent, const std::string& name, InodeId id,
                        const Attributes& attributes);
  Result<void> fill_file(UniqueFd file, InodeId id, const Attributes& attributes,
                         ExtractLoss& loss);
  // The target has this name already, or cannot have it: calls `make` with another.
  Result<void> under_other_name(InodeId id, std::string& name,
                                const std::function<Result<void>(const std::string&)>& make);
  bool stopped() const { return events_.stop && events_.stop(); }
  Result<void> take_other(int parent, const std::string& name, InodeId id,
                          const Attributes& attributes);
  Result<void> copy_data(int file, InodeId id, std::uint64_t size, ExtractLoss& loss);
  Result<void> copy_range(int file, InodeId id, std::uint64_t from, std::uint64_t to,
                          ExtractLoss& loss);
  Result<void> copy_readable(int file, InodeId id, std::uint64_t from, std::uint64_t to,
                             Error failure, ExtractLoss& loss);
  Result<void> write(int file, std::uint64_t at, const ReadReply& reply);
  void add_unknown(InodeId id, std::uint64_t size, ExtractLoss& loss);
  ExtractXattrs xattrs_of(InodeId id);
  void tell(ExtractLoss loss);
  void tell_missing(std::string why);
  void tell_doubt(InodeId id, std::uint64_t size_bytes);
  // False: it was met before.
  bool meet(InodeId id);
  bool met(InodeId id) const;
  Result<void> take_nameless();
  Result<void> take_nameless_one(InodeId id);
  Result<void> make_nameless();

  Executor& executor_;
  Filesystem& fs_;
  ExtractTarget* const target_;
  Only only_;
  const bool everything_;
  const Events events_;
  ExtractCounts counts_;
  std::string path_;
  std::vector<Frame> frames_;
  UniqueFd nameless_;
  std::string nameless_path_;  // empty: nothing was without a name yet
  bool partial_ = false;       // the last file has been told to be
  bool made_ = false;          // the last that was to be made has a name in the target
  std::unordered_map<std::uint64_t, std::array<std::uint64_t, 64>> met_;  // a bit for each inode
};

}  // namespace dynamicfs::fs
