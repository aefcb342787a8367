// What cases are made with: files of every kind, users, times. All names are relative to the
// directory of the case.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "tests/posix/suite.hpp"

namespace posix {

using dynamicfs::UniqueFd;

inline constexpr std::size_t kNameMax = 255;
inline constexpr std::size_t kBlockBytes = 4096;
// Where no process has memory.
inline const char* const kBadAddress = reinterpret_cast<const char*>(1);

// Users and groups without names or privilege.
inline constexpr uid_t kAlice = 65501;
inline constexpr uid_t kBob = 65502;
inline constexpr gid_t kAlices = 65501;
inline constexpr gid_t kBobs = 65502;
inline constexpr gid_t kShared = 65510;

enum class Kind { kFile, kDirectory, kSymlink, kFifo, kSocket, kBlock, kCharacter };
inline constexpr std::array kAllKinds = {Kind::kFile,     Kind::kDirectory, Kind::kSymlink,
                                         Kind::kFifo,     Kind::kSocket,    Kind::kBlock,
                                         Kind::kCharacter};
inline constexpr std::array kSpecialKinds = {Kind::kFifo, Kind::kSocket, Kind::kBlock,
                                             Kind::kCharacter};
// "a FIFO"
const char* a(Kind kind);
mode_t type_bits(Kind kind);

// Makes `path`; a symbolic link leads nowhere. The case ends if that fails.
void make(Kind kind, const std::string& path, mode_t mode = 0644);
// Unlinks or removes; the case ends if that fails.
void remove(const std::string& path);
// A name that nothing has here.
std::string fresh();
// A new file with these bytes.
std::string file_with(std::string_view bytes, mode_t mode = 0644);
std::string new_directory(mode_t mode = 0755);
std::string new_file(mode_t mode = 0644);

// An open file; the case ends if it cannot be opened.
UniqueFd opened(const std::string& path, int flags, mode_t mode = 0644);
// A new file, open for reading and writing.
UniqueFd new_open_file();
std::string contents(const std::string& path);
std::string pattern(std::size_t bytes, unsigned seed = 1);

// As lstat; the case ends if that fails.
struct stat status(const std::string& path);
struct stat status(const UniqueFd& fd);
std::string mode(const std::string& path);   // "0644"
std::string owner(const std::string& path);  // "uid:gid"
std::string octal(mode_t mode);
bool exists(const std::string& path);

// This process is somebody else while it lives, without privilege unless that is root.
class As {
 public:
  As(uid_t uid, gid_t gid, std::vector<gid_t> groups = {});
  As(const As&) = delete;
  As& operator=(const As&) = delete;
  ~As();
};
// What a child process answers that is this user for good; its result is an errno or 0.
Outcome in_child(const std::function<Outcome()>& work);

// Which times of a file change: all begin in the past, as far as they can be set.
class Times {
 public:
  explicit Times(std::string path);
  // "atime mtime ctime" that are not what they were, or "none".
  std::string changed() const;
  // Are those times between the construction and now?
  bool are_now() const;

 private:
  std::string path_;
  struct stat before_;
};
// Longer than a step of the coarsest clock that stamps files.
void pause();

// What every call that takes a path answers for paths that lead nowhere: nothing of the operation
// itself is looked at. `words` say which call.
using PathCall = std::function<Outcome(const char*)>;
struct PathErrors {
  bool as_user = true;  // anybody may make the call
  // The call looks at the last part of its path only after finding that it is absent.
  bool makes_last = false;
};
void path_errors(const char* words, const PathCall& call, PathErrors how = {});

// A read-only view of the case's directory, as "ro" in it: a bind mount in a mount namespace of this
// process alone. "ro" must not exist.
void make_read_only_view();

}  // namespace posix
