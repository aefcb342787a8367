// The order of requests at one disk, as arithmetic: the clock is an argument.
#include "scheduler/io_queue.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "tests/support/seed.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::array<IoClass, kIoClasses> kAll = {
    IoClass::kCritical, IoClass::kHotRead, IoClass::kRead, IoClass::kWrite, IoClass::kBackground};

// A queue and the requests in it; names them by the order in which they were pushed.
struct Queue {
  explicit Queue(IoQueueOptions options = {}) : queue(options) {}

  int push(IoClass io_class, Duration at = {}) {
    IoRequest& request = requests.emplace_back();
    request.io_class = io_class;
    request.tag = requests.size() - 1;
    now = TimePoint{at};
    queue.push(request, now);
    return static_cast<int>(request.tag);
  }
  // One of that length, now.
  int push_sized(IoClass io_class, std::size_t size_bytes) {
    IoRequest& request = requests.emplace_back();
    request.io_class = io_class;
    request.size_bytes = size_bytes;
    request.tag = requests.size() - 1;
    queue.push(request, now);
    return static_cast<int>(request.tag);
  }
  // The number of the next request, -1 if there is none.
  int pop() {
    const IoRequest* request = queue.pop(now);
    if (request == nullptr) return -1;
    at_device.push_back(request);
    return static_cast<int>(request->tag);
  }
  // Reads that come one by one for so long, from now on.
  void read_for(Duration time) {
    for (const TimePoint end = now + time; now <= end; now = now + milliseconds{50}) {
      push(IoClass::kRead, now.since_origin);
      const IoRequest* const read = queue.pop(now);
      REQUIRE(read->io_class == IoClass::kRead);
      queue.completed(*read, now);
    }
  }
  // How many of `count` requests of this class may be at the device together.
  unsigned started(IoClass io_class, unsigned count) {
    for (unsigned i = 0; i < count; ++i) push(io_class);
    unsigned n = 0;
    while (pop() >= 0) ++n;
    return n;
  }

  // The oldest request of this class comes back. True: too late.
  bool complete(IoClass io_class) {
    const auto found = std::ranges::find(at_device, io_class, &IoRequest::io_class);
    REQUIRE(found != at_device.end());
    const IoRequest& request = **found;
    at_device.erase(found);
    return queue.completed(request, now);
  }

  IoQueue queue;
  TimePoint now{};  // when the last request came
  std::deque<IoRequest> requests;
  std::deque<const IoRequest*> at_device;  // in the order they started
};

