#include "scheduler/command_ring.hpp"

#include <doctest/doctest.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <thread>
#include <vector>

namespace dynamicfs::scheduler {

TEST_SUITE("command ring") {
  TEST_CASE("commands go with the next wait, and each tag comes back with what the driver said") {
    auto ring = CommandRing::create(8);
    REQUIRE(ring.has_value());
    const UniqueFd no_driver{::eventfd(0, EFD_CLOEXEC)};
    const std::byte body[CommandRing::kBodyBytesMax] = {};
    int tags[20] = {};  // more than there is room for at once
    for (int& tag : tags) {
      REQUIRE((*ring)
                  ->add({.fd = no_driver.get(), .op = 1, .body = body, .memory = {}, .tag = &tag})
                  .has_value());
    }
    std::vector<CommandRing::Completion> done;
    std::vector<void*> seen;
    while (seen.size() < std::size(tags)) {
      REQUIRE((*ring)->wait(done).has_value());
      for (const auto& completion : done) {
        CHECK(completion.result == -EOPNOTSUPP);
        seen.push_back(completion.tag);
      }
    }
    for (std::size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == &tags[i]);
  }

  TEST_CASE("a wake-up ends the wait that is under way, or else the next one") {
    auto ring = CommandRing::create(1);
    REQUIRE(ring.has_value());
    std::vector<CommandRing::Completion> done;
    (*ring)->wake();
    REQUIRE((*ring)->wait(done).has_value());
    CHECK(done.empty());
    for (int i = 0; i < 100; ++i) {
      std::thread other{[&] { (*ring)->wake(); }};
      CHECK((*ring)->wait(done).has_value());
      CHECK(done.empty());
      other.join();
    }
  }
}

}  // namespace dynamicfs::scheduler
