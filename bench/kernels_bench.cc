// Time an element of the passes over operands and results, against memcpy of as many bytes.
// Matrices are larger than the last-level cache; the side that stands for the ring is 4 MB, as a
// ring that stays in the cache is. Argument 1: columns; argument 2: rounds of checks.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "enclave/integrity/freivalds.h"
#include "enclave/obfuscation/kernels.h"
#include "enclave/obfuscation/key.h"

namespace tempo {
namespace {

constexpr std::size_t kMatrixFloats = std::size_t{16} << 20;
constexpr std::size_t kRingFloats = std::size_t{1} << 20;

struct Operands {
  Operands(std::size_t columns, int check_rounds)
      : n(columns),
        rounds(check_rounds),
        rows(kMatrixFloats / columns),
        ring_rows(kRingFloats / columns),
        key(AxisKey::generate(random, columns, {})),
        matrix(rows * columns),
        ring(ring_rows * columns),
        vectors(check_rounds * columns),
        squares(columns, 1.5F) {
    draw_check_vector(random, CheckDistribution::kUniform, matrix.span());
    draw_check_vector(random, CheckDistribution::kUniform, ring.span());
    draw_check_vector(random, CheckDistribution::kUniform, vectors);
    for (int k = 0; k < rounds; ++k) pointers.push_back(vectors.data() + k * n);
  }
  CheckRow check() const { return {rounds, pointers.data(), squares.data()}; }
  float* matrix_row(std::size_t i) { return matrix.data() + i * n; }
  float* ring_row(std::size_t i) { return ring.data() + i % ring_rows * n; }

  SystemRandom random;
  std::size_t n;
  int rounds;
  std::size_t rows;
  std::size_t ring_rows;
  AxisKey key;
  AlignedBuffer<float> matrix;
  AlignedBuffer<float> ring;
  std::vector<float> vectors;
  std::vector<float> squares;
  std::vector<const float*> pointers;
};

void report(benchmark::State& state, std::size_t elements) {
  state.counters["ns/element"] = benchmark::Counter(
      static_cast<double>(elements) * static_cast<double>(state.iterations()) * 1e-9,
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// What memcpy takes from the matrix into a ring that stays in the cache.
void copy_to_ring(benchmark::State& state) {
  Operands o(state.range(0), 0);
  for (auto _ : state) {
    for (std::size_t i = 0; i < o.rows; ++i) {
      std::memcpy(o.ring_row(i), o.matrix_row(i), o.n * sizeof(float));
    }
    benchmark::ClobberMemory();
  }
  report(state, o.rows * o.n);
}

// What memcpy takes from the ring into the matrix.
void copy_from_ring(benchmark::State& state) {
  Operands o(state.range(0), 0);
  for (auto _ : state) {
    for (std::size_t i = 0; i < o.rows; ++i) {
      std::memcpy(o.matrix_row(i), o.ring_row(i), o.n * sizeof(float));
    }
    benchmark::ClobberMemory();
  }
  report(state, o.rows * o.n);
}

void encode(benchmark::State& state) {
  Operands o(state.range(0), static_cast<int>(state.range(1)));
  std::vector<double> sums(o.rounds);
  double magnitude = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < o.rows; ++i) {
      encode_row(o.matrix_row(i), o.n, o.key.permutation.data(), o.key.coefficient.data(), 0.25F,
                 o.check(), o.ring_row(i), sums.data(), o.rounds > 0 ? &magnitude : nullptr);
      benchmark::DoNotOptimize(sums.data());
    }
    benchmark::ClobberMemory();
  }
  report(state, o.rows * o.n);
}

void copy_check_decode(benchmark::State& state) {
  Operands o(state.range(0), static_cast<int>(state.range(1)));
  std::vector<double> sums(o.rounds);
  AlignedBuffer<float> row(o.n);
  double magnitude = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < o.rows; ++i) {
      copy_in(reinterpret_cast<const std::byte*>(o.ring_row(i)), o.n, row.data());
      check_row(row.data(), o.n, o.check(), sums.data(), &magnitude);
      decode_row(row.data(), o.n, o.key.inverse.data(), o.key.reciprocal.data(), 4.0F, nullptr,
                 false, o.matrix_row(i));
      benchmark::DoNotOptimize(sums.data());
    }
    benchmark::ClobberMemory();
  }
  report(state, o.rows * o.n);
}

void copy_in_alone(benchmark::State& state) {
  Operands o(state.range(0), 0);
  AlignedBuffer<float> row(o.n);
  for (auto _ : state) {
    for (std::size_t i = 0; i < o.rows; ++i) {
      copy_in(reinterpret_cast<const std::byte*>(o.ring_row(i)), o.n, row.data());
      benchmark::DoNotOptimize(row.data());
    }
    benchmark::ClobberMemory();
  }
  report(state, o.rows * o.n);
}

// Column sums for the check of the weight gradient, over rows in the ring.
void columns(benchmark::State& state) {
  Operands o(state.range(0), static_cast<int>(state.range(1)));
  std::vector<float> weights(o.rounds, 0.5F);
  std::vector<float> partial((o.rounds + 1) * o.n);
  std::vector<double> totals(partial.size());
  for (auto _ : state) {
    for (std::size_t i = 0; i < o.rows; ++i) {
      accumulate_columns(o.ring_row(i), o.n, o.rounds, weights.data(), 2.0F, partial.data(),
                         partial.data() + o.rounds * o.n);
      if ((i + 1) % kColumnFlushRows == 0)
        flush_to_double(partial.data(), partial.size(), totals.data());
    }
    benchmark::ClobberMemory();
  }
  report(state, o.rows * o.n);
}

// A key, in ns an element of its axis.
void key_generation(benchmark::State& state) {
  SystemRandom random;
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(AxisKey::generate(random, size, {}));
  report(state, size);
}

void check_vector(benchmark::State& state) {
  SystemRandom random;
  std::vector<float> vector(state.range(0));
  for (auto _ : state) {
    draw_check_vector(random, CheckDistribution::kUniform, vector);
    benchmark::ClobberMemory();
  }
  report(state, vector.size());
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgName("n")->Unit(benchmark::kMillisecond);
  for (const int n : {64, 128, 256, 576, 1024, 2048}) b->Arg(n);
}

void sizes_and_rounds(benchmark::internal::Benchmark* b) {
  b->ArgNames({"n", "rounds"})->Unit(benchmark::kMillisecond);
  for (const int n : {64, 128, 256, 576, 1024, 2048}) {
    for (const int rounds : {2, 4}) b->Args({n, rounds});
  }
}

BENCHMARK(copy_to_ring)->Apply(sizes);
BENCHMARK(copy_from_ring)->Apply(sizes);
BENCHMARK(encode)->Apply(sizes_and_rounds);
BENCHMARK(encode)->ArgNames({"n", "rounds"})->Args({576, 0})->Unit(benchmark::kMillisecond);
BENCHMARK(copy_in_alone)->Apply(sizes);
BENCHMARK(copy_check_decode)->Apply(sizes_and_rounds);
BENCHMARK(columns)->Apply(sizes_and_rounds);
BENCHMARK(key_generation)->ArgName("n")->Arg(64)->Arg(576)->Arg(65536);
BENCHMARK(check_vector)->ArgName("n")->Arg(64)->Arg(4608);

}  // namespace
}  // namespace tempo

BENCHMARK_MAIN();
