#include "enclave/nn/kernels.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "enclave/nn/kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tempo::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using I32 = hn::ScalableTag<std::int32_t>;
using F64 = hn::ScalableTag<double>;
using Half = hn::Rebind<float, F64>;  // as many floats as fit a vector of doubles

// Rows that are taken together, so that accumulators in memory are touched that much less often.
constexpr std::int64_t kRowStrip = 8;

// Calls body(tag, offset) for full vectors, then for single elements.
template <class Body>
HWY_INLINE void for_lanes(std::int64_t n, const Body& body) {
  const F32 d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  const hn::CappedTag<float, 1> one;
  for (; i < n; ++i) body(one, i);
}

template <class Body>
HWY_INLINE void for_double_lanes(std::int64_t n, const Body& body) {
  const F64 d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  const hn::CappedTag<double, 1> one;
  for (; i < n; ++i) body(one, i);
}

template <class D>
HWY_INLINE hn::Vec<D> load_doubles(D d, const float* x) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), x));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V rectify(D d, V v) {
  const V zero = hn::Zero(d);
  return hn::IfThenElse(hn::Lt(v, zero), zero, v);  // keeps NaN
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE void store(D d, V v, float* y, bool accumulate) {
  hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, y), v) : v, d, y);
}

void Accumulate(const float* x, float* y, std::int64_t n) {
  for_lanes(n, [&](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, y + i), hn::LoadU(d, x + i)), d, y + i);
  });
}

void AddScaled(const float* x, float scale, float* y, std::int64_t n) {
  for_lanes(n, [&](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::MulAdd(hn::Set(d, scale), hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
  });
}

void Relu(const float* x, float* y, std::int64_t n) {
  for_lanes(n, [&](auto d, std::int64_t i)
                   HWY_ATTR { hn::StoreU(rectify(d, hn::LoadU(d, x + i)), d, y + i); });
}

void ReluBackward(const float* y, const float* dy, float* dx, std::int64_t n, bool accumulate) {
  for_lanes(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto is_open = hn::Gt(hn::LoadU(d, y + i), hn::Zero(d));
    store(d, hn::IfThenElseZero(is_open, hn::LoadU(d, dy + i)), dx + i, accumulate);
  });
}

void Add(const float* a, const float* b, float* y, std::int64_t n, bool with_relu) {
  for_lanes(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto sum = hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, b + i));
    hn::StoreU(with_relu ? rectify(d, sum) : sum, d, y + i);
  });
}

void ColumnSums(const float* x, std::int64_t rows, std::int64_t columns, double* sums) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kRowStrip) {
    const std::int64_t r1 = std::min(rows, r0 + kRowStrip);
    for_double_lanes(columns, [&](auto d, std::int64_t c) HWY_ATTR {
      auto sum = hn::LoadU(d, sums + c);
      for (std::int64_t r = r0; r < r1; ++r) {
        sum = hn::Add(sum, load_doubles(d, x + r * columns + c));
      }
      hn::StoreU(sum, d, sums + c);
    });
  }
}

void ColumnMoments(const float* x, std::int64_t rows, std::int64_t columns, const float* shift,
                   double* sums, double* squares) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kRowStrip) {
    const std::int64_t r1 = std::min(rows, r0 + kRowStrip);
    for_double_lanes(columns, [&](auto d, std::int64_t c) HWY_ATTR {
      const auto origin = load_doubles(d, shift + c);
      auto sum = hn::LoadU(d, sums + c);
      auto square = hn::LoadU(d, squares + c);
      for (std::int64_t r = r0; r < r1; ++r) {
        const auto v = hn::Sub(load_doubles(d, x + r * columns + c), origin);
        sum = hn::Add(sum, v);
        square = hn::MulAdd(v, v, square);
      }
      hn::StoreU(sum, d, sums + c);
      hn::StoreU(square, d, squares + c);
    });
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V normalized(D d, const Normalization& norm, V centred, std::int64_t c) {
  return hn::MulAdd(centred, hn::LoadU(d, norm.scale + c), hn::LoadU(d, norm.shift + c));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V masked(D d, const Normalization& norm, V centred, V dy, std::int64_t c) {
  if (!norm.relu) return dy;
  return hn::IfThenElseZero(hn::Gt(normalized(d, norm, centred, c), hn::Zero(d)), dy);
}

void Normalize(const Normalization& norm, const float* x, std::int64_t rows, std::int64_t columns,
               float* y) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for_lanes(columns, [&](auto d, std::int64_t c) HWY_ATTR {
      const std::int64_t i = r * columns + c;
      const auto centred = hn::Sub(hn::LoadU(d, x + i), hn::LoadU(d, norm.mean + c));
      const auto v = normalized(d, norm, centred, c);
      hn::StoreU(norm.relu ? rectify(d, v) : v, d, y + i);
    });
  }
}

