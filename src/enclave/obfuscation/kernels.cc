#include "enclave/obfuscation/kernels.h"

// One lane, AVX2 and AVX-512 on x86-64; NEON on Arm. The rest would only cost compile time.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "enclave/obfuscation/kernels.cc"
// The order matters.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "enclave/obfuscation/gather-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tempo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using FloatVec = hn::Vec<Floats>;
#if HWY_TARGET == HWY_SCALAR
using HalfFloats = Floats;
#else
using HalfFloats = hn::Half<Floats>;
#endif
using Doubles = hn::Rebind<double, HalfFloats>;
using DoubleVec = hn::Vec<Doubles>;

constexpr std::size_t kSumBlock = 64;  // columns summed in fp32 before float64 takes over
constexpr int kRoundsAtOnce = 4;       // rounds that share one load of the row

// Adds the lanes of a block's fp32 sum to a float64 sum.
HWY_INLINE DoubleVec add_block(DoubleVec total, FloatVec block) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Add(total, hn::PromoteTo(Doubles(), block));
#else
  const HalfFloats half;
  const auto folded = hn::Add(hn::LowerHalf(half, block), hn::UpperHalf(half, block));
  return hn::Add(total, hn::PromoteTo(Doubles(), folded));
#endif
}

enum class Squares { kNone, kPlain, kWeighted };

// sums[k] = row . vectors[k] for k < R; with squares, *magnitude = sum_j row[j]^2 * weights[j].
// (x * w) * x instead of x * x * w: the square of a small gradient underflows before its weight
// can lift it.
template <int R, Squares kSquares>
HWY_INLINE void dot_rounds(const float* HWY_RESTRICT row, std::size_t n,
                           const float* const* vectors, const float* weights, double* sums,
                           double* magnitude) {
  const Floats d;
  const Doubles dd;
  const std::size_t lanes = hn::Lanes(d);
  DoubleVec totals[R + 1];
  const float* v[R + 1];
  for (int k = 0; k < R; ++k) v[k] = vectors[k];
  for (int k = 0; k <= R; ++k) totals[k] = hn::Zero(dd);

  const std::size_t vectorised = n / lanes * lanes;
  for (std::size_t begin = 0; begin < vectorised; begin += kSumBlock) {
    const std::size_t end = HWY_MIN(begin + kSumBlock, vectorised);
    FloatVec block[R + 1];
    for (int k = 0; k <= R; ++k) block[k] = hn::Zero(d);
    for (std::size_t j = begin; j < end; j += lanes) {
      const FloatVec x = hn::LoadU(d, row + j);
      for (int k = 0; k < R; ++k) block[k] = hn::MulAdd(x, hn::LoadU(d, v[k] + j), block[k]);
      if constexpr (kSquares == Squares::kPlain) block[R] = hn::MulAdd(x, x, block[R]);
      if constexpr (kSquares == Squares::kWeighted) {
        block[R] = hn::MulAdd(hn::Mul(x, hn::LoadU(d, weights + j)), x, block[R]);
      }
    }
    for (int k = 0; k < R; ++k) totals[k] = add_block(totals[k], block[k]);
    if constexpr (kSquares != Squares::kNone) totals[R] = add_block(totals[R], block[R]);
  }
  double tail[R + 1] = {};
  for (std::size_t j = vectorised; j < n; ++j) {
    const double x = row[j];
    for (int k = 0; k < R; ++k) tail[k] += x * v[k][j];
    if constexpr (kSquares == Squares::kPlain) tail[R] += x * x;
    if constexpr (kSquares == Squares::kWeighted) tail[R] += x * x * weights[j];
  }
  for (int k = 0; k < R; ++k) sums[k] = hn::GetLane(hn::SumOfLanes(dd, totals[k])) + tail[k];
  if constexpr (kSquares != Squares::kNone) {
    *magnitude = hn::GetLane(hn::SumOfLanes(dd, totals[R])) + tail[R];
  }
}

template <int R>
HWY_INLINE void dot_group(const float* row, std::size_t n, const float* const* vectors,
                          const float* weights, double* sums, double* magnitude) {
  if (magnitude == nullptr) {
    if constexpr (R > 0) {
      dot_rounds<R, Squares::kNone>(row, n, vectors, nullptr, sums, nullptr);
    }
  } else if (weights == nullptr) {
    dot_rounds<R, Squares::kPlain>(row, n, vectors, nullptr, sums, magnitude);
  } else {
    dot_rounds<R, Squares::kWeighted>(row, n, vectors, weights, sums, magnitude);
  }
}

