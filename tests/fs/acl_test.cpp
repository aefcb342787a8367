// Access control lists: what they do to modes, and what new files get of them.
#include <doctest/doctest.h>

#include <sys/stat.h>

#include <initializer_list>

#include "base/bytes.hpp"
#include "fs/posix_acl.hpp"
#include "tests/fs/whole.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using fs::kAccessAcl;
using fs::kDefaultAcl;
using fs::PosixAcl;

struct Entry {
  char tag;  // u, g, m, o; U and G for somebody by name
  unsigned permissions;
  std::uint32_t id = 0;
};

std::string acl(std::initializer_list<Entry> entries, std::uint32_t version = 2) {
  Bytes bytes;
  ByteWriter out{bytes};
  out.put(version);
  for (const Entry& entry : entries) {
    std::uint16_t tag = 0;
    switch (entry.tag) {
      case 'u': tag = 1; break;
      case 'U': tag = 2; break;
      case 'g': tag = 4; break;
      case 'G': tag = 8; break;
      case 'm': tag = 16; break;
      case 'o': tag = 32; break;
      default: tag = 64; break;
    }
    const bool named = entry.tag == 'U' || entry.tag == 'G';
    out.put(tag);
    out.put(static_cast<std::uint16_t>(entry.permissions));
    out.put(named ? entry.id : ~std::uint32_t{0});
  }
  return std::string{as_text(bytes)};
}

// rwx for a friend, whatever the group may do.
std::string shared() { return acl({{'u', 7}, {'U', 7, 1000}, {'g', 5}, {'m', 7}, {'o', 0}}); }

struct Mounted {
  explicit Mounted(bool with_acl = true) : pool(1, options(with_acl)) {
    pool.format();
    REQUIRE(pool.mount().has_value());
  }
  static SimPoolOptions options(bool with_acl) {
    SimPoolOptions out;
    out.acl = with_acl;
    return out;
  }
  Code set(const std::string& path, std::string_view name, std::string value) {
    const auto done = pool.run(pool.fs().setxattr(pool.resolve(path).value(), std::string{name},
                                                  std::move(value), fs::XattrMode::kEither));
    return done.has_value() ? Code::kOk : done.error().code;
  }
  std::string get(const std::string& path, std::string_view name) {
    return pool.run(pool.fs().getxattr(pool.resolve(path).value(), std::string{name})).value();
  }
  bool has(const std::string& path, std::string_view name) {
    return pool.run(pool.fs().getxattr(pool.resolve(path).value(), std::string{name})).has_value();
  }
  std::uint32_t mode(const std::string& path) { return pool.stat(path)->mode & 07777; }
  void make(const std::string& path, std::uint32_t mode, std::uint32_t umask = 0) {
    const auto at = pool.parent_of(path).value();
    const auto made =
        (mode & S_IFMT) == S_IFDIR
            ? pool.run(pool.fs().mkdir(at.first, at.second, mode, {.umask = umask}))
            : pool.run(pool.fs().mknod(at.first, at.second, mode, 0, {.umask = umask}));
    REQUIRE(made.has_value());
    pool.fs().forget(made->inode, 1);
  }
  void chmod(const std::string& path, std::uint32_t mode) {
    fs::AttributeChange change;
    change.mode = mode;
    REQUIRE(pool.run(pool.fs().setattr(pool.resolve(path).value(), change)).has_value());
  }
  SimPool pool;
};

}  // namespace

