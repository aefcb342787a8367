// What the order at one disk is worth: two devices as arithmetic, every class with more to do than
// the device can, and what is left of the latency of the urgent ones.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <queue>
#include <random>
#include <vector>

#include "scheduler/io_queue.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Random = std::mt19937_64;

// Requests are served by whichever server is free, first come, first served, like inside a device.
struct Device {
  const char* name;
  unsigned servers;
  bool rotational;
  std::function<Duration(Random&)> service;
};

// A solid state disk: eight channels, 80 us with a spread of a tenth.
Device solid_state() {
  return {"8 channels of 80 us", 8, false,
          [](Random& random) { return microseconds{72 + random() % 17}; }};
}

// A spinning disk: one head, 8 ms on average: a seek of 1 to 6.7 ms, a turn of up to 8.3 ms.
Device spinning() {
  return {"one head, 8 ms", 1, true, [](Random& random) {
            return microseconds{1000 + random() % 5700} + microseconds{random() % 8333};
          }};
}

struct Load {
  IoClass io_class;
  unsigned at_once;  // so many are always outstanding
};

struct Outcome {
  std::array<std::vector<Duration>, kIoClasses> latencies;
  std::size_t total = 0;
  unsigned depth = 0;  // beside others, in the end
  Duration percentile(IoClass io_class, double share) {
    auto& all = latencies[static_cast<std::size_t>(io_class)];
    std::ranges::sort(all);
    return all[std::min(all.size() - 1,
                        static_cast<std::size_t>(share * static_cast<double>(all.size())))];
  }
  double part_of(IoClass io_class) const {
    return static_cast<double>(latencies[static_cast<std::size_t>(io_class)].size()) /
           static_cast<double>(total);
  }
};

// Every load closed: whoever is served comes again at once, as a coroutine does that is resumed
// before the queue is looked at. The first tenth is not counted.
Outcome simulate(const Device& device, const std::vector<Load>& loads, Duration length,
                 std::uint64_t seed) {
  struct Done {
    TimePoint at;
    IoRequest* request;
    bool operator>(const Done& other) const { return at > other.at; }
  };
  Random random(seed);
  IoQueue queue({.depth = 64, .rotational = device.rotational});
  std::deque<IoRequest> requests;
  std::deque<IoRequest*> inside;  // at the device, not served yet
  std::priority_queue<Done, std::vector<Done>, std::greater<>> served;
  Outcome outcome;
  TimePoint now{};
  for (const Load& load : loads) {
    for (unsigned i = 0; i < load.at_once; ++i) {
      IoRequest& request = requests.emplace_back();
      request.io_class = load.io_class;
      request.op = load.io_class == IoClass::kWrite ? IoOp::kWrite : IoOp::kRead;
      request.size_bytes = kBlockBytes;
      queue.push(request, now);
    }
  }
  const TimePoint end = now + length;
  while (now < end) {
    while (IoRequest* const request = queue.pop(now)) inside.push_back(request);
    while (!inside.empty() && served.size() < device.servers) {
      served.push({now + device.service(random), inside.front()});
      inside.pop_front();
    }
    if (served.empty()) FAIL("nothing is at the device");  // nor a load of background alone
    const auto [at, request] = served.top();
    served.pop();
    now = at;
    queue.completed(*request, now);
    if (now - TimePoint{} > length / 10) {
      outcome.latencies[static_cast<std::size_t>(request->io_class)].push_back(now -
                                                                               request->arrival);
      ++outcome.total;
    }
    queue.push(*request, now);
  }
  outcome.depth = queue.shared_depth(now);
  return outcome;
}

