// `check --repair` as the command does it, on image files: what it says, how it ends, and what it leaves
// untouched.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "fs/check_pool.hpp"
#include "fs/create_pool.hpp"
#include "fs/disk_search.hpp"
#include "fs/extract_pool.hpp"
#include "fs/filesystem_impl.hpp"

namespace dynamicfs::test {
namespace {

namespace files = std::filesystem;
using Insides = fs::Filesystem::Impl;

struct Images {
  Images() {
    std::string pattern = files::temp_directory_path() / "check_repair_XXXXXX";
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    folder = pattern;
    fs::CreateRequest request;
    for (const char* name : {"one.img", "two.img"}) disks.push_back(folder / name);
    request.disks = disks;
    request.redundancy = "replica:2";
    request.size_bytes = 64 * kMiB;
    const auto created = fs::create_pool(request);
    REQUIRE(created.has_value());
    in_pool([](Executor& on, Insides& inside) {
      const auto made = block_on(on, inside.make(kRootInode, "file", S_IFREG | 0644, 0, {}, {}));
      REQUIRE(made.has_value());
      auto mapped = std::make_shared<Buffer>(16 * kBlockBytes);
      const auto text = mapped->span();
      std::fill(text.begin(), text.end(), std::byte{'t'});
      REQUIRE(block_on(on, inside.write(made->inode, 0, text, 0, {})).has_value());
    });
  }
  ~Images() { files::remove_all(folder); }

  // As a mount for writing, with everything in memory, and an unmount.
  void in_pool(const std::function<void(Executor&, Insides&)>& change) {
    const std::unique_ptr<Executor> executor = make_thread_executor();
    fs::DiskSearch search;
    search.named = disks[0];
    auto found = fs::find_disks(*executor, search);
    REQUIRE(found.has_value());
    auto pool = fs::open_pool(*executor, std::move(found->disks), false);
    REQUIRE(pool.has_value());
    Insides inside{*executor, std::move(*pool), fs::FilesystemOptions{}};
    REQUIRE(block_on(*executor, inside.load()).has_value());
    const auto all = block_on(*executor, inside.load_everything());
    REQUIRE(all.has_value());
    change(*executor, inside);
    REQUIRE(block_on(*executor, inside.unmount()).has_value());
  }
  static void add_ghost(Executor&, Insides& inside) {
    const fs::InodeRef root = inside.inodes.find(kRootInode);
    LockGuard lock(root->mutex);
    inside.modify_locked(*root);
    root->directory->put(fs::Directory::cookie_of("ghost"), {InodeId{4000}, S_IFREG, "ghost"});
  }
  // The block of the file at 0 is at 8 as well, with another checksum.
  static void contest(Executor&, Insides& inside) {
    for (const InodeId id : inside.inodes.ids()) {
      const fs::InodeRef inode = inside.inodes.find(id);
      if (!inode->map) continue;
      LockGuard lock(inode->mutex);
      inside.modify_locked(*inode);
      extent::MappingSet set;
      inode->map->snapshot(FileBlock{0}, 1, set);
      const extent::Piece piece{
          .chunk = set.mappings[0].chunk, .block = set.mappings[0].block, .count = 1};
      const std::uint32_t crc = set.crcs[0] ^ 1;
      extent::Freed freed;
      inode->map->put(FileBlock{8}, {&piece, 1}, {&crc, 1}, Generation{1}, freed);
    }
  }

  fs::CheckReport check(bool repair) {
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});
    auto report = fs::check_pool({.disk = disks[0], .others = {}, .data = false, .repair = repair},
                                 [](const fs::ScrubReport&) {});
    set_log_level(LogLevel::kError);
    const std::string why = report.has_value() ? "" : report.error().what;
    INFO(why);
    REQUIRE(report.has_value());
    return std::move(*report);
  }
  // Of everything, to a directory that is removed again.
  fs::ExtractReport extract() {
    const files::path to = folder / "copy";
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});
    auto report =
        fs::extract_pool({.disks = {disks[0]}, .to = to, .only = {}, .search = true},
                         {.on_start = [](std::uint64_t, std::uint64_t) {},
                          .events = {.on_loss = [](const fs::ExtractLoss&) {},
                                     .on_name = [](const std::string&, const fs::Attributes&) {},
                                     .on_progress = [](const fs::ExtractCounts&) {},
                                     .stop = {}}});
    set_log_level(LogLevel::kError);
    files::remove_all(to);
    const std::string why = report.has_value() ? "" : report.error().what;
    INFO(why);
    REQUIRE(report.has_value());
    return std::move(*report);
  }
  std::vector<std::string> bytes() const {
    std::vector<std::string> out;
    for (const std::string& disk : disks) {
      std::ifstream in(disk, std::ios::binary);
      out.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    return out;
  }
  // Repairs, to no effect.
  fs::CheckReport untouched(const std::string& reason) {
    const auto before = bytes();
    fs::CheckReport report = check(true);
    CHECK((bytes() == before));
    const std::string screen = report.screen();
    INFO(screen);
    CHECK(report.exit_code() == fs::ExitCode::kAtRisk);
    CHECK(report.repaired.empty());
    CHECK(screen.find("left     ") != std::string::npos);
    CHECK(screen.find(reason) != std::string::npos);
    return report;
  }

  files::path folder;
  std::vector<std::string> disks;
};

}  // namespace

