// Flags of inodes: what immutable and append-only files and directories refuse, and that it lasts.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <optional>
#include <vector>

#include "fs/change_format.hpp"
#include "tests/fs/whole.hpp"

namespace dynamicfs::test {
namespace {

using fs::FallocateMode;
using fs::kFlagAppendOnly;
using fs::kFlagImmutable;
using fs::kFlagNoAtime;
using fs::kFlagNoDump;

struct Flagged {
  Flagged() : pool(1, {}) {
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("f").has_value());
    REQUIRE(pool.write("f", 0, "hello").has_value());
    REQUIRE(pool.mkdir("d").has_value());
    REQUIRE(pool.create("d/g").has_value());
  }
  void set(const std::string& path, std::uint32_t flags) {
    REQUIRE(pool.run(pool.fs().set_flags(pool.resolve(path).value(), flags)).has_value());
  }
  template <class T>
  static Code code(const Result<T>& result) {
    return result.has_value() ? Code::kOk : result.error().code;
  }
  Code change(const std::string& path, fs::AttributeChange change) {
    return code(pool.run(pool.fs().setattr(pool.resolve(path).value(), change)));
  }
  Code allocate(const std::string& path, FallocateMode mode) {
    return code(pool.run(pool.fs().fallocate(pool.resolve(path).value(), mode, 0, 100)));
  }
  Code set_xattr(const std::string& path) {
    return code(pool.run(
        pool.fs().setxattr(pool.resolve(path).value(), "user.a", "v", fs::XattrMode::kEither)));
  }
  Code remove_xattr(const std::string& path) {
    return code(pool.run(pool.fs().removexattr(pool.resolve(path).value(), "user.a")));
  }
  SimPool pool;
};

fs::AttributeChange touch() {
  fs::AttributeChange change;
  change.atime_now = change.mtime_now = true;
  return change;
}
fs::AttributeChange with_mode() {
  fs::AttributeChange change;
  change.mode = 0600;
  return change;
}
fs::AttributeChange with_owner() {
  fs::AttributeChange change;
  change.uid = 5;
  return change;
}
// As the kernel's writeback cache tells of writes.
fs::AttributeChange written_at(std::int64_t mtime_ns, std::int64_t ctime_ns) {
  fs::AttributeChange change;
  change.mtime_ns = mtime_ns;
  change.ctime_ns = ctime_ns;
  return change;
}

// As the kernel's writeback sends it.
Task<Result<void>> write_keeping_times(fs::Filesystem* fs, InodeId inode, std::uint64_t offset) {
  Buffer buffer{kBlockBytes};
  std::memset(buffer.data(), 'w', buffer.size());
  fs::WriteOptions options;
  options.kernel_keeps_times = true;
  co_return co_await fs->write(inode, offset, buffer.span(), 0, options);
}
Task<Result<void>> truncate_task(fs::Filesystem* fs, InodeId inode, std::uint64_t size) {
  fs::AttributeChange change;
  change.size_bytes = size;
  const Result<fs::Attributes> changed = co_await fs->setattr(inode, change);
  if (!changed.has_value()) co_return changed.error();
  co_return {};
}

// What the kernel sends in front of fallocate.
fs::AttributeChange without_suid() {
  fs::AttributeChange change;
  change.kill_suid_sgid = true;
  return change;
}

constexpr Code kNo = Code::kPermission;
constexpr Code kYes = Code::kOk;

}  // namespace

