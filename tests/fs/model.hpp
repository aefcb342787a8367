// What the tree should be: the simplest thing that could be right. No journal, no blocks, no disks;
// nodes in memory, and the rules of POSIX written down once more.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "fs/filesystem.hpp"
#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {

class Model {
 public:
  struct Node {
    enum class Type { kFile, kDirectory, kSymlink, kWhiteout } type = Type::kFile;
    std::uint32_t mode = 0644;
    std::uint32_t links = 1;
    std::string text;  // contents or target
    std::map<std::string, std::string> xattrs;
    std::map<std::string, std::shared_ptr<Node>> children;
    std::uint64_t changed_by = 0;  // number of the newest operation that an fsync of it covers
  };
  using NodePtr = std::shared_ptr<Node>;

  Model() : root(std::make_shared<Node>()) {
    root->type = Node::Type::kDirectory;
    root->links = 2;
  }

  Result<NodePtr> resolve(const std::string& path) const {
    NodePtr node = root;
    std::size_t at = 0;
    while (at < path.size()) {
      const std::size_t slash = std::min(path.find('/', at), path.size());
      if (node->type != Node::Type::kDirectory) return Code::kNotDirectory;
      const auto it = node->children.find(path.substr(at, slash - at));
      if (it == node->children.end()) return Code::kNotFound;
      node = it->second;
      at = slash + 1;
    }
    return node;
  }
  Result<std::pair<NodePtr, std::string>> parent_of(const std::string& path) const {
    const std::size_t slash = path.rfind('/');
    NodePtr node = TRY(resolve(slash == std::string::npos ? "" : path.substr(0, slash)));
    return std::pair{node, slash == std::string::npos ? path : path.substr(slash + 1)};
  }