void NormalizeSums(const Normalization& norm, const float* x, const float* dy, std::int64_t rows,
                   std::int64_t columns, double* sums, double* products) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kRowStrip) {
    const std::int64_t r1 = std::min(rows, r0 + kRowStrip);
    for_double_lanes(columns, [&](auto d, std::int64_t c) HWY_ATTR {
      const hn::Rebind<float, decltype(d)> df;
      auto sum = hn::LoadU(d, sums + c);
      auto product = hn::LoadU(d, products + c);
      const auto mean = hn::LoadU(df, norm.mean + c);
      for (std::int64_t r = r0; r < r1; ++r) {
        const std::int64_t i = r * columns + c;
        const auto centred = hn::Sub(hn::LoadU(df, x + i), mean);
        const auto dz = hn::PromoteTo(d, masked(df, norm, centred, hn::LoadU(df, dy + i), c));
        sum = hn::Add(sum, dz);
        product = hn::MulAdd(dz, hn::PromoteTo(d, centred), product);
      }
      hn::StoreU(sum, d, sums + c);
      hn::StoreU(product, d, products + c);
    });
  }
}

void NormalizeBackward(const Normalization& norm, const float* x, const float* dy,
                       const float* slope, const float* offset, std::int64_t rows,
                       std::int64_t columns, float* dx, bool accumulate) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for_lanes(columns, [&](auto d, std::int64_t c) HWY_ATTR {
      const std::int64_t i = r * columns + c;
      const auto centred = hn::Sub(hn::LoadU(d, x + i), hn::LoadU(d, norm.mean + c));
      const auto dz = masked(d, norm, centred, hn::LoadU(d, dy + i), c);
      const auto rest = hn::MulAdd(centred, hn::LoadU(d, slope + c), hn::LoadU(d, offset + c));
      store(d, hn::MulAdd(dz, hn::LoadU(d, norm.scale + c), rest), dx + i, accumulate);
    });
  }
}

void MaxTap(const float* x, std::int32_t tap, float* best, std::int32_t* index, std::int64_t n) {
  for_lanes(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const hn::Rebind<std::int32_t, decltype(d)> di;
    const auto v = hn::LoadU(d, x + i);
    const auto old = hn::LoadU(d, best + i);
    const auto wins = hn::Or(hn::Gt(v, old), hn::IsNaN(v));
    hn::StoreU(hn::IfThenElse(wins, v, old), d, best + i);
    const auto tags =
        hn::IfThenElse(hn::RebindMask(di, wins), hn::Set(di, tap), hn::LoadU(di, index + i));
    hn::StoreU(tags, di, index + i);
  });
}

void MaxTapBackward(const float* dy, const std::int32_t* index, std::int32_t tap, float* dx,
                    std::int64_t n) {
  for_lanes(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const hn::Rebind<std::int32_t, decltype(d)> di;
    const auto is_tap = hn::RebindMask(d, hn::Eq(hn::LoadU(di, index + i), hn::Set(di, tap)));
    const auto share = hn::IfThenElseZero(is_tap, hn::LoadU(d, dy + i));
    hn::StoreU(hn::Add(hn::LoadU(d, dx + i), share), d, dx + i);
  });
}

}  // namespace tempo::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tempo::kernels {

