// mknod(2), mkfifo(3), and sockets that are bound to a name.
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <cstring>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "mknod";

CASE("paths that lead nowhere") {
  path_errors("mknod of a file at",
              [](const char* path) -> Outcome { return ::mknod(path, S_IFREG | 0644, 0); },
              {.makes_last = true});
  path_errors("mkfifo at", [](const char* path) -> Outcome { return ::mkfifo(path, 0644); },
              {.makes_last = true});
  path_errors(
      "mknod of a device at",
      [](const char* path) -> Outcome { return ::mknod(path, S_IFCHR | 0644, makedev(1, 3)); },
      {.as_user = false, .makes_last = true});
}

CASE("every kind of file") {
  for (const Kind kind :
       {Kind::kFile, Kind::kFifo, Kind::kSocket, Kind::kBlock, Kind::kCharacter}) {
    const About about{a(kind)};
    for (const Kind taken : kAllKinds) {
      const std::string name = fresh();
      make(taken, name);
      fails(EEXIST, ::mknod(name.c_str(), type_bits(kind) | 0644, 0),
            fmt::format("over {}", a(taken)));
    }
    const std::string directory = new_directory();
    const Times times{directory};
    works(::mknod((directory + "/name").c_str(), type_bits(kind) | 0644, makedev(250, 7)),
          "is made");
    expect("mtime ctime", times.changed(), "changes of its directory");
    const struct stat info = status(directory + "/name");
    holds((info.st_mode & S_IFMT) == type_bits(kind), "has its kind");
    expect(1, info.st_nlink, "has links");
    expect(0, info.st_size, "has the size");
    const bool device = kind == Kind::kBlock || kind == Kind::kCharacter;
    if (device) holds(info.st_rdev == makedev(250, 7), "has its device number");
    for (const mode_t mask : {0U, 022U, 077U}) {
      for (const mode_t wanted : {0U, 0600U, 0666U, 0777U, 01644U, 02755U, 04755U, 07777U}) {
        ::umask(mask);
        const std::string name = fresh();
        require(::mknod(name.c_str(), type_bits(kind) | wanted, 0), "mknod");
        expect(octal(wanted & ~mask), mode(name),
               fmt::format("the mode {} under umask {}", octal(wanted), octal(mask)));
      }
    }
    ::umask(022);
    const std::string open = new_directory(0777);
    const As alice{kAlice, kAlices};
    const Outcome by_user =
        ::mknod((open + "/name").c_str(), type_bits(kind) | 0644, makedev(1, 3));
    if (device) {
      fails(EPERM, by_user, "by anybody but root");
    } else {
      works(by_user, "by anybody");
      fails(EACCES, ::mknod((directory + "/new").c_str(), type_bits(kind) | 0644, 0),
            "in a directory that is not writable");
    }
  }
}

CASE("what is none of them") {
  works(::mknod("plain", 0644, 0), "without a kind makes a file");
  holds(S_ISREG(status("plain").st_mode), "without a kind it is a file");
  fails(EPERM, ::mknod("directory", S_IFDIR | 0755, 0), "of a directory");
  fails(EINVAL, ::mknod("link", S_IFLNK | 0777, 0), "of a symbolic link");
  fails(EINVAL, ::mknod("odd", 0030000 | 0644, 0), "of a kind that is none");
  fails(ENOENT, ::mknod("new/", S_IFIFO | 0644, 0), "at a new name with a slash behind it");
}

