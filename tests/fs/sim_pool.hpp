// A mounted file system on simulated disks, with a small language for tests: paths instead of inode
// numbers, a dump of the whole tree as text, power cuts and remounts.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/crc32c.hpp"
#include "base/sim_executor.hpp"
#include "fs/filesystem.hpp"
#include "scheduler/simulated_disk.hpp"

namespace dynamicfs::test {

struct SimPoolOptions {
  std::vector<std::uint64_t> disk_bytes = {64 * kMiB, 64 * kMiB, 96 * kMiB};
  journal::Policy policy{.kind = journal::Policy::Kind::kReplica, .copies_or_data = 2};
  std::uint64_t read_memory_bytes = fs::FilesystemOptions{}.read_memory_bytes;
  bool tolerant = false;
  bool salvage = false;  // whatever is left, read-only
  bool repair = false;
  bool acl = false;
  Duration scrub_every{0};
  unsigned checkpoint_log_percent = fs::FilesystemOptions{}.checkpoint_log_percent;
  std::uint64_t small_run_bytes = fs::FilesystemOptions{}.small_run_bytes;
  std::uint64_t metadata_memory_bytes = fs::FilesystemOptions{}.metadata_memory_bytes;
  Duration rebuild_after = fs::FilesystemOptions{}.rebuild_after;
};

inline SimPoolOptions one_disk(std::uint64_t bytes) {
  SimPoolOptions options;
  options.disk_bytes = {bytes};
  options.policy.copies_or_data = 1;
  return options;
}

// Letters from `seed`, eight for each number: of this the suites need gigabytes.
inline std::string pattern(std::uint64_t seed, std::size_t size) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    const std::uint64_t letters = (random() & 0x0f0f0f0f0f0f0f0f) + 0x6161616161616161;
    std::memcpy(text.data() + at, &letters, std::min(sizeof letters, size - at));
  }
  return text;
}

class SimPool {
 public:
  explicit SimPool(std::uint64_t seed, SimPoolOptions options = {})
      : executor(seed), options_(std::move(options)), seed_(seed) {
    for (const std::uint64_t bytes : options_.disk_bytes) {
      media.push_back(std::make_shared<scheduler::SimulatedMedia>(bytes));
    }
  }
  // The disks of a power cut or a plain drop go with everything that still runs on them.
  ~SimPool() { drop(); }

  void format() {
    auto opened = open_disks();
    std::vector<scheduler::Disk*> plain;
    for (auto& disk : opened) plain.push_back(disk.get());
    const auto uuid =
        executor.run(journal::Pool::format(executor, plain, {options_.policy, "test"}));
    DFS_ASSERT(uuid.has_value());
  }

  // Disks whose index is in `away` are not offered.
  Result<void> mount(const std::vector<std::size_t>& away = {}, bool read_only = false) {
    const Result<void> result = executor.run(mount_task(away, read_only));
    if (!result.has_value()) disks.clear();  // they went with the attempt
    return result;
  }

  Result<void> unmount() {
    const Result<void> result = executor.run(filesystem->unmount());
    drop();
    return result;
  }

  // The machine loses power; what was mounted is gone. The media keep what the fault model says.
  void power_cut() {
    for (scheduler::SimulatedDisk* disk : disks) disk->power_cut();
    drop();
  }

  // The daemon is killed, and the machine goes on.
  void kill() {
    for (scheduler::SimulatedDisk* disk : disks) disk->kill();
    drop();
  }

  fs::Filesystem& fs() { return *filesystem; }

  // A new disk for what is mounted, and for the next mounts.
  Result<DiskId> add_disk(std::uint64_t bytes, bool spare = false) {
    media.push_back(std::make_shared<scheduler::SimulatedMedia>(bytes));
    auto disk = std::make_unique<scheduler::SimulatedDisk>(
        executor, fmt::format("sim{}", media.size() - 1), media.back(),
        seed_ * 1000 + media.size() + 100 * ++opened_);
    disks.push_back(disk.get());
    if (on_open) on_open(media.size() - 1, *disk);
    scheduler::SimulatedDisk* const added = disk.get();
    Result<DiskId> id = run(filesystem->add_disk(std::move(disk), spare));
    if (!id.has_value()) std::erase(disks, added);  // it may be gone
    return id;
  }

