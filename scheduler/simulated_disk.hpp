// A disk that exists only in memory and fails on command, from a seed.
//
// Fault model (what is above must survive all of it):
//   volatile cache  a completed write lives in the cache until a flush (or `durable`) puts it on the
//                   media; at power_cut() each cached write is, independently and drawn by the
//                   seed, kept, lost, or torn: a prefix or an arbitrary subset of its 512-byte
//                   sectors reaches the media. Order among unflushed writes is not kept. A write in
//                   flight at the cut may be kept, lost or torn too.
//   errors          the n-th or any read, write or flush fails (once or from then on); a failed
//                   write leaves the range as after a torn write; a failed flush loses a random
//                   subset of the cache, and later flushes succeed ("fsync that lies once").
//   silent faults   bit flips on the media, a lost write (acknowledged, not stored), a misdirected
//                   write (stored elsewhere) on demand.
//   latency         per operation, drawn from a range; a hang until released.
//
// Not milder than the letter of disk.hpp: a flush, or a write that flushes, covers the writes that had
// completed when it was submitted and no other; a durable write covers its own range and no other; a failed read leaves
// rubbish in the buffer.
//
// Requests complete from coroutines of the executor, never inside submit(), except that a disk that
// failed or lost power refuses at once. Order and content follow from the two seeds alone.
//
// fail() leaves a write that the device has torn, like a power cut.
//
// The media outlives the disk object, so that a test can cut the power, throw the engine away and
// open the media again. After power_cut() every request of the old object completes with kDiskGone.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/sim_executor.hpp"
#include "scheduler/disk.hpp"
#include "scheduler/io_queue.hpp"

namespace dynamicfs::scheduler {

struct SimulatedLatency {
  Duration min{std::chrono::microseconds{50}};
  Duration max{std::chrono::microseconds{500}};
};

// What is left when the power is gone. Sparse: untouched blocks read as zeros.
class SimulatedMedia {
 public:
  explicit SimulatedMedia(std::uint64_t size_bytes) : size_bytes_(size_bytes) {}
  std::uint64_t size_bytes() const { return size_bytes_; }
  void read(std::uint64_t offset_bytes, std::span<std::byte> into) const;
  void write(std::uint64_t offset_bytes, std::span<const std::byte> from);
  // Flips one bit.
  void flip(std::uint64_t offset_bytes, unsigned bit);
  // An independent copy, for trying several futures from one state.
  SimulatedMedia clone() const { return *this; }

  // One whole block; nullptr stands for zeros. Shared, never changed.
  using Block = std::shared_ptr<const Bytes>;
  static Block make_block(std::span<const std::byte> bytes);
  void put(std::uint64_t index, Block content);

 private:
  friend class SimulatedDisk;
  Block block(std::uint64_t index) const;

  std::uint64_t size_bytes_;
  std::map<std::uint64_t, Block> blocks_;  // by block index; a block is replaced, never changed
};

struct SimulatedFaults {
  // Return an error code to fail this request, kOk to let it pass. Called when it would complete.
  // kNoSpace stands for what a full host file system answers: kDiskWrite with ENOSPC.
  std::function<Code(const IoRequest&)> fail;
  // Return true to acknowledge this write without storing it.
  std::function<bool(const IoRequest&)> lose;
  // Requests stay at the device until release().
  bool hung = false;
  // Return another offset to store this write there; its own to let it pass.
  std::function<std::uint64_t(const IoRequest&)> misdirect;
};

class SimulatedDisk final : public Disk {
 public:
  // The destructor asserts that no request is left: after power_cut(), run the executor first.
  SimulatedDisk(SimExecutor& executor, std::string path, std::shared_ptr<SimulatedMedia> media,
                std::uint64_t seed, SimulatedLatency latency = {}, unsigned depth = 32);
  ~SimulatedDisk() override;

  void submit(IoRequest& request) override;
  std::uint64_t size_bytes() const override;
  const std::string& path() const override;
  DiskKind kind() const override { return DiskKind::kSimulated; }
  bool rotational() const override { return false; }
  bool direct() const override { return true; }
  bool needs_flush() const override;
  const DiskMetrics& metrics() const override;
  void fail() override;
  bool failed() const override;
  Lateness lateness() const override;

  SimulatedFaults& faults();
  void release();
  // The machine loses power now: see the fault model. Nothing after this reaches the media.
  void power_cut();
  // The process that has the disk is killed, and the machine goes on: what has completed is there, what
  // is at the device is, independently, kept, lost or torn. Otherwise as a power cut.
  void kill();
  // Number of writes and flushes that reached the device so far, failed ones included: crash tests
  // count with it.
  std::uint64_t device_operations() const;
  // Calls `hook` before each write or flush takes effect, with its index; the hook may cut the
  // power, or fail this disk or another, and then this write too is kept, lost or torn.
  void on_device_operation(std::function<void(std::uint64_t)> hook);

 private:
  struct Impl;
  // Shared with the coroutines of its requests: after a power cut their timers outlive the disk.
  std::shared_ptr<Impl> impl_;
};

}  // namespace dynamicfs::scheduler
