#include "scheduler/poll_gate.hpp"

#include <doctest/doctest.h>

namespace dynamicfs::scheduler {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST_SUITE("poll_gate") {
  TEST_CASE("polling pays for a small read or two of a device that is known to be fast") {
    PollGate gate;
    CHECK_FALSE(gate.pays(1, 1));  // nothing is known
    gate.read_took(microseconds{30});
    CHECK(gate.pays(1, 1));
    CHECK(gate.pays(2, 1));
    CHECK_FALSE(gate.pays(3, 3));
    CHECK_FALSE(gate.pays(1, 0));
  }

  TEST_CASE("a device that has become slow is not polled, and is again when it is fast") {
    PollGate gate;
    gate.read_took(microseconds{30});
    for (int i = 0; i < 3; ++i) gate.read_took(milliseconds{1});
    CHECK_FALSE(gate.pays(1, 1));
    for (int i = 0; i < 30; ++i) gate.read_took(microseconds{30});
    CHECK(gate.pays(1, 1));
  }

  TEST_CASE("who has looked in vain sleeps for 16 reads, then 32 and so on up to 4096") {
    PollGate gate;
    gate.read_took(microseconds{30});
    unsigned expected = 16;
    for (int round = 0; round < 12; ++round) {
      gate.polled(false);
      unsigned skipped = 0;
      while (!gate.pays(1, 1)) {
        gate.read_took(microseconds{30});
        ++skipped;
      }
      CHECK(skipped == expected);
      expected = std::min(expected * 2, 4096U);
    }
    gate.polled(true);
    CHECK(gate.pays(1, 1));
    gate.polled(false);
    for (int i = 0; i < 16; ++i) gate.read_took(microseconds{30});
    CHECK(gate.pays(1, 1));
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
