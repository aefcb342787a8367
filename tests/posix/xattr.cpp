// Extended attributes: four namespaces, their permissions, sizes and limits.
#include <linux/limits.h>
#include <sys/xattr.h>

#include <set>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "xattr";

std::string value_of(const std::string& path, const std::string& name) {
  std::string value(XATTR_SIZE_MAX, '\0');
  const ssize_t got = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
  if (got < 0) return error_name(errno);
  value.resize(static_cast<std::size_t>(got));
  return value;
}

Outcome set(const std::string& path, const std::string& name, std::string_view value,
            int flags = 0) {
  return ::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), flags);
}

std::set<std::string> listed(const std::string& path) {
  std::string names(XATTR_LIST_MAX, '\0');
  const ssize_t got = ::llistxattr(path.c_str(), names.data(), names.size());
  std::set<std::string> all;
  for (std::size_t at = 0; got > 0 && at < static_cast<std::size_t>(got);
       at = names.find('\0', at) + 1)
    all.insert(names.c_str() + at);
  return all;
}

CASE("paths that lead nowhere") {
  path_errors("setxattr of",
              [](const char* path) -> Outcome { return ::setxattr(path, "user.x", "v", 1, 0); });
  path_errors("getxattr of", [](const char* path) -> Outcome {
    char value[8];
    return ::getxattr(path, "user.x", value, sizeof value);
  });
  path_errors("listxattr of",
              [](const char* path) -> Outcome { return ::listxattr(path, nullptr, 0); });
  path_errors("removexattr of",
              [](const char* path) -> Outcome { return ::removexattr(path, "user.x"); });
}

CASE("every kind and namespace") {
  for (const Kind kind : kAllKinds) {
    for (const char* const space : {"user.", "trusted.", "security."}) {
      const About about{fmt::format("{}name of {}", space, a(kind))};
      const std::string path = fresh();
      make(kind, path);
      const std::string name = std::string{space} + "name";
      const bool kept =
          space != std::string_view{"user."} || kind == Kind::kFile || kind == Kind::kDirectory;
      if (!kept) {
        fails(EPERM, set(path, name, "value"), "is not kept");
        expect("ENODATA", value_of(path, name), "is read as");
        fails(EPERM, ::lremovexattr(path.c_str(), name.c_str()), "is not removed");
        continue;
      }
      expect("ENODATA", value_of(path, name), "is absent at first");
      fails(ENODATA, ::lremovexattr(path.c_str(), name.c_str()), "cannot be removed at first");
      fails(ENODATA, set(path, name, "value", XATTR_REPLACE), "cannot be replaced at first");
      const Times times{path};
      works(set(path, name, "value", XATTR_CREATE), "is made");
      expect("ctime", times.changed(), "made, changes");
      expect("value", value_of(path, name), "is read");
      fails(EEXIST, set(path, name, "other", XATTR_CREATE), "is not made twice");
      expect("value", value_of(path, name), "stays when refused");
      works(set(path, name, "longer than before", XATTR_REPLACE), "is replaced");
      expect("longer than before", value_of(path, name), "is read when replaced");
      works(set(path, name, "", 0), "is set to nothing");
      expect("", value_of(path, name), "is read as nothing");
      holds(listed(path).contains(name), "is listed");
      expect(0, ::lgetxattr(path.c_str(), name.c_str(), nullptr, 0), "its size when it is nothing");
      const Times again{path};
      works(::lremovexattr(path.c_str(), name.c_str()), "is removed");
      expect("ctime", again.changed(), "removed, changes");
      expect("ENODATA", value_of(path, name), "is gone");
      holds(!listed(path).contains(name), "is listed no more");
    }
  }
}

