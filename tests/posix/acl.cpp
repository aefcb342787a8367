// POSIX ACLs: who may do what by name, the mask, and what new files inherit.
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sys/xattr.h>

#include <cstring>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "acl";
constexpr const char* kAccess = "system.posix_acl_access";
constexpr const char* kDefault = "system.posix_acl_default";

struct Entry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id = static_cast<std::uint32_t>(ACL_UNDEFINED_ID);
};

std::string encoded(const std::vector<Entry>& entries,
                    std::uint32_t version = POSIX_ACL_XATTR_VERSION) {
  std::string bytes(reinterpret_cast<const char*>(&version), sizeof version);
  for (const Entry& entry : entries)
    bytes.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  return bytes;
}

// As getfacl would say it in one line.
std::string shown(const std::string& path, const char* which) {
  char bytes[4096];
  const ssize_t got = ::lgetxattr(path.c_str(), which, bytes, sizeof bytes);
  if (got < 0) return error_name(errno);
  std::string text;
  for (std::size_t at = sizeof(std::uint32_t); at + sizeof(Entry) <= static_cast<std::size_t>(got);
       at += sizeof(Entry)) {
    Entry entry{};
    std::memcpy(&entry, bytes + at, sizeof entry);
    const char* tag = "?";
    switch (entry.tag) {
      case ACL_USER_OBJ: tag = "u:"; break;
      case ACL_USER: tag = "u"; break;
      case ACL_GROUP_OBJ: tag = "g:"; break;
      case ACL_GROUP: tag = "g"; break;
      case ACL_MASK: tag = "m:"; break;
      case ACL_OTHER: tag = "o:"; break;
      default: break;
    }
    text += (text.empty() ? "" : " ") + std::string{tag};
    if (entry.tag == ACL_USER || entry.tag == ACL_GROUP) text += fmt::format("{}:", entry.id);
    text += fmt::format("{}", entry.permissions);
  }
  return text;
}

Outcome set(const std::string& path, const char* which, const std::vector<Entry>& entries) {
  const std::string bytes = encoded(entries);
  return ::lsetxattr(path.c_str(), which, bytes.data(), bytes.size(), 0);
}

std::vector<Entry> named_user(unsigned user, unsigned mask, unsigned group = 4) {
  return {{ACL_USER_OBJ, 6},
          {ACL_USER, static_cast<std::uint16_t>(user), kAlice},
          {ACL_GROUP_OBJ, static_cast<std::uint16_t>(group)},
          {ACL_MASK, static_cast<std::uint16_t>(mask)},
          {ACL_OTHER, 0}};
}

// The other cases say nothing where there are none.
bool are_kept() {
  const std::string path = new_file();
  return set(path, kAccess, named_user(6, 7)).error == 0;
}

CASE("whether there are any") { holds(are_kept(), "they are kept"); }

CASE("an ACL and the mode") {
  if (!are_kept()) return;
  for (const Kind kind :
       {Kind::kFile, Kind::kDirectory, Kind::kFifo, Kind::kSocket, Kind::kCharacter}) {
    const About about{a(kind)};
    const std::string path = fresh();
    make(kind, path);
    require(::chmod(path.c_str(), 0640), "chmod");
    expect("ENODATA", shown(path, kAccess), "has none at first");
    const Times times{path};
    works(set(path, kAccess, named_user(6, 7)), "gets one");
    expect("ctime", times.changed(), "with a new one has new");
    expect(fmt::format("u:6 u{}:6 g:4 m:7 o:0", kAlice), shown(path, kAccess), "has the ACL");
    expect("0670", mode(path), "has the mask in its mode");
    works(::chmod(path.c_str(), 0604), "is changed by chmod");
    expect(fmt::format("u:6 u{}:6 g:4 m:0 o:4", kAlice), shown(path, kAccess),
           "has the mode in its ACL");
    works(set(path, kAccess, {{ACL_USER_OBJ, 7}, {ACL_GROUP_OBJ, 5}, {ACL_OTHER, 1}}),
          "gets one that says no more than a mode");
    expect("ENODATA", shown(path, kAccess), "has none when a mode says it");
    expect("0751", mode(path), "has that mode");
    require(set(path, kAccess, named_user(6, 7)), "setxattr");
    works(::lremovexattr(path.c_str(), kAccess), "loses it");
    expect("ENODATA", shown(path, kAccess), "has none then");
    expect("0670", mode(path), "keeps the mode");
  }
  require(::symlink("nowhere", "link"), "a link");
  fails(EOPNOTSUPP, set("link", kAccess, named_user(6, 7)), "a symbolic link gets none");
}

