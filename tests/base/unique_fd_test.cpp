#include "base/unique_fd.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>

using namespace dynamicfs;

namespace {

int open_null() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

}  // namespace

TEST_SUITE("unique_fd") {
  TEST_CASE("a descriptor is closed once, by its last owner") {
    const int fd = open_null();
    {
      UniqueFd first{fd};
      UniqueFd second{std::move(first)};
      CHECK_FALSE(static_cast<bool>(first));
      CHECK(second.get() == fd);
      UniqueFd third{open_null()};
      const int replaced = third.get();
      third = std::move(second);
      CHECK_FALSE(is_open(replaced));
      CHECK(is_open(fd));
    }
    CHECK_FALSE(is_open(fd));
  }

  TEST_CASE("a released descriptor stays open, and none is nothing to close") {
    UniqueFd owner{open_null()};
    const int fd = owner.release();
    CHECK_FALSE(static_cast<bool>(owner));
    owner.reset();
    CHECK(is_open(fd));
    UniqueFd{fd}.reset();
    CHECK_FALSE(is_open(fd));
  }
}
