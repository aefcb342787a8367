// Whether it pays to look again and again for the answer of a device instead of sleeping until it
// comes: arithmetic on what the last answers took.
//
// Where small reads are answered within some 100 us, to sleep and be woken takes longer than the
// device does, and as much of the processor. (Linux does the same for the block layer's hybrid polling
// and for idle virtual processors, halt_poll_ns, whose backing off this is.)
//
// Threads  Its owner's alone.
#pragma once

#include <algorithm>

#include "base/executor.hpp"

namespace dynamicfs::scheduler {

class PollGate {
 public:
  // For how long to look. A read that took this long with a sleep in it takes half of it without.
  static constexpr Duration kLength = std::chrono::microseconds{100};
  // Who polls for so few requests has not much to lose.
  static constexpr unsigned kRequestsMax = 2;

  // So many requests are at the device, `small_reads` of them small reads.
  bool pays(unsigned requests, unsigned small_reads) const {
    return small_reads > 0 && requests <= kRequestsMax && read_ns_ > 0 &&
           read_ns_ < static_cast<double>(kLength.count()) && reads_to_skip_ == 0;
  }
  // After looking: an answer came, or not.
  void polled(bool came) {
    skipped_last_ = came ? 0 : std::clamp(skipped_last_ * 2, 16U, 4096U);
    reads_to_skip_ = skipped_last_;
  }
  // A small read has come back.
  void read_took(Duration took) {
    const auto took_ns = static_cast<double>(took.count());
    read_ns_ += read_ns_ == 0 ? took_ns : (took_ns - read_ns_) / 8;
    if (reads_to_skip_ > 0) --reads_to_skip_;
  }

 private:
  double read_ns_ = 0;          // lately; 0: not known
  unsigned reads_to_skip_ = 0;  // because the last look was in vain
  unsigned skipped_last_ = 0;
};

}  // namespace dynamicfs::scheduler
