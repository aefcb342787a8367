// Random operations on a small tree, applied to a file system and to the model alike.
#pragma once

#include <random>
#include <string>

#include "tests/fs/model.hpp"
#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {

class RandomOperations {
 public:
  explicit RandomOperations(std::uint64_t seed) : generator_(seed) {}

  struct Outcome {
    std::string text;  // what was done, for messages
    Code real = Code::kOk;
    Code model = Code::kOk;
    // As many operations as this, counted from the first, are durable now.
    std::uint64_t synced = 0;
  };

  // One operation on both; `real` may end anywhere when the power goes.
  Outcome step(SimPool& pool, Model& model) {
    ++count_;
    const std::uint64_t kind = pick(100);
    const std::string a = path();
    const std::string b = path();
    const Outcome outcome = apply(pool, model, kind, a, b);
    if (outcome.model == Code::kOk && kind < kKindsThatChange && !is_clone(kind)) {
      mark(model, a);
      if (kind < kKindsOfNames) mark(model, parent(a));
      if (kind >= 34 && kind < kKindsOfNames) {  // rename
        mark(model, b);
        mark(model, parent(b));
      }
    }
    return outcome;
  }

  std::uint64_t pick(std::uint64_t bound) { return generator_() % bound; }

 private:
  static constexpr std::uint64_t kKindsOfNames = 44;
  static constexpr std::uint64_t kKindsThatChange = 86;

  // What it changes is the other file.
  static bool is_clone(std::uint64_t kind) { return kind >= 68 && kind < 71; }

  static std::string parent(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
  }
  // An fsync of what is called `path` covers this operation.
  void mark(Model& model, const std::string& path) {
    const auto node = model.resolve(path);
    if (node.has_value()) node.value()->changed_by = count_;
  }

  Outcome apply(SimPool& pool, Model& model, std::uint64_t kind, const std::string& a,
                const std::string& b) {
    if (kind < 12)
      return both("create " + a, pool.create(a), model.make(a, Model::Node::Type::kFile, "", 0644));
    if (kind < 19)
      return both("mkdir " + a, pool.mkdir(a),
                  model.make(a, Model::Node::Type::kDirectory, "", 0755));
    if (kind < 22)
      return both("symlink " + a, pool.symlink(a, "to/" + b),
                  model.make(a, Model::Node::Type::kSymlink, "to/" + b, 0777));
    if (kind < 26) return both("link " + a + " " + b, pool.link(a, b), model.link(a, b));
    if (kind < 31) return both("unlink " + a, pool.unlink(a), model.unlink(a));
    if (kind < 34) return both("rmdir " + a, pool.rmdir(a), model.rmdir(a));
    if (kind < 44) {
      const auto mode = static_cast<fs::RenameMode>(pick(6) < 4 ? 0 : 1 + pick(2));
      return both(fmt::format("rename {} {} mode {}", a, b, static_cast<int>(mode)),
                  pool.rename(a, b, mode), model.rename(a, b, mode));
    }
    if (kind < 68) {
      const std::uint64_t offset = offset_in_file();
      const std::string text = some_text();
      return both(fmt::format("write {} at {} bytes {}", a, offset, text.size()),
                  pool.write(a, offset, text), model.write(a, offset, text));
    }
    if (is_clone(kind)) {
      // Whole blocks, so that it is one operation; from a to b, or within a.
      const std::uint64_t from = offset_in_file() / kBlockBytes * kBlockBytes;
      const std::uint64_t to = offset_in_file() / kBlockBytes * kBlockBytes;
      const std::uint64_t size = (1 + pick(20)) * kBlockBytes;
      const std::string& target = pick(4) == 0 ? a : b;
      Outcome outcome = both(
          fmt::format("clone {} at {} to {} at {} bytes {}", a, from, target, to, size),
          pool.copy_range(a, from, target, to, size), model.copy_range(a, from, target, to, size));
      if (outcome.model == Code::kOk) mark(model, target);
      return outcome;
    }
    if (kind < 76) {
      const std::uint64_t size = offset_in_file();
      return both(fmt::format("truncate {} to {}", a, size), pool.truncate(a, size),
                  model.truncate(a, size));
    }
    if (kind < 82) {
      const auto mode = static_cast<fs::FallocateMode>(pick(5));
      const std::uint64_t offset = offset_in_file();
      const std::uint64_t size = 1 + pick(40'000);
      return both(fmt::format("fallocate {} mode {} at {} bytes {}", a, static_cast<int>(mode),
                              offset, size),
                  fallocate(pool, a, mode, offset, size), model.fallocate(a, mode, offset, size));
    }
    if (kind < 86) {
      const std::string value(pick(3) == 0 ? pick(40'000) : pick(20), 'v');
      return both("setxattr " + a, setxattr(pool, a, value), set_model_xattr(model, a, value));
    }
    if (kind < 93) {
      Outcome outcome = both("fsync " + a, pool.fsync(a), exists(model, a));
      // What it covers is what happened to this file or directory, not everything before.
      const auto node = model.resolve(a);
      if (outcome.real == Code::kOk && node.has_value()) outcome.synced = node.value()->changed_by;
      return outcome;
    }
    if (kind < 96) {
      Outcome outcome = both("checkpoint", pool.run(pool.fs().checkpoint()), {});
      if (outcome.real == Code::kOk) outcome.synced = count_;
      if (pick(2) == 0) pool.fs().evict();
      return outcome;
    }
    Outcome outcome = both("sync", pool.run(pool.fs().sync()), {});
    if (outcome.real == Code::kOk) outcome.synced = count_;
    return outcome;
  }

  static Outcome both(std::string text, Result<void> real, Result<void> model) {
    return {std::move(text), real.has_value() ? Code::kOk : real.error().code,
            model.has_value() ? Code::kOk : model.error().code, 0};
  }
  std::string path() {
    std::string out;
    const std::uint64_t depth = 1 + pick(3);
    for (std::uint64_t i = 0; i < depth; ++i) {
      if (i != 0) out += '/';
      out += static_cast<char>('a' + pick(3));
    }
    return out;
  }
  std::uint64_t offset_in_file() {
    switch (pick(4)) {
      case 0: return 0;
      case 1: return pick(16) * kBlockBytes;
      case 2: return kWindowBytes - 8000 + pick(16'000);  // around the edge of a window
      default: return pick(100'000);
    }
  }
  std::string some_text() {
    const std::uint64_t size = pick(3) == 0 ? (1 + pick(8)) * kBlockBytes : 1 + pick(20'000);
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>('A' + pick(26));
    return text;
  }
  static Result<void> fallocate(SimPool& pool, const std::string& path, fs::FallocateMode mode,
                                std::uint64_t offset, std::uint64_t size) {
    const InodeId inode = TRY(pool.resolve(path));
    return pool.run(pool.fs().fallocate(inode, mode, offset, size));
  }
  static Result<void> setxattr(SimPool& pool, const std::string& path, const std::string& value) {
    const InodeId inode = TRY(pool.resolve(path));
    return pool.run(pool.fs().setxattr(inode, "user.test", value, fs::XattrMode::kEither));
  }
  static Result<void> set_model_xattr(Model& model, const std::string& path,
                                      const std::string& value) {
    const Model::NodePtr node = TRY(model.resolve(path));
    node->xattrs["user.test"] = value;
    return {};
  }
  static Result<void> exists(Model& model, const std::string& path) {
    const auto node = model.resolve(path);
    if (!node.has_value()) return node.error();
    return {};
  }

  std::mt19937_64 generator_;
  std::uint64_t count_ = 0;
};

}  // namespace dynamicfs::test
