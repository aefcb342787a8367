// Files that are made without a name, and what a rename leaves in place of the old name.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include "fs/posix_acl.hpp"
#include "tests/fs/whole.hpp"

namespace dynamicfs::test {
namespace {

struct Unnamed {
  explicit Unnamed(SimPoolOptions options = {}) : pool(1, options) {
    pool.format();
    REQUIRE(pool.mount().has_value());
  }
  fs::Attributes make(InodeId directory = kRootInode, std::uint32_t mode = 0644,
                      fs::Caller caller = {}) {
    const auto made = pool.run(pool.fs().tmpfile(directory, S_IFREG | mode, caller));
    REQUIRE(made.has_value());
    return *made;
  }
  void write(InodeId inode, std::string text) {
    REQUIRE(pool.run(SimPool::write_task(&pool.fs(), inode, 0, std::move(text))).has_value());
  }
  std::string read(InodeId inode) {
    return pool.run(SimPool::read_task(&pool.fs(), inode, 0, kMiB)).value();
  }
  Code link(InodeId inode, const std::string& name, InodeId directory = kRootInode) {
    const auto linked = pool.run(pool.fs().link(inode, directory, name));
    if (!linked.has_value()) return linked.error().code;
    pool.fs().forget(inode, 1);
    return Code::kOk;
  }
  // What is removed behind the answer is gone.
  void settle() { pool.executor.run_for(std::chrono::milliseconds{100}); }
  void sync() { REQUIRE(pool.run(pool.fs().sync()).has_value()); }

