// How many requests may be at the device while requests of several classes compete: a pure data
// structure that takes its clock as an argument.
//
// A device queue that is longer than what the device works on at once only adds waiting, and what
// waits inside the device is out of our hands: there priorities mean nothing. While requests of one
// class are alone that is harmless, and the depth is the largest. As soon as classes compete, the
// latency that the most urgent of them sees at the device decides: beside what it is without
// company it may grow a little, and the depth grows as long as somebody less urgent is held back;
// if it grows more, the depth shrinks at once. If that does not help, the latency has another cause
// (processors that are busy, say), and the depth stays for a while what it was. (Delay as the sign of a queue: TCP Vegas, Brakmo and
// Peterson 1995; short device queues: Linux blk-wbt and Seastar's I/O scheduler.)
//
// Latencies are compared within requests alike: same operation, size within a factor of two.
//
// Locks  None: the owner guards it.
#pragma once

#include <array>
#include <cstdint>

#include "base/executor.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::scheduler {

struct DepthOptions {
  unsigned min = 2;
  unsigned start = 8;
  unsigned max = 64;
};

class DepthControl {
 public:
  explicit DepthControl(DepthOptions options);

  // Requests of this class wait, or are at the device.
  void seen(IoClass io_class, TimePoint now) {
    last_seen_[static_cast<std::size_t>(io_class)] = now;
  }
  // A request of this class has come.
  void came(IoClass io_class, TimePoint now) {
    if (io_class == IoClass::kBackground) return;
    if (now >= others_there_ + kOthersStay) others_since_ = now;
    others_came_ = others_there_ = now;
  }
  // One that is less urgent than urgent() could not start because of depth(), and of nothing else.
  void held_back() { held_back_ = true; }
  // A request has come back; `request.started` is when the device got it.
  void completed(const IoRequest& request, TimePoint now);

  // The most urgent class with requests lately (in the last 100 ms).
  IoClass urgent(TimePoint now) const;
  // Until when background has company: more urgent requests have come for kOthersBegin, and the last less than
  // kOthersStay ago. Past: it has none.
  TimePoint others_until() const {
    return others_came_ - others_since_ < kOthersBegin ? TimePoint{} : others_came_ + kOthersStay;
  }
  // At how many requests at the device those less urgent than that may no longer start. `max` while
  // one class is alone.
  unsigned depth(TimePoint now) const { return mixed(now) ? depth_ : options_.max; }

 private:
  // The commit of what background itself has done comes alone. After the last of several the next may come.
  static constexpr Duration kOthersBegin = std::chrono::milliseconds{200};
  static constexpr Duration kOthersStay = std::chrono::seconds{1};
  // Latency in relation to the same without company, in steps of an eighth; the last is "more".
  static constexpr std::size_t kRatios = 48;
  static constexpr std::size_t kKinds = 4 * 16;  // operation x size
  static std::size_t kind_of(const IoRequest& request);
  bool mixed(TimePoint now) const;
  void end_window(TimePoint now);

  const DepthOptions options_;
  unsigned depth_;
  unsigned before_ = 0;     // depth before the last window made it shrink; 0: it did not
  std::size_t median_ = 0;  // ... because of this
  TimePoint hold_until_{};  // shrinking is of no use before
  std::array<TimePoint, kIoClasses> last_seen_;
  TimePoint others_came_{Duration{std::chrono::hours{-24}}};
  TimePoint others_there_ = others_came_;
  TimePoint others_since_{};
  std::array<double, kKinds> base_ns_{};  // 0: not known
  TimePoint window_start_{};
  std::array<unsigned, kRatios> ratios_{};
  unsigned samples_ = 0;
  bool held_back_ = false;
};

}  // namespace dynamicfs::scheduler
