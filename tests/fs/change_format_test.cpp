// Changes and keys: what is written is read back; what was not written by us is refused.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <random>

#include "fs/change_format.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::fs {
namespace {

InodeImage some_image() {
  InodeImage image;
  image.inode = InodeId{0x1122334455667788};
  image.mode = S_IFREG | 0640;
  image.nlink = 3;
  image.uid = 1000;
  image.gid = 100;
  image.rdev = 7;
  image.size_bytes = 123'456'789;
  image.atime_ns = -1;
  image.mtime_ns = 1'700'000'000'123'456'789;
  image.ctime_ns = 5;
  image.btime_ns = 6;
  image.parent = InodeId{9};
  return image;
}

}  // namespace

TEST_SUITE("change format") {
  TEST_CASE("every change of a record comes back as it was written, in order") {
    RecordWriter record;
    record.inode_put(some_image());
    record.entry_put(InodeId{1}, 77, InodeId{2}, S_IFDIR, "name");
    record.entry_remove(InodeId{1}, 78);
    record.xattr_put(InodeId{3}, "user.a", "value");
    record.xattr_remove(InodeId{3}, "user.b");
    record.symlink_put(InodeId{4}, "target");
    record.inode_remove(InodeId{5});
    record.inode_limit(InodeId{6});
    std::vector<std::uint8_t> types;
    const auto each = [&](std::uint8_t type, std::span<const std::byte> body) -> Result<void> {
      types.push_back(type);
      switch (static_cast<ChangeType>(type)) {
        case ChangeType::kInodePut: {
          const InodeImage image = TRY(decode_inode(body));
          CHECK(image.inode == some_image().inode);
          CHECK(image.mode == some_image().mode);
          CHECK(image.nlink == 3);
          CHECK(image.size_bytes == 123'456'789);
          CHECK(image.atime_ns == -1);
          CHECK(image.mtime_ns == some_image().mtime_ns);
          CHECK(image.parent == InodeId{9});
          return {};
        }
        case ChangeType::kEntryPut: {
          const EntryChange change = TRY(decode_entry_put(body));
          CHECK(change.directory == InodeId{1});
          CHECK(change.cookie == 77);
          CHECK(change.inode == InodeId{2});
          CHECK(change.type_bits == S_IFDIR);
          CHECK(change.name == "name");
          return {};
        }
        case ChangeType::kEntryRemove:
          CHECK(TRY(decode_entry_remove(body)).cookie == 78);
          return {};
        case ChangeType::kXattrPut: CHECK(TRY(decode_xattr_put(body)).value == "value"); return {};
        case ChangeType::kXattrRemove:
          CHECK(TRY(decode_xattr_remove(body)).name == "user.b");
          return {};
        case ChangeType::kSymlinkPut:
          CHECK(TRY(decode_symlink_put(body)).value == "target");
          return {};
        case ChangeType::kInodeRemove: CHECK(TRY(decode_inode_id(body)) == InodeId{5}); return {};
        case ChangeType::kInodeLimit: CHECK(TRY(decode_inode_id(body)) == InodeId{6}); return {};
      }
      return Code::kFormatInvalid;
    };
    REQUIRE(for_each_change(record.bytes(), each).has_value());
    CHECK(types == std::vector<std::uint8_t>{1, 3, 4, 5, 6, 7, 2, 8});
  }

  TEST_CASE("a record that is cut short anywhere does not parse") {
    RecordWriter record;
    record.entry_put(InodeId{1}, 77, InodeId{2}, S_IFDIR, "name");
    for (std::size_t size = 1; size < record.bytes().size(); ++size) {
      const auto each = [](std::uint8_t, std::span<const std::byte>) -> Result<void> { return {}; };
      CHECK_FALSE(for_each_change(record.bytes().first(size), each).has_value());
    }
  }

  TEST_CASE("names that no directory can hold are refused") {
    for (const std::string_view name : {"", ".", "..", "a/b"}) {
      RecordWriter record;
      record.entry_put(InodeId{1}, 77, InodeId{2}, S_IFDIR, name);
      CHECK_FALSE(decode_entry_put(record.bytes().subspan(5)).has_value());
    }
    RecordWriter longest;
    longest.entry_put(InodeId{1}, 77, InodeId{2}, S_IFDIR, std::string(256, 'n'));
    CHECK_FALSE(decode_entry_put(longest.bytes().subspan(5)).has_value());
  }

  TEST_CASE("decoders survive random bytes") {
    std::mt19937_64 random(test::seed_from_environment(1));
    for (int i = 0; i < 20'000; ++i) {
      Bytes bytes(random() % 120);
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
      const auto each = [](std::uint8_t, std::span<const std::byte> body) -> Result<void> {
        decode_inode(body).ignore("only must not crash");
        decode_entry_put(body).ignore("only must not crash");
        decode_xattr_put(body).ignore("only must not crash");
        return {};
      };
      for_each_change(bytes, each).ignore("only must not crash");
      decode_inode(bytes).ignore("only must not crash");
      decode_entry_put(bytes).ignore("only must not crash");
      decode_entry_remove(bytes).ignore("only must not crash");
      decode_xattr_put(bytes).ignore("only must not crash");
      decode_xattr_remove(bytes).ignore("only must not crash");
      decode_symlink_put(bytes).ignore("only must not crash");
      decode_inode_id(bytes).ignore("only must not crash");
      parse_key(bytes).ignore("only must not crash");
    }
  }

  TEST_CASE("keys sort by inode, then tag, then what follows") {
    const auto less = [](const Bytes& a, const Bytes& b) {
      return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
    };
    CHECK(less(make_key(InodeId{255}, KeyTag::kWindow, big_endian(std::uint64_t{9})),
               make_key(InodeId{256}, KeyTag::kInode)));
    CHECK(less(make_key(InodeId{1}, KeyTag::kInode), make_key(InodeId{1}, KeyTag::kEntry)));
    CHECK(less(make_key(InodeId{1}, KeyTag::kEntry, big_endian(std::uint64_t{255})),
               make_key(InodeId{1}, KeyTag::kEntry, big_endian(std::uint64_t{256}))));
    const Bytes bytes = make_key(InodeId{7}, KeyTag::kEntry, big_endian(std::uint64_t{42}));
    const Key key = parse_key(bytes).value();  // borrows from `bytes`
    CHECK(key.inode == InodeId{7});
    CHECK(key.tag == KeyTag::kEntry);
    CHECK(from_big_endian<std::uint64_t>(key.rest) == 42);
  }
}