CASE("names") {
  const std::string path = new_file();
  fails(ERANGE, set(path, "", "v"), "an empty name");
  fails(EINVAL, set(path, "user.", "v"), "a namespace alone");
  fails(EOPNOTSUPP, set(path, "name", "v"), "a name without namespace");
  fails(EOPNOTSUPP, set(path, "other.name", "v"), "a namespace that is none");
  fails(EOPNOTSUPP, set(path, "system.other", "v"), "a system name that is none");
  expect("EOPNOTSUPP", value_of(path, "other.name"), "reading of a namespace that is none");
  expect("EOPNOTSUPP", value_of(path, "system.other"), "reading of a system name that is none");
  for (const std::size_t length : {6UL, 64UL, 200UL, 254UL, 255UL}) {
    const std::string name = "user." + std::string(length - 5, 'n');
    works(set(path, name, "v"), fmt::format("a name of {} bytes", length));
    expect("v", value_of(path, name), fmt::format("the value of a name of {} bytes", length));
    holds(listed(path).contains(name), fmt::format("a name of {} bytes is listed", length));
  }
  fails(ERANGE, set(path, "user." + std::string(251, 'n'), "v"), "a name of 256 bytes");
  works(set(path, "user.\xff\x01 \xc3\xa4/..", "v"), "a name with odd bytes");
  expect("v", value_of(path, "user.\xff\x01 \xc3\xa4/.."), "the value of a name with odd bytes");
  works(set(path, "user.name", "lower"), "a name in lower case");
  works(set(path, "user.NAME", "upper"), "a name in upper case");
  expect("lower", value_of(path, "user.name"), "the value of the name in lower case");
}

