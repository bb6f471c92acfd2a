// File: enclave/nn/kernels.h
// The inner loops of the operators, on one thread, for the processor's widest vectors (Highway
// picks them when the program runs). `n`: floats. Matrices are rows x columns, contiguous; vectors
// of columns are marked "a column". An output may be an input, exactly; nothing overlaps otherwise.
// NaN goes through everything.
// Thread safety: free functions without state.
#pragma once

#include <cstdint>

namespace tempo::kernels {

// y = x, or y += x.
void copy(const float* x, float* y, std::int64_t n, bool accumulate);
// out (columns x rows) = x^T, or += x^T. Not in place.
void transpose(const float* x, std::int64_t rows, std::int64_t columns, float* out,
               bool accumulate);
// y += scale * x.
void add_scaled(const float* x, float scale, float* y, std::int64_t n);

// y = max(x, 0).
void relu(const float* x, float* y, std::int64_t n);
// dx = dy where y > 0, else 0; or dx += that.
void relu_backward(const float* y, const float* dy, float* dx, std::int64_t n, bool accumulate);

// y = a + b, then Relu when asked.
void add(const float* a, const float* b, float* y, std::int64_t n, bool with_relu);
// y = x + row (a column), then Relu when asked.
void add_row(const float* x, const float* row, std::int64_t rows, std::int64_t columns, float* y,
             bool with_relu);

// sums[c] += column sums.
void column_sums(const float* x, std::int64_t rows, std::int64_t columns, double* sums);
// sums[c] += sum of (x - shift), squares[c] += sum of (x - shift)^2; shift: a column.
void column_moments(const float* x, std::int64_t rows, std::int64_t columns, const float* shift,
                    double* sums, double* squares);

// The affine map of a normalisation, a column each: y = (x - mean) * scale + shift, then Relu when
// `relu`. The same rounding wherever it is computed.
struct Normalization {
  const float* mean;
  const float* scale;
  const float* shift;
  bool relu;
};
void normalize(const Normalization& norm, const float* x, std::int64_t rows, std::int64_t columns,
               float* y);
// With dz = dy (masked where the Relu was shut): sums[c] += sum of dz, products[c] += sum of
// dz * (x - mean).
void normalize_sums(const Normalization& norm, const float* x, const float* dy, std::int64_t rows,
                    std::int64_t columns, double* sums, double* products);
// dx = scale * dz + slope * (x - mean) + offset, or dx += that; slope and offset: a column.
void normalize_backward(const Normalization& norm, const float* x, const float* dy,
                        const float* slope, const float* offset, std::int64_t rows,
                        std::int64_t columns, float* dx, bool accumulate);

// One tap of a max pool: where x > best (or x is NaN) best = x and index = tap.
void max_tap(const float* x, std::int32_t tap, float* best, std::int32_t* index, std::int64_t n);
// dx += dy where index == tap.
void max_tap_backward(const float* dy, const std::int32_t* index, std::int32_t tap, float* dx,
                      std::int64_t n);

}  // namespace tempo::kernels
