#include "scheduler/io_queue.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::milliseconds;

using Offsets = std::array<Duration, kIoClasses>;
// How long a request may be overtaken by every later critical one. Guesses that keep the order of
// what a person waits for; on spinning disks a seek costs about a hundred times as much, the
// offsets only four times, so that a queue of ordinary length still shows the classes. Writes wait
// long in both: each that goes first delays an urgent request by its whole length.
constexpr Offsets kOffsets = {milliseconds{0}, milliseconds{1}, milliseconds{4}, milliseconds{100},
                              milliseconds{250}};
constexpr Offsets kRotationalOffsets = {milliseconds{0}, milliseconds{4}, milliseconds{16},
                                        milliseconds{320}, milliseconds{1000}};

using Owed = std::array<unsigned, kIoClasses - 1>;  // background is an option
// When so many times its cost has gone to more urgent requests a request that waits is owed its
// start. Hot reads and reads are what somebody waits for; writes and background have nobody in a
// hurry.
constexpr Owed kOwedAfter = {0, 2, 4, 19};
constexpr Owed kRotationalOwedAfter = {0, 2, 4, 44};

// What a request costs the device besides its transfer, as bytes of that: what a solid state disk
// moves in the latency of a small read, a spinning one in a seek and half a turn.
constexpr std::uint64_t kRequestCost = 16 * kKiB;
constexpr std::uint64_t kRotationalRequestCost = kMiB;

// How much work of writes and background may be inside the device: what a read that comes next waits
// at most. Spinning disks are the faster the more they have to choose from.
constexpr Duration kInside = milliseconds{20};
constexpr Duration kRotationalInside = milliseconds{100};
constexpr Duration kPaceMax = std::chrono::seconds{1};
constexpr Duration kRateWindow = std::chrono::seconds{1};
constexpr double kRateFades = 0.995;  // each window: a device may have become slower for good

// Guesses, far beyond what a device that is well does under load: what is later is worth asking
// another copy, and a word in the log. The offsets' rule for spinning disks holds here too.
using std::chrono::seconds;
constexpr Offsets kDeadlines = {seconds{1}, seconds{1}, seconds{1}, seconds{3}, seconds{5}};
constexpr int kRotationalDeadlineFactor = 4;
constexpr int kFlushDeadlineFactor = 4;

DepthOptions depth_options(const IoQueueOptions& options) {
  // One head does one thing at a time: whatever else is inside is served before the urgent request
  // that comes next.
  const unsigned min = options.rotational ? 1 : 2;
  const unsigned start = options.rotational ? 1 : 8;
  return {.min = std::min(min, options.depth),
          .start = std::min(start, options.depth),
          .max = options.depth};
}

}  // namespace

IoQueue::IoQueue(IoQueueOptions options)
    : options_(options),
      background_owed_after_(100 / options.background_percent - 1),
      control_(depth_options(options)) {
  DFS_ASSERT(options.depth > 0 && options.background_limit_percent > 0);
  at_device_.reserve(options.depth);
}

void IoQueue::push(IoRequest& request, TimePoint now) {
  control_.came(request.io_class, now);
  request.arrival = now;
  request.next = nullptr;
  request.held_back = false;
  Fifo& fifo = queues_[queue_of(request.io_class)];
  if (fifo.tail == nullptr) {
    fifo.head = &request;
  } else {
    fifo.tail->next = &request;
  }
  fifo.tail = &request;
  if (fifo.waiting == nullptr) fifo.waiting = &request;
  ++fifo.count;
  control_.seen(request.io_class, now);
  let_in(fifo, now);
}

// Into the order, as long as there are fewer than may be at the device, and no more than it does in
// time.
void IoQueue::let_in(Fifo& fifo, TimePoint now) {
  const std::size_t window = control_.depth(now);
  while (fifo.waiting != nullptr && fifo.taking_part < window) {
    IoRequest& request = *fifo.waiting;
    if (fifo.taking_part > 0 && is_too_much(fifo.cost_taking_part + cost(request))) return;
    fifo.cost_taking_part += cost(request);
    const Offsets& offsets = options_.rotational ? kRotationalOffsets : kOffsets;
    request.due = now + offsets[index(request.io_class)];
    fifo.waiting = request.next;
    ++fifo.taking_part;
  }
}

// What waits counts as active, however long it has.
void IoQueue::see_waiting(TimePoint now) {
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    if (queues_[i].head != nullptr) control_.seen(static_cast<IoClass>(i), now);
  }
}