// Pushes, starts and ends some dozens of requests in an order that the seed draws, on a queue it
// draws too; compares with a list per class. nullptr: all was right.
const char* wrong_with_schedule(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto depth = static_cast<unsigned>(1 + random() % (random() % 4 == 0 ? 64 : 6));
  const bool rotational = random() % 2 == 0;
  const bool fifo = random() % 16 == 0;
  IoQueue queue({.depth = depth,
                 .rotational = rotational,
                 .fifo = fifo,
                 .background_percent = static_cast<unsigned>(1 + random() % 50),
                 .background_limit_percent = static_cast<unsigned>(1 + random() % 100)});
  std::array<IoRequest, 40> requests;
  std::array<std::vector<std::size_t>, kIoClasses> waiting;  // the model
  std::array<std::size_t, kIoClasses> started{};
  std::vector<IoRequest*> at_device;
  const std::uint64_t pushes = 1 + random() % 6;  // of ten operations: from trickles to floods
  const std::uint64_t longest_us = random() % 4 == 0 ? 300'000 : 200;
  std::size_t pushed = 0;
  std::size_t ended = 0;
  TimePoint now{};
  while (ended < requests.size()) {
    now = now + microseconds{random() % longest_us};
    const std::uint64_t choice = random() % 10;
    if (choice < pushes && pushed < requests.size()) {
      IoRequest& request = requests[pushed];
      request.tag = pushed++;
      request.size_bytes = kBlockBytes;
      request.io_class = kAll[random() % kIoClasses];
      request.op = random() % 8 == 0 ? IoOp::kFlush : IoOp::kWrite;
      waiting[static_cast<std::size_t>(request.io_class)].push_back(request.tag);
      queue.push(request, now);
    } else if (choice % 2 == 0) {
      const bool startable = queue.startable(now);
      IoRequest* const request = queue.pop(now);
      if ((request != nullptr) != startable) return "startable() and pop() disagree";
      if (request == nullptr) continue;
      const auto c = static_cast<std::size_t>(request->io_class);
      if (started[c] == waiting[c].size()) return "a request was started twice";
      if (waiting[c][started[c]++] != request->tag) return "a class is not first in, first out";
      at_device.push_back(request);
    } else if (!at_device.empty()) {
      const std::size_t i = random() % at_device.size();
      queue.completed(*at_device[i], now);
      at_device[i] = at_device.back();
      at_device.pop_back();
      ++ended;
    }
    std::size_t queued = 0;
    for (std::size_t c = 0; c < kIoClasses; ++c) {
      queued += waiting[c].size() - started[c];
      if (!fifo && queue.queued(kAll[c]) != waiting[c].size() - started[c]) {
        return "a request is in the queue of another class";
      }
    }
    if (queue.queued() != queued) return "a request was lost";
    if (queue.in_flight() != at_device.size()) return "what is at the device is counted wrong";
    if (at_device.size() > depth) return "more are at the device than may be";
    const auto paced_until = queue.paced_until(now);
    if (paced_until && *paced_until <= now) return "background waits for a time that is over";
    if (queued != 0 && at_device.empty() && !queue.startable(now) && !paced_until) {
      return "all wait for nothing";
    }
    if (paced_until && pushed == requests.size() && at_device.empty()) now = *paced_until;
  }
  return nullptr;
}

// A device that serves so many at once, each in this time: how many writes of 1 MiB are inside it.
unsigned inside_of(unsigned servers, Duration service) {
  Queue q;
  std::multiset<TimePoint> free_at;
  for (unsigned i = 0; i < servers; ++i) free_at.insert(TimePoint{});
  std::multimap<TimePoint, const IoRequest*> inside;
  unsigned most = 0;
  for (int done = 0; done < 2000; ++done) {
    while (q.queue.queued() < 64) {
      IoRequest& request = q.requests.emplace_back();
      request.io_class = IoClass::kWrite;
      request.op = IoOp::kWrite;
      request.size_bytes = kMiB;
      q.queue.push(request, q.now);
    }
    while (const IoRequest* const request = q.queue.pop(q.now)) {
      const TimePoint at = std::max(q.now, *free_at.begin()) + service;
      free_at.erase(free_at.begin());
      free_at.insert(at);
      inside.emplace(at, request);
    }
    if (done > 1000) most = std::max(most, static_cast<unsigned>(inside.size()));
    q.now = inside.begin()->first;
    q.queue.completed(*inside.begin()->second, q.now);
    inside.erase(inside.begin());
  }
  return most;
}

