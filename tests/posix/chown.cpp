// chown(2), lchown(2), fchown(2), fchownat(2).
#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "chown";
constexpr uid_t kSameUid = static_cast<uid_t>(-1);
constexpr gid_t kSameGid = static_cast<gid_t>(-1);

CASE("paths that lead nowhere") {
  path_errors("chown of", [](const char* path) -> Outcome { return ::chown(path, 0, 0); });
  path_errors("lchown of", [](const char* path) -> Outcome { return ::lchown(path, 0, 0); });
  path_errors("fchownat of",
              [](const char* path) -> Outcome { return ::fchownat(AT_FDCWD, path, 0, 0, 0); });
}

CASE("every kind of file") {
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    make(kind, name);
    works(::lchown(name.c_str(), 123456, 654321), "gets an owner and a group");
    expect("123456:654321", owner(name), "has the owner");
    works(::lchown(name.c_str(), 77, kSameGid), "gets an owner only");
    expect("77:654321", owner(name), "has the new owner and its old group");
    works(::lchown(name.c_str(), kSameUid, 88), "gets a group only");
    expect("77:88", owner(name), "has its old owner and the new group");
    works(::lchown(name.c_str(), 0xfffffffe, 0xfffffffe), "gets the last numbers there are");
    expect("4294967294:4294967294", owner(name), "has the last numbers");
    const Times times{name};
    works(::lchown(name.c_str(), 1, 2), "is changed");
    expect("ctime", times.changed(), "with a new owner has new");
    holds(times.are_now(), "has the ctime of that moment");
    const Times same{name};
    works(::lchown(name.c_str(), 1, 2), "gets the owner it has");
    expect("ctime", same.changed(), "with the owner it had has new");
    holds((status(name).st_mode & S_IFMT) == type_bits(kind), "keeps its kind");
    works(::fchownat(AT_FDCWD, name.c_str(), 5, 6, AT_SYMLINK_NOFOLLOW), "by fchownat");
    expect("5:6", owner(name), "by fchownat has the owner");
  }
}

CASE("of whom, by whom, to whom") {
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    const auto reset = [&] { require(::lchown(name.c_str(), kAlice, kAlices), "lchown"); };
    reset();
    const As alice{kAlice, kAlices, {kShared}};
    const About about{a(kind)};
    fails(EPERM, ::lchown(name.c_str(), kBob, kSameGid), "is not given away by its owner");
    fails(EPERM, ::lchown(name.c_str(), 0, kSameGid), "is not given to root by its owner");
    fails(EPERM, ::lchown(name.c_str(), kSameUid, kBobs),
          "does not get a group its owner is not in");
    works(::lchown(name.c_str(), kAlice, kAlices), "is given to its owner by its owner");
    works(::lchown(name.c_str(), kSameUid, kShared), "gets a supplementary group of its owner");
    fails(EPERM, ::lchown(name.c_str(), kBob, kShared),
          "is not given away together with a group that is permitted");
    works(::lchown(name.c_str(), kSameUid, kAlices), "gets the group of its owner");
  }
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    require(::lchown(name.c_str(), kAlice, kShared), "lchown");
    const As bob{kBob, kBobs, {kShared}};
    const About about{a(kind)};
    fails(EPERM, ::lchown(name.c_str(), kBob, kSameGid), "is not taken by another");
    fails(EPERM, ::lchown(name.c_str(), kSameUid, kBobs), "is not given another group by another");
    fails(EPERM, ::lchown(name.c_str(), kSameUid, kShared),
          "is not given the group it has by another");
    works(::lchown(name.c_str(), kSameUid, kSameGid), "is not changed by another");
  }
}

struct Change {
  const char* words;
  uid_t uid;
  gid_t gid;
};

// inode_owner_or_capable(), setattr_should_drop_suidgid(): a setgid bit without permission to execute
// goes only when the caller is not in the group.
CASE("setuid and setgid") {
  constexpr Change kChanges[] = {{"a new owner", kAlice, kSameGid},
                                 {"a new group", kSameUid, kShared},
                                 {"both new", kBob, kShared},
                                 {"the owner it has", 0, 0}};
  for (const Kind kind : {Kind::kFile, Kind::kFifo, Kind::kDirectory}) {
    for (const mode_t before :
         {0644U, 0755U, 01755U, 02644U, 02711U, 02755U, 04644U, 04755U, 06644U, 06755U, 07777U}) {
      for (const Change& change : kChanges) {
        const std::string name = fresh();
        make(kind, name);
        require(::chmod(name.c_str(), before), "chmod");
        require(::chown(name.c_str(), change.uid, change.gid), "chown");
        mode_t wanted = before;
        if (kind != Kind::kDirectory) {
          wanted &= ~static_cast<mode_t>(S_ISUID);
          if ((before & S_IXGRP) != 0) wanted &= ~static_cast<mode_t>(S_ISGID);
        }
        expect(
            octal(wanted), mode(name),
            fmt::format("{} of mode {} that root gives {}", a(kind), octal(before), change.words));
      }
      for (const bool nothing : {true, false}) {
        const std::string name = fresh();
        make(kind, name);
        require(::chown(name.c_str(), kAlice, kAlices), "chown");
        require(::chmod(name.c_str(), before), "chmod");
        {
          const As alice{kAlice, kAlices, {kShared}};
          require(::chown(name.c_str(), kSameUid, nothing ? kSameGid : kShared), "chown");
        }
        mode_t wanted = before;
        if (kind != Kind::kDirectory) {
          wanted &= ~static_cast<mode_t>(S_ISUID);
          if ((before & S_IXGRP) != 0) wanted &= ~static_cast<mode_t>(S_ISGID);
        }
        expect(octal(wanted), mode(name),
               fmt::format("{} of mode {} that its owner gives {}", a(kind), octal(before),
                           nothing ? "nothing" : "a group"));
      }
    }
  }
}

CASE("symbolic links and descriptors") {
  const std::string file = new_file();
  require(::symlink(file.c_str(), "link"), "a link");
  works(::chown("link", 3, 4), "of a link");
  expect("3:4", owner(file), "of a link changes what it leads to");
  expect("0:0", owner("link"), "of a link leaves the link");
  works(::lchown("link", 5, 6), "lchown of a link");
  expect("3:4", owner(file), "lchown of a link leaves what it leads to");
  const UniqueFd fd = opened(file, O_RDONLY);
  works(::fchown(fd.get(), 7, 8), "fchown");
  expect("7:8", owner(file), "fchown gives");
  fails(EBADF, ::fchown(-1, 0, 0), "fchown of no file");
  works(::fchownat(fd.get(), "", 9, 10, AT_EMPTY_PATH), "with AT_EMPTY_PATH");
  expect("9:10", owner(file), "AT_EMPTY_PATH gives");
  fails(ENOENT, ::fchownat(fd.get(), "", 9, 10, 0), "of an empty path without AT_EMPTY_PATH");
  fails(EINVAL, ::fchownat(AT_FDCWD, file.c_str(), 0, 0, 0x8000), "with flags that are none");
  fails(ENOENT, ::chown("dangling", 0, 0), "of a link that leads nowhere");
  fails(EBADF, ::fchownat(-1, "name", 0, 0, 0), "relative to no directory");
}

}  // namespace
}  // namespace posix
