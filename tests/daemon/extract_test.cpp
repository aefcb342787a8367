// What `extract` makes of trees that no program of ours would write: records that lead names, and with them
// files, out of the directory that everything is to go into.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "base/blocking.hpp"
#include "fs/change_format.hpp"
#include "fs/extract_tree.hpp"
#include "journal/run_set.hpp"
#include "tests/journal/threaded_disk.hpp"

namespace dynamicfs::test {
namespace {

namespace files = std::filesystem;

// A directory that goes with the test.
struct Scratch {
  Scratch() {
    std::string text = (files::temp_directory_path() / "dynamicfs-extract-XXXXXX").string();
    REQUIRE(::mkdtemp(text.data()) != nullptr);
    path = text;
  }
  ~Scratch() { files::remove_all(path); }
  files::path path;
};

std::string content_of(const files::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A pool on a disk in memory, mounted.
struct MemoryPool {
  MemoryPool() {
    ThreadedDisk disk(*executor, "memory", media);
    const auto made = block_on(*executor, journal::Pool::format(*executor, {&disk}, {}));
    REQUIRE(made.has_value());
    mount(false);
  }
  ~MemoryPool() { unmount(); }

  void mount(bool salvage) {
    journal::Pool::Opening opening;
    opening.disks.push_back(std::make_unique<ThreadedDisk>(*executor, "memory", media));
    opening.salvage = salvage;
    auto pool = block_on(*executor, journal::Pool::open(*executor, std::move(opening), nullptr));
    REQUIRE(pool.has_value());
    fs::FilesystemOptions options;
    options.read_only = options.tolerant = options.salvage = salvage;
    options.small_run_bytes = 0;  // each checkpoint a run
    auto mounted =
        block_on(*executor, fs::Filesystem::mount(*executor, std::move(pool).value(), options));
    REQUIRE(mounted.has_value());
    filesystem = std::move(mounted).value();
    salvaged = salvage;
  }
  void unmount() {
    if (filesystem == nullptr) return;
    CHECK(block_on(*executor, filesystem->unmount()).has_value());
    filesystem.reset();
  }

  InodeId mkdir(InodeId parent, const std::string& name) {
    return block_on(*executor, filesystem->mkdir(parent, name, 0755, {})).value().inode;
  }
  InodeId file(InodeId parent, const std::string& name, const std::string& content) {
    const InodeId inode =
        block_on(*executor, filesystem->mknod(parent, name, S_IFREG | 0644, 0, {})).value().inode;
    Buffer buffer{kBlockBytes};
    std::memcpy(buffer.data(), content.data(), content.size());
    CHECK(
        block_on(*executor, filesystem->write(inode, 0, buffer.span().first(content.size()), 0, {}))
            .has_value());
    return inode;
  }
  void symlink(InodeId parent, const std::string& name, const std::string& target) {
    CHECK(block_on(*executor, filesystem->symlink(parent, name, target, {})).has_value());
  }
  // As no program of ours would write it.
  void forge(const fs::RecordWriter& record) {
    const auto bytes = record.bytes();
    block_on(*executor, append(filesystem.get(), Bytes(bytes.begin(), bytes.end())));
  }
  static Task<int> append(fs::Filesystem* to, Bytes record) {
    journal::Credit credit = co_await to->journal().reserve(1, record.size());
    const Result<void> synced = co_await to->journal().sync(to->journal().append(credit, record));
    CHECK(synced.has_value());
    co_return 0;
  }

  // What is told, by path: the first of each.
  std::map<std::string, fs::ExtractLoss> extract(const files::path& to) {
    // What was forged is in the log alone.
    if (!salvaged) CHECK(block_on(*executor, filesystem->sync()).has_value());
    filesystem.reset();
    mount(true);
    std::map<std::string, fs::ExtractLoss> told;
    auto target = fs::ExtractTarget::open(to.string(), {});
    REQUIRE(target.has_value());
    fs::ExtractTree::Events events;
    events.on_loss = [&told](const fs::ExtractLoss& loss) { told.emplace(loss.path, loss); };
    events.on_name = [](const std::string&, const fs::Attributes&) {};
    events.on_progress = [](const fs::ExtractCounts&) {};
    int asked = 0;
    if (stop_after >= 0) events.stop = [&] { return asked++ >= stop_after; };
    fs::ExtractTree tree{*executor, *filesystem, target->get(), {}, events};
    const Result<void> run = tree.run();
    stopped = !run.has_value();
    CHECK((!stopped || (stop_after >= 0 && run.error().code == Code::kShutdown)));
    counts = tree.counts();
    return told;
  }

  void checkpoint() { REQUIRE(block_on(*executor, filesystem->checkpoint()).has_value()); }
  // Every block of it, while it is mounted.
  void spoil_oldest_run() {
    const std::vector<journal::RunRef> runs = filesystem->pool().superblock().manifest.runs;
    REQUIRE(runs.size() == 2);
    const journal::RunRef& run = runs.back();
    for (std::uint64_t block = 0; block < run.blocks(); ++block) {
      for (const journal::RunCopy& copy : run.copies) {
        const std::uint64_t at =
            journal::run_offset(filesystem->pool(), copy, block * journal::kRunBlockBytes);
        (*media)[at + 100] ^= std::byte{1};
      }
    }
  }

  fs::ExtractCounts counts;
  bool stopped = false;
  bool salvaged = false;  // mounted as extract does
  int stop_after = -1;    // asked so often
  std::unique_ptr<Executor> executor = make_thread_executor();
  std::shared_ptr<Bytes> media = std::make_shared<Bytes>(64 * kMiB);
  std::unique_ptr<fs::Filesystem> filesystem;
};

using Kind = fs::ExtractLoss::Kind;

}  // namespace

TEST_SUITE("extract") {
  TEST_CASE("a link and a directory of one name: nothing goes where the link leads") {
    const Scratch scratch;
    const files::path outside = scratch.path / "outside";
    files::create_directory(outside);
    const files::path out = scratch.path / "out";
    MemoryPool pool;
    pool.symlink(kRootInode, "x", outside.string());
    const InodeId directory = pool.mkdir(kRootInode, "y");
    pool.file(directory, "inside", "text");
    pool.file(kRootInode, "z", "z");
    pool.symlink(kRootInode, "dangling", (outside / "made").string());
    const InodeId file = pool.file(kRootInode, "w", "w");
    fs::RecordWriter record;
    record.entry_put(kRootInode, 50, directory, S_IFDIR, "x");
    record.entry_remove(kRootInode, fs::Directory::cookie_of("y"));
    record.entry_put(kRootInode, 51, file, S_IFREG, "dangling");
    pool.forge(record);
    const auto told = pool.extract(out);
    CHECK(files::is_empty(outside));
    CHECK(content_of(out / "z") == "z");
    CHECK(content_of(out / "w") == "w");
    // Whichever came first has the name; the other has one of its own, which is told.
    REQUIRE(told.contains("/x"));
    CHECK(told.at("/x").kind == Kind::kDoubtful);
    REQUIRE(told.contains("/dangling"));
    CHECK(told.at("/dangling").kind == Kind::kDoubtful);
    const bool link_first = files::is_symlink(out / "x");
    const files::path inside =
        link_first ? out / fmt::format("inode-{}", directory) / "inside" : out / "x" / "inside";
    CHECK(content_of(inside) == "text");
    CHECK_FALSE(files::exists(outside / "made"));
  }

  TEST_CASE("a name that the target has already comes out under another, with all that is in it") {
    const Scratch scratch;
    const files::path out = scratch.path / "out";
    files::create_directories(out / "lost+found");
    MemoryPool pool;
    const InodeId directory = pool.mkdir(kRootInode, "lost+found");
    const InodeId deep = pool.mkdir(directory, "deep");
    pool.file(deep, "f", "text");
    const auto told = pool.extract(out);
    REQUIRE(told.size() == 1);
    REQUIRE(told.contains("/lost+found"));
    CHECK(told.at("/lost+found").kind == Kind::kDoubtful);
    const std::string other = fmt::format("inode-{}", directory);
    CHECK(told.at("/lost+found").why.find(other) != std::string::npos);
    CHECK(content_of(out / other / "deep" / "f") == "text");
    CHECK(files::is_empty(out / "lost+found"));
  }

  TEST_CASE("a file that the target cannot take whole is not there, and is told") {
    const Scratch scratch;
    const files::path out = scratch.path / "out";
    MemoryPool pool;
    pool.file(kRootInode, "long", std::string(3000, 'x'));
    pool.file(kRootInode, "short", "text");
    struct rlimit before {};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto handler = ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small { .rlim_cur = 1000, .rlim_max = before.rlim_max };
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    const auto told = pool.extract(out);
    ::setrlimit(RLIMIT_FSIZE, &before);
    ::signal(SIGXFSZ, handler);
    REQUIRE(told.size() == 1);
    REQUIRE(told.contains("/long"));
    CHECK(told.at("/long").kind == Kind::kMissing);
    CHECK_FALSE(files::exists(out / "long"));
    CHECK(content_of(out / "short") == "text");
    CHECK(pool.counts.files == 1);
    CHECK(pool.counts.bytes == 4);
  }

  TEST_CASE("when it is to stop it ends in order: no part of a file is left under its name") {
    MemoryPool pool;
    constexpr int kFiles = 5;
    for (int i = 0; i < kFiles; ++i)
      pool.file(kRootInode, fmt::format("f{}", i), fmt::format("text {}", i));
    for (int asked = 0;; ++asked) {
      const Scratch scratch;
      const files::path out = scratch.path / "out";
      pool.stop_after = asked;
      pool.extract(out);
      int there = 0;
      for (const auto& entry : files::directory_iterator(out)) {
        const std::string name = entry.path().filename().string();
        CHECK(content_of(entry.path()) == "text " + name.substr(1));
        ++there;
      }
      CHECK(pool.counts.files == static_cast<std::uint64_t>(there));
      CHECK(pool.stopped == (there < kFiles));
      if (there == kFiles) break;
      REQUIRE(asked < 4 * kFiles);
    }
  }

  TEST_CASE("of a run that is lost each file is told that had something in it") {
    const Scratch scratch;
    const files::path out = scratch.path / "out";
    MemoryPool pool;
    const InodeId old = pool.file(kRootInode, "old", "old text");
    pool.checkpoint();
    const InodeId fresh = pool.mkdir(kRootInode, "fresh");
    pool.file(fresh, "new", "new text");
    fs::AttributeChange touch;
    touch.mtime_ns = 1;
    CHECK(block_on(*pool.executor, pool.filesystem->setattr(old, touch)).has_value());
    pool.checkpoint();
    pool.file(fresh, "logged", "logged text");
    CHECK(block_on(*pool.executor, pool.filesystem->sync()).has_value());
    pool.spoil_oldest_run();
    const auto told = pool.extract(out);
    // Its name was in the run, its inode is in the newer one, and where its data is nobody knows.
    const std::string nameless = fmt::format("/dynamicfs-nameless/inode-{}", old);
    REQUIRE(told.contains(nameless));
    CHECK(told.at(nameless).kind == Kind::kPartial);
    CHECK(told.at(nameless).ranges == std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0, 8}});
    REQUIRE(told.contains("/"));
    CHECK(told.at("/").kind == Kind::kDoubtful);
    CHECK(content_of(out / "fresh" / "new") == "new text");
    REQUIRE(told.contains("/fresh/new"));
    CHECK(told.at("/fresh/new").kind == Kind::kAttributes);
    CHECK_FALSE(told.contains("/fresh/logged"));
    CHECK(content_of(out / "fresh" / "logged") == "logged text");
  }