void check_row_impl(const float* row, std::size_t n, const CheckRow& check, double* sums,
                    double* magnitude) {
  int done = 0;
  do {
    const float* const* vectors = check.vectors + done;
    const float* weights = check.square_weights;
    switch (HWY_MIN(check.rounds - done, kRoundsAtOnce)) {
      case 0:
        dot_group<0>(row, n, vectors, weights, sums + done, magnitude);
        break;
      case 1:
        dot_group<1>(row, n, vectors, weights, sums + done, magnitude);
        break;
      case 2:
        dot_group<2>(row, n, vectors, weights, sums + done, magnitude);
        break;
      case 3:
        dot_group<3>(row, n, vectors, weights, sums + done, magnitude);
        break;
      default:
        dot_group<kRoundsAtOnce>(row, n, vectors, weights, sums + done, magnitude);
    }
    magnitude = nullptr;  // the first group has it
    done += kRoundsAtOnce;
  } while (done < check.rounds);
}

// out[j] = row[index[j]] * column_scale[j] * row_scale (+ bias[j]) (+ out[j])
template <bool kBias, bool kAccumulate, class Gather>
HWY_INLINE void permute_with(const Gather& gather, const float* HWY_RESTRICT row, std::size_t n,
                             const std::uint32_t* HWY_RESTRICT index,
                             const float* HWY_RESTRICT column_scale, float row_scale,
                             const float* bias, float* HWY_RESTRICT out) {
  const Floats d;
  const std::size_t lanes = hn::Lanes(d);
  const FloatVec factor = hn::Set(d, row_scale);
  std::size_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    FloatVec value = hn::Mul(hn::Mul(gather(index + j), hn::LoadU(d, column_scale + j)), factor);
    if constexpr (kBias) value = hn::Add(value, hn::LoadU(d, bias + j));
    if constexpr (kAccumulate) value = hn::Add(value, hn::LoadU(d, out + j));
    hn::StoreU(value, d, out + j);
  }
  for (; j < n; ++j) {
    float value = row[index[j]] * column_scale[j] * row_scale;
    if constexpr (kBias) value += bias[j];
    if constexpr (kAccumulate) value += out[j];
    out[j] = value;
  }
}

template <bool kBias, bool kAccumulate>
HWY_INLINE void permute_row(const float* row, std::size_t n, const std::uint32_t* index,
                            const float* column_scale, float row_scale, const float* bias,
                            float* out) {
  const auto with = [&](const auto& gather) HWY_ATTR {
    permute_with<kBias, kAccumulate>(gather, row, n, index, column_scale, row_scale, bias, out);
  };
#if HWY_TARGET == HWY_AVX3
  if (n <= 32) return with(RegisterGather<1>(row, n));
  if (n <= 64) return with(RegisterGather<2>(row, n));
  if (n <= 128) return with(RegisterGather<4>(row, n));
#endif
  with(LaneGather(row));
}

void encode_row_impl(const float* row, std::size_t n, const std::uint32_t* index,
                     const float* column_scale, float row_scale, const CheckRow& check, float* out,
                     double* sums, double* magnitude) {
  if (check.rounds > 0 || magnitude != nullptr) check_row_impl(row, n, check, sums, magnitude);
  permute_row<false, false>(row, n, index, column_scale, row_scale, nullptr, out);
}

void decode_row_impl(const float* row, std::size_t n, const std::uint32_t* inverse,
                     const float* column_scale, float row_scale, const float* bias, bool accumulate,
                     float* out) {
  if (bias != nullptr) {
    if (accumulate) {
      permute_row<true, true>(row, n, inverse, column_scale, row_scale, bias, out);
    } else {
      permute_row<true, false>(row, n, inverse, column_scale, row_scale, bias, out);
    }
  } else if (accumulate) {
    permute_row<false, true>(row, n, inverse, column_scale, row_scale, nullptr, out);
  } else {
    permute_row<false, false>(row, n, inverse, column_scale, row_scale, nullptr, out);
  }
}

