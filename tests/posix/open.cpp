// open(2), openat(2), openat2(2), creat(2).
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "open";

// Opens and closes.
Outcome try_open(const std::string& path, int flags, mode_t mode = 0644) {
  const int fd = ::open(path.c_str(), flags, mode);
  const Outcome outcome = fd;
  if (fd >= 0) ::close(fd);
  return outcome;
}

CASE("paths that lead nowhere") {
  path_errors("open of", [](const char* path) -> Outcome { return ::open(path, O_RDONLY); });
  path_errors("open with O_PATH of",
              [](const char* path) -> Outcome { return ::open(path, O_PATH); });
  path_errors("open with O_CREAT of",
              [](const char* path) -> Outcome { return ::open(path, O_CREAT | O_RDWR, 0644); },
              {.makes_last = true});
  path_errors("creat of", [](const char* path) -> Outcome { return ::creat(path, 0644); },
              {.makes_last = true});
  path_errors("openat of",
              [](const char* path) -> Outcome { return ::openat(AT_FDCWD, path, O_RDONLY); });
}

struct Flags {
  const char* words;
  int flags;
};

CASE("every kind of file") {
  constexpr Flags kFlags[] = {
      {"O_RDONLY", O_RDONLY},
      {"O_WRONLY", O_WRONLY},
      {"O_RDWR", O_RDWR},
      {"O_CREAT", O_CREAT | O_RDWR},
      {"O_CREAT O_EXCL", O_CREAT | O_EXCL | O_RDWR},
      {"O_DIRECTORY", O_DIRECTORY},
      {"O_NOFOLLOW", O_NOFOLLOW},
      {"O_PATH O_NOFOLLOW", O_PATH | O_NOFOLLOW},
      {"O_WRONLY O_TRUNC", O_WRONLY | O_TRUNC},
      {"O_WRONLY O_APPEND", O_WRONLY | O_APPEND},
      {"O_NOATIME", O_NOATIME},
      {"O_SYNC", O_RDWR | O_SYNC},
      {"O_DSYNC", O_RDWR | O_DSYNC},
      {"O_DIRECTORY O_WRONLY", O_DIRECTORY | O_WRONLY},
      {"O_PATH O_DIRECTORY", O_PATH | O_DIRECTORY},
  };
  for (const Kind kind : kAllKinds) {
    for (const Flags& flags : kFlags) {
      const std::string name = fresh();
      make(kind, name);
      const auto has = [&](int bits) { return (flags.flags & bits) == bits; };
      const bool writes = (flags.flags & O_ACCMODE) != O_RDONLY;
      int wanted = 0;
      if (has(O_CREAT | O_EXCL)) {
        wanted = EEXIST;
      } else if (has(O_PATH)) {
        wanted = has(O_DIRECTORY) && kind != Kind::kDirectory ? ENOTDIR : 0;
        // It leads nowhere.
        if (kind == Kind::kSymlink && !has(O_NOFOLLOW)) wanted = ENOENT;
      } else if (kind == Kind::kSymlink) {
        wanted = has(O_NOFOLLOW) ? ELOOP : has(O_CREAT) ? 0 : ENOENT;
      } else if (has(O_DIRECTORY) && kind != Kind::kDirectory) {
        wanted = ENOTDIR;
      } else if (kind == Kind::kDirectory) {
        wanted = writes || has(O_CREAT) ? EISDIR : 0;
      } else if (kind == Kind::kFifo) {
        wanted = (flags.flags & O_ACCMODE) == O_WRONLY ? ENXIO : 0;
      } else if (kind == Kind::kSocket || kind == Kind::kBlock || kind == Kind::kCharacter) {
        wanted = ENXIO;
      }
      const Outcome seen = try_open(name, flags.flags | O_NONBLOCK);
      const std::string words = fmt::format("{} with {}", a(kind), flags.words);
      if (wanted == 0) {
        works(seen, words);
      } else {
        fails(wanted, seen, words);
      }
      ::unlink("nowhere");
    }
  }
}

