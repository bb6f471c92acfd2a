// File: enclave/integrity/freivalds.h
// Freivalds' check of C = A B in floating point: secret zero-mean vectors r, A (B r) against C r in
// float64, and an acceptance rule per row that knows how large honest rounding errors are.
//
// Rule (per row i of C, over `cols` columns, inner length n; all in decoded units):
//   a_i   = sum_k sum_j A_ij^2 B_jk^2
//   E_i^2 = a_i + |C_i|^2 (1 + g1^2 min(|C_i|^2 / a_i, n))
//   accept iff |P_i| <= s * u * (sqrt(n) + g0) * sqrt(E_i^2 + e0^2),   u = 2^-24
// s: an honest float32 worker stays near sqrt(n), because roundings are independent and the secret
//   permutation shuffles the order of summation. Without one, data sorted so that large terms
//   cancel can exceed the tolerance.
// g0: the roundings that do not grow with n. An element is multiplied twice on its way out, by
//   coefficients of which one is a rounded reciprocal; so is the other factor; the product, the
//   folded check vector and the sums of the checker round too. For n = 1 they are all there is: in
//   50,000 rows |P_i| / (u E_i) reached 7 to 11, of the 20 allowed.
// g1: where all terms of a sum are equal, every addition rounds the same way and the error grows
//   with n |C_ik| / 2. |C_i|^2 / a_i tells: 1 for independent terms, n for equal ones. It
//   cannot exceed n for any honest row, so a worker that returns a huge C gains nothing.
// e0: rows smaller than this are compared as if they were this large. Below it, products of encoded
//   values underflow float32, and an honest worker loses digits; no such row can move a weight.
// A NaN anywhere is refused. What passes below the tolerance is accepted by design: the guarantee
// is "the error of a row is at most about the tolerance", not equality.
//
// kBinary has a mean: what the roundings of A do to all columns alike adds up over them. With few
// inner terms, hundreds of columns and operands of one sign, honest rows can exceed the tolerance.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/random.h"

namespace tempo {

inline constexpr double kUnitRoundoff = 0x1p-24;  // u
inline constexpr double kToleranceSafety = 4;     // s
inline constexpr double kToleranceGuard = 4;      // g0
inline constexpr double kCoherentGuard = 0.25;    // g1
inline constexpr double kNegligible = 0x1p-60;    // e0, about 1e-18

enum class CheckDistribution {
  kUniform,   // 2^16 equally spaced values from -sqrt(3) to sqrt(3), zero mean, unit variance
  kGaussian,  // standard normal (Box-Muller, of 2^32 pairs), cut at 4.9
  kBinary,    // {0, 1}: the paper's; one bit of soundness a round
};
std::string_view check_distribution_name(CheckDistribution distribution);  // "uniform", ...

// Fills `out` with check values (one vector, or several back to back). Draw them before the
// operands leave, keep them secret, use them for one verdict.
void draw_check_vector(RandomSource& random, CheckDistribution distribution, std::span<float> out);

// Tolerance of |P_i|. operand_squared: a_i; result_squared: |C_i|^2. inner
// >= 1.
double row_tolerance(std::int64_t inner, double operand_squared, double result_squared = 0);

// True iff all rounds pass: |differences[k]| <= row_tolerance(...). False for any NaN or infinity.
bool accept_row(std::span<const double> differences, std::int64_t inner, double operand_squared,
                double result_squared = 0);

// How far off a row is, from the differences of its rounds: an estimate of |C_i - (A B)_i|, for
// rows that were refused. With vectors of mean 0 and variance 1 a difference is the sum of the
// errors of the row's elements, each times a vector's element, so that the expectation of its
// square is the square of the error's norm: the mean of the squares over the rounds is an unbiased
// estimate of that, and this is its root. Of one wrong element and k uniform rounds, the square has
// a relative standard deviation of sqrt(0.8 / k). kBinary has twice the mean of the squares, which
// is unbiased for one wrong element, and too large for many that are wrong in one direction.
// NaN or infinity in a row give infinity.
double row_deviation(std::span<const double> differences, CheckDistribution distribution);

}  // namespace tempo
