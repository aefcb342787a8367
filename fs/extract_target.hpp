// Where `extract` puts files: a directory of another file system, which it never leaves.
//
// What comes out of a damaged pool may be anything: symbolic links that lead elsewhere, names that are
// none. So everything is made relative to the descriptor of the directory that it goes into, under a name
// that is checked, exclusively and without following links; what has been made is not looked up again
// by its path.
//
// Threads  One.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "fs/filesystem.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

using ExtractXattrs = std::vector<std::pair<std::string, std::string>>;

// What the target, or whoever runs this, cannot keep: how often, and where it was first.
struct NotKept {
  struct Kind {
    std::uint64_t count = 0;
    std::string first;  // path, and what
    void add(const std::string& where) {
      if (count++ == 0) first = where;
    }
  };
  Kind owners, xattrs, modes, times, links;
};

class ExtractTarget {
 public:
  // Made if it is not there; empty but for a `lost+found`, and not within one of `disks`. kUsage: it is not.
  static Outcome<std::unique_ptr<ExtractTarget>> open(const std::string& path,
                                                      const std::vector<std::string>& disks);
  ~ExtractTarget();

  int root() const { return root_.get(); }
  const std::string& path() const { return path_; }
  // Available to us; 0 if that cannot be found out.
  std::uint64_t free_bytes() const;

  // False for what no directory may have: empty, ".", "..", with '/' or NUL, or too long.
  static bool is_name(const std::string& name);
  // Whoever gets one of these errors has to stop: the target has no room, or cannot be written at all, or
  // it is to stop (kShutdown).
  static bool is_end(const Error& error);

  // The name is taken, or none for this file system: another may do.
  static bool is_other_name(const Error& error);

  // Each makes something new in `parent`; errors are kSystem. For the owner alone, until dress().
  Result<UniqueFd> make_directory(int parent, const std::string& name);
  Result<UniqueFd> make_file(int parent, const std::string& name);
  Result<void> make_symlink(int parent, const std::string& name, const std::string& target);
  Result<void> make_special(int parent, const std::string& name, std::uint32_t mode,
                            std::uint32_t rdev);
  Result<void> write(int file, std::uint64_t at, std::span<const std::byte> data);
  Result<void> set_size(int file, std::uint64_t size_bytes);
  // Where the target is on a network this is when it says that it has no room.
  Result<void> close(UniqueFd file);
  // What has just been made and is no directory.
  void remove(int parent, const std::string& name);

  // Owner, attributes, mode and times, in this order: each would be changed by those before it. What does
  // not succeed is counted. `where` is for that.
  void dress(int fd, const Attributes& attributes, const ExtractXattrs& xattrs,
             const std::string& where);
  // Of what is not opened: symbolic links, pipes, devices, sockets.
  void dress(int parent, const std::string& name, const Attributes& attributes,
             const ExtractXattrs& xattrs, const std::string& where);

  // A file with several names: under the second one it is a link. What has been made of an inode is
  // remembered by a link in a directory of our own, so memory does not grow with their number.
  // False: none has been made, or it cannot be linked.
  bool link_known(InodeId inode, int parent, const std::string& name, const std::string& where);
  void remember(InodeId inode, int parent, const std::string& name);
  // Removes that directory.
  void remove_known();
  // And puts everything on stable storage. kSystem: something may not be.
  Result<void> end();

  const NotKept& not_kept() const { return not_kept_; }

 private:
  ExtractTarget(std::string path, UniqueFd root) : path_(std::move(path)), root_(std::move(root)) {}
  int known();
  void set_xattrs(const std::string& path, const ExtractXattrs& xattrs, const std::string& where);

  const std::string path_;
  UniqueFd root_;
  UniqueFd known_;
  std::string known_name_;
  bool known_failed_ = false;
  NotKept not_kept_;
};

}  // namespace dynamicfs::fs
