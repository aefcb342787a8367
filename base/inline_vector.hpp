// A vector whose first kInline elements take no memory of their own: for what is nearly always
// short and must not cost an allocation then.
//
// Of trivially copyable elements only. References into it live until it grows, is moved from, or
// ends, as those into a std::vector.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "base/assert.hpp"
#include "base/heap_bytes.hpp"

namespace dynamicfs {

template <class T, std::size_t kInline>
class InlineVector {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  InlineVector() = default;
  InlineVector(const InlineVector& other) { append(other.data(), other.size()); }
  InlineVector(InlineVector&& other) noexcept { take(other); }
  InlineVector& operator=(const InlineVector& other) {
    if (this != &other) {
      clear();
      append(other.data(), other.size());
    }
    return *this;
  }
  InlineVector& operator=(InlineVector&& other) noexcept {
    if (this != &other) take(other);
    return *this;
  }
  ~InlineVector() = default;

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return more_ != nullptr ? more_.get() : reinterpret_cast<T*>(first_); }
  const T* data() const {
    return more_ != nullptr ? more_.get() : reinterpret_cast<const T*>(first_);
  }
  T& operator[](std::size_t index) { return data()[index]; }
  const T& operator[](std::size_t index) const { return data()[index]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }

  // A default-constructed one more. Throws std::bad_alloc, as append() does.
  T& emplace_back() {
    if (size_ == capacity_) [[unlikely]]
      grow(size_ + 1);
    return *::new (data() + size_++) T();
  }
  // `from` is not in here.
  void append(const T* from, std::size_t count) {
    if (count > capacity_ - size_) [[unlikely]]
      grow(size_ + count);
    T* const to = data() + size_;
    size_ += static_cast<std::uint32_t>(count);
    if (count == 1) {  // as most are: not worth a call
      *to = *from;
    } else if (count != 0) {
      std::memcpy(static_cast<void*>(to), from, count * sizeof(T));
    }
  }
  void clear() { size_ = 0; }
  // What it takes beside itself.
  std::size_t memory_bytes() const {
    return more_ != nullptr ? heap_bytes(capacity_ * sizeof(T)) : 0;
  }
  // To fewer elements.
  void shrink(std::size_t size) {
    if (size < size_) size_ = static_cast<std::uint32_t>(size);
  }

 private:
  void grow(std::size_t needed) {
    const std::size_t capacity = std::max(needed, 2 * std::size_t{capacity_});
    DFS_ASSERT(capacity <= UINT32_MAX);
    auto more = std::make_unique_for_overwrite<T[]>(capacity);
    std::memcpy(static_cast<void*>(more.get()), data(), size_ * sizeof(T));
    more_ = std::move(more);
    capacity_ = static_cast<std::uint32_t>(capacity);
  }
  void take(InlineVector& other) {
    more_ = std::move(other.more_);
    if (more_ == nullptr) {
      std::memcpy(first_, other.first_, other.size_ * sizeof(T));
    }
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, kInline);
  }

  std::uint32_t size_ = 0;
  std::uint32_t capacity_ = kInline;
  std::unique_ptr<T[]> more_;  // holds all of them once there is one
  // Not initialised: elements begin with emplace_back() or append().
  alignas(T) std::byte first_[kInline * sizeof(T)];
};

}  // namespace dynamicfs
