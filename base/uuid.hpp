// A random (version 4) UUID, as text and as 16 bytes.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dynamicfs {

struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  constexpr auto operator<=>(const Uuid&) const = default;
  bool is_zero() const { return *this == Uuid{}; }

  // From 128 random bits.
  static Uuid from_random(std::uint64_t high, std::uint64_t low);
  static std::optional<Uuid> parse(std::string_view text);
  // 8-4-4-4-12 lower-case hex digits.
  std::string text() const;
  std::span<const std::byte> span() const { return std::as_bytes(std::span{bytes}); }
};

}  // namespace dynamicfs
