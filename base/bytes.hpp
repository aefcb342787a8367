// Little-endian bytes, bounds checked: the only way structures go to disk and come back.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/assert.hpp"
#include "base/ids.hpp"

namespace dynamicfs {

using Bytes = std::vector<std::byte>;

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span{text.data(), text.size()});
}
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

static_assert(std::endian::native == std::endian::little,
              "the formats are little-endian; a big-endian port swaps in store() and load()");
template <class T>
requires std::is_integral_v<T>
void store(std::byte* at, T value) { std::memcpy(at, &value, sizeof value); }
template <class T>
requires std::is_integral_v<T> T load(const std::byte* at) {
  // A bool that is neither 0 nor 1 is undefined behaviour, and a disk can hold any byte.
  if constexpr (std::is_same_v<T, bool>) return *at != std::byte{0};
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Appends to a buffer that grows.
class ByteWriter {
 public:
  explicit ByteWriter(Bytes& out) : out_(out) {}

  template <class T>
  requires std::is_integral_v<T>
  void put(T value) {
    const std::size_t at = out_.size();
    out_.resize(at + sizeof value);
    store(out_.data() + at, value);
  }
  template <class Tag, class Rep>
  void put(Id<Tag, Rep> id) {
    put(id.raw);
  }
  void put_bytes(std::span<const std::byte> bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  // Length as `Length`, which must be able to hold it, then the bytes.
  template <class Length>
  void put_sized(std::span<const std::byte> bytes) {
    DFS_ASSERT(std::in_range<Length>(bytes.size()));
    put(static_cast<Length>(bytes.size()));
    put_bytes(bytes);
  }
  template <class Length>
  void put_sized(std::string_view text) {
    put_sized<Length>(as_bytes(text));
  }
  std::size_t size() const { return out_.size(); }

 private:
  Bytes& out_;
};

// Reads front to back. The first read past the end makes ok() false for good and yields zeros, so
// a parser checks once at its end. Returned views borrow from the input.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> in) : in_(in) {}

  template <class T>
  T get() {
    if constexpr (std::is_integral_v<T>) {
      const std::span<const std::byte> bytes = get_bytes(sizeof(T));
      return ok_ ? load<T>(bytes.data()) : T{0};
    } else {
      return T{get<typename T::Raw>()};
    }
  }
  std::span<const std::byte> get_bytes(std::size_t size) {
    if (!ok_ || size > in_.size()) {
      ok_ = false;
      return {};
    }
    const auto bytes = in_.first(size);
    in_ = in_.subspan(size);
    return bytes;
  }
  template <class Length>
  std::span<const std::byte> get_sized() {
    return get_bytes(get<Length>());
  }
  template <class Length>
  std::string get_text() {
    return std::string{as_text(get_sized<Length>())};
  }
  bool ok() const { return ok_; }
  bool at_end() const { return in_.empty(); }
  std::size_t left() const { return in_.size(); }

 private:
  std::span<const std::byte> in_;
  bool ok_ = true;
};

}  // namespace dynamicfs