TEST_SUITE("priorities") {
  TEST_CASE("urgent requests keep their latency beside full queues, and background goes on") {
    const std::uint64_t seed = test::seed_from_environment(1);
    CAPTURE(seed);
    for (const Device& device : {solid_state(), spinning()}) {
      const Duration length = device.rotational ? Duration{seconds{2000}} : Duration{seconds{20}};
      for (const IoClass urgent : {IoClass::kCritical, IoClass::kHotRead}) {
        if (test::kThreadSanitizer && urgent != IoClass::kCritical) continue;
        Outcome alone = simulate(device, {{urgent, 1}}, length, seed);
        Outcome beside =
            simulate(device, {{urgent, 1}, {IoClass::kWrite, 256}, {IoClass::kBackground, 256}},
                     length, seed);
        const auto before = duration_cast<microseconds>(alone.percentile(urgent, 0.99)).count();
        const auto after = duration_cast<microseconds>(beside.percentile(urgent, 0.99)).count();
        MESSAGE(std::string(device.name)
                << ", " << std::string(kIoClassNames[static_cast<std::size_t>(urgent)]) << ": p99 "
                << before << " us alone, " << after << " us beside; parts "
                << beside.part_of(urgent) << ", write " << beside.part_of(IoClass::kWrite)
                << ", background " << beside.part_of(IoClass::kBackground) << "; depth "
                << beside.depth << ", " << beside.total << " requests");
        CHECK(after * 2 <= before * 3);
        // One start in 20 is 5 % less what is under way in the end.
        CHECK(beside.part_of(IoClass::kBackground) >= 0.049);
        CHECK(beside.part_of(IoClass::kWrite) >= 0.02);
      }
    }
  }
}

TEST_SUITE("priorities under readers") {
  TEST_CASE("writes and background get what they are owed beside any number of readers") {
    const std::uint64_t seed = test::seed_from_environment(1);
    CAPTURE(seed);
    for (const Device& device : {solid_state(), spinning()}) {
      for (const IoClass urgent : {IoClass::kCritical, IoClass::kHotRead, IoClass::kRead}) {
        for (const unsigned readers : {2, 3, 8, 63, 200}) {
          if (test::kThreadSanitizer && readers != 2 && readers != 200) continue;
          CAPTURE(device.name);
          CAPTURE(readers);
          const Duration length = device.rotational ? Duration{seconds{400}} : Duration{seconds{4}};
          const Outcome beside = simulate(
              device, {{urgent, readers}, {IoClass::kWrite, 256}, {IoClass::kBackground, 256}},
              length, seed);
          CHECK(beside.part_of(IoClass::kBackground) >= 0.045);
          CHECK(beside.part_of(IoClass::kWrite) >= 0.02);
        }
      }
    }
  }
}

// A tenth of a second and more of one reading and one writing request after the other.
struct Windows {
  void run(int count, Duration latency, bool with_writes) {
    for (int i = 0; i < count * 110; ++i) {
      now = now + milliseconds{1};
      control.seen(IoClass::kRead, now);
      if (with_writes) control.seen(IoClass::kWrite, now);
      control.held_back();
      IoRequest read;
      read.io_class = IoClass::kRead;
      read.size_bytes = kBlockBytes;
      read.started = now + -latency;
      control.completed(read, now);
    }
  }
  DepthControl control{{.min = 2, .start = 8, .max = 64}};
  TimePoint now{};
};

TEST_SUITE("depth control") {
  TEST_CASE("a class that is alone has the whole depth") {
    Windows windows;
    windows.run(3, microseconds{100}, false);
    CHECK(windows.control.depth(windows.now) == 64);
    windows.run(1, microseconds{100}, true);
    CHECK(windows.control.depth(windows.now) < 16);
  }

  TEST_CASE("the depth grows while urgent requests do not notice, and shrinks when they do") {
    Windows windows;
    windows.run(3, microseconds{100}, false);
    windows.run(20, microseconds{104}, true);
    const unsigned grown = windows.control.depth(windows.now);
    CHECK(grown >= 24);
    windows.run(1, microseconds{400}, true);
    const unsigned shrunk = windows.control.depth(windows.now);
    CHECK(shrunk <= grown / 3);
    windows.run(1, microseconds{150}, true);  // it has helped
    CHECK(windows.control.depth(windows.now) <= shrunk);
  }

  TEST_CASE("a depth that is not to blame does not stay small") {
    Windows windows;
    windows.run(3, microseconds{100}, false);
    int small = 0;
    for (int i = 0; i < 100; ++i) {
      windows.run(1, microseconds{300}, true);
      if (windows.control.depth(windows.now) < 8) ++small;
    }
    CHECK(small <= 10);
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
