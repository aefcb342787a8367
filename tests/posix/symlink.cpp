// symlink(2), readlink(2).
#include <climits>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "symlink";

std::string target_of(const std::string& path) {
  char text[PATH_MAX + 1];
  const ssize_t got = ::readlink(path.c_str(), text, sizeof text);
  return got < 0 ? error_name(errno) : std::string(text, static_cast<std::size_t>(got));
}

CASE("paths that lead nowhere") {
  path_errors("symlink at", [](const char* path) -> Outcome { return ::symlink("target", path); },
              {.makes_last = true});
  path_errors("readlink of", [](const char* path) -> Outcome {
    char text[64];
    return ::readlink(path, text, sizeof text);
  });
}

CASE("targets") {
  for (const std::size_t bytes : {1UL, 2UL, 59UL, 60UL, 155UL, 156UL, 255UL, 256UL, 1023UL, 1024UL,
                                  2048UL, 4000UL, 4094UL, 4095UL}) {
    const About about{fmt::format("a target of {} bytes", bytes)};
    const std::string name = fresh();
    // xfs keeps 1023 bytes.
    const std::string wanted(bytes, 't');
    if (bytes > 1023) {
      works(::symlink(wanted.c_str(), name.c_str()), "is kept",
            on_xfs(ENAMETOOLONG, "its limit is 1023 bytes"));
      if (target() == "xfs") continue;
    } else {
      works(::symlink(wanted.c_str(), name.c_str()), "is kept");
    }
    holds(target_of(name) == wanted, "is read back");
    expect(static_cast<long>(bytes), status(name).st_size, "is the size");
  }
  fails(ENAMETOOLONG, ::symlink(std::string(4096, 't').c_str(), "long"), "a target of 4096 bytes");
  fails(ENOENT, ::symlink("", "empty"), "an empty target");
  fails(EFAULT, ::symlink(kBadAddress, "bad"), "a target outside of memory");
  std::string odd;
  for (int c = 1; c < 256; ++c) odd += static_cast<char>(c);
  works(::symlink(odd.c_str(), "odd"), "a target with every byte but NUL");
  holds(target_of("odd") == odd, "a target with every byte but NUL is read back");
}

CASE("names that are taken") {
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    fails(EEXIST, ::symlink("target", name.c_str()), fmt::format("over {}", a(kind)));
  }
  fails(EEXIST, ::symlink("target", "."), "over .");
  fails(ENOENT, ::symlink("target", "new/"), "at a new name with a slash behind it");
  fails(EBADF, ::symlinkat("target", -1, "name"), "relative to no directory");
}

CASE("what it makes") {
  const std::string directory = new_directory(0777);
  const Times times{directory};
  {
    const As alice{kAlice, kAlices};
    works(::symlink("target", (directory + "/link").c_str()),
          "by anybody in a directory that is writable");
  }
  expect("mtime ctime", times.changed(), "the directory of a new link");
  const struct stat info = status(directory + "/link");
  holds(S_ISLNK(info.st_mode), "it is a symbolic link");
  expect("0777", octal(info.st_mode), "the mode of a link");
  expect(1, info.st_nlink, "links of a link");
  expect(fmt::format("{}:{}", kAlice, kAlices), owner(directory + "/link"), "the owner of a link");
  const std::string closed = new_directory(0755);
  const As alice{kAlice, kAlices};
  fails(EACCES, ::symlink("target", (closed + "/link").c_str()),
        "in a directory that is not writable");
}

CASE("readlink") {
  require(::symlink("target", "link"), "a link");
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kSymlink) continue;
    const std::string name = fresh();
    make(kind, name);
    expect("EINVAL", target_of(name), fmt::format("readlink of {}", a(kind)));
  }
  char text[16] = "..............";
  expect(3, ::readlink("link", text, 3), "bytes that readlink gives when there is room for three");
  expect("tar...........", text, "readlink writes no more than there is room for");
  fails(EINVAL, ::readlink("link", text, 0), "readlink without room");
  fails(EFAULT, ::readlink("link", const_cast<char*>(kBadAddress), 8),
        "readlink to outside of memory");
  const UniqueFd path = opened("link", O_PATH | O_NOFOLLOW);
  expect(6, ::readlinkat(path.get(), "", text, sizeof text),
         "bytes that readlinkat gives of an O_PATH descriptor");
  const Times times{"link"};
  holds(target_of("link") == "target", "readlink again");
  expect("atime", times.changed(), "readlink changes, of a link with an old atime");
}

CASE("following") {
  const std::string file = file_with("text");
  require(::symlink(file.c_str(), "l0"), "a link");
  for (int i = 1; i <= 40; ++i) {
    require(::symlink(fmt::format("l{}", i - 1).c_str(), fmt::format("l{}", i).c_str()), "a link");
  }
  expect("text", contents("l39"), "40 links are followed");
  fails(ELOOP, ::open("l40", O_RDONLY), "41 links are not followed");
  struct stat info {};
  works(::lstat("l40", &info), "the last of 41 links itself is found");
  const std::string directory = new_directory();
  make(Kind::kFile, directory + "/inside");
  require(::symlink(directory.c_str(), "to-directory"), "a link");
  works(::stat("to-directory/inside", &info), "a link to a directory leads into it");
  require(::symlink("..", (directory + "/up").c_str()), "a link");
  works(::stat((directory + "/up/" + file).c_str(), &info), "a link to .. leads up");
  char here[PATH_MAX];
  require(::getcwd(here, sizeof here) == nullptr ? -1 : 0, "getcwd");
  require(::symlink((std::string{here} + "/" + file).c_str(), "absolute"), "a link");
  expect("text", contents("absolute"), "an absolute link is followed");
  fails(ENOTDIR, ::stat((file + "/x").c_str(), &info), "a link through a file");
  require(::symlink("gone", "dangling"), "a link");
  fails(ENOENT, ::stat("dangling", &info), "a link that leads nowhere");
  make(Kind::kFile, "gone");
  works(::stat("dangling", &info), "a link that led nowhere before");
}

}  // namespace
}  // namespace posix
