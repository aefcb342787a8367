// flock(2), fcntl(2) locks of processes and of open files, leases.
#include <sys/file.h>
#include <sys/wait.h>

#include <csignal>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "lock";

Outcome lock(int fd, int command, short type, off_t start, off_t length) {
  struct flock wish {};
  wish.l_type = type;
  wish.l_whence = SEEK_SET;
  wish.l_start = start;
  wish.l_len = length;
  return ::fcntl(fd, command, &wish);
}

// What F_GETLK says stands in the way: "none", or the kind and the range.
std::string in_the_way(int fd, short type, off_t start, off_t length, int command = F_GETLK) {
  struct flock wish {};
  wish.l_type = type;
  wish.l_whence = SEEK_SET;
  wish.l_start = start;
  wish.l_len = length;
  if (::fcntl(fd, command, &wish) != 0) return error_name(errno);
  if (wish.l_type == F_UNLCK) return "none";
  return fmt::format("{} {}+{}", wish.l_type == F_RDLCK ? "read" : "write", wish.l_start,
                     wish.l_len);
}

// What another process sees.
std::string others_see(const std::string& name, short type, off_t start, off_t length) {
  int ends[2];
  require(::pipe(ends), "pipe");
  if (::fork() == 0) {
    const UniqueFd fd{::open(name.c_str(), O_RDWR)};
    const std::string text = in_the_way(fd.get(), type, start, length);
    static_cast<void>(!::write(ends[1], text.data(), text.size()));
    ::_exit(0);
  }
  ::close(ends[1]);
  char text[64] = {};
  static_cast<void>(!::read(ends[0], text, sizeof text - 1));
  ::close(ends[0]);
  ::wait(nullptr);
  return text;
}

CASE("flock") {
  const About about{"flock"};
  const std::string name = new_file();
  const UniqueFd one = opened(name, O_RDWR);
  const UniqueFd two = opened(name, O_RDONLY);
  works(::flock(one.get(), LOCK_SH), "shared");
  works(::flock(two.get(), LOCK_SH | LOCK_NB), "shared by two");
  fails(EWOULDBLOCK, ::flock(one.get(), LOCK_EX | LOCK_NB), "exclusive while another shares");
  works(::flock(two.get(), LOCK_UN), "given back");
  works(::flock(one.get(), LOCK_EX | LOCK_NB), "exclusive then");
  fails(EWOULDBLOCK, ::flock(two.get(), LOCK_SH | LOCK_NB), "shared while another is exclusive");
  const UniqueFd copy{::dup(one.get())};
  works(::flock(copy.get(), LOCK_EX | LOCK_NB), "by a duplicate of who has it");
  works(in_child([&]() -> Outcome { return ::flock(one.get(), LOCK_EX | LOCK_NB); }),
        "by a child of who has it");
  fails(EWOULDBLOCK, in_child([&]() -> Outcome {
          return ::flock(UniqueFd{::open(name.c_str(), O_RDONLY)}.get(), LOCK_SH | LOCK_NB);
        }),
        "by a child that opens the file itself");
  works(::flock(copy.get(), LOCK_UN), "given back by the duplicate");
  works(::flock(two.get(), LOCK_EX | LOCK_NB), "exclusive of a file that is open for reading");
  fails(EINVAL, ::flock(one.get(), 0), "that is none");
  fails(EBADF, ::flock(-1, LOCK_SH), "of no file");
  works(lock(one.get(), F_SETLK, F_WRLCK, 0, 0), "does not mind fcntl");
  const UniqueFd directory = opened(".", O_RDONLY);
  works(::flock(directory.get(), LOCK_EX | LOCK_NB), "of a directory");
}

CASE("flock ends with the open file") {
  const About about{"flock ends"};
  const std::string name = new_file();
  UniqueFd one = opened(name, O_RDWR);
  const UniqueFd two = opened(name, O_RDWR);
  require(::flock(one.get(), LOCK_EX), "flock");
  one.reset();
  works(::flock(two.get(), LOCK_EX | LOCK_NB), "when it is closed");
  require(::flock(two.get(), LOCK_UN), "flock");
  if (::fork() == 0) {
    const UniqueFd mine{::open(name.c_str(), O_RDWR)};
    ::flock(mine.get(), LOCK_EX);
    ::raise(SIGKILL);
  }
  ::wait(nullptr);
  works(::flock(two.get(), LOCK_EX | LOCK_NB), "when its process is killed");
}

