// What erasure coding costs a processor, beside copying as much: stripes of 1 MiB of data are encoded, and what
// is lost of them is computed from the rest. Bytes per second are bytes of data of the stripe, also where only a
// column or two of it are computed.
//
//   tools/bench/erasure [--benchmark_...]
#include <benchmark/benchmark.h>

#include <cstring>
#include <numeric>
#include <random>

#include "base/buffer.hpp"
#include "extent/erasure_codec.hpp"

namespace dynamicfs::extent {
namespace {

// As many stripes as no cache holds, in turn: a write finds its data in none.
constexpr std::size_t kStripes = 64;

struct Stripes {
  Stripes(std::size_t data, std::size_t parity)
      : data_columns(data),
        width(data + parity),
        column_bytes(align_down(kMiB / data, kBlockBytes)),
        memory(kStripes * width * column_bytes) {
    std::mt19937_64 random(1);
    for (std::size_t at = 0; at < memory.size(); at += 8)
      store<std::uint64_t>(memory.data() + at, random());
  }
  std::vector<std::byte*> columns(std::size_t stripe) {
    std::vector<std::byte*> out;
    for (std::size_t i = 0; i < width; ++i)
      out.push_back(memory.data() + (stripe % kStripes * width + i) * column_bytes);
    return out;
  }
  std::int64_t bytes(const benchmark::State& state) const {
    return state.iterations() * static_cast<std::int64_t>(data_columns * column_bytes);
  }
  std::size_t data_columns;
  std::size_t width;
  std::size_t column_bytes;
  Buffer memory;
};

ErasureCodec codec_of(const benchmark::State& state) {
  return ErasureCodec{{.kind = journal::Policy::Kind::kErasure,
                       .copies_or_data = static_cast<std::uint8_t>(state.range(0)),
                       .parity = static_cast<std::uint8_t>(state.range(1))}};
}

void encode(benchmark::State& state) {
  Stripes stripes(static_cast<std::size_t>(state.range(0)),
                  static_cast<std::size_t>(state.range(1)));
  const ErasureCodec codec = codec_of(state);
  std::size_t stripe = 0;
  for (auto _ : state) codec.encode(stripes.column_bytes, stripes.columns(stripe++));
  state.SetBytesProcessed(stripes.bytes(state));
}

// range(2): how many of the first columns are lost.
void reconstruct(benchmark::State& state) {
  Stripes stripes(static_cast<std::size_t>(state.range(0)),
                  static_cast<std::size_t>(state.range(1)));
  const ErasureCodec codec = codec_of(state);
  std::vector<std::size_t> lost(static_cast<std::size_t>(state.range(2)));
  std::iota(lost.begin(), lost.end(), 0);
  std::vector<std::size_t> given(stripes.data_columns);
  std::iota(given.begin(), given.end(), lost.size());
  std::size_t stripe = 0;
  for (auto _ : state)
    codec.reconstruct(stripes.column_bytes, given, lost, stripes.columns(stripe++));
  state.SetBytesProcessed(stripes.bytes(state));
}

void copy(benchmark::State& state) {
  Stripes stripes(4, 2);
  Buffer to(kMiB);
  std::size_t stripe = 0;
  for (auto _ : state) {
    std::memcpy(to.data(), stripes.columns(stripe++)[0], to.size());
    benchmark::DoNotOptimize(to.data());
  }
  state.SetBytesProcessed(stripes.bytes(state));
}

BENCHMARK(copy);
BENCHMARK(encode)->Args({2, 1})->Args({4, 2})->Args({8, 3})->Args({10, 4});
BENCHMARK(reconstruct)->Args({2, 1, 1})->Args({4, 2, 1})->Args({4, 2, 2})->Args({10, 4, 4});

}  // namespace
}  // namespace dynamicfs::extent

BENCHMARK_MAIN();
