#include "tests/fuzz/common_worker.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <system_error>

#include "base/unique_fd.hpp"
#include "tests/fuzz/name_model.hpp"

namespace dynamicfs::fuzz {

namespace {

constexpr std::int64_t kNamesMax = 500;

}  // namespace

CommonWorker::CommonWorker(const Options& options) : Worker(options) {
  const UniqueFd fd{::open(options_.memory.c_str(), O_RDWR | O_CREAT, 0600)};
  expect(fd.get() >= 0, "open of " + options_.memory);
  expect(::ftruncate(fd.get(), sizeof *names_) == 0, "ftruncate of " + options_.memory);
  void* memory = ::mmap(nullptr, sizeof *names_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  expect(memory != MAP_FAILED, "mmap of " + options_.memory);
  names_ = static_cast<std::atomic<std::int64_t>*>(memory);
  const auto make = [this](const std::string& path) {
    if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) fail(path, errno);
  };
  make(options_.root);
  for (unsigned number = 0; number < kDirectories; ++number) {
    make(directory(number));
    for (unsigned one = 0; one < kKept; ++one) make(directory(number) + "/" + kept(one));
    sync_directory(directory(number));
  }
  sync_directory(options_.root);
}

CommonWorker::~CommonWorker() { ::munmap(names_, sizeof *names_); }

std::string CommonWorker::directory(unsigned number) const {
  return fmt::format("{}/common-{}", options_.root, number);
}

std::string CommonWorker::kept(unsigned number) const { return fmt::format("kept-{}", number); }

// Two levels deep at times; the upper one may be anything by then.
std::string CommonWorker::draw_path(Rng& rng) const {
  const std::string upper = fmt::format(
      "{}/name-{}", directory(static_cast<unsigned>(rng.below(kDirectories))), rng.below(kNames));
  return rng.chance(70) ? upper : fmt::format("{}/name-{}", upper, rng.below(kNames));
}

void CommonWorker::step(Rng& rng) {
  const std::string one = draw_path(rng);
  const std::string two = draw_path(rng);
  const char* name = "";
  long result = 0;
  int more = 0;
  // What is moved into each other could grow for ever.
  const bool is_full = names_->load() > kNamesMax;
  const std::uint64_t choice = is_full ? rng.between(39, 99) : rng.below(100);
  if (choice < 15) {
    name = "create";
    result = UniqueFd{::open(one.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644)}.get();
    more = 1;
  } else if (choice < 27) {
    name = "mkdir";
    result = ::mkdir(one.c_str(), 0755);
    more = 1;
  } else if (choice < 31) {
    name = "symlink";
    result = ::symlink("nowhere", one.c_str());
    more = 1;
  } else if (choice < 39) {
    name = "link";
    result = ::link(one.c_str(), two.c_str());
    more = 1;
  } else if (choice < 53) {
    name = "unlink";
    result = ::unlink(one.c_str());
    more = -1;
  } else if (choice < 63) {
    name = "rmdir";
    result = ::rmdir(one.c_str());
    more = -1;
  } else if (choice < 78) {
    name = "rename, no replace";
    result = ::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, two.c_str(), RENAME_NOREPLACE);
  } else if (choice < 88) {
    name = "exchange";
    result = ::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, two.c_str(), RENAME_EXCHANGE);
  } else if (choice < 92) {
    name = "lstat";
    struct stat info {};
    result = ::lstat(one.c_str(), &info);
  } else {
    return list(static_cast<unsigned>(rng.below(kDirectories)));
  }
  const int error = result < 0 ? errno : 0;
  if (is_gone(error)) throw DaemonGone{};
  log_.add(fmt::format("step {}: {} {} {} -> {}", step_, name, one, two, error_text(error)));
  if (result >= 0) names_->fetch_add(more);
  constexpr int kExplained[] = {0, ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, EPERM};
  if (std::ranges::find(kExplained, error) == std::end(kExplained)) {
    violated(fmt::format("{} {} {} ended with {}", name, one, two, error_text(error)));
  }
  if (options_.damaged && rng.chance(20)) names_->fetch_add(1);
}

void CommonWorker::list(unsigned number) const {
  DIR* stream = ::opendir(directory(number).c_str());
  expect(stream != nullptr, "opendir of " + directory(number));
  std::map<std::string, unsigned> seen;
  errno = 0;
  while (const dirent* entry = ::readdir(stream)) ++seen[entry->d_name];
  const int error = errno;
  ::closedir(stream);
  if (error != 0) fail("readdir of " + directory(number), error);
  for (unsigned one = 0; one < kKept; ++one) {
    if (seen[kept(one)] != 1) {
      violated(fmt::format("a listing of {} shows {} {} times", directory(number), kept(one),
                           seen[kept(one)]));
    }
  }
}

std::int64_t CommonWorker::count_names() const {
  SeenTree tree;
  try {
    tree = look(options_.root);
  } catch (const std::system_error& error) {
    fail(error.what(), error.code().value());
  }
  std::map<std::string, std::uint64_t> links;
  for (const auto& [path, seen] : tree) ++links[seen.first_path];
  for (const auto& [path, seen] : tree) {
    if (seen.kind != 'd' && seen.links != links[seen.first_path]) {
      violated(
          fmt::format("{} has {} links and {} names", path, seen.links, links[seen.first_path]));
    }
  }
  constexpr auto kStaying = std::int64_t{1 + kDirectories + kDirectories * kKept};
  return static_cast<std::int64_t>(tree.size()) - kStaying;
}

void CommonWorker::verify() {
  if (options_.worker != 0) return;
  const std::int64_t count = count_names();
  if (count != names_->load())
    violated(fmt::format("{} names are there, {} should be", count, names_->load()));
}

void CommonWorker::recover() {
  if (options_.worker != 0) return;
  for (unsigned number = 0; number < kDirectories; ++number) list(number);
  names_->store(count_names());
}

void CommonWorker::violated(const std::string& what) const {
  throw Violation(fmt::format("worker {}, {}, step {}: {}\nour last operations:\n{}",
                              options_.worker, options_.root, step_, what, log_.text()));
}

}  // namespace dynamicfs::fuzz