  TEST_CASE("a record with names that are none counts for nothing, which is told") {
    const Scratch scratch;
    const files::path out = scratch.path / "a" / "out";
    files::create_directory(scratch.path / "a");
    MemoryPool pool;
    const InodeId directory = pool.mkdir(kRootInode, "d");
    const InodeId file = pool.file(directory, "f", "text");
    const InodeId other = pool.mkdir(directory, "g");
    fs::RecordWriter record;
    record.entry_put(kRootInode, 60, file, S_IFREG, "../escaped");
    record.entry_put(kRootInode, 61, other, S_IFDIR, "..");
    pool.forge(record);
    CHECK(pool.extract(out).empty());
    CHECK(pool.filesystem->mount_report().journal.records_failed == 1);
    CHECK_FALSE(files::exists(scratch.path / "a" / "escaped"));
    CHECK_FALSE(files::exists(scratch.path / "escaped"));
    CHECK(content_of(out / "d" / "f") == "text");
    for (const files::path& path : {scratch.path, scratch.path / "a"})
      CHECK(std::distance(files::directory_iterator(path), files::directory_iterator()) == 1);
  }

  TEST_CASE("directories that lie in each other end somewhere, and a name of nothing is told") {
    const Scratch scratch;
    const files::path out = scratch.path / "out";
    MemoryPool pool;
    const InodeId directory = pool.mkdir(kRootInode, "d");
    const InodeId inner = pool.mkdir(directory, "e");
    pool.file(inner, "f", "text");
    fs::RecordWriter record;
    record.entry_put(inner, fs::Directory::cookie_of("up"), directory, S_IFDIR, "up");
    record.entry_put(directory, fs::Directory::cookie_of("ghost"), InodeId{4000}, S_IFREG, "ghost");
    pool.forge(record);
    const auto told = pool.extract(out);
    CHECK(content_of(out / "d/e/f") == "text");
    REQUIRE(told.contains("/d/e/up"));
    CHECK(told.at("/d/e/up").kind == Kind::kMissing);
    REQUIRE(told.contains("/d/ghost"));
    CHECK(told.at("/d/ghost").kind == Kind::kMissing);
  }

