// File: enclave/obfuscation/kernels.h
// The passes over operands and results, one row at a time: gather + scale + check sums in one visit
// of the row, no division an element, no copy of the operand. Vectorised with Highway (runtime
// dispatch). Rows are row-major, features innermost. Pure functions; thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tempo {

// The check sums that ride on a pass: sums[k] = sum_j row[j] * vectors[k][j] for k < rounds, and
// magnitude = sum_j row[j]^2 * square_weights[j], which is left out where `magnitude` is null. fp32
// over at most 64 columns, then float64. A NaN or infinity in the row makes a sum NaN or infinite.
struct CheckRow {
  int rounds = 0;                         // any number; 0: no sums (and `sums` may be null)
  const float* const* vectors = nullptr;  // rounds pointers
  const float* square_weights = nullptr;  // null: all ones
};
inline constexpr int kMaxRounds = 64;

// out[j] = row[gather[j]] * column_scale[j] * row_scale, j < n. `row` has at least n readable
// floats and `gather` stays below n. Sums are taken over `row` in its own (natural) order.
// `out` may lie in shared memory: it is written once, front to back, and never read. It does not
// overlap the inputs. No denormal is flushed to zero.
void encode_row(const float* row, std::size_t n, const std::uint32_t* gather,
                const float* column_scale, float row_scale, const CheckRow& check, float* out,
                double* sums, double* magnitude);

// Reads n floats from shared memory exactly once, in aligned 8-byte words (INTEL-SA-00657), into
// private memory. `untrusted` is 4-byte aligned and lies in shared memory readable from the 8-byte
// boundary at or before it to the one at or after its end.
void copy_in(const std::byte* untrusted, std::size_t n, float* out);

// Check sums alone, over an encoded row that lies in private memory: `check.vectors` are then in
// encoded order and carry the decoding factors.
void check_row(const float* row, std::size_t n, const CheckRow& check, double* sums,
               double* magnitude);

// out[a] = row[inverse[a]] * column_scale[a] * row_scale + (bias ? bias[a] : 0), a < n.
// column_scale and bias are in natural order. With `accumulate`, adds to out instead.
void decode_row(const float* row, std::size_t n, const std::uint32_t* inverse,
                const float* column_scale, float row_scale, const float* bias, bool accumulate,
                float* out);

// Column sums that ride on the encoding of D: for k < rounds, sums[k*n + j] += weights[k] * row[j];
// squares[j] += square_weight * row[j]^2. fp32; the caller flushes to float64 at least every
// kColumnFlushRows rows: over 64, equal rows add up more rounding error than the check allows.
inline constexpr int kColumnFlushRows = 16;
void accumulate_columns(const float* row, std::size_t n, int rounds, const float* weights,
                        float square_weight, float* sums, float* squares);

// For BatchNormalization: sums[j] += row[j] - shift[j]; squares[j] += (row[j] - shift[j])^2. fp32;
// flushed as above.
void accumulate_moments(const float* row, std::size_t n, const float* shift, float* sums,
                        float* squares);

// totals[j] += partial[j], then partial[j] = 0.
void flush_to_double(float* partial, std::size_t n, double* totals);

}  // namespace tempo