TEST_SUITE("access control lists") {
  TEST_CASE("a list is taken as Linux writes it, and anything else refused") {
    const std::string good = shared();
    REQUIRE(PosixAcl::parse(good).has_value());
    CHECK(PosixAcl::parse(good)->encode() == good);
    CHECK(PosixAcl::parse(good)->mode() == 0770);
    CHECK_FALSE(PosixAcl::parse(good)->is_minimal());
    const std::string small = acl({{'u', 6}, {'g', 4}, {'o', 4}});
    CHECK(PosixAcl::parse(small)->mode() == 0644);
    CHECK(PosixAcl::parse(small)->is_minimal());
    for (std::size_t size = 0; size < good.size(); ++size) {
      CHECK_FALSE(PosixAcl::parse(good.substr(0, size)).has_value());
    }
    CHECK(PosixAcl::parse(acl({{'u', 6}, {'g', 4}, {'o', 4}}, 1)).error().code ==
          Code::kNotSupported);
    const std::string bad[] = {
        acl({{'u', 8}, {'g', 4}, {'o', 4}}),               // no such permission
        acl({{'u', 6}, {'u', 6}, {'g', 4}, {'o', 4}}),     // two owners
        acl({{'g', 4}, {'u', 6}, {'o', 4}}),               // another order
        acl({{'u', 6}, {'g', 4}}),                         // nothing for others
        acl({{'u', 6}, {'U', 6, 1}, {'g', 4}, {'o', 4}}),  // a name without a mask
        acl({{'u', 6}, {'g', 4}, {'o', 4}, {'?', 4}}),     // no such entry
    };
    for (const std::string& value : bad) {
      CHECK(PosixAcl::parse(value).error().code == Code::kInvalid);
    }
  }

  TEST_CASE("the mode of a file and its list say the same") {
    Mounted mounted;
    mounted.make("f", S_IFREG | 0640);
    CHECK(mounted.set("f", kAccessAcl, shared()) == Code::kOk);
    CHECK(mounted.mode("f") == 0770);
    // The group bits of chmod are the mask.
    mounted.chmod("f", 04750);
    CHECK(mounted.mode("f") == 04750);
    CHECK(mounted.get("f", kAccessAcl) ==
          acl({{'u', 7}, {'U', 7, 1000}, {'g', 5}, {'m', 5}, {'o', 0}}));
    // What the mode says as well is not kept.
    CHECK(mounted.set("f", kAccessAcl, acl({{'u', 6}, {'g', 2}, {'o', 1}})) == Code::kOk);
    CHECK(mounted.mode("f") == 04621);
    CHECK_FALSE(mounted.has("f", kAccessAcl));
    CHECK(mounted.set("f", kAccessAcl, "nonsense") == Code::kInvalid);
    CHECK(mounted.set("f", kDefaultAcl, shared()) == Code::kAccess);
    CHECK(mounted.mode("f") == 04621);
  }

  TEST_CASE("what is made in a directory inherits its default list instead of the umask") {
    Mounted mounted;
    mounted.make("d", S_IFDIR | 0755);
    CHECK(mounted.set("d", kDefaultAcl, shared()) == Code::kOk);
    CHECK(mounted.mode("d") == 0755);
    mounted.make("d/file", S_IFREG | 0666, 077);
    CHECK(mounted.mode("d/file") == 0660);
    const std::string inherited = acl({{'u', 6}, {'U', 7, 1000}, {'g', 5}, {'m', 6}, {'o', 0}});
    CHECK(mounted.get("d/file", kAccessAcl) == inherited);
    CHECK_FALSE(mounted.has("d/file", kDefaultAcl));
    mounted.make("d/sub", S_IFDIR | 0777, 077);
    CHECK(mounted.mode("d/sub") == 0770);
    CHECK(mounted.get("d/sub", kAccessAcl) == shared());
    CHECK(mounted.get("d/sub", kDefaultAcl) == shared());
    CHECK(mounted.pool.symlink("d/link", "file").has_value());
    CHECK_FALSE(mounted.has("d/link", kAccessAcl));
    // A default list that a mode can express leaves no list behind.
    mounted.make("m", S_IFDIR | 0755);
    CHECK(mounted.set("m", kDefaultAcl, acl({{'u', 7}, {'g', 5}, {'o', 0}})) == Code::kOk);
    mounted.make("m/file", S_IFREG | 0666, 0);
    CHECK(mounted.mode("m/file") == 0640);
    CHECK_FALSE(mounted.has("m/file", kAccessAcl));
    // Without one the umask counts.
    mounted.make("plain", S_IFREG | 0666, 027);
    CHECK(mounted.mode("plain") == 0640);

    const std::string before = mounted.pool.dump().value();
    SUBCASE("and keeps it over a power cut") {
      REQUIRE(mounted.pool.run(mounted.pool.fs().sync()).has_value());
      cut_and_mount(mounted.pool);
    }
    SUBCASE("and over an unmount") {
      REQUIRE(mounted.pool.unmount().has_value());
      REQUIRE(mounted.pool.mount().has_value());
    }
    CHECK(mounted.pool.dump().value() == before);
    CHECK(mounted.get("d/file", kAccessAcl) == inherited);
    check_whole(mounted.pool);
  }

  TEST_CASE("a pool mounted without them refuses lists, but those there are stay right") {
    Mounted mounted;
    mounted.make("f", S_IFREG | 0640);
    CHECK(mounted.set("f", kAccessAcl, shared()) == Code::kOk);
    REQUIRE(mounted.pool.unmount().has_value());
    mounted.pool.set_acl(false);
    REQUIRE(mounted.pool.mount().has_value());
    CHECK(mounted.set("f", kAccessAcl, shared()) == Code::kNotSupported);
    mounted.chmod("f", 0600);
    CHECK(mounted.get("f", kAccessAcl) ==
          acl({{'u', 6}, {'U', 7, 1000}, {'g', 5}, {'m', 0}, {'o', 0}}));
  }
}

}  // namespace dynamicfs::test