CASE("modes of what is created") {
  for (const mode_t mask : {0000U, 0022U, 0027U, 0077U, 0777U}) {
    ::umask(mask);
    for (const mode_t wanted :
         {0U, 0400U, 0644U, 0666U, 0777U, 01777U, 02755U, 04755U, 06777U, 07777U}) {
      const std::string name = fresh();
      const int fd = ::open(name.c_str(), O_CREAT | O_RDWR, wanted);
      ::close(fd);
      expect(octal(wanted & ~mask), mode(name),
             fmt::format("the mode {} under umask {}", octal(wanted), octal(mask)));
    }
  }
  ::umask(0);
  const std::string name = fresh();
  const UniqueFd fd{::open(name.c_str(), O_CREAT | O_RDWR, 0)};
  expect(3, ::write(fd.get(), "abc", 3), "bytes written to a new file whose mode permits none");
  const std::string old = new_file(0640);
  works(try_open(old, O_CREAT | O_RDWR, 0777), "O_CREAT of a file that is there");
  expect("0640", mode(old), "O_CREAT leaves the mode of a file that is there");
}

CASE("owner of what is created") {
  const std::string plain = new_directory(0777);
  const std::string shared = new_directory(0777);
  require(::chown(shared.c_str(), 0, kShared), "chown");
  require(::chmod(shared.c_str(), 02777), "chmod");
  {
    const As alice{kAlice, kAlices, {kBobs}};
    works(try_open(plain + "/file", O_CREAT | O_RDWR), "O_CREAT in a directory of another");
    works(try_open(shared + "/file", O_CREAT | O_RDWR), "O_CREAT in a setgid directory");
  }
  expect(fmt::format("{}:{}", kAlice, kAlices), owner(plain + "/file"), "owner of a new file");
  expect(fmt::format("{}:{}", kAlice, kShared), owner(shared + "/file"),
         "owner of a new file in a setgid directory");
  expect("0644", mode(shared + "/file"), "the mode of a new file in a setgid directory");
}

CASE("what O_CREAT does to times") {
  const std::string directory = new_directory();
  const Times times{directory};
  works(try_open(directory + "/file", O_CREAT | O_RDWR), "O_CREAT of a new file");
  expect("mtime ctime", times.changed(), "a directory in which a file is created");
  holds(times.are_now(), "a directory in which a file is created has the time of that moment");
  const Times again{directory};
  const Times file{directory + "/file"};
  works(try_open(directory + "/file", O_CREAT | O_RDWR), "O_CREAT of a file that is there by now");
  expect("none", again.changed(), "a directory in which no file is created");
  expect("none", file.changed(), "a file that O_CREAT finds");
}

