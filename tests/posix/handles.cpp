// name_to_handle_at(2), open_by_handle_at(2): files by number, as NFS servers need them.
#include <memory>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "handles";

struct Handle {
  alignas(file_handle) char bytes[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  int mount = 0;
  Outcome outcome = 0;

  file_handle* get() { return reinterpret_cast<file_handle*>(bytes); }
  explicit Handle(const std::string& path, int flags = 0) {
    get()->handle_bytes = MAX_HANDLE_SZ;
    outcome = ::name_to_handle_at(AT_FDCWD, path.c_str(), get(), &mount, flags);
  }
};

CASE("paths that lead nowhere") {
  path_errors("name_to_handle_at of", [](const char* path) -> Outcome {
    Handle room{"."};
    int mount = 0;
    room.get()->handle_bytes = MAX_HANDLE_SZ;
    return ::name_to_handle_at(AT_FDCWD, path, room.get(), &mount, 0);
  });
}

CASE("every kind of file") {
  const UniqueFd place = opened(".", O_RDONLY | O_DIRECTORY);
  for (const Kind kind : kAllKinds) {
    const About about{a(kind)};
    const std::string name = fresh();
    make(kind, name);
    Handle handle{name};
    works(handle.outcome, "has a handle");
    UniqueFd fd{::open_by_handle_at(place.get(), handle.get(), O_PATH)};
    works(fd.get(), "is opened by it");
    if (!fd) continue;
    holds(status(fd).st_ino == status(name).st_ino, "is what was meant");
    require(::rename(name.c_str(), (name + "x").c_str()), "rename");
    const UniqueFd moved{::open_by_handle_at(place.get(), handle.get(), O_PATH)};
    works(moved.get(), "is opened by it under another name");
    remove(name + "x");
    const UniqueFd held{::open_by_handle_at(place.get(), handle.get(), O_PATH)};
    works(held.get(), "that is open is opened by it without a name");
  }
}

CASE("what is gone") {
  const UniqueFd place = opened(".", O_RDONLY | O_DIRECTORY);
  for (const Kind kind : kAllKinds) {
    const std::string name = fresh();
    make(kind, name);
    Handle handle{name};
    remove(name);
    fails(ESTALE, ::open_by_handle_at(place.get(), handle.get(), O_PATH),
          fmt::format("{} that was removed", a(kind)));
    make(kind, name);
    fails(ESTALE, ::open_by_handle_at(place.get(), handle.get(), O_PATH),
          fmt::format("{} that was removed, and another of its name", a(kind)));
  }
}

CASE("data") {
  const UniqueFd place = opened(".", O_RDONLY | O_DIRECTORY);
  const std::string name = file_with("text");
  Handle handle{name};
  const UniqueFd fd{::open_by_handle_at(place.get(), handle.get(), O_RDWR)};
  char text[5] = {};
  expect(4, ::read(fd.get(), text, 4), "bytes read");
  expect(4, ::write(fd.get(), "more", 4), "bytes written");
  expect("textmore", contents(name), "what is in the file");
  Handle directory{"."};
  const UniqueFd opened_directory{
      ::open_by_handle_at(place.get(), directory.get(), O_RDONLY | O_DIRECTORY)};
  works(opened_directory.get(), "a directory is opened to be read");
  works(::faccessat(opened_directory.get(), name.c_str(), F_OK, 0), "a name in it is found");
  works(::faccessat(opened_directory.get(), "..", F_OK, 0), ".. of it is found");
}

CASE("what is refused") {
  const std::string name = new_file();
  const UniqueFd place = opened(".", O_RDONLY | O_DIRECTORY);
  int mount = 0;
  Handle small{name};
  const unsigned needed = small.get()->handle_bytes;
  small.get()->handle_bytes = 0;
  fails(EOVERFLOW, ::name_to_handle_at(AT_FDCWD, name.c_str(), small.get(), &mount, 0),
        "with too little room");
  holds(small.get()->handle_bytes == needed, "the room that is needed is said");
  fails(EINVAL, Handle(name, 0x8000).outcome, "with flags that are none");
  require(::symlink(name.c_str(), "link"), "a link");
  Handle link{"link"};
  const UniqueFd itself{::open_by_handle_at(place.get(), link.get(), O_PATH)};
  holds(itself && S_ISLNK(status(itself).st_mode), "of a link is that of the link");
  Handle followed{"link", AT_SYMLINK_FOLLOW};
  const UniqueFd target_file{::open_by_handle_at(place.get(), followed.get(), O_PATH)};
  holds(target_file && S_ISREG(status(target_file).st_mode),
        "with AT_SYMLINK_FOLLOW is that of what it leads to");
  Handle broken{name};
  broken.get()->handle_type = 0x7f;
  fails(ESTALE, ::open_by_handle_at(place.get(), broken.get(), O_RDONLY),
        "a handle of a type that is none");
  Handle long_one{name};
  long_one.get()->handle_bytes = MAX_HANDLE_SZ + 1;
  fails(EINVAL, ::open_by_handle_at(place.get(), long_one.get(), O_RDONLY),
        "a handle that is too long");
  Handle good{name};
  fails(EBADF, ::open_by_handle_at(-1, good.get(), O_RDONLY), "on no mount");
  const As alice{kAlice, kAlices};
  fails(EPERM, ::open_by_handle_at(place.get(), good.get(), O_RDONLY), "by anybody");
}

}  // namespace
}  // namespace posix
