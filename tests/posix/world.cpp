#include "tests/posix/world.hpp"

#include <grp.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <climits>
#include <cstring>
#include <ctime>

namespace posix {
namespace {

bool same(const timespec& one, const timespec& other) {
  return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

// 2001-09-09: before every file system that is tested.
constexpr timespec kLongAgo{.tv_sec = 1'000'000'000, .tv_nsec = 123'456'789};

}  // namespace

const char* a(Kind kind) {
  switch (kind) {
    case Kind::kFile: return "a file";
    case Kind::kDirectory: return "a directory";
    case Kind::kSymlink: return "a symbolic link";
    case Kind::kFifo: return "a FIFO";
    case Kind::kSocket: return "a socket";
    case Kind::kBlock: return "a block device";
    case Kind::kCharacter: return "a character device";
  }
  return "";
}

mode_t type_bits(Kind kind) {
  switch (kind) {
    case Kind::kFile: return S_IFREG;
    case Kind::kDirectory: return S_IFDIR;
    case Kind::kSymlink: return S_IFLNK;
    case Kind::kFifo: return S_IFIFO;
    case Kind::kSocket: return S_IFSOCK;
    case Kind::kBlock: return S_IFBLK;
    case Kind::kCharacter: return S_IFCHR;
  }
  return 0;
}

void make(Kind kind, const std::string& path, mode_t mode) {
  const mode_t mask = ::umask(0);
  Outcome made = 0;
  switch (kind) {
    case Kind::kFile: made = ::mknod(path.c_str(), S_IFREG | mode, 0); break;
    case Kind::kDirectory: made = ::mkdir(path.c_str(), mode == 0644 ? 0755 : mode); break;
    case Kind::kSymlink: made = ::symlink("nowhere", path.c_str()); break;
    case Kind::kFifo: made = ::mkfifo(path.c_str(), mode); break;
    case Kind::kSocket: made = ::mknod(path.c_str(), S_IFSOCK | mode, 0); break;
    // Numbers that no driver has.
    case Kind::kBlock: made = ::mknod(path.c_str(), S_IFBLK | mode, makedev(250, 77)); break;
    case Kind::kCharacter: made = ::mknod(path.c_str(), S_IFCHR | mode, makedev(250, 77)); break;
  }
  ::umask(mask);
  require(made, fmt::format("making {} ({})", path, a(kind)));
}

void remove(const std::string& path) {
  Outcome gone = ::unlink(path.c_str());
  if (gone.error == EISDIR) gone = ::rmdir(path.c_str());
  require(gone, "removing " + path);
}

std::string fresh() {
  static int number = 0;
  return fmt::format("n{}", ++number);
}

std::string file_with(std::string_view bytes, mode_t mode) {
  const std::string path = fresh();
  make(Kind::kFile, path, mode);
  const UniqueFd fd = opened(path, O_WRONLY);
  require(::write(fd.get(), bytes.data(), bytes.size()), "writing " + path);
  return path;
}

std::string new_directory(mode_t mode) {
  const std::string path = fresh();
  make(Kind::kDirectory, path, mode);
  require(::chmod(path.c_str(), mode), "chmod of " + path);
  return path;
}

std::string new_file(mode_t mode) {
  const std::string path = fresh();
  make(Kind::kFile, path, mode);
  return path;
}

UniqueFd opened(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd{::open(path.c_str(), flags | O_CLOEXEC, mode)};
  require(fd.get(), "opening " + path);
  return fd;
}

UniqueFd new_open_file() { return opened(fresh(), O_RDWR | O_CREAT | O_EXCL); }

std::string contents(const std::string& path) {
  const UniqueFd fd = opened(path, O_RDONLY);
  std::string all;
  char buffer[65536];
  ssize_t got = 0;
  while ((got = ::read(fd.get(), buffer, sizeof buffer)) > 0) {
    all.append(buffer, static_cast<std::size_t>(got));
  }
  require(got, "reading " + path);
  return all;
}

std::string pattern(std::size_t bytes, unsigned seed) {
  std::string text(bytes, '\0');
  std::uint32_t state = seed * 2654435761U + 1;
  for (char& c : text) {
    state = state * 1664525U + 1013904223U;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

struct stat status(const std::string& path) {
  struct stat info {};
  require(::lstat(path.c_str(), &info), "lstat of " + path);
  return info;
}

struct stat status(const UniqueFd& fd) {
  struct stat info {};
  require(::fstat(fd.get(), &info), "fstat");
  return info;
}

std::string octal(mode_t mode) { return fmt::format("{:04o}", mode & 07777); }
std::string mode(const std::string& path) { return octal(status(path).st_mode); }
std::string owner(const std::string& path) {
  const struct stat info = status(path);
  return fmt::format("{}:{}", info.st_uid, info.st_gid);
}
bool exists(const std::string& path) {
  return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

As::As(uid_t uid, gid_t gid, std::vector<gid_t> groups) {
  require(::setgroups(groups.size(), groups.data()), "setgroups");
  require(::setegid(gid), "setegid");
  require(::seteuid(uid), "seteuid");
}

As::~As() {
  const int before = errno;
  if (::seteuid(0) != 0 || ::setegid(0) != 0 || ::setgroups(0, nullptr) != 0) ::_exit(4);
  errno = before;
}

Outcome in_child(const std::function<Outcome()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(work().error);
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return -1;
  errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
  return errno == 0 ? 0 : -1;
}

void pause() {
  const timespec time{.tv_sec = 0, .tv_nsec = 12'000'000};
  ::nanosleep(&time, nullptr);
}

Times::Times(std::string path) : path_(std::move(path)) {
  const timespec times[] = {kLongAgo, kLongAgo};
  require(::utimensat(AT_FDCWD, path_.c_str(), times, AT_SYMLINK_NOFOLLOW),
          "utimensat of " + path_);
  before_ = status(path_);
  pause();
}

std::string Times::changed() const {
  const struct stat now = status(path_);
  std::string names;
  const auto look = [&](const char* name, const timespec& one, const timespec& other) {
    if (!same(one, other)) names += (names.empty() ? "" : " ") + std::string{name};
  };
  look("atime", before_.st_atim, now.st_atim);
  look("mtime", before_.st_mtim, now.st_mtim);
  look("ctime", before_.st_ctim, now.st_ctim);
  return names.empty() ? "none" : names;
}

bool Times::are_now() const {
  const struct stat now = status(path_);
  timespec clock{};
  ::clock_gettime(CLOCK_REALTIME, &clock);
  for (const timespec& time : {now.st_atim, now.st_mtim, now.st_ctim}) {
    if (same(time, kLongAgo)) continue;
    if (time.tv_sec < before_.st_ctim.tv_sec || time.tv_sec > clock.tv_sec) return false;
    if (time.tv_sec == clock.tv_sec && time.tv_nsec > clock.tv_nsec) return false;
  }
  return true;
}

void path_errors(const char* words, const PathCall& call, PathErrors how) {
  const About about{words};
  const auto gone = [&](int error, const std::string& path, std::string_view sentence) {
    fails(error, call(path.c_str()), sentence);
  };
  gone(ENOENT, "", "an empty path");
  gone(ENOENT, "absent/name", "below a directory that is absent");
  if (!how.makes_last) gone(ENOENT, "absent", "a name that is absent");
  for (const Kind kind :
       {Kind::kFile, Kind::kFifo, Kind::kSocket, Kind::kBlock, Kind::kCharacter}) {
    const std::string other = fresh();
    make(kind, other);
    gone(ENOTDIR, other + "/name", fmt::format("below {}", a(kind)));
    remove(other);
  }
  const std::string dangling = fresh();
  make(Kind::kSymlink, dangling);
  gone(ENOENT, dangling + "/name", "below a symbolic link that leads nowhere");
  const std::string loop = fresh();
  require(::symlink(loop.c_str(), loop.c_str()), "a loop");
  gone(ELOOP, loop + "/name", "below a symbolic link to itself");
  const std::string one = fresh();
  const std::string two = fresh();
  require(::symlink(one.c_str(), two.c_str()), "a loop");
  require(::symlink(two.c_str(), one.c_str()), "a loop");
  gone(ELOOP, one + "/name", "below two symbolic links to each other");
  gone(ENAMETOOLONG, std::string(kNameMax + 1, 'n'), "a name of 256 bytes");
  gone(ENAMETOOLONG, std::string(kNameMax + 1, 'n') + "/name", "below a name of 256 bytes");
  std::string longest;
  while (longest.size() + 2 <= PATH_MAX) longest += "./";
  gone(ENAMETOOLONG, longest, "a path of 4096 bytes");
  fails(EFAULT, call(kBadAddress), "a path outside of memory");
  if (!how.as_user) return;
  const std::string closed = new_directory(0700);
  make(Kind::kDirectory, closed + "/in");
  {
    const As alice{kAlice, kAlices};
    gone(EACCES, closed + "/in/name", "below a directory without search permission");
    gone(EACCES, closed + "/name", "in a directory without search permission");
  }
}

void make_read_only_view() {
  require(::unshare(CLONE_NEWNS), "a mount namespace");
  require(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "private mounts");
  make(Kind::kDirectory, "ro");
  require(::mount(".", "ro", nullptr, MS_BIND, nullptr), "a bind mount");
  require(::mount(nullptr, "ro", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr),
          "a read-only bind mount");
}

}  // namespace posix