CASE("truncating") {
  for (const std::size_t bytes : {0UL, 1UL, 4096UL, 100'000UL}) {
    for (const int access : {O_RDONLY, O_WRONLY, O_RDWR}) {
      const About about{fmt::format("O_TRUNC of {} bytes, {}", bytes,
                                    access == O_RDONLY   ? "O_RDONLY"
                                    : access == O_WRONLY ? "O_WRONLY"
                                                         : "O_RDWR")};
      const std::string name = file_with(pattern(bytes));
      const Times times{name};
      works(try_open(name, access | O_TRUNC), "works");
      expect(0, status(name).st_size, "leaves the size");
      expect(0, status(name).st_blocks, "leaves the blocks");
      expect("mtime ctime", times.changed(), "changes");
    }
  }
  const std::string name = file_with("text");
  const UniqueFd held = opened(name, O_RDONLY);
  works(try_open(name, O_WRONLY | O_TRUNC), "O_TRUNC of a file that is open");
  char buffer[8];
  expect(0, ::read(held.get(), buffer, sizeof buffer),
         "bytes read by who had it open before O_TRUNC");
  const std::string kept = file_with("kept", 0444);
  {
    const As alice{kAlice, kAlices};
    fails(EACCES, try_open(kept, O_RDONLY | O_TRUNC),
          "O_RDONLY O_TRUNC of a file that is not writable");
  }
  expect("kept", contents(kept), "a file that was not truncated");
}

CASE("flags that contradict each other") {
  const std::string name = new_file();
  const std::string directory = new_directory();
  fails(EINVAL, try_open(fresh(), O_CREAT | O_DIRECTORY), "O_CREAT O_DIRECTORY of a new name");
  fails(EINVAL, try_open(directory, O_TMPFILE & ~O_DIRECTORY), "O_TMPFILE without O_DIRECTORY");
  fails(EINVAL, try_open(directory, O_TMPFILE | O_RDONLY), "O_TMPFILE without write access");
  fails(EISDIR, try_open(directory, O_RDONLY | O_TRUNC), "O_TRUNC of a directory");
  fails(EISDIR, try_open(fresh() + "/", O_CREAT | O_RDWR),
        "O_CREAT of a new name with a slash behind it");
  fails(ENOTDIR, try_open(name + "/", O_RDONLY), "a file with a slash behind it");
  fails(EISDIR, try_open(name + "/", O_CREAT | O_RDWR), "O_CREAT of a file with a slash behind it");
  fails(EISDIR, try_open(".", O_RDWR), "the directory . for writing");
  works(try_open(directory + "/", O_RDONLY), "a directory with a slash behind it");
  works(try_open(directory + "//.//", O_RDONLY), "a directory with many slashes");
  fails(EBADF, ::openat(-1, name.c_str(), O_RDONLY), "relative to no directory");
  const UniqueFd file = opened(name, O_RDONLY);
  fails(ENOTDIR, ::openat(file.get(), "name", O_RDONLY), "relative to a file");
}

CASE("symbolic links") {
  const std::string name = file_with("through");
  require(::symlink(name.c_str(), "link"), "a link");
  require(::symlink("made", "ahead"), "a link");
  expect("through", contents("link"), "a link to a file is followed");
  fails(ELOOP, try_open("link", O_RDONLY | O_NOFOLLOW), "a link with O_NOFOLLOW");
  fails(EEXIST, try_open("ahead", O_CREAT | O_EXCL | O_RDWR),
        "O_EXCL of a link that leads nowhere");
  works(try_open("ahead", O_CREAT | O_RDWR), "O_CREAT of a link that leads nowhere");
  holds(exists("made"), "O_CREAT makes what the link leads to");
  const std::string directory = new_directory();
  require(::symlink(directory.c_str(), "to-directory"), "a link");
  fails(ENOTDIR, try_open("to-directory", O_DIRECTORY | O_NOFOLLOW),
        "a link to a directory with O_DIRECTORY O_NOFOLLOW");
  works(try_open("to-directory/", O_RDONLY | O_NOFOLLOW),
        "a link to a directory with a slash and O_NOFOLLOW");
  const UniqueFd path = opened("link", O_PATH | O_NOFOLLOW);
  char text[64] = {};
  expect(static_cast<long>(name.size()), ::readlinkat(path.get(), "", text, sizeof text),
         "bytes of a link that is open as a path");
}

CASE("O_PATH") {
  const UniqueFd path = opened(file_with("text"), O_PATH);
  char text[4];
  fails(EBADF, ::read(path.get(), text, 1), "read from an O_PATH descriptor");
  fails(EBADF, ::write(path.get(), text, 1), "write to an O_PATH descriptor");
  fails(EBADF, ::fchmod(path.get(), 0600), "fchmod of an O_PATH descriptor");
  fails(EBADF, ::fchown(path.get(), 0, 0), "fchown of an O_PATH descriptor");
  fails(EBADF, ::ftruncate(path.get(), 0), "ftruncate of an O_PATH descriptor");
  fails(EBADF, ::fsync(path.get()), "fsync of an O_PATH descriptor");
  expect(4, status(path).st_size, "the size that fstat of an O_PATH descriptor shows");
  const UniqueFd again = opened(fmt::format("/proc/self/fd/{}", path.get()), O_RDONLY);
  expect(4, ::read(again.get(), text, 4),
         "bytes read from what was opened through an O_PATH descriptor");
  const std::string closed = new_file(0);
  const As alice{kAlice, kAlices};
  works(try_open(closed, O_PATH), "O_PATH of a file that may not be read");
}

CASE("O_NOATIME") {
  const std::string name = new_file(0666);
  {
    const As alice{kAlice, kAlices};
    fails(EPERM, try_open(name, O_RDONLY | O_NOATIME), "O_NOATIME of a file of another");
  }
  require(::chown(name.c_str(), kAlice, kAlices), "chown");
  const As alice{kAlice, kAlices};
  works(try_open(name, O_RDONLY | O_NOATIME), "O_NOATIME of one's own file");
}

CASE("descriptors run out") {
  const std::string name = new_file();
  const rlimit limit{.rlim_cur = 20, .rlim_max = 20};
  require(::setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  int last = 0;
  while (last >= 0) last = ::open(name.c_str(), O_RDONLY);
  fails(EMFILE, last, "with as many descriptors as are allowed");
  const std::string absent = fresh();
  fails(EMFILE, ::open(absent.c_str(), O_CREAT | O_RDWR, 0644),
        "O_CREAT with as many descriptors as are allowed");
  holds(!exists(absent), "a file that was not opened for want of descriptors is not made");
}

CASE("programs that run") {
  std::ifstream source("/bin/sleep", std::ios::binary);
  const std::string program{std::istreambuf_iterator<char>(source), {}};
  const std::string name = file_with(program, 0755);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::execl(("./" + name).c_str(), "sleep", "30", nullptr);
    ::_exit(1);
  }
  // It runs when its image is no longer ours.
  const std::string image = fmt::format("/proc/{}/exe", pid);
  struct stat mine = status(name);
  struct stat its {};
  for (int i = 0; i < 400 && (::stat(image.c_str(), &its) != 0 || its.st_ino != mine.st_ino); ++i)
    pause();
  fails(ETXTBSY, try_open(name, O_WRONLY), "a program that runs, for writing");
  fails(ETXTBSY, try_open(name, O_RDWR), "a program that runs, for reading and writing");
  fails(ETXTBSY, try_open(name, O_WRONLY | O_TRUNC), "a program that runs, with O_TRUNC");
  fails(ETXTBSY, ::truncate(name.c_str(), 0), "truncate of a program that runs");
  works(try_open(name, O_RDONLY), "a program that runs, for reading");
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  works(try_open(name, O_WRONLY), "a program that has ended, for writing");
  const UniqueFd writer = opened(name, O_WRONLY);
  fails(ETXTBSY, in_child([&]() -> Outcome {
          return ::execl(("./" + name).c_str(), "sleep", "0", nullptr);
        }),
        "execve of a file that is open for writing");
}

Outcome open_how(int directory, const char* path, std::uint64_t flags, std::uint64_t resolve) {
  struct open_how how {};
  how.flags = flags;
  how.resolve = resolve;
  const long fd = ::syscall(SYS_openat2, directory, path, &how, sizeof how);
  const Outcome outcome = fd;
  if (fd >= 0) ::close(static_cast<int>(fd));
  return outcome;
}

CASE("openat2") {
  const std::string directory = new_directory();
  make(Kind::kFile, directory + "/file");
  require(::symlink("file", (directory + "/link").c_str()), "a link");
  require(::symlink("/etc", (directory + "/away").c_str()), "a link");
  const UniqueFd fd = opened(directory, O_PATH | O_DIRECTORY);
  works(open_how(fd.get(), "file", O_RDONLY, 0), "openat2 of a file");
  works(open_how(fd.get(), "file", O_RDONLY, RESOLVE_BENEATH), "RESOLVE_BENEATH of a file");
  fails(EXDEV, open_how(fd.get(), "../x", O_RDONLY, RESOLVE_BENEATH),
        "RESOLVE_BENEATH of a path that leaves");
  fails(EXDEV, open_how(fd.get(), "away/passwd", O_RDONLY, RESOLVE_BENEATH),
        "RESOLVE_BENEATH of a link that leaves");
  fails(ELOOP, open_how(fd.get(), "link", O_RDONLY, RESOLVE_NO_SYMLINKS),
        "RESOLVE_NO_SYMLINKS of a link");
  works(open_how(fd.get(), "link", O_RDONLY, RESOLVE_IN_ROOT), "RESOLVE_IN_ROOT of a link");
  fails(ENOENT, open_how(fd.get(), "away/passwd", O_RDONLY, RESOLVE_IN_ROOT),
        "RESOLVE_IN_ROOT of a link that leaves");
  works(open_how(fd.get(), "file", O_RDONLY, RESOLVE_NO_XDEV), "RESOLVE_NO_XDEV of a file");
  fails(EINVAL, open_how(fd.get(), "file", O_RDONLY | (1ULL << 40), 0),
        "openat2 with flags that are none");
}

CASE("permission to create") {
  const std::string closed = new_directory(0755);
  const std::string searchable = new_directory(0711);
  make(Kind::kFile, searchable + "/file", 0666);
  const As alice{kAlice, kAlices};
  fails(EACCES, try_open(closed + "/file", O_CREAT | O_RDWR),
        "O_CREAT in a directory that is not writable");
  works(try_open(searchable + "/file", O_CREAT | O_RDWR),
        "O_CREAT of a file that is there in a directory that is not writable");
  fails(EEXIST, try_open(searchable + "/file", O_CREAT | O_EXCL | O_RDWR),
        "O_EXCL of a file that is there in a directory that is not writable");
  fails(EACCES, try_open(searchable, O_RDONLY), "a directory that may be searched only");
}

}  // namespace
}  // namespace posix