CASE("who may") {
  if (!are_kept()) return;
  for (unsigned user = 0; user < 8; ++user) {
    for (const unsigned mask : {0U, 4U, 6U, 7U}) {
      const std::string path = file_with("text");
      require(set(path, kAccess, named_user(user, mask)), "setxattr");
      const As alice{kAlice, kAlices};
      const unsigned may = user & mask;
      const auto access = [&](int how) -> Outcome {
        return ::faccessat(AT_FDCWD, path.c_str(), how, AT_EACCESS);
      };
      const About about{fmt::format("a user with {} under mask {}", user, mask)};
      (may & 4) != 0 ? works(access(R_OK), "reads") : fails(EACCES, access(R_OK), "reads");
      (may & 2) != 0 ? works(access(W_OK), "writes") : fails(EACCES, access(W_OK), "writes");
      (may & 1) != 0 ? works(access(X_OK), "executes") : fails(EACCES, access(X_OK), "executes");
    }
  }
  for (const unsigned group : {0U, 2U, 4U, 6U}) {
    for (const bool owning : {false, true}) {
      const std::string path = file_with("text");
      require(::chown(path.c_str(), 0, owning ? kShared : kBobs), "chown");
      std::vector<Entry> entries = {
          {ACL_USER_OBJ, 6}, {ACL_GROUP_OBJ, static_cast<std::uint16_t>(owning ? group : 0)}};
      if (!owning) entries.push_back({ACL_GROUP, static_cast<std::uint16_t>(group), kShared});
      entries.push_back({ACL_MASK, 7});
      entries.push_back({ACL_OTHER, 7});
      require(set(path, kAccess, entries), "setxattr");
      const As alice{kAlice, kAlices, {kShared}};
      const auto access = [&](int how) -> Outcome {
        return ::faccessat(AT_FDCWD, path.c_str(), how, AT_EACCESS);
      };
      const About about{
          fmt::format("one of {} with {}", owning ? "the owning group" : "a named group", group)};
      (group & 4) != 0 ? works(access(R_OK), "reads") : fails(EACCES, access(R_OK), "reads");
      (group & 2) != 0 ? works(access(W_OK), "writes") : fails(EACCES, access(W_OK), "writes");
    }
  }
  const std::string path = new_file(0666);
  const As alice{kAlice, kAlices};
  fails(EPERM, set(path, kAccess, named_user(6, 7)), "set by another than the owner");
  fails(EPERM, ::removexattr(path.c_str(), kAccess), "removed by another than the owner");
}

CASE("what is none") {
  if (!are_kept()) return;
  const std::string path = new_file();
  const auto refuse = [&](const std::string& bytes, std::string_view words) {
    fails(EINVAL, ::setxattr(path.c_str(), kAccess, bytes.data(), bytes.size(), 0), words);
  };
  refuse("xx", "two bytes");
  refuse(encoded({{ACL_USER_OBJ, 6}, {ACL_OTHER, 0}}), "without the owning group");
  refuse(encoded({{ACL_GROUP_OBJ, 6}, {ACL_OTHER, 0}}), "without the owner");
  refuse(encoded({{ACL_USER_OBJ, 6}, {ACL_GROUP_OBJ, 0}}), "without others");
  refuse(encoded({{ACL_USER_OBJ, 6}, {ACL_USER, 6, 1}, {ACL_GROUP_OBJ, 0}, {ACL_OTHER, 0}}),
         "a named user without a mask");
  refuse(encoded({{ACL_OTHER, 0}, {ACL_GROUP_OBJ, 0}, {ACL_USER_OBJ, 6}}), "in the wrong order");
  refuse(encoded({{ACL_USER_OBJ, 9}, {ACL_GROUP_OBJ, 0}, {ACL_OTHER, 0}}),
         "with permissions that are none");
  refuse(encoded({{0x77, 6}, {ACL_GROUP_OBJ, 0}, {ACL_OTHER, 0}}), "with a tag that is none");
  const std::string other = encoded({{ACL_USER_OBJ, 6}, {ACL_GROUP_OBJ, 0}, {ACL_OTHER, 0}}, 7);
  fails(EOPNOTSUPP, ::setxattr(path.c_str(), kAccess, other.data(), other.size(), 0),
        "of another version");
  fails(EACCES, set(path, kDefault, named_user(6, 7)), "a default ACL of a file");
}

CASE("what is inherited") {
  if (!are_kept()) return;
  for (const mode_t mask : {0U, 022U, 077U}) {
    const About about{fmt::format("under umask {:03o}", mask)};
    const std::string parent = new_directory(0755);
    works(set(parent, kDefault, named_user(6, 7, 5)), "a directory gets a default ACL");
    expect("0755", mode(parent), "a directory with a default ACL has the mode");
    ::umask(mask);
    const UniqueFd file{::open((parent + "/file").c_str(), O_CREAT | O_RDWR, 0664)};
    require(::mkdir((parent + "/directory").c_str(), 0777), "mkdir");
    require(::mknod((parent + "/fifo").c_str(), S_IFIFO | 0600, 0), "mknod");
    require(::symlink("x", (parent + "/link").c_str()), "symlink");
    ::umask(022);
    expect(fmt::format("u:6 u{}:6 g:5 m:6 o:0", kAlice), shown(parent + "/file", kAccess),
           "a new file of mode 0664 has");
    expect("0660", mode(parent + "/file"), "a new file of mode 0664 has the mode");
    expect(fmt::format("u:6 u{}:6 g:5 m:7 o:0", kAlice), shown(parent + "/directory", kAccess),
           "a new directory has");
    expect(fmt::format("u:6 u{}:6 g:5 m:7 o:0", kAlice), shown(parent + "/directory", kDefault),
           "a new directory has the default");
    expect("0670", mode(parent + "/directory"), "a new directory has the mode");
    expect(fmt::format("u:6 u{}:6 g:5 m:0 o:0", kAlice), shown(parent + "/fifo", kAccess),
           "a new FIFO of mode 0600 has");
    expect("0777", mode(parent + "/link"), "a new link has the mode");
    expect("ENODATA", shown(parent + "/file", kDefault), "a new file has the default");
    const std::string plain = parent + "/plain";
    require(::mkdir(plain.c_str(), 0777), "mkdir");
    works(::removexattr(plain.c_str(), kDefault), "a default ACL is removed");
    expect("ENODATA", shown(plain, kDefault), "a directory without its default ACL has");
  }
}

CASE("setgid") {
  if (!are_kept()) return;
  const std::string path = new_file();
  require(::chown(path.c_str(), kAlice, kShared), "chown");
  require(::chmod(path.c_str(), 02755), "chmod");
  {
    const As alice{kAlice, kAlices};
    works(set(path, kAccess, named_user(6, 7)), "by an owner who is not in the group");
  }
  expect("0670", mode(path), "by an owner who is not in the group takes the setgid bit");
}

}  // namespace
}  // namespace posix
