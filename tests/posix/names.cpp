// Names and paths: any byte but / and NUL, 255 of them, and paths of 4095.
#include <dirent.h>
#include <climits>

#include <set>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "names";

std::set<std::string> listed(const std::string& directory) {
  std::set<std::string> all;
  DIR* const opened = ::opendir(directory.c_str());
  require(opened == nullptr ? -1 : 0, "opendir");
  while (const dirent* const entry = ::readdir(opened)) all.insert(entry->d_name);
  ::closedir(opened);
  return all;
}

CASE("every byte") {
  const std::string directory = new_directory();
  std::set<std::string> wanted = {".", ".."};
  for (int byte = 1; byte < 256; ++byte) {
    if (byte == '/') continue;
    const std::string name = std::string{"x"} + static_cast<char>(byte);
    works(::open((directory + "/" + name).c_str(), O_CREAT | O_EXCL | O_RDWR, 0644),
          fmt::format("a name with byte {:#04x}", byte));
    wanted.insert(name);
    if (byte == '.') continue;
    const std::string alone(1, static_cast<char>(byte));
    works(::mkdir((directory + "/" + alone).c_str(), 0755),
          fmt::format("a name that is byte {:#04x}", byte));
    wanted.insert(alone);
  }
  holds(listed(directory) == wanted, "all of them are listed");
  for (const std::string& name : wanted) {
    if (name == "." || name == "..") continue;
    remove(directory + "/" + name);
  }
  expect(2, static_cast<long>(listed(directory).size()), "names left when all are removed");
}

CASE("every length") {
  for (std::size_t length = 1; length <= kNameMax; length += length < 8 || length > 240 ? 1 : 7) {
    const std::string name(length, 'l');
    works(::mkdir(name.c_str(), 0755), fmt::format("a name of {} bytes", length));
    holds(exists(name), fmt::format("a name of {} bytes is found", length));
    works(::rmdir(name.c_str()), fmt::format("a name of {} bytes is removed", length));
  }
  const std::string longest(kNameMax, 'l');
  const std::string longer(kNameMax + 1, 'l');
  for (const Kind kind : kAllKinds) {
    make(kind, longest);
    holds(exists(longest), fmt::format("a name of 255 bytes for {}", a(kind)));
    remove(longest);
  }
  make(Kind::kFile, "file");
  make(Kind::kDirectory, "directory");
  fails(ENAMETOOLONG, ::open(longer.c_str(), O_CREAT | O_RDWR, 0644),
        "open of a name of 256 bytes");
  fails(ENAMETOOLONG, ::rename("file", longer.c_str()), "rename to a name of 256 bytes");
  fails(ENAMETOOLONG, ::link("file", longer.c_str()), "link to a name of 256 bytes");
  works(::rename("file", longest.c_str()), "rename to a name of 255 bytes");
  works(::link(longest.c_str(), ("directory/" + longest).c_str()), "link to a name of 255 bytes");
}

CASE("names that look alike") {
  for (const char* const name : {"a", "A", "...", " ", "  ", "a ", "a.", "-rf", "~", "*", "a\nb",
                                 "\xc3\xa4", "a\xcc\x88", "\xff\xfe", "con", "a:b", "a\\b"}) {
    works(::open(name, O_CREAT | O_EXCL | O_RDWR, 0644),
          fmt::format("a file of its own called {}", name));
  }
}

CASE("long paths") {
  // Fifteen names of 255 bytes and one that fills 4095.
  std::string path;
  for (int level = 0; level < 15; ++level) {
    path += (level == 0 ? "" : "/") + std::string(kNameMax, static_cast<char>('a' + level));
    require(::mkdir(path.c_str(), 0755), "mkdir");
  }
  const std::string longest = path + "/" + std::string(PATH_MAX - 1 - path.size() - 1, 'z');
  expect(PATH_MAX - 1, static_cast<long>(longest.size()), "bytes of the longest path");
  works(::open(longest.c_str(), O_CREAT | O_RDWR, 0644), "open of the longest path");
  struct stat info {};
  works(::stat(longest.c_str(), &info), "stat of the longest path");
  works(::unlink(longest.c_str()), "unlink of the longest path");
  fails(ENAMETOOLONG, ::open((longest + "z").c_str(), O_CREAT | O_RDWR, 0644),
        "open of a path that is one byte longer");
  // Deeper than a path can say.
  int depth = 0;
  while (depth < 40 && ::mkdir(std::string(200, 'd').c_str(), 0755) == 0 &&
         ::chdir(std::string(200, 'd').c_str()) == 0)
    ++depth;
  expect(40, depth, "directories of 200 bytes below each other");
  make(Kind::kFile, "deep");
  works(::stat("deep", &info), "stat of a file deeper than a path can say");
  char where[PATH_MAX];
  fails(ERANGE, ::getcwd(where, sizeof where) == nullptr ? -1 : 0,
        "getcwd deeper than a path can say");
}

CASE("many levels") {
  int depth = 0;
  while (depth < 1000 && ::mkdir("d", 0755) == 0 && ::chdir("d") == 0) ++depth;
  expect(1000, depth, "directories below each other");
  std::string up;
  for (int i = 0; i < 1000; ++i) up += "../";
  struct stat info {};
  works(::stat((up + "d").c_str(), &info), "stat a thousand directories up");
}

}  // namespace
}  // namespace posix