IoRequest* IoQueue::pop(TimePoint now) {
  see_waiting(now);
  std::size_t best = kIoClasses;
  TimePoint best_due;
  bool best_owed = false;
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    const Fifo& fifo = queues_[i];
    if (fifo.head == nullptr || is_paced(i, now)) continue;
    if (!may_start(i, now)) continue;
    const TimePoint due = fifo.head->due;
    const bool owed = is_owed(i);
    // Strictly smaller, so that of two that are due together the more urgent class goes first.
    if (best == kIoClasses || (owed != best_owed ? owed : due < best_due)) {
      best = i;
      best_due = due;
      best_owed = owed;
    }
  }
  if (best == kIoClasses) {
    for (Fifo& fifo : queues_) fifo.held_back = fifo.count;
    return nullptr;
  }
  ++in_flight_[best];
  ++in_flight_total_;
  for (std::size_t i = best + 1; i < kIoClasses; ++i) {
    if (queues_[i].head != nullptr) queues_[i].passed_over += cost(*queues_[best].head);
  }
  queues_[best].passed_over = 0;
  IoRequest* const request = take(best);
  request->started = now;
  at_device_.push_back(request);
  if (moves_data(request->op)) {
    if (cost_at_device_ == 0) busy_since_ = now;
    cost_at_device_ += cost(*request);
    ++transfers_[best];
  }
  request->cost_there = cost_at_device_;
  if (request->op == IoOp::kFlush || request->flushes) ++flushes_in_flight_;
  let_in(queues_[best], now);
  return request;
}

std::uint64_t IoQueue::cost(const IoRequest& request) const {
  return request.size_bytes + (options_.rotational ? kRotationalRequestCost : kRequestCost);
}

// Of a class that waits.
bool IoQueue::is_owed(std::size_t queue) const {
  if (queue == 0) return false;
  const Owed& owed = options_.rotational ? kRotationalOwedAfter : kOwedAfter;
  const std::uint64_t after =
      queue == index(IoClass::kBackground) ? background_owed_after_ : owed[queue];
  return queues_[queue].passed_over >= after * cost(*queues_[queue].head);
}

bool IoQueue::is_paced(std::size_t queue, TimePoint now) const {
  return pacing_ && queue == index(IoClass::kBackground) && now < background_from_ &&
         now < control_.others_until() && !is_owed(queue);
}

// A background request has come back.
void IoQueue::pace(const IoRequest& request, TimePoint now) {
  if (options_.fifo || !moves_data(request.op)) return;
  // Several at once have shared the device.
  Duration alone = (now - request.started) / (in_flight_[index(IoClass::kBackground)] + 1);
  if (busy_cost_per_ns_ != 0) {
    const double at_rate_ns = static_cast<double>(cost(request)) / busy_cost_per_ns_;
    alone = std::max(alone, Duration{static_cast<std::int64_t>(at_rate_ns)});
  }
  const unsigned limit = options_.background_limit_percent;
  const Duration wait = std::min(alone * (100 - limit) / limit, kPaceMax);
  background_from_ = std::max(background_from_, now + wait);
}

void IoQueue::measure(const IoRequest& request, TimePoint now) {
  // A failure took no time that says something, and a durable write also waits for a flush.
  if (request.error.code != Code::kOk || request.durable) return;
  const auto took_ns =
      static_cast<double>(std::max<std::int64_t>((now - request.started).count(), 1));
  const auto there = static_cast<double>(request.cost_there);
  // Apart, so that each weighs by its time.
  cost_there_ += took_ns_ == 0 ? there : (there - cost_there_) / 8;
  took_ns_ += took_ns_ == 0 ? took_ns : (took_ns - took_ns_) / 8;
  if (request.cost_there == cost(request)) {
    alone_ns_ +=
        took_ns < alone_ns_ || alone_ns_ == 0 ? took_ns - alone_ns_ : (took_ns - alone_ns_) / 16;
  }
}

// One that moves data comes back; it still counts as there.
void IoQueue::note_busy(const IoRequest& request, TimePoint now) {
  done_cost_ += cost(request);
  if (cost_at_device_ == cost(request)) busy_ += now - busy_since_;
  const Duration age = now - window_start_;
  if (age < kRateWindow) return;
  if (cost_at_device_ != cost(request)) {
    busy_ += now - std::max(busy_since_, window_start_);
    busy_since_ = now;
  }
  busy_cost_per_ns_ *= kRateFades;
  if (busy_ * 10 >= age * 9) {
    const double rate = static_cast<double>(done_cost_) / static_cast<double>(age.count());
    busy_cost_per_ns_ = std::max(busy_cost_per_ns_, rate);
  }
  window_start_ = now;
  busy_ = Duration{0};
  done_cost_ = 0;
}