  Result<void> make(const std::string& path, Node::Type type, std::string text,
                    std::uint32_t mode) {
    auto [directory, name] = TRY(parent_of(path));
    if (directory->type != Node::Type::kDirectory) return Code::kNotDirectory;
    if (directory->children.contains(name)) return Code::kExists;
    auto node = std::make_shared<Node>();
    node->type = type;
    node->mode = mode;
    node->text = std::move(text);
    if (type == Node::Type::kDirectory) {
      node->links = 2;
      ++directory->links;
    }
    directory->children[name] = node;
    return {};
  }
  Result<void> link(const std::string& from, const std::string& to) {
    const NodePtr node = TRY(resolve(from));
    auto [directory, name] = TRY(parent_of(to));
    if (directory->type != Node::Type::kDirectory) return Code::kNotDirectory;
    if (node->type == Node::Type::kDirectory) return Code::kPermission;
    if (directory->children.contains(name)) return Code::kExists;
    ++node->links;
    directory->children[name] = node;
    return {};
  }
  Result<void> unlink(const std::string& path) {
    auto [directory, name] = TRY(parent_of(path));
    if (directory->type != Node::Type::kDirectory) return Code::kNotDirectory;
    const auto it = directory->children.find(name);
    if (it == directory->children.end()) return Code::kNotFound;
    if (it->second->type == Node::Type::kDirectory) return Code::kIsDirectory;
    --it->second->links;
    directory->children.erase(it);
    return {};
  }
  Result<void> rmdir(const std::string& path) {
    auto [directory, name] = TRY(parent_of(path));
    if (directory->type != Node::Type::kDirectory) return Code::kNotDirectory;
    const auto it = directory->children.find(name);
    if (it == directory->children.end()) return Code::kNotFound;
    if (it->second->type != Node::Type::kDirectory) return Code::kNotDirectory;
    if (!it->second->children.empty()) return Code::kNotEmpty;
    --directory->links;
    directory->children.erase(it);
    return {};
  }
  Result<void> rename(const std::string& from, const std::string& to, fs::RenameMode mode,
                      bool whiteout = false) {
    auto [a_directory, a_name] = TRY(parent_of(from));
    auto [b_directory, b_name] = TRY(parent_of(to));
    if (a_directory->type != Node::Type::kDirectory ||
        b_directory->type != Node::Type::kDirectory) {
      return Code::kNotDirectory;
    }
    const auto a_it = a_directory->children.find(a_name);
    if (a_it == a_directory->children.end()) return Code::kNotFound;
    const auto b_it = b_directory->children.find(b_name);
    const NodePtr a = a_it->second;
    const NodePtr b = b_it == b_directory->children.end() ? nullptr : b_it->second;
    const bool exchange = mode == fs::RenameMode::kExchange;
    if (exchange && !b) return Code::kNotFound;
    if (mode == fs::RenameMode::kNoReplace && b) return Code::kExists;
    if (a_directory != b_directory) {
      if (below(b_directory, a)) return Code::kInvalid;
      if (exchange && below(a_directory, b)) return Code::kInvalid;
    }
    if (a == b) return {};
    const bool a_is = a->type == Node::Type::kDirectory;
    const bool b_is = b && b->type == Node::Type::kDirectory;
    if (b && !exchange) {
      if (a_is && !b_is) return Code::kNotDirectory;
      if (!a_is && b_is) return Code::kIsDirectory;
      if (b_is && !b->children.empty()) return Code::kNotEmpty;
      --b->links;
      if (b_is) --b_directory->links;
    }
    if (a_is) {
      --a_directory->links;
      ++b_directory->links;
    }
    if (exchange) {
      if (b_is) {
        --b_directory->links;
        ++a_directory->links;
      }
      a_directory->children[a_name] = b;
    } else {
      a_directory->children.erase(a_name);
    }
    b_directory->children[b_name] = a;
    if (whiteout) return make(from, Node::Type::kWhiteout, "", 0);
    return {};
  }
  Result<void> write(const std::string& path, std::uint64_t offset, std::string_view text) {
    const NodePtr node = TRY(resolve(path));
    if (node->type == Node::Type::kDirectory) return Code::kIsDirectory;
    if (node->type != Node::Type::kFile) return Code::kInvalid;
    if (text.empty()) return {};
    if (node->text.size() < offset + text.size()) node->text.resize(offset + text.size());
    node->text.replace(offset, text.size(), text);
    return {};
  }
  // Behind the end of the source there are zeros.
  Result<void> copy_range(const std::string& from, std::uint64_t from_at, const std::string& to,
                          std::uint64_t to_at, std::uint64_t size) {
    const NodePtr source = TRY(resolve(from));
    const NodePtr target = TRY(resolve(to));
    for (const NodePtr& node : {source, target}) {
      if (node->type == Node::Type::kDirectory) return Code::kIsDirectory;
      if (node->type != Node::Type::kFile) return Code::kInvalid;
    }
    const std::uint64_t apart = from_at < to_at ? to_at - from_at : from_at - to_at;
    if (source == target && apart < size) return Code::kInvalid;
    if (apart % kBlockBytes != 0) return Code::kNotSupported;
    if (size == 0) return {};
    std::string text(size, '\0');
    if (from_at < source->text.size()) {
      const std::string there = source->text.substr(from_at, size);
      text.replace(0, there.size(), there);
    }
    return write(to, to_at, text);
  }
  Result<void> truncate(const std::string& path, std::uint64_t size) {
    const NodePtr node = TRY(resolve(path));
    if (node->type != Node::Type::kFile) return Code::kInvalid;
    node->text.resize(size);
    return {};
  }
  // Zeros [offset, offset + size), growing the file for kAllocate and kZeroRange.
  Result<void> fallocate(const std::string& path, fs::FallocateMode mode, std::uint64_t offset,
                         std::uint64_t size) {
    const NodePtr node = TRY(resolve(path));
    if (node->type == Node::Type::kDirectory) return Code::kIsDirectory;
    if (node->type != Node::Type::kFile) return Code::kNoDevice;
    const bool grows =
        mode == fs::FallocateMode::kAllocate || mode == fs::FallocateMode::kZeroRange;
    if (grows && node->text.size() < offset + size) node->text.resize(offset + size);
    const bool zeroes =
        mode != fs::FallocateMode::kAllocate && mode != fs::FallocateMode::kKeepSize;
    if (zeroes) {
      for (std::uint64_t i = offset; i < offset + size && i < node->text.size(); ++i)
        node->text[i] = 0;
    }
    return {};
  }

  // The same text as SimPool::dump().
  std::string dump() const {
    std::string out;
    dump(root, "", out);
    return SimPool::sorted_lines(out);
  }

  NodePtr root;

 private:
  static void dump(const NodePtr& directory, const std::string& path, std::string& out) {
    for (const auto& [name, node] : directory->children) {
      const std::string here = path + "/" + name;
      const bool is_directory = node->type == Node::Type::kDirectory;
      const std::uint32_t type = is_directory                          ? S_IFDIR
                                 : node->type == Node::Type::kSymlink  ? S_IFLNK
                                 : node->type == Node::Type::kWhiteout ? S_IFCHR
                                                                       : S_IFREG;
      out += fmt::format("{} {:o} links {} size {}", here, type | node->mode, node->links,
                         is_directory ? 0 : node->text.size());
      for (const auto& [attribute, value] : node->xattrs) {
        out += fmt::format(" {}={:08x}", attribute, crc32c(as_bytes(value)));
      }
      if (node->type == Node::Type::kSymlink) out += " -> " + node->text;
      if (node->type == Node::Type::kFile)
        out += fmt::format(" data {:08x}", crc32c(as_bytes(node->text)));
      out += '\n';
      if (is_directory) dump(node, here, out);
    }
  }
  // True if `node` is `ancestor` or below it.
  static bool below(const NodePtr& node, const NodePtr& ancestor) {
    if (node == ancestor) return true;
    for (const auto& [name, child] : ancestor->children) {
      if (child->type == Node::Type::kDirectory && below(node, child)) return true;
    }
    return false;
  }
};

}  // namespace dynamicfs::test
