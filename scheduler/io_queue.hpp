// The order of requests at one disk: a pure data structure that takes its clock as an argument.
//
// Order       Five FIFO queues; the next request is the head with the smallest arrival + offset of
//             its class. While queues are short that is strict priority; a request that has waited
//             longer than the offset overtakes, so that none is overtaken for longer than that, and
//             no timer is needed. (Earliest deadline first with one relative deadline per class; Liu
//             and Layland 1973.)
// Overload    Earliest deadline first turns into first come, first served when more comes than the
//             disk can do: everybody is late. So of each class only as many requests as may be at
//             the device together, and as it does in 20 ms, take part in that order, their arrival
//             counting from then; the others wait behind. And lest a class get only that, it is owed a start after so many
//             times its cost has gone to more urgent ones: background after 19 times.
// Pace        What background has had of the device's time beside more urgent classes it waits out:
//             with a limit of a fifth, four times as long. Its long transfers then meet few of the
//             others' short ones. It gets all when nobody else has come for a second, or only now and then, and what it is
//             owed in any case. Where a device hands out its bandwidth in slices, a transfer may take
//             next to no time and use up what comes after it: so it counts at least as what it costs
//             at the rate the device has shown in a second that it was busy for.
// At the device  One slot is always kept for critical requests. Writes get at most three quarters of
//             the depth, background at most one quarter, each at least one. Beside more urgent
//             requests the depth is what DepthControl allows. A class whose slots are taken is
//             passed over.
//             Of writes and background, which nobody waits for one by one, the device also gets only
//             what it does in 20 ms and in the time that one alone takes: an urgent request that
//             comes next is behind them, and a longer queue makes no device faster. What it does it
//             shows by Little's law: what was there when a request started, divided by how long that
//             took.
//
// Locks  None: the owner guards it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/assert.hpp"
#include "base/executor.hpp"
#include "scheduler/depth_control.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::scheduler {

struct IoQueueOptions {
  // Requests at the device at once.
  unsigned depth = 64;
  // Longer offsets, and beside urgent requests one at a time.
  bool rotational = false;
  // First come, first served, all classes alike, up to `depth`: what the order is measured against.
  bool fifo = false;
  // Of a device that is busy background gets at least so many percent of what all requests cost, and
  // at most so many percent of the time; 1 to 50, and 1 to 100.
  unsigned background_percent = 5;
  unsigned background_limit_percent = 20;
  // Writes that wait together and lie side by side on the disk become one, of at most so many and so
  // many bytes: what has queued up while the workers were busy, so nobody waits for it. 1: none do.
  std::size_t write_batch_extents = 10;
  std::size_t write_batch_bytes = kMiB;
};

class IoQueue {
 public:
  explicit IoQueue(IoQueueOptions options);

  // Takes the request (intrusively, by its `next`), stamping `arrival`.
  void push(IoRequest& request, TimePoint now);
  // The next request that may go to the device now, or nullptr; it then counts as in flight, and
  // `started` is stamped. `held_back` says whether it has seen pop() return nullptr.
  IoRequest* pop(TimePoint now);
  // An in-flight request has come back. True: after its deadline.
  bool completed(const IoRequest& request, TimePoint now);
  // Takes any queued request, regardless of slots, not counting it in flight: for failing a disk.
  IoRequest* drain();

  // pop() would return a request.
  bool startable(TimePoint now);
  // When background may start that waits for its pace alone, and for nothing that comes back: the
  // owner has to look again then. Not set: look when a request is pushed or comes back.
  std::optional<TimePoint> paced_until(TimePoint now);
  // From now on background starts as soon as its slots allow: the disk is closing.
  void end_pace() { pacing_ = false; }
  std::size_t queued() const;
  std::size_t queued(IoClass io_class) const { return queues_[index(io_class)].count; }
  unsigned depth() const { return options_.depth; }
  // ... up to which less urgent requests start beside more urgent ones.
  unsigned shared_depth(TimePoint now) const { return control_.depth(now); }
  unsigned in_flight() const { return in_flight_total_; }
  // How long a request may be at a device that is well; a flush four times as long as others of its
  // class.
  Duration deadline(const IoRequest& request) const;
  Lateness lateness(TimePoint now) const;

 private:
  struct Fifo {
    IoRequest* head = nullptr;
    IoRequest* tail = nullptr;
    IoRequest* waiting = nullptr;  // the first that does not take part in the order yet
    std::size_t count = 0;
    std::size_t taking_part = 0;
    std::size_t held_back = 0;  // so many from the head
    std::uint64_t cost_taking_part = 0;
    std::uint64_t passed_over =
        0;  // cost of more urgent requests since the last start of this class
  };
  static std::size_t index(IoClass io_class) { return static_cast<std::size_t>(io_class); }
  // The queue that requests of this class wait in.
  std::size_t queue_of(IoClass io_class) const { return options_.fifo ? 0 : index(io_class); }
  void let_in(Fifo& fifo, TimePoint now);
  void see_waiting(TimePoint now);
  std::uint64_t cost(const IoRequest& request) const;
  bool is_owed(std::size_t queue) const;
  bool is_paced(std::size_t queue, TimePoint now) const;
  bool fills_device(const IoRequest& request) const;
  bool is_too_much(std::uint64_t cost) const;
  void measure(const IoRequest& request, TimePoint now);
  void note_busy(const IoRequest& request, TimePoint now);
  void pace(const IoRequest& request, TimePoint now);
  bool may_start(std::size_t queue, TimePoint now);
  IoRequest* take(std::size_t queue);

  const IoQueueOptions options_;
  const unsigned background_owed_after_;
  DepthControl control_;
  bool pacing_ = true;
  TimePoint background_from_{};  // not before, while others are there
  std::array<Fifo, kIoClasses> queues_{};
  std::array<unsigned, kIoClasses> in_flight_{};
  unsigned in_flight_total_ = 0;
  std::vector<const IoRequest*> at_device_;  // in no order
  unsigned flushes_in_flight_ = 0;           // of those
  // Of those that move data: how many of each class, and what they cost together.
  std::array<unsigned, kIoClasses> transfers_{};
  std::uint64_t cost_at_device_ = 0;
  // What the device does: averages of what was there when a request started, and of how long that took
  // (0: not known); and how long one takes that is there alone.
  double cost_there_ = 0;
  double took_ns_ = 0;
  double alone_ns_ = 0;
  // A window of a second: since when, what was done in it, and for how long something was there.
  TimePoint window_start_{};
  TimePoint busy_since_{};
  Duration busy_{0};
  std::uint64_t done_cost_ = 0;
  double busy_cost_per_ns_ = 0;  // in the best window that was busy throughout, fading; 0: none yet
};

}  // namespace dynamicfs::scheduler
