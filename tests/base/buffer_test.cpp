#include "base/buffer.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <thread>
#include <vector>

using namespace dynamicfs;

namespace {

bool aligned(const Buffer& buffer) {
  return reinterpret_cast<std::uintptr_t>(buffer.data()) % kBlockBytes == 0;
}

}  // namespace

TEST_SUITE("buffer") {
  TEST_CASE("a buffer has the size asked for, is aligned, and holds whole blocks") {
    for (const std::size_t size : {std::size_t{1}, std::size_t{4095}, std::size_t{4096},
                                   std::size_t{4097}, std::size_t{kMiB}, std::size_t{kMiB + 1}}) {
      CAPTURE(size);
      Buffer buffer{size};
      CHECK(buffer.size() == size);
      CHECK(buffer.span().size() == size);
      CHECK(buffer.capacity() >= size);
      CHECK(buffer.capacity() % kBlockBytes == 0);
      CHECK(aligned(buffer));
      std::memset(buffer.data(), 0x5a, buffer.capacity());
    }
  }

  TEST_CASE("no bytes need no memory") {
    const std::uint64_t before = buffer_use().in_use_bytes;
    const Buffer none;
    const Buffer zero{0};
    CHECK(none.data() == nullptr);
    CHECK(zero.data() == nullptr);
    CHECK(zero.span().empty());
    CHECK(buffer_use().in_use_bytes == before);
  }

  TEST_CASE("a moved buffer leaves nothing behind, and assignment frees what was there") {
    const std::uint64_t before = buffer_use().in_use_bytes;
    Buffer a{kBlockBytes};
    a.data()[0] = std::byte{7};
    Buffer b{std::move(a)};
    CHECK(a.data() == nullptr);
    CHECK(a.size() == 0);
    CHECK(b.data()[0] == std::byte{7});
    Buffer c{2 * kBlockBytes};
    CHECK(buffer_use().in_use_bytes == before + 3 * kBlockBytes);
    c = std::move(b);
    CHECK(buffer_use().in_use_bytes == before + kBlockBytes);
    CHECK(c.size() == kBlockBytes);
    CHECK(c.data()[0] == std::byte{7});
    c.reset();
    c.reset();
    CHECK(buffer_use().in_use_bytes == before);
  }

  TEST_CASE("a freed buffer is used again for one of its class") {
    Buffer first{kBlockBytes};
    const std::byte* const at = first.data();
    first.reset();
    const Buffer second{kBlockBytes - 1};
    CHECK(second.data() == at);
  }

  TEST_CASE("the pool keeps 64 MiB and no more") {
    {
      std::vector<Buffer> many;
      for (int i = 0; i < 80; ++i) many.emplace_back(kMiB);
    }
    CHECK(buffer_use().pooled_bytes <= 64 * kMiB);
    CHECK(buffer_use().pooled_bytes > 60 * kMiB);
  }

  TEST_CASE("a pool full of one size makes room for another") {
    {
      std::vector<Buffer> many;
      for (int i = 0; i < 64; ++i) many.emplace_back(kMiB);
    }
    Buffer{4 * kMiB}.reset();
    const std::uint64_t pooled = buffer_use().pooled_bytes;
    CHECK(pooled <= 64 * kMiB);
    const Buffer from_pool{4 * kMiB};
    CHECK(buffer_use().pooled_bytes == pooled - 4 * kMiB);
  }

  TEST_CASE("threads share the pool") {
    const std::uint64_t before = buffer_use().in_use_bytes;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 500; ++i) {
          Buffer a{kBlockBytes};
          Buffer b{2 * kBlockBytes};
          std::memset(a.data(), t, a.size());
          std::memset(b.data(), t, b.size());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(buffer_use().in_use_bytes == before);
  }
}