CASE("fcntl locks of processes") {
  const About about{"fcntl:"};
  const std::string name = file_with(pattern(1000));
  const UniqueFd fd = opened(name, O_RDWR);
  works(lock(fd.get(), F_SETLK, F_WRLCK, 100, 100), "a write lock");
  expect("none", in_the_way(fd.get(), F_WRLCK, 0, 0), "one's own is not in the way");
  expect("write 100+100", others_see(name, F_RDLCK, 0, 0), "it is in the way of others");
  expect("none", others_see(name, F_WRLCK, 0, 100), "not in front of it");
  expect("none", others_see(name, F_WRLCK, 200, 0), "not behind it");
  works(lock(fd.get(), F_SETLK, F_RDLCK, 120, 20), "part of it becomes a read lock");
  expect("none", others_see(name, F_RDLCK, 120, 20), "a read lock is not in the way of readers");
  expect("read 120+20", others_see(name, F_WRLCK, 120, 20), "it is in the way of writers");
  expect("write 140+60", others_see(name, F_RDLCK, 130, 100), "what is left behind it stays");
  works(lock(fd.get(), F_SETLK, F_UNLCK, 0, 150), "the first part is given back");
  expect("write 150+50", others_see(name, F_RDLCK, 0, 0), "the last part stays");
  works(lock(fd.get(), F_SETLK, F_WRLCK, 50, 0), "up to the end and beyond");
  expect("write 50+0", others_see(name, F_RDLCK, 10'000, 10), "it reaches behind the end");
  const auto try_it = [&](short type) {
    return in_child([&]() -> Outcome {
      return lock(UniqueFd{::open(name.c_str(), O_RDWR)}.get(), F_SETLK, type, 100, 1);
    });
  };
  fails(EAGAIN, try_it(F_WRLCK), "another's write lock there");
  fails(EAGAIN, try_it(F_RDLCK), "another's read lock there");
  fails(EAGAIN, in_child([&]() -> Outcome { return lock(fd.get(), F_SETLK, F_RDLCK, 100, 1); }),
        "by a child: locks are not inherited");
  // Any descriptor of the file that is closed takes them all along.
  opened(name, O_RDONLY);
  expect("none", others_see(name, F_WRLCK, 0, 0), "gone when any descriptor of the file is closed");
}

CASE("fcntl locks that are refused") {
  const About about{"fcntl:"};
  const std::string name = new_file();
  const UniqueFd reader = opened(name, O_RDONLY);
  const UniqueFd writer = opened(name, O_WRONLY);
  fails(EBADF, lock(reader.get(), F_SETLK, F_WRLCK, 0, 1),
        "a write lock of a file that is open for reading");
  fails(EBADF, lock(writer.get(), F_SETLK, F_RDLCK, 0, 1),
        "a read lock of a file that is open for writing");
  works(lock(reader.get(), F_SETLK, F_RDLCK, 0, 1),
        "a read lock of a file that is open for reading");
  fails(EINVAL, lock(reader.get(), F_SETLK, 77, 0, 1), "a kind that is none");
  fails(EINVAL, lock(reader.get(), F_SETLK, F_RDLCK, -1, 1), "in front of the beginning");
  fails(EINVAL, lock(reader.get(), F_SETLK, F_RDLCK, 10, -11), "backwards over the beginning");
  works(lock(reader.get(), F_SETLK, F_RDLCK, 10, -10), "backwards to the beginning");
  fails(EOVERFLOW, lock(reader.get(), F_SETLK, F_RDLCK, INT64_MAX, 2),
        "behind the last byte there can be");
  fails(EBADF, lock(-1, F_SETLK, F_RDLCK, 0, 1), "of no file");
}

CASE("waiting, and waiting for each other") {
  const std::string name = new_file();
  const UniqueFd fd = opened(name, O_RDWR);
  require(lock(fd.get(), F_SETLK, F_WRLCK, 0, 1), "fcntl");
  int ends[2];
  require(::pipe(ends), "pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    const UniqueFd mine{::open(name.c_str(), O_RDWR)};
    lock(mine.get(), F_SETLK, F_WRLCK, 1, 1);
    static_cast<void>(!::write(ends[1], "x", 1));
    // Waits until the parent gives up or is told that both would wait for ever.
    ::_exit(lock(mine.get(), F_SETLKW, F_WRLCK, 0, 1).error);
  }
  char byte;
  static_cast<void>(!::read(ends[0], &byte, 1));
  for (int i = 0; i < 10; ++i) pause();
  fails(EDEADLK, lock(fd.get(), F_SETLKW, F_WRLCK, 1, 1), "each waits for the other");
  require(lock(fd.get(), F_SETLK, F_UNLCK, 0, 1), "fcntl");
  int ended = -1;
  ::waitpid(child, &ended, 0);
  expect(0, ended, "who waits gets the lock when it is given back");
  require(lock(fd.get(), F_SETLK, F_WRLCK, 0, 1), "fcntl");
  fails(EINTR, in_child([&]() -> Outcome {
          struct sigaction action {};
          action.sa_handler = [](int) {};
          ::sigaction(SIGALRM, &action, nullptr);
          ::ualarm(30'000, 0);
          return lock(UniqueFd{::open(name.c_str(), O_RDWR)}.get(), F_SETLKW, F_WRLCK, 0, 1);
        }),
        "waiting that a signal ends");
}

CASE("fcntl locks of open files") {
  const About about{"of an open file:"};
  const std::string name = new_file();
  UniqueFd one = opened(name, O_RDWR);
  const UniqueFd two = opened(name, O_RDWR);
  works(lock(one.get(), F_OFD_SETLK, F_WRLCK, 0, 10), "a write lock");
  fails(EAGAIN, lock(two.get(), F_OFD_SETLK, F_WRLCK, 5, 10),
        "another open file of the same process");
  expect("write 0+10", in_the_way(two.get(), F_RDLCK, 0, 0, F_OFD_GETLK), "what is in the way");
  works(lock(two.get(), F_OFD_SETLK, F_WRLCK, 10, 10), "beside it");
  fails(EAGAIN, lock(two.get(), F_SETLK, F_WRLCK, 0, 10),
        "a lock of the process where an open file has one");
  opened(name, O_RDONLY);
  fails(EAGAIN, lock(two.get(), F_OFD_SETLK, F_WRLCK, 5, 10),
        "it stays when another descriptor is closed");
  one.reset();
  works(lock(two.get(), F_OFD_SETLK, F_WRLCK, 5, 10), "it goes with its open file");
}

CASE("leases") {
  const About about{"leases:"};
  const std::string name = new_file();
  ::signal(SIGIO, SIG_IGN);
  {
    const UniqueFd reader = opened(name, O_RDONLY);
    works(::fcntl(reader.get(), F_SETLEASE, F_RDLCK), "a read lease");
    expect(F_RDLCK, ::fcntl(reader.get(), F_GETLEASE), "the lease there is");
    fails(EWOULDBLOCK, ::open(name.c_str(), O_WRONLY | O_NONBLOCK),
          "open for writing of a file with a read lease");
    works(::fcntl(reader.get(), F_SETLEASE, F_UNLCK), "a lease is given back");
    expect(F_UNLCK, ::fcntl(reader.get(), F_GETLEASE), "the lease when it is given back");
  }
  const UniqueFd writer = opened(name, O_RDWR);
  works(::fcntl(writer.get(), F_SETLEASE, F_WRLCK), "a write lease");
  fails(EWOULDBLOCK, ::open(name.c_str(), O_RDONLY | O_NONBLOCK),
        "open for reading of a file with a write lease");
  require(::fcntl(writer.get(), F_SETLEASE, F_UNLCK), "fcntl");
  const UniqueFd second = opened(name, O_RDONLY);
  fails(EAGAIN, ::fcntl(writer.get(), F_SETLEASE, F_WRLCK),
        "a write lease of a file that is open twice");
  fails(EAGAIN, ::fcntl(second.get(), F_SETLEASE, F_RDLCK),
        "a read lease of a file that is open for writing");
  fails(EINVAL, ::fcntl(writer.get(), F_SETLEASE, 77), "a lease that is none");
  const UniqueFd directory = opened(".", O_RDONLY);
  fails(EINVAL, ::fcntl(directory.get(), F_SETLEASE, F_RDLCK), "a lease of a directory");
}

}  // namespace
}  // namespace posix