CASE("values") {
  const std::string path = new_file();
  for (const std::size_t length : {0UL, 1UL, 100UL, 255UL, 256UL, 1024UL, 4095UL, 4096UL, 4097UL,
                                   16'384UL, 65'535UL, 65'536UL}) {
    const std::string value = pattern(length);
    works(set(path, "user.value", value), fmt::format("a value of {} bytes", length));
    holds(value_of(path, "user.value") == value,
          fmt::format("a value of {} bytes is read", length));
    expect(static_cast<long>(length), ::getxattr(path.c_str(), "user.value", nullptr, 0),
           fmt::format("the size of a value of {} bytes", length));
  }
  fails(E2BIG, set(path, "user.value", std::string(65'537, 'v')), "a value of 65537 bytes");
  require(set(path, "user.value", "0123456789"), "setxattr");
  char small[4];
  fails(ERANGE, ::getxattr(path.c_str(), "user.value", small, sizeof small),
        "reading with too little room");
  fails(ERANGE, ::listxattr(path.c_str(), small, sizeof small), "listing with too little room");
  expect(11, ::listxattr(path.c_str(), nullptr, 0), "the size of the list");
  fails(EINVAL, set(path, "user.value", "v", 4), "with flags that are none");
  fails(EFAULT, ::setxattr(path.c_str(), "user.x", kBadAddress, 10, 0),
        "a value outside of memory");
}

CASE("many") {
  const std::string path = new_file();
  int made = 0;
  for (; made < 500; ++made) {
    if (set(path, fmt::format("user.name-{:03}", made), pattern(50)).error != 0) break;
  }
  expect(500, made, "attributes that a file keeps");
  expect(500, static_cast<long>(listed(path).size()), "attributes that are listed");
  bool right = true;
  for (int i = 0; i < 500; ++i)
    right = right && value_of(path, fmt::format("user.name-{:03}", i)) == pattern(50);
  holds(right, "all of them are read");
  for (int i = 0; i < 500; ++i)
    ::removexattr(path.c_str(), fmt::format("user.name-{:03}", i).c_str());
  expect(0, static_cast<long>(listed(path).size()), "attributes left when all are removed");
}

CASE("with the file") {
  const std::string path = file_with("text");
  require(set(path, "user.name", "value"), "setxattr");
  require(set(path, "trusted.name", "trusted"), "setxattr");
  require(::link(path.c_str(), "second"), "link");
  expect("value", value_of("second", "user.name"), "by another name of the file");
  require(::rename(path.c_str(), "moved"), "rename");
  expect("value", value_of("moved", "user.name"), "after rename");
  require(::truncate("moved", 0), "truncate");
  require(::chown("moved", kAlice, kAlices), "chown");
  expect("value", value_of("moved", "user.name"), "after truncate and chown");
  const UniqueFd fd = opened("moved", O_RDONLY);
  char text[8] = {};
  expect(5, ::fgetxattr(fd.get(), "user.name", text, sizeof text), "bytes of fgetxattr");
  works(::fsetxattr(fd.get(), "user.other", "x", 1, 0),
        "fsetxattr of a file that is open for reading");
  works(::fremovexattr(fd.get(), "user.other"), "fremovexattr");
  expect(23, ::flistxattr(fd.get(), nullptr, 0), "bytes of flistxattr");
  require(::unlink("moved"), "unlink");
  require(::unlink("second"), "unlink");
  expect(5, ::fgetxattr(fd.get(), "user.name", text, sizeof text),
         "bytes of fgetxattr of a file without a name");
  works(::fsetxattr(fd.get(), "user.late", "x", 1, 0), "fsetxattr of a file without a name");
  const UniqueFd path_only = opened(new_file(), O_PATH);
  fails(EBADF, ::fsetxattr(path_only.get(), "user.x", "x", 1, 0),
        "fsetxattr of an O_PATH descriptor");
  fails(EBADF, ::fgetxattr(-1, "user.x", text, 1), "fgetxattr of no file");
  make(Kind::kFile, "moved");
  expect("ENODATA", value_of("moved", "user.name"), "of a new file under an old name");
  require(::symlink("moved", "link"), "a link");
  works(::setxattr("link", "user.through", "x", 1, 0), "setxattr through a link");
  expect("x", value_of("moved", "user.through"), "what was set through a link");
}

CASE("permission") {
  const std::string readable = new_file(0644);
  const std::string writable = new_file(0666);
  const std::string closed = new_file(0600);
  for (const std::string& path : {readable, writable, closed}) {
    require(set(path, "user.name", "value"), "setxattr");
    require(set(path, "trusted.name", "value"), "setxattr");
    require(set(path, "security.name", "value"), "setxattr");
  }
  const std::string sticky = new_directory(01777);
  const std::string shared = new_directory(0777);
  const As alice{kAlice, kAlices};
  expect("value", value_of(readable, "user.name"), "user.* of a file that may be read");
  fails(EACCES, set(readable, "user.name", "x"), "user.* set of a file that may not be written");
  fails(EACCES, ::removexattr(readable.c_str(), "user.name"),
        "user.* removed of a file that may not be written");
  works(set(writable, "user.name", "x"), "user.* set of a file that may be written");
  expect("EACCES", value_of(closed, "user.name"), "user.* of a file that may not be read");
  expect("ENODATA", value_of(readable, "trusted.name"), "trusted.* read by anybody");
  fails(EPERM, set(writable, "trusted.name", "x"), "trusted.* set by anybody");
  fails(EPERM, ::removexattr(writable.c_str(), "trusted.name"), "trusted.* removed by anybody");
  holds(!listed(readable).contains("trusted.name"), "trusted.* is not listed for anybody");
  holds(listed(readable).contains("user.name"), "user.* is listed for anybody");
  holds(listed(closed).contains("user.name"), "user.* is listed of a file that may not be read");
  expect("value", value_of(readable, "security.name"), "security.* read by anybody");
  fails(EPERM, set(writable, "security.name", "x"), "security.* set by anybody");
  fails(EPERM, set(sticky, "user.name", "x"), "user.* set of a sticky directory of another");
  works(set(shared, "user.name", "x"), "user.* set of a directory that may be written");
}

// security.capability goes when the file changes.
CASE("capabilities") {
  // Version 2, cap_net_raw permitted.
  const std::string capability{
      "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20};
  struct Way {
    const char* words;
    bool goes;
    Outcome (*change)(const std::string&);
  };
  constexpr Way kWays[] = {
      {"write", true,
       [](const std::string& path) -> Outcome {
         return ::write(UniqueFd{::open(path.c_str(), O_WRONLY)}.get(), "x", 1);
       }},
      {"truncate", true,
       [](const std::string& path) -> Outcome { return ::truncate(path.c_str(), 1); }},
      {"chown", true,
       [](const std::string& path) -> Outcome { return ::chown(path.c_str(), 1, 1); }},
      {"chmod", false,
       [](const std::string& path) -> Outcome { return ::chmod(path.c_str(), 0700); }},
      {"rename", false,
       [](const std::string& path) -> Outcome { return ::rename(path.c_str(), path.c_str()); }},
      {"fallocate", true,
       [](const std::string& path) -> Outcome {
         return ::fallocate(UniqueFd{::open(path.c_str(), O_WRONLY)}.get(), 0, 0, 9000);
       }},
  };
  for (const Way& way : kWays) {
    const std::string path = file_with("text");
    require(set(path, "security.capability", capability), "setxattr");
    holds(value_of(path, "security.capability") == capability,
          fmt::format("security.capability is kept (before {})", way.words));
    require(way.change(path), way.words);
    expect(
        way.goes ? "ENODATA" : capability, value_of(path, "security.capability"),
        fmt::format("security.capability {} {}", way.goes ? "goes with" : "stays with", way.words));
  }
}

}  // namespace
}  // namespace posix
