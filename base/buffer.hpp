// Block-aligned memory for I/O, kept and reused: the first use of a page costs more than the I/O
// it carries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/ids.hpp"

namespace dynamicfs {

// Owns `capacity()` bytes aligned to kBlockBytes; contents undefined. Freed buffers go back to a
// process-wide pool, by size class (powers of two, at most 64 MiB kept). Any thread.
class Buffer {
 public:
  Buffer() = default;
  // At least `size_bytes`; size() is exactly that.
  explicit Buffer(std::size_t size_bytes);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      capacity_ = std::exchange(other.capacity_, 0);
    }
    return *this;
  }
  ~Buffer() { reset(); }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  std::span<std::byte> span() { return {data_, size_}; }
  std::span<const std::byte> span() const { return {data_, size_}; }
  void reset();

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

// Bytes held by buffers in use, and by the pool, for `status`.
struct BufferUse {
  std::uint64_t in_use_bytes = 0;
  std::uint64_t pooled_bytes = 0;
};
BufferUse buffer_use();

}  // namespace dynamicfs