TEST_SUITE("io_queue") {
  TEST_CASE("first come, first served, where that is asked for, whatever the class") {
    Queue q({.depth = 3, .fifo = true});
    const int background = q.push(IoClass::kBackground);
    const int write = q.push(IoClass::kWrite);
    const int read = q.push(IoClass::kRead);
    const int critical = q.push(IoClass::kCritical);
    CHECK(q.pop() == background);
    CHECK(q.pop() == write);
    CHECK(q.pop() == read);
    CHECK(q.pop() == -1);  // all of the depth is used, none is kept
    q.complete(IoClass::kWrite);
    CHECK(q.pop() == critical);
  }

  TEST_CASE("background gets the share that is asked for beside any number of reads") {
    for (const unsigned percent : {1U, 5U, 20U, 50U}) {
      CAPTURE(percent);
      Queue q({.background_percent = percent});
      for (int i = 0; i < 4; ++i) q.push(IoClass::kBackground);
      unsigned background = 0;
      for (int i = 0; i < 1000; ++i) {
        q.push(IoClass::kRead);
        const int number = q.pop();
        REQUIRE(number >= 0);
        const IoClass io_class = q.requests[static_cast<std::size_t>(number)].io_class;
        if (io_class == IoClass::kBackground) {
          ++background;
          q.push(IoClass::kBackground);
        }
        q.complete(io_class);
      }
      CHECK(background == 10 * percent);
    }
  }

  TEST_CASE("background waits four times as long as it was at the device, while others are there") {
    Queue q;
    q.read_for(milliseconds{200});
    const Duration base = q.now.since_origin + milliseconds{300};
    const int first = q.push(IoClass::kBackground, base);
    const int second = q.push(IoClass::kBackground, base);
    CHECK(q.pop() == first);
    CHECK(q.pop() == second);  // nothing has come back: no pace
    q.now = TimePoint{base + milliseconds{20}};
    q.complete(IoClass::kBackground);  // 20 ms beside one other: 10 ms of its own
    q.complete(IoClass::kBackground);  // 20 ms
    CHECK_FALSE(q.queue.paced_until(q.now).has_value());
    const int third = q.push(IoClass::kBackground, base + milliseconds{20});
    const int read = q.push(IoClass::kRead, base + milliseconds{20});
    CHECK(q.pop() == read);
    CHECK(q.pop() == -1);
    CHECK_FALSE(q.queue.startable(q.now));
    CHECK(q.queue.paced_until(q.now) == TimePoint{base + milliseconds{20 + 4 * 20}});
    CHECK_FALSE(q.queue.startable(TimePoint{base + milliseconds{99}}));
    q.now = TimePoint{base + milliseconds{100}};
    CHECK_FALSE(q.queue.paced_until(q.now).has_value());
    CHECK(q.pop() == third);
    q.complete(IoClass::kBackground);  // in no time
    CHECK_FALSE(q.queue.paced_until(q.now).has_value());
  }

  TEST_CASE("one that comes now and then is no company: background has no pace beside it") {
    Queue q;
    for (int i = 0; i < 10; ++i) {
      const int commit = q.push(IoClass::kCritical, q.now.since_origin + milliseconds{1500});
      const int moved = q.push(IoClass::kBackground, q.now.since_origin);
      CHECK(q.pop() == commit);
      CHECK(q.pop() == moved);
      // However long it takes.
      q.now = q.now + milliseconds{800};
      q.complete(IoClass::kCritical);
      q.complete(IoClass::kBackground);
      const int next = q.push(IoClass::kBackground, q.now.since_origin);
      CHECK_FALSE(q.queue.paced_until(q.now).has_value());
      CHECK(q.pop() == next);
      q.complete(IoClass::kBackground);
    }
    q.read_for(milliseconds{200});
    q.push(IoClass::kBackground, q.now.since_origin);
    CHECK(q.queue.paced_until(q.now).has_value());
  }

  TEST_CASE("a transfer that took no time counts as what it costs at the rate of a busy second") {
    for (const bool busy_before : {false, true}) {
      Queue q;
      const auto serve = [&](Duration took) {
        const int number = q.push_sized(IoClass::kBackground, kMiB);
        REQUIRE(q.pop() == number);
        q.now = q.now + took;
        q.complete(IoClass::kBackground);
      };
      q.now = TimePoint{std::chrono::seconds{10}};
      if (busy_before) {
        for (int i = 0; i < 300; ++i) serve(milliseconds{10});
      }
      q.read_for(milliseconds{200});
      serve(microseconds{100});
      q.push_sized(IoClass::kBackground, kMiB);
      q.push(IoClass::kRead, q.now.since_origin);
      const auto until = q.queue.paced_until(q.now);
      REQUIRE(until.has_value());
      const Duration pace = *until - q.now;
      if (busy_before) {
        CHECK(pace > milliseconds{39});
        CHECK(pace < milliseconds{42});
      } else {
        CHECK(pace == microseconds{400});
      }
    }
  }

  TEST_CASE(
      "the pace is over when nobody else has come for a second, or background is owed a start") {
    for (const bool owed : {false, true}) {
      Queue q;
      const int first = q.push(IoClass::kBackground);
      CHECK(q.pop() == first);
      q.now = TimePoint{milliseconds{750}};
      q.read_for(milliseconds{200});
      q.now = TimePoint{std::chrono::seconds{1}};
      q.complete(IoClass::kBackground);
      const int second = q.push(IoClass::kBackground, std::chrono::seconds{1});
      for (int i = 0; i < (owed ? 19 : 18); ++i) {
        const int read = q.push(IoClass::kRead, std::chrono::seconds{1});
        CHECK(q.pop() == read);
        q.complete(IoClass::kRead);
      }
      CHECK(q.queue.startable(q.now) == owed);
      CHECK(q.queue.paced_until(q.now).has_value() != owed);
      // Not the four seconds that its pace asks for.
      if (!owed) CHECK(q.queue.paced_until(q.now) == q.now + std::chrono::seconds{1});
      q.now = TimePoint{std::chrono::seconds{2}};
      CHECK(q.pop() == second);
    }
  }

  TEST_CASE("what is owed counts by the size of requests") {
    Queue q;
    // 256 KiB with what a request costs: 16 empty ones.
    const int large = q.push_sized(IoClass::kBackground, 240 * 1024);
    unsigned reads = 0;
    while (true) {
      q.push(IoClass::kRead);
      if (q.pop() == large) break;
      q.complete(IoClass::kRead);
      ++reads;
      REQUIRE(reads < 1000);
    }
    CHECK(reads == 16 * 19);
  }

  TEST_CASE("of writes the device gets what it does in 20 ms and the time of one") {
    for (const unsigned written_per_ms : {1U, 8U}) {
      CAPTURE(written_per_ms);
      Queue q;
      // One after the other, 48 KiB and what a request costs: 64 KiB for each.
      for (int i = 0; i < 100; ++i) {
        q.push_sized(IoClass::kWrite, 48 * 1024);
        REQUIRE(q.pop() == i);
        q.now = q.now + microseconds{1000 / written_per_ms};
        q.complete(IoClass::kWrite);
      }
      unsigned started = 0;
      for (int i = 0; i < 64; ++i) q.push_sized(IoClass::kWrite, 48 * 1024);
      while (q.pop() >= 0) ++started;
      // Three quarters of the depth, where the device does more.
      CHECK(started == (written_per_ms == 1 ? 21 : 48));
      // Reads are not held back by that.
      const int read = q.push(IoClass::kRead, q.now.since_origin);
      CHECK(q.pop() == read);
    }
  }

  TEST_CASE("a slow device has few writes inside, one that is only far away all it can take") {
    CHECK(inside_of(1, milliseconds{13}) <= 3);
    CHECK(inside_of(1, std::chrono::seconds{1}) <= 2);
    CHECK(inside_of(64, milliseconds{30}) == 48);
    CHECK(inside_of(8, milliseconds{2}) >= 8);
  }

  TEST_CASE("a request has a deadline by its class, longer on a spinning disk and for a flush") {
    const auto second = std::chrono::seconds{1};
    Queue q;
    const int read = q.push(IoClass::kRead);
    CHECK(q.pop() == read);
    CHECK_FALSE(q.queue.lateness(TimePoint{second - milliseconds{1}}).late);
    CHECK(q.queue.lateness(TimePoint{second}).late);
    CHECK_FALSE(q.queue.lateness(TimePoint{29 * second}).hung);
    CHECK(q.queue.lateness(TimePoint{30 * second}).hung);
    q.now = TimePoint{second};
    CHECK(q.complete(IoClass::kRead));
    CHECK_FALSE(q.queue.lateness(TimePoint{60 * second}).late);

    IoRequest request;
    for (const bool rotational : {false, true}) {
      const IoQueue queue({.rotational = rotational});
      Duration before{0};
      for (const IoClass io_class : {IoClass::kRead, IoClass::kWrite, IoClass::kBackground}) {
        request.io_class = io_class;
        request.op = IoOp::kWrite;
        const Duration deadline = queue.deadline(request);
        CHECK(deadline > before);
        before = deadline;
        request.op = IoOp::kFlush;
        CHECK(queue.deadline(request) == 4 * deadline);
      }
      CHECK(before == (rotational ? 20 : 5) * second);
    }
  }

  TEST_CASE("a request that had to wait for a slot says so, one that found a slot does not") {
    Queue q({.depth = 2});
    q.push(IoClass::kRead);
    CHECK(q.pop() == 0);
    q.push(IoClass::kRead);
    q.push(IoClass::kRead);
    CHECK(q.pop() == -1);  // the other slot is for critical requests
    q.push(IoClass::kCritical);
    q.push(IoClass::kRead);
    CHECK(q.pop() == 3);
    for (const int expected : {1, 2, 4}) {
      q.complete(IoClass::kRead);
      CHECK(q.pop() == expected);
    }
    std::vector<bool> held_back;
    for (const IoRequest& request : q.requests) held_back.push_back(request.held_back);
    CHECK(held_back == std::vector<bool>{false, true, true, false, false});
  }

  TEST_CASE("an empty queue has nothing to start") {
    Queue q;
    CHECK(q.pop() == -1);
    CHECK_FALSE(q.queue.startable(q.now));
    CHECK(q.queue.queued() == 0);
    CHECK(q.queue.drain() == nullptr);
  }

  TEST_CASE("of requests that came together the more urgent class goes first") {
    Queue q;
    for (std::size_t i = kIoClasses; i-- > 0;) q.push(kAll[i]);
    for (int expected = kIoClasses - 1; expected >= 0; --expected) CHECK(q.pop() == expected);
    CHECK(q.pop() == -1);
  }

  TEST_CASE("a class is first in, first out") {
    for (const IoClass io_class : kAll) {
      Queue q({.depth = 64, .rotational = false});
      const int a = q.push(io_class, milliseconds{5});
      // Even if the clocks of two submitting threads disagree.
      const int b = q.push(io_class, milliseconds{4});
      const int c = q.push(io_class, milliseconds{6});
      CHECK(q.pop() == a);
      CHECK(q.pop() == b);
      CHECK(q.pop() == c);
    }
  }

  TEST_CASE("a request that has waited longer than its offset overtakes") {
    const std::vector<std::pair<IoClass, Duration>> offsets = {
        {IoClass::kHotRead, milliseconds{1}},
        {IoClass::kRead, milliseconds{4}},
        {IoClass::kWrite, milliseconds{100}},
        {IoClass::kBackground, milliseconds{250}}};
    for (const bool rotational : {false, true}) {
      for (const auto& [io_class, offset] : offsets) {
        const Duration longer =
            io_class == IoClass::kWrite ? Duration{milliseconds{320}} : offset * 4;
        const Duration wait = rotational ? longer : offset;
        Queue before({.depth = 32, .rotational = rotational});
        before.push(io_class);
        const int critical = before.push(IoClass::kCritical, wait - microseconds{1});
        CHECK(before.pop() == critical);

        Queue after({.depth = 32, .rotational = rotational});
        const int waiting = after.push(io_class);
        after.push(IoClass::kCritical, wait + microseconds{1});
        CHECK(after.pop() == waiting);
      }
    }
  }

  TEST_CASE("two that are due together: the more urgent class goes first") {
    Queue q;
    q.push(IoClass::kRead, milliseconds{0});
    const int hot = q.push(IoClass::kHotRead, milliseconds{3});
    CHECK(q.pop() == hot);
  }

  TEST_CASE("no more than the depth is at the device") {
    for (const unsigned depth : {1U, 2U, 3U, 8U, 32U, 64U}) {
      Queue q({.depth = depth, .rotational = false});
      CHECK(q.started(IoClass::kCritical, 100) == depth);
      CHECK(q.queue.in_flight() == depth);
      CHECK_FALSE(q.queue.startable(q.now));
    }
  }

  TEST_CASE("one slot is kept for critical requests") {
    for (const unsigned depth : {2U, 3U, 8U, 32U}) {
      Queue q({.depth = depth, .rotational = false});
      CHECK(q.started(IoClass::kRead, 100) == depth - 1);
      const int critical = q.push(IoClass::kCritical);
      CHECK(q.queue.startable(q.now));
      CHECK(q.pop() == critical);
    }
  }

  TEST_CASE("the kept slot is not taken by another class while critical ones use their own") {
    Queue q({.depth = 4, .rotational = false});
    q.push(IoClass::kCritical);
    CHECK(q.pop() == 0);
    CHECK(q.started(IoClass::kRead, 100) == 3);
    CHECK(q.queue.in_flight() == 4);
  }

  TEST_CASE("writes get at most three quarters, background at most one quarter") {
    Queue writes({.depth = 32, .rotational = false});
    CHECK(writes.started(IoClass::kWrite, 100) == 24);
    CHECK(writes.started(IoClass::kRead, 100) == 7);

    Queue background({.depth = 32, .rotational = false});
    CHECK(background.started(IoClass::kBackground, 100) == 8);
    CHECK(background.started(IoClass::kWrite, 100) == 23);
  }

  TEST_CASE("each class gets at least one slot, however short the device queue") {
    for (const unsigned depth : {1U, 2U, 3U}) {
      for (const IoClass io_class : kAll) {
        Queue q({.depth = depth, .rotational = false});
        CHECK(q.started(io_class, 10) >= 1);
      }
    }
  }

  TEST_CASE("a class whose slots are taken is passed over, and is next when one comes back") {
    Queue q({.depth = 4, .background_limit_percent = 100});
    const int first = q.push(IoClass::kBackground);
    const int second = q.push(IoClass::kBackground);
    CHECK(q.pop() == first);
    CHECK(q.pop() == -1);
    const int late = q.push(IoClass::kRead, std::chrono::seconds{10});
    CHECK(q.pop() == late);
    q.complete(IoClass::kBackground);
    CHECK(q.pop() == second);
  }

  TEST_CASE("drain takes everything that waits, whatever the slots, and counts nothing in flight") {
    Queue q({.depth = 1, .rotational = false});
    std::set<std::uint64_t> pushed;
    for (const IoClass io_class : kAll) {
      pushed.insert(static_cast<std::uint64_t>(q.push(io_class)));
      pushed.insert(static_cast<std::uint64_t>(q.push(io_class)));
    }
    pushed.erase(static_cast<std::uint64_t>(q.pop()));
    std::set<std::uint64_t> drained;
    while (const IoRequest* request = q.queue.drain()) drained.insert(request->tag);
    CHECK(drained == pushed);
    CHECK(q.queue.in_flight() == 1);
    CHECK(q.queue.queued() == 0);
  }

  TEST_CASE("background is served under an endless stream of every other class") {
    // The device serves one request each 100 us; the others always have somebody waiting.
    Queue q({.depth = 2, .rotational = false});
    Duration now{};
    for (int i = 0; i < 4; ++i) q.push(IoClass::kBackground);
    Duration served{};
    int left = 4;
    while (left > 0 && now < std::chrono::seconds{10}) {
      for (std::size_t c = 0; c + 1 < kIoClasses; ++c) {
        if (q.queue.queued(kAll[c]) < 4) q.push(kAll[c], now);
      }
      while (const IoRequest* request = q.queue.pop(TimePoint{now})) {
        if (request->io_class == IoClass::kBackground) {
          --left;
          served = now;
        }
        now += microseconds{100};
        q.queue.completed(*request, TimePoint{now});
        break;
      }
    }
    CHECK(left == 0);
    // All four came together; each is overtaken for its offset and no longer.
    CHECK(served <= milliseconds{255});
  }

  TEST_CASE("of 100 000 random schedules none loses, repeats or reorders a request of its class") {
    const std::uint64_t first = test::seed_from_environment(1) * 1'000'000;
    const std::uint64_t schedules = test::seeds(100'000);
    for (std::uint64_t seed = first; seed < first + schedules; ++seed) {
      const char* const wrong = wrong_with_schedule(seed);
      if (wrong != nullptr) FAIL(std::string{wrong}, ", seed ", seed);
    }
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
