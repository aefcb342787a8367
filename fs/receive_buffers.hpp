// The memory that requests of the kernel are received into: as many buffers as requests may wait,
// each so placed that the payload of a WRITE begins on a block boundary and can go to the disks
// from where it lies.
//
// A reader that finds no buffer waits until one comes back: that is where the daemon stops taking
// requests, so memory is bounded and nothing is ever refused (INV-7).
//
// Threads  Every method may be called from any thread. take() blocks: for readers alone.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/buffer.hpp"
#include "fs/fuse_wire.hpp"

namespace dynamicfs::fs {

class ReceiveBuffers;

// One buffer; goes back when it dies.
class ReceiveBuffer {
 public:
  ReceiveBuffer() = default;
  // Memory of somebody else, who waits for the answer of the request in it.
  explicit ReceiveBuffer(std::span<std::byte> lent) : memory_(lent) {}
  ReceiveBuffer(ReceiveBuffer&& other) noexcept
      : home_(std::exchange(other.home_, nullptr)),
        buffer_(std::move(other.buffer_)),
        memory_(std::exchange(other.memory_, {})) {}
  ReceiveBuffer& operator=(ReceiveBuffer&& other) noexcept {
    if (this != &other) {
      give_back();
      home_ = std::exchange(other.home_, nullptr);
      buffer_ = std::move(other.buffer_);
      memory_ = std::exchange(other.memory_, {});
    }
    return *this;
  }
  ~ReceiveBuffer() { give_back(); }

  explicit operator bool() const { return home_ != nullptr; }
  // Where a request is received.
  std::byte* message() { return memory_.data() + kBlockBytes - wire::kWriteHeaderBytes; }
  std::size_t message_bytes_max() const {
    return memory_.size() - (kBlockBytes - wire::kWriteHeaderBytes);
  }
  // The bytes behind `data`, which lies in this buffer.
  std::size_t spare_behind(std::span<const std::byte> data) const {
    return static_cast<std::size_t>(memory_.data() + memory_.size() - (data.data() + data.size()));
  }

 private:
  friend class ReceiveBuffers;
  ReceiveBuffer(ReceiveBuffers* home, Buffer buffer)
      : home_(home), buffer_(std::move(buffer)), memory_(buffer_.span()) {}
  void give_back();

  ReceiveBuffers* home_ = nullptr;
  Buffer buffer_;
  std::span<std::byte> memory_;
};

class ReceiveBuffers {
 public:
  // Each holds a WRITE of `write_bytes_max`; `count_max` of them at most.
  ReceiveBuffers(std::size_t write_bytes_max, std::size_t count_max);
  // All buffers must have come back.
  ~ReceiveBuffers();
  ReceiveBuffers(const ReceiveBuffers&) = delete;
  ReceiveBuffers& operator=(const ReceiveBuffers&) = delete;

  ReceiveBuffer take();

  std::size_t count_max() const { return count_max_; }
  std::size_t made() const;  // so far; they are kept, since first use of memory is dear
  std::size_t out() const;
  std::size_t waits() const;  // how often a reader had to wait

 private:
  friend class ReceiveBuffer;
  void put(Buffer buffer);

  const std::size_t buffer_bytes_;
  const std::size_t count_max_;
  // std::mutex, not ours: readers wait on the condition variable.
  mutable std::mutex mutex_;
  std::condition_variable came_back_;
  std::vector<Buffer>
      free_;  // the one used last is at the end, and taken first: it is in the caches
  std::size_t made_ = 0;
  std::size_t out_ = 0;
  std::size_t waits_ = 0;
};

}  // namespace dynamicfs::fs
