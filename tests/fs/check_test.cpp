// What check_tree() finds in metadata that is whole and contradicts itself: records that no program of
// ours would write, appended to the journal of a good pool.
#include <doctest/doctest.h>

#include "fs/change_format.hpp"
#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {
namespace {

struct Forged : SimPool {
  Forged() : SimPool(5) {
    format();
    REQUIRE(mount().has_value());
    REQUIRE(mkdir("d").has_value());
    REQUIRE(mkdir("d/e").has_value());
    REQUIRE(create("f").has_value());
    REQUIRE(create("g").has_value());
    REQUIRE(write("f", 0, std::string(10'000, 'f')).has_value());
    REQUIRE(write("g", 0, std::string(10'000, 'g')).has_value());
    REQUIRE(link("f", "h").has_value());
    REQUIRE(symlink("s", "f").has_value());
    dir = *resolve("d");
    inner = *resolve("d/e");
    file = *resolve("f");
    other = *resolve("g");
    REQUIRE(run(fs().sync()).has_value());
  }
  static Task<int> append(fs::Filesystem* fs, Bytes record) {
    journal::Credit credit = co_await fs->journal().reserve(1, record.size());
    const Lsn lsn = fs->journal().append(credit, record);
    const Result<void> synced = co_await fs->journal().sync(lsn);
    REQUIRE(synced.has_value());
    co_return 0;
  }
  // Puts the record behind all others and looks at the pool as `check` does.
  fs::TreeReport forge(const fs::RecordWriter& record) {
    const auto bytes = record.bytes();
    run(append(&fs(), Bytes(bytes.begin(), bytes.end())));
    power_cut();
    options_.tolerant = true;
    REQUIRE(mount({}, true).has_value());
    return *run(fs().check_tree());
  }
  fs::InodeImage image(InodeId id, std::uint32_t mode, std::uint32_t nlink, InodeId parent = {}) {
    fs::InodeImage out;
    out.inode = id;
    out.mode = mode;
    out.nlink = nlink;
    out.parent = parent;
    if ((mode & S_IFMT) == S_IFREG) out.size_bytes = 10'000;
    return out;
  }
  static bool says(const fs::TreeReport& report, const std::string& text) {
    return std::ranges::any_of(report.problems, [&](const std::string& problem) {
      return problem.find(text) != std::string::npos;
    });
  }
  InodeId dir, inner, file, other;
};

}  // namespace

TEST_SUITE("check") {
  TEST_CASE_FIXTURE(Forged, "a good tree has no problems, and is counted") {
    const fs::TreeReport report = *run(fs().check_tree());
    CHECK(report.problem_count == 0);
    CHECK(report.directories == 3);
    CHECK(report.files == 2);
    CHECK(report.others == 1);
    CHECK(report.names == 6);
    CHECK(report.orphans == 0);
    CHECK(report.data_blocks == 6);
    CHECK(report.chunks >= 1);
  }

  TEST_CASE_FIXTURE(Forged, "links that are not names are found, of files and of directories") {
    fs::RecordWriter record;
    record.inode_put(image(file, S_IFREG | 0644, 7));
    record.inode_put(image(dir, S_IFDIR | 0755, 9, kRootInode));
    const fs::TreeReport report = forge(record);
    CHECK(report.problem_count == 2);
    CHECK(says(report, fmt::format("inode {} has 7 links and 2 names", file)));
    CHECK(says(report, fmt::format("directory {} has 9 links and 1 directories in it", dir)));
  }

  TEST_CASE_FIXTURE(Forged, "data behind the end of a file is found") {
    fs::RecordWriter record;
    fs::InodeImage cut = image(file, S_IFREG | 0644, 2);
    cut.size_bytes = 5000;
    record.inode_put(cut);
    const fs::TreeReport report = forge(record);
    CHECK(report.problem_count == 1);
    CHECK(says(report, fmt::format("inode {} has data behind its end", file)));
  }

  TEST_CASE_FIXTURE(Forged, "a name of an inode that does not exist, or is of another type") {
    fs::RecordWriter record;
    record.entry_put(dir, fs::Directory::cookie_of("ghost"), InodeId{4000}, S_IFREG, "ghost");
    record.entry_put(dir, fs::Directory::cookie_of("odd"), file, S_IFDIR, "odd");
    const fs::TreeReport report = forge(record);
    CHECK(says(report, "'ghost'"));
    CHECK(says(report, "which does not exist"));
    CHECK(says(report, fmt::format("inode {} is a file, its name says directory", file)));
  }

  TEST_CASE_FIXTURE(Forged, "a name where it cannot be found") {
    fs::RecordWriter record;
    record.inode_put(image(file, S_IFREG | 0644, 3));
    record.entry_put(dir, 12345, file, S_IFREG, "misplaced");
    const fs::TreeReport report = forge(record);
    CHECK(says(report, "has the name 'misplaced' where it cannot be found"));
    CHECK(report.problem_count == 1);
  }

  TEST_CASE_FIXTURE(Forged, "directories that lie in each other, apart from the root") {
    fs::RecordWriter record;
    record.entry_remove(kRootInode, fs::Directory::cookie_of("d"));
    record.entry_put(inner, fs::Directory::cookie_of("d"), dir, S_IFDIR, "d");
    record.inode_put(image(dir, S_IFDIR | 0755, 3, inner));
    record.inode_put(image(inner, S_IFDIR | 0755, 3, dir));
    record.inode_put(image(kRootInode, S_IFDIR | 0755, 2, kRootInode));
    const fs::TreeReport report = forge(record);
    CHECK(report.problem_count == 2);
    CHECK(says(report, fmt::format("inode {} cannot be reached from the root", dir)));
    CHECK(says(report, fmt::format("inode {} cannot be reached from the root", inner)));
  }

  TEST_CASE_FIXTURE(Forged, "a directory that says it lies elsewhere, or has two names") {
    fs::RecordWriter record;
    record.inode_put(image(inner, S_IFDIR | 0755, 2, kRootInode));
    record.entry_put(kRootInode, fs::Directory::cookie_of("again"), dir, S_IFDIR, "again");
    const fs::TreeReport report = forge(record);
    CHECK(says(report,
               fmt::format("directory {} is in directory {} and says it is in 1", inner, dir)));
    CHECK(says(report, fmt::format("directory {} has 2 names", dir)));
  }

  TEST_CASE_FIXTURE(Forged, "an inode whose number may be given again") {
    fs::RecordWriter record;
    record.inode_put(image(InodeId{1 << 20}, S_IFREG | 0644, 1));
    record.entry_put(dir, fs::Directory::cookie_of("far"), InodeId{1 << 20}, S_IFREG, "far");
    CHECK(says(forge(record), "has a number that may be given again"));
  }

  TEST_CASE_FIXTURE(Forged, "blocks of two files: refused by a mount, told by check") {
    extent::MappingSet set;
    extent::ExtentPut put;
    put.inode = other;
    put.pieces.push_back({.chunk = {}, .block = 0, .count = 3});
    for (const extent::ChunkPut& chunk : fs().store().chunks()) put.pieces[0].chunk = chunk.chunk;
    put.crcs = {1, 2, 3};
    fs::RecordWriter record;
    extent::encode(record.raw(), other, FileBlock{100}, put.pieces, put.crcs);
    const fs::TreeReport report = forge(record);
    CHECK(says(report, "has blocks that are not its own"));
    power_cut();
    options_.tolerant = false;
    CHECK(mount().error().code == Code::kFormatInvalid);
  }

  TEST_CASE_FIXTURE(Forged,
                    "a chunk on a slot that another has, or that does not exist, is refused") {
    extent::ChunkPut chunk = fs().store().chunks().front();
    chunk.chunk = ChunkId{900};
    SUBCASE("another has it") {}
    SUBCASE("it does not exist") { chunk.places[0].slot = SlotId{4000}; }
    fs::RecordWriter record;
    extent::encode(record.raw(), chunk);
    const auto bytes = record.bytes();
    run(append(&fs(), Bytes(bytes.begin(), bytes.end())));
    power_cut();
    options_.tolerant = true;
    CHECK(mount({}, true).error().code == Code::kFormatInvalid);
  }

  TEST_CASE_FIXTURE(Forged, "a directory that lies in itself") {
    fs::RecordWriter record;
    record.entry_remove(kRootInode, fs::Directory::cookie_of("d"));
    record.entry_put(dir, fs::Directory::cookie_of("d"), dir, S_IFDIR, "d");
    record.inode_put(image(dir, S_IFDIR | 0755, 4, dir));
    record.inode_put(image(kRootInode, S_IFDIR | 0755, 2, kRootInode));
    const fs::TreeReport report = forge(record);
    CHECK(says(report, fmt::format("inode {} cannot be reached from the root", dir)));
    CHECK(says(report, fmt::format("inode {} cannot be reached from the root", inner)));
  }

  TEST_CASE_FIXTURE(Forged, "a file that is removed and open is no problem") {
    REQUIRE(run(SimPool::resolve_task(&fs(), "g")).has_value());
    REQUIRE(run(fs().lookup(kRootInode, "g")).has_value());  // the kernel's reference
    REQUIRE(unlink("g").has_value());
    REQUIRE(run(fs().sync()).has_value());
    power_cut();
    REQUIRE(mount({}, true).has_value());
    const fs::TreeReport report = *run(fs().check_tree());
    CHECK(report.problem_count == 0);
    CHECK(report.orphans == 1);
  }
}

}  // namespace dynamicfs::test