struct OneDirectory {
  journal::Eras eras;
  Counter memory;
  Directory directory{DirectoryContext{eras, memory}};
};

TEST_SUITE("directory") {
  TEST_CASE("what has been read of a directory is known up to where reading has come") {
    constexpr std::uint64_t kEnd = ~std::uint64_t{0};
    journal::Eras eras;
    Counter memory;
    Directory directory{DirectoryContext{eras, memory}, 9};
    CHECK(directory.known_to(1) == 1);
    directory.note_loaded(1, 500);
    CHECK(directory.known_to(1) == 500);
    CHECK(directory.known_to(499) == 500);
    CHECK(directory.known_to(500) == 500);
    directory.note_loaded(500, 900);
    CHECK(directory.known_to(7) == 900);
    directory.note_loaded(2000, 3000);  // somebody else, elsewhere
    CHECK(directory.known_to(7) == 7);
    CHECK(directory.known_to(2500) == 3000);
    directory.note_loaded(1, 2000);
    directory.note_loaded(2000, kEnd);
    CHECK(directory.is_whole());
    directory.load(700, {InodeId{5}, S_IFREG, "a"});
    directory.drop_clean();
    CHECK_FALSE(directory.is_whole());
    CHECK(directory.known_to(1) == 1);
    CHECK(directory.count() == 9);
  }

  TEST_CASE_FIXTURE(OneDirectory, "a cookie stays while other names come and go") {
    for (int i = 0; i < 1000; ++i) {
      const std::string name = "name" + std::to_string(i);
      directory.put(directory.free_cookie(name).value(),
                    {InodeId{100u + static_cast<unsigned>(i)}, S_IFREG, name});
    }
    const std::uint64_t cookie = directory.find("name500")->cookie;
    for (int i = 0; i < 1000; i += 2) {
      if (i != 500) directory.remove(directory.find("name" + std::to_string(i))->cookie);
    }
    CHECK(directory.find("name500")->cookie == cookie);
    CHECK(directory.find("name1")->entry->inode == InodeId{101});
    CHECK_FALSE(directory.find("name2").has_value());
  }

  TEST_CASE("cookies leave room for the dots and fit a signed offset") {
    for (int i = 0; i < 10'000; ++i) {
      const std::uint64_t cookie = Directory::cookie_of("n" + std::to_string(i));
      CHECK(cookie >= kCookieFirst);
      CHECK(cookie < (std::uint64_t{1} << 63));
    }
  }

  TEST_CASE_FIXTURE(OneDirectory,
                    "a name whose neighbour with the same hash went away is still found") {
    const std::uint64_t cookie = Directory::cookie_of("b");
    directory.put(cookie, {InodeId{1}, S_IFREG, "stands in the way"});
    const std::uint64_t next = directory.free_cookie("b").value();
    CHECK(next == cookie + 1);
    directory.put(next, {InodeId{2}, S_IFREG, "b"});
    directory.remove(cookie);
    CHECK(directory.find("b")->entry->inode == InodeId{2});
  }
}

}  // namespace dynamicfs::fs