TEST_SUITE("check --repair") {
  TEST_CASE_FIXTURE(Images, "what can be derived is, and it ends as if nothing had been wrong") {
    in_pool(add_ghost);
    const auto before = bytes();
    CHECK(check(false).exit_code() == fs::ExitCode::kAtRisk);
    CHECK((bytes() == before));
    const fs::CheckReport report = check(true);
    const std::string screen = report.screen();
    INFO(screen);
    CHECK(report.exit_code() == fs::ExitCode::kOk);
    CHECK(screen.find("repaired the name 'ghost' in directory 1 is removed") != std::string::npos);
    CHECK(screen.find("Nothing is wrong.") != std::string::npos);
    CHECK(report.json()["repair"]["repaired"].size() == 1);
    CHECK(report.json()["repair"]["left"].empty());
    const fs::CheckReport again = check(true);
    CHECK(again.exit_code() == fs::ExitCode::kOk);
    CHECK(again.repaired.empty());
    CHECK(check(false).json()["repair"].is_null());
  }

  TEST_CASE_FIXTURE(Images, "what is not understood leaves the disks byte for byte as they were") {
    in_pool(contest);
    in_pool(add_ghost);
    const fs::CheckReport report = untouched("with different contents");
    CHECK(report.screen().find("'dynamicfs extract'") != std::string::npos);
    CHECK(report.screen().find("(/file)") != std::string::npos);
  }

  TEST_CASE_FIXTURE(Images,
                    "so does a file that says it is something else, and it can be read again") {
    const auto set_mode = [&](std::uint32_t mode) {
      in_pool([mode](Executor&, Insides& inside) {
        for (const InodeId id : inside.inodes.ids()) {
          if (id == kRootInode) continue;
          const fs::InodeRef inode = inside.inodes.find(id);
          LockGuard lock(inode->mutex);
          inside.modify_locked(*inode);
          inode->mode = mode;
        }
      });
    };
    CHECK(extract().exit_code() == fs::ExitCode::kOk);
    set_mode(S_IFSOCK | 0644);
    untouched("has blocks of a file and is none");
    // Nor does an extraction pass it for whole.
    const fs::ExtractReport copy = extract();
    CHECK(copy.exit_code() == fs::ExitCode::kAtRisk);
    CHECK(copy.counts.doubtful == 1);
    set_mode(S_IFREG | 0644);
    CHECK(check(true).exit_code() == fs::ExitCode::kOk);
  }

  TEST_CASE_FIXTURE(Images, "an extraction takes a file without a name along, and says so") {
    in_pool([](Executor&, Insides& inside) {
      const fs::InodeRef root = inside.inodes.find(kRootInode);
      LockGuard lock(root->mutex);
      inside.modify_locked(*root);
      root->directory->remove(fs::Directory::cookie_of("file"));
    });
    const fs::ExtractReport copy = extract();
    CHECK(copy.counts.files == 1);
    CHECK(copy.counts.nameless == 1);
    CHECK(copy.exit_code() == fs::ExitCode::kDegraded);
  }

  TEST_CASE_FIXTURE(Images, "so does a tree that has no root directory, and the check is shown") {
    in_pool([](Executor&, Insides& inside) {
      const fs::InodeRef root = inside.inodes.find(kRootInode);
      LockGuard lock(root->mutex);
      inside.modify_locked(*root);
      root->mode = S_IFREG | 0755;
      root->nlink = 9;
    });
    untouched("nothing is repaired");
  }

  TEST_CASE_FIXTURE(Images, "so does a disk that is away") {
    in_pool(add_ghost);
    files::rename(disks[1], folder / "elsewhere");
    const std::string away = std::exchange(disks[1], folder / "elsewhere");
    untouched("is missing: what only it has");
    files::rename(disks[1], away);
    CHECK(check(true).exit_code() == fs::ExitCode::kOk);
  }

  TEST_CASE_FIXTURE(Images, "so does what cannot be read") {
    // Of every slot the first block, so also of those that the run lies in.
    std::uint64_t first = 0;
    in_pool([&](Executor&, Insides& inside) {
      first = inside.pool->slot_offset(DiskId{0}, SlotId{0});
      CHECK(inside.pool->slot_offset(DiskId{1}, SlotId{0}) == first);
    });
    for (const std::string& disk : disks) {
      std::fstream file(disk, std::ios::binary | std::ios::in | std::ios::out);
      for (std::uint64_t slot = first; slot + kSlotBytes <= 64 * kMiB; slot += kSlotBytes) {
        file.seekp(static_cast<std::streamoff>(slot + 100));
        file.put('!');
      }
    }
    untouched("not all metadata can be recovered");
  }
}

}  // namespace dynamicfs::test
