// Who may do what: mode bits of owner, group, supplementary groups and others; sticky directories.
#include <linux/fs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "permission";

struct Actor {
  const char* words;
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
  int shift;  // of its bits in a mode
};

// Of what belongs to kAlice and kShared.
const std::vector<Actor>& actors() {
  static const std::vector<Actor> all = {
      {"the owner", kAlice, kAlices, {}, 6},
      {"the owner, who is in the group", kAlice, kShared, {}, 6},
      {"one of the group", kBob, kShared, {}, 3},
      {"one with the group among others", kBob, kBobs, {1, 2, kShared, 3}, 3},
      {"another", kBob, kBobs, {1, 2, 3}, 0},
  };
  return all;
}

Outcome try_open(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_NONBLOCK);
  const Outcome outcome = fd;
  if (fd >= 0) ::close(fd);
  return outcome;
}

void allowed(bool may, Outcome seen, const std::string& words, int error = EACCES) {
  if (may) {
    works(seen, words);
  } else {
    fails(error, seen, words);
  }
}

CASE("files") {
  for (const Kind kind : {Kind::kFile, Kind::kFifo}) {
    for (const Actor& actor : actors()) {
      for (mode_t bits = 0; bits < 8; ++bits) {
        const std::string name = fresh();
        make(kind, name);
        require(::chown(name.c_str(), kAlice, kShared), "chown");
        // What the other classes may is the contrary.
        mode_t all = 0;
        for (const int shift : {0, 3, 6}) all |= (shift == actor.shift ? bits : 7 - bits) << shift;
        require(::chmod(name.c_str(), all), "chmod");
        // So that opening for writing finds a reader.
        const UniqueFd reader{kind == Kind::kFifo ? ::open(name.c_str(), O_RDONLY | O_NONBLOCK)
                                                  : -1};
        const As somebody{actor.uid, actor.gid, actor.groups};
        const About about{
            fmt::format("{} who has {} of {} ({:04o})", actor.words, bits, a(kind), all)};
        const bool r = (bits & 4) != 0;
        const bool w = (bits & 2) != 0;
        const bool x = (bits & 1) != 0;
        allowed(r, try_open(name, O_RDONLY), "opens it to read");
        allowed(w, try_open(name, O_WRONLY), "opens it to write");
        allowed(r && w, try_open(name, O_RDWR), "opens it for both");
        const auto access = [&](int how) -> Outcome {
          return ::faccessat(AT_FDCWD, name.c_str(), how, AT_EACCESS);
        };
        allowed(r, access(R_OK), "has R_OK");
        allowed(w, access(W_OK), "has W_OK");
        allowed(x, access(X_OK), "has X_OK");
        allowed(r && w && x, access(R_OK | W_OK | X_OK), "has all three");
        works(access(F_OK), "has F_OK");
        if (kind == Kind::kFile) {
          allowed(w, ::truncate(name.c_str(), 0), "truncates it");
          allowed(w && r, try_open(name, O_RDWR | O_TRUNC), "opens it with O_TRUNC");
        }
      }
    }
  }
}

CASE("directories") {
  for (const Actor& actor : actors()) {
    for (mode_t bits = 0; bits < 8; ++bits) {
      const std::string name = new_directory();
      make(Kind::kFile, name + "/file", 0666);
      make(Kind::kFile, name + "/victim", 0666);
      make(Kind::kDirectory, name + "/below", 0777);
      require(::chown(name.c_str(), kAlice, kShared), "chown");
      mode_t all = 0;
      for (const int shift : {0, 3, 6}) all |= (shift == actor.shift ? bits : 7 - bits) << shift;
      require(::chmod(name.c_str(), all), "chmod");
      const As somebody{actor.uid, actor.gid, actor.groups};
      const About about{
          fmt::format("{} who has {} of a directory ({:04o})", actor.words, bits, all)};
      const bool r = (bits & 4) != 0;
      const bool x = (bits & 1) != 0;
      const bool wx = (bits & 3) == 3;
      struct stat info {};
      allowed(r, try_open(name, O_RDONLY | O_DIRECTORY), "opens it");
      allowed(x, ::stat((name + "/file").c_str(), &info), "finds a file in it");
      fails(x ? ENOENT : EACCES, ::stat((name + "/absent").c_str(), &info),
            "looks for what is not in it");
      allowed(x, try_open(name + "/file", O_RDWR), "opens a file in it");
      allowed(x, ::chdir((name + "/below").c_str()) == 0 ? ::chdir("../..") : -1, "goes below it");
      allowed(wx, ::mkdir((name + "/new").c_str(), 0755), "makes a directory in it");
      allowed(wx, ::open((name + "/made").c_str(), O_CREAT | O_EXCL | O_RDWR, 0644),
              "makes a file in it");
      allowed(wx, ::symlink("x", (name + "/link").c_str()), "makes a link in it");
      allowed(wx, ::link((name + "/file").c_str(), (name + "/hard").c_str()), "links in it");
      allowed(wx, ::rename((name + "/file").c_str(), (name + "/renamed").c_str()), "renames in it");
      allowed(wx, ::unlink((name + "/victim").c_str()), "unlinks in it");
      allowed(wx, ::rmdir((name + "/below").c_str()), "removes a directory in it");
    }
  }
}

