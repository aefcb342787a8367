// O_TMPFILE: files without a name, which may get one.
#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "tmpfile";

UniqueFd unnamed(const std::string& directory, int flags = 0, mode_t mode = 0644) {
  return UniqueFd{::open(directory.c_str(), O_TMPFILE | O_RDWR | flags, mode)};
}
// The other cases say nothing where there are none.
bool are_made() { return static_cast<bool>(unnamed(".")); }
std::string proc(const UniqueFd& fd) { return fmt::format("/proc/self/fd/{}", fd.get()); }

CASE("a file without a name") {
  const std::string directory = new_directory();
  const Times times{directory};
  const UniqueFd fd = unnamed(directory);
  works(fd.get(), "is made");
  if (!fd) return;
  expect("none", times.changed(), "changes of its directory");
  expect(0, status(fd).st_nlink, "has links");
  expect(0, status(fd).st_size, "has the size");
  expect(5, ::write(fd.get(), "hello", 5), "takes bytes");
  works(::fsync(fd.get()), "is synced");
  works(::rmdir(directory.c_str()), "does not fill its directory");
}

CASE("modes and owners") {
  if (!are_made()) return;
  for (const mode_t mask : {0U, 022U, 077U}) {
    for (const mode_t wanted : {0U, 0600U, 0644U, 0777U, 04755U}) {
      ::umask(mask);
      const UniqueFd fd = unnamed(".", 0, wanted);
      require(fd.get(), "a file without a name");
      expect(octal(wanted & ~mask), octal(status(fd).st_mode),
             fmt::format("the mode {} under umask {}", octal(wanted), octal(mask)));
    }
  }
  const std::string open = new_directory(0777);
  const std::string closed = new_directory(0755);
  const As alice{kAlice, kAlices};
  const UniqueFd fd = unnamed(open);
  works(fd.get(), "by anybody in a directory that is writable");
  expect(kAlice, status(fd).st_uid, "the owner");
  fails(EACCES, unnamed(closed).get(), "by anybody in a directory that is not writable");
}

CASE("it gets a name") {
  if (!are_made()) return;
  const UniqueFd fd = unnamed(".");
  require(fd.get(), "a file without a name");
  require(::write(fd.get(), "hello", 5), "write");
  works(::linkat(AT_FDCWD, proc(fd).c_str(), AT_FDCWD, "name", AT_SYMLINK_FOLLOW), "through /proc");
  expect("hello", contents("name"), "what is in it");
  expect(1, status("name").st_nlink, "its links");
  works(::linkat(fd.get(), "", AT_FDCWD, "second", AT_EMPTY_PATH), "again, with AT_EMPTY_PATH");
  expect(2, status("name").st_nlink, "its links then");
  const UniqueFd other = unnamed(".");
  fails(EEXIST, ::linkat(AT_FDCWD, proc(other).c_str(), AT_FDCWD, "name", AT_SYMLINK_FOLLOW),
        "that is taken");
  const UniqueFd never = unnamed(".", O_EXCL);
  works(never.get(), "with O_EXCL");
  fails(ENOENT, ::linkat(AT_FDCWD, proc(never).c_str(), AT_FDCWD, "never", AT_SYMLINK_FOLLOW),
        "with O_EXCL it gets none");
}

CASE("where there is no directory") {
  if (!are_made()) return;
  const std::string file = new_file();
  fails(ENOTDIR, unnamed(file).get(), "in a file");
  fails(ENOENT, unnamed("absent").get(), "in a directory that is absent");
  const std::string gone = new_directory();
  const UniqueFd removed = opened(gone, O_RDONLY);
  remove(gone);
  works(::openat(removed.get(), ".", O_TMPFILE | O_RDWR, 0644), "in a directory that was removed");
}

}  // namespace
}  // namespace posix