HWY_EXPORT(Accumulate);
HWY_EXPORT(AddScaled);
HWY_EXPORT(Relu);
HWY_EXPORT(ReluBackward);
HWY_EXPORT(Add);
HWY_EXPORT(ColumnSums);
HWY_EXPORT(ColumnMoments);
HWY_EXPORT(Normalize);
HWY_EXPORT(NormalizeSums);
HWY_EXPORT(NormalizeBackward);
HWY_EXPORT(MaxTap);
HWY_EXPORT(MaxTapBackward);

void copy(const float* x, float* y, std::int64_t n, bool accumulate) {
  if (accumulate) {
    HWY_DYNAMIC_DISPATCH(Accumulate)(x, y, n);
  } else if (x != y) {
    std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(float));
  }
}

void transpose(const float* x, std::int64_t rows, std::int64_t columns, float* out,
               bool accumulate) {
  constexpr std::int64_t kSide = 32;  // two blocks fit into the first-level cache
  for (std::int64_t r0 = 0; r0 < rows; r0 += kSide) {
    const std::int64_t r1 = std::min(rows, r0 + kSide);
    for (std::int64_t c0 = 0; c0 < columns; c0 += kSide) {
      const std::int64_t c1 = std::min(columns, c0 + kSide);
      for (std::int64_t c = c0; c < c1; ++c) {
        for (std::int64_t r = r0; r < r1; ++r) {
          float& to = out[c * rows + r];
          to = accumulate ? to + x[r * columns + c] : x[r * columns + c];
        }
      }
    }
  }
}

void add_scaled(const float* x, float scale, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(AddScaled)(x, scale, y, n);
}

void relu(const float* x, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Relu)(x, y, n);
}

void relu_backward(const float* y, const float* dy, float* dx, std::int64_t n, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(ReluBackward)(y, dy, dx, n, accumulate);
}

void add(const float* a, const float* b, float* y, std::int64_t n, bool with_relu) {
  HWY_DYNAMIC_DISPATCH(Add)(a, b, y, n, with_relu);
}

void add_row(const float* x, const float* row, std::int64_t rows, std::int64_t columns, float* y,
             bool with_relu) {
  const auto add_one = HWY_DYNAMIC_DISPATCH(Add);
  for (std::int64_t r = 0; r < rows; ++r) {
    add_one(x + r * columns, row, y + r * columns, columns, with_relu);
  }
}

void column_sums(const float* x, std::int64_t rows, std::int64_t columns, double* sums) {
  HWY_DYNAMIC_DISPATCH(ColumnSums)(x, rows, columns, sums);
}

void column_moments(const float* x, std::int64_t rows, std::int64_t columns, const float* shift,
                    double* sums, double* squares) {
  HWY_DYNAMIC_DISPATCH(ColumnMoments)(x, rows, columns, shift, sums, squares);
}

void normalize(const Normalization& norm, const float* x, std::int64_t rows, std::int64_t columns,
               float* y) {
  HWY_DYNAMIC_DISPATCH(Normalize)(norm, x, rows, columns, y);
}

void normalize_sums(const Normalization& norm, const float* x, const float* dy, std::int64_t rows,
                    std::int64_t columns, double* sums, double* products) {
  HWY_DYNAMIC_DISPATCH(NormalizeSums)(norm, x, dy, rows, columns, sums, products);
}

void normalize_backward(const Normalization& norm, const float* x, const float* dy,
                        const float* slope, const float* offset, std::int64_t rows,
                        std::int64_t columns, float* dx, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(NormalizeBackward)
  (norm, x, dy, slope, offset, rows, columns, dx, accumulate);
}

void max_tap(const float* x, std::int32_t tap, float* best, std::int32_t* index, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(MaxTap)(x, tap, best, index, n);
}

void max_tap_backward(const float* dy, const std::int32_t* index, std::int32_t tap, float* dx,
                      std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(MaxTapBackward)(dy, index, tap, dx, n);
}

}  // namespace tempo::kernels
#endif  // HWY_ONCE