// to[j] += weight * row[j]
HWY_INLINE void add_scaled(const float* HWY_RESTRICT row, std::size_t n, float weight,
                           float* HWY_RESTRICT to) {
  const Floats d;
  const std::size_t lanes = hn::Lanes(d);
  const FloatVec w = hn::Set(d, weight);
  std::size_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, row + j), w, hn::LoadU(d, to + j)), d, to + j);
  }
  for (; j < n; ++j) to[j] += row[j] * weight;
}

void accumulate_columns_impl(const float* HWY_RESTRICT row, std::size_t n, int rounds,
                             const float* HWY_RESTRICT weights, float square_weight,
                             float* HWY_RESTRICT sums, float* HWY_RESTRICT squares) {
  for (int k = 0; k < rounds; ++k) add_scaled(row, n, weights[k], sums + k * n);
  const Floats d;
  const std::size_t lanes = hn::Lanes(d);
  const FloatVec w = hn::Set(d, square_weight);
  std::size_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    const FloatVec x = hn::LoadU(d, row + j);
    hn::StoreU(hn::MulAdd(hn::Mul(x, w), x, hn::LoadU(d, squares + j)), d, squares + j);
  }
  for (; j < n; ++j) squares[j] += row[j] * square_weight * row[j];
}

void accumulate_moments_impl(const float* HWY_RESTRICT row, std::size_t n,
                             const float* HWY_RESTRICT shift, float* HWY_RESTRICT sums,
                             float* HWY_RESTRICT squares) {
  const Floats d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    const FloatVec x = hn::Sub(hn::LoadU(d, row + j), hn::LoadU(d, shift + j));
    hn::StoreU(hn::Add(hn::LoadU(d, sums + j), x), d, sums + j);
    hn::StoreU(hn::MulAdd(x, x, hn::LoadU(d, squares + j)), d, squares + j);
  }
  for (; j < n; ++j) {
    const float x = row[j] - shift[j];
    sums[j] += x;
    squares[j] += x * x;
  }
}

void flush_to_double_impl(float* HWY_RESTRICT partial, std::size_t n, double* HWY_RESTRICT totals) {
  const HalfFloats d;
  const Doubles dd;
  const std::size_t lanes = hn::Lanes(dd);
  std::size_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    const DoubleVec x = hn::PromoteTo(dd, hn::LoadU(d, partial + j));
    hn::StoreU(hn::Add(hn::LoadU(dd, totals + j), x), dd, totals + j);
    hn::StoreU(hn::Zero(d), d, partial + j);
  }
  for (; j < n; ++j) {
    totals[j] += partial[j];
    partial[j] = 0;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tempo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tempo {

HWY_EXPORT(check_row_impl);
HWY_EXPORT(encode_row_impl);
HWY_EXPORT(decode_row_impl);
HWY_EXPORT(accumulate_columns_impl);
HWY_EXPORT(accumulate_moments_impl);
HWY_EXPORT(flush_to_double_impl);

void check_row(const float* row, std::size_t n, const CheckRow& check, double* sums,
               double* magnitude) {
  HWY_DYNAMIC_DISPATCH(check_row_impl)(row, n, check, sums, magnitude);
}

void encode_row(const float* row, std::size_t n, const std::uint32_t* index,
                const float* column_scale, float row_scale, const CheckRow& check, float* out,
                double* sums, double* magnitude) {
  HWY_DYNAMIC_DISPATCH(encode_row_impl)
  (row, n, index, column_scale, row_scale, check, out, sums, magnitude);
}

void decode_row(const float* row, std::size_t n, const std::uint32_t* inverse,
                const float* column_scale, float row_scale, const float* bias, bool accumulate,
                float* out) {
  HWY_DYNAMIC_DISPATCH(decode_row_impl)
  (row, n, inverse, column_scale, row_scale, bias, accumulate, out);
}

void accumulate_columns(const float* row, std::size_t n, int rounds, const float* weights,
                        float square_weight, float* sums, float* squares) {
  HWY_DYNAMIC_DISPATCH(accumulate_columns_impl)
  (row, n, rounds, weights, square_weight, sums, squares);
}

void accumulate_moments(const float* row, std::size_t n, const float* shift, float* sums,
                        float* squares) {
  HWY_DYNAMIC_DISPATCH(accumulate_moments_impl)(row, n, shift, sums, squares);
}

void flush_to_double(float* partial, std::size_t n, double* totals) {
  HWY_DYNAMIC_DISPATCH(flush_to_double_impl)(partial, n, totals);
}

}  // namespace tempo
#endif  // HWY_ONCE
