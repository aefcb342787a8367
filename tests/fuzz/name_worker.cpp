#include "tests/fuzz/name_worker.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <system_error>

namespace dynamicfs::fuzz {
namespace {

constexpr std::size_t kNameChangesMax = 200;

struct Entry {
  std::string name;
  std::int64_t cookie;
};

// One getdents64 call; nothing at the end.
std::vector<Entry> entries(int fd, std::size_t buffer_bytes) {
  alignas(8) char buffer[32768];
  const long got = ::syscall(SYS_getdents64, fd, buffer, buffer_bytes);
  if (got < 0) throw std::system_error(errno, std::generic_category(), "getdents64");
  std::vector<Entry> all;
  for (long at = 0; at < got;) {
    std::int64_t cookie = 0;
    std::uint16_t length = 0;
    std::memcpy(&cookie, buffer + at + 8, 8);
    std::memcpy(&length, buffer + at + 16, 2);
    all.push_back({buffer + at + 19, cookie});
    at += length;
  }
  return all;
}

}  // namespace

NameWorker::NameWorker(const Options& options) : Worker(options) {
  expect(::mkdir(options_.root.c_str(), 0755) == 0, options_.root);
  expect(::mkdir((options_.root + "/tree").c_str(), 0755) == 0, options_.root + "/tree");
  if (options_.ballast > 0) make_ballast();
  sync_directory(options_.root + "/tree");
  sync_directory(options_.root);
}

std::string NameWorker::draw_name(Rng& rng, int directory) const {
  const auto& names = model_.node(directory).names;
  // One that is there, or one of a few, short and long.
  if (!names.empty() && rng.chance(50)) {
    return std::next(names.begin(), static_cast<std::ptrdiff_t>(rng.below(names.size())))->first;
  }
  const std::uint64_t number = rng.below(40);
  return number < 37 ? fmt::format("name-{}", number) : std::string(100 + 77 * (number - 37), 'x');
}

NameChange NameWorker::draw(Rng& rng) const {
  const std::vector<int>& directories = model_.directories();
  const auto any = [&] { return directories[rng.below(directories.size())]; };
  NameChange change;
  change.directory = any();
  change.name = draw_name(rng, change.directory);
  change.other_directory = rng.chance(50) ? change.directory : any();
  change.other_name = draw_name(rng, change.other_directory);
  change.value = rng.next() % 1'000'000'000;
  const bool is_full = model_.size() >= kNodesMax;
  const std::uint64_t choice = is_full ? rng.between(30, 99) : rng.below(100);
  const auto kind = [&]() -> NameKind {
    if (choice < 15) return NameKind::kCreate;
    if (choice < 22)
      return model_.depth(change.directory) < 6 ? NameKind::kMkdir : NameKind::kCreate;
    if (choice < 25) return NameKind::kSymlink;
    if (choice < 30) return NameKind::kLink;
    if (choice < 43) return NameKind::kUnlink;
    if (choice < 50) return NameKind::kRmdir;
    if (choice < 64) return NameKind::kRename;
    if (choice < 68) return NameKind::kNoReplace;
    if (choice < 74) return NameKind::kExchange;
    if (choice < 81) return NameKind::kSetXattr;
    if (choice < 85) return NameKind::kRemoveXattr;
    if (choice < 89) return NameKind::kChmod;
    if (choice < 93) return NameKind::kTimes;
    return NameKind::kPut;
  };
  change.kind = kind();
  if (change.kind == NameKind::kSetXattr || change.kind == NameKind::kRemoveXattr) {
    change.other_name = fmt::format("user.attribute-{}", rng.below(4));
    const int flags[] = {0, 0, XATTR_CREATE, XATTR_REPLACE};
    change.xattr_flags = flags[rng.below(4)];
  }
  if (change.kind == NameKind::kChmod) change.value = rng.below(01000);
  return change;
}

std::string NameWorker::full(int directory, const std::string& name) const {
  return options_.root + "/tree" + model_.path(directory) + "/" + name;
}

// Returns 0 or the errno. To be called before the model changes.
int NameWorker::call(const NameChange& change) const {
  const std::string one = full(change.directory, change.name);
  const std::string two = full(change.other_directory, change.other_name);
  const auto code = [](long result) { return result < 0 ? errno : 0; };
  const auto renamed = [&](unsigned flags) {
    return code(::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, two.c_str(), flags));
  };
  switch (change.kind) {
    case NameKind::kCreate:
      return code(UniqueFd{::open(one.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644)}.get());
    case NameKind::kMkdir: return code(::mkdir(one.c_str(), 0755));
    case NameKind::kSymlink:
      return code(::symlink(fmt::format("target-{}", change.value).c_str(), one.c_str()));
    case NameKind::kLink: return code(::link(one.c_str(), two.c_str()));
    case NameKind::kUnlink: return code(::unlink(one.c_str()));
    case NameKind::kRmdir: return code(::rmdir(one.c_str()));
    case NameKind::kRename: return renamed(0);
    case NameKind::kNoReplace: return renamed(RENAME_NOREPLACE);
    case NameKind::kExchange: return renamed(RENAME_EXCHANGE);
    case NameKind::kSetXattr: {
      const std::string value(change.value % 600, static_cast<char>('a' + change.value % 26));
      return code(::setxattr(one.c_str(), change.other_name.c_str(), value.data(), value.size(),
                             change.xattr_flags));
    }
    case NameKind::kRemoveXattr: return code(::removexattr(one.c_str(), change.other_name.c_str()));
    case NameKind::kChmod: return code(::chmod(one.c_str(), static_cast<mode_t>(change.value)));
    case NameKind::kTimes: {
      const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                                 {.tv_sec = static_cast<time_t>(change.value), .tv_nsec = 0}};
      return code(::utimensat(AT_FDCWD, one.c_str(), times, 0));
    }
    case NameKind::kPut: break;
  }
  // Direct, so that the daemon has it when we go on; others than FUSE want an aligned length.
  static const bool is_fuse = [this] {
    struct statfs info {};
    return ::statfs(options_.root.c_str(), &info) == 0 && info.f_type == FUSE_SUPER_MAGIC;
  }();
  const UniqueFd fd{::open(one.c_str(), O_WRONLY | (is_fuse ? O_DIRECT : O_SYNC))};
  if (!fd) return errno;
  alignas(4096) char memory[4096];
  const std::string content = fmt::format("content {:016x}", change.value);
  std::memcpy(memory, content.data(), content.size());
  return code(::pwrite(fd.get(), memory, content.size(), 0));
}