  TEST_CASE("a directory that lost its name, with all that is in it, comes out without it") {
    const Scratch scratch;
    const files::path out = scratch.path / "out";
    MemoryPool pool;
    const InodeId directory = pool.mkdir(kRootInode, "d");
    pool.file(directory, "f", "text");
    pool.file(kRootInode, "g", "g");
    fs::RecordWriter record;
    record.entry_remove(kRootInode, fs::Directory::cookie_of("d"));
    record.entry_put(kRootInode, fs::Directory::cookie_of("ghost"), InodeId{4000}, S_IFREG,
                     "ghost");
    pool.forge(record);
    const auto told = pool.extract(out);
    CHECK(told.contains("/ghost"));
    CHECK(content_of(out / "g") == "g");
    CHECK(content_of(out / "dynamicfs-nameless" / fmt::format("inode-{}", directory) / "f") ==
          "text");
  }

  TEST_CASE("what is there already is neither followed nor changed") {
    const Scratch scratch;
    const files::path outside = scratch.path / "outside";
    std::ofstream(outside) << "untouched";
    ::chmod(outside.c_str(), 0640);
    auto opened = fs::ExtractTarget::open((scratch.path / "out").string(), {});
    REQUIRE(opened.has_value());
    fs::ExtractTarget& target = **opened;
    const int root = target.root();
    REQUIRE(target.make_symlink(root, "link", outside.string()).has_value());
    REQUIRE(target.make_symlink(root, "dangling", (scratch.path / "made").string()).has_value());
    for (const char* name : {"link", "dangling"}) {
      CHECK(target.make_file(root, name).error().sys_errno == EEXIST);
      CHECK(target.make_directory(root, name).error().sys_errno == EEXIST);
      CHECK(target.make_symlink(root, name, "x").error().sys_errno == EEXIST);
      CHECK(target.make_special(root, name, S_IFIFO, 0).error().sys_errno == EEXIST);
    }
    fs::Attributes attributes;
    attributes.mode = S_IFLNK | 0777;
    attributes.uid = ::geteuid();
    attributes.gid = ::getegid();
    attributes.mtime_ns = 5'000'000'001;
    target.dress(root, "link", attributes, {{"user.note", "x"}}, "/link");
    struct stat of {};
    REQUIRE(::stat(outside.c_str(), &of) == 0);
    CHECK((of.st_mode & 07777) == 0640);
    CHECK(of.st_mtim.tv_sec != 5);
    REQUIRE(::lstat((scratch.path / "out" / "link").c_str(), &of) == 0);
    CHECK(of.st_mtim.tv_sec == 5);
    CHECK(of.st_mtim.tv_nsec == 1);
    CHECK(content_of(outside) == "untouched");
    CHECK_FALSE(files::exists(scratch.path / "made"));
    // A second name of a link is a link to the link.
    target.remember(InodeId{7}, root, "link");
    CHECK(target.link_known(InodeId{7}, root, "again", "/again"));
    CHECK(files::is_symlink(scratch.path / "out" / "again"));
    CHECK_FALSE(target.link_known(InodeId{8}, root, "other", "/other"));
    CHECK(target.end().has_value());
    CHECK(std::distance(files::directory_iterator(scratch.path / "out"),
                        files::directory_iterator()) == 3);
    for (const char* name : {"", ".", "..", "a/b", "/"})
      CHECK_FALSE(fs::ExtractTarget::is_name(name));
    CHECK_FALSE(fs::ExtractTarget::is_name(std::string(256, 'a')));
    CHECK_FALSE(fs::ExtractTarget::is_name(std::string("a\0b", 3)));
    CHECK(fs::ExtractTarget::is_name("..."));
  }
}

}  // namespace dynamicfs::test