  SimPool pool;
};

}  // namespace

TEST_SUITE("files without a name") {
  TEST_CASE("it can be used, no directory shows it, and it goes with its last reference") {
    Unnamed test;
    const std::uint64_t inodes = test.pool.fs().inode_count();
    const fs::Attributes made = test.make();
    CHECK(made.nlink == 0);
    CHECK(made.mode == (S_IFREG | 0644));
    test.write(made.inode, "hello");
    CHECK(test.read(made.inode) == "hello");
    CHECK(test.pool.dump().value().empty());
    check_whole(test.pool);
    test.pool.fs().forget(made.inode, 1);
    test.settle();
    CHECK(test.pool.fs().inode_count() == inodes);
    CHECK(test.pool.fs().store().live_blocks() == 0);
    CHECK(test.pool.run(test.pool.fs().getattr(made.inode)).error().code == Code::kStale);
  }

  TEST_CASE("after a crash it is gone, whether the log or a run has it") {
    for (const bool in_run : {false, true}) {
      Unnamed test;
      const fs::Attributes made = test.make();
      test.write(made.inode, std::string(50'000, 'x'));
      test.sync();
      if (in_run) checkpoint(test.pool);
      cut_and_mount(test.pool);
      CHECK(test.pool.fs().mount_report().orphans_removed == 1);
      CHECK(test.pool.run(test.pool.fs().getattr(made.inode)).error().code == Code::kStale);
      CHECK(test.pool.fs().store().live_blocks() == 0);
      check_whole(test.pool);
    }
  }

  TEST_CASE("with a name it is a file like others, also after a crash") {
    for (const bool in_run : {false, true}) {
      Unnamed test;
      const fs::Attributes made = test.make();
      test.write(made.inode, "hello");
      if (in_run) checkpoint(test.pool);
      test.pool.fs().evict();  // what has no name stays in memory
      CHECK(test.link(made.inode, "name") == Code::kOk);
      CHECK(test.link(made.inode, "name") == Code::kExists);
      CHECK(test.pool.stat("name")->nlink == 1);
      CHECK(test.link(made.inode, "second") == Code::kOk);
      CHECK(test.pool.stat("second")->nlink == 2);
      test.sync();
      cut_and_mount(test.pool);
      CHECK(test.pool.fs().mount_report().orphans_removed == 0);
      CHECK(test.pool.read("name").value() == "hello");
      check_whole(test.pool);
      CHECK(test.pool.unlink("name").has_value());
      CHECK(test.pool.unlink("second").has_value());
      check_whole(test.pool);
      CHECK(test.pool.fs().store().live_blocks() == 0);
    }
  }

  TEST_CASE("named and synced no further than the file, it is there all the same") {
    Unnamed test;
    const fs::Attributes made = test.make();
    test.write(made.inode, "hello");
    CHECK(test.link(made.inode, "name") == Code::kOk);
    REQUIRE(test.pool.run(test.pool.fs().fsync(made.inode)).has_value());
    cut_and_mount(test.pool);
    CHECK(test.pool.read("name").value() == "hello");
  }

  TEST_CASE("owner, group, umask and lists come as to any file of its directory") {
    SimPoolOptions options;
    options.acl = true;
    Unnamed test{options};
    CHECK(test.make(kRootInode, 0666, {.uid = 5, .gid = 6, .umask = 027}).mode == (S_IFREG | 0640));
    REQUIRE(test.pool.mkdir("d").has_value());
    const InodeId directory = test.pool.resolve("d").value();
    fs::AttributeChange change;
    change.mode = 02775;
    change.gid = 77;
    REQUIRE(test.pool.run(test.pool.fs().setattr(directory, change)).has_value());
    // chown takes the bit; a directory keeps it.
    const fs::Attributes before = test.pool.stat("d").value();
    REQUIRE((before.mode & S_ISGID) != 0);
    const fs::Attributes made = test.make(directory, 0644, {.uid = 5, .gid = 6});
    CHECK(made.uid == 5);
    CHECK(made.gid == 77);
    const fs::Attributes after = test.pool.stat("d").value();
    CHECK(after.mtime_ns == before.mtime_ns);
    CHECK(after.ctime_ns == before.ctime_ns);
    // u::rwx u:1000:rwx g::r-x m::rwx o::---
    const std::string list{
        "\2\0\0\0\1\0\7\0\xff\xff\xff\xff\2\0\7\0\xe8\3\0\0\4\0\5\0\xff\xff\xff\xff"
        "\x10\0\7\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
        44};
    REQUIRE(test.pool
                .run(test.pool.fs().setxattr(directory, std::string{fs::kDefaultAcl}, list,
                                             fs::XattrMode::kEither))
                .has_value());
    const fs::Attributes listed = test.make(directory, 0666, {.umask = 077});
    CHECK(listed.mode == (S_IFREG | 0660));
    CHECK(test.pool.run(test.pool.fs().getxattr(listed.inode, std::string{fs::kAccessAcl}))
              .has_value());
    test.sync();
    CHECK(test.link(listed.inode, "listed") == Code::kOk);
    test.sync();
    cut_and_mount(test.pool);
    CHECK(test.pool.stat("listed")->mode == (S_IFREG | 0660));
    check_whole(test.pool);
  }

  TEST_CASE("the number of a file leads to it while it has a name") {
    Unnamed test;
    const auto code = [&](InodeId inode) {
      const auto found = test.pool.run(test.pool.fs().lookup(inode, "."));
      if (found.has_value()) test.pool.fs().forget(inode, 1);
      return found.has_value() ? Code::kOk : found.error().code;
    };
    const fs::Attributes made = test.make();
    CHECK(code(made.inode) == Code::kStale);
    CHECK(test.link(made.inode, "name") == Code::kOk);
    CHECK(code(made.inode) == Code::kOk);
    // The kernel has not given its reference back yet.
    CHECK(test.pool.unlink("name").has_value());
    CHECK(code(made.inode) == Code::kStale);
    CHECK(test.read(made.inode).empty());
  }

  TEST_CASE("in a directory that was removed, and in none") {
    Unnamed test;
    REQUIRE(test.pool.mkdir("d").has_value());
    const auto held = test.pool.run(test.pool.fs().lookup(kRootInode, "d"));
    REQUIRE(test.pool.rmdir("d").has_value());
    const fs::Attributes made = test.make(held->inode);
    CHECK(test.link(made.inode, "name", held->inode) == Code::kNotFound);
    CHECK(test.link(made.inode, "name") == Code::kOk);
    CHECK(test.pool.run(test.pool.fs().tmpfile(made.inode, S_IFREG | 0644, {})).error().code ==
          Code::kNotDirectory);
  }
}

TEST_SUITE("whiteouts") {
  TEST_CASE("the old name becomes a character device 0:0 of the caller, in the same record") {
    Unnamed test;
    REQUIRE(test.pool.create("a").has_value());
    REQUIRE(test.pool.mkdir("d").has_value());
    const std::uint64_t records = test.pool.fs().journal().appended().raw;
    const auto renamed = test.pool.run(test.pool.fs().rename(
        kRootInode, "a", kRootInode, "b", fs::RenameMode::kNoReplace, fs::Caller{.uid = 5}));
    REQUIRE(renamed.has_value());
    CHECK(test.pool.fs().journal().appended().raw == records + 1);
    const fs::Attributes left = test.pool.stat("a").value();
    CHECK(left.mode == S_IFCHR);
    CHECK(left.rdev == 0);
    CHECK(left.nlink == 1);
    CHECK(left.uid == 5);
    CHECK(test.pool.rename("d", "b", fs::RenameMode::kReplace, true).error().code ==
          Code::kNotDirectory);
    CHECK(test.pool.rename("a", "b", fs::RenameMode::kExchange, true).error().code ==
          Code::kInvalid);
    test.sync();
    cut_and_mount(test.pool);
    CHECK(test.pool.stat("a")->mode == S_IFCHR);
    check_whole(test.pool);
    CHECK(test.pool.unlink("a").has_value());
    check_whole(test.pool);
  }

  TEST_CASE("a directory that moves leaves a file behind, and takes its link along") {
    Unnamed test;
    REQUIRE(test.pool.mkdir("d").has_value());
    REQUIRE(test.pool.mkdir("e").has_value());
    REQUIRE(test.pool.rename("d", "e/d", fs::RenameMode::kReplace, true).has_value());
    CHECK(test.pool.stat("")->nlink == 3);
    CHECK(test.pool.stat("e")->nlink == 3);
    CHECK(test.pool.stat("d")->mode == S_IFCHR);
    check_whole(test.pool);
  }
}

}  // namespace dynamicfs::test