void NameWorker::step(Rng& rng) {
  try {
    const std::uint64_t choice = rng.below(100);
    if (choice < 8) return look_at_one(rng);
    if (choice < 14) return list(rng);
    if (since_.size() > kNameChangesMax) {
      for (const int directory : model_.directories()) sync(directory);
      return;
    }
    if (choice < 15) {
      const auto& directories = model_.directories();
      return sync(directories[rng.below(directories.size())]);
    }
    if (choice < 30 && options_.ballast > 0) return look_at_ballast(rng);
    if (rng.below(20'000) == 0) return verify();
  } catch (const std::system_error& error) {
    fail(error.what(), error.code().value());
  }
  NameChange change = draw(rng);
  NameModel changed = model_;
  const int wanted = changed.apply(change);
  if (wanted == 0 && options_.crash) note(change);
  const int found = call(change);
  if (is_gone(found)) throw DaemonGone{};
  log_.add(fmt::format("step {}: {} -> {} ({})", step_, change.text(), error_text(found),
                       full(change.directory, change.name)));
  if (options_.damaged && rng.chance(20) && wanted == 0) return;
  if (found != wanted) {
    violated(fmt::format("{} ({}, {}) ended with {}, not with {}", change.text(),
                         full(change.directory, change.name),
                         full(change.other_directory, change.other_name), error_text(found),
                         error_text(wanted)));
  }
  model_ = std::move(changed);
  note_for_listing();
}

void NameWorker::look_at_one(Rng& rng) {
  const auto& directories = model_.directories();
  const int directory = directories[rng.below(directories.size())];
  const std::string name = draw_name(rng, directory);
  const int id = model_.find(directory, name);
  struct stat info {};
  const int code = ::lstat(full(directory, name).c_str(), &info) == 0 ? 0 : errno;
  if (is_gone(code)) throw DaemonGone{};
  if (code != (id < 0 ? ENOENT : 0))
    violated(fmt::format("lstat of {} ended with {}", full(directory, name), error_text(code)));
  if (id < 0) return;
  const NameModel::Node& node = model_.node(id);
  const char kind = S_ISDIR(info.st_mode) ? 'd' : S_ISLNK(info.st_mode) ? 'l' : 'f';
  if (kind != node.kind)
    violated(fmt::format("{} is a '{}' instead of a '{}'", full(directory, name), kind, node.kind));
  if (kind == 'd') return;
  if (static_cast<int>(info.st_nlink) != node.links || (info.st_mode & 07777) != node.mode) {
    violated(fmt::format("{} has {} links and mode {:o} instead of {} and {:o}",
                         full(directory, name), info.st_nlink, info.st_mode & 07777, node.links,
                         node.mode));
  }
}

// Some entries of a directory, the next ones another time; it changes meanwhile.
void NameWorker::list(Rng& rng) {
  Listing& now = listing_;
  const bool is_there =
      std::ranges::find(model_.directories(), now.directory) != model_.directories().end();
  if (!now.fd || !is_there) {
    now = {};
    const auto& directories = model_.directories();
    now.directory = directories[rng.below(directories.size())];
    now.fd = UniqueFd{::open(full(now.directory, ".").c_str(), O_RDONLY | O_DIRECTORY)};
    expect(now.fd.get() >= 0, "open of " + full(now.directory, "."));
    now.always = model_.node(now.directory).names;
    for (const auto& [name, id] : now.always) now.ever[name] = true;
  }
  if (!now.cookies.empty() && rng.chance(10)) {
    // From there on everything comes again.
    const std::size_t at = rng.below(now.cookies.size());
    expect(::lseek(now.fd.get(), now.cookies[at].second, SEEK_SET) >= 0, "lseek of a directory");
    for (std::size_t i = at + 1; i < now.cookies.size(); ++i) now.seen[now.cookies[i].first] = 0;
    now.cookies.resize(at + 1);
  }
  const std::vector<Entry> some = entries(now.fd.get(), rng.chance(50) ? 320 : 32768);
  for (const Entry& entry : some) {
    now.cookies.emplace_back(entry.name, entry.cookie);
    if (++now.seen[entry.name] > 1)
      violated(fmt::format("a listing of {} shows {} twice", full(now.directory, ""), entry.name));
    if (entry.name != "." && entry.name != ".." && !now.ever.contains(entry.name)) {
      violated(fmt::format("a listing of {} shows {}, which was never there",
                           full(now.directory, ""), entry.name));
    }
  }
  if (!some.empty()) return;
  for (const auto& [name, id] : now.always) {
    if (now.seen[name] == 0)
      violated(fmt::format("a listing of {} does not show {}, which was there all the time",
                           full(now.directory, ""), name));
  }
  now = {};
}

void NameWorker::note_for_listing() {
  if (!listing_.fd ||
      std::ranges::find(model_.directories(), listing_.directory) == model_.directories().end())
    return;
  const auto& names = model_.node(listing_.directory).names;
  std::erase_if(listing_.always, [&](const auto& one) {
    const auto found = names.find(one.first);
    return found == names.end() || found->second != one.second;
  });
  for (const auto& [name, id] : names) listing_.ever[name] = true;
}

// Of a change that is about to be made.
void NameWorker::note(const NameChange& change) {
  since_.push_back(change);
  const std::uint64_t count = settled_count_ + since_.size();
  switch (change.kind) {
    case NameKind::kLink: changed_[change.other_directory] = count; break;
    case NameKind::kRename:
    case NameKind::kNoReplace:
    case NameKind::kExchange: {
      // Names of one inode: nothing happens.
      if (model_.find(change.directory, change.name) ==
          model_.find(change.other_directory, change.other_name))
        break;
      changed_[change.directory] = changed_[change.other_directory] = count;
      break;
    }
    case NameKind::kSetXattr:
    case NameKind::kRemoveXattr:
    case NameKind::kChmod:
    case NameKind::kTimes: changed_[model_.find(change.directory, change.name)] = count; break;
    case NameKind::kPut: break;
    default: changed_[change.directory] = count; break;
  }
}

void NameWorker::sync(int directory) {
  const UniqueFd fd{::open(full(directory, ".").c_str(), O_RDONLY | O_DIRECTORY)};
  expect(fd.get() >= 0, "open of a directory");
  expect(::fsync(fd.get()) == 0, "fsync of a directory");
  log_.add(fmt::format("step {}: fsync of {}", step_, full(directory, ".")));
  if (!options_.crash) return;
  // The log has an order: what came before the directory's last change is durable with it, wherever
  // it was.
  for (; settled_count_ < changed_[directory]; ++settled_count_) {
    settled_.apply(since_.front());
    since_.erase(since_.begin());
  }
}

void NameWorker::verify() {
  const std::string wrong = difference(look(options_.root + "/tree"), model_.seen());
  if (!wrong.empty()) violated("the tree is not as it should be: " + wrong);
  Rng rng(options_.seed, ~step_);
  for (unsigned i = 0; i < options_.ballast / 10; ++i) check_ballast(rng.below(ballast_.size()));
}

void NameWorker::recover() {
  const SeenTree found = look(options_.root + "/tree");
  NameModel state = settled_;
  std::string all;
  for (std::size_t count = 0;; ++count) {
    const std::string wrong = difference(found, state.seen());
    if (wrong.empty()) break;
    all += fmt::format("  after {}: {}\n", count, wrong);
    if (count == since_.size()) {
      violated(fmt::format(
          "after the kill the tree is as at no moment; it is not as after so many operations since "
          "the last fsync:\n{}",
          all));
    }
    all += fmt::format("  {}: {}\n", count + 1, since_[count].text());
    state.apply(since_[count]);
  }
  model_ = settled_ = state;
  settled_count_ += since_.size();
  since_.clear();
  log_.add("a kill, and a new mount");
}

// Many small files, so that not all metadata fits into the memory that a mount may have for it.

std::string NameWorker::ballast_path(std::uint64_t number) const {
  return fmt::format("{}/ballast-{}/file-{}", options_.root, number / 1000, number);
}

void NameWorker::make_ballast() {
  for (std::uint64_t number = 0; number < options_.ballast; ++number) {
    if (number % 1000 == 0) {
      const std::string directory = fmt::format("{}/ballast-{}", options_.root, number / 1000);
      expect(::mkdir(directory.c_str(), 0755) == 0, "mkdir of " + directory);
    }
    expect(::mknod(ballast_path(number).c_str(), S_IFREG | 0644, 0) == 0,
           "mknod of " + ballast_path(number));
    ballast_.push_back(0);
  }
}

void NameWorker::check_ballast(std::uint64_t number) const {
  const std::string path = ballast_path(number);
  std::uint64_t value = 0;
  const ssize_t got = ::getxattr(path.c_str(), "user.says", &value, sizeof value);
  if (got < 0 && errno != ENODATA) fail("getxattr of " + path, errno);
  if (value != ballast_[number])
    violated(fmt::format("{} says {} instead of {}", path, value, ballast_[number]));
}

void NameWorker::look_at_ballast(Rng& rng) {
  const std::uint64_t number = rng.below(ballast_.size());
  check_ballast(number);
  if (options_.crash || rng.chance(50)) return;
  const std::string path = ballast_path(number);
  const std::uint64_t value = rng.next();
  expect(::setxattr(path.c_str(), "user.says", &value, sizeof value, 0) == 0,
         "setxattr of " + path);
  ballast_[number] = value;
}

void NameWorker::violated(const std::string& what) const {
  throw Violation(fmt::format("worker {}, {}, step {}: {}\nthe last operations:\n{}",
                              options_.worker, options_.root, step_, what, log_.text()));
}

}  // namespace dynamicfs::fuzz
