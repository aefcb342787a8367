#include "scheduler/io_queue.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::milliseconds;

// How long a request may be overtaken by every later critical one. Guesses that keep the order of
// what a person waits for; on spinning disks a seek costs about a hundred times as much, the
// offsets only four times, so that a queue of ordinary length still shows the classes.
constexpr std::array<Duration, kIoClasses> kOffsets = {
    milliseconds{0}, milliseconds{1}, milliseconds{4}, milliseconds{20}, milliseconds{250}};
constexpr int kRotationalFactor = 4;

}  // namespace

void IoQueue::push(IoRequest& request, TimePoint now) {
  request.arrival = now;
  request.next = nullptr;
  Fifo& fifo = queues_[index(request.io_class)];
  if (fifo.tail == nullptr) {
    fifo.head = &request;
  } else {
    fifo.tail->next = &request;
  }
  fifo.tail = &request;
  ++fifo.count;
}

IoRequest* IoQueue::pop() {
  std::size_t best = kIoClasses;
  TimePoint best_due;
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    const IoRequest* head = queues_[i].head;
    if (head == nullptr || !may_start(static_cast<IoClass>(i))) continue;
    const TimePoint due =
        head->arrival + kOffsets[i] * (options_.rotational ? kRotationalFactor : 1);
    // Strictly smaller, so that of two that are due together the more urgent class goes first.
    if (best == kIoClasses || due < best_due) {
      best = i;
      best_due = due;
    }
  }
  if (best == kIoClasses) return nullptr;
  ++in_flight_[best];
  ++in_flight_total_;
  return take(best);
}

void IoQueue::completed(IoClass io_class) {
  DFS_ASSERT(in_flight_[index(io_class)] > 0);
  --in_flight_[index(io_class)];
  --in_flight_total_;
}

IoRequest* IoQueue::drain() {
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    if (queues_[i].head != nullptr) return take(i);
  }
  return nullptr;
}

std::size_t IoQueue::queued() const {
  std::size_t total = 0;
  for (const Fifo& fifo : queues_) total += fifo.count;
  return total;
}

bool IoQueue::startable() const {
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    if (queues_[i].head != nullptr && may_start(static_cast<IoClass>(i))) return true;
  }
  return false;
}

// Whatever is refused here waits for a completion that is certain to come: each limit is at least
// one, so it is reached only while something that counts against it is at the device.
bool IoQueue::may_start(IoClass io_class) const {
  if (in_flight_total_ >= options_.depth) return false;
  if (io_class == IoClass::kCritical) return true;
  const unsigned others = in_flight_total_ - in_flight_[index(IoClass::kCritical)];
  if (others >= std::max(1U, options_.depth - 1)) return false;
  const unsigned own = in_flight_[index(io_class)];
  if (io_class == IoClass::kWrite) return own < std::max(1U, options_.depth * 3 / 4);
  if (io_class == IoClass::kBackground) return own < std::max(1U, options_.depth / 4);
  return true;
}

IoRequest* IoQueue::take(std::size_t queue) {
  Fifo& fifo = queues_[queue];
  IoRequest* const request = fifo.head;
  fifo.head = request->next;
  if (fifo.head == nullptr) fifo.tail = nullptr;
  --fifo.count;
  request->next = nullptr;
  return request;
}

}  // namespace dynamicfs::scheduler