CASE("programs") {
  const std::string script = "#!/bin/true\n";
  for (const Actor& actor : actors()) {
    for (mode_t bits = 0; bits < 8; ++bits) {
      const std::string name = file_with(script);
      require(::chown(name.c_str(), kAlice, kShared), "chown");
      mode_t all = 0;
      for (const int shift : {0, 3, 6}) all |= (shift == actor.shift ? bits : 7 - bits) << shift;
      require(::chmod(name.c_str(), all), "chmod");
      const Outcome seen = in_child([&]() -> Outcome {
        const As somebody{actor.uid, actor.gid, actor.groups};
        // The shell that reads a script needs to read it, the kernel does not.
        return ::execl(("./" + name).c_str(), name.c_str(), nullptr);
      });
      allowed((bits & 1) != 0, seen,
              fmt::format("{} who has {} of a program ({:04o}) runs it", actor.words, bits, all));
    }
  }
  const std::string name = file_with(script, 0666);
  fails(EACCES, in_child([&]() -> Outcome {
          return ::execl(("./" + name).c_str(), name.c_str(), nullptr);
        }),
        "root runs a file that nobody may execute");
  require(::chmod(name.c_str(), 0001), "chmod");
  works(
      in_child([&]() -> Outcome { return ::execl(("./" + name).c_str(), name.c_str(), nullptr); }),
      "root runs a file that somebody may execute");
  const std::string directory = new_directory();
  fails(EACCES,
        in_child([&]() -> Outcome { return ::execl(("./" + directory).c_str(), "x", nullptr); }),
        "a directory is no program");
  const std::string text = file_with("no program", 0755);
  fails(ENOEXEC,
        in_child([&]() -> Outcome { return ::execl(("./" + text).c_str(), "x", nullptr); }),
        "a text is no program");
  const std::string missing = file_with("#!/absent/interpreter\n", 0755);
  fails(ENOENT,
        in_child([&]() -> Outcome { return ::execl(("./" + missing).c_str(), "x", nullptr); }),
        "a script without its interpreter");
}

CASE("root") {
  for (const Kind kind : {Kind::kFile, Kind::kDirectory}) {
    const About about{fmt::format("root, of {} of another that permits nothing,", a(kind))};
    const std::string name = fresh();
    make(kind, name);
    require(::chown(name.c_str(), kAlice, kAlices), "chown");
    require(::chmod(name.c_str(), 0), "chmod");
    works(try_open(name, O_RDONLY), "opens");
    works(::access(name.c_str(), R_OK | W_OK), "has R_OK and W_OK");
    if (kind == Kind::kDirectory) {
      works(::access(name.c_str(), X_OK), "has X_OK");
      works(::mkdir((name + "/new").c_str(), 0700), "makes a directory in it");
    } else {
      fails(EACCES, ::access(name.c_str(), X_OK), "has X_OK");
    }
  }
}

CASE("access with the real user") {
  const std::string name = new_file(0600);
  require(::setresuid(kAlice, 0, 0), "setresuid");
  fails(EACCES, ::access(name.c_str(), R_OK), "access asks for the real user");
  works(::faccessat(AT_FDCWD, name.c_str(), R_OK, AT_EACCESS),
        "AT_EACCESS asks for the effective user");
  works(try_open(name, O_RDONLY), "open asks for the effective user");
  require(::setresuid(0, 0, 0), "setresuid");
  path_errors("access of", [](const char* path) -> Outcome { return ::access(path, F_OK); },
              {.as_user = false});
  fails(EINVAL, ::access(name.c_str(), 8), "access with a mode that is none");
  require(::symlink("nowhere", "link"), "a link");
  fails(ENOENT, ::access("link", F_OK), "access of a link that leads nowhere");
  works(::faccessat(AT_FDCWD, "link", F_OK, AT_SYMLINK_NOFOLLOW), "faccessat of a link itself");
}

// The owner of a file, the owner of its directory and root may remove from a sticky directory.
CASE("sticky directories") {
  for (const Kind kind : kAllKinds) {
    for (const bool own_directory : {true, false}) {
      for (const bool own_file : {true, false}) {
        const std::string sticky = new_directory(01777);
        require(::chown(sticky.c_str(), own_directory ? kAlice : kBob, 0), "chown");
        const std::string elsewhere = new_directory(0777);
        const auto victim = [&] {
          const std::string path = sticky + "/" + fresh();
          make(kind, path);
          require(::lchown(path.c_str(), own_file ? kAlice : kBob, 0), "lchown");
          if (kind == Kind::kDirectory) require(::chmod(path.c_str(), 0777), "chmod");
          return path;
        };
        const std::string removed = victim();
        const std::string renamed = victim();
        const std::string taken = victim();
        const std::string replaced = victim();
        const std::string exchanged = victim();
        const std::string mine = elsewhere + "/mine";
        make(kind, mine);
        require(::lchown(mine.c_str(), kAlice, 0), "lchown");
        const std::string other = elsewhere + "/other";
        make(kind, other);
        require(::lchown(other.c_str(), kAlice, 0), "lchown");
        const About about{fmt::format("{} of {} in a sticky directory of {}:", a(kind),
                                      own_file ? "one's own" : "another",
                                      own_directory ? "one's own" : "another")};
        const bool may = own_directory || own_file;
        const As alice{kAlice, kAlices};
        allowed(may,
                kind == Kind::kDirectory ? ::rmdir(removed.c_str()) : ::unlink(removed.c_str()),
                "removed", EPERM);
        allowed(may, ::rename(renamed.c_str(), (renamed + "x").c_str()), "renamed", EPERM);
        allowed(may, ::rename(taken.c_str(), (elsewhere + "/taken").c_str()), "taken away", EPERM);
        allowed(may, ::rename(mine.c_str(), replaced.c_str()), "replaced", EPERM);
        allowed(may,
                ::syscall(SYS_renameat2, AT_FDCWD, other.c_str(), AT_FDCWD, exchanged.c_str(),
                          RENAME_EXCHANGE),
                "exchanged", EPERM);
      }
    }
  }
}

}  // namespace
}  // namespace posix