TEST_SUITE("flags of inodes") {
  TEST_CASE("nothing changes an immutable file") {
    Flagged test;
    SimPool& pool = test.pool;
    REQUIRE(test.set_xattr("f") == kYes);
    test.set("f", kFlagImmutable);
    const std::string before = pool.dump().value();
    CHECK(test.code(pool.write("f", 0, "HELLO")) == kNo);
    CHECK(test.code(pool.write("f", 5, "more")) == kNo);
    CHECK(test.code(pool.truncate("f", 0)) == kNo);
    CHECK(test.code(pool.truncate("f", 100)) == kNo);
    for (const FallocateMode mode :
         {FallocateMode::kAllocate, FallocateMode::kKeepSize, FallocateMode::kPunchHole,
          FallocateMode::kZeroRange, FallocateMode::kZeroRangeKeepSize}) {
      CHECK(test.allocate("f", mode) == kNo);
    }
    CHECK(test.change("f", with_mode()) == kNo);
    CHECK(test.change("f", with_owner()) == kNo);
    CHECK(test.change("f", touch()) == kNo);
    CHECK(test.change("f", without_suid()) == kNo);
    CHECK(test.set_xattr("f") == kNo);
    CHECK(test.remove_xattr("f") == kNo);
    CHECK(test.code(pool.unlink("f")) == kNo);
    CHECK(test.code(pool.rename("f", "new")) == kNo);
    CHECK(test.code(pool.rename("d/g", "f")) == kNo);
    CHECK(test.code(pool.rename("f", "d/g", fs::RenameMode::kExchange)) == kNo);
    CHECK(test.code(pool.rename("d/g", "f", fs::RenameMode::kExchange)) == kNo);
    CHECK(test.code(pool.link("f", "new")) == kNo);
    CHECK(pool.dump().value() == before);
    CHECK(pool.read("f").value() == "hello");
    test.set("f", 0);
    CHECK(test.code(pool.write("f", 0, "HELLO")) == kYes);
    CHECK(test.code(pool.unlink("f")) == kYes);
  }

  TEST_CASE("what is under way when a file becomes immutable is refused, and gives back its room") {
    Flagged test;
    SimPool& pool = test.pool;
    REQUIRE(pool.write("f", 0, pattern(1, 100'000)).has_value());
    REQUIRE(pool.write("d/g", 0, pattern(2, 100'000)).has_value());
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    const InodeId file = pool.resolve("f").value();
    const std::string before = pool.read("f").value();
    const std::uint64_t live = pool.fs().store().live_blocks();
    for (scheduler::SimulatedDisk* disk : pool.disks) disk->faults().hung = true;
    // Whole blocks, which change no attribute when the kernel keeps the times, parts of blocks, and behind the end.
    std::vector<std::optional<Result<void>>> writes(4);
    const std::uint64_t places[] = {8192, 20'001, 99'999, 300'000};
    for (std::size_t i = 0; i < writes.size(); ++i) {
      spawn(keep(write_keeping_times(&pool.fs(), file, places[i]), &writes[i]));
    }
    std::vector<std::optional<Result<void>>> changes(3);
    using fs::FallocateMode::kPunchHole;
    using fs::FallocateMode::kZeroRange;
    spawn(keep(pool.fs().fallocate(file, kPunchHole, 100, 50'000), &changes[0]));
    spawn(keep(pool.fs().fallocate(file, kZeroRange, 100, 500'000), &changes[1]));
    spawn(keep(truncate_task(&pool.fs(), file, 5000), &changes[2]));
    std::optional<Result<std::uint64_t>> copy;
    spawn(
        keep(pool.fs().copy_range(pool.resolve("d/g").value(), 100, file, 100, 50'000, {}), &copy));
    pool.executor.run_for(std::chrono::milliseconds{10});
    test.set("f", kFlagImmutable);
    for (scheduler::SimulatedDisk* disk : pool.disks) disk->release();
    pool.executor.run_for(std::chrono::seconds{1});
    for (const auto& one : writes) {
      REQUIRE(one.has_value());
      CHECK(test.code(*one) == kNo);
    }
    for (const auto& one : changes) {
      REQUIRE(one.has_value());
      CHECK(test.code(*one) == kNo);
    }
    REQUIRE(copy.has_value());
    CHECK(test.code(*copy) == kNo);
    CHECK(pool.read("f").value() == before);
    CHECK(pool.fs().store().live_blocks() == live);
    CHECK(pool.fs().store().space(pool.fs().pool().policy()).promised_bytes == 0);
    check_whole(pool);
  }

  TEST_CASE("what is under way when a file becomes append-only may append, and change nothing") {
    Flagged test;
    SimPool& pool = test.pool;
    const std::string before = pattern(1, 100'000);
    REQUIRE(pool.write("f", 0, before).has_value());
    const InodeId file = pool.resolve("f").value();
    for (scheduler::SimulatedDisk* disk : pool.disks) disk->faults().hung = true;
    std::optional<Result<void>> over;
    std::optional<Result<void>> across;
    std::optional<Result<void>> behind;
    spawn(keep(write_keeping_times(&pool.fs(), file, 8192), &over));
    spawn(keep(write_keeping_times(&pool.fs(), file, 100'000 - 10), &across));
    spawn(keep(write_keeping_times(&pool.fs(), file, 200'000), &behind));
    pool.executor.run_for(std::chrono::milliseconds{10});
    test.set("f", kFlagAppendOnly);
    for (scheduler::SimulatedDisk* disk : pool.disks) disk->release();
    pool.executor.run_for(std::chrono::seconds{1});
    REQUIRE(over.has_value());
    REQUIRE(across.has_value());
    REQUIRE(behind.has_value());
    CHECK(test.code(*over) == kNo);
    CHECK(test.code(*across) == kNo);
    CHECK(test.code(*behind) == kYes);
    CHECK(pool.read("f", 0, 100'000).value() == before);
    CHECK(pool.read("f", 200'000, 4096).value() == std::string(4096, 'w'));
    check_whole(pool);
  }

  TEST_CASE("an append-only file keeps what it has and takes more") {
    Flagged test;
    SimPool& pool = test.pool;
    test.set("f", kFlagAppendOnly);
    CHECK(test.code(pool.write("f", 0, "HELLO")) == kNo);
    CHECK(test.code(pool.write("f", 3, "xx and more")) == kNo);
    // One page may have what is refused and, behind it, what somebody else has appended.
    CHECK(pool.read("f").value() == "hello and more");
    // A page of the kernel's cache begins with what was there.
    CHECK(test.code(pool.write("f", 0, "hello and more and more")) == kYes);
    CHECK(test.code(pool.write("f", 0, "hello")) == kYes);
    CHECK(pool.read("f").value() == "hello and more and more");
    CHECK(test.code(pool.write("f", 10'000, "far")) == kYes);
    CHECK(test.code(pool.write("f", 9'999, "!")) == kNo);
    CHECK(test.code(pool.truncate("f", 0)) == kNo);
    CHECK(test.code(pool.truncate("f", 20'000)) == kNo);
    CHECK(test.allocate("f", FallocateMode::kPunchHole) == kNo);
    CHECK(test.allocate("f", FallocateMode::kZeroRange) == kNo);
    CHECK(test.allocate("f", FallocateMode::kKeepSize) == kYes);
    CHECK(test.change("f", with_mode()) == kNo);
    CHECK(test.change("f", touch()) == kYes);
    CHECK(test.set_xattr("f") == kNo);
    CHECK(test.code(pool.unlink("f")) == kNo);
    CHECK(test.code(pool.rename("f", "new")) == kNo);
    CHECK(test.code(pool.link("f", "new")) == kNo);
    check_whole(pool);
  }

  TEST_CASE("times that the kernel has kept come late, those that somebody sets are refused") {
    Flagged test;
    const std::int64_t before = test.pool.stat("f")->mtime_ns;
    test.pool.executor.run_for(std::chrono::seconds{1});
    test.set("f", kFlagImmutable);
    const std::int64_t set_at = test.pool.stat("f")->ctime_ns;
    CHECK(test.change("f", written_at(before + 5, before + 5)) == kYes);
    CHECK(test.pool.stat("f")->mtime_ns == before + 5);
    CHECK(test.change("f", written_at(before, set_at + 1'000'000'000)) == kNo);
    // Those of a write that was refused are not told again to whoever closes the file; and not kept.
    CHECK(test.code(test.pool.run(
              write_keeping_times(&test.pool.fs(), test.pool.resolve("f").value(), 0))) == kNo);
    CHECK(test.change("f", written_at(set_at + 1, set_at + 1)) == kYes);
    CHECK(test.pool.stat("f")->mtime_ns == before + 5);
    CHECK(test.change("f", written_at(set_at + 1, set_at + 1)) == kNo);
    test.set("f", kFlagAppendOnly);
    const std::int64_t now = test.pool.stat("f")->ctime_ns + 1'000'000'000;
    CHECK(test.change("f", written_at(now, now)) == kYes);
    CHECK(test.change("f", written_at(before, now + 1)) == kNo);
  }

  TEST_CASE("the names in an immutable directory stay, to an append-only one some may be added") {
    Flagged test;
    SimPool& pool = test.pool;
    const std::string before = pool.dump().value();
    test.set("d", kFlagImmutable);
    const InodeId directory = pool.resolve("d").value();
    CHECK(test.code(pool.create("d/new")) == kNo);
    CHECK(test.code(pool.mkdir("d/new")) == kNo);
    CHECK(test.code(pool.symlink("d/new", "to")) == kNo);
    CHECK(test.code(pool.link("f", "d/new")) == kNo);
    CHECK(test.code(pool.run(pool.fs().tmpfile(directory, S_IFREG | 0644, {}))) == kNo);
    CHECK(test.code(pool.unlink("d/g")) == kNo);
    CHECK(test.code(pool.rename("d/g", "g")) == kNo);
    CHECK(test.code(pool.rename("f", "d/f")) == kNo);
    CHECK(test.code(pool.rename("d", "e")) == kNo);
    CHECK(test.code(pool.rmdir("d")) == kNo);
    CHECK(test.change("d", with_mode()) == kNo);
    CHECK(pool.dump().value() == before);
    CHECK(test.code(pool.write("d/g", 0, "the file is another matter")) == kYes);
    test.set("d", kFlagAppendOnly);
    CHECK(test.code(pool.create("d/new")) == kYes);
    CHECK(test.code(pool.rename("f", "d/f")) == kYes);
    CHECK(test.code(pool.unlink("d/new")) == kNo);
    CHECK(test.code(pool.rename("d/new", "d/newer")) == kNo);
    CHECK(test.code(pool.rename("d/new", "d/g")) == kNo);
  }

  TEST_CASE("reading a file with the flag for it sets no time of access") {
    Flagged test;
    test.set("f", kFlagNoAtime);
    test.set("d", kFlagNoAtime);
    const auto atime = [&](const std::string& path) { return test.pool.stat(path)->atime_ns; };
    const auto read_both = [&] {
      test.pool.executor.run_for(std::chrono::seconds{1});
      const auto all = [](const fs::DirectoryEntry&) { return true; };
      REQUIRE(test.pool.read("f").has_value());
      REQUIRE(test.pool.run(test.pool.fs().readdir(test.pool.resolve("d").value(), 0, false, all))
                  .has_value());
    };
    const std::int64_t of_file = atime("f");
    const std::int64_t of_directory = atime("d");
    read_both();
    CHECK(atime("f") == of_file);
    CHECK(atime("d") == of_directory);
    test.set("f", 0);
    test.set("d", 0);
    read_both();
    CHECK(atime("f") > of_file);
    CHECK(atime("d") > of_directory);
  }

  TEST_CASE("times of access are set never, when they are old, or always, as the mount has it") {
    using fs::AtimeRule;
    Flagged test;
    const auto all = [](const fs::DirectoryEntry&) { return true; };
    const auto set_by_reading = [&](fs::AtimeRules rules, std::string path) {
      test.pool.fs().set_atime_rules(rules);
      test.pool.executor.run_for(std::chrono::seconds{1});
      const std::int64_t before = test.pool.stat(path)->atime_ns;
      if (path == "f") {
        REQUIRE(test.pool.read("f").has_value());
      } else {
        REQUIRE(test.pool.run(test.pool.fs().readdir(test.pool.resolve("d").value(), 0, false, all))
                    .has_value());
      }
      return test.pool.stat(path)->atime_ns > before;
    };
    for (const std::string path : {"f", "d"}) {
      CHECK_FALSE(set_by_reading({AtimeRule::kNever, AtimeRule::kNever}, path));
      CHECK(set_by_reading({AtimeRule::kRelative, AtimeRule::kRelative}, path));
      CHECK_FALSE(set_by_reading({AtimeRule::kRelative, AtimeRule::kRelative}, path));
      CHECK(set_by_reading({AtimeRule::kAlways, AtimeRule::kAlways}, path));
    }
    CHECK(set_by_reading({AtimeRule::kAlways, AtimeRule::kNever}, "f"));
    CHECK_FALSE(set_by_reading({AtimeRule::kAlways, AtimeRule::kNever}, "d"));
    test.pool.executor.run_for(std::chrono::hours{25});
    CHECK(set_by_reading({}, "d"));
  }

  TEST_CASE("they last through a crash, a checkpoint and leaving memory; some are inherited") {
    Flagged test;
    test.set("f", kFlagImmutable | kFlagNoDump);
    test.set("d", kFlagNoAtime | kFlagNoDump | kFlagAppendOnly);
    REQUIRE(test.pool.create("d/new").has_value());
    REQUIRE(test.pool.mkdir("d/sub").has_value());
    REQUIRE(test.pool.symlink("d/link", "to").has_value());
    const auto flags = [&](const std::string& path) { return test.pool.stat(path)->flags; };
    const auto check_flags = [&] {
      CHECK(flags("f") == (kFlagImmutable | kFlagNoDump));
      CHECK(flags("d/new") == (kFlagNoAtime | kFlagNoDump));
      CHECK(flags("d/sub") == (kFlagNoAtime | kFlagNoDump));
      CHECK(flags("d/link") == 0);
      CHECK(flags("d/g") == 0);
      CHECK(test.code(test.pool.unlink("f")) == kNo);
      CHECK(test.code(test.pool.unlink("d/new")) == kNo);
    };
    check_flags();
    REQUIRE(test.pool.run(test.pool.fs().sync()).has_value());
    cut_and_mount(test.pool);
    check_flags();
    checkpoint(test.pool);
    test.pool.fs().evict();
    check_flags();
    REQUIRE(test.pool.unmount().has_value());
    REQUIRE(test.pool.mount().has_value());
    check_flags();
  }

  TEST_CASE("flags that there are not are refused, and so is what is neither file nor directory") {
    Flagged test;
    const InodeId file = test.pool.resolve("f").value();
    CHECK(test.code(test.pool.run(test.pool.fs().set_flags(file, 1))) == Code::kNotSupported);
    CHECK(test.pool.stat("f")->flags == 0);
    REQUIRE(test.pool.symlink("s", "to").has_value());
    const InodeId link = test.pool.resolve("s").value();
    CHECK(test.code(test.pool.run(test.pool.fs().set_flags(link, kFlagNoDump))) ==
          Code::kNotSupported);
  }

  TEST_CASE("an inode of format 3 is read, and has none") {
    fs::InodeImage image;
    image.inode = InodeId{7};
    image.parent = InodeId{9};
    image.flags = kFlagNoDump;
    fs::StoredInode stored{.image = image, .data_blocks = 1, .reserved_blocks = 2, .names = 3};
    const Bytes bytes = encode(stored);
    REQUIRE(bytes.size() == fs::kInodeImageBytes + 24);
    CHECK(fs::decode_stored_inode(bytes)->image.flags == kFlagNoDump);
    Bytes older = bytes;
    const auto flags = older.begin() + fs::kInodeImageBytes - 4;
    older.erase(flags, flags + 4);
    const auto decoded = fs::decode_stored_inode(older);
    REQUIRE(decoded.has_value());
    CHECK(decoded->image.flags == 0);
    CHECK(decoded->image.parent == InodeId{9});
    CHECK(decoded->names == 3);
    older.pop_back();
    CHECK_FALSE(fs::decode_stored_inode(older).has_value());
    CHECK_FALSE(fs::decode_stored_inode(Bytes(10)).has_value());
  }
}

}  // namespace dynamicfs::test