CASE("device numbers") {
  struct Number {
    unsigned major;
    unsigned minor;
  };
  for (const Number number :
       {Number{0, 0}, Number{1, 3}, Number{8, 255}, Number{8, 256}, Number{255, 65535},
        Number{259, 70000}, Number{511, 1048575}, Number{4095, 1048575}}) {
    for (const Kind kind : {Kind::kBlock, Kind::kCharacter}) {
      const std::string name = fresh();
      const Outcome made =
          ::mknod(name.c_str(), type_bits(kind) | 0600, makedev(number.major, number.minor));
      const std::string words = fmt::format("of {} {}:{}", a(kind), number.major, number.minor);
      if (number.minor >= 1 << 18) {
        works(made, words, on_xfs(EINVAL, "it keeps 18 bits of the second number"));
      } else {
        works(made, words);
      }
      if (made.error != 0) continue;
      const dev_t seen = status(name).st_rdev;
      expect(fmt::format("{}:{}", number.major, number.minor),
             fmt::format("{}:{}", major(seen), minor(seen)),
             fmt::format("the number of {}", a(kind)));
    }
  }
  works(::mknod("null", S_IFCHR | 0666, makedev(1, 3)), "of the null device");
  const int fd = ::open("null", O_RDWR);
  works(fd, "the null device opens");
  expect(5, ::write(fd, "abcde", 5), "bytes written to the null device");
  char byte = 0;
  expect(0, ::read(fd, &byte, 1), "bytes read from the null device");
}

CASE("a FIFO passes data") {
  require(::mkfifo("fifo", 0644), "mkfifo");
  const UniqueFd reader{::open("fifo", O_RDONLY | O_NONBLOCK)};
  const UniqueFd writer{::open("fifo", O_WRONLY | O_NONBLOCK)};
  works(writer.get(), "a FIFO with a reader opens for writing");
  expect(4, ::write(writer.get(), "pipe", 4), "bytes written to a FIFO");
  char text[8] = {};
  expect(4, ::read(reader.get(), text, sizeof text), "bytes read from a FIFO");
  expect("pipe", text, "what comes out of a FIFO");
  expect(0, status("fifo").st_size, "the size of a FIFO");
  fails(ESPIPE, ::lseek(reader.get(), 0, SEEK_SET), "lseek of a FIFO");
  fails(EINVAL, ::fsync(reader.get()), "fsync of a FIFO");
  fails(EINVAL, ::ftruncate(writer.get(), 0), "ftruncate of a FIFO");
  fails(EINVAL, ::truncate("fifo", 0), "truncate of a FIFO");
  fails(EAGAIN, ::read(reader.get(), text, 1), "read of an empty FIFO");
  require(::unlink("fifo"), "unlink");
  expect(1, ::write(writer.get(), "x", 1), "bytes written to a FIFO without a name");
}

CASE("a socket is found by its name") {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "socket");
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  const UniqueFd server{::socket(AF_UNIX, SOCK_STREAM, 0)};
  works(::bind(server.get(), generic, sizeof address), "bind makes a socket");
  holds(S_ISSOCK(status("socket").st_mode), "what bind makes is a socket");
  expect("0755", mode("socket"), "the mode of a socket under umask 022");
  const UniqueFd second{::socket(AF_UNIX, SOCK_STREAM, 0)};
  fails(EADDRINUSE, ::bind(second.get(), generic, sizeof address), "bind to a name that is taken");
  fails(ECONNREFUSED, ::connect(second.get(), generic, sizeof address),
        "connect to a socket that does not listen");
  require(::listen(server.get(), 1), "listen");
  works(::connect(second.get(), generic, sizeof address), "connect to a socket that listens");
  fails(ENXIO, ::open("socket", O_RDONLY), "open of a socket");
  require(::rename("socket", "moved"), "rename");
  std::strcpy(address.sun_path, "moved");
  const UniqueFd third{::socket(AF_UNIX, SOCK_STREAM, 0)};
  const UniqueFd accepted{::accept(server.get(), nullptr, nullptr)};
  works(::connect(third.get(), generic, sizeof address), "connect to a socket by its new name");
  require(::chmod("moved", 0600), "chmod");
  const UniqueFd fourth{::socket(AF_UNIX, SOCK_STREAM, 0)};
  const As alice{kAlice, kAlices};
  fails(EACCES, ::connect(fourth.get(), generic, sizeof address),
        "connect without permission to write");
}

}  // namespace
}  // namespace posix