// One more of this class would be more than the device does in time.
bool IoQueue::fills_device(const IoRequest& request) const {
  return !options_.fifo && request.io_class >= IoClass::kWrite && moves_data(request.op) &&
         is_too_much(cost_at_device_ + cost(request));
}

bool IoQueue::is_too_much(std::uint64_t cost) const {
  const Duration inside = options_.rotational ? kRotationalInside : kInside;
  const double time_ns = static_cast<double>(inside.count()) + alone_ns_;
  return took_ns_ != 0 && static_cast<double>(cost) * took_ns_ > cost_there_ * time_ns;
}

std::optional<TimePoint> IoQueue::paced_until(TimePoint now) {
  see_waiting(now);
  const std::size_t background = index(IoClass::kBackground);
  if (queues_[background].head == nullptr || !is_paced(background, now)) return std::nullopt;
  return std::min(background_from_, control_.others_until());
}

bool IoQueue::completed(const IoRequest& request, TimePoint now) {
  const auto found = std::ranges::find(at_device_, &request);
  DFS_ASSERT(found != at_device_.end());
  *found = at_device_.back();
  at_device_.pop_back();
  if (request.op == IoOp::kFlush || request.flushes) --flushes_in_flight_;
  if (moves_data(request.op)) {
    measure(request, now);
    note_busy(request, now);
    cost_at_device_ -= cost(request);
    --transfers_[queue_of(request.io_class)];
  }
  unsigned& of_class = in_flight_[queue_of(request.io_class)];
  DFS_ASSERT(of_class > 0);
  --of_class;
  --in_flight_total_;
  control_.completed(request, now);
  if (request.io_class == IoClass::kBackground) pace(request, now);
  return now - request.started >= deadline(request);
}

Duration IoQueue::deadline(const IoRequest& request) const {
  Duration deadline = kDeadlines[index(request.io_class)];
  if (options_.rotational) deadline *= kRotationalDeadlineFactor;
  if (request.op == IoOp::kFlush || request.flushes) deadline *= kFlushDeadlineFactor;
  return deadline;
}

Lateness IoQueue::lateness(TimePoint now) const {
  Lateness found;
  for (const IoRequest* const request : at_device_) {
    const Duration here = now - request->started;
    found.late |= here >= std::min(deadline(*request), LatencyWatch::kHungAfter);
    found.hung |= here >= LatencyWatch::kHungAfter;
  }
  return found;
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

bool IoQueue::startable(TimePoint now) {
  see_waiting(now);
  for (std::size_t i = 0; i < kIoClasses; ++i) {
    if (queues_[i].head != nullptr && !is_paced(i, now) && may_start(i, now)) {
      return true;
    }
  }
  return false;
}

// Whatever is refused here waits for a completion that is certain to come: each limit is at least
// one, so it is reached only while something that counts against it is at the device. (What
// is_paced() refuses waits for a time that is certain to come.)
bool IoQueue::may_start(std::size_t queue, TimePoint now) {
  const auto io_class = static_cast<IoClass>(queue);
  if (in_flight_total_ >= options_.depth) return false;
  if (io_class == IoClass::kCritical) return true;
  const unsigned others = in_flight_total_ - in_flight_[index(IoClass::kCritical)];
  if (others >= std::max(1U, options_.depth - 1)) return false;
  unsigned depth = options_.depth;
  // What a class is owed it gets beside any number of more urgent requests, which are not bound by
  // the shared depth and could fill it for ever.
  if (queue > index(control_.urgent(now)) && !is_owed(queue)) {
    depth = control_.depth(now);
    // A flush takes its time, whatever goes beside it.
    if (in_flight_total_ - flushes_in_flight_ >= depth) {
      control_.held_back();
      return false;
    }
  }
  const unsigned own = in_flight_[queue];
  if (transfers_[queue] > 0 && !is_owed(queue) && fills_device(*queues_[queue].head)) return false;
  if (io_class == IoClass::kWrite) return own < std::max(1U, depth * 3 / 4);
  if (io_class == IoClass::kBackground) return own < std::max(1U, depth / 4);
  return true;
}

IoRequest* IoQueue::take(std::size_t queue) {
  Fifo& fifo = queues_[queue];
  IoRequest* const request = fifo.head;
  fifo.head = request->next;
  if (fifo.head == nullptr) fifo.tail = nullptr;
  if (fifo.waiting == request) {
    fifo.waiting = request->next;
  } else {
    --fifo.taking_part;
    fifo.cost_taking_part -= cost(*request);
  }
  --fifo.count;
  if (fifo.held_back > 0) {
    --fifo.held_back;
    request->held_back = true;
  }
  if (fifo.head == nullptr) fifo.passed_over = 0;
  request->next = nullptr;
  return request;
}

}  // namespace dynamicfs::scheduler
