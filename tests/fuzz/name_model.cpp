#include "tests/fuzz/name_model.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>

#include "base/unique_fd.hpp"

namespace dynamicfs::fuzz {

namespace {

const char* name_of(NameKind kind) {
  switch (kind) {
    case NameKind::kCreate: return "create";
    case NameKind::kMkdir: return "mkdir";
    case NameKind::kSymlink: return "symlink";
    case NameKind::kLink: return "link";
    case NameKind::kUnlink: return "unlink";
    case NameKind::kRmdir: return "rmdir";
    case NameKind::kRename: return "rename";
    case NameKind::kNoReplace: return "rename, no replace";
    case NameKind::kExchange: return "exchange";
    case NameKind::kSetXattr: return "setxattr";
    case NameKind::kRemoveXattr: return "removexattr";
    case NameKind::kChmod: return "chmod";
    case NameKind::kTimes: return "utimens";
    case NameKind::kPut: return "put";
  }
  return "?";
}

void check(bool succeeded, const std::string& what) {
  if (!succeeded) throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

std::string NameChange::text() const {
  return fmt::format("{} {}:{} {}:{} {}", name_of(kind), directory, name, other_directory,
                     other_name, value);
}

std::string Seen::difference(const Seen& wanted) const {
  if (kind != wanted.kind) return fmt::format("is a '{}' instead of a '{}'", kind, wanted.kind);
  if (mode != wanted.mode) return fmt::format("has mode {:o} instead of {:o}", mode, wanted.mode);
  if (links != wanted.links) return fmt::format("has {} links instead of {}", links, wanted.links);
  if (mtime_s != -1 && wanted.mtime_s != -1 && mtime_s != wanted.mtime_s) {
    return fmt::format("has mtime {} instead of {}", mtime_s, wanted.mtime_s);
  }
  if (content != wanted.content)
    return fmt::format("holds '{}' instead of '{}'", content, wanted.content);
  if (first_path != wanted.first_path)
    return fmt::format("is the inode of {} instead of {}", first_path, wanted.first_path);
  if (xattrs == wanted.xattrs) return "";
  std::string text = "has the attributes";
  for (const auto& [name, value] : xattrs) text += fmt::format(" {}={}", name, value.substr(0, 40));
  text += " instead of";
  for (const auto& [name, value] : wanted.xattrs)
    text += fmt::format(" {}={}", name, value.substr(0, 40));
  return text;
}

std::string difference(const SeenTree& found, const SeenTree& wanted) {
  for (const auto& [path, seen] : found) {
    const auto other = wanted.find(path);
    if (other == wanted.end()) return path + " is there and should not be";
    const std::string text = seen.difference(other->second);
    if (!text.empty()) return path + " " + text;
  }
  for (const auto& [path, seen] : wanted) {
    if (!found.contains(path)) return path + " is missing";
  }
  return "";
}

// The file system

namespace {

void look_at(const std::string& path, const std::string& shown, SeenTree& into,
             std::map<ino_t, std::string>& first) {
  struct stat info {};
  check(::lstat(path.c_str(), &info) == 0, "lstat of " + path);
  Seen seen;
  seen.kind = S_ISDIR(info.st_mode) ? 'd' : S_ISLNK(info.st_mode) ? 'l' : 'f';
  seen.mode = info.st_mode & 07777;
  seen.links = info.st_nlink;
  seen.mtime_s = info.st_mtim.tv_sec;
  seen.first_path = first.try_emplace(info.st_ino, shown).first->second;
  if (seen.kind == 'l') {
    char target[4096];
    const ssize_t got = ::readlink(path.c_str(), target, sizeof target);
    check(got >= 0, "readlink of " + path);
    seen.content.assign(target, static_cast<std::size_t>(got));
  } else {
    char names[4096];
    const ssize_t got = ::listxattr(path.c_str(), names, sizeof names);
    check(got >= 0, "listxattr of " + path);
    for (const char* name = names; name < names + got; name += std::string_view{name}.size() + 1) {
      std::string value(8192, '\0');
      const ssize_t length = ::getxattr(path.c_str(), name, value.data(), value.size());
      check(length >= 0, "getxattr of " + path);
      value.resize(static_cast<std::size_t>(length));
      seen.xattrs[name] = value;
    }
  }
  if (seen.kind == 'f') {
    const UniqueFd fd{::open(path.c_str(), O_RDONLY)};
    check(fd.get() >= 0, "open of " + path);
    char content[64];
    const ssize_t got = ::read(fd.get(), content, sizeof content);
    check(got >= 0, "read of " + path);
    seen.content.assign(content, static_cast<std::size_t>(got));
  }
  const bool is_directory = seen.kind == 'd';
  into[shown] = std::move(seen);
  if (!is_directory) return;
  DIR* directory = ::opendir(path.c_str());
  check(directory != nullptr, "opendir of " + path);
  std::set<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(directory)) names.insert(entry->d_name);
  const int error = errno;
  ::closedir(directory);
  errno = error;
  check(error == 0, "readdir of " + path);
  for (const std::string& name : names) {
    if (name == "." || name == "..") continue;
    look_at(path + "/" + name, shown + "/" + name, into, first);
  }
}

}  // namespace

SeenTree look(const std::string& root) {
  SeenTree tree;
  std::map<ino_t, std::string> first;
  look_at(root, ".", tree, first);
  return tree;
}

// The model

NameModel::NameModel() {
  nodes_[0] = {};
  directories_.push_back(0);
}

SeenTree NameModel::seen() const {
  SeenTree tree;
  std::map<int, std::string> first;
  see(0, ".", tree, first);
  return tree;
}

void NameModel::see(int id, const std::string& path, SeenTree& into,
                    std::map<int, std::string>& first) const {
  const Node& node = nodes_.at(id);
  Seen seen{.kind = node.kind,
            .mode = node.mode,
            .links = static_cast<std::uint64_t>(node.links),
            .mtime_s = node.mtime_s,
            .content = node.content,
            .xattrs = node.xattrs,
            .first_path = first.try_emplace(id, path).first->second};
  if (node.kind == 'd') {
    seen.links = 2;
    for (const auto& [name, child] : node.names) seen.links += nodes_.at(child).kind == 'd' ? 1 : 0;
  }
  into[path] = std::move(seen);
  for (const auto& [name, child] : node.names) see(child, path + "/" + name, into, first);
}

std::string NameModel::path(int directory) const {
  if (directory == 0) return "";
  const int parent = nodes_.at(directory).parent;
  for (const auto& [name, child] : nodes_.at(parent).names) {
    if (child == directory) return path(parent) + "/" + name;
  }
  return "/?";
}

int NameModel::depth(int directory) const {
  return directory == 0 ? 0 : 1 + depth(nodes_.at(directory).parent);
}

int NameModel::find(int directory, const std::string& name) const {
  const auto& names = nodes_.at(directory).names;
  const auto found = names.find(name);
  return found == names.end() ? -1 : found->second;
}

bool NameModel::is_at_or_below(int directory, int ancestor) const {
  while (directory != ancestor && directory > 0) directory = nodes_.at(directory).parent;
  return directory == ancestor;
}

int NameModel::add(int directory, const std::string& name, Node node) {
  if (find(directory, name) >= 0) return EEXIST;
  const int id = next_++;
  if (node.kind == 'd') {
    node.parent = directory;
    directories_.push_back(id);
  }
  nodes_[id] = std::move(node);
  nodes_[directory].names[name] = id;
  nodes_[directory].mtime_s = -1;
  return 0;
}

// What loses its last name is gone.
void NameModel::drop_name(int directory, const std::string& name) {
  const int id = nodes_[directory].names.extract(name).mapped();
  nodes_[directory].mtime_s = -1;
  if (nodes_[id].kind == 'd') std::erase(directories_, id);
  if (nodes_[id].kind == 'd' || --nodes_[id].links == 0) nodes_.erase(id);
}

int NameModel::apply(const NameChange& change) {
  const int id = find(change.directory, change.name);
  switch (change.kind) {
    case NameKind::kCreate: return add(change.directory, change.name, {.kind = 'f', .mode = 0644});
    case NameKind::kMkdir: return add(change.directory, change.name, {.kind = 'd'});
    case NameKind::kSymlink:
      return add(change.directory, change.name,
                 {.kind = 'l', .mode = 0777, .content = fmt::format("target-{}", change.value)});
    case NameKind::kLink:
      if (id < 0) return ENOENT;
      if (find(change.other_directory, change.other_name) >= 0) return EEXIST;
      if (nodes_[id].kind == 'd') return EPERM;
      nodes_[change.other_directory].names[change.other_name] = id;
      nodes_[change.other_directory].mtime_s = -1;
      ++nodes_[id].links;
      return 0;
    case NameKind::kUnlink:
      if (id < 0) return ENOENT;
      if (nodes_[id].kind == 'd') return EISDIR;
      drop_name(change.directory, change.name);
      return 0;
    case NameKind::kRmdir:
      if (id < 0) return ENOENT;
      if (nodes_[id].kind != 'd') return ENOTDIR;
      if (!nodes_[id].names.empty()) return ENOTEMPTY;
      drop_name(change.directory, change.name);
      return 0;
    case NameKind::kRename:
    case NameKind::kNoReplace:
    case NameKind::kExchange: return rename(change);
    default: break;
  }
  if (id < 0) return ENOENT;
  Node& node = nodes_[id];
  // What follows symlinks finds nothing where ours lead.
  if (node.kind == 'l') return ENOENT;
  switch (change.kind) {
    case NameKind::kSetXattr: {
      const bool is_there = node.xattrs.contains(change.other_name);
      if (change.xattr_flags == XATTR_CREATE && is_there) return EEXIST;
      if (change.xattr_flags == XATTR_REPLACE && !is_there) return ENODATA;
      node.xattrs[change.other_name] =
          std::string(change.value % 600, static_cast<char>('a' + change.value % 26));
      return 0;
    }
    case NameKind::kRemoveXattr: return node.xattrs.erase(change.other_name) == 0 ? ENODATA : 0;
    case NameKind::kChmod: node.mode = static_cast<unsigned>(change.value); return 0;
    case NameKind::kTimes: node.mtime_s = static_cast<std::int64_t>(change.value); return 0;
    default:  // kPut
      if (node.kind == 'd') return EISDIR;
      node.content = fmt::format("content {:016x}", change.value);
      node.mtime_s = -1;
      return 0;
  }
}

int NameModel::rename(const NameChange& change) {
  const int from = find(change.directory, change.name);
  const int to = find(change.other_directory, change.other_name);
  const bool exchanges = change.kind == NameKind::kExchange;
  if (from < 0) return ENOENT;
  if (change.kind == NameKind::kNoReplace && to >= 0) return EEXIST;
  if (exchanges && to < 0) return ENOENT;
  if (nodes_[from].kind == 'd' && is_at_or_below(change.other_directory, from)) return EINVAL;
  if (to >= 0 && nodes_[to].kind == 'd' && is_at_or_below(change.directory, to)) {
    return exchanges ? EINVAL : ENOTEMPTY;
  }
  if (from == to) return 0;
  if (to >= 0 && !exchanges) {
    if (nodes_[from].kind == 'd' && nodes_[to].kind != 'd') return ENOTDIR;
    if (nodes_[from].kind != 'd' && nodes_[to].kind == 'd') return EISDIR;
    if (nodes_[to].kind == 'd' && !nodes_[to].names.empty()) return ENOTEMPTY;
    drop_name(change.other_directory, change.other_name);
  }
  if (exchanges) {
    nodes_[change.directory].names[change.name] = to;
    if (nodes_[to].kind == 'd') nodes_[to].parent = change.directory;
  } else {
    nodes_[change.directory].names.erase(change.name);
  }
  nodes_[change.other_directory].names[change.other_name] = from;
  if (nodes_[from].kind == 'd') nodes_[from].parent = change.other_directory;
  nodes_[change.directory].mtime_s = nodes_[change.other_directory].mtime_s = -1;
  return 0;
}

}  // namespace dynamicfs::fuzz