  // A disk that is away comes back while the pool is mounted; what it had not flushed may be gone.
  Result<DiskId> return_disk(std::size_t index) {
    const std::string name = fmt::format("sim{}", index);
    std::erase_if(disks, [&](scheduler::SimulatedDisk* disk) {
      const bool away = disk->path() == name && disk->failed();
      if (away) disk->power_cut();
      return away;
    });
    auto disk = std::make_unique<scheduler::SimulatedDisk>(executor, name, media[index],
                                                           seed_ * 1000 + index + 100 * ++opened_);
    disks.push_back(disk.get());
    const auto returned = run(filesystem->return_disk(std::move(disk)));
    if (!returned.has_value()) disks.pop_back();
    return returned;
  }

  // For the next mount.
  void set_acl(bool on) { options_.acl = on; }
  void set_salvage(bool on) { options_.salvage = on; }
  void set_scrub_every(Duration every) { options_.scrub_every = every; }

  template <class T>
  T run(Task<T> task) {
    return executor.run(std::move(task));
  }

  // Paths.

  // "a/b/c"; "" is the root. The reference of the lookup is given back at once.
  Result<InodeId> resolve(const std::string& path) {
    return run(resolve_task(filesystem.get(), path));
  }
  Result<std::pair<InodeId, std::string>> parent_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string directory = slash == std::string::npos ? "" : path.substr(0, slash);
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    return std::pair{TRY(resolve(directory)), name};
  }
  // Makes something and forgets the kernel's reference to it.
  Result<void> made(Result<fs::Attributes> attributes) {
    if (!attributes.has_value()) return attributes.error();
    filesystem->forget(attributes->inode, 1);
    return {};
  }
  Result<void> create(const std::string& path, std::uint32_t mode = 0644) {
    const auto at = TRY(parent_of(path));
    return made(run(filesystem->mknod(at.first, at.second, S_IFREG | mode, 0, {})));
  }
  Result<void> mkdir(const std::string& path) {
    const auto at = TRY(parent_of(path));
    return made(run(filesystem->mkdir(at.first, at.second, 0755, {})));
  }
  Result<void> symlink(const std::string& path, const std::string& target) {
    const auto at = TRY(parent_of(path));
    return made(run(filesystem->symlink(at.first, at.second, target, {})));
  }
  Result<void> link(const std::string& from, const std::string& to) {
    const InodeId inode = TRY(resolve(from));
    const auto at = TRY(parent_of(to));
    return made(run(filesystem->link(inode, at.first, at.second)));
  }
  Result<void> unlink(const std::string& path) {
    const auto at = TRY(parent_of(path));
    return run(filesystem->unlink(at.first, at.second));
  }
  Result<void> rmdir(const std::string& path) {
    const auto at = TRY(parent_of(path));
    return run(filesystem->rmdir(at.first, at.second));
  }
  Result<void> rename(const std::string& from, const std::string& to,
                      fs::RenameMode mode = fs::RenameMode::kReplace, bool whiteout = false) {
    const auto a = TRY(parent_of(from));
    const auto b = TRY(parent_of(to));
    std::optional<fs::Caller> caller;
    if (whiteout) caller.emplace();
    return run(filesystem->rename(a.first, a.second, b.first, b.second, mode, caller));
  }
  Result<void> write(const std::string& path, std::uint64_t offset, std::string_view text) {
    const InodeId inode = TRY(resolve(path));
    return run(write_task(filesystem.get(), inode, offset, std::string{text}));
  }
  Result<std::string> read(const std::string& path, std::uint64_t offset = 0,
                           std::size_t size = 64 * kMiB) {
    const InodeId inode = TRY(resolve(path));
    return run(read_task(filesystem.get(), inode, offset, size));
  }
  // All of it, in as many calls as that takes.
  Result<void> copy_range(const std::string& from, std::uint64_t from_at, const std::string& to,
                          std::uint64_t to_at, std::uint64_t size) {
    const InodeId source = TRY(resolve(from));
    const InodeId target = TRY(resolve(to));
    do {
      const std::uint64_t done =
          TRY(run(filesystem->copy_range(source, from_at, target, to_at, size, {})));
      DFS_ASSERT(done <= size && (done > 0 || size == 0));
      from_at += done;
      to_at += done;
      size -= done;
    } while (size > 0);
    return {};
  }
  Result<void> truncate(const std::string& path, std::uint64_t size) {
    const InodeId inode = TRY(resolve(path));
    fs::AttributeChange change;
    change.size_bytes = size;
    const auto result = run(filesystem->setattr(inode, change));
    if (!result.has_value()) return result.error();
    return {};
  }
  Result<void> fsync(const std::string& path) { return run(filesystem->fsync(TRY(resolve(path)))); }
  Result<fs::Attributes> stat(const std::string& path) {
    return run(filesystem->getattr(TRY(resolve(path))));
  }

  // Every name with type, mode, links, size, contents and attributes, one line each, sorted. Times
  // are left out. An unreadable file is an error.
  Result<std::string> dump() { return run(dump_task(filesystem.get())); }

  static Task<Result<InodeId>> resolve_task(fs::Filesystem* filesystem, std::string path) {
    InodeId inode = kRootInode;
    std::size_t at = 0;
    while (at < path.size()) {
      const std::size_t slash = std::min(path.find('/', at), path.size());
      CO_TRY_ASSIGN(const fs::Attributes found,
                    co_await filesystem->lookup(inode, path.substr(at, slash - at)));
      filesystem->forget(found.inode, 1);
      inode = found.inode;
      at = slash + 1;
    }
    co_return inode;
  }
  static Task<Result<void>> write_task(fs::Filesystem* filesystem, InodeId inode,
                                       std::uint64_t offset, std::string text) {
    Buffer buffer{align_up(std::max<std::size_t>(text.size(), 1), kBlockBytes)};
    std::memset(buffer.data(), 0xee, buffer.size());
    std::memcpy(buffer.data(), text.data(), text.size());
    const auto data = buffer.span().first(text.size());
    co_return co_await filesystem->write(inode, offset, data, buffer.size() - text.size(), {});
  }
  static Task<Result<std::string>> read_task(fs::Filesystem* filesystem, InodeId inode,
                                             std::uint64_t offset, std::size_t size) {
    CO_TRY_ASSIGN(const fs::ReadReply reply, co_await filesystem->read(inode, offset, size));
    co_return std::string{as_text(reply.buffer.span().subspan(reply.begin, reply.size_bytes))};
  }
  static Task<Result<std::string>> dump_task(fs::Filesystem* filesystem) {
    std::string out;
    CO_TRY(co_await dump_directory(filesystem, kRootInode, "", &out));
    co_return sorted_lines(out);
  }

  static std::string sorted_lines(const std::string& text) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      lines.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    std::sort(lines.begin(), lines.end());
    std::string out;
    for (const std::string& line : lines) out += line + "\n";
    return out;
  }

  SimExecutor executor;
  std::vector<std::shared_ptr<scheduler::SimulatedMedia>> media;
  std::vector<scheduler::SimulatedDisk*> disks;  // those of the current mount
  std::unique_ptr<fs::Filesystem> filesystem;
  journal::Pool::Problem problem;
  // Called for each disk of the next mount, and each that is added, before anything is read.
  std::function<void(std::size_t index, scheduler::SimulatedDisk&)> on_open;
  // What stands between the file system and each disk of the next mount.
  std::function<std::unique_ptr<scheduler::Disk>(std::unique_ptr<scheduler::SimulatedDisk>,
                                                 std::size_t index)>
      wrap;

 protected:
  SimPoolOptions options_;

 private:
  struct Name {
    std::string name;
    InodeId inode;
  };

  static Task<Result<void>> dump_directory(fs::Filesystem* filesystem, InodeId directory,
                                           std::string path, std::string* out) {
    std::vector<Name> names;
    auto sink = [&names](const fs::DirectoryEntry& entry) {
      if (entry.name != "." && entry.name != "..")
        names.push_back({std::string{entry.name}, entry.inode});
      return true;
    };
    CO_TRY(co_await filesystem->readdir(directory, 0, false, sink));
    for (const Name& name : names) {
      const std::string here = path + "/" + name.name;
      CO_TRY_ASSIGN(const fs::Attributes a, co_await filesystem->getattr(name.inode));
      *out += fmt::format("{} {:o} links {} size {}", here, a.mode, a.nlink,
                          (a.mode & S_IFMT) == S_IFDIR ? 0 : a.size_bytes);
      CO_TRY_ASSIGN(const std::string attribute_names, co_await filesystem->listxattr(name.inode));
      std::size_t at = 0;
      while (at < attribute_names.size()) {
        const std::string attribute = attribute_names.c_str() + at;
        CO_TRY_ASSIGN(const std::string value,
                      co_await filesystem->getxattr(name.inode, attribute));
        *out += fmt::format(" {}={:08x}", attribute, crc32c(as_bytes(value)));
        at += attribute.size() + 1;
      }
      if ((a.mode & S_IFMT) == S_IFLNK) {
        CO_TRY_ASSIGN(const std::string target, co_await filesystem->readlink(name.inode));
        *out += " -> " + target;
      }
      if ((a.mode & S_IFMT) == S_IFREG) {
        std::uint32_t crc = 0;
        std::uint64_t offset = 0;
        while (offset < a.size_bytes) {
          CO_TRY_ASSIGN(const std::string text,
                        co_await read_task(filesystem, name.inode, offset, kMiB));
          crc = crc32c(as_bytes(text), crc);
          offset += text.size();
        }
        *out += fmt::format(" data {:08x}", crc);
      }
      *out += '\n';
      if ((a.mode & S_IFMT) == S_IFDIR) {
        CO_TRY(co_await dump_directory(filesystem, name.inode, here, out));
      }
    }
    co_return {};
  }

  std::vector<std::unique_ptr<scheduler::Disk>> open_disks(
      const std::vector<std::size_t>& away = {}) {
    std::vector<std::unique_ptr<scheduler::Disk>> opened;
    disks.clear();
    for (std::size_t i = 0; i < media.size(); ++i) {
      if (std::find(away.begin(), away.end(), i) != away.end()) continue;
      auto disk = std::make_unique<scheduler::SimulatedDisk>(
          executor, fmt::format("sim{}", i), media[i], seed_ * 1000 + i + 100 * ++opened_);
      disks.push_back(disk.get());
      if (on_open) on_open(i, *disk);
      if (wrap) {
        opened.push_back(wrap(std::move(disk), i));
      } else {
        opened.push_back(std::move(disk));
      }
    }
    return opened;
  }

  Task<Result<void>> mount_task(std::vector<std::size_t> away, bool read_only) {
    journal::Pool::Opening opening;
    opening.disks = open_disks(away);
    opening.read_only = read_only;
    opening.salvage = options_.salvage;
    problem = {};
    CO_TRY_ASSIGN(auto pool, co_await journal::Pool::open(executor, std::move(opening), &problem));
    fs::FilesystemOptions options;
    options.read_only = read_only || options_.salvage;
    options.salvage = options_.salvage;
    options.read_memory_bytes = options_.read_memory_bytes;
    options.checkpoint_log_percent = options_.checkpoint_log_percent;
    options.tolerant = options_.tolerant || options_.salvage;
    options.repair = options_.repair;
    options.acl = options_.acl;
    options.scrub_every = options_.scrub_every;
    options.small_run_bytes = options_.small_run_bytes;
    options.metadata_memory_bytes = options_.metadata_memory_bytes;
    options.rebuild_after = options_.rebuild_after;
    CO_TRY_ASSIGN(filesystem, co_await fs::Filesystem::mount(executor, std::move(pool), options));
    co_return {};
  }

  void drop() {
    if (filesystem == nullptr) return;
    // Let everything that runs find out that its disks are gone, but not the periodic loop, which
    // ends by itself once nobody is linked to it.
    for (scheduler::SimulatedDisk* disk : disks) disk->fail();
    // Longer than a checkpoint that failed waits before it looks again.
    executor.run_for(std::chrono::seconds{3});
    filesystem.reset();
    disks.clear();
    executor.run_until_idle();
  }

  std::uint64_t seed_;
  std::uint64_t opened_ = 0;
};

}  // namespace dynamicfs::test
