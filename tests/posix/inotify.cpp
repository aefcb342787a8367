// inotify(7): what watchers are told.
#include <sys/inotify.h>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "inotify";

class Watch {
 public:
  explicit Watch(const std::string& path) : fd_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    require(::inotify_add_watch(fd_.get(), path.c_str(), IN_ALL_EVENTS), "inotify_add_watch");
  }
  // What has happened since the last call: "create name, open name".
  std::string told() const {
    alignas(inotify_event) char buffer[16'384];
    const ssize_t got = ::read(fd_.get(), buffer, sizeof buffer);
    std::string text;
    for (ssize_t at = 0; at < got;) {
      const auto* const event = reinterpret_cast<const inotify_event*>(buffer + at);
      text += (text.empty() ? "" : ", ") + std::string{word(event->mask)} +
              (event->len > 0 ? " " + std::string{event->name} : "");
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
    return text;
  }

 private:
  static const char* word(std::uint32_t mask) {
    switch (mask & ~static_cast<std::uint32_t>(IN_ISDIR)) {
      case IN_ACCESS: return "access";
      case IN_MODIFY: return "modify";
      case IN_ATTRIB: return "attrib";
      case IN_CLOSE_WRITE: return "close-write";
      case IN_CLOSE_NOWRITE: return "close";
      case IN_OPEN: return "open";
      case IN_MOVED_FROM: return "from";
      case IN_MOVED_TO: return "to";
      case IN_CREATE: return "create";
      case IN_DELETE: return "delete";
      case IN_DELETE_SELF: return "delete-self";
      case IN_MOVE_SELF: return "move-self";
      case IN_IGNORED: return "ignored";
      default: return "?";
    }
  }
  UniqueFd fd_;
};

CASE("a directory") {
  const std::string directory = new_directory();
  const Watch watch{directory};
  const std::string name = directory + "/name";
  ::close(::open(name.c_str(), O_CREAT | O_RDWR, 0644));
  expect("create name, open name, close-write name", watch.told(), "open with O_CREAT");
  require(::mkdir((directory + "/sub").c_str(), 0755), "mkdir");
  expect("create sub", watch.told(), "mkdir");
  require(::link(name.c_str(), (directory + "/hard").c_str()), "link");
  expect("create hard", watch.told(), "link");
  require(::symlink("x", (directory + "/soft").c_str()), "symlink");
  expect("create soft", watch.told(), "symlink");
  require(::rename(name.c_str(), (directory + "/new").c_str()), "rename");
  expect("from name, to new", watch.told(), "rename");
  require(::chmod((directory + "/new").c_str(), 0600), "chmod");
  expect("attrib new", watch.told(), "chmod");
  require(::truncate((directory + "/new").c_str(), 10), "truncate");
  expect("modify new", watch.told(), "truncate");
  require(::unlink((directory + "/hard").c_str()), "unlink");
  expect("delete hard", watch.told(), "unlink");
  require(::rmdir((directory + "/sub").c_str()), "rmdir");
  expect("delete sub", watch.told(), "rmdir");
  require(::rename((directory + "/new").c_str(), "away"), "rename");
  expect("from new", watch.told(), "rename out of it");
  require(::rename("away", (directory + "/back").c_str()), "rename");
  expect("to back", watch.told(), "rename into it");
}

CASE("a file") {
  const std::string name = file_with("text");
  const Watch watch{name};
  {
    const UniqueFd fd = opened(name, O_RDWR);
    expect("open", watch.told(), "open");
    char byte;
    require(::read(fd.get(), &byte, 1), "read");
    expect("access", watch.told(), "read");
    require(::write(fd.get(), "x", 1), "write");
    expect("modify", watch.told(), "write");
    require(::fchmod(fd.get(), 0600), "fchmod");
    expect("attrib", watch.told(), "fchmod");
    require(::fallocate(fd.get(), 0, 0, 100), "fallocate");
    expect("modify", watch.told(), "fallocate");
  }
  expect("close-write", watch.told(), "close of what was open for writing");
  require(::utimensat(AT_FDCWD, name.c_str(), nullptr, 0), "utimensat");
  expect("attrib", watch.told(), "utimensat");
  require(::rename(name.c_str(), "moved"), "rename");
  expect("move-self", watch.told(), "rename");
  require(::link("moved", "second"), "link");
  expect("attrib", watch.told(), "link");
  require(::unlink("moved"), "unlink");
  expect("attrib", watch.told(), "unlink of one of two names");
  require(::unlink("second"), "unlink");
  expect("attrib, delete-self, ignored", watch.told(), "unlink of the last name");
}

}  // namespace
}  // namespace posix
