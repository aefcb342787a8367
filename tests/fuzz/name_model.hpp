// A tree of names in memory that says what each operation on names must answer.
//
// The errors and their order are those of Linux (fs/namei.c), where several could be given.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dynamicfs::fuzz {

enum class NameKind {
  kCreate,
  kMkdir,
  kSymlink,
  kLink,
  kUnlink,
  kRmdir,
  kRename,
  kNoReplace,
  kExchange,
  kSetXattr,
  kRemoveXattr,
  kChmod,
  kTimes,
  kPut
};

// An operation. A directory is named by its node; a path that leads there is looked up each time.
struct NameChange {
  NameKind kind = NameKind::kCreate;
  int directory = 0;
  std::string name;
  int other_directory = 0;
  std::string other_name;   // also the name of an attribute
  std::uint64_t value = 0;  // mode, time, content, what an attribute or a symlink says
  int xattr_flags = 0;

  std::string text() const;
};

// What can be seen of a name. Equal ones may differ in `mtime_s` where one is -1: not known.
struct Seen {
  char kind = 'f';
  unsigned mode = 0;
  std::uint64_t links = 0;
  std::int64_t mtime_s = -1;
  std::string content;  // of a file; the target of a symlink
  std::map<std::string, std::string> xattrs;
  std::string first_path;  // of all paths of this inode

  std::string difference(const Seen& wanted) const;
};
using SeenTree = std::map<std::string, Seen>;

// One line for the first name in which two trees differ, or "".
std::string difference(const SeenTree& found, const SeenTree& wanted);

// What the tree at `root` looks like. Throws std::system_error.
SeenTree look(const std::string& root);

class NameModel {
 public:
  struct Node {
    char kind = 'd';
    unsigned mode = 0755;
    int parent = -1;  // of a directory
    int links = 1;    // names of what is no directory
    std::int64_t mtime_s = -1;
    std::string content = {};
    std::map<std::string, std::string> xattrs = {};
    std::map<std::string, int> names = {};
  };

  NameModel();

  // Changes the tree and returns 0, or returns the errno and changes nothing.
  int apply(const NameChange& change);

  SeenTree seen() const;
  std::string path(int directory) const;
  // The node of a name, or -1.
  int find(int directory, const std::string& name) const;
  const Node& node(int id) const { return nodes_.at(id); }
  const std::vector<int>& directories() const { return directories_; }
  std::size_t size() const { return nodes_.size(); }
  int depth(int directory) const;

 private:
  int rename(const NameChange& change);
  int add(int directory, const std::string& name, Node node);
  void drop_name(int directory, const std::string& name);
  bool is_at_or_below(int directory, int ancestor) const;
  void see(int directory, const std::string& path, SeenTree& into,
           std::map<int, std::string>& first) const;

  std::map<int, Node> nodes_;
  std::vector<int> directories_;
  int next_ = 1;
};

}  // namespace dynamicfs::fuzz
